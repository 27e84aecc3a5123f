// 3-D heat step, radius 2: planes in a register queue, a shared plane with halo, periodic in z, clamped in x and y; coefficients in constant memory.
__constant__ float c[3] = {0.4f, 0.07f, -0.02f};
extern "C" __global__ void heat(const float* in, float* out, int nx, int ny, int nz) {
    __shared__ float tile[12][20];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y;
    auto at = [&](int x, int y, int z) { x = min(max(x, 0), nx - 1); y = min(max(y, 0), ny - 1); z = (z + nz) % nz; return in[(z * ny + y) * nx + x]; };
    float q[5];
    for (int i = 0; i < 5; ++i) q[i] = at(x, y, i - 2);
    for (int z = 0; z < nz; ++z) {
        for (int i = threadIdx.y * 16 + threadIdx.x; i < 240; i += 128) tile[i / 20][i % 20] = at((int)blockIdx.x * 16 + i % 20 - 2, (int)blockIdx.y * 8 + i / 20 - 2, z);
        __syncthreads();
        int tx = threadIdx.x + 2, ty = threadIdx.y + 2;
        float v = c[0] * q[2];
        for (int r = 1; r <= 2; ++r) v += c[r] * (q[2 - r] + q[2 + r] + tile[ty][tx - r] + tile[ty][tx + r] + tile[ty - r][tx] + tile[ty + r][tx]);
        if (x < nx && y < ny) out[(z * ny + y) * nx + x] = v;
        for (int i = 0; i < 4; ++i) q[i] = q[i + 1];
        q[4] = at(x, y, z + 3);
        __syncthreads();
    }
}
