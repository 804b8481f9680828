// rope.cu — q'[i]       = q[i]·cos - q[i + d/2]·sin
//           q'[i + d/2] = q[i + d/2]·cos + q[i]·sin,   cos and sin of (position, i), i < d/2
//
// Shapes    position_ids: u32 [T]   cos, sin: f32 [positions, d/2]   q: bf16 [T, heads·d]   k: bf16 [T, kv_heads·d]
// Writes    q and k in place. rope_backward turns dq and dk by the opposite angle.
// Rounding  arithmetic in f32, one rounding to bf16.
// Work      one block of 256 threads per token; a thread takes every 256th pair of the row of q, then of k's.
// Source    Su et al. 2021 (arXiv 2104.09864), section 3.2.2, paired as Hugging Face does
//
// A position that the tables do not hold (the host checks them before it uploads them) makes its rows NaN.
//
// Why not sines in the kernel: f32 angles of far positions are off by whole steps; the tables come from f64.

#include "common/warp.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ void rotate(const unsigned *position_ids, const float *cos, const float *sin, bf16 *q,
                                       bf16 *k, int positions, int heads, int kv_heads, int half, float sign) {
    size_t token = blockIdx.x;
    unsigned position = position_ids[token];
    bool known = position < (unsigned)positions;
    cos += known ? (size_t)position * half : 0;
    sin += known ? (size_t)position * half : 0;
    q += token * heads * half * 2;
    k += token * kv_heads * half * 2;
    for (int pair = threadIdx.x; pair < (heads + kv_heads) * half; pair += THREADS) {
        int head = pair / half, i = pair % half;
        bf16 *row = head < heads ? q + head * half * 2 : k + (head - heads) * half * 2;
        float a = __bfloat162float(row[i]), b = __bfloat162float(row[i + half]);
        float c = known ? cos[i] : nanf(""), s = known ? sign * sin[i] : nanf("");
        row[i] = __float2bfloat16_rn(a * c - b * s);
        row[i + half] = __float2bfloat16_rn(b * c + a * s);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
rope_forward(const unsigned *position_ids, const float *cos, const float *sin, bf16 *q, bf16 *k, int positions,
             int heads, int kv_heads, int half) {
    rotate(position_ids, cos, sin, q, k, positions, heads, kv_heads, half, 1.0f);
}

extern "C" __global__ void __launch_bounds__(THREADS)
rope_backward(const unsigned *position_ids, const float *cos, const float *sin, bf16 *dq, bf16 *dk, int positions,
              int heads, int kv_heads, int half) {
    rotate(position_ids, cos, sin, dq, dk, positions, heads, kv_heads, half, -1.0f);
}
