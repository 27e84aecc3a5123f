// An index that runs past the end inside a function inlined twice over: the report names all three places.
__device__ __forceinline__ float fetch(const float* p, int i) {
  return p[i];
}
__device__ __forceinline__ float pair(const float* p, int i) {
  return fetch(p, i) + fetch(p, i + 1);
}
extern "C" __global__ void pairs(const float* in, float* out) {
  int i = threadIdx.x;
  out[i] = pair(in, i);
}
