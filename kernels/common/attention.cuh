// attention.cuh — what the attention kernels share: which rows a block works on, and tiles of rows in shared memory.

#pragma once
#include "mma.cuh"

// Rows in a tile of queries or of keys.
constexpr int TILE = 64;

// The window of attention that has none: longer than any document (NO_WINDOW in src/ops/attention/cuda.rs).
constexpr int NO_WINDOW = 0x7fffffff;

constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

// The score of a key that is not seen.
__device__ __forceinline__ float unseen() {
    return __int_as_float(0xff800000);  // -infinity
}

// The first key that a query at `position` (-1 at least) sees: the last `window` up to its own, as far as there are.
__device__ __forceinline__ int oldest(int position, int window) {
    return max(position - window + 1, 0);
}

// Whether a query at `position` sees `key`: it lies at most `window` - 1 before, and not behind.
__device__ __forceinline__ bool sees_key(int position, int key, int window) {
    return (unsigned)(position - key) < (unsigned)window;
}

// 2^x, at most 2 ulp off; 0 below 2^-126, NaN for NaN.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// One document's part of the packed tokens, and the tile of it that a block works on. The document's rows are
// counted from 0: `per_token` of them for each token, first those of its first token.
struct Tile {
    int document;
    int begin, end;  // the document's tokens, packed
    int first;       // the tile's first row; it may lie behind the document's last: then there is nothing to do
};

// The tile of slot `slot`, of tiles(...) = tokens * per_token / TILE + documents slots.
//
// Document d owns the slots from begin(d) * per_token / TILE + d on, as many as lie before the next document's.
// Since floor(a + b) is at least floor(a) + floor(b), these are at least as many as its tiles; so the number of
// slots follows from the number of tokens and of documents alone, known when memory is planned, and a block finds
// its own by bisection, with no table that somebody would have to write first. Left over slots are idle.
// Bytes in cu_seqlens that make no sense lead to idle blocks or wrong results, not out of the `tokens` there are.
__device__ __forceinline__ Tile find_tile(
    const unsigned *cu_seqlens, int documents, int tokens, int per_token, int slot) {
    auto begin = [&](int d) { return (int)min(cu_seqlens[d], (unsigned)tokens); };
    auto first_slot = [&](int d) { return begin(d) * per_token / TILE + d; };
    int low = 0, high = documents - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (first_slot(middle) <= slot) low = middle;
        else high = middle - 1;
    }
    return {low, begin(low), begin(low + 1), (slot - first_slot(low)) * TILE};
}

// Where 16-byte chunk c of row r lies in a tile of rows of D elements, in bytes.
template <int D>
__device__ __forceinline__ unsigned chunk(int r, int c) {
    return swizzled<D / 8>(r, c);
}

// Fetches rows first .. first + TILE of `from`, `pitch` elements apart, D elements each; zeros from row `rows` on.
// With THREADS threads, asynchronously: not there before async_commit, async_wait and a barrier.
template <int D, int THREADS>
__device__ __forceinline__ void fetch_rows(unsigned to, const bf16 *from, size_t pitch, int first, int rows) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * (D / 8); i += THREADS) {
        int r = i / (D / 8), c = i % (D / 8);
        bool there = first + r < rows;
        const bf16 *at = from + (there ? (first + r) * pitch + c * 8 : 0);
        async_copy(to + chunk<D>(r, c), at, there ? 16 : 0);
    }
}
