//! LayerNorm without weights, adaLN's modulation, and RMSNorm with RoPE of queries and keys: `kernels/norm.cu`.

use super::params::{self, ModulateParams, RmsRopeParams, RowStatsParams};
use super::{Modulation, Op, Result, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// LayerNorm's statistics, for [`super::linear::Modulate`]: `stats[row] = (mean, 1/√(var + eps))`.
///
/// * `x` `[rows, channels]` D (leading axes are flattened), `stats` `[rows, 2]` f32. The variance is the biased one.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn row_stats(x: &Tensor, eps: f32, stats: &Tensor) -> Result<()> {
    let op = Op::new("row_stats", stats);
    let dtype = op.compute_dtype("x", x)?;
    op.check("x", x, dtype, &[])?;
    let (rows, channels) = rows_of(&op, x)?;
    op.check("stats", stats, DType::F32, &[("rows", rows), ("mean, rstd", 2)])?;
    op.not_aliased(stats, &[("x", Some(x))])?;
    op.finite("eps", eps)?;
    let params = RowStatsParams {
        x: x.ptr(),
        stats: stats.ptr(),
        rows: op.int("rows", rows)?.into(),
        channels: op.int("channels", channels)?,
        eps,
    };
    let grid = [rows.div_ceil(params::ROW_WARPS), 1];
    let op = op.counted(0, &[Some(x)], &[Some(stats)]);
    op.launch(Module::Norm, &format!("row_stats_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// RoPE over three axes: each pair of adjacent channels of a head turns with the frame, the row or the column of its token.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// `[positions, head_dim/2, 2]` f32: cos and sin of every pair at every position of its axis.
    pub table: &'a Tensor,
    /// Tokens of a sample along (frames, height, width).
    pub tokens: [usize; 3],
    /// The number of leading pairs that turn with the frame, and of those after them that turn with the row. The others turn with the column.
    pub pairs: [usize; 2],
}

/// RMSNorm over all heads together, then RoPE, of the first `weights.len()` parts of packed projections, in place:
/// `x = rope(x / √(mean(x²) + eps) · weight)`.
///
/// * `x` `[rows, parts, heads, head_dim]` D, for example q, k and v of every row; rows are (sample, frame, height, width), width fastest.
/// * `weights`: one or two tensors `[heads·head_dim]` D, for part 0 and 1.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn rms_rope(x: &Tensor, weights: &[&Tensor], eps: f32, rope: Option<Rope<'_>>) -> Result<()> {
    let op = Op::new("rms_rope", x);
    let dtype = op.compute_dtype("x", x)?;
    let [rows, parts, heads, head_dim] = op.axes("x", x, ["rows", "parts", "heads", "head_dim"])?;
    op.check("x", x, dtype, &[])?;
    let channels = heads * head_dim;
    if !(1..=parts.min(2)).contains(&weights.len()) {
        return Err(op.value("weights", weights.len(), format_args!("1 to {}", parts.min(2))));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(op.value("head_dim", head_dim, "an even number"));
    }
    for weight in weights {
        op.check("weights", weight, dtype, &[("heads*head_dim", channels)])?;
        op.not_aliased(x, &[("weights", Some(weight))])?;
    }
    op.finite("eps", eps)?;
    let [frames, height, width] = rope.map_or([1; 3], |rope| rope.tokens);
    let pairs = rope.map_or([0; 2], |rope| rope.pairs);
    if let Some(Rope { table, tokens, pairs }) = rope {
        let [positions, ..] = op.axes("rope", table, ["positions", "head_dim/2", "2"])?;
        let needed = tokens.into_iter().max().unwrap_or(0).max(positions);
        let axes = [("positions", needed), ("head_dim/2", head_dim / 2), ("cos, sin", 2)];
        op.check("rope", table, DType::F32, &axes)?;
        op.not_aliased(x, &[("rope", Some(table))])?;
        let sample: usize = tokens.iter().product();
        if sample == 0 || !rows.is_multiple_of(sample) {
            return Err(op.value("rows", rows, format_args!("a multiple of {tokens:?} tokens, none of them 0")));
        }
        if pairs[0].checked_add(pairs[1]).is_none_or(|pairs| pairs > head_dim / 2) {
            return Err(op.value("pairs", format!("{pairs:?}"), format_args!("at most {} together", head_dim / 2)));
        }
    }
    let params = RmsRopeParams {
        x: x.ptr(),
        weight: [weights[0].ptr(), weights.get(1).map_or(0, |weight| weight.ptr())],
        rope: rope.map_or(0, |rope| rope.table.ptr()),
        rows: op.int("rows", rows)?.into(),
        row_stride: op.int("channels", parts * channels)?,
        channels: op.int("channels", channels)?,
        parts: op.int("weights", weights.len())?,
        head_dim: op.int("head_dim", head_dim)?,
        frames: op.int("tokens", frames)?,
        height: op.int("tokens", height)?,
        width: op.int("tokens", width)?,
        frame_pairs: op.int("pairs", pairs[0])?,
        height_pairs: op.int("pairs", pairs[1])?,
        eps,
    };
    let grid = [(rows * weights.len()).div_ceil(params::ROW_WARPS), 1];
    // Of x only the normed parts.
    let moved = (rows * weights.len() * channels * dtype.size()) as u64;
    let mut op = op.counted(0, &[rope.map(|rope| rope.table)], &[]);
    op.work.bytes_read += moved + weights.iter().map(|weight| weight.bytes() as u64).sum::<u64>();
    op.work.bytes_written += moved;
    op.launch(Module::Norm, &format!("rms_rope_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// LayerNorm and adaLN with one variant of the modulation for every row.
#[derive(Debug, Clone, Copy)]
pub struct Modulate<'a> {
    /// The tables.
    pub modulation: Modulation<'a>,
    /// The chunk that holds the shift.
    pub shift: usize,
    /// The chunk that holds the scale.
    pub scale: usize,
    /// The variant that is applied.
    pub variant: usize,
    /// Only rows of frames whose mask is 0 are written, the others stay unchanged (all rows, without a mask).
    pub only_masked_out: bool,
    /// Added to the variance.
    pub eps: f32,
}

/// `out = LN(x)·(1 + scale) + shift`.
///
/// * `x`, `out` `[rows, channels]` D; they may be the same tensor.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn modulate(x: &Tensor, modulate: &Modulate<'_>, out: &Tensor) -> Result<()> {
    let &Modulate { ref modulation, shift, scale, variant, only_masked_out, eps } = modulate;
    let op = Op::new("modulate", out);
    let dtype = op.compute_dtype("x", x)?;
    op.check("x", x, dtype, &[])?;
    let (rows, channels) = rows_of(&op, x)?;
    op.check_rows("out", out, dtype, [("rows", rows), ("channels", channels)])?;
    if x.ptr() != out.ptr() {
        op.not_aliased(out, &[("x", Some(x))])?;
    }
    op.finite("eps", eps)?;
    let [_, variants, chunks] = op.modulation(modulation, rows, channels)?;
    let params = ModulateParams {
        x: x.ptr(),
        out: out.ptr(),
        modulation: modulation.table.ptr(),
        frame_mask: ptr(modulation.frame_mask),
        rows: op.int("rows", rows)?.into(),
        channels: op.int("channels", channels)?,
        frames: op.int("frames", modulation.rows.frames)?,
        rows_per_frame: op.int("rows_per_frame", modulation.rows.rows_per_frame)?,
        variants: op.int("variants", variants)?,
        chunks: op.int("chunks", chunks)?,
        variant: op.chunk("variant", variant, variants)?,
        shift_chunk: op.chunk("shift", shift, chunks)?,
        scale_chunk: op.chunk("scale", scale, chunks)?,
        only_masked_out: only_masked_out.into(),
        eps,
    };
    let grid = [rows.div_ceil(params::ROW_WARPS), 1];
    let op = op.counted(0, &[Some(x), Some(modulation.table)], &[Some(out)]);
    op.launch(Module::Norm, &format!("modulate_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// A tensor as rows of its last axis.
fn rows_of(op: &Op<'_>, x: &Tensor) -> Result<(usize, usize)> {
    match x.shape() {
        [rows @ .., channels] if *channels > 0 => Ok((rows.iter().product(), *channels)),
        _ => Err(op.shape_error("x", x, &[("rows", 1), ("channels", 1)])),
    }
}
