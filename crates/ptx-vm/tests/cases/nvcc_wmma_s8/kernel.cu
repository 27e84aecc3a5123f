// wmma with bf16, tf32, f64 and 8-bit integers.
#include <mma.h>
#include <cuda_bf16.h>
using namespace nvcuda;
template <int M, int N, int K, typename F, typename S, typename Acc, typename LA, typename LB>
__device__ void run(const S* a, const S* b, Acc* c, int lda, int ldb, int ldc, bool saturate) {
    wmma::fragment<wmma::matrix_a, M, N, K, F, LA> fa;
    wmma::fragment<wmma::matrix_b, M, N, K, F, LB> fb;
    wmma::fragment<wmma::accumulator, M, N, K, Acc> fc;
    wmma::load_matrix_sync(fa, a, lda);
    wmma::load_matrix_sync(fb, b, ldb);
    wmma::load_matrix_sync(fc, c, ldc, wmma::mem_row_major);
    if constexpr (sizeof(S) == 1) { if (saturate) wmma::mma_sync(fc, fa, fb, fc, true); else wmma::mma_sync(fc, fa, fb, fc); }
    else {
        if constexpr (sizeof(S) == 4) {
            for (int i = 0; i < fa.num_elements; ++i) fa.x[i] = wmma::__float_to_tf32(fa.x[i]);
            for (int i = 0; i < fb.num_elements; ++i) fb.x[i] = wmma::__float_to_tf32(fb.x[i]);
        }
        wmma::mma_sync(fc, fa, fb, fc);
    }
    wmma::store_matrix_sync(c, fc, ldc, wmma::mem_row_major);
}
using Row = wmma::row_major;
using Col = wmma::col_major;
typedef __nv_bfloat16 bf;
extern "C" __global__ void wmma_bf16(const bf* a, const bf* b, float* c) {
    run<16, 16, 16, bf, bf, float, Row, Row>(a, b, c, 16, 16, 16, false);
    run<32, 8, 16, bf, bf, float, Col, Row>(a, b, c + 256, 32, 8, 8, false);
    run<8, 32, 16, bf, bf, float, Row, Col>(a, b, c + 512, 16, 16, 32, false);
}
extern "C" __global__ void wmma_tf32(const float* a, const float* b, float* c) {
    run<16, 16, 8, wmma::precision::tf32, float, float, Row, Row>(a, b, c, 8, 16, 16, false);
    run<16, 16, 8, wmma::precision::tf32, float, float, Col, Col>(a, b, c + 256, 16, 8, 16, false);
}
extern "C" __global__ void wmma_f64(const double* a, const double* b, double* c) {
    run<8, 8, 4, double, double, double, Row, Col>(a, b, c, 4, 4, 8, false);
    run<8, 8, 4, double, double, double, Col, Row>(a, b, c + 64, 8, 8, 8, false);
}
extern "C" __global__ void wmma_s8(const signed char* a, const signed char* b, int* c) {
    run<16, 16, 16, signed char, signed char, int, Row, Row>(a, b, c, 16, 16, 16, false);
    run<32, 8, 16, signed char, signed char, int, Col, Col>(a, b, c + 256, 32, 16, 8, true);
    run<8, 32, 16, unsigned char, unsigned char, int, Row, Row>((const unsigned char*)a, (const unsigned char*)b, c + 512, 16, 32, 32, false);
}
