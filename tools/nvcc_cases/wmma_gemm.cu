// A tiled f16 GEMM through shared memory with wmma, as in the CUDA samples: 64x64 tiles, four warps, constant strides with a skew.
#include <mma.h>
using namespace nvcuda;
extern "C" __global__ void wmma_gemm(const half* __restrict__ a, const half* __restrict__ b, float* c, int m, int n, int k) {
    constexpr int LD = 16 + 8;
    __shared__ __align__(32) half sa[64 * LD], sb[64 * LD];
    int warp = threadIdx.x / 32, wm = warp / 2 * 32, wn = warp % 2 * 32;
    int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc[2][2];
    for (auto& r : acc) for (auto& f : r) wmma::fill_fragment(f, 0.f);
    for (int k0 = 0; k0 < k; k0 += 16) {
        for (int i = threadIdx.x; i < 64 * 2; i += blockDim.x) {
            int r = i / 2, q = i % 2 * 8;
            *(int4*)&sa[r * LD + q] = *(const int4*)&a[(row0 + r) * k + k0 + q];
            *(int4*)&sb[r * LD + q] = *(const int4*)&b[(col0 + r) * k + k0 + q];
        }
        __syncthreads();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa[2];
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb[2];
        for (int i = 0; i < 2; ++i) {
            wmma::load_matrix_sync(fa[i], &sa[(wm + 16 * i) * LD], LD);
            wmma::load_matrix_sync(fb[i], &sb[(wn + 16 * i) * LD], LD);
        }
        for (int i = 0; i < 2; ++i) for (int j = 0; j < 2; ++j) wmma::mma_sync(acc[i][j], fa[i], fb[j], acc[i][j]);
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i) for (int j = 0; j < 2; ++j)
        wmma::store_matrix_sync(&c[(row0 + wm + 16 * i) * n + col0 + wn + 16 * j], acc[i][j], n, wmma::mem_row_major);
}
