// gemm.cu — C = A · Bᵀ on tensor cores: how such kernels are written for sm_80.
//
// Shapes    A: bf16 [M, K] row-major   B: bf16 [N, K] row-major   C: f32 [M, N]
//           M and N multiples of 128, K of 32, at least 64.
// Work      a block of 256 threads makes 128 x 128 of C, each of its 8 warps 64 x 32
//           (2 warps along M, 4 along N), 32 of K at a time.
// Pipeline  cp.async fills one of 3 stages while another is multiplied: 48 KiB of dynamic shared memory.
// Swizzle   a stage's row is 32 elements, four chunks of 16 bytes; chunk c of row r lies at c ^ (r / 2 % 4),
//           so that the 8 rows of an ldmatrix are in different banks.

#include <cuda_bf16.h>

constexpr int TILE = 128, DEPTH = 32, STAGES = 3;
constexpr int MATRIX_BYTES = TILE * DEPTH * 2, STAGE_BYTES = 2 * MATRIX_BYTES;

__device__ __forceinline__ unsigned chunk(int row, int c) {
    return (row * 4 + (c ^ (row / 2 % 4))) * 16;
}

// 128 rows of 32 elements, from `from` on with a row pitch of k elements.
__device__ __forceinline__ void fetch(unsigned to, const __nv_bfloat16 *from, int k) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * 4; i += 256) {
        int row = i / 4, c = i % 4;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
            :: "r"(to + chunk(row, c)), "l"(from + (size_t)row * k + c * 8) : "memory");
    }
}

__device__ __forceinline__ void load_four(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

extern "C" __global__ void __launch_bounds__(256)
gemm_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int m, int n, int k) {
    extern __shared__ __align__(128) unsigned char stages[];
    unsigned shared = (unsigned)__cvta_generic_to_shared(stages);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
    a += (size_t)blockIdx.y * TILE * k;
    b += (size_t)blockIdx.x * TILE * k;
    c += (size_t)(blockIdx.y * TILE + warp_row) * n + blockIdx.x * TILE + warp_column;

    int steps = k / DEPTH;
    for (int stage = 0; stage < STAGES - 1; stage++) {
        fetch(shared + stage * STAGE_BYTES, a + stage * DEPTH, k);
        fetch(shared + stage * STAGE_BYTES + MATRIX_BYTES, b + stage * DEPTH, k);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    float sums[4][4][4] = {};
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" :: "n"(STAGES - 2) : "memory");
        __syncthreads();
        // The stage that all warps are done with since the barrier.
        int next = step + STAGES - 1;
        if (next < steps) {
            unsigned to = shared + next % STAGES * STAGE_BYTES;
            fetch(to, a + next * DEPTH, k);
            fetch(to + MATRIX_BYTES, b + next * DEPTH, k);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");

        unsigned a_stage = shared + step % STAGES * STAGE_BYTES, b_stage = a_stage + MATRIX_BYTES;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned a_part[4][4], b_part[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = warp_row + i * 16 + lane % 16;
                load_four(a_part[i], a_stage + chunk(row, half * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int row = warp_column + j * 16 + lane % 8 + lane / 16 * 8;
                load_four(b_part[j], b_stage + chunk(row, half * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float (&d)[4] = sums[i][j];
                    unsigned (&x)[4] = a_part[i];
                    unsigned y0 = b_part[j / 2][j % 2 * 2], y1 = b_part[j / 2][j % 2 * 2 + 1];
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y0), "r"(y1));
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float *at = c + (size_t)(i * 16 + lane / 4) * n + j * 8 + lane % 4 * 2;
            *(float2 *)at = make_float2(sums[i][j][0], sums[i][j][1]);
            *(float2 *)(at + 8 * (size_t)n) = make_float2(sums[i][j][2], sums[i][j][3]);
        }
    }
}
