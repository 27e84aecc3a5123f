// Connected components: union by atomicMin and compare-and-swap with path halving, then flattening behind a barrier of the only block.
extern "C" __global__ void components(const int2* edges, int m, int* parent, int n, int* sizes) {
    for (int v = threadIdx.x; v < n; v += blockDim.x) { parent[v] = v; sizes[v] = 0; }
    __syncthreads();
    auto find = [&](int v) {
        for (;;) {
            int p = *(volatile int*)&parent[v];
            if (p == v) return v;
            int g = *(volatile int*)&parent[p];
            if (g != p) atomicCAS(&parent[v], p, g);
            v = p;
        }
    };
    for (int e = threadIdx.x; e < m; e += blockDim.x) {
        int a = edges[e].x, b = edges[e].y;
        while ((a = find(a)) != (b = find(b))) {
            if (a < b) { int t = a; a = b; b = t; }
            if (atomicCAS(&parent[a], a, b) == a) break;
        }
    }
    __syncthreads();
    for (int v = threadIdx.x; v < n; v += blockDim.x) { int r = find(v); atomicExch(&parent[v], r); atomicAdd(&sizes[r], 1); }
}
