// cross_entropy.cu — losses[p] = log Σ_j e^(logits[p, j] - max) + max - logits[p, targets[p]]
//                    dlogits[p, j] = (softmax(logits[p, :])[j] - [j = targets[p]]) · scale
//
// Shapes    logits: f32 [P, vocab] at pitch ld   targets: u32 [P]   losses: f32 [P]
//           dlogits: bf16 [P, vocab] at pitch ld_out
// Writes    losses (unscaled); dlogits, one rounding, with zeros in the columns vocab .. ld_out
// Work      one block of 512 threads per row, which passes over the row twice, and once more for dlogits; a thread
//           takes every 512th element; f32 sums in a fixed order
// Source    Blanchard, Higham & Higham 2021, "Accurately computing the log-sum-exp and softmax functions": the
//           shift by the maximum
//
// The target's term is kept apart from the others' sum: its gradient is -others / Σ · scale, which does not cancel
// where the model is sure. A NaN or +inf in a row makes the row's loss and gradient NaN, and so does a target that
// the vocabulary does not have (the host checks them before it uploads them).
//
// Why not the online softmax, with one pass for maximum and sum: it pays where a row leaves the caches; here the
// gradient needs a second pass anyway, and vocab f32 logits stay in L2 between the passes.

#include "common/warp.cuh"

constexpr int THREADS = 512;

struct Softmax {
    float max, others, sum;
};

// The row's maximum, Σ of e^(logit - max) without the target's term, and with it; the same in every thread.
__device__ __forceinline__ Softmax softmax(const float *logits, unsigned target, int vocab, float *scratch) {
    float max = logits[0];
    // fmaxf skips a NaN; the sum does not.
    for (int j = threadIdx.x; j < vocab; j += THREADS) max = fmaxf(max, logits[j]);
    max = block_max<THREADS>(max, scratch);
    float others = 0;
    for (int j = threadIdx.x; j < vocab; j += THREADS) {
        if (j != target) others += expf(logits[j] - max);
    }
    others = block_sum<THREADS>(others, scratch);
    float own = target < (unsigned)vocab ? expf(logits[target] - max) : nanf("");
    return {max, others, others + own};
}

__device__ __forceinline__ float loss(const Softmax &s, const float *logits, unsigned target, int vocab) {
    if (target >= (unsigned)vocab) return nanf("");
    return logf(s.sum) + (s.max - logits[target]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward(const float *logits, const unsigned *targets, float *losses, int vocab, int ld) {
    __shared__ float scratch[THREADS / 32];
    logits += (size_t)blockIdx.x * ld;
    unsigned target = targets[blockIdx.x];
    Softmax s = softmax(logits, target, vocab, scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss(s, logits, target, vocab);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward_backward(const float *logits, const unsigned *targets, float *losses, bf16 *dlogits, int vocab,
                               int ld, int ld_out, float scale) {
    __shared__ float scratch[THREADS / 32];
    logits += (size_t)blockIdx.x * ld;
    dlogits += (size_t)blockIdx.x * ld_out;
    unsigned target = targets[blockIdx.x];
    Softmax s = softmax(logits, target, vocab, scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss(s, logits, target, vocab);
    float factor = scale / s.sum;
    for (int j = threadIdx.x; j < ld_out; j += THREADS) {
        float gradient = 0;
        if (j == target) {
            gradient = -s.others * factor;
        } else if (j < vocab) {
            gradient = expf(logits[j] - s.max) * factor;
        }
        dlogits[j] = __float2bfloat16_rn(gradient);
    }
}
