// A pass of a stable radix sort of pairs: ranks in the warp by match_any, warp histograms in shared memory, decoupled look-back over blocks by digit.
#include <cuda/atomic>
constexpr int T = 128, W = T / 32, I = 4, D = 64;
// A word of status: a count, and in the top two bits whether it is that of the tile (1) or of all up to it (2).
extern "C" __global__ void radix_pass(const unsigned* keys, const unsigned* vals, unsigned* out_keys, unsigned* out_vals, unsigned* status, const unsigned* starts, unsigned* ticket, int n, int shift) {
    __shared__ unsigned count[W][D], base[D], tile_s;
    if (threadIdx.x == 0) tile_s = atomicAdd(ticket, 1);
    for (int i = threadIdx.x; i < W * D; i += T) (&count[0][0])[i] = 0;
    __syncthreads();
    unsigned tile = tile_s, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned k[I], v[I], rank[I];
    int first = tile * T * I + warp * 32 * I + lane;
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int at = first + i * 32;
        k[i] = at < n ? keys[at] : 0xffffffffu;
        v[i] = at < n ? vals[at] : 0;
        unsigned d = (k[i] >> shift) % D;
        unsigned peers = __match_any_sync(~0u, d);
        unsigned below = __popc(peers & ((1u << lane) - 1)), old = 0;
        int leader = __ffs(peers) - 1;
        if (lane == leader) { old = count[warp][d]; count[warp][d] = old + __popc(peers); }
        __syncwarp();
        rank[i] = __shfl_sync(~0u, old, leader) + below;
    }
    __syncthreads();
    if (threadIdx.x < D) {
        unsigned d = threadIdx.x, sum = 0;
        for (int w = 0; w < W; ++w) { unsigned c = count[w][d]; count[w][d] = sum; sum += c; }
        cuda::atomic_ref<unsigned, cuda::thread_scope_device> own(status[tile * D + d]);
        unsigned before = 0;
        if (tile == 0) own.store(2u << 30 | sum, cuda::memory_order_release);
        else {
            own.store(1u << 30 | sum, cuda::memory_order_release);
            for (int t = tile - 1;; ) {
                cuda::atomic_ref<unsigned, cuda::thread_scope_device> other(status[t * D + d]);
                unsigned s = other.load(cuda::memory_order_acquire);
                if (s >> 30 == 0) continue;
                before += s & 0x3fffffff;
                if (s >> 30 == 2) break;
                --t;
            }
            own.store(2u << 30 | before + sum, cuda::memory_order_release);
        }
        base[d] = starts[d] + before;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < I; ++i) {
        unsigned d = (k[i] >> shift) % D, to = base[d] + count[warp][d] + rank[i];
        if (first + i * 32 < n) { out_keys[to] = k[i]; out_vals[to] = v[i]; }
    }
}
