// The kernels of the speed measurements. Compiled to bench.ptx with NVRTC: see benches/speed.rs.
#include <cuda_fp16.h>

// Four million elements, one each thread and step: loads, a fused multiply-add, a store.
extern "C" __global__ void axpy(const float* x, float* y, float a, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}

// Arithmetic only: how many lane operations a second.
extern "C" __global__ void chain(float* y, float a, float b, int steps) {
  float v0 = threadIdx.x, v1 = v0 + 1, v2 = v0 + 2, v3 = v0 + 3;
  for (int i = 0; i < steps; ++i) {
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      v0 = v0 * a + b;
      v1 = v1 * a + b;
      v2 = v2 * a + b;
      v3 = v3 * a + b;
    }
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = v0 + v1 + v2 + v3;
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// C[m,n] = A[m,k] . B[n,k]^T, all multiples of 128 (k of 32): 128x128 tiles, four warps of 64x64, two stages of cp.async.
extern "C" __global__ void __launch_bounds__(128) gemm_f16(const __half* A, const __half* B, float* C, int m, int n, int k) {
  __shared__ __align__(16) __half tile_a[2][128][40];
  __shared__ __align__(16) __half tile_b[2][128][40];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row0 = blockIdx.y * 128, col0 = blockIdx.x * 128;
  const int wr = (warp / 2) * 64, wc = (warp % 2) * 64;
  float acc[4][8][4] = {};
  auto fetch = [&](int stage, int kk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int c = threadIdx.x + i * 128, r = c / 4, q = (c % 4) * 8;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile_a[stage][r][q])), "l"(A + (size_t)(row0 + r) * k + kk + q));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile_b[stage][r][q])), "l"(B + (size_t)(col0 + r) * k + kk + q));
    }
    asm volatile("cp.async.commit_group;");
  };
  fetch(0, 0);
  for (int kk = 0, stage = 0; kk < k; kk += 32, stage ^= 1) {
    if (kk + 32 < k) {
      fetch(stage ^ 1, kk + 32);
      asm volatile("cp.async.wait_group 1;");
    } else {
      asm volatile("cp.async.wait_group 0;");
    }
    __syncthreads();
#pragma unroll
    for (int ks = 0; ks < 32; ks += 16) {
      unsigned a[4][4], b[8][2];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3])
                     : "r"(shared_address(&tile_a[stage][wr + i * 16 + lane % 16][ks + lane / 16 * 8])));
#pragma unroll
      for (int j = 0; j < 4; ++j)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(b[2 * j][0]), "=r"(b[2 * j][1]), "=r"(b[2 * j + 1][0]), "=r"(b[2 * j + 1][1])
                     : "r"(shared_address(&tile_b[stage][wc + j * 16 + lane % 8 + lane / 16 * 8][ks + lane / 8 % 2 * 8])));
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                       : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
                       : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      int r = row0 + wr + i * 16 + lane / 4, c = col0 + wc + j * 8 + lane % 4 * 2;
      *(float2*)&C[(size_t)r * n + c] = make_float2(acc[i][j][0], acc[i][j][1]);
      *(float2*)&C[(size_t)(r + 8) * n + c] = make_float2(acc[i][j][2], acc[i][j][3]);
    }
}
