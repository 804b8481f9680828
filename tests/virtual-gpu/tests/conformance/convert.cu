// convert.cu: every form of cvt that sm_80 has.

#include "float.cuh"

// To each integer type, in a register of its own width.
#define TO_8_16(op, from, T, t)                                                                  \
    FORM(op ".u8." from ONE, u16, "h", T, t) FORM(op ".u16." from ONE, u16, "h", T, t)           \
    FORM(op ".s8." from ONE, u16, "h", T, t) FORM(op ".s16." from ONE, u16, "h", T, t)
#define TO_32_64(op, from, T, t)                                                                 \
    FORM(op ".u32." from ONE, u32, "r", T, t) FORM(op ".u64." from ONE, u64, "l", T, t)          \
    FORM(op ".s32." from ONE, u32, "r", T, t) FORM(op ".s64." from ONE, u64, "l", T, t)
#define TO_INTEGERS(op, from, T, t) TO_8_16(op, from, T, t) TO_32_64(op, from, T, t)

KERNEL(integers)
TO_INTEGERS("cvt", "u8", u16, "h") TO_INTEGERS("cvt", "u16", u16, "h")
TO_INTEGERS("cvt", "u32", u32, "r") TO_INTEGERS("cvt", "u64", u64, "l")
TO_INTEGERS("cvt", "s8", u16, "h") TO_INTEGERS("cvt", "s16", u16, "h")
TO_INTEGERS("cvt", "s32", u32, "r") TO_INTEGERS("cvt", "s64", u64, "l")
END

// Where the result cannot hold every number of the source.
KERNEL(integers_sat)
#define SAT(types, R, r, T, t) FORM("cvt.sat." types ONE, R, r, T, t)
SAT("s8.u8", u16, "h", u16, "h")
SAT("u8.u16", u16, "h", u16, "h") SAT("s8.u16", u16, "h", u16, "h")
SAT("s16.u16", u16, "h", u16, "h")
SAT("u8.u32", u16, "h", u32, "r") SAT("u16.u32", u16, "h", u32, "r")
SAT("s8.u32", u16, "h", u32, "r") SAT("s16.u32", u16, "h", u32, "r")
SAT("s32.u32", u32, "r", u32, "r")
SAT("u8.u64", u16, "h", u64, "l") SAT("u16.u64", u16, "h", u64, "l")
SAT("s8.u64", u16, "h", u64, "l") SAT("s16.u64", u16, "h", u64, "l")
SAT("u32.u64", u32, "r", u64, "l") SAT("s32.u64", u32, "r", u64, "l")
SAT("s64.u64", u64, "l", u64, "l")
SAT("u8.s8", u16, "h", u16, "h") SAT("u16.s8", u16, "h", u16, "h")
SAT("u32.s8", u32, "r", u16, "h") SAT("u64.s8", u64, "l", u16, "h")
SAT("u8.s16", u16, "h", u16, "h") SAT("u16.s16", u16, "h", u16, "h")
SAT("s8.s16", u16, "h", u16, "h") SAT("u32.s16", u32, "r", u16, "h")
SAT("u64.s16", u64, "l", u16, "h")
SAT("u8.s32", u16, "h", u32, "r") SAT("u16.s32", u16, "h", u32, "r")
SAT("s8.s32", u16, "h", u32, "r") SAT("s16.s32", u16, "h", u32, "r")
SAT("u32.s32", u32, "r", u32, "r") SAT("u64.s32", u64, "l", u32, "r")
SAT("u8.s64", u16, "h", u64, "l") SAT("u16.s64", u16, "h", u64, "l")
SAT("s8.s64", u16, "h", u64, "l") SAT("s16.s64", u16, "h", u64, "l")
SAT("u32.s64", u32, "r", u64, "l") SAT("u64.s64", u64, "l", u64, "l")
SAT("s32.s64", u32, "r", u64, "l")
END

// Source and destination in 64-bit registers, then in 32-bit ones, whatever the types.
#define WIDE(op, from)                                                                           \
    W64(op ".u8." from ONE) W64(op ".u16." from ONE) W64(op ".s8." from ONE)                     \
    W64(op ".s16." from ONE) W64(op ".u32." from ONE) W64(op ".s32." from ONE)
#define MIDDLE(op, from)                                                                         \
    W32(op ".u8." from ONE) W32(op ".u16." from ONE) W32(op ".s8." from ONE)                     \
    W32(op ".s16." from ONE)

KERNEL(integers_in_wider_registers)
WIDE("cvt", "u8") WIDE("cvt", "u16") WIDE("cvt", "u32") WIDE("cvt", "s8") WIDE("cvt", "s16")
WIDE("cvt", "s32")
MIDDLE("cvt", "u8") MIDDLE("cvt", "u16") MIDDLE("cvt", "s8") MIDDLE("cvt", "s16")
MIDDLE("cvt", "u32") MIDDLE("cvt", "s32")
END

#define FOUR(FORMS, op, from, T, t)                                                              \
    FORMS(op ".rni", from, T, t) FORMS(op ".rzi", from, T, t) FORMS(op ".rmi", from, T, t)       \
    FORMS(op ".rpi", from, T, t)
#define FTZ_INTEGERS(op, from, T, t)                                                             \
    TO_INTEGERS(op, from, T, t) TO_INTEGERS(op ".ftz", from, T, t)

KERNEL(f32_to_integers) FOUR(FTZ_INTEGERS, "cvt", "f32", u32, "r") END
KERNEL(f64_to_integers) FOUR(TO_INTEGERS, "cvt", "f64", u64, "l") END
KERNEL(f16_to_integers) FOUR(TO_INTEGERS, "cvt", "f16", u16, "h") END

// From each integer type.
#define FROM_INTEGERS(op, R, r)                                                                  \
    FORM(op ".u8" ONE, R, r, u16, "h") FORM(op ".u16" ONE, R, r, u16, "h")                       \
    FORM(op ".u32" ONE, R, r, u32, "r") FORM(op ".u64" ONE, R, r, u64, "l")                      \
    FORM(op ".s8" ONE, R, r, u16, "h") FORM(op ".s16" ONE, R, r, u16, "h")                       \
    FORM(op ".s32" ONE, R, r, u32, "r") FORM(op ".s64" ONE, R, r, u64, "l")
#define ROUNDED_FROM(type, R, r)                                                                 \
    FROM_INTEGERS("cvt.rn." type, R, r) FROM_INTEGERS("cvt.rz." type, R, r)                      \
    FROM_INTEGERS("cvt.rm." type, R, r) FROM_INTEGERS("cvt.rp." type, R, r)

KERNEL(integers_to_f32) ROUNDED_FROM("f32", u32, "r") FROM_INTEGERS("cvt.rn.sat.f32", u32, "r") END
KERNEL(integers_to_f64) ROUNDED_FROM("f64", u64, "l") END
KERNEL(integers_to_f16) ROUNDED_FROM("f16", u16, "h") END

#define ROUNDED(ops, types, R, r, T, t)                                                          \
    FORM("cvt.rn" ops "." types ONE, R, r, T, t) FORM("cvt.rz" ops "." types ONE, R, r, T, t)    \
    FORM("cvt.rm" ops "." types ONE, R, r, T, t) FORM("cvt.rp" ops "." types ONE, R, r, T, t)
#define WHOLE(ops, types, T, t)                                                                  \
    FORM("cvt.rni" ops "." types ONE, T, t, T, t) FORM("cvt.rzi" ops "." types ONE, T, t, T, t)  \
    FORM("cvt.rmi" ops "." types ONE, T, t, T, t) FORM("cvt.rpi" ops "." types ONE, T, t, T, t)

KERNEL(from_f64)
ROUNDED("", "f32.f64", u32, "r", u64, "l") ROUNDED(".ftz", "f32.f64", u32, "r", u64, "l")
ROUNDED(".sat", "f32.f64", u32, "r", u64, "l") ROUNDED("", "f16.f64", u16, "h", u64, "l")
WHOLE("", "f64.f64", u64, "l")
W64("cvt.f64.f64" ONE) W64("cvt.sat.f64.f64" ONE)
END

KERNEL(from_f32)
ROUNDED("", "f16.f32", u16, "h", u32, "r") ROUNDED(".ftz", "f16.f32", u16, "h", u32, "r")
ROUNDED(".sat", "f16.f32", u16, "h", u32, "r")
WHOLE("", "f32.f32", u32, "r") WHOLE(".ftz", "f32.f32", u32, "r") WHOLE(".sat", "f32.f32", u32, "r")
W32("cvt.f32.f32" ONE) W32("cvt.ftz.f32.f32" ONE) W32("cvt.sat.f32.f32" ONE)
W32("cvt.ftz.sat.f32.f32" ONE)
FORM("cvt.f64.f32" ONE, u64, "l", u32, "r") FORM("cvt.ftz.f64.f32" ONE, u64, "l", u32, "r")
FORM("cvt.sat.f64.f32" ONE, u64, "l", u32, "r")
FORM("cvt.rn.bf16.f32" ONE, u16, "h", u32, "r") FORM("cvt.rz.bf16.f32" ONE, u16, "h", u32, "r")
FORM("cvt.rn.relu.bf16.f32" ONE, u16, "h", u32, "r")
FORM("cvt.rn.relu.f16.f32" ONE, u16, "h", u32, "r")
FORM("cvt.rz.relu.f16.f32" ONE, u16, "h", u32, "r")
W32("cvt.rna.tf32.f32" ONE)
END

KERNEL(from_f16)
FORM("cvt.f32.f16" ONE, u32, "r", u16, "h") FORM("cvt.ftz.f32.f16" ONE, u32, "r", u16, "h")
FORM("cvt.sat.f32.f16" ONE, u32, "r", u16, "h") FORM("cvt.f64.f16" ONE, u64, "l", u16, "h")
WHOLE("", "f16.f16", u16, "h")
FORM("cvt.f32.f16" ONE, u32, "r", u32, "r") FORM("cvt.f64.f16" ONE, u64, "l", u64, "l")
END

#define PAIRS(type, W)                                                                           \
    W("cvt.rn." type ".f32" TWO) W("cvt.rz." type ".f32" TWO) W("cvt.rn.relu." type ".f32" TWO)  \
    W("cvt.rz.relu." type ".f32" TWO)

KERNEL(pairs) PAIRS("f16x2", W32) PAIRS("bf16x2", W32) END

#define PACK(type) W32("cvt.pack.sat." type ".s32.b32" THREE)

KERNEL(packs)
W32("cvt.pack.sat.u16.s32" TWO) W32("cvt.pack.sat.s16.s32" TWO)
PACK("u8") PACK("s8") PACK("u4") PACK("s4") PACK("u2") PACK("s2")
END
