// Everything between the sampler's latent and the transformer's tokens that is not a large matrix product: patches, position
// and timestep embeddings, adaLN tables, RoPE tables, captions. Formulas from the published Open-Sora 1.2 code.
//
//   patchify        z [z_batch, C, T, H, W] f32 -> rows (b, t, h, w) of (c, kt, kh, kw) D, zero-padded after the last frame, row, column
//   unpatchify      rows (b, t, h, w) of (kt, kh, kw, c) D -> [batch, C, T, H, W] f32, cropped
//   position_table  per token (h, w): [sin, cos](w-coordinate f_k), [sin, cos](h-coordinate f_k), f_k = 10000^(-k/(C/4)), k < C/4
//   position_add    x[row] += table[row % tokens]
//   timestep_embed  [cos, sin](t f_k), f_k = max_period^(-k/(dim/2)), k < dim/2; a last odd column is 0
//   small_linear    out = act(a) w^T + bias (+ add): a few rows of f32 activations against a D matrix
//   modulation      out[layer, row] = table[layer] + t[row]: the scale_shift_tables of all blocks at once
//   rope_table      (cos, sin)(position f_i)
//   gather_rows     out[b, j] = src[b, index[b, j]] (zeros where index < 0): keeps the valid tokens of a caption
//   multiply        out = a b: the gate of a text encoder's MLP
//
// Frequencies repeat PyTorch's f32 roundings (exponent, power and reciprocal each rounded to f32), because an angle of 1000
// radians shows the last bit of its frequency.
//
// Launch shapes stand in launch.h. No kernel here uses shared memory.
#include "common.cuh"

// ---- patches: a warp per token, lanes over its channels ------------------------------------------------------------------
template <class D> __device__ __forceinline__ void patchify(const PatchifyParams& p) {
  const int patch = p.patch_t * p.patch_h * p.patch_w, elements = p.channels * patch;
  const int per_sample = p.tokens_t * p.tokens_h * p.tokens_w;
  const long long rows = (long long)p.batch * per_sample;
  for (long long row = grid_warp(); row < rows; row += grid_warps()) {
    int batch = (int)(row / per_sample), token = (int)(row % per_sample);
    int t0 = token / (p.tokens_h * p.tokens_w) * p.patch_t;
    int h0 = token / p.tokens_w % p.tokens_h * p.patch_h;
    int w0 = token % p.tokens_w * p.patch_w;
    const float* z = p.z + (long long)(batch % p.z_batch) * p.channels * p.frames * p.height * p.width;
    D* out = (D*)p.out + row * elements;
    for (int e = lane_index(); e < elements; e += 32) {
      int c = e / patch, t = t0 + e % patch / (p.patch_h * p.patch_w);
      int h = h0 + e / p.patch_w % p.patch_h, w = w0 + e % p.patch_w;
      bool inside = t < p.frames && h < p.height && w < p.width;
      out[e] = from_f32<D>(inside ? z[(((long long)c * p.frames + t) * p.height + h) * p.width + w] : 0.0f);
    }
  }
}

// A thread per latent pixel; grid (blocks, batch).
template <class D> __device__ __forceinline__ void unpatchify(const UnpatchifyParams& p) {
  const int count = p.channels * p.frames * p.height * p.width;
  const int elements = p.patch_t * p.patch_h * p.patch_w * p.channels;
  const D* tokens = (const D*)p.tokens + (long long)blockIdx.y * p.tokens_t * p.tokens_h * p.tokens_w * elements;
  float* out = p.out + (long long)blockIdx.y * count;
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    int line = (int)i / p.width, w = (int)i % p.width;
    int plane = line / p.height, h = line % p.height;
    int c = plane / p.frames, t = plane % p.frames;
    int token_t = t / p.patch_t, token_h = h / p.patch_h, token_w = w / p.patch_w;
    long long token = ((long long)token_t * p.tokens_h + token_h) * p.tokens_w + token_w;
    int kt = t - token_t * p.patch_t, kh = h - token_h * p.patch_h, kw = w - token_w * p.patch_w;
    out[i] = to_f32(tokens[token * elements + ((kt * p.patch_h + kh) * p.patch_w + kw) * p.channels + c]);
  }
}

// ---- positions -----------------------------------------------------------------------------------------------------------
// A thread per (token, frequency): four values. channels is a multiple of 4.
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) position_table(const PositionTableParams p) {
  const int quarter = p.channels / 4;
  const long long count = (long long)p.tokens_h * p.tokens_w * quarter;
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    int token = (int)(i / quarter), k = (int)(i % quarter);
    // 10000^(2k / (C/2)) as PyTorch rounds it: exponent, power, reciprocal. ln(10000) = 9.21034...
    float exponent = (float)(2 * k) / (float)(2 * quarter);
    float frequency = 1.0f / (float)exp((double)exponent * 9.210340371976182736);
    float x = (float)(token % p.tokens_w) / p.scale * (p.base_size / (float)p.tokens_w);
    float y = (float)(token / p.tokens_w) / p.scale * (p.base_size / (float)p.tokens_h);
    float* out = p.out + (long long)token * p.channels + k;
    sine_cosine(x * frequency, out[0], out[quarter]);
    sine_cosine(y * frequency, out[2 * quarter], out[3 * quarter]);
  }
}

// A thread keeps its part of the table in registers and walks over the frames; gridDim.y threads share the walk.
template <class D, int N> __device__ __forceinline__ void position_add(const PositionAddParams& p) {
  const long long table = (long long)p.tokens * p.channels, count = p.rows * p.channels;
  for (long long i = grid_thread() * N; i < table; i += grid_threads() * N) {
    float position[N];
    load_floats(p.table + i, position);
    for (long long j = i + blockIdx.y * table; j < count; j += gridDim.y * table) {
      float x[N];
      load_elements((const D*)p.x + j, x);
#pragma unroll
      for (int e = 0; e < N; ++e) x[e] += position[e];
      store_elements((D*)p.x + j, x);
    }
  }
}
template <class D> __device__ __forceinline__ void position_add_entry(const PositionAddParams& p) {
  if (chunked<D>(p.channels, p.x, p.table)) position_add<D, Chunk<D>::N>(p);
  else position_add<D, 1>(p);
}

// A thread per (position, frequency).
template <class D> __device__ __forceinline__ void rope_table(const RopeTableParams& p) {
  const long long count = (long long)p.positions * p.half;
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    float angle = (float)(int)(i / p.half) * to_f32(((const D*)p.freqs)[i % p.half]);
    sine_cosine(angle, p.out[2 * i + 1], p.out[2 * i]);
  }
}

// ---- timesteps -------------------------------------------------------------------------------------------------------------
// A thread per (timestep, frequency).
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) timestep_embed(const TimestepEmbedParams p) {
  const int half = p.dim / 2, columns = (p.dim + 1) / 2; // an odd dim has one column more, of zeros
  const long long count = (long long)p.count * columns;
  const float log_period = (float)log((double)p.max_period);
  for (long long i = grid_thread(); i < count; i += grid_threads()) {
    int row = (int)(i / columns), k = (int)(i % columns);
    float* out = p.out + (long long)row * p.dim;
    if (k == half) {
      out[p.dim - 1] = 0.0f;
    } else {
      float frequency = (float)exp((double)(-log_period * (float)k / (float)half));
      sine_cosine(p.t[row] * frequency, out[half + k], out[k]);
    }
  }
}

// A warp computes COLUMNS neighbouring outputs of ROWS rows at a time; lanes share k in chunks. a is activated once per warp.
template <class D, int N> __device__ __forceinline__ void small_linear(const SmallLinearParams& p) {
  constexpr int ROWS = 4, COLUMNS = SMALL_LINEAR_COLUMNS;
  const D* w = (const D*)p.w;
  const D* bias = (const D*)p.bias;
  for (long long n0 = grid_warp() * COLUMNS; n0 < p.n; n0 += grid_warps() * COLUMNS) {
    for (int m0 = 0; m0 < p.m; m0 += ROWS) {
      float sum[ROWS][COLUMNS];
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) sum[i][j] = 0.0f;
      for (int k = lane_index() * N; k < p.k; k += 32 * N) {
        float weight[COLUMNS][N];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          // Past the last column the last one is computed again and not stored.
          long long n = n0 + j < p.n ? n0 + j : p.n - 1;
          load_elements(w + n * p.k + k, weight[j]);
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          if (m0 + i >= p.m) break;
          float a[N];
          load_floats(p.a + (long long)(m0 + i) * p.k + k, a);
          if (p.silu) {
#pragma unroll
            for (int e = 0; e < N; ++e) a[e] = a[e] / (1.0f + expf(-a[e]));
          }
#pragma unroll
          for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
            for (int e = 0; e < N; ++e) sum[i][j] = fmaf(a[e], weight[j][e], sum[i][j]);
        }
      }
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        if (m0 + i >= p.m) break;
        // Lane j of the warp ends with column j.
        float mine = 0.0f;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          float total = warp_sum(sum[i][j]);
          if (lane_index() == j) mine = total;
        }
        long long n = n0 + lane_index(), at = (m0 + i) * (long long)p.n + n;
        if (lane_index() < COLUMNS && n < p.n) {
          if (bias) mine += to_f32(bias[n]);
          if (p.add) mine += p.add[at];
          p.out[at] = mine;
        }
      }
    }
  }
}
template <class D> __device__ __forceinline__ void small_linear_entry(const SmallLinearParams& p) {
  if (chunked<D>(p.k, p.a, p.w)) small_linear<D, Chunk<D>::N>(p);
  else small_linear<D, 1>(p);
}

// A thread reads its four channels of the table once and adds them to every row; grid (blocks, layers).
template <class D, int N> __device__ __forceinline__ void modulation(const ModulationParams& p) {
  const long long layer_size = (long long)p.chunks * p.channels, t_size = (long long)p.t_chunks * p.channels;
  const D* table = (const D*)p.table + blockIdx.y * layer_size;
  float* out = p.out + blockIdx.y * p.rows * layer_size;
  for (long long i = grid_thread() * N; i < layer_size; i += grid_threads() * N) {
    float base[N];
    if constexpr (N == 4) load_run(table + i, base);
    else base[0] = to_f32(table[i]);
    for (int row = 0; row < p.rows; ++row) {
      float y[N];
      load_floats(p.t + row * t_size + i % t_size, y); // t_chunks = 1 repeats, t_chunks = chunks does not
#pragma unroll
      for (int e = 0; e < N; ++e) y[e] += base[e];
      store_floats(out + row * layer_size + i, y);
    }
  }
}
template <class D> __device__ __forceinline__ void modulation_entry(const ModulationParams& p) {
  if (p.channels % 4 == 0 && aligned(p.table, 4 * sizeof(D)) && aligned(p.t, 16) && aligned(p.out, 16)) modulation<D, 4>(p);
  else modulation<D, 1>(p);
}

// ---- captions: a warp per row ------------------------------------------------------------------------------------------------
template <class D, int N> __device__ __forceinline__ void gather_rows(const GatherRowsParams& p) {
  const long long rows = (long long)p.batch * p.dst_rows;
  for (long long row = grid_warp(); row < rows; row += grid_warps()) {
    int index = p.index[row];
    const D* src = (const D*)p.src + (row / p.dst_rows * p.src_rows + index) * p.channels;
    D* out = (D*)p.out + row * p.channels;
    for (int c = lane_index() * N; c < p.channels; c += 32 * N) {
      Raw<D, N> x = {};
      if (index >= 0) x = load_raw<D, N>(src + c);
      store_raw<D, N>(out + c, x);
    }
  }
}
template <class D> __device__ __forceinline__ void gather_rows_entry(const GatherRowsParams& p) {
  if (chunked<D>(p.channels, p.src, p.out)) gather_rows<D, Chunk<D>::N>(p);
  else gather_rows<D, 1>(p);
}

// ---- products, element by element: a thread per chunk ----------------------------------------------------------------------------
template <class D, int N> __device__ __forceinline__ void multiply(const MultiplyParams& p) {
  for (long long i = grid_thread() * N; i < p.count; i += grid_threads() * N) {
    float a[N], b[N];
    load_elements((const D*)p.a + i, a);
    load_elements((const D*)p.b + i, b);
#pragma unroll
    for (int e = 0; e < N; ++e) a[e] *= b[e];
    store_elements((D*)p.out + i, a);
  }
}
template <class D> __device__ __forceinline__ void multiply_entry(const MultiplyParams& p) {
  if (chunked<D>(p.count, p.a, p.b, p.out)) multiply<D, Chunk<D>::N>(p);
  else multiply<D, 1>(p);
}

// 4 blocks: leaves small_linear the registers it needs not to spill.
#define SMALL_LINEAR_THREADS_4_BLOCKS SMALL_LINEAR_THREADS, 4
#define ENTRY(D, THREADS, NAME, PARAMS, BODY) \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME##_##D(const PARAMS p) { BODY<D>(p); }
#define ENTRIES(D)                                                                            \
  ENTRY(D, ROW_THREADS, patchify, PatchifyParams, patchify)                                   \
  ENTRY(D, ELEMENTWISE_THREADS, unpatchify, UnpatchifyParams, unpatchify)                     \
  ENTRY(D, ELEMENTWISE_THREADS, position_add, PositionAddParams, position_add_entry)          \
  ENTRY(D, ELEMENTWISE_THREADS, rope_table, RopeTableParams, rope_table)                      \
  ENTRY(D, SMALL_LINEAR_THREADS_4_BLOCKS, small_linear, SmallLinearParams, small_linear_entry) \
  ENTRY(D, ELEMENTWISE_THREADS, modulation, ModulationParams, modulation_entry)               \
  ENTRY(D, ELEMENTWISE_THREADS, multiply, MultiplyParams, multiply_entry)                     \
  ENTRY(D, ROW_THREADS, gather_rows, GatherRowsParams, gather_rows_entry)
ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
