//! One operation on one shape: what is prepared, timed and compared; and the list of them in a file.

use crate::shapes::*;

/// Why shapes cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the shapes {path}: {reason}")]
pub struct ShapesError {
    path: String,
    reason: String,
}

/// An operation on a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// An RMSNorm.
    RmsNorm(RmsNormShape),
    /// A shortcut around a change of resolution.
    Resample(ResampleShape),
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
            Case::RmsNorm(_) => Op::RmsNorm,
            Case::Resample(_) => Op::Resample,
            Case::Pack(_) => Op::Pack,
        }
    }

    /// A short description of variant and sizes.
    pub fn name(&self) -> String {
        let sizes: Vec<String> = self.sizes().iter().map(|(name, size)| format!("{name}={size}")).collect();
        let variant = match self {
            Case::Linear(s) => {
                let (adaln, fp8) = (if s.modulate { "+adaln" } else { "" }, if s.fp8 { "+fp8" } else { "" });
                format!("{:?}{adaln}{fp8}", s.epilogue).to_lowercase()
            }
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
            Case::RmsNorm(_) => "positions".into(),
            Case::Resample(s) => format!("{:?}", s.kind).to_lowercase(),
            Case::Pack(s) => format!("{:?}", s.kind).to_lowercase(),
        };
        format!("{variant} {}", sizes.join(" "))
    }

    pub(super) fn sizes(&self) -> Vec<(&'static str, usize)> {
        // Long, but a table: the sizes of every operation.
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
            Case::RmsNorm(RmsNormShape { rows, channels }) => vec![("rows", rows), ("channels", channels)],
            Case::Resample(ResampleShape { frames, height, width, channels, out_channels, time, .. }) => vec![
                ("frames", frames),
                ("height", height),
                ("width", width),
                ("channels", channels),
                ("out_channels", out_channels),
                ("time", time),
            ],
            Case::Pack(PackShape { rows, channels, .. }) => vec![("rows", rows), ("channels", channels)],
        }
    }
}

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
        cases.extend(self.rms_norm.iter().copied().map(Case::RmsNorm));
        cases.extend(self.resample.iter().copied().map(Case::Resample));
        cases.extend(self.pack.iter().copied().map(Case::Pack));
        cases
    }
}
