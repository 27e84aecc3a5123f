// The shortcuts without weights around a change of resolution (Wan 2.2's autoencoder): channels become frames, rows and columns, or the reverse.
//
// By ft = 2^bits_t in time and f = 2^bits in rows and columns:
//
//   dup_up    out[t, y, x, c] += in[t'/ft, y/f, x/f, (((c ft + t'%ft) f + y%f) f + x%f) / share]            t' = t + shift
//   avg_down  out[t, y, x, c] += mean of `share` neighbours from number c*share on, numbered (channel, dt, dy, dx): in[t ft + dt - shift, y f + dy,
//             x f + dx, channel], 0 before the first frame
//
// share = Cout ft f^2 / Cin and Cin ft f^2 / Cout. Channels last, padded to multiples of 8: the padding of out is left alone. A thread per 16-byte
// chunk of out, grid-stride. Sums in f32, rounded once. No shared memory.
#include "common.cuh"

// Calls make(t, y, x, channel) for the elements of out and adds what it returns.
template <class D, class Make> __device__ __forceinline__ void add_to_out(const ResampleParams& p, const Make& make) {
  constexpr int N = Chunk<D>::N;
  const int chunks = p.out_pitch / N;
  const long long count = (long long)p.out_frames * p.out_height * p.out_width * chunks;
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    const long long position = i / chunks, line = position / p.out_width;
    const int c0 = (int)(i % chunks) * N, x = (int)(position % p.out_width), y = (int)(line % p.out_height), t = (int)(line / p.out_height);
    float out[N];
    load_elements((const D*)p.out + i * N, out);
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (c0 + j < p.out_channels) out[j] += make(t, y, x, c0 + j);
    store_elements((D*)p.out + i * N, out);
  }
}

// A position of the input.
template <class D> __device__ __forceinline__ const D* position(const ResampleParams& p, int t, int y, int x) {
  return (const D*)p.x + (((long long)t * p.height + y) * p.width + x) * p.pitch;
}

template <class D> __device__ __forceinline__ void dup_up(const ResampleParams& p) {
  add_to_out<D>(p, [&](int t, int y, int x, int c) {
    t += p.shift;
    const int lowest = (1 << p.bits) - 1;
    const int frame = (c << p.bits_t) + (t & ((1 << p.bits_t) - 1)), neighbour = (((frame << p.bits) + (y & lowest)) << p.bits) + (x & lowest);
    return to_f32(position<D>(p, t >> p.bits_t, y >> p.bits, x >> p.bits)[neighbour / p.share]);
  });
}

template <class D> __device__ __forceinline__ void avg_down(const ResampleParams& p) {
  add_to_out<D>(p, [&](int t, int y, int x, int c) {
    float sum = 0.0f;
    for (int neighbour = c * p.share; neighbour < (c + 1) * p.share; ++neighbour) {
      const int lowest = (1 << p.bits) - 1, dx = neighbour & lowest, dy = (neighbour >> p.bits) & lowest;
      const int frame = neighbour >> (2 * p.bits), from = (t << p.bits_t) + (frame & ((1 << p.bits_t) - 1)) - p.shift;
      if (from >= 0) sum += to_f32(position<D>(p, from, (y << p.bits) + dy, (x << p.bits) + dx)[frame >> p.bits_t]);
    }
    return sum / (float)p.share;
  });
}

#define ENTRIES(D)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) dup_up_##D(const ResampleParams p) { dup_up<D>(p); }       \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) avg_down_##D(const ResampleParams p) { avg_down<D>(p); }

ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
