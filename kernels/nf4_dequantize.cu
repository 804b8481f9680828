// nf4_dequantize.cu — W[o,i] = round_bf16(codebook[code(o,i)] · scale((o · in + i) / 64))
//
// Shapes    codes: two a byte, [out, in] flattened row-major   scales: one for 64 elements, f32 or nested
//           W: bf16 [out, in] at pitch ld; in and ld are multiples of 8
// Writes    W's out x in elements and nothing between its rows: an adapter's columns or rows fit behind.
// Work      a thread per 8 neighbours of a row: 4 bytes of code in, 16 bytes out; neighbouring threads have
//           neighbouring chunks, so a warp reads 128 bytes and writes 512 in one piece. 8 divides 64: one scale.
// Source    Dettmers et al. 2023 (arXiv 2305.14314), equation 6, and bitsandbytes' bytes
//
// Why the nested scales are decoded here too, by every thread again: three more kernels and a pass over the
// scales cost more than the two products.

#include "common/nf4.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
nf4_dequantize(const Nf4 w, bf16 *out, size_t chunks, int in, int ld) {
    __shared__ float codebook[16];
    load_codebook(codebook);
    __syncthreads();
    size_t chunk = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (chunk >= chunks) return;
    size_t row = chunk / (in / 8), column = chunk % (in / 8) * 8;
    unsigned word = ((const unsigned *)w.codes)[chunk];
    *(uint4 *)(out + row * ld + column) = nf4_decode(word, nf4_scale(w, chunk / 8), codebook);
}
