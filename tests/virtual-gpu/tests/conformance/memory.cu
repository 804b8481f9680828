// Loads and stores: every width, vector, sign, cache hint and state space; parameters, constants,
// local and shared arrays, asynchronous copies.

#define I (blockIdx.x * blockDim.x + threadIdx.x)

// Copies of every width, as C++ has them. Element i goes to place (i * step) % n.
#define COPY(name, type)                                                                          \
    extern "C" __global__ void copy_##name(const type *in, type *out, unsigned n, unsigned step) { \
        unsigned i = I;                                                                           \
        if (i < n) out[i * step % n] = in[i];                                                     \
    }
COPY(u8, unsigned char)
COPY(u16, unsigned short)
COPY(u32, unsigned)
COPY(u64, unsigned long long)
COPY(f32, float)
COPY(f64, double)
COPY(uchar4, uchar4)
COPY(ushort2, ushort2)
COPY(float2, float2)
COPY(float4, float4)
COPY(double2, double2)
struct Odd { unsigned char b[7]; };
COPY(odd, Odd)
struct __align__(8) Mixed { unsigned char a; short b; float c; unsigned long long d; unsigned char e; };
COPY(mixed, Mixed)

// Sign and zero extension into registers wider than the type: 8 results an element.
extern "C" __global__ void extend(const unsigned char *in, unsigned long long *out, unsigned n) {
    unsigned i = I;
    if (i >= n) return;
    const unsigned char *p = in + 8 * i;
    unsigned long long wide;
    unsigned half;
    unsigned short small;
    unsigned long long *o = out + 11 * i;
    asm volatile("ld.global.s8 %0, [%1];" : "=l"(wide) : "l"(p)); o[0] = wide;
    asm volatile("ld.global.u8 %0, [%1];" : "=l"(wide) : "l"(p)); o[1] = wide;
    asm volatile("ld.global.s16 %0, [%1];" : "=l"(wide) : "l"(p)); o[2] = wide;
    asm volatile("ld.global.u16 %0, [%1];" : "=l"(wide) : "l"(p)); o[3] = wide;
    asm volatile("ld.global.s32 %0, [%1];" : "=l"(wide) : "l"(p)); o[4] = wide;
    asm volatile("ld.global.b32 %0, [%1];" : "=l"(wide) : "l"(p)); o[5] = wide;
    asm volatile("ld.global.s8 %0, [%1];" : "=r"(half) : "l"(p)); o[6] = half;
    asm volatile("ld.global.s16 %0, [%1];" : "=r"(half) : "l"(p)); o[7] = half;
    asm volatile("ld.global.b16 %0, [%1];" : "=r"(half) : "l"(p)); o[8] = half;
    asm volatile("ld.global.s8 %0, [%1];" : "=h"(small) : "l"(p)); o[9] = small;
    asm volatile("ld.global.b8 %0, [%1];" : "=h"(small) : "l"(p)); o[10] = small;
}

// Stores of the low bytes of wider registers.
extern "C" __global__ void narrow(const unsigned long long *in, unsigned char *out, unsigned n) {
    unsigned i = I;
    if (i >= n) return;
    unsigned long long x = in[i];
    unsigned char *p = out + 16 * i;
    asm volatile("st.global.u8 [%0], %1;" ::"l"(p), "l"(x));
    asm volatile("st.global.s8 [%0+1], %1;" ::"l"(p), "r"((unsigned)x));
    asm volatile("st.global.u16 [%0+2], %1;" ::"l"(p), "l"(x));
    asm volatile("st.global.b32 [%0+4], %1;" ::"l"(p), "l"(x));
    asm volatile("st.global.v2.u8 [%0+8], {%1, %2};" ::"l"(p), "l"(x >> 8), "l"(x >> 16));
    asm volatile("st.global.s16 [%0+10], %1;" ::"l"(p), "r"((unsigned)(x >> 32)));
    asm volatile("st.global.v4.b8 [%0+12], {%1, %1, %2, %2};" ::"l"(p), "r"((unsigned)(x >> 40)), "r"((unsigned)(x >> 48)));
}

// Vectors of every element type that a cache line divides into.
extern "C" __global__ void vectors(const unsigned char *in, unsigned long long *out, unsigned n) {
    unsigned i = I;
    if (i >= n) return;
    const unsigned char *p = in + 16 * i;
    unsigned a, b, c, d;
    unsigned long long x, y;
    float f, g, h, k;
    unsigned long long *o = out + 8 * i;
    asm volatile("ld.global.v2.u8 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "l"(p)); o[0] = a + 1000ull * b;
    asm volatile("ld.global.v4.s8 {%0, %1, %2, %3}, [%4+4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(p));
    o[1] = a ^ (b << 1) ^ (c << 2) ^ (d << 3);
    asm volatile("ld.global.v2.s16 {%0, %1}, [%2+8];" : "=r"(a), "=r"(b) : "l"(p)); o[2] = a ^ (b << 1);
    asm volatile("ld.global.v4.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(p));
    o[3] = a + b + c + d;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2+8];" : "=r"(a), "=r"(b) : "l"(p)); o[4] = (unsigned long long)a << 32 | b;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(f), "=f"(g), "=f"(h), "=f"(k) : "l"(p));
    o[5] = (unsigned long long)__float_as_uint(g) << 32 | __float_as_uint(k);
    asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(x), "=l"(y) : "l"(p)); o[6] = x;
    asm volatile("st.global.v2.b64 [%0], {%1, %2};" ::"l"(o + 6), "l"(x), "l"(y));
}

// The same value through every operator, order and hint.
#define HINT(k, ld, st)                                                                      \
    asm volatile("ld" ld ".u32 %0, [%1];" : "=r"(x) : "l"(in + i) : "memory");               \
    asm volatile("st" st ".u32 [%0], %1;" ::"l"(out + k * n + i), "r"(x + k) : "memory");
extern "C" __global__ void hints(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = I, x;
    if (i >= n) return;
    HINT(0, ".global.ca", ".global.wb")
    HINT(1, ".global.cg", ".global.cg")
    HINT(2, ".global.cs", ".global.cs")
    HINT(3, ".global.lu", ".global.wt")
    HINT(4, ".global.cv", ".weak.global")
    HINT(5, ".global.nc", ".volatile.global")
    HINT(6, ".volatile.global", ".relaxed.cta.global")
    HINT(7, ".relaxed.gpu.global", ".relaxed.sys.global")
    HINT(8, ".acquire.gpu.global", ".release.gpu.global")
    HINT(9, ".acquire.sys.global", ".release.cta.global")
    HINT(10, ".global.L1::evict_last", ".global.L1::evict_first")
    HINT(11, ".global.nc.L1::no_allocate.L2::128B", ".global.L1::no_allocate")
    HINT(12, ".weak.global.L1::evict_unchanged.L2::64B", "")
    HINT(13, ".global.nc.L2::256B", ".weak")
    HINT(14, "", ".volatile")
    HINT(15, ".acquire.gpu", ".release.gpu")
    unsigned long long policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("ld.global.L2::cache_hint.u32 %0, [%1], %2;" : "=r"(x) : "l"(in + i), "l"(policy));
    asm volatile("st.global.L2::cache_hint.u32 [%0], %1, %2;" ::"l"(out + 16 * n + i), "r"(x + 16), "l"(policy));
    asm volatile("ldu.global.u32 %0, [%1];" : "=r"(x) : "l"(in + (i & ~31u)));
    out[17 * n + i] = x;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(in + i));
    asm volatile("prefetch.global.L1 [%0];" ::"l"(in));
    asm volatile("prefetchu.L1 [%0];" ::"l"(in));
    asm volatile("applypriority.global.L2::evict_normal [%0], 128;" ::"l"(out));
}

// One load instruction whose lanes reach global, shared, local and constant memory.
__constant__ unsigned constants[64] = {
    7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67};
__device__ __noinline__ unsigned through(const unsigned *p) { return *(const volatile unsigned *)p; }
__device__ __noinline__ void into(unsigned *p, unsigned value) { *(volatile unsigned *)p = value; }

extern "C" __global__ void generic_loads(const unsigned *in, unsigned *out) {
    __shared__ unsigned tile[128];
    unsigned mine[8];
    unsigned t = threadIdx.x;
    tile[t] = 1000 + t;
    for (int k = 0; k < 8; k++) mine[k] = 2000 + 10 * t + k;
    __syncthreads();
    const unsigned *p = t % 4 == 0 ? in + t : t % 4 == 1 ? tile + (127 - t) : t % 4 == 2 ? mine + t % 8 : constants + t % 16;
    out[t] = through(p) + mine[t % 3];
}

extern "C" __global__ void generic_stores(unsigned *out) {
    __shared__ unsigned tile[128];
    unsigned mine[4] = {1, 2, 3, 4};
    unsigned t = threadIdx.x;
    tile[t] = 0;
    __syncthreads();
    into(t % 3 == 0 ? out + t : t % 3 == 1 ? tile + t : mine + t % 4, 500 + t);
    __syncthreads();
    out[128 + t] = tile[t] + 10000 * mine[t % 4];
}

// A structure as parameter, read by a number that only the thread knows.
struct Table { int values[24]; double scale; unsigned char letters[13]; const float *rows[3]; };
extern "C" __global__ void parameters(Table table, short add, unsigned char mul, double *out) {
    unsigned t = threadIdx.x;
    const Table *p = &table;
    out[t] = table.values[t % 24] * p->scale + table.letters[t % 13] * mul + add + table.rows[t % 3][t];
}

extern "C" __global__ void parameter_vectors(float4 a, uchar4 b, ulonglong2 c, char3 d, unsigned long long *out) {
    unsigned t = threadIdx.x;
    const float *f = &a.x;
    out[t] = (unsigned long long)f[t % 4] + b.x + 2 * b.w + c.x + (c.y >> 4) + d.x + d.z;
}

// Tables in constant and global memory, with initial values; pointers among them.
struct Row { short a; float b; unsigned char c[5]; };
__constant__ Row rows[4] = {{1, 1.5f, {1, 2, 3, 4, 5}}, {-2, 2.5f, {6, 7}}, {3, -3.5f, {}}, {-32768, 4.5f, {9, 9, 9, 9, 255}}};
__constant__ float uninitialised_constants[32];
__device__ int numbers[5] = {10, 20, 30};
__device__ int *where_numbers_are = numbers + 1;
__device__ unsigned calls = 100;
extern "C" __global__ void tables(float *out) {
    unsigned t = threadIdx.x;
    const Row &row = rows[t % 4];
    out[t] = row.a + row.b + row.c[t % 5] + constants[t % 32] + uninitialised_constants[t] + numbers[t % 5] + where_numbers_are[1];
}
extern "C" __global__ void write_constants_back(float *out) { out[threadIdx.x] = uninitialised_constants[threadIdx.x]; }
extern "C" __global__ void count_calls(unsigned *out) { *out = ++calls; }

// Local arrays, indexed by data.
extern "C" __global__ void local_sort(const int *in, int *out) {
    int a[16];
    for (int k = 0; k < 16; k++) a[k] = in[16 * I + k];
    for (int k = 1; k < 16; k++)
        for (int j = k; j > 0 && a[j - 1] > a[j]; j--) { int x = a[j]; a[j] = a[j - 1]; a[j - 1] = x; }
    for (int k = 0; k < 16; k++) out[16 * I + k] = a[k];
}

extern "C" __global__ void local_bytes(const unsigned char *in, unsigned long long *out) {
    union { unsigned char b[32]; unsigned short h[16]; unsigned w[8]; unsigned long long d[4]; ulonglong2 v[2]; } u;
    unsigned t = threadIdx.x;
    for (int k = 0; k < 32; k++) u.b[(k + t) % 32] = in[32 * t + k];
    u.h[t % 16] ^= 0xFFFF;
    u.w[t % 8] += 1;
    ulonglong2 x = u.v[t % 2];
    out[t] = u.d[t % 4] ^ x.x ^ (x.y << 1);
}

__device__ __noinline__ unsigned depth_first(unsigned depth, unsigned *trail, unsigned x) {
    unsigned mine[4] = {x, x + 1, x * 3, depth};
    trail[depth] = mine[x % 4];
    if (depth < 5) x = depth_first(depth + 1, trail, mine[(x + depth) % 4]) + mine[depth % 4];
    return x;
}
extern "C" __global__ void local_frames(unsigned *out) {
    unsigned trail[8] = {};
    unsigned x = depth_first(0, trail, threadIdx.x);
    for (int k = 0; k < 8; k++) x = x * 31 + trail[k];
    out[threadIdx.x] = x;
}

// Shared memory: static and dynamic, of every width.
extern __shared__ __align__(16) unsigned char dynamic[];
extern "C" __global__ void shared_layout(unsigned long long *out, unsigned dynamic_bytes) {
    __shared__ unsigned char bytes[33];
    __shared__ double doubles[16];
    __shared__ ushort2 pairs[32];
    __shared__ float4 quads[8];
    unsigned t = threadIdx.x;
    bytes[t] = 3 * t;
    if (t < 16) doubles[t] = t * 0.5;
    pairs[t] = make_ushort2(t, 65535 - t);
    if (t < 8) quads[t] = make_float4(t, t + 0.25f, t + 0.5f, t + 0.75f);
    for (unsigned k = t; k < dynamic_bytes; k += 32) dynamic[k] = k ^ 0x5A;
    __syncthreads();
    float4 q = quads[7 - t % 8];
    uint4 d = *(const uint4 *)(dynamic + 16 * (t % (dynamic_bytes / 16)));
    out[t] = bytes[31 - t] + (unsigned long long)(doubles[t / 2] * 4) * 1000 + pairs[(t * 7) % 32].y * 1000000ull +
             (unsigned long long)((q.x + q.y + q.z + q.w) * 4) * 1000000000000ull + d.w % 251 + d.x % 241;
}

extern "C" __global__ void transpose(const float *in, float *out, unsigned rows, unsigned columns) {
    __shared__ float tile[32][33];
    unsigned x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (unsigned k = 0; k < 32; k += 8)
        if (x < columns && y + k < rows) tile[threadIdx.y + k][threadIdx.x] = in[(y + k) * columns + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (unsigned k = 0; k < 32; k += 8)
        if (x < rows && y + k < columns) out[(y + k) * rows + x] = tile[threadIdx.x][threadIdx.y + k];
}

// 32-bit shared addresses with negative offsets, and .shared::cta.
extern "C" __global__ void shared_addresses(unsigned *out) {
    __shared__ unsigned tile[64];
    unsigned t = threadIdx.x, x, y;
    tile[t] = t * t;
    tile[t + 32] = t * t * t;
    __syncthreads();
    unsigned base = (unsigned)__cvta_generic_to_shared(tile);
    asm volatile("ld.shared.u32 %0, [%1+-4];" : "=r"(x) : "r"(base + 4 * t + 4));
    asm volatile("ld.shared::cta.u32 %0, [%1+128];" : "=r"(y) : "r"(base + 4 * t));
    out[t] = x + y;
}

// Pointers in memory: a list that is followed, and one allocation a thread.
extern "C" __global__ void follow(const unsigned *next, unsigned *out, unsigned steps) {
    unsigned at = I;
    for (unsigned k = 0; k < steps; k++) at = next[at];
    out[I] = at;
}
extern "C" __global__ void many_buffers(float *const *buffers, unsigned count) {
    float *mine = buffers[I % count];
    mine[I / count] = mine[I / count] * 2 + I;
}
extern "C" __global__ void neighbours(const int *in, int *out) {
    const int *p = in + I + 2;
    out[I] = p[-2] - 2 * p[-1] + 3 * p[0] - p[1] + p[2];
}

// Asynchronous copies: stages of a pipeline, 16 bytes a thread and stage.
template <int STAGES> __device__ void pipeline(const uint4 *in, uint4 *out, unsigned rounds) {
    __shared__ uint4 ring[STAGES][64];
    unsigned t = threadIdx.x;
    unsigned at = (unsigned)__cvta_generic_to_shared(&ring[0][t]);
    const uint4 *from = in + blockIdx.x * rounds * 64 + t;
    for (unsigned k = 0; k < STAGES - 1; k++) {
        if (k < rounds)
            asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(at + k * 1024), "l"(from + k * 64) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (unsigned k = 0; k < rounds; k++) {
        unsigned ahead = k + STAGES - 1;
        if (ahead < rounds)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + ahead % STAGES * 1024), "l"(from + ahead * 64) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncthreads();
        uint4 x = ring[k % STAGES][63 - t];
        out[(blockIdx.x * rounds + k) * 64 + t] = make_uint4(x.w, x.z, x.y, x.x + k);
        __syncthreads();
    }
}
extern "C" __global__ void pipeline_1(const uint4 *in, uint4 *out, unsigned rounds) { pipeline<1>(in, out, rounds); }
extern "C" __global__ void pipeline_2(const uint4 *in, uint4 *out, unsigned rounds) { pipeline<2>(in, out, rounds); }
extern "C" __global__ void pipeline_3(const uint4 *in, uint4 *out, unsigned rounds) { pipeline<3>(in, out, rounds); }
extern "C" __global__ void pipeline_4(const uint4 *in, uint4 *out, unsigned rounds) { pipeline<4>(in, out, rounds); }

// The last `bytes % size` bytes are followed by zeros, as a GEMM's edge has it.
#define FILL(size)                                                                                   \
    extern "C" __global__ void zero_fill_##size(const char *in, char *out, unsigned bytes) {         \
        __shared__ __align__(16) char tile[64 * size];                                               \
        unsigned t = threadIdx.x;                                                                    \
        unsigned have = size * t >= bytes ? 0 : bytes - size * t < size ? bytes - size * t : size;   \
        unsigned at = (unsigned)__cvta_generic_to_shared(tile + size * t);                           \
        unsigned long long policy;                                                                   \
        asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 0.5;" : "=l"(policy));          \
        asm volatile("cp.async.ca.shared.global.L2::cache_hint [%0], [%1], %2, %3, %4;"              \
                     ::"r"(at), "l"(in + size * t), "n"(size), "r"(have), "l"(policy) : "memory");   \
        asm volatile("cp.async.wait_all;" ::: "memory");                                             \
        for (unsigned k = 0; k < size; k++) out[size * t + k] = tile[size * t + k];                  \
    }
FILL(4)
FILL(8)
FILL(16)
