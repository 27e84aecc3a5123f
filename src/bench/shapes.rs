//! What to measure: operations and their shapes, from a file or from a model.

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::model::{Geometry, StDiT3Config};
use crate::ops::attention::{self, QkNorm, VideoDims};
use crate::ops::linear::{Activation, Gate, Modulate, linear, linear_residual};
use crate::ops::residual::{self, ProbeBuffers};
use crate::ops::{Modulation, OpError, RowMap, norm, sampler};
use crate::tensor::{DType, Tensor};

/// Why shapes cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the shapes {path}: {reason}")]
pub struct ShapesError {
    path: String,
    reason: String,
}

/// Operations by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Matrix products with what is fused into them.
    Linear,
    /// Fused attention.
    Attention,
    /// AdaCache's probe and fold.
    Residual,
    /// LayerNorm statistics and modulation.
    Norm,
    /// Guidance and step.
    Sampler,
}

impl Op {
    /// Every operation.
    pub const ALL: [Op; 5] = [Op::Linear, Op::Attention, Op::Residual, Op::Norm, Op::Sampler];

    /// The name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::Attention => "attention",
            Op::Residual => "residual",
            Op::Norm => "norm",
            Op::Sampler => "sampler",
        }
    }
}

/// What follows a matrix product.
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
    /// LayerNorm and adaLN in front.
    #[serde(default)]
    pub modulate: bool,
}

/// Which attention.
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

/// Which pass over a residual.
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

/// Which pass of a LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Mean and deviation of each row.
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

/// A list of what to measure. `src/bench/example.toml` shows the file format.
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
}

impl Shapes {
    /// Reads TOML; `path` names it in errors.
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

    /// Everything a step of `model` launches at `geometry` that takes time.
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
            attention: [AttentionKind::Spatial, AttentionKind::Temporal, AttentionKind::Cross].map(attention).into(),
            residual: vec![
                residual(ResidualKind::Probe, 0),
                residual(ResidualKind::Probe, 1),
                residual(ResidualKind::Fold, 0),
                residual(ResidualKind::Unfold, 0),
            ],
            norm: [NormKind::RowStats, NormKind::Modulate].map(|kind| NormShape { kind, rows, channels }).into(),
            sampler: vec![SamplerShape { videos, channels: model.in_channels, frames: latent_frames, height, width }],
        }
    }

    /// Those of the named operations alone.
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
        self
    }

    /// The shapes of both lists.
    pub fn and(mut self, other: Shapes) -> Shapes {
        self.linear.extend(other.linear);
        self.attention.extend(other.attention);
        self.residual.extend(other.residual);
        self.norm.extend(other.norm);
        self.sampler.extend(other.sampler);
        self
    }

    /// One case a shape.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.linear.iter().copied().map(Case::Linear).collect();
        cases.extend(self.attention.iter().copied().map(Case::Attention));
        cases.extend(self.residual.iter().copied().map(Case::Residual));
        cases.extend(self.norm.iter().copied().map(Case::Norm));
        cases.extend(self.sampler.iter().copied().map(Case::Sampler));
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
}

/// An operation with its arguments on a device, ready to be launched again and again.
pub struct Prepared {
    run: Box<dyn Fn() -> Result<(), OpError>>,
    /// What it writes.
    pub(super) outputs: Vec<Tensor>,
}

impl Prepared {
    /// Queues the operation's launches.
    ///
    /// # Errors
    /// A launcher refuses the shape, or the device fails.
    pub fn run(&self) -> Result<(), OpError> {
        (self.run)()
    }

    fn new(outputs: &[&Tensor], run: impl Fn() -> Result<(), OpError> + 'static) -> Self {
        Self { run: Box::new(run), outputs: outputs.iter().map(|t| (*t).clone()).collect() }
    }
}

impl Case {
    /// Which operation.
    pub fn op(&self) -> Op {
        match self {
            Case::Linear(_) => Op::Linear,
            Case::Attention(_) => Op::Attention,
            Case::Residual(_) => Op::Residual,
            Case::Norm(_) => Op::Norm,
            Case::Sampler(_) => Op::Sampler,
        }
    }

    /// Variant and sizes in a few words.
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
        }
    }

    /// Allocates and fills the arguments.
    ///
    /// # Errors
    /// They do not fit the device's memory.
    pub fn prepare(&self, device: &Device, dtype: DType) -> Result<Prepared, OpError> {
        let values = |shape: &[usize]| noise(device, shape, dtype);
        let floats = |shape: &[usize]| noise(device, shape, DType::F32);
        let empty = |shape: &[usize]| Tensor::empty(device, shape, dtype);
        Ok(match *self {
            Case::Linear(LinearShape { m, n, k, epilogue, modulate }) => {
                let (a, w, bias) = (values(&[m, k])?, values(&[n, k])?, values(&[n])?);
                let rows = RowMap { frames: 1, rows_per_frame: m };
                let (stats, table) = (floats(&[m, 2])?, floats(&[1, 1, 6, k.max(n)])?);
                let channels = if epilogue == Epilogue::Residual { n } else { k };
                let table =
                    table.reshape(&[6 * k.max(n)])?.slice_rows(0, 6 * channels)?.reshape(&[1, 1, 6, channels])?;
                if epilogue == Epilogue::Residual {
                    let x = values(&[m, n])?;
                    return Ok(Prepared::new(&[&x.clone()], move || {
                        let gate = Gate { modulation: Modulation { table: &table, frame_mask: None, rows }, chunk: 2 };
                        linear_residual(&a, &w, Some(&bias), Some(&gate), &x, None)
                    }));
                }
                let out = empty(&[m, n])?;
                let activation = if epilogue == Epilogue::Gelu { Activation::GeluTanh } else { Activation::None };
                Prepared::new(&[&out.clone()], move || {
                    let modulation = Modulation { table: &table, frame_mask: None, rows };
                    let modulation = modulate.then_some(Modulate { stats: &stats, modulation, shift: 0, scale: 1 });
                    linear(&a, &w, Some(&bias), modulation.as_ref(), activation, &out)
                })
            }
            Case::Attention(AttentionShape { kind, batch, frames, tokens, heads, head_dim, text }) => {
                let dims = VideoDims { batch, frames, tokens };
                let out = empty(&[dims.rows(), heads * head_dim])?;
                if kind == AttentionKind::Cross {
                    let (q, kv) =
                        (values(&[dims.rows(), heads, head_dim])?, values(&[batch * text, 2, heads, head_dim])?);
                    let lengths = Tensor::from_slice(device, &[batch], &vec![text as i32; batch])?;
                    return Ok(Prepared::new(&[&out.clone()], move || {
                        attention::cross(&q, &kv, &lengths, &dims, &out)
                    }));
                }
                let qkv = values(&[dims.rows(), 3, heads, head_dim])?;
                let (q, k, rope) = (values(&[head_dim])?, values(&[head_dim])?, floats(&[frames, head_dim / 2, 2])?);
                Prepared::new(&[&out.clone()], move || {
                    let norm = Some(QkNorm { q: &q, k: &k, eps: 1e-6 });
                    match kind {
                        AttentionKind::Temporal => attention::temporal(&qkv, &dims, norm, Some(&rope), &out),
                        _ => attention::spatial(&qkv, &dims, norm, None, &out),
                    }
                })
            }
            Case::Residual(ResidualShape { kind, batch, frames, tokens, channels, strides }) => {
                let shape = [batch, frames, tokens, channels];
                let (a, b) = (values(&shape)?, values(&shape)?);
                let buffers = ProbeBuffers::new(device, batch, strides)?;
                let strides: Vec<usize> = (1..=strides).collect();
                let outputs = match kind {
                    ResidualKind::Probe => vec![b.clone(), buffers.sums().clone()],
                    ResidualKind::Fold => vec![b.clone()],
                    ResidualKind::Unfold => vec![a.clone()],
                };
                Prepared::new(&outputs.iter().collect::<Vec<_>>(), move || match kind {
                    ResidualKind::Probe => residual::probe(&a, &b, false, &strides, &buffers).map(drop),
                    ResidualKind::Fold => residual::fold(&a, &b, &b),
                    ResidualKind::Unfold => residual::unfold(&a, &b, &a),
                })
            }
            Case::Norm(NormShape { kind, rows, channels }) => {
                let (x, stats) = (values(&[rows, channels])?, floats(&[rows, 2])?);
                let (table, out) = (floats(&[1, 1, 2, channels])?, empty(&[rows, channels])?);
                let rows = RowMap { frames: 1, rows_per_frame: rows };
                let written = if kind == NormKind::RowStats { stats.clone() } else { out.clone() };
                Prepared::new(&[&written], move || match kind {
                    NormKind::RowStats => norm::row_stats(&x, 1e-6, &stats),
                    NormKind::Modulate => {
                        let modulation = Modulation { table: &table, frame_mask: None, rows };
                        norm::modulate(&x, &modulation, 0, 1, 0, false, 1e-6, &out)
                    }
                })
            }
            Case::Sampler(SamplerShape { videos, channels, frames, height, width }) => {
                let z = floats(&[videos, channels, frames, height, width])?;
                let prediction = floats(&[2 * videos, 2 * channels, frames, height, width])?;
                // Short, so that many of them stay finite.
                let step =
                    sampler::Step { cfg_scale: Some(7.0), dt: sampler::Delta::Value(1e-3), frame_mask: None, x0: None };
                Prepared::new(&[&z.clone()], move || sampler::step(&z, &prediction, &step))
            }
        })
    }
}

/// Values that look like noise: what a chip draws depends on the bits it moves. A small block of them is repeated on the device.
fn noise(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    const BLOCK: usize = 1 << 16;
    let tensor = Tensor::empty(device, shape, dtype)?;
    let flat = tensor.reshape(&[tensor.elements()])?;
    let mut filled = flat.elements().min(BLOCK);
    let mut state = 1u64;
    let mut uniform = || {
        // Knuth's linear congruential generator; the upper bits are good enough here.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let block: Vec<f32> = (0..filled).map(|_| uniform()).collect();
    flat.slice_rows(0, filled)?.write_f32(&block)?;
    while filled < flat.elements() {
        let count = filled.min(flat.elements() - filled);
        flat.slice_rows(filled, count)?.copy_from(&flat.slice_rows(0, count)?)?;
        filled += count;
    }
    Ok(tensor)
}
