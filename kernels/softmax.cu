// Softmax of rows that are too long for one tile: the middle of an attention whose head is too wide for attention.cu.
//
//   out[r, c] = exp(scale (x[r, c] - max)) / sum  for c < count, 0 up to pitch
//
// x [rows, pitch] f32, out [rows, pitch] D, pitch a multiple of 8. A block owns a row and reads it twice: maximum and sum together in
// one pass (a running maximum for each thread, joined in shared memory in a fixed order), then the results.
#include "common.cuh"

constexpr unsigned MINUS_INFINITY = 0xff800000u;

// (maximum, sum of exp2(x - maximum)) of two sets.
__device__ __forceinline__ float2 join(float2 a, float2 b) {
  const float top = fmaxf(a.x, b.x);
  if (top == float_of(MINUS_INFINITY)) return a;
  return make_float2(top, a.y * exp2_fast(a.x - top) + b.y * exp2_fast(b.x - top));
}

template <class D> __device__ __forceinline__ void softmax(const SoftmaxParams& p) {
  __shared__ float2 joined[SOFTMAX_THREADS / 32];
  const float scale = p.scale * 1.4426950408889634f; // exp by exp2
  const float* const x = p.x + (long long)blockIdx.x * p.pitch;
  D* const out = (D*)p.out + (long long)blockIdx.x * p.pitch;
  float2 state = make_float2(float_of(MINUS_INFINITY), 0.0f);
  for (int c = threadIdx.x * 4; c < p.pitch; c += SOFTMAX_THREADS * 4) {
    float v[4];
    load_run(x + c, v);
    float top = state.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = c + i < p.count ? v[i] * scale : float_of(MINUS_INFINITY);
      top = fmaxf(top, v[i]);
    }
    if (top == float_of(MINUS_INFINITY)) continue; // none of this thread's columns counts yet
    state.y *= exp2_fast(state.x - top);
    state.x = top;
#pragma unroll
    for (int i = 0; i < 4; ++i) state.y += exp2_fast(v[i] - top);
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) state = join(state, make_float2(shuffle_xor(state.x, mask), shuffle_xor(state.y, mask)));
  if (lane_index() == 0) joined[threadIdx.x / 32] = state;
  __syncthreads();
  state = joined[0];
#pragma unroll
  for (int w = 1; w < SOFTMAX_THREADS / 32; ++w) state = join(state, joined[w]);
  const float factor = 1.0f / state.y;
  for (int c = threadIdx.x * 4; c < p.pitch; c += SOFTMAX_THREADS * 4) {
    float v[4];
    load_run(x + c, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = c + i < p.count ? exp2_fast(fmaf(v[i], scale, -state.x)) * factor : 0.0f;
    store_run(out + c, v);
  }
}

extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS) softmax_bf16(const SoftmaxParams p) { softmax<bf16>(p); }
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS) softmax_f16(const SoftmaxParams p) { softmax<f16>(p); }
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS) softmax_f32(const SoftmaxParams p) { softmax<f32>(p); }
