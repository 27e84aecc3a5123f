//! `config.json` of a Wan transformer, with the field names of the published code or those of diffusers.

use serde::Deserialize;

use crate::cache::{Anatomy, Module, Span};
use crate::model::dit::buffers::FREQUENCY_DIM;
use crate::model::dit::pieces::NORM_EPS;
use crate::model::{ModelError, TransformerShape, Weights};

/// Patch size in (time, height, width).
pub(super) const PATCH: [usize; 3] = [1, 2, 2];
/// Positions along each axis for which the published code has rotations.
pub(super) const POSITIONS: usize = 1024;

/// The shape of a Wan transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WanConfig {
    /// Channels D of the hidden state.
    pub dim: usize,
    /// Hidden width of the MLP.
    pub ffn_dim: usize,
    /// Attention heads; head_dim = dim / num_heads.
    pub num_heads: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Channels of the latents, which are those of the prediction too.
    pub channels: usize,
    /// Width of a caption token's embedding.
    pub text_dim: usize,
    /// Caption tokens that the model attends to: shorter captions are padded with rows of zeros.
    pub text_len: usize,
}

/// The fields of both spellings.
#[derive(Deserialize)]
struct Fields {
    dim: Option<usize>,
    attention_head_dim: Option<usize>,
    #[serde(alias = "num_attention_heads")]
    num_heads: usize,
    num_layers: usize,
    ffn_dim: usize,
    #[serde(alias = "in_channels")]
    in_dim: usize,
    #[serde(alias = "out_channels")]
    out_dim: usize,
    freq_dim: Option<usize>,
    text_dim: Option<usize>,
    text_len: Option<usize>,
    eps: Option<f64>,
    patch_size: Option<[usize; 3]>,
    model_type: Option<String>,
    image_dim: Option<usize>,
}

impl WanConfig {
    /// The shape of the published Wan 2.1 T2V-1.3B.
    pub fn t2v_1_3b() -> WanConfig {
        WanConfig { dim: 1536, ffn_dim: 8960, num_heads: 12, num_layers: 30, ..WanConfig::t2v_14b() }
    }

    /// The shape of the published Wan 2.1 T2V-14B, and of each expert of Wan 2.2 T2V-A14B.
    pub fn t2v_14b() -> WanConfig {
        WanConfig {
            dim: 5120,
            ffn_dim: 13824,
            num_heads: 40,
            num_layers: 40,
            channels: 16,
            text_dim: 4096,
            text_len: 512,
        }
    }

    /// The shape of the published Wan 2.2 TI2V-5B.
    pub fn ti2v_5b() -> WanConfig {
        WanConfig { dim: 3072, ffn_dim: 14336, num_heads: 24, num_layers: 30, channels: 48, ..WanConfig::t2v_14b() }
    }

    /// Reads and checks the text of a `config.json`; `file` names it in errors. The width of a caption's tokens, which the published files
    /// leave out, is that of `weights`, if there are any, else 4096.
    ///
    /// # Errors
    /// Fields that are missing, or sizes that this runtime has no kernels for.
    pub fn from_json(text: &str, file: &str, weights: Option<&Weights<'_>>) -> Result<WanConfig, ModelError> {
        let bad = |reason| ModelError::Config { file: file.into(), reason };
        let fields: Fields =
            serde_json::from_str(text).map_err(|e| bad(format!("not the configuration of a Wan transformer: {e}")))?;
        let of_weights = || {
            let names = ["text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"];
            names.iter().find_map(|name| weights?.shape(name))?.get(1).copied()
        };
        let heads = fields.num_heads;
        let dim = fields.dim.or(fields.attention_head_dim.and_then(|width| width.checked_mul(heads)));
        let config = WanConfig {
            dim: dim.ok_or_else(|| bad("there is neither `dim` nor `attention_head_dim`".into()))?,
            ffn_dim: fields.ffn_dim,
            num_heads: heads,
            num_layers: fields.num_layers,
            channels: fields.in_dim,
            text_dim: fields.text_dim.or_else(of_weights).unwrap_or(WanConfig::t2v_14b().text_dim),
            text_len: fields.text_len.unwrap_or(WanConfig::t2v_14b().text_len),
        };
        fields.supported().and_then(|()| config.validate()).map_err(bad)?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let counts = [
            ("dim", self.dim, 65536),
            ("ffn_dim", self.ffn_dim, 1 << 20),
            ("num_heads", self.num_heads, 1024),
            ("num_layers", self.num_layers, 1000),
            ("in_dim", self.channels, 1024),
            ("text_dim", self.text_dim, 65536),
            ("text_len", self.text_len, 65536),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !self.dim.is_multiple_of(self.num_heads) {
            return Err(format!("dim {} is not a multiple of num_heads {}", self.dim, self.num_heads));
        }
        let head_dim = self.head_dim();
        if !(32..=128).contains(&head_dim) || !head_dim.is_multiple_of(8) {
            return Err(format!(
                "head_dim {head_dim} (dim/num_heads) has no kernel; it must be 32 to 128 in steps of 8"
            ));
        }
        Ok(())
    }

    /// Its blocks: each with self-attention over all tokens, cross-attention and an MLP.
    pub fn anatomy(&self) -> Anatomy {
        Anatomy::new(std::iter::repeat_n((Span::Everything, &Module::ALL[..]), self.num_layers))
    }

    /// The sizes that other modules need.
    pub fn shape(&self) -> TransformerShape {
        TransformerShape {
            channels: self.channels,
            patch_frames: PATCH[0],
            caption_channels: self.text_dim,
            caption_tokens: self.text_len,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.num_heads
    }

    /// The pairs of a head that turn with the frame, and those that turn with the row; as many turn with the column.
    pub(super) fn rope_pairs(&self) -> [usize; 2] {
        let line = self.head_dim() / 6;
        [self.head_dim() / 2 - 2 * line, line]
    }
}

impl Fields {
    /// Whether the network is one that this runtime has.
    fn supported(&self) -> Result<(), String> {
        let images = self.model_type.as_deref().is_some_and(|kind| !matches!(kind, "t2v" | "ti2v"));
        if images || self.image_dim.is_some() || self.in_dim != self.out_dim {
            return Err(format!(
                "a transformer with {} input and {} output channels that reads an image through CLIP or in further channels; \
                 text to video (t2v) and ti2v are supported",
                self.in_dim, self.out_dim
            ));
        }
        if self.patch_size.is_some_and(|patch| patch != PATCH) {
            return Err(format!("patch_size {:?}, expected {PATCH:?}", self.patch_size.unwrap_or_default()));
        }
        if self.freq_dim.is_some_and(|dim| dim != FREQUENCY_DIM) {
            return Err(format!("freq_dim {}, expected {FREQUENCY_DIM}", self.freq_dim.unwrap_or_default()));
        }
        if let Some(eps) = self.eps.filter(|eps| *eps as f32 != NORM_EPS) {
            return Err(format!("eps {eps}, expected {NORM_EPS:e}"));
        }
        Ok(())
    }
}
