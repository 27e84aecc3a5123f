//! Operations and their shapes: what models launch, and what benchmarks measure.

use serde::{Deserialize, Serialize};

use crate::ops::{conv, fp8};

/// Operations by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// Matrix products with their fused operations.
    Linear,
    /// Fused attention.
    Attention,
    /// AdaCache's probe and fold.
    Residual,
    /// LayerNorm statistics and modulation.
    Norm,
    /// Guidance and step.
    Sampler,
    /// Convolution in time and space.
    Conv,
    /// GroupNorm with SiLU.
    GroupNorm,
    /// Softmax of long rows.
    Softmax,
    /// RMSNorm over channels with SiLU.
    RmsNorm,
    /// Shortcuts around a change of resolution.
    Resample,
    /// Residuals to 8 bits and back.
    Pack,
}

impl Op {
    /// Every operation.
    pub const ALL: [Op; 11] = [
        Op::Linear,
        Op::Attention,
        Op::Residual,
        Op::Norm,
        Op::Sampler,
        Op::Conv,
        Op::GroupNorm,
        Op::Softmax,
        Op::RmsNorm,
        Op::Resample,
        Op::Pack,
    ];

    /// The name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::Attention => "attention",
            Op::Residual => "residual",
            Op::Norm => "norm",
            Op::Sampler => "sampler",
            Op::Conv => "conv",
            Op::GroupNorm => "group_norm",
            Op::Softmax => "softmax",
            Op::RmsNorm => "rms_norm",
            Op::Resample => "resample",
            Op::Pack => "pack",
        }
    }
}

/// The operations after a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Epilogue {
    /// The bias.
    #[default]
    Bias,
    /// Bias and GELU.
    Gelu,
    /// Bias, gate, and addition to the hidden state.
    Residual,
}

/// `out[m, n] = epilogue(a[m, k] · w[n, k]ᵀ + bias)`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LinearShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    #[serde(default)]
    pub epilogue: Epilogue,
    /// Whether LayerNorm and adaLN precede the product.
    #[serde(default)]
    pub modulate: bool,
    /// Whether both operands are of e4m3 (on a Hopper); what makes the rows of `a` so is part of it.
    #[serde(default)]
    pub fp8: bool,
}

/// The kind of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AttentionKind {
    /// Among the tokens of a frame.
    Spatial,
    /// Along the frames of a location.
    Temporal,
    /// To the caption.
    Cross,
    /// Among all tokens of a sample, without norm and RoPE: Wan's, which has these before it.
    Whole,
}

/// Attention over `[batch, frames, tokens]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AttentionShape {
    pub kind: AttentionKind,
    pub batch: usize,
    pub frames: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Caption tokens.
    #[serde(default = "default_text")]
    pub text: usize,
}

fn default_text() -> usize {
    300
}

/// The pass over a residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResidualKind {
    /// Measure and keep.
    Probe,
    /// Subtract the embedding.
    Fold,
    /// Add the embedding.
    Unfold,
}

/// A residual `[batch, frames, tokens, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ResidualShape {
    pub kind: ResidualKind,
    pub batch: usize,
    pub frames: usize,
    pub tokens: usize,
    pub channels: usize,
    /// Frame strides of the motion score.
    #[serde(default)]
    pub strides: usize,
}

/// The pass of a LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormKind {
    /// Mean and standard deviation of each row.
    RowStats,
    /// The whole normalisation and modulation.
    Modulate,
}

/// Hidden states `[rows, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct NormShape {
    pub kind: NormKind,
    pub rows: usize,
    pub channels: usize,
}

/// Latents `[videos, channels, frames, height, width]`, predicted with guidance and variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SamplerShape {
    pub videos: usize,
    pub channels: usize,
    pub frames: usize,
    pub height: usize,
    pub width: usize,
}

/// A convolution of `[frames, height, width, channels]` with `[n, kernel_t, kernel, kernel, channels]`, padded as in the autoencoders:
/// space on all sides (only at the end if strided), time at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ConvShape {
    pub frames: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub n: usize,
    /// Taps in time.
    #[serde(default = "one")]
    pub kernel_t: usize,
    /// Taps in each spatial direction.
    #[serde(default = "three")]
    pub kernel: usize,
    #[serde(default = "one")]
    pub stride_t: usize,
    #[serde(default = "one")]
    pub stride: usize,
    /// Whether rows and columns are doubled first.
    #[serde(default)]
    pub upsample: bool,
    /// Groups of channels, each of which becomes a frame.
    #[serde(default = "one")]
    pub time_factor: usize,
    /// Whether the result is added to a residual.
    #[serde(default)]
    pub residual: bool,
}

fn one() -> usize {
    1
}

fn three() -> usize {
    3
}

impl ConvShape {
    /// An unstrided 3×3 convolution of images.
    pub fn image([frames, height, width]: [usize; 3], channels: usize, n: usize) -> Self {
        ConvShape {
            frames,
            height,
            width,
            channels,
            n,
            kernel_t: 1,
            kernel: 3,
            stride_t: 1,
            stride: 1,
            upsample: false,
            time_factor: 1,
            residual: false,
        }
    }

    pub(crate) fn geometry(&self) -> conv::Geometry {
        let ConvShape { kernel_t, kernel, stride_t, stride, upsample, time_factor, .. } = *self;
        let plain = conv::Geometry::default();
        conv::Geometry { stride_t, stride, upsample, time_factor, ..plain }.padded([kernel_t, kernel])
    }
}

/// The pass of a GroupNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GroupNormKind {
    /// Scale and shift of every channel.
    Statistics,
    /// The normalisation and SiLU.
    Apply,
}

/// Activations `[frames, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct GroupNormShape {
    pub kind: GroupNormKind,
    pub frames: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    #[serde(default = "thirty_two")]
    pub groups: usize,
    /// Whether each frame is normalised separately, as in an image autoencoder, or all together.
    #[serde(default)]
    pub by_frame: bool,
}

fn thirty_two() -> usize {
    32
}

/// Softmax of `rows` rows of f32, as for attention among a frame's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SoftmaxShape {
    pub rows: usize,
    pub columns: usize,
}

/// RMSNorm of `rows` rows of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RmsNormShape {
    pub rows: usize,
    pub channels: usize,
}

/// The direction of a change of resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResampleKind {
    /// Channels become frames, rows and columns.
    Up,
    /// The reverse.
    Down,
}

/// The shortcut around a change by `time` and by 2 in rows and columns, for an input `[frames, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ResampleShape {
    pub kind: ResampleKind,
    pub frames: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub out_channels: usize,
    #[serde(default = "one")]
    pub time: usize,
}

/// The direction of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PackKind {
    /// To 8 bits.
    Pack,
    /// Back.
    Unpack,
    /// Back, and added to the output.
    Add,
}

/// A residual `[rows, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PackShape {
    pub kind: PackKind,
    pub rows: usize,
    pub channels: usize,
}

/// A list of operations. `src/bench/example.toml` shows the file format.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Shapes {
    #[serde(default)]
    pub linear: Vec<LinearShape>,
    #[serde(default)]
    pub attention: Vec<AttentionShape>,
    #[serde(default)]
    pub residual: Vec<ResidualShape>,
    #[serde(default)]
    pub norm: Vec<NormShape>,
    #[serde(default)]
    pub sampler: Vec<SamplerShape>,
    #[serde(default)]
    pub conv: Vec<ConvShape>,
    #[serde(default)]
    pub group_norm: Vec<GroupNormShape>,
    #[serde(default)]
    pub softmax: Vec<SoftmaxShape>,
    #[serde(default)]
    pub rms_norm: Vec<RmsNormShape>,
    #[serde(default)]
    pub resample: Vec<ResampleShape>,
    #[serde(default)]
    pub pack: Vec<PackShape>,
}

impl Shapes {
    /// The same, with products of e4m3 wherever the kernel serves their shape.
    pub fn in_fp8(mut self) -> Shapes {
        self.linear.iter_mut().for_each(|shape| shape.fp8 = fp8::serves([shape.n, shape.k]));
        self
    }

    /// The shapes of the given operations alone.
    pub fn only(mut self, ops: &[Op]) -> Shapes {
        if !ops.contains(&Op::Linear) {
            self.linear.clear();
        }
        if !ops.contains(&Op::Attention) {
            self.attention.clear();
        }
        if !ops.contains(&Op::Residual) {
            self.residual.clear();
        }
        if !ops.contains(&Op::Norm) {
            self.norm.clear();
        }
        if !ops.contains(&Op::Sampler) {
            self.sampler.clear();
        }
        if !ops.contains(&Op::Conv) {
            self.conv.clear();
        }
        if !ops.contains(&Op::GroupNorm) {
            self.group_norm.clear();
        }
        if !ops.contains(&Op::Softmax) {
            self.softmax.clear();
        }
        if !ops.contains(&Op::RmsNorm) {
            self.rms_norm.clear();
        }
        if !ops.contains(&Op::Resample) {
            self.resample.clear();
        }
        if !ops.contains(&Op::Pack) {
            self.pack.clear();
        }
        self
    }

    /// The shapes of both lists.
    pub fn and(mut self, other: Shapes) -> Shapes {
        self.linear.extend(other.linear);
        self.attention.extend(other.attention);
        self.residual.extend(other.residual);
        self.norm.extend(other.norm);
        self.sampler.extend(other.sampler);
        self.conv.extend(other.conv);
        self.group_norm.extend(other.group_norm);
        self.softmax.extend(other.softmax);
        self.rms_norm.extend(other.rms_norm);
        self.resample.extend(other.resample);
        self.pack.extend(other.pack);
        self
    }
}
