// cuda::atomic_ref and cuda::atomic: orders, scopes, fetch operations, compare-exchange loops, a spin lock.
#include <cuda/atomic>
__device__ int lock_word;
extern "C" __global__ void atomic_refs(int* i, unsigned* u, float* f, double* d, unsigned long long* l, int* guarded) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    cuda::atomic_ref<int, cuda::thread_scope_device>(i[0]).fetch_add(t, cuda::memory_order_relaxed);
    cuda::atomic_ref<int, cuda::thread_scope_system>(i[1]).fetch_max(t);
    cuda::atomic_ref<int, cuda::thread_scope_block>(i[2 + blockIdx.x]).fetch_sub(1, cuda::memory_order_acq_rel);
    cuda::atomic_ref<unsigned, cuda::thread_scope_device>(u[0]).fetch_xor(t * 2654435761u, cuda::memory_order_release);
    cuda::atomic_ref<unsigned, cuda::thread_scope_device>(u[1]).fetch_min(1000u - t, cuda::memory_order_acquire);
    cuda::atomic_ref<float, cuda::thread_scope_device>(f[0]).fetch_add(0.5f, cuda::memory_order_relaxed);
    cuda::atomic_ref<double, cuda::thread_scope_device>(d[0]).fetch_add(0.25);
    cuda::atomic_ref<float, cuda::thread_scope_device>(f[1]).fetch_max((float)t);
    cuda::atomic_ref<unsigned long long, cuda::thread_scope_device> wide(l[0]);
    unsigned long long old = wide.load(cuda::memory_order_acquire);
    while (!wide.compare_exchange_weak(old, old * 3 + 1, cuda::memory_order_acq_rel, cuda::memory_order_relaxed)) {}
    if (threadIdx.x == 0) {
        cuda::atomic_ref<int, cuda::thread_scope_device> lock(lock_word);
        while (lock.exchange(1, cuda::memory_order_acquire)) __nanosleep(20);
        *(volatile int*)guarded = *(volatile int*)guarded + 1;
        lock.store(0, cuda::memory_order_release);
    }
    cuda::atomic_thread_fence(cuda::memory_order_seq_cst, cuda::thread_scope_device);
}
