// Levenshtein distance by anti-diagonals, three rolling buffers in dynamic shared memory, bytes.
extern "C" __global__ void edit_distance(const char* a, const char* b, const int* lens, int* out, int stride) {
    extern __shared__ unsigned char raw[];
    short* d[3] = {(short*)raw, (short*)raw + stride + 1, (short*)raw + 2 * (stride + 1)};
    a += blockIdx.x * stride; b += blockIdx.x * stride;
    int n = lens[2 * blockIdx.x], m = lens[2 * blockIdx.x + 1];
    for (int k = 0; k <= n + m; ++k) {
        short *cur = d[k % 3], *p1 = d[(k + 2) % 3], *p2 = d[(k + 1) % 3];
        for (int i = threadIdx.x; i <= n; i += blockDim.x) {
            int j = k - i;
            if (j < 0 || j > m) continue;
            if (i == 0) cur[i] = j;
            else if (j == 0) cur[i] = i;
            else cur[i] = min(min(p1[i - 1], p1[i]) + 1, p2[i - 1] + (a[i - 1] != b[j - 1]));
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = d[(n + m) % 3][n];
}
