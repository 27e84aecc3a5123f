// A 1024-point FFT of one block: radix 4, Stockham, twiddles by sincospif.
extern "C" __global__ void fft4(const float2* x, float2* y) {
    __shared__ float2 s[2][1024];
    x += blockIdx.x * 1024; y += blockIdx.x * 1024;
    int t = threadIdx.x, from = 0;
    for (int i = t; i < 1024; i += 256) s[0][i] = x[i];
    for (int n = 1; n < 1024; n *= 4) {
        __syncthreads();
        int k = t % n;
        float2 v[4];
        for (int r = 0; r < 4; ++r) {
            float sn, cs;
            sincospif(-2.0f * r * k / (4 * n), &sn, &cs);
            float2 u = s[from][t + r * 256];
            v[r] = make_float2(u.x * cs - u.y * sn, u.x * sn + u.y * cs);
        }
        float2 a = make_float2(v[0].x + v[2].x, v[0].y + v[2].y), b = make_float2(v[0].x - v[2].x, v[0].y - v[2].y);
        float2 c = make_float2(v[1].x + v[3].x, v[1].y + v[3].y), d = make_float2(v[1].y - v[3].y, v[3].x - v[1].x);
        int o = (t - k) * 4 + k;
        float2* to = s[from ^ 1];
        to[o] = make_float2(a.x + c.x, a.y + c.y);
        to[o + n] = make_float2(b.x + d.x, b.y + d.y);
        to[o + 2 * n] = make_float2(a.x - c.x, a.y - c.y);
        to[o + 3 * n] = make_float2(b.x - d.x, b.y - d.y);
        from ^= 1;
    }
    __syncthreads();
    for (int i = t; i < 1024; i += 256) y[i] = s[from][i];
}
