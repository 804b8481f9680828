// mma.sync in every dense shape and type of sm_80: fragments go in and out of registers as they are, a lane's
// registers side by side in memory. Names: shape, type of A (and of B where it is another), C to D.

// d, a, b, c have so many registers in a lane: D4A4B2C4 and so on.
#define KERNEL(name) \
    extern "C" __global__ void name(const unsigned *a, const unsigned *b, const unsigned *c, unsigned *d)
#define FRAGMENTS(na, nb, nc, nd) \
    a += threadIdx.x * na, b += threadIdx.x * nb, c += threadIdx.x * nc, d += threadIdx.x * nd

#define D2A1B1C2(name, op) KERNEL(name) { \
    FRAGMENTS(1, 1, 2, 2); \
    asm(op " {%0,%1}, {%2}, {%3}, {%4,%5};" \
        : "=r"(d[0]), "=r"(d[1]) : "r"(a[0]), "r"(b[0]), "r"(c[0]), "r"(c[1])); }
#define D4A2B1C4(name, op) KERNEL(name) { \
    FRAGMENTS(2, 1, 4, 4); \
    asm(op " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3])); }
#define D2A2B1C2(name, op) KERNEL(name) { \
    FRAGMENTS(2, 1, 2, 2); \
    asm(op " {%0,%1}, {%2,%3}, {%4}, {%5,%6};" \
        : "=r"(d[0]), "=r"(d[1]) : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1])); }
#define D4A4B2C4(name, op) KERNEL(name) { \
    FRAGMENTS(4, 2, 4, 4); \
    asm(op " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" \
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), \
          "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3])); }
#define D2A4B2C2(name, op) KERNEL(name) { \
    FRAGMENTS(4, 2, 2, 2); \
    asm(op " {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};" \
        : "=r"(d[0]), "=r"(d[1]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1])); }

D4A2B1C4(m16n8k8_f16_f32_f32, "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32")
D2A2B1C2(m16n8k8_f16_f16_f16, "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16")
D4A4B2C4(m16n8k16_f16_f32_f32, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
D2A4B2C2(m16n8k16_f16_f16_f16, "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16")
D4A2B1C4(m16n8k8_bf16_f32_f32, "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32")
D4A4B2C4(m16n8k16_bf16_f32_f32, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
D4A2B1C4(m16n8k4_tf32_f32_f32, "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32")
D4A4B2C4(m16n8k8_tf32_f32_f32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")

D2A1B1C2(m8n8k16_s8, "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32")
D2A1B1C2(m8n8k16_u8, "mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32")
D2A1B1C2(m8n8k16_s8_u8, "mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32")
D2A1B1C2(m8n8k16_u8_s8, "mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32")
D2A1B1C2(m8n8k16_s8_satfinite, "mma.sync.aligned.m8n8k16.row.col.satfinite.s32.s8.s8.s32")
D4A2B1C4(m16n8k16_s8, "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32")
D4A2B1C4(m16n8k16_u8, "mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32")
D4A2B1C4(m16n8k16_s8_u8, "mma.sync.aligned.m16n8k16.row.col.s32.s8.u8.s32")
D4A2B1C4(m16n8k16_u8_s8, "mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32")
D4A4B2C4(m16n8k32_s8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")
D4A4B2C4(m16n8k32_u8, "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32")
D4A4B2C4(m16n8k32_s8_u8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32")
D4A4B2C4(m16n8k32_u8_s8, "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32")
D4A4B2C4(m16n8k32_s8_satfinite, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32")
D4A4B2C4(m16n8k32_u8_satfinite, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.u8.s32")

D2A1B1C2(m8n8k32_s4, "mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32")
D2A1B1C2(m8n8k32_u4, "mma.sync.aligned.m8n8k32.row.col.s32.u4.u4.s32")
D2A1B1C2(m8n8k32_s4_u4, "mma.sync.aligned.m8n8k32.row.col.s32.s4.u4.s32")
D2A1B1C2(m8n8k32_u4_s4, "mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32")
D4A2B1C4(m16n8k32_s4, "mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32")
D4A2B1C4(m16n8k32_u4, "mma.sync.aligned.m16n8k32.row.col.s32.u4.u4.s32")
D4A2B1C4(m16n8k32_s4_u4, "mma.sync.aligned.m16n8k32.row.col.s32.s4.u4.s32")
D4A2B1C4(m16n8k32_u4_s4, "mma.sync.aligned.m16n8k32.row.col.s32.u4.s4.s32")
D4A4B2C4(m16n8k64_s4, "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32")
D4A4B2C4(m16n8k64_u4, "mma.sync.aligned.m16n8k64.row.col.s32.u4.u4.s32")
D4A4B2C4(m16n8k64_s4_u4, "mma.sync.aligned.m16n8k64.row.col.s32.s4.u4.s32")
D4A4B2C4(m16n8k64_u4_s4, "mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32")
D4A4B2C4(m16n8k64_s4_satfinite, "mma.sync.aligned.m16n8k64.row.col.satfinite.s32.s4.s4.s32")

D2A1B1C2(m8n8k128_xor, "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc")
D2A1B1C2(m8n8k128_and, "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc")
D4A2B1C4(m16n8k128_xor, "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc")
D4A2B1C4(m16n8k128_and, "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc")
D4A4B2C4(m16n8k256_xor, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc")
D4A4B2C4(m16n8k256_and, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc")

extern "C" __global__ void m8n8k4_f64(const double *a, const double *b, const double *c, double *d) {
    FRAGMENTS(1, 1, 2, 2);
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%4,%5};"
        : "=d"(d[0]), "=d"(d[1]) : "d"(a[0]), "d"(b[0]), "d"(c[0]), "d"(c[1]));
}
