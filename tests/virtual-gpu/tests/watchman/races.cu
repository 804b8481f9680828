// Threads of a block that meet at the same bytes with nothing to order them. The planted kernel's fault is
// between the lines that say `fault`, where it is seen, and `other`; the mended kernel has none.
// compile: -lineinfo

extern "C" __global__ void read_after_write_planted(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];      // other
    out[i] = tile[63 - i]; // fault
}

extern "C" __global__ void read_after_write_mended(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];
    __syncthreads();
    out[i] = tile[63 - i];
}

extern "C" __global__ void write_after_read_planted(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        tile[i] = in[64 * k + i]; // fault
        __syncthreads();
        sum += tile[63 - i]; // other
    }
    out[i] = sum;
}

extern "C" __global__ void write_after_read_mended(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        tile[i] = in[64 * k + i];
        __syncthreads();
        sum += tile[63 - i];
        __syncthreads();
    }
    out[i] = sum;
}

extern "C" __global__ void write_after_write_planted(int *out) {
    __shared__ int last;
    int i = threadIdx.x;
    if (i % 32 == 5) last = i; // fault
    __syncthreads();
    out[i] = last;
}

extern "C" __global__ void write_after_write_mended(int *out) {
    __shared__ int last;
    int i = threadIdx.x;
    if (i == 37) last = i;
    __syncthreads();
    out[i] = last;
}

extern "C" __global__ void lanes_at_once_planted(int *out) {
    __shared__ int slot[8];
    int i = threadIdx.x;
    slot[i / 4] = i; // fault
    __syncwarp();
    out[i] = slot[i / 4];
}

// Every lane writes the same: nobody can tell who was last.
extern "C" __global__ void lanes_at_once_mended(int *out) {
    __shared__ int slot[8];
    int i = threadIdx.x;
    slot[i / 4] = i / 4;
    __syncwarp();
    out[i] = slot[i / 4];
}

extern "C" __global__ void within_a_warp_planted(const int *in, int *out) {
    __shared__ int tile[32];
    int i = threadIdx.x;
    tile[i] = in[i];      // other
    out[i] = tile[i ^ 1]; // fault
}

extern "C" __global__ void within_a_warp_mended(const int *in, int *out) {
    __shared__ int tile[32];
    int i = threadIdx.x;
    tile[i] = in[i];
    __syncwarp();
    out[i] = tile[i ^ 1];
}

extern "C" __global__ void half_words_planted(const short *in, short *out) {
    __shared__ short tile[66];
    int i = threadIdx.x;
    tile[i] = in[i];                  // other
    if (i == 40) tile[i + 1] = in[i]; // fault
    __syncthreads();
    out[i] = tile[i];
}

// Neighbours share a word, not a byte.
extern "C" __global__ void half_words_mended(const short *in, short *out) {
    __shared__ short tile[66];
    int i = threadIdx.x;
    tile[i] = in[i];
    if (i == 40) tile[i] = in[i + 1];
    __syncthreads();
    out[i] = tile[i];
}

extern "C" __global__ void global_in_a_block_planted(int *data, int n) {
    int i = threadIdx.x;
    for (int s = n / 2; s > 0; s >>= 1) {
        if (i < s) data[i] += data[i + s]; // fault
    }
}

extern "C" __global__ void global_in_a_block_mended(int *data, int n) {
    int i = threadIdx.x;
    for (int s = n / 2; s > 0; s >>= 1) {
        if (i < s) data[i] += data[i + s];
        __syncthreads();
    }
}

extern "C" __global__ void atomics_and_plain_planted(const int *in, int *out) {
    __shared__ int bins[4];
    int i = threadIdx.x;
    if (i < 4) bins[i] = 0;
    __syncthreads();
    atomicAdd(&bins[in[i] & 3], 1); // other
    if (i < 4) out[i] = bins[i];    // fault
}

extern "C" __global__ void atomics_and_plain_mended(const int *in, int *out) {
    __shared__ int bins[4];
    int i = threadIdx.x;
    if (i < 4) bins[i] = 0;
    __syncthreads();
    atomicAdd(&bins[in[i] & 3], 1);
    __syncthreads();
    if (i < 4) out[i] = bins[i];
}

// A flag between two warps: the data is plain, the flag is volatile.
extern "C" __global__ void flag_in_a_block_planted(const int *in, int *out) {
    __shared__ volatile int flag;
    __shared__ int data[32];
    int i = threadIdx.x;
    if (i == 0) flag = 0;
    __syncthreads();
    if (i < 32) {
        data[i] = in[i]; // other
        __syncwarp();
        if (i == 0) flag = 1;
    } else {
        while (flag == 0) {}
        out[i] = data[63 - i]; // fault
    }
}

extern "C" __global__ void flag_in_a_block_mended(const int *in, int *out) {
    __shared__ volatile int flag;
    __shared__ int data[32];
    int i = threadIdx.x;
    if (i == 0) flag = 0;
    __syncthreads();
    if (i < 32) {
        data[i] = in[i];
        __threadfence_block();
        __syncwarp();
        if (i == 0) flag = 1;
    } else {
        while (flag == 0) {}
        __threadfence_block();
        out[i] = data[63 - i];
    }
}

// The sum's first guess is a plain read, as in every compare-and-swap loop.
extern "C" __global__ void compare_and_swap_planted(const float *in, float *sum, float *out) {
    int *bits = (int *)sum, i = threadIdx.x;
    int old = *bits, seen; // fault
    if (in[i] != 0) {
        do {
            seen = old;
            old = atomicCAS(bits, seen, __float_as_int(__int_as_float(seen) + in[i])); // other
        } while (old != seen);
    }
    out[i] = __int_as_float(old);
}

extern "C" __global__ void compare_and_swap_mended(const float *in, float *sum, float *out) {
    int *bits = (int *)sum, i = threadIdx.x;
    int old = *bits, seen;
    do {
        seen = old;
        old = atomicCAS(bits, seen, __float_as_int(__int_as_float(seen) + in[i]));
    } while (old != seen);
    out[i] = __int_as_float(old);
}
