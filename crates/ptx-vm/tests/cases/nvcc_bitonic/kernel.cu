// Bitonic sort of 512 keys with values in shared memory.
extern "C" __global__ void bitonic(unsigned* keys, unsigned* vals) {
    __shared__ unsigned k[512], v[512];
    int t = threadIdx.x;
    keys += blockIdx.x * 512; vals += blockIdx.x * 512;
    k[t] = keys[t]; k[t + 256] = keys[t + 256]; v[t] = vals[t]; v[t + 256] = vals[t + 256];
    for (unsigned size = 2; size <= 512; size <<= 1) {
        unsigned dir = (t & (size / 2)) == 0;
        for (unsigned stride = size / 2; stride > 0; stride >>= 1) {
            __syncthreads();
            unsigned pos = 2 * t - (t & (stride - 1));
            bool up = size == 512 ? true : dir;
            if ((k[pos] > k[pos + stride]) == up) {
                unsigned a = k[pos]; k[pos] = k[pos + stride]; k[pos + stride] = a;
                a = v[pos]; v[pos] = v[pos + stride]; v[pos + stride] = a;
            }
        }
    }
    __syncthreads();
    keys[t] = k[t]; keys[t + 256] = k[t + 256]; vals[t] = v[t]; vals[t + 256] = v[t + 256];
}
