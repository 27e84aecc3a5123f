// Every atomic of CUDA on global and shared memory, in each type and scope.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void atomics(int* i32, unsigned* u32, long long* s64, unsigned long long* u64, float* f32, double* f64, half* f16, __nv_bfloat16* bf16, unsigned short* u16) {
    __shared__ int si[4];
    __shared__ unsigned long long sl[3];
    __shared__ double sd;
    __shared__ unsigned wrap;
    __shared__ half2 sh;
    int t = blockIdx.x * blockDim.x + threadIdx.x, v = (t * 7919) % 1009 - 300;
    if (threadIdx.x == 0) { si[0] = si[3] = 0; si[1] = 1 << 30; si[2] = -(1 << 30); sl[0] = 0; sl[1] = ~0ull; sl[2] = 0; sd = 0; wrap = 0; sh = __floats2half2_rn(0, 0); }
    __syncthreads();
    atomicAdd(&si[0], v); atomicMin(&si[1], v); atomicMax(&si[2], v); atomicXor(&si[3], t * 2654435761u);
    atomicAdd(&sl[0], (unsigned long long)v * v); atomicMin(&sl[1], (unsigned long long)(v * v + 5)); atomicMax(&sl[2], (unsigned long long)t);
    atomicAdd(&sd, 0.5 * v); atomicInc(&wrap, 99); atomicAdd(&sh, __floats2half2_rn(1, 2));
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(&i32[0], si[0]); atomicMin(&i32[1], si[1]); atomicMax(&i32[2], si[2]); atomicXor(&i32[3], si[3]);
        atomicAdd(&u64[0], sl[0]); atomicMin(&u64[1], sl[1]); atomicMax(&u64[2], sl[2]);
        atomicAdd(&f64[0], sd); atomicAdd(&u32[4], wrap); atomicAdd(&f32[1], __low2float(sh) + __high2float(sh));
    }
    atomicSub(&i32[4], v); atomicAnd(&u32[0], ~(1u << (t & 31))); atomicOr(&u32[1], 1u << (t % 31)); atomicInc(&u32[2], 1000); atomicDec(&u32[3], 1000);
    atomicMin(&s64[0], (long long)v); atomicMax(&s64[1], (long long)v); atomicAnd(&u64[3], ~(1ull << (t & 63))); atomicOr(&u64[4], 1ull << (t % 61)); atomicXor(&u64[5], 0x9E3779B97F4A7C15ull * t);
    atomicAdd(&f32[0], (float)(v & 15)); atomicAdd_system(&i32[5], 1); atomicAdd_block(&i32[6], 2); atomicAdd(&f16[0], __float2half(1.f)); atomicAdd(&bf16[0], __float2bfloat16(1.f));
    unsigned short old = u16[0], seen;
    do { seen = old; old = atomicCAS(&u16[0], seen, (unsigned short)(seen + 3)); } while (old != seen);
    unsigned long long* p = (unsigned long long*)&f64[1];
    unsigned long long was = *p, assumed;
    do { assumed = was; was = atomicCAS(p, assumed, (unsigned long long)__double_as_longlong(fmax(__longlong_as_double(assumed), v * 0.25))); } while (was != assumed);
    if (atomicExch(&i32[7], 42) < 0) atomicAdd(&i32[8], 1);
    if (atomicExch(&u64[6], 42ull) == ~0ull) atomicAdd(&i32[9], 1);
}
