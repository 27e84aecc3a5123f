//! Matrix products with what surrounds them fused in: `kernels/linear.cu`.

use super::params::{self, LinearParams};
use super::{Modulation, Op, Result, ptr};
use crate::device::{Device, Module};
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
    let prologue = if modulate.is_some() { "_ln" } else { "" };
    let epilogue = match activation {
        Activation::None => "bias",
        Activation::GeluTanh => "gelu",
    };
    let modulation = modulate.map(|m| m.modulation.table);
    let op = op.counted(2 * m * n * k, &[Some(a), Some(w), bias, modulate.map(|m| m.stats), modulation], &[Some(out)]);
    launch(&op, &format!("linear{prologue}_{epilogue}_{dtype}"), m, n, &params)
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
    launch(&op, &format!("linear_residual_{dtype}"), m, n, &params)
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
    threads: usize,
    shared: usize,
}

const LARGE: Tile = Tile {
    suffix: "128",
    m: params::LINEAR_128_M,
    n: params::LINEAR_128_N,
    threads: params::LINEAR_128_THREADS,
    shared: params::LINEAR_128_SHARED,
};
const SMALL: Tile = Tile {
    suffix: "64",
    m: params::LINEAR_64_M,
    n: params::LINEAR_64_N,
    threads: params::LINEAR_64_THREADS,
    shared: params::LINEAR_64_SHARED,
};

impl Tile {
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }
}

/// Large tiles move less memory for each product, but only where they give every multiprocessor one and `m` fills them.
fn tile(device: &Device, m: usize, n: usize) -> &'static Tile {
    if m > SMALL.m && LARGE.count(m, n) >= device.info().units { &LARGE } else { &SMALL }
}

fn launch(op: &Op<'_>, entry: &str, m: usize, n: usize, params: &LinearParams) -> Result<()> {
    let tile = tile(op.device, m, n);
    let entry = format!("{entry}_{}", tile.suffix);
    op.launch(Module::Linear, &entry, [tile.count(m, n), 1], tile.threads, tile.shared, params)
}
