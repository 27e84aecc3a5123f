// CUB: block reduction, scan, radix sort, load/store transposition, warp reduction and scan, histogram.
#include <cub/cub.cuh>
extern "C" __global__ void cub_block(const int* in, int* sorted, int* scanned, int* sums, unsigned* hist, float* maxima) {
    constexpr int T = 128, I = 4;
    using Load = cub::BlockLoad<int, T, I, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
    using Store = cub::BlockStore<int, T, I, cub::BLOCK_STORE_TRANSPOSE>;
    using Sort = cub::BlockRadixSort<int, T, I>;
    using Scan = cub::BlockScan<int, T>;
    using Reduce = cub::BlockReduce<int, T, cub::BLOCK_REDUCE_RAKING>;
    using Warp = cub::WarpReduce<float>;
    using Hist = cub::BlockHistogram<unsigned char, T, I, 16>;
    __shared__ union {
        typename Load::TempStorage load; typename Store::TempStorage store; typename Sort::TempStorage sort; typename Scan::TempStorage scan;
        typename Reduce::TempStorage reduce; typename Warp::TempStorage warp[T / 32]; typename Hist::TempStorage hist;
    } temp;
    __shared__ unsigned bins[16];
    int items[I], scan[I], base = blockIdx.x * T * I;
    unsigned char bytes[I];
    Load(temp.load).Load(in + base, items);
    __syncthreads();
    Scan(temp.scan).InclusiveSum(items, scan);
    __syncthreads();
    Store(temp.store).Store(scanned + base, scan);
    __syncthreads();
    int total = Reduce(temp.reduce).Sum(items);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
    __syncthreads();
    float m = Warp(temp.warp[threadIdx.x / 32]).Reduce((float)items[0], cuda::maximum<>{});
    if (threadIdx.x % 32 == 0) maxima[blockIdx.x * (T / 32) + threadIdx.x / 32] = m;
    for (int i = 0; i < I; ++i) bytes[i] = items[i] & 15;
    __syncthreads();
    Hist(temp.hist).Histogram(bytes, bins);
    __syncthreads();
    if (threadIdx.x < 16) hist[blockIdx.x * 16 + threadIdx.x] = bins[threadIdx.x];
    Sort(temp.sort).Sort(items);
    __syncthreads();
    Store(temp.store).Store(sorted + base, items);
}
