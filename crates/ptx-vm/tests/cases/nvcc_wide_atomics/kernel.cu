// 128-bit compare-and-swap and exchange, and 16-byte moves, through a linked counter.
extern "C" __global__ void wide_atomics(unsigned long long* pair, unsigned long long* sums, ulonglong2* copies) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long lo = 0, hi = 0, was_lo, was_hi;
    for (;;) {
        unsigned long long nlo = lo + t, nhi = hi + 1;
        asm volatile("{ .reg .b128 e, n, o; mov.b128 e, {%3, %4}; mov.b128 n, {%5, %6}; atom.relaxed.gpu.global.cas.b128 o, [%2], e, n; mov.b128 {%0, %1}, o; }"
            : "=l"(was_lo), "=l"(was_hi) : "l"(pair), "l"(lo), "l"(hi), "l"(nlo), "l"(nhi) : "memory");
        if (was_lo == lo && was_hi == hi) break;
        lo = was_lo; hi = was_hi;
    }
    asm volatile("{ .reg .b128 n, o; mov.b128 n, {%3, %4}; atom.exch.b128 o, [%2], n; mov.b128 {%0, %1}, o; }" : "=l"(was_lo), "=l"(was_hi) : "l"(pair + 2), "l"((unsigned long long)t), "l"((unsigned long long)t * t) : "memory");
    sums[t] = was_hi == was_lo * was_lo;
    asm volatile("{ .reg .b128 v; ld.global.b128 v, [%0]; st.global.b128 [%1], v; }" :: "l"(copies + t), "l"(copies + gridDim.x * blockDim.x + t) : "memory");
}
