// LayerNorm's statistics of a row: norm.cu, and sm_90a/quantise.cu, which norms rows that it makes e4m3.
#pragma once
#include "common.cuh"

// mean and 1/sqrt(var + eps) of the warp's row; the same bits in every lane.
template <class D, int N> __device__ __forceinline__ float2 statistics(const D* row, int channels, float eps) {
  float sum = 0.0f;
  for (int c = lane_index() * N; c < channels; c += 32 * N) {
    float x[N];
    load_elements(row + c, x);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += x[i];
  }
  float mean = warp_sum(sum) / (float)channels;
  float squares = 0.0f;
  for (int c = lane_index() * N; c < channels; c += 32 * N) {
    float x[N];
    load_elements(row + c, x);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  }
  return make_float2(mean, 1.0f / sqrtf(warp_sum(squares) / (float)channels + eps));
}
