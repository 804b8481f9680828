// Barriers and other meetings that some threads miss, and kernels that stop themselves.
// compile: -lineinfo

extern "C" __device__ void __assertfail(const char *message, const char *file, unsigned line,
                                        const char *function, size_t size);

extern "C" __global__ void divergent_planted(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    if (in[i] > 10) {
        tile[i] = in[i];
        __syncthreads(); // other
    } else {
        tile[i] = 0;
        __syncthreads(); // fault
    }
    out[i] = tile[63 - i];
}

extern "C" __global__ void divergent_mended(const int *in, int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    if (in[i] > 10) {
        tile[i] = in[i];
    } else {
        tile[i] = 0;
    }
    __syncthreads();
    out[i] = tile[63 - i];
}

extern "C" __global__ void left_early_planted(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    if (i >= n) return;
    tile[i] = in[i];
    __syncthreads(); // fault
    out[i] = tile[n - 1 - i];
}

extern "C" __global__ void left_early_mended(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    if (i < n) tile[i] = in[i];
    __syncthreads();
    if (i < n) out[i] = tile[n - 1 - i];
}

// Barrier 1 is for the block's first three warps.
extern "C" __global__ void named_planted(int *out) {
    __shared__ int tile[128];
    int i = threadIdx.x;
    tile[i] = i;
    if (i < 64) {
        asm volatile("bar.sync 1, 96;" ::: "memory"); // fault
        out[i] = tile[63 - i];
    }
}

extern "C" __global__ void named_mended(int *out) {
    __shared__ int tile[128];
    int i = threadIdx.x;
    tile[i] = i;
    if (i < 64) {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[i] = tile[63 - i];
    }
}

// The barrier's count is right, and one warp that must have arrived is read from has not.
extern "C" __global__ void named_outsider_planted(int *out) {
    __shared__ int tile[128];
    int i = threadIdx.x;
    tile[i] = i; // other
    if (i < 64) {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[i] = tile[127 - i]; // fault
    }
}

extern "C" __global__ void named_outsider_mended(int *out) {
    __shared__ int tile[128];
    int i = threadIdx.x;
    tile[i] = i;
    if (i < 64) {
        asm volatile("bar.sync 1, 128;" ::: "memory");
        out[i] = tile[127 - i];
    } else {
        asm volatile("bar.arrive 1, 128;" ::: "memory");
    }
}

extern "C" __global__ void member_mask_planted(const int *in, int *out) {
    int i = threadIdx.x, sum = in[i];
    if (i < 24) {
        sum += __shfl_xor_sync(0x0000ffff, sum, 1); // fault
    }
    out[i] = sum;
}

extern "C" __global__ void member_mask_mended(const int *in, int *out) {
    int i = threadIdx.x, sum = in[i];
    if (i < 24) {
        sum += __shfl_xor_sync(0x00ffffff, sum, 1);
    }
    out[i] = sum;
}

extern "C" __global__ void trap_planted(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (in[i] < 0) __trap(); // fault
    out[i] = in[i];
}

extern "C" __global__ void trap_mended(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i] < 0 ? 0 : in[i];
}

extern "C" __global__ void assert_planted(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!(in[i] >= 0)) __assertfail("in[i] >= 0", "barriers.cu", 120, "assert_planted", 1); // fault
    out[i] = in[i];
}

extern "C" __global__ void assert_mended(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int x = in[i] < 0 ? -in[i] : in[i];
    if (!(x >= 0)) __assertfail("x >= 0", "barriers.cu", 127, "assert_mended", 1);
    out[i] = x;
}
