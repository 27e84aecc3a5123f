// Warp specialisation on sm_90: one elected thread feeds a ring of bulk copies, three warps consume; full and empty mbarriers.
#include <cuda/ptx>
namespace ptx = cuda::ptx;
constexpr int STAGES = 3, N = 96;
extern "C" __global__ void ring(const float* in, float* out, int tiles) {
  __shared__ alignas(128) float tile[STAGES][N];
  __shared__ uint64_t full[STAGES], empty[STAGES];
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) { ptx::mbarrier_init(&full[s], 1); ptx::mbarrier_init(&empty[s], 3); }
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  int warp = threadIdx.x / 32;
  if (warp == 0) {
    if (ptx::elect_sync(~0u)) {
      for (int t = 0; t < tiles; ++t) {
        int s = t % STAGES, k = t / STAGES;
        while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cta, &empty[s], (k & 1) ^ 1)) {}
        ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &full[s], N * 4);
        ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, tile[s], in + t * N, N * 4, &full[s]);
      }
    }
  } else {
    int i = threadIdx.x - 32;
    float sum = 0;
    for (int t = 0; t < tiles; ++t) {
      int s = t % STAGES, k = t / STAGES;
      while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cta, &full[s], k & 1)) {}
      sum += tile[s][N - 1 - i] * (t + 1);
      __syncwarp();
      if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &empty[s]);
    }
    out[i] = sum;
  }
}
