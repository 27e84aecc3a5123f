// Layer normalisation of half rows with float statistics (Welford), one block a row.
#include <cuda_fp16.h>
struct Stat { float mean, m2, n; };
__device__ Stat merge(Stat a, Stat b) {
    float n = a.n + b.n, d = b.mean - a.mean;
    if (n == 0) return a;
    return {a.mean + d * b.n / n, a.m2 + b.m2 + d * d * a.n * b.n / n, n};
}
extern "C" __global__ void layernorm(const half2* x, const float2* gamma, const float2* beta, half2* y, int cols2, float eps) {
    __shared__ Stat warps[32];
    x += blockIdx.x * cols2; y += blockIdx.x * cols2;
    Stat s = {0, 0, 0};
    for (int i = threadIdx.x; i < cols2; i += blockDim.x) {
        float2 v = __half22float2(x[i]);
        s = merge(s, {v.x, 0, 1});
        s = merge(s, {v.y, 0, 1});
    }
    for (int o = 16; o; o /= 2) s = merge(s, {__shfl_xor_sync(~0u, s.mean, o), __shfl_xor_sync(~0u, s.m2, o), __shfl_xor_sync(~0u, s.n, o)});
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;
    __syncthreads();
    s = warps[0];
    for (int i = 1; i < blockDim.x / 32; ++i) s = merge(s, warps[i]);
    float r = rsqrtf(s.m2 / s.n + eps);
    for (int i = threadIdx.x; i < cols2; i += blockDim.x) {
        float2 v = __half22float2(x[i]), g = gamma[i], b = beta[i];
        y[i] = __floats2half2_rn((v.x - s.mean) * r * g.x + b.x, (v.y - s.mean) * r * g.y + b.y);
    }
}
