// compile: --gpu-architecture=compute_90
// stmatrix: registers to rows of shared memory, in an order that the caller chooses.
//
// One warp. `in` has a lane's registers side by side, `rows` the row that each lane gives the address of;
// `out` gets 64 rows of 8 16-bit elements, 0xFFFF where nothing was stored.

extern __shared__ unsigned short matrices[];

__device__ unsigned row_address(const unsigned *rows) {
    for (int i = threadIdx.x; i < 64 * 4; i += 32) ((unsigned *)matrices)[i] = 0xFFFFFFFF;
    __syncthreads();
    return (unsigned)__cvta_generic_to_shared(matrices + 8 * rows[threadIdx.x]);
}

__device__ void write_out(unsigned *out) {
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 4; i += 32) out[i] = ((unsigned *)matrices)[i];
}

#define KERNEL(name) \
    extern "C" __global__ void name(const unsigned *in, const unsigned *rows, unsigned *out)

#define X1(name, op) KERNEL(name) { \
    unsigned address = row_address(rows); \
    asm volatile(op " [%0], {%1};" :: "r"(address), "r"(in[threadIdx.x]) : "memory"); \
    write_out(out); }
#define X2(name, op) KERNEL(name) { \
    unsigned address = row_address(rows); \
    in += threadIdx.x * 2; \
    asm volatile(op " [%0], {%1,%2};" :: "r"(address), "r"(in[0]), "r"(in[1]) : "memory"); \
    write_out(out); }
#define X4(name, op) KERNEL(name) { \
    unsigned address = row_address(rows); \
    in += threadIdx.x * 4; \
    asm volatile(op " [%0], {%1,%2,%3,%4};" \
        :: "r"(address), "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3]) : "memory"); \
    write_out(out); }

X1(stmatrix_x1, "stmatrix.sync.aligned.m8n8.x1.shared.b16")
X1(stmatrix_x1_trans, "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16")
X2(stmatrix_x2, "stmatrix.sync.aligned.m8n8.x2.shared.b16")
X2(stmatrix_x2_trans, "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16")
X4(stmatrix_x4, "stmatrix.sync.aligned.m8n8.x4.shared.b16")
X4(stmatrix_x4_trans, "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16")
