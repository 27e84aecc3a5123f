/* A denoising loop in C with AdaCache's policy and kernels, on a transformer of the example's own.
 *
 * The "transformer" is a few lines on the host, so that the example needs no compiler but cc: what matters is who decides, what is kept on the
 * device, and that nothing waits within a step. tools/capi.sh builds it and runs it on the virtual driver; on a GPU it runs as it is.
 *
 *     cc -I ../include generate.c -L LIBRARY_FOLDER -ladacache -ldl -lm -o generate && ./generate
 */
#include <adacache.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 30, FRAMES = 4, INNER = 96, COUNT = FRAMES * INNER, SUMS = 9 };

/* The driver, as every CUDA program has it. */
typedef void *Handle;
static int (*cuInit)(unsigned), (*cuDevicePrimaryCtxRetain)(Handle *, int), (*cuDevicePrimaryCtxRelease)(int), (*cuCtxSetCurrent)(Handle), (*cuStreamCreate)(Handle *, unsigned),
    (*cuMemAlloc)(unsigned long long *, size_t), (*cuMemFree)(unsigned long long), (*cuMemHostAlloc)(void **, size_t, unsigned),
    (*cuMemFreeHost)(void *), (*cuMemcpyHtoDAsync)(unsigned long long, const void *, size_t, Handle),
    (*cuMemcpyDtoHAsync)(void *, unsigned long long, size_t, Handle), (*cuEventCreate)(Handle *, unsigned), (*cuEventRecord)(Handle, Handle),
    (*cuEventQuery)(Handle), (*cuEventSynchronize)(Handle), (*cuStreamSynchronize)(Handle), (*cuEventDestroy)(Handle), (*cuStreamDestroy)(Handle);

static void check(int code, const char *what) {
  if (code != 0) {
    fprintf(stderr, "%s failed with %d: %s\n", what, code, adacache_last_error());
    exit(1);
  }
}
#define CHECK(call) check((int)(call), #call)

static void *find(void *library, const char *name) {
  void *function = dlsym(library, name);
  if (!function) {
    fprintf(stderr, "the driver has no %s\n", name);
    exit(1);
  }
  return function;
}

static void open_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) {
    fprintf(stderr, "no CUDA driver: %s\n", dlerror());
    exit(77);
  }
#define FIND(name, symbol) *(void **)&name = find(library, symbol)
  FIND(cuInit, "cuInit");
  FIND(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
  FIND(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");
  FIND(cuCtxSetCurrent, "cuCtxSetCurrent");
  FIND(cuStreamCreate, "cuStreamCreate");
  FIND(cuStreamDestroy, "cuStreamDestroy_v2");
  FIND(cuMemAlloc, "cuMemAlloc_v2");
  FIND(cuMemFree, "cuMemFree_v2");
  FIND(cuMemHostAlloc, "cuMemHostAlloc");
  FIND(cuMemFreeHost, "cuMemFreeHost");
  FIND(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2");
  FIND(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2");
  FIND(cuEventCreate, "cuEventCreate");
  FIND(cuEventDestroy, "cuEventDestroy_v2");
  FIND(cuEventRecord, "cuEventRecord");
  FIND(cuEventQuery, "cuEventQuery");
  FIND(cuEventSynchronize, "cuEventSynchronize");
  FIND(cuStreamSynchronize, "cuStreamSynchronize");
}

/* What a block adds: a residual that changes ever more slowly, and moves between frames. */
static void residual(float *r, int step, const float *x) {
  for (int i = 0; i < COUNT; ++i) {
    float t = 1.0f - (float)step / STEPS;
    r[i] = sinf(0.05f * (float)i + 4.0f * t * t) * (1.0f + 0.1f * (float)(i / INNER)) + 0.01f * x[i];
  }
}

int main(void) {
  open_driver();
  Handle context, stream, read;
  CHECK(cuInit(0));
  CHECK(cuDevicePrimaryCtxRetain(&context, 0));
  CHECK(cuCtxSetCurrent(context));
  CHECK(cuStreamCreate(&stream, 1));
  CHECK(cuEventCreate(&read, 2));

  float timesteps[STEPS];
  for (int i = 0; i < STEPS; ++i) timesteps[i] = 1000.0f * (1.0f - (float)i / STEPS);
  AdacacheModel model = {ADACACHE_BLOCKS_EVERYTHING, 3, FRAMES};
  const char *settings = "policy = 'adacache'\nresidual = 'attn'\nblocks = [1]\ncodebook = [[0.08, 6], [0.16, 5], [0.24, 4], [0.32, 3], [0.4, 2], [1.0, 1]]\n"
                         "[moreg]\nstrides = [1]\nsteps = [4, 26]\nhyper = [0.5, 2, 1]\ngradient = 1\n";
  AdacachePolicy *policy, *other;
  CHECK(adacache_policy_new(settings, &model, timesteps, STEPS, &policy));
  /* An error is a code and a message. */
  if (adacache_policy_new("adacache-fats", &model, timesteps, STEPS, &other) != ADACACHE_STATUS_SETTINGS || !strstr(adacache_last_error(), "adacache-fast")) {
    fprintf(stderr, "a wrong name is not told: %s\n", adacache_last_error());
    return 1;
  }
  size_t probes, strides;
  uint32_t stride[8];
  AdacacheProbe probe;
  CHECK(adacache_policy_probes(policy, &probes));
  CHECK(adacache_policy_probe(policy, 0, &probe));
  CHECK(adacache_policy_strides(policy, stride, &strides));
  printf("%s measures %zu point, %s, with %zu stride of %u frame\n", adacache_version(), probes, probe.name, strides, stride[0]);

  AdacacheKernels *kernels;
  CHECK(adacache_kernels_new(&kernels));
  unsigned long long x, embed, fresh, kept, fold, scratch, sums;
  size_t bytes = COUNT * sizeof(float);
  CHECK(cuMemAlloc(&x, bytes));
  CHECK(cuMemAlloc(&embed, bytes));
  CHECK(cuMemAlloc(&fresh, bytes));
  CHECK(cuMemAlloc(&kept, bytes));
  CHECK(cuMemAlloc(&fold, bytes));
  CHECK(cuMemAlloc(&scratch, adacache_probe_scratch_bytes(1, strides)));
  CHECK(cuMemAlloc(&sums, SUMS * sizeof(double)));
  double *told;
  float *host, *r, *out;
  CHECK(cuMemHostAlloc((void **)&told, SUMS * sizeof(double), 0));
  CHECK(cuMemHostAlloc((void **)&host, bytes, 0));
  CHECK(cuMemHostAlloc((void **)&r, bytes, 0));
  CHECK(cuMemHostAlloc((void **)&out, bytes, 0));

  float z[COUNT], before[COUNT];
  for (int i = 0; i < COUNT; ++i) z[i] = cosf(0.3f * (float)i);
  int pending = 0, waited = 0, computed = 0, have = 0;
  char strip[STEPS + 1] = {0};
  for (int step = 1; step <= STEPS; ++step) {
    if (pending) {
      /* The sums of the last computed step travelled while that step went on: here they are mostly there. */
      if (cuEventQuery(read) != 0) ++waited;
      CHECK(cuEventSynchronize(read));
      AdacacheDecision decision;
      CHECK(adacache_policy_observe(policy, (size_t)pending, 0, told, SUMS, &decision));
      /* The same distance on the host, from the same residuals. */
      double change = 0, size = 0;
      for (int i = 0; i < COUNT; ++i) change += fabs((double)r[i] - (double)before[i]), size += fabs((double)before[i]);
      if (fabs(told[0] - change) > 1e-4 * change || fabs(told[1] - size) > 1e-4 * size) {
        fprintf(stderr, "step %d: the kernel measured %g of %g, the host %g of %g\n", pending, told[0], told[1], change, size);
        return 1;
      }
      printf("  step %2d: distance %.4f, motion %.3f, next computed in %u\n", pending, decision.distance, decision.motion, decision.rate);
      pending = 0;
    }
    AdacachePlan plan;
    CHECK(adacache_policy_plan(policy, (size_t)step, &plan));
    memcpy(host, z, bytes);
    CHECK(cuMemcpyHtoDAsync(embed, host, bytes, stream));
    if (plan == ADACACHE_PLAN_COMPUTE) {
      if (have) memcpy(before, r, bytes);
      residual(r, step, z);
      CHECK(cuMemcpyHtoDAsync(fresh, r, bytes, stream));
      CHECK(adacache_probe(kernels, stream, ADACACHE_DTYPE_F32, (void *)fresh, (void *)kept, !have, 1, FRAMES, INNER, stride, strides, (void *)scratch, (void *)sums));
      CHECK(cuMemcpyDtoHAsync(told, sums, SUMS * sizeof(double), stream));
      CHECK(cuEventRecord(read, stream));
      /* The block: x = embedding + residual; and what it has added is kept. */
      CHECK(adacache_unfold(kernels, stream, ADACACHE_DTYPE_F32, (void *)embed, (void *)fresh, (void *)x, COUNT));
      CHECK(adacache_fold(kernels, stream, ADACACHE_DTYPE_F32, (void *)x, (void *)embed, (void *)fold, COUNT));
      pending = have ? step : 0;
      have = 1;
      ++computed;
    } else {
      CHECK(adacache_unfold(kernels, stream, ADACACHE_DTYPE_F32, (void *)embed, (void *)fold, (void *)x, COUNT));
    }
    strip[step - 1] = plan == ADACACHE_PLAN_COMPUTE ? '#' : '.';
    /* The example's own update needs the output on the host: its wait, not AdaCache's. */
    CHECK(cuMemcpyDtoHAsync(out, x, bytes, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int i = 0; i < COUNT; ++i) {
      float expected = z[i] + r[i];
      if (fabsf(out[i] - expected) > 1e-5f * (1.0f + fabsf(expected))) {
        fprintf(stderr, "step %d, element %d: %g, expected %g\n", step, i, out[i], expected);
        return 1;
      }
      z[i] += (out[i] - z[i]) * 0.02f;
    }
  }
  printf("%s  %d of %d steps computed; the host waited %d times for a decision\n", strip, computed, STEPS, waited);
  if (computed >= STEPS || computed < 5) return 1;

  CHECK(cuMemFreeHost(told));
  CHECK(cuMemFreeHost(host));
  CHECK(cuMemFreeHost(r));
  CHECK(cuMemFreeHost(out));
  unsigned long long memory[] = {x, embed, fresh, kept, fold, scratch, sums};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; ++i) CHECK(cuMemFree(memory[i]));
  adacache_kernels_free(kernels);
  adacache_policy_free(policy);
  CHECK(cuEventDestroy(read));
  CHECK(cuStreamDestroy(stream));
  CHECK(cuDevicePrimaryCtxRelease(0));
  return 0;
}
