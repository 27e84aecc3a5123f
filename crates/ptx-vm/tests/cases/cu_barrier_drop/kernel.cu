// Threads leave a cuda::barrier one warp after the other; the others go on without them.
#pragma nv_diag_suppress static_var_with_dynamic_init
#include <cuda/barrier>
extern "C" __global__ void leave(unsigned* out) {
  __shared__ unsigned count;
  __shared__ cuda::barrier<cuda::thread_scope_block> bar;
  if (threadIdx.x == 0) { init(&bar, blockDim.x); count = 0; }
  __syncthreads();
  unsigned warp = threadIdx.x / 32, seen = 0;
  for (unsigned r = 0; r < 4; ++r) {
    if (warp < r) { bar.arrive_and_drop(); break; }
    atomicAdd(&count, 1u);
    bar.arrive_and_wait();
    seen = count;
    bar.arrive_and_wait();
  }
  out[threadIdx.x] = seen;
}
