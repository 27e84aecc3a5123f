//! Fused attention on packed projections: `kernels/attention.cu`, and `kernels/sm_90a/attention.cu` for Hopper.

use super::params::{self, AttentionParams, AttentionWgmmaParams, SequenceLayout};
use super::{Choice, Op, OpError, Result, Target, ptr};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// The extent of hidden states: `batch · frames · tokens` rows, tokens fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoDims {
    /// Samples, guidance's second half included.
    pub batch: usize,
    /// Latent frames (after temporal patches).
    pub frames: usize,
    /// Tokens per frame.
    pub tokens: usize,
}

impl VideoDims {
    /// batch · frames · tokens
    pub fn rows(&self) -> usize {
        self.batch * self.frames * self.tokens
    }
}

/// RMSNorm of every head's query and key, before RoPE.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm<'a> {
    /// `[head_dim]` D
    pub q: &'a Tensor,
    /// `[head_dim]` D
    pub k: &'a Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

/// The arguments of a self-attention.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttention<'a> {
    /// `[rows, 3, heads, head_dim]` D; head_dim 32 to 128 in steps of 8.
    pub qkv: &'a Tensor,
    /// How rows map to samples, frames and tokens.
    pub dims: VideoDims,
    /// RMSNorm on q and k. `None`: they stay as they are.
    pub norm: Option<QkNorm<'a>>,
    /// `[positions ≥ length, head_dim/2, 2]` f32 (cos, sin), for sequences of `length` rows: rotates interleaved pairs of q and k after the
    /// norm. `None`: no rotation.
    pub rope: Option<&'a Tensor>,
}

/// Self-attention within each frame: `out = softmax(q·kᵀ/√head_dim)·v` over the tokens of one (batch, frame).
///
/// * `out` `[rows, heads·head_dim]` D.
///
/// # Errors
/// [`OpError`] if shapes, types or devices do not match, or `out` overlaps an input.
pub fn spatial(call: &SelfAttention<'_>, out: &Tensor) -> Result<()> {
    let VideoDims { batch, frames, tokens } = call.dims;
    // Sequence s = (batch, frame) has its tokens in consecutive rows.
    let layout = Layout { outer_stride: tokens, inner_stride: 0, step: 1, inner: 1 };
    self_attention("attention::spatial", call, Sequences { count: batch * frames, length: tokens, layout }, out)
}

/// Self-attention along time: like [`spatial`], over the frames of one (batch, token). Nothing is transposed or copied.
///
/// # Errors
/// As [`spatial`].
pub fn temporal(call: &SelfAttention<'_>, out: &Tensor) -> Result<()> {
    let VideoDims { batch, frames, tokens } = call.dims;
    // Sequence s = (batch, token): its frames are `tokens` rows apart.
    let layout = Layout { outer_stride: frames * tokens, inner_stride: 1, step: tokens, inner: tokens };
    self_attention("attention::temporal", call, Sequences { count: batch * tokens, length: frames, layout }, out)
}

/// Cross-attention: every token of a sample attends to that sample's caption.
///
/// * `q` `[rows, heads, head_dim]` D, `kv` `[batch·length, 2, heads, head_dim]` D, `out` `[rows, heads·head_dim]` D.
/// * `kv_lengths` `[batch]` i32: the number of valid caption tokens of each sample, at most `length`; 0 gives zeros.
/// * `last_bias` `[batch]` f32: added to the score of each sample's last valid token. With ln(n) that token stands for n equal ones.
///
/// # Errors
/// As [`spatial`].
pub fn cross(
    q: &Tensor,
    kv: &Tensor,
    kv_lengths: &Tensor,
    last_bias: Option<&Tensor>,
    dims: &VideoDims,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new("attention::cross", out);
    let dtype = op.compute_dtype("q", q)?;
    let [_, heads, head_dim] = op.axes("q", q, ["rows", "heads", "head_dim"])?;
    let rows = dims.rows();
    op.check("q", q, dtype, &[("rows", rows), ("heads", heads), ("head_dim", head_dim)])?;
    let [kv_rows, ..] = op.axes("kv", kv, ["batch*length", "2", "heads", "head_dim"])?;
    let kv_axes = [("batch*length", kv_rows), ("k, v", 2), ("heads", heads), ("head_dim", head_dim)];
    op.check("kv", kv, dtype, &kv_axes)?;
    if dims.batch == 0 || !kv_rows.is_multiple_of(dims.batch) {
        return Err(op.value("kv", format!("{kv_rows} rows"), format!("a multiple of batch {}", dims.batch)));
    }
    op.check("kv_lengths", kv_lengths, DType::I32, &[("batch", dims.batch)])?;
    if let Some(last_bias) = last_bias {
        op.check("last_bias", last_bias, DType::F32, &[("batch", dims.batch)])?;
    }
    op.check_rows("out", out, dtype, [("rows", rows), ("heads*head_dim", heads * head_dim)])?;
    let inputs = [("q", Some(q)), ("kv", Some(kv)), ("kv_lengths", Some(kv_lengths)), ("last_bias", last_bias)];
    op.not_aliased(out, &inputs)?;

    let (q_len, kv_len, width) = (dims.frames * dims.tokens, kv_rows / dims.batch, heads * head_dim);
    let sample = |length| Layout { outer_stride: length, inner_stride: 0, step: 1, inner: 1 };
    let params = AttentionParams {
        q: q.ptr(),
        k: kv.ptr(),
        v: kv.ptr() + (width * dtype.size()) as u64,
        out: out.ptr(),
        kv_lengths: kv_lengths.ptr(),
        last_bias: ptr(last_bias),
        q_layout: sample(q_len).params(&op, width)?,
        kv_layout: sample(kv_len).params(&op, 2 * width)?,
        out_layout: sample(q_len).params(&op, width)?,
        ..Default::default()
    };
    let op = op.counted(4 * rows * kv_len * width, &[Some(q), Some(kv), Some(kv_lengths), last_bias], &[Some(out)]);
    let shape = Shape {
        head_dim,
        heads,
        sequences: dims.batch,
        q_len,
        kv_len,
        plain: true,
        aligned: aligned(&params),
        whole: false,
    };
    launch(&op, dtype, shape, params)
}

/// Self-attention of one sequence with a bias by distance, and scores that are not scaled: `out = softmax(q·kᵀ + bias)·v`, as in T5.
///
/// * `qkv` `[rows, 3, heads, head_dim]` D, head_dim 8 to 64 in steps of 8; `out` `[rows, heads·head_dim]` D.
/// * `keys`: all rows attend to the first so many, at least 1; the others are padding.
/// * `bias` `[heads, 2·rows − 1]` f32: of every head by key − query, from −(rows − 1) on.
///
/// # Errors
/// As [`spatial`].
pub fn biased(qkv: &Tensor, keys: usize, bias: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new("attention::biased", out);
    let dtype = op.compute_dtype("qkv", qkv)?;
    let [rows, _, heads, head_dim] = op.axes("qkv", qkv, ["rows", "3", "heads", "head_dim"])?;
    let qkv_axes = [("rows", rows), ("q, k, v", 3), ("heads", heads), ("head_dim", head_dim)];
    op.check("qkv", qkv, dtype, &qkv_axes)?;
    let distances = (2 * rows).saturating_sub(1);
    op.check("bias", bias, DType::F32, &[("heads", heads), ("2*rows - 1", distances)])?;
    op.check_rows("out", out, dtype, [("rows", rows), ("heads*head_dim", heads * head_dim)])?;
    op.not_aliased(out, &[("qkv", Some(qkv)), ("bias", Some(bias))])?;
    if !(8..=BIASED_HEAD_DIM).contains(&head_dim) || !head_dim.is_multiple_of(8) {
        return Err(op.value("head_dim", head_dim, format_args!("8 to {BIASED_HEAD_DIM} in steps of 8")));
    }
    if !(1..=rows).contains(&keys) {
        return Err(op.value("keys", keys, format_args!("1 to {rows}")));
    }
    let width = heads * head_dim;
    let part = (width * dtype.size()) as u64;
    let layout = Layout { outer_stride: rows, inner_stride: 0, step: 1, inner: 1 };
    let packed = layout.params(&op, 3 * width)?;
    let length = op.int("rows", rows)?;
    let params = AttentionParams {
        q: qkv.ptr(),
        k: qkv.ptr() + part,
        v: qkv.ptr() + 2 * part,
        out: out.ptr(),
        bias: bias.ptr(),
        bias_span: length,
        q_layout: packed,
        kv_layout: packed,
        out_layout: layout.params(&op, width)?,
        scale: 1.0,
        sequences: 1,
        heads: op.int("heads", heads)?,
        q_len: length,
        kv_len: op.int("keys", keys)?,
        head_dim: op.int("head_dim", head_dim)?,
        ..Default::default()
    };
    let (queries, shared) = streamed(BIASED_HEAD_DIM, dtype, true);
    let op = op.counted(4 * rows * keys * width, &[Some(qkv), Some(bias)], &[Some(out)]);
    op.launch_choice(
        &Choice {
            module: Module::Attention,
            entry: format!("attention_{BIASED_HEAD_DIM}_{dtype}_biased"),
            grid: [rows.div_ceil(queries), heads],
            threads: params::ATTENTION_LARGE_THREADS,
            shared,
        },
        &params,
    )
}

/// Queries and shared memory of a block of the kernels that stream keys; `apart`: Q has shared memory of its own.
fn streamed(compiled: usize, dtype: DType, apart: bool) -> (usize, usize) {
    let wide = dtype.size() == 2 && compiled <= 72;
    let (queries, keys) = (if wide { 128 } else { 64 }, if dtype.size() == 2 { 64 } else { 16 });
    // Two stages of K and V; Q else shares a stage.
    let rows = 4 * keys + if apart { queries } else { 0 };
    (queries, rows * row_bytes(compiled, dtype) + 8 * compiled + 8 * keys + 48)
}

/// Bytes from row to row in shared memory: an odd number of 16-byte chunks, against bank conflicts.
fn row_bytes(compiled: usize, dtype: DType) -> usize {
    ((compiled * dtype.size() / 16) | 1) * 16
}

/// Shared memory of a block of `kernels/sm_90a/attention.cu`: `ATTENTION_WGMMA_SHARED` of `kernels/launch_tiles.h`.
fn wgmma_shared(head_dim: usize) -> usize {
    let stages = if head_dim <= 72 { 3 } else { 2 };
    let tile = params::ATTENTION_WGMMA_KEYS * 32 * head_dim.div_ceil(16);
    2 * stages * tile + params::ATTENTION_WGMMA_QUERIES * row_bytes(head_dim, DType::Bf16) + 128
}

/// The location of a sequence's rows; see `SequenceLayout` in `kernels/params.h`.
#[derive(Clone, Copy)]
struct Layout {
    outer_stride: usize,
    inner_stride: usize,
    step: usize,
    inner: usize,
}

impl Layout {
    fn params(self, op: &Op<'_>, row_stride: usize) -> Result<SequenceLayout> {
        Ok(SequenceLayout {
            outer_stride: op.int("rows", self.outer_stride)?.into(),
            inner_stride: op.int("rows", self.inner_stride)?.into(),
            step: op.int("rows", self.step)?.into(),
            row_stride: op.int("channels", row_stride)?.into(),
            // A divisor.
            inner: op.int("tokens", self.inner.max(1))?,
            reserved: 0,
        })
    }
}

/// The sequences whose rows attend to each other.
#[derive(Clone, Copy)]
struct Sequences {
    count: usize,
    length: usize,
    layout: Layout,
}

fn self_attention(
    name: &'static str,
    &SelfAttention { qkv, ref dims, norm, rope }: &SelfAttention<'_>,
    Sequences { count, length, layout }: Sequences,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new(name, out);
    let dtype = op.compute_dtype("qkv", qkv)?;
    let [_, _, heads, head_dim] = op.axes("qkv", qkv, ["rows", "3", "heads", "head_dim"])?;
    let rows = dims.rows();
    let qkv_axes = [("rows", rows), ("q, k, v", 3), ("heads", heads), ("head_dim", head_dim)];
    op.check("qkv", qkv, dtype, &qkv_axes)?;
    op.check_rows("out", out, dtype, [("rows", rows), ("heads*head_dim", heads * head_dim)])?;
    op.not_aliased(out, &[("qkv", Some(qkv)), ("rope", rope)])?;
    let mut params = AttentionParams::default();
    if let Some(QkNorm { q, k, eps }) = norm {
        for (argument, weight) in [("q_norm", q), ("k_norm", k)] {
            op.check(argument, weight, dtype, &[("head_dim", head_dim)])?;
        }
        op.finite("eps", eps)?;
        (params.q_norm, params.k_norm, params.norm_eps) = (q.ptr(), k.ptr(), eps);
    }
    if let Some(rope) = rope {
        let [positions, ..] = op.axes("rope", rope, ["positions", "head_dim/2", "2"])?;
        let axes = [("positions", positions.max(length)), ("head_dim/2", head_dim / 2), ("cos, sin", 2)];
        op.check("rope", rope, DType::F32, &axes)?;
    }
    let width = heads * head_dim;
    let part = (width * dtype.size()) as u64;
    let packed = layout.params(&op, 3 * width)?;
    let params = AttentionParams {
        q: qkv.ptr(),
        k: qkv.ptr() + part,
        v: qkv.ptr() + 2 * part,
        out: out.ptr(),
        rope: ptr(rope),
        q_layout: packed,
        kv_layout: packed,
        out_layout: layout.params(&op, width)?,
        ..params
    };
    let op = op.counted(4 * rows * length * width, &[Some(qkv), rope], &[Some(out)]);
    let plain = norm.is_none() && rope.is_none();
    let shape = Shape {
        head_dim,
        heads,
        sequences: count,
        q_len: length,
        kv_len: length,
        plain,
        aligned: aligned(&params),
        whole: layout.step == 1,
    };
    launch(&op, dtype, shape, params)
}

/// The properties of a call that determine its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Channels of a head: 32 to 128 in steps of 8.
    pub head_dim: usize,
    /// Heads.
    pub heads: usize,
    /// Number of sequences.
    pub sequences: usize,
    /// Queries per sequence.
    pub q_len: usize,
    /// Maximum number of keys per sequence.
    pub kv_len: usize,
    /// Neither norm nor RoPE.
    pub plain: bool,
    /// All tensors lie on 16-byte boundaries.
    pub aligned: bool,
    /// A sequence is rows that follow one another, and all of them are its keys.
    pub whole: bool,
}

/// Whether q, k, v and out lie on 16-byte boundaries.
fn aligned(params: &AttentionParams) -> bool {
    [params.q, params.k, params.v, params.out].iter().all(|ptr| ptr.is_multiple_of(params::CHUNK_BYTES as u64))
}

/// The largest head dimension of the kernels with a bias by distance.
const BIASED_HEAD_DIM: usize = 64;
/// Head dimensions with their own kernels; the others use the next larger one.
const HEAD_DIMS: [usize; 6] = [32, 48, 64, 72, 96, 128];
/// The head dimension with a kernel of its own for neither norm nor RoPE, in 16-bit types.
const PLAIN_HEAD_DIM: usize = 128;
/// The head dimension with a kernel of its own for Hopper, with or without norm and RoPE.
const NORMED_WGMMA_HEAD_DIM: usize = 72;
/// The most queries and keys of a strided sequence, the frames of a token, for a team of warps that each have 16 of both. In a block of 128
/// queries two or three of four warps would have no query.
const SHORT_FRAMES: usize = params::ATTENTION_SHORT_ROWS * params::ATTENTION_SHORT_WARPS;
/// Keys per tile of the kernel that keeps them in shared memory, and the minimum number of query tiles for which loading them all pays off.
const CROSS_KEYS: usize = 32;
const CROSS_TILES: usize = 4;

/// The kernel for a shape, or `None` if head_dim is not 32 to 128 in steps of 8. The sizes are those of `kernels/launch_tiles.h`.
pub fn choose(target: Target, dtype: DType, shape: Shape) -> Option<Choice> {
    let Shape { head_dim, heads, sequences, q_len, kv_len, plain, aligned, whole } = shape;
    let compiled = *HEAD_DIMS.iter().find(|&&d| head_dim <= d && head_dim >= 32 && head_dim.is_multiple_of(8))?;
    let element = dtype.size();
    let row = row_bytes(compiled, dtype);
    let choice = |kind, grid, threads, shared| {
        Some(Choice {
            module: Module::Attention,
            entry: format!("attention_{compiled}_{dtype}_{kind}"),
            grid,
            threads,
            shared,
        })
    };
    let (team, teams) = short_teams(q_len.max(kv_len));
    let short_shared = 8 * compiled + 3 * params::ATTENTION_SHORT_ROWS * team * teams * row;
    let short = if whole { params::ATTENTION_SHORT_ROWS } else { SHORT_FRAMES };
    if q_len <= short && kv_len <= SHORT_FRAMES && short_shared <= target.block_shared {
        return choice("short", [(sequences * heads).div_ceil(teams), 1], 32 * team * teams, short_shared);
    }
    let hopper = target.runs(Module::AttentionWgmma) && wgmma_shared(head_dim) <= target.block_shared;
    let served = head_dim == NORMED_WGMMA_HEAD_DIM || plain && head_dim == PLAIN_HEAD_DIM;
    if hopper && served && aligned && whole && element == 2 {
        return Some(Choice {
            module: Module::AttentionWgmma,
            entry: format!("attention_{head_dim}_{dtype}_wgmma"),
            grid: [sequences * q_len.div_ceil(params::ATTENTION_WGMMA_QUERIES), heads],
            threads: params::ATTENTION_WGMMA_THREADS,
            shared: wgmma_shared(head_dim),
        });
    }
    // Fragments of two m-tiles fit in the registers up to here.
    let wide = element == 2 && compiled <= 72;
    let cross_queries = if wide { 256 } else { 128 };
    let cross_shared = (2 * kv_len.next_multiple_of(CROSS_KEYS) + cross_queries) * row;
    let tiles = q_len.div_ceil(cross_queries);
    if plain && element == 2 && tiles >= CROSS_TILES && cross_shared <= target.block_shared {
        // Blocks for each sequence and head: each loads the keys once (about a tile's work) and then takes its share of the tiles.
        let time =
            |blocks: usize| (sequences * heads * blocks).div_ceil(target.units.max(1)) * (tiles.div_ceil(blocks) + 1);
        let blocks = (1..=tiles).min_by_key(|&blocks| time(blocks)).unwrap_or(1);
        return choice("cross", [sequences * blocks, heads], params::ATTENTION_CROSS_THREADS, cross_shared);
    }
    if plain && aligned && element == 2 && head_dim == PLAIN_HEAD_DIM {
        // Two stages of K and V of 32 keys, and the part of Q that has no registers.
        let parked = params::ATTENTION_PLAIN_PARKED * 2 * 16 * params::ATTENTION_PLAIN_THREADS;
        let blocks = sequences * q_len.div_ceil(params::ATTENTION_PLAIN_QUERIES);
        return choice("plain", [blocks, heads], params::ATTENTION_PLAIN_THREADS, 4 * 32 * row + parked + 16);
    }
    let (queries, shared) = streamed(compiled, dtype, element == 4);
    choice("large", [sequences * q_len.div_ceil(queries), heads], params::ATTENTION_LARGE_THREADS, shared)
}

/// Warps for a sequence and head of `rows` queries or keys, and such teams of a block.
pub(crate) fn short_teams(rows: usize) -> (usize, usize) {
    let team = rows.div_ceil(params::ATTENTION_SHORT_ROWS).max(1);
    (team, (params::ATTENTION_SHORT_WARPS / team).max(1))
}

fn launch(op: &Op<'_>, dtype: DType, shape: Shape, params: AttentionParams) -> Result<()> {
    let Shape { head_dim, heads, sequences, q_len, kv_len, .. } = shape;
    let Some(choice) = choose(Target::of(op.device), dtype, shape) else {
        return Err(OpError::Value {
            op: op.name,
            argument: "head_dim",
            got: head_dim.to_string(),
            expected: "32 to 128 in steps of 8".into(),
        });
    };
    let params = AttentionParams {
        scale: 1.0 / (head_dim as f32).sqrt(),
        sequences: op.int("sequences", sequences)?,
        heads: op.int("heads", heads)?,
        q_len: op.int("q_len", q_len)?,
        kv_len: op.int("kv_len", kv_len)?,
        head_dim: op.int("head_dim", head_dim)?,
        ..params
    };
    match choice.module {
        Module::AttentionWgmma => op.launch_choice(&choice, &wgmma_params(op.device, dtype, params)?),
        _ => op.launch_choice(&choice, &params),
    }
}

/// The parameters of `kernels/sm_90a/attention.cu`: the same and the maps of boxes of a tile's keys. Sequences are whole.
///
/// # Errors
/// [`OpError`] for rows that tensor maps cannot describe (not aligned to 16 bytes), and without tensor maps.
pub fn wgmma_params(device: &Device, dtype: DType, attention: AttentionParams) -> Result<AttentionWgmmaParams> {
    let AttentionParams { k, v, kv_len, head_dim, heads, sequences, kv_layout, .. } = attention;
    let [size, channels] = [dtype.size(), head_dim as usize].map(|size| size as u64);
    let row = kv_layout.row_stride as u64 * size;
    // A length of 0 has no rows to copy, and no map.
    let extents = [channels, kv_len.max(1) as u64, heads as u64, sequences as u64];
    let strides = [row, channels * size, (kv_layout.outer_stride as u64 * row).max(16)];
    let map = |address: u64, block: u32| {
        let tile = [block, params::ATTENTION_WGMMA_KEYS as u32, 1, 1];
        super::swizzled_map(device, dtype, address, &extents, &strides, &tile)
    };
    // Blocks of channels: of 64, and of 16 what is left of K, and V where something is left.
    let v_block = if channels.is_multiple_of(64) { 64 } else { 16 };
    Ok(AttentionWgmmaParams {
        k_map: map(k, 64)?,
        k_rest_map: map(k, 16)?,
        v_map: map(v, v_block)?,
        attention,
        reserved: [0; params::ATTENTION_RESERVED],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_follow_the_shape() {
        let a100 = Target::new(108, (8, 0));
        let spatial = Shape {
            head_dim: 72,
            heads: 16,
            sequences: 30,
            q_len: 3600,
            kv_len: 3600,
            plain: false,
            aligned: true,
            whole: true,
        };
        let choice = |dtype, shape| choose(a100, dtype, shape).unwrap();
        let large = choice(DType::Bf16, spatial);
        assert_eq!((large.entry.as_str(), large.grid), ("attention_72_bf16_large", [30 * 29, 16]));
        // "K, V [64] rows in two stages, weights, 1/rms" of kernels/attention.cu.
        assert_eq!(large.shared, 4 * 64 * 144 + 8 * 72 + 8 * 64 + 48);
        assert_eq!(choice(DType::F32, spatial).shared, (4 * 16 + 64) * 304 + 8 * 72 + 8 * 16 + 48);
        let temporal = Shape { sequences: 7200, q_len: 15, kv_len: 15, whole: false, ..spatial };
        assert_eq!(choice(DType::Bf16, temporal).grid, [7200 * 16 / 4, 1]);
        let frames = |dtype, frames, whole| choice(dtype, Shape { q_len: frames, kv_len: frames, whole, ..temporal });
        // Warps for each sequence and head, and such teams of a block: none is without queries.
        for (count, team, teams) in [(16, 1, 4), (17, 2, 2), (32, 2, 2), (33, 3, 1), (48, 3, 1), (49, 4, 1), (64, 4, 1)]
        {
            for (dtype, row) in [(DType::Bf16, 144), (DType::F32, 304)] {
                let long = frames(dtype, count, false);
                assert_eq!(long.entry, format!("attention_72_{dtype}_short"));
                assert_eq!((long.grid, long.threads), ([7200 * 16 / teams, 1], 32 * team * teams), "{count} frames");
                // "the weights, then for each team K, V, Q, of 16 rows for each of its warps" of kernels/attention.cu.
                assert_eq!(long.shared, 8 * 72 + team * teams * 48 * row);
            }
        }
        assert_eq!(frames(DType::Bf16, 65, false).entry, "attention_72_bf16_large");
        assert_eq!(frames(DType::Bf16, 17, true).entry, "attention_72_bf16_large");
        let cross = Shape { sequences: 2, q_len: 15 * 3600, kv_len: 300, plain: true, ..spatial };
        assert_eq!(choice(DType::Bf16, cross).entry, "attention_72_bf16_cross");
        assert_eq!(choice(DType::F32, cross).entry, "attention_72_f32_large");
        // What a smaller shared memory cannot hold is streamed.
        let a40 = Target::new(84, (8, 6));
        assert_eq!(choose(a40, DType::Bf16, cross).unwrap().entry, "attention_72_bf16_large");
        let wide = Shape { head_dim: 128, ..temporal };
        assert_eq!(choice(DType::F32, wide).entry, "attention_128_f32_short");
        assert_eq!(choose(a40, DType::F32, wide).unwrap().entry, "attention_128_f32_large");
        assert_eq!(choice(DType::F16, Shape { head_dim: 88, ..cross }).entry, "attention_96_f16_cross");
        // Wan: 81 frames of 480p, self-attention and text that is too long to stay in shared memory.
        let wan = Shape { head_dim: 128, heads: 12, sequences: 2, q_len: 32760, kv_len: 32760, ..cross };
        let plain = choice(DType::Bf16, wan);
        assert_eq!((plain.entry.as_str(), plain.grid), ("attention_128_bf16_plain", [2 * 256, 12]));
        assert_eq!(plain.shared, 4 * 32 * 272 + 3 * 4096 + 16);
        assert_eq!(choice(DType::F16, Shape { kv_len: 512, ..wan }).entry, "attention_128_f16_plain");
        assert_eq!(choice(DType::Bf16, Shape { kv_len: 200, ..wan }).entry, "attention_128_bf16_cross");
        for other in [Shape { aligned: false, ..wan }, Shape { plain: false, ..wan }, Shape { head_dim: 120, ..wan }] {
            assert_eq!(choice(DType::Bf16, other).entry, "attention_128_bf16_large");
        }
        assert_eq!(choice(DType::F32, wan).entry, "attention_128_f32_large");
        let h100 = Target::new(132, (9, 0));
        let hopper = choose(h100, DType::F16, wan).unwrap();
        assert_eq!((hopper.entry.as_str(), hopper.grid), ("attention_128_f16_wgmma", [2 * 256, 12]));
        let normed = choose(h100, DType::Bf16, spatial).unwrap();
        assert_eq!((normed.entry.as_str(), normed.grid), ("attention_72_bf16_wgmma", [30 * 29, 16]));
        let others = [
            Shape { whole: false, ..wan },
            Shape { aligned: false, ..wan },
            Shape { plain: false, ..wan },
            Shape { head_dim: 64, ..spatial },
            Shape { whole: false, ..spatial },
            Shape { aligned: false, ..spatial },
        ];
        for other in others {
            assert_eq!(choose(h100, DType::Bf16, other).unwrap().module, Module::Attention);
        }
        for head_dim in [24, 36, 136] {
            assert_eq!(choose(a100, DType::Bf16, Shape { head_dim, ..cross }), None);
        }
    }
}
