"""Kernels in Python, compiled by numba and launched on the CUDA driver that it finds; numpy judges.

Numbers are small integers wherever sums are taken, so that every order of summation, fused or not,
gives the same result and "equal" means equal. What is rounded has its bound beside it.
"""

import sys

import numpy as np
from numba import config, cuda, float32, float64, int32

# Small grids are what a test wants.
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
config.CUDA_WARN_ON_IMPLICIT_COPY = 0

TILE = 16
THREADS = 128
BINS = 64


@cuda.jit
def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a * x[i] + y[i]


@cuda.jit
def block_sums(x, sums):
    """One sum per block: a tree in shared memory."""
    shared = cuda.shared.array(THREADS, float64)
    thread = cuda.threadIdx.x
    i = cuda.grid(1)
    shared[thread] = x[i] if i < x.size else 0.0
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            shared[thread] += shared[thread + step]
        cuda.syncthreads()
        step //= 2
    if thread == 0:
        sums[cuda.blockIdx.x] = shared[0]


@cuda.jit
def warp_sums(x, sums):
    """One sum per warp: lanes exchange registers."""
    i = cuda.grid(1)
    value = x[i]
    for step in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, step)
    if cuda.laneid == 0:
        sums[i // 32] = value


@cuda.jit
def matmul(a, b, c):
    """Tiles of both factors pass through shared memory; edges are padded with zeros."""
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    total = float32(0.0)
    for first in range(0, a.shape[1], TILE):
        inside_a = row < a.shape[0] and first + tx < a.shape[1]
        inside_b = first + ty < b.shape[0] and column < b.shape[1]
        tile_a[ty, tx] = a[row, first + tx] if inside_a else float32(0.0)
        tile_b[ty, tx] = b[first + ty, column] if inside_b else float32(0.0)
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[ty, k] * tile_b[k, tx]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = total


@cuda.jit
def histogram(values, counts):
    """Atomics in shared memory, then in global memory."""
    mine = cuda.shared.array(BINS, int32)
    for bin in range(cuda.threadIdx.x, BINS, cuda.blockDim.x):
        mine[bin] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(mine, values[i], 1)
    cuda.syncthreads()
    for bin in range(cuda.threadIdx.x, BINS, cuda.blockDim.x):
        cuda.atomic.add(counts, bin, mine[bin])


@cuda.jit
def out_of_bounds(x):
    x[x.size + cuda.grid(1)] = 1.0


def blocks(elements):
    return (elements + THREADS - 1) // THREADS


def integers(rng, shape, dtype):
    return rng.integers(-8, 9, shape).astype(dtype)


def check(name, found, expected):
    if not np.array_equal(found, expected):
        wrong = np.argwhere(np.asarray(found) != np.asarray(expected))
        sys.exit(f"{name}: {len(wrong)} values differ, the first at {wrong[0]}")
    print(f"numba {name}: equal to numpy's, {np.size(expected)} values")


def check_saxpy(rng):
    for dtype in (np.float32, np.float64):
        x, y = integers(rng, 1001, dtype), integers(rng, 1001, dtype)
        on_device = cuda.to_device(y)
        saxpy[blocks(x.size), THREADS](dtype(3), x, on_device)
        check(f"saxpy {x.dtype}", on_device.copy_to_host(), 3 * x + y)
    # Not integers: in f64 the product is exact and the sum nearly so. Fused, there is one rounding
    # of the sum; separate, one of the product before it.
    a = np.float32(1.7)
    x, y = rng.standard_normal((2, 1001)).astype(np.float32)
    found = y.copy()
    saxpy[blocks(x.size), THREADS](a, x, found)
    exact = np.float64(a) * x + y
    bound = np.spacing(np.abs(a * x)) + np.spacing(np.abs(exact).astype(np.float32))
    if not np.all(np.abs(found - exact) <= bound):
        sys.exit("saxpy: a random value is off by more than its roundings")
    print("numba saxpy float32: random values within their roundings")


def check_block_sums(rng):
    x = integers(rng, 1000, np.float64)
    sums = np.zeros(blocks(x.size))
    block_sums[blocks(x.size), THREADS](x, sums)
    padded = np.pad(x, (0, blocks(x.size) * THREADS - x.size)).reshape(-1, THREADS)
    check("block_sums", sums, padded.sum(axis=1))


def check_warp_sums(rng):
    x = integers(rng, 4 * THREADS, np.int64)
    sums = np.zeros(x.size // 32, np.int64)
    warp_sums[4, THREADS](x, sums)
    check("warp_sums", sums, x.reshape(-1, 32).sum(axis=1))


def check_matmul(rng):
    rows, inner, columns = 37, 45, 29
    a, b = integers(rng, (rows, inner), np.float32), integers(rng, (inner, columns), np.float32)
    c = np.full((rows, columns), np.nan, np.float32)
    grid = ((columns + TILE - 1) // TILE, (rows + TILE - 1) // TILE)
    matmul[grid, (TILE, TILE)](a, b, c)
    check("matmul", c, a @ b)


def check_histogram(rng):
    values = rng.integers(0, BINS, 5000).astype(np.int32)
    counts = np.zeros(BINS, np.int32)
    histogram[5, THREADS](values, counts)
    check("histogram", counts, np.bincount(values, minlength=BINS))


def check_fault():
    """What a program in Python sees when a kernel goes out of bounds: its driver's error."""
    try:
        out_of_bounds[1, 32](cuda.to_device(np.zeros(1000)))
        cuda.synchronize()
    except cuda.cudadrv.driver.CudaAPIError as error:
        print(f"numba out_of_bounds: {error}")
    else:
        sys.exit("out_of_bounds: went unnoticed")


def main():
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    print(f"numba runs on {name}, {cuda.current_context().get_memory_info().total} bytes")
    rng = np.random.default_rng(1)
    check_saxpy(rng)
    check_block_sums(rng)
    check_warp_sums(rng)
    check_matmul(rng)
    check_histogram(rng)
    check_fault()


if __name__ == "__main__":
    main()
