// Naive f32 and tiled f64 products of matrices whose sizes are no multiples of the tile.
extern "C" __global__ void matmul_naive(const float* a, const float* b, float* c, int m, int n, int k) {
    int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < m && col < n) {
        float s = 0;
        for (int i = 0; i < k; ++i) s += a[row * k + i] * b[i * n + col];
        c[row * n + col] = s;
    }
}
extern "C" __global__ void matmul_tiled(const double* a, const double* b, double* c, int m, int n, int k) {
    constexpr int T = 16;
    __shared__ double sa[T][T], sb[T][T];
    int col = blockIdx.x * T + threadIdx.x, row = blockIdx.y * T + threadIdx.y;
    double s = 0;
    for (int t = 0; t < (k + T - 1) / T; ++t) {
        int ka = t * T + threadIdx.x, kb = t * T + threadIdx.y;
        sa[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[row * k + ka] : 0;
        sb[threadIdx.y][threadIdx.x] = kb < k && col < n ? b[kb * n + col] : 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < T; ++i) s += sa[threadIdx.y][i] * sb[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = s;
}
