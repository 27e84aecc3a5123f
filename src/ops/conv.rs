//! Convolution in time and space, channels last: `kernels/conv.cu`.

use super::params::{self, ConvParams};
use super::{Choice, Op, Result, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// Channel counts are multiples of this: whole 16-byte chunks in every element type.
pub const CHANNELS: usize = 8;

/// How the kernel's taps map to the input. Padding is zeros; at the end of an axis, it is as much as the output needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Input frames from one output frame to the next.
    pub stride_t: usize,
    /// The same in rows and columns.
    pub stride: usize,
    /// Frames of zeros before the first.
    pub pad_t: usize,
    /// Rows above, and columns left of, the input.
    pub pad: usize,
    /// Whether the rows and columns of the input are doubled first (nearest).
    pub upsample: bool,
    /// The output's channels form this many groups, each a separate frame: group j of frame t becomes frame `t·time_factor + j`.
    pub time_factor: usize,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { stride_t: 1, stride: 1, pad_t: 0, pad: 0, upsample: false, time_factor: 1 }
    }
}

impl Geometry {
    /// The padding of the autoencoders, for a kernel of `taps` in time and space: it keeps the size of an unstrided convolution, with all
    /// padding in time at the front. A strided convolution is padded only at the end in space.
    pub fn padded(self, [kernel_t, kernel]: [usize; 2]) -> Self {
        let pad = if self.stride > 1 { 0 } else { kernel / 2 };
        Self { pad, pad_t: kernel_t.saturating_sub(self.stride_t), ..self }
    }

    /// The output's `[frames, height, width, channels]` for an input `[frames, height, width]`, weights `[n, kernel_t, kernel_h, kernel_w]`
    /// and `behind` rows and columns of zeros below and on the right.
    pub fn output(
        &self,
        [frames, height, width]: [usize; 3],
        [n, kernel_t, kernel_h, kernel_w]: [usize; 4],
        behind: usize,
    ) -> [usize; 4] {
        let steps = |length: usize, taps: usize, stride: usize| length.saturating_sub(taps) / stride.max(1) + 1;
        let side =
            |length: usize, taps| steps((length << u32::from(self.upsample)) + self.pad + behind, taps, self.stride);
        let made = steps(frames + self.pad_t, kernel_t, self.stride_t);
        let factor = self.time_factor.max(1);
        [made * factor, side(height, kernel_h), side(width, kernel_w), n / factor]
    }
}

/// A range of rows of every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// The first row.
    pub first: usize,
    /// The number of rows.
    pub rows: usize,
}

/// The input: whole frames, or a band of rows of each.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `[frames, rows, width, channels]` D.
    pub x: &'a Tensor,
    /// The frames before those of `x`, of the same rows. Zeros are before them.
    pub before: Option<&'a Tensor>,
    /// Rows of a whole frame; beyond them is padding.
    pub height: usize,
    /// The index of the first row of `x` in a whole frame.
    pub first: usize,
}

impl<'a> Input<'a> {
    /// Whole frames.
    pub fn whole(x: &'a Tensor) -> Self {
        Self { x, before: None, height: x.shape().get(1).copied().unwrap_or(0), first: 0 }
    }

    /// The same, with the frames before them.
    pub fn after(self, before: Option<&'a Tensor>) -> Self {
        Self { before, ..self }
    }
}

/// The arguments of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// The input: every row that the band needs must be in it.
    pub input: Input<'a>,
    /// `[n, kernel_t, kernel_h, kernel_w, channels]` D.
    pub w: &'a Tensor,
    /// `[n]` D.
    pub bias: Option<&'a Tensor>,
    /// The factor of the sums, before bias and residual.
    pub alpha: f32,
    /// How taps map to the input.
    pub geometry: Geometry,
    /// Added to the result; shape and type of the output, and may be the output itself.
    pub residual: Option<&'a Tensor>,
    /// The rows of every frame of the output that are computed.
    pub band: Band,
}

/// `out = alpha · conv(x, w) + bias (+ residual)` for the rows `band` of every frame of `out`.
///
/// * `out` `[frames·time_factor, height, width, n/time_factor]` D or, without a residual, f32.
/// * `channels` and `n/time_factor` are multiples of [`CHANNELS`]; sums are f32 (f32 inputs: 3×TF32).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input.
pub fn conv(call: &Conv<'_>, out: &Tensor) -> Result<()> {
    // Long, but a list: every argument is checked under its name, then becomes a field of the parameters.
    let op = Op::new("conv", out);
    let &Conv { input: Input { x, before, height, first }, w, bias, alpha, geometry, residual, band } = call;
    let dtype = op.compute_dtype("x", x)?;
    let [frames, in_rows, width, channels] = op.axes("x", x, ["frames", "rows", "width", "channels"])?;
    op.check("x", x, dtype, &[])?;
    let frames_before = before.and_then(|before| before.shape().first()).copied().unwrap_or(0);
    if let Some(before) = before {
        let axes = [("frames", frames_before), ("rows", in_rows), ("width", width), ("channels", channels)];
        op.check("before", before, dtype, &axes)?;
    }
    let [n, kernel_t, kernel_h, kernel_w, _] =
        op.axes("w", w, ["n", "kernel_t", "kernel_h", "kernel_w", "channels"])?;
    let taps = kernel_t * kernel_h * kernel_w;
    let w_axes =
        [("n", n), ("kernel_t", kernel_t), ("kernel_h", kernel_h), ("kernel_w", kernel_w), ("channels", channels)];
    op.check("w", w, dtype, &w_axes)?;
    if let Some(bias) = bias {
        op.check("bias", bias, dtype, &[("n", n)])?;
    }
    let Geometry { stride_t, stride, pad_t, pad, upsample, time_factor } = geometry;
    for (argument, value) in [("stride_t", stride_t), ("stride", stride), ("time_factor", time_factor), ("taps", taps)]
    {
        if value == 0 {
            return Err(op.value(argument, 0, "at least 1"));
        }
    }
    if channels == 0 || !channels.is_multiple_of(CHANNELS) || n == 0 || !n.is_multiple_of(CHANNELS * time_factor) {
        let expected = format!("channels and n/time_factor multiples of {CHANNELS}");
        return Err(op.value("channels", format!("{channels} to {n}/{time_factor}"), expected));
    }
    let [out_frames, out_height, out_width, _] = op.axes("out", out, ["frames", "height", "width", "channels"])?;
    let out_type = if out.dtype() == DType::F32 && residual.is_none() { DType::F32 } else { dtype };
    let frames_made = out_frames / time_factor;
    let out_axes = [
        ("frames", frames_made * time_factor),
        ("height", out_height),
        ("width", out_width),
        ("channels", n / time_factor),
    ];
    op.check("out", out, out_type, &out_axes)?;
    if band.first + band.rows > out_height {
        return Err(op.value("band", format!("{band:?}"), format!("within {out_height} rows")));
    }
    if let Some(residual) = residual {
        op.check("residual", residual, dtype, &out_axes)?;
        if residual.ptr() != out.ptr() {
            op.not_aliased(out, &[("residual", Some(residual))])?;
        }
    }
    op.not_aliased(out, &[("x", Some(x)), ("before", before), ("w", Some(w)), ("bias", bias)])?;
    let needed = needed_rows(&geometry, kernel_h, height, band);
    if needed.rows > 0 && (needed.first < first || needed.first + needed.rows > first + in_rows) {
        let expected = format!("rows {}..{} for this band", needed.first, needed.first + needed.rows);
        return Err(op.value("x", format!("rows {first}..{}", first + in_rows), expected));
    }
    let aligned = [Some(x), before, Some(w), bias, residual, Some(out)];
    if aligned.iter().flatten().any(|t| !t.ptr().is_multiple_of(params::CHUNK_BYTES as u64)) {
        return Err(op.value("alignment", "a tensor off a 16-byte boundary", "all on 16-byte boundaries"));
    }
    let m = frames_made * band.rows * out_width;
    op.int("positions", frames.max(frames_before) * in_rows * width)?;
    op.int("taps*channels", taps * channels)?;
    let params = ConvParams {
        x: x.ptr(),
        before: ptr(before),
        w: w.ptr(),
        bias: ptr(bias),
        residual: ptr(residual),
        out: out.ptr(),
        frames: op.int("frames", frames)?,
        height: op.int("height", height)?,
        width: op.int("width", width)?,
        channels: op.int("channels", channels)?,
        in_first: op.int("first", first)?,
        in_rows: op.int("rows", in_rows)?,
        out_frames: op.int("frames", frames_made)?,
        out_height: op.int("height", out_height)?,
        out_width: op.int("width", out_width)?,
        n: op.int("n", n)?,
        out_first: op.int("band", band.first)?,
        out_rows: op.int("band", band.rows)?,
        kernel_t: op.int("kernel_t", kernel_t)?,
        kernel_h: op.int("kernel_h", kernel_h)?,
        kernel_w: op.int("kernel_w", kernel_w)?,
        stride_t: op.int("stride_t", stride_t)?,
        stride: op.int("stride", stride)?,
        pad_t: op.int("pad_t", pad_t)?,
        pad: op.int("pad", pad)?,
        upsample: upsample.into(),
        time_factor: op.int("time_factor", time_factor)?,
        out_f32: (out.dtype() == DType::F32).into(),
        alpha,
        frames_before: op.int("frames", frames_before)?,
    };
    // The kernel doubles and adds a tile's end to these.
    op.int("positions of out", 2 * out_frames * out_height * out_width + 2 * params::CONV_M)?;
    op.int("m", m + params::CONV_M)?;
    let op = op.counted(2 * m * n * taps * channels, &[Some(x), before, Some(w), bias, residual], &[Some(out)]);
    let tile = tile(n);
    let choice = Choice {
        module: Module::Conv,
        entry: format!("conv_{dtype}_{}", tile.n),
        grid: [m.div_ceil(params::CONV_M) * n.div_ceil(tile.n), 1],
        threads: tile.threads,
        shared: tile.shared,
    };
    op.launch_choice(&choice, &params)
}

/// The rows of a `height`-row input that the rows `band` of the output depend on, for a kernel of `kernel_h` rows.
pub fn needed_rows(geometry: &Geometry, kernel_h: usize, height: usize, band: Band) -> Band {
    if band.rows == 0 || height == 0 {
        return Band { first: 0, rows: 0 };
    }
    let shift = u32::from(geometry.upsample);
    let last = (band.first + band.rows - 1) * geometry.stride + kernel_h.max(1) - 1;
    let first = ((band.first * geometry.stride).saturating_sub(geometry.pad) >> shift).min(height);
    let end = if last < geometry.pad { 0 } else { (((last - geometry.pad) >> shift) + 1).min(height) };
    Band { first, rows: end.saturating_sub(first) }
}

/// The tile for n output channels: of the two large ones the one that makes fewer columns in vain.
fn tile(n: usize) -> Tile {
    if n <= 2 * NARROW.n {
        NARROW
    } else if n.next_multiple_of(MIDDLE.n) < n.next_multiple_of(WIDE.n) {
        MIDDLE
    } else {
        WIDE
    }
}

/// A tile of `kernels/launch_tiles.h`.
#[derive(Clone, Copy)]
struct Tile {
    n: usize,
    threads: usize,
    shared: usize,
}

const WIDE: Tile = Tile { n: 128, threads: params::CONV_128_THREADS, shared: params::CONV_128_SHARED };
const MIDDLE: Tile = Tile { n: 96, threads: params::CONV_96_THREADS, shared: params::CONV_96_SHARED };
const NARROW: Tile = Tile { n: 16, threads: params::CONV_16_THREADS, shared: params::CONV_16_SHARED };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_that_fits() {
        let widths = [8, 32, 40, 96, 100, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024];
        let tiles = [16, 16, 96, 96, 128, 128, 96, 96, 128, 128, 128, 128, 128, 128, 128];
        assert_eq!(widths.map(|n| tile(n).n), tiles);
    }

    #[test]
    fn rows_a_band_needs() {
        let plain = Geometry { pad: 1, ..Geometry::default() };
        let rows = |geometry, first, rows| {
            let Band { first, rows } = needed_rows(&geometry, 3, 10, Band { first, rows });
            first..first + rows
        };
        assert_eq!(rows(plain, 0, 3), 0..4);
        assert_eq!(rows(plain, 4, 2), 3..7);
        assert_eq!(rows(plain, 7, 3), 6..10);
        let doubled = Geometry { upsample: true, ..plain };
        assert_eq!(rows(doubled, 5, 2), 2..4);
        assert_eq!(rows(doubled, 18, 2), 8..10);
        let halved = Geometry { stride: 2, pad: 0, ..plain };
        assert_eq!(rows(halved, 1, 2), 2..7);
        assert_eq!(rows(halved, 4, 1), 8..10);
    }
}
