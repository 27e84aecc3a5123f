//! The shape of the video autoencoder.

use std::path::Path;

use serde::Deserialize;

use super::temporal::TemporalConfig;
use crate::model::ModelError;
use crate::model::vae::image::{SpatialConfig, normed, scales, small};
use crate::model::vae::layers::padded;

/// Frames that Open-Sora's autoencoder processes at a time as published, and the latent frames they become; chunks are independent of each
/// other.
pub const CHUNK: (usize, usize) = (17, 5);

/// The shape of the whole autoencoder. The default is the published one; it also replaces fields missing in a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// The autoencoder of images.
    pub spatial: SpatialConfig,
    /// The autoencoder of time.
    pub temporal: TemporalConfig,
    /// Frames per chunk.
    pub micro_frame_size: usize,
    /// Factor between the spatial autoencoder's latents and the temporal one's input.
    pub spatial_scaling: f32,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            spatial: SpatialConfig::default(),
            temporal: TemporalConfig::default(),
            micro_frame_size: CHUNK.0,
            spatial_scaling: 0.18215,
        }
    }
}

impl VaeConfig {
    /// Parses a config.json; unknown fields are ignored, missing fields have the published values.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the invalid field.
    pub fn from_json(text: &str, file: &str) -> Result<VaeConfig, ModelError> {
        let error = |reason: String| ModelError::Config { file: file.into(), reason };
        let config: VaeConfig = serde_json::from_str(text).map_err(|e| error(e.to_string()))?;
        config.validate().map_err(error)?;
        Ok(config)
    }

    /// The configuration of the autoencoder in `folder`: `config.json`, or the published one if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read, or does not describe an autoencoder.
    pub fn of_folder(folder: &Path) -> Result<VaeConfig, ModelError> {
        let file = folder.join("config.json");
        match std::fs::read_to_string(&file) {
            Ok(text) => VaeConfig::from_json(&text, &file.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(VaeConfig::default()),
            Err(source) => Err(ModelError::Io { file: file.display().to_string(), source }),
        }
    }

    fn validate(&self) -> Result<(), String> {
        let (s, t) = (&self.spatial, &self.temporal);
        s.validate()?;
        scales("channel_multipliers", t.channel_multipliers.len())?;
        if t.temporal_downsample.len() + 1 != t.channel_multipliers.len() {
            return Err("temporal_downsample needs one entry less than channel_multipliers".into());
        }
        t.channel_multipliers
            .iter()
            .try_for_each(|m| normed("filters × channel_multipliers", m.saturating_mul(t.filters), t.num_groups))?;
        for (name, value) in [
            ("num_res_blocks", t.num_res_blocks),
            ("in_out_channels", t.in_out_channels),
            ("latent_embed_dim", t.latent_embed_dim),
            ("embed_dim", t.embed_dim),
            ("micro_frame_size", self.micro_frame_size),
        ] {
            small(name, value)?;
        }
        if padded(2 * s.latent_channels) != padded(t.in_out_channels) {
            return Err(format!("latent_channels is {}, expected at most 4", s.latent_channels));
        }
        if s.latent_channels != t.in_out_channels {
            return Err(format!("latent_channels {} is not in_out_channels {}", s.latent_channels, t.in_out_channels));
        }
        if !(self.spatial_scaling.is_finite() && self.spatial_scaling > 0.0) {
            return Err(format!("spatial_scaling is {}, expected a positive number", self.spatial_scaling));
        }
        Ok(())
    }

    /// Side in pixels of the square that becomes one latent position.
    pub fn spatial_factor(&self) -> usize {
        self.spatial.factor()
    }

    /// The number of latent frames for `frames` frames.
    pub fn latent_frames(&self, frames: usize) -> usize {
        self.chunks(frames).map(|(_, latents)| latents).sum()
    }

    /// Frames and latent frames of every chunk.
    pub(super) fn chunks(&self, frames: usize) -> impl Iterator<Item = (usize, usize)> {
        let (size, factor) = (self.micro_frame_size, self.temporal.factor());
        (0..frames).step_by(size).map(move |start| {
            let n = size.min(frames - start);
            (n, n.div_ceil(factor))
        })
    }
}
