// Causal attention with an online softmax: a warp a query, keys and values in tiles in shared memory, half operands, float sums.
#include <cuda_fp16.h>
extern "C" __global__ void attention(const __half2* q, const __half2* k, const __half2* v, __half2* o, int n, float scale) {
    __shared__ __half2 ks[32][33], vs[32][33];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * 4 + warp;
    float m = -INFINITY, l = 0;
    float2 acc = make_float2(0, 0);
    for (int j0 = 0; j0 < n; j0 += 32) {
        for (int r = warp; r < 32; r += 4) { ks[r][lane] = k[(j0 + r) * 32 + lane]; vs[r][lane] = v[(j0 + r) * 32 + lane]; }
        __syncthreads();
        float s = 0;
#pragma unroll 8
        for (int d = 0; d < 32; ++d) { float2 a = __half22float2(q[row * 32 + d]), b = __half22float2(ks[lane][d]); s = fmaf(a.x, b.x, fmaf(a.y, b.y, s)); }
        s = j0 + lane <= row ? s * scale : -INFINITY;
        float top = s;
        for (int w = 16; w; w /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, w));
        float next = fmaxf(m, top), p = next == -INFINITY ? 0 : __expf(s - next), c = m == -INFINITY ? 0 : __expf(m - next), sum = p;
        for (int w = 16; w; w /= 2) sum += __shfl_xor_sync(~0u, sum, w);
        l = l * c + sum; acc.x *= c; acc.y *= c; m = next;
        for (int j = 0; j < 32; ++j) { float pj = __shfl_sync(~0u, p, j); float2 x = __half22float2(vs[j][lane]); acc.x = fmaf(pj, x.x, acc.x); acc.y = fmaf(pj, x.y, acc.y); }
        __syncthreads();
    }
    o[row * 32 + lane] = __floats2half2_rn(acc.x / l, acc.y / l);
}
