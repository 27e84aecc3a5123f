// GroupNorm over channels-last tensors, and SiLU with it.
//
//   mean, var over the positions of a sample and the C/groups channels of a group;  y = act((x - mean)/sqrt(var + eps) * w + b)
//
// x [samples, positions, C] D, C a multiple of 8 and of groups. A sample is a frame (2-D) or a whole chunk of frames (3-D). Three steps:
//   group_sums    a block adds sum(x - s) and sum((x - s)^2) by channel over its share of the positions; s is the group's first
//                 element, so that nothing cancels where |mean| is large. A thread keeps one chunk of channels, the block's threads are
//                 joined in shared memory. Grid (blocks, samples).
//   group_affine  a warp per (sample, group) adds those in f64 and leaves y = x * scale + shift by channel.
//   group_apply   y, with or without SiLU, for some rows of every frame: what a band of a convolution reads.
// Sums run in a fixed order that depends on the shape alone. Shared memory: 16 KB (group_sums).
#include "common.cuh"

template <class D> __device__ __forceinline__ void group_sums(const GroupSumsParams& p) {
  constexpr int N = Chunk<D>::N;
  __shared__ float sums[2][GROUP_THREADS * N];
  const D* const x = (const D*)p.x + (long long)blockIdx.y * p.positions * p.channels;
  const int chunks = p.channels / N, rows = GROUP_THREADS / chunks;
  const int row = threadIdx.x / chunks, c0 = threadIdx.x % chunks * N;
  if (row < rows) {
    float origin[N], sum[N], square[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int group_size = p.channels / p.groups;
      origin[i] = to_f32(x[(c0 + i) / group_size * group_size]);
      sum[i] = square[i] = 0.0f;
    }
    for (long long position = (long long)blockIdx.x * rows + row; position < p.positions; position += (long long)gridDim.x * rows) {
      float v[N];
      load_elements(x + position * p.channels + c0, v);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        v[i] -= origin[i];
        sum[i] += v[i];
        square[i] = fmaf(v[i], v[i], square[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][row * p.channels + c0 + i] = sum[i], sums[1][row * p.channels + c0 + i] = square[i];
  }
  __syncthreads();
  float* const partial = p.partial + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * p.channels * 2;
  for (int c = threadIdx.x; c < p.channels; c += GROUP_THREADS) {
    float sum = 0.0f, square = 0.0f;
    for (int r = 0; r < rows; ++r) sum += sums[0][r * p.channels + c], square += sums[1][r * p.channels + c];
    partial[2 * c] = sum, partial[2 * c + 1] = square;
  }
}

template <class D> __device__ __forceinline__ void group_affine(const GroupAffineParams& p) {
  const int size = p.channels / p.groups;
  for (long long i = grid_warp(); i < (long long)p.samples * p.groups; i += grid_warps()) {
    const int sample = (int)(i / p.groups), c0 = (int)(i % p.groups) * size;
    const float* const partial = p.partial + (long long)sample * p.blocks * p.channels * 2;
    double sum = 0.0, square = 0.0;
    for (int j = lane_index(); j < p.blocks * size; j += 32) {
      const float* const at = partial + ((long long)(j / size) * p.channels + c0 + j % size) * 2;
      sum += (double)at[0], square += (double)at[1];
    }
    const double count = (double)p.positions * size;
    const double offset = warp_sum(sum) / count;
    const double mean = (double)to_f32(((const D*)p.x)[sample * p.positions * p.channels + c0]) + offset;
    const double variance = fmax(warp_sum(square) / count - offset * offset, 0.0);
    const double rstd = 1.0 / sqrt(variance + (double)p.eps);
    for (int c = c0 + lane_index(); c < c0 + size; c += 32) {
      const double scale = rstd * (double)to_f32(((const D*)p.weight)[c]);
      float* const affine = p.affine + ((long long)sample * p.channels + c) * 2;
      affine[0] = (float)scale, affine[1] = (float)((double)to_f32(((const D*)p.bias)[c]) - mean * scale);
    }
  }
}

template <class D> __device__ __forceinline__ void group_apply(const GroupApplyParams& p) {
  constexpr int N = Chunk<D>::N;
  const int chunks = p.channels / N;
  const long long line = (long long)p.width * chunks, band = line * p.rows; // chunks of a row, of a frame's rows
  for (long long i = grid_thread(); i < band * p.frames; i += grid_threads()) {
    const int frame = (int)(i / band), c0 = (int)(i % chunks) * N;
    const long long from = (((long long)frame * p.height + p.first) * line + i % band) * N;
    float x[N], affine[2 * N];
    load_elements((const D*)p.x + from, x);
    load_floats(p.affine + ((long long)(frame / p.frames_per_sample) * p.channels + c0) * 2, affine);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x[j] = fmaf(x[j], affine[2 * j], affine[2 * j + 1]);
      if (p.silu) x[j] = silu(x[j]);
    }
    store_elements((D*)p.out + i * N, x);
  }
}

#define ENTRIES(D)                                                                                                                     \
  extern "C" __global__ void __launch_bounds__(GROUP_THREADS) group_sums_##D(const GroupSumsParams p) { group_sums<D>(p); }            \
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) group_affine_##D(const GroupAffineParams p) { group_affine<D>(p); }        \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) group_apply_##D(const GroupApplyParams p) { group_apply<D>(p); }

ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
