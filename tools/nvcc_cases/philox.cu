// Philox4x32-10, and normal numbers from it by Box and Muller.
extern "C" __global__ void philox(uint4* out, float4* normal, unsigned seed, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint4 c = make_uint4(i, 0x12345678u, 7, ~i);
        unsigned k0 = seed, k1 = seed ^ 0xdeadbeefu;
        for (int r = 0; r < 10; ++r) {
            unsigned lo0 = c.x * 0xD2511F53u, hi0 = __umulhi(c.x, 0xD2511F53u), lo1 = c.z * 0xCD9E8D57u, hi1 = __umulhi(c.z, 0xCD9E8D57u);
            c = make_uint4(hi1 ^ c.y ^ k0, lo1, hi0 ^ c.w ^ k1, lo0);
            k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
        }
        out[i] = c;
        auto unit = [](unsigned u) { return (u >> 8) * 0x1p-24f + 0x1p-25f; };
        float r0 = sqrtf(-2 * logf(unit(c.x))), r1 = sqrtf(-2 * logf(unit(c.z))), s0, c0, s1, c1;
        sincosf(6.2831853f * unit(c.y), &s0, &c0); sincosf(6.2831853f * unit(c.w), &s1, &c1);
        normal[i] = make_float4(r0 * c0, r0 * s0, r1 * c1, r1 * s1);
    }
}
