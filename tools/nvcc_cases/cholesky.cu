// Cholesky factorisation of one 16x16 matrix a block, in place, in float and double.
template <typename T> __device__ void factor(T* a) {
    __shared__ T s[16][17];
    int i = threadIdx.y, j = threadIdx.x;
    a += blockIdx.x * 256;
    s[i][j] = a[i * 16 + j];
    __syncthreads();
    for (int k = 0; k < 16; ++k) {
        if (i == k && j == k) s[k][k] = sqrt(s[k][k]);
        __syncthreads();
        if (j == k && i > k) s[i][k] /= s[k][k];
        __syncthreads();
        if (j > k && i >= j) s[i][j] -= s[i][k] * s[j][k];
        __syncthreads();
    }
    a[i * 16 + j] = j <= i ? s[i][j] : T(0);
}
extern "C" __global__ void cholesky_f32(float* a) { factor(a); }
extern "C" __global__ void cholesky_f64(double* a) { factor(a); }
