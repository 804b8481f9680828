"""A block's sum in shared memory: numba's CUDA target compiles it to reduce.numba-0.61.ptx."""

from numba import cuda, float32, float64


def reduce(a, out):
    shared = cuda.shared.array(128, float32)
    local = cuda.local.array(8, float64)
    t = cuda.threadIdx.x
    shared[t] = a[cuda.grid(1)]
    cuda.syncthreads()
    for i in range(8):
        local[i] = shared[(t + i) % 128]
    k = 64
    while k > 0:
        if t < k:
            shared[t] += shared[t + k]
        cuda.syncthreads()
        k //= 2
    if t == 0:
        print("sum", shared[0])
        out[cuda.blockIdx.x] = shared[0] + local[t % 8] / out[0] ** 1.5


ptx, _ = cuda.compile_ptx(reduce, (float32[:], float32[:]), cc=(8, 0), lineinfo=True)
print(ptx)
