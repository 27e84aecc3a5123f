//! The decoder of the sprites model, and pixels to bytes: `kernels/decode.cu`.

use super::params::{self, PatchDecodeParams, PixelsParams};
use super::{Op, Result};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// Latents to pixels by one small matrix: `byte = 255 · clamp((Σ_c z_c·scale_c·basis_c + mean + 1)/2, 0, 1)`, rounded.
///
/// * `z` `[batch, channels, frames, height, width]` f32, `basis` `[channels, patch·patch·3]` f32, `mean` `[patch·patch·3]` f32,
///   `scale` `[channels]` f32, a patch's elements ordered (row, column, rgb).
/// * `out` `[batch, frames, height·patch, width·patch, 3]` u8.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn patch_decode(z: &Tensor, basis: &Tensor, mean: &Tensor, scale: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("patch_decode", out);
    let [batch, channels, frames, height, width] =
        op.axes("z", z, ["batch", "channels", "frames", "height", "width"])?;
    op.check("z", z, DType::F32, &[])?;
    let [_, pixels] = op.axes("basis", basis, ["channels", "patch*patch*3"])?;
    op.check("basis", basis, DType::F32, &[("channels", channels), ("patch*patch*3", pixels)])?;
    let patch = (pixels / 3).isqrt();
    if patch == 0 || patch * patch * 3 != pixels {
        return Err(op.value("basis", format!("{pixels} columns"), "patch*patch*3 of them"));
    }
    op.check("mean", mean, DType::F32, &[("patch*patch*3", pixels)])?;
    op.check("scale", scale, DType::F32, &[("channels", channels)])?;
    let axes = [("batch", batch), ("frames", frames), ("height", height * patch), ("width", width * patch), ("rgb", 3)];
    op.check("out", out, DType::U8, &axes)?;
    let params = PatchDecodeParams {
        z: z.ptr(),
        basis: basis.ptr(),
        mean: mean.ptr(),
        scale: scale.ptr(),
        out: out.ptr(),
        batch: op.int("batch", batch)?,
        channels: op.int("channels", channels)?,
        frames: op.int("frames", frames)?,
        height: op.int("height", height)?,
        width: op.int("width", width)?,
        patch: op.int("patch", patch)?,
    };
    let grid = [(batch * frames * height * width).div_ceil(params::DECODE_WARPS), 1];
    let op = op.counted(2 * out.elements() * channels, &[Some(z), Some(basis), Some(mean), Some(scale)], &[Some(out)]);
    op.launch(Module::Decode, "patch_decode", grid, params::DECODE_THREADS, &params)
}

/// RGB in [−1, 1] to bytes: `byte = 255 · clamp((x + 1)/2, 0, 1)`, rounded.
///
/// * `x` `[frames, height, width, channels]` f32. A position holds `patch`·`patch` pixels: channel `(c·patch + column)·patch + row` is their
///   red, green or blue; channels beyond are not read.
/// * `out` `[frames, height·patch, width·patch, 3]` u8.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn pixels(x: &Tensor, patch: usize, out: &Tensor) -> Result<()> {
    let op = Op::new("pixels", out);
    let [frames, height, width, channels] = op.axes("x", x, ["frames", "height", "width", "channels"])?;
    op.check("x", x, DType::F32, &[])?;
    if !(1..=16).contains(&patch) {
        return Err(op.value("patch", patch, "1 to 16"));
    }
    if channels < 3 * patch * patch {
        return Err(op.value("channels", channels, format!("at least {}", 3 * patch * patch)));
    }
    let (rows, width) = (height * patch, width * patch);
    op.check("out", out, DType::U8, &[("frames", frames), ("height", rows), ("width", width), ("rgb", 3)])?;
    let count = frames * rows * width;
    let params = PixelsParams {
        x: x.ptr(),
        out: out.ptr(),
        count: count as i64,
        pitch: op.int("channels", channels)?,
        width: op.int("width", width)?,
        patch: op.int("patch", patch)?,
        reserved: 0,
    };
    let op = op.counted(0, &[Some(x)], &[Some(out)]);
    let grid = [count.div_ceil(params::ELEMENTWISE_THREADS), 1];
    op.launch(Module::Decode, "pixels", grid, params::ELEMENTWISE_THREADS, &params)
}
