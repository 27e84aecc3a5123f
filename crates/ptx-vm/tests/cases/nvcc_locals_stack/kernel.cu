// Local arrays indexed dynamically, a template stack machine, insertion sort, median filter.
template <int N> struct Stack {
    float d[N]; int top = 0;
    __device__ void push(float v) { d[top++] = v; }
    __device__ float pop() { return d[--top]; }
};
extern "C" __global__ void locals(const float* in, const unsigned char* program, int len, float* out, float* median, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Stack<16> s;
    float x = in[i];
    for (int pc = 0; pc < len; ++pc) {
        float a, b;
        switch (program[pc]) {
            case 0: s.push(x); break;
            case 1: s.push((float)i); break;
            case 2: a = s.pop(); b = s.pop(); s.push(a + b); break;
            case 3: a = s.pop(); b = s.pop(); s.push(a * b); break;
            case 4: a = s.pop(); b = s.pop(); s.push(b - a); break;
            case 5: a = s.pop(); s.push(a); s.push(a); break;
            case 6: a = s.pop(); s.push(fabsf(a)); break;
            case 7: a = s.pop(); s.push(sqrtf(fabsf(a))); break;
            case 8: a = s.pop(); s.push(floorf(a)); break;
            case 9: a = s.pop(); b = s.pop(); s.push(fmaxf(a, b)); break;
            default: s.push(1.f);
        }
    }
    out[i] = s.pop();
    float w[9];
    for (int k = 0; k < 9; ++k) w[k] = in[(i + k * 37) % n];
    for (int k = 1; k < 9; ++k) { float v = w[k]; int j = k; while (j > 0 && w[j - 1] > v) { w[j] = w[j - 1]; --j; } w[j] = v; }
    median[i] = w[4];
}
