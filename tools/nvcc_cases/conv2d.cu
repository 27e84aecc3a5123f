// 5x5 convolution: filter in constant memory, tile with halo in shared memory.
__constant__ float filter[25] = {1, 4, 7, 4, 1, 4, 16, 26, 16, 4, 7, 26, 41, 26, 7, 4, 16, 26, 16, 4, 1, 4, 7, 4, 1};
extern "C" __global__ void conv2d(const float* in, float* out, int w, int h) {
    __shared__ float tile[20][20];
    int x0 = blockIdx.x * 16 - 2, y0 = blockIdx.y * 16 - 2;
    for (int i = threadIdx.y * 16 + threadIdx.x; i < 400; i += 256) {
        int x = x0 + i % 20, y = y0 + i / 20;
        tile[i / 20][i % 20] = x >= 0 && y >= 0 && x < w && y < h ? in[y * w + x] : 0.f;
    }
    __syncthreads();
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    if (x >= w || y >= h) return;
    float s = 0;
#pragma unroll
    for (int j = 0; j < 5; ++j)
#pragma unroll
        for (int i = 0; i < 5; ++i) s += filter[j * 5 + i] * tile[threadIdx.y + j][threadIdx.x + i];
    out[y * w + x] = s * (1.f / 273.f);
}
