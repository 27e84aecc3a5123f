// A cuda::pipeline with roles: warp 0 produces, the other warps consume.
#pragma nv_diag_suppress static_var_with_dynamic_init
#include <cooperative_groups.h>
#include <cuda/pipeline>
namespace cg = cooperative_groups;
extern "C" __global__ void roles(const float* in, float* out, int tiles) {
  __shared__ alignas(16) float tile[3][96];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 3> state;
  auto block = cg::this_thread_block();
  auto role = threadIdx.x < 32 ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
  auto pipe = cuda::make_pipeline(block, &state, role);
  if (role == cuda::pipeline_role::producer) {
    for (int t = 0; t < tiles; ++t) {
      pipe.producer_acquire();
      for (int i = threadIdx.x; i < 96; i += 32)
        cuda::memcpy_async(&tile[t % 3][i], in + t * 96 + i, cuda::aligned_size_t<4>(4), pipe);
      pipe.producer_commit();
    }
  } else {
    int i = threadIdx.x - 32;
    float sum = 0;
    for (int t = 0; t < tiles; ++t) {
      pipe.consumer_wait();
      sum += tile[t % 3][95 - i];
      pipe.consumer_release();
    }
    out[i] = sum;
  }
}
