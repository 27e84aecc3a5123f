// The heart of AdaCache in one pass over memory: how far the fresh residual has moved from the kept one, how much its frames
// differ among themselves, and kept := fresh. And the fold, which turns a reused step into one addition, or what it is expected to be.
//
//   fresh, kept [batch, frames, inner] D; per batch member, in this order:
//   sum|new-kept|  sum|kept|  sum(new-kept)^2  sum kept^2  sum new*kept  sum new^2      (L1, L2 and cosine follow from these)
//   then for each stride k of the list: sum|r[t+k]-r[t]|  sum|r[t+k]|  sum|r[t]|        (motion.cuh)
//
// Traffic: each element of fresh and kept is read once and written once; strides above RING read frames again.
// residual_probe: PROBE_THREADS threads, grid (min(ceil(chunks / PROBE_THREADS), PROBE_MAX_BLOCKS), batch); a thread owns a
// chunk of the inner axis and walks over the frames, loading the second next frame while it works on one. Static shared memory:
// one float per warp and sum (480 bytes). Two stages, fixed order, no atomics: the same input gives the same bits.
// reduce_partials: a warp per sum, REDUCE_THREADS threads, grid (ceil(count / REDUCE_WARPS), batch); f64.
// residual_fold / residual_unfold / residual_extrapolate: ELEMENTWISE_THREADS threads, a chunk per thread.
#include "motion.cuh"

template <class D, int N> __device__ __forceinline__ void residual_probe(const ResidualProbeParams& p, const BlockSums& block, float* out) {
  const D* fresh = (const D*)p.fresh + blockIdx.y * p.frames * p.inner;
  D* kept = (D*)p.kept + blockIdx.y * p.frames * p.inner;
  const long long columns = p.inner / N;
  NearMotion motion(p);
  float distance = 0.0f, magnitude = 0.0f, distance_squares = 0.0f, squares = 0.0f, products = 0.0f, fresh_squares = 0.0f;

  for (long long c = grid_thread(); c < columns; c += grid_threads()) {
    const D* r = fresh + c * N;
    D* k = kept + c * N;
    float ring[RING][N];
    Raw<D, N> next[2], next_kept[2]; // frames t and t + 1, each in the slot of its parity
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (t >= p.frames) break;
      next[t] = load_raw<D, N>(r + t * p.inner);
      next_kept[t] = p.first ? next[t] : load_raw<D, N>(k + t * p.inner);
    }
    for (int t0 = 0; t0 < p.frames; t0 += RING) {
#pragma unroll
      for (int slot = 0; slot < RING; ++slot) {
        int t = t0 + slot;
        if (t >= p.frames) break;
        float x[N], old[N];
        unpack_raw<D, N>(next[slot % 2], x);
        unpack_raw<D, N>(next_kept[slot % 2], old);
        store_raw<D, N>(k, next[slot % 2]);
        r += p.inner, k += p.inner;
        if (t + 2 < p.frames) {
          next[slot % 2] = load_raw<D, N>(r + p.inner);
          if (!p.first) next_kept[slot % 2] = load_raw<D, N>(k + p.inner);
        }
        float xx[N];
        if (!p.first) {
          float d[N], dd[N], kk[N], xk[N];
#pragma unroll
          for (int i = 0; i < N; ++i) d[i] = x[i] - old[i], dd[i] = d[i] * d[i], kk[i] = old[i] * old[i], xk[i] = x[i] * old[i];
          distance += sum_magnitudes(d);
          magnitude += sum_magnitudes(old);
          distance_squares += sum_elements(dd);
          squares += sum_elements(kk);
          products += sum_elements(xk);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) xx[i] = x[i] * x[i];
        fresh_squares += sum_elements(xx);
        if (motion.wanted) motion.frame(slot, x, sum_magnitudes(x), ring, t, p.frames);
#pragma unroll
        for (int i = 0; i < N; ++i) ring[slot][i] = x[i];
      }
    }
  }

  block.add(0, distance);
  block.add(1, magnitude);
  block.add(2, distance_squares);
  block.add(3, squares);
  block.add(4, products);
  block.add(5, fresh_squares);
  add_motion<D, N>(block, PROBE_SUMS, motion, p, columns, [=](long long c) { return fresh + c * N; });
  block.finish(PROBE_SUMS + MOTION_SUMS * p.num_strides, out);
}

template <class D> __device__ __forceinline__ void residual_probe_entry(const ResidualProbeParams& p) {
  __shared__ float warps[PROBE_THREADS / 32][PROBE_SUMS + MOTION_SUMS * MAX_STRIDES];
  BlockSums block{warps};
  float* out = p.partial + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * (PROBE_SUMS + MOTION_SUMS * p.num_strides);
  if (chunked<D>(p.inner, p.fresh, p.kept)) residual_probe<D, Chunk<D>::N>(p, block, out);
  else residual_probe<D, 1>(p, block, out);
}

extern "C" __global__ void __launch_bounds__(REDUCE_THREADS) reduce_partials(const ReduceParams p) {
  int index = blockIdx.x * REDUCE_WARPS + threadIdx.x / 32;
  if (index >= p.count) return;
  const float* partial = p.partial + (long long)blockIdx.y * p.blocks * p.count + index;
  double sum = 0.0;
  for (int block = lane_index(); block < p.blocks; block += 32) sum += (double)partial[(long long)block * p.count];
  sum = warp_sum(sum);
  if (lane_index() == 0) p.sums[(long long)blockIdx.y * p.count + index] = sum;
}

// out = a + SIGN b, rounded once.
template <class D, int N, int SIGN> __device__ __forceinline__ void fold(const FoldParams& p) {
  for (long long i = grid_thread() * N; i < p.count; i += grid_threads() * N) {
    float a[N], b[N];
    load_elements((const D*)p.a + i, a);
    load_elements((const D*)p.b + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] = SIGN > 0 ? a[j] + b[j] : a[j] - b[j];
    store_elements((D*)p.out + i, a);
  }
}
template <class D, int SIGN> __device__ __forceinline__ void fold_entry(const FoldParams& p) {
  if (chunked<D>(p.count, p.a, p.b, p.out)) fold<D, Chunk<D>::N, SIGN>(p);
  else fold<D, 1, SIGN>(p);
}

// out = a + the fold expected at this step: a Taylor polynomial in the distance x from the last computed step, times the damping, with finite
// differences for derivatives. F0, F1, F2 newest first, d1 and d2 the steps between them:
//   F0 + x*D + x^2/2 * (D - (F1 - F2)/d2)/d1   with D = (F0 - F1)/d1; order 1 without the last term, one fold alone as it is.
// The weights are made of steps that lie on the device, so a captured step holds at every distance.
template <class D, int N> __device__ __forceinline__ void extrapolate(const ExtrapolateParams& p) {
  int newest = p.computed[0], before = p.computed[1], oldest = p.computed[2];
  int order = before == 0 ? 0 : (oldest == 0 || p.order < 2 ? 1 : 2);
  float slope = 0.0f, curve = 0.0f, spacing = 1.0f; // x/d1, (x/d1)^2/2, d1/d2
  if (order > 0) slope = p.damping * (float)(*p.cursor - newest) / (float)(newest - before);
  if (order > 1) curve = 0.5f * slope * slope, spacing = (float)(newest - before) / (float)(before - oldest);
  for (long long i = grid_thread() * N; i < p.count; i += grid_threads() * N) {
    float a[N], f0[N], f1[N], f2[N];
    load_elements((const D*)p.a + i, a);
    load_elements((const D*)p.folds[0] + i, f0);
    if (order > 0) load_elements((const D*)p.folds[1] + i, f1);
    if (order > 1) load_elements((const D*)p.folds[2] + i, f2);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float fold = f0[j];
      if (order > 0) fold += slope * (f0[j] - f1[j]);
      if (order > 1) fold += curve * ((f0[j] - f1[j]) - spacing * (f1[j] - f2[j]));
      a[j] += fold;
    }
    store_elements((D*)p.out + i, a);
  }
}
template <class D> __device__ __forceinline__ void extrapolate_entry(const ExtrapolateParams& p) {
  // Folds that are not read are given as the newest one.
  if (chunked<D>(p.count, p.a, p.folds[0], p.out) && chunked<D>(p.count, p.folds[1], p.folds[2])) extrapolate<D, Chunk<D>::N>(p);
  else extrapolate<D, 1>(p);
}

#define ENTRIES(D)                                                                                                               \
  extern "C" __global__ void __launch_bounds__(PROBE_THREADS, 3) residual_probe_##D(const ResidualProbeParams p) {               \
    residual_probe_entry<D>(p);                                                                                                  \
  }                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) residual_fold_##D(const FoldParams p) { fold_entry<D, -1>(p); } \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) residual_unfold_##D(const FoldParams p) { fold_entry<D, 1>(p); } \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) residual_extrapolate_##D(const ExtrapolateParams p) {            \
    extrapolate_entry<D>(p);                                                                                                       \
  }
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
