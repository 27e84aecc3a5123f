// Philox 4x32-10, xorshift128+, PCG, and a Box-Muller transform.
__device__ uint4 philox(uint4 c, uint2 k) {
    for (int i = 0; i < 10; ++i) {
        unsigned h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x, h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
        c = make_uint4(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
        k.x += 0x9E3779B9u; k.y += 0xBB67AE85u;
    }
    return c;
}
extern "C" __global__ void rng(uint4* bits, unsigned long long* xs, unsigned* pcg, float2* normal, unsigned long long seed) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    uint4 r = philox(make_uint4(i, 0, 7, 9), make_uint2((unsigned)seed, (unsigned)(seed >> 32)));
    bits[i] = r;
    unsigned long long a = seed + i * 0x9E3779B97F4A7C15ull, b = ~a;
    for (int j = 0; j < 8; ++j) { unsigned long long t = a; a = b; t ^= t << 23; t ^= t >> 17; t ^= b ^ (b >> 26); b = t; }
    xs[i] = a + b;
    unsigned long long s = i * 6364136223846793005ull + 1442695040888963407ull;
    unsigned x = (unsigned)(((s >> 18) ^ s) >> 27), rot = s >> 59;
    pcg[i] = (x >> rot) | (x << ((-rot) & 31));
    float u = (r.x + 1.f) * 2.3283064e-10f, v = r.y * 2.3283064e-10f, sn, cs;
    sincospif(2 * v, &sn, &cs);
    float rad = sqrtf(-2 * logf(fminf(u, 1.f)));
    normal[i] = make_float2(rad * cs, rad * sn);
}
