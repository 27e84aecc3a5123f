//! All operations between latents and tokens except large products: `kernels/embed.cu`. The formulas are from the published Open-Sora 1.2
//! code.

use super::params::{
    self, ELEMENTWISE_THREADS, GatherRowsParams, ModulationParams, MultiplyParams, PatchifyParams, PositionAddParams,
    PositionTableParams, RopeTableParams, SmallLinearParams, TimestepEmbedParams, UnpatchifyParams,
};
use super::{Op, Result, chunk_elements, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// Latents to patches, ready for the patch embedding as a [`super::linear::linear`].
///
/// * `z` `[z_batch, channels, frames, height, width]` f32; sample b reads `z[b % z_batch]`, so that both halves of guidance share one
///   latent.
/// * `patch` (time, height, width); `tokens` = the latent's sizes over the patch's, rounded up: the rest is filled with zeros.
/// * `out` `[batch · tokens, channels · patch volume]` D, a row's elements ordered (channel, kt, kh, kw).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn patchify(z: &Tensor, patch: [usize; 3], batch: usize, tokens: [usize; 3], out: &Tensor) -> Result<()> {
    let op = Op::new("patchify", out);
    let dtype = op.compute_dtype("out", out)?;
    let [z_batch, ..] = op.axes("z", z, LATENT_AXES)?;
    op.check("z", z, DType::F32, &[])?;
    if z_batch == 0 {
        return Err(op.value("z_batch", 0, "at least 1"));
    }
    let grid = PatchGrid::new(&op, z, patch, tokens)?;
    let rows = batch * grid.tokens;
    op.check_rows("out", out, dtype, [("batch*tokens", rows), ("channels*patch", grid.elements)])?;
    let params = PatchifyParams {
        z: z.ptr(),
        out: out.ptr(),
        batch: op.int("batch", batch)?,
        z_batch: op.int("z_batch", z_batch)?,
        channels: grid.channels,
        frames: grid.latent[0],
        height: grid.latent[1],
        width: grid.latent[2],
        patch_t: grid.patch[0],
        patch_h: grid.patch[1],
        patch_w: grid.patch[2],
        tokens_t: grid.counts[0],
        tokens_h: grid.counts[1],
        tokens_w: grid.counts[2],
    };
    let grid = [rows.div_ceil(params::ROW_WARPS), 1];
    let op = op.counted(0, &[Some(z)], &[Some(out)]);
    op.launch(Module::Embed, &format!("patchify_{dtype}"), grid, params::ROW_THREADS, &params)
}

/// Tokens back to latents; padding is cropped.
///
/// * `rows` `[batch · tokens, patch volume · channels]` D, a row's elements ordered (kt, kh, kw, channel).
/// * `out` `[batch, channels, frames, height, width]` f32; `patch` and `tokens` as for [`patchify`].
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn unpatchify(rows: &Tensor, patch: [usize; 3], tokens: [usize; 3], out: &Tensor) -> Result<()> {
    let op = Op::new("unpatchify", out);
    let dtype = op.compute_dtype("rows", rows)?;
    let [batch, ..] = op.axes("out", out, LATENT_AXES)?;
    op.check("out", out, DType::F32, &[])?;
    let grid = PatchGrid::new(&op, out, patch, tokens)?;
    op.check_rows("rows", rows, dtype, [("batch*tokens", batch * grid.tokens), ("patch*channels", grid.elements)])?;
    let params = UnpatchifyParams {
        tokens: rows.ptr(),
        out: out.ptr(),
        batch: op.int("batch", batch)?,
        channels: grid.channels,
        frames: grid.latent[0],
        height: grid.latent[1],
        width: grid.latent[2],
        patch_t: grid.patch[0],
        patch_h: grid.patch[1],
        patch_w: grid.patch[2],
        tokens_t: grid.counts[0],
        tokens_h: grid.counts[1],
        tokens_w: grid.counts[2],
        reserved: 0,
    };
    let grid = [grid.sample.div_ceil(ELEMENTWISE_THREADS), batch];
    let op = op.counted(0, &[Some(rows)], &[Some(out)]);
    op.launch(Module::Embed, &format!("unpatchify_{dtype}"), grid, ELEMENTWISE_THREADS, &params)
}

const LATENT_AXES: [&str; 5] = ["batch", "channels", "frames", "height", "width"];

/// The division of latents into patches, which [`patchify`] and [`unpatchify`] check and pass to their kernels.
struct PatchGrid {
    channels: i32,
    /// Frames, height, width of a latent; of a patch; and tokens along each.
    latent: [i32; 3],
    patch: [i32; 3],
    counts: [i32; 3],
    /// Tokens per sample.
    tokens: usize,
    /// Elements of a patch over all channels.
    elements: usize,
    /// Elements of a sample's latents.
    sample: usize,
}

impl PatchGrid {
    /// `latents` `[batch, channels, frames, height, width]`, axes already checked.
    fn new(op: &Op<'_>, latents: &Tensor, patch: [usize; 3], tokens: [usize; 3]) -> Result<Self> {
        let sizes = &latents.shape()[2..];
        if patch.contains(&0) {
            return Err(op.value("patch", format!("{patch:?}"), "at least 1 on each axis"));
        }
        let expected: [usize; 3] = std::array::from_fn(|axis| sizes[axis].div_ceil(patch[axis]));
        if tokens != expected {
            let expected = format!("{expected:?}: {sizes:?} in patches of {patch:?}");
            return Err(op.value("tokens", format!("{tokens:?}"), expected));
        }
        let channels = latents.shape()[1];
        let sample = latents.shape()[1..].iter().product();
        // The kernels index a sample with 32 bits.
        op.int("latents", sample)?;
        let ints = |name, v: &[usize]| -> Result<[i32; 3]> {
            Ok([op.int(name, v[0])?, op.int(name, v[1])?, op.int(name, v[2])?])
        };
        Ok(Self {
            channels: op.int("channels", channels)?,
            latent: ints("latents", sizes)?,
            patch: ints("patch", &patch)?,
            counts: ints("tokens", &tokens)?,
            tokens: tokens.iter().product(),
            elements: channels * patch.iter().product::<usize>(),
            sample,
        })
    }
}

/// Open-Sora's 2-D sin/cos table over one frame's tokens: `[sin, cos]` of the width coordinate, then of the height coordinate,
/// with coordinates `i / scale · base_size / count` and frequencies `10000^(−2k/(channels/2))`.
///
/// * `out` `[tokens_h · tokens_w, channels]` f32, channels a multiple of 4.
/// * `scale` = √(pixels)/input_sq_size, `base_size` = round(√tokens).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or numbers are invalid.
pub fn position_table(tokens_h: usize, tokens_w: usize, scale: f32, base_size: f32, out: &Tensor) -> Result<()> {
    let op = Op::new("position_table", out);
    let [tokens, channels] = op.axes("out", out, ["tokens", "channels"])?;
    op.check("out", out, DType::F32, &[("tokens_h*tokens_w", tokens_h * tokens_w), ("channels", channels)])?;
    if !channels.is_multiple_of(4) {
        return Err(op.value("channels", channels, "a multiple of 4"));
    }
    for (argument, value) in [("scale", scale), ("base_size", base_size)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(op.value(argument, value, "a positive number"));
        }
    }
    let params = PositionTableParams {
        out: out.ptr(),
        tokens_h: op.int("tokens_h", tokens_h)?,
        tokens_w: op.int("tokens_w", tokens_w)?,
        channels: op.int("channels", channels)?,
        scale,
        base_size,
        reserved: 0,
    };
    let grid = [(tokens * channels / 4).div_ceil(ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[], &[Some(out)]);
    op.launch(Module::Embed, "position_table", grid, ELEMENTWISE_THREADS, &params)
}

/// `x[row] += table[row % tokens]`, in place.
///
/// * `x` `[rows, channels]` D (leading axes are flattened), rows a multiple of tokens; `table` `[tokens, channels]` f32.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn position_add(x: &Tensor, table: &Tensor) -> Result<()> {
    let op = Op::new("position_add", x);
    let dtype = op.compute_dtype("x", x)?;
    let [tokens, channels] = op.axes("table", table, ["tokens", "channels"])?;
    op.check("table", table, DType::F32, &[])?;
    if tokens == 0 || channels == 0 {
        return Err(op.shape_error("table", table, &[("tokens", 1), ("channels", 1)]));
    }
    let rows = x.elements() / channels;
    op.check_rows("x", x, dtype, [("rows", rows), ("channels", channels)])?;
    if !rows.is_multiple_of(tokens) {
        return Err(op.value("rows", rows, format_args!("a multiple of the table's {tokens} tokens")));
    }
    let params = PositionAddParams {
        x: x.ptr(),
        table: table.ptr(),
        rows: op.int("rows", rows)?.into(),
        tokens: op.int("tokens", tokens)?,
        channels: op.int("channels", channels)?,
    };
    let blocks = (tokens * channels).div_ceil(chunk_elements(dtype)).div_ceil(ELEMENTWISE_THREADS);
    // Frames share a read of the table; enough of them go apart to give every multiprocessor a few blocks.
    let repeats = (8 * op.device.info().units).div_ceil(blocks).clamp(1, (rows / tokens).clamp(1, 65535));
    let op = op.counted(0, &[Some(x), Some(table)], &[Some(x)]);
    op.launch(Module::Embed, &format!("position_add_{dtype}"), [blocks, repeats], ELEMENTWISE_THREADS, &params)
}

/// Sinusoids: `out[i] = [cos(t_i·f_k), sin(t_i·f_k)]` with `f_k = max_period^(−k/(dim/2))`; the last column of an odd dim is 0.
///
/// * `t` `[count]` f32, `out` `[count, dim]` f32.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn timestep_embed(t: &Tensor, max_period: f32, out: &Tensor) -> Result<()> {
    let op = Op::new("timestep_embed", out);
    let [_, dim] = op.axes("out", out, ["count", "dim"])?;
    let count = t.elements();
    op.check("t", t, DType::F32, &[("count", count)])?;
    op.check("out", out, DType::F32, &[("count", count), ("dim", dim)])?;
    if !(max_period.is_finite() && max_period > 0.0) {
        return Err(op.value("max_period", max_period, "a positive number"));
    }
    let params = TimestepEmbedParams {
        t: t.ptr(),
        out: out.ptr(),
        count: op.int("count", count)?,
        dim: op.int("dim", dim)?,
        max_period,
        reserved: 0,
    };
    let grid = [(count * dim.div_ceil(2)).div_ceil(ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(t)], &[Some(out)]);
    op.launch(Module::Embed, "timestep_embed", grid, ELEMENTWISE_THREADS, &params)
}

/// `out = act(a)·wᵀ + bias (+ add)` for a few rows of f32 activations; with `silu`, act is SiLU, otherwise the identity.
///
/// * `a` `[m, k]` f32, `w` `[n, k]` D, `bias` `[n]` D, `add` and `out` `[m, n]` f32 (leading axes are flattened).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps `a`.
pub fn small_linear(
    a: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    silu: bool,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new("small_linear", out);
    let dtype = op.compute_dtype("w", w)?;
    let [n, k] = op.axes("w", w, ["n", "k"])?;
    op.check("w", w, dtype, &[])?;
    if k == 0 {
        return Err(op.value("k", 0, "at least 1"));
    }
    let m = a.elements() / k;
    op.check_rows("a", a, DType::F32, [("m", m), ("k", k)])?;
    op.check_rows("out", out, DType::F32, [("m", m), ("n", n)])?;
    if let Some(bias) = bias {
        op.check("bias", bias, dtype, &[("n", n)])?;
    }
    if let Some(add) = add {
        op.check_rows("add", add, DType::F32, [("m", m), ("n", n)])?;
    }
    op.not_aliased(out, &[("a", Some(a)), ("w", Some(w)), ("bias", bias)])?;
    let params = SmallLinearParams {
        a: a.ptr(),
        w: w.ptr(),
        bias: ptr(bias),
        add: ptr(add),
        out: out.ptr(),
        m: op.int("m", m)?,
        n: op.int("n", n)?,
        k: op.int("k", k)?,
        silu: silu.into(),
    };
    let blocks = n.div_ceil(params::SMALL_LINEAR_WARPS * params::SMALL_LINEAR_COLUMNS);
    let grid = [if m == 0 { 0 } else { blocks }, 1];
    let op = op.counted(2 * m * n * k, &[Some(a), Some(w), bias, add], &[Some(out)]);
    op.launch(Module::Embed, &format!("small_linear_{dtype}"), grid, params::SMALL_LINEAR_THREADS, &params)
}

/// The scale-shift tables of all layers at one time: `out[layer, row, chunk] = table[layer, chunk] + t[row, chunk % t_chunks]`.
///
/// * `table` `[layers, chunks, channels]` D, `t` `[rows, t_chunks, channels]` f32 with t_chunks = chunks or 1,
///   `out` `[layers, rows, chunks, channels]` f32; rows = batch · variants.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input.
pub fn modulation(table: &Tensor, t: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("modulation", out);
    let dtype = op.compute_dtype("table", table)?;
    let [layers, chunks, channels] = op.axes("table", table, ["layers", "chunks", "channels"])?;
    op.check("table", table, dtype, &[])?;
    let [rows, t_chunks, _] = op.axes("t", t, ["rows", "t_chunks", "channels"])?;
    op.check("t", t, DType::F32, &[("rows", rows), ("t_chunks", t_chunks), ("channels", channels)])?;
    if t_chunks != chunks && t_chunks != 1 {
        return Err(op.value("t_chunks", t_chunks, format_args!("{chunks} or 1")));
    }
    let axes = [("layers", layers), ("rows", rows), ("chunks", chunks), ("channels", channels)];
    op.check("out", out, DType::F32, &axes)?;
    op.not_aliased(out, &[("table", Some(table)), ("t", Some(t))])?;
    let params = ModulationParams {
        table: table.ptr(),
        t: t.ptr(),
        out: out.ptr(),
        layers: op.int("layers", layers)?,
        rows: op.int("rows", rows)?,
        chunks: op.int("chunks", chunks)?,
        channels: op.int("channels", channels)?,
        t_chunks: op.int("t_chunks", t_chunks)?,
        reserved: 0,
    };
    let grid = [(chunks * channels).div_ceil(4).div_ceil(ELEMENTWISE_THREADS), layers];
    let op = op.counted(0, &[Some(table), Some(t)], &[Some(out)]);
    op.launch(Module::Embed, &format!("modulation_{dtype}"), grid, ELEMENTWISE_THREADS, &params)
}

/// RoPE's table: `out[position, i] = (cos, sin)(position · freqs[i])`.
///
/// * `freqs` `[half]` D (read from the checkpoint), `out` `[positions, half, 2]` f32.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn rope_table(freqs: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("rope_table", out);
    let dtype = op.compute_dtype("freqs", freqs)?;
    let half = freqs.elements();
    op.check("freqs", freqs, dtype, &[("half", half)])?;
    let [positions, ..] = op.axes("out", out, ["positions", "half", "2"])?;
    op.check("out", out, DType::F32, &[("positions", positions), ("half", half), ("cos, sin", 2)])?;
    let params = RopeTableParams {
        freqs: freqs.ptr(),
        out: out.ptr(),
        positions: op.int("positions", positions)?,
        half: op.int("half", half)?,
    };
    let grid = [(positions * half).div_ceil(ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(freqs)], &[Some(out)]);
    op.launch(Module::Embed, &format!("rope_table_{dtype}"), grid, ELEMENTWISE_THREADS, &params)
}

/// `out = a · b`, element by element. `out` may be `a` or `b`.
///
/// * All of one shape and type D.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input without being it.
pub fn multiply(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("multiply", out);
    let dtype = op.compute_dtype("out", out)?;
    let axes: Vec<(&str, usize)> = out.shape().iter().map(|&length| ("as out", length)).collect();
    for (argument, tensor) in [("a", a), ("b", b)] {
        op.check(argument, tensor, dtype, &axes)?;
        if tensor.ptr() != out.ptr() {
            op.not_aliased(out, &[(argument, Some(tensor))])?;
        }
    }
    let params = MultiplyParams { a: a.ptr(), b: b.ptr(), out: out.ptr(), count: out.elements() as i64 };
    let blocks = out.elements().div_ceil(chunk_elements(dtype)).div_ceil(ELEMENTWISE_THREADS);
    let op = op.counted(0, &[Some(a), Some(b)], &[Some(out)]);
    op.launch(Module::Embed, &format!("multiply_{dtype}"), [blocks, 1], ELEMENTWISE_THREADS, &params)
}

/// `out[b, j] = src[b, index[b, j]]`, zeros where the index is negative: packs the valid tokens of a caption.
///
/// * `src` `[batch, src_rows, channels]` D, `index` `[batch, dst_rows]` i32 below src_rows, `out` `[batch, dst_rows, channels]` D.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps `src`.
pub fn gather_rows(src: &Tensor, index: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("gather_rows", out);
    let dtype = op.compute_dtype("src", src)?;
    let [batch, src_rows, channels] = op.axes("src", src, ["batch", "src_rows", "channels"])?;
    op.check("src", src, dtype, &[])?;
    let [_, dst_rows] = op.axes("index", index, ["batch", "dst_rows"])?;
    op.check("index", index, DType::I32, &[("batch", batch), ("dst_rows", dst_rows)])?;
    op.check("out", out, dtype, &[("batch", batch), ("dst_rows", dst_rows), ("channels", channels)])?;
    op.not_aliased(out, &[("src", Some(src)), ("index", Some(index))])?;
    let params = GatherRowsParams {
        src: src.ptr(),
        index: index.ptr(),
        out: out.ptr(),
        batch: op.int("batch", batch)?,
        src_rows: op.int("src_rows", src_rows)?,
        dst_rows: op.int("dst_rows", dst_rows)?,
        channels: op.int("channels", channels)?,
    };
    let grid = [(batch * dst_rows).div_ceil(params::ROW_WARPS), 1];
    let op = op.counted(0, &[Some(index), Some(out)], &[Some(out)]);
    op.launch(Module::Embed, &format!("gather_rows_{dtype}"), grid, params::ROW_THREADS, &params)
}
