// sm_90 bulk reductions of shared tiles into global memory.
#include <cuda/ptx>
namespace ptx = cuda::ptx;
extern "C" __global__ void reduce(const int* in, int* sum, unsigned* low, unsigned long long* bits) {
  __shared__ alignas(16) int a[64];
  __shared__ alignas(16) unsigned b[64];
  __shared__ alignas(16) unsigned long long c[64];
  int i = threadIdx.x, v = in[blockIdx.x * 64 + i];
  a[i] = v; b[i] = v * 7u % 101u; c[i] = 1ull << (v & 63);
  ptx::fence_proxy_async(ptx::space_shared);
  __syncthreads();
  if (i == 0) {
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_add, sum, a, sizeof(a));
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_min, low, b, sizeof(b));
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_or_op, bits, c, sizeof(c));
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group(ptx::n32_t<0>());
  }
}
