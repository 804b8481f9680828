// attention.cu — causal, grouped-query softmax attention: forward over packed documents, and over a cache
//
//     s[t,u] = scale * q[t]·k[u]                   for t - window < u ≤ t in the same document
//     o[t]   = Σ_u exp(s[t,u] - lse[t]) v[u]       lse[t] = ln Σ_u exp(s[t,u])
//
// Shapes    q, o: bf16 [T, heads * D]   k, v: bf16 [T, kv_heads * D]   lse: f32 [T, heads]   D = 64 or 128
//           cu_seqlens: u32 [documents + 1], rising from 0: document d is tokens cu_seqlens[d] .. cu_seqlens[d + 1]
//           caches: bf16 [rows, capacity, kv_heads * D]; lens, totals: u32 [rows]; new tokens packed like documents
//           query head h reads key head h / (heads / kv_heads); a window is 1 at least, NO_WINDOW for none
// Writes    forward: o and lse; decode: o; append: one row of each cache for a new token. All overwrite, nothing is
//           added to. Tokens behind the last document are left alone.
// Rounding  Products are bf16 by bf16 in f32. exp(s - max) is summed in f32 and rounded to bf16 only where it
//           meets v: one rounding of each term of o, and none of lse. o is rounded when it is stored.
// Work      A block makes 64 rows of one document and one key head: a row is a query under one of the
//           heads that share the key head, the heads of a token next to each other. So keys and values are read
//           once for the whole group, and a single new token brings as many rows as heads share a key.
//           4 warps of 16 rows; keys by tiles of 64, online softmax (the maximum so far, in base 2). Tiles before
//           the window of a block's first row are left out.
// Pipeline  One tile each of q, k and v in shared memory (48 KiB for D = 128). v arrives while q·k is made, the next k
//           while v is summed.
// Bits      Tiles are counted from the start of a document, rows do not mix, and a tile that a row does not
//           see changes nothing in it: a row's bits depend on its document alone, whatever it is packed with, and are the
//           same when the document comes in pieces by way of the cache.
// Source    Dao 2023 (arXiv 2307.08691), algorithm 1. Not split over keys: that shortens decoding with few
//           long rows, and needs a second pass that a training step never wants.

#include "common/attention.cuh"

constexpr int THREADS = 128;

// Keys 0 .. keys of a document, one head of them: `pitch` elements from one to the next.
struct Keys {
    const bf16 *k, *v;
    size_t pitch;
    int count;
};

// Attention of the rows tile.first .. + TILE of a document's new tokens; the first of these sits at `position` and sees
// the keys up to there, `window` at most. A row that sees no key becomes NaN (lens that fit no cache come here so).
template <int D>
__device__ __forceinline__ void attend(
    const Tile &tile, const Keys &keys, int position, int heads, int group, float scale, int window,
    const bf16 *q, bf16 *o, float *lse) {
    constexpr int STEPS = D / 16;
    __shared__ __align__(128) bf16 q_tile[TILE * D], k_tile[TILE * D], v_tile[TILE * D];
    const unsigned q_at = shared_address(q_tile), k_at = shared_address(k_tile), v_at = shared_address(v_tile);
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const int rows = (tile.end - tile.begin) * group, kv_head = blockIdx.y;

    // Element 0 of a row of q or o, and where it sits.
    auto place = [&](int row) {
        return ((size_t)(tile.begin + row / group) * heads + kv_head * group + row % group) * D;
    };
    auto position_of = [&](int row) { return position + row / group; };

    // The last key that anyone in the block, in the warp, and in each of this lane's two rows sees. Rows that are not
    // there see what the last one sees.
    const int warp_first = tile.first + warp_row;
    const int block_sees = position_of(min(tile.first + TILE, rows) - 1);
    const int warp_sees = warp_first < rows ? position_of(min(warp_first + 16, rows) - 1) : -1;
    // The first tile that the block's first row sees.
    const int begin = oldest(position_of(tile.first), window) / TILE * TILE;
    const int row[2] = {warp_first + lane / 4, warp_first + lane / 4 + 8};
    const int sees[2] = {position_of(min(row[0], rows - 1)), position_of(min(row[1], rows - 1))};

#pragma unroll
    for (int i = threadIdx.x; i < TILE * (D / 8); i += THREADS) {
        int r = i / (D / 8), c = i % (D / 8);
        bool there = tile.first + r < rows;
        async_copy(q_at + chunk<D>(r, c), q + (there ? place(tile.first + r) + c * 8 : 0), there ? 16 : 0);
    }
    fetch_rows<D, THREADS>(k_at, keys.k, keys.pitch, begin, keys.count);
    async_commit();
    async_wait<0>();
    __syncthreads();
    unsigned q_part[STEPS][4];
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        load_matrices(q_part[i], q_at + chunk<D>(warp_row + lane % 16, i * 2 + lane / 16));

    float sums[D / 8][4] = {}, top[2] = {unseen(), unseen()}, total[2] = {};
    for (int first = begin; first <= block_sees; first += TILE) {
        // The keys are there, and all warps are done with the values before.
        async_wait<0>();
        __syncthreads();
        fetch_rows<D, THREADS>(v_at, keys.v, keys.pitch, first, keys.count);
        async_commit();

        const bool seen = first <= warp_sees;
        float s[TILE / 8][4] = {};
        if (seen) {
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
#pragma unroll
                for (int j = 0; j < TILE / 16; j++) {
                    unsigned k_part[4];
                    int key = j * 16 + lane / 16 * 8 + lane % 8;
                    load_matrices(k_part, k_at + chunk<D>(key, i * 2 + lane / 8 % 2));
                    multiply(s[2 * j], q_part[i], k_part[0], k_part[1]);
                    multiply(s[2 * j + 1], q_part[i], k_part[2], k_part[3]);
                }
            }
        }

        // All warps are done with the keys.
        __syncthreads();
        if (first + TILE <= block_sees)
            fetch_rows<D, THREADS>(k_at, keys.k, keys.pitch, first + TILE, keys.count);
        async_commit();

        if (seen) {
            // Scores in base 2; then exp2(score - top). What was summed under an older top shrinks.
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = top[half];
#pragma unroll
                for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        int key = first + j * 8 + lane % 4 * 2 + i % 2;
                        s[j][i] = sees_key(sees[half], key, window) ? s[j][i] * (scale * LOG2_E) : unseen();
                        most = fmaxf(most, s[j][i]);
                    }
                }
                // Four neighbouring lanes have a row together.
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                // A row that has seen no key yet, where its neighbours have: its sums are zeros, and stay so.
                float base = most == unseen() ? 0 : most;
                float shrink = exp2_fast(top[half] - base), part = 0;
                top[half] = most;
#pragma unroll
                for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) part += s[j][i] = exp2_fast(s[j][i] - base);
                }
                total[half] = total[half] * shrink + part;
#pragma unroll
                for (int j = 0; j < D / 8; j++) {
                    sums[j][2 * half] *= shrink;
                    sums[j][2 * half + 1] *= shrink;
                }
            }
        }

        // The values are there.
        async_wait<1>();
        __syncthreads();
        if (seen) {
#pragma unroll
            for (int i = 0; i < TILE / 16; i++) {
                // Two neighbouring 16x8 results are the 16x16 operand that comes next, lane by lane.
                float(&left)[4] = s[2 * i], (&right)[4] = s[2 * i + 1];
                unsigned p_part[4] = {pack(left[0], left[1]), pack(left[2], left[3]),
                                      pack(right[0], right[1]), pack(right[2], right[3])};
#pragma unroll
                for (int j = 0; j < D / 16; j++) {
                    unsigned v_part[4];
                    load_matrices_transposed(v_part, v_at + chunk<D>(i * 16 + lane % 16, j * 2 + lane / 16));
                    multiply(sums[2 * j], p_part, v_part[0], v_part[1]);
                    multiply(sums[2 * j + 1], p_part, v_part[2], v_part[3]);
                }
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        // The four lanes' parts, in the same order in each of them.
        float sum = total[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (row[half] >= rows) continue;
        size_t at = place(row[half]);
        float factor = 1 / sum;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *(unsigned *)(o + at + j * 8 + lane % 4 * 2) =
                pack(sums[j][2 * half] * factor, sums[j][2 * half + 1] * factor);
        if (lse && lane % 4 == 0) lse[at / D] = top[half] * LN_2 + logf(sum);
    }
}

// Grid: (tokens * group / 64 + documents, kv_heads) blocks of 128. `tokens` is how many rows q has; `documents` may
// count empty ones at the end, where there are fewer than were planned for.
template <int D>
__device__ __forceinline__ void forward(
    const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *cu_seqlens, int documents, int tokens,
    int heads, int kv_heads, float scale, int window, bf16 *o, float *lse) {
    const int group = heads / kv_heads;
    const Tile tile = find_tile(cu_seqlens, documents, tokens, group, blockIdx.x);
    if (tile.first < 0 || tile.first >= (tile.end - tile.begin) * group) return;
    const size_t pitch = (size_t)kv_heads * D, start = tile.begin * pitch + blockIdx.y * D;
    const Keys keys = {k + start, v + start, pitch, tile.end - tile.begin};
    attend<D>(tile, keys, 0, heads, group, scale, window, q, o, lse);
}

// The same, with keys and values in the caches: row b has totals[b] of them, the new tokens' own at the end. A row
// whose total does not fit (below its number of new tokens, or above the capacity) gets NaN.
template <int D>
__device__ __forceinline__ void decode(
    const bf16 *q, const bf16 *k_cache, const bf16 *v_cache, const unsigned *cu_seqlens, const unsigned *totals,
    int rows, int tokens, int capacity, int heads, int kv_heads, float scale, int window, bf16 *o) {
    const int group = heads / kv_heads;
    const Tile tile = find_tile(cu_seqlens, rows, tokens, group, blockIdx.x);
    const int fresh = tile.end - tile.begin;
    if (tile.first < 0 || tile.first >= fresh * group) return;
    const size_t pitch = (size_t)kv_heads * D, start = tile.document * (capacity * pitch) + blockIdx.y * D;
    const unsigned total = totals[tile.document];
    const bool fits = total >= (unsigned)fresh && total <= (unsigned)capacity;
    const Keys keys = {k_cache + start, v_cache + start, pitch, fits ? (int)total : 0};
    // Without keys the last new token sits at -1, where it sees nothing.
    attend<D>(tile, keys, keys.count - fresh, heads, group, scale, window, q, o, nullptr);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_forward_64(
    const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *cu_seqlens, int documents, int tokens,
    int heads, int kv_heads, float scale, int window, bf16 *o, float *lse) {
    forward<64>(q, k, v, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, o, lse);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_forward_128(
    const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *cu_seqlens, int documents, int tokens,
    int heads, int kv_heads, float scale, int window, bf16 *o, float *lse) {
    forward<128>(q, k, v, cu_seqlens, documents, tokens, heads, kv_heads, scale, window, o, lse);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_decode_64(
    const bf16 *q, const bf16 *k_cache, const bf16 *v_cache, const unsigned *cu_seqlens, const unsigned *totals,
    int rows, int tokens, int capacity, int heads, int kv_heads, float scale, int window, bf16 *o) {
    decode<64>(q, k_cache, v_cache, cu_seqlens, totals, rows, tokens, capacity, heads, kv_heads, scale, window, o);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_decode_128(
    const bf16 *q, const bf16 *k_cache, const bf16 *v_cache, const unsigned *cu_seqlens, const unsigned *totals,
    int rows, int tokens, int capacity, int heads, int kv_heads, float scale, int window, bf16 *o) {
    decode<128>(q, k_cache, v_cache, cu_seqlens, totals, rows, tokens, capacity, heads, kv_heads, scale, window, o);
}

// Copies each row's new keys and values behind the lens[b] tokens that it has; what the capacity does not hold is
// left out. A thread copies 16 bytes of k and of v. Grid: tokens * width / 8 threads, in blocks of 256; width % 8 == 0.
extern "C" __global__ void __launch_bounds__(256) attention_append(
    const bf16 *k, const bf16 *v, const unsigned *cu_seqlens, const unsigned *lens,
    int rows, int tokens, int capacity, int width, bf16 *k_cache, bf16 *v_cache) {
    const size_t i = blockIdx.x * (size_t)256 + threadIdx.x;
    const int chunks = width / 8, c = i % chunks;
    if (i / chunks >= tokens) return;
    const unsigned token = i / chunks;
    // The last row that begins at or before the token; rows without new tokens end where they begin.
    int low = 0, high = rows - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (cu_seqlens[middle] <= token) low = middle;
        else high = middle - 1;
    }
    if (token < cu_seqlens[low] || token >= cu_seqlens[low + 1]) return;
    const size_t at = (size_t)lens[low] + (token - cu_seqlens[low]);
    if (at >= capacity) return;
    const size_t to = ((size_t)low * capacity + at) * chunks + c;
    ((uint4 *)k_cache)[to] = ((const uint4 *)k)[i];
    ((uint4 *)v_cache)[to] = ((const uint4 *)v)[i];
}
