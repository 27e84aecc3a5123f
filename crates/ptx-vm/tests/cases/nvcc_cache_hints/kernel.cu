// Loads and stores with cache operators, in every size.
template <typename T>
__device__ T load(const T* p, int how) {
    switch (how) {
        case 0: return __ldg(p);
        case 1: return __ldcg(p);
        case 2: return __ldca(p);
        case 3: return __ldcs(p);
        case 4: return __ldlu(p);
        default: return __ldcv(p);
    }
}
template <typename T>
__device__ void store(T* p, T v, int how) {
    switch (how) {
        case 0: __stwb(p, v); break;
        case 1: __stcg(p, v); break;
        case 2: __stcs(p, v); break;
        default: __stwt(p, v);
    }
}
template <typename T>
__device__ void copy(const char* in, char* out, int& at) {
    for (int l = 0; l < 6; ++l) {
        int o = at + l * 512 + (int)threadIdx.x * (int)sizeof(T);
        store((T*)(out + o), load((const T*)(in + o), l), l % 4);
    }
    at += 6 * 512;
}
extern "C" __global__ void cache_hints(const char* in, char* out) {
    int at = 0;
    copy<char>(in, out, at); copy<unsigned short>(in, out, at); copy<int>(in, out, at); copy<unsigned long long>(in, out, at); copy<float>(in, out, at); copy<double>(in, out, at);
    copy<uchar2>(in, out, at); copy<char4>(in, out, at); copy<short2>(in, out, at); copy<short4>(in, out, at); copy<int2>(in, out, at); copy<int4>(in, out, at); copy<float4>(in, out, at); copy<double2>(in, out, at); copy<ulonglong2>(in, out, at);
}
