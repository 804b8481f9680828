// convert_90.cu: the forms of cvt that begin after sm_80.
// compile: --gpu-architecture=compute_90

#include "float.cuh"

#define B16(text) FORM("cvt" text ONE, u16, "h", u16, "h")
#define B16_32(text) FORM("cvt" text ONE, u32, "r", u16, "h")
#define B16_64(text) FORM("cvt" text ONE, u64, "l", u16, "h")
// bf16 wants registers of exactly its partner's width.
#define TO_8(op, type)                                                                           \
    FORM("{ .reg ." type " x; cvt" op "." type ".bf16 x, %1; cvt.u16.u8 %0, x; }", u16, "h", u16, "h")
#define FROM_8(op, type)                                                                         \
    FORM("{ .reg ." type " x; cvt.u8.u16 x, %1; cvt" op ".bf16." type " %0, x; }", u16, "h", u16, "h")
#define TO_INTEGERS(op)                                                                          \
    TO_8(op, "u8") B16(op ".u16.bf16") TO_8(op, "s8") B16(op ".s16.bf16")                        \
    B16_32(op ".u32.bf16") B16_64(op ".u64.bf16") B16_32(op ".s32.bf16") B16_64(op ".s64.bf16")

KERNEL(bf16_to_integers)
TO_INTEGERS(".rni") TO_INTEGERS(".rzi") TO_INTEGERS(".rmi") TO_INTEGERS(".rpi")
END

#define R16_32(text) FORM("cvt" text ONE, u16, "h", u32, "r")
#define R16_64(text) FORM("cvt" text ONE, u16, "h", u64, "l")
#define FROM_INTEGERS(op)                                                                        \
    FROM_8(op, "u8") B16(op ".bf16.u16") R16_32(op ".bf16.u32") R16_64(op ".bf16.u64")         \
    FROM_8(op, "s8") B16(op ".bf16.s16") R16_32(op ".bf16.s32") R16_64(op ".bf16.s64")

KERNEL(integers_to_bf16)
FROM_INTEGERS(".rn") FROM_INTEGERS(".rz") FROM_INTEGERS(".rm") FROM_INTEGERS(".rp")
END

KERNEL(from_bf16)
B16_32(".f32.bf16") B16_32(".ftz.f32.bf16") B16_64(".f64.bf16") B16(".rn.f16.bf16")
B16(".rz.f16.bf16") B16(".rm.f16.bf16") B16(".rp.f16.bf16") B16(".rni.bf16.bf16")
B16(".rzi.bf16.bf16") B16(".rmi.bf16.bf16") B16(".rpi.bf16.bf16")
END

KERNEL(f16_to_bf16) B16(".rn.bf16.f16") B16(".rz.bf16.f16") B16(".rm.bf16.f16") B16(".rp.bf16.f16") END
KERNEL(f64_to_bf16)
R16_64(".rn.bf16.f64") R16_64(".rz.bf16.f64") R16_64(".rm.bf16.f64") R16_64(".rp.bf16.f64")
END
KERNEL(f32_to_bf16) R16_32(".rm.bf16.f32") R16_32(".rp.bf16.f32") END

KERNEL(satfinite)
R16_32(".rn.satfinite.f16.f32") R16_32(".rz.satfinite.f16.f32")
R16_32(".rn.relu.satfinite.f16.f32") R16_32(".rn.satfinite.bf16.f32")
R16_32(".rz.relu.satfinite.bf16.f32") W32("cvt.rna.satfinite.tf32.f32" ONE)
W32("cvt.rn.tf32.f32" ONE) W32("cvt.rz.tf32.f32" ONE) W32("cvt.rn.relu.tf32.f32" ONE)
W32("cvt.rz.relu.tf32.f32" ONE)
END

#define PAIRS(type)                                                                              \
    W32("cvt.rn.satfinite." type ".f32" TWO) W32("cvt.rz.relu.satfinite." type ".f32" TWO)

KERNEL(pairs_satfinite) PAIRS("f16x2") PAIRS("bf16x2") END

#define BYTES(type)                                                                              \
    FORM("cvt.rn.satfinite." type ".f32" TWO, u16, "h", u32, "r")                                \
    FORM("cvt.rn.satfinite.relu." type ".f32" TWO, u16, "h", u32, "r")

KERNEL(pairs_of_bytes) BYTES("e4m3x2") BYTES("e5m2x2") END

#define FROM_F16X2(type)                                                                         \
    FORM("cvt.rn.satfinite." type ".f16x2" ONE, u16, "h", u32, "r")                              \
    FORM("cvt.rn.satfinite.relu." type ".f16x2" ONE, u16, "h", u32, "r")

KERNEL(f16x2_to_bytes) FROM_F16X2("e4m3x2") FROM_F16X2("e5m2x2") END

KERNEL(bytes_to_f16x2)
B16_32(".rn.f16x2.e4m3x2") B16_32(".rn.relu.f16x2.e4m3x2") B16_32(".rn.f16x2.e5m2x2")
B16_32(".rn.relu.f16x2.e5m2x2")
END
