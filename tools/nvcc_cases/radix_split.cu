// LSD radix sort of 256 keys in a block, bit by bit, with ballots.
extern "C" __global__ void radix_split(unsigned* keys) {
    __shared__ unsigned buf[256];
    __shared__ int warp_zeros[8];
    int t = threadIdx.x, lane = t & 31, warp = t >> 5;
    unsigned key = keys[blockIdx.x * 256 + t];
    for (int bit = 0; bit < 32; ++bit) {
        bool zero = !(key >> bit & 1);
        unsigned ballot = __ballot_sync(~0u, zero);
        int before = __popc(ballot & ((1u << lane) - 1));
        if (lane == 0) warp_zeros[warp] = __popc(ballot);
        __syncthreads();
        int base = 0, total = 0;
        for (int w = 0; w < 8; ++w) { if (w < warp) base += warp_zeros[w]; total += warp_zeros[w]; }
        int zeros_before = base + before;
        int dst = zero ? zeros_before : total + t - zeros_before;
        buf[dst] = key;
        __syncthreads();
        key = buf[t];
        __syncthreads();
    }
    keys[blockIdx.x * 256 + t] = key;
}
