// Exchange between the lanes of a warp: shfl, vote, match, redux, activemask, bar.warp.sync.
//
// One block. Every lane has a member mask of its own in `masks`; a lane with none stays away. Lanes with an odd
// value in `paths` take another way, so that several groups are at different instructions, or at the same one
// with different masks.

constexpr unsigned AWAY = 0xAAAAAAAA;

#define SHUFFLE(name, mode) \
    extern "C" __global__ void name(const unsigned *a, const unsigned *b, const unsigned *c, \
                                    const unsigned *masks, const unsigned *paths, unsigned *out) { \
        unsigned i = threadIdx.x, mask = masks[i], value = AWAY, inside = AWAY; \
        if (mask) { \
            if (paths[i] & 1) { \
                asm volatile("{ .reg .pred p; shfl.sync." mode ".b32 %0|p, %2, %3, %4, %5; selp.u32 %1, 1, 0, p; }" \
                    : "=r"(value), "=r"(inside) : "r"(a[i]), "r"(b[i]), "r"(c[i]), "r"(mask)); \
                value += 1000; \
            } else { \
                asm volatile("{ .reg .pred p; shfl.sync." mode ".b32 %0|p, %2, %3, %4, %5; selp.u32 %1, 1, 0, p; }" \
                    : "=r"(value), "=r"(inside) : "r"(a[i]), "r"(b[i]), "r"(c[i]), "r"(mask)); \
            } \
        } \
        out[2 * i] = value, out[2 * i + 1] = inside; \
    }

SHUFFLE(shfl_up, "up")
SHUFFLE(shfl_down, "down")
SHUFFLE(shfl_bfly, "bfly")
SHUFFLE(shfl_idx, "idx")

// What C++ makes of shfl: up, down, xor, and from a lane, in segments of `width`.
extern "C" __global__ void shuffle_functions(const unsigned *in, unsigned *out, unsigned delta, int width) {
    unsigned i = threadIdx.x, x = in[i];
    out[4 * i] = __shfl_up_sync(0xFFFFFFFF, x, delta, width);
    out[4 * i + 1] = __shfl_down_sync(0xFFFFFFFF, x, delta, width);
    out[4 * i + 2] = __shfl_xor_sync(0xFFFFFFFF, x, delta, width);
    out[4 * i + 3] = __shfl_sync(0xFFFFFFFF, x, delta, width);
}

// 64-bit and floating point values go in two halves and as they are.
extern "C" __global__ void shuffle_types(const double *in, double *out) {
    double x = in[threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, offset);
    float y = (float)threadIdx.x;
    for (int offset = 16; offset > 0; offset /= 2) y += __shfl_down_sync(0xFFFFFFFF, y, offset);
    out[threadIdx.x] = x + __shfl_sync(0xFFFFFFFF, y, 0);
}

extern "C" __global__ void votes(const int *in, const unsigned *masks, const unsigned *paths, unsigned *out) {
    unsigned i = threadIdx.x, mask = masks[i];
    unsigned all = AWAY, any = AWAY, uniform = AWAY, ballot = AWAY, none = AWAY;
    if (mask) {
        bool yes = in[i] > 0;
        if (paths[i] & 1) {
            ballot = __ballot_sync(mask, yes) ^ 1;
        } else {
            all = __all_sync(mask, yes);
            any = __any_sync(mask, yes);
            uniform = __uni_sync(mask, yes);
            ballot = __ballot_sync(mask, yes);
            none = __all_sync(mask, !yes);
        }
    }
    out[5 * i] = all, out[5 * i + 1] = any, out[5 * i + 2] = uniform, out[5 * i + 3] = ballot;
    out[5 * i + 4] = none;
}

// The form with a negated predicate, and all 32 lanes.
extern "C" __global__ void vote_negated(const int *in, unsigned *out) {
    unsigned ballot, all;
    asm volatile("{ .reg .pred p, q; setp.gt.s32 p, %2, 0; vote.sync.ballot.b32 %0, !p, 0xffffffff; "
                 "vote.sync.all.pred q, !p, 0xffffffff; selp.u32 %1, 1, 0, q; }"
        : "=r"(ballot), "=r"(all) : "r"(in[threadIdx.x]));
    out[2 * threadIdx.x] = ballot, out[2 * threadIdx.x + 1] = all;
}

extern "C" __global__ void matches(const unsigned long long *in, const unsigned *masks, unsigned *out) {
    unsigned i = threadIdx.x, mask = masks[i];
    unsigned any = AWAY, any_wide = AWAY, all = AWAY, all_wide = AWAY;
    int same = 2, same_wide = 2;
    if (mask) {
        any = __match_any_sync(mask, (unsigned)in[i]);
        any_wide = __match_any_sync(mask, in[i]);
        all = __match_all_sync(mask, (unsigned)in[i], &same);
        all_wide = __match_all_sync(mask, in[i], &same_wide);
    }
    out += 6 * i;
    out[0] = any, out[1] = any_wide, out[2] = all, out[3] = all_wide, out[4] = same, out[5] = same_wide;
}

extern "C" __global__ void reductions(const unsigned *in, const unsigned *masks, unsigned *out) {
    unsigned i = threadIdx.x, mask = masks[i];
    out += 9 * i;
    for (int j = 0; j < 9; j++) out[j] = AWAY;
    if (!mask) return;
    unsigned x = in[i];
    int y = (int)x;
    out[0] = __reduce_add_sync(mask, x);
    out[1] = __reduce_min_sync(mask, x);
    out[2] = __reduce_max_sync(mask, x);
    out[3] = __reduce_add_sync(mask, y);
    out[4] = __reduce_min_sync(mask, y);
    out[5] = __reduce_max_sync(mask, y);
    out[6] = __reduce_and_sync(mask, x);
    out[7] = __reduce_or_sync(mask, x);
    out[8] = __reduce_xor_sync(mask, x);
}

extern "C" __global__ void active_masks(const unsigned *in, unsigned *out) {
    unsigned x = in[threadIdx.x], mask = __activemask();
    if (x & 1) mask = __activemask();
    if (x & 2) {
        if (x & 4) mask = __activemask();
    }
    out[threadIdx.x] = mask;
}

// Tiles of 8 lanes, each with its own mask and its own number of rounds: none waits for another.
extern "C" __global__ void tiles(const unsigned *in, const unsigned *rounds, unsigned *out) {
    unsigned lane = threadIdx.x % 32, tile = lane / 8;
    unsigned mask = 0xFFu << (8 * tile), x = in[threadIdx.x];
    for (unsigned round = 0; round < rounds[threadIdx.x / 8]; round++) {
        // Lanes of a tile come late in turn.
        if (lane % 8 == round % 8) x ^= in[(threadIdx.x + round) % blockDim.x];
        x += __shfl_sync(mask, x, round % 8, 8);
        x += __ballot_sync(mask, x & 1) >> (8 * tile);
    }
    out[threadIdx.x] = x;
}

// Half of a tile waits until another tile has exchanged its values: the other half, at the same
// instruction, must not go on without it.
extern "C" __global__ void tile_after_tile(const unsigned *in, unsigned *out) {
    __shared__ volatile unsigned done;
    unsigned lane = threadIdx.x, tile = lane / 8, x = in[lane];
    if (lane == 0) done = 0;
    __syncwarp();
    if (tile == 2 && lane % 2) {
        while (done == 0) {}
    }
    x += __shfl_xor_sync(0xFFu << (8 * tile), x, 1);
    if (lane == 0) done = 1;
    out[lane] = x;
}

// Lanes hand values on through shared memory: ordered by __syncwarp alone.
extern "C" __global__ void warp_barriers(const unsigned *in, unsigned *out) {
    __shared__ unsigned slots[32];
    unsigned lane = threadIdx.x, x = in[lane];
    if (lane < 12) {
        for (int round = 0; round < 5; round++) {
            slots[lane] = x;
            __syncwarp(0xFFF);
            x = x * 3 + slots[(lane + 1) % 12];
            __syncwarp(0xFFF);
        }
    } else {
        slots[lane] = x;
        __syncwarp(0xFFFFF000);
        x ^= slots[43 - lane];
    }
    out[lane] = x;
}

// The masks are what the caller says: right or wrong.
extern "C" __global__ void shuffle_with(const unsigned *masks, unsigned *out) {
    out[threadIdx.x] = __shfl_xor_sync(masks[threadIdx.x], threadIdx.x, 1);
}
