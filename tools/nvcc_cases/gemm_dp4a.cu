// int8 GEMM by dp4a with tiles in shared memory and requantisation with rounding and saturation.
extern "C" __global__ void gemm_dp4a(const char4* A, const char4* Bt, const float* scale, signed char* C, int M, int N, int K4) {
    __shared__ int a[16][17], b[16][17];
    int row = blockIdx.y * 16 + threadIdx.y, col = blockIdx.x * 16 + threadIdx.x, sum = 0;
    for (int k = 0; k < K4; k += 16) {
        a[threadIdx.y][threadIdx.x] = k + threadIdx.x < K4 && row < M ? ((const int*)A)[row * K4 + k + threadIdx.x] : 0;
        int bc = blockIdx.x * 16 + threadIdx.y;
        b[threadIdx.y][threadIdx.x] = k + threadIdx.x < K4 && bc < N ? ((const int*)Bt)[bc * K4 + k + threadIdx.x] : 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; ++i) sum = __dp4a(a[threadIdx.y][i], b[threadIdx.x][i], sum);
        __syncthreads();
    }
    if (row < M && col < N) {
        int q = __float2int_rn(sum * scale[col]);
        C[row * N + col] = (signed char)max(-128, min(127, q));
    }
}
