// A step of k-means: centres in shared memory, sums by shared and then global float atomics, the last block divides.
extern "C" __global__ void kmeans(const float4* points, int n, const float4* centres, int k, int* label, float4* sums, int* counts, unsigned* done, float4* next) {
    extern __shared__ float4 s[];
    float4* c = s; float* part = (float*)(s + k); int* number = (int*)(part + 4 * k);
    __shared__ bool last;
    for (int i = threadIdx.x; i < k; i += blockDim.x) { c[i] = centres[i]; number[i] = 0; for (int j = 0; j < 4; ++j) part[4 * i + j] = 0; }
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float4 p = points[i]; float best = INFINITY; int at = 0;
        for (int j = 0; j < k; ++j) {
            float x = p.x - c[j].x, y = p.y - c[j].y, z = p.z - c[j].z, w = p.w - c[j].w, d = x * x + y * y + z * z + w * w;
            if (d < best) { best = d; at = j; }
        }
        label[i] = at;
        atomicAdd(&part[4 * at], p.x); atomicAdd(&part[4 * at + 1], p.y); atomicAdd(&part[4 * at + 2], p.z); atomicAdd(&part[4 * at + 3], p.w);
        atomicAdd(&number[at], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 4 * k; i += blockDim.x) atomicAdd((float*)sums + i, part[i]);
    for (int i = threadIdx.x; i < k; i += blockDim.x) atomicAdd(&counts[i], number[i]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (last) for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float4 t = __ldcg(&sums[i]); float m = max(__ldcg(&counts[i]), 1);
        next[i] = make_float4(t.x / m, t.y / m, t.z / m, t.w / m);
    }
}
