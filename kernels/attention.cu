// attention: out = softmax(scale * q k^T) v, for every sequence and head; FlashAttention-2's schedule.
//
//   m' = max(m, max_j s_j),  p_j = 2^((s_j - m') scale log2 e),  l' = l 2^((m - m') scale log2 e) + sum_j p_j,
//   o' = o 2^((m - m') scale log2 e) + sum_j round_D(p_j) v_j,   out = o / l       (m, l, o, s in f32)
//
// q and k rows may first go through RMSNorm (weights of [head_dim], f32 inside) and then RoPE on interleaved pairs
// (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin) by position in the sequence; in f32, rounded to D once, after the load. Without RoPE
// `large` leaves k as it is: q takes the product of both norms' weights, and a score is multiplied by its key's 1/rms.
//
// Layout: row of token i of sequence s = (s / inner) * outer_stride + (s % inner) * inner_stride + i * step, element
// (row, head, d) at row * row_stride + head * head_dim + d. So spatial, temporal (strided, no copy) and cross (kv_lengths by
// sequence; 0 gives zeros) need no other layout. head_dim is a multiple of 8 and at most the HEAD_DIM of the entry: chunks beyond it
// are zeros. 16-bit types take HEAD_DIM/16 k-steps and one half k-step (m16n8k8) for a remainder of 8, so that 72 costs 72; f32
// HEAD_DIM/8 k-steps of 3xTF32.
//
// Entries attention_HEAD_DIM_DTYPE_KIND:
//   large  a CTA of four warps takes 128 queries (64 in f32 and for HEAD_DIM 96 and 128) of one sequence and head; each warp 32 (16) of
//          them, so that every fragment of K and V is used twice. Keys in tiles of 64 (f32: 16), K and V double-buffered by cp.async,
//          K normalized once a tile. In 16-bit types, without RoPE and for head_dim = HEAD_DIM, whole tiles that whole ones follow run in
//          a loop without any test of lengths or alignment and with one barrier a tile; all other tiles are masked.
//          grid (sequences * ceil(q_len / QUERIES), heads).
//   plain  as large, for 128 in 16-bit types with neither norm nor RoPE, whole rows on 16-byte boundaries: Wan, whose RMSNorm is over all
//          heads and has a pass of its own (norm.cu). A CTA of four warps takes 128 queries, each warp 32. Keys in tiles of 32, which
//          leaves registers for all of O and most of Q; the rest of Q stays in shared memory. Whole tiles run in a loop without a test,
//          the last one, whole or not, is masked behind it. grid (sequences * ceil(q_len / 128), heads).
//   short  at most 64 queries and keys: temporal attention, with many thousands of such sequences. A team of ceil(max(q_len, kv_len) / 16)
//          warps has one (sequence, head): each warp copies and norms 16 rows of q and of k, once, then its 16 queries attend to all keys.
//          A CTA has as many teams as there are in four warps; neighbours are the heads of one token, whose rows lie side by side.
//          grid ceil(sequences * heads / teams), 32 * team * teams threads.
//   biased as large, with a bias by head and distance from query to key added to q k: T5. HEAD_DIM 64 alone.
//   cross  K and V of the sequence and head stay in shared memory, eight warps walk over tiles of queries without another barrier. The copy
//          of a warp's next tile runs while it works on this one, whose rows are in registers by then; the fragments of the next are taken
//          before the results of this one go through the same rows. 16-bit, neither norm nor RoPE. grid (sequences * any number, heads).
// S and O stay in registers, Q too (f32 and a part of plain's: loaded again from shared memory for each tile).
//
// Shared memory: rows of an odd number of 16-byte chunks: no bank conflicts for ldmatrix, row-wise chunks and f32 V. large:
// [2 stages]([K, V][KEYS] rows, 1/rms of the keys as f32); Q lies in the second stage until it is in registers (f32: behind the stages);
// then the two norm weights as f32 [2][HEAD_DIM], where the keys are, and the last one's bias. plain: [2 stages]([K, V][32] rows), where Q lies
// first; the rest of Q as registers, [3 k-steps][2][128 threads] of 16 bytes; the last tile's length and bias. short: the weights, then for each
// team K, V, Q, of 16 rows for each of its warps. cross: K, V [kv_len in whole tiles], Q.
//
// Work follows the lengths: groups of 16 keys beyond the length are skipped; rows up to the next multiple of 16 are zero-filled,
// masked before the softmax. Any alignment: if rows are not 16-byte aligned, elements are copied one by one (uniform run-time
// choice). Deterministic: no atomics, a fixed order of additions.
//
// Launch: launch_tiles.h. Registers: at most 255, no spills; see ptx/manifest.json.
#include "params.h"
#include "launch_tiles.h"
#include "tile.cuh"

extern __shared__ __align__(16) unsigned char dynamic_shared[];

enum Kind { LARGE, PLAIN, SHORT, CROSS };

__device__ __forceinline__ long long sequence_row(const SequenceLayout& layout, int sequence) {
  return (long long)(sequence / layout.inner) * layout.outer_stride + (long long)(sequence % layout.inner) * layout.inner_stride;
}

template <class D, int HEAD_DIM, Kind KIND, bool BIASED = false> struct Attention {
  static constexpr bool SIXTEEN = sizeof(D) == 2;
  static constexpr bool STREAMED = KIND == LARGE || KIND == PLAIN; // keys come tile by tile
  static constexpr int M_TILES = KIND == PLAIN || (KIND != SHORT && SIXTEEN && HEAD_DIM <= 72) ? 2 : 1; // of 16 queries, for each warp
  static constexpr int WARPS = KIND == CROSS ? 8 : 4;
  static constexpr int TEAM = KIND == SHORT ? 32 : 32 * WARPS;   // threads that copy and clear rows together
  static constexpr int KEYS = !SIXTEEN || KIND == SHORT ? 16 : KIND == LARGE ? 64 : 32; // of a tile
  static constexpr int STAGES = 2;                               // of tiles, STREAMED
  static constexpr int WARP_QUERIES = 16 * M_TILES;
  static constexpr int QUERIES = KIND == SHORT ? 16 : WARP_QUERIES * WARPS;
  static constexpr int CHUNK = Chunk<D>::N;
  static constexpr int CHUNKS = HEAD_DIM / CHUNK;          // 16-byte chunks of a row
  static constexpr int ROW = (CHUNKS | 1) * 16;            // bytes from row to row in shared memory
  static constexpr int STEPS = CHUNKS / 2;                 // whole k-steps of q k^T
  static constexpr bool HALF_STEP = CHUNKS % 2 != 0;
  static constexpr int GROUPS = KEYS / 16;                 // groups of 16 keys in a tile
  static constexpr int D_TILES = HEAD_DIM / 8;             // n-tiles of O
  static constexpr int INVERSE_AT = 2 * KEYS * ROW;        // in a stage: behind K and V, LARGE
  static constexpr int STAGE = INVERSE_AT + (KIND == LARGE ? 4 * KEYS : 0);
  // Q shares a stage with a tile, and whole tiles have a loop of their own: see Copies.
  static constexpr bool WHOLE_TILES = STREAMED && SIXTEEN && !BIASED;
  static constexpr int Q_AT = KIND == PLAIN ? 0 : WHOLE_TILES ? STAGE : STAGES * STAGE;
  static constexpr int WEIGHTS_AT = STAGES * STAGE + (WHOLE_TILES ? 0 : QUERIES * ROW);
  // PLAIN: k-steps of Q that stay in shared memory, and the bytes of one.
  static constexpr int PARKED = KIND == PLAIN ? ATTENTION_PLAIN_PARKED : 0, PARK = 16 * TEAM * M_TILES;
  static constexpr int PARKED_AT = STAGES * STAGE;
  static constexpr int SOURCE_AT = KIND == PLAIN ? PARKED_AT + PARKED * PARK : WEIGHTS_AT + 8 * HEAD_DIM;
  static constexpr int SHARED = SOURCE_AT + (KIND == PLAIN ? 16 : 48); // STREAMED
  static_assert(HEAD_DIM % 8 == 0 && (!WHOLE_TILES || QUERIES * ROW <= STAGES * STAGE - Q_AT), "tile");

  // Copies rows [0, rows) of a tile of ROWS and zero-fills the others, by THREADS threads. `from`: the tile's first row of this head,
  // `stride`: elements between rows, `chunks`: of head_dim. Asynchronous when `vector`.
  template <int ROWS, int THREADS>
  static __device__ __forceinline__ void load_rows(unsigned to, const D* from, long long stride, int rows, int chunks, bool vector) {
    const int thread = threadIdx.x % THREADS;
    if (vector) {
      constexpr int PASS = THREADS / CHUNKS; // rows the threads copy at once, each its chunk
      const int row = thread / CHUNKS, chunk = thread % CHUNKS;
      if (row >= PASS) return;
      const D* source = from + row * stride + chunk * CHUNK;
      const unsigned at = to + row * ROW + chunk * 16;
      const int left = chunk < chunks ? rows - row : 0;
      unrolled<(ROWS + PASS - 1) / PASS>([&](auto i) {
        constexpr int first = i.value * PASS;
        if (first + PASS <= ROWS || row + first < ROWS) cp_async16<first * ROW>(at, source, first < left ? 16 : 0);
        source += PASS * stride;
      });
    } else {
      const int head_dim = chunks * CHUNK;
#pragma unroll 1
      for (int id = thread; id < ROWS * HEAD_DIM; id += THREADS) {
        const int row = id / HEAD_DIM, d = id % HEAD_DIM;
        store_shared(to + row * ROW + d * (int)sizeof(D), row < rows && d < head_dim ? from[row * stride + d] : D{});
      }
    }
  }

  // The same bits in every kernel and path.
  static __device__ __forceinline__ float inverse_of(int head_dim) { return head_dim == HEAD_DIM ? 1.0f / HEAD_DIM : reciprocal((float)head_dim); }
  // 1/rms of each of 16 rows into f32 [16] at `to`. Lane l has row l%16, its even or odd chunks.
  static __device__ __forceinline__ void inverse_rms(unsigned tile, unsigned to, int head_dim, float eps) {
    const int lane = threadIdx.x & 31;
    const unsigned at = tile + (lane & 15) * ROW + (lane >> 4) * 16;
    float squares = 0.0f;
    unrolled<(CHUNKS + 1) / 2>([&](auto i) { // the odd lanes have one less when CHUNKS is odd
      uint4 raw = make_uint4(0, 0, 0, 0);
      if (2 * i.value + 1 < CHUNKS || lane < 16) raw = load_shared16<i.value * 32>(at);
      float x[CHUNK];
      Chunk<D>::unpack(raw, x);
#pragma unroll
      for (int c = 0; c < CHUNK; c++) squares = fmaf(x[c], x[c], squares);
    });
    squares += shuffle_xor(squares, 16);
    if (lane < 16) store_shared<float>(to + lane * 4, rsqrt_fast(fmaf(squares, inverse_of(head_dim), eps)));
  }

  // RMSNorm and RoPE of 16 rows in place. Lanes as above. `tile`: the first row, `rows`: how many of the 16 there are, `weights`: shared
  // f32 [HEAD_DIM], ones without a norm. `position`: of the first row.
  static __device__ __forceinline__ void normalize_rows(unsigned tile, int rows, unsigned weights, bool norm, float eps, const float* rope,
                                                        int position, int head_dim) {
    const int lane = threadIdx.x & 31, row = lane & 15, odd = lane >> 4;
    const unsigned at = tile + row * ROW;
    float squares = 0.0f;
    // All lanes go through all passes; an odd lane that has none left goes over its first chunk again, for nothing.
#pragma unroll 1
    for (int i = odd; i < CHUNKS + odd; i += 2) {
      const bool inside = i < CHUNKS;
      float x[CHUNK], sum = squares;
      Chunk<D>::unpack(load_shared16(at + (inside ? i : odd) * 16), x);
#pragma unroll
      for (int c = 0; c < CHUNK; c++) sum = fmaf(x[c], x[c], sum);
      if (inside) squares = sum;
    }
    squares += shuffle_xor(squares, 16);
    if (row >= rows) return; // zero-filled or outside: stays as it is
    const float inverse = norm ? rsqrt_fast(fmaf(squares, inverse_of(head_dim), eps)) : 1.0f;
    const float* const angles = rope + (long long)(position + row) * head_dim;
    const bool vector = aligned(rope, 16);
    const int chunks = head_dim / CHUNK;
#pragma unroll 1
    for (int i = odd; i < chunks + odd; i += 2) {
      const bool inside = i < chunks;
      const int chunk = inside ? i : odd;
      float x[CHUNK];
      Chunk<D>::unpack(load_shared16(at + chunk * 16), x);
      unrolled<CHUNK / 4>([&](auto j) {
        constexpr int c = 4 * j.value;
        const uint4 w = load_shared16<c * 4>(weights + chunk * (CHUNK * 4));
        x[c] *= inverse * float_of(w.x);
        x[c + 1] *= inverse * float_of(w.y);
        x[c + 2] *= inverse * float_of(w.z);
        x[c + 3] *= inverse * float_of(w.w);
        if (rope) {
          const float* const from = angles + (inside ? i : 0) * CHUNK + c;
          float angle[4]; // cos, sin, cos, sin
          if (vector) {
            load_run(from, angle);
          } else {
#pragma unroll
            for (int e = 0; e < 4; e++) angle[e] = from[e];
          }
#pragma unroll
          for (int e = 0; e < 4; e += 2) {
            const float x0 = x[c + e], x1 = x[c + e + 1];
            x[c + e] = x0 * angle[e] - x1 * angle[e + 1];
            x[c + e + 1] = x1 * angle[e] + x0 * angle[e + 1];
          }
        }
      });
      if (inside) store_shared16(at + chunk * 16, Chunk<D>::pack(x));
    }
  }

  struct Place;
  // What the main loop does to a whole tile of keys before its products: LANES lanes have a key, and each takes every LANES-th of its chunks.
  // They copy them and find the key's 1/rms from what they copied themselves, so that one barrier a tile is enough. For an odd number of
  // chunks the first is left out at one end, so that two lanes read a whole sector of 32 bytes. The keys of eight lanes, two or four apart,
  // meet no bank twice.
  struct Copies {
    static constexpr int LANES = TEAM / KEYS;
    static constexpr int STEP = LANES * 16; // bytes from pass to pass
    static constexpr int PASSES = CHUNKS / LANES + CHUNKS % LANES;
    const D* from;         // this lane's first chunk in the next tile
    long long v_bytes;     // from there to its value
    long long tile_bytes;  // from tile to tile
    unsigned to;           // in the first stage
    int chunk;             // of the first pass: -1, 0, ...
    int left;              // keys from this lane's of the next tile on

    // The first tile is `tile`.
    __device__ __forceinline__ Copies(const AttentionParams& p, unsigned shared, const Place& place, int tile) {
      static_assert(!WHOLE_TILES || LANES == 2 || (LANES == 4 && CHUNKS % 4 == 0), "lanes of a key");
      const D* const row = place.k + ((long long)tile * KEYS + key()) * place.kv_stride;
      chunk = (int)(threadIdx.x % LANES) - (CHUNKS % LANES != 0 && !aligned(row, 32));
      from = row + chunk * CHUNK;
      v_bytes = k_to_v(p) * (long long)sizeof(D);
      tile_bytes = KEYS * place.kv_stride * (long long)sizeof(D);
      to = shared + key() * ROW + chunk * 16;
      left = place.kv_len - tile * KEYS - key();
      keep(from), keep(to), keep(chunk);
    }
    static __device__ __forceinline__ int key() { // of the tile
      const int team = threadIdx.x / LANES;
      return LANES == 2 ? (team & ~7) + (team & 3) * 2 + ((team >> 2) & 1) : (team & ~7) + (team & 1) * 4 + ((team >> 1) & 3);
    }
    template <int I> __device__ __forceinline__ bool has(Index<I>) const { // a chunk in pass I
      return CHUNKS % LANES == 0 || ((I > 0 || chunk >= 0) && (I < PASSES - 1 || chunk <= 0));
    }
    // Starts the copies of the next tile: a whole one, or, PLAIN, with zeros for keys that there are not.
    __device__ __forceinline__ void load(unsigned stage) {
      const char *k = reinterpret_cast<const char*>(from), *v = k + v_bytes;
      unrolled<PASSES>([&](auto i) {
        if (!has(i)) return;
        if constexpr (KIND == PLAIN) {
          cp_async16<i.value * STEP, i.value * STEP>(to + stage, k, left > 0 ? 16 : 0);
          cp_async16<KEYS * ROW + i.value * STEP, i.value * STEP>(to + stage, v, left > 0 ? 16 : 0);
        } else {
          cp_async16<i.value * STEP, i.value * STEP>(to + stage, k);
          cp_async16<KEYS * ROW + i.value * STEP, i.value * STEP>(to + stage, v);
        }
      });
      left -= KEYS;
      from = reinterpret_cast<const D*>(k + tile_bytes);
      keep(from);
    }
    // 1/rms of the keys of a tile whose copies by this thread have landed. LARGE.
    __device__ __forceinline__ void inverse_rms(unsigned shared, unsigned stage, float eps) const {
      float squares = 0.0f;
      unrolled<PASSES>([&](auto i) {
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (has(i)) raw = load_shared16<i.value * STEP>(to + stage);
        float x[CHUNK];
        Chunk<D>::unpack(raw, x);
#pragma unroll
        for (int c = 0; c < CHUNK; c++) squares = fmaf(x[c], x[c], squares);
      });
      squares += shuffle_xor(squares, 1);
      if ((threadIdx.x & 1) == 0) store_shared<float>(shared + stage + INVERSE_AT + key() * 4, rsqrt_fast(fmaf(squares, inverse_of(HEAD_DIM), eps)));
    }
  };

  // 16 rows of Q as operand A: held in registers for 16-bit types, loaded again for every use in f32.
  struct Query {
    static constexpr int HELD = SIXTEEN ? STEPS - PARKED : 1;
    FragmentA<D> step[HELD];
    unsigned half[2];
    unsigned at; // this lane's ldmatrix address, or that of its parked registers
    __device__ __forceinline__ void load() {
      if constexpr (SIXTEEN) {
        unrolled<HELD>([&](auto s) { step[s.value] = fragment<s.value>(); });
        if constexpr (HALF_STEP) ldmatrix_x2<STEPS * 32>(half, at); // lanes 0-15: rows 0-15, the last chunk
      }
    }
    template <int STEP> __device__ __forceinline__ FragmentA<D> fragment() const {
      unsigned x[4];
      ldmatrix_x4<STEP * 32>(x, at);
      return fragment_a<D>(x);
    }
    template <int STEP> __device__ __forceinline__ FragmentA<D> get() const {
      if constexpr (!SIXTEEN) return fragment<STEP>();
      else if constexpr (STEP < HELD) return step[STEP];
      else {
        const uint4 x = load_shared16<(STEP - HELD) * PARK>(at);
        return {{x.x, x.y, x.z, x.w}};
      }
    }
    // The last PARKED fragments go to shared memory, for which there are no registers.
    __device__ __forceinline__ void park(unsigned to) {
      unrolled<PARKED>([&](auto i) {
        const FragmentA<D> f = fragment<HELD + i.value>();
        store_shared16<i.value * PARK>(to, make_uint4(f.x[0], f.x[1], f.x[2], f.x[3]));
      });
      at = to;
    }
  };

  // Where the rows of one sequence and head are.
  struct Place {
    const D *q, *k; // v is as far from k as p.v from p.k
    long long q_stride, kv_stride;
    bool vector_q, vector_kv;
    int kv_len;

    __device__ __forceinline__ Place(const AttentionParams& p, int sequence, int head) {
      const long long head_at = (long long)head * p.head_dim;
      const long long kv_at = sequence_row(p.kv_layout, sequence) * p.kv_layout.row_stride + head_at;
      q = static_cast<const D*>(p.q) + sequence_row(p.q_layout, sequence) * p.q_layout.row_stride + head_at;
      k = static_cast<const D*>(p.k) + kv_at;
      q_stride = p.q_layout.step * p.q_layout.row_stride;
      kv_stride = p.kv_layout.step * p.kv_layout.row_stride;
      vector_q = aligned(p.q, 16) && p.q_layout.row_stride % CHUNK == 0;
      vector_kv = aligned(p.k, 16) && aligned(p.v, 16) && p.kv_layout.row_stride % CHUNK == 0;
      kv_len = p.kv_lengths ? min(p.kv_lengths[sequence], p.kv_len) : p.kv_len;
    }
  };
  // A head's bias by distance from query to key; beyond the span, where nothing is kept, that of its end.
  struct Bias {
    const float* middle = nullptr;
    int most = 0;
    __device__ __forceinline__ float at(int distance) const { return middle[max(-most, min(most, distance))]; }
  };
  static __device__ __forceinline__ Bias bias_of(const AttentionParams& p, int head) {
    Bias bias;
    if constexpr (BIASED) bias.most = p.bias_span - 1, bias.middle = p.bias + (long long)head * (2 * p.bias_span - 1) + bias.most;
    return bias;
  }
  // What the score of the sequence's last key gets, before the scale.
  static __device__ __forceinline__ float last_bias(const AttentionParams& p, int sequence) {
    return p.last_bias ? p.last_bias[sequence] / p.scale : 0.0f;
  }
  // Elements from a key to its value.
  static __device__ __forceinline__ long long k_to_v(const AttentionParams& p) { return static_cast<const D*>(p.v) - static_cast<const D*>(p.k); }
  // Which tile of queries this CTA has, STREAMED. Asked again behind the main loop, which has no register to keep it in: reads that the compiler
  // cannot take together.
  struct Item {
    int sequence, head, q0, warp;

    __device__ __forceinline__ Item(const AttentionParams& p) {
      int x, y, thread;
      asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
      asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
      asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
      const int tiles = (p.q_len + QUERIES - 1) / QUERIES;
      head = y, warp = thread >> 5;
      sequence = x / tiles, q0 = x % tiles * QUERIES;
    }
    // Queries from this warp's first on; not positive: this warp only helps with the keys.
    __device__ __forceinline__ int rows(const AttentionParams& p) const { return min(p.q_len - q0, QUERIES) - warp * WARP_QUERIES; }
  };
  // Where the results go. Found behind the main loop, which has no register to spare.
  struct Output {
    D* out;
    long long stride;
    bool vector;

    __device__ __forceinline__ Output(const AttentionParams& p, int sequence, int head, int q0) {
      stride = p.out_layout.step * p.out_layout.row_stride;
      out = static_cast<D*>(p.out) + sequence_row(p.out_layout, sequence) * p.out_layout.row_stride + (long long)head * p.head_dim + q0 * stride;
      vector = aligned(p.out, 16) && p.out_layout.row_stride % CHUNK == 0;
    }
    // Nothing to attend to: zeros in the first `rows` rows.
    __device__ __forceinline__ void clear(int rows, int head_dim) const {
#pragma unroll 1
      for (int id = threadIdx.x % TEAM; id < rows * head_dim; id += TEAM) out[id / head_dim * stride + id % head_dim] = D{};
    }
  };

  // A warp's queries and what it knows of them so far.
  struct State {
    Query query[M_TILES];
    float o[M_TILES][D_TILES][4];
    float maximum[M_TILES][2], sum[M_TILES][2]; // of rows g and g+8; sum: of this lane's columns only
    unsigned k_lane, v_lane; // this lane's part of the ldmatrix addresses

    // `q_at`: the warp's rows of Q in shared memory.
    __device__ __forceinline__ State(unsigned q_at) {
      const int lane = threadIdx.x & 31;
      // K as B of two n-tiles, V transposed as B of one k-step and two n-tiles (f32: plain loads).
      k_lane = ((lane >> 4 << 3) + (lane & 7)) * ROW + ((lane >> 3) & 1) * 16;
      v_lane = SIXTEEN ? (lane & 15) * ROW + (lane >> 4) * 16 : 2 * (lane & 3) * ROW + (lane >> 2) * 4;
#pragma unroll
      for (int m = 0; m < M_TILES; m++) query[m].at = q_at + (16 * m + (lane & 15)) * ROW + (lane >> 4) * 16;
    }
    // Takes the rows of Q that now lie in shared memory.
    __device__ __forceinline__ void load() {
#pragma unroll
      for (int m = 0; m < M_TILES; m++) query[m].load();
    }
    // Starts on the queries taken last.
    __device__ __forceinline__ void start() {
#pragma unroll
      for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int j = 0; j < D_TILES; j++) o[m][j][0] = o[m][j][1] = o[m][j][2] = o[m][j][3] = 0.0f;
        maximum[m][0] = maximum[m][1] = float_of(0xff800000u); // -inf
        sum[m][0] = sum[m][1] = 0.0f;
      }
    }

    // s = q k^T for 16 keys (two n-tiles) whose first row is AT bytes into the tile.
    template <int AT> __device__ __forceinline__ void scores(float (&s)[M_TILES][2 * GROUPS][4], int n, unsigned k_tile) const {
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[m][n][e] = s[m][n + 1][e] = 0.0f;
      unrolled<STEPS>([&](auto step) {
        unsigned x[4];
        ldmatrix_x4<AT + step.value * 32>(x, k_tile + k_lane);
        const FragmentB<D> k0 = fragment_b<D>(x[0], x[1]), k1 = fragment_b<D>(x[2], x[3]);
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          const FragmentA<D> q = query[m].template get<step.value>();
          mma(s[m][n], q, k0);
          mma(s[m][n + 1], q, k1);
        }
      });
      if constexpr (HALF_STEP) {
        unsigned x[2];
        ldmatrix_x2<AT + STEPS * 32>(x, k_tile + v_lane); // lanes 0-15: keys 0-15
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          mma_half<D>(s[m][n], query[m].half, x[0]);
          mma_half<D>(s[m][n + 1], query[m].half, x[1]);
        }
      }
    }

    // o += p v for 16 keys whose first row is AT bytes into the tile; p: n-tiles n and n+1 of s.
    template <int AT> __device__ __forceinline__ void weigh_values(const float (&s)[M_TILES][2 * GROUPS][4], int n, unsigned v_tile) {
      const unsigned v_at = v_tile + v_lane;
      if constexpr (SIXTEEN) {
        FragmentA<D> p[M_TILES];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          p[m].x[0] = pack2<D>(s[m][n][0], s[m][n][1]);
          p[m].x[1] = pack2<D>(s[m][n][2], s[m][n][3]);
          p[m].x[2] = pack2<D>(s[m][n + 1][0], s[m][n + 1][1]);
          p[m].x[3] = pack2<D>(s[m][n + 1][2], s[m][n + 1][3]);
        }
        unrolled<D_TILES / 2>([&](auto j) {
          unsigned x[4];
          ldmatrix_x4_trans<AT + j.value * 32>(x, v_at);
#pragma unroll
          for (int m = 0; m < M_TILES; m++) {
            mma(o[m][2 * j.value], p[m], fragment_b<D>(x[0], x[1]));
            mma(o[m][2 * j.value + 1], p[m], fragment_b<D>(x[2], x[3]));
          }
        });
        if constexpr (D_TILES % 2 != 0) {
          unsigned x[2];
          ldmatrix_x2_trans<AT + D_TILES / 2 * 32>(x, v_at); // lanes 0-15: keys 0-15, the last chunk
#pragma unroll
          for (int m = 0; m < M_TILES; m++) mma(o[m][D_TILES - 1], p[m], fragment_b<D>(x[0], x[1]));
        }
      } else {
        // k slots t and t+4 stand for keys 2t and 2t+1 in both operands: P's fragment needs no exchange between lanes.
        const float(&p0)[4] = s[0][n], (&p1)[4] = s[0][n + 1];
        const unsigned raw0[4] = {bits_of(p0[0]), bits_of(p0[2]), bits_of(p0[1]), bits_of(p0[3])};
        const unsigned raw1[4] = {bits_of(p1[0]), bits_of(p1[2]), bits_of(p1[1]), bits_of(p1[3])};
        const FragmentA<D> a0 = fragment_a<D>(raw0), a1 = fragment_a<D>(raw1);
        unrolled<D_TILES>([&](auto j) {
          mma(o[0][j.value], a0, fragment_b<D>(load_shared4<AT + j.value * 32>(v_at), load_shared4<AT + ROW + j.value * 32>(v_at)));
          mma(o[0][j.value], a1, fragment_b<D>(load_shared4<AT + 8 * ROW + j.value * 32>(v_at), load_shared4<AT + 9 * ROW + j.value * 32>(v_at)));
        });
      }
    }

    // One tile of keys. MASKED: only `keys` of them count, at least one, and the last one's score gets `last` added; else all. `scale`
    // includes log2 e. LARGE: scores are multiplied by the f32 [KEYS] behind K and V. BIASED: `distance` is that from the warp's first query
    // to the tile's first key.
    template <bool MASKED>
    __device__ __forceinline__ void attend(unsigned k_tile, unsigned v_tile, int keys, float scale, float last = 0.0f, const Bias& bias = {}, int distance = 0) {
      const int lane = threadIdx.x & 31;
      float s[M_TILES][2 * GROUPS][4];
      float top[M_TILES][2];
#pragma unroll
      for (int m = 0; m < M_TILES; m++) top[m][0] = maximum[m][0], top[m][1] = maximum[m][1];
      unrolled<GROUPS>([&](auto group) {
        constexpr int n = 2 * group.value;
        if (MASKED && group.value > 0 && group.value * 16 >= keys) return;
        scores<group.value * 16 * ROW>(s, n, k_tile);
        if constexpr (KIND == LARGE) {
          const unsigned inverse = k_tile + (lane & 3) * 8;
          const float2 left = load_shared8<INVERSE_AT + group.value * 64>(inverse), right = load_shared8<INVERSE_AT + group.value * 64 + 32>(inverse);
#pragma unroll
          for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] *= e & 1 ? left.y : left.x, s[m][n + 1][e] *= e & 1 ? right.y : right.x;
        }
        if constexpr (BIASED) {
          const int from = distance + group.value * 16 + 2 * (lane & 3) - (lane >> 2);
#pragma unroll
          for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              const int to = from - 16 * m + (e & 1) - 8 * (e >> 1);
              s[m][n][e] += bias.at(to), s[m][n + 1][e] += bias.at(to + 8);
            }
        }
        if (MASKED) {
          const int left = keys - group.value * 16 - 2 * (lane & 3); // columns of this lane: 0, 1, 8, 9
#pragma unroll
          for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              s[m][n][e] = (e & 1) >= left ? float_of(0xff800000u) : s[m][n][e] + ((e & 1) + 1 == left ? last : 0.0f);
              s[m][n + 1][e] = (e & 1) + 8 >= left ? float_of(0xff800000u) : s[m][n + 1][e] + ((e & 1) + 9 == left ? last : 0.0f);
            }
        }
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
          for (int e = 0; e < 4; e++) top[m][e >> 1] = fmaxf(top[m][e >> 1], fmaxf(s[m][n][e], s[m][n + 1][e]));
      });
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          top[m][h] = quad_max(top[m][h]);
          const float decay = exp2_fast((maximum[m][h] - top[m][h]) * scale); // of the first tile: 0
          maximum[m][h] = top[m][h];
          sum[m][h] *= decay;
#pragma unroll
          for (int j = 0; j < D_TILES; j++) o[m][j][2 * h] *= decay, o[m][j][2 * h + 1] *= decay;
        }
      // P = 2^(S scale - shift), O += P V
      unrolled<GROUPS>([&](auto group) {
        constexpr int n = 2 * group.value;
        if (MASKED && group.value > 0 && group.value * 16 >= keys) return;
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          const float shift[2] = {top[m][0] * scale, top[m][1] * scale};
#pragma unroll
          for (int i = n; i < n + 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              s[m][i][e] = exp2_fast(fmaf(s[m][i][e], scale, -shift[e >> 1]));
              sum[m][e >> 1] += s[m][i][e];
            }
        }
        weigh_values<group.value * 16 * ROW>(s, n, v_tile);
      });
    }

    // All keys, which lie in shared memory, tile by tile.
    __device__ __forceinline__ void attend_all(unsigned k_at, unsigned v_at, int kv_len, float scale, const AttentionParams& p, int sequence) {
      // The last key's own bias needs the masked way.
      const int left = p.last_bias ? (kv_len - 1) % KEYS + 1 : kv_len % KEYS, whole = kv_len - left;
#pragma unroll 1
      for (int key0 = 0; key0 < whole; key0 += KEYS) attend<false>(k_at + key0 * ROW, v_at + key0 * ROW, KEYS, scale);
      if (left) attend<true>(k_at + whole * ROW, v_at + whole * ROW, left, scale, last_bias(p, sequence));
    }

    // out = o / l for the first `rows` queries, through the warp's own rows at `staging` so that stores are 16 bytes wide.
    __device__ __forceinline__ void finish(unsigned staging, const Output& to, int rows, int chunks) {
      D* const out = to.out;
      const long long stride = to.stride;
      const int lane = threadIdx.x & 31;
      const unsigned o_at = staging + (lane >> 2) * ROW + (lane & 3) * 2 * (int)sizeof(D);
      unrolled<M_TILES>([&](auto m) {
        constexpr int rows_at = decltype(m)::value * 16 * ROW;
        const float inverse[2] = {reciprocal(quad_sum(sum[m.value][0])), reciprocal(quad_sum(sum[m.value][1]))};
        unrolled<D_TILES>([&](auto j) {
          constexpr int at = rows_at + decltype(j)::value * 8 * (int)sizeof(D);
          const float(&x)[4] = o[m.value][j.value];
          store_pair<at>(o_at, x[0] * inverse[0], x[1] * inverse[0]);
          store_pair<at + 8 * ROW>(o_at, x[2] * inverse[1], x[3] * inverse[1]);
        });
      });
      __syncwarp();
      if (to.vector) {
#pragma unroll
        for (int i = 0; i < (WARP_QUERIES * CHUNKS + 31) / 32; i++) {
          const int id = lane + 32 * i, row = id / CHUNKS, chunk = id % CHUNKS;
          if (row < rows && chunk < chunks) store_global16(out + row * stride + chunk * CHUNK, load_shared16(staging + row * ROW + chunk * 16));
        }
      } else {
        const int head_dim = chunks * CHUNK;
#pragma unroll 1
        for (int id = lane; id < rows * head_dim; id += 32) {
          const int row = id / head_dim, d = id % head_dim;
          out[row * stride + d] = load_shared<D>(staging + row * ROW + d * (int)sizeof(D));
        }
      }
    }
    // Two neighbouring elements into shared memory.
    template <int AT> static __device__ __forceinline__ void store_pair(unsigned at, float x, float y) {
      if constexpr (SIXTEEN) store_shared4<AT>(at, pack2<D>(x, y));
      else store_shared8<AT>(at, bits_of(x), bits_of(y));
    }
  };

  // LARGE: one tile of queries.
  static __device__ __forceinline__ void run(const AttentionParams& p) {
    const Item item(p);
    const int q0 = item.q0, warp = item.warp, chunks = p.head_dim / CHUNK;
    const unsigned shared = shared_address(dynamic_shared);
    const int q_rows = min(p.q_len - q0, QUERIES);
    const Place place(p, item.sequence, item.head);
    if (place.kv_len <= 0) return Output(p, item.sequence, item.head, q0).clear(q_rows, p.head_dim);

    // What is done to q, to k in place, and to the scores instead.
    const bool score_norm = p.k_norm && !p.rope;
    const bool touch_k = !score_norm && (p.k_norm || p.rope), touch_q = p.q_norm || p.rope || score_norm;
    // Whole tiles followed by whole ones, which the main loop takes.
    int plain = WHOLE_TILES && place.vector_kv && chunks == CHUNKS && !touch_k ? max(place.kv_len / KEYS - 1, 0) : 0;

    // Where the keys come from lies in shared memory: the main loop needs it once a tile and its registers for other things.
    const unsigned source = shared + SOURCE_AT;
    if (threadIdx.x == 0) {
      const unsigned long long k = (unsigned long long)place.k, stride = (unsigned long long)place.kv_stride;
      store_shared16(source, make_uint4((unsigned)k, (unsigned)(k >> 32), (unsigned)stride, (unsigned)(stride >> 32)));
      store_shared16(source + 16, make_uint4(place.kv_len, chunks, place.vector_kv, plain));
      store_shared<float>(source + 32, last_bias(p, item.sequence));
    }
    __syncthreads();
    // Tile `tile` of the keys into its stage.
    auto load_keys = [&](int tile) {
      const uint4 where = load_shared16(source), what = load_shared16<16>(source);
      const long long stride = (long long)((unsigned long long)where.w << 32 | where.z);
      const int key0 = tile * KEYS, rows = min((int)what.x - key0, KEYS);
      const unsigned to = shared + (tile % STAGES) * STAGE;
      const D* const k = (const D*)((unsigned long long)where.y << 32 | where.x) + key0 * stride;
      load_rows<KEYS, TEAM>(to, k, stride, rows, what.y, what.z);
      load_rows<KEYS, TEAM>(to + KEYS * ROW, k + k_to_v(p), stride, rows, what.y, what.z);
      cp_async_commit();
    };
    load_rows<QUERIES, TEAM>(shared + Q_AT, place.q + q0 * place.q_stride, place.q_stride, q_rows, chunks, place.vector_q);
    load_keys(0);

    if (touch_q || touch_k) {
      const D* const q_norm = static_cast<const D*>(p.q_norm);
      const D* const k_norm = static_cast<const D*>(p.k_norm);
#pragma unroll 1
      for (int d = threadIdx.x; d < HEAD_DIM; d += TEAM) {
        const bool inside = d < p.head_dim;
        const float wq = q_norm && inside ? to_f32(q_norm[d]) : 1.0f, wk = k_norm && inside ? to_f32(k_norm[d]) : 1.0f;
        store_shared<float>(shared + WEIGHTS_AT + d * 4, score_norm ? wq * wk : wq);
        store_shared<float>(shared + WEIGHTS_AT + (HEAD_DIM + d) * 4, wk);
      }
    }
    if (!score_norm && threadIdx.x < STAGES * KEYS)
      store_shared<float>(shared + threadIdx.x / KEYS * STAGE + INVERSE_AT + threadIdx.x % KEYS * 4, 1.0f);
    cp_async_wait<0>();
    __syncthreads();

    const int warp_row = warp * WARP_QUERIES, warp_rows = item.rows(p);
    const bool active = warp_rows > 0;
    const unsigned warp_q = shared + Q_AT + warp_row * ROW;
    State state(warp_q);
    if (active) {
      if (touch_q) {
#pragma unroll 1
        for (int m = 0; m < M_TILES; m++) {
          if (16 * m < warp_rows)
            normalize_rows(warp_q + 16 * m * ROW, warp_rows - 16 * m, shared + WEIGHTS_AT, p.q_norm != nullptr, p.norm_eps, p.rope,
                           q0 + warp_row + 16 * m, p.head_dim);
        }
        __syncwarp();
      }
      state.load();
      state.start();
    }
    const float scale = p.scale * 1.4426950408889634f;
    if constexpr (WHOLE_TILES) {
      unsigned stage = 0;
      Copies copies(p, shared, place, 1);
#pragma unroll 1
      for (; plain > 0; plain--) {
        cp_async_wait<0>();
        if (score_norm) copies.inverse_rms(shared, stage, p.norm_eps);
        __syncthreads(); // the tile has landed; everyone is done with the one before
        copies.load(stage ^ STAGE);
        cp_async_commit();
        const unsigned tile = shared + stage;
        if (active) state.template attend<false>(tile, tile + KEYS * ROW, KEYS, scale);
        stage ^= STAGE;
      }
    }

    // The other tiles.
    const uint4 what = load_shared16<16>(source);
    const int kv_len = what.x, rounds = (kv_len + KEYS - 1) / KEYS, first = what.w;
    // Waits for tile `round`, starts the one after it, normalizes.
    auto prepare = [&](int round) {
      const int key0 = round * KEYS, keys = min(kv_len - key0, KEYS);
      cp_async_wait<0>();
      __syncthreads(); // the tile has landed; everyone is done with the one before
      if (round + 1 < rounds) load_keys(round + 1);
      if (score_norm || touch_k) {
        const int row = KEYS > 16 ? 16 * warp : 0;
        const unsigned tile = shared + (round % STAGES) * STAGE + row * ROW;
        if (KEYS > 16 || warp == 0) {
          if (score_norm)
            inverse_rms(tile, shared + (round % STAGES) * STAGE + INVERSE_AT + row * 4, p.head_dim, p.norm_eps);
          else if (row < keys)
            normalize_rows(tile, keys - row, shared + WEIGHTS_AT + HEAD_DIM * 4, p.k_norm != nullptr, p.norm_eps, p.rope, key0 + row, p.head_dim);
        }
        __syncthreads();
      }
    };
#pragma unroll 1
    for (int round = first; round < rounds; round++) {
      prepare(round);
      const unsigned tile = shared + (round % STAGES) * STAGE;
      const float last = round == rounds - 1 ? float_of(load_shared4<32>(source)) : 0.0f;
      if (active)
        state.template attend<true>(tile, tile + KEYS * ROW, min(kv_len - round * KEYS, KEYS), scale, last, bias_of(p, item.head),
                                    round * KEYS - q0 - warp_row);
    }
    __syncthreads(); // Q's rows may be those of a stage
    const Item again(p);
    const int rows = min(again.rows(p), WARP_QUERIES), row = again.warp * WARP_QUERIES;
    if (rows > 0) state.finish(shared + Q_AT + row * ROW, Output(p, again.sequence, again.head, again.q0 + row), rows, p.head_dim / CHUNK);
  }

  // SHORT: the sequences and heads of this CTA's teams.
  static __device__ __forceinline__ void run_short(const AttentionParams& p) {
    const int team = (max(p.q_len, p.kv_len) + 15) / 16, warp = threadIdx.x >> 5, which = warp / team;
    const int row = 16 * (warp - which * team), chunks = p.head_dim / CHUNK;
    const long long pair = (long long)blockIdx.x * (blockDim.x / 32 / team) + which;
    const bool exists = pair < (long long)p.sequences * p.heads;
    const int sequence = exists ? (int)(pair / p.heads) : 0, head = exists ? (int)(pair % p.heads) : 0;
    const Place place(p, sequence, head);
    // From this warp's first on, not positive if there are none. Warps without rows come to the barriers all the same.
    const int kv_len = place.kv_len, k_rows = exists ? kv_len - row : 0;
    int q_rows = exists ? min(p.q_len - row, 16) : 0;
    if (kv_len <= 0 && q_rows > 0) {
      Output(p, sequence, head, row).clear(q_rows, p.head_dim);
      q_rows = 0;
    }
    const unsigned weights = shared_address(dynamic_shared);
    const unsigned k_at = weights + 8 * HEAD_DIM + which * team * (48 * ROW), v_at = k_at + team * (16 * ROW);
    const unsigned warp_k = k_at + row * ROW, warp_q = v_at + (v_at - k_at) + row * ROW;
    const D* const k = place.k + row * place.kv_stride;
    load_rows<16, 32>(warp_q, place.q + row * place.q_stride, place.q_stride, q_rows, chunks, place.vector_q);
    load_rows<16, 32>(warp_k, k, place.kv_stride, k_rows, chunks, place.vector_kv);
    cp_async_commit();
    load_rows<16, 32>(v_at + row * ROW, k + k_to_v(p), place.kv_stride, k_rows, chunks, place.vector_kv);
    cp_async_commit();

    if (p.q_norm || p.k_norm || p.rope) {
      const D* const q_norm = static_cast<const D*>(p.q_norm);
      const D* const k_norm = static_cast<const D*>(p.k_norm);
#pragma unroll 1
      for (int d = threadIdx.x; d < HEAD_DIM; d += blockDim.x) {
        const bool inside = d < p.head_dim;
        store_shared<float>(weights + d * 4, q_norm && inside ? to_f32(q_norm[d]) : 1.0f);
        store_shared<float>(weights + (HEAD_DIM + d) * 4, k_norm && inside ? to_f32(k_norm[d]) : 1.0f);
      }
      cp_async_wait<1>(); // V is still under way
      __syncthreads();
      // Each row once: first those of q, then those of k.
#pragma unroll 1
      for (int i = 0; i < 2; i++) {
        const bool norm = i ? p.k_norm != nullptr : p.q_norm != nullptr;
        if (norm || p.rope)
          normalize_rows(i ? warp_k : warp_q, i ? k_rows : q_rows, weights + i * (4 * HEAD_DIM), norm, p.norm_eps, p.rope, row, p.head_dim);
      }
    }
    cp_async_wait<0>();
    if (team > 1) __syncthreads();
    else __syncwarp();
    if (q_rows <= 0) return;

    const float scale = p.scale * 1.4426950408889634f;
    State state(warp_q);
    state.load();
    state.start();
    state.attend_all(k_at, v_at, kv_len, scale, p, sequence);
    __syncwarp();
    state.finish(warp_q, Output(p, sequence, head, row), q_rows, chunks);
  }

  // PLAIN: one tile of queries. Whole rows of HEAD_DIM on 16-byte boundaries alone.
  static __device__ __forceinline__ void run_plain(const AttentionParams& p) {
    const Item item(p);
    const int warp_row = item.warp * WARP_QUERIES;
    const unsigned shared = shared_address(dynamic_shared);
    const Place place(p, item.sequence, item.head);
    const int kv_len = place.kv_len, q_rows = min(p.q_len - item.q0, QUERIES);
    if (kv_len <= 0) return Output(p, item.sequence, item.head, item.q0).clear(q_rows, HEAD_DIM);

    // What the last tile needs; the main loop has no register to keep it in.
    if (threadIdx.x == 0)
      store_shared8<SOURCE_AT>(shared, (unsigned)((kv_len - 1) % KEYS + 1), bits_of(last_bias(p, item.sequence)));
    load_rows<QUERIES, TEAM>(shared, place.q + item.q0 * place.q_stride, place.q_stride, q_rows, CHUNKS, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    State state(shared + warp_row * ROW);
    state.load();
    state.start();
    unrolled<M_TILES>([&](auto m) { state.query[m.value].park(shared + PARKED_AT + m.value * TEAM * 16 + threadIdx.x * 16); });
    __syncthreads(); // Q's rows become the stages

    const float scale = p.scale * 1.4426950408889634f;
    Copies copies(p, shared, place, 0);
    copies.load(0);
    cp_async_commit();
    unsigned stage = 0;
#pragma unroll 1
    for (int whole = (kv_len - 1) / KEYS; whole > 0; whole--) {
      cp_async_wait<0>();
      __syncthreads(); // the tile has landed; everyone is done with the one before
      copies.load(stage ^ STAGE);
      cp_async_commit();
      state.template attend<false>(shared + stage, shared + stage + KEYS * ROW, KEYS, scale);
      stage ^= STAGE;
    }
    cp_async_wait<0>();
    __syncthreads();
    state.template attend<true>(shared + stage, shared + stage + KEYS * ROW, (int)load_shared4<SOURCE_AT>(shared), scale,
                                float_of(load_shared4<SOURCE_AT + 4>(shared)));
    __syncthreads(); // the stages become Q's rows
    const Item again(p);
    const int row = again.warp * WARP_QUERIES, rows = min(again.rows(p), WARP_QUERIES);
    if (rows > 0) state.finish(shared + row * ROW, Output(p, again.sequence, again.head, again.q0 + row), rows, CHUNKS);
  }

  // CROSS: all keys at once, then tiles of queries, each warp by itself.
  static __device__ __forceinline__ void run_cross(const AttentionParams& p) {
    const int per_sequence = gridDim.x / p.sequences, sequence = blockIdx.x / per_sequence, chunks = p.head_dim / CHUNK;
    const Place place(p, sequence, blockIdx.y);
    const int kv_len = place.kv_len, step = per_sequence * QUERIES;
    const int first = blockIdx.x % per_sequence * QUERIES;
    if (kv_len <= 0) {
#pragma unroll 1
      for (int q0 = first; q0 < p.q_len; q0 += step) Output(p, sequence, blockIdx.y, q0).clear(min(p.q_len - q0, QUERIES), p.head_dim);
      return;
    }
    const unsigned k_at = shared_address(dynamic_shared), v_at = k_at + (p.kv_len + KEYS - 1) / KEYS * KEYS * ROW;
    const int warp_row = (threadIdx.x >> 5) * WARP_QUERIES;
    const unsigned warp_q = v_at + (v_at - k_at) + warp_row * ROW;
#pragma unroll 1
    for (int key0 = 0; key0 < kv_len; key0 += KEYS) {
      const int rows = min(kv_len - key0, KEYS);
      const D* const k = place.k + key0 * place.kv_stride;
      load_rows<KEYS, TEAM>(k_at + key0 * ROW, k, place.kv_stride, rows, chunks, place.vector_kv);
      load_rows<KEYS, TEAM>(v_at + key0 * ROW, k + k_to_v(p), place.kv_stride, rows, chunks, place.vector_kv);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();

    const float scale = p.scale * 1.4426950408889634f;
    State state(warp_q);
    int q0 = first + warp_row;
    if (q0 >= p.q_len) return;
    // Starts the copy of the tile at q0.
    auto load_queries = [&] {
      load_rows<WARP_QUERIES, 32>(warp_q, place.q + q0 * place.q_stride, place.q_stride, p.q_len - q0, chunks, place.vector_q);
      cp_async_commit();
    };
    // Waits for it and takes it.
    auto take_queries = [&] {
      cp_async_wait<0>();
      __syncwarp();
      state.load();
      __syncwarp();
    };
    load_queries();
    take_queries();
#pragma unroll 1
    while (true) {
      const int at = q0;
      q0 += step;
      const bool more = q0 < p.q_len;
      if (more) load_queries();
      state.start();
      state.attend_all(k_at, v_at, kv_len, scale, p, sequence);
      if (more) take_queries();
      state.finish(warp_q, Output(p, sequence, blockIdx.y, at), min(p.q_len - at, WARP_QUERIES), chunks);
      if (!more) return;
      __syncwarp();
    }
  }
};

// ---- entries -----------------------------------------------------------------------------------------------------------------
#define ATTENTION(HEAD_DIM, D)                                                                                        \
  static_assert(Attention<D, HEAD_DIM, LARGE>::SHARED == ATTENTION_LARGE_SHARED(HEAD_DIM, (int)sizeof(D)) &&          \
                    Attention<D, HEAD_DIM, LARGE>::QUERIES == ATTENTION_LARGE_QUERIES(HEAD_DIM, (int)sizeof(D)) &&    \
                    Attention<D, HEAD_DIM, SHORT>::ROW == ATTENTION_ROW_BYTES(HEAD_DIM, (int)sizeof(D)), "launch_tiles.h"); \
  extern "C" __global__ void __launch_bounds__(ATTENTION_LARGE_THREADS, 2) attention_##HEAD_DIM##_##D##_large(const AttentionParams p) { \
    Attention<D, HEAD_DIM, LARGE>::run(p);                                                                            \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(ATTENTION_SHORT_THREADS, ATTENTION_SHORT_BLOCKS(HEAD_DIM, sizeof(D))) attention_##HEAD_DIM##_##D##_short(const AttentionParams p) { \
    Attention<D, HEAD_DIM, SHORT>::run_short(p);                                                                            \
  }
// Of a multiprocessor, for which ptxas is to find registers.
#define ATTENTION_SHORT_BLOCKS(HEAD_DIM, BYTES) ((BYTES) > 2 ? (HEAD_DIM) <= 72 ? 4 : 2 : (HEAD_DIM) <= 72 ? 5 : (HEAD_DIM) <= 96 ? 4 : 2)
#define ATTENTION_PLAIN(HEAD_DIM, D)                                                                                  \
  static_assert(Attention<D, HEAD_DIM, PLAIN>::SHARED == ATTENTION_PLAIN_SHARED(HEAD_DIM) &&                          \
                    Attention<D, HEAD_DIM, PLAIN>::QUERIES == ATTENTION_PLAIN_QUERIES, "launch_tiles.h");             \
  extern "C" __global__ void __launch_bounds__(ATTENTION_PLAIN_THREADS, 2) attention_##HEAD_DIM##_##D##_plain(const AttentionParams p) { \
    Attention<D, HEAD_DIM, PLAIN>::run_plain(p);                                                                      \
  }
#define ATTENTION_BIASED(HEAD_DIM, D)                                                                                 \
  extern "C" __global__ void __launch_bounds__(ATTENTION_LARGE_THREADS, 2) attention_##HEAD_DIM##_##D##_biased(const AttentionParams p) { \
    Attention<D, HEAD_DIM, LARGE, true>::run(p);                                                                      \
  }
#define ATTENTION_CROSS(HEAD_DIM, D)                                                                                  \
  static_assert(Attention<D, HEAD_DIM, CROSS>::QUERIES == ATTENTION_CROSS_QUERIES(HEAD_DIM), "launch_tiles.h");       \
  extern "C" __global__ void __launch_bounds__(ATTENTION_CROSS_THREADS, 1) attention_##HEAD_DIM##_##D##_cross(const AttentionParams p) { \
    Attention<D, HEAD_DIM, CROSS>::run_cross(p);                                                                      \
  }
#define ATTENTION_DTYPES(HEAD_DIM)                                                     \
  ATTENTION(HEAD_DIM, bf16) ATTENTION(HEAD_DIM, f16) ATTENTION(HEAD_DIM, f32)          \
  ATTENTION_CROSS(HEAD_DIM, bf16) ATTENTION_CROSS(HEAD_DIM, f16)

#ifdef ONE_ENTRY // for quick looks at the compiler's output
ONE_ENTRY
#else
ATTENTION_DTYPES(32)
ATTENTION_DTYPES(48)
ATTENTION_DTYPES(64)
ATTENTION_DTYPES(72)
ATTENTION_DTYPES(96)
ATTENTION_DTYPES(128)
ATTENTION_PLAIN(128, bf16)
ATTENTION_PLAIN(128, f16)
ATTENTION_BIASED(64, bf16)
ATTENTION_BIASED(64, f16)
ATTENTION_BIASED(64, f32)
#endif
