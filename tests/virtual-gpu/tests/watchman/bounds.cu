// Accesses outside of what there is, and reads of what nothing has written. Of every pair the planted
// kernel has one fault, on the line that says `fault`, and the mended one has none.
// compile: -lineinfo

extern "C" __global__ void past_end_planted(const int *in, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i < n ? i : 0] + 1; // fault
}

extern "C" __global__ void past_end_mended(const int *in, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] + 1;
}

extern "C" __global__ void before_start_planted(const int *in, int *out) {
    int i = threadIdx.x;
    out[i] = in[i - 3]; // fault
}

extern "C" __global__ void before_start_mended(const int *in, int *out) {
    int i = threadIdx.x;
    out[i] = i >= 3 ? in[i - 3] : 0;
}

extern "C" __global__ void huge_index_planted(const int *in, int *out, const int *at) {
    int i = threadIdx.x;
    out[i] = in[(size_t)at[i] << 20]; // fault
}

extern "C" __global__ void huge_index_mended(const int *in, int *out, const int *at) {
    int i = threadIdx.x;
    out[i] = in[at[i] & 31];
}

extern "C" __global__ void static_shared_planted(int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    tile[i + 1] = i; // fault
    __syncthreads();
    out[i] = tile[i ? i : 1];
}

extern "C" __global__ void static_shared_mended(int *out) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    tile[i] = i;
    __syncthreads();
    out[i] = tile[i ? i : 1];
}

extern "C" __global__ void dynamic_shared_planted(int *out, int n) {
    extern __shared__ int tile[];
    int i = threadIdx.x;
    tile[2 * i] = i; // fault
    __syncthreads();
    out[i] = tile[2 * (i ^ 1)];
}

extern "C" __global__ void dynamic_shared_mended(int *out, int n) {
    extern __shared__ int tile[];
    int i = threadIdx.x;
    if (2 * i < n) tile[2 * i] = i;
    __syncthreads();
    out[i] = 2 * (i ^ 1) < n ? tile[2 * (i ^ 1)] : 0;
}

extern "C" __global__ void local_array_planted(const int *at, int *out) {
    int count[8];
    int i = threadIdx.x;
#pragma unroll 1
    for (int k = 0; k < 8; k++) count[at[k] & 7] = k + i;
    out[i] = count[at[i]]; // fault
}

extern "C" __global__ void local_array_mended(const int *at, int *out) {
    int count[8];
    int i = threadIdx.x;
#pragma unroll 1
    for (int k = 0; k < 8; k++) count[at[k] & 7] = k + i;
    out[i] = count[at[i] & 7];
}

extern "C" __global__ void misaligned_planted(const char *in, int *out) {
    int i = threadIdx.x;
    out[i] = *(const int *)(in + 4 * i + (i > 4 ? 2 : 0)); // fault
}

extern "C" __global__ void misaligned_mended(const char *in, int *out) {
    int i = threadIdx.x;
    const short *half = (const short *)(in + 4 * i + (i > 4 ? 2 : 0));
    out[i] = half[0] | half[1] << 16;
}

extern "C" __global__ void misaligned_vector_planted(const float *in, float *out, int pitch) {
    int i = threadIdx.x;
    float4 row = *(const float4 *)(in + i * pitch); // fault
    out[i] = row.x + row.y + row.z + row.w;
}

extern "C" __global__ void misaligned_vector_mended(const float *in, float *out, int pitch) {
    int i = threadIdx.x;
    const float *row = in + i * pitch;
    out[i] = row[0] + row[1] + row[2] + row[3];
}

extern "C" __global__ void freed_planted(const int *in, int *out) {
    int i = threadIdx.x;
    out[i] = in[i]; // fault
}

extern "C" __global__ void freed_mended(const int *in, int *out) {
    int i = threadIdx.x;
    out[i] = in[i];
}

extern "C" __global__ void null_planted(const int *bias, int *out) {
    int i = threadIdx.x;
    out[i] = i + bias[i]; // fault
}

extern "C" __global__ void null_mended(const int *bias, int *out) {
    int i = threadIdx.x;
    out[i] = i + (bias ? bias[i] : 0);
}

extern "C" __global__ void unwritten_global_planted(int *sums, const int *in) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] += in[i]; // fault
}

extern "C" __global__ void unwritten_global_mended(int *sums, const int *in) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = in[i];
}

extern "C" __global__ void unwritten_shared_planted(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    if (i < n) tile[i] = in[i];
    __syncthreads();
    out[i] = tile[63 - i]; // fault
}

extern "C" __global__ void unwritten_shared_mended(const int *in, int *out, int n) {
    __shared__ int tile[64];
    int i = threadIdx.x;
    tile[i] = i < n ? in[i] : 0;
    __syncthreads();
    out[i] = tile[63 - i];
}
