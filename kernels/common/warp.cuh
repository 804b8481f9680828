// warp.cuh — sums and maxima over a warp and over a block, always in the same order; bf16 in pieces of 16 bytes.

#pragma once
#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

// A butterfly: every lane ends with the same bits, since + is commutative and the pairs are the same for both.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The maximum; NaN only if all are NaN (as fmaxf).
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// The sum over a block of THREADS threads, the same bits in all of them. `scratch` holds THREADS / 32 floats and
// may be used again at once: a barrier stands before it is written and one before it is read.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; warp++) sum += scratch[warp];
    return sum;
}

// The maximum over a block, as block_sum.
template <int THREADS>
__device__ __forceinline__ float block_max(float x, float *scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float most = scratch[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; warp++) most = fmaxf(most, scratch[warp]);
    return most;
}

// Rounds to the nearest bf16 and widens again: a value as it would be read back.
__device__ __forceinline__ float rounded(float x) {
    return __bfloat162float(__float2bfloat16_rn(x));
}

// Two floats rounded to bf16 in one register, `low` in the low half: two neighbours of a fragment.
__device__ __forceinline__ unsigned pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(unsigned *)&pair;
}
