// rms_norm.cu — y[t,i] = w[i] · x[t,i] · rstd[t],  rstd[t] = 1 / sqrt(mean_i x[t,i]² + eps)
//
// Shapes    x, residual, y, dy, dx: bf16 [T, hidden] row-major   w: bf16 [hidden]   rstd: f32 [T]
// Writes    forward: y and rstd. add_forward: residual += x (rounded once), then y and rstd of it.
//           backward ADDS to dx: rstd · (w·dy - x̂ · mean_j(w·dy·x̂)), x̂ = x·rstd.
// Rounding  x·rstd is rounded to bf16 before it is multiplied by w, as Hugging Face does.
// Work      one block of 256 threads per row; a thread takes every 256th element; sums in f32 in a fixed order.
// Source    Zhang & Sennrich 2019 (arXiv 1910.07467), equation 4
//
// Why not one pass with the row in registers: hidden is not known at compile time, and a row is in L1 after the
// first pass.

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
