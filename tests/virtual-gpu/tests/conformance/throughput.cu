// Kernels for benches/interpreter.rs: what an instruction of each kind costs. n is the length of the loop.

extern "C" __global__ void integer_loop(unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned a = i, b = i ^ 0x9E3779B9u;
    for (unsigned k = 0; k < n; k++) {
        a = a * 1664525u + b;
        b = (b << 7 | b >> 25) ^ a;
        a += k & b;
    }
    out[i] = a ^ b;
}

extern "C" __global__ void float_loop(float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float x = (i % 64) / 64.0f, y = 0.0f;
    for (unsigned k = 0; k < n; k++) {
        y = y * 0.5f + x;
        x = x * 0.25f + y * 0.125f;
    }
    out[i] = x + y;
}

extern "C" __global__ void copy_loop(const float4 *in, float4 *out, unsigned n) {
    unsigned stride = gridDim.x * blockDim.x;
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned k = 0; k < n; k++) out[i + k * stride] = in[i + k * stride];
}

extern "C" __global__ void shared_loop(unsigned *out, unsigned n) {
    __shared__ unsigned box[256];
    unsigned t = threadIdx.x, sum = t;
    for (unsigned k = 0; k < n; k++) {
        box[t] = sum;
        __syncthreads();
        sum = sum * 3 + box[(t + 33) & 255];
        __syncthreads();
    }
    out[blockIdx.x * 256 + t] = sum;
}

// Half of every warp's lanes take each side of each branch.
extern "C" __global__ void divergent_loop(unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned x = i;
    for (unsigned k = 0; k < n; k++) {
        if ((x ^ i) & 1) x = x * 5 + out[i];
        else x = (x >> 1) + k + out[i];
    }
    out[i] = x;
}
