//! Matrix products with what surrounds them fused in: `kernels/linear.cu`.

use super::params::{self, LinearParams};
use super::{Choice, Modulation, Op, Result, Target, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// What follows the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU in its tanh form: `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
    GeluTanh,
}

/// LayerNorm and adaLN ahead of the product: `a' = (a − mean)·rstd·(1 + scale) + shift`, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Modulate<'a> {
    /// `[rows, 2]` f32: mean and 1/√(var + eps) of each row, from [`super::norm::row_stats`].
    pub stats: &'a Tensor,
    /// The tables.
    pub modulation: Modulation<'a>,
    /// Which chunk is the shift.
    pub shift: usize,
    /// Which chunk is the scale.
    pub scale: usize,
}

/// adaLN's gate behind the product.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The tables.
    pub modulation: Modulation<'a>,
    /// Which chunk is the gate.
    pub chunk: usize,
}

/// `out = act(a' · wᵀ + bias)`, where a' is `a` or, with `modulate`, `LN(a)·(1 + scale) + shift`.
///
/// * `a` `[m, k]` D, `w` `[n, k]` D, `bias` `[n]` D, `out` `[m, n]` D. Any m, n, k. Sums are f32 (f32 inputs: 3×TF32).
/// * Leading axes of `a` and `out` are flattened to rows.
///
/// # Errors
/// [`OpError`](super::OpError) when shapes, types or devices do not fit, or `out` overlaps an input.
pub fn linear(
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    modulate: Option<&Modulate<'_>>,
    activation: Activation,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new("linear", out);
    let Sizes { dtype, m, n, k } = sizes(&op, a, w, bias, "out", out)?;
    op.not_aliased(out, &[("a", Some(a)), ("w", Some(w)), ("bias", bias), ("stats", modulate.map(|m| m.stats))])?;
    let mut params = base(&op, a, w, bias, out, m, n, k)?;
    if let Some(Modulate { stats, modulation, shift, scale }) = modulate {
        op.check("stats", stats, DType::F32, &[("rows", m), ("mean, rstd", 2)])?;
        params.row_stats = stats.ptr();
        let chunks = set_modulation(&op, &mut params, modulation, m, k)?;
        params.shift_chunk = op.chunk("shift", *shift, chunks)?;
        params.scale_chunk = op.chunk("scale", *scale, chunks)?;
    }
    let prologue = if modulate.is_some() { "ln_" } else { "" };
    let epilogue = match activation {
        Activation::None => "bias",
        Activation::GeluTanh => "gelu",
    };
    let modulation = modulate.map(|m| m.modulation.table);
    let op = op.counted(2 * m * n * k, &[Some(a), Some(w), bias, modulate.map(|m| m.stats), modulation], &[Some(out)]);
    op.launch_choice(&choose(Target::of(op.device), &format!("{prologue}{epilogue}"), dtype, [m, n, k]), &params)
}

/// `x += r` with `r = gate · (a · wᵀ + bias)`, the end of a residual branch.
///
/// * `a` `[m, k]` D, `w` `[n, k]` D, `bias` `[n]` D, `x` `[m, n]` D, read and written; without `gate` the gate is 1.
/// * `residual`: a tensor `[m, n]` D that receives r itself, and whether r is added to what it holds (else it overwrites).
///
/// # Errors
/// [`OpError`](super::OpError) when shapes, types or devices do not fit, or `x` or the residual overlap another argument.
pub fn linear_residual(
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    gate: Option<&Gate<'_>>,
    x: &Tensor,
    residual: Option<(&Tensor, bool)>,
) -> Result<()> {
    let op = Op::new("linear_residual", x);
    let Sizes { dtype, m, n, k } = sizes(&op, a, w, bias, "x", x)?;
    let inputs = [("a", Some(a)), ("w", Some(w)), ("bias", bias)];
    op.not_aliased(x, &inputs)?;
    let mut params = base(&op, a, w, bias, x, m, n, k)?;
    if let Some((residual, accumulate)) = residual {
        op.check_rows("residual", residual, dtype, [("m", m), ("n", n)])?;
        op.not_aliased(residual, &inputs)?;
        op.not_aliased(residual, &[("x", Some(x))])?;
        params.residual_out = residual.ptr();
        params.accumulate_residual = accumulate.into();
    }
    if let Some(Gate { modulation, chunk }) = gate {
        let chunks = set_modulation(&op, &mut params, modulation, m, n)?;
        params.gate_chunk = op.chunk("gate", *chunk, chunks)?;
    }
    let added = residual.filter(|(_, accumulate)| *accumulate).map(|(r, _)| r);
    let read = [Some(a), Some(w), bias, Some(x), added, gate.map(|g| g.modulation.table)];
    let op = op.counted(2 * m * n * k, &read, &[Some(x), residual.map(|(r, _)| r)]);
    op.launch_choice(&choose(Target::of(op.device), "residual", dtype, [m, n, k]), &params)
}

struct Sizes {
    dtype: DType,
    m: usize,
    n: usize,
    k: usize,
}

fn sizes(
    op: &Op<'_>,
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    out_name: &'static str,
    out: &Tensor,
) -> Result<Sizes> {
    let dtype = op.compute_dtype("w", w)?;
    let [n, k] = op.axes("w", w, ["n", "k"])?;
    if k == 0 {
        return Err(op.value("k", 0, "at least 1"));
    }
    op.check("w", w, dtype, &[])?;
    let m = a.elements() / k;
    op.check_rows("a", a, dtype, [("m", m), ("k", k)])?;
    op.check_rows(out_name, out, dtype, [("m", m), ("n", n)])?;
    if let Some(bias) = bias {
        op.check("bias", bias, dtype, &[("n", n)])?;
    }
    Ok(Sizes { dtype, m, n, k })
}

#[allow(clippy::too_many_arguments)]
fn base(
    op: &Op<'_>,
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    out: &Tensor,
    m: usize,
    n: usize,
    k: usize,
) -> Result<LinearParams> {
    Ok(LinearParams {
        a: a.ptr(),
        w: w.ptr(),
        bias: ptr(bias),
        out: out.ptr(),
        m: op.int("m", m)?,
        n: op.int("n", n)?,
        k: op.int("k", k)?,
        // Divisors, also where there is no modulation.
        frames: 1,
        rows_per_frame: 1,
        gate_chunk: -1,
        ..Default::default()
    })
}

/// Fills in the modulation; gives the number of its chunks.
fn set_modulation(
    op: &Op<'_>,
    params: &mut LinearParams,
    modulation: &Modulation<'_>,
    rows: usize,
    channels: usize,
) -> Result<usize> {
    let [_, variants, chunks] = op.modulation(modulation, rows, channels)?;
    params.modulation = modulation.table.ptr();
    params.frame_mask = ptr(modulation.frame_mask);
    params.frames = op.int("frames", modulation.rows.frames)?;
    params.rows_per_frame = op.int("rows_per_frame", modulation.rows.rows_per_frame)?;
    params.variants = op.int("variants", variants)?;
    params.chunks = op.int("chunks", chunks)?;
    params.channels = op.int("channels", channels)?;
    Ok(chunks)
}

/// A tile variant of `kernels/launch_tiles.h`.
struct Tile {
    suffix: &'static str,
    m: usize,
    n: usize,
    /// Of 16-bit types and of f32.
    threads: [usize; 2],
    shared: usize,
    /// Bytes of an element at most.
    element: usize,
    /// How fast a full multiprocessor works on such tiles, against the best: of fragments from shared memory for each product, and of
    /// warps that hide each other's latencies.
    rate: f64,
    /// The epilogue's time, in elements of k, where it stands alone: of tiles that fill a multiprocessor each by itself.
    alone: usize,
}

/// Every variant; of equals the first is taken.
const TILES: [Tile; 3] = [
    Tile {
        suffix: "256",
        m: params::LINEAR_256_M,
        n: params::LINEAR_256_N,
        threads: [params::LINEAR_256_THREADS; 2],
        shared: params::LINEAR_256_SHARED,
        element: 2,
        rate: 1.0,
        alone: 44,
    },
    Tile {
        suffix: "128",
        m: params::LINEAR_128_M,
        n: params::LINEAR_128_N,
        threads: [128, 256],
        shared: params::LINEAR_128_SHARED,
        element: 4,
        rate: 0.95,
        alone: 0,
    },
    Tile {
        suffix: "64",
        m: params::LINEAR_64_M,
        n: params::LINEAR_64_N,
        threads: [params::LINEAR_64_THREADS; 2],
        shared: params::LINEAR_64_SHARED,
        element: 4,
        rate: 0.6,
        alone: 0,
    },
];

impl Tile {
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// Time of the whole product, in products that a multiprocessor makes: whole tiles, on the multiprocessor that has most of them.
    fn time(&self, units: usize, [m, n, k]: [usize; 3]) -> f64 {
        (self.count(m, n).div_ceil(units) * self.m * self.n * (k + self.alone)) as f64 / self.rate
    }
}

/// The kernel for `kind` (`bias`, `gelu`, `residual`, `ln_bias`, `ln_gelu`) and m, n, k: the tile with the least time.
pub fn choose(target: Target, kind: &str, dtype: DType, shape: [usize; 3]) -> Choice {
    let fitting = TILES.iter().filter(|tile| tile.element >= dtype.size() && tile.shared <= target.block_shared);
    let time = |tile: &Tile| tile.time(target.units, shape);
    let tile = fitting.min_by(|a, b| time(a).total_cmp(&time(b))).expect("the smallest tile fits every device");
    Choice {
        module: Module::Linear,
        entry: format!("linear_{kind}_{dtype}_{}", tile.suffix),
        grid: [tile.count(shape[0], shape[1]), 1],
        threads: tile.threads[usize::from(dtype.size() > 2)],
        shared: tile.shared,
    }
}

/// Rows and columns of a block's tile.
pub(crate) fn tile_of(entry: &str) -> Option<(usize, usize)> {
    TILES.iter().find(|tile| entry.ends_with(tile.suffix)).map(|tile| (tile.m, tile.n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_the_shape() {
        let a100 = Target { units: 108, block_shared: Target::block_shared((8, 0)) };
        let entry = |dtype, m, n, k| choose(a100, "bias", dtype, [m, n, k]).entry;
        assert_eq!(entry(DType::Bf16, 108_000, 1152, 4608), "linear_bias_bf16_256");
        assert_eq!(entry(DType::F32, 108_000, 3456, 1152), "linear_bias_f32_128");
        assert_eq!(entry(DType::Bf16, 16, 288, 144), "linear_bias_bf16_64");
        assert_eq!(entry(DType::Bf16, 512, 432, 144), "linear_bias_bf16_64");
    }
}
