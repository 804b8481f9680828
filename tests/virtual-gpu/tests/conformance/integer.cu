// Integer, bit and logic instructions, a kernel for each form.
// compile: --gpu-architecture=compute_90
//
// Every kernel is k(in, out, n): in holds five columns of n numbers of 64 bits, a b c e and a guard; what
// has fewer bits is cut off. A thread whose guard is 0 must keep what d held before.

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

#define KERNEL(name, D, A, B, C, E, text)                                                             \
    extern "C" __global__ void name(const T_l *in, T_l *out, unsigned n) {                            \
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                                           \
        if (i >= n) return;                                                                           \
        T_##D d = (T_##D)0xA5A5A5A5A5A5A5A5;                                                          \
        asm volatile("{ .reg .pred guard; setp.ne.u64 guard, %5, 0;\n\t" text " }"                    \
                     : "+" #D(d)                                                                      \
                     : #A((T_##A)in[i]), #B((T_##B)in[n + i]), #C((T_##C)in[2 * n + i]),              \
                       #E((T_##E)in[3 * n + i]), "l"(in[4 * n + i]));                                 \
        store(out + i, d);                                                                            \
    }

#define OP1(name, op, D, A) KERNEL(name, D, A, r, r, r, "@guard " op " %0, %1;")
#define OP2(name, op, D, A, B) KERNEL(name, D, A, B, r, r, "@guard " op " %0, %1, %2;")
#define OP3(name, op, D, A, B, C) KERNEL(name, D, A, B, C, r, "@guard " op " %0, %1, %2, %3;")
#define OP4(name, op, D, A, B, C, E) KERNEL(name, D, A, B, C, E, "@guard " op " %0, %1, %2, %3, %4;")

// Several instructions: those of threads whose guard is 0 are jumped over.
#define CODE(name, D, A, B, C, text) KERNEL(name, D, A, B, C, r, "@!guard bra over; " text " over:")

OP2(add_s16, "add.s16", h, h, h)
OP2(add_u16, "add.u16", h, h, h)
OP2(add_s32, "add.s32", r, r, r)
OP2(add_u32, "add.u32", r, r, r)
OP2(add_s64, "add.s64", l, l, l)
OP2(add_u64, "add.u64", l, l, l)
OP2(add_sat_s32, "add.sat.s32", r, r, r)
OP2(add_u16x2, "add.u16x2", r, r, r)
OP2(add_s16x2, "add.s16x2", r, r, r)
OP2(sub_s16, "sub.s16", h, h, h)
OP2(sub_u16, "sub.u16", h, h, h)
OP2(sub_s32, "sub.s32", r, r, r)
OP2(sub_u32, "sub.u32", r, r, r)
OP2(sub_s64, "sub.s64", l, l, l)
OP2(sub_u64, "sub.u64", l, l, l)
OP2(sub_sat_s32, "sub.sat.s32", r, r, r)
KERNEL(add_constant_s16, h, h, r, r, r, "@guard add.s16 %0, %1, -32767;")
KERNEL(sub_constant_s64, l, l, r, r, r, "@guard sub.s64 %0, -9, %1;")

OP2(mul_lo_s16, "mul.lo.s16", h, h, h)
OP2(mul_lo_u16, "mul.lo.u16", h, h, h)
OP2(mul_hi_s16, "mul.hi.s16", h, h, h)
OP2(mul_hi_u16, "mul.hi.u16", h, h, h)
OP2(mul_wide_s16, "mul.wide.s16", r, h, h)
OP2(mul_wide_u16, "mul.wide.u16", r, h, h)
OP2(mul_lo_s32, "mul.lo.s32", r, r, r)
OP2(mul_lo_u32, "mul.lo.u32", r, r, r)
OP2(mul_hi_s32, "mul.hi.s32", r, r, r)
OP2(mul_hi_u32, "mul.hi.u32", r, r, r)
OP2(mul_wide_s32, "mul.wide.s32", l, r, r)
OP2(mul_wide_u32, "mul.wide.u32", l, r, r)
OP2(mul_lo_s64, "mul.lo.s64", l, l, l)
OP2(mul_lo_u64, "mul.lo.u64", l, l, l)
OP2(mul_hi_s64, "mul.hi.s64", l, l, l)
OP2(mul_hi_u64, "mul.hi.u64", l, l, l)
OP3(mad_lo_s16, "mad.lo.s16", h, h, h, h)
OP3(mad_lo_u16, "mad.lo.u16", h, h, h, h)
OP3(mad_hi_s16, "mad.hi.s16", h, h, h, h)
OP3(mad_hi_u16, "mad.hi.u16", h, h, h, h)
OP3(mad_wide_s16, "mad.wide.s16", r, h, h, r)
OP3(mad_wide_u16, "mad.wide.u16", r, h, h, r)
OP3(mad_lo_s32, "mad.lo.s32", r, r, r, r)
OP3(mad_lo_u32, "mad.lo.u32", r, r, r, r)
OP3(mad_hi_s32, "mad.hi.s32", r, r, r, r)
OP3(mad_hi_u32, "mad.hi.u32", r, r, r, r)
OP3(mad_hi_sat_s32, "mad.hi.sat.s32", r, r, r, r)
OP3(mad_wide_s32, "mad.wide.s32", l, r, r, l)
OP3(mad_wide_u32, "mad.wide.u32", l, r, r, l)
OP3(mad_lo_s64, "mad.lo.s64", l, l, l, l)
OP3(mad_lo_u64, "mad.lo.u64", l, l, l, l)
OP3(mad_hi_s64, "mad.hi.s64", l, l, l, l)
OP3(mad_hi_u64, "mad.hi.u64", l, l, l, l)
OP2(mul24_lo_s32, "mul24.lo.s32", r, r, r)
OP2(mul24_lo_u32, "mul24.lo.u32", r, r, r)
OP2(mul24_hi_s32, "mul24.hi.s32", r, r, r)
OP2(mul24_hi_u32, "mul24.hi.u32", r, r, r)
OP3(mad24_lo_s32, "mad24.lo.s32", r, r, r, r)
OP3(mad24_lo_u32, "mad24.lo.u32", r, r, r, r)
OP3(mad24_hi_s32, "mad24.hi.s32", r, r, r, r)
OP3(mad24_hi_u32, "mad24.hi.u32", r, r, r, r)
OP3(mad24_hi_sat_s32, "mad24.hi.sat.s32", r, r, r, r)

OP3(sad_s16, "sad.s16", h, h, h, h)
OP3(sad_u16, "sad.u16", h, h, h, h)
OP3(sad_s32, "sad.s32", r, r, r, r)
OP3(sad_u32, "sad.u32", r, r, r, r)
OP3(sad_s64, "sad.s64", l, l, l, l)
OP3(sad_u64, "sad.u64", l, l, l, l)
OP2(div_s16, "div.s16", h, h, h)
OP2(div_u16, "div.u16", h, h, h)
OP2(div_s32, "div.s32", r, r, r)
OP2(div_u32, "div.u32", r, r, r)
OP2(div_s64, "div.s64", l, l, l)
OP2(div_u64, "div.u64", l, l, l)
OP2(rem_s16, "rem.s16", h, h, h)
OP2(rem_u16, "rem.u16", h, h, h)
OP2(rem_s32, "rem.s32", r, r, r)
OP2(rem_u32, "rem.u32", r, r, r)
OP2(rem_s64, "rem.s64", l, l, l)
OP2(rem_u64, "rem.u64", l, l, l)
OP1(abs_s16, "abs.s16", h, h)
OP1(abs_s32, "abs.s32", r, r)
OP1(abs_s64, "abs.s64", l, l)
OP1(neg_s16, "neg.s16", h, h)
OP1(neg_s32, "neg.s32", r, r)
OP1(neg_s64, "neg.s64", l, l)
OP2(min_s16, "min.s16", h, h, h)
OP2(min_u16, "min.u16", h, h, h)
OP2(min_s32, "min.s32", r, r, r)
OP2(min_u32, "min.u32", r, r, r)
OP2(min_s64, "min.s64", l, l, l)
OP2(min_u64, "min.u64", l, l, l)
OP2(max_s16, "max.s16", h, h, h)
OP2(max_u16, "max.u16", h, h, h)
OP2(max_s32, "max.s32", r, r, r)
OP2(max_u32, "max.u32", r, r, r)
OP2(max_s64, "max.s64", l, l, l)
OP2(max_u64, "max.u64", l, l, l)
OP2(min_s16x2, "min.s16x2", r, r, r)
OP2(min_u16x2, "min.u16x2", r, r, r)
OP2(max_s16x2, "max.s16x2", r, r, r)
OP2(max_u16x2, "max.u16x2", r, r, r)
OP2(min_relu_s16x2, "min.relu.s16x2", r, r, r)
OP2(max_relu_s16x2, "max.relu.s16x2", r, r, r)
OP2(min_relu_s32, "min.relu.s32", r, r, r)
OP2(max_relu_s32, "max.relu.s32", r, r, r)

OP1(popc_b32, "popc.b32", r, r)
OP1(popc_b64, "popc.b64", r, l)
OP1(clz_b32, "clz.b32", r, r)
OP1(clz_b64, "clz.b64", r, l)
OP1(brev_b32, "brev.b32", r, r)
OP1(brev_b64, "brev.b64", l, l)
OP1(bfind_s32, "bfind.s32", r, r)
OP1(bfind_u32, "bfind.u32", r, r)
OP1(bfind_s64, "bfind.s64", r, l)
OP1(bfind_u64, "bfind.u64", r, l)
OP1(bfind_shiftamt_s32, "bfind.shiftamt.s32", r, r)
OP1(bfind_shiftamt_u32, "bfind.shiftamt.u32", r, r)
OP1(bfind_shiftamt_s64, "bfind.shiftamt.s64", r, l)
OP1(bfind_shiftamt_u64, "bfind.shiftamt.u64", r, l)
OP3(fns_b32, "fns.b32", r, r, r, r)
OP3(bfe_s32, "bfe.s32", r, r, r, r)
OP3(bfe_u32, "bfe.u32", r, r, r, r)
OP3(bfe_s64, "bfe.s64", l, l, r, r)
OP3(bfe_u64, "bfe.u64", l, l, r, r)
OP4(bfi_b32, "bfi.b32", r, r, r, r, r)
OP4(bfi_b64, "bfi.b64", l, l, l, r, r)
OP2(bmsk_clamp, "bmsk.clamp.b32", r, r, r)
OP2(bmsk_wrap, "bmsk.wrap.b32", r, r, r)
OP2(szext_clamp_s32, "szext.clamp.s32", r, r, r)
OP2(szext_clamp_u32, "szext.clamp.u32", r, r, r)
OP2(szext_wrap_s32, "szext.wrap.s32", r, r, r)
OP2(szext_wrap_u32, "szext.wrap.u32", r, r, r)
OP3(prmt_b32, "prmt.b32", r, r, r, r)
OP3(prmt_f4e, "prmt.b32.f4e", r, r, r, r)
OP3(prmt_b4e, "prmt.b32.b4e", r, r, r, r)
OP3(prmt_rc8, "prmt.b32.rc8", r, r, r, r)
OP3(prmt_ecl, "prmt.b32.ecl", r, r, r, r)
OP3(prmt_ecr, "prmt.b32.ecr", r, r, r, r)
OP3(prmt_rc16, "prmt.b32.rc16", r, r, r, r)
KERNEL(prmt_7351, r, r, r, r, r, "@guard prmt.b32 %0, %1, %2, 0x7351;")
KERNEL(prmt_b9f8, r, r, r, r, r, "@guard prmt.b32 %0, %1, %2, 0xB9F8;")

OP3(dp4a_s32_s32, "dp4a.s32.s32", r, r, r, r)
OP3(dp4a_s32_u32, "dp4a.s32.u32", r, r, r, r)
OP3(dp4a_u32_s32, "dp4a.u32.s32", r, r, r, r)
OP3(dp4a_u32_u32, "dp4a.u32.u32", r, r, r, r)
OP3(dp2a_lo_s32_s32, "dp2a.lo.s32.s32", r, r, r, r)
OP3(dp2a_lo_s32_u32, "dp2a.lo.s32.u32", r, r, r, r)
OP3(dp2a_lo_u32_s32, "dp2a.lo.u32.s32", r, r, r, r)
OP3(dp2a_lo_u32_u32, "dp2a.lo.u32.u32", r, r, r, r)
OP3(dp2a_hi_s32_s32, "dp2a.hi.s32.s32", r, r, r, r)
OP3(dp2a_hi_s32_u32, "dp2a.hi.s32.u32", r, r, r, r)
OP3(dp2a_hi_u32_s32, "dp2a.hi.u32.s32", r, r, r, r)
OP3(dp2a_hi_u32_u32, "dp2a.hi.u32.u32", r, r, r, r)
OP3(vabsdiff4_u32, "vabsdiff4.u32.u32.u32", r, r, r, r)
OP3(vabsdiff4_s32, "vabsdiff4.u32.s32.s32", r, r, r, r)
OP3(vabsdiff4_add_u32, "vabsdiff4.u32.u32.u32.add", r, r, r, r)
OP3(vabsdiff4_add_s32, "vabsdiff4.s32.s32.s32.add", r, r, r, r)

OP2(and_b16, "and.b16", h, h, h)
OP2(and_b32, "and.b32", r, r, r)
OP2(and_b64, "and.b64", l, l, l)
OP2(or_b16, "or.b16", h, h, h)
OP2(or_b32, "or.b32", r, r, r)
OP2(or_b64, "or.b64", l, l, l)
OP2(xor_b16, "xor.b16", h, h, h)
OP2(xor_b32, "xor.b32", r, r, r)
OP2(xor_b64, "xor.b64", l, l, l)
KERNEL(or_constant_b16, h, h, r, r, r, "@guard or.b16 %0, %1, -32768;")
OP1(not_b16, "not.b16", h, h)
OP1(not_b32, "not.b32", r, r)
OP1(not_b64, "not.b64", l, l)
OP1(cnot_b16, "cnot.b16", h, h)
OP1(cnot_b32, "cnot.b32", r, r)
OP1(cnot_b64, "cnot.b64", l, l)
OP2(shl_b16, "shl.b16", h, h, r)
OP2(shl_b32, "shl.b32", r, r, r)
OP2(shl_b64, "shl.b64", l, l, r)
OP2(shr_b16, "shr.b16", h, h, r)
OP2(shr_u16, "shr.u16", h, h, r)
OP2(shr_s16, "shr.s16", h, h, r)
OP2(shr_b32, "shr.b32", r, r, r)
OP2(shr_u32, "shr.u32", r, r, r)
OP2(shr_s32, "shr.s32", r, r, r)
OP2(shr_b64, "shr.b64", l, l, r)
OP2(shr_u64, "shr.u64", l, l, r)
OP2(shr_s64, "shr.s64", l, l, r)
OP3(shf_l_clamp, "shf.l.clamp.b32", r, r, r, r)
OP3(shf_l_wrap, "shf.l.wrap.b32", r, r, r, r)
OP3(shf_r_clamp, "shf.r.clamp.b32", r, r, r, r)
OP3(shf_r_wrap, "shf.r.wrap.b32", r, r, r, r)

// By constants, as nearly all of these are.
#define BY(name, op, D, A, n) KERNEL(name, D, A, r, r, r, "@guard " op " %0, %1, " n ";")
BY(shl_b16_by_9, "shl.b16", h, h, "9")
BY(shl_b16_by_16, "shl.b16", h, h, "16")
BY(shr_u16_by_3, "shr.u16", h, h, "3")
BY(shr_s16_by_3, "shr.s16", h, h, "3")
BY(shl_b32_by_31, "shl.b32", r, r, "31")
BY(shl_b32_by_32, "shl.b32", r, r, "32")
BY(shr_u32_by_7, "shr.u32", r, r, "7")
BY(shr_s32_by_7, "shr.s32", r, r, "7")
BY(shr_s32_by_99, "shr.s32", r, r, "99")
BY(shl_b64_by_33, "shl.b64", l, l, "33")
BY(shl_b64_by_64, "shl.b64", l, l, "64")
BY(shr_u64_by_63, "shr.u64", l, l, "63")
BY(shr_s64_by_33, "shr.s64", l, l, "33")
BY(bfe_u32_by_5_9, "bfe.u32", r, r, "5, 9")
BY(bfe_u32_by_40_9, "bfe.u32", r, r, "40, 9")
BY(bfe_u32_by_0_255, "bfe.u32", r, r, "0, 255")
BY(bfe_s32_by_28_9, "bfe.s32", r, r, "28, 9")
BY(bfe_s32_by_3_0, "bfe.s32", r, r, "3, 0")
BY(bfe_u64_by_30_9, "bfe.u64", l, l, "30, 9")
BY(bfe_s64_by_30_40, "bfe.s64", l, l, "30, 40")
#define BFI(name, op, D, n) KERNEL(name, D, D, D, r, r, "@guard " op " %0, %1, %2, " n ";")
BFI(bfi_b32_by_3_29, "bfi.b32", r, "3, 29")
BFI(bfi_b32_by_32_4, "bfi.b32", r, "32, 4")
BFI(bfi_b32_by_5_0, "bfi.b32", r, "5, 0")
BFI(bfi_b64_by_32_32, "bfi.b64", l, "32, 32")
BFI(bfi_b64_by_8_200, "bfi.b64", l, "8, 200")

// Two predicates from two bits of a; the results of all connectives side by side.
CODE(logic_of_predicates, r, r, r, r,
     ".reg .pred p, q, x; .reg .b32 t; and.b32 t, %1, 1; setp.ne.u32 p, t, 0; and.b32 t, %1, 2; setp.ne.u32 q, t, 0;"
     "and.pred x, p, q; selp.u32 %0, 1, 0, x;"
     "or.pred x, p, q; selp.u32 t, 2, 0, x; or.b32 %0, %0, t;"
     "xor.pred x, p, q; selp.u32 t, 4, 0, x; or.b32 %0, %0, t;"
     "not.pred x, p; selp.u32 t, 8, 0, x; or.b32 %0, %0, t;"
     "and.pred x, p, !q; selp.u32 t, 16, 0, x; or.b32 %0, %0, t;"
     "or.pred p, !p, q; selp.u32 t, 32, 0, p; or.b32 %0, %0, t;")
// A predicate that is true before: where the guard is off it stays, and the result is not written.
KERNEL(guarded_predicate, r, r, r, r, r,
       ".reg .pred p, q; setp.eq.u32 p, %1, %1; setp.ne.u32 q, %1, %2; @guard and.pred p, p, q;"
       "@guard selp.u32 %0, 1, 0, p; @!p mov.u32 %0, 7;")

// Extended precision: sums, differences and products of twice the width, and the last carry.
#define LIMBS ".reg .u32 a0, a1, b0, b1, c0, c1, t; mov.b64 {a0, a1}, %1; mov.b64 {b0, b1}, %2; mov.b64 {c0, c1}, %3;"
CODE(carry_add_u32, l, l, l, l, LIMBS "add.cc.u32 a0, a0, b0; addc.u32 a1, a1, b1; mov.b64 %0, {a0, a1};")
CODE(carry_add_out_u32, l, l, l, l,
     LIMBS "add.cc.u32 a0, a0, b0; addc.cc.u32 a1, a1, b1; addc.u32 t, 0, 0; cvt.u64.u32 %0, t;")
CODE(carry_add_in_s32, l, l, l, l,
     LIMBS "add.cc.s32 c0, c0, c1; addc.cc.s32 a0, a0, b0; addc.s32 a1, a1, b1; mov.b64 %0, {a0, a1};")
CODE(carry_sub_u32, l, l, l, l, LIMBS "sub.cc.u32 a0, a0, b0; subc.u32 a1, a1, b1; mov.b64 %0, {a0, a1};")
CODE(carry_sub_out_u32, l, l, l, l,
     LIMBS "sub.cc.u32 a0, a0, b0; subc.cc.u32 a1, a1, b1; subc.u32 t, 0, 0; cvt.s64.s32 %0, t;")
CODE(carry_add_out_u64, l, l, l, l, "add.cc.u64 %0, %1, %2; addc.u64 %0, %3, 0;")
CODE(carry_sub_out_s64, l, l, l, l, "sub.cc.s64 %0, %1, %2; subc.s64 %0, %3, 0;")
// Moves between leave the carry alone.
CODE(carry_kept_u64, l, l, l, l, ".reg .u64 t; add.cc.u64 t, %1, %2; add.u64 t, t, %3; addc.u64 %0, t, 0;")
// 64 x 64 bits: the upper half of the product, from 32-bit limbs.
CODE(carry_product_u32, l, l, l, l,
     LIMBS ".reg .u32 r1, r2, r3; mul.hi.u32 r1, a0, b0;"
     "mad.lo.cc.u32 r1, a0, b1, r1; madc.hi.u32 r2, a0, b1, 0;"
     "mad.lo.cc.u32 r1, a1, b0, r1; madc.hi.cc.u32 r2, a1, b0, r2; addc.u32 r3, 0, 0;"
     "mad.lo.cc.u32 r2, a1, b1, r2; madc.hi.u32 r3, a1, b1, r3; mov.b64 %0, {r2, r3};")
// a * b + c in 128 bits: the upper half.
CODE(carry_product_u64, l, l, l, l, ".reg .u64 t; mad.lo.cc.u64 t, %1, %2, %3; madc.hi.u64 %0, %1, %2, 0;")
CODE(carry_product_s64, l, l, l, l, ".reg .u64 t; mad.lo.cc.s64 t, %1, %2, %3; madc.hi.s64 %0, %1, %2, 0;")
CODE(carry_of_mad_hi_s32, r, r, r, r, ".reg .u32 t; mad.hi.cc.s32 t, %1, %2, %3; addc.u32 %0, 0, 0;")
CODE(carry_of_mad_hi_u32, r, r, r, r, ".reg .u32 t; mad.hi.cc.u32 t, %1, %2, %3; addc.u32 %0, 0, 0;")
CODE(carry_of_madc_lo_cc_s32, r, r, r, r,
     ".reg .u32 t; add.cc.u32 t, %1, %1; madc.lo.cc.s32 t, %1, %2, %3; addc.u32 %0, 0, 0;")

// All 256 tables of lop3, their results hashed in order.
template <unsigned FIRST, unsigned COUNT>
__device__ __forceinline__ unsigned lop3_tables(unsigned hash, unsigned a, unsigned b, unsigned c) {
    if constexpr (COUNT > 1) {
        hash = lop3_tables<FIRST, COUNT / 2>(hash, a, b, c);
        return lop3_tables<FIRST + COUNT / 2, COUNT / 2>(hash, a, b, c);
    } else {
        unsigned d;
        asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(FIRST));
        return hash * 0x01000193u ^ d;
    }
}

extern "C" __global__ void lop3_b32(const T_l *in, T_l *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = 0xA5A5A5A5;
    unsigned a = in[i], b = in[n + i], c = in[2 * n + i];
    if (in[4 * n + i]) out[i] = lop3_tables<0, 256>(0x811C9DC5u, a, b, c);
}
