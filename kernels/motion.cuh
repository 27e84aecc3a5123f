// Frame differences in registers: for each stride k of a list, sum |r[t+k]-r[t]|, sum |r[t+k]|, sum |r[t]| over t < frames-k.
//
// A thread walks down the frames of one column (one chunk of the inner axis) and keeps the last RING frames in registers, so
// strides up to RING cost no memory traffic. The frame loop is unrolled by RING: frame t lives in slot t % RING, a constant.
// Longer strides read both frames again (`far_motion`), mostly from L2.
//
// f32 sums stay short: a chunk's elements add up first, then frames and columns of one thread, then lanes, then warps; the
// blocks are added in f64 by reduce_partials. Relative error of a sum of magnitudes: below 1e-6 at any size in use.
#pragma once
#include "common.cuh"

#define RING 4

template <int N> __device__ __forceinline__ float sum_elements(const float (&x)[N]) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    float half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) half[i] = x[i] + x[i + N / 2];
    return sum_elements(half);
  }
}
template <int N> __device__ __forceinline__ float sum_magnitudes(const float (&x)[N]) {
  float y[N];
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] = fabsf(x[i]);
  return sum_elements(y);
}
template <int N> __device__ __forceinline__ float sum_distances(const float (&a)[N], const float (&b)[N]) {
  float y[N];
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] = fabsf(a[i] - b[i]);
  return sum_elements(y);
}

// Sums of the strides 1..RING, whichever of them the list names.
struct NearMotion {
  float difference[RING], later[RING], earlier[RING]; // [k-1]
  unsigned wanted;                                    // bit k-1: stride k is in the list

  template <class Params> __device__ __forceinline__ NearMotion(const Params& p) {
    wanted = 0;
#pragma unroll
    for (int i = 0; i < MAX_STRIDES; ++i) {
      int stride = p.strides[i];
      if (i < p.num_strides && stride >= 1 && stride <= RING && stride < p.frames) wanted |= 1u << (stride - 1);
    }
#pragma unroll
    for (int k = 0; k < RING; ++k) difference[k] = later[k] = earlier[k] = 0.0f;
  }
  // Frame t, slot = t % RING (a constant once the caller's loop is unrolled); `ring` holds frames t-1 .. t-RING in their
  // slots. `magnitude` is sum |x|.
  template <int N>
  __device__ __forceinline__ void frame(int slot, const float (&x)[N], float magnitude, const float (&ring)[RING][N], int t, int frames) {
#pragma unroll
    for (int k = 1; k <= RING; ++k) {
      if (!(wanted >> (k - 1) & 1)) continue;
      if (t >= k) {
        difference[k - 1] += sum_distances(x, ring[(slot - k + RING) % RING]);
        later[k - 1] += magnitude;
      }
      if (t + k < frames) earlier[k - 1] += magnitude;
    }
  }
};

// The three sums of one stride longer than RING, over this thread's columns. `column(c)` gives a column's first address.
template <class D, int N, class Column>
__device__ __forceinline__ void far_motion(float (&sums)[MOTION_SUMS], int stride, int frames, long long inner, long long columns,
                                           const Column& column) {
  for (long long c = grid_thread(); c < columns; c += grid_threads()) {
    const D* r = column(c);
    for (int t = 0; t + stride < frames; ++t) {
      float a[N], b[N];
      load_elements(r + t * inner, a);
      load_elements(r + (t + stride) * inner, b);
      sums[0] += sum_distances(a, b);
      sums[1] += sum_magnitudes(b);
      sums[2] += sum_magnitudes(a);
    }
  }
}

// Adds up what the threads of a block hold: `add` per warp and sum, then `finish` once. Sums 0..count-1 land in `out`.
struct BlockSums {
  float (*warps)[PROBE_SUMS + MOTION_SUMS * MAX_STRIDES]; // shared, [PROBE_THREADS/32]

  __device__ __forceinline__ void add(int index, float x) const {
    x = warp_sum(x);
    if (lane_index() == 0) warps[threadIdx.x / 32][index] = x;
  }
  __device__ __forceinline__ void finish(int count, float* out) const {
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += PROBE_THREADS) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < PROBE_THREADS / 32; ++w) sum += warps[w][i];
      out[i] = sum;
    }
  }
};

// Strides stay in the parameter space only while every index into them is a constant.
template <class Params> __device__ __forceinline__ int stride_at(const Params& p, int index) {
  int stride = 0;
#pragma unroll
  for (int i = 0; i < MAX_STRIDES; ++i) stride = i == index ? p.strides[i] : stride;
  return stride;
}

// All motion sums of the list, at `first`, `first`+1, ...: the near ones from registers, the far ones by another walk.
template <class D, int N, class Params, class Column>
__device__ __forceinline__ void add_motion(const BlockSums& block, int first, const NearMotion& near, const Params& p,
                                           long long columns, const Column& column) {
  for (int i = 0; i < p.num_strides; ++i, first += MOTION_SUMS) {
    int stride = stride_at(p, i);
    float sums[MOTION_SUMS] = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int k = 1; k <= RING; ++k) {
      if (stride == k) sums[0] = near.difference[k - 1], sums[1] = near.later[k - 1], sums[2] = near.earlier[k - 1];
    }
    if (stride > RING) far_motion<D, N>(sums, stride, p.frames, p.inner, columns, column);
#pragma unroll
    for (int j = 0; j < MOTION_SUMS; ++j) block.add(first + j, sums[j]);
  }
}
