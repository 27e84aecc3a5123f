// A product of matrices as kernels for Hopper are built: out[m, n] = sum_k a[m, k] b[n, k] + bias[n], bf16, sums in f32.
//
// One warpgroup loads: a thread of it fills a ring of stages by tensor maps (128-byte swizzle, zeros beyond the edges), each stage guarded by a
// full and an empty mbarrier. Two warpgroups multiply, 64 rows of the tile each. Blocks stay and take one tile after the other.
//
// nvcc -O3 -arch=sm_90a -ptx
#include <cuda_bf16.h>
#include <stdint.h>

constexpr int TILE_M = 128, TILE_N = 64, TILE_K = 64, STAGES = 3, CONSUMERS = 2;
constexpr int A_BYTES = TILE_M * TILE_K * 2, B_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = A_BYTES + B_BYTES;

struct alignas(64) TensorMap { unsigned char bytes[128]; };

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void init(unsigned bar, unsigned count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
__device__ void arrive(unsigned bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
__device__ void expect(unsigned bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ void wait(unsigned bar, unsigned parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra WAIT;\n}" ::"r"(bar), "r"(parity) : "memory");
}
__device__ void load(unsigned to, const TensorMap *map, int x, int y, unsigned bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map),
                 "r"(x), "r"(y), "r"(bar)
                 : "memory");
}

// Rows of 128 bytes, swizzled; eight rows are 1024 bytes.
__device__ uint64_t descriptor(unsigned at) { return (at & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62; }

__device__ void multiply(float (&c)[32], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]),
          "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
          "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]),
          "+f"(c[31])
        : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(384, 1)
gemm_persistent(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __nv_bfloat16 *bias, __nv_bfloat16 *out, int m, int n,
                int k) {
    extern __shared__ __align__(1024) unsigned char stages[];
    __shared__ alignas(8) uint64_t full[STAGES], empty[STAGES];
    const unsigned at = shared_address(stages);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            init(shared_address(full + s), 1);
            init(shared_address(empty + s), CONSUMERS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int columns = (n + TILE_N - 1) / TILE_N, tiles = (m + TILE_M - 1) / TILE_M * columns, steps = (k + TILE_K - 1) / TILE_K;
    int stage = 0, parity = 0;
    auto next = [&] {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    };
    if (threadIdx.x >= 128 * CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 128 * CONSUMERS) return;
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
            for (int step = 0; step < steps; step++, next()) {
                wait(shared_address(empty + stage), parity ^ 1);
                const unsigned bar = shared_address(full + stage), to = at + stage * STAGE_BYTES;
                expect(bar, STAGE_BYTES);
                load(to, &a, step * TILE_K, tile / columns * TILE_M, bar);
                load(to + A_BYTES, &b, step * TILE_K, tile % columns * TILE_N, bar);
            }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = threadIdx.x / 128, thread = threadIdx.x % 128, lane = thread % 32;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float c[32];
#pragma unroll
        for (int i = 0; i < 32; i++) c[i] = 0.0f;
        for (int step = 0; step < steps; step++, next()) {
            wait(shared_address(full + stage), parity);
            const unsigned from = at + stage * STAGE_BYTES;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int i = 0; i < TILE_K / 16; i++)
                multiply(c, descriptor(from + group * (A_BYTES / CONSUMERS) + i * 32), descriptor(from + A_BYTES + i * 32));
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (lane == 0) arrive(shared_address(empty + stage));
        }
        const int row = tile / columns * TILE_M + group * 64 + thread / 32 * 16 + lane / 4, column = tile % columns * TILE_N + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 32; i++) {
            const int y = row + i / 2 % 2 * 8, x = column + i / 4 * 8 + i % 2;
            if (y < m && x < n) out[(size_t)y * n + x] = __float2bfloat16(c[i] + __bfloat162float(bias[x]));
        }
    }
}
