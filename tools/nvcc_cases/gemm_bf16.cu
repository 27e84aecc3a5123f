// bf16 GEMM: double-buffered cp.async, ldmatrix with a swizzle, mma m16n8k16; C = A B, A by rows, B by rows (transposed by ldmatrix).
#include <cuda_bf16.h>
#include <cstdint>
constexpr int BM = 64, BN = 64, BK = 32;
__device__ uint32_t shared(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void copy16(void* to, const void* from) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared(to)), "l"(from)); }
extern "C" __global__ void __launch_bounds__(128) gemm_bf16(const __nv_bfloat16* A, const __nv_bfloat16* B, float* C, int M, int N, int K) {
    __shared__ __align__(128) __nv_bfloat16 a[2][BM * BK], b[2][BK * BN];
    int t = threadIdx.x, warp = t / 32, lane = t % 32, row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    int wm = warp / 2 * 32, wn = warp % 2 * 32;
    float acc[2][4][4] = {};
    auto load = [&](int s, int k0) {
        for (int c = t; c < BM * BK / 8; c += 128) { int r = c / 4, q = c % 4; copy16(&a[s][r * BK + (q ^ (r / 2 & 3)) * 8], A + (row0 + r) * K + k0 + q * 8); }
        for (int c = t; c < BK * BN / 8; c += 128) { int r = c / 8, q = c % 8; copy16(&b[s][r * BN + (q ^ (r & 7)) * 8], B + (k0 + r) * N + col0 + q * 8); }
        asm volatile("cp.async.commit_group;");
    };
    load(0, 0);
    for (int k0 = 0, s = 0; k0 < K; k0 += BK, s ^= 1) {
        if (k0 + BK < K) { load(s ^ 1, k0 + BK); asm volatile("cp.async.wait_group 1;"); } else asm volatile("cp.async.wait_group 0;");
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            uint32_t fa[2][4], fb[4][2];
            for (int i = 0; i < 2; ++i) {
                int r = wm + i * 16 + lane % 16, q = kk / 8 + lane / 16;
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(fa[i][0]), "=r"(fa[i][1]), "=r"(fa[i][2]), "=r"(fa[i][3]) : "r"(shared(&a[s][r * BK + (q ^ (r / 2 & 3)) * 8])));
            }
            for (int j = 0; j < 4; ++j) {
                int r = kk + lane % 16, q = (wn + j * 8) / 8;
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(fb[j][0]), "=r"(fb[j][1]) : "r"(shared(&b[s][r * BN + (q ^ (r & 7)) * 8])));
            }
            for (int i = 0; i < 2; ++i) for (int j = 0; j < 4; ++j) {
                float* c = acc[i][j];
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(fa[i][0]), "r"(fa[i][1]), "r"(fa[i][2]), "r"(fa[i][3]), "r"(fb[j][0]), "r"(fb[j][1]));
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i) for (int j = 0; j < 4; ++j) {
        int r = row0 + wm + i * 16 + lane / 4, c = col0 + wn + j * 8 + lane % 4 * 2;
        *(float2*)&C[r * N + c] = make_float2(acc[i][j][0], acc[i][j][1]);
        *(float2*)&C[(r + 8) * N + c] = make_float2(acc[i][j][2], acc[i][j][3]);
    }
}
