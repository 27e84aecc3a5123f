// Structures by value as parameters: nested, with arrays, indexed by a variable, beside small integers.
struct Inner { short a; char b; double c; };
struct Params { int n; float w[5]; Inner inner[2]; size_t stride; unsigned char flags; long long last; };
struct __align__(16) Vec { float x, y, z, w; };
extern "C" __global__ void structs(Params p, char c, Vec v, short s, float* out, bool flag) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    float r = (float)(i * p.stride) * p.w[i % 5] * 0.2f + (float)p.inner[i & 1].c * p.inner[i & 1].a + p.inner[1].b + c;
    r += (i & 2 ? v.x + v.w : v.y * v.z) + s + (flag ? p.flags : 0) + (float)p.last;
    out[i] = r;
}
