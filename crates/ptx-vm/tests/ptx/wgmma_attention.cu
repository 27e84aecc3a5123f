// Attention of 64 queries by one warpgroup, f16, head dimension 16: scores from shared memory, probabilities as A from registers, values
// along their columns (transposed B). Rows of 32 bytes are swizzled.
//
// nvcc -O3 -arch=sm_90a -ptx
#include <cuda_fp16.h>
#include <stdint.h>

constexpr int D = 16, QUERIES = 64, TILE = 32;

__device__ uint64_t descriptor(const void *p) {
    uint64_t at = (uint32_t)__cvta_generic_to_shared(p);
    return (at & 0x3ffff) >> 4 | 1ull << 16 | 16ull << 32 | 3ull << 62;
}

__device__ void load(half *to, const half *from, int rows) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * 2; i += 128) {
        int row = i / 2, column = i % 2;
        ((uint4 *)to)[row * 2 + (column ^ row / 4 % 2)] = ((const uint4 *)from)[i];
    }
}

#define D4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])

__device__ void scores(float (&d)[16], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, "
                 "0, 1, 1, 0, 0;\n"
                 : D4(d, 0), D4(d, 4), D4(d, 8), D4(d, 12)
                 : "l"(a), "l"(b));
}

__device__ void weigh(float (&d)[8], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1, 1, 1, 1;\n"
                 : D4(d, 0), D4(d, 4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ void wait() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(128)
    wgmma_attention(const half *q, const half *k, const half *v, half *out, int keys, float scale) {
    __shared__ alignas(1024) half qs[QUERIES * D], ks[TILE * D], vs[TILE * D];
    float sums[8] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    load(qs, q, QUERIES);
#pragma unroll 1
    for (int first = 0; first < keys; first += TILE) {
        load(ks, k + first * D, TILE);
        load(vs, v + first * D, TILE);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        float s[16];
        fence();
        scores(s, descriptor(qs), descriptor(ks));
        wait();
        for (int h = 0; h < 2; h++) {
            float top = most[h];
            for (int i = 0; i < 16; i++)
                if (i / 2 % 2 == h) top = fmaxf(top, s[i] * scale);
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float shrink = __expf(most[h] - top);
            most[h] = top;
            total[h] *= shrink;
            for (int i = 0; i < 16; i++)
                if (i / 2 % 2 == h) total[h] += s[i] = __expf(s[i] * scale - top);
            for (int i = 0; i < 8; i++)
                if (i / 2 % 2 == h) sums[i] *= shrink;
        }
        uint32_t p[8];
        for (int i = 0; i < 8; i++) {
            half2 pair = __floats2half2_rn(s[2 * i], s[2 * i + 1]);
            p[i] = *(uint32_t *)&pair;
        }
        fence();
        for (int i = 0; i < 2; i++) weigh(sums, p + 4 * i, descriptor(vs) + 32 * i);
        wait();
        __syncthreads();
    }
    for (int h = 0; h < 2; h++) {
        total[h] += __shfl_xor_sync(~0u, total[h], 1);
        total[h] += __shfl_xor_sync(~0u, total[h], 2);
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h;
        for (int i = 0; i < 2; i++)
            *(half2 *)(out + row * D + 8 * i + threadIdx.x % 4 * 2) =
                __floats2half2_rn(sums[4 * i + 2 * h] / total[h], sums[4 * i + 2 * h + 1] / total[h]);
    }
}
