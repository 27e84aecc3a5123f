// A flash-attention-like step with inline mma, ldmatrix (plain and transposed) and an online softmax: one warp, 16 queries, 64 keys, 16 channels.
#include <cuda_bf16.h>
typedef __nv_bfloat16 bf;
__device__ unsigned pack(float a, float b) { __nv_bfloat162 v = __floats2bfloat162_rn(a, b); return *(unsigned*)&v; }
extern "C" __global__ void mma_asm(const bf* q, const bf* k, const bf* v, float* out, int keys) {
    __shared__ __align__(16) bf sk[16 * 16], sv[16 * 16];
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const unsigned* q32 = (const unsigned*)q;
    unsigned a[4] = {q32[g * 8 + t], q32[(g + 8) * 8 + t], q32[g * 8 + t + 4], q32[(g + 8) * 8 + t + 4]};
    float o[2][4] = {}, m[2] = {-1e30f, -1e30f}, l[2] = {0, 0};
    for (int j = 0; j < keys; j += 16) {
        ((int4*)sk)[lane] = ((const int4*)(k + j * 16))[lane];
        ((int4*)sv)[lane] = ((const int4*)(v + j * 16))[lane];
        __syncwarp();
        float s[2][4] = {};
        unsigned b[4], w[4];
        unsigned ak = __cvta_generic_to_shared(sk + ((lane & 7) + (lane & 16) / 2) * 16 + (lane & 8)), av = __cvta_generic_to_shared(sv + (lane & 15) * 16 + (lane & 16) / 2);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(ak));
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"(av));
        for (int h = 0; h < 2; ++h)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(s[h][0]), "+f"(s[h][1]), "+f"(s[h][2]), "+f"(s[h][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * h]), "r"(b[2 * h + 1]));
        for (int r = 0; r < 2; ++r) {
            float mx = m[r];
            for (int h = 0; h < 2; ++h) for (int c = 0; c < 2; ++c) mx = fmaxf(mx, s[h][2 * r + c] * 0.25f);
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1)); mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
            float f = exp2f((m[r] - mx) * 1.4426950f), sum = 0;
            for (int h = 0; h < 2; ++h) for (int c = 0; c < 2; ++c) { s[h][2 * r + c] = exp2f((s[h][2 * r + c] * 0.25f - mx) * 1.4426950f); sum += s[h][2 * r + c]; }
            sum += __shfl_xor_sync(~0u, sum, 1); sum += __shfl_xor_sync(~0u, sum, 2);
            l[r] = l[r] * f + sum; m[r] = mx;
            for (int h = 0; h < 2; ++h) for (int c = 0; c < 2; ++c) o[h][2 * r + c] *= f;
        }
        unsigned p[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]), pack(s[1][0], s[1][1]), pack(s[1][2], s[1][3])};
        for (int h = 0; h < 2; ++h)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(o[h][0]), "+f"(o[h][1]), "+f"(o[h][2]), "+f"(o[h][3]) : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(w[2 * h]), "r"(w[2 * h + 1]));
        __syncwarp();
    }
    for (int h = 0; h < 2; ++h) for (int e = 0; e < 4; ++e) out[(g + e / 2 * 8) * 16 + 8 * h + 2 * t + e % 2] = o[h][e] / l[e / 2];
}
