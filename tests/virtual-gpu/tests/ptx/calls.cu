// Calls in every form: by name, by pointer, recursive, with structures, and to vprintf.
extern "C" {
int printf(const char*, ...);
struct Pair { float a; double b; short c[3]; };
__constant__ float table[4] = {1.5f, -2.0f, 3.25f, 0.1f};
__constant__ int grid[2][3] = {{1, 2}, {3, 4, 5}};
__device__ double scale = 2.5;
__device__ int counter;
__device__ const char *names[2] = {"left", "right"};
__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int multiply(int a, int b) { return a * b; }
typedef int (*Binary)(int, int);
__device__ Binary binaries[2] = {add, multiply};
__device__ __noinline__ Pair twice(Pair p) { p.a *= 2; p.b *= 2; p.c[1] += 7; return p; }
__device__ __noinline__ int factorial(int n) { return n <= 1 ? 1 : n * factorial(n - 1); }
__device__ __noinline__ void note(int n) { if (n > 3) printf("%d %s\n", n, names[n & 1]); }
__global__ void __launch_bounds__(128, 2) calls(int *out, int n, Pair p) {
    extern __shared__ float dynamic[];
    __shared__ int fixed[32];
    int i = threadIdx.x + blockIdx.x * blockDim.x;
    if (i >= n) return;
    fixed[i & 31] = i; dynamic[i] = table[i & 3]; __syncthreads();
    Pair q = twice(p);
    int value = binaries[i & 1](i, fixed[(i + 1) & 31]);
    switch (i % 9) {
        case 0: value += 3; break; case 1: value ^= 5; break; case 2: value *= 7; break;
        case 3: value -= out[i]; break; case 4: value |= 9; break; case 5: value &= 77; break;
        case 6: value <<= 2; break; case 7: note(value); break; default: value = factorial(value & 7);
    }
    atomicAdd(&counter, 1);
    out[i] = value + (int)(q.a * dynamic[i ^ 1]) + q.c[1] + (int)(scale * q.b) + grid[i & 1][i % 3];
}
}
