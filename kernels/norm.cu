// LayerNorm without weights: its statistics for linear's prologue, and LayerNorm + adaLN modulate by itself.
//
//   mean = sum x / C        rstd = 1/sqrt(sum (x - mean)^2 / C + eps)        y = (x - mean) rstd (1 + scale) + shift
//
// x [rows, C] D. A warp owns a row and reads it twice for the statistics (the second time from L1), so the variance is that
// of the centred values: no cancellation when |mean| is large. C of any size; a lane takes every 32nd chunk.
// Launch: ROW_THREADS threads, grid ceil(rows / ROW_WARPS). No shared memory. Sums run over lanes by xor-shuffles.
#include "common.cuh"

// mean and 1/sqrt(var + eps) of the warp's row; the same bits in every lane.
template <class D, int N> __device__ __forceinline__ float2 statistics(const D* row, int channels, float eps) {
  float sum = 0.0f;
  for (int c = lane_index() * N; c < channels; c += 32 * N) {
    float x[N];
    load_elements(row + c, x);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += x[i];
  }
  float mean = warp_sum(sum) / (float)channels;
  float squares = 0.0f;
  for (int c = lane_index() * N; c < channels; c += 32 * N) {
    float x[N];
    load_elements(row + c, x);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  }
  return make_float2(mean, 1.0f / sqrtf(warp_sum(squares) / (float)channels + eps));
}

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
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) modulate_##D(const ModulateParams p) { modulate_entry<D>(p); }
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
