//! The five tests that all comparisons are made of, for every type.

use crate::machine::registers::{LANES, Registers, Slot};
use crate::ptx::ast::Type;

/// The lanes, all 32, where it holds of `a` and `b`.
pub type Test = fn(&Registers, Slot, Slot) -> u32;

/// A comparison operator of a type, as a test.
pub struct Found {
    pub test: Test,
    /// Of packed halves: the same test of the upper ones.
    pub upper: Option<Test>,
    /// It is asked of `b` and `a`.
    pub swapped: bool,
    /// Its opposite is asked for.
    pub negated: bool,
    /// As what the operands are read.
    pub ty: Type,
}

/// The tests. Only the first two are used of integers.
#[derive(Debug, Clone, Copy)]
enum Base {
    Equal,
    Less,
    LessOrEqual,
    /// Both are numbers, and differ.
    Different,
    /// Both are numbers.
    Numbers,
}

/// Finds the test of an operator; `None` where the type has no such operator.
pub fn of(operator: &str, ty: &str, ftz: bool) -> Option<Found> {
    use Base::*;
    let of_float = ty.starts_with('f') || ty.starts_with("bf");
    let (base, swapped, negated) = if of_float {
        match operator {
            "eq" => (Equal, false, false),
            "ne" => (Different, false, false),
            "lt" => (Less, false, false),
            "le" => (LessOrEqual, false, false),
            "gt" => (Less, true, false),
            "ge" => (LessOrEqual, true, false),
            // With a NaN: the opposite of what fails with one.
            "equ" => (Different, false, true),
            "neu" => (Equal, false, true),
            "ltu" => (LessOrEqual, true, true),
            "leu" => (Less, true, true),
            "gtu" => (LessOrEqual, false, true),
            "geu" => (Less, false, true),
            "num" => (Numbers, false, false),
            "nan" => (Numbers, false, true),
            _ => return None,
        }
    } else {
        match operator {
            "eq" => (Equal, false, false),
            "ne" => (Equal, false, true),
            _ if ty.starts_with('b') || ftz => return None,
            "lt" => (Less, false, false),
            "ge" => (Less, false, true),
            "gt" => (Less, true, false),
            "le" => (Less, true, true),
            _ if ty.starts_with('s') => return None,
            "lo" => (Less, false, false),
            "hs" => (Less, false, true),
            "hi" => (Less, true, false),
            "ls" => (Less, true, true),
            _ => return None,
        }
    };
    if of_float {
        let (test, upper) = float(base, ty, ftz)?;
        return Some(Found { test, upper, swapped, negated, ty: Type::from_name(ty)? });
    }
    if ftz {
        return None;
    }
    let test = integer(base, ty)?;
    Some(Found { test, upper: None, swapped, negated, ty: Type::from_name(ty)? })
}

fn integer(base: Base, ty: &str) -> Option<Test> {
    Some(match (base, ty) {
        (Base::Equal, "b16" | "u16" | "s16" | "b32" | "u32" | "s32") => {
            |r, a, b| lanes32(r, a, b, |a, b| a == b)
        }
        (Base::Equal, "b64" | "u64" | "s64") => |r, a, b| lanes64(r, a, b, |a, b| a == b),
        // Values of 16 bits have zeros above.
        (Base::Less, "u16" | "u32") => |r, a, b| lanes32(r, a, b, |a, b| a < b),
        (Base::Less, "s16") => |r, a, b| lanes32(r, a, b, |a, b| (a as i16) < b as i16),
        (Base::Less, "s32") => |r, a, b| lanes32(r, a, b, |a, b| (a as i32) < b as i32),
        (Base::Less, "u64") => |r, a, b| lanes64(r, a, b, |a, b| a < b),
        (Base::Less, "s64") => |r, a, b| lanes64(r, a, b, |a, b| (a as i64) < b as i64),
        _ => return None,
    })
}

/// The test of a float type, and of the upper halves where there are two.
fn float(base: Base, ty: &str, ftz: bool) -> Option<(Test, Option<Test>)> {
    Some(match (ty, ftz) {
        ("f32", false) => (test32::<F32>(base), None),
        ("f32", true) => (test32::<FlushedF32>(base), None),
        ("f64", false) => (test64(base), None),
        ("f16", false) => (test32::<F16<0>>(base), None),
        ("f16", true) => (test32::<FlushedF16<0>>(base), None),
        ("bf16", false) => (test32::<BF16<0>>(base), None),
        ("f16x2", false) => (test32::<F16<0>>(base), Some(test32::<F16<16>>(base))),
        ("f16x2", true) => (test32::<FlushedF16<0>>(base), Some(test32::<FlushedF16<16>>(base))),
        ("bf16x2", false) => (test32::<BF16<0>>(base), Some(test32::<BF16<16>>(base))),
        _ => return None,
    })
}

/// What a slot of 32 bits holds, as a float that compares as it does.
trait View {
    fn view(bits: u32) -> f32;
}

struct F32;
struct FlushedF32;
/// The half from bit `AT` up.
struct F16<const AT: u32>;
struct FlushedF16<const AT: u32>;
struct BF16<const AT: u32>;

impl View for F32 {
    #[inline(always)]
    fn view(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
}

impl View for FlushedF32 {
    #[inline(always)]
    fn view(bits: u32) -> f32 {
        flush32(bits)
    }
}

impl<const AT: u32> View for F16<AT> {
    #[inline(always)]
    fn view(bits: u32) -> f32 {
        ordered16(bits >> AT, 0)
    }
}

impl<const AT: u32> View for FlushedF16<AT> {
    #[inline(always)]
    fn view(bits: u32) -> f32 {
        ordered16(bits >> AT, 0x400)
    }
}

impl<const AT: u32> View for BF16<AT> {
    #[inline(always)]
    fn view(bits: u32) -> f32 {
        f32::from_bits(bits >> AT << 16)
    }
}

/// Subnormal numbers are zeros.
#[inline(always)]
pub fn flush32(bits: u32) -> f32 {
    let flushed = if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits };
    f32::from_bits(flushed)
}

/// Binary16 bits in the lower half: their magnitudes as integers are in the order of the numbers, so no
/// conversion is needed to compare. Magnitudes below `smallest` are zeros.
#[inline(always)]
fn ordered16(bits: u32, smallest: i32) -> f32 {
    let magnitude = (bits & 0x7FFF) as i32;
    let kept = if magnitude < smallest { 0 } else { magnitude };
    let order = if bits & 0x8000 != 0 { -kept } else { kept } as f32;
    if magnitude > 0x7C00 { f32::NAN } else { order }
}

fn test32<V: View>(base: Base) -> Test {
    match base {
        Base::Equal => |r, a, b| lanes32(r, a, b, |a, b| V::view(a) == V::view(b)),
        Base::Less => |r, a, b| lanes32(r, a, b, |a, b| V::view(a) < V::view(b)),
        Base::LessOrEqual => |r, a, b| lanes32(r, a, b, |a, b| V::view(a) <= V::view(b)),
        Base::Different => {
            |r, a, b| lanes32(r, a, b, |a, b| (V::view(a) < V::view(b)) | (V::view(a) > V::view(b)))
        }
        Base::Numbers => {
            |r, a, b| lanes32(r, a, b, |a, b| !V::view(a).is_nan() & !V::view(b).is_nan())
        }
    }
}

fn test64(base: Base) -> Test {
    match base {
        Base::Equal => |r, a, b| lanes64(r, a, b, |a, b| f64::from_bits(a) == f64::from_bits(b)),
        Base::Less => |r, a, b| lanes64(r, a, b, |a, b| f64::from_bits(a) < f64::from_bits(b)),
        Base::LessOrEqual => {
            |r, a, b| lanes64(r, a, b, |a, b| f64::from_bits(a) <= f64::from_bits(b))
        }
        Base::Different => |r, a, b| {
            lanes64(r, a, b, |a, b| {
                (f64::from_bits(a) < f64::from_bits(b)) | (f64::from_bits(a) > f64::from_bits(b))
            })
        },
        Base::Numbers => |r, a, b| {
            lanes64(r, a, b, |a, b| !f64::from_bits(a).is_nan() & !f64::from_bits(b).is_nan())
        },
    }
}

#[inline(always)]
fn lanes32(r: &Registers, a: Slot, b: Slot, f: impl Fn(u32, u32) -> bool) -> u32 {
    let (a, b) = (r.r32(a), r.r32(b));
    let mut holds = [0; LANES];
    for i in 0..LANES {
        holds[i] = u8::from(f(a[i], b[i]));
    }
    gather(&holds)
}

#[inline(always)]
fn lanes64(r: &Registers, a: Slot, b: Slot, f: impl Fn(u64, u64) -> bool) -> u32 {
    let (a, b) = (r.r64(a), r.r64(b));
    let mut holds = [0; LANES];
    for i in 0..LANES {
        holds[i] = u8::from(f(a[i], b[i]));
    }
    gather(&holds)
}

/// One bit of every byte, each 0 or 1: eight at a time, by a product that moves bit `8i` to `56 + i`.
#[inline(always)]
fn gather(holds: &[u8; LANES]) -> u32 {
    let mut mask = 0;
    for (i, eight) in holds.as_chunks::<8>().0.iter().enumerate() {
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= (bits as u32) << (8 * i);
    }
    mask
}
