//! Decoding with a tiny autoencoder (`--tiny-vae`); pictures are still encoded by the model's own.

use std::path::Path;

use crate::device::Device;
use crate::hub::{Checkpoint, Part};
use crate::model::vae::{TinyVae, TinyVaeConfig, WanVae, WanVaeConfig};
use crate::model::{Autoencoder, ModelError, Pixels, Progress, Weights};
use crate::pipeline::{Content, PipelineError};
use crate::tensor::DType;

/// The shape of the tiny autoencoder in a file, for latents of `whole`.
///
/// # Errors
/// A file that is none, or is of another model.
pub(super) fn shape(file: &Path, whole: &WanVaeConfig) -> Result<TinyVaeConfig, PipelineError> {
    let tiny = TinyVaeConfig::of(&Weights::open(file)?)?;
    let facts =
        |channels, side, time| format!("latents of {channels} channels, {time} frames and {side}x{side} pixels");
    let is = facts(tiny.latent_channels, tiny.spatial_factor(), tiny.temporal_factor());
    let expected = facts(whole.latent_channels, whole.spatial_factor(), whole.temporal_factor());
    if is == expected {
        return Ok(tiny);
    }
    let name = if whole.latent_channels == WanVaeConfig::wan22().latent_channels { "taew2_2" } else { "taew2_1" };
    Err(PipelineError::Setting(format!(
        "--tiny-vae {}: it decodes {is}, and the model makes {expected}: give {name}",
        file.display()
    )))
}

/// The model's own autoencoder: its shape and where its weights are.
pub(super) struct Whole {
    pub(super) vae: WanVaeConfig,
    /// `None`: the published one, without its files.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) content: Content,
}

/// A tiny decoder, and the encoder of the model's own autoencoder, which is loaded while it is used.
pub(super) struct Preview {
    tiny: TinyVae,
    whole: Whole,
    device: Device,
    dtype: DType,
}

impl Preview {
    /// Loads the tiny decoder from `file`.
    pub(super) fn load(
        file: &Path,
        tiny: &TinyVaeConfig,
        whole: Whole,
        device: &Device,
        dtype: DType,
    ) -> Result<Preview, ModelError> {
        let weights = whole.content.weights(|| Weights::open(file))?;
        Ok(Preview { tiny: TinyVae::load(device, tiny.clone(), weights, dtype)?, whole, device: device.clone(), dtype })
    }

    /// Loads the model's own autoencoder.
    fn whole(&self) -> Result<WanVae, ModelError> {
        let Whole { vae, checkpoint, content } = &self.whole;
        let weights = content.weights(|| {
            let none = || ModelError::Input("the model as published has no files here".into());
            let opened = checkpoint.as_ref().ok_or_else(none)?.open(Part::Vae);
            opened.map_err(|error| ModelError::Input(error.to_string()))
        })?;
        WanVae::load(&self.device, vae.clone(), weights, self.dtype)
    }
}

impl Autoencoder for Preview {
    fn least_decode_bytes(&self, videos: usize, latent: [usize; 3], frames: usize) -> Result<usize, ModelError> {
        self.tiny.least_decode_bytes(videos, latent, frames)
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<(), ModelError> {
        self.tiny.decode(latents, shape, frames, pixels)
    }

    fn least_encode_bytes(&self, sides: [usize; 2]) -> Result<usize, ModelError> {
        let before = self.device.allocated_bytes();
        let whole = self.whole()?;
        Ok(self.device.allocated_bytes() - before + whole.least_encode_bytes(sides)?)
    }

    fn encode(
        &self,
        pixels: &[f32],
        shape: [usize; 4],
        progress: Progress<'_>,
    ) -> Result<(Vec<f32>, [usize; 4]), ModelError> {
        self.whole()?.encode(pixels, shape, progress)
    }
}
