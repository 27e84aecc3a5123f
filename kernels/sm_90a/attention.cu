// attention for Hopper: out = softmax(scale * q k^T) v, as ../attention.cu, without norm, RoPE, lengths or biases: Wan's self-attention. FlashAttention-3's
// schedule. Entries attention_128_{bf16,f16}_wgmma.
//
// A CTA is three warpgroups and takes 128 queries of one sequence and head. One thread of the last copies Q, then K and V in tiles of 128
// keys, by tensor maps into two stages of each; the first two warpgroups have 64 queries each.
//
// Two things overlap with the products. Within a warpgroup the scores of the next tile are queued before the values of this one: while they are
// multiplied, the softmax of the next tile runs. Between them, named barriers let one queue its products while the other is in its softmax.
//
//   wgmma: S = Q K^T, m64n128k16, both from shared memory; O += P V, P from registers, where S leaves it, V with its rows along N.
//
// Shared memory: Q, two stages of K, two of V: each two blocks of 64 channels, rows of 128 bytes in the swizzle of hopper.cuh. Q's place takes the
// result, for whole rows to global memory. Rows beyond a sequence are zeros, by the maps; scores of keys beyond are -inf in the last tile.
//
// grid (sequences * ceil(q_len / 128), heads): neighbours share K and V. A tile asks L2 for 32 bytes a clock of tensor cores that make 2048
// multiply-adds a clock, and shared memory for 80. Launch: launch_tiles.h.
#include "hopper.cuh"
#include "launch_tiles.h"

constexpr int QUERIES = ATTENTION_WGMMA_QUERIES, KEYS = ATTENTION_WGMMA_KEYS, HEAD_DIM = 128, STAGES = 2, CONSUMERS = 2;
constexpr int BLOCKS = HEAD_DIM * 2 / SWIZZLED_ROW; // of 64 channels
constexpr int Q_BLOCK = QUERIES * SWIZZLED_ROW, BLOCK = KEYS * SWIZZLED_ROW, Q_BYTES = BLOCKS * Q_BLOCK, TILE_BYTES = BLOCKS * BLOCK;
static_assert(QUERIES == 64 * CONSUMERS && KEYS == 128 && ATTENTION_WGMMA_SHARED == Q_BYTES + 2 * STAGES * TILE_BYTES + 128, "launch_tiles.h");

extern __shared__ __align__(1024) unsigned char dynamic_shared[];

// A ring of tiles in shared memory with its barriers.
struct Ring {
  unsigned tiles, full, empty;
  Turn<STAGES> turn;
  __device__ __forceinline__ Ring(unsigned tiles, unsigned barriers) : tiles(tiles), full(barriers), empty(barriers + 8 * STAGES) {}
  __device__ __forceinline__ unsigned tile() const { return tiles + turn.stage * TILE_BYTES; }
  __device__ __forceinline__ void make() const {
#pragma unroll
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * CONSUMERS);
    }
  }
  // One thread.
  __device__ __forceinline__ void fill(const TensorMap* map, int key, int head, int sequence) {
    barrier_wait(empty + 8 * turn.stage, turn.parity ^ 1);
    barrier_expect(full + 8 * turn.stage, TILE_BYTES);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) copy_box(tile() + b * BLOCK, map, 64 * b, key, head, sequence, full + 8 * turn.stage);
    turn.next();
  }
  __device__ __forceinline__ void await() const { barrier_wait(full + 8 * turn.stage, turn.parity); }
  // A warp is done with the tile.
  __device__ __forceinline__ void release() {
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * turn.stage);
    turn.next();
  }
};

// S = Q K^T of 64 queries.
template <class D> __device__ __forceinline__ void scores(float (&s)[64], unsigned q, unsigned k) {
  const unsigned long long a = descriptor(q), b = descriptor(k);
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 16; i++) wgmma<D>(s, a + (i / 4 * Q_BLOCK + i % 4 * 32 >> 4), b + (i / 4 * BLOCK + i % 4 * 32 >> 4), i);
  wgmma_commit();
}
// O += P V
template <class D> __device__ __forceinline__ void weigh(float (&o)[64], const unsigned (&p)[KEYS / 4], unsigned v) {
  const unsigned long long b = descriptor(v, BLOCK);
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++) wgmma_rows<D>(o, p + 4 * i, b + (i * 16 * SWIZZLED_ROW >> 4));
  wgmma_commit();
}

template <class D> __device__ __forceinline__ void attention(const AttentionParams& p, const TensorMap* maps) {
  const unsigned shared = shared_address(dynamic_shared), barriers = shared + Q_BYTES + 2 * STAGES * TILE_BYTES;
  const unsigned q_full = barriers + 64;
  Ring k(shared + Q_BYTES, barriers), v(shared + Q_BYTES + STAGES * TILE_BYTES, barriers + 32);
  const int tiles_q = (p.q_len + QUERIES - 1) / QUERIES, sequence = blockIdx.x / tiles_q, head = blockIdx.y;
  const int q0 = blockIdx.x % tiles_q * QUERIES, tiles = (p.kv_len + KEYS - 1) / KEYS;
  if (threadIdx.x == 0) {
    k.make(), v.make();
    barrier_init(q_full, 1);
    barriers_made();
  }
  __syncthreads();

  if (threadIdx.x >= 128 * CONSUMERS) {
    give_registers<24>();
    if (threadIdx.x != 128 * CONSUMERS) return;
    barrier_expect(q_full, Q_BYTES);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) copy_box(shared + b * Q_BLOCK, maps, 64 * b, q0, head, sequence, q_full);
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      k.fill(maps + 1, tile * KEYS, head, sequence);
      v.fill(maps + 2, tile * KEYS, head, sequence);
    }
    return;
  }

  take_registers<240>();
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const unsigned q = shared + group * 64 * SWIZZLED_ROW;
  // The turns of the two warpgroups: each waits for its barrier, 1 or 2, and lets the other go on.
  const int mine = 1 + group, others = 2 - group;
  if (group == 1) named_arrive(others, 256);

  const float scale = p.scale * 1.4426950408889634f;
  float s[64], o[64];
  unsigned weights[KEYS / 4];
  float most[2], total[2] = {0.0f, 0.0f}; // of rows g and g + 8; the sum is that of a lane's columns
#pragma unroll
  for (int i = 0; i < 64; i++) o[i] = 0.0f;

  // The exponentials of a tile in the place of its scores, and what the sums so far shrink by.
  auto softmax = [&](int tile, auto first, float(&shrink)[2]) {
    const int keys = p.kv_len - tile * KEYS;
    if (keys < KEYS) {
#pragma unroll
      for (int i = 0; i < 64; i++)
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= keys) s[i] = __int_as_float(0xff800000);
    }
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
  barrier_wait(q_full, 0);
  k.await();
  named_sync(mine, 256);
  in_flight(s);
  wgmma_fence();
  scores<D>(s, q, k.tile());
  named_arrive(others, 256);
  wgmma_wait<0>();
  in_flight(s);
  k.release();
  softmax(0, Index<1>{}, shrink);
  pack();
#pragma unroll 1
  for (int tile = 1; tile < tiles; tile++) {
    k.await();
    named_sync(mine, 256);
    in_flight(s), in_flight(o);
    wgmma_fence();
    scores<D>(s, q, k.tile());
    v.await();
    weigh<D>(o, weights, v.tile());
    named_arrive(others, 256);
    wgmma_wait<1>();
    in_flight(s);
    k.release();
    softmax(tile, Index<0>{}, shrink);
    wgmma_wait<0>();
    in_flight(o);
    v.release();
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] *= shrink[i / 2 % 2];
    pack();
  }
  v.await();
  in_flight(o);
  wgmma_fence();
  weigh<D>(o, weights, v.tile());
  wgmma_wait<0>();
  in_flight(o);
  if (group == 0) named_sync(mine, 256); // the other's last turn

  // The result through Q's place: a warp writes its 16 rows there as the swizzle has them, and takes them out as rows.
  named_sync(3 + group, 128); // the other warps have read Q
  const int row = threadIdx.x % 128 / 32 * 16, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float inverse = reciprocal(quad_sum(total[h]));
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
      store_shared4(q + j / 8 * Q_BLOCK + (row + g + 8 * h) * SWIZZLED_ROW + ((j % 8 ^ g) << 4) + 4 * t,
                    pack2<D>(o[4 * j + 2 * h] * inverse, o[4 * j + 2 * h + 1] * inverse));
  }
  __syncwarp();
  const long long first = (long long)(sequence / p.out_layout.inner) * p.out_layout.outer_stride +
                          (long long)(sequence % p.out_layout.inner) * p.out_layout.inner_stride;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int r = 2 * i + lane / 16, chunk = lane % 16, query = q0 + group * 64 + row + r;
    if (query < p.q_len)
      store_global16(static_cast<D*>(p.out) + (first + query * p.out_layout.step) * p.out_layout.row_stride + head * HEAD_DIM + chunk * 8,
                     load_shared16(q + chunk / 8 * Q_BLOCK + (row + r) * SWIZZLED_ROW + ((chunk % 8 ^ r % 8) << 4)));
  }
}

#define ENTRY(D)                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(ATTENTION_WGMMA_THREADS, 1) attention_128_##D##_wgmma(const AttentionWgmmaParams p) {      \
    const TensorMap* maps;                                                                                                                \
    PARAMETER_ADDRESS(maps, "attention_128_" #D "_wgmma");                                                                                \
    attention<D>(p.attention, maps);                                                                                                      \
  }
ENTRY(bf16)
ENTRY(f16)
