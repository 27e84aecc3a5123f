// Stable compaction of a block's values with a predicate: ballots, a scan of warp counts, then top-8 by repeated maximum.
extern "C" __global__ void compact(const short* in, short* out, int* counts, short* top) {
    __shared__ int base[9];
    __shared__ short best[8];
    __shared__ int where[8];
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    short v = in[blockIdx.x * 256 + t];
    bool keep = v % 3 != 0 && v > -500;
    unsigned b = __ballot_sync(~0u, keep);
    if (lane == 0) base[warp + 1] = __popc(b);
    if (t == 0) base[0] = 0;
    __syncthreads();
    if (t == 0) for (int i = 1; i < 9; ++i) base[i] += base[i - 1];
    __syncthreads();
    if (keep) out[blockIdx.x * 256 + base[warp] + __popc(b & ~(~0u << lane))] = v;
    if (t == 0) counts[blockIdx.x] = base[8];
    for (int k = 0; k < 8; ++k) {
        int key = (int)v << 8 | (255 - t), m = __reduce_max_sync(~0u, key);
        __syncthreads();
        if (lane == 0) { best[warp] = (short)(m >> 8); where[warp] = 255 - (m & 255); }
        __syncthreads();
        int w = 0;
        for (int i = 1; i < 8; ++i) if (best[i] > best[w]) w = i;
        if (t == where[w]) { top[blockIdx.x * 8 + k] = v; v = -32768; }
    }
}
