// Blocks of one launch that meet in device memory.
// compile: -lineinfo

extern "C" __global__ void flag_planted(int *data, volatile int *flag, int *out) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = 7 + threadIdx.x; // other
        __syncthreads();
        if (threadIdx.x == 0) *flag = 1;
    } else {
        if (threadIdx.x == 0) {
            while (*flag == 0) {}
        }
        __syncthreads();
        out[threadIdx.x] = data[threadIdx.x]; // fault
    }
}

extern "C" __global__ void flag_mended(int *data, volatile int *flag, int *out) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = 7 + threadIdx.x;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) *flag = 1;
    } else {
        if (threadIdx.x == 0) {
            while (*flag == 0) {}
        }
        __syncthreads();
        out[threadIdx.x] = data[threadIdx.x];
    }
}

// Every block leaves a sum; the last one to do so sums those up.
extern "C" __global__ void last_block_planted(const int *in, int *sums, unsigned *count, int *total) {
    __shared__ bool last;
    int value = in[blockIdx.x * 32 + threadIdx.x];
    value = __reduce_add_sync(0xffffffff, value);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = value; // other
        last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int all = 0;
#pragma unroll 1
        for (int b = 0; b < gridDim.x; b++) all += sums[b]; // fault
        *total = all;
    }
}

extern "C" __global__ void last_block_mended(const int *in, int *sums, unsigned *count, int *total) {
    __shared__ bool last;
    int value = in[blockIdx.x * 32 + threadIdx.x];
    value = __reduce_add_sync(0xffffffff, value);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = value;
        __threadfence();
        last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int all = 0;
#pragma unroll 1
        for (int b = 0; b < gridDim.x; b++) all += sums[b];
        *total = all;
    }
}

extern "C" __global__ void plain_sum_planted(const int *in, int *total) {
    int value = __reduce_add_sync(0xffffffff, in[blockIdx.x * 32 + threadIdx.x]);
    if (threadIdx.x == 0) *total += value; // fault
}

extern "C" __global__ void plain_sum_mended(const int *in, int *total) {
    int value = __reduce_add_sync(0xffffffff, in[blockIdx.x * 32 + threadIdx.x]);
    if (threadIdx.x == 0) atomicAdd(total, value);
}

extern "C" __global__ void mixed_planted(unsigned *count, unsigned *out) {
    if (threadIdx.x == 1) out[blockIdx.x] = *count; // fault
    if (threadIdx.x == 0) atomicAdd(count, 1);      // other
}

extern "C" __global__ void mixed_mended(unsigned *count, unsigned *out) {
    if (threadIdx.x == 1) out[blockIdx.x] = atomicAdd(count, 0);
    if (threadIdx.x == 0) atomicAdd(count, 1);
}

// Neighbouring blocks overlap by one element.
extern "C" __global__ void overlap_planted(const int *in, int *out) {
    int i = blockIdx.x * 32 + threadIdx.x;
    out[i] = in[i];                         // fault
    if (threadIdx.x == 0) out[i + 32] = -1; // other
}

extern "C" __global__ void overlap_mended(const int *in, int *out) {
    int i = blockIdx.x * 32 + threadIdx.x;
    out[i] = in[i];
    if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) out[i + 32] = -1;
}

// A block reads what the next one overwrites.
extern "C" __global__ void in_place_planted(int *data) {
    int i = blockIdx.x * 32 + threadIdx.x;
    data[i] = data[i + 32] + 1; // fault
}

// All blocks say that they are done: whoever is last, it is there.
extern "C" __global__ void in_place_mended(int *data, const int *from, int *done) {
    int i = blockIdx.x * 32 + threadIdx.x;
    data[i] = from[i + 32] + 1;
    *done = 1;
}
