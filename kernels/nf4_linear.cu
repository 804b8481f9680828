// nf4_linear.cu — a frozen NF4 linear and its adapter in one product
//
//     forward   y[m,out]  = x·Wᵀ + V·Bᵀ (+ bias)        V = s·x·Aᵀ
//     backward  dx[m,in]  = Σ over linears that share x of dy·W + U·A        U = s·dy·B
//
// Shapes    x: bf16 [m, in]   W: NF4 [out, in]   V, U: bf16 [m, r] at a pitch   B: bf16 [out, r]   A: bf16 [r, in]
//           in and r are multiples of 8; backward: out, too, for dy's rows begin at 16 bytes
// Writes    y or dx, each element once, rounded once: base and adapter are summed in one f32 accumulator.
// Work      *_128x128: a block of 256 threads makes 128 x 128 of the result, 32 of k at a time. Each piece of W is
//           decoded once per block into a bf16 tile in shared memory, from which all warps take fragments; the
//           adapter is one more stretch of k whose piece is copied instead of decoded.
//           nf4_linear_forward_few (m ≤ 16): a block makes 16 x 32, its 8 warps take every eighth 32 of k and
//           decode straight into fragments; their sums are added in the order of the warps.
// Pipeline  x (or dy) by cp.async, three stages; codes and scales of the next step wait in registers; two decoded tiles.
// Source    Dettmers et al. 2023 (arXiv 2305.14314), equation 5; Hu et al. 2021 (arXiv 2106.09685)
//
// Why not scales on the accumulator, which saves the products of the decode: W would not be the rounded bf16
// that a dequantised copy holds, and in the backward pass the scale changes along the sum.

#include "common/mma.cuh"
#include "common/nf4.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, DEPTH = 32, STAGES = 3, SEGMENTS = 6, TILE = 128;

// One product: A [m, k] at pitch lda times W or b. Both structs are mirrored in src/ops/nf4_linear/cuda.rs.
struct Segment {
    const bf16 *a, *b;  // b: the adapter's matrix at pitch ldb; null: w
    Nf4 w;              // of ldb columns
    int k, lda, ldb, unused;
};

struct Product {
    Segment segments[SEGMENTS];
    const bf16 *bias;  // [n] or null
    int count, m, n, steps;
};

// Eight neighbours of W or of an adapter's matrix on their way to shared memory.
struct Piece {
    uint4 bits;  // bf16, or codes in x
    float scale;
};

__device__ __forceinline__ Piece fetch_piece(const Segment &s, size_t row, int column) {
    size_t at = row * s.ldb + column;
    if (s.b) return {*(const uint4 *)(s.b + at), 0};
    return {make_uint4(((const unsigned *)s.w.codes)[at / 8], 0, 0, 0), nf4_scale(s.w, at / 64)};
}

__device__ __forceinline__ void store_shared(unsigned to, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// Two neighbours of row r of a result [m, n]; the second may lie outside.
__device__ __forceinline__ void store_result(const Product &p, bf16 *out, int r, int c, float x, float y) {
    if (r >= p.m || c >= p.n) return;
    if (p.bias) x += __bfloat162float(p.bias[c]);
    if (p.bias && c + 1 < p.n) y += __bfloat162float(p.bias[c + 1]);
    bf16 *to = out + (size_t)r * p.n + c;
    if (c + 1 < p.n && p.n % 2 == 0) {
        *(unsigned *)to = pack(x, y);
    } else {
        to[0] = __float2bfloat16_rn(x);
        if (c + 1 < p.n) to[1] = __float2bfloat16_rn(y);
    }
}

// The block's tile. FORWARD: the right side is [n, k] as stored; else [k, n].
template <bool FORWARD>
__device__ __forceinline__ void multiply_tile(const Product &p, bf16 *out) {
    constexpr int WARP_M = TILE / 2, WARP_N = TILE / 4;
    constexpr int TILE_BYTES = TILE * DEPTH * 2, K_CHUNKS = DEPTH / 8, N_CHUNKS = TILE / 8;
    constexpr int PIECES = TILE * K_CHUNKS / THREADS;
    __shared__ __align__(128) unsigned char a_stages[STAGES * TILE_BYTES], b_tiles[2 * TILE_BYTES];
    __shared__ float codebook[16];
    const unsigned a_shared = shared_address(a_stages), b_shared = shared_address(b_tiles);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    const int across = (p.n - 1) / TILE + 1;
    const int row = blockIdx.x / across * TILE, column = blockIdx.x % across * TILE;
    const int warp_row = warp % 2 * WARP_M, warp_column = warp / 2 * WARP_N;
    const bool busy = row + warp_row < p.m && column + warp_column < p.n;
    load_codebook(codebook);

    // The product and its k where the next fetch of the left side is, and of the right side.
    int a_segment = 0, a_depth = 0, b_segment = 0, b_depth = 0;
    auto fetch_a = [&](int stage) {
        if (a_segment < p.count) {
            const Segment &s = p.segments[a_segment];
            async_tile<THREADS, TILE, K_CHUNKS>(a_shared + stage * TILE_BYTES, s.a, s.lda, row, p.m, a_depth, s.k);
            a_depth += DEPTH;
            if (a_depth >= s.k) a_segment++, a_depth = 0;
        }
        async_commit();
    };
    Piece next[PIECES];
    bool coded = true;
    auto fetch_b = [&]() {
        if (b_segment >= p.count) return;
        const Segment &s = p.segments[b_segment];
        coded = !s.b;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            int at = threadIdx.x + i * THREADS;
            int n = FORWARD ? column + at / K_CHUNKS : column + at % N_CHUNKS * 8;
            int k = FORWARD ? b_depth + at % K_CHUNKS * 8 : b_depth + at / N_CHUNKS;
            bool there = n < p.n && k < s.k;
            // Outside is zero: code 7 is zero, but a scale outside is not there to be read.
            next[i] = {make_uint4(coded ? 0x77777777u : 0, 0, 0, 0), 0};
            if (there) next[i] = FORWARD ? fetch_piece(s, n, k) : fetch_piece(s, k, n);
        }
        b_depth += DEPTH;
        if (b_depth >= s.k) b_segment++, b_depth = 0;
    };
    auto store_b = [&](int tile) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            int at = threadIdx.x + i * THREADS;
            unsigned to = FORWARD ? swizzled<K_CHUNKS>(at / K_CHUNKS, at % K_CHUNKS)
                                  : swizzled<N_CHUNKS>(at / N_CHUNKS, at % N_CHUNKS);
            uint4 bits = coded ? nf4_decode(next[i].bits.x, next[i].scale, codebook) : next[i].bits;
            store_shared(b_shared + tile * TILE_BYTES + to, bits);
        }
    };
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) fetch_a(stage);
    fetch_b();
    __syncthreads();  // the codebook

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < p.steps; step++) {
        async_wait<STAGES - 2>();
        store_b(step % 2);
        __syncthreads();
        // Into what all warps are done with since the barrier: the stage before this one; the other tile comes next.
        fetch_a((step + STAGES - 1) % STAGES);
        fetch_b();
        if (!busy) continue;
        const unsigned a_at = a_shared + step % STAGES * TILE_BYTES, b_at = b_shared + step % 2 * TILE_BYTES;
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
                if (FORWARD) {
                    at += lane % 8 + lane / 16 * 8;
                    load_matrices(b[j], b_at + swizzled<K_CHUNKS>(at, half * 2 + lane / 8 % 2));
                } else {
                    int k = half * 16 + lane % 16;
                    load_matrices_transposed(b[j], b_at + swizzled<N_CHUNKS>(k, at / 8 + lane / 16));
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
            int r = row + warp_row + i * 16 + lane / 4, c = column + warp_column + j * 8 + lane % 4 * 2;
            store_result(p, out, r, c, sums[i][j][0], sums[i][j][1]);
            store_result(p, out, r + 8, c, sums[i][j][2], sums[i][j][3]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) nf4_linear_forward_128x128(const Product p, bf16 *y) {
    multiply_tile<true>(p, y);
}

extern "C" __global__ void __launch_bounds__(THREADS) nf4_linear_backward_128x128(const Product p, bf16 *dx) {
    multiply_tile<false>(p, dx);
}

// Few rows. A lane has 8 neighbours of k, 8·(lane % 4) on, of row lane / 4 of both sides; which k a fragment's place
// stands for does not matter as long as both sides agree: elements 4i .. 4i + 4 of the 8 go to product i of two.
extern "C" __global__ void __launch_bounds__(THREADS) nf4_linear_forward_few(const Product p, bf16 *y) {
    constexpr int N = 32, TILES = N / 8;
    __shared__ float codebook[16], parts[WARPS][16][N];
    load_codebook(codebook);
    __syncthreads();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * N;

    float sums[TILES][4] = {};
    int turn = 0;  // steps are dealt to the warps in turn, over all products
    for (int segment = 0; segment < p.count; segment++) {
        const Segment &s = p.segments[segment];
        for (int depth = 0; depth < s.k; depth += DEPTH, turn++) {
            if (turn % WARPS != warp) continue;
            const int k = depth + lane % 4 * 8;
            const uint4 zero = make_uint4(0, 0, 0, 0);
            auto left = [&](int r) {
                return r < p.m && k < s.k ? *(const uint4 *)(s.a + (size_t)r * s.lda + k) : zero;
            };
            const uint4 top = left(lane / 4), bottom = left(lane / 4 + 8);
            const unsigned a[2][4] = {{top.x, bottom.x, top.y, bottom.y}, {top.z, bottom.z, top.w, bottom.w}};
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const int n = column + j * 8 + lane / 4;
                uint4 b = zero;
                if (n < p.n && k < s.k) {
                    Piece piece = fetch_piece(s, n, k);
                    b = s.b ? piece.bits : nf4_decode(piece.bits.x, piece.scale, codebook);
                }
                multiply(sums[j], a[0], b.x, b.y);
                multiply(sums[j], a[1], b.z, b.w);
            }
        }
    }

#pragma unroll
    for (int j = 0; j < TILES; j++) {
        float *to = &parts[warp][lane / 4][j * 8 + lane % 4 * 2];
        to[0] = sums[j][0], to[1] = sums[j][1];
        to[8 * N] = sums[j][2], to[8 * N + 1] = sums[j][3];
    }
    __syncthreads();
    // 16 x 32 results, two neighbours a thread.
    const int r = threadIdx.x / (N / 2), c = threadIdx.x % (N / 2) * 2;
    float x = 0, z = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) x += parts[i][r][c], z += parts[i][r][c + 1];
    store_result(p, y, r, column + c, x, z);
}
