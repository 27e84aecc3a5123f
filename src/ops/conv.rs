//! Convolution in time and space, channels last: `kernels/conv.cu`.

use super::params::{self, ConvParams};
use super::{Choice, Op, Result, Target, ptr};
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
    /// and `behind` frames of zeros at the end, and rows and columns of zeros below and on the right.
    pub fn output(
        &self,
        [frames, height, width]: [usize; 3],
        [n, kernel_t, kernel_h, kernel_w]: [usize; 4],
        [behind_t, behind]: [usize; 2],
    ) -> [usize; 4] {
        let steps = |length: usize, taps: usize, stride: usize| length.saturating_sub(taps) / stride.max(1) + 1;
        let side =
            |length: usize, taps| steps((length << u32::from(self.upsample)) + self.pad + behind, taps, self.stride);
        let made = steps(frames + self.pad_t + behind_t, kernel_t, self.stride_t);
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
    /// Whether what is below 0 becomes 0, last of all.
    pub relu: bool,
    /// The rows of every frame of the output that are computed.
    pub band: Band,
}

/// `out = alpha · conv(x, w) + bias (+ residual)`, at least 0 with `relu`, for the rows `band` of every frame of `out`.
///
/// * `out` `[frames·time_factor, height, width, n/time_factor]` D or, without a residual, f32.
/// * `channels` and `n/time_factor` are multiples of [`CHANNELS`]; sums are f32 (f32 inputs: 3×TF32).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input.
pub fn conv(call: &Conv<'_>, out: &Tensor) -> Result<()> {
    // Long, but a list: every argument is checked under its name, then becomes a field of the parameters.
    let op = Op::new("conv", out);
    let &Conv { input: Input { x, before, height, first }, w, bias, alpha, geometry, residual, relu, band } = call;
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
        relu: relu.into(),
        reserved: 0,
    };
    // The kernel doubles and adds a tile's end to these.
    op.int("positions of out", 2 * out_frames * out_height * out_width + 2 * params::CONV_TALL_M)?;
    op.int("m", m + params::CONV_TALL_M)?;
    let op = op.counted(2 * m * n * taps * channels, &[Some(x), before, Some(w), bias, residual], &[Some(out)]);
    let row = shares_rows(&geometry, kernel_w, [width, out_width]).then_some(channels);
    op.launch_choice(&choose(Target::of(op.device), dtype, [m, n, taps * channels], row), &params)
}

/// Whether three taps lie side by side in a row and a row of the output, of `out_width` columns, has all their pixels: what was copied for one of
/// them serves all three.
pub(crate) fn shares_rows(geometry: &Geometry, kernel_w: usize, [width, out_width]: [usize; 2]) -> bool {
    let Geometry { stride, pad, upsample, .. } = *geometry;
    kernel_w == 3 && stride == 1 && pad == 1 && out_width == width << u32::from(upsample)
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

/// A tile of `kernels/launch_tiles.h`. No tile changes a bit of the result.
struct Tile {
    /// Whether the three taps of a row share the pixels that were copied, for convolutions where they can.
    row: bool,
    suffix: &'static str,
    m: usize,
    n: usize,
    threads: usize,
    /// Of `row`, beside the blocks of the input.
    shared: usize,
    /// For 16-bit types, and for f32.
    serves: [bool; 2],
    /// The speed of a full multiprocessor on such tiles, relative to the best: it falls with the bytes from L2 for each FLOP.
    rate: f64,
    /// The multiply-adds per clock that shared memory (for the narrow tile: the issue slots) can feed, and per byte from L2: from the machine
    /// code of the main loop (`ptx/manifest.json`), in 16-bit types.
    shared_fma: f64,
    byte_fma: f64,
    /// The epilogue's time, in elements of k, if nothing overlaps it: for tiles that each fill a multiprocessor.
    alone: usize,
}

/// Every tile; among equals the first is chosen.
const TILES: [Tile; 7] = [
    row_tile("row192", params::CONV_M, 192),
    row_tile("row96", params::CONV_TALL_M, 96),
    row_tile("row128", params::CONV_TALL_M, 128),
    Tile {
        row: false,
        suffix: "192",
        m: params::CONV_M,
        n: 192,
        threads: params::CONV_192_THREADS,
        shared: params::CONV_192_SHARED,
        serves: [true, false],
        rate: 1.0,
        shared_fma: 1293.0,
        byte_fma: 38.4,
        alone: 44,
    },
    Tile {
        row: false,
        suffix: "tall",
        m: params::CONV_TALL_M,
        n: 96,
        threads: params::CONV_TALL_THREADS,
        shared: params::CONV_TALL_SHARED,
        serves: [true, false],
        rate: 1.0,
        shared_fma: 1229.0,
        byte_fma: 32.0,
        alone: 44,
    },
    Tile {
        row: false,
        suffix: "128",
        m: params::CONV_M,
        n: 128,
        threads: params::CONV_128_THREADS,
        shared: params::CONV_128_SHARED,
        serves: [true, true],
        rate: 0.98,
        shared_fma: 1024.0,
        byte_fma: 32.0,
        alone: 0,
    },
    Tile {
        row: false,
        suffix: "96",
        m: params::CONV_M,
        n: 96,
        threads: params::CONV_96_THREADS,
        shared: params::CONV_96_SHARED,
        serves: [false, true],
        rate: 0.95,
        shared_fma: 1170.0,
        byte_fma: 27.4,
        alone: 0,
    },
];

/// Elements of a chunk of k, in 16-bit types: those of a row in a stage.
const K_TILE: usize = 32;

/// A tile that shares rows: tensor cores are its busiest pipe on every chip, so its rate needs no bound by shared memory. Of its pixels it asks L2
/// once for three taps.
const fn row_tile(suffix: &'static str, m: usize, n: usize) -> Tile {
    Tile {
        row: true,
        suffix,
        m,
        n,
        threads: params::CONV_ROW_THREADS,
        shared: params::CONV_STAGES * n * 2 * K_TILE,
        serves: [true, false],
        rate: 1.0,
        shared_fma: f64::INFINITY,
        byte_fma: (m * n * K_TILE) as f64 / row_bytes(m, n),
        alone: 44,
    }
}

/// Bytes from L2 for a tile of w and a third of a block of the input: a pass of the main loop that shares rows.
const fn row_bytes(m: usize, n: usize) -> f64 {
    (2 * K_TILE * (m + 2)) as f64 / 3.0 + (2 * K_TILE * n) as f64
}

/// For the few channels of latents and pixels.
const NARROW: Tile = Tile {
    row: false,
    suffix: "16",
    m: params::CONV_M,
    n: 16,
    threads: params::CONV_16_THREADS,
    shared: params::CONV_16_SHARED,
    serves: [true, true],
    rate: 1.0,
    shared_fma: 282.0,
    byte_fma: 6.4,
    alone: 0,
};

impl Tile {
    /// Bytes of shared memory of a block, for an input of `channels`.
    fn shared_for(&self, channels: Option<usize>) -> usize {
        // A block of the input is its pixels, two more, and zeros.
        let blocks = channels.map_or(0, |channels| (channels / K_TILE).max(params::CONV_STAGES));
        self.shared + if self.row { blocks * (self.m + 4) * 2 * K_TILE } else { 0 }
    }

    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// The time of the whole product, in products on one multiprocessor: whole tiles, on the multiprocessor with the most of them.
    fn time(&self, target: Target, dtype: DType, [m, n, k]: [usize; 3]) -> f64 {
        // f32 is multiplied three times at half the speed, and has twice the bytes.
        let fma = target.fma as f64 / if dtype == DType::F32 { 3.0 } else { 1.0 };
        let rate = self.rate.min(self.shared_fma / fma).min(self.byte_fma * target.l2_bytes as f64 / fma);
        let rounds = self.count(m, n).div_ceil(target.units.max(1)) as f64;
        rounds * (self.m * self.n * (k + self.alone)) as f64 / rate
    }
}

/// The kernel for a product of `m` positions, `n` channels and k (taps · channels): the tile with the least time. A few channels take the
/// narrow one. `row`: the channels of an input whose rows three taps can share.
pub fn choose(target: Target, dtype: DType, [m, n, k]: [usize; 3], row: Option<usize>) -> Choice {
    let time = |tile: &&Tile| tile.time(target, dtype, [m, n, k]);
    let of_type = usize::from(dtype.size() > 2);
    let row = row.filter(|channels| channels.is_multiple_of(K_TILE));
    let serves = |tile: &&Tile| tile.serves[of_type] && (row.is_some() || !tile.row);
    let fits = TILES.iter().filter(serves).filter(|tile| tile.shared_for(row) <= target.block_shared);
    let tile = match n <= 2 * NARROW.n {
        true => &NARROW,
        false => fits.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(&NARROW),
    };
    Choice {
        module: Module::Conv,
        entry: format!("conv_{dtype}_{}", tile.suffix),
        grid: [tile.count(m, n), 1],
        threads: tile.threads,
        shared: tile.shared_for(row),
    }
}

/// Positions and channels of a block's tile.
pub(crate) fn tile_of(entry: &str) -> Option<(usize, usize)> {
    named(entry).map(|tile| (tile.m, tile.n))
}

/// The bytes that a block asks L2 for in a pass of its main loop, on average, if its tile shares rows.
pub(crate) fn shared_row_bytes(entry: &str) -> Option<f64> {
    named(entry).filter(|tile| tile.row).map(|tile| row_bytes(tile.m, tile.n))
}

fn named(entry: &str) -> Option<&'static Tile> {
    let suffix = entry.strip_prefix("conv_")?.rsplit('_').next();
    TILES.iter().chain([&NARROW]).find(|tile| suffix == Some(tile.suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels of the autoencoders, for many positions: those of Wan 2.1 fill their tiles.
    #[test]
    fn the_tile_that_fits() {
        let widths = [8, 32, 40, 96, 100, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1152];
        let tiles = |capability| {
            let target = Target::new(108, capability);
            widths.map(|n| choose(target, DType::Bf16, [1 << 22, n, 27 * n], None).entry.replace("conv_bf16_", ""))
        };
        let a100 = "16 16 tall tall 128 128 192 192 128 192 192 128 128 192 128 192";
        assert_eq!(tiles((8, 0)).join(" "), a100);
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            for n in [96, 192, 384, 768, 1152] {
                let choice = choose(Target::new(108, capability), DType::Bf16, [1 << 22, n, 27 * n], None);
                assert!(n.is_multiple_of(tile_of(&choice.entry).unwrap().1), "{capability:?} {n}: {}", choice.entry);
            }
        }
    }

    /// The first scale of Wan 2.1 at 480p has few positions: tiles that leave the fewest multiprocessors idle.
    #[test]
    fn few_positions_take_smaller_tiles() {
        let entry = |m, n| choose(Target::new(108, (8, 0)), DType::Bf16, [m, n, 27 * n], None).entry;
        assert_eq!(entry(60 * 104, 384), "conv_bf16_192");
        assert_eq!(entry(128, 384), "conv_bf16_128");
        assert_eq!(entry(30 * 52, 384), "conv_bf16_128");
    }

    /// Three taps of a row share what was copied where the blocks of the input fit in shared memory: 3×3×3 and 3×3 of the autoencoders' channels.
    #[test]
    fn tiles_that_share_rows() {
        let entry = |capability, from: usize, n| {
            let choice = choose(Target::new(108, capability), DType::Bf16, [1 << 22, n, 27 * from], Some(from));
            assert!(choice.shared <= Target::new(108, capability).block_shared);
            choice.entry.replace("conv_bf16_", "")
        };
        for (from, n, a40, a100, h100) in [
            (96, 96, "row96", "row96", "row96"),
            (192, 96, "tall", "row96", "row96"),
            (192, 192, "row192", "row192", "row192"),
            (384, 384, "192", "row192", "row192"),
            (128, 128, "row128", "row128", "row128"),
            (256, 256, "128", "row128", "row128"),
            (512, 512, "128", "128", "row192"),
            (72, 96, "tall", "tall", "tall"),
            (96, 8, "16", "16", "16"),
        ] {
            let tiles = [(8, 6), (8, 0), (9, 0)].map(|capability| entry(capability, from, n));
            assert_eq!(tiles, [a40, a100, h100], "{from} to {n}");
        }
        // "a ring of max(channels / K_TILE, STAGES) blocks, each [TILE_M + 2][64 B], and 128 bytes of zeros" of kernels/conv.cu, behind w.
        let shared = |from| choose(Target::new(132, (9, 0)), DType::F16, [1 << 22, 96, 27 * from], Some(from)).shared;
        assert_eq!([64, 96, 192].map(shared), [4, 4, 6].map(|blocks| 4 * 96 * 64 + blocks * (258 * 64 + 128)));
        let plain = Geometry { pad: 1, ..Geometry::default() };
        assert!(shares_rows(&plain, 3, [7, 7]));
        assert!(shares_rows(&Geometry { upsample: true, ..plain }, 3, [7, 14]));
        for (geometry, kernel_w, width) in [
            (plain, 1, 7),
            (plain, 3, 8),
            (Geometry { stride: 2, ..plain }, 3, 7),
            (Geometry { pad: 0, ..plain }, 3, 7),
        ] {
            assert!(!shares_rows(&geometry, kernel_w, [7, width]), "{geometry:?}");
        }
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
