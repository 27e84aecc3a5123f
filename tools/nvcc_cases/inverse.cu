// Inverse of a matrix by Gauss and Jordan with partial pivoting; the pivot by a reduction over shuffles, double precision.
extern "C" __global__ void inverse(const double* in, double* out, int n) {
    extern __shared__ double a[];  // n x 2n
    __shared__ int pivot;
    int t = threadIdx.x, w = 2 * n;
    in += blockIdx.x * n * n; out += blockIdx.x * n * n;
    for (int i = t; i < n * w; i += blockDim.x) { int r = i / w, c = i % w; a[i] = c < n ? in[r * n + c] : c - n == r; }
    __syncthreads();
    for (int k = 0; k < n; ++k) {
        if (t < 32) {
            int best = k + t < n ? k + t : k;
            double v = fabs(a[best * w + k]);
            for (int s = 16; s; s /= 2) {
                double ov = __shfl_down_sync(~0u, v, s); int ob = __shfl_down_sync(~0u, best, s);
                if (ov > v || ov == v && ob < best) { v = ov; best = ob; }
            }
            if (t == 0) pivot = best;
        }
        __syncthreads();
        int p = pivot;
        if (p != k) for (int c = t; c < w; c += blockDim.x) { double x = a[k * w + c]; a[k * w + c] = a[p * w + c]; a[p * w + c] = x; }
        __syncthreads();
        double d = a[k * w + k];
        __syncthreads();
        for (int c = t; c < w; c += blockDim.x) a[k * w + c] /= d;
        __syncthreads();
        for (int r = t; r < n; r += blockDim.x) if (r != k) {
            double f = a[r * w + k];
            for (int c = 0; c < w; ++c) a[r * w + c] -= f * a[k * w + c];
        }
        __syncthreads();
    }
    for (int i = t; i < n * n; i += blockDim.x) out[i] = a[i / n * w + n + i % n];
}
