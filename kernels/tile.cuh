// The vocabulary the kernels are written in: element types, 16-byte chunks, ldmatrix, mma, cp.async, reductions.
//
// No header but the compiler's own: NVRTC has no host headers, and cuda_bf16.h is slow to compile. Shared memory is always
// addressed by 32-bit shared-window byte addresses (`shared_address`), so a loop's offsets become immediates.
//
// Fragments of one warp-wide mma (lane = 4*g + t, g = lane/4, t = lane%4); a "k-step" is 32 bytes of a row in every dtype,
// that is k = 16 for bf16 and f16, k = 8 for f32:
//   A [16 x k]  rows g, g+8        by ldmatrix.x4 from row-major shared memory
//   B [k x 8]   column g           by ldmatrix from [n][k] row-major shared memory (x2: one n-tile, x4: two)
//   C [16 x 8]  (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1), always f32
// f32 operands are split in two tf32 numbers, x = big + small, and multiplied as small*big + big*small + big*big.
#pragma once

// ---- element types ----------------------------------------------------------------------------------------------------
struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };
typedef float f32;

__device__ __forceinline__ unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float float_of(unsigned x) { return __uint_as_float(x); }

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return float_of((unsigned)x.bits << 16); }
__device__ __forceinline__ float to_f32(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <class D> __device__ __forceinline__ D from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Two 16-bit elements in one 32-bit register, the first in the low half.
template <class D> __device__ __forceinline__ unsigned pack2(float low, float high);
template <> __device__ __forceinline__ unsigned pack2<bf16>(float low, float high) {
  unsigned y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <> __device__ __forceinline__ unsigned pack2<f16>(float low, float high) {
  unsigned y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <class D> __device__ __forceinline__ void unpack2(unsigned x, float& low, float& high);
// In assembly: a shift into an f32 register, where the compiler would write a shift and a move (free on a GPU, not on the VM).
template <> __device__ __forceinline__ void unpack2<bf16>(unsigned x, float& low, float& high) {
  asm("shl.b32 %0, %1, 16;" : "=f"(low) : "r"(x));
  asm("and.b32 %0, %1, 0xffff0000;" : "=f"(high) : "r"(x));
}
template <> __device__ __forceinline__ void unpack2<f16>(unsigned x, float& low, float& high) {
  low = to_f32(f16{(unsigned short)(x & 0xffffu)});
  high = to_f32(f16{(unsigned short)(x >> 16)});
}

// ---- loops with constant indices ------------------------------------------------------------------------------------------
// unrolled<N>([&](auto i) { ... i.value ... }): the index is a constant expression, so offsets made of it go into the
// instruction's immediate (inline assembly sees no immediates behind a `#pragma unroll`).
template <int I> struct Index { static constexpr int value = I; };
template <int N, int I = 0, class F> __device__ __forceinline__ void unrolled(const F& body) {
  if constexpr (I < N) {
    body(Index<I>{});
    unrolled<N, I + 1>(body);
  }
}

// ---- 16-byte chunks: 8 elements of bf16/f16, 4 of f32 -------------------------------------------------------------------
template <class D> struct Chunk {
  static constexpr int N = 16 / (int)sizeof(D);
  static __device__ __forceinline__ void unpack(uint4 x, float (&y)[N]) {
    unpack2<D>(x.x, y[0], y[1]);
    unpack2<D>(x.y, y[2], y[3]);
    unpack2<D>(x.z, y[4], y[5]);
    unpack2<D>(x.w, y[6], y[7]);
  }
  static __device__ __forceinline__ uint4 pack(const float (&y)[N]) {
    return make_uint4(pack2<D>(y[0], y[1]), pack2<D>(y[2], y[3]), pack2<D>(y[4], y[5]), pack2<D>(y[6], y[7]));
  }
};
template <> struct Chunk<float> {
  static constexpr int N = 4;
  static __device__ __forceinline__ void unpack(uint4 x, float (&y)[N]) {
    y[0] = float_of(x.x), y[1] = float_of(x.y), y[2] = float_of(x.z), y[3] = float_of(x.w);
  }
  static __device__ __forceinline__ uint4 pack(const float (&y)[N]) {
    return make_uint4(bits_of(y[0]), bits_of(y[1]), bits_of(y[2]), bits_of(y[3]));
  }
};

// 16 bytes of global memory. Written out: the compiler splits copies of uint4 it cannot prove to be whole.
__device__ __forceinline__ uint4 load_global16(const void* p) {
  uint4 x;
  asm volatile("ld.global.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ void store_global16(void* p, uint4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// The same as f32 registers: accumulators stay where they are.
__device__ __forceinline__ void load_global16(const float* p, float (&x)[4]) {
  asm volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "l"(p) : "memory");
}
__device__ __forceinline__ void store_global16(float* p, const float (&x)[4]) {
  asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(p), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]) : "memory");
}

// N consecutive elements in global memory, by accesses of at most 16 bytes: `p` must be aligned to all of them, or to 16 bytes.
template <class D, int N> __device__ __forceinline__ void load_run(const D* p, float (&y)[N]) {
  constexpr int BYTES = N * (int)sizeof(D), WORDS = BYTES / 4;
  unsigned x[WORDS];
  if constexpr (BYTES == 4) {
    x[0] = *reinterpret_cast<const unsigned*>(p);
  } else if constexpr (BYTES == 8) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    x[0] = v.x, x[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) {
      const uint4 v = load_global16(p + i * 4 / (int)sizeof(D));
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    }
  }
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    if constexpr (sizeof(D) == 2) unpack2<D>(x[i], y[2 * i], y[2 * i + 1]);
    else y[i] = float_of(x[i]);
  }
}
template <class D, int N> __device__ __forceinline__ void store_run(D* p, const float (&y)[N]) {
  constexpr int BYTES = N * (int)sizeof(D), WORDS = BYTES / 4;
  unsigned x[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    if constexpr (sizeof(D) == 2) x[i] = pack2<D>(y[2 * i], y[2 * i + 1]);
    else x[i] = bits_of(y[i]);
  }
  if constexpr (BYTES == 4) {
    *reinterpret_cast<unsigned*>(p) = x[0];
  } else if constexpr (BYTES == 8) {
    *reinterpret_cast<uint2*>(p) = make_uint2(x[0], x[1]);
  } else {
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) store_global16(p + i * 4 / (int)sizeof(D), make_uint4(x[i], x[i + 1], x[i + 2], x[i + 3]));
  }
}

__device__ __forceinline__ bool aligned(const void* p, unsigned bytes) { return ((unsigned long long)p & (bytes - 1)) == 0; }

// ---- fast special functions (2 ulp) --------------------------------------------------------------------------------------
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rsqrt_fast(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// GELU by its tanh form: x/2 (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). Exact limits at +-inf.
__device__ __forceinline__ float gelu_tanh(float x) {
  const float c = -2.0f * 0.7978845608028654f * 1.4426950408889634f; // -2 sqrt(2/pi) log2(e)
  float u = x * fmaf(c * 0.044715f, x * x, c);
  return x * reciprocal(1.0f + exp2_fast(u));
}
__device__ __forceinline__ float silu(float x) { return x * reciprocal(1.0f + exp2_fast(-1.4426950408889634f * x)); }

// ---- reductions over lanes -----------------------------------------------------------------------------------------------
__device__ __forceinline__ float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
__device__ __forceinline__ double shuffle_xor(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
// Over the 4 lanes that share a fragment row.
__device__ __forceinline__ float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
// Over the warp; every lane gets the result, in a fixed order of additions.
template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
  return x;
}

// Hides where a value comes from: the compiler keeps it in a register instead of computing it again in a loop.
__device__ __forceinline__ void keep(unsigned& x) { asm volatile("" : "+r"(x)); }
__device__ __forceinline__ void keep(int& x) { asm volatile("" : "+r"(x)); }
template <class T> __device__ __forceinline__ void keep(T*& x) { asm volatile("" : "+l"(x)); }

// ---- shared memory -------------------------------------------------------------------------------------------------------
__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

template <int OFFSET = 0> __device__ __forceinline__ uint4 load_shared16(unsigned address) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(address), "n"(OFFSET) : "memory");
  return x;
}
template <int OFFSET = 0> __device__ __forceinline__ void store_shared16(unsigned address, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0+%5], {%1,%2,%3,%4};"
               ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ unsigned load_shared4(unsigned address) {
  unsigned x;
  asm volatile("ld.shared.b32 %0, [%1+%2];" : "=r"(x) : "r"(address), "n"(OFFSET) : "memory");
  return x;
}
template <int OFFSET = 0> __device__ __forceinline__ float2 load_shared8(unsigned address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2+%3];" : "=f"(x.x), "=f"(x.y) : "r"(address), "n"(OFFSET) : "memory");
  return x;
}
template <int OFFSET = 0> __device__ __forceinline__ void store_shared4(unsigned address, unsigned x) {
  asm volatile("st.shared.b32 [%0+%2], %1;" ::"r"(address), "r"(x), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ void store_shared8(unsigned address, unsigned x, unsigned y) {
  asm volatile("st.shared.v2.b32 [%0+%3], {%1,%2};" ::"r"(address), "r"(x), "r"(y), "n"(OFFSET) : "memory");
}
// As f32 registers: an accumulator that is also used as bits would live in an integer register and be moved for every mma.
template <int OFFSET = 0> __device__ __forceinline__ void store_shared8(unsigned address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0+%3], {%1,%2};" ::"r"(address), "f"(x), "f"(y), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ void store_shared16(unsigned address, float x, float y, float z, float w) {
  asm volatile("st.shared.v4.f32 [%0+%5], {%1,%2,%3,%4};" ::"r"(address), "f"(x), "f"(y), "f"(z), "f"(w), "n"(OFFSET) : "memory");
}
// One element.
template <class D> __device__ __forceinline__ D load_shared(unsigned address) {
  if constexpr (sizeof(D) == 2) {
    D x;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(x.bits) : "r"(address) : "memory");
    return x;
  } else {
    return float_of(load_shared4(address));
  }
}
template <class D> __device__ __forceinline__ void store_shared(unsigned address, D x) {
  if constexpr (sizeof(D) == 2) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(x.bits) : "memory");
  } else {
    store_shared4(address, bits_of(x));
  }
}

// ---- cp.async ------------------------------------------------------------------------------------------------------------
// Copies `bytes` (0 or 16) and fills the rest of the chunk with zeros; with 0 nothing is read.
template <int OFFSET = 0> __device__ __forceinline__ void cp_async16(unsigned to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0+%3], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(OFFSET) : "memory");
}
template <int TO, int FROM> __device__ __forceinline__ void cp_async16(unsigned to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0+%3], [%1+%4], 16, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(TO), "n"(FROM) : "memory");
}
// A whole chunk.
template <int TO, int FROM> __device__ __forceinline__ void cp_async16(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0+%2], [%1+%3], 16;" ::"r"(to), "l"(from), "n"(TO), "n"(FROM) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `N` of this thread's latest groups are in flight. A barrier must follow for the others' copies.
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- ldmatrix: lane l gives the address of row l%8 of matrix l/8 (8 rows of 16 bytes each) -----------------------------------
template <int OFFSET = 0> __device__ __forceinline__ void ldmatrix_x4(unsigned (&x)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&x)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ void ldmatrix_x2(unsigned (&x)[2], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2+%3];"
               : "=r"(x[0]), "=r"(x[1]) : "r"(address), "n"(OFFSET) : "memory");
}
template <int OFFSET = 0> __device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&x)[2], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2+%3];"
               : "=r"(x[0]), "=r"(x[1]) : "r"(address), "n"(OFFSET) : "memory");
}

// ---- mma -------------------------------------------------------------------------------------------------------------------
// Operands of one k-step. For f32 the split is done once per load and used by every mma of the fragment.
template <class D> struct FragmentA { unsigned x[4]; };
template <class D> struct FragmentB { unsigned x[2]; };
template <> struct FragmentA<float> { unsigned big[4], small[4]; };
template <> struct FragmentB<float> { unsigned big[2], small[2]; };

// x = big + small, the bits of f32 numbers throughout (no moves between register types, as in unpack2).
__device__ __forceinline__ void split_tf32(unsigned x, unsigned& big, unsigned& small) {
  unsigned rest;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(big) : "r"(x));
  asm("sub.f32 %0, %1, %2;" : "=r"(rest) : "r"(x), "r"(big));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(small) : "r"(rest));
}

template <class D> __device__ __forceinline__ FragmentA<D> fragment_a(const unsigned (&x)[4]) {
  FragmentA<D> a;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(D) == 2) a.x[i] = x[i];
    else split_tf32(x[i], a.big[i], a.small[i]);
  }
  return a;
}
template <class D> __device__ __forceinline__ FragmentB<D> fragment_b(unsigned x0, unsigned x1) {
  FragmentB<D> b;
  if constexpr (sizeof(D) == 2) {
    b.x[0] = x0, b.x[1] = x1;
  } else {
    split_tf32(x0, b.big[0], b.small[0]);
    split_tf32(x1, b.big[1], b.small[1]);
  }
  return b;
}

__device__ __forceinline__ void mma_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c += a b over one k-step (32 bytes of k).
__device__ __forceinline__ void mma(float (&c)[4], const FragmentA<bf16>& a, const FragmentB<bf16>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}
__device__ __forceinline__ void mma(float (&c)[4], const FragmentA<f16>& a, const FragmentB<f16>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}
__device__ __forceinline__ void mma(float (&c)[4], const FragmentA<float>& a, const FragmentB<float>& b) {
  mma_tf32(c, a.small, b.big);
  mma_tf32(c, a.big, b.small);
  mma_tf32(c, a.big, b.big);
}
// c += a b over half a k-step (16 bytes, k = 8) of 16-bit operands: the remainder of head_dim 72, 40, ...
template <class D> __device__ __forceinline__ void mma_half(float (&c)[4], const unsigned (&a)[2], unsigned b);
template <> __device__ __forceinline__ void mma_half<bf16>(float (&c)[4], const unsigned (&a)[2], unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}
template <> __device__ __forceinline__ void mma_half<f16>(float (&c)[4], const unsigned (&a)[2], unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

// ---- modulation --------------------------------------------------------------------------------------------------------------
// First element of the table row [chunk] that belongs to hidden-state row `row`: frames whose mask is 0 take variant 1 (t0).
__device__ __forceinline__ long long modulation_offset(const unsigned char* frame_mask, int row, int frames, int rows_per_frame,
                                                       int variants, int chunks, int channels, int chunk) {
  int frame = row / rows_per_frame; // over all batches, as the mask is laid out
  int variant = frame_mask && frame_mask[frame] == 0 ? 1 : 0;
  return ((long long)(frame / frames * variants + variant) * chunks + chunk) * channels;
}
