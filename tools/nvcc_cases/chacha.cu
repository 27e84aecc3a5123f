// ChaCha20 blocks with vector stores, and Keccak-f[1600] on 64-bit lanes with constant tables.
__device__ void quarter(unsigned& a, unsigned& b, unsigned& c, unsigned& d) {
    a += b; d = __funnelshift_l(d ^ a, d ^ a, 16); c += d; b = __funnelshift_l(b ^ c, b ^ c, 12);
    a += b; d = __funnelshift_l(d ^ a, d ^ a, 8); c += d; b = __funnelshift_l(b ^ c, b ^ c, 7);
}
extern "C" __global__ void chacha(const unsigned* key, const unsigned* nonce, uint4* out, unsigned counter) {
    unsigned s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];
    for (int i = 0; i < 8; ++i) s[4 + i] = key[i];
    s[12] = counter + blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < 3; ++i) s[13 + i] = nonce[i];
    for (int i = 0; i < 16; ++i) x[i] = s[i];
    for (int r = 0; r < 10; ++r) {
        for (int i = 0; i < 4; ++i) quarter(x[i], x[4 + i], x[8 + i], x[12 + i]);
        for (int i = 0; i < 4; ++i) quarter(x[i], x[4 + (i + 1) % 4], x[8 + (i + 2) % 4], x[12 + (i + 3) % 4]);
    }
    uint4* o = out + 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < 4; ++i) o[i] = make_uint4(x[4 * i] + s[4 * i], x[4 * i + 1] + s[4 * i + 1], x[4 * i + 2] + s[4 * i + 2], x[4 * i + 3] + s[4 * i + 3]);
}
__constant__ int rot[25] = {0, 1, 62, 28, 27, 36, 44, 6, 55, 20, 3, 10, 43, 25, 39, 41, 45, 15, 21, 8, 18, 2, 61, 56, 14};
extern "C" __global__ void sha3(const unsigned char* messages, unsigned long long* digests, int length) {
    unsigned long long a[25] = {}, b[25], c[5];
    const unsigned char* m = messages + threadIdx.x * length;
    auto absorb = [&](int at, unsigned char v) { a[at / 8] ^= (unsigned long long)v << 8 * (at % 8); };
    for (int i = 0; i < length; ++i) absorb(i, m[i]);
    absorb(length, 6); absorb(135, 0x80);
    unsigned lfsr = 1;
    for (int round = 0; round < 24; ++round) {
        for (int x = 0; x < 5; ++x) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
        for (int i = 0; i < 25; ++i) { unsigned long long d = c[(i + 1) % 5]; a[i] ^= c[(i + 4) % 5] ^ (d << 1 | d >> 63); }
        for (int i = 0; i < 25; ++i) { int x = i % 5, y = i / 5; unsigned long long v = a[i]; int r = rot[i]; b[y + 5 * ((2 * x + 3 * y) % 5)] = r ? v << r | v >> (64 - r) : v; }
        for (int i = 0; i < 25; ++i) a[i] = b[i] ^ (~b[i / 5 * 5 + (i + 1) % 5] & b[i / 5 * 5 + (i + 2) % 5]);
        for (int j = 0; j < 7; ++j) { if (lfsr & 1) a[0] ^= 1ull << ((1 << j) - 1); lfsr = lfsr << 1 ^ (lfsr >> 7) * 0x171; }
    }
    for (int i = 0; i < 4; ++i) digests[threadIdx.x * 4 + i] = a[i];
}
