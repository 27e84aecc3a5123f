// Warp-aggregated atomics with coalesced groups, labelled partitions and tiles of eight.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
__device__ int claim(int* counter) {
    auto g = cg::coalesced_threads();
    int base = 0;
    if (g.thread_rank() == 0) base = atomicAdd(counter, g.size());
    return g.shfl(base, 0) + g.thread_rank();
}
extern "C" __global__ void filter(const int* x, int n, int* out, int* count, int* sums, float* best, int* scanned) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] % 3 == 0) out[claim(count)] = x[i];
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int v = i < n ? x[i] : 0;
    int top = cg::reduce(tile, v, cg::greater<int>());
    float f = cg::reduce(tile, (float)v * 0.5f, cg::plus<float>());
    if (tile.thread_rank() == 0) best[i / 8] = f + top;
    scanned[i] = cg::exclusive_scan(tile, v, cg::plus<int>());
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    if (i < n) {
        auto same = cg::labeled_partition(cg::coalesced_threads(), v & 3);
        int s = cg::reduce(same, v, cg::plus<int>());
        if (same.thread_rank() == 0) atomicAdd(&sums[v & 3], s);
    }
}
