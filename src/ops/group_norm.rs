//! GroupNorm over channels-last tensors, with SiLU: `kernels/group_norm.cu`.

use super::conv::Band;
use super::params::{self, GroupAffineParams, GroupApplyParams, GroupSumsParams};
use super::{Op, Result, chunk_elements};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// The number of blocks that share the positions of a sample: `partial` of [`statistics`] holds one sum per channel for each.
pub fn blocks(positions: usize) -> usize {
    positions.div_ceil(params::GROUP_POSITIONS).clamp(1, params::GROUP_MAX_BLOCKS)
}

/// A GroupNorm.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// `[channels]` D
    pub weight: &'a Tensor,
    /// `[channels]` D
    pub bias: &'a Tensor,
    /// Groups of channels: a divisor of them.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// The norm of every sample as a scale and a shift for each channel, for [`apply`].
///
/// * `x` `[samples, positions, channels]` D, channels a multiple of `groups` and of 8, at most 1024; the leading axes may be any that
///   multiply to samples · positions.
/// * `partial` f32, room for `samples · blocks(positions) · channels · 2` sums; `affine` `[samples, channels, 2]` f32.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn statistics(x: &Tensor, norm: &GroupNorm<'_>, partial: &Tensor, affine: &Tensor) -> Result<()> {
    let &GroupNorm { weight, bias, groups, eps } = norm;
    let op = Op::new("group_norm", affine);
    let dtype = op.compute_dtype("x", x)?;
    let [samples, channels, _] = op.axes("affine", affine, ["samples", "channels", "scale, shift"])?;
    op.check("affine", affine, DType::F32, &[("samples", samples), ("channels", channels), ("scale, shift", 2)])?;
    check_channels(&op, channels)?;
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(op.value("groups", groups, format!("a divisor of {channels} channels")));
    }
    let positions = if samples == 0 { 0 } else { x.elements() / (samples * channels) };
    op.check_rows("x", x, dtype, [("samples*positions", samples * positions), ("channels", channels)])?;
    for (argument, tensor) in [("weight", weight), ("bias", bias)] {
        op.check(argument, tensor, dtype, &[("channels", channels)])?;
    }
    let blocks = blocks(positions);
    op.check("partial", partial, DType::F32, &[])?;
    if partial.elements() < samples * blocks * channels * 2 {
        return Err(op.shape_error(
            "partial",
            partial,
            &[("samples*blocks*channels*2", samples * blocks * channels * 2)],
        ));
    }
    op.finite("eps", eps)?;
    op.not_aliased(affine, &[("x", Some(x)), ("partial", Some(partial))])?;
    op.not_aliased(partial, &[("x", Some(x))])?;
    let (channels, groups) = (op.int("channels", channels)?, op.int("groups", groups)?);
    let sums = GroupSumsParams { x: x.ptr(), partial: partial.ptr(), positions: positions as i64, channels, groups };
    let counted = Op::new("group_norm", affine).counted(0, &[Some(x)], &[Some(partial)]);
    let entry = format!("group_sums_{dtype}");
    counted.launch(Module::GroupNorm, &entry, [blocks, samples], params::GROUP_THREADS, &sums)?;
    let params = GroupAffineParams {
        x: x.ptr(),
        partial: partial.ptr(),
        weight: weight.ptr(),
        bias: bias.ptr(),
        affine: affine.ptr(),
        positions: positions as i64,
        samples: op.int("samples", samples)?,
        blocks: op.int("blocks", blocks)?,
        channels,
        groups,
        eps,
        reserved: 0,
    };
    let grid = [(samples * groups as usize).div_ceil(params::ROW_WARPS), 1];
    let op = op.counted(0, &[Some(partial)], &[Some(affine)]);
    op.launch(Module::GroupNorm, &format!("group_affine_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// `out = x·scale + shift` per channel, with or without SiLU, for the rows `band` of every frame.
///
/// * `x` `[frames, height, width, channels]` D, `out` `[frames, band.rows, width, channels]` D, `affine` `[samples, channels, 2]` f32 from
///   [`statistics`], where a sample is `frames/samples` frames.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn apply(x: &Tensor, affine: &Tensor, silu: bool, band: Band, out: &Tensor) -> Result<()> {
    let op = Op::new("group_norm::apply", out);
    let dtype = op.compute_dtype("x", x)?;
    let [frames, height, width, channels] = op.axes("x", x, ["frames", "height", "width", "channels"])?;
    op.check("x", x, dtype, &[])?;
    check_channels(&op, channels)?;
    let [samples, ..] = op.axes("affine", affine, ["samples", "channels", "scale, shift"])?;
    op.check("affine", affine, DType::F32, &[("samples", samples), ("channels", channels), ("scale, shift", 2)])?;
    if samples == 0 || !frames.is_multiple_of(samples) {
        return Err(op.value("affine", format!("{samples} samples"), format!("a divisor of {frames} frames")));
    }
    if band.first + band.rows > height {
        return Err(op.value("band", format!("{band:?}"), format!("within {height} rows")));
    }
    let axes = [("frames", frames), ("rows", band.rows), ("width", width), ("channels", channels)];
    op.check("out", out, dtype, &axes)?;
    op.not_aliased(out, &[("x", Some(x)), ("affine", Some(affine))])?;
    let params = GroupApplyParams {
        x: x.ptr(),
        affine: affine.ptr(),
        out: out.ptr(),
        frames: op.int("frames", frames)?,
        frames_per_sample: op.int("frames", frames / samples)?,
        height: op.int("height", height)?,
        width: op.int("width", width)?,
        channels: op.int("channels", channels)?,
        first: op.int("band", band.first)?,
        rows: op.int("band", band.rows)?,
        silu: silu.into(),
    };
    let grid = [(out.elements() / chunk_elements(dtype)).div_ceil(params::ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(out), Some(affine)], &[Some(out)]);
    op.launch(Module::GroupNorm, &format!("group_apply_{dtype}"), grid, params::ELEMENTWISE_THREADS, &params)
}

fn check_channels(op: &Op<'_>, channels: usize) -> Result<()> {
    if channels.is_multiple_of(super::conv::CHANNELS) && (1..=params::GROUP_MAX_CHANNELS).contains(&channels) {
        return Ok(());
    }
    Err(op.value("channels", channels, format!("a multiple of 8, at most {}", params::GROUP_MAX_CHANNELS)))
}
