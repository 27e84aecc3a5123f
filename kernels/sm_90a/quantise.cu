// Rows in e4m3 (3 bits of fraction, largest 448, no infinity) with one f32 scale each, for linear_fp8.cu. Entries quantise_{bf16,f16}, and
// quantise_modulated_{bf16,f16}: of LN(x) (1 + scale) + shift, rounded to D first, so that the bits are those of ../norm.cu's modulate and quantise.
//
//   scale[row] = max|x| / 448 (1 where that is below 2^-96), packed = e4m3(x / scale), rounded to nearest even, saturated
//   error[block] = sum|x - packed scale|, sum|x|      ../pack.cu's pack_error adds the blocks to totals, in f64, in a fixed order
//
// A row with a NaN or an infinity has the scale NaN: so is every product with it, and the error.
//
// x [rows, channels] D, channels a multiple of 16, all rows aligned to 16 bytes. A warp per row and time, PACK_WARPS warps a block, grid
// min(ceil(rows / PACK_WARPS), PACK_MAX_BLOCKS), as residual_pack. A lane takes every 32nd chunk of 16 bytes, twice, and with LayerNorm four times:
// after the first time the row is in the cache. Static shared memory: two floats a warp.
#include "norm.cuh"
#include "hopper.cuh"

constexpr float E4M3_MAX = 448.0f, LEAST = 0x1p-96f;
constexpr unsigned INFINITE = 0x7f800000u;

// What a warp has lost so far: sum|x - packed scale|, sum|x|.
struct Lost {
  float error = 0.0f, magnitude = 0.0f;
};

// One row, of which load(c, v) gives chunks: its scale. Codes go to `packed`.
template <class Load> __device__ __forceinline__ float pack_row(Load load, int channels, unsigned char* packed, Lost& lost) {
  // As integers, so that NaN is the largest.
  unsigned largest = 0;
#pragma unroll 4
  for (int c = lane_index() * 8; c < channels; c += 32 * 8) {
    float v[8];
    load(c, v);
#pragma unroll
    for (int e = 0; e < 8; e++) largest = max(largest, bits_of(v[e]) & 0x7fffffffu);
  }
  largest = __reduce_max_sync(0xffffffffu, largest);
  const float scale = largest >= INFINITE ? float_of(0x7fc00000u) : float_of(largest) >= LEAST ? float_of(largest) / E4M3_MAX : 1.0f;
  const float inverse = 1.0f / scale;
#pragma unroll 2
  for (int c = lane_index() * 8; c < channels; c += 32 * 8) {
    float v[8];
    unsigned made[2];
    load(c, v);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float* const y = v + 4 * half;
      const unsigned low = to_e4m3x2(y[0] * inverse, y[1] * inverse), high = to_e4m3x2(y[2] * inverse, y[3] * inverse);
      made[half] = low | high << 16;
      float back[4];
      from_e4m3x2(low, back[0], back[1]);
      from_e4m3x2(high, back[2], back[3]);
#pragma unroll
      for (int e = 0; e < 4; e++) lost.error += fabsf(y[e] - back[e] * scale), lost.magnitude += fabsf(y[e]);
    }
    *reinterpret_cast<uint2*>(packed + c) = make_uint2(made[0], made[1]);
  }
  return scale;
}

// All rows of the block's warps: row(r, lost) packs row r and gives its scale.
template <class Row> __device__ __forceinline__ void pack_rows(long long rows, float* scale, float* error, Row row) {
  __shared__ float warps[PACK_WARPS][2];
  Lost lost;
  for (long long r = grid_warp(); r < rows; r += grid_warps()) {
    const float its = row(r, lost);
    if (lane_index() == 0) scale[r] = its;
  }
  lost.error = warp_sum(lost.error), lost.magnitude = warp_sum(lost.magnitude);
  if (lane_index() == 0) warps[threadIdx.x / 32][0] = lost.error, warps[threadIdx.x / 32][1] = lost.magnitude;
  __syncthreads();
  if (threadIdx.x < 2) {
    float sum = 0.0f;
    for (int w = 0; w < PACK_WARPS; w++) sum += warps[w][threadIdx.x];
    error[2 * blockIdx.x + threadIdx.x] = sum;
  }
}

template <class D> __device__ __forceinline__ void quantise(const PackParams& p) {
  pack_rows(p.rows, p.scale, p.error, [&](long long row, Lost& lost) {
    const D* const x = (const D*)p.x + row * p.channels;
    return pack_row([&](int c, float (&v)[8]) { load_elements(x + c, v); }, p.channels, p.packed + row * p.channels, lost);
  });
}

template <class D> __device__ __forceinline__ void quantise_modulated(const QuantiseModulatedParams& params) {
  const ModulateParams& p = params.modulate;
  pack_rows(p.rows, params.scale, params.error, [&](long long row, Lost& lost) {
    const long long frame = row / p.rows_per_frame; // over all batches, as the mask is laid out
    const int variant = p.frame_mask && p.frame_mask[frame] == 0 ? 1 : 0;
    const D* const x = (const D*)p.x + row * p.channels;
    const float2 stats = statistics<D, 8>(x, p.channels, p.eps);
    const float* const chunks = p.modulation + (frame / p.frames * p.variants + variant) * p.chunks * p.channels;
    const float* const shift = chunks + (long long)p.shift_chunk * p.channels;
    const float* const scale = chunks + (long long)p.scale_chunk * p.channels;
    auto load = [&](int c, float (&v)[8]) {
      float a[8], b[8];
      load_elements(x + c, v);
      load_floats(scale + c, a);
      load_floats(shift + c, b);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = to_f32(from_f32<D>(fmaf((v[i] - stats.x) * stats.y, 1.0f + a[i], b[i])));
    };
    return pack_row(load, p.channels, (unsigned char*)p.out + row * p.channels, lost);
  });
}

#define ENTRIES(D)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(PACK_THREADS) quantise_##D(const PackParams p) { quantise<D>(p); }     \
  extern "C" __global__ void __launch_bounds__(PACK_THREADS) quantise_modulated_##D(const QuantiseModulatedParams p) { \
    quantise_modulated<D>(p);                                                                                         \
  }
ENTRIES(bf16)
ENTRIES(f16)
