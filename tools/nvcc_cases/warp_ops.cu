// Votes, matches, reductions and shuffles, with partial masks and in 64 bits.
extern "C" __global__ void warp_ops(const int* in, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31, v = in[i];
    int* o = out + i;
    auto put = [&](int x) { *o = x; o += n; };
    put(__any_sync(~0u, v > 50)); put(__all_sync(~0u, v > -50)); put(__uni_sync(~0u, v > 10)); put(__ballot_sync(~0u, v & 2)); put(__match_any_sync(~0u, v % 5));
    int pred; put(__match_all_sync(~0u, v >> 10, &pred)); put(pred); put(__match_any_sync(~0u, (long long)(v % 3) << 40));
    put(__reduce_add_sync(~0u, v)); put(__reduce_min_sync(~0u, v)); put(__reduce_max_sync(~0u, (unsigned)v)); put(__reduce_and_sync(~0u, v | 3)); put(__reduce_or_sync(~0u, v & 12)); put(__reduce_xor_sync(~0u, v));
    put(__shfl_sync(~0u, v, lane * 7)); put(__shfl_sync(~0u, v, 3, 8)); put(__shfl_up_sync(~0u, v, 3)); put(__shfl_up_sync(~0u, v, 1, 4)); put(__shfl_down_sync(~0u, v, 5, 16)); put(__shfl_xor_sync(~0u, v, 9)); put(__shfl_xor_sync(~0u, v, 6, 8));
    put((int)__shfl_sync(~0u, (long long)v << 20, lane ^ 5)); put((int)__shfl_down_sync(~0u, v * 1.5, 2)); put((int)(100 * __shfl_up_sync(~0u, v * 0.25f, 4)));
    if (lane < 20) { put(__reduce_add_sync(0xfffff, v)); put(__ballot_sync(0xfffff, v > 0)); put(__shfl_sync(0xfffff, v, 19 - lane)); put(__popc(__activemask())); }
    else { put(__reduce_max_sync(0xfff00000, v)); put(__ballot_sync(0xfff00000, v < 0)); put(__shfl_sync(0xfff00000, v, 51 - lane)); put(__popc(__activemask())); }
    __syncwarp();
    put(__syncthreads_or(v == 77)); put(__syncthreads_and(v != 1000)); put(__syncthreads_count(v & 1));
}
