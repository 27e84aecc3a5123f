// European options, in float and in double.
template <typename T>
__device__ void price(T s, T k, T t, T r, T v, T& call, T& put) {
    T root = sqrt(t), d1 = (log(s / k) + (r + T(0.5) * v * v) * t) / (v * root), d2 = d1 - v * root;
    T n1 = T(0.5) * erfc(-d1 * T(0.70710678118654752440)), n2 = normcdf(d2), discount = exp(-r * t);
    call = s * n1 - k * discount * n2;
    put = k * discount * (T(1) - n2) - s * (T(1) - n1);
}
extern "C" __global__ void bs_f32(const float* s, const float* k, const float* t, float* call, float* put, int n, float r, float v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) price<float>(s[i], k[i], t[i], r, v, call[i], put[i]);
}
extern "C" __global__ void bs_f64(const double* s, const double* k, const double* t, double* call, double* put, int n, double r, double v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) price<double>(s[i], k[i], t[i], r, v, call[i], put[i]);
}
