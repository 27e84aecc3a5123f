// attention for Hopper: out = softmax(scale * q k^T) v, as ../attention.cu, of whole sequences without lengths or biases. FlashAttention-3's schedule.
// Entries attention_HEAD_DIM_{bf16,f16}_wgmma: 128 has neither norm nor RoPE (Wan, whose RMSNorm is over all heads), 72 has both.
//
// A CTA is three warpgroups and takes 128 queries of one sequence and head. The first two multiply, 64 queries each, which they norm and rotate in
// registers. The third copies K and V by tensor maps, in tiles of 128 keys, from the last to the first: the one that may be short is masked before
// the loop. One of its threads starts the copies; where keys are normed or rotated, each of its threads does that to a key, in place, once a tile.
//
// Two things overlap with the products. Within a warpgroup the scores of the next tile are queued before the values of this one: while they are
// multiplied, the softmax of the next tile runs. Between them, named barriers let one queue its products while the other is in its softmax.
//
//   wgmma: S = Q K^T, m64n128k16, Q from registers; O += P V, P from registers, where S leaves it, V with its rows along N.
//
// Shared memory: a tile of K is blocks of 64 channels, rows of 128 bytes in the swizzle of hopper.cuh, and one of 16 for a rest of 8, rows of
// 32 bytes in a swizzle of as many; a tile of V is blocks of 64, or of 16 where there is a rest. Rows beyond a sequence and channels beyond the head
// are zeros, by the maps: heads of 72 are multiplied as 80. Scores of keys beyond are -inf.
//
// Without RoPE, q takes the product of both norms' weights, and a key is divided by its root mean square alone.
//
// grid (sequences * ceil(q_len / 128), heads): neighbours share K and V. Launch: launch_tiles.h.
#include "hopper.cuh"
#include "launch_tiles.h"

constexpr int QUERIES = ATTENTION_WGMMA_QUERIES, KEYS = ATTENTION_WGMMA_KEYS, CONSUMERS = 2;
static_assert(QUERIES == 64 * CONSUMERS && KEYS == 128, "a key for each thread of a warpgroup");

extern __shared__ __align__(1024) unsigned char dynamic_shared[];

template <class D, int HEAD_DIM> struct Attention {
  static constexpr bool REST = HEAD_DIM % 64 != 0, PREPARED = REST;
  static constexpr int STEPS = (HEAD_DIM + 15) / 16;         // k-steps of Q K^T
  static constexpr int COLUMNS = 16 * STEPS;                 // of O
  static constexpr int CHUNKS = HEAD_DIM / 8;                // of 16 bytes
  static constexpr int WIDE = HEAD_DIM / 64;                 // blocks of 64 channels
  static constexpr int BLOCK = KEYS * SWIZZLED_ROW;          // bytes of one
  static constexpr int REST_ROW = 32, REST_BLOCK = KEYS * REST_ROW;
  static constexpr int TILE = KEYS * 2 * COLUMNS, STAGES = ATTENTION_WGMMA_STAGES(HEAD_DIM);
  static constexpr int V_ROW = REST ? REST_ROW : SWIZZLED_ROW, V_BLOCK = KEYS * V_ROW;
  static constexpr int OUT_ROW = ATTENTION_ROW_BYTES(HEAD_DIM, 2), OUT_AT = 2 * STAGES * TILE, BARRIERS_AT = OUT_AT + QUERIES * OUT_ROW;
  static_assert(HEAD_DIM % 64 == 0 || HEAD_DIM % 64 == 8, "the rest is half a k-step");
  static_assert(BARRIERS_AT + 128 == ATTENTION_WGMMA_SHARED(HEAD_DIM) && 5 * STAGES * 8 <= 128, "launch_tiles.h");

  // Stages of tiles and their barriers.
  struct Ring {
    unsigned tiles, full, empty;
    Turn<STAGES> turn;
    __device__ __forceinline__ Ring(unsigned tiles, unsigned barriers) : tiles(tiles), full(barriers), empty(barriers + 8 * STAGES) {}
    __device__ __forceinline__ unsigned tile() const { return tiles + turn.stage * TILE; }
    __device__ __forceinline__ void make() const {
#pragma unroll
      for (int s = 0; s < STAGES; s++) {
        barrier_init(full + 8 * s, 1);
        barrier_init(empty + 8 * s, 4 * CONSUMERS);
      }
    }
    // One thread: waits for the stage. Copies of a tile's bytes must follow, then the next turn.
    __device__ __forceinline__ unsigned open() const {
      barrier_wait(empty + 8 * turn.stage, turn.parity ^ 1);
      barrier_expect(full + 8 * turn.stage, TILE);
      return full + 8 * turn.stage;
    }
    __device__ __forceinline__ void await(unsigned barriers) const { barrier_wait(barriers + 8 * turn.stage, turn.parity); }
    // A warp is done with the tile.
    __device__ __forceinline__ void release() {
      if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * turn.stage);
      turn.next();
    }
  };

  // Chunks of a key, `row` of a tile: of its blocks of 64 channels, then that of the rest.
  struct Key {
    unsigned wide, rest;
    __device__ __forceinline__ Key(unsigned tile, int row)
        : wide(tile + row * SWIZZLED_ROW + (row % 8 << 4)), rest(tile + WIDE * BLOCK + row * REST_ROW + ((row / 4 & 1) << 4)) {}
    __device__ __forceinline__ unsigned at(int c) const { return c < 8 * WIDE ? (wide ^ (c % 8 << 4)) + c / 8 * BLOCK : rest; }
  };

  // RMSNorm and RoPE of a key in place; `position`: in the sequence.
  static __device__ __forceinline__ void prepare(const AttentionParams& p, const Key& key, int position) {
    float x[CHUNKS][8], squares = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      Chunk<D>::unpack(load_shared16(key.at(c)), x[c]);
#pragma unroll
      for (int e = 0; e < 8; e++) squares = fmaf(x[c][e], x[c][e], squares);
    }
    const float inverse = p.k_norm ? rsqrt_fast(fmaf(squares, 1.0f / HEAD_DIM, p.norm_eps)) : 1.0f;
    if (!p.rope) {
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (int e = 0; e < 8; e++) x[c][e] *= inverse;
        store_shared16(key.at(c), Chunk<D>::pack(x[c]));
      }
    } else if (position < p.kv_len) {
      const D* const weights = static_cast<const D*>(p.k_norm);
      const float* const angles = p.rope + (long long)position * HEAD_DIM;
#pragma unroll 1
      for (int c = 0; c < CHUNKS; c++) {
        float y[8];
        Chunk<D>::unpack(load_shared16(key.at(c)), y);
#pragma unroll
        for (int e = 0; e < 8; e++) y[e] *= weights ? inverse * to_f32(weights[8 * c + e]) : inverse;
#pragma unroll
        for (int e = 0; e < 8; e += 2) rotate(y[e], y[e + 1], angles + 8 * c + e);
        store_shared16(key.at(c), Chunk<D>::pack(y));
      }
    }
    fence_for_wgmma();
  }

  // By `angle`: cos and sin.
  static __device__ __forceinline__ void rotate(float& x, float& y, const float* angle) {
    const float cosine = angle[0], sine = angle[1], before = x;
    x = before * cosine - y * sine;
    y = y * cosine + before * sine;
  }

  // The queries of a warp as the first operand of wgmma: a lane's rows are g and g + 8, from `position` of the sequence on.
  static __device__ __forceinline__ void load_queries(const AttentionParams& p, int sequence, int head, int position, unsigned (&q)[4 * STEPS]) {
    const int t = threadIdx.x % 4;
    const D* const q_norm = static_cast<const D*>(p.q_norm);
    const D* const k_norm = static_cast<const D*>(p.k_norm);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int query = position + 8 * h;
      const D* const row = static_cast<const D*>(p.q) + row_of(p.q_layout, sequence, query) + head * HEAD_DIM + 2 * t;
#pragma unroll
      for (int i = 0; i < 2 * STEPS; i++) q[2 * i + h] = 8 * i < HEAD_DIM && query < p.q_len ? *reinterpret_cast<const unsigned*>(row + 8 * i) : 0;
      if (!PREPARED || !(q_norm || k_norm || p.rope)) continue;
      float squares = 0.0f, x, y;
#pragma unroll
      for (int i = 0; i < CHUNKS; i++) {
        unpack2<D>(q[2 * i + h], x, y);
        squares = fmaf(x, x, squares);
        squares = fmaf(y, y, squares);
      }
      squares = quad_sum(squares);
      const float inverse = q_norm ? rsqrt_fast(fmaf(squares, 1.0f / HEAD_DIM, p.norm_eps)) : 1.0f;
#pragma unroll
      for (int i = 0; i < CHUNKS; i++) {
        const int d = 8 * i + 2 * t;
        float weights[2] = {inverse, inverse};
#pragma unroll
        for (int e = 0; e < 2; e++) {
          if (q_norm) weights[e] *= to_f32(q_norm[d + e]);
          if (k_norm && !p.rope) weights[e] *= to_f32(k_norm[d + e]);
        }
        unpack2<D>(q[2 * i + h], x, y);
        x *= weights[0], y *= weights[1];
        if (p.rope && query < p.q_len) rotate(x, y, p.rope + (long long)query * HEAD_DIM + d);
        q[2 * i + h] = pack2<D>(x, y);
      }
    }
  }

  // The first element of token i of a sequence.
  static __device__ __forceinline__ long long row_of(const SequenceLayout& layout, int sequence, int i) {
    return ((long long)(sequence / layout.inner) * layout.outer_stride + (long long)(sequence % layout.inner) * layout.inner_stride +
            i * layout.step) * layout.row_stride;
  }

  // S = Q K^T of 64 queries.
  static __device__ __forceinline__ void scores(float (&s)[64], const unsigned (&q)[4 * STEPS], unsigned k) {
    const unsigned long long wide = descriptor(k), rest = descriptor<REST_ROW>(k + WIDE * BLOCK);
#pragma unroll
    for (int i = 0; i < STEPS; i++) wgmma_rows<D, false>(s, q + 4 * i, i < 4 * WIDE ? wide + (i / 4 * BLOCK + i % 4 * 32 >> 4) : rest, i);
    wgmma_commit();
  }
  // O += P V
  static __device__ __forceinline__ void weigh(float (&o)[COLUMNS / 2], const unsigned (&p)[KEYS / 4], unsigned v) {
    const unsigned long long b = descriptor<V_ROW>(v, V_BLOCK);
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) wgmma_rows<D, true>(o, p + 4 * i, b + (i * 16 * V_ROW >> 4), 1);
    wgmma_commit();
  }

  static __device__ __forceinline__ void run(const AttentionParams& p, const TensorMap* maps) {
    const unsigned shared = shared_address(dynamic_shared), barriers = shared + BARRIERS_AT;
    const unsigned prepared = barriers + 32 * STAGES;
    Ring k(shared, barriers), v(shared + STAGES * TILE, barriers + 16 * STAGES);
    const int tiles_q = (p.q_len + QUERIES - 1) / QUERIES, sequence = blockIdx.x / tiles_q, head = blockIdx.y;
    const int q0 = blockIdx.x % tiles_q * QUERIES, tiles = (p.kv_len + KEYS - 1) / KEYS;
    const bool prepares = PREPARED && (p.k_norm || p.rope);
    if (threadIdx.x == 0) {
      k.make(), v.make();
#pragma unroll
      for (int s = 0; PREPARED && s < STAGES; s++) barrier_init(prepared + 8 * s, 4);
      barriers_made();
    }
    __syncthreads();

    if (threadIdx.x >= 128 * CONSUMERS) {
      give_registers<PREPARED ? 104 : 24>();
      int row = threadIdx.x - 128 * CONSUMERS;
      keep(row);
      if (row != 0 && !prepares) return;
      // Keys are prepared, and values copied, a tile behind the copies of keys.
#pragma unroll 1
      for (int tile = tiles - 1; tile >= -1; tile--) {
        if (row == 0 && tile >= 0) {
          const unsigned full = k.open();
#pragma unroll
          for (int b = 0; b < WIDE; b++) copy_box(k.tile() + b * BLOCK, maps, 64 * b, tile * KEYS, head, sequence, full);
          if (REST) copy_box(k.tile() + WIDE * BLOCK, maps + 1, 64 * WIDE, tile * KEYS, head, sequence, full);
          k.turn.next();
        }
        if (tile == tiles - 1) continue;
        if (prepares) {
          __syncwarp();
          v.await(k.full);
          prepare(p, Key(k.tiles + v.turn.stage * TILE, row), (tile + 1) * KEYS + row);
          __syncwarp();
          if (row % 32 == 0) barrier_arrive(prepared + 8 * v.turn.stage);
        }
        if (row == 0) {
          const unsigned full = v.open();
#pragma unroll
          for (int b = 0; b < TILE / V_BLOCK; b++) copy_box(v.tile() + b * V_BLOCK, maps + 2, V_ROW / 2 * b, (tile + 1) * KEYS, head, sequence, full);
        }
        v.turn.next();
      }
      return;
    }

    take_registers<PREPARED ? 200 : 240>();
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = threadIdx.x / 32 * 16; // the warp's first query of the CTA's
    // The turns of the two warpgroups: each waits for its barrier, 1 or 2, and lets the other go on.
    const int mine = 1 + group, others = 2 - group;
    if (group == 1) named_arrive(others, 256);

    const float scale = p.scale * 1.4426950408889634f;
    const unsigned ready = prepares ? prepared : k.full;
    float s[64], o[COLUMNS / 2];
    unsigned q[4 * STEPS], weights[KEYS / 4];
    float most[2], total[2] = {0.0f, 0.0f}; // of rows g and g + 8; the sum is that of a lane's columns
    load_queries(p, sequence, head, q0 + row + g, q);
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) o[i] = 0.0f;

    // The exponentials of a tile in the place of its scores, and what the sums so far shrink by.
    auto softmax = [&](auto first, float(&shrink)[2]) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float top = first.value ? s[2 * h] : most[h];
#pragma unroll
        for (int i = 0; i < 64; i += 4) top = fmaxf(top, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
        top = quad_max(top);
        shrink[h] = first.value ? 0.0f : exp2_fast((most[h] - top) * scale);
        most[h] = top;
        const float offset = top * scale;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 64; i += 4)
#pragma unroll
          for (int e = 0; e < 2; e++) sum += s[i + 2 * h + e] = exp2_fast(fmaf(s[i + 2 * h + e], scale, -offset));
        total[h] = fmaf(total[h], shrink[h], sum);
      }
    };
    // P as the first operand: a warp's fragments of scores are those of a product.
    auto pack = [&] {
#pragma unroll
      for (int i = 0; i < KEYS / 4; i++) weights[i] = pack2<D>(s[2 * i], s[2 * i + 1]);
    };

    float shrink[2];
    k.await(ready);
    named_sync(mine, 256);
    in_flight(s);
    wgmma_fence();
    scores(s, q, k.tile());
    named_arrive(others, 256);
    wgmma_wait<0>();
    in_flight(s);
    k.release();
    const int last = p.kv_len - (tiles - 1) * KEYS; // keys of this tile
#pragma unroll
    for (int i = 0; i < 64; i++)
      if (i / 4 * 8 + t * 2 + i % 2 >= last) s[i] = __int_as_float(0xff800000);
    softmax(Index<1>{}, shrink);
    pack();
#pragma unroll 1
    for (int tile = 1; tile < tiles; tile++) {
      k.await(ready);
      named_sync(mine, 256);
      in_flight(s), in_flight(o);
      wgmma_fence();
      scores(s, q, k.tile());
      v.await(v.full);
      weigh(o, weights, v.tile());
      named_arrive(others, 256);
      wgmma_wait<1>();
      in_flight(s);
      k.release();
      softmax(Index<0>{}, shrink);
      wgmma_wait<0>();
      in_flight(o);
      v.release();
#pragma unroll
      for (int i = 0; i < COLUMNS / 2; i++) o[i] *= shrink[i / 2 % 2];
      pack();
    }
    v.await(v.full);
    in_flight(o);
    wgmma_fence();
    weigh(o, weights, v.tile());
    wgmma_wait<0>();
    in_flight(o);
    if (group == 0) named_sync(mine, 256); // the other's last turn

    // The result: a warp writes its 16 rows into shared memory and takes them out as rows.
    const unsigned staging = shared + OUT_AT + row * OUT_ROW;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float inverse = reciprocal(quad_sum(total[h]));
#pragma unroll
      for (int j = 0; j < CHUNKS; j++)
        store_shared4(staging + (g + 8 * h) * OUT_ROW + 16 * j + 4 * t, pack2<D>(o[4 * j + 2 * h] * inverse, o[4 * j + 2 * h + 1] * inverse));
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
      const int r = i / CHUNKS, chunk = i % CHUNKS, query = q0 + row + r;
      if (query < p.q_len)
        store_global16(static_cast<D*>(p.out) + row_of(p.out_layout, sequence, query) + head * HEAD_DIM + chunk * 8,
                       load_shared16(staging + r * OUT_ROW + chunk * 16));
    }
  }
};

#define ENTRY(HEAD_DIM, D)                                                                                                                \
  extern "C" __global__ void __launch_bounds__(ATTENTION_WGMMA_THREADS, 1) attention_##HEAD_DIM##_##D##_wgmma(const AttentionWgmmaParams p) { \
    const TensorMap* maps;                                                                                                                \
    PARAMETER_ADDRESS(maps, "attention_" #HEAD_DIM "_" #D "_wgmma");                                                                      \
    Attention<D, HEAD_DIM>::run(p.attention, maps);                                                                                       \
  }
ENTRY(72, bf16)
ENTRY(72, f16)
ENTRY(128, bf16)
ENTRY(128, f16)
