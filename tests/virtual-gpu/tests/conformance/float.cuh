// float.cuh: kernels that run one instruction in many forms: operands a, b, c, results d[form][i].
#pragma once

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

#define ONE " %0, %1;"
#define TWO " %0, %1, %2;"
#define THREE " %0, %1, %2, %3;"

// R: the type of a result's register, r its constraint; T and t those of the operands.
#define FORM(text, R, r, T, t)                                                                   \
    {                                                                                            \
        R out;                                                                                   \
        asm volatile(text : "=" r(out) : t((T)a[i]), t((T)b[i]), t((T)c[i]));                    \
        d[k++ * n + i] = out;                                                                    \
    }

#define KERNEL(name)                                                                             \
    extern "C" __global__ void name(const u64* a, const u64* b, const u64* c, u64* d, u32 n) {   \
        const u32 i = blockIdx.x * blockDim.x + threadIdx.x;                                     \
        if (i >= n) return;                                                                      \
        u32 k = 0;
#define END }

#define W16(text) FORM(text, u16, "h", u16, "h")
#define W32(text) FORM(text, u32, "r", u32, "r")
#define W64(text) FORM(text, u64, "l", u64, "l")
