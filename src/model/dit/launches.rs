//! The launches of a step, for benchmarks.

use super::buffers::Sizes;
use crate::model::Geometry;
use crate::ops::params::{ATTENTION_SHORT_ROWS, ATTENTION_SHORT_WARPS};
use crate::shapes::{
    AttentionKind, AttentionShape, Epilogue, LinearShape, NormKind, NormShape, PackKind, PackShape, ResidualKind,
    ResidualShape, SamplerShape, Shapes,
};

/// Latent frames of the longest published video: temporal attention is also measured at this length if the model's own frames are few.
const LONG_FRAMES: usize = 120;

/// Every relevant launch of a step at `geometry` of a model with spatial and temporal blocks, `heads` heads and `text` caption tokens. If
/// there are so few frames that a special kernel handles them, attention along many frames is included too, over the same number of rows.
pub(in crate::model) fn launches(sizes: &Sizes, heads: usize, geometry: &Geometry, text: usize) -> Shapes {
    let [frames, height, width] = sizes.tokens;
    let (tokens, batch, channels, hidden) = (height * width, geometry.batch(), sizes.width, sizes.hidden);
    let rows = batch * frames * tokens;
    let linear = |n, k, epilogue, modulate| LinearShape { m: rows, n, k, epilogue, modulate, fp8: false };
    let attention = |kind| AttentionShape { kind, batch, frames, tokens, heads, head_dim: channels / heads, text };
    let own = [AttentionKind::Spatial, AttentionKind::Temporal, AttentionKind::Cross].map(attention);
    let long = AttentionShape { frames: LONG_FRAMES, tokens: (frames * tokens).div_ceil(LONG_FRAMES), ..own[1] };
    let long = (frames <= ATTENTION_SHORT_ROWS * ATTENTION_SHORT_WARPS).then_some(long);
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
        sampler: vec![SamplerShape { videos, channels: sizes.channels[0], frames: latent_frames, height, width }],
        pack: [PackKind::Pack, PackKind::Unpack, PackKind::Add].map(|kind| PackShape { kind, rows, channels }).into(),
        ..Default::default()
    }
}
