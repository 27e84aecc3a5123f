// Warps hand a value on through shared memory: release and acquire of a cuda::atomic_ref, and fences around a volatile flag.
#include <cuda/atomic>
extern "C" __global__ void relay(const int* in, int* out) {
  __shared__ int value[4], flag[4];
  __shared__ volatile int old[4];
  unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x < 4) { flag[threadIdx.x] = 0; old[threadIdx.x] = 0; }
  __syncthreads();
  if (lane == 0) {
    int x = in[warp];
    if (warp > 0) {
      cuda::atomic_ref<int, cuda::thread_scope_block> before(flag[warp - 1]);
      while (before.load(cuda::std::memory_order_acquire) == 0) {}
      x += value[warp - 1];
    }
    value[warp] = x;
    cuda::atomic_ref<int, cuda::thread_scope_block> mine(flag[warp]);
    mine.store(1, cuda::std::memory_order_release);
    __threadfence_block();
    old[warp] = 1;
  }
  while (old[3] == 0) {}
  __threadfence_block();
  out[threadIdx.x] = value[warp] * 100 + lane;
}
