// `gemm_persistent.cu` for clusters of two blocks, one above the other: out[m, n] = sum_k a[m, k] b[n, k], bf16, sums in f32.
//
// Both blocks of a cluster need the same rows of b: each loads half of them, by multicast, into both. So a stage is free when the consumers of
// both blocks have read it, and they tell both producers.
//
// nvcc 13.2 -O3 -arch=sm_90a -ptx, without comments
#include <cuda_bf16.h>
#include <stdint.h>

constexpr int TILE_M = 64, TILE_N = 32, TILE_K = 64, STAGES = 3, BLOCKS = 2;
constexpr int A_BYTES = TILE_M * TILE_K * 2, B_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = A_BYTES + B_BYTES;

struct alignas(64) TensorMap { unsigned char bytes[128]; };

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void init(unsigned bar, unsigned count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
__device__ void arrive(unsigned bar, unsigned rank) {
    asm volatile("{\n.reg .b32 far;\nmapa.shared::cluster.u32 far, %0, %1;\nmbarrier.arrive.release.cluster.shared::cluster.b64 _, [far];\n}" ::"r"(bar), "r"(rank) : "memory");
}
__device__ void expect(unsigned bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ void wait(unsigned bar, unsigned parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n@!p bra WAIT;\n}" ::"r"(bar), "r"(parity) : "memory");
}
__device__ void load(unsigned to, const TensorMap *map, int x, int y, unsigned bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map),
                 "r"(x), "r"(y), "r"(bar) : "memory");
}
__device__ void multicast(unsigned to, const TensorMap *map, int x, int y, unsigned bar, unsigned short blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(bar), "h"(blocks) : "memory");
}
__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ uint64_t descriptor(unsigned at) { return (at & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62; }
__device__ void multiply(float (&c)[16], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]),
          "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
        : "l"(a), "l"(b));
}

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(256, 1)
gemm_cluster(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, __nv_bfloat16 *out, int m, int n, int k) {
    extern __shared__ __align__(1024) unsigned char stages[];
    __shared__ alignas(8) uint64_t full[STAGES], empty[STAGES];
    const unsigned at = shared_address(stages);
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            init(shared_address(full + s), 1);
            init(shared_address(empty + s), BLOCKS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    const int columns = (n + TILE_N - 1) / TILE_N, tiles = (m + BLOCKS * TILE_M - 1) / (BLOCKS * TILE_M) * columns, steps = (k + TILE_K - 1) / TILE_K;
    int stage = 0, parity = 0;
    auto next = [&] {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    };
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128)
            for (int tile = blockIdx.x / BLOCKS; tile < tiles; tile += gridDim.x / BLOCKS)
#pragma unroll 1
                for (int step = 0; step < steps; step++, next()) {
                    wait(shared_address(empty + stage), parity ^ 1);
                    const unsigned bar = shared_address(full + stage), to = at + stage * STAGE_BYTES;
                    expect(bar, STAGE_BYTES);
                    load(to, &a, step * TILE_K, (tile / columns * BLOCKS + rank) * TILE_M, bar);
                    multicast(to + A_BYTES + rank * (B_BYTES / BLOCKS), &b, step * TILE_K, tile % columns * TILE_N + rank * (TILE_N / BLOCKS), bar, (1 << BLOCKS) - 1);
                }
        __syncwarp();
    } else {
        const int thread = threadIdx.x, lane = thread % 32;
        for (int tile = blockIdx.x / BLOCKS; tile < tiles; tile += gridDim.x / BLOCKS) {
            float c[16];
#pragma unroll
            for (int i = 0; i < 16; i++) c[i] = 0.0f;
#pragma unroll 1
            for (int step = 0; step < steps; step++, next()) {
                wait(shared_address(full + stage), parity);
                const unsigned from = at + stage * STAGE_BYTES;
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int i = 0; i < TILE_K / 16; i++) multiply(c, descriptor(from + i * 32), descriptor(from + A_BYTES + i * 32));
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
                if (lane < BLOCKS) arrive(shared_address(empty + stage), lane);
            }
            const int row = (tile / columns * BLOCKS + rank) * TILE_M + thread / 32 * 16 + lane / 4, column = tile % columns * TILE_N + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int y = row + i / 2 % 2 * 8, x = column + i / 4 * 8 + i % 2;
                if (y < m && x < n) out[(size_t)y * n + x] = __float2bfloat16(c[i]);
            }
        }
    }
    // Nobody leaves while the other block may still copy to it or tell it something.
    cluster_sync();
}
