// Changes of resolution without weights, and of the order of axes.
//
// The shortcuts of Wan 2.2's autoencoder: channels become frames, rows and columns, or the reverse. By ft = 2^bits_t in time and f = 2^bits in rows and columns:
//
//   dup_up    out[t, y, x, c] += in[t'/ft, y/f, x/f, (((c ft + t'%ft) f + y%f) f + x%f) / share]            t' = t + shift
//   avg_down  out[t, y, x, c] += mean of `share` neighbours from number c*share on, numbered (channel, dt, dy, dx): in[t ft + dt - shift, y f + dy,
//             x f + dx, channel], 0 before the first frame
//
// share = Cout ft f^2 / Cin and Cin ft f^2 / Cout. Channels last, padded to multiples of 8: the padding of out is left alone. A thread per 16-byte
// chunk of out, grid-stride. Sums in f32, rounded once. No shared memory.
//
// time_up, Open-Sora-Plan's autoencoder: the first frame by itself, twice as many of the others, with half-pixel centres:
//
//   out[0] = s x[0]     out[2k-1] = s (1/4 x[k-1] + 3/4 x[k])     out[2k] = s (3/4 x[k] + 1/4 x[k+1])      neighbours clamped to 1 .. frames-1
//
// permute: any order of three axes, a thread per element of out; for tensors of a latent's size only, since it reads whatever stride it is given.
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

template <class D> __device__ __forceinline__ void time_up(const TimeUpParams& p) {
  constexpr int N = Chunk<D>::N;
  const long long count = p.chunks * (2 * p.frames - 1);
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    const int t = (int)(i / p.chunks), near = (t + 1) / 2;
    const int far = t == 0 ? 0 : min(max(near + (t % 2 ? -1 : 1), 1), p.frames - 1);
    const D* const column = (const D*)p.x + i % p.chunks * N;
    float out[N], other[N];
    load_elements(column + near * p.chunks * N, out);
    load_elements(column + far * p.chunks * N, other);
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = p.scale * fmaf(0.25f, other[j], 0.75f * out[j]);
    store_elements((D*)p.out + i * N, out);
  }
}

template <class D> __device__ __forceinline__ void permute(const PermuteParams& p) {
  const long long count = (long long)p.rows * p.columns * p.pitch;
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    const long long line = i / p.pitch, k = i % p.pitch;
    const D* const from = (const D*)p.x + line / p.columns * p.stride_i + line % p.columns * p.stride_j + k * p.stride_k;
    ((D*)p.out)[i] = k < p.count ? *from : from_f32<D>(0.0f);
  }
}

#define ENTRIES(D)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) dup_up_##D(const ResampleParams p) { dup_up<D>(p); }       \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) avg_down_##D(const ResampleParams p) { avg_down<D>(p); }   \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) time_up_##D(const TimeUpParams p) { time_up<D>(p); }       \
  extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) permute_##D(const PermuteParams p) { permute<D>(p); }

ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
