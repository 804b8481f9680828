// adamw.cu — one optimizer step on all adapters, and their working copy in bf16
//
// adamw_step, with g = clip · grads and clip = min(1, max_norm / (sqrt(sum_of_squares) + 1e-6)), for each element:
//     p *= 1 - lr·weight_decay
//     m += (1 - beta1)·(g - m)
//     v  = beta2·v + (1 - beta2)·g²
//     p -= lr / (1 - beta1^step) · m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
// Shapes    params, grads, m, v: f32 [n]   sum_of_squares: f64 [1]
// Writes    params, m, v in place. Where sum_of_squares is not finite (a gradient is not), nothing: the trainer
//           reads the sum after the step, and stops with everything as it was before.
// Work      a thread per element, blocks of 256; one thread of each computes clip in f64
// Source    Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2, as torch.optim.AdamW writes it; clip as
//           torch.nn.utils.clip_grad_norm_
//
// adamw_adapter_copy, for each segment and i < rows, j < cols:
//     copy[to + i·to_pitch + j] = params[from + i·from_pitch + j], rounded to bf16
// Writes    what the segments name; the zeros between them (padded ranks) stay.
// Work      gridDim.x segments, gridDim.y blocks of 256 threads for each
//
// Why not the copy inside of adamw_step: a parameter would have to find its segment, and the copy is also needed
// when an adapter is loaded.

#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

constexpr int THREADS = 256;

// As Factors in src/ops/adamw/mod.rs, which explains them.
struct Factors {
    float decay, m_weight, v_keep, v_weight, root_bias2, eps, step_size;
};

// As Segment in src/ops/adamw/cuda.rs.
struct Segment {
    unsigned long long from, to;
    unsigned rows, cols, from_pitch, to_pitch;
};

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_step(float *params, const float *grads, float *m, float *v, const double *sum_of_squares, double max_norm,
           Factors f, int n) {
    __shared__ float shared_clip;
    if (threadIdx.x == 0) {
        double clip = max_norm / (sqrt(*sum_of_squares) + 1e-6);
        // Without clipping max_norm is infinite. A sum that is not finite gives NaN for every max_norm.
        shared_clip = isfinite(*sum_of_squares) ? (float)(clip > 1 ? 1 : clip) : nanf("");
    }
    __syncthreads();
    float clip = shared_clip;
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n || isnan(clip)) return;
    float g = grads[i] * clip;
    float mean = m[i], square = v[i];
    mean += f.m_weight * (g - mean);
    square = f.v_keep * square + f.v_weight * (g * g);
    m[i] = mean;
    v[i] = square;
    params[i] = params[i] * f.decay - f.step_size * (mean / (sqrtf(square) / f.root_bias2 + f.eps));
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_adapter_copy(const Segment *segments, const float *params, bf16 *copy) {
    Segment s = segments[blockIdx.x];
    size_t step = (size_t)gridDim.y * THREADS;
    for (size_t k = (size_t)blockIdx.y * THREADS + threadIdx.x; k < (size_t)s.rows * s.cols; k += step) {
        size_t i = k / s.cols, j = k % s.cols;
        copy[s.to + i * s.to_pitch + j] = __float2bfloat16_rn(params[s.from + i * s.from_pitch + j]);
    }
}
