// Doubles n floats; long enough to be worth compressing.
extern "C" __global__ void twice(float *data, int n) {
    for (int i = threadIdx.x + blockIdx.x * blockDim.x; i < n; i += gridDim.x * blockDim.x) data[i] *= 2.0f;
}
