// attention: out = softmax(scale * q k^T) v, for every sequence and head; FlashAttention-2's schedule.
//
//   m' = max(m, max_j s_j),  p_j = 2^((s_j - m') scale log2 e),  l' = l 2^((m - m') scale log2 e) + sum_j p_j,
//   o' = o 2^((m - m') scale log2 e) + sum_j round_D(p_j) v_j,   out = o / l       (m, l, o, s in f32)
//
// q and k rows may first go through RMSNorm (weights of [head_dim], f32 inside) and then RoPE on interleaved pairs
// (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin) by position in the sequence; in f32, rounded to D once, after the load.
//
// Layout: row of token i of sequence s = (s / inner) * outer_stride + (s % inner) * inner_stride + i * step, element
// (row, head, d) at row * row_stride + head * head_dim + d. So spatial, temporal (strided, no copy) and cross (kv_lengths by
// sequence; 0 gives zeros) are one kernel. Entries attention_{32,40..128}_{bf16,f16,f32}_{64,16}; exact in head_dim: 16-bit
// types take head_dim/16 k-steps and one half k-step (m16n8k8) for a remainder of 8; f32 head_dim/8 k-steps of 3xTF32.
//
// A CTA takes QUERIES queries of one sequence and head (grid x: sequence * ceil(q_len/QUERIES) + tile, y: head), each warp
// 16 of them: its S and O fragments stay in registers. _64: four warps, keys in tiles of 64 (f32: 16), K and V double
// buffered by cp.async. _16: one warp, 16 keys, single stage: many small CTAs hide each other's latency; for q_len <= 16.
// Shared memory: Q [QUERIES], K [STAGES][KEYS], V [STAGES][KEYS] rows of ATTENTION_ROW_BYTES (an odd number of 16-byte chunks:
// no bank conflicts for ldmatrix, row-wise chunks and f32 V), then the two norm weights as f32 [2][head_dim].
// Q fragments are kept in registers (16-bit) or reloaded from shared memory each tile (f32).
//
// Work follows the lengths: warps without valid rows skip the maths, groups of 16 keys beyond the length are skipped; rows up
// to the next multiple of 16 are zero-filled, masked before the softmax. Any alignment: if rows are not 16-byte aligned,
// elements are copied one by one (uniform run-time choice). Deterministic: no atomics, a fixed order of additions.
//
// Launch: launch_tiles.h. Expected registers for head_dim 72: bf16/f16 _64 about 168 (3 CTAs of 46656 B on an A100 SM), f32 about
// 168, _16 about 128; head_dim 128: below 255 without spills.
#include "params.h"
#include "launch_tiles.h"
#include "tile.cuh"

extern __shared__ __align__(16) unsigned char dynamic_shared[];

__device__ __forceinline__ long long sequence_row(const SequenceLayout& layout, int sequence) {
  return (long long)(sequence / layout.inner) * layout.outer_stride + (long long)(sequence % layout.inner) * layout.inner_stride;
}

template <class D, int HEAD_DIM, int WARPS, int KEYS, int STAGES> struct Attention {
  static constexpr int QUERIES = 16 * WARPS, THREADS = 32 * WARPS;
  static constexpr int CHUNK = Chunk<D>::N;
  static constexpr int CHUNKS = HEAD_DIM / CHUNK;          // 16-byte chunks of a row
  static constexpr int ROW = (CHUNKS | 1) * 16;            // bytes from row to row in shared memory
  static constexpr int STEPS = CHUNKS / 2;                 // whole k-steps of q k^T
  static constexpr bool HALF_STEP = CHUNKS % 2 != 0;
  static constexpr bool SIXTEEN = sizeof(D) == 2;
  static constexpr int GROUPS = KEYS / 16;                 // groups of 16 keys in a tile
  static constexpr int D_TILES = HEAD_DIM / 8;             // n-tiles of O
  static constexpr int K_AT = QUERIES * ROW, V_AT = K_AT + STAGES * KEYS * ROW, WEIGHTS_AT = V_AT + STAGES * KEYS * ROW;
  static_assert(HEAD_DIM % 8 == 0 && KEYS % 16 == 0, "tile");

  // Copies rows [0, rows) of a tile and zero-fills up to the next multiple of 16. `from`: the tile's first row of this head,
  // `stride`: elements between rows. Asynchronous when `vector`.
  static __device__ __forceinline__ void load_rows(unsigned to, const D* from, long long stride, int rows, bool vector) {
    constexpr int MOST = QUERIES > KEYS ? QUERIES : KEYS;
    const int filled = (rows + 15) & ~15;
    if (vector) {
#pragma unroll
      for (int i = 0; i < (MOST * CHUNKS + THREADS - 1) / THREADS; i++) {
        const int id = threadIdx.x + i * THREADS, row = id / CHUNKS, chunk = id % CHUNKS;
        if (row < filled) cp_async16(to + row * ROW + chunk * 16, from + row * stride + chunk * CHUNK, row < rows ? 16 : 0);
      }
    } else {
#pragma unroll 1
      for (int id = threadIdx.x; id < filled * HEAD_DIM; id += THREADS) {
        const int row = id / HEAD_DIM, d = id % HEAD_DIM;
        store_shared(to + row * ROW + d * (int)sizeof(D), row < rows ? from[row * stride + d] : D{});
      }
    }
  }

  // RMSNorm and RoPE of the 16 rows at `row0` (this warp's share of a tile) in place. Lane l has row l%16, its even or odd
  // chunks. `weights`: shared f32 [HEAD_DIM], ones without a norm. `position`: of the tile's first row.
  static __device__ __forceinline__ void normalize_rows(unsigned tile, int row0, int rows, unsigned weights, bool norm, float eps,
                                                        const float* rope, int position) {
    const int lane = threadIdx.x & 31, row = row0 + (lane & 15), odd = lane >> 4;
    const unsigned at = tile + row * ROW + odd * 16;
    float squares = 0.0f;
    unrolled<(CHUNKS + 1) / 2>([&](auto i) { // the odd lanes have one less when CHUNKS is odd
      if (2 * i.value + 1 < CHUNKS || !odd) {
        float x[CHUNK];
        Chunk<D>::unpack(load_shared16<i.value * 32>(at), x);
#pragma unroll
        for (int c = 0; c < CHUNK; c++) squares = fmaf(x[c], x[c], squares);
      }
    });
    squares += shuffle_xor(squares, 16);
    if (row >= rows) return; // zero-filled or outside: stays as it is
    const float inverse = norm ? rsqrt_fast(fmaf(squares, 1.0f / HEAD_DIM, eps)) : 1.0f;
    const float* const angles = rope + (long long)(position + row) * HEAD_DIM;
    const bool vector = aligned(rope, 16);
#pragma unroll 1 // half of the kernel's code if unrolled
    for (int chunk = odd; chunk < CHUNKS; chunk += 2) {
      float x[CHUNK];
      Chunk<D>::unpack(load_shared16(tile + row * ROW + chunk * 16), x);
      unrolled<CHUNK / 4>([&](auto j) {
        constexpr int c = 4 * j.value;
        const uint4 w = load_shared16<c * 4>(weights + chunk * (CHUNK * 4));
        x[c] *= inverse * float_of(w.x);
        x[c + 1] *= inverse * float_of(w.y);
        x[c + 2] *= inverse * float_of(w.z);
        x[c + 3] *= inverse * float_of(w.w);
        if (rope) {
          const float* const from = angles + chunk * CHUNK + c;
          float angle[4]; // cos, sin, cos, sin
          if (vector) {
            load4(from, angle);
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
      store_shared16(tile + row * ROW + chunk * 16, Chunk<D>::pack(x));
    }
  }

  // The warp's 16 rows of Q as operand A: held in registers for 16-bit types, loaded again for every use in f32.
  struct Query {
    FragmentA<D> step[SIXTEEN ? STEPS : 1];
    unsigned half[2];
    unsigned at; // this lane's ldmatrix address
    __device__ __forceinline__ void load() {
      if constexpr (SIXTEEN) {
        unrolled<STEPS>([&](auto s) { step[s.value] = fragment<s.value>(); });
        if constexpr (HALF_STEP) ldmatrix_x2<STEPS * 32>(half, at); // lanes 0-15: rows 0-15, the last chunk
      }
    }
    template <int STEP> __device__ __forceinline__ FragmentA<D> fragment() const {
      unsigned x[4];
      ldmatrix_x4<STEP * 32>(x, at);
      return fragment_a<D>(x);
    }
    template <int STEP> __device__ __forceinline__ FragmentA<D> get() const {
      if constexpr (SIXTEEN) return step[STEP];
      else return fragment<STEP>();
    }
  };

  // s = q k^T for 16 keys (two n-tiles) whose first row is AT bytes into the tile. `k_at`: this lane's ldmatrix address for
  // two n-tiles, `k_half_at`: for the remaining chunk.
  template <int AT> static __device__ __forceinline__ void scores(float (&s0)[4], float (&s1)[4], const Query& query, unsigned k_at,
                                                                  unsigned k_half_at) {
#pragma unroll
    for (int e = 0; e < 4; e++) s0[e] = s1[e] = 0.0f;
    unrolled<STEPS>([&](auto step) {
      unsigned x[4];
      ldmatrix_x4<AT + step.value * 32>(x, k_at);
      const FragmentA<D> q = query.template get<step.value>();
      mma(s0, q, fragment_b<D>(x[0], x[1]));
      mma(s1, q, fragment_b<D>(x[2], x[3]));
    });
    if constexpr (HALF_STEP) {
      unsigned x[2];
      ldmatrix_x2<AT + STEPS * 32>(x, k_half_at);
      mma_half<D>(s0, query.half, x[0]);
      mma_half<D>(s1, query.half, x[1]);
    }
  }

  // o += p v for 16 keys whose first row is AT bytes into the tile. p0, p1: fragments of their two n-tiles.
  template <int AT> static __device__ __forceinline__ void weigh_values(float (&o)[D_TILES][4], const float (&p0)[4],
                                                                        const float (&p1)[4], unsigned v_at) {
    if constexpr (SIXTEEN) {
      FragmentA<D> p;
      p.x[0] = pack2<D>(p0[0], p0[1]);
      p.x[1] = pack2<D>(p0[2], p0[3]);
      p.x[2] = pack2<D>(p1[0], p1[1]);
      p.x[3] = pack2<D>(p1[2], p1[3]);
      unrolled<D_TILES / 2>([&](auto j) {
        unsigned x[4];
        ldmatrix_x4_trans<AT + j.value * 32>(x, v_at);
        mma(o[2 * j.value], p, fragment_b<D>(x[0], x[1]));
        mma(o[2 * j.value + 1], p, fragment_b<D>(x[2], x[3]));
      });
      if constexpr (D_TILES % 2 != 0) {
        unsigned x[2];
        ldmatrix_x2_trans<AT + D_TILES / 2 * 32>(x, v_at); // lanes 0-15: keys 0-15, the last chunk
        mma(o[D_TILES - 1], p, fragment_b<D>(x[0], x[1]));
      }
    } else {
      // k slots t and t+4 stand for keys 2t and 2t+1 in both operands: P's fragment needs no exchange between lanes.
      const unsigned raw0[4] = {bits_of(p0[0]), bits_of(p0[2]), bits_of(p0[1]), bits_of(p0[3])};
      const unsigned raw1[4] = {bits_of(p1[0]), bits_of(p1[2]), bits_of(p1[1]), bits_of(p1[3])};
      const FragmentA<D> a0 = fragment_a<D>(raw0), a1 = fragment_a<D>(raw1);
      unrolled<D_TILES>([&](auto j) {
        mma(o[j.value], a0, fragment_b<D>(load_shared4<AT + j.value * 32>(v_at), load_shared4<AT + ROW + j.value * 32>(v_at)));
        mma(o[j.value], a1, fragment_b<D>(load_shared4<AT + 8 * ROW + j.value * 32>(v_at), load_shared4<AT + 9 * ROW + j.value * 32>(v_at)));
      });
    }
  }

  // Two neighbouring elements into shared memory.
  template <int AT> static __device__ __forceinline__ void store_pair(unsigned at, float x, float y) {
    if constexpr (SIXTEEN) store_shared4<AT>(at, pack2<D>(x, y));
    else store_shared8<AT>(at, bits_of(x), bits_of(y));
  }

  static __device__ __forceinline__ void run(const AttentionParams& p) {
    const int tiles = (p.q_len + QUERIES - 1) / QUERIES;
    const int sequence = blockIdx.x / tiles, q0 = blockIdx.x % tiles * QUERIES, head = blockIdx.y;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const unsigned shared = shared_address(dynamic_shared);
    const int q_rows = min(p.q_len - q0, QUERIES); // of this CTA
    const int kv_len = p.kv_lengths ? min(p.kv_lengths[sequence], p.kv_len) : p.kv_len;

    const long long head_at = (long long)head * HEAD_DIM;
    const long long q_stride = p.q_layout.step * p.q_layout.row_stride, kv_stride = p.kv_layout.step * p.kv_layout.row_stride;
    const long long out_stride = p.out_layout.step * p.out_layout.row_stride;
    const D* const q = static_cast<const D*>(p.q) + sequence_row(p.q_layout, sequence) * p.q_layout.row_stride + head_at + q0 * q_stride;
    const long long kv_at = sequence_row(p.kv_layout, sequence) * p.kv_layout.row_stride + head_at;
    const D* const k = static_cast<const D*>(p.k) + kv_at;
    const D* const v = static_cast<const D*>(p.v) + kv_at;
    D* const out = static_cast<D*>(p.out) + sequence_row(p.out_layout, sequence) * p.out_layout.row_stride + head_at + q0 * out_stride;
    const bool vector_q = aligned(p.q, 16) && p.q_layout.row_stride % CHUNK == 0;
    const bool vector_kv = aligned(p.k, 16) && aligned(p.v, 16) && p.kv_layout.row_stride % CHUNK == 0;
    const bool vector_out = aligned(p.out, 16) && p.out_layout.row_stride % CHUNK == 0;

    if (kv_len <= 0) { // nothing to attend to: zeros
#pragma unroll 1
      for (int id = threadIdx.x; id < q_rows * HEAD_DIM; id += THREADS) out[id / HEAD_DIM * out_stride + id % HEAD_DIM] = D{};
      return;
    }

    const bool touch_q = p.q_norm || p.rope, touch_k = p.k_norm || p.rope;
    if (touch_q || touch_k) {
      const D* const q_norm = static_cast<const D*>(p.q_norm);
      const D* const k_norm = static_cast<const D*>(p.k_norm);
#pragma unroll 1
      for (int d = threadIdx.x; d < HEAD_DIM; d += THREADS) {
        store_shared<float>(shared + WEIGHTS_AT + d * 4, q_norm ? to_f32(q_norm[d]) : 1.0f);
        store_shared<float>(shared + WEIGHTS_AT + (HEAD_DIM + d) * 4, k_norm ? to_f32(k_norm[d]) : 1.0f);
      }
    }

    const bool active = 16 * warp < q_rows; // else this warp only loads and normalizes keys
    Query query;
    query.at = shared + (16 * warp + (lane & 15)) * ROW + (lane >> 4) * 16;
    float o[D_TILES][4];
    float maximum[2], sum[2]; // of rows g and g+8; sum: of this lane's columns only
#pragma unroll
    for (int j = 0; j < D_TILES; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0f;
    maximum[0] = maximum[1] = float_of(0xff800000u); // -inf
    sum[0] = sum[1] = 0.0f;
    const float scale = p.scale * 1.4426950408889634f;
    // This lane's part of the ldmatrix addresses: K as B of two n-tiles (and its last chunk), V transposed as B of one k-step
    // and two n-tiles (f32: plain loads).
    const unsigned k_lane = ((lane >> 4 << 3) + (lane & 7)) * ROW + ((lane >> 3) & 1) * 16;
    const unsigned k_half_lane = (lane & 15) * ROW;
    const unsigned v_lane = SIXTEEN ? (lane & 15) * ROW + (lane >> 4) * 16 : 2 * (lane & 3) * ROW + (lane >> 2) * 4;

    // Round r computes tile r of the keys. With two stages it first starts the load of tile r+1 (round -1 only does that),
    // with one stage it loads its own. Q comes with the first tile. Loads and norms are loops over what they work on: one
    // copy of their code, not three.
    const int rounds = (kv_len + KEYS - 1) / KEYS;
#pragma unroll 1
    for (int round = 1 - STAGES; round < rounds; round++) {
      const int key0 = round * KEYS;
      if (STAGES > 1 && round >= 0) {
        cp_async_wait<0>();
        __syncthreads(); // tile `round` has landed; everyone is done with the one before
      }
      if (STAGES == 1 && round > 0) __syncthreads();
      const int next = round + STAGES - 1, next_key = next * KEYS;
      if (next < rounds) {
        const unsigned stage_at = (next % STAGES) * KEYS * ROW;
#pragma unroll 1
        for (int what = next == 0 ? 0 : 1; what < 3; what++) { // Q, K, V
          const bool is_q = what == 0;
          load_rows(shared + (is_q ? 0 : (what == 1 ? K_AT : V_AT) + stage_at), is_q ? q : (what == 1 ? k : v) + next_key * kv_stride,
                    is_q ? q_stride : kv_stride, is_q ? q_rows : min(kv_len - next_key, KEYS), is_q ? vector_q : vector_kv);
        }
      }
      cp_async_commit();
      if (STAGES > 1 && round < 0) continue;
      if (STAGES == 1) {
        cp_async_wait<0>();
        __syncthreads();
      }

      const int keys = min(kv_len - key0, KEYS);
      const unsigned k_tile = shared + K_AT + (round % STAGES) * KEYS * ROW, v_tile = k_tile + (V_AT - K_AT);
      if ((touch_q && round == 0) || touch_k) {
#pragma unroll 1
        for (int what = touch_q && round == 0 ? 0 : 1; what < (touch_k ? 2 : 1); what++) { // Q, K
          const bool is_q = what == 0;
          const int rows = is_q ? q_rows : keys;
          if (16 * warp < rows)
            normalize_rows(is_q ? shared : k_tile, 16 * warp, rows, shared + WEIGHTS_AT + (is_q ? 0 : HEAD_DIM * 4),
                           is_q ? p.q_norm != nullptr : p.k_norm != nullptr, p.norm_eps, p.rope, is_q ? q0 : key0);
        }
        __syncthreads();
      }
      if (!active) continue;
      if (round == 0) query.load();

      // S = q k^T, -inf beyond the length
      float s[2 * GROUPS][4];
      float tile_maximum[2] = {maximum[0], maximum[1]};
      unrolled<GROUPS>([&](auto group) {
        constexpr int n = 2 * group.value;
        if (group.value > 0 && group.value * 16 >= keys) return;
        scores<group.value * 16 * ROW>(s[n], s[n + 1], query, k_tile + k_lane, k_tile + k_half_lane);
        if (group.value * 16 + 16 > keys) {
          const int left = keys - group.value * 16 - 2 * (lane & 3); // columns of this lane: 0, 1, 8, 9
#pragma unroll
          for (int e = 0; e < 4; e++) {
            if ((e & 1) >= left) s[n][e] = float_of(0xff800000u);
            if ((e & 1) + 8 >= left) s[n + 1][e] = float_of(0xff800000u);
          }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) tile_maximum[e >> 1] = fmaxf(tile_maximum[e >> 1], fmaxf(s[n][e], s[n + 1][e]));
      });

      float shift[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        tile_maximum[h] = quad_max(tile_maximum[h]);
        shift[h] = tile_maximum[h] * scale;
      }
      if (round > 0) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float decay = exp2_fast((maximum[h] - tile_maximum[h]) * scale);
          sum[h] *= decay;
#pragma unroll
          for (int j = 0; j < D_TILES; j++) o[j][2 * h] *= decay, o[j][2 * h + 1] *= decay;
        }
      }
      maximum[0] = tile_maximum[0], maximum[1] = tile_maximum[1];

      // P = 2^(S scale - shift), O += P V
      unrolled<GROUPS>([&](auto group) {
        constexpr int n = 2 * group.value;
        if (group.value > 0 && group.value * 16 >= keys) return;
#pragma unroll
        for (int i = n; i < n + 2; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            s[i][e] = exp2_fast(fmaf(s[i][e], scale, -shift[e >> 1]));
            sum[e >> 1] += s[i][e];
          }
        weigh_values<group.value * 16 * ROW>(o, s[n], s[n + 1], v_tile + v_lane);
      });
    }
    if (!active) return;

    // ---- out = o / l, through the warp's own rows of Q so that stores are 16 bytes wide
    __syncwarp();
    const unsigned o_at = shared + (16 * warp + (lane >> 2)) * ROW + (lane & 3) * 2 * (int)sizeof(D);
    const float inverse[2] = {reciprocal(quad_sum(sum[0])), reciprocal(quad_sum(sum[1]))};
    unrolled<D_TILES>([&](auto j) {
      constexpr int at = j.value * 8 * (int)sizeof(D);
      const float (&x)[4] = o[j.value];
      store_pair<at>(o_at, x[0] * inverse[0], x[1] * inverse[0]);
      store_pair<at + 8 * ROW>(o_at, x[2] * inverse[1], x[3] * inverse[1]);
    });
    __syncwarp();
    const int rows = min(q_rows - 16 * warp, 16);
    D* const warp_out = out + 16 * warp * out_stride;
    const unsigned warp_rows = shared + 16 * warp * ROW;
    if (vector_out) {
#pragma unroll
      for (int i = 0; i < (16 * CHUNKS + 31) / 32; i++) {
        const int id = lane + 32 * i, row = id / CHUNKS, chunk = id % CHUNKS;
        if (row < rows)
          store_global16(warp_out + row * out_stride + chunk * CHUNK, load_shared16(warp_rows + row * ROW + chunk * 16));
      }
    } else {
#pragma unroll 1
      for (int id = lane; id < rows * HEAD_DIM; id += 32) {
        const int row = id / HEAD_DIM, d = id % HEAD_DIM;
        warp_out[row * out_stride + d] = load_shared<D>(warp_rows + row * ROW + d * (int)sizeof(D));
      }
    }
  }
};

// ---- entries -----------------------------------------------------------------------------------------------------------------
#define ATTENTION(HEAD_DIM, D)                                                                                        \
  static_assert(Attention<D, HEAD_DIM, 4, ATTENTION_64_KEYS(HEAD_DIM, sizeof(D)), 2>::WEIGHTS_AT + 8 * HEAD_DIM ==    \
                    ATTENTION_64_SHARED(HEAD_DIM, (int)sizeof(D)), "launch_tiles.h");                                 \
  static_assert(Attention<D, HEAD_DIM, 1, ATTENTION_16_KEYS(HEAD_DIM, sizeof(D)), 1>::WEIGHTS_AT + 8 * HEAD_DIM ==    \
                    ATTENTION_16_SHARED(HEAD_DIM, (int)sizeof(D)), "launch_tiles.h");                                 \
  extern "C" __global__ void __launch_bounds__(ATTENTION_64_THREADS) attention_##HEAD_DIM##_##D##_64(const AttentionParams p) { \
    Attention<D, HEAD_DIM, 4, ATTENTION_64_KEYS(HEAD_DIM, sizeof(D)), 2>::run(p);                                     \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(ATTENTION_16_THREADS) attention_##HEAD_DIM##_##D##_16(const AttentionParams p) { \
    Attention<D, HEAD_DIM, 1, ATTENTION_16_KEYS(HEAD_DIM, sizeof(D)), 1>::run(p);                                     \
  }
#define ATTENTION_DTYPES(HEAD_DIM) ATTENTION(HEAD_DIM, bf16) ATTENTION(HEAD_DIM, f16) ATTENTION(HEAD_DIM, f32)

#ifdef ONE_HEAD_DIM // for quick looks at the compiler's output
ATTENTION_DTYPES(72)
#else
ATTENTION_DTYPES(32)
ATTENTION_DTYPES(40)
ATTENTION_DTYPES(48)
ATTENTION_DTYPES(56)
ATTENTION_DTYPES(64)
ATTENTION_DTYPES(72)
ATTENTION_DTYPES(80)
ATTENTION_DTYPES(88)
ATTENTION_DTYPES(96)
ATTENTION_DTYPES(104)
ATTENTION_DTYPES(112)
ATTENTION_DTYPES(120)
ATTENTION_DTYPES(128)
#endif
