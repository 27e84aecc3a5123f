//! `config.json` of a Latte transformer, with the field names of diffusers and of Open-Sora-Plan.

use serde::Deserialize;

use crate::cache::{Anatomy, Module, Span};
use crate::model::dit::buffers::Sizes;
use crate::model::dit::launches::launches;
use crate::model::dit::pieces::NORM_EPS;
use crate::model::{Geometry, ModelError, TransformerShape};
use crate::shapes::Shapes;
use crate::tensor::DType;

/// Patch size in (time, height, width).
pub(super) const PATCH: [usize; 3] = [1, 2, 2];
/// Hidden width of the MLP as a multiple of C.
pub(super) const MLP_RATIO: usize = 4;

/// Whose code a checkpoint belongs to: the networks are the same, some of what a configuration leaves out is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatteKind {
    /// Latte-1, as in diffusers (`LatteTransformer3DModel`).
    Latte,
    /// Open-Sora-Plan 1.1 (`LatteT2V`).
    OpenSoraPlan,
}

/// The shape of a Latte transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct LatteConfig {
    /// Attention heads.
    pub num_heads: usize,
    /// Width of one attention head; heads · head_dim are the channels C of the hidden state.
    pub head_dim: usize,
    /// Pairs of a spatial and a temporal block.
    pub num_layers: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction: those of the latents, doubled with a predicted variance.
    pub out_channels: usize,
    /// Width of a caption token's embedding.
    pub caption_channels: usize,
    /// Maximum number of caption tokens.
    pub caption_tokens: usize,
    /// Side of the square of latents for which the positions were designed.
    pub sample_size: usize,
    /// Latent frames of a video; the model knows no other number.
    pub frames: usize,
    /// By what a frame's number is divided to give its position.
    pub frame_scale: f64,
    /// Whether one frame alone can be made too: a picture.
    pub pictures: bool,
}

/// One number or, in Open-Sora-Plan, height and width.
#[derive(Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Side(usize),
    Sides([usize; 2]),
}

/// The published fields; those that matter only in training are left out.
#[derive(Deserialize)]
struct Fields {
    num_attention_heads: usize,
    attention_head_dim: usize,
    in_channels: usize,
    out_channels: Option<usize>,
    num_layers: usize,
    sample_size: SampleSize,
    patch_size: usize,
    caption_channels: usize,
    video_length: usize,
    cross_attention_dim: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    activation_fn: Option<String>,
    norm_type: Option<String>,
    #[serde(default = "yes")]
    norm_elementwise_affine: bool,
    norm_eps: Option<f64>,
    #[serde(default)]
    only_cross_attention: bool,
    #[serde(default)]
    double_self_attention: bool,
    #[serde(default)]
    use_rope: bool,
    compress_kv_factor: Option<usize>,
    interpolation_scale_1d: Option<f64>,
    model_max_length: Option<usize>,
}

fn yes() -> bool {
    true
}

impl LatteKind {
    /// The most caption tokens of the published pipeline.
    fn caption_tokens(self) -> usize {
        match self {
            LatteKind::Latte => 120,
            LatteKind::OpenSoraPlan => 300,
        }
    }

    /// What the published code divides a frame's number by, for videos of `frames` latent frames.
    fn frame_scale(self, frames: usize) -> f64 {
        match self {
            LatteKind::Latte => 1.0,
            LatteKind::OpenSoraPlan => ((frames - frames % 2) / 16).max(1) as f64,
        }
    }
}

impl LatteConfig {
    /// The shape of the published transformers: Latte-1 for 16 frames of 512×512, Open-Sora-Plan 1.1 for 65.
    pub fn published(kind: LatteKind) -> LatteConfig {
        let frames = match kind {
            LatteKind::Latte => 16,
            LatteKind::OpenSoraPlan => 17,
        };
        LatteConfig {
            num_heads: 16,
            head_dim: 72,
            num_layers: 28,
            in_channels: 4,
            out_channels: 8,
            caption_channels: 4096,
            caption_tokens: kind.caption_tokens(),
            sample_size: 64,
            frames,
            frame_scale: kind.frame_scale(frames),
            pictures: kind == LatteKind::Latte,
        }
    }

    /// Reads and checks the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// Fields that are missing, a network that this runtime does not have, or sizes that it has no kernels for.
    pub fn from_json(text: &str, file: &str, kind: LatteKind) -> Result<LatteConfig, ModelError> {
        let bad = |reason| ModelError::Config { file: file.into(), reason };
        let fields: Fields = serde_json::from_str(text)
            .map_err(|e| bad(format!("not the configuration of a Latte transformer: {e}")))?;
        let sample_size = match fields.sample_size {
            SampleSize::Side(side) => side,
            SampleSize::Sides([height, width]) if height == width => height,
            SampleSize::Sides(sides) => {
                return Err(bad(format!("sample_size {sides:?}: positions are defined for a square alone")));
            }
        };
        let frames = fields.video_length;
        let config = LatteConfig {
            num_heads: fields.num_attention_heads,
            head_dim: fields.attention_head_dim,
            num_layers: fields.num_layers,
            in_channels: fields.in_channels,
            out_channels: fields.out_channels.unwrap_or(fields.in_channels),
            caption_channels: fields.caption_channels,
            caption_tokens: fields.model_max_length.unwrap_or(kind.caption_tokens()),
            sample_size,
            frames,
            frame_scale: fields.interpolation_scale_1d.unwrap_or(kind.frame_scale(frames)),
            pictures: kind == LatteKind::Latte,
        };
        config.validate().and_then(|()| fields.supported(config.hidden_size())).map_err(bad)?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let counts = [
            ("num_attention_heads", self.num_heads, 1024),
            ("num_layers", self.num_layers, 1000),
            ("in_channels", self.in_channels, 1024),
            ("caption_channels", self.caption_channels, 65536),
            ("model_max_length", self.caption_tokens, 65536),
            ("sample_size", self.sample_size, 65536),
            ("video_length", self.frames, 65536),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !(32..=128).contains(&self.head_dim) || !self.head_dim.is_multiple_of(8) {
            return Err(format!(
                "attention_head_dim {} has no kernel; it must be 32 to 128 in steps of 8",
                self.head_dim
            ));
        }
        if self.out_channels != self.in_channels && self.out_channels != 2 * self.in_channels {
            return Err(format!(
                "out_channels is {}, expected {} or, with a variance, {}",
                self.out_channels,
                self.in_channels,
                2 * self.in_channels
            ));
        }
        if !(self.frame_scale.is_finite() && self.frame_scale > 0.0) {
            return Err(format!("interpolation_scale_1d is {}, expected a positive number", self.frame_scale));
        }
        Ok(())
    }

    /// Checks a number of latent frames.
    ///
    /// # Errors
    /// A number that the model does not know.
    pub(super) fn check_frames(&self, frames: usize) -> Result<(), ModelError> {
        if frames == self.frames || (frames == 1 && self.pictures) {
            return Ok(());
        }
        let pictures = if self.pictures { ", or 1 for a picture" } else { "" };
        Err(ModelError::Input(format!(
            "{frames} latent frames: this transformer makes videos of {}{pictures}",
            self.frames
        )))
    }

    /// Its blocks: spatial and temporal ones in turn; the temporal ones have no cross-attention.
    pub fn anatomy(&self) -> Anatomy {
        let layer = [(Span::Frame, &Module::ALL[..]), (Span::Time, &[Module::Attention, Module::Mlp])];
        Anatomy::new(std::iter::repeat_n(layer, self.num_layers).flatten())
    }

    /// The sizes that other modules need.
    pub fn shape(&self) -> TransformerShape {
        TransformerShape {
            channels: self.in_channels,
            patch_frames: PATCH[0],
            caption_channels: self.caption_channels,
            caption_tokens: self.caption_tokens,
        }
    }

    /// Channels C of the hidden state.
    pub fn hidden_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The number of positions along a side of the native grid.
    pub(super) fn position_base(&self) -> usize {
        (self.sample_size / PATCH[1]).max(1)
    }

    /// By what they are divided.
    pub(super) fn position_scale(&self) -> usize {
        (self.sample_size / 64).max(1)
    }

    /// Tokens along (time, height, width) for a latent of the given size.
    pub(super) fn tokens(geometry: &Geometry) -> [usize; 3] {
        let [pt, ph, pw] = PATCH;
        [geometry.frames.div_ceil(pt), geometry.height.div_ceil(ph), geometry.width.div_ceil(pw)]
    }

    /// The sizes of a forward at a geometry.
    pub(super) fn sizes(&self, geometry: &Geometry, dtype: DType) -> Sizes {
        Sizes {
            tokens: LatteConfig::tokens(geometry),
            width: self.hidden_size(),
            hidden: MLP_RATIO * self.hidden_size(),
            patch: PATCH.iter().product(),
            channels: [self.in_channels, self.out_channels],
            blocks: 2 * self.num_layers,
            dtype,
            fp8: false,
        }
    }

    /// Every relevant launch of a step at `geometry`, with `text` caption tokens, for benchmarks.
    pub fn launches(&self, geometry: &Geometry, text: usize) -> Shapes {
        launches(&self.sizes(geometry, DType::Bf16), self.num_heads, geometry, text)
    }
}

impl Fields {
    /// Whether the network, of `width` channels, is one that this runtime has.
    fn supported(&self, width: usize) -> Result<(), String> {
        let (patch, kv) = (self.patch_size, self.compress_kv_factor.unwrap_or(1));
        let other = |field: &Option<String>, expected: &str| field.as_ref().is_some_and(|value| value != expected);
        let reason = if patch != PATCH[1] {
            format!("patch_size {patch}, expected {}", PATCH[1])
        } else if kv != 1 {
            format!("compress_kv_factor {kv}: keys and values of fewer tokens are not supported, 1 is")
        } else if self.use_rope {
            "use_rope true: rotary positions are not supported, sinusoids are".into()
        } else if !self.attention_bias {
            "attention_bias false: projections without a bias are not supported".into()
        } else if self.norm_elementwise_affine {
            "norm_elementwise_affine true: LayerNorms with weights are not supported".into()
        } else if self.only_cross_attention || self.double_self_attention {
            "only_cross_attention or double_self_attention: not supported".into()
        } else if other(&self.norm_type, "ada_norm_single") {
            format!("norm_type {:?}, expected ada_norm_single", self.norm_type.as_deref().unwrap_or_default())
        } else if other(&self.activation_fn, "gelu-approximate") {
            format!("activation_fn {:?}, expected gelu-approximate", self.activation_fn.as_deref().unwrap_or_default())
        } else if self.cross_attention_dim.is_some_and(|dim| dim != width) {
            format!("cross_attention_dim {}, expected {width}", self.cross_attention_dim.unwrap_or_default())
        } else if let Some(eps) = self.norm_eps.filter(|eps| *eps as f32 != NORM_EPS) {
            format!("norm_eps {eps}, expected {NORM_EPS:e}")
        } else {
            return Ok(());
        };
        Err(reason)
    }
}
