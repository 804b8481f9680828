// nvcuda::wmma: D = A · B + C for one tile, with every shape and type that sm_80 has (those of 8 bits and more).
//
// One warp. `layouts` says how A, B, and C with D lie in memory: bit 0, 1, 2 set for columns together.

#include <mma.h>
using namespace nvcuda;

template <int M, int N, int K, typename Element, typename Memory, typename Sum, typename ALayout, typename BLayout>
__device__ void tile(const Memory *a, const Memory *b, const Sum *c, Sum *d, wmma::layout_t layout) {
    wmma::fragment<wmma::matrix_a, M, N, K, Element, ALayout> a_part;
    wmma::fragment<wmma::matrix_b, M, N, K, Element, BLayout> b_part;
    wmma::fragment<wmma::accumulator, M, N, K, Sum> sums;
    // The pitch is longer than a row or a column.
    wmma::load_matrix_sync(a_part, a, 48);
    wmma::load_matrix_sync(b_part, b, 48);
    wmma::load_matrix_sync(sums, c, 48, layout);
    wmma::mma_sync(sums, a_part, b_part, sums);
    wmma::store_matrix_sync(d, sums, 48, layout);
}

#define KERNEL(name, m, n, k, element, memory, sum) \
    extern "C" __global__ void name(const memory *a, const memory *b, const sum *c, sum *d, int layouts) { \
        wmma::layout_t layout = layouts & 4 ? wmma::mem_col_major : wmma::mem_row_major; \
        switch (layouts & 3) { \
            case 0: tile<m, n, k, element, memory, sum, wmma::row_major, wmma::row_major>(a, b, c, d, layout); break; \
            case 1: tile<m, n, k, element, memory, sum, wmma::col_major, wmma::row_major>(a, b, c, d, layout); break; \
            case 2: tile<m, n, k, element, memory, sum, wmma::row_major, wmma::col_major>(a, b, c, d, layout); break; \
            case 3: tile<m, n, k, element, memory, sum, wmma::col_major, wmma::col_major>(a, b, c, d, layout); break; \
        } \
    }

KERNEL(m16n16k16_f16_f32, 16, 16, 16, half, half, float)
KERNEL(m16n16k16_f16_f16, 16, 16, 16, half, half, half)
KERNEL(m8n32k16_f16_f32, 8, 32, 16, half, half, float)
KERNEL(m32n8k16_f16_f16, 32, 8, 16, half, half, half)
KERNEL(m16n16k16_bf16, 16, 16, 16, __nv_bfloat16, __nv_bfloat16, float)
KERNEL(m8n32k16_bf16, 8, 32, 16, __nv_bfloat16, __nv_bfloat16, float)
KERNEL(m32n8k16_bf16, 32, 8, 16, __nv_bfloat16, __nv_bfloat16, float)
KERNEL(m16n16k8_tf32, 16, 16, 8, wmma::precision::tf32, float, float)
KERNEL(m8n8k4_f64, 8, 8, 4, double, double, double)
KERNEL(m16n16k16_s8, 16, 16, 16, signed char, signed char, int)
KERNEL(m8n32k16_u8, 8, 32, 16, unsigned char, unsigned char, int)
KERNEL(m32n8k16_s8, 32, 8, 16, signed char, signed char, int)
