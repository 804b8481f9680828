// compile: --gpu-architecture=compute_89
// mma.sync with fp8, as in mma.cu.

#define KERNEL(name, na, nb, nc) \
    extern "C" __global__ void name(const unsigned *a, const unsigned *b, const unsigned *c, unsigned *d) { \
        a += threadIdx.x * na, b += threadIdx.x * nb, c += threadIdx.x * nc, d += threadIdx.x * nc;
#define D4A4B2C4(name, op) KERNEL(name, 4, 2, 4) \
    asm(op " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" \
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), \
          "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3])); }
#define D2A2B1C2(name, op) KERNEL(name, 2, 1, 2) \
    asm(op " {%0,%1}, {%2,%3}, {%4}, {%5,%6};" \
        : "=r"(d[0]), "=r"(d[1]) : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1])); }

D4A4B2C4(m16n8k32_e4m3, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32")
D4A4B2C4(m16n8k32_e5m2, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32")
D4A4B2C4(m16n8k32_e4m3_e5m2, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32")
D4A4B2C4(m16n8k32_e5m2_e4m3, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32")
D2A2B1C2(m16n8k16_e4m3_f16, "mma.sync.aligned.m16n8k16.row.col.f16.e4m3.e4m3.f16")
