// How much the frames of a tensor differ: the motion score of AdaCache's MoReg, by itself.
//
//   x [batch, outer, frames, inner] D; per batch member and stride k:  sum|x[t+k]-x[t]|  sum|x[t+k]|  sum|x[t]|   over t < frames-k
//   score(k) = sum|x[t+k]-x[t]| / (sum|x[t+k]| + sum|x[t]|)
//
// Residuals have outer = 1; latents [batch, channels, frames, h*w] outer = channels. The walk over frames is residual_probe's
// (motion.cuh). Launch: PROBE_THREADS threads, grid (min(ceil(outer*chunks / PROBE_THREADS), PROBE_MAX_BLOCKS), batch); then
// reduce_partials of residual.cu. Static shared memory: one float per warp and sum.
#include "motion.cuh"

template <class D, int N> __device__ __forceinline__ void motion(const MotionParams& p, const BlockSums& block, float* out) {
  const D* x = (const D*)p.x + blockIdx.y * p.outer * p.frames * p.inner;
  const long long inner = p.inner, per_slice = inner / N, slice = p.frames * inner, columns = p.outer * per_slice;
  auto column = [=](long long c) { return x + c / per_slice * slice + c % per_slice * N; };
  NearMotion motion(p);

  for (long long c = motion.wanted ? grid_thread() : columns; c < columns; c += grid_threads()) {
    const D* r = column(c);
    float ring[RING][N];
    Raw<D, N> next = load_raw<D, N>(r);
    for (int t0 = 0; t0 < p.frames; t0 += RING) {
#pragma unroll
      for (int slot = 0; slot < RING; ++slot) {
        int t = t0 + slot;
        if (t >= p.frames) break;
        float y[N];
        unpack_raw<D, N>(next, y);
        r += inner;
        if (t + 1 < p.frames) next = load_raw<D, N>(r);
        motion.frame(slot, y, sum_magnitudes(y), ring, t, p.frames);
#pragma unroll
        for (int i = 0; i < N; ++i) ring[slot][i] = y[i];
      }
    }
  }
  add_motion<D, N>(block, 0, motion, p, columns, column);
  block.finish(MOTION_SUMS * p.num_strides, out);
}

template <class D> __device__ __forceinline__ void motion_entry(const MotionParams& p) {
  __shared__ float warps[PROBE_THREADS / 32][PROBE_SUMS + MOTION_SUMS * MAX_STRIDES];
  BlockSums block{warps};
  float* out = p.partial + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * (MOTION_SUMS * p.num_strides);
  if (chunked<D>(p.inner, p.x)) motion<D, Chunk<D>::N>(p, block, out);
  else motion<D, 1>(p, block, out);
}

#define ENTRIES(D) \
  extern "C" __global__ void __launch_bounds__(PROBE_THREADS, 3) motion_##D(const MotionParams p) { motion_entry<D>(p); }
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
