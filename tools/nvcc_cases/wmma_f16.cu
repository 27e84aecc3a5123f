// Every shape, layout and accumulator of f16 wmma: one warp a block, A and B from global or shared memory, strides larger than the matrix.
#include <mma.h>
using namespace nvcuda;
template <int M, int N, int K, typename LA, typename LB, typename Acc>
__device__ void run(const half* a, const half* b, const Acc* c, Acc* d, int lda, int ldb, int ldc, wmma::layout_t cl) {
    wmma::fragment<wmma::matrix_a, M, N, K, half, LA> fa;
    wmma::fragment<wmma::matrix_b, M, N, K, half, LB> fb;
    wmma::fragment<wmma::accumulator, M, N, K, Acc> fc;
    wmma::load_matrix_sync(fa, a, lda);
    wmma::load_matrix_sync(fb, b, ldb);
    wmma::load_matrix_sync(fc, c, ldc, cl);
    for (int i = 0; i < fa.num_elements; ++i) fa.x[i] = __hmul(fa.x[i], __float2half(2.f));
    wmma::mma_sync(fc, fa, fb, fc);
    for (int i = 0; i < fc.num_elements; ++i) fc.x[i] = fc.x[i] + (Acc)1.f;
    wmma::store_matrix_sync(d, fc, ldc, cl);
}
template <int M, int N, int K, typename Acc>
__device__ void layouts(const half* a, const half* b, const Acc* c, Acc* d, int ld) {
    d += blockIdx.x * 32 * ld;
    wmma::layout_t cl = blockIdx.x & 4 ? wmma::mem_col_major : wmma::mem_row_major;
    switch (blockIdx.x & 3) {
        case 0: run<M, N, K, wmma::row_major, wmma::row_major, Acc>(a, b, c, d, ld, ld, ld, cl); break;
        case 1: run<M, N, K, wmma::row_major, wmma::col_major, Acc>(a, b, c, d, ld, ld, ld, cl); break;
        case 2: run<M, N, K, wmma::col_major, wmma::row_major, Acc>(a, b, c, d, ld, ld, ld, cl); break;
        default: run<M, N, K, wmma::col_major, wmma::col_major, Acc>(a, b, c, d, ld, ld, ld, cl);
    }
}
extern "C" __global__ void wmma_16_16(const half* a, const half* b, const float* c, float* d, int ld) { layouts<16, 16, 16, float>(a, b, c, d, ld); }
extern "C" __global__ void wmma_32_8(const half* a, const half* b, const float* c, float* d, int ld) { layouts<32, 8, 16, float>(a, b, c, d, ld); }
extern "C" __global__ void wmma_8_32(const half* a, const half* b, const float* c, float* d, int ld) { layouts<8, 32, 16, float>(a, b, c, d, ld); }
extern "C" __global__ void wmma_16_16_h(const half* a, const half* b, const half* c, half* d, int ld) { layouts<16, 16, 16, half>(a, b, c, d, ld); }
extern "C" __global__ void wmma_8_32_h(const half* a, const half* b, const half* c, half* d, int ld) { layouts<8, 32, 16, half>(a, b, c, d, ld); }
extern "C" __global__ void wmma_32_8_h(const half* a, const half* b, const half* c, half* d, int ld) { layouts<32, 8, 16, half>(a, b, c, d, ld); }
