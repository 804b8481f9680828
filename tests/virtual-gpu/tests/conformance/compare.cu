// Comparisons and selects, a kernel for each type or form.
// compile: --gpu-architecture=compute_90
//
// Every kernel is k(in, out, n): in holds five columns of n numbers of 64 bits, a b c e and a guard; what
// has fewer bits is cut off. A thread whose guard is 0 must keep what its destination held before.

typedef unsigned short T_h;
typedef unsigned int T_r;
typedef unsigned long long T_l;

// A register of 16 bits must have nothing above them. What is stored and loaded again has nothing, so the
// two are compared; if they differ, the result is given a bit too many.
__device__ __forceinline__ void store(T_l *out, T_h d) {
    *out = d;
    T_h loaded = *(volatile T_h *)out;
    asm volatile("{ .reg .pred differs; .reg .b64 t; setp.ne.b16 differs, %0, %1;"
                 " @differs mov.b64 t, 0x8000000000000000; @differs st.u64 [%2], t; }"
                 :
                 : "h"(d), "h"(loaded), "l"(out)
                 : "memory");
}
__device__ __forceinline__ void store(T_l *out, T_r d) { *out = d; }
__device__ __forceinline__ void store(T_l *out, T_l d) { *out = d; }

// p|q, which hold 0 and 1 before, as bits AT and AT + 1 of the result.
#define SETP(instruction, p_bit, q_bit)                                                               \
    "setp.ne.u32 p|q, 0, 0; @guard " instruction "; selp.u32 t, " p_bit ", 0, p; or.b32 %0, %0, t;"   \
    " selp.u32 t, " q_bit ", 0, q; or.b32 %0, %0, t;\n\t"

// One operator: alone, and with all three connectives; k counts a kernel's operators.
#define COMPARE(k, op, T, type, to)                                                                       \
    {                                                                                                 \
        unsigned d = 0;                                                                               \
        asm volatile("{ .reg .pred guard, c, p, q; .reg .b32 t;"                                      \
                     " setp.ne.u32 guard, %4, 0; setp.ne.u32 c, %3, 0;\n\t"                           \
                     SETP("setp." op type " " to ", %1, %2", "1", "2")                                   \
                     SETP("setp." op ".and" type " " to ", %1, %2, c", "4", "8")                         \
                     SETP("setp." op ".or" type " " to ", %1, %2, !c", "16", "32")                       \
                     SETP("setp." op ".xor" type " " to ", %1, %2, c", "64", "128") "}"                  \
                     : "+r"(d)                                                                        \
                     : #T((T_##T)in[i]), #T((T_##T)in[n + i]), "r"((unsigned)in[2 * n + i] & 1),      \
                       "r"((unsigned)in[4 * n + i]));                                                 \
        out[k * n + i] = d;                                                                           \
    }

#define BITS(T, type, to) COMPARE(0, "eq", T, type, to) COMPARE(1, "ne", T, type, to)
#define ORDER(T, type, to)                                                                            \
    BITS(T, type, to) COMPARE(2, "lt", T, type, to) COMPARE(3, "le", T, type, to)                     \
    COMPARE(4, "gt", T, type, to) COMPARE(5, "ge", T, type, to)
#define UNSIGNED(T, type, to)                                                                         \
    ORDER(T, type, to) COMPARE(6, "lo", T, type, to) COMPARE(7, "ls", T, type, to)                    \
    COMPARE(8, "hi", T, type, to) COMPARE(9, "hs", T, type, to)
#define FLOAT(T, type, to)                                                                            \
    ORDER(T, type, to) COMPARE(6, "equ", T, type, to) COMPARE(7, "neu", T, type, to)                  \
    COMPARE(8, "ltu", T, type, to) COMPARE(9, "leu", T, type, to) COMPARE(10, "gtu", T, type, to)     \
    COMPARE(11, "geu", T, type, to) COMPARE(12, "num", T, type, to) COMPARE(13, "nan", T, type, to)

#define ALL(name, operators)                                                                          \
    extern "C" __global__ void name(const T_l *in, T_l *out, unsigned n) {                            \
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                                           \
        if (i >= n) return;                                                                           \
        operators                                                                                     \
    }

ALL(setp_b16, BITS(h, ".b16", "p|q"))
ALL(setp_b32, BITS(r, ".b32", "p|q"))
ALL(setp_b64, BITS(l, ".b64", "p|q"))
ALL(setp_s16, ORDER(h, ".s16", "p|q"))
ALL(setp_s32, ORDER(r, ".s32", "p|q"))
ALL(setp_s64, ORDER(l, ".s64", "p|q"))
ALL(setp_u16, UNSIGNED(h, ".u16", "p|q"))
ALL(setp_u32, UNSIGNED(r, ".u32", "p|q"))
ALL(setp_u64, UNSIGNED(l, ".u64", "p|q"))
// A single half has no second destination.
ALL(setp_f16, FLOAT(h, ".f16", "p"))
ALL(setp_ftz_f16, FLOAT(h, ".ftz.f16", "p"))
ALL(setp_bf16, FLOAT(h, ".bf16", "p"))
ALL(setp_f16x2, FLOAT(r, ".f16x2", "p|q"))
ALL(setp_ftz_f16x2, FLOAT(r, ".ftz.f16x2", "p|q"))
ALL(setp_bf16x2, FLOAT(r, ".bf16x2", "p|q"))
ALL(setp_f32, FLOAT(r, ".f32", "p|q"))
ALL(setp_ftz_f32, FLOAT(r, ".ftz.f32", "p|q"))
ALL(setp_f64, FLOAT(l, ".f64", "p|q"))

#define KERNEL(name, D, A, B, C, text)                                                                \
    extern "C" __global__ void name(const T_l *in, T_l *out, unsigned n) {                            \
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                                           \
        if (i >= n) return;                                                                           \
        T_##D d = (T_##D)0xA5A5A5A5A5A5A5A5;                                                          \
        asm volatile("{ .reg .pred guard; setp.ne.u64 guard, %4, 0;\n\t" text " }"                    \
                     : "+" #D(d)                                                                      \
                     : #A((T_##A)in[i]), #B((T_##B)in[n + i]), #C((T_##C)in[2 * n + i]),              \
                       "l"(in[4 * n + i]));                                                           \
        store(out + i, d);                                                                            \
    }

#define SET(name, op, D, A) KERNEL(name, D, A, A, r, "@guard set." op " %0, %1, %2;")
#define SET_WITH(name, op, D, A, c)                                                                   \
    KERNEL(name, D, A, A, r,                                                                          \
           ".reg .pred c; .reg .b32 t; and.b32 t, %3, 1; setp.ne.u32 c, t, 0;"                        \
           " @guard set." op " %0, %1, %2, " c ";")

SET(set_ge_s32_s32, "ge.s32.s32", r, r)
SET(set_lo_u32_u32, "lo.u32.u32", r, r)
SET(set_ne_u32_b32, "ne.u32.b32", r, r)
SET(set_lt_f32_s32, "lt.f32.s32", r, r)
SET(set_eq_u32_u16, "eq.u32.u16", r, h)
SET(set_gt_s32_s16, "gt.s32.s16", r, h)
SET(set_le_u32_s64, "le.u32.s64", r, l)
SET(set_hs_f32_u64, "hs.f32.u64", r, l)
SET(set_eq_f32_f32, "eq.f32.f32", r, r)
SET(set_neu_f32_f32, "neu.f32.f32", r, r)
SET(set_gt_ftz_f32_f32, "gt.ftz.f32.f32", r, r)
SET(set_ltu_s32_f64, "ltu.s32.f64", r, l)
SET(set_lt_f16_f16, "lt.f16.f16", h, h)
SET(set_nan_u16_f16, "nan.u16.f16", h, h)
SET(set_ge_u32_f16, "ge.u32.f16", r, h)
SET(set_ge_s16_bf16, "ge.s16.bf16", h, h)
SET(set_lt_bf16_bf16, "lt.bf16.bf16", h, h)
SET(set_gt_f16_s32, "gt.f16.s32", h, r)
SET(set_lt_f16x2_f16x2, "lt.f16x2.f16x2", r, r)
SET(set_equ_ftz_u32_f16x2, "equ.ftz.u32.f16x2", r, r)
SET(set_ge_bf16x2_bf16x2, "ge.bf16x2.bf16x2", r, r)
SET(set_neu_u32_bf16x2, "neu.u32.bf16x2", r, r)
SET_WITH(set_lt_and_u32_s32, "lt.and.u32.s32", r, r, "c")
SET_WITH(set_lt_or_f32_f32, "lt.or.f32.f32", r, r, "!c")
SET_WITH(set_eq_xor_ftz_u32_f32, "eq.xor.ftz.u32.f32", r, r, "!c")
SET_WITH(set_lt_and_f16x2_f16x2, "lt.and.f16x2.f16x2", r, r, "c")
SET_WITH(set_geu_xor_u32_f16x2, "geu.xor.u32.f16x2", r, r, "c")

#define SELP(name, type, D, c)                                                                        \
    KERNEL(name, D, D, D, r,                                                                          \
           ".reg .pred c; .reg .b32 t; and.b32 t, %3, 1; setp.ne.u32 c, t, 0;"                        \
           " @guard selp." type " %0, %1, %2, " c ";")

SELP(selp_b16, "b16", h, "c")
SELP(selp_u16, "u16", h, "c")
SELP(selp_s16, "s16", h, "c")
SELP(selp_b32, "b32", r, "c")
SELP(selp_u32, "u32", r, "c")
SELP(selp_s32, "s32", r, "c")
SELP(selp_f32, "f32", r, "c")
SELP(selp_b64, "b64", l, "c")
SELP(selp_u64, "u64", l, "c")
SELP(selp_s64, "s64", l, "c")
SELP(selp_f64, "f64", l, "c")
SELP(selp_not_s32, "s32", r, "!c")
// Constants of both signs in 16 bits, and the destination among the sources.
KERNEL(selp_constants_s16, h, h, h, r, ".reg .pred c; setp.lt.s16 c, %1, %2; @guard selp.s16 %0, -1, 2, c;")
KERNEL(selp_in_place_u64, l, l, l, r, ".reg .pred c; setp.lt.s64 c, %1, %2; @guard selp.u64 %0, %0, %2, c;")

#define SLCT(name, op, D) KERNEL(name, D, D, D, r, "@guard slct." op " %0, %1, %2, %3;")

SLCT(slct_b16_s32, "b16.s32", h)
SLCT(slct_u32_s32, "u32.s32", r)
SLCT(slct_f32_s32, "f32.s32", r)
SLCT(slct_s64_s32, "s64.s32", l)
SLCT(slct_s16_f32, "s16.f32", h)
SLCT(slct_b32_f32, "b32.f32", r)
SLCT(slct_f64_f32, "f64.f32", l)
SLCT(slct_ftz_f32_f32, "ftz.f32.f32", r)
