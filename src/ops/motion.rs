//! Frame differences alone: `kernels/motion.cu`.

use super::params::{self, MOTION_SUMS, MotionParams};
use super::residual::{ProbeBuffers, probe_blocks, stride_list};
use super::{Op, Result, chunk_elements};
use crate::device::Module;
use crate::tensor::Tensor;

/// For each stride k and sample: `Σ|x[t+k]−x[t]|, Σ|x[t+k]|, Σ|x[t]|`, from which AdaCache's motion score is computed as `Σ|x[t+k]−x[t]| /
/// (Σ|x[t+k]| + Σ|x[t]|)`.
///
/// * `x` `[batch, …, frames, …]` D, with the frames on axis `frame_axis`: 1 for residuals `[batch, frames, tokens, channels]`,
///   2 for latents `[batch, channels, frames, height, width]`.
/// * `buffers` from [`ProbeBuffers::for_motion`]; returns its sums `[batch, 3·strides]` f64. Equal inputs give bit-identical sums.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types, devices, strides or buffers do not match.
pub fn motion<'b>(x: &Tensor, frame_axis: usize, strides: &[usize], buffers: &'b ProbeBuffers) -> Result<&'b Tensor> {
    let op = Op::new("motion", buffers.sums());
    let dtype = op.compute_dtype("x", x)?;
    op.check("x", x, dtype, &[])?;
    if frame_axis == 0 || frame_axis >= x.shape().len() {
        return Err(op.value("frame_axis", frame_axis, format_args!("1 to {}", x.shape().len().saturating_sub(1))));
    }
    let product = |axes: &[usize]| axes.iter().product::<usize>();
    let (batch, frames) = (x.shape()[0], x.shape()[frame_axis]);
    let (outer, inner) = (product(&x.shape()[1..frame_axis]), product(&x.shape()[frame_axis + 1..]));
    let count = MOTION_SUMS * strides.len();
    buffers.check(&op, batch, count)?;
    let blocks = probe_blocks(outer * inner.div_ceil(chunk_elements(dtype)));
    let params = MotionParams {
        x: x.ptr(),
        partial: buffers.partial().ptr(),
        inner: inner as i64,
        batch: op.int("batch", batch)?,
        outer: op.int("outer", outer)?,
        frames: op.int("frames", frames)?,
        num_strides: strides.len() as i32,
        strides: stride_list(&op, strides)?,
    };
    if x.elements() == 0 {
        buffers.sums().fill_bytes(0)?;
        return Ok(buffers.sums());
    }
    let op = op.counted(0, &[Some(x)], &[]);
    op.launch(Module::Motion, &format!("motion_{dtype}"), [blocks, batch], params::PROBE_THREADS, &params)?;
    buffers.reduce(&op, batch, blocks, count)?;
    Ok(buffers.sums())
}
