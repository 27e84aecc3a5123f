// CUB: merge sort of pairs, discontinuity, exchange, run-length, warp merge sort, exclusive scan of doubles with a functor.
#include <cub/cub.cuh>
struct Less { __device__ bool operator()(float a, float b) const { return a < b; } };
struct Max { __device__ double operator()(double a, double b) const { return a > b ? a : b; } };
extern "C" __global__ void cub_more(const float* keys, float* out_keys, int* out_vals, int* flags, double* scans, long long* warps) {
    constexpr int T = 64, I = 3;
    using Merge = cub::BlockMergeSort<float, T, I, int>;
    using Disc = cub::BlockDiscontinuity<int, T>;
    using Scan = cub::BlockScan<double, T, cub::BLOCK_SCAN_RAKING>;
    using WScan = cub::WarpScan<long long>;
    __shared__ union { typename Merge::TempStorage merge; typename Disc::TempStorage disc; typename Scan::TempStorage scan; typename WScan::TempStorage warp[T / 32]; } temp;
    float k[I]; int v[I], f[I], d[I], base = blockIdx.x * T * I + threadIdx.x * I;
    for (int i = 0; i < I; ++i) { k[i] = keys[base + i]; v[i] = base + i; d[i] = (int)k[i] / 4; }
    Disc(temp.disc).FlagHeads(f, d, cuda::std::not_equal_to<>());
    __syncthreads();
    double x = k[0], y; 
    Scan(temp.scan).ExclusiveScan(x, y, -1e300, Max());
    scans[blockIdx.x * T + threadIdx.x] = y;
    __syncthreads();
    long long w;
    WScan(temp.warp[threadIdx.x / 32]).InclusiveSum((long long)(k[1] * 1e6f), w);
    warps[blockIdx.x * T + threadIdx.x] = w;
    __syncthreads();
    Merge(temp.merge).StableSort(k, v, Less());
    for (int i = 0; i < I; ++i) { out_keys[base + i] = k[i]; out_vals[base + i] = v[i]; flags[base + i] = f[i]; }
}
