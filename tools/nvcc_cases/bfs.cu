// One step of breadth-first search over CSR: claims with atomicCAS, warp-aggregated queue pushes.
extern "C" __global__ void bfs(const int* row, const int* col, int* level, const int* frontier, int nf, int* next, int* nnext, int depth) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= nf) return;
    int v = frontier[t];
    for (int e = row[v]; e < row[v + 1]; ++e) {
        int w = col[e];
        if (atomicCAS(&level[w], -1, depth) == -1) {
            unsigned mask = __activemask();
            int lane = threadIdx.x & 31, leader = __ffs(mask) - 1, base = 0;
            if (lane == leader) base = atomicAdd(nnext, __popc(mask));
            base = __shfl_sync(mask, base, leader);
            next[base + __popc(mask & ((1u << lane) - 1))] = w;
        }
    }
}
