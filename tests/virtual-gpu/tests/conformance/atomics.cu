// Atomics: every operation and type, in global and shared memory, between lanes, warps and blocks.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define I (blockIdx.x * blockDim.x + threadIdx.x)

// Everybody into one cell.
extern "C" __global__ void sums(const unsigned *in, unsigned *u, unsigned long long *l, float *f, double *d) {
    unsigned x = in[I];
    atomicAdd(u, x);
    atomicAdd((int *)u + 1, -(int)(x & 0xFFFF));
    atomicSub(u + 2, x);
    atomicAdd(l, (unsigned long long)x << 20);
    atomicAdd(f, (float)(x & 63));
    atomicAdd(d, x * 0.5);
}

// Numbers that nobody else gets.
extern "C" __global__ void tickets(unsigned *counter, unsigned *owner) { owner[atomicAdd(counter, 1)] = I; }
extern "C" __global__ void wide_tickets(unsigned long long *counter, unsigned *owner) {
    owner[atomicAdd(counter, 3ull) / 3 - (1ull << 40)] = I;
}

extern "C" __global__ void extremes(const long long *in, int *s, unsigned *u, long long *sl, unsigned long long *ul) {
    long long x = in[I];
    atomicMin(s, (int)x);
    atomicMax(s + 1, (int)x);
    atomicMin(u, (unsigned)x);
    atomicMax(u + 1, (unsigned)x);
    atomicMin(sl, x);
    atomicMax(sl + 1, x);
    atomicMin(ul, (unsigned long long)x);
    atomicMax(ul + 1, (unsigned long long)x);
}

// Cells apart: every old value counts.
#define OLD(name, type, call)                                                                  \
    extern "C" __global__ void old_##name(type *cells, const type *in, type *old, unsigned n) { \
        type x = in[I];                                                                        \
        type *cell = cells + (I * 7) % n;                                                      \
        old[I] = call;                                                                         \
    }
OLD(add, unsigned, atomicAdd(cell, x))
OLD(sub, int, atomicSub(cell, x))
OLD(exch, unsigned, atomicExch(cell, x))
OLD(exch64, unsigned long long, atomicExch(cell, x))
OLD(exchf, float, atomicExch(cell, x))
OLD(min, int, atomicMin(cell, x))
OLD(max, unsigned long long, atomicMax(cell, x))
OLD(and, unsigned, atomicAnd(cell, x))
OLD(or, unsigned long long, atomicOr(cell, x))
OLD(xor, unsigned, atomicXor(cell, x))
OLD(addf, float, atomicAdd(cell, x))
OLD(addd, double, atomicAdd(cell, x))
OLD(cas, unsigned, atomicCAS(cell, x & ~1u, x))

// Rings: up to a bound and back to 0, down from a bound and back to it.
extern "C" __global__ void rings(unsigned *cells, unsigned *seen_up, unsigned *seen_down, unsigned bound) {
    atomicAdd(seen_up + atomicInc(cells, bound), 1);
    atomicAdd(seen_down + atomicDec(cells + 1, bound), 1);
}

extern "C" __global__ void bits(unsigned *or_, unsigned *xor_, unsigned long long *and_) {
    unsigned i = I;
    atomicOr(or_ + i / 32, 1u << i % 32);
    atomicXor(xor_, i * 0x9E3779B9u);
    atomicAnd(and_ + i / 64 % 2, ~(1ull << i % 64));
}

// A chain: each thread leaves its number and takes that of the one before it.
extern "C" __global__ void chain(unsigned *cell, unsigned *before) { before[I] = atomicExch(cell, I); }

// Loops around compare and swap.
extern "C" __global__ void cas_loops(const float *in, unsigned *maximum, unsigned long long *best, unsigned short *small) {
    float x = in[I];
    unsigned old = *(volatile unsigned *)maximum, assumed;
    while (__uint_as_float(old) < x) {
        assumed = old;
        old = atomicCAS(maximum, assumed, __float_as_uint(x));
        if (old == assumed) break;
    }
    unsigned long long pair = (unsigned long long)__float_as_uint(x) << 32 | I, seen = *(volatile unsigned long long *)best;
    while (seen < pair) {
        unsigned long long was = atomicCAS(best, seen, pair);
        if (was == seen) break;
        seen = was;
    }
    unsigned short now = *(volatile unsigned short *)small, was;
    do {
        was = now;
        now = atomicCAS(small, was, (unsigned short)(was * 5 + 1));
    } while (now != was);
}

// A lock that lanes of a warp, warps and blocks all want; what it guards is plain memory.
extern "C" __global__ void lock_global(int *lock, volatile unsigned *cell, volatile unsigned *log) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            unsigned k = *cell;
            log[k] = I;
            *cell = k + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}
extern "C" __global__ void lock_shared(unsigned *out) {
    __shared__ int lock;
    __shared__ volatile unsigned cell;
    if (threadIdx.x == 0) { lock = 0; cell = 0; }
    __syncthreads();
    while (true) {
        if (atomicCAS(&lock, 0, 1) == 0) {
            cell = cell + threadIdx.x;
            __threadfence_block();
            atomicExch(&lock, 0);
            break;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x] = cell;
}

extern "C" __global__ void histogram(const unsigned char *in, unsigned *out, unsigned n) {
    __shared__ unsigned bins[256];
    for (unsigned k = threadIdx.x; k < 256; k += blockDim.x) bins[k] = 0;
    __syncthreads();
    for (unsigned k = I; k < n; k += gridDim.x * blockDim.x) atomicAdd(bins + in[k], 1);
    __syncthreads();
    for (unsigned k = threadIdx.x; k < 256; k += blockDim.x) atomicAdd(out + k, bins[k]);
}

// Shared memory of every type.
extern "C" __global__ void shared_cells(const int *in, double *out) {
    __shared__ int s[4];
    __shared__ unsigned u[4];
    __shared__ unsigned long long l[4];
    __shared__ float f;
    __shared__ double d;
    unsigned t = threadIdx.x;
    if (t < 4) {
        s[t] = t == 0 ? 2147483647 : t == 1 ? -2147483647 : 0;
        u[t] = t == 3 ? 0xFFFFFFFFu : 0;
        l[t] = t == 1 ? ~0ull : 0;
    }
    if (t == 0) { f = 0; d = 0; }
    __syncthreads();
    int x = in[I];
    atomicMin(s, x);
    atomicMax(s + 1, x);
    atomicAdd(s + 2, x);
    atomicXor(s + 3, x);
    atomicInc(u, 9);
    atomicDec(u + 1, 12);
    atomicOr(u + 2, 1u << (x & 31));
    atomicAnd(u + 3, ~(1u << (x & 31)));
    atomicAdd(l, (unsigned long long)(x & 0xFFFF) << 32);
    atomicMin(l + 1, (unsigned long long)(unsigned)x << 8);
    atomicMax(l + 2, (unsigned long long)(unsigned)x << 8);
    atomicExch(l + 3, 5ull);
    atomicAdd(&f, (float)(x & 15));
    atomicAdd(&d, x * 0.25);
    __syncthreads();
    if (t < 4) {
        out[blockIdx.x * 16 + t] = s[t];
        out[blockIdx.x * 16 + 4 + t] = u[t];
        out[blockIdx.x * 16 + 8 + t] = l[t];
    }
    if (t == 0) { out[blockIdx.x * 16 + 12] = f; out[blockIdx.x * 16 + 13] = d; }
}

// Generic addresses: global for some lanes, shared for the others.
__device__ __noinline__ unsigned bump(unsigned *cell, unsigned by) { return atomicAdd(cell, by); }
extern "C" __global__ void mixed_spaces(unsigned *global, unsigned *out) {
    __shared__ unsigned here[2];
    unsigned t = threadIdx.x;
    if (t < 2) here[t] = 0;
    __syncthreads();
    bump(t % 3 == 0 ? global : here + t % 2, t);
    __syncthreads();
    if (t < 2) out[blockIdx.x * 2 + t] = here[t];
}

// Halves: sums of integers that are exact in the type.
extern "C" __global__ void halves(__half *h, __nv_bfloat16 *b, __half2 *h2, __nv_bfloat162 *b2) {
    unsigned t = threadIdx.x;
    atomicAdd(h + t % 2, __float2half((float)(t % 5)));
    atomicAdd(b + t % 2, __float2bfloat16(1.0f));
    atomicAdd(h2, __floats2half2_rn(1.0f, -2.0f));
    atomicAdd(b2, __floats2bfloat162_rn(1.0f, 0.5f));
}

// Scopes and orders.
extern "C" __global__ void scopes(unsigned *cells) {
    unsigned old;
    atomicAdd_block(cells + 32 * blockIdx.x + 32, 1u);
    atomicAdd_system(cells, 1u);
    asm volatile("atom.acquire.gpu.global.add.u32 %0, [%1], 2;" : "=r"(old) : "l"(cells + 1) : "memory");
    asm volatile("atom.release.cta.global.max.u32 %0, [%1], %2;" : "=r"(old) : "l"(cells + 2), "r"(I) : "memory");
    asm volatile("atom.acq_rel.sys.add.u32 %0, [%1], 3;" : "=r"(old) : "l"(cells + 3) : "memory");
    asm volatile("red.relaxed.gpu.global.or.b32 [%0], %1;" ::"l"(cells + 4), "r"(1u << (I & 31)) : "memory");
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(cells + 5), "r"(4u) : "memory");
    asm volatile("atom.global.add.u32 _, [%0], 5;" ::"l"(cells + 6) : "memory");
}

// The last block to finish adds up what all of them left.
__device__ unsigned finished = 0;
extern "C" __global__ void last_block(const unsigned *in, unsigned *partial, unsigned *out) {
    __shared__ unsigned sum;
    __shared__ bool last;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, in[I]);
    __syncthreads();
    if (threadIdx.x == 0) {
        ((volatile unsigned *)partial)[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(&finished, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        __threadfence();
        unsigned all = 0;
        for (unsigned k = 0; k < gridDim.x; k++) all += ((volatile unsigned *)partial)[k];
        *out = all;
    }
}

// Messages from block to block: data first, then a flag with release; flag with acquire, then data.
extern "C" __global__ void relay(volatile unsigned *data, unsigned *flags) {
    unsigned b = blockIdx.x, ready = 0;
    if (b > 0)
        while (!ready) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(ready) : "l"(flags + b - 1) : "memory");
    data[b] = (b > 0 ? data[b - 1] : 1) * 3 + b;
    __threadfence();
    asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flags + b) : "memory");
}
