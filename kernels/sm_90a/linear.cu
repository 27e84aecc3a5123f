// linear for Hopper: out[m,n] = epilogue(a[m,k] . w[n,k]^T + bias[n]), as ../linear.cu without its prologue; entries
// linear_{bias,gelu,residual}_{bf16,f16}_wgmma.
//
// Tensor maps and wgmma. A CTA is three warpgroups. One thread of the last fills a ring of STAGES stages; the first two multiply, 128 rows of
// the 256 x 192 tile each (two m64n192k16, 192 sums a thread), and have the last one's registers. CTAs stay: a CTA makes tile blockIdx.x,
// then every gridDim.x-th, and the loads of the next tile run while the epilogue of one does.
//
//   stage: a [256][64], w [192][64], rows of 128 bytes in the swizzle of hopper.cuh. What lies outside of the matrices is zeros, by the maps.
//
// Of tensor cores that make 2048 multiply-adds a clock, a tile asks L2 for 37 bytes a clock and shared memory for 85: 48 kB of loads for 3.1 M
// products. One group of wgmma is in flight while the next is queued, so that the tensor cores never wait for the loop.
//
// w's rows are dealt out by its map, as ../linear.cu deals them: of 32 rows, row 8 j + 2 t + e in shared memory is column 8 t + 2 j + e of out.
// A lane has 8 neighbouring columns then: 16 bytes, and its four neighbours the rest of 64.
//
// The host (src/ops/linear.rs) sees to it that rows of all matrices are aligned to 16 bytes and n is a multiple of 32.
// The order of additions over k is fixed. Launch: launch_tiles.h.
#include "hopper.cuh"
#include "launch_tiles.h"

enum Epilogue { BIAS, GELU, RESIDUAL };

// linear_fp8.cu: operands in e4m3, each row with a scale.
#ifdef LINEAR_FP8
constexpr int OPERAND_BYTES = 1;
template <class D> using Operand = e4m3;
using Params = LinearFp8Params;
#else
constexpr int OPERAND_BYTES = 2;
template <class D> using Operand = D;
using Params = LinearWgmmaParams;
#endif
constexpr int TILE_M = LINEAR_WGMMA_M, TILE_N = LINEAR_WGMMA_N, STAGES = LINEAR_WGMMA_STAGES;
constexpr int TILE_K = SWIZZLED_ROW / OPERAND_BYTES; // elements
constexpr int A_BYTES = TILE_M * SWIZZLED_ROW, STAGE_BYTES = (TILE_M + TILE_N) * SWIZZLED_ROW;
constexpr int CONSUMERS = 2, HALVES = 2; // warpgroups that multiply; blocks of 64 rows of each

extern __shared__ __align__(1024) unsigned char dynamic_shared[];

// a and b, and the two 16-bit elements of x added to them.
template <class D> __device__ __forceinline__ float2 add2(unsigned x, float a, float b) {
  float low, high;
  unpack2<D>(x, low, high);
  return make_float2(a + low, b + high);
}
template <int I> __device__ __forceinline__ unsigned& word(uint4& x) {
  if constexpr (I == 0) return x.x;
  else if constexpr (I == 1) return x.y;
  else if constexpr (I == 2) return x.z;
  else return x.w;
}

__device__ __forceinline__ const LinearWgmmaParams& wgmma_of(const LinearWgmmaParams& p) { return p; }
__device__ __forceinline__ const LinearWgmmaParams& wgmma_of(const LinearFp8Params& p) { return p.wgmma; }

// In the place of the sums, so that few registers are needed beside them: the bias, then one row of a lane after the other, 8 columns at a time.
// What the residual is added to is in L2 by then.
template <class D, int EPILOGUE> __device__ __forceinline__ void epilogue(const Params& params, float (&acc)[HALVES][96], int m0, int n0) {
  const LinearParams& p = wgmma_of(params).product;
  constexpr int GROUPS = TILE_N / 32;
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row0 = m0 + threadIdx.x / 128 * (TILE_M / CONSUMERS) + thread / 32 * 16 + lane / 4, column = n0 + lane % 4 * 8;
  const int columns = p.n - column; // from the lane's first on
  // Columns 2 e and 2 e + 1 of a group, in row r of the lane.
  auto sum = [&](auto r, auto group, auto e) -> float* { return acc[r.value / 2] + (group.value * 4 + e.value) * 4 + r.value % 2 * 2; };
  auto groups = [&](auto body) {
    unrolled<GROUPS>([&](auto group) {
      if (group.value * 32 < columns) body(group);
    });
  };
#ifdef LINEAR_FP8
  const D* const bias = static_cast<const D*>(p.bias) + column;
  float rows[2 * HALVES]; // scales of a's
  unrolled<2 * HALVES>([&](auto r) {
    const int row = row0 + r.value / 2 * 64 + r.value % 2 * 8;
    rows[r.value] = row < p.m ? params.a_scale[row] : 0.0f;
  });
  groups([&](auto group) {
    float w[2][4];
    unrolled<2>([&](auto half) { load_global16(params.w_scale + column + group.value * 32 + half.value * 4, w[half.value]); });
    uint4 b = p.bias ? load_global16(bias + group.value * 32) : make_uint4(0, 0, 0, 0);
    unrolled<2 * HALVES>([&](auto r) {
      unrolled<4>([&](auto e) {
        // One scale after the other: the product of two may be no number of f32.
        float *const y = sum(r, group, e), *const scales = w[e.value / 2] + e.value % 2 * 2;
        float low, high;
        unpack2<D>(word<e.value>(b), low, high);
        y[0] = fmaf(y[0] * rows[r.value], scales[0], low), y[1] = fmaf(y[1] * rows[r.value], scales[1], high);
      });
    });
  });
#else
  if (p.bias) {
    const D* const bias = static_cast<const D*>(p.bias) + column;
    groups([&](auto group) {
      uint4 b = load_global16(bias + group.value * 32);
      unrolled<2 * HALVES>([&](auto r) {
        unrolled<4>([&](auto e) {
          float* const y = sum(r, group, e);
          const float2 v = add2<D>(word<e.value>(b), y[0], y[1]);
          y[0] = v.x, y[1] = v.y;
        });
      });
    });
  }
#endif
  unrolled<2 * HALVES>([&](auto r) {
    const int row = row0 + r.value / 2 * 64 + r.value % 2 * 8;
    if (row >= p.m) return;
    const long long first = (long long)row * p.n + column;
    D* const out = static_cast<D*>(p.out) + first;
    D* const residual = static_cast<D*>(p.residual_out) + first;
    const float* gate = nullptr;
    if (EPILOGUE == RESIDUAL && p.gate_chunk >= 0 && p.modulation)
      gate = p.modulation + modulation_offset(p.frame_mask, row, p.frames, p.rows_per_frame, p.variants, p.chunks, p.channels, p.gate_chunk) + column;
    groups([&](auto group) {
      constexpr int at = group.value * 32;
      uint4 made, x, kept = make_uint4(0, 0, 0, 0);
      if constexpr (EPILOGUE == RESIDUAL) {
        x = load_global16(out + at);
        if (p.accumulate_residual) kept = load_global16(residual + at);
        if (gate) {
          unrolled<2>([&](auto half) {
            float g[4];
            load_global16(gate + at + half.value * 4, g);
            float *const y = sum(r, group, Index<2 * half.value>{}), *const z = sum(r, group, Index<2 * half.value + 1>{});
            y[0] *= g[0], y[1] *= g[1], z[0] *= g[2], z[1] *= g[3];
          });
        }
        if (p.residual_out) {
          unrolled<4>([&](auto e) {
            float* const y = sum(r, group, e);
            const float2 v = add2<D>(word<e.value>(kept), y[0], y[1]);
            word<e.value>(kept) = pack2<D>(v.x, v.y);
          });
          store_global16(residual + at, kept);
        }
      }
      unrolled<4>([&](auto e) {
        float* const y = sum(r, group, e);
        float2 v = make_float2(y[0], y[1]);
        if constexpr (EPILOGUE == GELU) v = make_float2(gelu_tanh(v.x), gelu_tanh(v.y));
        if constexpr (EPILOGUE == RESIDUAL) v = add2<D>(word<e.value>(x), v.x, v.y);
        word<e.value>(made) = pack2<D>(v.x, v.y);
      });
      store_global16(out + at, made);
    });
  });
}

template <class D, int EPILOGUE> __device__ __forceinline__ void linear(const Params& params, const TensorMap* maps) {
  const LinearWgmmaParams& p = wgmma_of(params);
  const unsigned stages = shared_address(dynamic_shared), full = stages + STAGES * STAGE_BYTES, empty = full + 8 * STAGES;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * CONSUMERS);
    }
    barriers_made();
  }
  __syncthreads();
  const LinearParams& product = p.product;
  Turn<STAGES> turn;

  if (threadIdx.x >= 128 * CONSUMERS) {
    give_registers<24>();
    if (threadIdx.x != 128 * CONSUMERS) return;
    prefetch_map(maps);
    prefetch_map(maps + 1);
#pragma unroll 1
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const int m0 = tile / p.columns * TILE_M, n0 = tile % p.columns * TILE_N;
#pragma unroll 1
      for (int step = 0; step < p.steps; step++, turn.next()) {
        barrier_wait(empty + 8 * turn.stage, turn.parity ^ 1);
        const unsigned barrier = full + 8 * turn.stage, to = stages + turn.stage * STAGE_BYTES;
        barrier_expect(barrier, STAGE_BYTES);
        copy_box(to, maps, step * TILE_K, m0, barrier);
        copy_box(to + A_BYTES, maps + 1, step * TILE_K, 0, 0, 0, n0 / 32, barrier);
        // The epilogue's part of this stage: rows of the tile that the residual is added to.
        if constexpr (EPILOGUE == RESIDUAL) {
          const int last = min(m0 + (step + 1) * TILE_M / p.steps, product.m), bytes = min(TILE_N, product.n - n0) * (int)sizeof(D);
#pragma unroll 1
          for (int row = m0 + step * TILE_M / p.steps; row < last; row++)
            prefetch_l2(static_cast<const D*>(product.out) + (long long)row * product.n + n0, bytes);
        }
      }
    }
    return;
  }

  take_registers<240>();
  const bool first_lane = threadIdx.x % 32 == 0;
#pragma unroll 1
  for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    float acc[HALVES][96];
#pragma unroll 1
    for (int step = 0; step < p.steps; step++, turn.next()) {
      barrier_wait(full + 8 * turn.stage, turn.parity);
      const unsigned from = stages + turn.stage * STAGE_BYTES;
      const unsigned long long a = descriptor(from + threadIdx.x / 128 * (A_BYTES / CONSUMERS)), w = descriptor(from + A_BYTES);
#pragma unroll
      for (int h = 0; h < HALVES; h++) in_flight(acc[h]);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < SWIZZLED_ROW / 32; k++)
#pragma unroll
        for (int h = 0; h < HALVES; h++) wgmma<Operand<D>>(acc[h], a + (h * 64 * SWIZZLED_ROW + k * 32 >> 4), w + (k * 32 >> 4), step | k);
      wgmma_commit();
      wgmma_wait<1>();
#pragma unroll
      for (int h = 0; h < HALVES; h++) in_flight(acc[h]);
      if (step && first_lane) barrier_arrive(empty + 8 * turn.before()); // whose products are done
    }
    wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < HALVES; h++) in_flight(acc[h]);
    if (first_lane) barrier_arrive(empty + 8 * turn.before());
    epilogue<D, EPILOGUE>(params, acc, tile / p.columns * TILE_M, tile % p.columns * TILE_N);
  }
}

#define ENTRY(NAME, D, EPILOGUE)                                                                                            \
  extern "C" __global__ void __launch_bounds__(LINEAR_WGMMA_THREADS, 1) NAME##_##D##_wgmma(const Params p) {                \
    static_assert(sizeof(TensorMap) == 128, "the maps are the first of the parameters");                                    \
    const TensorMap* maps;                                                                                                  \
    PARAMETER_ADDRESS(maps, #NAME "_" #D "_wgmma");                                                                         \
    linear<D, EPILOGUE>(p, maps);                                                                                           \
  }
#define ENTRIES(NAME, EPILOGUE) ENTRY(NAME, bf16, EPILOGUE) ENTRY(NAME, f16, EPILOGUE)
#ifdef LINEAR_FP8
ENTRIES(linear_fp8_bias, BIAS)
ENTRIES(linear_fp8_gelu, GELU)
ENTRIES(linear_fp8_residual, RESIDUAL)
#else
ENTRIES(linear_bias, BIAS)
ENTRIES(linear_gelu, GELU)
ENTRIES(linear_residual, RESIDUAL)
#endif
