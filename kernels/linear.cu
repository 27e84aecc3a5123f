// linear: out[m,n] = epilogue(prologue(a)[m,k] . w[n,k]^T + bias[n]).
//
// Prologues   plain   a as it is
//             _ln     a' = (a - mean) * rstd * (1 + scale) + shift, mean and rstd by row (row_stats), scale and shift by
//                     (batch, variant of the frame) from the modulation table; in f32, rounded to D once
// Epilogues   bias      out = acc + bias
//             gelu      out = gelu_tanh(acc + bias)
//             residual  r = gate * (acc + bias); out += r; residual_out = r or += r (when given)
// All in f32 until the last rounding. Entries linear[_ln]_{bias,gelu,residual}_{bf16,f16,f32}_{128,64}; no _ln residual.
//
// A CTA makes one TILE_M x TILE_N tile of out (blockIdx.x, n fastest: neighbours share the rows of a). _128: 128 x 144, six
// warps of 64 x 48; _64: 64 x 48, three warps of 64 x 16. k advances by 96 bytes (48 elements of 16 bits, 24 of f32) through
// a ring of STAGES tiles in shared memory:
//
//   stage: a [TILE_M][96 B], w [TILE_N][96 B]; the six 16-byte chunks of row r at chunk ^ ((r >> 2) & 1). A row starts
//   6r mod 8 chunks into the 128 bytes of banks, so 8 rows hit 4 places and the flipped bit makes them 8: ldmatrix meets no
//   bank twice, without padding, and the flip is the same for rows 16 apart: offsets in the main loop are immediates.
//
//   w and plain a come by 16-byte cp.async; _ln a goes global -> registers (loaded one tile ahead) -> prologue -> shared.
//   Within each 16 columns, w's rows are stored so that the two n-tiles of a lane are 4 consecutive columns of out: the
//   epilogue then moves 8 (f32: 16) bytes a lane, whole 32-byte sectors.
//
// Any m, n, k >= 1: rows outside and chunks beyond k are zeros. If rows of a and w are
// not 16-byte aligned every element is loaded by itself (uniform run-time choice), likewise the epilogue.
// The order of additions over k is fixed: the same inputs give the same bits.
//
// Launch: launch_tiles.h. Expected: _128 at most 168 registers (two CTAs of 192 threads on an SM; f32: one CTA, about 210), _64 below 130;
// 79360 and 43520 bytes of dynamic shared memory.
#include "params.h"
#include "launch_tiles.h"
#include "tile.cuh"

enum Epilogue { BIAS, GELU, RESIDUAL };

constexpr int K_BYTES = 96;           // of a row in one stage
constexpr int K_CHUNKS = K_BYTES / 16; // 16-byte chunks
constexpr int K_STEPS = K_BYTES / 32;  // mma k-steps
constexpr int WARP_M = 64;

extern __shared__ __align__(16) unsigned char dynamic_shared[];

// Byte offset of a chunk in a stage's [rows][K_BYTES] half.
__device__ __forceinline__ unsigned chunk_offset(int row, int chunk) { return row * K_BYTES + ((chunk ^ ((row >> 2) & 1)) << 4); }

// Where w's row r of a tile is stored: columns 4t, 4t+1 of each 16 go to the first n-tile, 4t+2, 4t+3 to the second.
__device__ __forceinline__ int interleaved(int r) { return (r & ~15) | ((r & 2) << 2) | ((r & 12) >> 1) | (r & 1); }

// A chunk's elements [0, valid) one by one into shared memory, zeros after.
template <class D> __device__ __forceinline__ void copy_elements(unsigned to, const D* from, int valid) {
#pragma unroll 1
  for (int c = 0; c < Chunk<D>::N; c++) store_shared(to + c * (int)sizeof(D), c < valid ? from[c] : D{});
}

template <class D, bool LN, int EPILOGUE, int TILE_M, int TILE_N, int WARP_N, int STAGES>
__device__ __forceinline__ void linear(const LinearParams& p) {
  constexpr int WARPS_N = TILE_N / WARP_N;
  constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32;
  constexpr int STAGE_BYTES = (TILE_M + TILE_N) * K_BYTES;
  constexpr int CHUNK = Chunk<D>::N;                  // elements of a chunk
  constexpr int K_TILE = K_CHUNKS * CHUNK;            // elements of k in a stage
  constexpr int K_STEP = 2 * CHUNK;                   // elements of k in a k-step
  constexpr int SLOT_ROWS = THREADS / K_CHUNKS;       // a thread loads one chunk of every SLOT_ROWS-th row
  constexpr int A_SLOTS = TILE_M / SLOT_ROWS;
  constexpr int W_SLOTS = (TILE_N + SLOT_ROWS - 1) / SLOT_ROWS;
  constexpr int GROUPS = WARP_N / 16;                 // pairs of n-tiles
  static_assert(THREADS % K_CHUNKS == 0 && SLOT_ROWS % 16 == 0 && TILE_M % SLOT_ROWS == 0 && WARP_N % 16 == 0, "tile");

  const D* const a = static_cast<const D*>(p.a);
  const D* const w = static_cast<const D*>(p.w);
  const int tiles_n = (p.n + TILE_N - 1) / TILE_N;
  const int m0 = blockIdx.x / tiles_n * TILE_M, n0 = blockIdx.x % tiles_n * TILE_N;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const unsigned shared = shared_address(dynamic_shared);

  // ---- loaders
  const int slot_row = tid / K_CHUNKS, slot_chunk = tid % K_CHUNKS;
  const bool vector = (p.k * sizeof(D)) % 16 == 0 && aligned(a, 16) && aligned(w, 16) &&
                      (!LN || (p.channels % 4 == 0 && aligned(p.modulation, 16)));
  const unsigned a_store = shared + chunk_offset(slot_row, slot_chunk);
  // SLOT_ROWS is a multiple of 16, so every slot has the same place within its 16 rows.
  const unsigned w_store = shared + TILE_M * K_BYTES + chunk_offset(interleaved(slot_row), slot_chunk);
  // Slot 0 of this thread; the next slots are SLOT_ROWS rows further, both matrices have rows of k elements.
  const D* const a_slot = a + (long long)(m0 + slot_row) * p.k + slot_chunk * CHUNK;
  const D* const w_slot = w + (long long)(n0 + slot_row) * p.k + slot_chunk * CHUNK;
  const long long slot_stride = (long long)SLOT_ROWS * p.k;
  const int a_rows = p.m - m0 - slot_row, w_rows = p.n - n0 - slot_row; // slot i exists if i * SLOT_ROWS is below

  // _ln: mean and rstd of the tile's rows lie behind the stages: registers are short. The fast path needs the rows of this thread to share scale and shift (one
  // batch, one variant): true but for threads that straddle two frames.
  const unsigned stats = shared + STAGES * STAGE_BYTES;
  auto scale_of = [&](int row) { // scale for the row's frame; shift is shift_delta further
    return p.modulation + modulation_offset(p.frame_mask, row, p.frames, p.rows_per_frame, p.variants, p.chunks, p.channels, p.scale_chunk);
  };
  const int shift_delta = (p.shift_chunk - p.scale_chunk) * p.channels;
  const float* scale_row = nullptr;
  bool fast = vector;
  if constexpr (LN) {
    scale_row = scale_of(min(m0 + slot_row, p.m - 1));
#pragma unroll 1
    for (int i = 1; i < A_SLOTS; i++) fast = fast && scale_of(min(m0 + slot_row + i * SLOT_ROWS, p.m - 1)) == scale_row;
    static_assert(TILE_M <= THREADS, "a thread for each row");
    if (tid < TILE_M) {
      const float* const row_stats = p.row_stats + 2ll * min(m0 + tid, p.m - 1);
      store_shared8(stats + tid * 8, bits_of(row_stats[0]), bits_of(row_stats[1]));
    }
    __syncthreads();
  }

  uint4 fetched[A_SLOTS]; // _ln: the next tile of a, on its way through registers

  // Starts the loads of tile `tile`: cp.async into its stage; _ln: a's part into registers.
  auto load_tile = [&](int tile, unsigned stage) {
    const int k0 = tile * K_TILE + slot_chunk * CHUNK;
    if (vector) {
      const bool inside = k0 < p.k;
      if constexpr (!LN) {
        const D* from = a_slot + (long long)tile * K_TILE;
        unrolled<A_SLOTS>([&](auto i) {
          constexpr int row = i.value * SLOT_ROWS;
          cp_async16<row * K_BYTES>(a_store + stage, from, inside && row < a_rows ? 16 : 0);
          from += slot_stride;
        });
      }
      const D* from = w_slot + (long long)tile * K_TILE;
      unrolled<W_SLOTS>([&](auto i) {
        constexpr int row = i.value * SLOT_ROWS;
        if (row + SLOT_ROWS <= TILE_N || slot_row + row < TILE_N)
          cp_async16<row * K_BYTES>(w_store + stage, from, inside && row < w_rows ? 16 : 0);
        from += slot_stride;
      });
    } else {
      const int valid = p.k - k0;
      if constexpr (!LN) {
#pragma unroll 1
        for (int r = 0; slot_row + r < TILE_M; r += SLOT_ROWS)
          copy_elements(a_store + stage + r * K_BYTES, a_slot + (long long)r * p.k + tile * K_TILE, r < a_rows ? valid : 0);
      }
#pragma unroll 1
      for (int r = 0; slot_row + r < TILE_N; r += SLOT_ROWS)
        copy_elements(w_store + stage + r * K_BYTES, w_slot + (long long)r * p.k + tile * K_TILE, r < w_rows ? valid : 0);
    }
  };
  auto fetch_a = [&](int tile) {
    if constexpr (LN) {
      if (fast && tile * K_TILE + slot_chunk * CHUNK < p.k) {
        const D* from = a_slot + (long long)tile * K_TILE;
#pragma unroll
        for (int i = 0; i < A_SLOTS; i++) {
          fetched[i] = i * SLOT_ROWS < a_rows ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
          from += slot_stride;
        }
      }
    }
  };
  // _ln: prologue of the fetched tile, into its stage.
  auto store_a = [&](int tile, unsigned stage) {
    if constexpr (LN) {
      const int k0 = tile * K_TILE + slot_chunk * CHUNK;
      if (fast && k0 < p.k) {
        float scale[CHUNK], shift[CHUNK];
#pragma unroll
        for (int c = 0; c < CHUNK; c += 4) {
          float4 s = *reinterpret_cast<const float4*>(scale_row + k0 + c);
          float4 b = *reinterpret_cast<const float4*>(scale_row + shift_delta + k0 + c);
          scale[c] = 1.0f + s.x, scale[c + 1] = 1.0f + s.y, scale[c + 2] = 1.0f + s.z, scale[c + 3] = 1.0f + s.w;
          shift[c] = b.x, shift[c + 1] = b.y, shift[c + 2] = b.z, shift[c + 3] = b.w;
        }
        unrolled<A_SLOTS>([&](auto i) {
          float x[CHUNK];
          Chunk<D>::unpack(fetched[i.value], x);
          const float2 row = load_shared8<i.value * SLOT_ROWS * 8>(stats + slot_row * 8);
#pragma unroll
          for (int c = 0; c < CHUNK; c++) x[c] = fmaf((x[c] - row.x) * row.y, scale[c], shift[c]);
          store_shared16<i.value * SLOT_ROWS * K_BYTES>(a_store + stage, Chunk<D>::pack(x));
        });
      } else {
#pragma unroll 1
        for (int r = slot_row; r < TILE_M; r += SLOT_ROWS) {
          const int row = min(m0 + r, p.m - 1);
          const float2 row_stats = load_shared8(stats + r * 8);
          const float* const t = scale_of(row) + k0;
#pragma unroll 1
          for (int c = 0; c < CHUNK; c++) {
            float x = 0.0f;
            if (k0 + c < p.k)
              x = fmaf((to_f32(a[(long long)row * p.k + k0 + c]) - row_stats.x) * row_stats.y, 1.0f + t[c], t[shift_delta + c]);
            store_shared(a_store + stage + (r - slot_row) * K_BYTES + c * (int)sizeof(D), from_f32<D>(x));
          }
        }
      }
    }
  };

  // ---- main loop
  const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
  const bool active = m0 + warp_m < p.m && n0 + warp_n < p.n; // else: this warp only loads
  const int a_row = warp_m + (lane & 15), w_row = warp_n + ((lane >> 4) << 3) + (lane & 7);
  const unsigned a_load = shared + chunk_offset(a_row, lane >> 4);
  const unsigned w_load = shared + TILE_M * K_BYTES + chunk_offset(w_row, (lane >> 3) & 1);

  float acc[4][GROUPS][2][4]; // [m-tile][pair][n-tile of the pair][fragment]
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[i][j][h][e] = 0.0f;

  // One k-step, AT bytes into the rows of the stage at offset `stage`.
  auto multiply = [&](unsigned stage, auto at) {
    constexpr int AT = at.value;
    FragmentA<D> fa[4];
    unrolled<4>([&](auto i) {
      unsigned x[4];
      ldmatrix_x4<AT + i.value * 16 * K_BYTES>(x, a_load + stage);
      fa[i.value] = fragment_a<D>(x);
    });
    unrolled<GROUPS>([&](auto j) {
      unsigned x[4];
      ldmatrix_x4<AT + j.value * 16 * K_BYTES>(x, w_load + stage);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const FragmentB<D> fb = fragment_b<D>(x[2 * h], x[2 * h + 1]);
#pragma unroll
        for (int i = 0; i < 4; i++) mma(acc[i][j.value][h], fa[i], fb);
      }
    });
  };

  const int tiles = (p.k + K_TILE - 1) / K_TILE;
  unsigned read = 0, write = 0; // stage offsets
  auto next = [](unsigned stage) { return stage == (STAGES - 1) * STAGE_BYTES ? 0u : stage + STAGE_BYTES; };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < tiles) load_tile(s, write);
    cp_async_commit();
    write = next(write);
  }
  fetch_a(0);
  store_a(0, 0);
  if (tiles > 1) fetch_a(1);

#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads(); // the tile has landed for everyone, and everyone has read the previous one
    if (tile + STAGES - 1 < tiles) load_tile(tile + STAGES - 1, write);
    cp_async_commit();
    if (LN && tile + 1 < tiles) {
      store_a(tile + 1, next(read));
      if (tile + 2 < tiles) fetch_a(tile + 2);
    }
    if (active) {
      const int left = p.k - tile * K_TILE;
      if (left > K_TILE - K_STEP) {
        unrolled<K_STEPS>([&](auto s) { multiply(read, Index<s.value * 32>{}); });
      } else {
#pragma unroll 1
        for (int s = 0; s * K_STEP < left; s++) multiply(read + s * 32, Index<0>{});
      }
    }
    read = next(read);
    write = next(write);
  }

  // ---- epilogue: a lane has columns 4t..4t+3 of each pair, rows g and g+8 of each m-tile
  D* const out = static_cast<D*>(p.out);
  D* const residual_out = static_cast<D*>(p.residual_out);
  const D* const bias = static_cast<const D*>(p.bias);
  const bool gated = EPILOGUE == RESIDUAL && p.gate_chunk >= 0 && p.modulation;
  auto gate_of = [&](int row) {
    return p.modulation + modulation_offset(p.frame_mask, row, p.frames, p.rows_per_frame, p.variants, p.chunks, p.channels, p.gate_chunk);
  };
  const bool vector_out = p.n % 4 == 0 && aligned(out, 4 * sizeof(D)) && aligned(bias, 4 * sizeof(D)) &&
                          (EPILOGUE != RESIDUAL || aligned(residual_out, 4 * sizeof(D))) &&
                          (!gated || (p.channels % 4 == 0 && aligned(p.modulation, 16)));

  if (!vector_out) { // element by element, from the sums laid out in shared memory
    __syncthreads(); // the stages are free
    if (!active) return;
    const unsigned sums = shared + warp * (WARP_M * WARP_N * 4);
    const unsigned sums_lane = sums + ((lane >> 2) * WARP_N + (lane & 3) * 4) * 4;
    unrolled<4>([&](auto i) {
      constexpr int tile = i.value;
      unrolled<GROUPS>([&](auto j) {
        constexpr int at = (tile * 16 * WARP_N + j.value * 16) * 4;
        const float (&low)[4] = acc[tile][j.value][0], (&high)[4] = acc[tile][j.value][1];
        store_shared16<at>(sums_lane, low[0], low[1], high[0], high[1]);
        store_shared16<at + 8 * WARP_N * 4>(sums_lane, low[2], low[3], high[2], high[3]);
      });
    });
    __syncwarp();
#pragma unroll 1
    for (int id = lane; id < WARP_M * WARP_N; id += 32) {
      const int row = m0 + warp_m + id / WARP_N, column = n0 + warp_n + id % WARP_N;
      if (row >= p.m || column >= p.n) continue;
      float y = load_shared<float>(sums + id * 4) + (bias ? to_f32(bias[column]) : 0.0f);
      if constexpr (EPILOGUE == GELU) y = gelu_tanh(y);
      const long long element = (long long)row * p.n + column;
      if constexpr (EPILOGUE == RESIDUAL) {
        if (gated) y *= gate_of(row)[column];
        if (residual_out) residual_out[element] = from_f32<D>(y + (p.accumulate_residual ? to_f32(residual_out[element]) : 0.0f));
        y += to_f32(out[element]);
      }
      out[element] = from_f32<D>(y);
    }
    return;
  }
  if (!active) return;

  const int row0 = m0 + warp_m + (lane >> 2), column0 = n0 + warp_n + (lane & 3) * 4;
  // Calls body(row, element, column, i, h, j) for the four columns that start at `column` of each row and pair inside.
  auto each = [&](auto body) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = row0 + i * 16 + h * 8;
        if (row >= p.m) continue;
        const long long first = (long long)row * p.n;
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
          const int column = column0 + 16 * j;
          if (column < p.n) body(row, first + column, column, i, h, j);
        }
      }
    }
  };
  auto sum = [&](int i, int h, int j, int e) -> float& { return acc[i][j][e >> 1][2 * h + (e & 1)]; };

  if (bias) {
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
      float b[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (column0 + 16 * j < p.n) load4(bias + column0 + 16 * j, b);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum(i >> 1, i & 1, j, e) += b[e];
    }
  }
  if constexpr (EPILOGUE == RESIDUAL) {
    if (gated) {
      each([&](int row, long long, int column, int i, int h, int j) {
        float g[4];
        load4(gate_of(row) + column, g);
#pragma unroll
        for (int e = 0; e < 4; e++) sum(i, h, j, e) *= g[e];
      });
    }
    if (residual_out) {
      each([&](int, long long element, int, int i, int h, int j) {
        float r[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (p.accumulate_residual) load4(residual_out + element, r);
#pragma unroll
        for (int e = 0; e < 4; e++) r[e] += sum(i, h, j, e);
        store4(residual_out + element, r);
      });
    }
  }
  each([&](int, long long element, int, int i, int h, int j) {
    float y[4];
    if constexpr (EPILOGUE == RESIDUAL) load4(out + element, y);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if constexpr (EPILOGUE == BIAS) y[e] = sum(i, h, j, e);
      if constexpr (EPILOGUE == GELU) y[e] = gelu_tanh(sum(i, h, j, e));
      if constexpr (EPILOGUE == RESIDUAL) y[e] += sum(i, h, j, e);
    }
    store4(out + element, y);
  });
}

// ---- entries -------------------------------------------------------------------------------------------------------------------
#define LINEAR_TILES(NAME, D, LN, EPILOGUE)                                                                           \
  extern "C" __global__ void __launch_bounds__(LINEAR_128_THREADS, sizeof(D) == 2 ? 2 : 1)                            \
      NAME##_##D##_128(const LinearParams p) {                                                                        \
    linear<D, LN, EPILOGUE, LINEAR_128_M, LINEAR_128_N, 48, LINEAR_128_STAGES>(p);                                    \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(LINEAR_64_THREADS) NAME##_##D##_64(const LinearParams p) {             \
    linear<D, LN, EPILOGUE, LINEAR_64_M, LINEAR_64_N, 16, LINEAR_64_STAGES>(p);                                       \
  }
#define LINEAR_DTYPES(NAME, LN, EPILOGUE) \
  LINEAR_TILES(NAME, bf16, LN, EPILOGUE)  \
  LINEAR_TILES(NAME, f16, LN, EPILOGUE)   \
  LINEAR_TILES(NAME, f32, LN, EPILOGUE)

LINEAR_DTYPES(linear_bias, false, BIAS)
LINEAR_DTYPES(linear_gelu, false, GELU)
LINEAR_DTYPES(linear_residual, false, RESIDUAL)
LINEAR_DTYPES(linear_ln_bias, true, BIAS)
LINEAR_DTYPES(linear_ln_gelu, true, GELU)
