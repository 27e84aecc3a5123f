// linear: out[m,n] = epilogue(prologue(a)[m,k] . w[n,k]^T + bias[n]).
//
// Prologues   plain   a as it is
//             _ln     a' = (a - mean) * rstd * (1 + scale) + shift, mean and rstd by row (row_stats), scale and shift by
//                     (batch, variant of the frame) from the modulation table; in f32, rounded to D once
// Epilogues   bias      out = acc + bias
//             gelu      out = gelu_tanh(acc + bias)
//             residual  r = gate * (acc + bias); out += r; residual_out = r or += r (when given)
// All in f32 until the last rounding. Entries linear[_ln]_{bias,gelu,residual}_{bf16,f16,f32}_{256,128,64}; no _ln residual, no
// f32_256. linear_few.cu makes others of the same source: _{bf16,f16}_{few_128,few_96} without _ln, for
// products of few tiles.
//
// A CTA makes one TILE_M x TILE_N tile of out (blockIdx.x, n fastest: neighbours share the rows of a). 144 columns are two heads
// of 72 and divide every width of sprites and Open-Sora; 64 x 72 a warp needs 121 bytes of shared memory for each mma where an
// A100 gives 256 in the time of one:
//   _256  256 x 144, eight warps, 3 stages      one CTA an SM
//   _128  128 x 144, four warps (f32: eight of 32 x 72), 4 stages    two (f32: one)
//   _64    64 x  48, three warps of 64 x 16, 4 stages
//   _few_96    128 x 96, six warps of 64 x 32, 3 stages    two
// k advances by 64 bytes (32 elements of 16 bits, 16 of f32: two mma k-steps) through a ring of STAGES tiles in shared memory:
//
//   stage: a [TILE_M][64 B], w [TILE_N][64 B]; the four 16-byte chunks of row r at chunk ^ ((r >> 1) & 3): two rows fill the 128
//   bytes of banks, so that 8 rows x 16 bytes meet no bank twice; the second k-step is the first with bit 5 flipped.
//
//   w and plain a come by 16-byte cp.async; _ln a goes global -> registers (loaded one tile ahead) -> prologue -> shared.
//
// A thread keeps a pointer for each chunk it copies and moves it on by a tile: one or two instructions a chunk, where an address made anew
// takes three. Behind the end of k it copies zeros, so that the loop has no other test than its own.
//
// Software pipeline: fragments of a are double-buffered in registers: while a k-step multiplies, the next one's are loaded, across
// tiles too. One barrier a tile, in its last k-step, when its w fragments are already in registers: behind it the stage is free
// and takes the tile STAGES further on.
//
// The epilogue goes from registers to global memory. The rows of w are dealt out over the n-tiles of a warp so that a lane has 8 (f32: 4)
// neighbouring columns of out: 16 bytes a lane, 64 a row, whole sectors. Of the 72 columns of a warp 8 are left over: there a lane has two.
//
// Any m, n, k >= 1: rows outside are the last row again, chunks beyond k are zeros. If rows of a and w are not 16-byte aligned every
// element is loaded by itself, without a pipeline (uniform run-time choice), likewise the epilogue, from sums laid out in shared memory.
// The order of additions over k is fixed and the same in every tile: the same inputs give the same bits.
//
// Split k (_few): gridDim.y CTAs share a tile, each with whole stages of k that follow one another. Every one leaves its f32 sums in `partial`
// and counts itself in `arrived`; the last to come adds all of them up, the first part first, whoever came when, and has the epilogue. The
// counter wraps to zero for the next launch. Nobody waits. The sum has another order than the undivided one, and the same in every run.
//
// Launch: launch_tiles.h. Registers: up to 255 (_256 and _128), below 168 (_64); see ptx/manifest.json.
#include "params.h"
#include "launch_tiles.h"
#include "tile.cuh"

enum Epilogue { BIAS, GELU, RESIDUAL };

constexpr int K_CHUNKS = LINEAR_K_BYTES / 16; // 16-byte chunks of a row in one stage
constexpr int K_STEPS = LINEAR_K_BYTES / 32;  // mma k-steps
static_assert(K_STEPS == 2, "the two halves of the pipeline are written out");

extern __shared__ __align__(128) unsigned char dynamic_shared[];

// Byte offset of a chunk in a stage's [rows][LINEAR_K_BYTES] half.
__device__ __forceinline__ unsigned chunk_offset(int row, int chunk) {
  return row * LINEAR_K_BYTES + ((chunk ^ ((row >> 1) & (K_CHUNKS - 1))) << 4);
}

// A chunk's elements [0, valid) one by one into shared memory, zeros after.
template <class D> __device__ __forceinline__ void copy_elements(unsigned to, const D* from, int valid) {
#pragma unroll 1
  for (int c = 0; c < Chunk<D>::N; c++) store_shared(to + c * (int)sizeof(D), c < valid ? from[c] : D{});
}

// WARPS_M x WARPS_N warps, each with M_TILES x N_TILES mma tiles of 16 x 8.
template <class D, bool LN, int EPILOGUE, int WARPS_M, int WARPS_N, int M_TILES, int N_TILES, int STAGES, bool SPLIT = false>
__device__ __forceinline__ void linear(const LinearParams& p, float* partial = nullptr, unsigned* arrived = nullptr) {
  constexpr int WARP_M = 16 * M_TILES, WARP_N = 8 * N_TILES, TILE_M = WARPS_M * WARP_M, TILE_N = WARPS_N * WARP_N;
  constexpr int THREADS = 32 * WARPS_M * WARPS_N;
  constexpr int STAGE_BYTES = (TILE_M + TILE_N) * LINEAR_K_BYTES;
  constexpr int CHUNK = Chunk<D>::N;                  // elements of a chunk
  constexpr int K_TILE = K_CHUNKS * CHUNK;            // elements of k in a stage
  constexpr int K_STEP = 2 * CHUNK;                   // elements of k in a k-step
  constexpr int SLOT_ROWS = THREADS / K_CHUNKS;       // a thread loads one chunk of every SLOT_ROWS-th row
  constexpr int A_SLOTS = (TILE_M + SLOT_ROWS - 1) / SLOT_ROWS;
  constexpr int W_SLOTS = (TILE_N + SLOT_ROWS - 1) / SLOT_ROWS;
  // Of the n-tiles of a warp, groups whose columns are dealt out to the lanes by 16 bytes of out, and one that may be left over.
  constexpr int GROUP = N_TILES < CHUNK / 2 ? N_TILES : CHUNK / 2, GROUPS = N_TILES / GROUP, REST = N_TILES % GROUP;
  constexpr int GROUP_N = 8 * GROUP, GROUPED_N = WARPS_N * GROUPS * GROUP_N; // columns of a group; of all groups of the CTA
  static_assert(REST == 0 || (REST == 1 && WARPS_N == 2 && SLOT_ROWS % GROUP_N == 0), "the left over tiles of two warps lie side by side");
  static_assert(SLOT_ROWS % 8 == 0, "every slot has the same place in the swizzle");

  const D* const a = static_cast<const D*>(p.a);
  const D* const w = static_cast<const D*>(p.w);
  const int tiles_n = (p.n + TILE_N - 1) / TILE_N;
  const int m0 = blockIdx.x / tiles_n * TILE_M, n0 = blockIdx.x % tiles_n * TILE_N;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const unsigned shared = shared_address(dynamic_shared);

  // The column of out, in the tile, that belongs to row s of w in shared memory: groups first, then the tiles left over, which are the middle of
  // the tile. In a group the columns of a lane (2t, 2t + 1 of each n-tile) are neighbours.
  auto column_of = [](int s) {
    if (REST && s >= GROUPED_N) return s - GROUPED_N + GROUPED_N / 2;
    const int group = s / GROUP_N * GROUP_N, r = s % GROUP_N;
    return group + (REST && s >= GROUPED_N / 2 ? 16 : 0) + (r % 8 / 2) * (2 * GROUP) + r / 8 * 2 + r % 2;
  };

  // ---- loaders
  const int slot_row = tid / K_CHUNKS, slot_chunk = tid % K_CHUNKS;
  const bool vector = (p.k * sizeof(D)) % 16 == 0 && aligned(a, 16) && aligned(w, 16) &&
                      (!LN || (p.channels % 4 == 0 && aligned(p.modulation, 16)));
  const unsigned a_store = shared + chunk_offset(slot_row, slot_chunk);
  const unsigned w_store = a_store + TILE_M * LINEAR_K_BYTES;
  // What this thread's slots take next. Beyond the last row stands the last one again: what comes of it is not written.
  const D *a_from[A_SLOTS], *w_from[W_SLOTS];

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

  // Whether slot i of this thread lies in a tile of `rows` rows.
  auto slot_in = [&](int i, int rows) { return (i + 1) * SLOT_ROWS <= rows || slot_row + i * SLOT_ROWS < rows; };

  // Starts the loads of the next tile into the stage at offset `stage`; _ln: of w only. `left` elements of k are to be had, behind them are zeros.
  auto load_tile = [&](int left, unsigned stage) {
    const int bytes = slot_chunk * CHUNK < left ? 16 : 0;
    if constexpr (!LN) {
      unrolled<A_SLOTS>([&](auto i) {
        if (slot_in(i.value, TILE_M)) cp_async16<i.value * SLOT_ROWS * LINEAR_K_BYTES>(a_store + stage, a_from[i.value], bytes);
        a_from[i.value] += K_TILE;
        keep(a_from[i.value]);
      });
    }
    unrolled<W_SLOTS>([&](auto i) {
      if (slot_in(i.value, TILE_N)) cp_async16<i.value * SLOT_ROWS * LINEAR_K_BYTES>(w_store + stage, w_from[i.value], bytes);
      w_from[i.value] += K_TILE;
      keep(w_from[i.value]);
    });
  };
  // The same by elements, of the tile at k0, and not asynchronous.
  auto copy_tile = [&](int k0, unsigned stage) {
#pragma unroll 1
    for (int part = LN ? 1 : 0; part < 2; part++) {
      const unsigned to = (part ? w_store : a_store) + stage;
#pragma unroll 1
      for (int r = 0; slot_row + r < (part ? TILE_N : TILE_M); r += SLOT_ROWS) {
        const long long row = part ? min(n0 + column_of(slot_row + r), p.n - 1) : min(m0 + slot_row + r, p.m - 1);
        copy_elements(to + r * LINEAR_K_BYTES, (part ? w : a) + row * p.k + k0 + slot_chunk * CHUNK, p.k - k0 - slot_chunk * CHUNK);
      }
    }
  };
  auto fetch_a = [&](int left) {
    if constexpr (LN) {
      if (fast) {
#pragma unroll
        for (int i = 0; i < A_SLOTS; i++) {
          fetched[i] = make_uint4(0, 0, 0, 0);
          if (slot_chunk * CHUNK < left) fetched[i] = load_global16(a_from[i]);
          a_from[i] += K_TILE;
          keep(a_from[i]);
        }
      }
    }
  };
  // _ln: prologue of the fetched tile, into its stage. Beyond k stand the last columns again: w has zeros there.
  auto store_a = [&](int tile, unsigned stage) {
    if constexpr (LN) {
      const int k0 = tile * K_TILE + slot_chunk * CHUNK;
      if (fast) {
        const float* const scale_at = scale_row + min(k0, p.k - CHUNK);
        float scale[CHUNK], shift[CHUNK];
#pragma unroll
        for (int c = 0; c < CHUNK; c += 4) {
          float4 s = *reinterpret_cast<const float4*>(scale_at + c);
          float4 b = *reinterpret_cast<const float4*>(scale_at + shift_delta + c);
          scale[c] = 1.0f + s.x, scale[c + 1] = 1.0f + s.y, scale[c + 2] = 1.0f + s.z, scale[c + 3] = 1.0f + s.w;
          shift[c] = b.x, shift[c + 1] = b.y, shift[c + 2] = b.z, shift[c + 3] = b.w;
        }
        unrolled<A_SLOTS>([&](auto i) {
          if (!slot_in(i.value, TILE_M)) return;
          float x[CHUNK];
          Chunk<D>::unpack(fetched[i.value], x);
          const float2 row = load_shared8<i.value * SLOT_ROWS * 8>(stats + slot_row * 8);
#pragma unroll
          for (int c = 0; c < CHUNK; c++) x[c] = fmaf((x[c] - row.x) * row.y, scale[c], shift[c]);
          store_shared16<i.value * SLOT_ROWS * LINEAR_K_BYTES>(a_store + stage, Chunk<D>::pack(x));
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
            store_shared(a_store + stage + (r - slot_row) * LINEAR_K_BYTES + c * (int)sizeof(D), from_f32<D>(x));
          }
        }
      }
    }
  };

  // ---- main loop
  const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N;
  unsigned a_at = chunk_offset(warp_m + (lane & 15), lane >> 4);
  unsigned w_at = chunk_offset(warp_n * GROUPS * GROUP_N + ((lane >> 4) << 3) + (lane & 7), (lane >> 3) & 1) + TILE_M * LINEAR_K_BYTES;
  unsigned rest_from = chunk_offset(GROUPED_N + warp_n * 8 + (lane & 7), lane >> 3) + TILE_M * LINEAR_K_BYTES; // all chunks of the left over n-tile
  keep(a_at), keep(w_at), keep(rest_from);

  float acc[M_TILES][N_TILES][4];
#pragma unroll
  for (int i = 0; i < M_TILES; i++)
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.0f;

  unsigned fa[K_STEPS][M_TILES][4], fw[N_TILES][2], rest[4]; // raw fragments: of a and the left over tile for both k-steps, of w for the current one
  auto load_a = [&](auto step, unsigned stage) {
    const unsigned at = shared + stage + (a_at ^ (step.value * 32));
    unrolled<M_TILES>([&](auto i) { ldmatrix_x4<i.value * 16 * LINEAR_K_BYTES>(fa[step.value][i.value], at); });
  };
  auto load_w = [&](auto step, unsigned stage) {
    const unsigned at = shared + stage + (w_at ^ (step.value * 32));
    unrolled<N_TILES / 2>([&](auto j) {
      unsigned x[4];
      ldmatrix_x4<j.value * 16 * LINEAR_K_BYTES>(x, at);
      fw[2 * j.value][0] = x[0], fw[2 * j.value][1] = x[1];
      fw[2 * j.value + 1][0] = x[2], fw[2 * j.value + 1][1] = x[3];
    });
    if constexpr (REST && step.value == 0) ldmatrix_x4(rest, shared + stage + rest_from);
    if constexpr (REST) fw[N_TILES - 1][0] = rest[2 * step.value], fw[N_TILES - 1][1] = rest[2 * step.value + 1];
  };
  auto multiply = [&](auto step) {
    FragmentA<D> x[M_TILES];
#pragma unroll
    for (int i = 0; i < M_TILES; i++) x[i] = fragment_a<D>(fa[step.value][i]);
#pragma unroll
    for (int j = 0; j < N_TILES; j++) {
      const FragmentB<D> y = fragment_b<D>(fw[j][0], fw[j][1]);
#pragma unroll
      for (int i = 0; i < M_TILES; i++) mma(acc[i][j], x[i], y);
    }
  };

  // Tiles [first, tiles) of k. A last tile of one k-step is multiplied behind the loop.
  int first = 0, tiles = (p.k + K_TILE - 1) / K_TILE, steps = (p.k + K_STEP - 1) / K_STEP;
  if constexpr (SPLIT) {
    first = (long long)tiles * blockIdx.y / gridDim.y;
    tiles = (long long)tiles * (blockIdx.y + 1) / gridDim.y;
    steps = min(steps, 2 * tiles);
  }
  if (vector) {
    auto next = [](unsigned stage) { return stage == (STAGES - 1) * STAGE_BYTES ? 0u : stage + STAGE_BYTES; };
    int left = min(p.k, tiles * K_TILE) - first * K_TILE; // elements of k
    const int k0 = first * K_TILE + slot_chunk * CHUNK;
#pragma unroll
    for (int i = 0; i < A_SLOTS; i++) a_from[i] = a + (long long)min(m0 + slot_row + i * SLOT_ROWS, p.m - 1) * p.k + k0;
#pragma unroll
    for (int i = 0; i < W_SLOTS; i++) w_from[i] = w + (long long)min(n0 + column_of(slot_row + i * SLOT_ROWS), p.n - 1) * p.k + k0;
#pragma unroll 1
    for (int s = 0; s < STAGES; s++) {
      load_tile(left - s * K_TILE, s * STAGE_BYTES);
      cp_async_commit();
    }
    fetch_a(left);
    store_a(first, 0);
    fetch_a(left - K_TILE);
    cp_async_wait<STAGES - 1>();
    __syncthreads(); // tile 0 has landed
    load_a(Index<0>{}, 0);

    unsigned stage = 0;
    int tile = first;
#pragma unroll 1
    for (; left > K_STEP; left -= K_TILE) {
      const unsigned next_stage = next(stage);
      if constexpr (LN) { // first, while few fragments are held
        store_a(++tile, next_stage);
        fetch_a(left - 2 * K_TILE);
      }
      load_w(Index<0>{}, stage);
      load_a(Index<1>{}, stage);
      multiply(Index<0>{});
      load_w(Index<1>{}, stage);
      cp_async_wait<STAGES - 2>();
      __syncthreads(); // the next tile has landed for everyone, and everyone has read this one
      load_tile(left - STAGES * K_TILE, stage);
      cp_async_commit();
      load_a(Index<0>{}, next_stage);
      multiply(Index<1>{});
      stage = next_stage;
    }
    if (left > 0) { // a last k-step
      load_w(Index<0>{}, stage);
      multiply(Index<0>{});
    }
    cp_async_wait<0>(); // the zeros behind the last tile, for which nobody waited
  } else {
#pragma unroll 1
    for (int step = 2 * first; step < steps; step++) {
      if (step % 2 == 0) {
        __syncthreads(); // everyone has read the tile before
        copy_tile(step / 2 * K_TILE, 0);
        store_a(step / 2, 0);
        __syncthreads();
      }
      load_a(Index<0>{}, 0);
      load_w(Index<0>{}, 0);
      multiply(Index<0>{});
      a_at ^= 32, w_at ^= 32, rest_from ^= 32; // the other k-step
    }
  }

  // ---- the other parts of k
  if constexpr (SPLIT) {
    if (gridDim.y > 1) {
      // [tile][part][fragment][thread][4]
      float* const sums = partial + ((long long)blockIdx.x * gridDim.y * M_TILES * N_TILES * THREADS + tid) * 4;
      auto fragments = [&](unsigned part, auto body) {
        float* const at = sums + (long long)part * (M_TILES * N_TILES * THREADS * 4);
        unrolled<M_TILES>([&](auto i) {
          unrolled<N_TILES>([&](auto j) { body(acc[i.value][j.value], at + (i.value * N_TILES + j.value) * (THREADS * 4)); });
        });
      };
      fragments(blockIdx.y, [](float(&x)[4], float* at) { store_global16(at, x); });
      __syncthreads(); // everyone's sums are written, and everyone is done with the stages
      if (tid == 0) {
        // The counter is relaxed: the fences of the thread that counts order it. The first, behind the barrier, releases what all threads of the CTA
        // have written before the barrier (fences are cumulative); the second acquires it, and the barrier hands that on to all.
        __threadfence();
        const unsigned before = atomicInc(arrived + blockIdx.x, gridDim.y - 1);
        __threadfence();
        store_shared4(shared, before);
      }
      __syncthreads();
      if (load_shared4(shared) != gridDim.y - 1) return;
      fragments(0, [](float(&x)[4], const float* at) { load_global16(at, x); });
#pragma unroll 1
      for (unsigned part = 1; part < gridDim.y; part++) {
        fragments(part, [](float(&x)[4], const float* at) {
          float y[4];
          load_global16(at, y);
#pragma unroll
          for (int e = 0; e < 4; e++) x[e] += y[e];
        });
      }
      __syncthreads(); // the flag is read: the epilogue may use its place
    }
  }

  // ---- epilogue
  D* const out = static_cast<D*>(p.out);
  D* const residual_out = static_cast<D*>(p.residual_out);
  const D* const bias = static_cast<const D*>(p.bias);
  const bool gated = EPILOGUE == RESIDUAL && p.gate_chunk >= 0 && p.modulation;
  auto gate_of = [&](int row) {
    return p.modulation + modulation_offset(p.frame_mask, row, p.frames, p.rows_per_frame, p.variants, p.chunks, p.channels, p.gate_chunk);
  };
  const bool vector_out = p.n % CHUNK == 0 && aligned(out, 16) && aligned(bias, 16) &&
                          (EPILOGUE != RESIDUAL || aligned(residual_out, 16)) &&
                          (!gated || (p.channels % 4 == 0 && aligned(p.modulation, 16)));

  const int row0 = m0 + warp_m, column0 = n0 + warp_n * WARP_N, lane_row = lane >> 2, lane_column = lane & 3;
  // Columns of the warp: the left over tile of the first warp is its last, of the second its first.
  const int group_at = REST && warp_n ? 8 : 0, rest_at = REST && !warp_n ? WARP_N - 8 : 0;

  if (vector_out) {
    // Calls body(columns of the lane in the group, first of them in out, its first n-tile) for every group.
    auto groups = [&](auto body) {
      unrolled<GROUPS>([&](auto j) { body(Index<2 * GROUP>{}, column0 + group_at + j.value * GROUP_N + lane_column * 2 * GROUP, Index<j.value * GROUP>{}); });
      if constexpr (REST) body(Index<2>{}, column0 + rest_at + lane_column * 2, Index<N_TILES - 1>{});
    };
    if (bias) {
      groups([&](auto width, int column, auto n_tile) {
        if (column >= p.n) return;
        float b[width.value];
        load_run(bias + column, b);
#pragma unroll
        for (int i = 0; i < M_TILES; i++)
#pragma unroll
          for (int e = 0; e < 2 * width.value; e++) acc[i][n_tile.value + e / 4][e % 4] += b[e / 4 * 2 + e % 2];
      });
    }
    unrolled<2 * M_TILES>([&](auto r) { // 8 rows of the warp
      const int row = row0 + lane_row + 8 * r.value;
      if (row >= p.m) return;
      const float* gate = nullptr;
      if constexpr (EPILOGUE == RESIDUAL)
        if (gated) gate = gate_of(row);
      groups([&](auto width, int column, auto n_tile) {
        if (column >= p.n) return;
        constexpr int W = width.value;
        const long long element = (long long)row * p.n + column;
        float y[W];
#pragma unroll
        for (int e = 0; e < W; e++) {
          y[e] = acc[r.value / 2][n_tile.value + e / 2][r.value % 2 * 2 + e % 2];
          if constexpr (EPILOGUE == GELU) y[e] = gelu_tanh(y[e]);
        }
        if constexpr (EPILOGUE == RESIDUAL) {
          float x[W];
          if (gate) {
            load_run(gate + column, x);
#pragma unroll
            for (int e = 0; e < W; e++) y[e] *= x[e];
          }
          if (residual_out) {
#pragma unroll
            for (int e = 0; e < W; e++) x[e] = 0.0f;
            if (p.accumulate_residual) load_run(residual_out + element, x);
#pragma unroll
            for (int e = 0; e < W; e++) x[e] += y[e];
            store_run(residual_out + element, x);
          }
          load_run(out + element, x);
#pragma unroll
          for (int e = 0; e < W; e++) y[e] += x[e];
        }
        store_run(out + element, y);
      });
    });
    return;
  }

  // Element by element, 16 rows of the warp at a time from the sums laid out in shared memory.
  static_assert(WARPS_M * WARPS_N * 16 * WARP_N * 4 <= STAGES * STAGE_BYTES, "the sums lie in the stages");
  cp_async_wait<0>();
  __syncthreads(); // the stages are free
  const unsigned sums = shared + warp * (16 * WARP_N * 4), sums_lane = sums + lane_row * WARP_N * 4;
  unrolled<M_TILES>([&](auto i) {
    unrolled<N_TILES>([&](auto j) {
      const float(&x)[4] = acc[i.value][j.value];
      const int column = REST && j.value == N_TILES - 1 ? rest_at + lane_column * 2
                                                        : group_at + j.value / GROUP * GROUP_N + lane_column * 2 * GROUP + j.value % GROUP * 2;
      store_shared8(sums_lane + column * 4, x[0], x[1]);
      store_shared8<8 * WARP_N * 4>(sums_lane + column * 4, x[2], x[3]);
    });
    __syncwarp();
#pragma unroll 1
    for (int id = lane; id < 16 * WARP_N; id += 32) {
      const int row = row0 + i.value * 16 + id / WARP_N, column = column0 + id % WARP_N;
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
    __syncwarp();
  });
}

// ---- entries -------------------------------------------------------------------------------------------------------------------
#define LINEAR_256(NAME, D, LN, EPILOGUE)                                                                             \
  extern "C" __global__ void __launch_bounds__(LINEAR_256_THREADS, 1) NAME##_##D##_256(const LinearParams p) {        \
    linear<D, LN, EPILOGUE, 4, 2, 4, 9, LINEAR_256_STAGES>(p);                                                        \
  }
#define LINEAR_TILES(NAME, D, LN, EPILOGUE)                                                                           \
  extern "C" __global__ void __launch_bounds__(LINEAR_128_THREADS(sizeof(D)), sizeof(D) == 2 ? 2 : 1)                 \
      NAME##_##D##_128(const LinearParams p) {                                                                        \
    linear<D, LN, EPILOGUE, sizeof(D) == 2 ? 2 : 4, 2, sizeof(D) == 2 ? 4 : 2, 9, LINEAR_128_STAGES>(p);              \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(LINEAR_64_THREADS, 4) NAME##_##D##_64(const LinearParams p) {          \
    linear<D, LN, EPILOGUE, 1, 3, 4, 2, LINEAR_64_STAGES>(p);                                                         \
  }
#define LINEAR_FEW(NAME, D, EPILOGUE)                                                                                    \
  extern "C" __global__ void __launch_bounds__(LINEAR_128_THREADS(2), 2) NAME##_##D##_few_128(const LinearFewParams p) { \
    linear<D, false, EPILOGUE, 2, 2, 4, 9, LINEAR_128_STAGES, true>(p.product, p.partial, p.arrived);                    \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(LINEAR_96_THREADS, 2) NAME##_##D##_few_96(const LinearFewParams p) {      \
    linear<D, false, EPILOGUE, 2, 3, 4, 4, LINEAR_96_STAGES, true>(p.product, p.partial, p.arrived);                     \
  }
#ifdef ONE_ENTRY // for quick looks at the compiler's output
ONE_ENTRY
#else
#ifdef LINEAR_FEW_ENTRIES
// Without _ln: it asks L2 for twice as much in so small a tile, and has no register left in the larger one.
LINEAR_FEW(linear_bias, bf16, BIAS)
LINEAR_FEW(linear_bias, f16, BIAS)
LINEAR_FEW(linear_gelu, bf16, GELU)
LINEAR_FEW(linear_gelu, f16, GELU)
LINEAR_FEW(linear_residual, bf16, RESIDUAL)
LINEAR_FEW(linear_residual, f16, RESIDUAL)
#else
#define LINEAR_DTYPES(NAME, LN, EPILOGUE) \
  LINEAR_256(NAME, bf16, LN, EPILOGUE)    \
  LINEAR_256(NAME, f16, LN, EPILOGUE)     \
  LINEAR_TILES(NAME, bf16, LN, EPILOGUE)  \
  LINEAR_TILES(NAME, f16, LN, EPILOGUE)   \
  LINEAR_TILES(NAME, f32, LN, EPILOGUE)

LINEAR_DTYPES(linear_bias, false, BIAS)
LINEAR_DTYPES(linear_gelu, false, GELU)
LINEAR_DTYPES(linear_residual, false, RESIDUAL)
LINEAR_DTYPES(linear_ln_bias, true, BIAS)
LINEAR_DTYPES(linear_ln_gelu, true, GELU)
#endif
#endif
