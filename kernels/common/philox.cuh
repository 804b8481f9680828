// philox.cuh — Philox4x32-10, random words by counter: the words of src/philox.rs.
//
// Source    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"

#pragma once

// When in a run, as Moment in src/philox.rs.
struct Moment {
    unsigned long long seed;
    unsigned step, micro_batch;
};

// Four words: number `index` of stream `stream`.
__device__ __forceinline__ uint4 philox(Moment moment, unsigned stream, unsigned index) {
    uint2 key = make_uint2((unsigned)moment.seed, (unsigned)(moment.seed >> 32));
    uint4 c = make_uint4(index, stream, moment.step, moment.micro_batch);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(0xd2511f53u, c.x), low0 = 0xd2511f53u * c.x;
        unsigned high1 = __umulhi(0xcd9e8d57u, c.z), low1 = 0xcd9e8d57u * c.z;
        c = make_uint4(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
        key.x += 0x9e3779b9u;
        key.y += 0xbb67ae85u;
    }
    return c;
}
