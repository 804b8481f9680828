// neftune.cu — x[t, j] += alpha / sqrt(L·d) · u, u uniform in [-1, 1)
//
// Shapes    x: bf16 [T, hidden]; cu_seqlens: [documents + 1]; L: the length of row t's document, d: hidden
// Writes    x, in place, f32 sum, one rounding; rows behind the last document stay
// Noise     element i takes word i % 4 of Philox's counter i / 4, as a signed number over 2^31
// Work      a block of 128 per row
// Source    Jain et al. 2023 (arXiv 2310.05914), algorithm 1
//
// Why the magnitude is computed in f64: so that it is the CPU's, bit for bit; it is one number a row.

#include "common/philox.cuh"
#include "common/warp.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
neftune_forward(const unsigned *cu_seqlens, bf16 *x, int documents, int hidden, double alpha,
                unsigned long long seed, unsigned step, unsigned micro_batch, unsigned stream) {
    unsigned token = blockIdx.x;
    if (token >= cu_seqlens[documents]) return;
    // The last document that begins at the token or before it.
    int low = 0, high = documents;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (cu_seqlens[middle] <= token) low = middle;
        else high = middle;
    }
    double length = (double)(cu_seqlens[low + 1] - cu_seqlens[low]);
    float magnitude = (float)(alpha / sqrt(length * (double)hidden));
    Moment moment{seed, step, micro_batch};
    size_t first = (size_t)token * hidden;
    for (int j = threadIdx.x; j < hidden; j += THREADS) {
        size_t i = first + j;
        uint4 words = philox(moment, stream, (unsigned)(i / 4));
        unsigned word = i % 4 == 0 ? words.x : i % 4 == 1 ? words.y : i % 4 == 2 ? words.z : words.w;
        float u = __fmul_rn((float)(int)word, 1.0f / 2147483648.0f);
        x[i] = __float2bfloat16_rn(__fadd_rn(__bfloat162float(x[i]), __fmul_rn(magnitude, u)));
    }
}
