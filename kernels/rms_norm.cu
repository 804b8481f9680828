// rms_norm.cu — y[t,i] = w[i] · x[t,i] · rstd[t],  rstd[t] = 1 / sqrt(mean_i x[t,i]² + eps)
//
// Shapes    x, residual, y, dy, dx: bf16 [T, hidden] row-major   w: bf16 [hidden]   rstd: f32 [T]
// Writes    forward: y and rstd. add_forward: residual += x (rounded once), then y and rstd of it.
//           backward ADDS to dx: rstd · (w·dy - x̂ · mean_j(w·dy·x̂)), x̂ = x·rstd.
// Rounding  x·rstd is rounded to bf16 before it is multiplied by w, as Hugging Face does.
// Work      one block of 256 threads per row; a thread takes every 256th element; sums in f32 in a fixed order.
//           rms_norm_short_*, for rows of up to 256 elements (heads of q and k), a multiple of 8: neighbouring lanes,
//           a power of two of them, have a row together, 16 bytes each, and it stays in registers. A row of 64 is
//           8 lanes, so that a block has 32 rows and a warp reads 512 bytes in one piece.
// Source    Zhang & Sennrich 2019 (arXiv 1910.07467), equation 4
//
// Why not one pass with the row in registers for long rows, too: hidden is not known at compile time, and a row is
// in L1 after the first pass.

#include "common/warp.cuh"

constexpr int THREADS = 256;

// 1 / sqrt(mean of squares + eps) of a row that `at(i)` gives.
template <typename At>
__device__ __forceinline__ float row_rstd(At at, int hidden, float eps, float *scratch) {
    float squares = 0;
    for (int i = threadIdx.x; i < hidden; i += THREADS) {
        float x = at(i);
        squares += x * x;
    }
    return 1.0f / sqrtf(block_sum<THREADS>(squares, scratch) / (float)hidden + eps);
}

__device__ __forceinline__ bf16 normed(bf16 x, float rstd, bf16 w) {
    return __float2bfloat16_rn(rounded(__bfloat162float(x) * rstd) * __bfloat162float(w));
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_forward(const bf16 *x, const bf16 *w, bf16 *y, float *rstd, int hidden, float eps) {
    __shared__ float scratch[THREADS / 32];
    x += (size_t)blockIdx.x * hidden;
    y += (size_t)blockIdx.x * hidden;
    float r = row_rstd([&](int i) { return __bfloat162float(x[i]); }, hidden, eps, scratch);
    for (int i = threadIdx.x; i < hidden; i += THREADS) y[i] = normed(x[i], r, w[i]);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_add_forward(const bf16 *x, const bf16 *residual, bf16 *out, const bf16 *w, bf16 *y, float *rstd,
                     int hidden, float eps) {
    __shared__ float scratch[THREADS / 32];
    size_t row = (size_t)blockIdx.x * hidden;
    x += row, residual += row, out += row, y += row;
    for (int i = threadIdx.x; i < hidden; i += THREADS) {
        out[i] = __float2bfloat16_rn(__bfloat162float(x[i]) + __bfloat162float(residual[i]));
    }
    // A thread reads back only what it has written itself.
    float r = row_rstd([&](int i) { return __bfloat162float(out[i]); }, hidden, eps, scratch);
    for (int i = threadIdx.x; i < hidden; i += THREADS) y[i] = normed(out[i], r, w[i]);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_backward(const bf16 *x, const bf16 *w, const float *rstd, const bf16 *dy, bf16 *dx, int hidden) {
    __shared__ float scratch[THREADS / 32];
    size_t row = (size_t)blockIdx.x * hidden;
    x += row, dy += row, dx += row;
    float r = rstd[blockIdx.x], products = 0;
    for (int i = threadIdx.x; i < hidden; i += THREADS) {
        products += __bfloat162float(w[i]) * __bfloat162float(dy[i]) * (__bfloat162float(x[i]) * r);
    }
    float mean = block_sum<THREADS>(products, scratch) / (float)hidden;
    for (int i = threadIdx.x; i < hidden; i += THREADS) {
        float gradient = r * (__bfloat162float(w[i]) * __bfloat162float(dy[i]) - __bfloat162float(x[i]) * r * mean);
        dx[i] = __float2bfloat16_rn(__bfloat162float(dx[i]) + gradient);
    }
}

// Eight neighbours: 16 bytes.
struct Eight {
    uint4 bits;

    __device__ __forceinline__ bf16 *elements() { return (bf16 *)&bits; }
    __device__ __forceinline__ float at(int i) { return __bfloat162float(elements()[i]); }
};

// The sum over a row's `lanes` lanes, the same bits in all of them.
__device__ __forceinline__ float lanes_sum(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// What a lane has of the short rows: its row, and eight elements of it. All lanes of a warp stay for the sums: those
// without a row, or behind its end, with zeros.
struct Share {
    int row, piece;
    size_t at;  // in pieces of eight
    bool there;

    __device__ __forceinline__ Share(int rows, int hidden, int lanes) {
        int thread = threadIdx.x % lanes, pieces = hidden / 8;
        row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
        piece = thread;
        at = (size_t)row * pieces + thread;
        there = row < rows && thread < pieces;
    }

    __device__ __forceinline__ Eight load(const bf16 *from, size_t place) const {
        return {there ? ((const uint4 *)from)[place] : make_uint4(0, 0, 0, 0)};
    }
};

// ADD: of out = x + residual, which is written, too.
template <bool ADD>
__device__ __forceinline__ void short_forward(const bf16 *x, const bf16 *residual, bf16 *out, const bf16 *w, bf16 *y,
                                              float *rstd, int rows, int hidden, int lanes, float eps) {
    const Share share(rows, hidden, lanes);
    Eight own = share.load(x, share.at), weights = share.load(w, share.piece);
    if (ADD) {
        Eight other = share.load(residual, share.at);
#pragma unroll
        for (int i = 0; i < 8; i++) own.elements()[i] = __float2bfloat16_rn(own.at(i) + other.at(i));
        if (share.there) ((uint4 *)out)[share.at] = own.bits;
    }
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) squares += own.at(i) * own.at(i);
    float r = 1.0f / sqrtf(lanes_sum(squares, lanes) / (float)hidden + eps);
#pragma unroll
    for (int i = 0; i < 8; i++) own.elements()[i] = normed(own.elements()[i], r, weights.elements()[i]);
    if (!share.there) return;
    ((uint4 *)y)[share.at] = own.bits;
    if (share.piece == 0) rstd[share.row] = r;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_short_forward(const bf16 *x, const bf16 *w, bf16 *y, float *rstd, int rows, int hidden, int lanes,
                       float eps) {
    short_forward<false>(x, nullptr, nullptr, w, y, rstd, rows, hidden, lanes, eps);
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_short_add_forward(const bf16 *x, const bf16 *residual, bf16 *out, const bf16 *w, bf16 *y, float *rstd,
                           int rows, int hidden, int lanes, float eps) {
    short_forward<true>(x, residual, out, w, y, rstd, rows, hidden, lanes, eps);
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_short_backward(const bf16 *x, const bf16 *w, const float *rstd, const bf16 *dy, bf16 *dx, int rows,
                        int hidden, int lanes) {
    const Share share(rows, hidden, lanes);
    Eight own = share.load(x, share.at), weights = share.load(w, share.piece), gradient = share.load(dy, share.at);
    Eight sum = share.load(dx, share.at);
    float r = share.there ? rstd[share.row] : 0, products = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) products += weights.at(i) * gradient.at(i) * (own.at(i) * r);
    float mean = lanes_sum(products, lanes) / (float)hidden;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float added = r * (weights.at(i) * gradient.at(i) - own.at(i) * r * mean);
        sum.elements()[i] = __float2bfloat16_rn(sum.at(i) + added);
    }
    if (share.there) ((uint4 *)dx)[share.at] = sum.bits;
}
