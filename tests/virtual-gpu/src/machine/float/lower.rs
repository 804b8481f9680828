//! Lowering of the floating point instructions: which function, from opcode and modifiers.

use super::{Arithmetic, Class, Form, Op, Run, double, half, single};
use crate::machine::arith::Round;
use crate::machine::lower::{Lowering, Refusal};
use crate::machine::registers::Slot;
use crate::ptx::ast::{Instruction, Operand, Type};

/// The modifiers as written.
#[derive(Default)]
struct Modifiers {
    form: Form,
    /// None was written: to nearest, where the instruction rounds.
    rounded: bool,
    approx: bool,
    full: bool,
}

/// Lowers an instruction of this family; `None` for another one.
pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    let refuse = |why: &str| Err(Refusal::form(instruction, why));
    let always = matches!(
        instruction.name,
        "fma"
            | "rcp"
            | "sqrt"
            | "rsqrt"
            | "sin"
            | "cos"
            | "lg2"
            | "ex2"
            | "tanh"
            | "copysign"
            | "testp"
    );
    let shared = matches!(
        instruction.name,
        "add" | "sub" | "mul" | "mad" | "div" | "neg" | "abs" | "min" | "max"
    );
    let Some((last, modifiers)) = instruction.modifiers.split_last() else { return Ok(None) };
    let float = last.starts_with('f') || last.starts_with("bf");
    let ours = always || shared && float;
    if !ours {
        return Ok(None);
    }
    if instruction.name == "testp" {
        return test(instruction, to).map(Some);
    }
    let ty = match Type::from_name(last) {
        Some(
            ty @ (Type::F64 | Type::F32 | Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2),
        ) => ty,
        _ => return refuse("this type is not known here"),
    };
    let Some(modifiers) = parse(modifiers) else {
        return refuse("a modifier that is not known here");
    };
    let run = match ty {
        Type::F64 => run_f64(instruction.name, &modifiers),
        Type::F32 => run_f32(instruction.name, &modifiers),
        Type::F16 => run_half(instruction.name, half::Kind::F16 { packed: false }, &modifiers),
        Type::F16x2 => run_half(instruction.name, half::Kind::F16 { packed: true }, &modifiers),
        Type::BF16 => run_half(instruction.name, half::Kind::Bf16 { packed: false }, &modifiers),
        _ => run_half(instruction.name, half::Kind::Bf16 { packed: true }, &modifiers),
    };
    let Some(run) = run else { return refuse("this form is not known here") };
    let count = match instruction.name {
        "fma" | "mad" => 3,
        "add" | "sub" | "mul" | "div" | "min" | "max" | "copysign" => 2,
        _ => 1,
    };
    let [d, sources @ ..] = &instruction.operands[..] else { return refuse("no operands") };
    if sources.len() != count {
        return refuse(&format!("{count} source operands wanted, {} given", sources.len()));
    }
    let first = to.src(&sources[0], ty)?;
    let mut operands = [first; 3];
    for (slot, operand) in operands.iter_mut().zip(sources).skip(1) {
        *slot = to.src(operand, ty)?;
    }
    let d = to.dst(d, ty)?;
    Ok(Some(Op::Arithmetic(Arithmetic { run, d, operands, form: modifiers.form })))
}

/// `None` where one is not known.
fn parse(modifiers: &[&str]) -> Option<Modifiers> {
    let mut out = Modifiers::default();
    let mut abs = false;
    for &modifier in modifiers {
        match modifier {
            "ftz" => out.form.ftz = true,
            "sat" => out.form.sat = true,
            "relu" => out.form.relu = true,
            "NaN" => out.form.nan = true,
            "xorsign" => out.form.xorsign = true,
            "abs" => abs = true,
            "approx" => out.approx = true,
            "full" => out.full = true,
            "rn" | "rz" | "rm" | "rp" => {
                out.form.round = Round::from_name(modifier)?;
                out.rounded = true;
            }
            _ => return None,
        }
    }
    (abs == out.form.xorsign).then_some(out)
}

impl Modifiers {
    /// Whether none was written but those that `allowed` has.
    fn only(&self, allowed: Modifiers) -> bool {
        let (own, may) = (&self.form, &allowed.form);
        (!own.ftz || may.ftz)
            && (!own.sat || may.sat)
            && (!own.relu || may.relu)
            && (!own.nan || may.nan)
            && (!own.xorsign || may.xorsign)
            && (!self.rounded || allowed.rounded)
            && (!self.approx || allowed.approx)
            && (!self.full || allowed.full)
    }
}

/// Modifiers that an instruction may have, by their names.
fn allow(names: &[&str]) -> Modifiers {
    parse(names).unwrap_or_default()
}

fn run_f32(name: &str, m: &Modifiers) -> Option<Run> {
    let Form { round, ftz, sat, nan, xorsign, .. } = m.form;
    let rounds = m.rounded;
    let (run, allowed): (Run, Modifiers) = match name {
        "add" => (single::add(round, ftz, sat), allow(&["rn", "ftz", "sat"])),
        "sub" => (single::sub(round, ftz, sat), allow(&["rn", "ftz", "sat"])),
        "mul" => (single::mul(round, ftz, sat), allow(&["rn", "ftz", "sat"])),
        "fma" | "mad" if rounds => (single::fma(round, ftz, sat), allow(&["rn", "ftz", "sat"])),
        "div" if rounds => (single::div(round, ftz), allow(&["rn", "ftz"])),
        "div" if m.full => (single::div(round, ftz), allow(&["full", "ftz"])),
        "div" if m.approx => (single::div_approx(ftz), allow(&["approx", "ftz"])),
        "rcp" if rounds => (single::rcp(round, ftz), allow(&["rn", "ftz"])),
        "sqrt" if rounds => (single::sqrt(round, ftz), allow(&["rn", "ftz"])),
        "neg" => (single::neg, allow(&["ftz"])),
        "abs" => (single::abs, allow(&["ftz"])),
        "copysign" => (single::copysign, allow(&[])),
        "min" | "max" => {
            (single::min_max(name == "max", nan, xorsign), allow(&["ftz", "NaN", "xorsign", "abs"]))
        }
        _ if m.approx => (single::approximation(name, ftz)?, allow(&["approx", "ftz"])),
        _ => return None,
    };
    m.only(allowed).then_some(run)
}

fn run_f64(name: &str, m: &Modifiers) -> Option<Run> {
    let round = m.form.round;
    let rounds = m.rounded;
    let (run, allowed): (Run, Modifiers) = match name {
        "add" => (double::add(round), allow(&["rn"])),
        "sub" => (double::sub(round), allow(&["rn"])),
        "mul" => (double::mul(round), allow(&["rn"])),
        "fma" | "mad" if rounds => (double::fma(round), allow(&["rn"])),
        "div" if rounds => (double::div(round), allow(&["rn"])),
        "rcp" if rounds => (double::rcp(round), allow(&["rn"])),
        "sqrt" if rounds => (double::sqrt(round), allow(&["rn"])),
        "rcp" if m.approx && m.form.ftz => (double::rcp_approx_ftz, allow(&["approx", "ftz"])),
        "rsqrt" if m.approx && m.form.ftz => (double::rsqrt_approx_ftz, allow(&["approx", "ftz"])),
        "rsqrt" if m.approx => (double::rsqrt, allow(&["approx"])),
        "neg" => (double::neg, allow(&[])),
        "abs" => (double::abs, allow(&[])),
        "copysign" => (double::copysign, allow(&[])),
        "min" | "max" => (double::min_max(name == "max"), allow(&[])),
        _ => return None,
    };
    m.only(allowed).then_some(run)
}

fn run_half(name: &str, kind: half::Kind, m: &Modifiers) -> Option<Run> {
    let f16 = matches!(kind, half::Kind::F16 { .. });
    let Form { round, sat, relu, .. } = m.form;
    if round != Round::Nearest || (sat && relu) || (!f16 && sat) {
        return None;
    }
    // bf16's subnormals are never flushed, except by ex2, which has no other form.
    let rn = if f16 { allow(&["rn", "ftz", "sat"]) } else { allow(&["rn"]) };
    let (run, allowed): (Run, Modifiers) = match name {
        "add" => (half::add(kind), rn),
        "sub" => (half::sub(kind), rn),
        "mul" => (half::mul(kind), rn),
        "fma" if m.rounded && f16 => (half::fma(kind), allow(&["rn", "ftz", "sat", "relu"])),
        "fma" if m.rounded => (half::fma(kind), allow(&["rn", "relu"])),
        "neg" => (half::neg(kind), if f16 { allow(&["ftz"]) } else { allow(&[]) }),
        "abs" => (half::abs(kind), if f16 { allow(&["ftz"]) } else { allow(&[]) }),
        "min" | "max" if f16 => {
            (half::min_max(kind, name == "max"), allow(&["ftz", "NaN", "xorsign", "abs"]))
        }
        "min" | "max" => (half::min_max(kind, name == "max"), allow(&["NaN", "xorsign", "abs"])),
        "ex2" if m.approx && (f16 || m.form.ftz) => (half::ex2(kind), allow(&["approx", "ftz"])),
        "tanh" if m.approx => (half::tanh(kind), allow(&["approx"])),
        _ => return None,
    };
    m.only(allowed).then_some(run)
}

/// `testp.class.type p, a;`
fn test(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let refuse = |why: &str| Refusal::form(instruction, why);
    let [class, ty] = instruction.modifiers[..] else {
        return Err(refuse("one class and one type wanted"));
    };
    let class = match class {
        "finite" => Class::Finite,
        "infinite" => Class::Infinite,
        "number" => Class::Number,
        "notanumber" => Class::NotANumber,
        "normal" => Class::Normal,
        "subnormal" => Class::Subnormal,
        _ => return Err(refuse("this class is not known")),
    };
    let ty = match Type::from_name(ty) {
        Some(ty @ (Type::F32 | Type::F64)) => ty,
        _ => return Err(refuse("testp is for f32 and f64")),
    };
    let [d, a]: &[Operand; 2] =
        instruction.operands[..].try_into().map_err(|_| refuse("two operands wanted"))?;
    let a: Slot = to.src(a, ty)?;
    Ok(Op::Test { class, wide: ty == Type::F64, d: to.dst_pred(d)?, a })
}
