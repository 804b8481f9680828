// Divergence, calls, barriers: every thread's path through a kernel is its own.

extern "C" __global__ void thread_numbers(unsigned *out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned n = blockDim.x * blockDim.y * blockDim.z;
    unsigned i = block * n + thread;
    out[3 * i] = blockIdx.x | blockIdx.y << 8 | blockIdx.z << 16;
    out[3 * i + 1] = threadIdx.x | threadIdx.y << 8 | threadIdx.z << 16;
    out[3 * i + 2] = (thread & 31) | (thread >> 5) << 8;
}

extern "C" __global__ void collatz(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned value = in[i], steps = 0;
    while (value != 1) {
        value = value & 1 ? 3 * value + 1 : value / 2;
        steps++;
    }
    out[i] = steps;
}

extern "C" __global__ void nested_loops(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned x = in[i], hash = 1;
    for (unsigned a = 0; a < x % 7; a++) {
        for (unsigned b = 0; b < (x >> 3) % 5 + a; b++) {
            if ((x ^ b) % 3 == 0) continue;
            if (hash % 11 == 7) break;
            unsigned c = b;
            do {
                hash = hash * 31 + c;
                if (hash & 16) goto out_of_two;
            } while (c-- > a);
        }
        hash += a;
    out_of_two:
        hash ^= a << 5;
        if (hash % 13 == 4) { out[i] = hash; return; }
    }
    out[i] = hash;
}

extern "C" __global__ void switch_table(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned x = in[i], y = x;
    for (int round = 0; round < 4; round++) {
        switch (y % 12) {
            case 0: y = y * 3 + 1; break;
            case 1: y ^= 0x55; break;
            case 2: y += 17; // falls through
            case 3: y = y << 3 | y >> 29; break;
            case 4: y = ~y; break;
            case 5: y -= x; break;
            case 6: y = y / 3; break;
            case 7: y = __brev(y); break;
            case 8: y = y * y; break;
            case 9: out[i] = y + 9; return;
            case 10: y = y >> 1 ^ 0x1234; break;
            default: y += 1000003;
        }
    }
    out[i] = y;
}

__device__ __noinline__ unsigned fibonacci(unsigned n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

extern "C" __global__ void recursion(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = fibonacci(in[i] % 12);
}

struct Pair { unsigned a; unsigned long long b; float c; };
__device__ __noinline__ Pair combine(Pair x, unsigned y, const unsigned *table) {
    Pair r;
    r.a = x.a + table[y & 3];
    r.b = x.b * y;
    r.c = x.c - y;
    return r;
}

extern "C" __global__ void structs_by_value(const unsigned *in, unsigned long long *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned table[4];
    for (int k = 0; k < 4; k++) table[k] = in[i] * (k + 1);
    Pair x = {in[i], 1ull << 33, 0.5f};
    if (in[i] & 1) x = combine(x, in[i], table);
    Pair y = combine(x, 3, table);
    out[i] = y.a + y.b + (unsigned long long)(long long)(y.c * 2);
}

typedef unsigned (*Function)(unsigned);
__device__ __noinline__ unsigned twice(unsigned x) { return 2 * x; }
__device__ __noinline__ unsigned square(unsigned x) { return x * x; }
__device__ __noinline__ unsigned minus(unsigned x) { return 0u - x; }
__device__ Function table[3] = {twice, square, minus};

extern "C" __global__ void function_pointers(const unsigned *in, unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = table[in[i] % 3](in[i]) + 1;
}

// Lanes of one warp take a lock in turn: on Volta and later each makes progress by itself.
extern "C" __global__ void spin_lock(unsigned *lock, unsigned *count) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *(volatile unsigned *)count = *(volatile unsigned *)count + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

// Warps hand a token round, each waiting for the one before it.
extern "C" __global__ void token(unsigned *out) {
    __shared__ volatile unsigned turn;
    if (threadIdx.x == 0) turn = 0;
    __syncthreads();
    unsigned warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) {
        while (turn != warp) {}
        out[blockIdx.x * (blockDim.x / 32) + warp] = turn * 10;
        turn = warp + 1;
    }
}

// All blocks wait for all: only right when they are all in flight.
extern "C" __global__ void grid_barrier(unsigned *arrived, unsigned *data, unsigned *out) {
    data[blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    atomicAdd(arrived, 1);
    while (atomicAdd(arrived, 0) < gridDim.x) {}
    __threadfence();
    unsigned sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += ((volatile unsigned *)data)[i];
    out[blockIdx.x] = sum;
}

extern "C" __global__ void barrier_votes(const unsigned *in, unsigned *out) {
    unsigned i = threadIdx.x;
    unsigned count = __syncthreads_count(in[i] & 1);
    unsigned all = __syncthreads_and(in[i] < 1000);
    unsigned any = __syncthreads_or(in[i] == 77);
    out[i] = count | all << 16 | any << 17;
}

// Warps 0 and 1 make, warps 2 and 3 take, through named barriers 1 and 2.
extern "C" __global__ void named_barriers(const unsigned *in, unsigned *out, unsigned rounds) {
    __shared__ unsigned box[64];
    unsigned t = threadIdx.x;
    if (t < 64) {
        for (unsigned r = 0; r < rounds; r++) {
            if (r > 0) asm volatile("bar.sync 2, 128;" ::: "memory");
            box[t] = in[r * 64 + t] * 3;
            asm volatile("bar.arrive 1, 128;" ::: "memory");
        }
    } else {
        for (unsigned r = 0; r < rounds; r++) {
            asm volatile("bar.sync 1, 128;" ::: "memory");
            out[r * 64 + t - 64] = box[127 - t];
            if (r + 1 < rounds) asm volatile("bar.arrive 2, 128;" ::: "memory");
        }
    }
}

// A barrier in a loop that every thread leaves after its own number of rounds of other work.
extern "C" __global__ void uneven_work(unsigned *out) {
    __shared__ unsigned sum[128];
    unsigned t = threadIdx.x, mine = t;
    for (int round = 0; round < 5; round++) {
        for (unsigned k = 0; k < (t * 7 + round) % 19; k++) mine = mine * 5 + k;
        sum[t] = mine;
        __syncthreads();
        mine += sum[(t + 37) % 128];
        __syncthreads();
    }
    out[blockIdx.x * 128 + t] = mine;
}

// Each half of a warp has a bar.warp.sync of its own; they meet all the same.
extern "C" __global__ void warp_barriers_in_both_branches(unsigned *out) {
    __shared__ unsigned box[32];
    unsigned t = threadIdx.x, got;
    if (t & 1) {
        box[t] = t * 3;
        asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
        got = box[t - 1] + 1;
    } else {
        box[t] = t * 5;
        asm volatile("bar.warp.sync -1;" ::: "memory");
        got = box[t + 1] + 2;
    }
    out[t] = got;
}

// What printf makes of every kind of argument.
extern "C" __global__ void prints(int x) {
    if (threadIdx.x == 0) {
        printf("plain %% %d %i %u %x %X %o %c %s|", -5, x, 7u, 255, 255, 8, 'q', "text");
        printf("%5d|%-5d|%05d|%+d|%*d|", 42, 42, 42, 42, 6, 42);
        printf("%lld %llu %llx %hhd|", -1ll << 40, 1ull << 63, 1ull << 36, 3);
        printf("%f %.3e %g %8.2f|", 1.5, 12345.678, 1e-7, (double)2.345f);
        char local[4] = {'a', (char)('b' + x + 9), 'c', 0};
        printf("%s %2$d|", local);
        printf("%d\n", printf("three %d %d %d ", 1, 2, 3));
    }
    if (threadIdx.x < 3) printf("thread %d\n", threadIdx.x);
}

// Warps 0 and 1 vote at a barrier, then 1 and 2 vote at the same one: warp 0 may go on after that only.
extern "C" __global__ void votes_of_pairs(unsigned *out) {
    __shared__ volatile unsigned first_done;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, count = 0;
    if (threadIdx.x == 0) first_done = 0;
    __syncthreads();
    if (warp == 2) while (!first_done) {}
    for (unsigned round = warp == 2; round < (warp == 0 ? 1 : 2); round++) {
        unsigned yes = lane < 3 + 4 * warp + 16 * round;
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; bar.red.popc.u32 %0, 1, 64, p; }"
                     : "=r"(count) : "r"(yes) : "memory");
        out[round * 96 + threadIdx.x] = count;
        if (warp == 1) first_done = 1;
    }
}
