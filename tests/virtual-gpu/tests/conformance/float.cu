// float.cu: every form of the floating point instructions that sm_80 has.

#include "float.cuh"

#define FTZ_SAT(op, args)                                                                        \
    W32(op ".f32" args) W32(op ".ftz.f32" args) W32(op ".sat.f32" args) W32(op ".ftz.sat.f32" args)
#define ROUNDED_F32(op, args)                                                                    \
    FTZ_SAT(op ".rn", args) FTZ_SAT(op ".rz", args) FTZ_SAT(op ".rm", args) FTZ_SAT(op ".rp", args)
#define ROUNDED_F64(op, args)                                                                    \
    W64(op ".rn.f64" args) W64(op ".rz.f64" args) W64(op ".rm.f64" args) W64(op ".rp.f64" args)
#define ROUNDED_FTZ(op, args)                                                                    \
    W32(op ".rn.f32" args) W32(op ".rn.ftz.f32" args) W32(op ".rz.f32" args)                     \
    W32(op ".rz.ftz.f32" args) W32(op ".rm.f32" args) W32(op ".rm.ftz.f32" args)                 \
    W32(op ".rp.f32" args) W32(op ".rp.ftz.f32" args)

KERNEL(add_f32) FTZ_SAT("add", TWO) ROUNDED_F32("add", TWO) END
KERNEL(sub_f32) FTZ_SAT("sub", TWO) ROUNDED_F32("sub", TWO) END
KERNEL(mul_f32) FTZ_SAT("mul", TWO) ROUNDED_F32("mul", TWO) END
KERNEL(fma_f32) ROUNDED_F32("fma", THREE) END
KERNEL(mad_f32) ROUNDED_F32("mad", THREE) END
KERNEL(div_f32) ROUNDED_FTZ("div", TWO) END
KERNEL(rcp_f32) ROUNDED_FTZ("rcp", ONE) END
KERNEL(sqrt_f32) ROUNDED_FTZ("sqrt", ONE) END

KERNEL(add_f64) W64("add.f64" TWO) ROUNDED_F64("add", TWO) END
KERNEL(sub_f64) W64("sub.f64" TWO) ROUNDED_F64("sub", TWO) END
KERNEL(mul_f64) W64("mul.f64" TWO) ROUNDED_F64("mul", TWO) END
KERNEL(fma_f64) ROUNDED_F64("fma", THREE) END
KERNEL(mad_f64) ROUNDED_F64("mad", THREE) END
KERNEL(div_f64) ROUNDED_F64("div", TWO) END
KERNEL(rcp_f64) ROUNDED_F64("rcp", ONE) END
KERNEL(sqrt_f64) ROUNDED_F64("sqrt", ONE) END

#define HALF(W, op, type)                                                                        \
    W(op "." type TWO) W(op ".rn." type TWO) W(op ".ftz." type TWO) W(op ".sat." type TWO)       \
    W(op ".rn.ftz.sat." type TWO)
#define HALF_FMA(W, type)                                                                        \
    W("fma.rn." type THREE) W("fma.rn.ftz." type THREE) W("fma.rn.sat." type THREE)              \
    W("fma.rn.ftz.sat." type THREE) W("fma.rn.relu." type THREE) W("fma.rn.ftz.relu." type THREE)

KERNEL(add_f16) HALF(W16, "add", "f16") END
KERNEL(sub_f16) HALF(W16, "sub", "f16") END
KERNEL(mul_f16) HALF(W16, "mul", "f16") END
KERNEL(fma_f16) HALF_FMA(W16, "f16") END
KERNEL(add_f16x2) HALF(W32, "add", "f16x2") END
KERNEL(sub_f16x2) HALF(W32, "sub", "f16x2") END
KERNEL(mul_f16x2) HALF(W32, "mul", "f16x2") END
KERNEL(fma_f16x2) HALF_FMA(W32, "f16x2") END
KERNEL(fma_bf16) W16("fma.rn.bf16" THREE) W16("fma.rn.relu.bf16" THREE) END
KERNEL(fma_bf16x2) W32("fma.rn.bf16x2" THREE) W32("fma.rn.relu.bf16x2" THREE) END

#define NAN_FTZ(W, op, type)                                                                     \
    W(op "." type TWO) W(op ".ftz." type TWO) W(op ".NaN." type TWO) W(op ".ftz.NaN." type TWO)

KERNEL(min_f32) NAN_FTZ(W32, "min", "f32") END
KERNEL(max_f32) NAN_FTZ(W32, "max", "f32") END
KERNEL(min_f64) W64("min.f64" TWO) END
KERNEL(max_f64) W64("max.f64" TWO) END
KERNEL(min_f16) NAN_FTZ(W16, "min", "f16") END
KERNEL(max_f16) NAN_FTZ(W16, "max", "f16") END
KERNEL(min_f16x2) NAN_FTZ(W32, "min", "f16x2") END
KERNEL(max_f16x2) NAN_FTZ(W32, "max", "f16x2") END
KERNEL(min_bf16) W16("min.bf16" TWO) W16("min.NaN.bf16" TWO) END
KERNEL(max_bf16) W16("max.bf16" TWO) W16("max.NaN.bf16" TWO) END
KERNEL(min_bf16x2) W32("min.bf16x2" TWO) W32("min.NaN.bf16x2" TWO) END
KERNEL(max_bf16x2) W32("max.bf16x2" TWO) W32("max.NaN.bf16x2" TWO) END

#define SIGNS(op)                                                                                \
    W32(op ".f32" ONE) W32(op ".ftz.f32" ONE) W64(op ".f64" ONE) W16(op ".f16" ONE)              \
    W16(op ".ftz.f16" ONE) W32(op ".f16x2" ONE) W32(op ".ftz.f16x2" ONE) W16(op ".bf16" ONE)     \
    W32(op ".bf16x2" ONE)

KERNEL(neg_all) SIGNS("neg") END
KERNEL(abs_all) SIGNS("abs") END
KERNEL(copysign_all) W32("copysign.f32" TWO) W64("copysign.f64" TWO) END

#define TEST(T, t, text)                                                                         \
    FORM("{ .reg .pred p; testp." text " p, %1; selp.u32 %0, 1, 0, p; }", u32, "r", T, t)
#define TESTP(T, t, type)                                                                        \
    TEST(T, t, "finite." type) TEST(T, t, "infinite." type) TEST(T, t, "number." type)           \
    TEST(T, t, "notanumber." type) TEST(T, t, "normal." type) TEST(T, t, "subnormal." type)

KERNEL(testp_f32) TESTP(u32, "r", "f32") END
KERNEL(testp_f64) TESTP(u64, "l", "f64") END

KERNEL(approximations_f32)
W32("div.approx.f32" TWO) W32("div.approx.ftz.f32" TWO) W32("div.full.f32" TWO)
W32("div.full.ftz.f32" TWO) W32("rcp.approx.f32" ONE) W32("rcp.approx.ftz.f32" ONE)
W32("sqrt.approx.f32" ONE) W32("sqrt.approx.ftz.f32" ONE) W32("rsqrt.approx.f32" ONE)
W32("rsqrt.approx.ftz.f32" ONE) W32("sin.approx.f32" ONE) W32("sin.approx.ftz.f32" ONE)
W32("cos.approx.f32" ONE) W32("cos.approx.ftz.f32" ONE) W32("lg2.approx.f32" ONE)
W32("lg2.approx.ftz.f32" ONE) W32("ex2.approx.f32" ONE) W32("ex2.approx.ftz.f32" ONE)
W32("tanh.approx.f32" ONE)
END

KERNEL(approximations_f64)
W64("rcp.approx.ftz.f64" ONE) W64("rsqrt.approx.f64" ONE) W64("rsqrt.approx.ftz.f64" ONE)
END

KERNEL(approximations_f16)
W16("ex2.approx.f16" ONE) W16("tanh.approx.f16" ONE) W32("ex2.approx.f16x2" ONE)
W32("tanh.approx.f16x2" ONE)
END
