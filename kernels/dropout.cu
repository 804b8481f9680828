// dropout.cu — out = mask ∘ x / (1 - p), and back: dx += mask ∘ t / (1 - p)
//
// Shapes    x, out, t, dx: bf16 [n], any n
// Writes    forward: out. backward: adds to dx, f32 sum, one rounding.
// Mask      element i stays unless 16 bits of Philox are below `threshold`: half-word i % 8, low half first, of the
//           words of counter i / 8. Made anew in the backward pass: a mask is neither written nor read.
// Work      a thread per eight elements, 16 bytes at once where all eight are there; blocks of 256
// Source    Srivastava et al. 2014 (JMLR 15)
//
// Why 16 bits: one Philox call, some 60 instructions, serves eight elements, and the kernel stays bound by memory.

#include "common/philox.cuh"
#include "common/warp.cuh"

constexpr int THREADS = 256;

template <bool ADD>
__device__ __forceinline__ void drop(const bf16 *x, bf16 *out, size_t n, Moment moment, unsigned module,
                                     unsigned threshold, float scale) {
    size_t index = (size_t)blockIdx.x * THREADS + threadIdx.x;
    size_t first = index * 8;
    if (first >= n) return;
    uint4 words = philox(moment, module, (unsigned)index);
    unsigned word[4] = {words.x, words.y, words.z, words.w};
    float factor[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        unsigned half = (word[i / 2] >> (16 * (i % 2))) & 0xffffu;
        factor[i] = half < threshold ? 0.0f : scale;
    }
    bool aligned = ((size_t)x | (size_t)out) % 16 == 0;
    if (first + 8 <= n && aligned) {
        uint4 from = *(const uint4 *)(x + first);
        uint4 to = ADD ? *(const uint4 *)(out + first) : make_uint4(0, 0, 0, 0);
        const bf16 *a = (const bf16 *)&from;
        bf16 *b = (bf16 *)&to;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float y = __fmul_rn(__bfloat162float(a[i]), factor[i]);
            b[i] = __float2bfloat16_rn(ADD ? __fadd_rn(y, __bfloat162float(b[i])) : y);
        }
        *(uint4 *)(out + first) = to;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (first + i >= n) break;
        float y = __fmul_rn(__bfloat162float(x[first + i]), factor[i]);
        if (ADD) y = __fadd_rn(y, __bfloat162float(out[first + i]));
        out[first + i] = __float2bfloat16_rn(y);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
dropout_forward(const bf16 *x, bf16 *out, size_t n, unsigned long long seed, unsigned step, unsigned micro_batch,
                unsigned module, unsigned threshold, float scale) {
    drop<false>(x, out, n, Moment{seed, step, micro_batch}, module, threshold, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
dropout_backward(const bf16 *t, bf16 *dx, size_t n, unsigned long long seed, unsigned step, unsigned micro_batch,
                 unsigned module, unsigned threshold, float scale) {
    drop<true>(t, dx, n, Moment{seed, step, micro_batch}, module, threshold, scale);
}
