// Bytes: upper case four at a time, words counted, RGB to grey through uchar3, base64.
extern "C" __global__ void upper(uchar4* s, int n4, int* words, const char* text, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n4) {
        uchar4 c = s[i];
        if (c.x >= 'a' && c.x <= 'z') c.x -= 32;
        if (c.y >= 'a' && c.y <= 'z') c.y -= 32;
        if (c.z >= 'a' && c.z <= 'z') c.z -= 32;
        if (c.w >= 'a' && c.w <= 'z') c.w -= 32;
        s[i] = c;
    }
    bool start = i < n && text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
    int count = __syncthreads_count(start);
    if (threadIdx.x == 0) atomicAdd(words, count);
}
extern "C" __global__ void grey(const uchar3* in, unsigned char* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { uchar3 p = in[i]; out[i] = (unsigned char)((p.x * 77 + p.y * 150 + p.z * 29 + 128) >> 8); }
}
__constant__ char b64[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
extern "C" __global__ void base64(const unsigned char* in, char4* out, int n3) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n3) return;
    unsigned v = in[3 * i] << 16 | in[3 * i + 1] << 8 | in[3 * i + 2];
    out[i] = make_char4(b64[v >> 18], b64[v >> 12 & 63], b64[v >> 6 & 63], b64[v & 63]);
}
