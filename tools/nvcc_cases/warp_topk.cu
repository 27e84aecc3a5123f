// The eight greatest of a row by a warp: sorted registers, a tournament by shuffles; indices break ties; NaN sorts last.
extern "C" __global__ void topk(const float* x, float* values, short* indices, int n) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    float v[8]; int id[8];
    for (int i = 0; i < 8; ++i) { v[i] = -INFINITY; id[i] = 0x7fff; }
    for (int j = lane; j < n; j += 32) {
        float a = x[row * n + j]; int b = j;
        if (!(a > v[7])) continue;
#pragma unroll
        for (int i = 0; i < 8; ++i) if (a > v[i] || a == v[i] && b < id[i]) { float t = v[i]; v[i] = a; a = t; int u = id[i]; id[i] = b; b = u; }
    }
    for (int k = 0; k < 8; ++k) {
        float best = v[0]; int who = id[0];
        for (int s = 16; s; s /= 2) {
            float a = __shfl_xor_sync(~0u, best, s); int b = __shfl_xor_sync(~0u, who, s);
            if (a > best || a == best && b < who) { best = a; who = b; }
        }
        if (id[0] == who) {
#pragma unroll
            for (int i = 0; i < 7; ++i) { v[i] = v[i + 1]; id[i] = id[i + 1]; }
            v[7] = -INFINITY; id[7] = 0x7fff;
        }
        if (lane == 0) { values[row * 8 + k] = best; indices[row * 8 + k] = (short)who; }
    }
}
