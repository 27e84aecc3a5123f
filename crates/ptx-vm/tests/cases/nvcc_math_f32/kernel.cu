// math.h in one type (float with -DF32): function f of the list on element i goes to out[f * n + i].
template <typename T>
__device__ void all(const T* xs, const T* ys, T* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    T x = xs[i], y = ys[i], p = fabs(x) + T(1e-3), u = x / (T(1) + fabs(x));
    T* o = out + i;
    auto put = [&](T v) { *o = v; o += n; };
    put(sin(x)); put(cos(x)); put(tan(x)); put(asin(u)); put(acos(u)); put(atan(x)); put(atan2(x, y));
    put(sinh(u)); put(cosh(u)); put(tanh(x)); put(asinh(x)); put(acosh(T(1) + p)); put(atanh(u));
    put(exp(u * T(10))); put(exp2(u * T(10))); put(exp10(u)); put(expm1(u)); put(log(p)); put(log2(p)); put(log10(p)); put(log1p(p)); put(logb(p));
    put(pow(p, u)); put(pow(u, T(3))); put(sqrt(p)); put(rsqrt(p)); put(cbrt(x)); put(rcbrt(p)); put(hypot(x, y)); put(rhypot(p, y)); put(norm3d(x, y, p));
    put(erf(u)); put(erfc(u * T(3))); put(erfinv(u)); put(erfcx(u)); put(normcdf(u)); put(tgamma(p * T(0.01) + T(0.5))); put(lgamma(p));
    put(fmod(x, y)); put(remainder(x, y)); int q = 0; put(remquo(x, y, &q)); put(T(q & 7));
    put(floor(x)); put(ceil(x)); put(trunc(x)); put(round(x)); put(rint(x)); put(nearbyint(x)); put(T(lrint(x))); put(T(llround(x)));
    put(fdim(x, y)); put(fmin(x, y)); put(fmax(x, y)); put(fma(x, y, u)); put(copysign(p, x)); put(nextafter(x, y)); put(T(ilogb(p)));
    int e = 0; put(frexp(x, &e)); put(T(e)); put(ldexp(u, 5)); put(scalbn(u, -3)); T ip = 0; put(modf(x, &ip)); put(ip);
    T s = 0, c = 0; sincos(x, &s, &c); put(s); put(c); put(sinpi(u)); put(cospi(u));
    put(j0(p)); put(j1(p)); put(y0(p)); put(y1(p)); put(cyl_bessel_i0(u)); put(cyl_bessel_i1(u));
    put(T(isnan(x))); put(T(isinf(x))); put(T(signbit(x) != 0));
}
#ifdef F32
extern "C" __global__ void math_f32(const float* x, const float* y, float* out, int n) { all<float>(x, y, out, n); }
#else
extern "C" __global__ void math_f64(const double* x, const double* y, double* out, int n) { all<double>(x, y, out, n); }
#endif
