// Kernels for clusters of blocks: `tests/cluster.rs` runs them against references, whole and with lines left out.
//
// nvcc 13.2 -O3 -std=c++17 -arch=sm_90a -ptx, without comments and globals that nobody uses
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

// A histogram whose bins are spread over the shared memory of the blocks of a cluster.
extern "C" __global__ void histogram(const unsigned* values, int count, unsigned* out, int bins) {
    extern __shared__ unsigned own[];
    cg::cluster_group cluster = cg::this_cluster();
    int each = bins / cluster.num_blocks();
    for (int i = threadIdx.x; i < each; i += blockDim.x) own[i] = 0;
    cluster.sync();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        int bin = values[i] % bins;
        atomicAdd(cluster.map_shared_rank(own, bin / each) + bin % each, 1);
    }
    cluster.sync();
    for (int i = threadIdx.x; i < each; i += blockDim.x) atomicAdd(out + cluster.block_rank() * each + i, own[i]);
}

// The sum over the blocks of each cluster, in every one of them, by way of rank 0.
extern "C" __global__ void reduce(const float* values, float* out) {
    __shared__ float partial, total;
    __shared__ float warps[32];
    cg::cluster_group cluster = cg::this_cluster();
    float sum = values[blockIdx.x * blockDim.x + threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        partial = 0;
        for (int i = 0; i < blockDim.x / 32; i++) partial += warps[i];
    }
    cluster.sync();
    if (cluster.block_rank() == 0 && threadIdx.x == 0) {
        float all = 0;
        for (int i = 0; i < cluster.num_blocks(); i++) all += *cluster.map_shared_rank(&partial, i);
        for (int i = 0; i < cluster.num_blocks(); i++) *cluster.map_shared_rank(&total, i) = all;
    }
    cluster.sync();
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// Each block sends its numbers to the next one of the cluster by `st.async`, which an mbarrier there counts, and tells by a remote arrival that it has read what it got.
extern "C" __global__ void __cluster_dims__(2, 2, 1) ring(const int* values, int* out, int rounds) {
    __shared__ int box[64];
    __shared__ __align__(8) unsigned long long full, empty;
    unsigned rank, blocks, me = threadIdx.x, full_at, empty_at, box_at;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    unsigned own_full = (unsigned)__cvta_generic_to_shared(&full), own_empty = (unsigned)__cvta_generic_to_shared(&empty);
    unsigned own_box = (unsigned)__cvta_generic_to_shared(&box[me]), next = (rank + 1) % blocks, last = (rank + blocks - 1) % blocks;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(full_at) : "r"(own_full), "r"(next));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(box_at) : "r"(own_box), "r"(next));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(empty_at) : "r"(own_empty), "r"(last));
    if (me == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(own_full) : "memory");
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(own_empty), "r"(blockDim.x) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(own_full), "r"(blockDim.x * 4) : "memory");
    }
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    int block = blockIdx.x + gridDim.x * blockIdx.y, value = values[block * blockDim.x + me];
    for (int i = 0; i < rounds; i++) {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(box_at), "r"(value), "r"(full_at) : "memory");
        asm volatile("{ .reg .pred p; W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1; @!p bra W; }" ::"r"(own_full), "r"(i & 1) : "memory");
        value = box[me] + 1;
        if (i + 1 == rounds) break;
        __syncthreads();
        if (me == 0) asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(own_full), "r"(blockDim.x * 4) : "memory");
        asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(empty_at) : "memory");
        asm volatile("{ .reg .pred p; V: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1; @!p bra V; }" ::"r"(own_empty), "r"(i & 1) : "memory");
    }
    out[block * blockDim.x + me] = value;
    cg::this_cluster().sync();
}
