//! Latents to frames: the sprites decoder, where every latent position becomes a patch of pixels by one small matrix, or a video
//! autoencoder.

use std::ops::ControlFlow;
use std::path::Path;

use super::error::PipelineError;
use crate::device::Device;
use crate::model::vae::{Progress, VaeConfig, VideoVae};
use crate::model::{ModelError, Weights};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// What turns a model's latents into frames.
pub enum Decoder {
    /// A matrix: a latent frame is a frame.
    Patch(PatchDecoder),
    /// Open-Sora's video autoencoder.
    Video(Box<VideoVae>),
}

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub enum DecoderShape {
    /// There is none: latents are all that is wanted.
    None,
    /// A [`PatchDecoder`] whose patches have so many pixels on a side.
    Patch(usize),
    /// A video autoencoder.
    Video(VaeConfig),
}

impl DecoderShape {
    /// Latent frames of `frames` frames.
    pub fn latent_frames(&self, frames: usize) -> usize {
        match self {
            DecoderShape::Video(config) => config.latent_frames(frames),
            DecoderShape::None | DecoderShape::Patch(_) => frames,
        }
    }
}

/// The configuration of the autoencoder in `folder`: `config.json`, or the published one where there is none.
///
/// # Errors
/// A file that cannot be read, or describes no autoencoder.
pub fn vae_config(folder: &Path) -> Result<VaeConfig, PipelineError> {
    let file = folder.join("config.json");
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(VaeConfig::from_json(&text, &file.display().to_string())?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(VaeConfig::default()),
        Err(source) => Err(ModelError::Io { file: file.display().to_string(), source }.into()),
    }
}

impl Decoder {
    /// Open-Sora's autoencoder in a folder with `model.safetensors` and, if its sizes are not the published ones, `config.json`.
    ///
    /// # Errors
    /// Files that are missing, damaged or do not belong together; no memory.
    pub fn video(device: &Device, folder: &Path, dtype: DType) -> Result<Decoder, PipelineError> {
        let weights = Weights::open(&folder.join("model.safetensors"))?;
        Ok(Decoder::Video(Box::new(VideoVae::load(device, vae_config(folder)?, weights, dtype)?)))
    }

    /// A decoder of that shape whose weights are zero, to count its memory.
    pub(super) fn counted(
        device: &Device,
        shape: &DecoderShape,
        channels: usize,
        dtype: DType,
    ) -> Result<Option<Decoder>, PipelineError> {
        Ok(match shape {
            DecoderShape::None => None,
            DecoderShape::Patch(patch) => {
                Some(Decoder::Patch(PatchDecoder::load(device, Weights::zeros(), channels, *patch)?))
            }
            DecoderShape::Video(config) => {
                Some(Decoder::Video(Box::new(VideoVae::load(device, config.clone(), Weights::zeros(), dtype)?)))
            }
        })
    }

    /// The least device memory that [`Decoder::decode`] takes beside the weights, for `videos` of `latent` (frames, height, width) that
    /// become `frames` frames each.
    pub(super) fn least_bytes(&self, videos: usize, latent: [usize; 3], frames: usize) -> Result<usize, PipelineError> {
        let [latent_frames, height, width] = latent;
        match self {
            Decoder::Patch(decoder) => Ok(decoder.bytes([videos, latent_frames, height, width])),
            // One video after the other.
            Decoder::Video(vae) => Ok(vae.least_decode_bytes(frames, [height, width])?),
        }
    }

    /// Latents `[videos, channels, frames, height, width]` to RGB bytes `[videos, frames, H, W, 3]`; `frames` of them for each video, which is
    /// more than the latent frames where time is compressed. `progress` hears of finished frames of all videos.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or that `progress` asked to stop.
    pub fn decode(
        &self,
        latents: &[f32],
        shape: [usize; 5],
        frames: usize,
        progress: Progress<'_>,
    ) -> Result<Vec<u8>, PipelineError> {
        let [videos, channels, latent_frames, height, width] = shape;
        match self {
            Decoder::Patch(decoder) => decoder.decode(latents, shape),
            Decoder::Video(vae) => {
                let mut rgb = vec![];
                let video = channels * latent_frames * height * width;
                for (i, latents) in latents.chunks(video).enumerate() {
                    let mut told = |done, _: usize| -> ControlFlow<()> { progress(i * frames + done, videos * frames) };
                    let shape = [channels, latent_frames, height, width];
                    rgb.extend(vae.decode(latents, shape, frames, None, &mut told)?);
                }
                Ok(rgb)
            }
        }
    }
}

/// A linear patch decoder on a device: `pixels = clamp((((z·scale)·basis + mean) + 1)/2)`.
pub struct PatchDecoder {
    /// `[channels, patch·patch·3]`
    basis: Tensor,
    /// `[patch·patch·3]`
    mean: Tensor,
    /// `[channels]`
    scale: Tensor,
    patch: usize,
}

impl PatchDecoder {
    /// Takes `basis`, `mean` and `scale` out of `decoder.safetensors`.
    pub fn load(
        device: &Device,
        weights: Weights<'_>,
        channels: usize,
        patch: usize,
    ) -> Result<PatchDecoder, PipelineError> {
        let pixels = patch * patch * 3;
        let decoder = PatchDecoder {
            basis: weights.tensor(device, "basis", &[channels, pixels], DType::F32)?,
            mean: weights.tensor(device, "mean", &[pixels], DType::F32)?,
            scale: weights.tensor(device, "scale", &[channels], DType::F32)?,
            patch,
        };
        weights.finish(&[])?;
        Ok(decoder)
    }

    /// Bytes of the latents and the pixels of `[videos, frames, height, width]`.
    fn bytes(&self, sizes: [usize; 4]) -> usize {
        let positions: usize = sizes.iter().product();
        positions * (self.scale.elements() * DType::F32.size() + self.mean.elements())
    }

    /// Latents `[videos, channels, frames, height, width]` (f32) to RGB bytes `[videos, frames, height·patch, width·patch, 3]`.
    pub fn decode(&self, latents: &[f32], shape: [usize; 5]) -> Result<Vec<u8>, PipelineError> {
        let [videos, _, frames, height, width] = shape;
        let device = self.basis.device();
        let z = Tensor::from_f32(device, &shape, latents, DType::F32)?;
        let out = Tensor::empty(device, &[videos, frames, height * self.patch, width * self.patch, 3], DType::U8)?;
        ops::decode::patch_decode(&z, &self.basis, &self.mean, &self.scale, &out)?;
        Ok(out.to_vec::<u8>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel against the formula written out, on the shipped decoder.
    #[test]
    fn pixels_follow_the_formula() {
        let bytes = include_bytes!("../../models/sprites/decoder.safetensors");
        let weights = || Weights::from_bytes("decoder.safetensors", bytes).unwrap();
        let read = weights();
        let basis = read.values("basis", &[16, 192]).unwrap();
        let mean = read.values("mean", &[192]).unwrap();
        let scale = read.values("scale", &[16]).unwrap();
        let device = Device::open("vm").unwrap();
        let decoder = PatchDecoder::load(&device, weights(), 16, 8).unwrap();
        let shape = [1, 16, 2, 3, 2];
        let z = crate::pipeline::noise(3, shape.iter().product());
        let pixels = decoder.decode(&z, shape).unwrap();
        assert_eq!(pixels.len(), 2 * 24 * 16 * 3);
        for (i, &pixel) in pixels.iter().enumerate() {
            let (rgb, x, y, frame) = (i % 3, i / 3 % 16, i / 48 % 24, i / 48 / 24);
            let k = (y % 8 * 8 + x % 8) * 3 + rgb;
            let sum: f64 = (0..16)
                .map(|c| {
                    let z = f64::from(z[((c * 2 + frame) * 3 + y / 8) * 2 + x / 8]);
                    z * f64::from(scale[c]) * f64::from(basis[c * 192 + k])
                })
                .sum();
            let expected = ((sum + f64::from(mean[k]) + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0;
            assert!((expected - f64::from(pixel)).abs() <= 0.51, "byte {i}: {pixel}, expected {expected}");
        }
    }
}
