// reduce.cu — Σ x_i², Σ x_i, the index of the first x_i that is not finite
//
// Shapes    x: f32 [n]   partials: f64 or u32 [B], B = gridDim.x of the first kernel   result: f64 or u32 [1]
// Writes    reduce_sum_of_squares, reduce_sum, reduce_first_non_finite: partials[b] of block b
//           reduce_add: result = Σ partials.  reduce_least: result = the least of them; 2^32 - 1 means none
// Work      B blocks of 256 threads; a thread takes every (256·B)th element, then a tree over the block. B follows
//           from n alone (src/ops/reduce/cuda.rs), so the order of every sum does, too. Then one block over the partials.
// Source    Higham 2002, "Accuracy and Stability of Numerical Algorithms", chapter 4: summation by halves
//
// Sums are f64: they are at most a few million additions a step, and squares of f32 do not overflow there. A NaN or
// an infinity anywhere makes them NaN or infinite.
//
// Why not one launch in which the last block to finish adds up: it needs a counter that somebody sets back to zero.

constexpr int THREADS = 256;
constexpr unsigned NONE = 0xffffffffu;

// Folds the values of a block's threads in a fixed tree; thread 0 has the result.
template <typename T, typename Fold>
__device__ __forceinline__ T block_fold(T x, Fold fold) {
    __shared__ T values[THREADS];
    values[threadIdx.x] = x;
#pragma unroll
    for (int step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step) values[threadIdx.x] = fold(values[threadIdx.x], values[threadIdx.x + step]);
    }
    // Thread 0 alone may look: the others are not behind its last sum.
    return threadIdx.x == 0 ? values[0] : T();
}

__device__ __forceinline__ double add(double a, double b) {
    return a + b;
}

__device__ __forceinline__ unsigned least(unsigned a, unsigned b) {
    return min(a, b);
}

// partials[b] = Σ term(x_i) over the elements of block b.
template <typename Term>
__device__ __forceinline__ void block_sum(const float *x, double *partials, int n, Term term) {
    double sum = 0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        sum += term((double)x[i]);
    }
    sum = block_fold(sum, add);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) reduce_sum_of_squares(const float *x, double *partials, int n) {
    block_sum(x, partials, n, [](double x) { return x * x; });
}

extern "C" __global__ void __launch_bounds__(THREADS) reduce_sum(const float *x, double *partials, int n) {
    block_sum(x, partials, n, [](double x) { return x; });
}

extern "C" __global__ void __launch_bounds__(THREADS) reduce_add(const double *partials, double *result, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partials[i];
    sum = block_fold(sum, add);
    if (threadIdx.x == 0) *result = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
reduce_first_non_finite(const float *x, unsigned *partials, int n) {
    unsigned first = NONE;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        if (!isfinite(x[i])) first = min(first, (unsigned)i);
    }
    first = block_fold(first, least);
    if (threadIdx.x == 0) partials[blockIdx.x] = first;
}

extern "C" __global__ void __launch_bounds__(THREADS)
reduce_least(const unsigned *partials, unsigned *result, int count) {
    unsigned first = NONE;
    for (int i = threadIdx.x; i < count; i += THREADS) first = min(first, partials[i]);
    first = block_fold(first, least);
    if (threadIdx.x == 0) *result = first;
}
