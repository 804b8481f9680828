// ldmatrix and movmatrix: rows of shared memory, in an order that the caller chooses, into registers.
//
// One warp. `in` has 64 rows of 8 16-bit elements, `rows` the row that each lane gives the address of; a
// lane's registers go to `out` side by side.

extern __shared__ unsigned short matrices[];

__device__ unsigned row_address(const unsigned *in, const unsigned *rows) {
    for (int i = threadIdx.x; i < 64 * 4; i += 32) ((unsigned *)matrices)[i] = in[i];
    __syncthreads();
    return (unsigned)__cvta_generic_to_shared(matrices + 8 * rows[threadIdx.x]);
}

#define KERNEL(name) \
    extern "C" __global__ void name(const unsigned *in, const unsigned *rows, unsigned *out)

#define X1(name, op) KERNEL(name) { \
    unsigned address = row_address(in, rows); \
    asm volatile(op " {%0}, [%1];" : "=r"(out[threadIdx.x]) : "r"(address) : "memory"); }
#define X2(name, op) KERNEL(name) { \
    unsigned address = row_address(in, rows); \
    out += threadIdx.x * 2; \
    asm volatile(op " {%0,%1}, [%2];" : "=r"(out[0]), "=r"(out[1]) : "r"(address) : "memory"); }
#define X4(name, op) KERNEL(name) { \
    unsigned address = row_address(in, rows); \
    out += threadIdx.x * 4; \
    asm volatile(op " {%0,%1,%2,%3}, [%4];" \
        : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory"); }

X1(ldmatrix_x1, "ldmatrix.sync.aligned.m8n8.x1.shared.b16")
X1(ldmatrix_x1_trans, "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16")
X2(ldmatrix_x2, "ldmatrix.sync.aligned.m8n8.x2.shared.b16")
X2(ldmatrix_x2_trans, "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16")
X4(ldmatrix_x4, "ldmatrix.sync.aligned.m8n8.x4.shared.b16")
X4(ldmatrix_x4_trans, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16")
X4(ldmatrix_x4_cta, "ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16")

// With a generic address.
KERNEL(ldmatrix_x4_generic) {
    row_address(in, rows);
    const unsigned short *address = matrices + 8 * rows[threadIdx.x];
    out += threadIdx.x * 4;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "l"(address) : "memory");
}

// With an offset in the address; every row is 512 bytes further on.
KERNEL(ldmatrix_x1_offset) {
    unsigned address = row_address(in, rows);
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1+512];"
        : "=r"(out[threadIdx.x]) : "r"(address) : "memory");
}

// `in` is a matrix as ldmatrix would bring it: a register a lane.
KERNEL(movmatrix) {
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out[threadIdx.x]) : "r"(in[threadIdx.x]));
}

// Only half of the rows are written.
KERNEL(ldmatrix_unwritten) {
    for (int i = threadIdx.x; i < 32 * 4; i += 32) ((unsigned *)matrices)[i] = in[i];
    __syncthreads();
    unsigned address = (unsigned)__cvta_generic_to_shared(matrices + 8 * rows[threadIdx.x]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
        : "=r"(out[threadIdx.x]) : "r"(address) : "memory");
}

// `rows` are offsets in bytes here.
KERNEL(ldmatrix_bytes) {
    row_address(in, out);
    unsigned address = (unsigned)__cvta_generic_to_shared(matrices) + rows[threadIdx.x];
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
        : "=r"(out[2 * threadIdx.x]), "=r"(out[2 * threadIdx.x + 1]) : "r"(address) : "memory");
}

// The upper half of the warp does not come along.
KERNEL(ldmatrix_half_a_warp) {
    unsigned address = row_address(in, rows);
    if (threadIdx.x >= 16) return;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
        : "=r"(out[threadIdx.x]) : "r"(address) : "memory");
}
