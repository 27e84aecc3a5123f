// Open addressing with 64-bit compare-and-swap counts keys; behind a grid barrier of atomics every key looks its count up.
extern "C" __global__ void count_keys(const unsigned* keys, int n, unsigned long long* table, unsigned mask, unsigned* counts, unsigned* probes, unsigned* arrived) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        unsigned key = keys[i], h = key * 2654435761u;
        h ^= h >> 15;
        for (unsigned p = 0, done = 0; !done; ++p) {
            unsigned long long* slot = &table[(h + p * (p + 1) / 2) & mask];
            unsigned long long want = *(volatile unsigned long long*)slot;
            while (want == ~0ull || (unsigned)(want >> 32) == key) {
                unsigned long long next = want == ~0ull ? (unsigned long long)key << 32 | 1 : want + 1;
                unsigned long long seen = atomicCAS(slot, want, next);
                if (seen == want) { done = 1; break; }
                want = seen;
            }
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1);
        while (*(volatile unsigned*)arrived < gridDim.x) __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
    if (i < n) {
        unsigned key = keys[i], h = key * 2654435761u, found = 0;
        h ^= h >> 15;
        for (unsigned p = 0; p <= mask; ++p) {
            unsigned long long s = __ldcg(&table[(h + p * (p + 1) / 2) & mask]);
            if (s == ~0ull) break;
            if ((unsigned)(s >> 32) == key) { found = (unsigned)s; break; }
        }
        counts[i] = found;
    }
}
