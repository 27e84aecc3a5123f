// Row softmax, one warp a row, online maximum and sum.
#include <math_constants.h>
extern "C" __global__ void softmax(const float* in, float* out, int rows, int cols) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float m = -CUDART_INF_F, s = 0;
    for (int i = lane; i < cols; i += 32) {
        float v = in[row * cols + i], n = fmaxf(m, v);
        s = s * __expf(m - n) + __expf(v - n);
        m = n;
    }
    for (int o = 16; o; o >>= 1) {
        float om = __shfl_xor_sync(~0u, m, o), os = __shfl_xor_sync(~0u, s, o), n = fmaxf(m, om);
        s = (m == n ? s : s * __expf(m - n)) + (om == n ? os : os * __expf(om - n));
        m = n;
    }
    for (int i = lane; i < cols; i += 32) out[row * cols + i] = __fdividef(__expf(in[row * cols + i] - m), s);
}
