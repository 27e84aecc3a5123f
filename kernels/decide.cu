// The step's scalars and AdaCache's decision, on the device: a captured step has no argument that changes, so what changes from step
// to step is read from a table by a cursor, and what was measured becomes the next rate without the host.
//
//   step_begin   step = ++cursor; the step's row of the table, and of it the time of every condition; before a computed step also
//                state.planned_rate = state.rate, state.mean = 0
//   decide       one probe's sums -> distance, motion factor, its gradient, rate (src/cache/adacache.rs has the formulas)
//
// decide computes in f64 with every operation rounded by itself (no fused multiply-add), in the order of the host's policy: the
// same sums give the same bits. Powers have whole exponents and are multiplied out as `power` in src/cache/adacache.rs does.
// Launch: step_begin one block of STEP_THREADS threads; decide one thread. No shared memory.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(STEP_THREADS) step_begin(const StepBeginParams p) {
  int step = *p.cursor; // steps done
  const float* row = p.table + (long long)STEP_WORDS * step;
  float timestep = row[0];
  for (int i = threadIdx.x; i < p.conditions; i += STEP_THREADS) p.time[i] = i % p.variants == 0 ? timestep : 0.0f;
  if (threadIdx.x < STEP_WORDS) p.row[threadIdx.x] = row[threadIdx.x];
  if (threadIdx.x == 0 && p.computed) {
    p.state->planned_rate = p.state->rate;
    p.state->mean = 0.0;
  }
  __syncthreads();
  if (threadIdx.x == 0) *p.cursor = step + 1;
}

__device__ __forceinline__ double ratio(double a, double b) { return a == 0.0 && b == 0.0 ? 0.0 : __ddiv_rn(a, b); }

// Sum i over the samples, as Measurement::from_sums adds them up.
__device__ __forceinline__ double total(const DecideParams& p, int i) {
  int count = PROBE_SUMS + MOTION_SUMS * p.num_strides;
  double sum = 0.0;
  for (int b = 0; b < p.batch; ++b) sum = __dadd_rn(sum, p.sums[(long long)b * count + i]);
  return sum;
}

__device__ __forceinline__ double power(double x, int exponent) {
  double y = 1.0;
  for (int n = exponent; n > 0; n >>= 1) {
    if (n & 1) y = __dmul_rn(y, x);
    x = __dmul_rn(x, x);
  }
  return y;
}

extern "C" __global__ void __launch_bounds__(1) decide(const DecideParams p) {
  DecideState* state = p.state;
  double distance;
  if (p.metric == DECIDE_L1_METRIC) {
    distance = ratio(total(p, 0), total(p, 1));
  } else if (p.metric == DECIDE_L2_METRIC) {
    distance = __dsqrt_rn(ratio(total(p, 2), total(p, 3)));
  } else {
    double cosine = ratio(total(p, 4), __dsqrt_rn(__dmul_rn(total(p, 5), total(p, 3))));
    distance = __dsub_rn(1.0, cosine);
    if (!(distance > 0.0)) distance = 0.0;
  }
  double count = (double)p.probe;
  double mean = __ddiv_rn(__dadd_rn(__ddiv_rn(distance, state->planned_rate), __dmul_rn(count, state->mean)), __dadd_rn(count, 1.0));
  state->mean = mean;

  double motion = 1.0, gradient = 0.0;
  if (p.moreg) {
    double factor = 1.0;
    int step = *p.cursor; // step_begin has already counted this one
    if (step >= p.first_step && step <= p.last_step) {
      double scores = 0.0;
      for (int s = 0; s < p.num_strides; ++s) {
        int at = PROBE_SUMS + MOTION_SUMS * s;
        scores = __dadd_rn(scores, ratio(total(p, at), __dadd_rn(total(p, at + 1), total(p, at + 2))));
      }
      double score = ratio(scores, (double)p.num_strides);
      factor = __ddiv_rn(power(__ddiv_rn(score, p.motion_scale), p.motion_exponent), p.motion_divisor);
    }
    gradient = __ddiv_rn(__dmul_rn(p.motion_gradient, __dsub_rn(factor, p.motion_previous[p.probe])), state->planned_rate);
    p.motion_previous[p.probe] = factor;
    motion = __dadd_rn(factor, fabs(gradient));
  }

  double change = __dmul_rn(mean, motion);
  double rate = p.codebook[2 * p.entries - 1];
  for (int i = 0; i < p.entries; ++i) {
    if (change < p.codebook[2 * i]) {
      rate = p.codebook[2 * i + 1];
      break;
    }
  }
  state->rate = rate;
  p.decision[0] = change;
  p.decision[1] = motion;
  p.decision[2] = gradient;
  p.decision[3] = rate;
}
