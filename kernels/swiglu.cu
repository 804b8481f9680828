// swiglu.cu — h = silu(gate) · up,  silu(g) = g / (1 + e^-g),  element by element
//
// Shapes    gate, up, h, dh: bf16 [n], any n
// Writes    forward: h. backward, in place: gate becomes dgate = dh·up·σ·(1 + g·(1 - σ)), up becomes
//           dup = dh·silu(g), dh becomes h, bit for bit what the forward wrote.
// Rounding  silu is rounded to bf16 before it is multiplied by up, as Hugging Face does.
// Work      a thread per element, blocks of 256
// Source    Shazeer 2020 (arXiv 2002.05202), section 2
//
// Why not __expf: its error grows with |g|, and it saves a few instructions that a memory-bound kernel does not feel.

#include "common/warp.cuh"

constexpr int THREADS = 256;

// silu(g) rounded to bf16, and e^-g. One function for both directions, so that h has the same bits.
__device__ __forceinline__ float silu(float g, float &exp) {
    exp = expf(-g);
    return rounded(__fdiv_rn(g, __fadd_rn(1.0f, exp)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
swiglu_forward(const bf16 *gate, const bf16 *up, bf16 *h, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float exp;
    h[i] = __float2bfloat16_rn(silu(__bfloat162float(gate[i]), exp) * __bfloat162float(up[i]));
}

extern "C" __global__ void __launch_bounds__(THREADS)
swiglu_backward(bf16 *gate, bf16 *up, bf16 *dh, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float g = __bfloat162float(gate[i]), u = __bfloat162float(up[i]), d = __bfloat162float(dh[i]), exp;
    float s = silu(g, exp);
    float sigma = 1.0f / (1.0f + exp);
    // Not e^-g·σ for 1 - σ: where e^-g overflows that is inf·0.
    gate[i] = __float2bfloat16_rn(d * u * (sigma * (1.0f + g * (1.0f - sigma))));
    up[i] = __float2bfloat16_rn(d * s);
    dh[i] = __float2bfloat16_rn(s * u);
}
