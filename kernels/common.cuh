// What the memory-bound kernels (norm, residual, motion, embed, sampler, decode) share beside tile.cuh: rows of elements in
// steps of one element or one 16-byte chunk, and an exact sine and cosine.
//
// Every such kernel has a body template <D, N> with N elements per access. The entry picks N by a test that is the same for
// all threads: a whole chunk where every row starts on a 16-byte boundary, one element otherwise.
#pragma once
#include "launch.h"
#include "params.h"
#include "tile.cuh"

// ---- N elements of D at once: N is 1 or a whole chunk ------------------------------------------------------------------
template <class D, int N> __device__ __forceinline__ void load_elements(const D* p, float (&y)[N]) {
  static_assert(N == 1 || N == Chunk<D>::N, "one element or one 16-byte chunk");
  if constexpr (N == 1) {
    y[0] = to_f32(*p);
  } else {
    Chunk<D>::unpack(*reinterpret_cast<const uint4*>(p), y);
  }
}
template <class D, int N> __device__ __forceinline__ void store_elements(D* p, const float (&y)[N]) {
  static_assert(N == 1 || N == Chunk<D>::N, "one element or one 16-byte chunk");
  if constexpr (N == 1) {
    *p = from_f32<D>(y[0]);
  } else {
    *reinterpret_cast<uint4*>(p) = Chunk<D>::pack(y);
  }
}
// The same without conversion: what is only moved, or waits in registers for its turn.
template <class D, int N> struct RawElements { typedef uint4 type; };
template <class D> struct RawElements<D, 1> { typedef D type; };
template <class D, int N> using Raw = typename RawElements<D, N>::type;
template <class D, int N> __device__ __forceinline__ Raw<D, N> load_raw(const D* p) { return *reinterpret_cast<const Raw<D, N>*>(p); }
template <class D, int N> __device__ __forceinline__ void store_raw(D* p, const Raw<D, N>& x) { *reinterpret_cast<Raw<D, N>*>(p) = x; }
template <class D, int N> __device__ __forceinline__ void unpack_raw(const Raw<D, N>& x, float (&y)[N]) {
  if constexpr (N == 1) y[0] = to_f32(x);
  else Chunk<D>::unpack(x, y);
}
// N floats, however many 16-byte accesses that takes: what stands beside a chunk of D in an f32 table.
template <int N> __device__ __forceinline__ void load_floats(const float* p, float (&y)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      float4 x = *reinterpret_cast<const float4*>(p + i);
      y[i] = x.x, y[i + 1] = x.y, y[i + 2] = x.z, y[i + 3] = x.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = p[i];
  }
}
template <int N> __device__ __forceinline__ void store_floats(float* p, const float (&y)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) *reinterpret_cast<float4*>(p + i) = make_float4(y[i], y[i + 1], y[i + 2], y[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = y[i];
  }
}

// May rows of `length` elements, the first at each of these addresses, be read in chunks? A null pointer agrees to anything.
template <class D> __device__ __forceinline__ bool chunked(long long length, const void* a, const void* b = nullptr, const void* c = nullptr,
                                                                          const void* d = nullptr) {
  unsigned long long all = (unsigned long long)a | (unsigned long long)b | (unsigned long long)c | (unsigned long long)d;
  return length % Chunk<D>::N == 0 && (all & (CHUNK_BYTES - 1)) == 0;
}

// ---- this thread's and this warp's place in a grid of one dimension -----------------------------------------------------
__device__ __forceinline__ long long grid_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long grid_threads() { return (long long)gridDim.x * blockDim.x; }
__device__ __forceinline__ long long grid_warp() { return (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }
__device__ __forceinline__ long long grid_warps() { return (long long)gridDim.x * (blockDim.x / 32); }
__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }

// Sine and cosine to about 1 ulp for |x| < 1e9. The compiler's sinf keeps a table in local memory for huge arguments; here
// the quarter turns come off in f64, which is exact enough for every angle an embedding has.
__device__ __forceinline__ void sine_cosine(float x, float& sine, float& cosine) {
  double turns = rint((double)x * 0.63661977236758134308);
  float r = (float)fma(turns, -1.57079632679489661923, (double)x);
  int quadrant = (int)turns & 3;
  float z = r * r;
  // Taylor-like minimax polynomials on [-pi/4, pi/4] (Cephes sinf and cosf).
  float s = fmaf(fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), z * r, r);
  float c = fmaf(fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f), z * z, fmaf(-0.5f, z, 1.0f));
  float sine_part = quadrant & 1 ? c : s, cosine_part = quadrant & 1 ? s : c;
  sine = quadrant & 2 ? -sine_part : sine_part;
  cosine = (quadrant + 1) & 2 ? -cosine_part : cosine_part;
}
