// A small ray tracer: spheres in constant memory, shadows, reflections in a loop with divergent exits.
struct V { float x, y, z; };
__device__ V operator+(V a, V b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ V operator-(V a, V b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ V operator*(V a, float s) { return {a.x * s, a.y * s, a.z * s}; }
__device__ float dot(V a, V b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ V unit(V a) { return a * (1 / sqrtf(dot(a, a))); }
struct Sphere { V c; float r, shine; };
__constant__ Sphere world[4] = {{{0, 0, 5}, 1, 0.5f}, {{1.5f, 0.3f, 4}, 0.6f, 0.2f}, {{-1.2f, -0.4f, 3.5f}, 0.5f, 0.8f}, {{0, -101, 5}, 100, 0.1f}};
__device__ int hit(V o, V d, float& t) {
    int best = -1;
    for (int i = 0; i < 4; ++i) {
        V m = o - world[i].c;
        float b = dot(m, d), c = dot(m, m) - world[i].r * world[i].r, q = b * b - c;
        if (q <= 0) continue;
        float s = -b - sqrtf(q);
        if (s > 1e-3f && s < t) { t = s; best = i; }
    }
    return best;
}
extern "C" __global__ void trace(float* image, int w, int h) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h) return;
    V o = {0, 0, 0}, d = unit({(x + 0.5f) / w * 2 - 1, 1 - (y + 0.5f) / h * 2, 1.5f}), light = unit({-1, 2, -1});
    float weight = 1, sum = 0;
    for (int bounce = 0; bounce < 4; ++bounce) {
        float t = 1e30f;
        int i = hit(o, d, t);
        if (i < 0) { sum += weight * 0.2f; break; }
        V p = o + d * t, n = unit(p - world[i].c);
        float far = 1e30f, lit = fmaxf(dot(n, light), 0.0f);
        if (lit > 0 && hit(p, light, far) >= 0) lit = 0;
        sum += weight * (1 - world[i].shine) * (0.1f + lit);
        weight *= world[i].shine;
        d = unit(d - n * (2 * dot(d, n)));
        o = p;
    }
    image[y * w + x] = sum;
}
