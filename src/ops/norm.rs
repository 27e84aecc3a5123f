//! LayerNorm without weights, and adaLN's modulation: `kernels/norm.cu`.

use super::params::{self, ModulateParams, RowStatsParams};
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
