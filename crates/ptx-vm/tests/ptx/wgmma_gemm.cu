// C = A B^T of bf16 by two warpgroups: 128 rows, 16 columns, steps of 16 along K in three buffers, so that a product may be pending while the
// next one begins. Rows of 32 bytes are swizzled.
//
// nvcc -O3 -arch=sm_90a -ptx
#include <cuda_bf16.h>
#include <stdint.h>

constexpr int M = 128, N = 16, K = 16, BUFFERS = 3;

__device__ uint64_t descriptor(const void *p) {
    uint64_t at = (uint32_t)__cvta_generic_to_shared(p);
    return (at & 0x3ffff) >> 4 | 1ull << 16 | 16ull << 32 | 3ull << 62;
}

__device__ void copy(uint4 *to, const uint4 *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}

// Rows of two 16-byte columns.
__device__ void load(__nv_bfloat16 *to, const __nv_bfloat16 *from, int rows, int k, int step) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * 2; i += blockDim.x) {
        int row = i / 2, column = i % 2;
        copy((uint4 *)to + row * 2 + (column ^ row / 4 % 2), (const uint4 *)(from + row * k + step * K) + column);
    }
}

__device__ void multiply(float (&d)[8], uint64_t a, uint64_t b) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, p, 1, 1, 0, 0;\n}\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                 : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(256) wgmma_gemm(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int k) {
    __shared__ alignas(1024) __nv_bfloat16 as[BUFFERS][M * K], bs[BUFFERS][N * K];
    int group = threadIdx.x / 128, steps = k / K;
    float sums[8] = {};
    load(as[0], a, M, k, 0);
    load(bs[0], b, N, k, 0);
    for (int s = 0; s < steps; s++) {
        asm volatile("cp.async.wait_all;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        int now = s % BUFFERS, next = (s + 1) % BUFFERS;
        if (s + 1 < steps) {
            load(as[next], a, M, k, s + 1);
            load(bs[next], b, N, k, s + 1);
        }
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        multiply(sums, descriptor(as[now] + group * 64 * K), descriptor(bs[now]));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 8; i++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
        c[row * N + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = sums[i];
    }
}
