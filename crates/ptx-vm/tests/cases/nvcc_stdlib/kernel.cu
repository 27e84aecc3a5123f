// libcu++: array, span, optional, tuple, bit operations, numeric algorithms, complex, chrono-free code as people write it now.
#include <cuda/std/array>
#include <cuda/std/span>
#include <cuda/std/optional>
#include <cuda/std/tuple>
#include <cuda/std/bit>
#include <cuda/std/complex>
#include <cuda/std/limits>
#include <cuda/std/utility>
namespace cs = cuda::std;
__device__ cs::optional<int> find(cs::span<const int> s, int v) { for (int i = 0; i < (int)s.size(); ++i) if (s[i] == v) return i; return cs::nullopt; }
extern "C" __global__ void stdlib(const int* in, int n, int* out, float2* z) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    cs::array<int, 8> a;
    for (int k = 0; k < 8; ++k) a[k] = in[(i * 3 + k * k) % n];
    auto [lo, hi] = cs::make_pair(cs::numeric_limits<int>::max(), cs::numeric_limits<int>::lowest());
    for (int v : a) { lo = v < lo ? v : lo; hi = v > hi ? v : hi; }
    cs::tuple<int, unsigned, bool> t(hi - lo, cs::popcount((unsigned)a[i % 8]), find(cs::span<const int>(a.data(), 8), in[i]).has_value());
    out[i] = cs::get<0>(t) * 100 + cs::get<1>(t) * 2 + cs::get<2>(t) + find(cs::span<const int>(in, 16), a[i & 7]).value_or(-7) * 10000 + (int)cs::bit_ceil((unsigned)(in[i] & 255) + 1) + cs::countl_zero((unsigned)in[i] | 1) + (int)cs::rotl((unsigned)in[i], 3) % 97;
    cs::complex<float> c(in[i] * 0.01f, 1.f), d = cs::exp(c / cs::complex<float>(2.f, 1.f));
    z[i] = make_float2(d.real(), cs::abs(d * c));
}
