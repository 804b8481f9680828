// gemm_bf16.cu — C[m,n] = alpha · Σ_s A_s·op(B_s) (+ bias[n]), up to six products summed in f32 and rounded once
//
// Shapes    A_s: bf16 [m, k_s] at pitch lda   C: bf16 or f32 [m, n] at pitch ldc
//           nt: B_s bf16 [n, k_s] at pitch ldb, C = A·Bᵀ      nn: B_s bf16 [k_s, n] at pitch ldb, C = A·B
//           bias: bf16 [n] or null, of bf16 products only
//           m, n, k_s are any; pitches are multiples of 8, pointers of 16 bytes (the bias's of 2).
// Writes    C's m x n elements, all of them (zeros or the bias without products); nothing between its rows.
// Sum       products in their order, k from low to high: base and adapter, [x | V]·[W | B]ᵀ, are two products of one
//           call, and the input gradient of q, k and v six, without a copy into one matrix and with one rounding.
// Work      a block of 256 threads makes a tile of C; the name says which. A tall grid goes column by column of tiles
//           and a wide one row by row, so that the operand used again is in L2.
// Pipeline  cp.async fills one of 3 stages, 32 of k deep, while another is multiplied: 48 KiB at most.
// Edges     cp.async writes zeros for what lies outside a matrix and reads nothing there.
// Source    PTX ISA 8.1, "Matrix Fragments for mma.m16n8k16"; base and adapter, Hu et al. 2021 (arXiv 2106.09685),
//           section 4.1
//
// Why not a matrix with pitch K + r that holds [W | B]: x would have to be copied beside V, and an adapter that
// changes every step beside a weight that does not.

#include "common/mma.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, DEPTH = 32, STAGES = 3, SEGMENTS = 6;

// One product. Both structs are mirrored in src/ops/gemm_bf16/cuda.rs.
struct Segment {
    const bf16 *a, *b;
    int k, lda, ldb, unused;
};

struct Product {
    Segment segments[SEGMENTS];
    const bf16 *bias;
    int count, m, n, ldc;
    float alpha;
    int steps; // sum of k / DEPTH, each rounded up
};

__device__ __forceinline__ void store(bf16 *to, float x) {
    *to = __float2bfloat16_rn(x);
}

__device__ __forceinline__ void store(float *to, float x) {
    *to = x;
}

__device__ __forceinline__ void store_pair(bf16 *to, float x, float y) {
    *(unsigned *)to = pack(x, y);
}

__device__ __forceinline__ void store_pair(float *to, float x, float y) {
    *(float2 *)to = make_float2(x, y);
}

// The block's M x N tile of C, by WARPS_DOWN x WARPS_ACROSS warps. NN: B is [k, n].
template <int M, int N, int WARPS_DOWN, bool NN, typename Out>
__device__ __forceinline__ void multiply_tile(const Product &p, Out *out) {
    constexpr int WARP_M = M / WARPS_DOWN, WARP_N = N / (WARPS / WARPS_DOWN);
    constexpr int A_BYTES = M * DEPTH * 2, STAGE_BYTES = A_BYTES + N * DEPTH * 2;
    constexpr int K_CHUNKS = DEPTH / 8, N_CHUNKS = N / 8;
    __shared__ __align__(128) unsigned char stages[STAGES * STAGE_BYTES];
    const unsigned shared = shared_address(stages);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    const int down = (p.m - 1) / M + 1, across = (p.n - 1) / N + 1;
    const bool wide = across > down;
    const int row = (wide ? blockIdx.x % down : blockIdx.x / across) * M;
    const int column = (wide ? blockIdx.x / down : blockIdx.x % across) * N;
    const int warp_row = warp % WARPS_DOWN * WARP_M, warp_column = warp / WARPS_DOWN * WARP_N;
    // Warps whose part lies outside of C fetch, but do not multiply.
    const bool busy = row + warp_row < p.m && column + warp_column < p.n;

    // The product and its k where the next fetch is.
    int segment = 0, depth = 0;
    auto fetch = [&](int stage) {
        if (segment < p.count) {
            const Segment &s = p.segments[segment];
            unsigned a_at = shared + stage * STAGE_BYTES, b_at = a_at + A_BYTES;
            async_tile<THREADS, M, K_CHUNKS>(a_at, s.a, s.lda, row, p.m, depth, s.k);
            if (NN) async_tile<THREADS, DEPTH, N_CHUNKS>(b_at, s.b, s.ldb, depth, s.k, column, p.n);
            else async_tile<THREADS, N, K_CHUNKS>(b_at, s.b, s.ldb, column, p.n, depth, s.k);
            depth += DEPTH;
            if (depth >= s.k) segment++, depth = 0;
        }
        async_commit();
    };
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; stage++) fetch(stage);

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < p.steps; step++) {
        async_wait<STAGES - 2>();
        __syncthreads();
        // Into the stage that all warps are done with since the barrier.
        fetch((step + STAGES - 1) % STAGES);
        if (!busy) continue;
        const unsigned a_at = shared + step % STAGES * STAGE_BYTES, b_at = a_at + A_BYTES;
#pragma unroll
        for (int half = 0; half < DEPTH / 16; half++) {
            unsigned a[WARP_M / 16][4], b[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
                int at = warp_row + i * 16 + lane % 16;
                load_matrices(a[i], a_at + swizzled<K_CHUNKS>(at, half * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < WARP_N / 16; j++) {
                int at = warp_column + j * 16;
                if (NN) {
                    int k = half * 16 + lane % 16;
                    load_matrices_transposed(b[j], b_at + swizzled<N_CHUNKS>(k, at / 8 + lane / 16));
                } else {
                    at += lane % 8 + lane / 16 * 8;
                    load_matrices(b[j], b_at + swizzled<K_CHUNKS>(at, half * 2 + lane / 8 % 2));
                }
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
                for (int j = 0; j < WARP_N / 8; j++) {
                    multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int r = row + warp_row + i * 16 + lane / 4 + half * 8;
                int c = column + warp_column + j * 8 + lane % 4 * 2;
                float x = p.alpha * sums[i][j][half * 2], y = p.alpha * sums[i][j][half * 2 + 1];
                if (p.bias && c < p.n) x += __bfloat162float(p.bias[c]);
                if (p.bias && c + 1 < p.n) y += __bfloat162float(p.bias[c + 1]);
                Out *to = out + (size_t)r * p.ldc + c;
                if (r < p.m && c + 1 < p.n) store_pair(to, x, y);
                else if (r < p.m && c < p.n) store(to, x);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_128x128(const Product p, bf16 *c) {
    multiply_tile<128, 128, 2, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_64x64(const Product p, bf16 *c) {
    multiply_tile<64, 64, 4, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_16x128(const Product p, bf16 *c) {
    multiply_tile<16, 128, 1, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_f32_128x128(const Product p, float *c) {
    multiply_tile<128, 128, 2, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_f32_64x64(const Product p, float *c) {
    multiply_tile<64, 64, 4, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nt_f32_16x128(const Product p, float *c) {
    multiply_tile<16, 128, 1, false>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nn_128x128(const Product p, bf16 *c) {
    multiply_tile<128, 128, 2, true>(p, c);
}

// Two blocks on a multiprocessor: for three ptxas would spill on sm_80.
extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_bf16_nn_64x64(const Product p, bf16 *c) {
    multiply_tile<64, 64, 4, true>(p, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16_nn_16x128(const Product p, bf16 *c) {
    multiply_tile<16, 128, 1, true>(p, c);
}
