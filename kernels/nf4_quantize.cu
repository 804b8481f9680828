// nf4_quantize.cu — weights to NF4 by bitsandbytes' CUDA rule, and their scales a second time to 8 bits
//
//     absmax = max |x| over 64 elements     code = #{ t : x · (1 / absmax) > t },  t the 15 midpoints of the codebook
//     offset = mean(absmax)                 scale code = nearest entry of the dynamic map to (absmax - offset) / absmax2
//
// Shapes    x: f32 or bf16 [n], a matrix flattened row-major   codes: two a byte, [n / 2 rounded up]
//           absmax: f32 [blocks], one for 64 elements   scales: u8 [blocks]   absmax2: f32 [blocks / 256 rounded up]
// Writes    nf4_quantize_*: codes and absmax. nf4_quantize_scales_mean: offset. nf4_quantize_scales: scales and absmax2.
// Bits      those of src/quant/quantise.rs, offset aside: the mean is summed in f64, here in another order, and is the
//           same f32 or a neighbour of it.
//           A block of zeros has 1 / 0 = inf and 0 · inf = NaN, which is above no threshold: code 0. Subnormal numbers
//           count as zero, as CUDA's flush does. A NaN or an infinity makes the block's absmax not finite.
// Work      nf4_quantize_*: a warp per 64 elements, two neighbours a lane, so a lane makes a byte of codes.
//           nf4_quantize_scales_mean: one block. nf4_quantize_scales: a block of 256 threads per 256 scales.
// Source    Dettmers et al. 2023 (arXiv 2305.14314), section 3; bitsandbytes' CUDA kernels for the ties
//
// Why not the tree of comparisons that bitsandbytes has: 15 comparisons without a branch give the same code.

#include "common/nf4.cuh"

constexpr int THREADS = 256, BLOCK = 64, NESTED = 256;
constexpr float SMALLEST = 1.17549435e-38f;  // below are the subnormal numbers

__device__ __forceinline__ unsigned nf4_code(float x) {
    unsigned above = 0;
#pragma unroll
    for (int i = 0; i < 15; i++) {
        float low = __uint_as_float(NF4_CODEBOOK[i]), high = __uint_as_float(NF4_CODEBOOK[i + 1]);
        above += x > (low + high) / 2;
    }
    return above;
}

__device__ __forceinline__ float as_float(float x) {
    return x;
}

__device__ __forceinline__ float as_float(bf16 x) {
    return __bfloat162float(x);
}

template <typename In>
__device__ __forceinline__ void quantise(const In *x, unsigned char *codes, float *absmax, size_t n) {
    const size_t block = (blockIdx.x * (size_t)THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
    const size_t at = block * BLOCK + lane * 2;
    if (block * BLOCK >= n) return;  // whole warps
    float pair[2];
    // Absolute values as integers: in the order of the numbers, with NaN above infinity.
    unsigned most = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        pair[i] = at + i < n ? as_float(x[at + i]) : 0;
        most = max(most, __float_as_uint(pair[i]) & 0x7fffffff);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float scale = __uint_as_float(most) < SMALLEST ? 0 : __uint_as_float(most);
    const float inverse = 1 / scale;
    unsigned byte = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float value = fabsf(pair[i]) < SMALLEST ? 0 : pair[i];
        byte = byte << 4 | nf4_code(value * inverse);
    }
    if (at < n) codes[at / 2] = byte;
    if (lane == 0) absmax[block] = scale;
}

extern "C" __global__ void __launch_bounds__(THREADS)
nf4_quantize_f32(const float *x, unsigned char *codes, float *absmax, size_t n) {
    quantise(x, codes, absmax, n);
}

extern "C" __global__ void __launch_bounds__(THREADS)
nf4_quantize_bf16(const bf16 *x, unsigned char *codes, float *absmax, size_t n) {
    quantise(x, codes, absmax, n);
}

extern "C" __global__ void __launch_bounds__(THREADS)
nf4_quantize_scales_mean(const float *absmax, float *offset, size_t blocks) {
    __shared__ double parts[THREADS];
    double sum = 0;
    for (size_t i = threadIdx.x; i < blocks; i += THREADS) sum += absmax[i];
    parts[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *offset = (float)(parts[0] / (double)blocks);
}

// The nearest entry, found as CUDA's binary search finds it: its last pivot wins a tie. NaN gives 0.
__device__ __forceinline__ unsigned nearest(float x, const float *map) {
    int pivot = 127, lower = 0, upper = 255;
#pragma unroll
    for (int step = 64; step > 0; step /= 2) {
        if (x > map[pivot]) lower = pivot, pivot += step;
        else upper = pivot, pivot -= step;
    }
    float here = map[pivot];
    if (x > here) return x > (map[upper] + here) * 0.5f ? upper : pivot;
    return x < (map[lower] + here) * 0.5f ? lower : pivot;
}

extern "C" __global__ void __launch_bounds__(NESTED)
nf4_quantize_scales(const float *absmax, const float *offset, const float *dynamic_map, unsigned char *scales,
                    float *absmax2, size_t blocks) {
    __shared__ float map[NESTED], scratch[NESTED / 32];
    const size_t at = blockIdx.x * (size_t)NESTED + threadIdx.x;
    map[threadIdx.x] = dynamic_map[threadIdx.x];
    const float centred = at < blocks ? absmax[at] - *offset : 0;
    // The barriers of the maximum stand between the map's stores and its loads, too.
    const float most = block_max<NESTED>(fabsf(centred), scratch);
    const float scale = most < SMALLEST ? 0 : most;
    if (at < blocks) scales[at] = nearest(centred * (1 / scale), map);
    if (threadIdx.x == 0) absmax2[blockIdx.x] = scale;
}
