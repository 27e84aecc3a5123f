// Tiled transpose with a padded tile.
template <typename T, int TILE>
__device__ void transpose_impl(const T* in, T* out, int w, int h) {
    __shared__ T tile[TILE][TILE + 1];
    int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
    for (int j = 0; j < TILE; j += blockDim.y)
        if (x < w && y + j < h) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * w + x];
    __syncthreads();
    x = blockIdx.y * TILE + threadIdx.x, y = blockIdx.x * TILE + threadIdx.y;
    for (int j = 0; j < TILE; j += blockDim.y)
        if (x < h && y + j < w) out[(y + j) * h + x] = tile[threadIdx.x][threadIdx.y + j];
}
extern "C" __global__ void transpose_f32(const float* in, float* out, int w, int h) { transpose_impl<float, 32>(in, out, w, h); }
extern "C" __global__ void transpose_u8(const unsigned char* in, unsigned char* out, int w, int h) { transpose_impl<unsigned char, 32>(in, out, w, h); }
