// How each kernel is launched: threads per block and what a block covers. The launchers in src/ops mirror these numbers.
//
// "ceil" divides rounding up. Kernels of one dimension walk their grid (grid-stride), so any number of blocks is right; the
// formula given is the fast one. Where the number of blocks decides how a sum is split (residual, motion), it depends on
// the shape alone: one input gives the same bits on every device.
#pragma once

// Elements of 16 bytes: 8 of bf16 and f16, 4 of f32. Kernels fall back to 1 by themselves when sizes or addresses ask for it.
#define CHUNK_BYTES 16

// row_stats, modulate, patchify, gather_rows: a warp per row. Grid ceil(rows / ROW_WARPS).
#define ROW_WARPS 4
#define ROW_THREADS (32 * ROW_WARPS)

// residual_probe, motion: a thread per chunk of the inner axis. Grid (min(ceil(chunks / PROBE_THREADS), PROBE_MAX_BLOCKS), batch),
// chunks = ceil(inner / (CHUNK_BYTES / size of D)), times outer for motion.
#define PROBE_THREADS 128
#define PROBE_MAX_BLOCKS 1024
// reduce_partials: a warp per sum. Grid (ceil(count / REDUCE_WARPS), batch).
#define REDUCE_WARPS 8
#define REDUCE_THREADS (32 * REDUCE_WARPS)

// residual_fold, residual_unfold: grid ceil(count / (elements per chunk) / ELEMENTWISE_THREADS).
// unpatchify, sampler_step, sampler_noise: grid (ceil(elements of one sample / ELEMENTWISE_THREADS), batch).
// position_table: grid ceil(tokens * channels/4 / ELEMENTWISE_THREADS). timestep_embed: ceil(count * dim/2 / ...).
// rope_table: ceil(positions * half / ...).
// position_add: grid (ceil(tokens * channels / 4 / ...), repeats), repeats <= ceil(rows / tokens) share the walk over frames.
// modulation: grid (ceil(chunks * channels / 4 / ...), layers).
#define ELEMENTWISE_THREADS 256

// small_linear: a warp per SMALL_LINEAR_COLUMNS columns. Grid ceil(n / (SMALL_LINEAR_WARPS * SMALL_LINEAR_COLUMNS)).
#define SMALL_LINEAR_WARPS 4
#define SMALL_LINEAR_COLUMNS 4
#define SMALL_LINEAR_THREADS (32 * SMALL_LINEAR_WARPS)

// patch_decode: a warp per patch. Grid ceil(batch * frames * height * width / DECODE_WARPS).
#define DECODE_WARPS 4
#define DECODE_THREADS (32 * DECODE_WARPS)

// step_begin: one block.
#define STEP_THREADS 64

// residual_pack, quantise: a warp per row. Grid min(ceil(rows / PACK_WARPS), PACK_MAX_BLOCKS). residual_unpack: ceil(count / ELEMENTWISE_THREADS).
#define PACK_WARPS 8
#define PACK_THREADS (32 * PACK_WARPS)
#define PACK_MAX_BLOCKS 1024

// group_sums: grid (min(ceil(positions / GROUP_POSITIONS), GROUP_MAX_BLOCKS), samples). group_affine: a warp per (sample, group), grid
// ceil(samples * groups / ROW_WARPS), ROW_THREADS threads. group_apply: ceil(chunks of out / ELEMENTWISE_THREADS).
#define GROUP_THREADS 256
#define GROUP_POSITIONS 64
#define GROUP_MAX_BLOCKS 512
// A thread keeps one chunk of the channels.
#define GROUP_MAX_CHANNELS (GROUP_THREADS * 4)

// circulant: grid outer * ceil(inner / tile); a block has the columns of a tile in shared memory.
#define CIRCULANT_THREADS 256
#define CIRCULANT_ELEMENTS 8192
#define CIRCULANT_LENGTH 1024

// softmax: a block per row.
#define SOFTMAX_THREADS 256

// pixels: ceil(count / ELEMENTWISE_THREADS). dup_up, avg_down, time_up: ceil(chunks of out / ELEMENTWISE_THREADS).
// permute: ceil(elements of out / ELEMENTWISE_THREADS).

// rms_norm: `lanes` threads for a row. Grid ceil(rows * lanes / ROW_THREADS).
