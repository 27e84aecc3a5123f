// What the host needs to launch linear.cu, conv.cu and attention.cu: tile sizes, threads, grids, dynamic shared memory.
// Plain #defines that src/ops mirrors. (launch.h has the same for the other kernels.)
#pragma once

// ---- linear ----------------------------------------------------------------------------------------------------------------
// Entry suffix _128: 128 x 144 tiles (144 = 2 heads of 72 divides every width of sprites and Open-Sora);
// suffix _64: 64 x 48 tiles, for shapes that give fewer _128 tiles than the device has multiprocessors.
// grid = (ceil(m / M) * ceil(n / N), 1, 1), block = (THREADS, 1, 1), dynamic shared = SHARED bytes, the same for all dtypes.
#define LINEAR_128_M 128
#define LINEAR_128_N 144
#define LINEAR_128_THREADS 192
#define LINEAR_128_STAGES 3
#define LINEAR_128_SHARED (LINEAR_128_STAGES * (LINEAR_128_M + LINEAR_128_N) * 96 + 8 * LINEAR_128_M) // 79360
#define LINEAR_64_M 64
#define LINEAR_64_N 48
#define LINEAR_64_THREADS 96
#define LINEAR_64_STAGES 4
#define LINEAR_64_SHARED (LINEAR_64_STAGES * (LINEAR_64_M + LINEAR_64_N) * 96 + 8 * LINEAR_64_M) // 43520

// ---- conv ------------------------------------------------------------------------------------------------------------------
// Entry suffix _128: 128 x 128 tiles; _16: 128 x 16. grid = (ceil(m / CONV_M) * ceil(n / 128 or 16), 1, 1), the same for all dtypes.
#define CONV_M 128
#define CONV_STAGES 4
#define CONV_128_THREADS 256
#define CONV_128_SHARED (CONV_STAGES * (CONV_M + 128) * 64) // 65536
#define CONV_16_THREADS 128
#define CONV_16_SHARED (CONV_STAGES * (CONV_M + 16) * 64) // 36864

// ---- attention ---------------------------------------------------------------------------------------------------------------
// Entry suffix _16: one warp, 16 queries a CTA (q_len <= 16); suffix _64: four warps, 64 queries a CTA. Both take any q_len.
// grid = (sequences * ceil(q_len / QUERIES), heads, 1), block = (THREADS, 1, 1), dynamic shared = ATTENTION_*_SHARED.
#define ATTENTION_16_QUERIES 16
#define ATTENTION_16_THREADS 32
#define ATTENTION_64_QUERIES 64
#define ATTENTION_64_THREADS 128
// Bytes from one row of a tile in shared memory to the next: an odd number of 16-byte chunks, so that 8 rows meet no bank twice.
#define ATTENTION_ROW_BYTES(head_dim, element_bytes) ((((head_dim) * (element_bytes) / 16) | 1) * 16)
// Keys of one tile.
#define ATTENTION_16_KEYS(head_dim, element_bytes) 16
#define ATTENTION_64_KEYS(head_dim, element_bytes) ((element_bytes) == 2 ? 64 : 16)
// Q, one (_16) or two (_64) stages of K and V, and the two norm weights as f32.
#define ATTENTION_16_SHARED(head_dim, element_bytes) \
  ((16 + 2 * ATTENTION_16_KEYS(head_dim, element_bytes)) * ATTENTION_ROW_BYTES(head_dim, element_bytes) + 8 * (head_dim))
#define ATTENTION_64_SHARED(head_dim, element_bytes) \
  ((64 + 4 * ATTENTION_64_KEYS(head_dim, element_bytes)) * ATTENTION_ROW_BYTES(head_dim, element_bytes) + 8 * (head_dim))
