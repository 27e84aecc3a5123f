//! Matrix products with fused prologues and epilogues: `kernels/linear.cu`, `kernels/linear_few.cu` for few tiles, and
//! `kernels/sm_90a/linear.cu` for Hopper.

use super::params::{self, LinearFewParams, LinearParams, LinearWgmmaParams};
use super::{Choice, Modulation, Op, Result, Target, ptr};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// The activation after the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// None.
    None,
    /// GELU in its tanh form: `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
    GeluTanh,
}

/// LayerNorm and adaLN before the product: `a' = (a − mean)·rstd·(1 + scale) + shift`, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Modulate<'a> {
    /// `[rows, 2]` f32: mean and 1/√(var + eps) of each row, from [`super::norm::row_stats`].
    pub stats: &'a Tensor,
    /// The tables.
    pub modulation: Modulation<'a>,
    /// The chunk that holds the shift.
    pub shift: usize,
    /// The chunk that holds the scale.
    pub scale: usize,
}

/// adaLN's gate after the product.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The tables.
    pub modulation: Modulation<'a>,
    /// The chunk that holds the gate.
    pub chunk: usize,
}

/// `out = act(a' · wᵀ + bias)`, where a' is `a` or, with `modulate`, `LN(a)·(1 + scale) + shift`.
///
/// * `a` `[m, k]` D, `w` `[n, k]` D, `bias` `[n]` D, `out` `[m, n]` D. Any m, n, k. Sums are f32 (f32 inputs: 3×TF32).
/// * Leading axes of `a` and `out` are flattened to rows.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input.
pub fn linear(
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    modulate: Option<&Modulate<'_>>,
    activation: Activation,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new("linear", out);
    let sizes = sizes(&op, a, w, bias, "out", out)?;
    let Sizes { dtype, m, n, k } = sizes;
    op.not_aliased(out, &[("a", Some(a)), ("w", Some(w)), ("bias", bias), ("stats", modulate.map(|m| m.stats))])?;
    let mut params = sizes.params(&op, a, w, bias, out)?;
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
    launch(&op, &format!("{prologue}{epilogue}"), dtype, params)
}

/// `x += r` with `r = gate · (a · wᵀ + bias)`, the end of a residual branch.
///
/// * `a` `[m, k]` D, `w` `[n, k]` D, `bias` `[n]` D, `x` `[m, n]` D, read and written; without `gate` the gate is 1.
/// * `residual`: a tensor `[m, n]` D that receives r itself, and whether r is added to its content (otherwise it is overwritten).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `x` or the residual overlap another argument.
pub fn linear_residual(
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    gate: Option<&Gate<'_>>,
    x: &Tensor,
    residual: Option<(&Tensor, bool)>,
) -> Result<()> {
    let op = Op::new("linear_residual", x);
    let sizes = sizes(&op, a, w, bias, "x", x)?;
    let product = sizes.params(&op, a, w, bias, x)?;
    let inputs = [("a", Some(a)), ("w", Some(w)), ("bias", bias)];
    let (op, params) = residual_params(op, sizes, product, &inputs, gate, x, residual)?;
    launch(&op, "residual", sizes.dtype, params)
}

/// The checks, the parameters and the work of the end of a residual branch, whatever `a` and `w` are stored as.
pub(super) fn residual_params<'a>(
    op: Op<'a>,
    Sizes { dtype, m, n, k }: Sizes,
    mut params: LinearParams,
    inputs: &[(&'static str, Option<&Tensor>)],
    gate: Option<&Gate<'_>>,
    x: &Tensor,
    residual: Option<(&Tensor, bool)>,
) -> Result<(Op<'a>, LinearParams)> {
    op.not_aliased(x, inputs)?;
    if let Some((residual, accumulate)) = residual {
        op.check_rows("residual", residual, dtype, [("m", m), ("n", n)])?;
        op.not_aliased(residual, inputs)?;
        op.not_aliased(residual, &[("x", Some(x))])?;
        params.residual_out = residual.ptr();
        params.accumulate_residual = accumulate.into();
    }
    if let Some(Gate { modulation, chunk }) = gate {
        let chunks = set_modulation(&op, &mut params, modulation, m, n)?;
        params.gate_chunk = op.chunk("gate", *chunk, chunks)?;
    }
    let added = residual.filter(|(_, accumulate)| *accumulate).map(|(r, _)| r);
    let mut read: Vec<_> = inputs.iter().map(|(_, input)| *input).collect();
    read.extend([Some(x), added, gate.map(|g| g.modulation.table)]);
    Ok((op.counted(2 * m * n * k, &read, &[Some(x), residual.map(|(r, _)| r)]), params))
}

/// Whether rows that are normed and modulated by themselves ([`super::norm::modulate`]) and then multiplied take less time on this device than
/// [`linear`] with `modulate`: where the kernel for Hopper serves, which has no prologue. A prologue would run again for every tile of a row of tiles.
pub fn norms_apart(device: &Device, dtype: DType, shape: [usize; 3]) -> bool {
    target_norms_apart(Target::of(device), dtype, shape)
}

/// [`norms_apart`] by the target alone.
pub(crate) fn target_norms_apart(target: Target, dtype: DType, shape: [usize; 3]) -> bool {
    choose(target, "bias", dtype, shape).module == Module::LinearWgmma
}

fn launch(op: &Op<'_>, kind: &str, dtype: DType, product: LinearParams) -> Result<()> {
    let shape = [product.m, product.n, product.k].map(|size| size as usize);
    let target = Target::of(op.device);
    let mut choice = &choose(target, kind, dtype, shape);
    let other;
    if choice.module == Module::LinearWgmma && !is_aligned(&product) {
        other = choose(Target { capability: (8, 0), ..target }, kind, dtype, shape);
        choice = &other;
    }
    match choice.module {
        Module::Linear => return op.launch_choice(choice, &product),
        Module::LinearWgmma => return op.launch_choice(choice, &wgmma_params(op.device, dtype, product)?),
        _ => {}
    }
    // One part needs no memory for sums.
    let arrived = if choice.grid[1] > 1 { op.device.scratch()? } else { 0 };
    let partial = arrived + Device::SCRATCH_ZEROS as u64;
    op.launch_choice(choice, &LinearFewParams { product, partial, arrived })
}

/// Whether accesses of 16 bytes are aligned: what tensor maps and the epilogue of the kernel for Hopper need, besides the sizes that [`choices`]
/// looks at.
pub(super) fn is_aligned(product: &LinearParams) -> bool {
    let LinearParams { a, w, bias, out, residual_out, modulation, channels, .. } = *product;
    [a, w, bias, out, residual_out, modulation].iter().all(|address| address % 16 == 0)
        && (modulation == 0 || channels % 4 == 0)
}

/// The parameters of `kernels/sm_90a/linear.cu`: the same and the maps of boxes of one stage. `dtype`: the type of `a` and `w`.
///
/// # Errors
/// [`OpError`](super::OpError) for rows of `a` and `w` that tensor maps cannot describe (not aligned to 16 bytes), and without tensor maps.
pub fn wgmma_params(device: &Device, dtype: DType, product: LinearParams) -> Result<LinearWgmmaParams> {
    let op = Op::on("linear", device);
    let [m, n, k] = [product.m, product.n, product.k].map(|size| size as u64);
    let row = k * dtype.size() as u64;
    let k_tile = params::LINEAR_WGMMA_K_BYTES / dtype.size();
    let [k_box, m_box, groups] = [k_tile, params::LINEAR_WGMMA_M, params::LINEAR_WGMMA_N / 32].map(|size| size as u32);
    let map = |address, extents: &[u64], strides: &[u64], tile: &[u32]| {
        super::swizzled_map(device, dtype, address, extents, strides, tile)
    };
    // Row 32 i + 8 t + 2 j + e as [i, j, t, e]: the columns of a lane's sums are neighbours then.
    let dealt_out = [row, 8 * row, 2 * row, 32 * row];
    let columns = (n as usize).div_ceil(params::LINEAR_WGMMA_N);
    let tiles = (m as usize).div_ceil(params::LINEAR_WGMMA_M) * columns;
    Ok(LinearWgmmaParams {
        a_map: map(product.a, &[k, m], &[row], &[k_box, m_box])?,
        w_map: map(product.w, &[k, 2, 4, 4, n / 32], &dealt_out, &[k_box, 2, 4, 4, groups])?,
        product,
        columns: op.int("n", columns)?,
        tiles: op.int("tiles", tiles)?,
        steps: op.int("k", (k as usize).div_ceil(k_tile))?,
        reserved: 0,
    })
}

/// The sizes of a product, and the type of `out`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) dtype: DType,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Sizes {
    /// The parameters of a product without modulation.
    pub(super) fn params(
        self,
        op: &Op<'_>,
        a: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<LinearParams> {
        Ok(LinearParams {
            a: a.ptr(),
            w: w.ptr(),
            bias: ptr(bias),
            out: out.ptr(),
            m: op.int("m", self.m)?,
            n: op.int("n", self.n)?,
            k: op.int("k", self.k)?,
            // Divisors, also where there is no modulation.
            frames: 1,
            rows_per_frame: 1,
            gate_chunk: -1,
            ..Default::default()
        })
    }
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

/// Fills in the modulation; returns the number of its chunks.
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
    /// [`Module::LinearFew`] can use split-k.
    module: Module,
    m: usize,
    n: usize,
    /// For 16-bit types and for f32.
    threads: [usize; 2],
    shared: usize,
    /// Bytes per element, from and to.
    element: [usize; 2],
    /// The speed of a full multiprocessor on such tiles, relative to the best: it depends on how well warps hide each other's latencies.
    rate: f64,
    /// The multiply-adds per clock that fragments from shared memory can feed, and per byte from L2: from the machine code of the main loop
    /// (`ptx/manifest.json`), without LayerNorm.
    shared_fma: f64,
    byte_fma: f64,
    /// The time of the epilogues (bias, gelu, residual), in elements of k, if nothing overlaps it: for tiles that each fill a multiprocessor.
    alone: [usize; 3],
}

/// Below this number of multiply-adds a product uses the kernels of [`Module::Linear`]: a GPU finishes it within the time of a launch, and
/// the VM would load another module for nothing.
const FEW_LEAST: usize = 1 << 29;

/// The predicted gain of [`Module::LinearFew`] must exceed the uncertainty of the table.
const FEW_MARGIN: f64 = 1.1;

/// Every variant; among equals the first is chosen.
const TILES: [Tile; 6] = [
    Tile {
        suffix: "wgmma",
        module: Module::LinearWgmma,
        m: params::LINEAR_WGMMA_M,
        n: params::LINEAR_WGMMA_N,
        threads: [params::LINEAR_WGMMA_THREADS; 2],
        shared: params::LINEAR_WGMMA_SHARED,
        element: [2, 2],
        rate: 1.0,
        shared_fma: 3072.0,
        byte_fma: 54.9,
        // In units of 24 clocks: a sum's 2 bytes to L2, its two special functions of 16 a clock, and three times 2 bytes.
        alone: [106, 256, 317],
    },
    Tile {
        suffix: "256",
        module: Module::Linear,
        m: params::LINEAR_256_M,
        n: params::LINEAR_256_N,
        threads: [params::LINEAR_256_THREADS; 2],
        shared: params::LINEAR_256_SHARED,
        element: [2, 2],
        rate: 1.0,
        shared_fma: 1536.0,
        byte_fma: 41.1,
        alone: [44; 3],
    },
    Tile {
        suffix: "128",
        module: Module::Linear,
        m: params::LINEAR_128_M,
        n: params::LINEAR_128_N,
        threads: [128, 256],
        shared: params::LINEAR_128_SHARED,
        element: [2, 4],
        rate: 0.95,
        shared_fma: 1417.0,
        byte_fma: 32.0,
        alone: [0; 3],
    },
    Tile {
        suffix: "64",
        module: Module::Linear,
        m: params::LINEAR_64_M,
        n: params::LINEAR_64_N,
        threads: [params::LINEAR_64_THREADS; 2],
        shared: params::LINEAR_64_SHARED,
        element: [2, 4],
        rate: 0.9,
        shared_fma: 546.0,
        byte_fma: 12.8,
        alone: [0; 3],
    },
    Tile {
        suffix: "few_128",
        module: Module::LinearFew,
        m: params::LINEAR_128_M,
        n: params::LINEAR_128_N,
        threads: [128; 2],
        shared: params::LINEAR_128_SHARED,
        element: [2, 2],
        rate: 0.95,
        shared_fma: 1417.0,
        byte_fma: 32.0,
        alone: [0; 3],
    },
    Tile {
        suffix: "few_96",
        module: Module::LinearFew,
        m: params::LINEAR_96_M,
        n: params::LINEAR_96_N,
        threads: [params::LINEAR_96_THREADS; 2],
        shared: params::LINEAR_96_SHARED,
        element: [2, 2],
        rate: 0.9,
        shared_fma: 963.0,
        byte_fma: 25.6,
        alone: [0; 3],
    },
];

impl Tile {
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// The maximum number of blocks that share a tile: whole stages of k, and split-k partial sums that stay in L2.
    fn parts(&self, target: Target, dtype: DType, [m, n, k]: [usize; 3]) -> usize {
        let tiles = self.count(m, n);
        if self.module != Module::LinearFew || tiles * size_of::<u32>() > Device::SCRATCH_ZEROS {
            return 1;
        }
        let sums = (target.l2 / 2).min(Device::SCRATCH - Device::SCRATCH_ZEROS) / size_of::<f32>();
        let most = (sums / (tiles * self.m * self.n).max(1)).min(k.div_ceil(stage(dtype)));
        most.clamp(1, params::LINEAR_PARTS)
    }

    /// The time of the whole product, in products on one multiprocessor: whole tiles, on the multiprocessor with the most of them. If
    /// `parts` blocks share a tile, each writes its partial sums and the last one reads them all; no overlap is assumed for that.
    fn time(&self, target: Target, kind: &str, dtype: DType, [m, n, k]: [usize; 3], parts: usize) -> f64 {
        let alone = self.alone[["bias", "gelu", "residual"].iter().position(|end| kind.ends_with(end)).unwrap_or(0)];
        // f32 is multiplied three times at half the speed, and has twice the bytes.
        let peak = if self.module == Module::LinearWgmma { target.fma_peak } else { target.fma };
        let fma = peak as f64 / if dtype == DType::F32 { 3.0 } else { 1.0 };
        let fed = (self.shared_fma / fma).min(self.byte_fma * target.l2_bytes as f64 / fma);
        let rate = self.rate.min(fed);
        let rounds = (self.count(m, n) * parts).div_ceil(target.units) as f64;
        let (k, sums) = match parts {
            1 => (k, 0.0),
            _ => (
                k.div_ceil(stage(dtype)).div_ceil(parts) * stage(dtype),
                size_of::<f32>() as f64 * fma / target.l2_bytes as f64,
            ),
        };
        let products = rounds * ((k + alone) as f64 / rate + sums) + parts as f64 * sums;
        let time = (self.m * self.n) as f64 * products * target.fma as f64 / peak as f64;
        if self.module == Module::LinearFew { FEW_MARGIN * time } else { time }
    }
}

/// Elements of k per stage.
const fn stage(dtype: DType) -> usize {
    params::LINEAR_K_BYTES / dtype.size()
}

/// The kernel for `kind` (`bias`, `gelu`, `residual`, `ln_bias`, `ln_gelu`) and m, n, k: the tile with the least time. The rows of the grid
/// are the blocks that share a tile.
pub fn choose(target: Target, kind: &str, dtype: DType, shape: [usize; 3]) -> Choice {
    let all = choices(target, kind, dtype, shape).into_iter();
    all.min_by(|a, b| a.0.total_cmp(&b.0)).expect("the smallest tile fits every device").1
}

/// Every suitable kernel, with its time.
pub(crate) fn choices(target: Target, kind: &str, dtype: DType, shape: [usize; 3]) -> Vec<(f64, Choice)> {
    let few = !kind.starts_with("ln_") && shape.into_iter().fold(1, usize::saturating_mul) >= FEW_LEAST;
    let serves = |module| match module {
        Module::LinearFew => few,
        // Tensor maps: rows are multiples of 16 bytes, and w is dealt out by 32 rows.
        Module::LinearWgmma => few && (shape[2] * dtype.size()).is_multiple_of(16) && shape[1].is_multiple_of(32),
        _ => true,
    };
    let fits = |tile: &&Tile| {
        target.runs(tile.module)
            && (tile.element[0]..=tile.element[1]).contains(&dtype.size())
            && tile.shared <= target.block_shared
            && serves(tile.module)
    };
    let cuts = TILES.iter().filter(fits).flat_map(|tile| {
        (1..=tile.parts(target, dtype, shape))
            .map(move |parts| (tile.time(target, kind, dtype, shape, parts), tile, parts))
    });
    let choice = |tile: &Tile, parts| Choice {
        module: tile.module,
        entry: format!("linear_{kind}_{dtype}_{}", tile.suffix),
        // The blocks of the kernel for Hopper take turns.
        grid: match (tile.count(shape[0], shape[1]), tile.module) {
            (tiles, Module::LinearWgmma) => [tiles.min(target.units), parts],
            (tiles, _) => [tiles, parts],
        },
        threads: tile.threads[usize::from(dtype.size() > 2)],
        shared: tile.shared,
    };
    cuts.map(|(time, tile, parts)| (time, choice(tile, parts))).collect()
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
        let a100 = Target::new(108, (8, 0));
        let entry = |dtype, m, n, k| choose(a100, "bias", dtype, [m, n, k]).entry;
        assert_eq!(entry(DType::Bf16, 108_000, 1152, 4608), "linear_bias_bf16_256");
        assert_eq!(entry(DType::F32, 108_000, 3456, 1152), "linear_bias_f32_128");
        assert_eq!(entry(DType::Bf16, 16, 288, 144), "linear_bias_bf16_64");
        assert_eq!(entry(DType::Bf16, 512, 432, 144), "linear_bias_bf16_64");
        assert_eq!(entry(DType::Bf16, 600, 3744, 1872), "linear_bias_bf16_few_96");
    }

    /// An image of 256 x 256 with guidance, the MLP's second product: 32 tiles of 128 x 144 for 108 multiprocessors, and a long k.
    #[test]
    fn k_is_split_where_tiles_are_few_and_k_is_long() {
        let a100 = Target::new(108, (8, 0));
        let parts = |dtype, m, n, k| choose(a100, "residual", dtype, [m, n, k]).grid[1];
        assert!(parts(DType::Bf16, 512, 1152, 4608) > 1);
        assert_eq!(parts(DType::F32, 512, 1152, 4608), 1);
        assert_eq!(parts(DType::Bf16, 4096, 1152, 144), 1);
        assert_eq!(parts(DType::Bf16, 108_000, 1152, 4608), 1);
        // Sums that would leave L2.
        assert_eq!(choose(Target::new(84, (8, 6)), "residual", DType::Bf16, [512, 1152, 4608]).grid[1], 1);
        // Nothing to do, one element, and sizes whose product is large.
        for shape in [[0, 5, 7], [5, 0, 7], [1, 1, 1], [1, 1, 1 << 30], [1 << 30, 8, 8]] {
            assert!(
                (1..=params::LINEAR_PARTS).contains(&choose(a100, "bias", DType::Bf16, shape).grid[1]),
                "{shape:?}"
            );
        }
    }

    /// The built-in model's largest product, on any number of the VM's threads.
    #[test]
    fn sprites_needs_no_second_module() {
        for units in 1..=128 {
            let choice = choose(Target::new(units, (8, 0)), "ln_gelu", DType::Bf16, [512, 576, 144]);
            assert_eq!(choice.module, Module::Linear, "{units}");
        }
    }
}
