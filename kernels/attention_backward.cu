// attention_backward.cu — gradients of causal, grouped-query softmax attention over packed documents
//
//     P[t,u]  = exp(scale * q[t]·k[u] - lse[t])    for t - window < u ≤ t in the same document
//     dv[u]   = Σ_t P[t,u] d_o[t]                  dS[t,u] = P[t,u] (d_o[t]·v[u] - delta[t])   delta[t] = d_o[t]·o[t]
//     dq[t]   = scale Σ_u dS[t,u] k[u]             dk[u]   = scale Σ_t dS[t,u] q[t]
//
// Shapes    q, o, d_o, dq: bf16 [T, heads * D]   k, v, dk, dv: bf16 [T, kv_heads * D]   D = 64 or 128
//           lse, delta: f32 [T, heads]   cu_seqlens: u32 [documents + 1], rising from 0, as in attention.cu
//           query head h reads key head h / (heads / kv_heads); a window is 1 at least, NO_WINDOW for none
// Writes    delta, then dk and dv, then dq; all are overwritten. Tokens behind the last document are left alone.
// Rounding  Products are bf16 by bf16 in f32. P and dS are rounded to bf16 where they become operands of dv, dk and
//           dq: one rounding of each term. What is stored is rounded once; scale meets the sums in f32.
// Work      A row is a query under one of the heads that share a key head, the heads of a token next to each other.
//           keys: a block makes dk and dv of 64 keys and one key head, over the rows from the diagonal on.
//           queries: a block makes dq of 64 rows, over the keys up to the diagonal. Both leave out tiles of the other
//           side that lie outside of the window of all their own. Both: 4 warps with 16 of the block's
//           own each, the other side by tiles of 64, 32 at a time in registers. delta: 16 bytes a thread.
// Pipeline  The other side's next tile is fetched while this one is worked on: two copies of it in shared memory,
//           97 KiB in all for D = 128, what a block may have on the smallest of our cards (sm_86, 89, 120).
// Bits      Each sum belongs to one warp and runs in one order, counted from the document's start: the bits
//           depend on the document alone. No atomics.
// Source    Dao 2023 (arXiv 2307.08691), algorithm 2, in two passes: there one pass over key blocks adds to dq from
//           all of them, with atomics whose order changes the bits or a copy of dq for each block. Making the
//           scores twice costs two products of seven.
//
// Why the keys' pass has P transposed (keys by rows): then P and dS leave their products in the very registers that
// the next product takes as its left operand, and never pass through shared memory.
//
// shared: attention_backward_keys_64 50176
// shared: attention_backward_keys_128 99328
// shared: attention_backward_queries_64 50176
// shared: attention_backward_queries_128 99328

#include "common/attention.cuh"

constexpr int THREADS = 128;
// Rows of the other side that a warp has the scores of at a time.
constexpr int STEP = 32;

// Copies 4 bytes from global to shared memory, or zeros; not there before async_wait.
__device__ __forceinline__ void async_copy_word(unsigned to, const float *from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
}

// The rows of a document under the heads of one key head, in arrays of [T, heads * D] and [T, heads].
template <int D>
struct Rows {
    int begin, heads, group, kv_head, count;

    // Where a row's token and head are, in [T, heads].
    __device__ __forceinline__ size_t place(int row) const {
        return (size_t)(begin + row / group) * heads + kv_head * group + row % group;
    }

    // Fetches rows first .. first + TILE of two arrays, zeros where there are none.
    __device__ __forceinline__ void fetch(
        unsigned to_a, const bf16 *a, unsigned to_b, const bf16 *b, int first) const {
#pragma unroll 4
        for (int i = threadIdx.x; i < TILE * (D / 8); i += THREADS) {
            int r = i / (D / 8), c = i % (D / 8);
            bool there = first + r < count;
            size_t at = there ? place(first + r) * D + c * 8 : 0;
            async_copy(to_a + chunk<D>(r, c), a + at, there ? 16 : 0);
            async_copy(to_b + chunk<D>(r, c), b + at, there ? 16 : 0);
        }
    }
};

// s = own · otherᵀ for the warp's 16 rows of the tile `own`, and STEP rows of the tile `other` from `from` on.
template <int D>
__device__ __forceinline__ void products(float (&s)[STEP / 8][4], unsigned own, unsigned other, int from) {
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
#pragma unroll
    for (int j = 0; j < STEP / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        unsigned left[4];
        load_matrices(left, own + chunk<D>(warp_row + lane % 16, i * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < STEP / 16; j++) {
            unsigned right[4];
            load_matrices(right, other + chunk<D>(from + j * 16 + lane / 16 * 8 + lane % 8, i * 2 + lane / 8 % 2));
            multiply(s[2 * j], left, right[0], right[1]);
            multiply(s[2 * j + 1], left, right[2], right[3]);
        }
    }
}

// sums += p · other, with p rounded to bf16: the warp's 16 rows by STEP rows of the tile `other` from `from` on.
template <int D>
__device__ __forceinline__ void accumulate(
    float (&sums)[D / 8][4], const float (&p)[STEP / 8][4], unsigned other, int from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < STEP / 16; i++) {
        // Two neighbouring 16x8 results are the 16x16 operand that comes next, lane by lane.
        const float(&a)[4] = p[2 * i], (&b)[4] = p[2 * i + 1];
        const unsigned left[4] = {pack(a[0], a[1]), pack(a[2], a[3]), pack(b[0], b[1]), pack(b[2], b[3])};
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            unsigned right[4];
            load_matrices_transposed(right, other + chunk<D>(from + i * 16 + lane % 16, j * 2 + lane / 16));
            multiply(sums[2 * j], left, right[0], right[1]);
            multiply(sums[2 * j + 1], left, right[2], right[3]);
        }
    }
}

// Writes row `half` (0 or 1) of the lane's two, D elements from `to` on, times `factor`.
template <int D>
__device__ __forceinline__ void store(bf16 *to, const float (&sums)[D / 8][4], int half, float factor) {
#pragma unroll
    for (int j = 0; j < D / 8; j++)
        *(unsigned *)(to + j * 8 + threadIdx.x % 4 * 2) =
            pack(sums[j][2 * half] * factor, sums[j][2 * half + 1] * factor);
}

// Bytes of shared memory, in both kernels: a pair of own tiles, two pairs of the other side's, and two of lse and delta.
template <int D>
struct Shared {
    bf16 own[2][TILE * D];
    bf16 other[2][2][TILE * D];
    float stats[2][2][TILE];
};

extern __shared__ __align__(128) unsigned char shared_bytes[];

// Grid: (tokens / 64 + documents, kv_heads) blocks of 128.
template <int D>
__device__ __forceinline__ void keys_backward(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dk,
    bf16 *dv) {
    const int group = heads / kv_heads, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const Tile tile = find_tile(cu_seqlens, documents, tokens, 1, blockIdx.x);
    const int keys = tile.end - tile.begin;
    if (tile.first < 0 || tile.first >= keys) return;
    const Rows<D> rows = {tile.begin, heads, group, (int)blockIdx.y, keys * group};

    Shared<D> &shared = *(Shared<D> *)shared_bytes;
    const unsigned k_at = shared_address(shared.own[0]), v_at = shared_address(shared.own[1]);
    const size_t pitch = (size_t)kv_heads * D, start = tile.begin * pitch + blockIdx.y * D;
    auto fetch = [&](int first, int copy) {
        rows.fetch(shared_address(shared.other[copy][0]), q, shared_address(shared.other[copy][1]), d_o, first);
        const int row = first + threadIdx.x % TILE;
        const float *from = threadIdx.x < TILE ? lse : delta;
        const bool there = row < rows.count;
        async_copy_word(shared_address(&shared.stats[copy][threadIdx.x / TILE][threadIdx.x % TILE]),
                        from + (there ? rows.place(row) : 0), there);
        async_commit();
    };

    fetch_rows<D, THREADS>(k_at, k + start, pitch, tile.first, keys);
    fetch_rows<D, THREADS>(v_at, v + start, pitch, tile.first, keys);
    fetch(tile.first * group, 0);

    // The lane's two keys, and the first row that sees each; `span` rows see it. Rows behind the last are zeros, and so
    // is what they add; keys behind the last are seen by none before those.
    const int key = tile.first + warp_row + lane / 4;
    const int seen_from[2] = {key * group, (key + 8) * group};
    const int span = (int)min((long long)window * group, (long long)NO_WINDOW);
    const int warp_seen_from = (tile.first + warp_row) * group;
    // The row behind the last that sees one of the block's keys, and of the warp's.
    auto seen_until = [&](int last) { return (int)min((long long)last * group + span, (long long)rows.count); };
    const int block_seen_until = seen_until(min(tile.first + TILE, keys) - 1);
    const int warp_seen_until = seen_until(tile.first + warp_row + 15);
    const float scale_2 = scale * LOG2_E;
    float dk_sums[D / 8][4] = {}, dv_sums[D / 8][4] = {};
    for (int first = tile.first * group, copy = 0; first < block_seen_until; first += TILE, copy ^= 1) {
        // This tile is there, and all warps are done with the one before, whose place the next takes.
        async_wait<0>();
        __syncthreads();
        if (first + TILE < block_seen_until) fetch(first + TILE, copy ^ 1);
        const unsigned q_at = shared_address(shared.other[copy][0]), d_o_at = shared_address(shared.other[copy][1]);
#pragma unroll 1
        for (int from = 0; from < TILE; from += STEP) {
            if (first + from + STEP <= warp_seen_from || first + from >= warp_seen_until) continue;
            float p[STEP / 8][4], ds[STEP / 8][4];
            products<D>(p, k_at, q_at, from);
            products<D>(ds, v_at, d_o_at, from);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int r = from + j * 8 + lane % 4 * 2 + i % 2, row = first + r;
                    const bool seen = (unsigned)(row - seen_from[i / 2]) < (unsigned)span;
                    const float lse_2 = shared.stats[copy][0][r] * LOG2_E;
                    p[j][i] = seen ? exp2_fast(p[j][i] * scale_2 - lse_2) : 0;
                    ds[j][i] = seen ? p[j][i] * (ds[j][i] - shared.stats[copy][1][r]) : 0;
                }
            }
            accumulate<D>(dv_sums, p, d_o_at, from);
            accumulate<D>(dk_sums, ds, q_at, from);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (key + 8 * half >= keys) continue;
        const size_t at = start + (size_t)(key + 8 * half) * pitch;
        store<D>(dk + at, dk_sums, half, scale);
        store<D>(dv + at, dv_sums, half, 1);
    }
}

// Grid: (tokens * group / 64 + documents, kv_heads) blocks of 128.
template <int D>
__device__ __forceinline__ void queries_backward(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dq) {
    const int group = heads / kv_heads, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const Tile tile = find_tile(cu_seqlens, documents, tokens, group, blockIdx.x);
    const int keys = tile.end - tile.begin;
    const Rows<D> rows = {tile.begin, heads, group, (int)blockIdx.y, keys * group};
    if (tile.first < 0 || tile.first >= rows.count) return;

    Shared<D> &shared = *(Shared<D> *)shared_bytes;
    const unsigned q_at = shared_address(shared.own[0]), d_o_at = shared_address(shared.own[1]);
    const size_t pitch = (size_t)kv_heads * D, start = tile.begin * pitch + blockIdx.y * D;
    auto fetch = [&](int first, int copy) {
        fetch_rows<D, THREADS>(shared_address(shared.other[copy][0]), k + start, pitch, first, keys);
        fetch_rows<D, THREADS>(shared_address(shared.other[copy][1]), v + start, pitch, first, keys);
        async_commit();
    };
    // The first tile that the block's first row sees.
    const int begin = oldest(tile.first / group, window) / TILE * TILE;
    rows.fetch(q_at, q, d_o_at, d_o, tile.first);
    fetch(begin, 0);

    // The last key that anyone in the block, in the warp, and in each of the lane's two rows sees. Rows that are not
    // there see what the last one sees.
    const int warp_first = tile.first + warp_row;
    const int block_sees = (min(tile.first + TILE, rows.count) - 1) / group;
    const int warp_sees = warp_first < rows.count ? (min(warp_first + 16, rows.count) - 1) / group : -1;
    // The first key that the warp's first row sees.
    const int warp_oldest = oldest(warp_first / group, window);
    int sees[2];
    float lse_2[2], mean[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = min(warp_first + lane / 4 + 8 * half, rows.count - 1);
        sees[half] = row / group;
        lse_2[half] = lse[rows.place(row)] * LOG2_E;
        mean[half] = delta[rows.place(row)];
    }
    const float scale_2 = scale * LOG2_E;
    float sums[D / 8][4] = {};
    for (int first = begin, copy = 0; first <= block_sees; first += TILE, copy ^= 1) {
        // This tile is there, and all warps are done with the one before, whose place the next takes.
        async_wait<0>();
        __syncthreads();
        if (first + TILE <= block_sees) fetch(first + TILE, copy ^ 1);
        const unsigned k_at = shared_address(shared.other[copy][0]), v_at = shared_address(shared.other[copy][1]);
#pragma unroll 1
        for (int from = 0; from < TILE; from += STEP) {
            if (first + from > warp_sees || first + from + STEP <= warp_oldest) continue;
            float p[STEP / 8][4], ds[STEP / 8][4];
            products<D>(p, q_at, k_at, from);
            products<D>(ds, d_o_at, v_at, from);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const bool seen = sees_key(sees[i / 2], first + from + j * 8 + lane % 4 * 2 + i % 2, window);
                    const float probability = exp2_fast(p[j][i] * scale_2 - lse_2[i / 2]);
                    ds[j][i] = seen ? probability * (ds[j][i] - mean[i / 2]) : 0;
                }
            }
            accumulate<D>(sums, ds, k_at, from);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp_first + lane / 4 + 8 * half;
        if (row < rows.count) store<D>(dq + rows.place(row) * D, sums, half, scale);
    }
}

// A thread takes 8 elements, D / 8 neighbouring threads a head; all of a warp stay for the sum.
// Grid: tokens * heads * D / 8 threads in blocks of 128.
template <int D>
__device__ __forceinline__ void head_dots(
    const bf16 *o, const bf16 *d_o, const unsigned *cu_seqlens, int documents, int tokens, int heads, float *delta) {
    const size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x, row = i / (D / 8);
    const bool there = row < (size_t)min(cu_seqlens[documents], (unsigned)tokens) * heads;
    float sum = 0;
    if (there) {
        const uint4 a = ((const uint4 *)o)[i], b = ((const uint4 *)d_o)[i];
        const bf16 *left = (const bf16 *)&a, *right = (const bf16 *)&b;
#pragma unroll
        for (int j = 0; j < 8; j++) sum += __bfloat162float(left[j]) * __bfloat162float(right[j]);
    }
#pragma unroll
    for (int step = D / 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (there && i % (D / 8) == 0) delta[row] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_delta_64(
    const bf16 *o, const bf16 *d_o, const unsigned *cu_seqlens, int documents, int tokens, int heads, float *delta) {
    head_dots<64>(o, d_o, cu_seqlens, documents, tokens, heads, delta);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_delta_128(
    const bf16 *o, const bf16 *d_o, const unsigned *cu_seqlens, int documents, int tokens, int heads, float *delta) {
    head_dots<128>(o, d_o, cu_seqlens, documents, tokens, heads, delta);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_64(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dk,
    bf16 *dv) {
    keys_backward<64>(q, k, v, lse, d_o, delta, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, dk, dv);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_128(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dk,
    bf16 *dv) {
    keys_backward<128>(q, k, v, lse, d_o, delta, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, dk, dv);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries_64(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dq) {
    queries_backward<64>(q, k, v, lse, d_o, delta, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, dq);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries_128(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_o, const float *delta,
    const unsigned *cu_seqlens, int documents, int tokens, int heads, int kv_heads, float scale, int window, bf16 *dq) {
    queries_backward<128>(q, k, v, lse, d_o, delta, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, dq);
}
