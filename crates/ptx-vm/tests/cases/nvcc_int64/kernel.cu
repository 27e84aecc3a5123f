// 64- and 128-bit integers: division, remainder, shifts, products, carries.
extern "C" __global__ void int64(const unsigned long long* xs, const unsigned long long* ys, unsigned long long* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long x = xs[i], y = ys[i] | 1;
    long long a = x, b = y;
    unsigned long long* o = out + i;
    auto put = [&](unsigned long long v) { *o = v; o += n; };
    put(x / y); put(x % y); put(a / b); put(a % b); put(x / 10); put(a / -1000000007); put(x % 97); put(x << (y & 63)); put(x >> (y & 63)); put(a >> (y & 63)); put(x * y); put(x / (unsigned)(y | 1)); put(a / (int)(b | 1));
    unsigned __int128 p = (unsigned __int128)x * y, q = p + ((unsigned __int128)y << 64 | x), r = q - ((unsigned __int128)x << 37);
    put((unsigned long long)p); put((unsigned long long)(p >> 64)); put((unsigned long long)q); put((unsigned long long)(q >> 64)); put((unsigned long long)(r >> 61)); put((unsigned long long)(q / (x | 1))); put((unsigned long long)(q % (y | 3)));
    __int128 s = (__int128)a * b; put((unsigned long long)(s >> 64)); put(s < 0); put((unsigned long long)(s >> 90));
    unsigned long long g = x, h = y; while (h) { unsigned long long t = g % h; g = h; h = t; } put(g);
    unsigned long long m = 1, base = x % 1000000007, e = y & 0xffff; for (; e; e >>= 1) { if (e & 1) m = m * base % 1000000007; base = base * base % 1000000007; } put(m);
    put(min(a, b)); put(max(x, y)); put((unsigned long long)llabs(a)); put((unsigned long long)(double)a); put((unsigned long long)(long long)(float)(a >> 20)); put(__double2ull_rn((double)x * 0.5)); put((unsigned long long)__float2ll_rd((float)(int)a * 1.5f));
}
