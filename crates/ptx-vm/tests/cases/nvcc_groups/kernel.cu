// Cooperative groups: tiles, partitions, coalesced groups, reductions and scans.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
extern "C" __global__ void groups(const int* in, int* out, int n) {
    cg::thread_block block = cg::this_thread_block();
    cg::grid_group grid = cg::this_grid();
    int i = grid.thread_rank();
    int v = in[i];
    int* o = out + i;
    auto put = [&](int x) { *o = x; o += n; };
    auto warp = cg::tiled_partition<32>(block);
    auto t8 = cg::tiled_partition<8>(block);
    auto t4 = cg::tiled_partition<4>(t8);
    put(cg::reduce(warp, v, cg::plus<int>()));
    put(cg::reduce(t8, v, cg::greater<int>()));
    put(cg::reduce(t4, (float)v, cg::less<float>()));
    put(cg::inclusive_scan(warp, v));
    put(cg::exclusive_scan(t8, v, cg::plus<int>()));
    put(t8.shfl(v, 3)); put(t8.shfl_up(v, 2)); put(t4.shfl_xor(v, 1)); put(t8.meta_group_rank()); put(t4.thread_rank());
    put(warp.any(v > 90)); put(t8.all(v > 10)); put(t8.ballot(v & 1)); put(t4.match_any(v & 3));
    if (v % 3 == 0) {
        cg::coalesced_group active = cg::coalesced_threads();
        put(active.size()); put(active.thread_rank()); put(active.shfl(v, 0)); put(cg::reduce(active, v, cg::plus<int>())); put(active.shfl_down(v, 1));
    } else {
        for (int k = 0; k < 5; ++k) put(-1);
    }
    auto labels = cg::labeled_partition(warp, v % 4);
    put(labels.size()); put(cg::reduce(labels, v, cg::bit_xor<int>()));
    auto binary = cg::binary_partition(warp, (v & 4) != 0);
    put(binary.thread_rank()); put(cg::reduce(binary, v, cg::plus<int>()));
    block.sync();
    put(block.group_index().x * 1000 + block.thread_index().x);
}
