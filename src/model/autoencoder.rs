//! Conversion between latents and pixels: the trait, and the simplest decoder, which turns every latent position into a patch of pixels
//! with one small matrix. Video autoencoders are in [`vae`](super::vae).

use std::ops::ControlFlow;

use super::{ModelError, Weights};
use crate::device::Device;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// A callback between slices: it takes the finished frames and their total, and returns whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// Takes finished frames, `[frames, H, W, 3]` in RGB bytes, one batch of them after the other, and returns whether to go on.
pub type Pixels<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// Decodes a model's latents to frames and, if it can, encodes frames to latents. Each implementation bounds its own memory.
pub trait Autoencoder {
    /// The minimum device memory for [`Autoencoder::decode`] besides the weights, for `videos` of `latent` (frames, height, width) that
    /// become `frames` frames each.
    ///
    /// # Errors
    /// Shapes that the kernels do not support.
    fn least_decode_bytes(&self, videos: usize, latent: [usize; 3], frames: usize) -> Result<usize, ModelError>;

    /// Latents `[videos, channels, frames, height, width]` to frames, `frames` for each video, more than the latent ones if time is
    /// compressed. `pixels` receives them as soon as they are finished, in order, the videos one after the other.
    ///
    /// # Errors
    /// Shapes that do not fit, out of memory, [`ModelError::Stopped`] if `pixels` asks to stop.
    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<(), ModelError>;

    /// As [`Autoencoder::least_decode_bytes`], for encoding any number of frames whose latents have these sides. 0 if it cannot encode.
    ///
    /// # Errors
    /// As [`Autoencoder::least_decode_bytes`].
    fn least_encode_bytes(&self, _sides: [usize; 2]) -> Result<usize, ModelError> {
        Ok(0)
    }

    /// Pixels `[3, frames, H, W]` in [−1, 1] to latents, with their shape `[channels, frames, height, width]`.
    ///
    /// # Errors
    /// As [`Autoencoder::decode`]; always if it only decodes.
    fn encode(
        &self,
        _pixels: &[f32],
        _shape: [usize; 4],
        _progress: Progress<'_>,
    ) -> Result<(Vec<f32>, [usize; 4]), ModelError> {
        Err(ModelError::Input("this model only decodes: it has no autoencoder to read pictures with".into()))
    }
}

/// A linear patch decoder on a device: `pixels = clamp((((z·scale)·basis + mean) + 1)/2)`. Every latent frame becomes one frame.
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
    /// Loads `basis`, `mean` and `scale` from `decoder.safetensors`.
    ///
    /// # Errors
    /// Tensors that are missing, damaged or of another shape; out of memory.
    pub fn load(
        device: &Device,
        weights: Weights<'_>,
        channels: usize,
        patch: usize,
    ) -> Result<PatchDecoder, ModelError> {
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
}

impl Autoencoder for PatchDecoder {
    fn least_decode_bytes(&self, videos: usize, latent: [usize; 3], _frames: usize) -> Result<usize, ModelError> {
        let positions = videos * latent.iter().product::<usize>();
        Ok(positions * (self.scale.elements() * DType::F32.size() + self.mean.elements()))
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], _frames: usize, pixels: Pixels<'_>) -> Result<(), ModelError> {
        let [videos, _, frames, height, width] = shape;
        let device = self.basis.device();
        let z = Tensor::from_f32(device, &shape, latents, DType::F32)?;
        let out = Tensor::empty(device, &[videos, frames, height * self.patch, width * self.patch, 3], DType::U8)?;
        ops::decode::patch_decode(&z, &self.basis, &self.mean, &self.scale, &out)?;
        match pixels(&out.to_vec::<u8>()?) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ModelError::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the kernel against the formula, with the shipped decoder.
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
        let z: Vec<f32> = (0..shape.iter().product()).map(|i: usize| 2.0 * (i as f32 * 0.7).sin()).collect();
        let mut pixels = vec![];
        let mut keep = |rgb: &[u8]| {
            pixels.extend_from_slice(rgb);
            ControlFlow::Continue(())
        };
        decoder.decode(&z, shape, 2, &mut keep).unwrap();
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
