// lora_grad.cu — dA[j,i] += Σ_t U[t,j]·x[t,i]  and  dB[o,j] += Σ_t dy[t,o]·V[t,j], for every adapter of a group at once
//
// Shapes    left (U or V): bf16 [m, columns] at pitch ld, the adapters' columns side by side
//           right (x or dy): bf16 [m, n], n and ld multiples of 8
//           partial: f32 [splits, columns, n]   grads: f32, flat: dA [r, n] and dB [n, r] where a Part says
// Writes    lora_grad_product: partial, all of it.   lora_grad_add_rows, lora_grad_add_columns ADD to grads.
// Work      product: a block of 256 threads makes 64 columns x 128 of n over one split of m; each of its 8 warps all 64
//           columns of 16 of n, so none idles at rank 16. add: a thread per element of dA or dB.
// Sum       t from low to high in f32 within a split, then the splits in order, then once onto the gradient: the same
//           bits from run to run, without atomics.
// Source    Hu et al. 2021 (arXiv 2106.09685), section 4.1, differentiated
//
// Why splits: dA is small and m long, so that without them a few blocks would walk down all of x alone.
// Why no transposed copies: both operands lie with t down, and ldmatrix transposes both on the way.

#include "common/mma.cuh"

constexpr int THREADS = 256, COLUMNS = 64, N = 128, DEPTH = 32, STAGES = 3, PARTS = 8;
constexpr int LEFT_BYTES = DEPTH * COLUMNS * 2, STAGE_BYTES = LEFT_BYTES + DEPTH * N * 2;

extern "C" __global__ void __launch_bounds__(THREADS)
lora_grad_product(const bf16 *left, const bf16 *right, float *partial, int m, int n, int columns, int ld,
                  int split_rows) {
    __shared__ __align__(128) unsigned char stages[STAGES * STAGE_BYTES];
    const unsigned shared = shared_address(stages);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Blocks that read the same part of x are neighbours.
    const int first = blockIdx.x * COLUMNS, column = blockIdx.y * N, split = blockIdx.z;
    const int from = min((long long)split * split_rows, (long long)m);
    const int to = min((long long)from + split_rows, (long long)m);
    const int steps = (to - from + DEPTH - 1) / DEPTH;
    const int used = min(columns - first, COLUMNS);

    auto fetch = [&](int step) {
        if (step < steps) {
            unsigned left_at = shared + step % STAGES * STAGE_BYTES;
            async_tile<THREADS, DEPTH, COLUMNS / 8>(left_at, left, ld, from + step * DEPTH, to, first, columns);
            async_tile<THREADS, DEPTH, N / 8>(left_at + LEFT_BYTES, right, n, from + step * DEPTH, to, column, n);
        }
        async_commit();
    };
#pragma unroll 1
    for (int step = 0; step < STAGES - 1; step++) fetch(step);

    float sums[COLUMNS / 16][2][4] = {};
    for (int step = 0; step < steps; step++) {
        async_wait<STAGES - 2>();
        __syncthreads();
        // Into the stage that all warps are done with since the barrier.
        fetch(step + STAGES - 1);
        const unsigned left_at = shared + step % STAGES * STAGE_BYTES, right_at = left_at + LEFT_BYTES;
#pragma unroll
        for (int half = 0; half < DEPTH / 16; half++) {
            unsigned b[4];
            load_matrices_transposed(b, right_at + swizzled<N / 8>(half * 16 + lane % 16, warp * 2 + lane / 16));
#pragma unroll
            for (int i = 0; i < COLUMNS / 16; i++) {
                if (i * 16 >= used) break;
                unsigned a[4];
                int t = half * 16 + lane / 16 * 8 + lane % 8;
                load_matrices_transposed(a, left_at + swizzled<COLUMNS / 8>(t, i * 2 + lane / 8 % 2));
                multiply(sums[i][0], a, b[0], b[1]);
                multiply(sums[i][1], a, b[2], b[3]);
            }
        }
    }

    partial += (size_t)split * columns * n;
#pragma unroll
    for (int i = 0; i < COLUMNS / 16; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int c = first + i * 16 + lane / 4 + half * 8, at = column + warp * 16 + j * 8 + lane % 4 * 2;
                // n is a multiple of 8, so a pair is inside or outside as a whole.
                if (c < columns && at < n) {
                    float2 pair = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
                    *(float2 *)(partial + (size_t)c * n + at) = pair;
                }
            }
        }
    }
}

// One adapter's r columns from `column` on, and where its matrix begins in grads: mirrored in cuda.rs.
struct Part {
    int column, r;
    long long offset;
};

struct Parts {
    Part parts[PARTS];
};

// Element e of part blockIdx.y: of row e / n of the product, at e % n.
template <bool TRANSPOSED>
__device__ __forceinline__ void add(const float *partial, float *grads, const Parts &parts, int n, int columns,
                                    int splits) {
    const Part part = parts.parts[blockIdx.y];
    const long long e = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (e >= (long long)part.r * n) return;
    const long long j = e / n, i = e % n, stride = (long long)columns * n;
    partial += (part.column + j) * n + i;
    float sum = partial[0];
    for (int split = 1; split < splits; split++) sum += partial[split * stride];
    grads[part.offset + (TRANSPOSED ? i * part.r + j : e)] += sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
lora_grad_add_rows(const float *partial, float *grads, const __grid_constant__ Parts parts, int n, int columns,
                   int splits) {
    add<false>(partial, grads, parts, n, columns, splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
lora_grad_add_columns(const float *partial, float *grads, const __grid_constant__ Parts parts, int n, int columns,
                      int splits) {
    add<true>(partial, grads, parts, n, columns, splits);
}
