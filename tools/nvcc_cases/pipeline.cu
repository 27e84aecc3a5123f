// Double-buffered tiles with the pipeline primitives (cp.async) and cuda::pipeline.
#include <cuda_pipeline.h>
extern "C" __global__ void pipeline(const float4* in, float* out, int tiles) {
    __shared__ float4 buf[2][128];
    int t = threadIdx.x;
    const float4* src = in + blockIdx.x * tiles * 128;
    __pipeline_memcpy_async(&buf[0][t], &src[t], 16);
    __pipeline_commit();
    float s = 0;
    for (int k = 0; k < tiles; ++k) {
        if (k + 1 < tiles) __pipeline_memcpy_async(&buf[(k + 1) & 1][t], &src[(k + 1) * 128 + t], 16, k + 2 == tiles && t >= 100 ? 8 : 0);
        __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();
        float4 v = buf[k & 1][127 - t];
        s += v.x + 2 * v.y + 3 * v.z + 4 * v.w;
        __syncthreads();
    }
    out[blockIdx.x * 128 + t] = s;
}
