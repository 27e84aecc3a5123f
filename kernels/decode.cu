// From what a decoder leaves to bytes.
//
// pixels: RGB in [-1, 1], in f32, to bytes: a thread per pixel. A position of x is a square of `patch` x `patch` pixels, whose channels are in
// the order (rgb, column, row); one pixel with patch 1.
//
// patch_decode, the sprites decoder: every latent pixel becomes a patch of RGB bytes by one small matrix.
//
//   patch[j] = sum_c z[c] scale[c] basis[c, j] + mean[j],  j = (row, column, rgb)      byte = clamp((patch+1)/2, 0, 1) * 255 + 1/2
//
// z [batch, channels, frames, height, width] f32 -> out [batch, frames, height*patch, width*patch, 3] u8.
// A warp owns one patch: DECODE_THREADS threads, grid ceil(batch*frames*height*width / DECODE_WARPS). Lanes share z (broadcast
// loads) and take every 32nd element of the patch, DECODE_BATCH of them at once. basis stays in L1. No shared memory.
#include "common.cuh"

#define DECODE_BATCH 6 // 192 = 6 * 32 elements of an 8 x 8 patch

extern "C" __global__ void __launch_bounds__(DECODE_THREADS) patch_decode(const PatchDecodeParams p) {
  const long long patches = (long long)p.batch * p.frames * p.height * p.width;
  const long long plane = (long long)p.height * p.width;
  const int elements = p.patch * p.patch * 3, row_elements = p.patch * 3;
  for (long long patch = grid_warp(); patch < patches; patch += grid_warps()) {
    long long frame = patch / plane; // over all samples
    int position = (int)(patch % plane), h = position / p.width, w = position % p.width;
    const float* z = p.z + ((frame / p.frames) * p.channels * p.frames + frame % p.frames) * plane + position;
    unsigned char* out = p.out + ((frame * p.height + h) * p.patch * p.width + w) * row_elements;
    const long long out_row = (long long)p.width * row_elements;
    for (int j0 = lane_index(); j0 < elements; j0 += 32 * DECODE_BATCH) {
      float sum[DECODE_BATCH];
#pragma unroll
      for (int i = 0; i < DECODE_BATCH; ++i) sum[i] = j0 + 32 * i < elements ? p.mean[j0 + 32 * i] : 0.0f;
      for (int c = 0; c < p.channels; ++c) {
        float x = z[c * p.frames * plane] * p.scale[c];
        const float* basis = p.basis + (long long)c * elements + j0;
#pragma unroll
        for (int i = 0; i < DECODE_BATCH; ++i) {
          if (j0 + 32 * i < elements) sum[i] = fmaf(x, basis[32 * i], sum[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < DECODE_BATCH; ++i) {
        int j = j0 + 32 * i;
        if (j >= elements) break;
        float unit = fminf(fmaxf(fmaf(sum[i], 0.5f, 0.5f), 0.0f), 1.0f);
        out[j / row_elements * out_row + j % row_elements] = (unsigned char)(unsigned)fmaf(unit, 255.0f, 0.5f);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) pixels(const PixelsParams p) {
  for (long long i = grid_thread(); i < p.count; i += grid_threads()) {
    const long long row = i / p.width;
    const int column = (int)(i % p.width);
    const float* const x = p.x + (row / p.patch * (p.width / p.patch) + column / p.patch) * p.pitch + column % p.patch * p.patch + (int)(row % p.patch);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float unit = fminf(fmaxf(fmaf(x[c * p.patch * p.patch], 0.5f, 0.5f), 0.0f), 1.0f);
      p.out[i * 3 + c] = (unsigned char)(unsigned)fmaf(unit, 255.0f, 0.5f);
    }
  }
}
