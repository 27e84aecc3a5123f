// What kernels for Hopper alone (sm_90a) are written in, beside tile.cuh: mbarriers, tensor maps, wgmma.
//
// A stage of shared memory is guarded by two mbarriers. `full` completes when all bytes of its copies have arrived, `empty` when all who read it
// are done. A ring of stages is gone through in turns: the parity of a barrier's phase tells in which turn it is.
//
// Tiles lie in shared memory as rows of 128 bytes in the 128-byte swizzle: the eight 16-byte chunks of row r at chunk ^ (r % 8). Tensor maps write
// them so, and wgmma reads them so, eight rows (1024 bytes) at a time: tiles are aligned to that.
#pragma once
#include "params.h"
#include "tile.cuh"

constexpr int SWIZZLED_ROW = 128; // bytes

// ---- mbarriers ---------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ void barrier_init(unsigned barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Behind the last init, before the others and the copies may use the barriers.
__device__ __forceinline__ void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and lets the phase wait for this many bytes of copies.
__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
  asm volatile("{\n.reg .pred done;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra WAIT;\n}" ::"r"(barrier), "r"(parity)
               : "memory");
}

// A stage of a ring, and the parity of its turn.
template <int STAGES> struct Turn {
  int stage = 0;
  unsigned parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  // The stage before this one.
  __device__ __forceinline__ int before() const { return stage == 0 ? STAGES - 1 : stage - 1; }
};

// ---- tensor maps -------------------------------------------------------------------------------------------------------------
// A box into shared memory; its bytes count at the barrier. Coordinates in elements, the innermost axis first.
__device__ __forceinline__ void copy_box(unsigned to, const TensorMap* map, int x, int y, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2,%3}], [%4];" ::"r"(to), "l"(map), "r"(x),
               "r"(y), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void copy_box(unsigned to, const TensorMap* map, int x, int y, int z, int u, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2,%3,%4,%5}], [%6];" ::"r"(to), "l"(map),
               "r"(x), "r"(y), "r"(z), "r"(u), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void copy_box(unsigned to, const TensorMap* map, int x, int y, int z, int u, int v, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2,%3,%4,%5,%6}], [%7];" ::"r"(to), "l"(map),
               "r"(x), "r"(y), "r"(z), "r"(u), "r"(v), "r"(barrier)
               : "memory");
}
// The address of the parameter of the kernel with this name, for copies by the maps in it. Taken in C++ (`&p`), it would turn every other read of the
// parameters into a load from memory.
#define PARAMETER_ADDRESS(to, kernel) \
  asm("{\n.reg .b64 at;\nmov.b64 at, " kernel "_param_0;\ncvta.param.u64 %0, at;\n}" : "=l"(to))
__device__ __forceinline__ void prefetch_map(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// Behind writes to shared memory that wgmma reads.
__device__ __forceinline__ void fence_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Bytes of global memory into L2, a multiple of 16.
__device__ __forceinline__ void prefetch_l2(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

// ---- registers of a warpgroup ------------------------------------------------------------------------------------------------
template <int N> __device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// ---- wgmma -------------------------------------------------------------------------------------------------------------------
// Sums of 64 x N of a warpgroup: warp w has rows 16 w + g and + 8, of n-tile j (8 columns) 8 j + 2 t and + 1, as of mma.
//
// The descriptor of a tile of rows of ROW bytes, swizzled by as many. Rows along k: k advances by 32 bytes a k-step within the row. Rows along N (b
// transposed): 16 rows are a k-step, and `next` is the distance from a row's columns to the next as many.
template <int ROW = SWIZZLED_ROW> __device__ __forceinline__ unsigned long long descriptor(unsigned at, unsigned next = 16) {
  static_assert(ROW == 128 || ROW == 32, "a swizzle");
  return (unsigned long long)((at & 0x3ffff) >> 4) | (unsigned long long)(next >> 4) << 16 | (unsigned long long)(8 * ROW >> 4) << 32 |
         (ROW == 128 ? 1ull : 3ull) << 62;
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

#define FLOATS_8(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), "+f"(x[i + 7])
#define FLOATS_32(x, i) FLOATS_8(x, i), FLOATS_8(x, i + 8), FLOATS_8(x, i + 16), FLOATS_8(x, i + 24)
#define FLOATS_40(x) FLOATS_32(x, 0), FLOATS_8(x, 32)
#define FLOATS_64(x) FLOATS_32(x, 0), FLOATS_32(x, 32)
#define FLOATS_96(x) FLOATS_64(x), FLOATS_32(x, 64)
#define OPERANDS_40                                                                                                           \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"    \
  "%32,%33,%34,%35,%36,%37,%38,%39"
#define OPERANDS_64 OPERANDS_40 ",%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define OPERANDS_96                                                                                                           \
  OPERANDS_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90," \
              "%91,%92,%93,%94,%95"

// Hides from the compiler what happens to sums between a wgmma and its wait.
__device__ __forceinline__ void in_flight(float (&c)[40]) { asm volatile("" : FLOATS_40(c)::"memory"); }
__device__ __forceinline__ void in_flight(float (&c)[64]) { asm volatile("" : FLOATS_64(c)::"memory"); }
__device__ __forceinline__ void in_flight(float (&c)[96]) { asm volatile("" : FLOATS_96(c)::"memory"); }

// c = a b (+ c), [64 x 16] [16 x 192], both from shared memory. `add` 0: what is in c does not count.
template <class D> __device__ __forceinline__ void wgmma(float (&c)[96], unsigned long long a, unsigned long long b, int add);
#define WGMMA(D, TYPE)                                                                                                              \
  template <> __device__ __forceinline__ void wgmma<D>(float(&c)[96], unsigned long long a, unsigned long long b, int add) {        \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %98, 0;\n"                                                                   \
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32." TYPE "." TYPE " {" OPERANDS_96 "}, %96, %97, add, 1, 1, 0, 0;\n}"   \
                 : FLOATS_96(c)                                                                                                     \
                 : "l"(a), "l"(b), "r"(add));                                                                                       \
  }
WGMMA(bf16, "bf16")
WGMMA(f16, "f16")

// c = a b (+ c), a in registers as of mma, [64 x 16] [16 x 2 SUMS]. ROWS_ALONG_N: of b.
template <class D, bool ROWS_ALONG_N, int SUMS> __device__ __forceinline__ void wgmma_rows(float (&c)[SUMS], const unsigned* a, unsigned long long b, int add);
#define WGMMA_ROWS(D, TYPE, N, SUMS, ALONG_N, A0, A1, A2, A3, B, ADD)                                                               \
  template <> __device__ __forceinline__ void wgmma_rows<D, ALONG_N, SUMS>(float(&c)[SUMS], const unsigned* a, unsigned long long b, int add) { \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                                               \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" OPERANDS_##SUMS "}, {" A0 "," A1 "," A2 "," A3 "}, " B  \
                 ", add, 1, 1, " #ALONG_N ";\n}"                                                                                    \
                 : FLOATS_##SUMS(c)                                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                                   \
  }
#define WGMMA_ROWS_80(D, TYPE) WGMMA_ROWS(D, TYPE, 80, 40, 1, "%40", "%41", "%42", "%43", "%44", "%45")
#define WGMMA_ROWS_128(D, TYPE, ALONG_N) WGMMA_ROWS(D, TYPE, 128, 64, ALONG_N, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_ROWS_80(bf16, "bf16")
WGMMA_ROWS_80(f16, "f16")
WGMMA_ROWS_128(bf16, "bf16", 0)
WGMMA_ROWS_128(bf16, "bf16", 1)
WGMMA_ROWS_128(f16, "f16", 0)
WGMMA_ROWS_128(f16, "f16", 1)

// ---- barriers of a part of the block's threads ------------------------------------------------------------------------------------
__device__ __forceinline__ void named_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ __forceinline__ void named_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

// ---- e4m3 -------------------------------------------------------------------------------------------------------------------------
struct e4m3 {};

// c = a b (+ c), [64 x 32] [32 x 192], both from shared memory: rows of 128 elements, of which a k-step has 32 (32 bytes, as of 16-bit types).
template <> __device__ __forceinline__ void wgmma<e4m3>(float (&c)[96], unsigned long long a, unsigned long long b, int add) {
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %98, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {" OPERANDS_96 "}, %96, %97, add, 1, 1;\n}"
               : FLOATS_96(c)
               : "l"(a), "l"(b), "r"(add));
}

// Two numbers as e4m3, the first in the low byte: rounded to nearest even, beyond 448 saturated; NaN stays NaN.
__device__ __forceinline__ unsigned to_e4m3x2(float low, float high) {
  unsigned short packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
// And back: every e4m3 number is an f16 number.
__device__ __forceinline__ void from_e4m3x2(unsigned packed, float& low, float& high) {
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((unsigned short)packed));
  unpack2<f16>(halves, low, high);
}
