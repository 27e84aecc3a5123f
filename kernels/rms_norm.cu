// RMSNorm over the channels of every position, and SiLU with it: the norm of Wan's autoencoders.
//
//   y = act(x / max(|x|, 1e-12) * scale * gamma)     |x| over the channels, scale = sqrt(channels that are no padding)
//
// x [rows, C] D, C a multiple of 8. `lanes` threads of a warp share a row, as many as keep them busy: the host chooses a power of two. The row
// is read twice, the second time from L1. Sums in f32, in an order that depends on C and `lanes` alone. No shared memory.
#include "common.cuh"

template <class D> __device__ __forceinline__ void rms_norm(const RmsNormParams& p) {
  constexpr int N = Chunk<D>::N;
  const int rows = 32 / p.lanes, lane = lane_index() % p.lanes; // rows of a warp
  // All lanes of a warp make the same turns: they add up together.
  for (long long first = grid_warp() * rows; first < p.rows; first += grid_warps() * rows) {
    const long long row = first + lane_index() / p.lanes;
    const bool live = row < p.rows;
    const D* const x = (const D*)p.x + row * p.channels;
    float sum = 0.0f;
    for (int c = lane * N; live && c < p.channels; c += p.lanes * N) {
      float y[N];
      load_elements(x + c, y);
#pragma unroll
      for (int i = 0; i < N; ++i) sum = fmaf(y[i], y[i], sum);
    }
    for (int mask = p.lanes >> 1; mask > 0; mask >>= 1) sum += shuffle_xor(sum, mask);
    const float scale = p.scale / fmaxf(sqrtf(sum), 1e-12f);
    // A lane writes only what it alone has read: out may be x.
    D* const out = (D*)p.out + row * p.channels;
    for (int c = lane * N; live && c < p.channels; c += p.lanes * N) {
      float y[N], gamma[N];
      load_elements(x + c, y);
      load_elements((const D*)p.gamma + c, gamma);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        y[i] *= scale * gamma[i];
        if (p.silu) y[i] = silu(y[i]);
      }
      store_elements(out + c, y);
    }
  }
}

#define ENTRIES(D) \
  extern "C" __global__ void __launch_bounds__(ROW_THREADS) rms_norm_##D(const RmsNormParams p) { rms_norm<D>(p); }

ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
