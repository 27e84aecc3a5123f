//! RMSNorm over the channels of every position, with SiLU: `kernels/rms_norm.cu`.

use super::params::{self, RmsNormParams};
use super::{Op, Result, chunk_elements};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// `out = x / max(‖x‖, 1e-12) · scale · gamma` at each position, with or without SiLU behind it. `out` may be `x`.
///
/// * `x` `[positions, channels]` D, channels a multiple of 8; the leading axes may be any that multiply to positions. `gamma` `[channels]`
///   D. `out` as `x`.
/// * `scale`: √channels makes it an RMSNorm, counting the channels that are no padding.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn rms_norm(x: &Tensor, gamma: &Tensor, scale: f32, silu: bool, out: &Tensor) -> Result<()> {
    let op = Op::new("rms_norm", out);
    let dtype = op.compute_dtype("x", x)?;
    let [channels] = op.axes("gamma", gamma, ["channels"])?;
    op.check("gamma", gamma, dtype, &[])?;
    if channels == 0 || !channels.is_multiple_of(super::conv::CHANNELS) {
        return Err(op.value("channels", channels, format!("a multiple of {}", super::conv::CHANNELS)));
    }
    let rows = x.elements() / channels;
    for (argument, tensor) in [("x", x), ("out", out)] {
        op.check_rows(argument, tensor, dtype, [("positions", rows), ("channels", channels)])?;
    }
    if x.ptr() != out.ptr() {
        op.not_aliased(out, &[("x", Some(x))])?;
    }
    op.not_aliased(out, &[("gamma", Some(gamma))])?;
    op.finite("scale", scale)?;
    if [x, gamma, out].iter().any(|t| !t.ptr().is_multiple_of(params::CHUNK_BYTES as u64)) {
        return Err(op.value("alignment", "a tensor off a 16-byte boundary", "all on 16-byte boundaries"));
    }
    let lanes = lanes(channels, dtype);
    let params = RmsNormParams {
        x: x.ptr(),
        gamma: gamma.ptr(),
        out: out.ptr(),
        rows: op.int("positions", rows)?.into(),
        channels: op.int("channels", channels)?,
        lanes: op.int("lanes", lanes)?,
        scale,
        silu: silu.into(),
    };
    let grid = [(rows * lanes).div_ceil(params::ROW_THREADS), 1];
    let op = op.counted(0, &[Some(x), Some(gamma)], &[Some(out)]);
    op.launch(Module::RmsNorm, &format!("rms_norm_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// The threads of a row: as many as leave none without work in any turn, or else a warp.
fn lanes(channels: usize, dtype: DType) -> usize {
    let chunks = channels / chunk_elements(dtype);
    // Many turns of few lanes would read the rows of a warp far apart from each other.
    let fitting = 1 << chunks.trailing_zeros().min(5);
    if chunks / fitting > 8 { 32 } else { fitting }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lane_idles_at_the_published_widths() {
        for (channels, bf16, f32) in
            [(8, 1, 2), (96, 4, 8), (160, 4, 8), (192, 8, 16), (256, 32, 32), (384, 16, 32), (1024, 32, 32)]
        {
            assert_eq!((lanes(channels, DType::Bf16), lanes(channels, DType::F32)), (bf16, f32), "{channels}");
        }
        // 9 chunks a row: nine turns of one lane would be slower than one turn of a warp.
        assert_eq!(lanes(72, DType::Bf16), 32);
    }
}
