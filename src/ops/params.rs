// Made by tools/bindgen.sh from kernels/{params,launch,launch_tiles}.h; do not edit.

use crate::device::EncodedTensorMap as TensorMap;

pub const MAX_STRIDES: usize = 8;
pub const PROBE_SUMS: usize = 6;
pub const MOTION_SUMS: usize = 3;
pub const LINEAR_FP8_RESERVED: usize = 12;
pub const ATTENTION_RESERVED: usize = 6;
pub const SOLVER_HISTORY: usize = 4;
pub const SOLVER_TERMS: usize = 6;
pub const STEP_LATENTS: usize = 1;
pub const STEP_SLOT: usize = 7;
pub const STEP_KEPT: usize = 8;
pub const STEP_WORDS: usize = 14;
pub const DECIDE_L1_METRIC: usize = 0;
pub const DECIDE_L2_METRIC: usize = 1;
pub const DECIDE_COSINE_METRIC: usize = 2;
pub const CHUNK_BYTES: usize = 16;
pub const ROW_WARPS: usize = 4;
pub const ROW_THREADS: usize = 128;
pub const PROBE_THREADS: usize = 128;
pub const PROBE_MAX_BLOCKS: usize = 1024;
pub const REDUCE_WARPS: usize = 8;
pub const REDUCE_THREADS: usize = 256;
pub const ELEMENTWISE_THREADS: usize = 256;
pub const SMALL_LINEAR_WARPS: usize = 4;
pub const SMALL_LINEAR_COLUMNS: usize = 4;
pub const SMALL_LINEAR_THREADS: usize = 128;
pub const DECODE_WARPS: usize = 4;
pub const DECODE_THREADS: usize = 128;
pub const STEP_THREADS: usize = 64;
pub const PACK_WARPS: usize = 8;
pub const PACK_THREADS: usize = 256;
pub const PACK_MAX_BLOCKS: usize = 1024;
pub const GROUP_THREADS: usize = 256;
pub const GROUP_POSITIONS: usize = 64;
pub const GROUP_MAX_BLOCKS: usize = 512;
pub const GROUP_MAX_CHANNELS: usize = 1024;
pub const CIRCULANT_THREADS: usize = 256;
pub const CIRCULANT_ELEMENTS: usize = 8192;
pub const CIRCULANT_LENGTH: usize = 1024;
pub const SOFTMAX_THREADS: usize = 256;
pub const LINEAR_K_BYTES: usize = 64;
pub const LINEAR_256_M: usize = 256;
pub const LINEAR_256_N: usize = 144;
pub const LINEAR_256_THREADS: usize = 256;
pub const LINEAR_256_SHARED: usize = 78848;
pub const LINEAR_128_M: usize = 128;
pub const LINEAR_128_N: usize = 144;
pub const LINEAR_128_SHARED: usize = 70656;
pub const LINEAR_96_M: usize = 128;
pub const LINEAR_96_N: usize = 96;
pub const LINEAR_96_THREADS: usize = 192;
pub const LINEAR_96_SHARED: usize = 44032;
pub const LINEAR_PARTS: usize = 16;
pub const LINEAR_64_M: usize = 64;
pub const LINEAR_64_N: usize = 48;
pub const LINEAR_64_THREADS: usize = 96;
pub const LINEAR_64_SHARED: usize = 29184;
pub const LINEAR_WGMMA_M: usize = 256;
pub const LINEAR_WGMMA_N: usize = 192;
pub const LINEAR_WGMMA_K_BYTES: usize = 128;
pub const LINEAR_WGMMA_THREADS: usize = 384;
pub const LINEAR_WGMMA_SHARED: usize = 172080;
pub const CONV_M: usize = 128;
pub const CONV_TALL_M: usize = 256;
pub const CONV_STAGES: usize = 4;
pub const CONV_192_THREADS: usize = 256;
pub const CONV_192_SHARED: usize = 81920;
pub const CONV_TALL_THREADS: usize = 256;
pub const CONV_TALL_SHARED: usize = 90112;
pub const CONV_ROW_THREADS: usize = 256;
pub const CONV_128_THREADS: usize = 256;
pub const CONV_128_SHARED: usize = 65536;
pub const CONV_96_THREADS: usize = 128;
pub const CONV_96_SHARED: usize = 57344;
pub const CONV_16_THREADS: usize = 128;
pub const CONV_16_SHARED: usize = 36864;
pub const ATTENTION_LARGE_THREADS: usize = 128;
pub const ATTENTION_PLAIN_THREADS: usize = 128;
pub const ATTENTION_PLAIN_QUERIES: usize = 128;
pub const ATTENTION_PLAIN_PARKED: usize = 3;
pub const ATTENTION_SHORT_ROWS: usize = 16;
pub const ATTENTION_SHORT_WARPS: usize = 4;
pub const ATTENTION_SHORT_THREADS: usize = 128;
pub const ATTENTION_CROSS_THREADS: usize = 256;
pub const ATTENTION_WGMMA_QUERIES: usize = 128;
pub const ATTENTION_WGMMA_KEYS: usize = 128;
pub const ATTENTION_WGMMA_THREADS: usize = 384;
/// out = epilogue(prologue(a) . w^T + bias). Entries linear[_ln]_{bias,gelu,residual}_{bf16,f16,f32}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct LinearParams {
    /// [m, k] D
    pub a: u64,
    /// [n, k] D
    pub w: u64,
    /// [n] D, or null
    pub bias: u64,
    /// [m, n] D; the residual epilogue reads it and adds to it
    pub out: u64,
    /// residual epilogue: [m, n] D, the added value gate*(acc+bias) itself, or null
    pub residual_out: u64,
    /// _ln: [m, 2] mean and 1/sqrt(var+eps) of every row of a
    pub row_stats: u64,
    /// [batch, variants, chunks, channels], or null (no gate)
    pub modulation: u64,
    /// [batch, frames]: 1 takes variant 0 (t), 0 variant 1 (t0); null: variant 0
    pub frame_mask: u64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    /// row r belongs to batch r/(frames*rows_per_frame), frame (r/rows_per_frame)%frames
    pub frames: i32,
    /// row r belongs to batch r/(frames*rows_per_frame), frame (r/rows_per_frame)%frames
    pub rows_per_frame: i32,
    pub variants: i32,
    pub chunks: i32,
    pub channels: i32,
    /// _ln prologue: a' = (a-mean)*rstd*(1+scale)+shift
    pub shift_chunk: i32,
    /// _ln prologue: a' = (a-mean)*rstd*(1+scale)+shift
    pub scale_chunk: i32,
    /// residual epilogue: which chunk gates; -1: gate is 1
    pub gate_chunk: i32,
    /// residual_out: 0 overwrites, 1 adds to what is there
    pub accumulate_residual: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearParams"][::std::mem::size_of::<LinearParams>() - 112usize];
    ["Alignment of LinearParams"][::std::mem::align_of::<LinearParams>() - 8usize];
    ["Offset of field: LinearParams::a"][::std::mem::offset_of!(LinearParams, a) - 0usize];
    ["Offset of field: LinearParams::w"][::std::mem::offset_of!(LinearParams, w) - 8usize];
    ["Offset of field: LinearParams::bias"][::std::mem::offset_of!(LinearParams, bias) - 16usize];
    ["Offset of field: LinearParams::out"][::std::mem::offset_of!(LinearParams, out) - 24usize];
    ["Offset of field: LinearParams::residual_out"][::std::mem::offset_of!(LinearParams, residual_out) - 32usize];
    ["Offset of field: LinearParams::row_stats"][::std::mem::offset_of!(LinearParams, row_stats) - 40usize];
    ["Offset of field: LinearParams::modulation"][::std::mem::offset_of!(LinearParams, modulation) - 48usize];
    ["Offset of field: LinearParams::frame_mask"][::std::mem::offset_of!(LinearParams, frame_mask) - 56usize];
    ["Offset of field: LinearParams::m"][::std::mem::offset_of!(LinearParams, m) - 64usize];
    ["Offset of field: LinearParams::n"][::std::mem::offset_of!(LinearParams, n) - 68usize];
    ["Offset of field: LinearParams::k"][::std::mem::offset_of!(LinearParams, k) - 72usize];
    ["Offset of field: LinearParams::frames"][::std::mem::offset_of!(LinearParams, frames) - 76usize];
    ["Offset of field: LinearParams::rows_per_frame"][::std::mem::offset_of!(LinearParams, rows_per_frame) - 80usize];
    ["Offset of field: LinearParams::variants"][::std::mem::offset_of!(LinearParams, variants) - 84usize];
    ["Offset of field: LinearParams::chunks"][::std::mem::offset_of!(LinearParams, chunks) - 88usize];
    ["Offset of field: LinearParams::channels"][::std::mem::offset_of!(LinearParams, channels) - 92usize];
    ["Offset of field: LinearParams::shift_chunk"][::std::mem::offset_of!(LinearParams, shift_chunk) - 96usize];
    ["Offset of field: LinearParams::scale_chunk"][::std::mem::offset_of!(LinearParams, scale_chunk) - 100usize];
    ["Offset of field: LinearParams::gate_chunk"][::std::mem::offset_of!(LinearParams, gate_chunk) - 104usize];
    ["Offset of field: LinearParams::accumulate_residual"]
        [::std::mem::offset_of!(LinearParams, accumulate_residual) - 108usize];
};
/// linear_few.cu: the same, k in gridDim.y parts.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct LinearFewParams {
    pub product: LinearParams,
    /// more than one part: [tiles, parts, elements of a tile], any content
    pub partial: u64,
    /// [tiles], zeros; zeros again when the kernel is done
    pub arrived: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearFewParams"][::std::mem::size_of::<LinearFewParams>() - 128usize];
    ["Alignment of LinearFewParams"][::std::mem::align_of::<LinearFewParams>() - 8usize];
    ["Offset of field: LinearFewParams::product"][::std::mem::offset_of!(LinearFewParams, product) - 0usize];
    ["Offset of field: LinearFewParams::partial"][::std::mem::offset_of!(LinearFewParams, partial) - 112usize];
    ["Offset of field: LinearFewParams::arrived"][::std::mem::offset_of!(LinearFewParams, arrived) - 120usize];
};
/// sm_90a/linear.cu: a and w also as maps of boxes of one stage; w [n/32, 4, 4, 2, k] = (32 rows, j, t, e, k), row 32 i + 8 t + 2 j + e.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct LinearWgmmaParams {
    pub a_map: TensorMap,
    pub w_map: TensorMap,
    pub product: LinearParams,
    /// tiles of out side by side, in all; stages of k: divisions that the host makes
    pub columns: i32,
    /// tiles of out side by side, in all; stages of k: divisions that the host makes
    pub tiles: i32,
    /// tiles of out side by side, in all; stages of k: divisions that the host makes
    pub steps: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearWgmmaParams"][::std::mem::size_of::<LinearWgmmaParams>() - 384usize];
    ["Alignment of LinearWgmmaParams"][::std::mem::align_of::<LinearWgmmaParams>() - 64usize];
    ["Offset of field: LinearWgmmaParams::a_map"][::std::mem::offset_of!(LinearWgmmaParams, a_map) - 0usize];
    ["Offset of field: LinearWgmmaParams::w_map"][::std::mem::offset_of!(LinearWgmmaParams, w_map) - 128usize];
    ["Offset of field: LinearWgmmaParams::product"][::std::mem::offset_of!(LinearWgmmaParams, product) - 256usize];
    ["Offset of field: LinearWgmmaParams::columns"][::std::mem::offset_of!(LinearWgmmaParams, columns) - 368usize];
    ["Offset of field: LinearWgmmaParams::tiles"][::std::mem::offset_of!(LinearWgmmaParams, tiles) - 372usize];
    ["Offset of field: LinearWgmmaParams::steps"][::std::mem::offset_of!(LinearWgmmaParams, steps) - 376usize];
    ["Offset of field: LinearWgmmaParams::reserved"][::std::mem::offset_of!(LinearWgmmaParams, reserved) - 380usize];
};
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct LinearFp8Params {
    pub wgmma: LinearWgmmaParams,
    /// [m]
    pub a_scale: u64,
    /// [n]
    pub w_scale: u64,
    pub reserved: [i32; 12usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearFp8Params"][::std::mem::size_of::<LinearFp8Params>() - 448usize];
    ["Alignment of LinearFp8Params"][::std::mem::align_of::<LinearFp8Params>() - 64usize];
    ["Offset of field: LinearFp8Params::wgmma"][::std::mem::offset_of!(LinearFp8Params, wgmma) - 0usize];
    ["Offset of field: LinearFp8Params::a_scale"][::std::mem::offset_of!(LinearFp8Params, a_scale) - 384usize];
    ["Offset of field: LinearFp8Params::w_scale"][::std::mem::offset_of!(LinearFp8Params, w_scale) - 392usize];
    ["Offset of field: LinearFp8Params::reserved"][::std::mem::offset_of!(LinearFp8Params, reserved) - 400usize];
};
/** out = softmax(scale * q k^T) v for every sequence and head. Entries attention_{HEAD_DIM}_{dtype}_{large,short,cross}.
Row of token i of sequence s:  (s / inner) * outer_stride + (s % inner) * inner_stride + i * step.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct SequenceLayout {
    /// in rows
    pub outer_stride: i64,
    /// in rows
    pub inner_stride: i64,
    /// in rows
    pub step: i64,
    /// elements from one row to the next
    pub row_stride: i64,
    pub inner: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SequenceLayout"][::std::mem::size_of::<SequenceLayout>() - 40usize];
    ["Alignment of SequenceLayout"][::std::mem::align_of::<SequenceLayout>() - 8usize];
    ["Offset of field: SequenceLayout::outer_stride"][::std::mem::offset_of!(SequenceLayout, outer_stride) - 0usize];
    ["Offset of field: SequenceLayout::inner_stride"][::std::mem::offset_of!(SequenceLayout, inner_stride) - 8usize];
    ["Offset of field: SequenceLayout::step"][::std::mem::offset_of!(SequenceLayout, step) - 16usize];
    ["Offset of field: SequenceLayout::row_stride"][::std::mem::offset_of!(SequenceLayout, row_stride) - 24usize];
    ["Offset of field: SequenceLayout::inner"][::std::mem::offset_of!(SequenceLayout, inner) - 32usize];
    ["Offset of field: SequenceLayout::reserved"][::std::mem::offset_of!(SequenceLayout, reserved) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct AttentionParams {
    /// D; element (row, head, d) at row*row_stride + head*head_dim + d
    pub q: u64,
    pub k: u64,
    /// laid out as k
    pub v: u64,
    pub out: u64,
    /// RMSNorm weights [head_dim] D, or null
    pub q_norm: u64,
    pub k_norm: u64,
    /// [max(q_len, kv_len), head_dim/2, 2] cos, sin by position, or null
    pub rope: u64,
    /// [sequences], at most kv_len each, or null (all kv_len)
    pub kv_lengths: u64,
    /// [sequences], added to the scaled score of each sequence's last key, or null
    pub last_bias: u64,
    /// biased: [heads, 2*bias_span - 1], added to q k before the scale, by key - query + bias_span - 1
    pub bias: u64,
    pub q_layout: SequenceLayout,
    pub kv_layout: SequenceLayout,
    pub out_layout: SequenceLayout,
    pub scale: f32,
    pub norm_eps: f32,
    pub sequences: i32,
    pub heads: i32,
    pub q_len: i32,
    pub kv_len: i32,
    /// at most the HEAD_DIM of the entry
    pub head_dim: i32,
    /// at least q_len and kv_len
    pub bias_span: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::std::mem::size_of::<AttentionParams>() - 232usize];
    ["Alignment of AttentionParams"][::std::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::q"][::std::mem::offset_of!(AttentionParams, q) - 0usize];
    ["Offset of field: AttentionParams::k"][::std::mem::offset_of!(AttentionParams, k) - 8usize];
    ["Offset of field: AttentionParams::v"][::std::mem::offset_of!(AttentionParams, v) - 16usize];
    ["Offset of field: AttentionParams::out"][::std::mem::offset_of!(AttentionParams, out) - 24usize];
    ["Offset of field: AttentionParams::q_norm"][::std::mem::offset_of!(AttentionParams, q_norm) - 32usize];
    ["Offset of field: AttentionParams::k_norm"][::std::mem::offset_of!(AttentionParams, k_norm) - 40usize];
    ["Offset of field: AttentionParams::rope"][::std::mem::offset_of!(AttentionParams, rope) - 48usize];
    ["Offset of field: AttentionParams::kv_lengths"][::std::mem::offset_of!(AttentionParams, kv_lengths) - 56usize];
    ["Offset of field: AttentionParams::last_bias"][::std::mem::offset_of!(AttentionParams, last_bias) - 64usize];
    ["Offset of field: AttentionParams::bias"][::std::mem::offset_of!(AttentionParams, bias) - 72usize];
    ["Offset of field: AttentionParams::q_layout"][::std::mem::offset_of!(AttentionParams, q_layout) - 80usize];
    ["Offset of field: AttentionParams::kv_layout"][::std::mem::offset_of!(AttentionParams, kv_layout) - 120usize];
    ["Offset of field: AttentionParams::out_layout"][::std::mem::offset_of!(AttentionParams, out_layout) - 160usize];
    ["Offset of field: AttentionParams::scale"][::std::mem::offset_of!(AttentionParams, scale) - 200usize];
    ["Offset of field: AttentionParams::norm_eps"][::std::mem::offset_of!(AttentionParams, norm_eps) - 204usize];
    ["Offset of field: AttentionParams::sequences"][::std::mem::offset_of!(AttentionParams, sequences) - 208usize];
    ["Offset of field: AttentionParams::heads"][::std::mem::offset_of!(AttentionParams, heads) - 212usize];
    ["Offset of field: AttentionParams::q_len"][::std::mem::offset_of!(AttentionParams, q_len) - 216usize];
    ["Offset of field: AttentionParams::kv_len"][::std::mem::offset_of!(AttentionParams, kv_len) - 220usize];
    ["Offset of field: AttentionParams::head_dim"][::std::mem::offset_of!(AttentionParams, head_dim) - 224usize];
    ["Offset of field: AttentionParams::bias_span"][::std::mem::offset_of!(AttentionParams, bias_span) - 228usize];
};
/** sm_90a/attention.cu: k and v also as maps [sequences, heads, tokens, head_dim] of boxes of a tile's keys: k's whole blocks of 64 channels and the
16 of the rest, v's of 64 channels or, where there is a rest, of 16.*/
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct AttentionWgmmaParams {
    pub k_map: TensorMap,
    pub k_rest_map: TensorMap,
    pub v_map: TensorMap,
    pub attention: AttentionParams,
    pub reserved: [i32; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionWgmmaParams"][::std::mem::size_of::<AttentionWgmmaParams>() - 640usize];
    ["Alignment of AttentionWgmmaParams"][::std::mem::align_of::<AttentionWgmmaParams>() - 64usize];
    ["Offset of field: AttentionWgmmaParams::k_map"][::std::mem::offset_of!(AttentionWgmmaParams, k_map) - 0usize];
    ["Offset of field: AttentionWgmmaParams::k_rest_map"]
        [::std::mem::offset_of!(AttentionWgmmaParams, k_rest_map) - 128usize];
    ["Offset of field: AttentionWgmmaParams::v_map"][::std::mem::offset_of!(AttentionWgmmaParams, v_map) - 256usize];
    ["Offset of field: AttentionWgmmaParams::attention"]
        [::std::mem::offset_of!(AttentionWgmmaParams, attention) - 384usize];
    ["Offset of field: AttentionWgmmaParams::reserved"]
        [::std::mem::offset_of!(AttentionWgmmaParams, reserved) - 616usize];
};
/// LayerNorm statistics: stats[row] = (mean, 1/sqrt(var+eps)). Entries row_stats_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct RowStatsParams {
    /// [rows, channels] D
    pub x: u64,
    /// [rows, 2]
    pub stats: u64,
    pub rows: i64,
    pub channels: i32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowStatsParams"][::std::mem::size_of::<RowStatsParams>() - 32usize];
    ["Alignment of RowStatsParams"][::std::mem::align_of::<RowStatsParams>() - 8usize];
    ["Offset of field: RowStatsParams::x"][::std::mem::offset_of!(RowStatsParams, x) - 0usize];
    ["Offset of field: RowStatsParams::stats"][::std::mem::offset_of!(RowStatsParams, stats) - 8usize];
    ["Offset of field: RowStatsParams::rows"][::std::mem::offset_of!(RowStatsParams, rows) - 16usize];
    ["Offset of field: RowStatsParams::channels"][::std::mem::offset_of!(RowStatsParams, channels) - 24usize];
    ["Offset of field: RowStatsParams::eps"][::std::mem::offset_of!(RowStatsParams, eps) - 28usize];
};
/// RMSNorm over whole rows, then RoPE of each head, of the first `parts` parts of packed projections, in place. Entries rms_rope_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct RmsRopeParams {
    /// [rows, row_stride] D; part p of a row: channels from p*channels on
    pub x: u64,
    /// of part 0 and 1: [channels] D
    pub weight: [u64; 2usize],
    /// [positions, head_dim/2, 2] cos, sin, or null: no rotation
    pub rope: u64,
    /// (sample, frame, height, width), width fastest
    pub rows: i64,
    pub row_stride: i32,
    pub channels: i32,
    pub parts: i32,
    pub head_dim: i32,
    /// tokens of a sample
    pub frames: i32,
    /// tokens of a sample
    pub height: i32,
    /// tokens of a sample
    pub width: i32,
    /// of a head: pairs that turn with the frame, then with the row; the others turn with the column
    pub frame_pairs: i32,
    /// of a head: pairs that turn with the frame, then with the row; the others turn with the column
    pub height_pairs: i32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsRopeParams"][::std::mem::size_of::<RmsRopeParams>() - 80usize];
    ["Alignment of RmsRopeParams"][::std::mem::align_of::<RmsRopeParams>() - 8usize];
    ["Offset of field: RmsRopeParams::x"][::std::mem::offset_of!(RmsRopeParams, x) - 0usize];
    ["Offset of field: RmsRopeParams::weight"][::std::mem::offset_of!(RmsRopeParams, weight) - 8usize];
    ["Offset of field: RmsRopeParams::rope"][::std::mem::offset_of!(RmsRopeParams, rope) - 24usize];
    ["Offset of field: RmsRopeParams::rows"][::std::mem::offset_of!(RmsRopeParams, rows) - 32usize];
    ["Offset of field: RmsRopeParams::row_stride"][::std::mem::offset_of!(RmsRopeParams, row_stride) - 40usize];
    ["Offset of field: RmsRopeParams::channels"][::std::mem::offset_of!(RmsRopeParams, channels) - 44usize];
    ["Offset of field: RmsRopeParams::parts"][::std::mem::offset_of!(RmsRopeParams, parts) - 48usize];
    ["Offset of field: RmsRopeParams::head_dim"][::std::mem::offset_of!(RmsRopeParams, head_dim) - 52usize];
    ["Offset of field: RmsRopeParams::frames"][::std::mem::offset_of!(RmsRopeParams, frames) - 56usize];
    ["Offset of field: RmsRopeParams::height"][::std::mem::offset_of!(RmsRopeParams, height) - 60usize];
    ["Offset of field: RmsRopeParams::width"][::std::mem::offset_of!(RmsRopeParams, width) - 64usize];
    ["Offset of field: RmsRopeParams::frame_pairs"][::std::mem::offset_of!(RmsRopeParams, frame_pairs) - 68usize];
    ["Offset of field: RmsRopeParams::height_pairs"][::std::mem::offset_of!(RmsRopeParams, height_pairs) - 72usize];
    ["Offset of field: RmsRopeParams::eps"][::std::mem::offset_of!(RmsRopeParams, eps) - 76usize];
};
/// out = LN(x)*(1+scale)+shift. Entries modulate_{dtype}. In place is allowed.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ModulateParams {
    /// [rows, channels] D
    pub x: u64,
    pub out: u64,
    /// [batch, variants, chunks, channels]
    pub modulation: u64,
    /// null: every row is written
    pub frame_mask: u64,
    pub rows: i64,
    pub channels: i32,
    pub frames: i32,
    pub rows_per_frame: i32,
    /// the variant applied
    pub variants: i32,
    /// the variant applied
    pub chunks: i32,
    /// the variant applied
    pub variant: i32,
    pub shift_chunk: i32,
    pub scale_chunk: i32,
    /// 1: only rows whose frame_mask is 0 are written (the others are left alone)
    pub only_masked_out: i32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulateParams"][::std::mem::size_of::<ModulateParams>() - 80usize];
    ["Alignment of ModulateParams"][::std::mem::align_of::<ModulateParams>() - 8usize];
    ["Offset of field: ModulateParams::x"][::std::mem::offset_of!(ModulateParams, x) - 0usize];
    ["Offset of field: ModulateParams::out"][::std::mem::offset_of!(ModulateParams, out) - 8usize];
    ["Offset of field: ModulateParams::modulation"][::std::mem::offset_of!(ModulateParams, modulation) - 16usize];
    ["Offset of field: ModulateParams::frame_mask"][::std::mem::offset_of!(ModulateParams, frame_mask) - 24usize];
    ["Offset of field: ModulateParams::rows"][::std::mem::offset_of!(ModulateParams, rows) - 32usize];
    ["Offset of field: ModulateParams::channels"][::std::mem::offset_of!(ModulateParams, channels) - 40usize];
    ["Offset of field: ModulateParams::frames"][::std::mem::offset_of!(ModulateParams, frames) - 44usize];
    ["Offset of field: ModulateParams::rows_per_frame"]
        [::std::mem::offset_of!(ModulateParams, rows_per_frame) - 48usize];
    ["Offset of field: ModulateParams::variants"][::std::mem::offset_of!(ModulateParams, variants) - 52usize];
    ["Offset of field: ModulateParams::chunks"][::std::mem::offset_of!(ModulateParams, chunks) - 56usize];
    ["Offset of field: ModulateParams::variant"][::std::mem::offset_of!(ModulateParams, variant) - 60usize];
    ["Offset of field: ModulateParams::shift_chunk"][::std::mem::offset_of!(ModulateParams, shift_chunk) - 64usize];
    ["Offset of field: ModulateParams::scale_chunk"][::std::mem::offset_of!(ModulateParams, scale_chunk) - 68usize];
    ["Offset of field: ModulateParams::only_masked_out"]
        [::std::mem::offset_of!(ModulateParams, only_masked_out) - 72usize];
    ["Offset of field: ModulateParams::eps"][::std::mem::offset_of!(ModulateParams, eps) - 76usize];
};
/// sm_90a/quantise.cu: the same rows in e4m3, each by the variant of its frame. Entries quantise_modulated_{bf16,f16}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct QuantiseModulatedParams {
    /// out: [rows, channels] e4m3; variant and only_masked_out are not read
    pub modulate: ModulateParams,
    /// [rows]
    pub scale: u64,
    /// [blocks, 2]
    pub error: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantiseModulatedParams"][::std::mem::size_of::<QuantiseModulatedParams>() - 96usize];
    ["Alignment of QuantiseModulatedParams"][::std::mem::align_of::<QuantiseModulatedParams>() - 8usize];
    ["Offset of field: QuantiseModulatedParams::modulate"]
        [::std::mem::offset_of!(QuantiseModulatedParams, modulate) - 0usize];
    ["Offset of field: QuantiseModulatedParams::scale"]
        [::std::mem::offset_of!(QuantiseModulatedParams, scale) - 80usize];
    ["Offset of field: QuantiseModulatedParams::error"]
        [::std::mem::offset_of!(QuantiseModulatedParams, error) - 88usize];
};
/// One pass: every distance sum and motion sum, and kept := fresh. Entries residual_probe_{dtype}; grid (blocks, batch).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ResidualProbeParams {
    /// [batch, frames, inner] D
    pub fresh: u64,
    /// same shape; read, then overwritten
    pub kept: u64,
    /// [batch, blocks, PROBE_SUMS + MOTION_SUMS*num_strides]
    pub partial: u64,
    /// tokens * channels
    pub inner: i64,
    pub batch: i32,
    pub frames: i32,
    /// 1: kept holds nothing yet and is not read; sums 0..4 are 0
    pub first: i32,
    pub num_strides: i32,
    /// in frames; a stride >= frames gives zero sums
    pub strides: [i32; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResidualProbeParams"][::std::mem::size_of::<ResidualProbeParams>() - 80usize];
    ["Alignment of ResidualProbeParams"][::std::mem::align_of::<ResidualProbeParams>() - 8usize];
    ["Offset of field: ResidualProbeParams::fresh"][::std::mem::offset_of!(ResidualProbeParams, fresh) - 0usize];
    ["Offset of field: ResidualProbeParams::kept"][::std::mem::offset_of!(ResidualProbeParams, kept) - 8usize];
    ["Offset of field: ResidualProbeParams::partial"][::std::mem::offset_of!(ResidualProbeParams, partial) - 16usize];
    ["Offset of field: ResidualProbeParams::inner"][::std::mem::offset_of!(ResidualProbeParams, inner) - 24usize];
    ["Offset of field: ResidualProbeParams::batch"][::std::mem::offset_of!(ResidualProbeParams, batch) - 32usize];
    ["Offset of field: ResidualProbeParams::frames"][::std::mem::offset_of!(ResidualProbeParams, frames) - 36usize];
    ["Offset of field: ResidualProbeParams::first"][::std::mem::offset_of!(ResidualProbeParams, first) - 40usize];
    ["Offset of field: ResidualProbeParams::num_strides"]
        [::std::mem::offset_of!(ResidualProbeParams, num_strides) - 44usize];
    ["Offset of field: ResidualProbeParams::strides"][::std::mem::offset_of!(ResidualProbeParams, strides) - 48usize];
};
/// Second stage: sums[batch, i] = sum over blocks of partial[batch, block, i], in f64, in a fixed order. Entry reduce_partials.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ReduceParams {
    /// [batch, blocks, count]
    pub partial: u64,
    /// [batch, count]
    pub sums: u64,
    pub batch: i32,
    pub blocks: i32,
    pub count: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReduceParams"][::std::mem::size_of::<ReduceParams>() - 32usize];
    ["Alignment of ReduceParams"][::std::mem::align_of::<ReduceParams>() - 8usize];
    ["Offset of field: ReduceParams::partial"][::std::mem::offset_of!(ReduceParams, partial) - 0usize];
    ["Offset of field: ReduceParams::sums"][::std::mem::offset_of!(ReduceParams, sums) - 8usize];
    ["Offset of field: ReduceParams::batch"][::std::mem::offset_of!(ReduceParams, batch) - 16usize];
    ["Offset of field: ReduceParams::blocks"][::std::mem::offset_of!(ReduceParams, blocks) - 20usize];
    ["Offset of field: ReduceParams::count"][::std::mem::offset_of!(ReduceParams, count) - 24usize];
    ["Offset of field: ReduceParams::reserved"][::std::mem::offset_of!(ReduceParams, reserved) - 28usize];
};
/// residual_fold_{dtype}: out = a - b.  residual_unfold_{dtype}: out = a + b. out may be a or b.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct FoldParams {
    pub a: u64,
    pub b: u64,
    pub out: u64,
    pub count: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FoldParams"][::std::mem::size_of::<FoldParams>() - 32usize];
    ["Alignment of FoldParams"][::std::mem::align_of::<FoldParams>() - 8usize];
    ["Offset of field: FoldParams::a"][::std::mem::offset_of!(FoldParams, a) - 0usize];
    ["Offset of field: FoldParams::b"][::std::mem::offset_of!(FoldParams, b) - 8usize];
    ["Offset of field: FoldParams::out"][::std::mem::offset_of!(FoldParams, out) - 16usize];
    ["Offset of field: FoldParams::count"][::std::mem::offset_of!(FoldParams, count) - 24usize];
};
/// A reused step with the fold extrapolated from the last computed ones. Entries residual_extrapolate_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ExtrapolateParams {
    pub a: u64,
    /// newest first; those before the first computed step are not read
    pub folds: [u64; 3usize],
    /// may be a
    pub out: u64,
    /// [3]: the steps of the folds, from 1; 0: there was none
    pub computed: u64,
    /// the step at hand
    pub cursor: u64,
    pub count: i64,
    /// 1 or 2
    pub order: i32,
    /// of the way from the last fold this part is extrapolated
    pub damping: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExtrapolateParams"][::std::mem::size_of::<ExtrapolateParams>() - 72usize];
    ["Alignment of ExtrapolateParams"][::std::mem::align_of::<ExtrapolateParams>() - 8usize];
    ["Offset of field: ExtrapolateParams::a"][::std::mem::offset_of!(ExtrapolateParams, a) - 0usize];
    ["Offset of field: ExtrapolateParams::folds"][::std::mem::offset_of!(ExtrapolateParams, folds) - 8usize];
    ["Offset of field: ExtrapolateParams::out"][::std::mem::offset_of!(ExtrapolateParams, out) - 32usize];
    ["Offset of field: ExtrapolateParams::computed"][::std::mem::offset_of!(ExtrapolateParams, computed) - 40usize];
    ["Offset of field: ExtrapolateParams::cursor"][::std::mem::offset_of!(ExtrapolateParams, cursor) - 48usize];
    ["Offset of field: ExtrapolateParams::count"][::std::mem::offset_of!(ExtrapolateParams, count) - 56usize];
    ["Offset of field: ExtrapolateParams::order"][::std::mem::offset_of!(ExtrapolateParams, order) - 64usize];
    ["Offset of field: ExtrapolateParams::damping"][::std::mem::offset_of!(ExtrapolateParams, damping) - 68usize];
};
/** Frame differences by themselves, over residuals (outer = 1) or latents [batch, channels, frames, h*w] (outer = channels).
Entries motion_{dtype}; grid (blocks, batch).*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct MotionParams {
    /// [batch, outer, frames, inner] D
    pub x: u64,
    /// [batch, blocks, MOTION_SUMS*num_strides]
    pub partial: u64,
    pub inner: i64,
    pub batch: i32,
    pub outer: i32,
    pub frames: i32,
    pub num_strides: i32,
    pub strides: [i32; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MotionParams"][::std::mem::size_of::<MotionParams>() - 72usize];
    ["Alignment of MotionParams"][::std::mem::align_of::<MotionParams>() - 8usize];
    ["Offset of field: MotionParams::x"][::std::mem::offset_of!(MotionParams, x) - 0usize];
    ["Offset of field: MotionParams::partial"][::std::mem::offset_of!(MotionParams, partial) - 8usize];
    ["Offset of field: MotionParams::inner"][::std::mem::offset_of!(MotionParams, inner) - 16usize];
    ["Offset of field: MotionParams::batch"][::std::mem::offset_of!(MotionParams, batch) - 24usize];
    ["Offset of field: MotionParams::outer"][::std::mem::offset_of!(MotionParams, outer) - 28usize];
    ["Offset of field: MotionParams::frames"][::std::mem::offset_of!(MotionParams, frames) - 32usize];
    ["Offset of field: MotionParams::num_strides"][::std::mem::offset_of!(MotionParams, num_strides) - 36usize];
    ["Offset of field: MotionParams::strides"][::std::mem::offset_of!(MotionParams, strides) - 40usize];
};
/// Latent to patches: out[row, c, kt, kh, kw] with zero padding on the right and bottom (and after the last frame). Entries patchify_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PatchifyParams {
    /// [z_batch, channels, frames, height, width]
    pub z: u64,
    /// [batch*tokens_t*tokens_h*tokens_w, channels*patch_t*patch_h*patch_w] D
    pub out: u64,
    /// sample b reads z[b % z_batch]: guidance shares one latent
    pub batch: i32,
    /// sample b reads z[b % z_batch]: guidance shares one latent
    pub z_batch: i32,
    pub channels: i32,
    pub frames: i32,
    pub height: i32,
    pub width: i32,
    pub patch_t: i32,
    pub patch_h: i32,
    pub patch_w: i32,
    /// ceil(frames/patch_t) ...
    pub tokens_t: i32,
    /// ceil(frames/patch_t) ...
    pub tokens_h: i32,
    /// ceil(frames/patch_t) ...
    pub tokens_w: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PatchifyParams"][::std::mem::size_of::<PatchifyParams>() - 64usize];
    ["Alignment of PatchifyParams"][::std::mem::align_of::<PatchifyParams>() - 8usize];
    ["Offset of field: PatchifyParams::z"][::std::mem::offset_of!(PatchifyParams, z) - 0usize];
    ["Offset of field: PatchifyParams::out"][::std::mem::offset_of!(PatchifyParams, out) - 8usize];
    ["Offset of field: PatchifyParams::batch"][::std::mem::offset_of!(PatchifyParams, batch) - 16usize];
    ["Offset of field: PatchifyParams::z_batch"][::std::mem::offset_of!(PatchifyParams, z_batch) - 20usize];
    ["Offset of field: PatchifyParams::channels"][::std::mem::offset_of!(PatchifyParams, channels) - 24usize];
    ["Offset of field: PatchifyParams::frames"][::std::mem::offset_of!(PatchifyParams, frames) - 28usize];
    ["Offset of field: PatchifyParams::height"][::std::mem::offset_of!(PatchifyParams, height) - 32usize];
    ["Offset of field: PatchifyParams::width"][::std::mem::offset_of!(PatchifyParams, width) - 36usize];
    ["Offset of field: PatchifyParams::patch_t"][::std::mem::offset_of!(PatchifyParams, patch_t) - 40usize];
    ["Offset of field: PatchifyParams::patch_h"][::std::mem::offset_of!(PatchifyParams, patch_h) - 44usize];
    ["Offset of field: PatchifyParams::patch_w"][::std::mem::offset_of!(PatchifyParams, patch_w) - 48usize];
    ["Offset of field: PatchifyParams::tokens_t"][::std::mem::offset_of!(PatchifyParams, tokens_t) - 52usize];
    ["Offset of field: PatchifyParams::tokens_h"][::std::mem::offset_of!(PatchifyParams, tokens_h) - 56usize];
    ["Offset of field: PatchifyParams::tokens_w"][::std::mem::offset_of!(PatchifyParams, tokens_w) - 60usize];
};
/// Tokens to pixels of the latent: token channels are (kt, kh, kw, c), c fastest; padding is cropped. Entries unpatchify_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct UnpatchifyParams {
    /// [batch*tokens_t*tokens_h*tokens_w, patch_t*patch_h*patch_w*channels] D
    pub tokens: u64,
    /// [batch, channels, frames, height, width]
    pub out: u64,
    pub batch: i32,
    pub channels: i32,
    pub frames: i32,
    pub height: i32,
    pub width: i32,
    pub patch_t: i32,
    pub patch_h: i32,
    pub patch_w: i32,
    pub tokens_t: i32,
    pub tokens_h: i32,
    pub tokens_w: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UnpatchifyParams"][::std::mem::size_of::<UnpatchifyParams>() - 64usize];
    ["Alignment of UnpatchifyParams"][::std::mem::align_of::<UnpatchifyParams>() - 8usize];
    ["Offset of field: UnpatchifyParams::tokens"][::std::mem::offset_of!(UnpatchifyParams, tokens) - 0usize];
    ["Offset of field: UnpatchifyParams::out"][::std::mem::offset_of!(UnpatchifyParams, out) - 8usize];
    ["Offset of field: UnpatchifyParams::batch"][::std::mem::offset_of!(UnpatchifyParams, batch) - 16usize];
    ["Offset of field: UnpatchifyParams::channels"][::std::mem::offset_of!(UnpatchifyParams, channels) - 20usize];
    ["Offset of field: UnpatchifyParams::frames"][::std::mem::offset_of!(UnpatchifyParams, frames) - 24usize];
    ["Offset of field: UnpatchifyParams::height"][::std::mem::offset_of!(UnpatchifyParams, height) - 28usize];
    ["Offset of field: UnpatchifyParams::width"][::std::mem::offset_of!(UnpatchifyParams, width) - 32usize];
    ["Offset of field: UnpatchifyParams::patch_t"][::std::mem::offset_of!(UnpatchifyParams, patch_t) - 36usize];
    ["Offset of field: UnpatchifyParams::patch_h"][::std::mem::offset_of!(UnpatchifyParams, patch_h) - 40usize];
    ["Offset of field: UnpatchifyParams::patch_w"][::std::mem::offset_of!(UnpatchifyParams, patch_w) - 44usize];
    ["Offset of field: UnpatchifyParams::tokens_t"][::std::mem::offset_of!(UnpatchifyParams, tokens_t) - 48usize];
    ["Offset of field: UnpatchifyParams::tokens_h"][::std::mem::offset_of!(UnpatchifyParams, tokens_h) - 52usize];
    ["Offset of field: UnpatchifyParams::tokens_w"][::std::mem::offset_of!(UnpatchifyParams, tokens_w) - 56usize];
    ["Offset of field: UnpatchifyParams::reserved"][::std::mem::offset_of!(UnpatchifyParams, reserved) - 60usize];
};
/// The 2-D sin/cos table of Open-Sora: coordinates i/scale*base/count, W half first, then H. Entry position_table.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PositionTableParams {
    /// [tokens_h*tokens_w, channels]
    pub out: u64,
    pub tokens_h: i32,
    pub tokens_w: i32,
    pub channels: i32,
    /// sqrt(H_px*W_px)/input_sq_size
    pub scale: f32,
    /// round(sqrt(tokens_h*tokens_w))
    pub base_size: f32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PositionTableParams"][::std::mem::size_of::<PositionTableParams>() - 32usize];
    ["Alignment of PositionTableParams"][::std::mem::align_of::<PositionTableParams>() - 8usize];
    ["Offset of field: PositionTableParams::out"][::std::mem::offset_of!(PositionTableParams, out) - 0usize];
    ["Offset of field: PositionTableParams::tokens_h"][::std::mem::offset_of!(PositionTableParams, tokens_h) - 8usize];
    ["Offset of field: PositionTableParams::tokens_w"][::std::mem::offset_of!(PositionTableParams, tokens_w) - 12usize];
    ["Offset of field: PositionTableParams::channels"][::std::mem::offset_of!(PositionTableParams, channels) - 16usize];
    ["Offset of field: PositionTableParams::scale"][::std::mem::offset_of!(PositionTableParams, scale) - 20usize];
    ["Offset of field: PositionTableParams::base_size"]
        [::std::mem::offset_of!(PositionTableParams, base_size) - 24usize];
    ["Offset of field: PositionTableParams::reserved"][::std::mem::offset_of!(PositionTableParams, reserved) - 28usize];
};
/// x[row] += table[row % tokens]. Entries position_add_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PositionAddParams {
    /// [rows, channels] D
    pub x: u64,
    /// [tokens, channels]
    pub table: u64,
    pub rows: i64,
    pub tokens: i32,
    pub channels: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PositionAddParams"][::std::mem::size_of::<PositionAddParams>() - 32usize];
    ["Alignment of PositionAddParams"][::std::mem::align_of::<PositionAddParams>() - 8usize];
    ["Offset of field: PositionAddParams::x"][::std::mem::offset_of!(PositionAddParams, x) - 0usize];
    ["Offset of field: PositionAddParams::table"][::std::mem::offset_of!(PositionAddParams, table) - 8usize];
    ["Offset of field: PositionAddParams::rows"][::std::mem::offset_of!(PositionAddParams, rows) - 16usize];
    ["Offset of field: PositionAddParams::tokens"][::std::mem::offset_of!(PositionAddParams, tokens) - 24usize];
    ["Offset of field: PositionAddParams::channels"][::std::mem::offset_of!(PositionAddParams, channels) - 28usize];
};
/// out[i] = [cos(t_i f_k), sin(t_i f_k)], f_k = max_period^(-k/(dim/2)). Entry timestep_embed.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct TimestepEmbedParams {
    /// [count]
    pub t: u64,
    /// [count, dim]
    pub out: u64,
    pub count: i32,
    pub dim: i32,
    pub max_period: f32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TimestepEmbedParams"][::std::mem::size_of::<TimestepEmbedParams>() - 32usize];
    ["Alignment of TimestepEmbedParams"][::std::mem::align_of::<TimestepEmbedParams>() - 8usize];
    ["Offset of field: TimestepEmbedParams::t"][::std::mem::offset_of!(TimestepEmbedParams, t) - 0usize];
    ["Offset of field: TimestepEmbedParams::out"][::std::mem::offset_of!(TimestepEmbedParams, out) - 8usize];
    ["Offset of field: TimestepEmbedParams::count"][::std::mem::offset_of!(TimestepEmbedParams, count) - 16usize];
    ["Offset of field: TimestepEmbedParams::dim"][::std::mem::offset_of!(TimestepEmbedParams, dim) - 20usize];
    ["Offset of field: TimestepEmbedParams::max_period"]
        [::std::mem::offset_of!(TimestepEmbedParams, max_period) - 24usize];
    ["Offset of field: TimestepEmbedParams::reserved"][::std::mem::offset_of!(TimestepEmbedParams, reserved) - 28usize];
};
/// Few rows, f32 activations: out = act(a) . w^T + bias (+ add). Entries small_linear_{dtype} (dtype of w and bias).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct SmallLinearParams {
    /// [m, k]
    pub a: u64,
    /// [n, k] D
    pub w: u64,
    /// [n] D, or null
    pub bias: u64,
    /// [m, n], or null
    pub add: u64,
    /// [m, n]
    pub out: u64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    /// 1: SiLU on a first
    pub silu: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SmallLinearParams"][::std::mem::size_of::<SmallLinearParams>() - 56usize];
    ["Alignment of SmallLinearParams"][::std::mem::align_of::<SmallLinearParams>() - 8usize];
    ["Offset of field: SmallLinearParams::a"][::std::mem::offset_of!(SmallLinearParams, a) - 0usize];
    ["Offset of field: SmallLinearParams::w"][::std::mem::offset_of!(SmallLinearParams, w) - 8usize];
    ["Offset of field: SmallLinearParams::bias"][::std::mem::offset_of!(SmallLinearParams, bias) - 16usize];
    ["Offset of field: SmallLinearParams::add"][::std::mem::offset_of!(SmallLinearParams, add) - 24usize];
    ["Offset of field: SmallLinearParams::out"][::std::mem::offset_of!(SmallLinearParams, out) - 32usize];
    ["Offset of field: SmallLinearParams::m"][::std::mem::offset_of!(SmallLinearParams, m) - 40usize];
    ["Offset of field: SmallLinearParams::n"][::std::mem::offset_of!(SmallLinearParams, n) - 44usize];
    ["Offset of field: SmallLinearParams::k"][::std::mem::offset_of!(SmallLinearParams, k) - 48usize];
    ["Offset of field: SmallLinearParams::silu"][::std::mem::offset_of!(SmallLinearParams, silu) - 52usize];
};
/// out[layer, row, chunk, c] = table[layer, chunk, c] + t[row, (chunk % t_chunks), c]. Entries modulation_{dtype} (dtype of table).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ModulationParams {
    /// [layers, chunks, channels] D
    pub table: u64,
    /// [rows, t_chunks, channels]; rows = batch*variants
    pub t: u64,
    /// [layers, rows, chunks, channels]
    pub out: u64,
    pub layers: i32,
    pub rows: i32,
    pub chunks: i32,
    pub channels: i32,
    /// chunks, or 1 (the final layer)
    pub t_chunks: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulationParams"][::std::mem::size_of::<ModulationParams>() - 48usize];
    ["Alignment of ModulationParams"][::std::mem::align_of::<ModulationParams>() - 8usize];
    ["Offset of field: ModulationParams::table"][::std::mem::offset_of!(ModulationParams, table) - 0usize];
    ["Offset of field: ModulationParams::t"][::std::mem::offset_of!(ModulationParams, t) - 8usize];
    ["Offset of field: ModulationParams::out"][::std::mem::offset_of!(ModulationParams, out) - 16usize];
    ["Offset of field: ModulationParams::layers"][::std::mem::offset_of!(ModulationParams, layers) - 24usize];
    ["Offset of field: ModulationParams::rows"][::std::mem::offset_of!(ModulationParams, rows) - 28usize];
    ["Offset of field: ModulationParams::chunks"][::std::mem::offset_of!(ModulationParams, chunks) - 32usize];
    ["Offset of field: ModulationParams::channels"][::std::mem::offset_of!(ModulationParams, channels) - 36usize];
    ["Offset of field: ModulationParams::t_chunks"][::std::mem::offset_of!(ModulationParams, t_chunks) - 40usize];
    ["Offset of field: ModulationParams::reserved"][::std::mem::offset_of!(ModulationParams, reserved) - 44usize];
};
/// out[pos, i] = (cos, sin)(pos * freqs[i]). Entries rope_table_{dtype} (dtype of freqs).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct RopeTableParams {
    /// [half] D
    pub freqs: u64,
    /// [positions, half, 2]
    pub out: u64,
    pub positions: i32,
    pub half: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeTableParams"][::std::mem::size_of::<RopeTableParams>() - 24usize];
    ["Alignment of RopeTableParams"][::std::mem::align_of::<RopeTableParams>() - 8usize];
    ["Offset of field: RopeTableParams::freqs"][::std::mem::offset_of!(RopeTableParams, freqs) - 0usize];
    ["Offset of field: RopeTableParams::out"][::std::mem::offset_of!(RopeTableParams, out) - 8usize];
    ["Offset of field: RopeTableParams::positions"][::std::mem::offset_of!(RopeTableParams, positions) - 16usize];
    ["Offset of field: RopeTableParams::half"][::std::mem::offset_of!(RopeTableParams, half) - 20usize];
};
/// out[b, j] = src[b, index[b, j]], zero where index < 0. Entries gather_rows_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct GatherRowsParams {
    /// [batch, src_rows, channels] D
    pub src: u64,
    /// [batch, dst_rows]
    pub index: u64,
    /// [batch, dst_rows, channels] D
    pub out: u64,
    pub batch: i32,
    pub src_rows: i32,
    pub dst_rows: i32,
    pub channels: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatherRowsParams"][::std::mem::size_of::<GatherRowsParams>() - 40usize];
    ["Alignment of GatherRowsParams"][::std::mem::align_of::<GatherRowsParams>() - 8usize];
    ["Offset of field: GatherRowsParams::src"][::std::mem::offset_of!(GatherRowsParams, src) - 0usize];
    ["Offset of field: GatherRowsParams::index"][::std::mem::offset_of!(GatherRowsParams, index) - 8usize];
    ["Offset of field: GatherRowsParams::out"][::std::mem::offset_of!(GatherRowsParams, out) - 16usize];
    ["Offset of field: GatherRowsParams::batch"][::std::mem::offset_of!(GatherRowsParams, batch) - 24usize];
    ["Offset of field: GatherRowsParams::src_rows"][::std::mem::offset_of!(GatherRowsParams, src_rows) - 28usize];
    ["Offset of field: GatherRowsParams::dst_rows"][::std::mem::offset_of!(GatherRowsParams, dst_rows) - 32usize];
    ["Offset of field: GatherRowsParams::channels"][::std::mem::offset_of!(GatherRowsParams, channels) - 36usize];
};
/// multiply_{dtype}: out = a * b, the gate of T5's MLP. out may be a or b.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct MultiplyParams {
    /// [count] D
    pub a: u64,
    pub b: u64,
    pub out: u64,
    pub count: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MultiplyParams"][::std::mem::size_of::<MultiplyParams>() - 32usize];
    ["Alignment of MultiplyParams"][::std::mem::align_of::<MultiplyParams>() - 8usize];
    ["Offset of field: MultiplyParams::a"][::std::mem::offset_of!(MultiplyParams, a) - 0usize];
    ["Offset of field: MultiplyParams::b"][::std::mem::offset_of!(MultiplyParams, b) - 8usize];
    ["Offset of field: MultiplyParams::out"][::std::mem::offset_of!(MultiplyParams, out) - 16usize];
    ["Offset of field: MultiplyParams::count"][::std::mem::offset_of!(MultiplyParams, count) - 24usize];
};
/** v = v_u + cfg_scale*(v_c - v_u); z and one slot of the history become the sums that the step's row says, of the old values; frames whose
mask is 0 go back to x0. Entry sampler_step.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct SamplerStepParams {
    /// [batch, channels, frames, spatial], updated in place
    pub z: u64,
    /// [2*batch, v_channels, frames, spatial] cond then uncond; [batch, ...] unguided
    pub v: u64,
    /// as z, or null
    pub x0: u64,
    /// [batch, frames], or null: all frames move
    pub frame_mask: u64,
    /// [STEP_WORDS]
    pub row: u64,
    /// [slots, ...z], or null: the row names none
    pub history: u64,
    pub cfg_scale: f32,
    pub guided: i32,
    pub batch: i32,
    pub channels: i32,
    pub v_channels: i32,
    pub frames: i32,
    pub spatial: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SamplerStepParams"][::std::mem::size_of::<SamplerStepParams>() - 80usize];
    ["Alignment of SamplerStepParams"][::std::mem::align_of::<SamplerStepParams>() - 8usize];
    ["Offset of field: SamplerStepParams::z"][::std::mem::offset_of!(SamplerStepParams, z) - 0usize];
    ["Offset of field: SamplerStepParams::v"][::std::mem::offset_of!(SamplerStepParams, v) - 8usize];
    ["Offset of field: SamplerStepParams::x0"][::std::mem::offset_of!(SamplerStepParams, x0) - 16usize];
    ["Offset of field: SamplerStepParams::frame_mask"][::std::mem::offset_of!(SamplerStepParams, frame_mask) - 24usize];
    ["Offset of field: SamplerStepParams::row"][::std::mem::offset_of!(SamplerStepParams, row) - 32usize];
    ["Offset of field: SamplerStepParams::history"][::std::mem::offset_of!(SamplerStepParams, history) - 40usize];
    ["Offset of field: SamplerStepParams::cfg_scale"][::std::mem::offset_of!(SamplerStepParams, cfg_scale) - 48usize];
    ["Offset of field: SamplerStepParams::guided"][::std::mem::offset_of!(SamplerStepParams, guided) - 52usize];
    ["Offset of field: SamplerStepParams::batch"][::std::mem::offset_of!(SamplerStepParams, batch) - 56usize];
    ["Offset of field: SamplerStepParams::channels"][::std::mem::offset_of!(SamplerStepParams, channels) - 60usize];
    ["Offset of field: SamplerStepParams::v_channels"][::std::mem::offset_of!(SamplerStepParams, v_channels) - 64usize];
    ["Offset of field: SamplerStepParams::frames"][::std::mem::offset_of!(SamplerStepParams, frames) - 68usize];
    ["Offset of field: SamplerStepParams::spatial"][::std::mem::offset_of!(SamplerStepParams, spatial) - 72usize];
    ["Offset of field: SamplerStepParams::reserved"][::std::mem::offset_of!(SamplerStepParams, reserved) - 76usize];
};
/// Frames whose select is 1: z = (1-t)*x0 + t*noise, t in [0,1]. Entry sampler_noise.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct SamplerNoiseParams {
    /// [batch, channels, frames, spatial]
    pub z: u64,
    pub x0: u64,
    pub noise: u64,
    /// [batch, frames]
    pub select: u64,
    pub t: f32,
    pub batch: i32,
    pub channels: i32,
    pub frames: i32,
    pub spatial: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SamplerNoiseParams"][::std::mem::size_of::<SamplerNoiseParams>() - 56usize];
    ["Alignment of SamplerNoiseParams"][::std::mem::align_of::<SamplerNoiseParams>() - 8usize];
    ["Offset of field: SamplerNoiseParams::z"][::std::mem::offset_of!(SamplerNoiseParams, z) - 0usize];
    ["Offset of field: SamplerNoiseParams::x0"][::std::mem::offset_of!(SamplerNoiseParams, x0) - 8usize];
    ["Offset of field: SamplerNoiseParams::noise"][::std::mem::offset_of!(SamplerNoiseParams, noise) - 16usize];
    ["Offset of field: SamplerNoiseParams::select"][::std::mem::offset_of!(SamplerNoiseParams, select) - 24usize];
    ["Offset of field: SamplerNoiseParams::t"][::std::mem::offset_of!(SamplerNoiseParams, t) - 32usize];
    ["Offset of field: SamplerNoiseParams::batch"][::std::mem::offset_of!(SamplerNoiseParams, batch) - 36usize];
    ["Offset of field: SamplerNoiseParams::channels"][::std::mem::offset_of!(SamplerNoiseParams, channels) - 40usize];
    ["Offset of field: SamplerNoiseParams::frames"][::std::mem::offset_of!(SamplerNoiseParams, frames) - 44usize];
    ["Offset of field: SamplerNoiseParams::spatial"][::std::mem::offset_of!(SamplerNoiseParams, spatial) - 48usize];
    ["Offset of field: SamplerNoiseParams::reserved"][::std::mem::offset_of!(SamplerNoiseParams, reserved) - 52usize];
};
/// The sprites decoder: pixels = clamp(((z*scale) . basis + mean + 1)/2), as bytes. Entry patch_decode.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PatchDecodeParams {
    /// [batch, channels, frames, height, width]
    pub z: u64,
    /// [channels, patch*patch*3]
    pub basis: u64,
    /// [patch*patch*3]
    pub mean: u64,
    /// [channels]
    pub scale: u64,
    /// [batch, frames, height*patch, width*patch, 3]
    pub out: u64,
    pub batch: i32,
    pub channels: i32,
    pub frames: i32,
    pub height: i32,
    pub width: i32,
    pub patch: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PatchDecodeParams"][::std::mem::size_of::<PatchDecodeParams>() - 64usize];
    ["Alignment of PatchDecodeParams"][::std::mem::align_of::<PatchDecodeParams>() - 8usize];
    ["Offset of field: PatchDecodeParams::z"][::std::mem::offset_of!(PatchDecodeParams, z) - 0usize];
    ["Offset of field: PatchDecodeParams::basis"][::std::mem::offset_of!(PatchDecodeParams, basis) - 8usize];
    ["Offset of field: PatchDecodeParams::mean"][::std::mem::offset_of!(PatchDecodeParams, mean) - 16usize];
    ["Offset of field: PatchDecodeParams::scale"][::std::mem::offset_of!(PatchDecodeParams, scale) - 24usize];
    ["Offset of field: PatchDecodeParams::out"][::std::mem::offset_of!(PatchDecodeParams, out) - 32usize];
    ["Offset of field: PatchDecodeParams::batch"][::std::mem::offset_of!(PatchDecodeParams, batch) - 40usize];
    ["Offset of field: PatchDecodeParams::channels"][::std::mem::offset_of!(PatchDecodeParams, channels) - 44usize];
    ["Offset of field: PatchDecodeParams::frames"][::std::mem::offset_of!(PatchDecodeParams, frames) - 48usize];
    ["Offset of field: PatchDecodeParams::height"][::std::mem::offset_of!(PatchDecodeParams, height) - 52usize];
    ["Offset of field: PatchDecodeParams::width"][::std::mem::offset_of!(PatchDecodeParams, width) - 56usize];
    ["Offset of field: PatchDecodeParams::patch"][::std::mem::offset_of!(PatchDecodeParams, patch) - 60usize];
};
/// RGB to bytes: byte = clamp((x+1)/2, 0, 1) * 255 + 1/2. Entry pixels.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PixelsParams {
    /// [rows/patch, width/patch, pitch], of which 3*patch*patch channels (rgb, column, row) are a square
    pub x: u64,
    /// [rows, width, 3]
    pub out: u64,
    /// rows * width
    pub count: i64,
    pub pitch: i32,
    pub width: i32,
    pub patch: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PixelsParams"][::std::mem::size_of::<PixelsParams>() - 40usize];
    ["Alignment of PixelsParams"][::std::mem::align_of::<PixelsParams>() - 8usize];
    ["Offset of field: PixelsParams::x"][::std::mem::offset_of!(PixelsParams, x) - 0usize];
    ["Offset of field: PixelsParams::out"][::std::mem::offset_of!(PixelsParams, out) - 8usize];
    ["Offset of field: PixelsParams::count"][::std::mem::offset_of!(PixelsParams, count) - 16usize];
    ["Offset of field: PixelsParams::pitch"][::std::mem::offset_of!(PixelsParams, pitch) - 24usize];
    ["Offset of field: PixelsParams::width"][::std::mem::offset_of!(PixelsParams, width) - 28usize];
    ["Offset of field: PixelsParams::patch"][::std::mem::offset_of!(PixelsParams, patch) - 32usize];
    ["Offset of field: PixelsParams::reserved"][::std::mem::offset_of!(PixelsParams, reserved) - 36usize];
};
/// Convolution in time and space, channels last. Entries conv_{dtype}_{128,16}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ConvParams {
    /// [frames, in_rows, width, channels] D: rows in_first.. of height
    pub x: u64,
    /// [frames_before, in_rows, width, channels] D: the frames before those of x, or null
    pub before: u64,
    /// [n, kernel_t, kernel_h, kernel_w, channels] D
    pub w: u64,
    /// [n] D, or null
    pub bias: u64,
    /// as out, D, added; or null. May be out
    pub residual: u64,
    /// [out_frames*time_factor, out_height, out_width, n/time_factor] D (out_f32: float)
    pub out: u64,
    /// of the input before upsampling
    pub frames: i32,
    /// of the input before upsampling
    pub height: i32,
    /// of the input before upsampling
    pub width: i32,
    /// of the input before upsampling
    pub channels: i32,
    pub in_first: i32,
    pub in_rows: i32,
    pub out_frames: i32,
    pub out_height: i32,
    pub out_width: i32,
    pub n: i32,
    /// the rows made
    pub out_first: i32,
    /// the rows made
    pub out_rows: i32,
    pub kernel_t: i32,
    pub kernel_h: i32,
    pub kernel_w: i32,
    /// in time, in both directions of space
    pub stride_t: i32,
    /// in time, in both directions of space
    pub stride: i32,
    /// in front
    pub pad_t: i32,
    /// in front
    pub pad: i32,
    /// 1: rows and columns of the input are doubled
    pub upsample: i32,
    pub time_factor: i32,
    pub out_f32: i32,
    /// factor of the sums, not of the bias
    pub alpha: f32,
    pub frames_before: i32,
    /// 1: what is below 0 becomes 0, last of all
    pub relu: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvParams"][::std::mem::size_of::<ConvParams>() - 152usize];
    ["Alignment of ConvParams"][::std::mem::align_of::<ConvParams>() - 8usize];
    ["Offset of field: ConvParams::x"][::std::mem::offset_of!(ConvParams, x) - 0usize];
    ["Offset of field: ConvParams::before"][::std::mem::offset_of!(ConvParams, before) - 8usize];
    ["Offset of field: ConvParams::w"][::std::mem::offset_of!(ConvParams, w) - 16usize];
    ["Offset of field: ConvParams::bias"][::std::mem::offset_of!(ConvParams, bias) - 24usize];
    ["Offset of field: ConvParams::residual"][::std::mem::offset_of!(ConvParams, residual) - 32usize];
    ["Offset of field: ConvParams::out"][::std::mem::offset_of!(ConvParams, out) - 40usize];
    ["Offset of field: ConvParams::frames"][::std::mem::offset_of!(ConvParams, frames) - 48usize];
    ["Offset of field: ConvParams::height"][::std::mem::offset_of!(ConvParams, height) - 52usize];
    ["Offset of field: ConvParams::width"][::std::mem::offset_of!(ConvParams, width) - 56usize];
    ["Offset of field: ConvParams::channels"][::std::mem::offset_of!(ConvParams, channels) - 60usize];
    ["Offset of field: ConvParams::in_first"][::std::mem::offset_of!(ConvParams, in_first) - 64usize];
    ["Offset of field: ConvParams::in_rows"][::std::mem::offset_of!(ConvParams, in_rows) - 68usize];
    ["Offset of field: ConvParams::out_frames"][::std::mem::offset_of!(ConvParams, out_frames) - 72usize];
    ["Offset of field: ConvParams::out_height"][::std::mem::offset_of!(ConvParams, out_height) - 76usize];
    ["Offset of field: ConvParams::out_width"][::std::mem::offset_of!(ConvParams, out_width) - 80usize];
    ["Offset of field: ConvParams::n"][::std::mem::offset_of!(ConvParams, n) - 84usize];
    ["Offset of field: ConvParams::out_first"][::std::mem::offset_of!(ConvParams, out_first) - 88usize];
    ["Offset of field: ConvParams::out_rows"][::std::mem::offset_of!(ConvParams, out_rows) - 92usize];
    ["Offset of field: ConvParams::kernel_t"][::std::mem::offset_of!(ConvParams, kernel_t) - 96usize];
    ["Offset of field: ConvParams::kernel_h"][::std::mem::offset_of!(ConvParams, kernel_h) - 100usize];
    ["Offset of field: ConvParams::kernel_w"][::std::mem::offset_of!(ConvParams, kernel_w) - 104usize];
    ["Offset of field: ConvParams::stride_t"][::std::mem::offset_of!(ConvParams, stride_t) - 108usize];
    ["Offset of field: ConvParams::stride"][::std::mem::offset_of!(ConvParams, stride) - 112usize];
    ["Offset of field: ConvParams::pad_t"][::std::mem::offset_of!(ConvParams, pad_t) - 116usize];
    ["Offset of field: ConvParams::pad"][::std::mem::offset_of!(ConvParams, pad) - 120usize];
    ["Offset of field: ConvParams::upsample"][::std::mem::offset_of!(ConvParams, upsample) - 124usize];
    ["Offset of field: ConvParams::time_factor"][::std::mem::offset_of!(ConvParams, time_factor) - 128usize];
    ["Offset of field: ConvParams::out_f32"][::std::mem::offset_of!(ConvParams, out_f32) - 132usize];
    ["Offset of field: ConvParams::alpha"][::std::mem::offset_of!(ConvParams, alpha) - 136usize];
    ["Offset of field: ConvParams::frames_before"][::std::mem::offset_of!(ConvParams, frames_before) - 140usize];
    ["Offset of field: ConvParams::relu"][::std::mem::offset_of!(ConvParams, relu) - 144usize];
    ["Offset of field: ConvParams::reserved"][::std::mem::offset_of!(ConvParams, reserved) - 148usize];
};
/// Entries group_sums_{dtype}; grid (blocks, samples).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct GroupSumsParams {
    /// [samples, positions, channels] D
    pub x: u64,
    /// [samples, blocks, channels, 2]
    pub partial: u64,
    pub positions: i64,
    pub channels: i32,
    pub groups: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupSumsParams"][::std::mem::size_of::<GroupSumsParams>() - 32usize];
    ["Alignment of GroupSumsParams"][::std::mem::align_of::<GroupSumsParams>() - 8usize];
    ["Offset of field: GroupSumsParams::x"][::std::mem::offset_of!(GroupSumsParams, x) - 0usize];
    ["Offset of field: GroupSumsParams::partial"][::std::mem::offset_of!(GroupSumsParams, partial) - 8usize];
    ["Offset of field: GroupSumsParams::positions"][::std::mem::offset_of!(GroupSumsParams, positions) - 16usize];
    ["Offset of field: GroupSumsParams::channels"][::std::mem::offset_of!(GroupSumsParams, channels) - 24usize];
    ["Offset of field: GroupSumsParams::groups"][::std::mem::offset_of!(GroupSumsParams, groups) - 28usize];
};
/// Entries group_affine_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct GroupAffineParams {
    /// as for the sums
    pub x: u64,
    pub partial: u64,
    /// [channels] D
    pub weight: u64,
    /// [channels] D
    pub bias: u64,
    /// [samples, channels, 2]: y = x * affine[0] + affine[1]
    pub affine: u64,
    pub positions: i64,
    pub samples: i32,
    pub blocks: i32,
    pub channels: i32,
    pub groups: i32,
    pub eps: f32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupAffineParams"][::std::mem::size_of::<GroupAffineParams>() - 72usize];
    ["Alignment of GroupAffineParams"][::std::mem::align_of::<GroupAffineParams>() - 8usize];
    ["Offset of field: GroupAffineParams::x"][::std::mem::offset_of!(GroupAffineParams, x) - 0usize];
    ["Offset of field: GroupAffineParams::partial"][::std::mem::offset_of!(GroupAffineParams, partial) - 8usize];
    ["Offset of field: GroupAffineParams::weight"][::std::mem::offset_of!(GroupAffineParams, weight) - 16usize];
    ["Offset of field: GroupAffineParams::bias"][::std::mem::offset_of!(GroupAffineParams, bias) - 24usize];
    ["Offset of field: GroupAffineParams::affine"][::std::mem::offset_of!(GroupAffineParams, affine) - 32usize];
    ["Offset of field: GroupAffineParams::positions"][::std::mem::offset_of!(GroupAffineParams, positions) - 40usize];
    ["Offset of field: GroupAffineParams::samples"][::std::mem::offset_of!(GroupAffineParams, samples) - 48usize];
    ["Offset of field: GroupAffineParams::blocks"][::std::mem::offset_of!(GroupAffineParams, blocks) - 52usize];
    ["Offset of field: GroupAffineParams::channels"][::std::mem::offset_of!(GroupAffineParams, channels) - 56usize];
    ["Offset of field: GroupAffineParams::groups"][::std::mem::offset_of!(GroupAffineParams, groups) - 60usize];
    ["Offset of field: GroupAffineParams::eps"][::std::mem::offset_of!(GroupAffineParams, eps) - 64usize];
    ["Offset of field: GroupAffineParams::reserved"][::std::mem::offset_of!(GroupAffineParams, reserved) - 68usize];
};
/// Entries group_apply_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct GroupApplyParams {
    /// [frames, height, width, channels] D
    pub x: u64,
    /// [frames/frames_per_sample, channels, 2]
    pub affine: u64,
    /// [frames, rows, width, channels] D: rows first.. of every frame
    pub out: u64,
    pub frames: i32,
    pub frames_per_sample: i32,
    pub height: i32,
    pub width: i32,
    pub channels: i32,
    pub first: i32,
    pub rows: i32,
    /// 1: SiLU follows
    pub silu: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupApplyParams"][::std::mem::size_of::<GroupApplyParams>() - 56usize];
    ["Alignment of GroupApplyParams"][::std::mem::align_of::<GroupApplyParams>() - 8usize];
    ["Offset of field: GroupApplyParams::x"][::std::mem::offset_of!(GroupApplyParams, x) - 0usize];
    ["Offset of field: GroupApplyParams::affine"][::std::mem::offset_of!(GroupApplyParams, affine) - 8usize];
    ["Offset of field: GroupApplyParams::out"][::std::mem::offset_of!(GroupApplyParams, out) - 16usize];
    ["Offset of field: GroupApplyParams::frames"][::std::mem::offset_of!(GroupApplyParams, frames) - 24usize];
    ["Offset of field: GroupApplyParams::frames_per_sample"]
        [::std::mem::offset_of!(GroupApplyParams, frames_per_sample) - 28usize];
    ["Offset of field: GroupApplyParams::height"][::std::mem::offset_of!(GroupApplyParams, height) - 32usize];
    ["Offset of field: GroupApplyParams::width"][::std::mem::offset_of!(GroupApplyParams, width) - 36usize];
    ["Offset of field: GroupApplyParams::channels"][::std::mem::offset_of!(GroupApplyParams, channels) - 40usize];
    ["Offset of field: GroupApplyParams::first"][::std::mem::offset_of!(GroupApplyParams, first) - 44usize];
    ["Offset of field: GroupApplyParams::rows"][::std::mem::offset_of!(GroupApplyParams, rows) - 48usize];
    ["Offset of field: GroupApplyParams::silu"][::std::mem::offset_of!(GroupApplyParams, silu) - 52usize];
};
/// out = act(x / max(|x|, 1e-12) * scale * gamma) for each row. Entries rms_norm_{dtype}. out may be x.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct RmsNormParams {
    /// [rows, channels] D
    pub x: u64,
    /// [channels] D
    pub gamma: u64,
    /// [rows, channels] D
    pub out: u64,
    pub rows: i64,
    pub channels: i32,
    /// of a row: a power of two, at most 32
    pub lanes: i32,
    pub scale: f32,
    /// 1: SiLU follows
    pub silu: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormParams"][::std::mem::size_of::<RmsNormParams>() - 48usize];
    ["Alignment of RmsNormParams"][::std::mem::align_of::<RmsNormParams>() - 8usize];
    ["Offset of field: RmsNormParams::x"][::std::mem::offset_of!(RmsNormParams, x) - 0usize];
    ["Offset of field: RmsNormParams::gamma"][::std::mem::offset_of!(RmsNormParams, gamma) - 8usize];
    ["Offset of field: RmsNormParams::out"][::std::mem::offset_of!(RmsNormParams, out) - 16usize];
    ["Offset of field: RmsNormParams::rows"][::std::mem::offset_of!(RmsNormParams, rows) - 24usize];
    ["Offset of field: RmsNormParams::channels"][::std::mem::offset_of!(RmsNormParams, channels) - 32usize];
    ["Offset of field: RmsNormParams::lanes"][::std::mem::offset_of!(RmsNormParams, lanes) - 36usize];
    ["Offset of field: RmsNormParams::scale"][::std::mem::offset_of!(RmsNormParams, scale) - 40usize];
    ["Offset of field: RmsNormParams::silu"][::std::mem::offset_of!(RmsNormParams, silu) - 44usize];
};
/// x[o,i,c] := sum over j of w[(i - j) mod length] x[o,j,c]. Entries circulant_{dtype}; grid outer * ceil(inner / tile).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct CirculantParams {
    /// [outer, length, inner] D; read, then overwritten
    pub x: u64,
    /// [steps, row]: w of step s begins at (s - 1)*row + first
    pub table: u64,
    /// s, the step at hand, from 1
    pub cursor: u64,
    pub inner: i64,
    /// length * tile <= CIRCULANT_ELEMENTS
    pub length: i32,
    /// length * tile <= CIRCULANT_ELEMENTS
    pub tile: i32,
    pub row: i32,
    pub first: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CirculantParams"][::std::mem::size_of::<CirculantParams>() - 48usize];
    ["Alignment of CirculantParams"][::std::mem::align_of::<CirculantParams>() - 8usize];
    ["Offset of field: CirculantParams::x"][::std::mem::offset_of!(CirculantParams, x) - 0usize];
    ["Offset of field: CirculantParams::table"][::std::mem::offset_of!(CirculantParams, table) - 8usize];
    ["Offset of field: CirculantParams::cursor"][::std::mem::offset_of!(CirculantParams, cursor) - 16usize];
    ["Offset of field: CirculantParams::inner"][::std::mem::offset_of!(CirculantParams, inner) - 24usize];
    ["Offset of field: CirculantParams::length"][::std::mem::offset_of!(CirculantParams, length) - 32usize];
    ["Offset of field: CirculantParams::tile"][::std::mem::offset_of!(CirculantParams, tile) - 36usize];
    ["Offset of field: CirculantParams::row"][::std::mem::offset_of!(CirculantParams, row) - 40usize];
    ["Offset of field: CirculantParams::first"][::std::mem::offset_of!(CirculantParams, first) - 44usize];
};
/// Channels to frames, rows and columns, and back. Entries dup_up_{dtype}, avg_down_{dtype}: both add to out.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct ResampleParams {
    /// [frames, height, width, pitch] D
    pub x: u64,
    /// [out_frames, out_height, out_width, out_pitch] D
    pub out: u64,
    pub frames: i32,
    pub height: i32,
    pub width: i32,
    pub pitch: i32,
    pub out_frames: i32,
    pub out_height: i32,
    pub out_width: i32,
    pub out_pitch: i32,
    /// without padding
    pub channels: i32,
    /// without padding
    pub out_channels: i32,
    /// log2 of the factor in time, and in both directions of space
    pub bits_t: i32,
    /// log2 of the factor in time, and in both directions of space
    pub bits: i32,
    /// dup_up: frames dropped in front; avg_down: frames of zeros in front
    pub shift: i32,
    /// dup_up: how often a channel is repeated; avg_down: how many are averaged
    pub share: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResampleParams"][::std::mem::size_of::<ResampleParams>() - 72usize];
    ["Alignment of ResampleParams"][::std::mem::align_of::<ResampleParams>() - 8usize];
    ["Offset of field: ResampleParams::x"][::std::mem::offset_of!(ResampleParams, x) - 0usize];
    ["Offset of field: ResampleParams::out"][::std::mem::offset_of!(ResampleParams, out) - 8usize];
    ["Offset of field: ResampleParams::frames"][::std::mem::offset_of!(ResampleParams, frames) - 16usize];
    ["Offset of field: ResampleParams::height"][::std::mem::offset_of!(ResampleParams, height) - 20usize];
    ["Offset of field: ResampleParams::width"][::std::mem::offset_of!(ResampleParams, width) - 24usize];
    ["Offset of field: ResampleParams::pitch"][::std::mem::offset_of!(ResampleParams, pitch) - 28usize];
    ["Offset of field: ResampleParams::out_frames"][::std::mem::offset_of!(ResampleParams, out_frames) - 32usize];
    ["Offset of field: ResampleParams::out_height"][::std::mem::offset_of!(ResampleParams, out_height) - 36usize];
    ["Offset of field: ResampleParams::out_width"][::std::mem::offset_of!(ResampleParams, out_width) - 40usize];
    ["Offset of field: ResampleParams::out_pitch"][::std::mem::offset_of!(ResampleParams, out_pitch) - 44usize];
    ["Offset of field: ResampleParams::channels"][::std::mem::offset_of!(ResampleParams, channels) - 48usize];
    ["Offset of field: ResampleParams::out_channels"][::std::mem::offset_of!(ResampleParams, out_channels) - 52usize];
    ["Offset of field: ResampleParams::bits_t"][::std::mem::offset_of!(ResampleParams, bits_t) - 56usize];
    ["Offset of field: ResampleParams::bits"][::std::mem::offset_of!(ResampleParams, bits) - 60usize];
    ["Offset of field: ResampleParams::shift"][::std::mem::offset_of!(ResampleParams, shift) - 64usize];
    ["Offset of field: ResampleParams::share"][::std::mem::offset_of!(ResampleParams, share) - 68usize];
};
/// out = scale * x at twice the frames: the first one stays, those between are linear. Entries time_up_{dtype}; grid ceil(chunks of out / threads).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct TimeUpParams {
    /// [frames, chunks] chunks of 16 bytes of D
    pub x: u64,
    /// [2*frames - 1, chunks]
    pub out: u64,
    pub chunks: i64,
    pub frames: i32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TimeUpParams"][::std::mem::size_of::<TimeUpParams>() - 32usize];
    ["Alignment of TimeUpParams"][::std::mem::align_of::<TimeUpParams>() - 8usize];
    ["Offset of field: TimeUpParams::x"][::std::mem::offset_of!(TimeUpParams, x) - 0usize];
    ["Offset of field: TimeUpParams::out"][::std::mem::offset_of!(TimeUpParams, out) - 8usize];
    ["Offset of field: TimeUpParams::chunks"][::std::mem::offset_of!(TimeUpParams, chunks) - 16usize];
    ["Offset of field: TimeUpParams::frames"][::std::mem::offset_of!(TimeUpParams, frames) - 24usize];
    ["Offset of field: TimeUpParams::scale"][::std::mem::offset_of!(TimeUpParams, scale) - 28usize];
};
/// out[i,j,k] = x[i*stride_i + j*stride_j + k*stride_k] for k < count, else 0. Entries permute_{dtype}; grid ceil(elements of out / threads).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PermuteParams {
    /// D
    pub x: u64,
    /// [rows, columns, pitch] D
    pub out: u64,
    pub stride_i: i64,
    pub stride_j: i64,
    pub stride_k: i64,
    pub rows: i32,
    pub columns: i32,
    pub pitch: i32,
    pub count: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PermuteParams"][::std::mem::size_of::<PermuteParams>() - 56usize];
    ["Alignment of PermuteParams"][::std::mem::align_of::<PermuteParams>() - 8usize];
    ["Offset of field: PermuteParams::x"][::std::mem::offset_of!(PermuteParams, x) - 0usize];
    ["Offset of field: PermuteParams::out"][::std::mem::offset_of!(PermuteParams, out) - 8usize];
    ["Offset of field: PermuteParams::stride_i"][::std::mem::offset_of!(PermuteParams, stride_i) - 16usize];
    ["Offset of field: PermuteParams::stride_j"][::std::mem::offset_of!(PermuteParams, stride_j) - 24usize];
    ["Offset of field: PermuteParams::stride_k"][::std::mem::offset_of!(PermuteParams, stride_k) - 32usize];
    ["Offset of field: PermuteParams::rows"][::std::mem::offset_of!(PermuteParams, rows) - 40usize];
    ["Offset of field: PermuteParams::columns"][::std::mem::offset_of!(PermuteParams, columns) - 44usize];
    ["Offset of field: PermuteParams::pitch"][::std::mem::offset_of!(PermuteParams, pitch) - 48usize];
    ["Offset of field: PermuteParams::count"][::std::mem::offset_of!(PermuteParams, count) - 52usize];
};
/// Entries softmax_{dtype}; a block for each row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct SoftmaxParams {
    /// [rows, pitch]
    pub x: u64,
    /// [rows, pitch] D
    pub out: u64,
    /// columns that count; the others become 0
    pub count: i32,
    /// columns that count; the others become 0
    pub pitch: i32,
    pub scale: f32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SoftmaxParams"][::std::mem::size_of::<SoftmaxParams>() - 32usize];
    ["Alignment of SoftmaxParams"][::std::mem::align_of::<SoftmaxParams>() - 8usize];
    ["Offset of field: SoftmaxParams::x"][::std::mem::offset_of!(SoftmaxParams, x) - 0usize];
    ["Offset of field: SoftmaxParams::out"][::std::mem::offset_of!(SoftmaxParams, out) - 8usize];
    ["Offset of field: SoftmaxParams::count"][::std::mem::offset_of!(SoftmaxParams, count) - 16usize];
    ["Offset of field: SoftmaxParams::pitch"][::std::mem::offset_of!(SoftmaxParams, pitch) - 20usize];
    ["Offset of field: SoftmaxParams::scale"][::std::mem::offset_of!(SoftmaxParams, scale) - 24usize];
    ["Offset of field: SoftmaxParams::reserved"][::std::mem::offset_of!(SoftmaxParams, reserved) - 28usize];
};
/// AdaCache's state on the device; a host's counterpart is AdaCache in src/cache/adacache.rs.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct DecideState {
    pub rate: f64,
    pub planned_rate: f64,
    pub mean: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DecideState"][::std::mem::size_of::<DecideState>() - 24usize];
    ["Alignment of DecideState"][::std::mem::align_of::<DecideState>() - 8usize];
    ["Offset of field: DecideState::rate"][::std::mem::offset_of!(DecideState, rate) - 0usize];
    ["Offset of field: DecideState::planned_rate"][::std::mem::offset_of!(DecideState, planned_rate) - 8usize];
    ["Offset of field: DecideState::mean"][::std::mem::offset_of!(DecideState, mean) - 16usize];
};
/// The scalars of the next step. Entry step_begin.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct StepBeginParams {
    /// [steps, STEP_WORDS]
    pub table: u64,
    /// steps done; counted up
    pub cursor: u64,
    /// [conditions]: variant 0 the timestep, variant 1 time 0
    pub time: u64,
    /// [STEP_WORDS]: the step's own
    pub row: u64,
    pub state: u64,
    pub conditions: i32,
    pub variants: i32,
    /// 1: the step runs the blocks
    pub computed: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StepBeginParams"][::std::mem::size_of::<StepBeginParams>() - 56usize];
    ["Alignment of StepBeginParams"][::std::mem::align_of::<StepBeginParams>() - 8usize];
    ["Offset of field: StepBeginParams::table"][::std::mem::offset_of!(StepBeginParams, table) - 0usize];
    ["Offset of field: StepBeginParams::cursor"][::std::mem::offset_of!(StepBeginParams, cursor) - 8usize];
    ["Offset of field: StepBeginParams::time"][::std::mem::offset_of!(StepBeginParams, time) - 16usize];
    ["Offset of field: StepBeginParams::row"][::std::mem::offset_of!(StepBeginParams, row) - 24usize];
    ["Offset of field: StepBeginParams::state"][::std::mem::offset_of!(StepBeginParams, state) - 32usize];
    ["Offset of field: StepBeginParams::conditions"][::std::mem::offset_of!(StepBeginParams, conditions) - 40usize];
    ["Offset of field: StepBeginParams::variants"][::std::mem::offset_of!(StepBeginParams, variants) - 44usize];
    ["Offset of field: StepBeginParams::computed"][::std::mem::offset_of!(StepBeginParams, computed) - 48usize];
    ["Offset of field: StepBeginParams::reserved"][::std::mem::offset_of!(StepBeginParams, reserved) - 52usize];
};
/// The decision from one probe's sums. Entry decide.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct DecideParams {
    /// [batch, PROBE_SUMS + MOTION_SUMS*num_strides]
    pub sums: u64,
    /// [entries, 2]: threshold, rate
    pub codebook: u64,
    pub state: u64,
    /// [probes]
    pub motion_previous: u64,
    /// [4]: distance, motion, gradient, rate
    pub decision: u64,
    pub cursor: u64,
    pub motion_scale: f64,
    pub motion_divisor: f64,
    pub motion_gradient: f64,
    pub motion_exponent: i32,
    pub first_step: i32,
    pub last_step: i32,
    /// 0: no motion regularization
    pub moreg: i32,
    pub metric: i32,
    pub entries: i32,
    pub batch: i32,
    pub num_strides: i32,
    /// which of this forward's
    pub probe: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DecideParams"][::std::mem::size_of::<DecideParams>() - 112usize];
    ["Alignment of DecideParams"][::std::mem::align_of::<DecideParams>() - 8usize];
    ["Offset of field: DecideParams::sums"][::std::mem::offset_of!(DecideParams, sums) - 0usize];
    ["Offset of field: DecideParams::codebook"][::std::mem::offset_of!(DecideParams, codebook) - 8usize];
    ["Offset of field: DecideParams::state"][::std::mem::offset_of!(DecideParams, state) - 16usize];
    ["Offset of field: DecideParams::motion_previous"][::std::mem::offset_of!(DecideParams, motion_previous) - 24usize];
    ["Offset of field: DecideParams::decision"][::std::mem::offset_of!(DecideParams, decision) - 32usize];
    ["Offset of field: DecideParams::cursor"][::std::mem::offset_of!(DecideParams, cursor) - 40usize];
    ["Offset of field: DecideParams::motion_scale"][::std::mem::offset_of!(DecideParams, motion_scale) - 48usize];
    ["Offset of field: DecideParams::motion_divisor"][::std::mem::offset_of!(DecideParams, motion_divisor) - 56usize];
    ["Offset of field: DecideParams::motion_gradient"][::std::mem::offset_of!(DecideParams, motion_gradient) - 64usize];
    ["Offset of field: DecideParams::motion_exponent"][::std::mem::offset_of!(DecideParams, motion_exponent) - 72usize];
    ["Offset of field: DecideParams::first_step"][::std::mem::offset_of!(DecideParams, first_step) - 76usize];
    ["Offset of field: DecideParams::last_step"][::std::mem::offset_of!(DecideParams, last_step) - 80usize];
    ["Offset of field: DecideParams::moreg"][::std::mem::offset_of!(DecideParams, moreg) - 84usize];
    ["Offset of field: DecideParams::metric"][::std::mem::offset_of!(DecideParams, metric) - 88usize];
    ["Offset of field: DecideParams::entries"][::std::mem::offset_of!(DecideParams, entries) - 92usize];
    ["Offset of field: DecideParams::batch"][::std::mem::offset_of!(DecideParams, batch) - 96usize];
    ["Offset of field: DecideParams::num_strides"][::std::mem::offset_of!(DecideParams, num_strides) - 100usize];
    ["Offset of field: DecideParams::probe"][::std::mem::offset_of!(DecideParams, probe) - 104usize];
    ["Offset of field: DecideParams::reserved"][::std::mem::offset_of!(DecideParams, reserved) - 108usize];
};
/// Rows to e4m3. Entries residual_pack_{dtype}; of sm_90a/quantise.cu quantise_{bf16,f16}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PackParams {
    /// [rows, channels] D
    pub x: u64,
    /// [rows, channels]
    pub packed: u64,
    /// [rows]
    pub scale: u64,
    /// [blocks, 2]
    pub error: u64,
    pub rows: i64,
    pub channels: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PackParams"][::std::mem::size_of::<PackParams>() - 48usize];
    ["Alignment of PackParams"][::std::mem::align_of::<PackParams>() - 8usize];
    ["Offset of field: PackParams::x"][::std::mem::offset_of!(PackParams, x) - 0usize];
    ["Offset of field: PackParams::packed"][::std::mem::offset_of!(PackParams, packed) - 8usize];
    ["Offset of field: PackParams::scale"][::std::mem::offset_of!(PackParams, scale) - 16usize];
    ["Offset of field: PackParams::error"][::std::mem::offset_of!(PackParams, error) - 24usize];
    ["Offset of field: PackParams::rows"][::std::mem::offset_of!(PackParams, rows) - 32usize];
    ["Offset of field: PackParams::channels"][::std::mem::offset_of!(PackParams, channels) - 40usize];
    ["Offset of field: PackParams::reserved"][::std::mem::offset_of!(PackParams, reserved) - 44usize];
};
/// And back. Entries residual_unpack_{dtype}.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct UnpackParams {
    pub packed: u64,
    pub scale: u64,
    /// [rows, channels] D
    pub out: u64,
    pub rows: i64,
    pub channels: i32,
    /// 1: added to what out holds
    pub add: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UnpackParams"][::std::mem::size_of::<UnpackParams>() - 40usize];
    ["Alignment of UnpackParams"][::std::mem::align_of::<UnpackParams>() - 8usize];
    ["Offset of field: UnpackParams::packed"][::std::mem::offset_of!(UnpackParams, packed) - 0usize];
    ["Offset of field: UnpackParams::scale"][::std::mem::offset_of!(UnpackParams, scale) - 8usize];
    ["Offset of field: UnpackParams::out"][::std::mem::offset_of!(UnpackParams, out) - 16usize];
    ["Offset of field: UnpackParams::rows"][::std::mem::offset_of!(UnpackParams, rows) - 24usize];
    ["Offset of field: UnpackParams::channels"][::std::mem::offset_of!(UnpackParams, channels) - 32usize];
    ["Offset of field: UnpackParams::add"][::std::mem::offset_of!(UnpackParams, add) - 36usize];
};
/// Entry pack_error.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable, PartialEq)]
pub struct PackErrorParams {
    /// [blocks, 2]
    pub error: u64,
    /// [2], added to
    pub totals: u64,
    pub blocks: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PackErrorParams"][::std::mem::size_of::<PackErrorParams>() - 24usize];
    ["Alignment of PackErrorParams"][::std::mem::align_of::<PackErrorParams>() - 8usize];
    ["Offset of field: PackErrorParams::error"][::std::mem::offset_of!(PackErrorParams, error) - 0usize];
    ["Offset of field: PackErrorParams::totals"][::std::mem::offset_of!(PackErrorParams, totals) - 8usize];
    ["Offset of field: PackErrorParams::blocks"][::std::mem::offset_of!(PackErrorParams, blocks) - 16usize];
    ["Offset of field: PackErrorParams::reserved"][::std::mem::offset_of!(PackErrorParams, reserved) - 20usize];
};
