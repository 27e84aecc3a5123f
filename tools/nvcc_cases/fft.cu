// Radix-2 FFT of 256 complex numbers in shared memory; twiddles by sincospif.
extern "C" __global__ void fft(float2* data) {
    __shared__ float2 s[256];
    int t = threadIdx.x;
    data += blockIdx.x * 256;
    for (int k = 0; k < 2; ++k) { int i = t + 128 * k; s[__brev(i) >> 24] = data[i]; }
    for (int half = 1; half < 256; half *= 2) {
        __syncthreads();
        int j = t & (half - 1), i = (t - j) * 2 + j;
        float c, sn;
        sincospif(-(float)j / half, &sn, &c);
        float2 a = s[i], b = s[i + half];
        float2 w = make_float2(b.x * c - b.y * sn, b.x * sn + b.y * c);
        s[i] = make_float2(a.x + w.x, a.y + w.y);
        s[i + half] = make_float2(a.x - w.x, a.y - w.y);
    }
    __syncthreads();
    data[t] = s[t]; data[t + 128] = s[t + 128];
}
