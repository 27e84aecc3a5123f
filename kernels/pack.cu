// Kept residuals in 8 bits: e4m3 (3 bits of fraction, largest 448, no infinity) with one f32 scale a row.
//
//   residual_pack     scale[row] = max|x| / 448 (1 for a row of zeros), packed = e4m3(x / scale), rounded to nearest even
//                     error[block] = sum|x - packed*scale|, sum|x|      pack_error adds the blocks to totals, in f64, in a fixed order
//   residual_unpack   out = packed * scale, or out + packed * scale, rounded once
//
// A warp per row and time, PACK_WARPS warps a block, grid min(ceil(rows / PACK_WARPS), PACK_MAX_BLOCKS): a function of the shape alone,
// so that one input gives the same bits everywhere. The second pass of packing over a row finds it in the cache; unpacking takes four numbers a
// lane where rows begin at four of them. e4m3 is made with integers, since sm_80 has no instruction for it. Static shared memory of packing:
// two floats a warp.
#include "common.cuh"

#define E4M3_MAX 448.0f

// |x| <= 448 and finite, or NaN. Rounds to nearest, ties to even.
__device__ __forceinline__ unsigned to_e4m3(float x) {
  unsigned bits = bits_of(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7fu;
  // Below 2^-6 there are only multiples of 2^-9: adding 2^14 (whose unit in the last place is 2^-9) rounds to one.
  if (magnitude < 0x3c800000u) return sign | (bits_of(float_of(magnitude) + 16384.0f) - bits_of(16384.0f));
  // Keep 3 of 23 bits of fraction; a carry moves into the exponent, as it has to.
  magnitude += 0x7ffffu + (magnitude >> 20 & 1u);
  return sign | ((magnitude >> 20) - (120u << 3));
}
__device__ __forceinline__ float from_e4m3(unsigned x) {
  unsigned sign = (x & 0x80u) << 24, magnitude = x & 0x7fu;
  if (magnitude == 0x7fu) return float_of(sign | 0x7fc00000u);
  // The exponent of a number of 7 bits, moved to its place, is off by 2^120.
  if (magnitude < 8u) return float_of(sign | bits_of((float)magnitude * 0.001953125f));
  return float_of(sign | ((magnitude << 20) + (120u << 23)));
}

template <class D> __device__ __forceinline__ void residual_pack(const PackParams& p) {
  __shared__ float warps[PACK_WARPS][2];
  float error = 0.0f, magnitude = 0.0f;
  for (long long row = (long long)blockIdx.x * PACK_WARPS + threadIdx.x / 32; row < p.rows; row += (long long)gridDim.x * PACK_WARPS) {
    const D* x = (const D*)p.x + row * p.channels;
    unsigned char* packed = p.packed + row * p.channels;
    float largest = 0.0f;
    for (int c = lane_index(); c < p.channels; c += 32) largest = fmaxf(largest, fabsf(to_f32(x[c])));
    for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    float scale = largest > 0.0f ? largest / E4M3_MAX : 1.0f;
    if (lane_index() == 0) p.scale[row] = scale;
    for (int c = lane_index(); c < p.channels; c += 32) {
      float value = to_f32(x[c]);
      // The quotient can round up past the largest number.
      unsigned code = to_e4m3(fminf(fmaxf(value / scale, -E4M3_MAX), E4M3_MAX));
      packed[c] = (unsigned char)code;
      error += fabsf(value - from_e4m3(code) * scale);
      magnitude += fabsf(value);
    }
  }
  error = warp_sum(error), magnitude = warp_sum(magnitude);
  if (lane_index() == 0) warps[threadIdx.x / 32][0] = error, warps[threadIdx.x / 32][1] = magnitude;
  __syncthreads();
  if (threadIdx.x < 2) {
    float sum = 0.0f;
    for (int w = 0; w < PACK_WARPS; ++w) sum += warps[w][threadIdx.x];
    p.error[2 * blockIdx.x + threadIdx.x] = sum;
  }
}

template <class D> __device__ __forceinline__ void residual_unpack(const UnpackParams& p) {
  const bool fours = p.channels % 4 == 0 && aligned(p.packed, 4) && aligned(p.out, 4 * sizeof(D));
  for (long long row = (long long)blockIdx.x * PACK_WARPS + threadIdx.x / 32; row < p.rows; row += (long long)gridDim.x * PACK_WARPS) {
    const float scale = p.scale[row];
    const unsigned char* const packed = p.packed + row * p.channels;
    D* const out = (D*)p.out + row * p.channels;
    if (fours) {
      for (int c = lane_index() * 4; c < p.channels; c += 32 * 4) {
        const unsigned codes = *reinterpret_cast<const unsigned*>(packed + c);
        float x[4] = {}, y[4];
        if (p.add) load_run(out + c, x);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float value = from_e4m3(codes >> 8 * e & 0xffu) * scale;
          y[e] = p.add ? x[e] + value : value;
        }
        store_run(out + c, y);
      }
    } else {
      for (int c = lane_index(); c < p.channels; c += 32) {
        const float value = from_e4m3(packed[c]) * scale;
        out[c] = from_f32<D>(p.add ? to_f32(out[c]) + value : value);
      }
    }
  }
}

// totals[0] += sum|error|, totals[1] += sum|x|: a warp each.
extern "C" __global__ void __launch_bounds__(64) pack_error(const PackErrorParams p) {
  int index = threadIdx.x / 32;
  double sum = 0.0;
  for (int block = lane_index(); block < p.blocks; block += 32) sum += (double)p.error[2 * block + index];
  sum = warp_sum(sum);
  if (lane_index() == 0) p.totals[index] += sum;
}

#define ENTRIES(D)                                                                                                               \
  extern "C" __global__ void __launch_bounds__(PACK_THREADS) residual_pack_##D(const PackParams p) { residual_pack<D>(p); }     \
  extern "C" __global__ void __launch_bounds__(PACK_THREADS) residual_unpack_##D(const UnpackParams p) { residual_unpack<D>(p); }
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
