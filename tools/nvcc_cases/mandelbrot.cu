// Escape times in f64: a loop every lane leaves at its own time.
extern "C" __global__ void mandelbrot(int* out, int w, int h, int limit) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h) return;
    double cr = -2.0 + 3.0 * x / w, ci = -1.5 + 3.0 * y / h, zr = 0, zi = 0;
    int n = 0;
    while (n < limit) {
        double r2 = __dmul_rn(zr, zr), i2 = __dmul_rn(zi, zi);
        if (__dadd_rn(r2, i2) > 4) break;
        zi = __dadd_rn(__dmul_rn(2 * zr, zi), ci);
        zr = __dadd_rn(__dadd_rn(r2, -i2), cr);
        ++n;
    }
    out[y * w + x] = n;
}
