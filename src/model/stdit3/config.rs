//! `config.json` of an STDiT3 checkpoint, with the published field names.

use std::path::Path;

use serde::Deserialize;

use crate::cache::Anatomy;
use crate::model::dit::buffers::Sizes;
use crate::model::dit::launches::launches;
use crate::model::{Geometry, ModelError, TransformerShape};
use crate::shapes::Shapes;
use crate::tensor::DType;

/// The shape of an STDiT3. Fields that matter only in training are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StDiT3Config {
    /// Pairs of a spatial and a temporal block.
    pub depth: usize,
    /// Channels C of the hidden state.
    pub hidden_size: usize,
    /// Attention heads; head_dim = hidden_size / num_heads.
    pub num_heads: usize,
    /// Channels of the latent.
    #[serde(default = "default::in_channels")]
    pub in_channels: usize,
    /// Width of a caption token's embedding.
    #[serde(default = "default::caption_channels")]
    pub caption_channels: usize,
    /// Maximum number L of caption tokens.
    #[serde(default = "default::model_max_length")]
    pub model_max_length: usize,
    /// Patch size in (time, height, width).
    #[serde(default = "default::patch_size")]
    pub patch_size: [usize; 3],
    /// Hidden width of the MLP as a multiple of C.
    #[serde(default = "default::mlp_ratio")]
    pub mlp_ratio: f64,
    /// Whether the model also predicts a variance (twice the output channels).
    #[serde(default = "default::yes")]
    pub pred_sigma: bool,
    /// Whether q and k are RMS-normalised.
    #[serde(default = "default::yes")]
    pub qk_norm: bool,
    /// Side in pixels of the square for which the position embedding was designed.
    #[serde(default = "default::input_sq_size")]
    pub input_sq_size: usize,
}

mod default {
    pub(super) fn in_channels() -> usize {
        4
    }
    pub(super) fn caption_channels() -> usize {
        4096
    }
    pub(super) fn model_max_length() -> usize {
        300
    }
    pub(super) fn patch_size() -> [usize; 3] {
        [1, 2, 2]
    }
    pub(super) fn mlp_ratio() -> f64 {
        4.0
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn input_sq_size() -> usize {
        512
    }
}

impl StDiT3Config {
    /// The shape of the published Open-Sora 1.2 transformer, STDiT3-XL/2.
    pub fn opensora_v1_2() -> StDiT3Config {
        StDiT3Config {
            depth: 28,
            hidden_size: 1152,
            num_heads: 16,
            in_channels: default::in_channels(),
            caption_channels: default::caption_channels(),
            model_max_length: default::model_max_length(),
            patch_size: default::patch_size(),
            mlp_ratio: default::mlp_ratio(),
            pred_sigma: true,
            qk_norm: true,
            input_sq_size: default::input_sq_size(),
        }
    }

    /// Reads and checks `config.json`.
    pub fn from_file(path: &Path) -> Result<StDiT3Config, ModelError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io { file: file.clone(), source })?;
        StDiT3Config::from_json(&text, &file)
    }

    /// Reads and checks the text of a `config.json`; `file` names it in errors.
    pub fn from_json(text: &str, file: &str) -> Result<StDiT3Config, ModelError> {
        let config: StDiT3Config = serde_json::from_str(text).map_err(|e| ModelError::Config {
            file: file.into(),
            reason: format!("not an STDiT3 configuration: {e}"),
        })?;
        config.validate().map_err(|reason| ModelError::Config { file: file.into(), reason })?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let counts = [
            ("depth", self.depth, 1, 1000),
            ("hidden_size", self.hidden_size, 1, 65536),
            ("num_heads", self.num_heads, 1, 1024),
            ("in_channels", self.in_channels, 1, 1024),
            ("caption_channels", self.caption_channels, 1, 65536),
            ("model_max_length", self.model_max_length, 1, 65536),
            ("input_sq_size", self.input_sq_size, 1, 65536),
        ];
        for (name, value, low, high) in counts {
            if !(low..=high).contains(&value) {
                return Err(format!("{name} is {value}, expected {low} to {high}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return Err(format!("hidden_size {} is not a multiple of num_heads {}", self.hidden_size, self.num_heads));
        }
        let head_dim = self.head_dim();
        if !(32..=128).contains(&head_dim) || !head_dim.is_multiple_of(8) {
            return Err(format!(
                "head_dim {head_dim} (hidden_size/num_heads) has no kernel; it must be 32 to 128 in steps of 8"
            ));
        }
        if !self.hidden_size.is_multiple_of(4) {
            return Err(format!("hidden_size {} must be a multiple of 4 for the position embedding", self.hidden_size));
        }
        if self.patch_size.iter().any(|p| !(1..=16).contains(p)) {
            return Err(format!("patch_size {:?}: each of the three must be 1 to 16", self.patch_size));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) {
            return Err(format!("mlp_ratio {} must be above 0 and at most 64", self.mlp_ratio));
        }
        Ok(())
    }

    /// Its blocks: `depth` spatial and `depth` temporal ones, alternating.
    pub fn anatomy(&self) -> Anatomy {
        Anatomy::spatial_temporal(self.depth)
    }

    /// The sizes that other modules need.
    pub fn shape(&self) -> TransformerShape {
        TransformerShape {
            channels: self.in_channels,
            patch_frames: self.patch_size[0],
            caption_channels: self.caption_channels,
            caption_tokens: self.model_max_length,
        }
    }

    /// Tokens along (time, height, width) for a latent of the given size.
    pub(super) fn tokens(&self, geometry: &Geometry) -> [usize; 3] {
        let [pt, ph, pw] = self.patch_size;
        [geometry.frames.div_ceil(pt), geometry.height.div_ceil(ph), geometry.width.div_ceil(pw)]
    }

    /// The sizes of a forward at a geometry.
    pub(super) fn sizes(&self, geometry: &Geometry, dtype: DType) -> Sizes {
        Sizes {
            tokens: self.tokens(geometry),
            width: self.hidden_size,
            hidden: self.mlp_hidden(),
            patch: self.patch_volume(),
            channels: [self.in_channels, self.out_channels()],
            blocks: 2 * self.depth,
            dtype,
            fp8: false,
        }
    }

    /// Every relevant launch of a step at `geometry`, with `text` caption tokens, for benchmarks.
    pub fn launches(&self, geometry: &Geometry, text: usize) -> Shapes {
        launches(&self.sizes(geometry, DType::Bf16), self.num_heads, geometry, text)
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Hidden width of the MLP.
    pub fn mlp_hidden(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    /// Channels of the prediction: those of the latent, doubled with a predicted variance.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.pred_sigma { 2 } else { 1 }
    }

    /// Latent elements of one channel in a patch.
    pub fn patch_volume(&self) -> usize {
        self.patch_size.iter().product()
    }
}
