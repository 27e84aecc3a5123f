// half, half2 and bfloat16 intrinsics: function f on element i goes to out[f * n + i].
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void half_ops(const half* xs, const half* ys, half* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    half x = xs[i], y = ys[i], p = __hadd(__habs(x), __float2half(0.01f));
    half* o = out + i;
    auto put = [&](half v) { *o = v; o += n; };
    put(__hadd(x, y)); put(__hsub(x, y)); put(__hmul(x, y)); put(__hdiv(x, p)); put(__hfma(x, y, p)); put(__hadd_sat(x, y)); put(__hsub_sat(x, y));
    put(__hmul_sat(x, y)); put(__hfma_sat(x, y, p)); put(__hfma_relu(x, y, p)); put(__hneg(x)); put(__habs(x)); put(__hmin(x, y)); put(__hmax(x, y));
    put(__hmin_nan(x, y)); put(__hmax_nan(x, y)); put(hsqrt(p)); put(hrsqrt(p)); put(hrcp(p)); put(hexp(x)); put(hexp2(x)); put(hexp10(x)); put(hlog(p));
    put(hlog2(p)); put(hlog10(p)); put(hsin(x)); put(hcos(x)); put(htanh(x)); put(htanh_approx(x)); put(hfloor(x)); put(hceil(x)); put(htrunc(x)); put(hrint(x));
    put(__float2half_rn(__half2float(x) * 1.7f)); put(__float2half_rz(__half2float(x) * 1.7f)); put(__float2half_ru(__half2float(x) * 1.7f)); put(__float2half_rd(__half2float(x) * 1.7f));
    put(__int2half_rn(__half2int_rn(x))); put(__int2half_rn(__half2int_rz(x))); put(__int2half_rn(__half2int_rd(x))); put(__int2half_rn(__half2int_ru(x)));
    put(__short2half_rn(__half2short_rn(x))); put(__ushort2half_rn(__half2ushort_rz(p))); put(__ll2half_rn(__half2ll_rn(x))); put(__uint2half_rz(__half2uint_ru(p))); put(__double2half((double)__half2float(x)));
    put(__half_as_short(x) & 1 ? x : y); put(__hlt(x, y) ? x : y); put(__hgeu(x, y) ? x : y); put(__hisnan(x) ? y : x); put(__heq(x, y) ? p : x); put(__hneu(x, y) ? p : x);
}
extern "C" __global__ void half2_ops(const half2* xs, const half2* ys, half2* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    half2 x = xs[i], y = ys[i];
    half2* o = out + i;
    auto put = [&](half2 v) { *o = v; o += n; };
    put(__hadd2(x, y)); put(__hsub2(x, y)); put(__hmul2(x, y)); put(__hfma2(x, y, x)); put(__hadd2_sat(x, y)); put(__hfma2_sat(x, y, x)); put(__hfma2_relu(x, y, x));
    put(__hneg2(x)); put(__habs2(x)); put(__hmin2(x, y)); put(__hmax2(x, y)); put(__hmin2_nan(x, y)); put(__hmax2_nan(x, y));
    put(__lows2half2(x, y)); put(__highs2half2(x, y)); put(__lowhigh2highlow(x)); put(__low2half2(x)); put(__high2half2(y)); put(__halves2half2(__high2half(x), __low2half(y)));
    put(__hlt2(x, y)); put(__hge2(x, y)); put(__heq2(x, y)); put(__hgtu2(x, y)); put(__hne2(x, y)); put(__floats2half2_rn(__low2float(x), __high2float(y)));
    put(__hcmadd(x, y, x)); put(h2sqrt(__habs2(x))); put(h2exp2(x)); put(h2floor(x)); put(h2rint(x)); put(__hbgt2(x, y) ? x : y);
    unsigned m = __hlt2_mask(x, y); put(__halves2half2(__ushort2half_rn(m & 1), __ushort2half_rn(m >> 31)));
}
extern "C" __global__ void bf16_ops(const __nv_bfloat16* xs, const __nv_bfloat16* ys, __nv_bfloat16* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __nv_bfloat16 x = xs[i], y = ys[i], p = __habs(x);
    __nv_bfloat16* o = out + i;
    auto put = [&](__nv_bfloat16 v) { *o = v; o += n; };
    put(__hadd(x, y)); put(__hsub(x, y)); put(__hmul(x, y)); put(__hfma(x, y, p)); put(__hfma_relu(x, y, p)); put(__hneg(x)); put(p); put(__hmin(x, y)); put(__hmax(x, y)); put(__hmax_nan(x, y));
    put(__float2bfloat16_rn(__bfloat162float(x) * 1.7f)); put(__float2bfloat16_rz(__bfloat162float(x) * 1.7f)); put(__float2bfloat16_ru(__bfloat162float(x) * 1.7f)); put(__float2bfloat16_rd(__bfloat162float(x) * 1.7f));
    put(__int2bfloat16_rn(__bfloat162int_rz(x))); put(__double2bfloat16((double)__bfloat162float(x) / 3)); put(__hlt(x, y) ? x : y); put(hsqrt(p)); put(hexp2(x)); put(hfloor(x)); put(htanh(x)); put(__hadd_sat(x, y));
    __nv_bfloat162 v = __floats2bfloat162_rn(__bfloat162float(x), __bfloat162float(y)), w = __hfma2(v, v, __hneg2(v));
    put(__low2bfloat16(w)); put(__high2bfloat16(w)); put(__low2bfloat16(__hmax2(v, w))); put(__high2bfloat16(__habs2(w)));
}
