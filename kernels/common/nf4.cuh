// nf4.cuh — a weight in NF4 as bitsandbytes stores it, decoded eight elements at a time, exactly
//
// Element i of the flattened row-major matrix has 4 bits of code: byte i / 2, the even element in the high half. 64
// elements share a scale. Value = round_bf16(codebook[code] * scale): one f32 product, one rounding.

#pragma once
#include "warp.cuh"

// Mirrored in src/ops/nf4_dequantize/cuda.rs.
struct Nf4 {
    const unsigned char *codes;
    const float *absmax;          // plain scales; null when they are quantised themselves:
    const unsigned char *scales;  // scale b is map[scales[b]] * absmax2[b / 256] + offset
    const float *absmax2, *map;
    float offset;
    int unused;
};

// Dettmers et al. 2023 (arXiv 2305.14314), appendix E, to the last digit of bitsandbytes.
__constant__ unsigned NF4_CODEBOOK[16] = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
};

// Fills a table in shared memory, where lanes may look up different codes at once; a barrier is the caller's.
__device__ __forceinline__ void load_codebook(float (&codebook)[16]) {
    if (threadIdx.x < 16) codebook[threadIdx.x] = __uint_as_float(NF4_CODEBOOK[threadIdx.x]);
}

// The scale of a block, product and sum each rounded: an fma would be another number than bitsandbytes'.
__device__ __forceinline__ float nf4_scale(const Nf4 &w, size_t block) {
    if (w.absmax) return w.absmax[block];
    return __fadd_rn(__fmul_rn(w.map[w.scales[block]], w.absmax2[block / 256]), w.offset);
}

// Eight neighbours from their four bytes of code.
__device__ __forceinline__ uint4 nf4_decode(unsigned word, float scale, const float (&codebook)[16]) {
    unsigned pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned byte = word >> 8 * i & 255;
        pairs[i] = pack(codebook[byte >> 4] * scale, codebook[byte & 15] * scale);
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
