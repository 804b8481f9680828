//! mma.sync: D = A·B + C, shapes and types.
//!
//! PTX manual, section "Multiply-and-Accumulate Instruction: mma".

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{FULL, LANES, Registers, Slot};
use super::product::{self, Accumulators};
use super::{fragments, operands, vector};
use crate::ptx::ast::{Instruction, Operand, Type};

/// An mma, decoded.
#[derive(Debug, Clone)]
pub struct Mma {
    multiply: Multiply,
    a: Vec<Slot>,
    b: Vec<Slot>,
    c: (Accumulator, Vec<Slot>),
    d: (Accumulator, Vec<Slot>),
}

/// What is multiplied, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Multiply {
    Float(Float, Float),
    Integer { a: Integer, b: Integer, saturate: bool },
    Bits(Bits),
    Double,
}

/// The types that are multiplied exactly and summed in f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F16,
    BF16,
    TF32,
    E4M3,
    E5M2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    S8,
    U8,
    S4,
    U4,
}

/// What a one-bit multiplication is; its products are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    Xor,
    And,
}

/// Type of C or D.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulator {
    F16,
    F32,
    F64,
    S32,
}

impl Float {
    pub fn from_name(name: &str) -> Option<Float> {
        Some(match name {
            "f16" => Float::F16,
            "bf16" => Float::BF16,
            "tf32" => Float::TF32,
            "e4m3" => Float::E4M3,
            "e5m2" => Float::E5M2,
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Float::E4M3 | Float::E5M2 => 8,
            Float::F16 | Float::BF16 => 16,
            Float::TF32 => 32,
        }
    }

    /// The value of an element, exactly.
    #[inline(always)]
    pub fn value(self, bits: u32) -> f64 {
        match self {
            Float::F16 => product::from_f16(bits),
            Float::BF16 => product::from_bf16(bits),
            Float::TF32 => product::from_tf32(bits),
            Float::E4M3 => product::from_e4m3(bits),
            Float::E5M2 => product::from_e5m2(bits),
        }
    }
}

impl Integer {
    pub fn from_name(name: &str) -> Option<Integer> {
        Some(match name {
            "s8" => Integer::S8,
            "u8" => Integer::U8,
            "s4" => Integer::S4,
            "u4" => Integer::U4,
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Integer::S8 | Integer::U8 => 8,
            Integer::S4 | Integer::U4 => 4,
        }
    }

    #[inline(always)]
    pub fn value(self, bits: u32) -> i32 {
        match self {
            Integer::S8 => i32::from(bits as i8),
            Integer::S4 => (bits as i32) << 28 >> 28,
            Integer::U8 | Integer::U4 => bits as i32,
        }
    }
}

impl Accumulator {
    pub fn from_name(name: &str) -> Option<Accumulator> {
        Some(match name {
            "f16" => Accumulator::F16,
            "f32" => Accumulator::F32,
            "f64" => Accumulator::F64,
            "s32" => Accumulator::S32,
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Accumulator::F16 => 16,
            Accumulator::F32 | Accumulator::S32 => 32,
            Accumulator::F64 => 64,
        }
    }
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Mma, Refusal> {
    let refuse = |why: &str| Refusal::form(instruction, why);
    let modifiers = instruction.modifiers.as_slice();
    if modifiers.iter().any(|m| *m == "sp" || m.starts_with("sp::")) {
        return Err(refuse("sparse matrices are not implemented"));
    }
    let ["sync", "aligned", shape, "row", "col", rest @ ..] = modifiers else {
        return Err(refuse("known is mma.sync.aligned.SHAPE.row.col"));
    };
    let (saturate, rest) = match rest {
        ["satfinite", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [d_type, a_type, b_type, c_type, operation @ ..] = rest else {
        return Err(refuse("four types are needed: those of D, A, B and C"));
    };
    let unknown = || refuse("this combination of types and shape is not known");
    let (Some(d_type), Some(c_type)) =
        (Accumulator::from_name(d_type), Accumulator::from_name(c_type))
    else {
        return Err(unknown());
    };
    let multiply = match (*a_type, *b_type, operation) {
        ("b1", "b1", ["xor", "popc"]) => Multiply::Bits(Bits::Xor),
        ("b1", "b1", ["and", "popc"]) => Multiply::Bits(Bits::And),
        ("f64", "f64", []) => Multiply::Double,
        (a, b, []) => match (Float::from_name(a), Float::from_name(b)) {
            (Some(a), Some(b)) => Multiply::Float(a, b),
            _ => match (Integer::from_name(a), Integer::from_name(b)) {
                (Some(a), Some(b)) => Multiply::Integer { a, b, saturate },
                _ => return Err(unknown()),
            },
        },
        _ => return Err(unknown()),
    };
    if saturate && !matches!(multiply, Multiply::Integer { .. }) {
        return Err(refuse(".satfinite is for integers"));
    }
    let (rows, k) = dimensions(shape, multiply, c_type, d_type).ok_or_else(unknown)?;

    let bits = match multiply {
        Multiply::Float(a, _) => a.bits(),
        Multiply::Integer { a, .. } => a.bits(),
        Multiply::Bits(_) => 1,
        Multiply::Double => 64,
    };
    // Lanes hold equal shares; a register is 32 bits, or one f64.
    let registers = |elements: usize, bits: usize| elements * bits.min(32) / (32 * LANES);
    let ty = |bits| if bits == 64 { Type::F64 } else { Type::B32 };
    let fragment = |operand: &'_ Operand<'_>, elements: usize, bits: usize| {
        let found = vector(operand).len();
        match registers(elements, bits) {
            count if count == found => Ok(()),
            count => Err(refuse(&format!("a fragment has {found} registers, not {count}"))),
        }
    };
    let [d, a, b, c] = operands(instruction)?;
    fragment(d, rows * 8, d_type.bits())?;
    fragment(a, rows * k, bits)?;
    fragment(b, k * 8, bits)?;
    fragment(c, rows * 8, c_type.bits())?;
    let mut read = |operand: &Operand, bits| -> Result<Vec<Slot>, Refusal> {
        vector(operand).iter().map(|register| to.src(register, ty(bits))).collect()
    };
    let (a, b, c) = (read(a, bits)?, read(b, bits)?, read(c, c_type.bits())?);
    let d = vector(d)
        .iter()
        .map(|register| to.dst(register, ty(d_type.bits())))
        .collect::<Result<_, _>>()?;
    Ok(Mma { multiply, a, b, c: (c_type, c), d: (d_type, d) })
}

/// M and K of a shape that exists for these types.
fn dimensions(
    shape: &str,
    multiply: Multiply,
    c: Accumulator,
    d: Accumulator,
) -> Option<(usize, usize)> {
    use Accumulator::{F16, F32, F64, S32};
    let known: &[(&str, usize, usize)] = match multiply {
        Multiply::Float(Float::F16, Float::F16) if matches!((c, d), (F16, F16) | (F32, F32)) => {
            &[("m16n8k8", 16, 8), ("m16n8k16", 16, 16)]
        }
        Multiply::Float(Float::BF16, Float::BF16) if (c, d) == (F32, F32) => {
            &[("m16n8k8", 16, 8), ("m16n8k16", 16, 16)]
        }
        Multiply::Float(Float::TF32, Float::TF32) if (c, d) == (F32, F32) => {
            &[("m16n8k4", 16, 4), ("m16n8k8", 16, 8)]
        }
        Multiply::Float(Float::E4M3 | Float::E5M2, Float::E4M3 | Float::E5M2)
            if matches!((c, d), (F16, F16) | (F32, F32)) =>
        {
            &[("m16n8k16", 16, 16), ("m16n8k32", 16, 32)]
        }
        Multiply::Integer { a, b, .. } if (c, d) == (S32, S32) && a.bits() == b.bits() => {
            match a.bits() {
                8 => &[("m8n8k16", 8, 16), ("m16n8k16", 16, 16), ("m16n8k32", 16, 32)],
                _ => &[("m8n8k32", 8, 32), ("m16n8k32", 16, 32), ("m16n8k64", 16, 64)],
            }
        }
        Multiply::Bits(_) if (c, d) == (S32, S32) => {
            &[("m8n8k128", 8, 128), ("m16n8k128", 16, 128), ("m16n8k256", 16, 256)]
        }
        Multiply::Double if (c, d) == (F64, F64) => {
            &[("m8n8k4", 8, 4), ("m16n8k4", 16, 4), ("m16n8k8", 16, 8), ("m16n8k16", 16, 16)]
        }
        _ => &[],
    };
    known.iter().find(|(name, ..)| *name == shape).map(|&(_, m, k)| (m, k))
}

pub fn exec(mma: &Mma, regs: &mut Registers) {
    match mma.multiply {
        // One arm a type, so that each is compiled for its conversion.
        Multiply::Float(Float::BF16, _) => float_16(mma, regs, |bits| Float::BF16.value(bits)),
        Multiply::Float(Float::F16, _) => float_16(mma, regs, |bits| Float::F16.value(bits)),
        Multiply::Float(Float::TF32, _) => {
            let value = |bits| Float::TF32.value(bits);
            let sums = match mma.b.len() {
                1 => float::<1, 4, 1>(mma, regs, value, value),
                _ => float::<1, 8, 2>(mma, regs, value, value),
            };
            put(mma, regs, &sums);
        }
        Multiply::Float(a, b) => {
            let (a, b) = (|bits| a.value(bits), |bits| b.value(bits));
            let sums = match mma.b.len() {
                1 => float::<4, 16, 1>(mma, regs, a, b),
                _ => float::<4, 32, 2>(mma, regs, a, b),
            };
            put(mma, regs, &sums);
        }
        Multiply::Integer { a, b, saturate } => {
            let values = (|bits| a.value(bits), |bits| b.value(bits));
            let sums = match (a.bits(), mma.b.len()) {
                (8, 1) => integer::<4, 16, 1>(mma, regs, values.0, values.1),
                (8, _) => integer::<4, 32, 2>(mma, regs, values.0, values.1),
                (_, 1) => integer::<8, 32, 1>(mma, regs, values.0, values.1),
                _ => integer::<8, 64, 2>(mma, regs, values.0, values.1),
            };
            put_integers(mma, regs, &sums, saturate);
        }
        Multiply::Bits(bits) => {
            let count: fn(u32, u32) -> i32 = match bits {
                Bits::Xor => |a, b| (a ^ b).count_ones() as i32,
                Bits::And => |a, b| (a & b).count_ones() as i32,
            };
            // A register's 32 bits are one element here.
            let sums = match mma.b.len() {
                1 => {
                    let (a, b) = gather::<1, 4, 1, u32>(mma, regs, |a| a, |b| b);
                    product::sum(&a, &b, count)
                }
                _ => {
                    let (a, b) = gather::<1, 8, 2, u32>(mma, regs, |a| a, |b| b);
                    product::sum(&a, &b, count)
                }
            };
            put_integers(mma, regs, &sums, false);
        }
        Multiply::Double => double(mma, regs),
    }
}

fn float_16(mma: &Mma, regs: &mut Registers, value: impl Fn(u32) -> f64) {
    let sums = match mma.b.len() {
        1 => float::<2, 8, 1>(mma, regs, &value, &value),
        _ => float::<2, 16, 2>(mma, regs, &value, &value),
    };
    put(mma, regs, &sums);
}

/// Sums of products, without C. `PER` elements a register, `B` registers of matrix B.
fn float<const PER: usize, const K: usize, const B: usize>(
    mma: &Mma,
    regs: &Registers,
    a: impl Fn(u32) -> f64,
    b: impl Fn(u32) -> f64,
) -> Accumulators<f64> {
    let (a, b) = gather::<PER, K, B, f64>(mma, regs, a, b);
    product::sum(&a, &b, |a, b| a * b)
}

fn integer<const PER: usize, const K: usize, const B: usize>(
    mma: &Mma,
    regs: &Registers,
    a: impl Fn(u32) -> i32,
    b: impl Fn(u32) -> i32,
) -> Accumulators<i32> {
    let (a, b) = gather::<PER, K, B, i32>(mma, regs, a, b);
    product::sum(&a, &b, |a, b| a * b)
}

/// A and B as matrices, B's columns side by side. Of the 8-row shapes the lower half of A is zero.
#[inline(always)]
fn gather<const PER: usize, const K: usize, const B: usize, T: Copy + Default>(
    mma: &Mma,
    regs: &Registers,
    a: impl Fn(u32) -> T,
    b: impl Fn(u32) -> T,
) -> ([[T; K]; 16], [[T; 8]; K]) {
    let mut rows = [[T::default(); K]; 16];
    for register in 0..2 * B {
        // The 8-row shapes have half as many.
        let Some(&slot) = mma.a.get(register) else { break };
        let (first, k) = fragments::a(PER, register, 0, 0);
        let words = regs.r32(slot).as_chunks::<4>().0;
        for row in 0..8 {
            fragments::unpack::<PER, T>(&words[row], &mut rows[first + row][k..][..4 * PER], &a);
        }
    }
    let mut columns = [[T::default(); 8]; K];
    for register in 0..B {
        let (k, first) = fragments::b(PER, register, 0, 0);
        let words = regs.r32(mma.b[register]).as_chunks::<4>().0;
        for column in 0..8 {
            let mut out = [T::default(); 32];
            fragments::unpack::<PER, T>(&words[column], &mut out[..4 * PER], &b);
            for e in 0..4 * PER {
                columns[k + e][first + column] = out[e];
            }
        }
    }
    (rows, columns)
}

/// D = sums + C, rounded once to the type of D.
fn put(mma: &Mma, regs: &mut Registers, sums: &Accumulators<f64>) {
    let mut out = [[0.0; LANES]; 4];
    let (ty, slots) = &mma.c;
    for (i, out) in out.iter_mut().enumerate() {
        let c = match ty {
            Accumulator::F16 => {
                let words = regs.r32(slots[i / 2]);
                words.map(|word| product::from_f16(word >> (16 * (i % 2)) & 0xFFFF))
            }
            _ => regs.r32(slots[i]).map(|word| f64::from(f32::from_bits(word))),
        };
        for (lane, out) in out.iter_mut().enumerate() {
            let (row, column) = fragments::c(i, lane);
            *out = sums[row][column] + c[lane];
        }
    }
    let (ty, slots) = &mma.d;
    match ty {
        Accumulator::F16 => {
            for (pair, &slot) in slots.iter().enumerate() {
                let [low, high] = [0, 1].map(|half| out[2 * pair + half].map(product::to_f16));
                regs.set32(slot, FULL, &std::array::from_fn(|lane| low[lane] | high[lane] << 16));
            }
        }
        _ => {
            for (out, &slot) in out.iter().zip(slots) {
                regs.set32(slot, FULL, &out.map(product::to_f32));
            }
        }
    }
}

/// D = sums + C in 32 bits: wrapping, or clamped.
fn put_integers(mma: &Mma, regs: &mut Registers, sums: &Accumulators<i32>, saturate: bool) {
    let mut out = [[0; LANES]; 4];
    for (i, (out, &c)) in out.iter_mut().zip(&mma.c.1).enumerate() {
        for (lane, (out, &c)) in out.iter_mut().zip(regs.r32(c)).enumerate() {
            let (row, column) = fragments::c(i, lane);
            let (sum, c) = (sums[row][column], c as i32);
            let d = if saturate { c.saturating_add(sum) } else { c.wrapping_add(sum) };
            *out = d as u32;
        }
    }
    for (out, &slot) in out.iter().zip(&mma.d.1) {
        regs.set32(slot, FULL, out);
    }
}

/// f64: a chain of fused multiply-adds from C on, k ascending.
fn double(mma: &Mma, regs: &mut Registers) {
    let mut sums = [[0.0; 8]; 16];
    for (i, &slot) in mma.c.1.iter().enumerate() {
        for (lane, &bits) in regs.r64(slot).iter().enumerate() {
            let (row, column) = fragments::c(i, lane);
            sums[row][column] = f64::from_bits(bits);
        }
    }
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for (register, &slot) in mma.a.iter().enumerate() {
        for (lane, &bits) in regs.r64(slot).iter().enumerate() {
            let (row, k) = fragments::a(1, register, lane, 0);
            a[row][k] = f64::from_bits(bits);
        }
    }
    for (register, &slot) in mma.b.iter().enumerate() {
        for (lane, &bits) in regs.r64(slot).iter().enumerate() {
            let (k, column) = fragments::b(1, register, lane, 0);
            b[k][column] = f64::from_bits(bits);
        }
    }
    let k = 4 * mma.b.len();
    for (a, sums) in a.iter().zip(&mut sums).take(4 * mma.c.1.len()) {
        for (&a, b) in a.iter().zip(&b).take(k) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = f64::mul_add(a, b, *sum);
            }
        }
    }
    for (i, &slot) in mma.d.1.iter().enumerate() {
        let out = std::array::from_fn(|lane| {
            let (row, column) = fragments::c(i, lane);
            f64::to_bits(sums[row][column])
        });
        regs.set64(slot, FULL, &out);
    }
}
