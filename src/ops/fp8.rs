//! Matrix products of operands in e4m3, each row of them with a scale: `kernels/sm_90a/linear_fp8.cu`, and `kernels/sm_90a/quantise.cu`, which makes
//! such rows.
//!
//! A row's scale is its largest magnitude over 448, the largest e4m3 number: `x ≈ code · scale`. Kept residuals have the same form
//! ([`super::pack`]).

use super::linear::{Activation, Gate, Sizes, is_aligned, residual_params, wgmma_params};
use super::pack::PackError;
use super::params::{self, LinearFp8Params, LinearParams, ModulateParams, PackParams, QuantiseModulatedParams};
use super::{Choice, Modulation, Op, Result, Target, ptr};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// A matrix in e4m3.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows, k]` u8: the codes.
    pub codes: &'a Tensor,
    /// `[rows]` f32: the scale of each row. NaN: the row is not finite, nor is anything that it is multiplied with.
    pub scales: &'a Tensor,
}

/// Whether `device` multiplies e4m3 for models that compute in `dtype`: compute capability 9.0, bf16 and f16.
pub fn runs_on(device: &Device, dtype: DType) -> bool {
    Target::of(device).runs(Module::LinearFp8) && matches!(dtype, DType::Bf16 | DType::F16)
}

/// Whether the kernel serves weights `[n, k]`: rows of `k` bytes begin at 16 bytes, and it deals out 32 columns of `out` at a time.
pub fn serves([n, k]: [usize; 2]) -> bool {
    n > 0 && k > 0 && n.is_multiple_of(32) && k.is_multiple_of(16)
}

/// Makes rows in e4m3 of `x` `[rows, k]` (bf16 or f16; k a multiple of 16): rounded to nearest even, saturated. A row of zeros has the scale 1, one with
/// NaN or an infinity the scale NaN. The error is added to `error`.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `x` does not begin at a multiple of 16 bytes.
pub fn quantise(x: &Tensor, to: Rows<'_>, error: &PackError) -> Result<()> {
    let op = Op::new("quantise", to.codes);
    let Packing { dtype, rows, k, blocks } = packing(&op, x, to)?;
    let params = PackParams {
        x: x.ptr(),
        packed: to.codes.ptr(),
        scale: to.scales.ptr(),
        error: error.partial(&op)?,
        rows: op.int("rows", rows)?.into(),
        channels: op.int("k", k)?,
        reserved: 0,
    };
    let op = op.counted(0, &[Some(x)], &[Some(to.codes), Some(to.scales)]);
    op.launch(Module::Quantise, &format!("quantise_{dtype}"), [blocks, 1], params::PACK_THREADS, &params)?;
    error.add(blocks)
}

/// LayerNorm and adaLN, each row by the variant of its frame.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// The tables.
    pub modulation: Modulation<'a>,
    /// The chunk that holds the shift.
    pub shift: usize,
    /// The chunk that holds the scale.
    pub scale: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// [`quantise`] of `LN(x)·(1 + scale) + shift`, with the bits of [`super::norm::modulate`] and [`quantise`] one after the other.
///
/// # Errors
/// As [`quantise`]; a modulation that does not fit.
pub fn quantise_normed(x: &Tensor, norm: &Norm<'_>, to: Rows<'_>, error: &PackError) -> Result<()> {
    let &Norm { ref modulation, shift, scale, eps } = norm;
    let op = Op::new("quantise_modulated", to.codes);
    let Packing { dtype, rows, k, blocks } = packing(&op, x, to)?;
    op.finite("eps", eps)?;
    let [_, variants, chunks] = op.modulation(modulation, rows, k)?;
    aligned(&op, [modulation.table.ptr()])?;
    let modulate = ModulateParams {
        x: x.ptr(),
        out: to.codes.ptr(),
        modulation: modulation.table.ptr(),
        frame_mask: ptr(modulation.frame_mask),
        rows: op.int("rows", rows)?.into(),
        channels: op.int("k", k)?,
        frames: op.int("frames", modulation.rows.frames)?,
        rows_per_frame: op.int("rows_per_frame", modulation.rows.rows_per_frame)?,
        variants: op.int("variants", variants)?,
        chunks: op.int("chunks", chunks)?,
        shift_chunk: op.chunk("shift", shift, chunks)?,
        scale_chunk: op.chunk("scale", scale, chunks)?,
        eps,
        ..Default::default()
    };
    let params = QuantiseModulatedParams { modulate, scale: to.scales.ptr(), error: error.partial(&op)? };
    let op = op.counted(0, &[Some(x), Some(modulation.table)], &[Some(to.codes), Some(to.scales)]);
    let entry = format!("quantise_modulated_{dtype}");
    op.launch(Module::Quantise, &entry, [blocks, 1], params::PACK_THREADS, &params)?;
    error.add(blocks)
}

/// The sizes of a pass that makes rows e4m3.
struct Packing {
    dtype: DType,
    rows: usize,
    k: usize,
    blocks: usize,
}

fn packing(op: &Op<'_>, x: &Tensor, to: Rows<'_>) -> Result<Packing> {
    let dtype = half(op, "x", x)?;
    let [rows, k] = op.axes("codes", to.codes, ["rows", "k"])?;
    op.check("codes", to.codes, DType::U8, &[])?;
    op.check("scales", to.scales, DType::F32, &[("rows", rows)])?;
    op.check_rows("x", x, dtype, [("rows", rows), ("k", k)])?;
    op.not_aliased(to.codes, &[("x", Some(x))])?;
    if !k.is_multiple_of(16) {
        return Err(op.value("k", k, "a multiple of 16"));
    }
    aligned(op, [x.ptr(), to.codes.ptr()])?;
    Ok(Packing { dtype, rows, k, blocks: rows.div_ceil(params::PACK_WARPS).min(params::PACK_MAX_BLOCKS) })
}

/// `out = act(a · wᵀ + bias)`: as [`super::linear::linear`], of rows in e4m3.
///
/// * `a` `[m, k]`, `w` `[n, k]` with n and k that the kernel [`serves`], `bias` `[n]` D, `out` `[m, n]` D; D is bf16 or f16. Hopper's tensor cores add
///   with about 14 bits.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types, alignments or devices do not match, the device is not a Hopper, or `out` overlaps an input.
pub fn linear(a: Rows<'_>, w: Rows<'_>, bias: Option<&Tensor>, activation: Activation, out: &Tensor) -> Result<()> {
    let op = Op::new("linear_fp8", out);
    let sizes = sizes(&op, a, w, bias, "out", out)?;
    let inputs = inputs(a, w, bias);
    op.not_aliased(out, &inputs)?;
    let product = sizes.params(&op, a.codes, w.codes, bias, out)?;
    let Sizes { m, n, k, .. } = sizes;
    let op = op.counted(2 * m * n * k, &inputs.map(|(_, input)| input), &[Some(out)]);
    let kind = match activation {
        Activation::None => "bias",
        Activation::GeluTanh => "gelu",
    };
    launch(&op, kind, sizes, product, [a.scales, w.scales])
}

/// `x += r` with `r = gate · (a · wᵀ + bias)`: as [`super::linear::linear_residual`], of rows in e4m3.
///
/// # Errors
/// As [`linear`].
pub fn linear_residual(
    a: Rows<'_>,
    w: Rows<'_>,
    bias: Option<&Tensor>,
    gate: Option<&Gate<'_>>,
    x: &Tensor,
    residual: Option<(&Tensor, bool)>,
) -> Result<()> {
    let op = Op::new("linear_fp8_residual", x);
    let sizes = sizes(&op, a, w, bias, "x", x)?;
    let product = sizes.params(&op, a.codes, w.codes, bias, x)?;
    let (op, product) = residual_params(op, sizes, product, &inputs(a, w, bias), gate, x, residual)?;
    launch(&op, "residual", sizes, product, [a.scales, w.scales])
}

/// The kernel for `kind` (`bias`, `gelu`, `residual`) and m, n, k. There is one tile, that of [`Module::LinearWgmma`]: of half the bytes an element it
/// asks L2 for as much in a clock.
pub fn choose(target: Target, kind: &str, dtype: DType, [m, n, _]: [usize; 3]) -> Choice {
    let tiles = m.div_ceil(params::LINEAR_WGMMA_M) * n.div_ceil(params::LINEAR_WGMMA_N);
    Choice {
        module: Module::LinearFp8,
        entry: format!("linear_fp8_{kind}_{dtype}_wgmma"),
        // The blocks take turns.
        grid: [tiles.min(target.units), 1],
        threads: params::LINEAR_WGMMA_THREADS,
        shared: params::LINEAR_WGMMA_SHARED,
    }
}

fn launch(
    op: &Op<'_>,
    kind: &str,
    Sizes { dtype, m, n, k }: Sizes,
    product: LinearParams,
    [a_scale, w_scale]: [&Tensor; 2],
) -> Result<()> {
    if m == 0 {
        return Ok(());
    }
    if !runs_on(op.device, dtype) {
        return Err(op.value("device", op.device.info().label(), "one of compute capability 9.0"));
    }
    if !is_aligned(&product) {
        return Err(op.value("an argument", "an address or a row of it", "aligned to 16 bytes"));
    }
    aligned(op, [w_scale.ptr()])?;
    let params = LinearFp8Params {
        wgmma: wgmma_params(op.device, DType::U8, product)?,
        a_scale: a_scale.ptr(),
        w_scale: w_scale.ptr(),
        reserved: [0; params::LINEAR_FP8_RESERVED],
    };
    op.launch_choice(&choose(Target::of(op.device), kind, dtype, [m, n, k]), &params)
}

type Input<'a> = (&'static str, Option<&'a Tensor>);

fn inputs<'a>(a: Rows<'a>, w: Rows<'a>, bias: Option<&'a Tensor>) -> [Input<'a>; 5] {
    [
        ("a", Some(a.codes)),
        ("the scales of a", Some(a.scales)),
        ("w", Some(w.codes)),
        ("the scales of w", Some(w.scales)),
        ("bias", bias),
    ]
}

fn sizes(
    op: &Op<'_>,
    a: Rows<'_>,
    w: Rows<'_>,
    bias: Option<&Tensor>,
    out_name: &'static str,
    out: &Tensor,
) -> Result<Sizes> {
    let dtype = half(op, out_name, out)?;
    let [n, k] = op.axes("w", w.codes, ["n", "k"])?;
    if !serves([n, k]) {
        return Err(op.value("w", format!("[{n}, {k}]"), "n a multiple of 32 and k one of 16, both above 0"));
    }
    let m = a.codes.elements() / k;
    op.check("w", w.codes, DType::U8, &[])?;
    op.check("the scales of w", w.scales, DType::F32, &[("n", n)])?;
    op.check_rows("a", a.codes, DType::U8, [("m", m), ("k", k)])?;
    op.check("the scales of a", a.scales, DType::F32, &[("m", m)])?;
    op.check_rows(out_name, out, dtype, [("m", m), ("n", n)])?;
    if let Some(bias) = bias {
        op.check("bias", bias, dtype, &[("n", n)])?;
    }
    Ok(Sizes { dtype, m, n, k })
}

/// The argument's element type, which must have 16 bits.
fn half(op: &Op<'_>, argument: &'static str, tensor: &Tensor) -> Result<DType> {
    match tensor.dtype() {
        dtype @ (DType::Bf16 | DType::F16) => Ok(dtype),
        got => Err(super::OpError::DType { op: op.name, argument, got, expected: "bf16 or f16" }),
    }
}

fn aligned<const N: usize>(op: &Op<'_>, addresses: [u64; N]) -> Result<()> {
    match addresses.into_iter().find(|address| !address.is_multiple_of(16)) {
        Some(address) => Err(op.value("an address", format!("{address:#x}"), "a multiple of 16")),
        None => Ok(()),
    }
}
