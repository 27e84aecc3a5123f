// cuComplex, quaternions as templates with operators, a Newton fractal step, double-double sums.
#include <cuComplex.h>
struct Quat { float w, x, y, z; __device__ Quat operator*(const Quat& q) const { return {w * q.w - x * q.x - y * q.y - z * q.z, w * q.x + x * q.w + y * q.z - z * q.y, w * q.y - x * q.z + y * q.w + z * q.x, w * q.z + x * q.y - y * q.x + z * q.w}; } };
extern "C" __global__ void complex_ops(const cuDoubleComplex* a, const cuDoubleComplex* b, cuDoubleComplex* out, double* mag, const float4* q, float4* rot, double2* dd, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = cuCadd(cuCmul(a[i], b[i]), cuCdiv(a[i], b[i]));
    mag[i] = cuCabs(cuCfma(a[i], b[i], cuConj(a[i])));
    float4 u = q[i], v = q[(i + 1) % n];
    Quat r = Quat{u.x, u.y, u.z, u.w} * Quat{v.x, v.y, v.z, v.w};
    float s = rnorm4df(r.w, r.x, r.y, r.z);
    rot[i] = make_float4(r.w * s, r.x * s, r.y * s, r.z * s);
    double hi = 0, lo = 0;
    auto add = [&](double v) { double t = hi + v, z = t - hi; lo += (hi - (t - z)) + (v - z); hi = t; };
    for (int k = 0; k < 50; ++k) {
        double p = __dmul_rn(a[(i + k) % n].x, 1e10);
        add(p);
        add(1e-8 * k);
        add(-p);
    }
    dd[i] = make_double2(hi + lo, 0);
}
