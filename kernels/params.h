// One plain struct per kernel: the only thing a kernel takes, by value.
//
// Rust gets the same structs through bindgen (src/ops/params.rs, made with ADACACHE_BINDGEN defined, which turns device
// pointers into 64-bit integers of the same size). Sizes and offsets are asserted against the PTX `.param` blocks.
//
// Conventions. D is the kernel's element type (bf16, f16 or f32: the suffix of the entry). Shapes are row-major, last axis
// fastest. Hidden states are [batch, frames, tokens, channels]; a "row" is one (batch, frame, token). A null pointer switches
// the feature off. Counts that can exceed 2^31 are 64-bit.
#pragma once

#ifdef ADACACHE_BINDGEN
#define DEVICE_PTR(type) unsigned long long
#else
#define DEVICE_PTR(type) type*
#endif

// A tensor map as the driver encodes it (sm_90a).
struct alignas(64) TensorMap { unsigned char bytes[128]; };

#define MAX_STRIDES 8
// Sums the residual probe gives, in this order; three more for each frame stride follow.
//   0 sum|new-kept|  1 sum|kept|  2 sum(new-kept)^2  3 sum kept^2  4 sum new*kept  5 sum new^2
#define PROBE_SUMS 6
// For stride i: PROBE_SUMS + 3*i: sum|r[t+k]-r[t]|, sum|r[t+k]|, sum|r[t]|.
#define MOTION_SUMS 3

// ---- linear.cu ------------------------------------------------------------------------------------------------------

// out = epilogue(prologue(a) . w^T + bias). Entries linear[_ln]_{bias,gelu,residual}_{bf16,f16,f32}.
struct LinearParams {
  DEVICE_PTR(const void) a;             // [m, k] D
  DEVICE_PTR(const void) w;             // [n, k] D
  DEVICE_PTR(const void) bias;          // [n] D, or null
  DEVICE_PTR(void) out;                 // [m, n] D; the residual epilogue reads it and adds to it
  DEVICE_PTR(void) residual_out;        // residual epilogue: [m, n] D, the added value gate*(acc+bias) itself, or null
  DEVICE_PTR(const float) row_stats;    // _ln: [m, 2] mean and 1/sqrt(var+eps) of every row of a
  DEVICE_PTR(const float) modulation;   // [batch, variants, chunks, channels], or null (no gate)
  DEVICE_PTR(const unsigned char) frame_mask; // [batch, frames]: 1 takes variant 0 (t), 0 variant 1 (t0); null: variant 0
  int m, n, k;
  int frames, rows_per_frame;           // row r belongs to batch r/(frames*rows_per_frame), frame (r/rows_per_frame)%frames
  int variants, chunks, channels;
  int shift_chunk, scale_chunk;         // _ln prologue: a' = (a-mean)*rstd*(1+scale)+shift
  int gate_chunk;                       // residual epilogue: which chunk gates; -1: gate is 1
  int accumulate_residual;              // residual_out: 0 overwrites, 1 adds to what is there
};
// linear_few.cu: the same, k in gridDim.y parts.
struct LinearFewParams {
  struct LinearParams product;
  DEVICE_PTR(float) partial;            // more than one part: [tiles, parts, elements of a tile], any content
  DEVICE_PTR(unsigned) arrived;         // [tiles], zeros; zeros again when the kernel is done
};
// sm_90a/linear.cu: a and w also as maps of boxes of one stage; w [n/32, 4, 4, 2, k] = (32 rows, j, t, e, k), row 32 i + 8 t + 2 j + e.
struct LinearWgmmaParams {
  struct TensorMap a_map, w_map;
  struct LinearParams product;
  int columns, tiles, steps;            // tiles of out side by side, in all; stages of k: divisions that the host makes
  int reserved;
};

// sm_90a/linear_fp8.cu: the same with a and w in e4m3 [m, k], [n, k], whose rows have scales. wgmma.product.a and .w are theirs.
#define LINEAR_FP8_RESERVED 12
struct LinearFp8Params {
  struct LinearWgmmaParams wgmma;
  DEVICE_PTR(const float) a_scale;      // [m]
  DEVICE_PTR(const float) w_scale;      // [n]
  int reserved[LINEAR_FP8_RESERVED];
};

// ---- attention.cu ---------------------------------------------------------------------------------------------------

// out = softmax(scale * q k^T) v for every sequence and head. Entries attention_{HEAD_DIM}_{dtype}_{large,short,cross}.
// Row of token i of sequence s:  (s / inner) * outer_stride + (s % inner) * inner_stride + i * step.
struct SequenceLayout {
  long long outer_stride, inner_stride, step; // in rows
  long long row_stride;                 // elements from one row to the next
  int inner;
  int reserved;
};
#define ATTENTION_RESERVED 6
struct AttentionParams {
  DEVICE_PTR(const void) q;             // D; element (row, head, d) at row*row_stride + head*head_dim + d
  DEVICE_PTR(const void) k;
  DEVICE_PTR(const void) v;             // laid out as k
  DEVICE_PTR(void) out;
  DEVICE_PTR(const void) q_norm;        // RMSNorm weights [head_dim] D, or null
  DEVICE_PTR(const void) k_norm;
  DEVICE_PTR(const float) rope;         // [max(q_len, kv_len), head_dim/2, 2] cos, sin by position, or null
  DEVICE_PTR(const int) kv_lengths;     // [sequences], at most kv_len each, or null (all kv_len)
  DEVICE_PTR(const float) last_bias;    // [sequences], added to the scaled score of each sequence's last key, or null
  DEVICE_PTR(const float) bias;         // biased: [heads, 2*bias_span - 1], added to q k before the scale, by key - query + bias_span - 1
  struct SequenceLayout q_layout, kv_layout, out_layout;
  float scale, norm_eps;
  int sequences, heads, q_len, kv_len;
  int head_dim;                         // at most the HEAD_DIM of the entry
  int bias_span;                        // at least q_len and kv_len
};
// sm_90a/attention.cu: k and v also as maps [sequences, heads, tokens, head_dim] of boxes of a tile's keys: k's whole blocks of 64 channels and the
// 16 of the rest, v's of 64 channels or, where there is a rest, of 16.
struct AttentionWgmmaParams {
  struct TensorMap k_map, k_rest_map, v_map;
  struct AttentionParams attention;
  int reserved[ATTENTION_RESERVED];
};

// ---- norm.cu --------------------------------------------------------------------------------------------------------

// LayerNorm statistics: stats[row] = (mean, 1/sqrt(var+eps)). Entries row_stats_{dtype}.
struct RowStatsParams {
  DEVICE_PTR(const void) x;             // [rows, channels] D
  DEVICE_PTR(float) stats;              // [rows, 2]
  long long rows;
  int channels;
  float eps;
};
// RMSNorm over whole rows, then RoPE of each head, of the first `parts` parts of packed projections, in place. Entries rms_rope_{dtype}.
struct RmsRopeParams {
  DEVICE_PTR(void) x;                   // [rows, row_stride] D; part p of a row: channels from p*channels on
  DEVICE_PTR(const void) weight[2];     // of part 0 and 1: [channels] D
  DEVICE_PTR(const float) rope;         // [positions, head_dim/2, 2] cos, sin, or null: no rotation
  long long rows;                       // (sample, frame, height, width), width fastest
  int row_stride, channels, parts;
  int head_dim;
  int frames, height, width;            // tokens of a sample
  int frame_pairs, height_pairs;        // of a head: pairs that turn with the frame, then with the row; the others turn with the column
  float eps;
};
// out = LN(x)*(1+scale)+shift. Entries modulate_{dtype}. In place is allowed.
struct ModulateParams {
  DEVICE_PTR(const void) x;             // [rows, channels] D
  DEVICE_PTR(void) out;
  DEVICE_PTR(const float) modulation;   // [batch, variants, chunks, channels]
  DEVICE_PTR(const unsigned char) frame_mask; // null: every row is written
  long long rows;
  int channels, frames, rows_per_frame;
  int variants, chunks, variant;        // the variant applied
  int shift_chunk, scale_chunk;
  int only_masked_out;                  // 1: only rows whose frame_mask is 0 are written (the others are left alone)
  float eps;
};
// sm_90a/quantise.cu: the same rows in e4m3, each by the variant of its frame. Entries quantise_modulated_{bf16,f16}.
struct QuantiseModulatedParams {
  struct ModulateParams modulate;       // out: [rows, channels] e4m3; variant and only_masked_out are not read
  DEVICE_PTR(float) scale;              // [rows]
  DEVICE_PTR(float) error;              // [blocks, 2]
};

// ---- residual.cu ----------------------------------------------------------------------------------------------------

// One pass: every distance sum and motion sum, and kept := fresh. Entries residual_probe_{dtype}; grid (blocks, batch).
struct ResidualProbeParams {
  DEVICE_PTR(const void) fresh;         // [batch, frames, inner] D
  DEVICE_PTR(void) kept;                // same shape; read, then overwritten
  DEVICE_PTR(float) partial;            // [batch, blocks, PROBE_SUMS + MOTION_SUMS*num_strides]
  long long inner;                      // tokens * channels
  int batch, frames;
  int first;                            // 1: kept holds nothing yet and is not read; sums 0..4 are 0
  int num_strides;
  int strides[MAX_STRIDES];             // in frames; a stride >= frames gives zero sums
};
// Second stage: sums[batch, i] = sum over blocks of partial[batch, block, i], in f64, in a fixed order. Entry reduce_partials.
struct ReduceParams {
  DEVICE_PTR(const float) partial;      // [batch, blocks, count]
  DEVICE_PTR(double) sums;              // [batch, count]
  int batch, blocks, count;
  int reserved;
};
// residual_fold_{dtype}: out = a - b.  residual_unfold_{dtype}: out = a + b. out may be a or b.
struct FoldParams {
  DEVICE_PTR(const void) a;
  DEVICE_PTR(const void) b;
  DEVICE_PTR(void) out;
  long long count;
};
// A reused step with the fold extrapolated from the last computed ones. Entries residual_extrapolate_{dtype}.
struct ExtrapolateParams {
  DEVICE_PTR(const void) a;
  DEVICE_PTR(const void) folds[3];      // newest first; those before the first computed step are not read
  DEVICE_PTR(void) out;                 // may be a
  DEVICE_PTR(const int) computed;       // [3]: the steps of the folds, from 1; 0: there was none
  DEVICE_PTR(const int) cursor;         // the step at hand
  long long count;
  int order;                            // 1 or 2
  float damping;                        // of the way from the last fold this part is extrapolated
};

// ---- motion.cu ------------------------------------------------------------------------------------------------------

// Frame differences by themselves, over residuals (outer = 1) or latents [batch, channels, frames, h*w] (outer = channels).
// Entries motion_{dtype}; grid (blocks, batch).
struct MotionParams {
  DEVICE_PTR(const void) x;             // [batch, outer, frames, inner] D
  DEVICE_PTR(float) partial;            // [batch, blocks, MOTION_SUMS*num_strides]
  long long inner;
  int batch, outer, frames;
  int num_strides;
  int strides[MAX_STRIDES];
};

// ---- embed.cu -------------------------------------------------------------------------------------------------------

// Latent to patches: out[row, c, kt, kh, kw] with zero padding on the right and bottom (and after the last frame). Entries patchify_{dtype}.
struct PatchifyParams {
  DEVICE_PTR(const float) z;            // [z_batch, channels, frames, height, width]
  DEVICE_PTR(void) out;                 // [batch*tokens_t*tokens_h*tokens_w, channels*patch_t*patch_h*patch_w] D
  int batch, z_batch;                   // sample b reads z[b % z_batch]: guidance shares one latent
  int channels, frames, height, width;
  int patch_t, patch_h, patch_w;
  int tokens_t, tokens_h, tokens_w;     // ceil(frames/patch_t) ...
};
// Tokens to pixels of the latent: token channels are (kt, kh, kw, c), c fastest; padding is cropped. Entries unpatchify_{dtype}.
struct UnpatchifyParams {
  DEVICE_PTR(const void) tokens;        // [batch*tokens_t*tokens_h*tokens_w, patch_t*patch_h*patch_w*channels] D
  DEVICE_PTR(float) out;                // [batch, channels, frames, height, width]
  int batch, channels, frames, height, width;
  int patch_t, patch_h, patch_w;
  int tokens_t, tokens_h, tokens_w;
  int reserved;
};
// The 2-D sin/cos table of Open-Sora: coordinates i/scale*base/count, W half first, then H. Entry position_table.
struct PositionTableParams {
  DEVICE_PTR(float) out;                // [tokens_h*tokens_w, channels]
  int tokens_h, tokens_w, channels;
  float scale;                          // sqrt(H_px*W_px)/input_sq_size
  float base_size;                      // round(sqrt(tokens_h*tokens_w))
  int reserved;
};
// x[row] += table[row % tokens]. Entries position_add_{dtype}.
struct PositionAddParams {
  DEVICE_PTR(void) x;                   // [rows, channels] D
  DEVICE_PTR(const float) table;        // [tokens, channels]
  long long rows;
  int tokens, channels;
};
// out[i] = [cos(t_i f_k), sin(t_i f_k)], f_k = max_period^(-k/(dim/2)). Entry timestep_embed.
struct TimestepEmbedParams {
  DEVICE_PTR(const float) t;            // [count]
  DEVICE_PTR(float) out;                // [count, dim]
  int count, dim;
  float max_period;
  int reserved;
};
// Few rows, f32 activations: out = act(a) . w^T + bias (+ add). Entries small_linear_{dtype} (dtype of w and bias).
struct SmallLinearParams {
  DEVICE_PTR(const float) a;            // [m, k]
  DEVICE_PTR(const void) w;             // [n, k] D
  DEVICE_PTR(const void) bias;          // [n] D, or null
  DEVICE_PTR(const float) add;          // [m, n], or null
  DEVICE_PTR(float) out;                // [m, n]
  int m, n, k;
  int silu;                             // 1: SiLU on a first
};
// out[layer, row, chunk, c] = table[layer, chunk, c] + t[row, (chunk % t_chunks), c]. Entries modulation_{dtype} (dtype of table).
struct ModulationParams {
  DEVICE_PTR(const void) table;         // [layers, chunks, channels] D
  DEVICE_PTR(const float) t;            // [rows, t_chunks, channels]; rows = batch*variants
  DEVICE_PTR(float) out;                // [layers, rows, chunks, channels]
  int layers, rows, chunks, channels;
  int t_chunks;                         // chunks, or 1 (the final layer)
  int reserved;
};
// out[pos, i] = (cos, sin)(pos * freqs[i]). Entries rope_table_{dtype} (dtype of freqs).
struct RopeTableParams {
  DEVICE_PTR(const void) freqs;         // [half] D
  DEVICE_PTR(float) out;                // [positions, half, 2]
  int positions, half;
};
// out[b, j] = src[b, index[b, j]], zero where index < 0. Entries gather_rows_{dtype}.
struct GatherRowsParams {
  DEVICE_PTR(const void) src;           // [batch, src_rows, channels] D
  DEVICE_PTR(const int) index;          // [batch, dst_rows]
  DEVICE_PTR(void) out;                 // [batch, dst_rows, channels] D
  int batch, src_rows, dst_rows, channels;
};
// multiply_{dtype}: out = a * b, the gate of T5's MLP. out may be a or b.
struct MultiplyParams {
  DEVICE_PTR(const void) a;             // [count] D
  DEVICE_PTR(const void) b;
  DEVICE_PTR(void) out;
  long long count;
};

// ---- sampler.cu -----------------------------------------------------------------------------------------------------

// Terms of a solver's sums: the latents, the prediction, the slots of the history.
#define SOLVER_HISTORY 4
#define SOLVER_TERMS 6
// A step's row of scalars: the time, the coefficients of the new latents, the slot that is written (-1: none), the coefficients of what is
// written there. Offsets of the three.
#define STEP_LATENTS 1
#define STEP_SLOT 7
#define STEP_KEPT 8
#define STEP_WORDS 14

// v = v_u + cfg_scale*(v_c - v_u); z and one slot of the history become the sums that the step's row says, of the old values; frames whose
// mask is 0 go back to x0. Entry sampler_step.
struct SamplerStepParams {
  DEVICE_PTR(float) z;                  // [batch, channels, frames, spatial], updated in place
  DEVICE_PTR(const float) v;            // [2*batch, v_channels, frames, spatial] cond then uncond; [batch, ...] unguided
  DEVICE_PTR(const float) x0;           // as z, or null
  DEVICE_PTR(const unsigned char) frame_mask; // [batch, frames], or null: all frames move
  DEVICE_PTR(const float) row;          // [STEP_WORDS]
  DEVICE_PTR(float) history;            // [slots, ...z], or null: the row names none
  float cfg_scale;
  int guided;
  int batch, channels, v_channels, frames, spatial;
  int reserved;
};
// Frames whose select is 1: z = (1-t)*x0 + t*noise, t in [0,1]. Entry sampler_noise.
struct SamplerNoiseParams {
  DEVICE_PTR(float) z;                  // [batch, channels, frames, spatial]
  DEVICE_PTR(const float) x0;
  DEVICE_PTR(const float) noise;
  DEVICE_PTR(const unsigned char) select; // [batch, frames]
  float t;
  int batch, channels, frames, spatial;
  int reserved;
};

// ---- decode.cu ------------------------------------------------------------------------------------------------------

// The sprites decoder: pixels = clamp(((z*scale) . basis + mean + 1)/2), as bytes. Entry patch_decode.
struct PatchDecodeParams {
  DEVICE_PTR(const float) z;            // [batch, channels, frames, height, width]
  DEVICE_PTR(const float) basis;        // [channels, patch*patch*3]
  DEVICE_PTR(const float) mean;         // [patch*patch*3]
  DEVICE_PTR(const float) scale;        // [channels]
  DEVICE_PTR(unsigned char) out;        // [batch, frames, height*patch, width*patch, 3]
  int batch, channels, frames, height, width, patch;
};

// RGB to bytes: byte = clamp((x+1)/2, 0, 1) * 255 + 1/2. Entry pixels.
struct PixelsParams {
  DEVICE_PTR(const float) x;            // [rows/patch, width/patch, pitch], of which 3*patch*patch channels (rgb, column, row) are a square
  DEVICE_PTR(unsigned char) out;        // [rows, width, 3]
  long long count;                      // rows * width
  int pitch, width, patch;
  int reserved;
};

// ---- conv.cu --------------------------------------------------------------------------------------------------------

// Convolution in time and space, channels last. Entries conv_{dtype}_{128,16}.
struct ConvParams {
  DEVICE_PTR(const void) x;             // [frames, in_rows, width, channels] D: rows in_first.. of height
  DEVICE_PTR(const void) before;        // [frames_before, in_rows, width, channels] D: the frames before those of x, or null
  DEVICE_PTR(const void) w;             // [n, kernel_t, kernel_h, kernel_w, channels] D
  DEVICE_PTR(const void) bias;          // [n] D, or null
  DEVICE_PTR(const void) residual;      // as out, D, added; or null. May be out
  DEVICE_PTR(void) out;                 // [out_frames*time_factor, out_height, out_width, n/time_factor] D (out_f32: float)
  int frames, height, width, channels;  // of the input before upsampling
  int in_first, in_rows;
  int out_frames, out_height, out_width, n;
  int out_first, out_rows;              // the rows made
  int kernel_t, kernel_h, kernel_w;
  int stride_t, stride;                 // in time, in both directions of space
  int pad_t, pad;                       // in front
  int upsample;                         // 1: rows and columns of the input are doubled
  int time_factor;
  int out_f32;
  float alpha;                          // factor of the sums, not of the bias
  int frames_before;
  int relu;                             // 1: what is below 0 becomes 0, last of all
  int reserved;
};

// ---- group_norm.cu --------------------------------------------------------------------------------------------------

// Entries group_sums_{dtype}; grid (blocks, samples).
struct GroupSumsParams {
  DEVICE_PTR(const void) x;             // [samples, positions, channels] D
  DEVICE_PTR(float) partial;            // [samples, blocks, channels, 2]
  long long positions;
  int channels, groups;
};
// Entries group_affine_{dtype}.
struct GroupAffineParams {
  DEVICE_PTR(const void) x;             // as for the sums
  DEVICE_PTR(const float) partial;
  DEVICE_PTR(const void) weight;        // [channels] D
  DEVICE_PTR(const void) bias;          // [channels] D
  DEVICE_PTR(float) affine;             // [samples, channels, 2]: y = x * affine[0] + affine[1]
  long long positions;
  int samples, blocks, channels, groups;
  float eps;
  int reserved;
};
// Entries group_apply_{dtype}.
struct GroupApplyParams {
  DEVICE_PTR(const void) x;             // [frames, height, width, channels] D
  DEVICE_PTR(const float) affine;       // [frames/frames_per_sample, channels, 2]
  DEVICE_PTR(void) out;                 // [frames, rows, width, channels] D: rows first.. of every frame
  int frames, frames_per_sample, height, width, channels;
  int first, rows;
  int silu;                             // 1: SiLU follows
};

// ---- rms_norm.cu ----------------------------------------------------------------------------------------------------

// out = act(x / max(|x|, 1e-12) * scale * gamma) for each row. Entries rms_norm_{dtype}. out may be x.
struct RmsNormParams {
  DEVICE_PTR(const void) x;             // [rows, channels] D
  DEVICE_PTR(const void) gamma;         // [channels] D
  DEVICE_PTR(void) out;                 // [rows, channels] D
  long long rows;
  int channels;
  int lanes;                            // of a row: a power of two, at most 32
  float scale;
  int silu;                             // 1: SiLU follows
};

// ---- circulant.cu ---------------------------------------------------------------------------------------------------

// x[o,i,c] := sum over j of w[(i - j) mod length] x[o,j,c]. Entries circulant_{dtype}; grid outer * ceil(inner / tile).
struct CirculantParams {
  DEVICE_PTR(void) x;                   // [outer, length, inner] D; read, then overwritten
  DEVICE_PTR(const float) table;        // [steps, row]: w of step s begins at (s - 1)*row + first
  DEVICE_PTR(const int) cursor;         // s, the step at hand, from 1
  long long inner;
  int length, tile;                     // length * tile <= CIRCULANT_ELEMENTS
  int row, first;
};

// ---- resample.cu ----------------------------------------------------------------------------------------------------

// Channels to frames, rows and columns, and back. Entries dup_up_{dtype}, avg_down_{dtype}: both add to out.
struct ResampleParams {
  DEVICE_PTR(const void) x;             // [frames, height, width, pitch] D
  DEVICE_PTR(void) out;                 // [out_frames, out_height, out_width, out_pitch] D
  int frames, height, width, pitch;
  int out_frames, out_height, out_width, out_pitch;
  int channels, out_channels;           // without padding
  int bits_t, bits;                     // log2 of the factor in time, and in both directions of space
  int shift;                            // dup_up: frames dropped in front; avg_down: frames of zeros in front
  int share;                            // dup_up: how often a channel is repeated; avg_down: how many are averaged
};

// out = scale * x at twice the frames: the first one stays, those between are linear. Entries time_up_{dtype}; grid ceil(chunks of out / threads).
struct TimeUpParams {
  DEVICE_PTR(const void) x;             // [frames, chunks] chunks of 16 bytes of D
  DEVICE_PTR(void) out;                 // [2*frames - 1, chunks]
  long long chunks;
  int frames;
  float scale;
};

// out[i,j,k] = x[i*stride_i + j*stride_j + k*stride_k] for k < count, else 0. Entries permute_{dtype}; grid ceil(elements of out / threads).
struct PermuteParams {
  DEVICE_PTR(const void) x;             // D
  DEVICE_PTR(void) out;                 // [rows, columns, pitch] D
  long long stride_i, stride_j, stride_k;
  int rows, columns, pitch, count;
};

// ---- softmax.cu -----------------------------------------------------------------------------------------------------

// Entries softmax_{dtype}; a block for each row.
struct SoftmaxParams {
  DEVICE_PTR(const float) x;            // [rows, pitch]
  DEVICE_PTR(void) out;                 // [rows, pitch] D
  int count, pitch;                     // columns that count; the others become 0
  float scale;
  int reserved;
};

// ---- decide.cu ------------------------------------------------------------------------------------------------------

#define DECIDE_L1_METRIC 0
#define DECIDE_L2_METRIC 1
#define DECIDE_COSINE_METRIC 2

// AdaCache's state on the device; a host's counterpart is AdaCache in src/cache/adacache.rs.
struct DecideState {
  double rate, planned_rate, mean;
};
// The scalars of the next step. Entry step_begin.
struct StepBeginParams {
  DEVICE_PTR(const float) table;        // [steps, STEP_WORDS]
  DEVICE_PTR(int) cursor;               // steps done; counted up
  DEVICE_PTR(float) time;               // [conditions]: variant 0 the timestep, variant 1 time 0
  DEVICE_PTR(float) row;                // [STEP_WORDS]: the step's own
  DEVICE_PTR(struct DecideState) state;
  int conditions, variants;
  int computed;                         // 1: the step runs the blocks
  int reserved;
};
// The decision from one probe's sums. Entry decide.
struct DecideParams {
  DEVICE_PTR(const double) sums;        // [batch, PROBE_SUMS + MOTION_SUMS*num_strides]
  DEVICE_PTR(const double) codebook;    // [entries, 2]: threshold, rate
  DEVICE_PTR(struct DecideState) state;
  DEVICE_PTR(double) motion_previous;   // [probes]
  DEVICE_PTR(double) decision;          // [4]: distance, motion, gradient, rate
  DEVICE_PTR(const int) cursor;
  double motion_scale, motion_divisor, motion_gradient;
  int motion_exponent, first_step, last_step;
  int moreg;                            // 0: no motion regularization
  int metric, entries, batch, num_strides;
  int probe;                            // which of this forward's
  int reserved;
};

// ---- pack.cu --------------------------------------------------------------------------------------------------------

// Rows to e4m3. Entries residual_pack_{dtype}; of sm_90a/quantise.cu quantise_{bf16,f16}.
struct PackParams {
  DEVICE_PTR(const void) x;             // [rows, channels] D
  DEVICE_PTR(unsigned char) packed;     // [rows, channels]
  DEVICE_PTR(float) scale;              // [rows]
  DEVICE_PTR(float) error;              // [blocks, 2]
  long long rows;
  int channels;
  int reserved;
};
// And back. Entries residual_unpack_{dtype}.
struct UnpackParams {
  DEVICE_PTR(const unsigned char) packed;
  DEVICE_PTR(const float) scale;
  DEVICE_PTR(void) out;                 // [rows, channels] D
  long long rows;
  int channels;
  int add;                              // 1: added to what out holds
};
// Entry pack_error.
struct PackErrorParams {
  DEVICE_PTR(const float) error;        // [blocks, 2]
  DEVICE_PTR(double) totals;            // [2], added to
  int blocks;
  int reserved;
};
