//! The shape of Open-Sora-Plan's autoencoder, from its config.json.

use std::path::Path;

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::vae::image::{normed, scales, small};

/// Groups of every GroupNorm.
pub(super) const GROUPS: usize = 32;

/// A residual block, or a convolution at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum CausalKind {
    /// Frame by frame.
    #[serde(alias = "ResnetBlock2D", alias = "Conv2d")]
    Image,
    /// Over frames, each of which sees itself and those before it.
    #[serde(alias = "ResnetBlock3D", alias = "CausalConv3d")]
    Video,
}

/// The attention in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum CausalAttention {
    /// Among the pixels of a frame.
    #[serde(rename = "AttnBlock3DFix")]
    ByFrame,
    /// As the first version published it: channels and frames are mixed up before, and put back after.
    #[serde(rename = "AttnBlock3D")]
    Mixed,
}

/// How rows and columns double.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum SpatialUpsample {
    /// They do not.
    #[serde(rename = "")]
    None,
    /// Nearest, and a convolution whose weights have no time axis.
    #[serde(rename = "Upsample")]
    Image,
    /// Nearest, and a convolution of one frame.
    #[serde(rename = "SpatialUpsample2x")]
    Video,
}

/// How frames double.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum TimeUpsample {
    /// They do not.
    #[serde(rename = "")]
    None,
    /// Linear, but for the first one.
    #[serde(rename = "TimeUpsample2x")]
    Linear,
    /// Linear, mixed with a convolution of the same.
    #[serde(rename = "TimeUpsampleRes2x")]
    Mixed,
}

/// The shape of the decoder, with the names of the published config.json. The default is version 1.1.0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CausalVaeConfig {
    /// Channels of the finest scale, without its multiple.
    pub hidden_size: usize,
    /// Channels of the latents inside.
    pub z_channels: usize,
    /// Channels of the latents.
    pub embed_dim: usize,
    /// Channels of each scale as multiples of `hidden_size`, the finest first.
    pub hidden_size_mult: Vec<usize>,
    /// Blocks of a scale of the encoder; the decoder has one more.
    pub num_res_blocks: usize,
    /// Resolutions with attention beside the middle: none.
    pub attn_resolutions: Vec<usize>,
    /// The convolution next to the latents.
    pub q_conv: CausalKind,
    /// The first convolution.
    pub decoder_conv_in: CausalKind,
    /// The last convolution.
    pub decoder_conv_out: CausalKind,
    /// The attention in the middle.
    pub decoder_attention: CausalAttention,
    /// The blocks of each scale.
    pub decoder_resnet_blocks: Vec<CausalKind>,
    /// How rows and columns double behind each scale.
    pub decoder_spatial_upsample: Vec<SpatialUpsample>,
    /// How frames double behind each scale.
    pub decoder_temporal_upsample: Vec<TimeUpsample>,
    /// The blocks in the middle.
    pub decoder_mid_resnet: CausalKind,
    /// The model sees latents multiplied by this. The published code has it apart from the file.
    #[serde(skip)]
    pub scaling_factor: f32,
}

impl Default for CausalVaeConfig {
    fn default() -> Self {
        use {SpatialUpsample as Space, TimeUpsample as Time};
        CausalVaeConfig {
            hidden_size: 128,
            z_channels: 4,
            embed_dim: 4,
            hidden_size_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_resolutions: vec![],
            q_conv: CausalKind::Video,
            decoder_conv_in: CausalKind::Video,
            decoder_conv_out: CausalKind::Video,
            decoder_attention: CausalAttention::ByFrame,
            decoder_resnet_blocks: vec![CausalKind::Video; 4],
            decoder_spatial_upsample: vec![Space::None, Space::Video, Space::Video, Space::Video],
            decoder_temporal_upsample: vec![Time::None, Time::None, Time::Mixed, Time::Mixed],
            decoder_mid_resnet: CausalKind::Video,
            scaling_factor: 0.18215,
        }
    }
}

impl CausalVaeConfig {
    /// Reads config.json; `file` names it in errors. Fields that are missing are those of version 1.1.0.
    ///
    /// # Errors
    /// Text that is no JSON, layers of other kinds, a shape that cannot be.
    pub fn from_json(text: &str, file: &str) -> Result<CausalVaeConfig, ModelError> {
        let bad = |reason: String| ModelError::Config { file: file.into(), reason };
        let config: CausalVaeConfig = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        config.validate().map_err(bad)?;
        Ok(config)
    }

    /// As [`CausalVaeConfig::from_json`], of the config.json of a folder; without one it is version 1.1.0.
    ///
    /// # Errors
    /// As [`CausalVaeConfig::from_json`]; a file that cannot be read.
    pub fn of_folder(folder: &Path) -> Result<CausalVaeConfig, ModelError> {
        let file = folder.join("config.json");
        let name = file.display().to_string();
        match std::fs::read_to_string(&file) {
            Ok(text) => CausalVaeConfig::from_json(&text, &name),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(CausalVaeConfig::default()),
            Err(source) => Err(ModelError::Io { file: name, source }),
        }
    }

    fn validate(&self) -> Result<(), String> {
        let count = self.hidden_size_mult.len();
        scales("hidden_size_mult", count)?;
        for (name, length) in [
            ("decoder_resnet_blocks", self.decoder_resnet_blocks.len()),
            ("decoder_spatial_upsample", self.decoder_spatial_upsample.len()),
            ("decoder_temporal_upsample", self.decoder_temporal_upsample.len()),
        ] {
            if length != count {
                return Err(format!("{name} has {length} entries, hidden_size_mult {count}"));
            }
        }
        for (name, value) in
            [("z_channels", self.z_channels), ("embed_dim", self.embed_dim), ("num_res_blocks", self.num_res_blocks)]
        {
            small(name, value)?;
        }
        if !self.attn_resolutions.is_empty() {
            return Err("attn_resolutions is not empty: attention is supported in the middle only".into());
        }
        self.channels().iter().try_for_each(|&c| normed("hidden_size × hidden_size_mult", c, GROUPS))
    }

    /// Channels of each scale, the finest first.
    pub(super) fn channels(&self) -> Vec<usize> {
        self.hidden_size_mult.iter().map(|m| m.saturating_mul(self.hidden_size)).collect()
    }

    /// Side in pixels of the square that becomes one latent position.
    pub fn spatial_factor(&self) -> usize {
        1 << self.decoder_spatial_upsample.iter().filter(|up| **up != SpatialUpsample::None).count()
    }

    /// Frames that a latent frame becomes, but for the first one.
    pub fn temporal_factor(&self) -> usize {
        1 << self.decoder_temporal_upsample.iter().filter(|up| **up != TimeUpsample::None).count()
    }

    /// Frames that `latents` latent frames become.
    pub fn frames(&self, latents: usize) -> usize {
        if latents == 0 { 0 } else { (latents - 1) * self.temporal_factor() + 1 }
    }

    /// Latent frames of `frames` frames, if there are such.
    pub fn latent_frames(&self, frames: usize) -> Option<usize> {
        let factor = self.temporal_factor();
        (frames % factor == 1 % factor && frames > 0).then(|| (frames - 1) / factor + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_file_is_the_default() {
        let text = r#"{"_class_name": "CausalVAEModel", "hidden_size": 128, "z_channels": 4, "hidden_size_mult": [1, 2, 4, 4],
            "attn_resolutions": [], "dropout": 0.0, "resolution": 256, "double_z": true, "embed_dim": 4, "num_res_blocks": 2,
            "q_conv": "CausalConv3d", "decoder_conv_in": "CausalConv3d", "decoder_conv_out": "CausalConv3d",
            "decoder_attention": "AttnBlock3DFix",
            "decoder_resnet_blocks": ["ResnetBlock3D", "ResnetBlock3D", "ResnetBlock3D", "ResnetBlock3D"],
            "decoder_spatial_upsample": ["", "SpatialUpsample2x", "SpatialUpsample2x", "SpatialUpsample2x"],
            "decoder_temporal_upsample": ["", "", "TimeUpsampleRes2x", "TimeUpsampleRes2x"], "decoder_mid_resnet": "ResnetBlock3D"}"#;
        let config = CausalVaeConfig::from_json(text, "config.json").unwrap();
        assert_eq!(config, CausalVaeConfig { scaling_factor: config.scaling_factor, ..CausalVaeConfig::default() });
        assert_eq!((config.spatial_factor(), config.frames(17), config.latent_frames(65)), (8, 65, Some(17)));
        assert_eq!([0, 64, 66].map(|frames| config.latent_frames(frames)), [None; 3]);
    }

    #[test]
    fn other_layers_are_refused() {
        for (text, part) in [
            (r#"{"attn_resolutions": [16]}"#, "attn_resolutions"),
            (r#"{"hidden_size_mult": [1, 2]}"#, "decoder_resnet_blocks has 4 entries"),
            (
                r#"{"decoder_temporal_upsample": ["", "", "", "Spatial2xTime2x3DUpsample"]}"#,
                "Spatial2xTime2x3DUpsample",
            ),
            (r#"{"hidden_size": 100}"#, "100 channels in 32 groups"),
        ] {
            let error = CausalVaeConfig::from_json(text, "config.json").unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
