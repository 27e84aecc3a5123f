/* AdaCache for C: policies that decide which denoising steps are computed, and the kernels that measure and keep residuals.
 *
 * Every function that can fail returns an AdacacheStatus; adacache_last_error() has the message. Handles may be used by any thread.
 * docs/c.md explains the interface. Made by `cargo run -p adacache-header` in python/; do not edit. */

#ifndef ADACACHE_H
#define ADACACHE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/**
 * The room for a probe point's name, NUL included.
 */
#define ADACACHE_NAME_BYTES 48

/**
 * What a function returns.
 */
typedef enum AdacacheStatus {
  /**
   * Success.
   */
  ADACACHE_STATUS_OK = 0,
  /**
   * An argument is wrong: the message says which, and what was expected.
   */
  ADACACHE_STATUS_ARGUMENT = 1,
  /**
   * The policy's settings are wrong, or do not fit the model.
   */
  ADACACHE_STATUS_SETTINGS = 2,
  /**
   * There is no CUDA driver, or no context is current.
   */
  ADACACHE_STATUS_NO_DEVICE = 3,
  /**
   * The CUDA driver refused a call.
   */
  ADACACHE_STATUS_DRIVER = 4,
  /**
   * A fault of this library. Nothing that the call touched is used again.
   */
  ADACACHE_STATUS_INTERNAL = 5,
} AdacacheStatus;

/**
 * What to do in a step.
 */
typedef enum AdacachePlan {
  /**
   * Run every block, keep the fold, measure.
   */
  ADACACHE_PLAN_COMPUTE = 0,
  /**
   * Add the kept fold to the step's embedding; the final layer runs.
   */
  ADACACHE_PLAN_REUSE = 1,
  /**
   * Run the blocks for the conditional half of guidance, reuse the other.
   */
  ADACACHE_PLAN_CONDITIONAL = 2,
  /**
   * Run the blocks for the unconditional half of guidance, reuse the other.
   */
  ADACACHE_PLAN_UNCONDITIONAL = 3,
} AdacachePlan;

/**
 * The element type of tensors.
 */
typedef enum AdacacheDtype {
  /**
   * bfloat16
   */
  ADACACHE_DTYPE_BF16 = 0,
  /**
   * IEEE half precision
   */
  ADACACHE_DTYPE_F16 = 1,
  /**
   * IEEE single precision
   */
  ADACACHE_DTYPE_F32 = 2,
} AdacacheDtype;

/**
 * What a transformer's blocks are made of.
 */
typedef enum AdacacheBlocks {
  /**
   * Every block attends to all tokens, has cross-attention and an MLP: Wan, LTX-Video.
   */
  ADACACHE_BLOCKS_EVERYTHING = 0,
  /**
   * Spatial and temporal blocks in turn, all with cross-attention and an MLP: Open-Sora.
   */
  ADACACHE_BLOCKS_SPATIAL_TEMPORAL = 1,
} AdacacheBlocks;

/**
 * The kernels, loaded into one context.
 */
typedef struct AdacacheKernels AdacacheKernels;

/**
 * A policy of one generation.
 */
typedef struct AdacachePolicy AdacachePolicy;

/**
 * The transformer that a policy is for.
 */
typedef struct AdacacheModel {
  /**
   * An `AdacacheBlocks`.
   */
  uint32_t blocks;
  /**
   * Blocks of each kind.
   */
  uint32_t layers;
  /**
   * Frames of tokens.
   */
  uint32_t frames;
} AdacacheModel;

/**
 * One point at which a policy measures.
 */
typedef struct AdacacheProbe {
  /**
   * Its name, such as `block.15.attention`: the gated self-attention residual of block 15.
   */
  char name[ADACACHE_NAME_BYTES];
  /**
   * Whether it is measured before a step is planned.
   */
  bool before_plan;
} AdacacheProbe;

/**
 * What a policy concluded from a measurement.
 */
typedef struct AdacacheDecision {
  /**
   * The number compared with the policy's thresholds.
   */
  double distance;
  /**
   * The motion factor; 1 without motion regularization.
   */
  double motion;
  /**
   * The motion gradient.
   */
  double motion_gradient;
  /**
   * The next computed step is so many steps away; 0 if the policy decides step by step.
   */
  uint32_t rate;
  /**
   * Whether the measurement led to a decision.
   */
  bool decided;
} AdacacheDecision;

/**
 * All of them, by number.
 */
#define AdacacheDtype_ALL { AdacacheDtype_Bf16, AdacacheDtype_F16, AdacacheDtype_F32, }

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The message of the last call of this thread that failed; empty if none did. It is valid until the next call of this thread fails.
 */
const char *adacache_last_error(void);

/**
 * The version of the library: `0.2.0`.
 */
const char *adacache_version(void);

/**
 * Loads the kernels into the CUDA context that is current on this thread. Free them with `adacache_kernels_free`.
 *
 * # Safety
 * `kernels` points to a place for the result.
 */
enum AdacacheStatus adacache_kernels_new(struct AdacacheKernels **kernels);

/**
 * Unloads the kernels, in the context they were loaded into; no work that uses them may be queued. NULL is ignored.
 *
 * # Safety
 * `kernels` is from `adacache_kernels_new` and is not used again.
 */
void adacache_kernels_free(struct AdacacheKernels *kernels);

/**
 * The bytes of scratch memory that `adacache_probe` needs for so many samples and frame strides.
 */
uintptr_t adacache_probe_scratch_bytes(uintptr_t batch, uintptr_t strides);

/**
 * Measures how far `fresh` has moved from `kept` and how its frames differ, then keeps it: `kept := fresh`. Queued on `stream`; returns at once.
 *
 * All pointers but `strides` are device memory: `fresh` and `kept` `[batch, frames, inner]` of type `dtype` (an `AdacacheDtype`), `scratch` of
 * `adacache_probe_scratch_bytes` bytes, `sums` `[batch, 6 + 3 * num_strides]` f64: of each sample `sum|new-kept|, sum|kept|,
 * sum(new-kept)^2, sum kept^2, sum new*kept, sum new^2`, then of each stride k `sum|r[t+k]-r[t]|, sum|r[t+k]|, sum|r[t]|`. With `first`, `kept` has no
 * content yet, and the sums that involve it are 0. `strides` is an array on the host of at most 8 numbers.
 *
 * # Safety
 * The memory is as described, and stays valid until the stream has run the kernels.
 */
enum AdacacheStatus adacache_probe(const struct AdacacheKernels *kernels,
                                   void *stream,
                                   uint32_t dtype,
                                   const void *fresh,
                                   void *kept,
                                   bool first,
                                   uintptr_t batch,
                                   uintptr_t frames,
                                   uintptr_t inner,
                                   const uint32_t *strides,
                                   uintptr_t num_strides,
                                   void *scratch,
                                   void *sums);

/**
 * `out = a - b`: what the blocks have added, from their output and their input. Device memory of `count` elements; `out` may be `a` or `b`. Queued
 * on `stream`; returns at once.
 *
 * # Safety
 * As `adacache_probe`.
 */
enum AdacacheStatus adacache_fold(const struct AdacacheKernels *kernels,
                                  void *stream,
                                  uint32_t dtype,
                                  const void *a,
                                  const void *b,
                                  void *out,
                                  uintptr_t count);

/**
 * `out = a + b`: the hidden state of a reused step, from its embedding and the kept fold. As `adacache_fold`.
 *
 * # Safety
 * As `adacache_probe`.
 */
enum AdacacheStatus adacache_unfold(const struct AdacacheKernels *kernels,
                                    void *stream,
                                    uint32_t dtype,
                                    const void *a,
                                    const void *b,
                                    void *out,
                                    uintptr_t count);

/**
 * `out = a +` the fold that a Taylor polynomial through `folds` (an array on the host of 2 or 3 device pointers, newest first) gives for this step.
 * `computed` `[3]` i32 on the device: the steps of the folds, descending, 0 where there is none yet, which lowers the order; `cursor` `[1]` i32: the step at
 * hand. `damping`: the fraction of the way that is extrapolated; 1 as published. Queued on `stream`; returns at once.
 *
 * # Safety
 * As `adacache_probe`.
 */
enum AdacacheStatus adacache_extrapolate(const struct AdacacheKernels *kernels,
                                         void *stream,
                                         uint32_t dtype,
                                         const void *a,
                                         const void *const *folds,
                                         uintptr_t num_folds,
                                         const int32_t *computed,
                                         const int32_t *cursor,
                                         float damping,
                                         void *out,
                                         uintptr_t count);

/**
 * Makes the policy of one generation of `steps` steps with these `timesteps` (0 to 1000). `text` is a preset (`adacache-fast`,
 * `adacache-fast+moreg`, `interval-3`, …), the path of a `.toml` file, or TOML itself. Free it with `adacache_policy_free`.
 *
 * # Safety
 * `text` ends with NUL, `timesteps` has `steps` numbers, `policy` is a place for the result.
 */
enum AdacacheStatus adacache_policy_new(const char *text,
                                        const struct AdacacheModel *model,
                                        const float *timesteps,
                                        uintptr_t steps,
                                        struct AdacachePolicy **policy);

/**
 * Frees a policy. NULL is ignored.
 *
 * # Safety
 * `policy` is from `adacache_policy_new` and is not used again.
 */
void adacache_policy_free(struct AdacachePolicy *policy);

/**
 * The plan of step `step`, from 1; ask once for each step, in order, and after the points that are measured before a plan were observed.
 *
 * # Safety
 * `policy` is from `adacache_policy_new`, `plan` a place for the result.
 */
enum AdacacheStatus adacache_policy_plan(const struct AdacachePolicy *policy,
                                         uintptr_t step,
                                         enum AdacachePlan *plan);

/**
 * The number of points at which the policy measures.
 *
 * # Safety
 * As `adacache_policy_plan`.
 */
enum AdacacheStatus adacache_policy_probes(const struct AdacachePolicy *policy, uintptr_t *count);

/**
 * Point `index`, in execution order.
 *
 * # Safety
 * As `adacache_policy_plan`.
 */
enum AdacacheStatus adacache_policy_probe(const struct AdacachePolicy *policy,
                                          uintptr_t index,
                                          struct AdacacheProbe *probe);

/**
 * The frame strides whose differences the policy uses: at most 8, written to `strides`, their number to `count`.
 *
 * # Safety
 * As `adacache_policy_plan`; `strides` has room for 8 numbers.
 */
enum AdacacheStatus adacache_policy_strides(const struct AdacachePolicy *policy, uint32_t *strides, uintptr_t *count);

/**
 * Tells the policy what point `probe` measured at `step`: the `count` sums of `adacache_probe` (6, and 3 for each stride), added over the samples.
 * `decision` may be NULL.
 *
 * # Safety
 * As `adacache_policy_plan`; `sums` has `count` numbers, on the host.
 */
enum AdacacheStatus adacache_policy_observe(const struct AdacachePolicy *policy,
                                            uintptr_t step,
                                            uintptr_t probe,
                                            const double *sums,
                                            uintptr_t count,
                                            struct AdacacheDecision *decision);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ADACACHE_H */
