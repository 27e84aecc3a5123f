// A circular filter along one axis of a tensor, in place: three of them are the filter by frequencies that SeaCache measures through.
//
//   x [outer, n, inner] D:   x[o,i,c] := sum over j of w[(i - j) mod n] x[o,j,c]      w: n f32, of the step at hand
//
// What changes from step to step is read from a table by the step's cursor, so a captured step serves for all. A block owns the columns of
// one o in a tile of c: it reads them once, into shared memory, and writes them once. Sums in f32, in the order of j; one rounding.
// Launch: CIRCULANT_THREADS threads, grid outer * ceil(inner / tile); n * tile <= CIRCULANT_ELEMENTS, n <= CIRCULANT_LENGTH.
// Static shared memory: 32 KiB for the columns, 8 KiB for the weights, twice in a row.
#include "common.cuh"

template <class D> __device__ __forceinline__ void circulant(const CirculantParams& p) {
  __shared__ float columns[CIRCULANT_ELEMENTS];
  __shared__ float weights[2 * CIRCULANT_LENGTH];
  const int n = p.length, tile = p.tile, count = n * tile;
  const long long tiles = (p.inner + tile - 1) / tile;
  const long long first = blockIdx.x % tiles * tile;
  D* const x = (D*)p.x + blockIdx.x / tiles * n * p.inner + first;
  const int width = (int)(p.inner - first < tile ? p.inner - first : tile);
  const float* const w = p.table + (long long)(*p.cursor - 1) * p.row + p.first;
  for (int i = threadIdx.x; i < 2 * n; i += CIRCULANT_THREADS) weights[i] = w[i < n ? i : i - n];
  for (int i = threadIdx.x; i < count; i += CIRCULANT_THREADS) {
    const int c = i % tile;
    columns[i] = c < width ? to_f32(x[i / tile * p.inner + c]) : 0.0f;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += CIRCULANT_THREADS) {
    const int c = i % tile;
    if (c >= width) continue;
    const float* const from = weights + i / tile + n; // from[-j] is w[(i - j) mod n]
    float sum = 0.0f;
    for (int j = 0; j < n; ++j) sum = fmaf(from[-j], columns[j * tile + c], sum);
    x[i / tile * p.inner + c] = from_f32<D>(sum);
  }
}

#define ENTRIES(D) \
  extern "C" __global__ void __launch_bounds__(CIRCULANT_THREADS) circulant_##D(const CirculantParams p) { circulant<D>(p); }

ENTRIES(bf16)
ENTRIES(f16)
ENTRIES(f32)
