// Device functions as compilers call them: recursion, structs, function pointers, virtual functions, the device runtime.
// nvcc -O3 -arch=sm_80 -ptx functions.cu -o functions.ptx; functions_debug.ptx is -O0 -G, without its debug sections.
#include <cstdio>
#include <cassert>
struct Node { int value; Node* left; Node* right; };
struct V3 { float x, y, z; int tag; };
__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n-1) + fib(n-2); }
__device__ __noinline__ unsigned ack(unsigned m, unsigned n) { if (m==0) return n+1; if (n==0) return ack(m-1,1); return ack(m-1, ack(m,n-1)); }
__device__ int odd(int n); 
__device__ __noinline__ int even(int n) { return n==0 ? 1 : odd(n-1); }
__device__ __noinline__ int odd(int n) { return n==0 ? 0 : even(n-1); }
__device__ __noinline__ V3 mix(V3 a, float t) { V3 r; r.x=a.x*t; r.y=a.y+t; r.z=a.z-t; r.tag=a.tag+1; return r; }
__device__ __noinline__ void quick(int* a, int lo, int hi) {
  if (lo>=hi) return; int p=a[(lo+hi)/2], i=lo, j=hi;
  while(i<=j){ while(a[i]<p) i++; while(a[j]>p) j--; if(i<=j){int t=a[i];a[i]=a[j];a[j]=t;i++;j--;} }
  quick(a,lo,j); quick(a,i,hi);
}
struct Shape { __device__ virtual int area(int k) = 0; };
struct Sq : Shape { int s; __device__ Sq(int s):s(s){} __device__ __noinline__ int area(int k) override { return s*s+k; } };
struct Re : Shape { int a,b; __device__ Re(int a,int b):a(a),b(b){} __device__ __noinline__ int area(int k) override { return a*b-k; } };
__device__ int f_add(int a,int b){return a+b;} __device__ int f_mul(int a,int b){return a*b;} __device__ int f_sub(int a,int b){return a-b;}
typedef int (*op_t)(int,int);
__device__ op_t table[3] = {f_add,f_mul,f_sub};
extern "C" __global__ void k_fib(int* out) { out[threadIdx.x] = fib(threadIdx.x % 12); }
extern "C" __global__ void k_ack(int* out) { out[threadIdx.x] = ack(threadIdx.x % 3, threadIdx.x % 5); }
extern "C" __global__ void k_even(int* out) { out[threadIdx.x] = even(threadIdx.x); }
extern "C" __global__ void k_struct(int* out) { V3 v; v.x=threadIdx.x; v.y=2; v.z=3; v.tag='a'; for(int i=0;i<3;i++) v=mix(v, 0.5f+i); out[threadIdx.x] = (int)(v.x*8+v.y*4+v.z*2)+v.tag; }
extern "C" __global__ void k_quick(int* out) { int* a = out + threadIdx.x*16; quick(a,0,15); }
extern "C" __global__ void k_virtual(int* out) { Shape* s; Sq q(threadIdx.x); Re r(threadIdx.x, 3); s = threadIdx.x%3 ? (Shape*)&q : (Shape*)&r; out[threadIdx.x]=s->area(7); }
extern "C" __global__ void k_table(int* out) { out[threadIdx.x] = table[threadIdx.x%3](threadIdx.x, 5); }
__device__ __noinline__ int sum(Node* n) { return n ? n->value + sum(n->left) + sum(n->right) : 0; }
__device__ __noinline__ Node* insert(Node* n, int v) { if(!n){ n=(Node*)malloc(sizeof(Node)); n->value=v; n->left=n->right=nullptr; return n;} if(v<n->value) n->left=insert(n->left,v); else n->right=insert(n->right,v); return n; }
__device__ __noinline__ void drop(Node* n) { if(!n) return; drop(n->left); drop(n->right); free(n); }
extern "C" __global__ void k_tree(int* out) { Node* root=nullptr; for(int i=0;i<20;i++) root=insert(root,(i*7+threadIdx.x)%31); out[threadIdx.x]=sum(root); drop(root); }
extern "C" __global__ void k_print(int* out) { 
  if (threadIdx.x==1) printf("%d %5i|%-6d|%+d %u %x %#X %o %c %s %f %.3e %g %10.2f %a %lld %llx %hd %% %p\n", -3, 42, 7, 9, 4000000000u, 255, 255, 8, 'z', "text", 1.5, 12345.678, 0.0001, 3.14159, 1.0, -5000000000ll, 0xabcdef0123ull, 70000, (void*)0);
  else if (threadIdx.x<3) printf("thread %d of block %d\n", threadIdx.x, blockIdx.x);
  out[threadIdx.x]=1; }
extern "C" __global__ void k_assert(int* out) { assert(threadIdx.x != 5 && "five is bad"); out[threadIdx.x]=1; }
extern "C" __global__ void k_alloca(int* out) { int n=threadIdx.x%4+1; int* p=(int*)alloca(n*4); for(int i=0;i<n;i++) p[i]=i+fib(i); int s=0; for(int i=0;i<n;i++) s+=p[i]; out[threadIdx.x]=s; }
