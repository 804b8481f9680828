// float_90.cu: the forms of the floating point instructions that begin after sm_80.
// compile: --gpu-architecture=compute_90

#include "float.cuh"

#define BF16(W, op, type) W(op "." type TWO) W(op ".rn." type TWO)

KERNEL(add_bf16) BF16(W16, "add", "bf16") END
KERNEL(sub_bf16) BF16(W16, "sub", "bf16") END
KERNEL(mul_bf16) BF16(W16, "mul", "bf16") END
KERNEL(add_bf16x2) BF16(W32, "add", "bf16x2") END
KERNEL(sub_bf16x2) BF16(W32, "sub", "bf16x2") END
KERNEL(mul_bf16x2) BF16(W32, "mul", "bf16x2") END

#define XORSIGN(W, type)                                                                         \
    W("min.xorsign.abs." type TWO) W("min.NaN.xorsign.abs." type TWO)                            \
    W("max.xorsign.abs." type TWO) W("max.NaN.xorsign.abs." type TWO)

KERNEL(xorsign_f32) XORSIGN(W32, "f32") END
KERNEL(xorsign_f16) XORSIGN(W16, "f16") END
KERNEL(xorsign_f16x2) XORSIGN(W32, "f16x2") END
KERNEL(xorsign_bf16) XORSIGN(W16, "bf16") END
KERNEL(xorsign_bf16x2) XORSIGN(W32, "bf16x2") END

KERNEL(approximations_bf16)
W16("ex2.approx.ftz.bf16" ONE) W16("tanh.approx.bf16" ONE) W32("ex2.approx.ftz.bf16x2" ONE)
W32("tanh.approx.bf16x2" ONE)
END
