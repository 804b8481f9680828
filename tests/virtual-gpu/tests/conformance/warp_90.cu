// compile: --gpu-architecture=compute_90
// elect.sync: one lane of the mask is the leader.

extern "C" __global__ void elections(const unsigned *masks, unsigned *out) {
    unsigned i = threadIdx.x, mask = masks[i], leader = 0xAAAAAAAA, elected = 2;
    if (mask) {
        asm volatile("{ .reg .pred p; elect.sync %0|p, %2; selp.u32 %1, 1, 0, p; }"
            : "=r"(leader), "=r"(elected) : "r"(mask));
    }
    out[2 * i] = leader, out[2 * i + 1] = elected;
}
