// embedding.cu — out[t, :] = table[tokens[t], :], and the other movers of whole rows
//
// Shapes    tokens: u32 [T]   table: bf16 [vocab, hidden]   x, residual, out: bf16 [rows, hidden], row-major
//           positions: u32 [P], all different
// Writes    forward      out[t] = table[tokens[t]]
//           gather_rows  out[p] = x[positions[p]]
//           scatter_rows out[positions[p]] = x[p]; the other rows stay (the host has zeroed them)
//           add          out = residual + x, rounded once
// Work      forward, gather_rows, scatter_rows: one block of 128 threads per row that is read or written, a thread
//           takes every 128th element. add: a thread per element, blocks of 256.
// Source    none: copies, as torch's embedding, index_select and index_copy
//
// A token or position that does not exist (the host checks them before it uploads them) gives a row of NaN when it
// is read, and nothing when it is written.
//
// Why not 16 bytes at a time: hidden may be odd, and these four are a thousandth of a step.

#include "common/warp.cuh"

constexpr int ROW_THREADS = 128;
constexpr int THREADS = 256;

// to[0, hidden) = row `index` of `from` [rows, hidden]
__device__ __forceinline__ void read_row(const bf16 *from, unsigned index, int rows, bf16 *to, int hidden) {
    bool there = index < (unsigned)rows;
    from += there ? (size_t)index * hidden : 0;
    for (int i = threadIdx.x; i < hidden; i += ROW_THREADS) to[i] = there ? from[i] : __float2bfloat16_rn(nanf(""));
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
embedding_forward(const unsigned *tokens, const bf16 *table, bf16 *out, int vocab, int hidden) {
    read_row(table, tokens[blockIdx.x], vocab, out + (size_t)blockIdx.x * hidden, hidden);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
embedding_gather_rows(const bf16 *x, const unsigned *positions, bf16 *out, int rows, int hidden) {
    read_row(x, positions[blockIdx.x], rows, out + (size_t)blockIdx.x * hidden, hidden);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
embedding_scatter_rows(const bf16 *x, const unsigned *positions, bf16 *out, int rows, int hidden) {
    unsigned position = positions[blockIdx.x];
    if (position >= (unsigned)rows) return;
    x += (size_t)blockIdx.x * hidden;
    out += (size_t)position * hidden;
    for (int i = threadIdx.x; i < hidden; i += ROW_THREADS) out[i] = x[i];
}

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_add(const bf16 *x, const bf16 *residual, bf16 *out, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    out[i] = __float2bfloat16_rn(__bfloat162float(residual[i]) + __bfloat162float(x[i]));
}
