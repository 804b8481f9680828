// Mangled names, virtual functions (addresses in tables), local arrays, doubles, volatile shared memory.
template <typename T, int N> __global__ void fill(T *out, T value) {
    T kept[N];
    for (int i = 0; i < N; i++) kept[i] = value + (T)(i * i);
    volatile __shared__ T v;
    v = kept[threadIdx.x % N];
    out[blockIdx.x * blockDim.x + threadIdx.x] = kept[(threadIdx.x * 7) % N] + v;
}
template __global__ void fill<double, 4>(double *, double);
template __global__ void fill<long long, 40>(long long *, long long);
struct Shape { __device__ virtual float area() const = 0; };
struct Square : Shape { float s; __device__ float area() const override { return s * s; } };
struct Disc : Shape { float r; __device__ float area() const override { return 3.14f * r * r; } };
__global__ void shapes(float *out, int n) {
    Square s; s.s = n; Disc d; d.r = n;
    Shape *list[2] = {&s, &d};
    out[threadIdx.x] = list[threadIdx.x & 1]->area();
}
