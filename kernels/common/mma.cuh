// mma.cuh — the tensor-core instructions of sm_80 by name: cp.async, ldmatrix, mma.m16n8k16 for bf16.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), lane = 4·g + t:
//   A 16x16 row-major  a[0]: (g, 2t..)  a[1]: (g + 8, 2t..)  a[2]: (g, 2t + 8..)  a[3]: (g + 8, 2t + 8..)
//   B 16x8 (k, n)      b[0]: (2t.., g)  b[1]: (2t + 8.., g)
//   C 16x8             c[0], c[1]: (g, 2t..)  c[2], c[3]: (g + 8, 2t..)

#pragma once
#include "warp.cuh"

// The address of shared memory as these instructions take it.
__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// Copies `bytes` (0 to 16) from global to 16 bytes of shared memory, the rest zero; not there before async_wait.
// `from` must be readable only where `bytes` says, and a multiple of 16.
__device__ __forceinline__ void async_copy(unsigned to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING groups of this thread are under way. Other threads' copies need a barrier, too.
template <int PENDING>
__device__ __forceinline__ void async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each transposed on the way.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c += A·B for one 16x8 tile, 16 of k.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a tile in shared memory with rows of CHUNKS times 16 bytes has chunk c of row r: c is changed by the row's
// number so that the 8 rows of an ldmatrix lie in different banks. CHUNKS is a power of two.
template <int CHUNKS>
__device__ __forceinline__ unsigned swizzled(int row, int c) {
    return (row * CHUNKS + (c ^ (CHUNKS >= 8 ? row % 8 : row / (8 / CHUNKS) % CHUNKS))) * 16;
}

// Asks for a tile of ROWS x 8·CHUNKS elements at (row, column) of a row-major matrix of `rows` x `columns` at pitch
// `ld` (a multiple of 8; `from` of 16 bytes), by all THREADS threads of the block, into a swizzled tile. What lies
// outside the matrix is zero and not read. async_commit and async_wait are the caller's.
template <int THREADS, int ROWS, int CHUNKS>
__device__ __forceinline__ void async_tile(unsigned to, const bf16 *from, int ld, int row, int rows, int column,
                                           int columns) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, c = i % CHUNKS;
        int there = row + r < rows ? min(max(columns - (column + c * 8), 0), 8) : 0;
        const bf16 *at = there > 0 ? from + (size_t)(row + r) * ld + column + c * 8 : from;
        async_copy(to + swizzled<CHUNKS>(r, c), at, there * 2);
    }
}
