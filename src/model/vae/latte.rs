//! Latte's autoencoders: of images (diffusers' AutoencoderKL), frame by frame, and of videos (AutoencoderKLTemporalDecoder), in chunks of 14
//! frames that do not see each other. They only decode; the encoder's tensors may be there and are not read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::cut::{self, Cut, Direction};
use super::heap::Heap;
use super::image::{Blocks, Decoder, SpatialConfig};
use super::layers::{Loader, Run, check_latents, padded, planes, positions, published, rgb, stopped};
use crate::device::Device;
use crate::model::{Autoencoder, ModelError, Pixels, Weights};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Frames that the decoder of videos takes at a time as published; another number gives another video.
pub const LATTE_CHUNK: usize = 14;

/// The shape of an autoencoder.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LatteVaeConfig {
    /// The decoder's scales and blocks.
    pub image: SpatialConfig,
    /// Whether blocks over the frames follow those of images (AutoencoderKLTemporalDecoder).
    pub video: bool,
    /// The model sees latents multiplied by this.
    pub scaling_factor: f32,
}

/// What config.json says beside [`SpatialConfig`].
#[derive(Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "_class_name")]
    class: Option<String>,
    scaling_factor: f32,
}

impl Default for Fields {
    fn default() -> Self {
        Fields { class: None, scaling_factor: 0.18215 }
    }
}

impl LatteVaeConfig {
    /// The shape that config.json (its text and name) states; whether of images or videos, where it has no `_class_name`, the tensors say.
    ///
    /// # Errors
    /// Text that is no JSON, or a shape that cannot be.
    pub fn of(weights: &Weights<'_>, text: &str, file: &str) -> Result<LatteVaeConfig> {
        let bad = |reason: String| ModelError::Config { file: file.into(), reason };
        let image: SpatialConfig = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let Fields { class, scaling_factor } = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        image.validate().map_err(bad)?;
        if !(scaling_factor.is_finite() && scaling_factor > 0.0) {
            return Err(bad(format!("scaling_factor is {scaling_factor}, expected a positive number")));
        }
        let video = match class.as_deref() {
            Some("AutoencoderKLTemporalDecoder") => true,
            Some("AutoencoderKL") => false,
            None => weights.has("decoder.time_conv_out.weight"),
            Some(other) => {
                let expected = "expected AutoencoderKLTemporalDecoder or AutoencoderKL";
                return Err(bad(format!("_class_name is {other}; {expected}")));
            }
        };
        Ok(LatteVaeConfig { image, video, scaling_factor })
    }

    /// As [`LatteVaeConfig::of`], with the config.json of a folder.
    ///
    /// # Errors
    /// As [`LatteVaeConfig::of`]; no config.json.
    pub fn of_folder(folder: &Path, weights: &Weights<'_>) -> Result<LatteVaeConfig> {
        let file = folder.join("config.json");
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).map_err(|source| ModelError::Io { file: name.clone(), source })?;
        LatteVaeConfig::of(weights, &text, &name)
    }

    /// Side in pixels of the square that becomes one latent position.
    pub fn spatial_factor(&self) -> usize {
        self.image.factor()
    }

    /// Frames that are decoded together.
    fn chunk(&self, cut: Cut) -> usize {
        if self.video { LATTE_CHUNK } else { cut.frames }
    }
}

/// The decoder on a device.
pub struct LatteVae {
    config: LatteVaeConfig,
    decoder: Decoder,
    device: Device,
    dtype: DType,
}

impl LatteVae {
    /// Loads the decoder's tensors: all must be there in the shapes that `config` implies, and none that is neither theirs nor the
    /// encoder's. As published, 16-bit types are f16: so is bf16.
    ///
    /// # Errors
    /// A tensor that is missing, wrong, damaged or superfluous; out of memory.
    pub fn load(device: &Device, config: LatteVaeConfig, weights: Weights<'_>, dtype: DType) -> Result<LatteVae> {
        let vae = LatteVae::take(device, config, &weights, dtype)?;
        // The published code of videos has more in the middle than it runs: no attention for one layer, no third block.
        let idle = |name: &str| vae.config.video && name.starts_with("decoder.mid_block.");
        weights.finish_but(&|name| name.starts_with("encoder.") || name.starts_with("quant_conv.") || idle(name))?;
        Ok(vae)
    }

    fn take(device: &Device, config: LatteVaeConfig, weights: &Weights<'_>, dtype: DType) -> Result<LatteVae> {
        let dtype = published(dtype);
        let from = Loader { device, weights, dtype };
        let blocks = if config.video { Blocks::Videos } else { Blocks::Images };
        let decoder = Decoder::load(&from, "", &config.image, blocks, config.scaling_factor)?;
        Ok(LatteVae { config, decoder, device: device.clone(), dtype })
    }

    /// Every tensor of the decoder that a file of this shape holds, by its name.
    ///
    /// # Errors
    /// A shape that overflows.
    pub fn tensors(config: &LatteVaeConfig) -> Result<BTreeMap<String, Vec<usize>>> {
        Weights::taken_by(|dry, weights| LatteVae::take(dry, config.clone(), weights, DType::F16))
    }

    /// Its shape.
    pub fn config(&self) -> &LatteVaeConfig {
        &self.config
    }

    /// Latents `[channels, T, h, w]`, as the sampler returns them, to pixels `[3, T, H, W]` around [−1, 1].
    ///
    /// * `budget`: bytes that activations may use; `None`: the free memory of the device.
    ///
    /// # Errors
    /// Shapes that do not fit, a budget that is too small (the error states the required size).
    pub fn decode_values(&self, latents: &[f32], shape: [usize; 4], budget: Option<usize>) -> Result<Vec<f32>> {
        let mut pixels = vec![];
        self.decode_chunks(latents, shape, budget, &mut |x| {
            pixels.extend(x.to_f32()?);
            Ok(())
        })?;
        let [_, frames, h, w] = shape;
        let side = self.config.image.factor();
        Ok(planes(&pixels, 3, frames * h * side * w * side))
    }

    /// The cut for decoding `frames` latents of `h` × `w`, and its memory, for activations of at most `budget` bytes.
    ///
    /// # Errors
    /// [`ModelError::Input`] with the bytes of the smallest cut, if the budget is smaller.
    pub fn decode_cut(&self, frames: usize, sides: [usize; 2], budget: usize) -> Result<Cut> {
        self.cut(frames, sides, Some(budget))
    }

    fn cut(&self, frames: usize, [h, w]: [usize; 2], budget: Option<usize>) -> Result<Cut> {
        let side = self.config.image.factor();
        let count = self.counter(frames, [h, w])?;
        cut::fastest(&self.device, Direction::Decode, [h * side, w * side], budget, &count)
    }

    /// Counts the bytes that a cut takes.
    fn counter(&self, frames: usize, [h, w]: [usize; 2]) -> Result<impl Fn(Cut) -> Result<usize> + use<>> {
        let dry = cut::counting(&self.device);
        let counter = LatteVae::load(&dry, self.config.clone(), Weights::zeros(), self.dtype)?;
        Ok(move |cut: Cut| {
            let heap = Heap::new(&dry, cut::ENDLESS / 2)?;
            let run = Run { heap: &heap, dtype: counter.dtype, band_bytes: cut.band_bytes };
            let channels = padded(counter.config.image.latent_channels);
            let z = heap.take(&[frames.min(counter.config.chunk(cut)), h, w, channels], counter.dtype)?;
            counter.decoder.forward(&run, &z)?;
            Ok(heap.peak())
        })
    }

    /// Passes pixels `[frames, H, W, channels]` in f32 to `each`, chunk by chunk.
    fn decode_chunks(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let [channels, frames, h, w] = shape;
        check_latents(latents, shape, self.config.image.latent_channels)?;
        let cut = self.cut(frames, [h, w], budget)?;
        let heap = Heap::new(&self.device, cut.bytes)?;
        let run = Run { heap: &heap, dtype: self.dtype, band_bytes: cut.band_bytes };
        let chunk = self.config.chunk(cut);
        for first in (0..frames).step_by(chunk) {
            let count = chunk.min(frames - first);
            let z = heap.take(&[count, h, w, padded(channels)], self.dtype)?;
            z.write_f32(&positions(latents, shape, first, count))?;
            each(&*self.decoder.forward(&run, &z)?)?;
        }
        Ok(())
    }
}

impl Autoencoder for LatteVae {
    fn least_decode_bytes(&self, _videos: usize, latent: [usize; 3], _frames: usize) -> Result<usize> {
        let [frames, h, w] = latent;
        cut::least(&self.counter(frames, [h, w])?)
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<()> {
        let [_, shape @ ..] = shape;
        if frames != shape[1] {
            return Err(ModelError::Input(format!("{} latent frames are as many frames, not {frames}", shape[1])));
        }
        let mut each = |images: &Tensor| stopped(pixels(&rgb(images, 1)?));
        for latents in latents.chunks(shape.iter().product()) {
            self.decode_chunks(latents, shape, None, &mut each)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let of = |text: &str| LatteVaeConfig::of(&Weights::zeros(), text, "config.json");
        assert!(of("{}").unwrap().video);
        for (text, part) in [
            ("{", "EOF"),
            (r#"{"scaling_factor": 0}"#, "scaling_factor is 0"),
            (r#"{"block_out_channels": []}"#, "block_out_channels has 0 entries"),
            (r#"{"block_out_channels": [100]}"#, "100 channels in 32 groups"),
            (r#"{"out_channels": 4}"#, "images have 3"),
            (r#"{"_class_name": "AutoencoderDC"}"#, "_class_name is AutoencoderDC"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("config.json"), "{text}: {error}");
        }
    }

    #[test]
    fn frames_are_those_of_the_latents() {
        let device = Device::open("vm").unwrap();
        let config = r#"{"block_out_channels": [32], "layers_per_block": 1}"#;
        let config = LatteVaeConfig::of(&Weights::zeros(), config, "config.json").unwrap();
        let vae = LatteVae::load(&device, config, Weights::zeros(), DType::F32).unwrap();
        let mut none = |_: &[u8]| ControlFlow::Continue(());
        let error = vae.decode(&[0.0; 16], [1, 4, 1, 2, 2], 2, &mut none).unwrap_err();
        assert!(error.to_string().contains("not 2"), "{error}");
        let error = vae.decode_values(&[0.0; 15], [4, 1, 2, 2], None).unwrap_err();
        assert!(error.to_string().contains("15 values"), "{error}");
        let error = vae.decode_values(&[0.0; 16], [4, 1, 2, 2], Some(1 << 10)).unwrap_err();
        assert!(error.to_string().contains("takes at least"), "{error}");
    }
}
