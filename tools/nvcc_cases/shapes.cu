// Virtual functions on the device, objects made with placement new in shared memory, a function-pointer table, recursion.
#include <new>
struct Shape { __device__ virtual float area() const = 0; __device__ virtual int sides() const { return 0; } };
struct Circle : Shape { float r; __device__ Circle(float r) : r(r) {} __device__ float area() const override { return 3.14159265f * r * r; } };
struct Box : Shape { float a, b; __device__ Box(float a, float b) : a(a), b(b) {} __device__ float area() const override { return a * b; } __device__ int sides() const override { return 4; } };
struct Square : Box { __device__ Square(float a) : Box(a, a) {} __device__ int sides() const override { return Box::sides() * 10; } };
__device__ float twice(float x) { return 2 * x; }
__device__ float half_of(float x) { return 0.5f * x; }
__device__ float same(float x) { return x; }
__device__ float (*const table[3])(float) = {twice, half_of, same};
__device__ __noinline__ int ackermann(int m, int n) { return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1)); }
extern "C" __global__ void shapes(const float* x, const int* kind, float* area, int* sides, int n) {
    __shared__ __align__(16) char room[64][24];
    int i = blockIdx.x * 64 + threadIdx.x;
    Shape* s;
    switch (kind[i] % 3) {
        case 0: s = new (room[threadIdx.x]) Circle(x[i]); break;
        case 1: s = new (room[threadIdx.x]) Box(x[i], x[i] + 1); break;
        default: s = new (room[threadIdx.x]) Square(x[i]); break;
    }
    area[i] = table[(kind[i] / 3) % 3](s->area());
    sides[i] = s->sides() + ackermann(2, kind[i] % 4);
}
