// One step of the rectified-flow sampler: guidance, the Euler update and the frames that are held, in one pass over z.
//
//   v = v_u + cfg_scale (v_c - v_u)   (or v_c alone)      z += dt v      frames with mask 0: z = x0
//   sampler_noise: frames that just began to move:        z = (1-t) x0 + t noise
//
// z [batch, channels, frames, spatial] f32; v [2*batch or batch, v_channels, frames, spatial], of which the first `channels`
// count, conditional half first. Launch: ELEMENTWISE_THREADS threads, grid (blocks, batch); four neighbours of one frame per
// access where `spatial` and the addresses allow. A sample has less than 2^31 elements. No shared memory.
#include "common.cuh"

// Which frames of sample `batch` have a 0 in the mask; frame of element i of a sample: (i / spatial) % frames.
__device__ __forceinline__ bool held(const unsigned char* mask, int batch, int i, int frames, int spatial) {
  return mask && mask[(long long)batch * frames + i / spatial % frames] == 0;
}

template <int N> __device__ __forceinline__ void sampler_step_body(const SamplerStepParams& p) {
  const int batch = blockIdx.y, count = p.channels * p.frames * p.spatial;
  const long long here = (long long)batch * count, v_sample = (long long)p.v_channels * p.frames * p.spatial;
  const float* conditional = p.v + batch * v_sample;
  const float* unconditional = p.v + (p.batch + batch) * v_sample;
  const float dt = p.device_dt ? *p.device_dt : p.dt;
  for (long long i = grid_thread() * N; i < count; i += grid_threads() * N) {
    float z[N], v[N];
    if (held(p.frame_mask, batch, (int)i, p.frames, p.spatial)) {
      if (!p.x0) continue;
      load_floats(p.x0 + here + i, z);
    } else {
      load_floats(p.z + here + i, z);
      load_floats(conditional + i, v);
      if (p.guided) {
        float u[N];
        load_floats(unconditional + i, u);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = fmaf(p.cfg_scale, v[j] - u[j], u[j]);
      }
#pragma unroll
      for (int j = 0; j < N; ++j) z[j] = fmaf(dt, v[j], z[j]);
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
  if (chunked<float>(p.spatial, p.z, p.v, p.x0)) sampler_step_body<4>(p);
  else sampler_step_body<1>(p);
}
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) sampler_noise(const SamplerNoiseParams p) {
  if (chunked<float>(p.spatial, p.z, p.x0, p.noise)) sampler_noise_body<4>(p);
  else sampler_noise_body<1>(p);
}
