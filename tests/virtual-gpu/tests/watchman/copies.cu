// Asynchronous copies into shared memory (cp.async), and matrices read from it.
// compile: -lineinfo

#define COPY(to, from)                                                                                  \
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(to)), \
                 "l"(from)                                                                              \
                 : "memory")
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

extern "C" __global__ void not_waited_planted(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    COPY(&tile[i], &in[i]); // other
    COMMIT();
    out[i] = tile[i]; // fault
}

extern "C" __global__ void not_waited_mended(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    COPY(&tile[i], &in[i]);
    COMMIT();
    WAIT(0);
    out[i] = tile[i];
}

extern "C" __global__ void neighbours_planted(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    COPY(&tile[i], &in[i]); // other
    COMMIT();
    WAIT(0);
    out[i] = tile[63 - i]; // fault
}

extern "C" __global__ void neighbours_mended(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    COPY(&tile[i], &in[i]);
    COMMIT();
    WAIT(0);
    __syncthreads();
    out[i] = tile[63 - i];
}

// Two stages: while one is summed up, the next is on its way.
extern "C" __global__ void pipeline_planted(const int *in, int *out, int n) {
    __shared__ int tile[2][64];
    int i = threadIdx.x, sum = 0;
    COPY(&tile[0][i], &in[i]);
    COMMIT();
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        if (k + 1 < n) COPY(&tile[(k + 1) & 1][i], &in[64 * (k + 1) + i]); // other
        COMMIT();
        WAIT(1);
        __syncthreads();
        sum += tile[(k + 1) & 1][63 - i]; // fault
        __syncthreads();
    }
    out[i] = sum;
}

extern "C" __global__ void pipeline_mended(const int *in, int *out, int n) {
    __shared__ int tile[2][64];
    int i = threadIdx.x, sum = 0;
    COPY(&tile[0][i], &in[i]);
    COMMIT();
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        if (k + 1 < n) COPY(&tile[(k + 1) & 1][i], &in[64 * (k + 1) + i]);
        COMMIT();
        WAIT(1);
        __syncthreads();
        sum += tile[k & 1][63 - i];
        __syncthreads();
    }
    out[i] = sum;
}

// The wait is for the group before the one that is read.
extern "C" __global__ void wait_off_by_one_planted(const int *in, int *out, int n) {
    __shared__ int tile[3][64];
    int i = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k < 2; k++) {
        COPY(&tile[k][i], &in[64 * k + i]); // other
        COMMIT();
    }
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        WAIT(2);
        __syncthreads();
        sum += tile[k % 3][63 - i]; // fault
        if (k + 2 < n) COPY(&tile[(k + 2) % 3][i], &in[64 * (k + 2) + i]);
        COMMIT();
    }
    out[i] = sum;
}

extern "C" __global__ void wait_off_by_one_mended(const int *in, int *out, int n) {
    __shared__ int tile[3][64];
    int i = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k < 2; k++) {
        COPY(&tile[k][i], &in[64 * k + i]);
        COMMIT();
    }
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        WAIT(1);
        __syncthreads();
        sum += tile[k % 3][63 - i];
        if (k + 2 < n) COPY(&tile[(k + 2) % 3][i], &in[64 * (k + 2) + i]);
        COMMIT();
    }
    out[i] = sum;
}

#define LDMATRIX(r, at)                                                                           \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"                           \
                 : "=r"(r)                                                                        \
                 : "r"((unsigned)__cvta_generic_to_shared(at))                                    \
                 : "memory")

extern "C" __global__ void ldmatrix_planted(const unsigned *in, unsigned *out) {
    __shared__ __align__(16) unsigned tile[32];
    int i = threadIdx.x;
    if (i < 28) tile[i] = in[i];
    __syncwarp();
    unsigned fragment;
    LDMATRIX(fragment, &tile[4 * (i & 7)]); // fault
    out[i] = fragment;
}

extern "C" __global__ void ldmatrix_mended(const unsigned *in, unsigned *out) {
    __shared__ __align__(16) unsigned tile[32];
    int i = threadIdx.x;
    tile[i] = i < 28 ? in[i] : 0;
    __syncwarp();
    unsigned fragment;
    LDMATRIX(fragment, &tile[4 * (i & 7)]);
    out[i] = fragment;
}
