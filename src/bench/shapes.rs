//! The operations and shapes to measure, from a file or from a model.

use serde::{Deserialize, Serialize};

use crate::family;
use crate::family::opensora::OPENSORA;
use crate::model::vae::{SpatialConfig, TemporalConfig, VaeConfig};
use crate::model::{Geometry, StDiT3Config};
use crate::ops::conv::{self, CHANNELS};
use crate::ops::params::ATTENTION_SHORT_QUERIES;
use crate::pipeline::{PipelineError, SizeOptions};

/// Why shapes cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the shapes {path}: {reason}")]
pub struct ShapesError {
    path: String,
    reason: String,
}

/// Operations by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// Residuals to 8 bits and back.
    Pack,
}

impl Op {
    /// Every operation.
    pub const ALL: [Op; 9] = [
        Op::Linear,
        Op::Attention,
        Op::Residual,
        Op::Norm,
        Op::Sampler,
        Op::Conv,
        Op::GroupNorm,
        Op::Softmax,
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
            Op::Pack => "pack",
        }
    }
}

/// The operations after a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
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
}

/// The kind of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionKind {
    /// Among the tokens of a frame.
    Spatial,
    /// Along the frames of a location.
    Temporal,
    /// To the caption.
    Cross,
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

    pub(super) fn geometry(&self) -> conv::Geometry {
        let ConvShape { kernel_t, kernel, stride_t, stride, upsample, time_factor, .. } = *self;
        let plain = conv::Geometry::default();
        conv::Geometry { stride_t, stride, upsample, time_factor, ..plain }.padded([kernel_t, kernel])
    }
}

/// The pass of a GroupNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// The direction of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// A list of operations to measure. `src/bench/example.toml` shows the file format.
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
    pub pack: Vec<PackShape>,
}

/// Latent frames of the longest published video: temporal attention is also measured at this length if the model's own frames are few.
const LONG_FRAMES: usize = 120;

/// Frames that the image autoencoder processes at a time.
const SLICE: usize = 4;

impl Shapes {
    /// Parses TOML; `path` names it in errors.
    pub fn from_toml(text: &str, path: &str) -> Result<Shapes, ShapesError> {
        let error = |reason: String| ShapesError { path: path.into(), reason };
        let shapes: Shapes = toml::from_str(text).map_err(|e| error(e.to_string()))?;
        let cases = shapes.cases();
        if cases.is_empty() {
            return Err(error("no shapes in it; [[linear]] with m, n and k is one".into()));
        }
        for case in &cases {
            if let Some((name, value)) = case.sizes().into_iter().find(|(_, size)| !(1..=1 << 30).contains(size)) {
                return Err(error(format!("{}: {name} is {value}, expected 1 to 2^30", case.name())));
            }
        }
        Ok(shapes)
    }

    /// A workload that the virtual GPU can handle: a step of `sprites`, and an autoencoder with few channels.
    ///
    /// # Errors
    /// None, unless the built-in model is damaged.
    pub fn small() -> Result<Shapes, PipelineError> {
        let source = family::sprites();
        let model =
            Shapes::of_model(&family::sprites::shape(), &source.config().geometry(1), source.config().prompt_length);
        let vae = VaeConfig {
            spatial: SpatialConfig { block_out_channels: vec![32, 64], norm_num_groups: 8, ..Default::default() },
            temporal: TemporalConfig {
                filters: 32,
                num_groups: 8,
                channel_multipliers: vec![1, 2],
                temporal_downsample: vec![true],
                ..Default::default()
            },
            micro_frame_size: 4,
            ..Default::default()
        };
        Ok(model.and(Shapes::of_autoencoder(&vae, [8, 8])))
    }

    /// A step of Open-Sora 1.2 at a published resolution, 9:16 and 51 frames, and its autoencoder.
    ///
    /// # Errors
    /// An unknown resolution.
    pub fn opensora(resolution: &str) -> Result<Shapes, PipelineError> {
        let model = StDiT3Config::opensora_v1_2();
        let source = family::published(OPENSORA, &SizeOptions::published(resolution, 51))?;
        let [_, height, width] = source.config().latent;
        let steps = Shapes::of_model(&model, &source.config().geometry(1), model.model_max_length);
        Ok(steps.and(Shapes::of_autoencoder(&VaeConfig::default(), [height, width])))
    }

    /// Every relevant launch of a step of `model` at `geometry`. If there are so few frames that a special kernel handles them, attention
    /// along many frames is included too, over the same number of rows.
    pub fn of_model(model: &StDiT3Config, geometry: &Geometry, text: usize) -> Shapes {
        let [pt, ph, pw] = model.patch_size;
        let (frames, tokens) =
            (geometry.frames.div_ceil(pt), geometry.height.div_ceil(ph) * geometry.width.div_ceil(pw));
        let (batch, channels, hidden) = (geometry.batch(), model.hidden_size, model.mlp_hidden());
        let rows = batch * frames * tokens;
        let linear = |n, k, epilogue, modulate| LinearShape { m: rows, n, k, epilogue, modulate };
        let attention = |kind| AttentionShape {
            kind,
            batch,
            frames,
            tokens,
            heads: model.num_heads,
            head_dim: model.head_dim(),
            text,
        };
        let own = [AttentionKind::Spatial, AttentionKind::Temporal, AttentionKind::Cross].map(attention);
        let long = AttentionShape { frames: LONG_FRAMES, tokens: (frames * tokens).div_ceil(LONG_FRAMES), ..own[1] };
        let long = (frames <= ATTENTION_SHORT_QUERIES).then_some(long);
        let residual = |kind, strides| ResidualShape { kind, batch, frames, tokens, channels, strides };
        let Geometry { videos, frames: latent_frames, height, width, .. } = *geometry;
        Shapes {
            linear: vec![
                linear(3 * channels, channels, Epilogue::Bias, true),
                linear(channels, channels, Epilogue::Residual, false),
                linear(channels, channels, Epilogue::Bias, false),
                linear(hidden, channels, Epilogue::Gelu, true),
                linear(channels, hidden, Epilogue::Residual, false),
            ],
            attention: own.into_iter().chain(long).collect(),
            residual: vec![
                residual(ResidualKind::Probe, 0),
                residual(ResidualKind::Probe, 1),
                residual(ResidualKind::Fold, 0),
                residual(ResidualKind::Unfold, 0),
            ],
            norm: [NormKind::RowStats, NormKind::Modulate].map(|kind| NormShape { kind, rows, channels }).into(),
            sampler: vec![SamplerShape { videos, channels: model.in_channels, frames: latent_frames, height, width }],
            pack: [PackKind::Pack, PackKind::Unpack, PackKind::Add]
                .map(|kind| PackShape { kind, rows, channels })
                .into(),
            ..Default::default()
        }
    }

    /// The most frequent launches of decoding latents of `height` × `width`, and the encoder's downsampling: a chunk of the temporal
    /// autoencoder, a few frames of the spatial one.
    pub fn of_autoencoder(config: &VaeConfig, [height, width]: [usize; 2]) -> Shapes {
        let (spatial, temporal) = (&config.spatial, &config.temporal);
        let latents = config.latent_frames(config.micro_frame_size);
        let frames = latents * temporal.factor();
        let slice = frames.min(SLICE);
        let scaled = |by: usize| [slice, height * by, width * by];
        let (fine, full) = (config.spatial_factor() / 2, config.spatial_factor());
        let ends = |channels: &[usize]| (channels[0], channels[channels.len() - 1]);
        let (finest, coarsest) = ends(&spatial.block_out_channels);
        let second = spatial.block_out_channels.get(1).copied().unwrap_or(finest);
        let time: Vec<usize> = temporal.channel_multipliers.iter().map(|m| m * temporal.filters).collect();
        let (time_finest, time_coarsest) = ends(&time);
        let causal =
            |frames, channels, n| ConvShape { kernel_t: 3, ..ConvShape::image([frames, height, width], channels, n) };
        let norm = |kind, [frames, height, width]: [usize; 3], channels, groups, by_frame| GroupNormShape {
            kind,
            frames,
            height,
            width,
            channels,
            groups,
            by_frame,
        };
        let rgb = spatial.out_channels.next_multiple_of(CHANNELS);
        let residual = true;
        Shapes {
            conv: vec![
                ConvShape { residual, ..ConvShape::image(scaled(1), coarsest, coarsest) },
                ConvShape { upsample: true, ..ConvShape::image(scaled(fine.max(1)), second, second) },
                ConvShape { residual, ..ConvShape::image(scaled(full), finest, finest) },
                ConvShape::image(scaled(full), finest, rgb),
                ConvShape { stride: 2, ..ConvShape::image(scaled(full), finest, finest) },
                ConvShape { residual, ..causal(latents, time_coarsest, time_coarsest) },
                ConvShape { time_factor: 2, ..causal(latents, time_coarsest, 2 * time_coarsest) },
                ConvShape { residual, ..causal(frames, time_finest, time_finest) },
                ConvShape { stride_t: 2, ..causal(frames, time_finest, time_finest) },
            ],
            group_norm: vec![
                norm(GroupNormKind::Statistics, scaled(full), finest, spatial.norm_num_groups, true),
                norm(GroupNormKind::Apply, scaled(full), finest, spatial.norm_num_groups, true),
                norm(GroupNormKind::Statistics, [frames, height, width], time_finest, temporal.num_groups, false),
                norm(GroupNormKind::Apply, [frames, height, width], time_finest, temporal.num_groups, false),
            ],
            softmax: vec![SoftmaxShape { rows: height * width, columns: height * width }],
            ..Default::default()
        }
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
        self.pack.extend(other.pack);
        self
    }

    /// One case per shape.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.linear.iter().copied().map(Case::Linear).collect();
        cases.extend(self.attention.iter().copied().map(Case::Attention));
        cases.extend(self.residual.iter().copied().map(Case::Residual));
        cases.extend(self.norm.iter().copied().map(Case::Norm));
        cases.extend(self.sampler.iter().copied().map(Case::Sampler));
        cases.extend(self.conv.iter().copied().map(Case::Conv));
        cases.extend(self.group_norm.iter().copied().map(Case::GroupNorm));
        cases.extend(self.softmax.iter().copied().map(Case::Softmax));
        cases.extend(self.pack.iter().copied().map(Case::Pack));
        cases
    }
}

/// An operation on a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A matrix product.
    Linear(LinearShape),
    /// Attention.
    Attention(AttentionShape),
    /// A pass over a residual.
    Residual(ResidualShape),
    /// A LayerNorm.
    Norm(NormShape),
    /// A step of the latents.
    Sampler(SamplerShape),
    /// A convolution.
    Conv(ConvShape),
    /// A GroupNorm.
    GroupNorm(GroupNormShape),
    /// A softmax.
    Softmax(SoftmaxShape),
    /// A residual to 8 bits or back.
    Pack(PackShape),
}

impl Case {
    /// The operation.
    pub fn op(&self) -> Op {
        match self {
            Case::Linear(_) => Op::Linear,
            Case::Attention(_) => Op::Attention,
            Case::Residual(_) => Op::Residual,
            Case::Norm(_) => Op::Norm,
            Case::Sampler(_) => Op::Sampler,
            Case::Conv(_) => Op::Conv,
            Case::GroupNorm(_) => Op::GroupNorm,
            Case::Softmax(_) => Op::Softmax,
            Case::Pack(_) => Op::Pack,
        }
    }

    /// A short description of variant and sizes.
    pub fn name(&self) -> String {
        let sizes: Vec<String> = self.sizes().iter().map(|(name, size)| format!("{name}={size}")).collect();
        let variant = match self {
            Case::Linear(s) => format!("{:?}{}", s.epilogue, if s.modulate { "+adaln" } else { "" }).to_lowercase(),
            Case::Attention(s) => format!("{:?}", s.kind).to_lowercase(),
            Case::Residual(s) if s.strides > 0 => format!("{:?}+{} strides", s.kind, s.strides).to_lowercase(),
            Case::Residual(s) => format!("{:?}", s.kind).to_lowercase(),
            Case::Norm(NormShape { kind: NormKind::RowStats, .. }) => "row_stats".into(),
            Case::Norm(_) => "modulate".into(),
            Case::Sampler(_) => "step".into(),
            Case::Conv(s) => {
                let ConvShape { kernel_t, kernel, upsample, residual, .. } = s;
                let words =
                    [(*upsample, " upsampled"), (*residual, "+residual")].map(|(is, word)| if is { word } else { "" });
                format!("{kernel_t}x{kernel}x{kernel}{}", words.concat())
            }
            Case::GroupNorm(s) => format!("{:?}{}", s.kind, if s.by_frame { " by frame" } else { "" }).to_lowercase(),
            Case::Softmax(_) => "rows".into(),
            Case::Pack(s) => format!("{:?}", s.kind).to_lowercase(),
        };
        format!("{variant} {}", sizes.join(" "))
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        match *self {
            Case::Linear(LinearShape { m, n, k, .. }) => vec![("m", m), ("n", n), ("k", k)],
            Case::Attention(AttentionShape { kind, batch, frames, tokens, heads, head_dim, text }) => {
                let mut sizes = vec![
                    ("batch", batch),
                    ("frames", frames),
                    ("tokens", tokens),
                    ("heads", heads),
                    ("head_dim", head_dim),
                ];
                sizes.extend((kind == AttentionKind::Cross).then_some(("text", text)));
                sizes
            }
            Case::Residual(ResidualShape { batch, frames, tokens, channels, .. }) => {
                vec![("batch", batch), ("frames", frames), ("tokens", tokens), ("channels", channels)]
            }
            Case::Norm(NormShape { rows, channels, .. }) => vec![("rows", rows), ("channels", channels)],
            Case::Sampler(SamplerShape { videos, channels, frames, height, width }) => {
                vec![
                    ("videos", videos),
                    ("channels", channels),
                    ("frames", frames),
                    ("height", height),
                    ("width", width),
                ]
            }
            Case::Conv(s) => {
                let mut sizes = vec![
                    ("frames", s.frames),
                    ("height", s.height),
                    ("width", s.width),
                    ("channels", s.channels),
                    ("n", s.n),
                ];
                let rest = [("stride_t", s.stride_t), ("stride", s.stride), ("time_factor", s.time_factor)];
                sizes.extend(rest.into_iter().filter(|(_, size)| *size != 1));
                // The name begins with these.
                sizes.extend(
                    [("kernel_t", s.kernel_t), ("kernel", s.kernel)].into_iter().filter(|(_, taps)| *taps == 0),
                );
                sizes
            }
            Case::GroupNorm(GroupNormShape { frames, height, width, channels, groups, .. }) => vec![
                ("frames", frames),
                ("height", height),
                ("width", width),
                ("channels", channels),
                ("groups", groups),
            ],
            Case::Softmax(SoftmaxShape { rows, columns }) => vec![("rows", rows), ("columns", columns)],
            Case::Pack(PackShape { rows, channels, .. }) => vec![("rows", rows), ("channels", channels)],
        }
    }
}
