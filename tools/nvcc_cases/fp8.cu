// 8-bit floats: conversions from and to float, half2 and bfloat16.
#include <cuda_fp8.h>
extern "C" __global__ void fp8(const float2* in, unsigned short* e4, unsigned short* e5, half2* back, float* wide, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __nv_fp8x2_e4m3 a(in[i]);
    __nv_fp8x2_e5m2 b(in[i]);
    e4[i] = a.__x; e5[i] = b.__x;
    back[i] = __hadd2((half2)__nv_cvt_fp8x2_to_halfraw2(a.__x, __NV_E4M3), (half2)__nv_cvt_fp8x2_to_halfraw2(b.__x, __NV_E5M2));
    wide[i] = (float)__nv_fp8_e4m3(in[i].x) + (float)__nv_fp8_e5m2(__float2half(in[i].y));
}
