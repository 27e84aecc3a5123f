// Sparse matrix (CSR) times vector, a group of eight lanes a row, in double.
extern "C" __global__ void spmv(const int* __restrict__ ptr, const int* __restrict__ idx, const double* __restrict__ val, const double* __restrict__ x, double* y, int rows) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 8, lane = threadIdx.x % 8;
    double s = 0;
    if (row < rows)
        for (int i = __ldg(ptr + row) + lane; i < __ldg(ptr + row + 1); i += 8) s = fma(__ldg(val + i), __ldg(x + idx[i]), s);
    for (int o = 4; o; o /= 2) s += __shfl_down_sync(0xffffffff, s, o, 8);
    if (lane == 0 && row < rows) y[row] = s;
}
