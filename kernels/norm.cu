// LayerNorm without weights: its statistics for linear's prologue, and LayerNorm + adaLN modulate by itself. RMSNorm of queries and keys
// over all heads together, with RoPE.
//
//   mean = sum x / C        rstd = 1/sqrt(sum (x - mean)^2 / C + eps)        y = (x - mean) rstd (1 + scale) + shift
//   rms_rope: y = x / sqrt(sum x^2 / C + eps) w, then (y0, y1) -> (y0 cos - y1 sin, y0 sin + y1 cos) for adjacent channels of a head
//
// x [rows, C] D. A warp owns a row and reads it twice for the statistics (the second time from L1), so the variance is that
// of the centred values: no cancellation when |mean| is large. C of any size; a lane takes every 32nd chunk. rms_rope works in place on
// the parts of packed projections, a warp for each row of a part, once a forward: attention would norm the keys again for every tile of
// queries, and cannot see the other heads.
// Launch: ROW_THREADS threads, grid ceil(rows / ROW_WARPS). No shared memory. Sums run over lanes by xor-shuffles.
#include "norm.cuh"

template <class D, int N> __device__ __forceinline__ void row_stats(const RowStatsParams& p) {
  for (long long row = grid_warp(); row < p.rows; row += grid_warps()) {
    float2 stats = statistics<D, N>((const D*)p.x + row * p.channels, p.channels, p.eps);
    if (lane_index() == 0) p.stats[2 * row] = stats.x, p.stats[2 * row + 1] = stats.y;
  }
}

template <class D, int N> __device__ __forceinline__ void modulate(const ModulateParams& p) {
  for (long long row = grid_warp(); row < p.rows; row += grid_warps()) {
    long long frame = row / p.rows_per_frame; // over all batches, as the mask is laid out
    if (p.only_masked_out && p.frame_mask && p.frame_mask[frame] != 0) continue;
    const D* x = (const D*)p.x + row * p.channels;
    D* out = (D*)p.out + row * p.channels;
    float2 stats = statistics<D, N>(x, p.channels, p.eps);
    const float* chunks = p.modulation + (frame / p.frames * p.variants + p.variant) * p.chunks * p.channels;
    const float* shift = chunks + (long long)p.shift_chunk * p.channels;
    const float* scale = chunks + (long long)p.scale_chunk * p.channels;
    // A lane writes only what it alone has read, after the statistics: out may be x.
    for (int c = lane_index() * N; c < p.channels; c += 32 * N) {
      float y[N], a[N], b[N];
      load_elements(x + c, y);
      load_floats(scale + c, a);
      load_floats(shift + c, b);
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = fmaf((y[i] - stats.x) * stats.y, 1.0f + a[i], b[i]);
      store_elements(out + c, y);
    }
  }
}

template <class D, int N> __device__ __forceinline__ void rms_rope(const RmsRopeParams& p) {
  const int half = p.head_dim / 2;
  for (long long i = grid_warp(); i < p.rows * p.parts; i += grid_warps()) {
    const long long row = i / p.parts;
    const int part = (int)(i % p.parts);
    D* x = (D*)p.x + row * p.row_stride + part * p.channels;
    const D* weight = (const D*)p.weight[part];
    float squares = 0.0f;
    for (int c = lane_index() * N; c < p.channels; c += 32 * N) {
      float v[N];
      load_elements(x + c, v);
#pragma unroll
      for (int e = 0; e < N; ++e) squares = fmaf(v[e], v[e], squares);
    }
    const float inverse = rsqrt_fast(fmaf(warp_sum(squares), reciprocal((float)p.channels), p.eps));
    const unsigned at = (unsigned)row; // rows are counted with 31 bits
    const int column = at % p.width, line = at / p.width % p.height, frame = at / p.width / p.height % p.frames;
    // A pair at a time, or a whole chunk of pairs.
    constexpr int STEP = N == 1 ? 2 : N;
#pragma unroll 1
    for (int c = lane_index() * STEP; c < p.channels; c += 32 * STEP) {
      float v[STEP], w[STEP];
      if constexpr (N == 1) {
        v[0] = to_f32(x[c]), v[1] = to_f32(x[c + 1]);
        w[0] = to_f32(weight[c]), w[1] = to_f32(weight[c + 1]);
      } else {
        load_elements(x + c, v);
        load_elements(weight + c, w);
      }
#pragma unroll
      for (int e = 0; e < STEP; ++e) v[e] = v[e] * inverse * w[e];
      if (p.rope) {
        const int first = c % p.head_dim / 2;
#pragma unroll
        for (int e = 0; e < STEP; e += 2) {
          const int pair = first + e / 2;
          const int position = pair < p.frame_pairs ? frame : pair < p.frame_pairs + p.height_pairs ? line : column;
          const float2 turn = *reinterpret_cast<const float2*>(p.rope + ((long long)position * half + pair) * 2);
          const float v0 = v[e], v1 = v[e + 1];
          v[e] = v0 * turn.x - v1 * turn.y;
          v[e + 1] = v0 * turn.y + v1 * turn.x;
        }
      }
      if constexpr (N == 1) x[c] = from_f32<D>(v[0]), x[c + 1] = from_f32<D>(v[1]);
      else store_elements(x + c, v);
    }
  }
}

template <class D> __device__ __forceinline__ void rms_rope_entry(const RmsRopeParams& p) {
  // A chunk stays within a head.
  const bool whole = p.row_stride % Chunk<D>::N == 0 && p.head_dim % Chunk<D>::N == 0;
  if (whole && chunked<D>(p.channels, p.x, p.weight[0], p.weight[1])) rms_rope<D, Chunk<D>::N>(p);
  else rms_rope<D, 1>(p);
}
template <class D> __device__ __forceinline__ void row_stats_entry(const RowStatsParams& p) {
  if (chunked<D>(p.channels, p.x)) row_stats<D, Chunk<D>::N>(p);
  else row_stats<D, 1>(p);
}
template <class D> __device__ __forceinline__ void modulate_entry(const ModulateParams& p) {
  if (chunked<D>(p.channels, p.x, p.out, p.modulation)) modulate<D, Chunk<D>::N>(p);
  else modulate<D, 1>(p);
}

#define ENTRIES(D)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) row_stats_##D(const RowStatsParams p) { row_stats_entry<D>(p); } \
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) rms_rope_##D(const RmsRopeParams p) { rms_rope_entry<D>(p); } \
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) modulate_##D(const ModulateParams p) { modulate_entry<D>(p); }
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
