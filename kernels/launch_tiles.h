// What the host needs to launch linear.cu, conv.cu and attention.cu: tile sizes, threads, grids, dynamic shared memory.
// Plain #defines that src/ops mirrors. (launch.h has the same for the other kernels.)
#pragma once

// ---- linear ----------------------------------------------------------------------------------------------------------------
// Entry suffixes _256 (16-bit types), _128 and _64: M x N tiles. grid = (ceil(m / M) * ceil(n / N), 1, 1), block = (THREADS, 1, 1),
// linear_few.cu: _few_128 (as _128) and _few_96, both of 16-bit types; grid y = parts of k, at most ceil(k / 32) and LINEAR_PARTS.
// dynamic shared = SHARED bytes (the stages, then mean and rstd of M rows), the same for all dtypes but where it says so. Which one: src/ops/linear.rs.
#define LINEAR_K_BYTES 64 // of a row of a or w in one stage
#define LINEAR_256_M 256
#define LINEAR_256_N 144
#define LINEAR_256_THREADS 256
#define LINEAR_256_STAGES 3
#define LINEAR_256_SHARED (LINEAR_256_STAGES * (LINEAR_256_M + LINEAR_256_N) * LINEAR_K_BYTES + 8 * LINEAR_256_M) // 78848
#define LINEAR_128_M 128
#define LINEAR_128_N 144
#define LINEAR_128_THREADS(element_bytes) ((element_bytes) == 2 ? 128 : 256)
#define LINEAR_128_STAGES 4
#define LINEAR_128_SHARED (LINEAR_128_STAGES * (LINEAR_128_M + LINEAR_128_N) * LINEAR_K_BYTES + 8 * LINEAR_128_M) // 70656
#define LINEAR_96_M 128
#define LINEAR_96_N 96
#define LINEAR_96_THREADS 192
#define LINEAR_96_STAGES 3
#define LINEAR_96_SHARED (LINEAR_96_STAGES * (LINEAR_96_M + LINEAR_96_N) * LINEAR_K_BYTES + 8 * LINEAR_96_M) // 44032
#define LINEAR_PARTS 16
#define LINEAR_64_M 64
#define LINEAR_64_N 48
#define LINEAR_64_THREADS 96
#define LINEAR_64_STAGES 4
#define LINEAR_64_SHARED (LINEAR_64_STAGES * (LINEAR_64_M + LINEAR_64_N) * LINEAR_K_BYTES + 8 * LINEAR_64_M) // 29184

// sm_90a/linear.cu and linear_fp8.cu, entry suffix _wgmma (16-bit types, no _ln): grid = (at most ceil(m / M) * ceil(n / N), 1, 1), any number of blocks: they take turns.
// dynamic shared: the stages, then two barriers of each.
#define LINEAR_WGMMA_M 256
#define LINEAR_WGMMA_N 192
#define LINEAR_WGMMA_K_BYTES 128 // of a row of a or w in one stage
#define LINEAR_WGMMA_THREADS 384
#define LINEAR_WGMMA_STAGES 3
#define LINEAR_WGMMA_SHARED (LINEAR_WGMMA_STAGES * ((LINEAR_WGMMA_M + LINEAR_WGMMA_N) * LINEAR_WGMMA_K_BYTES + 16)) // 172080

// ---- conv ------------------------------------------------------------------------------------------------------------------
// Entry suffix _192: 128 x 192 tiles; _tall: 256 x 96 (both of 16-bit types); _96: 128 x 96 (f32); _128: 128 x 128; _16: 128 x 16.
// grid = (ceil(m / M) * ceil(n / N), 1, 1).
#define CONV_M 128
#define CONV_TALL_M 256
#define CONV_STAGES 4
#define CONV_192_THREADS 256
#define CONV_192_SHARED (CONV_STAGES * (CONV_M + 192) * 64) // 81920
#define CONV_TALL_THREADS 256
#define CONV_TALL_SHARED (CONV_STAGES * (CONV_TALL_M + 96) * 64) // 90112
// _row192: 128 x 192; _row96 and _row128: 256 x 96, 256 x 128 (16-bit types): each with a block of this many bytes for every 32 channels of the input,
// at least CONV_STAGES of them, beside the stages of w.
#define CONV_ROW_THREADS 256
#define CONV_ROW_BLOCK(tile_m) (((tile_m) + 4) * 64)
#define CONV_128_THREADS 256
#define CONV_128_SHARED (CONV_STAGES * (CONV_M + 128) * 64) // 65536
#define CONV_96_THREADS 128
#define CONV_96_SHARED (CONV_STAGES * (CONV_M + 96) * 64) // 57344
#define CONV_16_THREADS 128
#define CONV_16_SHARED (CONV_STAGES * (CONV_M + 16) * 64) // 36864

// ---- attention ---------------------------------------------------------------------------------------------------------------
// Entries exist for head dimensions 32, 48, 64, 72, 96 and 128 (HEAD_DIM here); others take the next. Grids: see attention.cu.
#define ATTENTION_LARGE_QUERIES(head_dim, element_bytes) ((element_bytes) == 2 && (head_dim) <= 72 ? 128 : 64)
#define ATTENTION_LARGE_THREADS 128
#define ATTENTION_PLAIN_THREADS 128
#define ATTENTION_PLAIN_QUERIES 128
#define ATTENTION_PLAIN_PARKED 3 // k-steps of Q that stay in shared memory
#define ATTENTION_SHORT_ROWS 16 // of q, k and v that each warp has
#define ATTENTION_SHORT_WARPS 4 // at most, of a block: 64 rows
#define ATTENTION_SHORT_THREADS (32 * ATTENTION_SHORT_WARPS)
#define ATTENTION_CROSS_QUERIES(head_dim) ((head_dim) <= 72 ? 256 : 128)
#define ATTENTION_CROSS_THREADS 256
// Bytes from one row of a tile in shared memory to the next: an odd number of 16-byte chunks, so that 8 rows meet no bank twice.
#define ATTENTION_ROW_BYTES(head_dim, element_bytes) ((((head_dim) * (element_bytes) / 16) | 1) * 16)
// Two stages of K and V of 64 keys (f32: of 16) and 1/rms of the keys; f32: Q; the norm weights, where the keys are, and the last one's bias.
#define ATTENTION_LARGE_SHARED(head_dim, element_bytes) \
  (((element_bytes) == 2 ? 4 * 64 : 4 * 16 + 64) * ATTENTION_ROW_BYTES(head_dim, element_bytes) + 8 * (head_dim) + \
   8 * ((element_bytes) == 2 ? 64 : 16) + 48)
// Two stages of K and V of 32 keys, where Q lies first; the parked part of Q, 16 bytes for every thread and 16 of its warp's queries; the length
// of the last tile and its key's bias.
#define ATTENTION_PLAIN_SHARED(head_dim) \
  (4 * 32 * ATTENTION_ROW_BYTES(head_dim, 2) + ATTENTION_PLAIN_PARKED * 2 * 16 * ATTENTION_PLAIN_THREADS + 16)
// The norm weights, and for each warp K, V and Q of 16 rows.
#define ATTENTION_SHORT_SHARED(head_dim, element_bytes, warps) \
  (8 * (head_dim) + (warps) * 3 * ATTENTION_SHORT_ROWS * ATTENTION_ROW_BYTES(head_dim, element_bytes))
// All of K and V, and Q.
#define ATTENTION_CROSS_SHARED(head_dim, kv_len) \
  ((2 * (((kv_len) + 31) / 32 * 32) + ATTENTION_CROSS_QUERIES(head_dim)) * ATTENTION_ROW_BYTES(head_dim, 2))
// sm_90a/attention.cu, entry suffix _wgmma (16-bit types, HEAD_DIM 72 and 128).
#define ATTENTION_WGMMA_QUERIES 128
#define ATTENTION_WGMMA_KEYS 128
#define ATTENTION_WGMMA_THREADS 384
#define ATTENTION_WGMMA_STAGES(head_dim) ((head_dim) <= 72 ? 3 : 2)
// Stages of K and V, rows in whole k-steps; the result; the barriers.
#define ATTENTION_WGMMA_SHARED(head_dim)                                                                                    \
  (2 * ATTENTION_WGMMA_STAGES(head_dim) * ATTENTION_WGMMA_KEYS * 32 * (((head_dim) + 15) / 16) +                            \
   ATTENTION_WGMMA_QUERIES * ATTENTION_ROW_BYTES(head_dim, 2) + 128)
