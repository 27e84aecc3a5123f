//! Fused attention on packed projections: `kernels/attention.cu`.

use super::params::{self, AttentionParams, SequenceLayout};
use super::{Op, OpError, Result, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// The extent of hidden states: `batch · frames · tokens` rows, tokens fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoDims {
    /// Samples, guidance's second half included.
    pub batch: usize,
    /// Latent frames (after temporal patches).
    pub frames: usize,
    /// Tokens of a frame.
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

/// Self-attention within each frame: `out = softmax(q·kᵀ/√head_dim)·v` over the tokens of one (batch, frame).
///
/// * `qkv` `[rows, 3, heads, head_dim]` D, `out` `[rows, heads·head_dim]` D; head_dim 32 to 128 in steps of 8.
/// * `norm`: RMSNorm on q and k; then `rope` `[positions ≥ tokens, head_dim/2, 2]` f32 (cos, sin) turns interleaved pairs.
///
/// # Errors
/// [`OpError`] when shapes, types or devices do not fit, or `out` overlaps an input.
pub fn spatial(
    qkv: &Tensor,
    dims: &VideoDims,
    norm: Option<QkNorm<'_>>,
    rope: Option<&Tensor>,
    out: &Tensor,
) -> Result<()> {
    // Sequence s = (batch, frame) has its tokens in consecutive rows.
    let sequences = dims.batch * dims.frames;
    let layout = Layout { outer_stride: dims.tokens, inner_stride: 0, step: 1, inner: 1 };
    self_attention("attention::spatial", qkv, dims, norm, rope, out, sequences, dims.tokens, layout)
}

/// Self-attention along time: as [`spatial`], over the frames of one (batch, token). Nothing is transposed or copied.
///
/// * `rope` has a position for each frame.
///
/// # Errors
/// As [`spatial`].
pub fn temporal(
    qkv: &Tensor,
    dims: &VideoDims,
    norm: Option<QkNorm<'_>>,
    rope: Option<&Tensor>,
    out: &Tensor,
) -> Result<()> {
    // Sequence s = (batch, token): its frames are `tokens` rows apart.
    let sequences = dims.batch * dims.tokens;
    let layout =
        Layout { outer_stride: dims.frames * dims.tokens, inner_stride: 1, step: dims.tokens, inner: dims.tokens };
    self_attention("attention::temporal", qkv, dims, norm, rope, out, sequences, dims.frames, layout)
}

/// Cross-attention: every token of a sample attends to that sample's caption.
///
/// * `q` `[rows, heads, head_dim]` D, `kv` `[batch·length, 2, heads, head_dim]` D, `out` `[rows, heads·head_dim]` D.
/// * `kv_lengths` `[batch]` i32: how many of a sample's `length` caption tokens count, at most `length`; 0 gives zeros.
///
/// # Errors
/// As [`spatial`].
pub fn cross(q: &Tensor, kv: &Tensor, kv_lengths: &Tensor, dims: &VideoDims, out: &Tensor) -> Result<()> {
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
    op.check_rows("out", out, dtype, [("rows", rows), ("heads*head_dim", heads * head_dim)])?;
    op.not_aliased(out, &[("q", Some(q)), ("kv", Some(kv)), ("kv_lengths", Some(kv_lengths))])?;

    let (q_len, kv_len, width) = (dims.frames * dims.tokens, kv_rows / dims.batch, heads * head_dim);
    let sample = |length| Layout { outer_stride: length, inner_stride: 0, step: 1, inner: 1 };
    let params = AttentionParams {
        q: q.ptr(),
        k: kv.ptr(),
        v: kv.ptr() + (width * dtype.size()) as u64,
        out: out.ptr(),
        kv_lengths: kv_lengths.ptr(),
        q_layout: sample(q_len).params(&op, width)?,
        kv_layout: sample(kv_len).params(&op, 2 * width)?,
        out_layout: sample(q_len).params(&op, width)?,
        ..Default::default()
    };
    let op = op.counted(4 * rows * kv_len * width, &[Some(q), Some(kv), Some(kv_lengths)], &[Some(out)]);
    launch(&op, dtype, head_dim, heads, dims.batch, q_len, kv_len, params)
}

/// Where the rows of a sequence are; see `SequenceLayout` in `kernels/params.h`.
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

#[allow(clippy::too_many_arguments)]
fn self_attention(
    name: &'static str,
    qkv: &Tensor,
    dims: &VideoDims,
    norm: Option<QkNorm<'_>>,
    rope: Option<&Tensor>,
    out: &Tensor,
    sequences: usize,
    length: usize,
    layout: Layout,
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
    launch(&op, dtype, head_dim, heads, sequences, length, length, params)
}

/// Bytes of dynamic shared memory: `ATTENTION_16_SHARED` and `ATTENTION_64_SHARED` of `kernels/launch_tiles.h`.
const fn shared_bytes(large: bool, head_dim: usize, element: usize) -> usize {
    let row = ((head_dim * element / 16) | 1) * 16;
    let (queries, stages, keys) = match (large, element) {
        (false, _) => (params::ATTENTION_16_QUERIES, 1, 16),
        (true, 2) => (params::ATTENTION_64_QUERIES, 2, 64),
        (true, _) => (params::ATTENTION_64_QUERIES, 2, 16),
    };
    (queries + 2 * stages * keys) * row + 8 * head_dim
}

#[allow(clippy::too_many_arguments)]
fn launch(
    op: &Op<'_>,
    dtype: DType,
    head_dim: usize,
    heads: usize,
    sequences: usize,
    q_len: usize,
    kv_len: usize,
    params: AttentionParams,
) -> Result<()> {
    if !(32..=128).contains(&head_dim) || !head_dim.is_multiple_of(8) {
        return Err(OpError::Value {
            op: op.name,
            argument: "head_dim",
            got: head_dim.to_string(),
            expected: "32 to 128 in steps of 8".into(),
        });
    }
    let params = AttentionParams {
        scale: 1.0 / (head_dim as f32).sqrt(),
        sequences: op.int("sequences", sequences)?,
        heads: op.int("heads", heads)?,
        q_len: op.int("q_len", q_len)?,
        kv_len: op.int("kv_len", kv_len)?,
        ..params
    };
    // One warp suffices for short sequences: temporal attention has thousands of them.
    let large = q_len > params::ATTENTION_16_QUERIES;
    let (queries, threads) = if large {
        (params::ATTENTION_64_QUERIES, params::ATTENTION_64_THREADS)
    } else {
        (params::ATTENTION_16_QUERIES, params::ATTENTION_16_THREADS)
    };
    let entry = format!("attention_{head_dim}_{dtype}_{queries}");
    let grid = [sequences * q_len.div_ceil(queries), heads];
    op.launch(Module::Attention, &entry, grid, threads, shared_bytes(large, head_dim, dtype.size()), &params)
}

#[cfg(test)]
mod tests {
    use super::shared_bytes;

    #[test]
    fn shared_memory_matches_the_kernels_comment() {
        // "bf16/f16 _64 ... 46656 B" for head_dim 72 in kernels/attention.cu.
        assert_eq!(shared_bytes(true, 72, 2), (64 + 4 * 64) * 144 + 8 * 72);
        assert_eq!(shared_bytes(true, 72, 2), 46656);
        assert_eq!(shared_bytes(false, 32, 4), 48 * 144 + 256);
    }
}
