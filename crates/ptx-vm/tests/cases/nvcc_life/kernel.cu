// Game of life, 32 cells a word, neighbours counted with bit-sliced adders.
extern "C" __global__ void life(const unsigned* in, unsigned* out, int w, int h) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h) return;
    auto at = [&](int i, int j) { return in[(j + h) % h * w + (i + w) % w]; };
    unsigned n0 = 0, n1 = 0, n2 = 0;
    auto add = [&](unsigned v) { unsigned c = n0 & v; n0 ^= v; unsigned d = n1 & c; n1 ^= c; n2 |= d; };
    for (int j = -1; j <= 1; ++j) {
        unsigned l = at(x - 1, y + j), m = at(x, y + j), r = at(x + 1, y + j);
        add(__funnelshift_l(l, m, 1)); add(__funnelshift_r(m, r, 1));
        if (j) add(m);
    }
    out[y * w + x] = ~n2 & n1 & (n0 | at(x, y));
}
