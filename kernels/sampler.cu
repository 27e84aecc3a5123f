// One step of a solver: guidance, the update of the latents and of the history, and the frames that are held, in one pass.
//
//   v = v_u + cfg_scale (v_c - v_u)   (or v_c alone)      frames with mask 0: z = x0
//   z' = sum of a_t term_t      h_slot' = sum of b_t term_t      terms: z, v, h_0, h_1, h_2, h_3, all of them old
//   sampler_noise: frames that just began to move:        z = (1-t) x0 + t noise
//
// The coefficients lie in the step's row on the device (STEP_WORDS), so a captured step serves for all. A sum is a chain of fused
// multiply-adds from the first term to the last; terms whose coefficient is 0 are left out, and their slots not read. Of the rectified flow
// that is fma(dt, v, z).
//
// z and each slot [batch, channels, frames, spatial] f32; v [2*batch or batch, v_channels, frames, spatial], of which the first `channels`
// count, conditional half first. Launch: ELEMENTWISE_THREADS threads, grid (blocks, batch); four neighbours of one frame per
// access where `spatial` and the addresses allow. A sample has less than 2^31 elements. No shared memory.
#include "common.cuh"

// Which frames of sample `batch` have a 0 in the mask; frame of element i of a sample: (i / spatial) % frames.
__device__ __forceinline__ bool held(const unsigned char* mask, int batch, int i, int frames, int spatial) {
  return mask && mask[(long long)batch * frames + i / spatial % frames] == 0;
}

// Sum of coefficient * term. It starts at -0, which changes no product, not even one of -0.
template <int N>
__device__ __forceinline__ void combine(const float (&coefficients)[SOLVER_TERMS], const float (&terms)[SOLVER_TERMS][N], float (&sum)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] = -0.0f;
#pragma unroll
  for (int t = 0; t < SOLVER_TERMS; ++t) {
    if (coefficients[t] == 0.0f) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] = fmaf(coefficients[t], terms[t][j], sum[j]);
  }
}

template <int N> __device__ __forceinline__ void sampler_step_body(const SamplerStepParams& p) {
  const int batch = blockIdx.y, count = p.channels * p.frames * p.spatial;
  const long long here = (long long)batch * count, v_sample = (long long)p.v_channels * p.frames * p.spatial;
  const long long slot_size = (long long)p.batch * count;
  const float* conditional = p.v + batch * v_sample;
  const float* unconditional = p.v + (p.batch + batch) * v_sample;
  float latents[SOLVER_TERMS], kept[SOLVER_TERMS];
#pragma unroll
  for (int t = 0; t < SOLVER_TERMS; ++t) {
    latents[t] = p.row[STEP_LATENTS + t];
    kept[t] = p.row[STEP_KEPT + t];
  }
  const int slot = p.history ? (int)p.row[STEP_SLOT] : -1;
  for (long long i = grid_thread() * N; i < count; i += grid_threads() * N) {
    float terms[SOLVER_TERMS][N], z[N];
    if (held(p.frame_mask, batch, (int)i, p.frames, p.spatial)) {
      if (!p.x0) continue;
      load_floats(p.x0 + here + i, z);
      store_floats(p.z + here + i, z);
      continue;
    }
    load_floats(p.z + here + i, terms[0]);
    load_floats(conditional + i, terms[1]);
    if (p.guided) {
      float u[N];
      load_floats(unconditional + i, u);
#pragma unroll
      for (int j = 0; j < N; ++j) terms[1][j] = fmaf(p.cfg_scale, terms[1][j] - u[j], u[j]);
    }
    if (p.history) {
#pragma unroll
      for (int s = 0; s < SOLVER_HISTORY; ++s) {
        if (latents[2 + s] != 0.0f || kept[2 + s] != 0.0f) load_floats(p.history + s * slot_size + here + i, terms[2 + s]);
      }
    }
    combine(latents, terms, z);
    if (slot >= 0) {
      float h[N];
      combine(kept, terms, h);
      store_floats(p.history + slot * slot_size + here + i, h);
    }
    store_floats(p.z + here + i, z);
  }
}

template <int N> __device__ __forceinline__ void sampler_noise_body(const SamplerNoiseParams& p) {
  const int batch = blockIdx.y, count = p.channels * p.frames * p.spatial;
  const long long here = (long long)batch * count;
  for (long long i = grid_thread() * N; i < count; i += grid_threads() * N) {
    if (held(p.select, batch, (int)i, p.frames, p.spatial)) continue;
    float x0[N], noise[N];
    load_floats(p.x0 + here + i, x0);
    load_floats(p.noise + here + i, noise);
#pragma unroll
    for (int j = 0; j < N; ++j) x0[j] = fmaf(p.t, noise[j], (1.0f - p.t) * x0[j]);
    store_floats(p.z + here + i, x0);
  }
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) sampler_step(const SamplerStepParams p) {
  if (chunked<float>(p.spatial, p.z, p.v, p.x0, p.history)) sampler_step_body<4>(p);
  else sampler_step_body<1>(p);
}
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) sampler_noise(const SamplerNoiseParams p) {
  if (chunked<float>(p.spatial, p.z, p.x0, p.noise)) sampler_noise_body<4>(p);
  else sampler_noise_body<1>(p);
}
