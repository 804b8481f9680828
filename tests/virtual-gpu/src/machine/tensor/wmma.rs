//! wmma.load, wmma.store, wmma.mma: what C++'s nvcuda::wmma is made of.
//!
//! PTX manual, section "Matrix multiply-accumulate operation using wmma instructions". Which lane holds which
//! element is left to the machine: here it is mma's tiles, in A and C row blocks first, in B blocks along k
//! first, which is what m16n16k16 is on sm_80. Where f16 has more registers than elements they repeat. All lanes
//! must give the same address and pitch; the elements are loaded and stored one by one, as `ld` and `st` do it.

use super::super::lower::{Lowering, Refusal};
use super::super::memory::address::Target;
use super::super::memory::decode::{self, Reg};
use super::super::memory::load::{self, Load};
use super::super::memory::store::{self, Store};
use super::super::registers::{FULL, LANES, Registers, Slot, W32};
use super::super::{Exec, Fault};
use super::mma::{Accumulator, Float, Integer};
use super::{operands, product, vector};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// A matrix and its fragment.
#[derive(Debug, Clone)]
struct Fragment {
    matrix: Matrix,
    /// Rows and columns.
    size: (usize, usize),
    /// Bits of an element.
    bits: usize,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matrix {
    A,
    B,
    C,
}

/// wmma.load and wmma.store.
#[derive(Debug, Clone)]
pub struct Move {
    fragment: Fragment,
    at: Target,
    pitch: Slot,
    /// Columns lie together, not rows.
    by_column: bool,
    /// A 64-bit slot for an element's address, and one for the element.
    address: Slot,
    element: Reg,
    access: Access,
}

#[derive(Debug, Clone)]
enum Access {
    Load(Load),
    Store(Store),
}

/// wmma.mma.
#[derive(Debug, Clone)]
pub struct Multiply {
    kind: Kind,
    a: Fragment,
    b: Fragment,
    c: (Accumulator, Fragment),
    d: (Accumulator, Fragment),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Float(Float),
    Integer { a: Integer, b: Integer, saturate: bool },
    Double,
}

/// M, N and K of a shape.
fn shape(name: &str) -> Option<(usize, usize, usize)> {
    Some(match name {
        "m16n16k16" => (16, 16, 16),
        "m8n32k16" => (8, 32, 16),
        "m32n8k16" => (32, 8, 16),
        "m16n16k8" => (16, 16, 8),
        "m8n8k4" => (8, 8, 4),
        _ => return None,
    })
}

/// Bits of an element in a register; `None` for a type, or a type in a shape, that is not known here.
fn bits(ty: &str, matrix: Matrix, (m, n, k): (usize, usize, usize)) -> Option<usize> {
    let right = match (ty, matrix) {
        ("f64", _) => k == 4,
        ("tf32", Matrix::A | Matrix::B) => k == 8,
        ("f16" | "bf16" | "s8" | "u8", Matrix::A | Matrix::B) => k == 16,
        ("f32", Matrix::C) => k != 4,
        ("f16" | "s32", Matrix::C) => k == 16,
        _ => false,
    };
    let size = match ty {
        "f64" => 64,
        "f32" | "s32" | "tf32" => 32,
        "f16" | "bf16" => 16,
        _ => 8,
    };
    (right && m * n * k > 0).then_some(size)
}

impl Fragment {
    fn new(
        instruction: &Instruction,
        matrix: Matrix,
        (m, n, k): (usize, usize, usize),
        ty: &str,
        operand: &Operand,
        mut slot: impl FnMut(&Operand, Type) -> Result<Slot, Refusal>,
    ) -> Result<Fragment, Refusal> {
        let unknown = || Refusal::form(instruction, "this type and shape are not known");
        let bits = bits(ty, matrix, (m, n, k)).ok_or_else(unknown)?;
        let size = match matrix {
            Matrix::A => (m, k),
            Matrix::B => (k, n),
            Matrix::C => (m, n),
        };
        let registers = match (ty, matrix) {
            ("f16", Matrix::A | Matrix::B) => 8,
            _ => size.0 * size.1 * bits.min(32) / (32 * LANES),
        };
        let found = vector(operand);
        if found.len() != registers {
            let why = format!("the fragment has {} registers, not {registers}", found.len());
            return Err(Refusal::form(instruction, &why));
        }
        let register = if bits == 64 { Type::F64 } else { Type::B32 };
        let slots =
            found.iter().map(|operand| slot(operand, register)).collect::<Result<_, _>>()?;
        Ok(Fragment { matrix, size, bits, slots })
    }

    /// Elements in a register.
    fn per(&self) -> usize {
        (32 / self.bits).max(1)
    }

    /// Row and column of element `e` of `register` in `lane`.
    fn place(&self, register: usize, lane: usize, e: usize) -> (usize, usize) {
        let (rows, columns) = self.size;
        let per = self.per();
        let (line, along) = (lane / 4, lane % 4);
        match self.matrix {
            Matrix::A => {
                let tile = register % (rows * columns / (32 * per));
                (line + tile % (rows / 8) * 8, tile / (rows / 8) * 4 * per + along * per + e)
            }
            Matrix::B => {
                let tile = register % (rows * columns / (32 * per));
                let blocks = rows / (4 * per);
                (tile % blocks * 4 * per + along * per + e, line + tile / blocks * 8)
            }
            Matrix::C => {
                let i = register * per + e;
                let (pair, block) = (i / 2, rows / 8);
                (line + pair % block * 8, pair / block * 8 + along * 2 + i % 2)
            }
        }
    }

    /// Element `e` of `register` in every lane.
    fn get(&self, regs: &Registers, register: usize, e: usize) -> [u64; LANES] {
        let slot = self.slots[register];
        match self.bits {
            64 => *regs.r64(slot),
            bits => {
                let mask = u32::MAX >> (32 - bits);
                regs.r32(slot).map(|word| u64::from(word >> (bits * e) & mask))
            }
        }
    }

    /// Writes element `e` of `register` in every lane.
    fn set(&self, regs: &mut Registers, register: usize, e: usize, values: &[u64; LANES]) {
        let slot = self.slots[register];
        if self.bits == 64 {
            return regs.set64(slot, FULL, values);
        }
        let mask = u32::MAX >> (32 - self.bits) << (self.bits * e);
        let old = regs.r32(slot);
        let word =
            |lane: usize| old[lane] & !mask | (values[lane] as u32) << (self.bits * e) & mask;
        let new: W32 = std::array::from_fn(word);
        regs.set32(slot, FULL, &new);
    }

    /// The whole matrix.
    fn matrix<T: Copy + Default>(
        &self,
        regs: &Registers,
        value: impl Fn(u64) -> T,
    ) -> [[T; 32]; 32] {
        let mut out = [[T::default(); 32]; 32];
        for register in 0..self.slots.len() {
            for e in 0..self.per() {
                for (lane, &bits) in self.get(regs, register, e).iter().enumerate() {
                    let (row, column) = self.place(register, lane, e);
                    out[row][column] = value(bits);
                }
            }
        }
        out
    }

    fn put<T: Copy>(
        &self,
        regs: &mut Registers,
        matrix: &[[T; 32]; 32],
        encode: impl Fn(T) -> u64,
    ) {
        for register in 0..self.slots.len() {
            for e in 0..self.per() {
                let values = std::array::from_fn(|lane| {
                    let (row, column) = self.place(register, lane, e);
                    encode(matrix[row][column])
                });
                self.set(regs, register, e, &values);
            }
        }
    }
}

/// wmma.load.{a,b,c} and wmma.store.d.
pub fn lower_move(instruction: &Instruction, to: &mut Lowering) -> Result<Move, Refusal> {
    let wrong = |why: &str| Refusal::form(instruction, why);
    let [direction, which, "sync", "aligned", layout, name, rest @ ..] =
        instruction.modifiers.as_slice()
    else {
        return Err(wrong("known is wmma.load.a.sync.aligned.LAYOUT.SHAPE"));
    };
    let (space, ty) = match rest {
        [ty] => (Space::Generic, *ty),
        ["global", ty] => (Space::Global, *ty),
        ["shared" | "shared::cta", ty] => (Space::Shared, *ty),
        _ => return Err(wrong("the space is .global, .shared or none")),
    };
    let by_column = match *layout {
        "row" => false,
        "col" => true,
        _ => return Err(wrong("the layout is .row or .col")),
    };
    let dimensions = shape(name).ok_or_else(|| wrong("this shape is not known"))?;
    let (pitch, registers, address, matrix) = match (*direction, *which) {
        ("load", "a" | "b" | "c") => {
            let matrix = match *which {
                "a" => Matrix::A,
                "b" => Matrix::B,
                _ => Matrix::C,
            };
            let (registers, address, pitch) = three(instruction)?;
            (pitch, registers, address, matrix)
        }
        ("store", "d") => {
            let (address, registers, pitch) = three(instruction)?;
            (pitch, registers, address, Matrix::C)
        }
        _ => return Err(wrong("known are load.a, load.b, load.c and store.d")),
    };
    // Without a pitch the rows (or columns) lie one behind the other.
    let loads = *direction == "load";
    let fragment =
        Fragment::new(instruction, matrix, dimensions, ty, registers, |operand, ty| match loads {
            true => to.dst(operand, ty),
            false => to.src(operand, ty),
        })?;
    let pitch = match pitch {
        Some(pitch) => to.src(pitch, Type::U32)?,
        None => {
            let (rows, columns) = fragment.size;
            to.constant(if by_column { rows } else { columns } as u64, false)
        }
    };
    let at = decode::target(instruction, Some(address), space, to)?;
    let bytes = fragment.bits as u32 / 8;
    let address = to.fresh(true);
    let wide = bytes == 8;
    let element = Reg { slot: to.fresh(wide), wide, bytes: bytes.max(4) };
    let base = super::super::lower::Base { slot: address, wide: true };
    let one = Target { base: Some(base), offset: 0, framed: false, ..at };
    let access = match loads {
        true => Access::Load(Load::plain(one, bytes, element)),
        false => Access::Store(Store::plain(one, bytes, element)),
    };
    Ok(Move { fragment, at, pitch, by_column, address, element, access })
}

/// Two operands, and a pitch if there is one.
fn three<'i, 'a>(
    instruction: &'i Instruction<'a>,
) -> Result<(&'i Operand<'a>, &'i Operand<'a>, Option<&'i Operand<'a>>), Refusal> {
    match instruction.operands.as_slice() {
        [a, b] => Ok((a, b, None)),
        [a, b, pitch] => Ok((a, b, Some(pitch))),
        _ => Err(Refusal::form(instruction, "2 or 3 operands are needed")),
    }
}

pub fn exec_move(op: &Move, exec: &mut Exec) -> Result<(), Fault> {
    let start = op.at.addresses(exec);
    let pitch = *exec.regs.r32(op.pitch);
    let fragment = &op.fragment;
    for register in 0..fragment.slots.len() {
        for e in 0..fragment.per() {
            let addresses = std::array::from_fn(|lane| {
                let (row, column) = fragment.place(register, lane, e);
                let (line, along) = if op.by_column { (column, row) } else { (row, column) };
                let index = line as u64 * u64::from(pitch[lane]) + along as u64;
                start[lane].wrapping_add(index * fragment.bits as u64 / 8)
            });
            exec.regs.set64(op.address, FULL, &addresses);
            match &op.access {
                Access::Load(one) => {
                    load::exec(one, exec)?;
                    let values = match op.element.wide {
                        true => *exec.regs.r64(op.element.slot),
                        false => exec.regs.r32(op.element.slot).map(u64::from),
                    };
                    fragment.set(&mut exec.regs, register, e, &values);
                }
                Access::Store(one) => {
                    let values = fragment.get(&exec.regs, register, e);
                    match op.element.wide {
                        true => exec.regs.set64(op.element.slot, FULL, &values),
                        false => {
                            exec.regs.set32(op.element.slot, FULL, &values.map(|v| v as u32));
                        }
                    }
                    store::exec(one, exec)?;
                }
            }
        }
    }
    Ok(())
}

/// wmma.mma.
pub fn lower_multiply(instruction: &Instruction, to: &mut Lowering) -> Result<Multiply, Refusal> {
    let wrong = |why: &str| Refusal::form(instruction, why);
    let ["mma", "sync", "aligned", "row" | "col", "row" | "col", name, types @ ..] =
        instruction.modifiers.as_slice()
    else {
        return Err(wrong("known is wmma.mma.sync.aligned.LAYOUT.LAYOUT.SHAPE"));
    };
    let (types, saturate) = match types {
        [types @ .., "satfinite"] => (types, true),
        [types @ .., "rn"] => (types, false),
        types => (types, false),
    };
    let (d_type, a_type, b_type, c_type) = match types {
        [d, c] => (*d, "f16", "f16", *c),
        [d, a, b, c] => (*d, *a, *b, *c),
        _ => return Err(wrong("the types of D and C, or of all four are needed")),
    };
    let unknown = || wrong("this combination of types is not known");
    let kind = match (a_type, b_type) {
        ("f64", "f64") => Kind::Double,
        (a, b) => match (Float::from_name(a), Integer::from_name(a), Integer::from_name(b)) {
            (Some(float), ..) if a == b => Kind::Float(float),
            (_, Some(a), Some(b)) => Kind::Integer { a, b, saturate },
            _ => return Err(unknown()),
        },
    };
    let accumulator = |name: &str| match (kind, Accumulator::from_name(name)) {
        (Kind::Double, Some(Accumulator::F64)) => Ok(Accumulator::F64),
        (Kind::Integer { .. }, Some(Accumulator::S32)) => Ok(Accumulator::S32),
        (Kind::Float(Float::F16), Some(Accumulator::F16)) => Ok(Accumulator::F16),
        (Kind::Float(_), Some(Accumulator::F32)) => Ok(Accumulator::F32),
        _ => Err(unknown()),
    };
    if saturate && !matches!(kind, Kind::Integer { .. }) {
        return Err(wrong(".satfinite is for integers here"));
    }
    let (d_kind, c_kind) = (accumulator(d_type)?, accumulator(c_type)?);
    let dimensions = shape(name).ok_or_else(|| wrong("this shape is not known"))?;
    let [d, a, b, c] = operands(instruction)?;
    let mut read = |matrix, ty: &str, operand: &Operand| {
        Fragment::new(instruction, matrix, dimensions, ty, operand, |o, ty| to.src(o, ty))
    };
    let a = read(Matrix::A, a_type, a)?;
    let b = read(Matrix::B, b_type, b)?;
    let c = read(Matrix::C, c_type, c)?;
    let d = Fragment::new(instruction, Matrix::C, dimensions, d_type, d, |o, ty| to.dst(o, ty))?;
    Ok(Multiply { kind, a, b, c: (c_kind, c), d: (d_kind, d) })
}

pub fn exec_multiply(op: &Multiply, regs: &mut Registers) {
    let ((m, k), (_, n)) = (op.a.size, op.b.size);
    match op.kind {
        Kind::Integer { a, b, saturate } => {
            let a = op.a.matrix(regs, |bits| i64::from(a.value(bits as u32)));
            let b = op.b.matrix(regs, |bits| i64::from(b.value(bits as u32)));
            let mut d = op.c.1.matrix(regs, |bits| i64::from(bits as i32));
            for i in 0..m {
                for l in 0..k {
                    for j in 0..n {
                        d[i][j] += a[i][l] * b[l][j];
                    }
                }
            }
            let clamp = |sum: i64| sum.clamp(i32::MIN.into(), i32::MAX.into());
            op.d.1.put(regs, &d, |sum| (if saturate { clamp(sum) } else { sum }) as u32 as u64);
        }
        Kind::Double => {
            let a = op.a.matrix(regs, f64::from_bits);
            let b = op.b.matrix(regs, f64::from_bits);
            let mut d = op.c.1.matrix(regs, f64::from_bits);
            for i in 0..m {
                for l in 0..k {
                    for j in 0..n {
                        d[i][j] = a[i][l].mul_add(b[l][j], d[i][j]);
                    }
                }
            }
            op.d.1.put(regs, &d, f64::to_bits);
        }
        Kind::Float(float) => {
            let a = op.a.matrix(regs, |bits| float.value(bits as u32));
            let b = op.b.matrix(regs, |bits| float.value(bits as u32));
            let (c_type, c) = &op.c;
            let c = match c_type {
                Accumulator::F16 => c.matrix(regs, |bits| product::from_f16(bits as u32)),
                _ => c.matrix(regs, |bits| f64::from(f32::from_bits(bits as u32))),
            };
            let mut d = [[0.0; 32]; 32];
            for i in 0..m {
                for l in 0..k {
                    for j in 0..n {
                        d[i][j] += a[i][l] * b[l][j];
                    }
                }
                for j in 0..n {
                    d[i][j] += c[i][j];
                }
            }
            let (d_type, out) = &op.d;
            match d_type {
                Accumulator::F16 => out.put(regs, &d, |sum| u64::from(product::to_f16(sum))),
                _ => out.put(regs, &d, |sum| u64::from(product::to_f32(sum))),
            }
        }
    }
}
