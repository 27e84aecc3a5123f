//! Softmax of long rows: `kernels/softmax.cu`.

use super::params::{self, SoftmaxParams};
use super::{Op, Result};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// `out[r, c] = softmax(scale · x[r, ..count])[c]`, 0 for c ≥ count.
///
/// * `x` `[rows, pitch]` f32, `out` `[rows, pitch]` D; pitch a multiple of 8, `count` 1 to pitch.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps `x`.
pub fn softmax(x: &Tensor, count: usize, scale: f32, out: &Tensor) -> Result<()> {
    let op = Op::new("softmax", out);
    let dtype = op.compute_dtype("out", out)?;
    let [rows, pitch] = op.axes("x", x, ["rows", "pitch"])?;
    op.check("x", x, DType::F32, &[])?;
    op.check("out", out, dtype, &[("rows", rows), ("pitch", pitch)])?;
    op.not_aliased(out, &[("x", Some(x))])?;
    op.finite("scale", scale)?;
    if !pitch.is_multiple_of(8) || !(1..=pitch).contains(&count) {
        return Err(op.value("count", format!("{count} of {pitch}"), "1 to pitch, a multiple of 8"));
    }
    let params = SoftmaxParams {
        x: x.ptr(),
        out: out.ptr(),
        count: op.int("count", count)?,
        pitch: op.int("pitch", pitch)?,
        scale,
        reserved: 0,
    };
    let op = op.counted(0, &[Some(x)], &[Some(out)]);
    op.launch(Module::Softmax, &format!("softmax_{dtype}"), [rows, 1], params::SOFTMAX_THREADS, &params)
}
