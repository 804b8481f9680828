//! Lowering of cvt: the types, the modifiers, and which function does it.

use super::{Form, Op, Register, Run, fast, one_by_one, pack, packed, scalar};
use crate::machine::arith::Round;
use crate::machine::lower::{Lowering, Refusal};
use crate::ptx::ast::{Instruction, Operand, Type};

/// Lowers `cvt` and `cvt.pack`; `None` for anything else.
pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    if instruction.name != "cvt" {
        return Ok(None);
    }
    if instruction.modifiers.first() == Some(&"pack") {
        return lower_pack(instruction, to).map(Some);
    }
    let refuse = |why: &str| Refusal::form(instruction, why);
    let [modifiers @ .., to_name, from_name] = &instruction.modifiers[..] else {
        return Err(refuse("two types wanted"));
    };
    let ty = |name| Type::from_name(name).filter(|ty| convertible(*ty));
    let (Some(into), Some(from)) = (ty(to_name), ty(from_name)) else {
        return Err(refuse("a type that is not known here"));
    };
    let (form, rounded) =
        parse(modifiers, into, from).ok_or_else(|| refuse("a modifier that is not known here"))?;
    let run = choose(&form, rounded).map_err(refuse)?;
    let is_packed = is_packed(into) || is_packed(from);
    let [d, sources @ ..] = &instruction.operands[..] else { return Err(refuse("no operands")) };
    let wanted = if is_packed && from == Type::F32 { 2 } else { 1 };
    if sources.len() != wanted {
        return Err(refuse(&format!("{wanted} source operands wanted, {} given", sources.len())));
    }
    let a = register(to.src_any(&sources[0], from)?, &sources[0], from, to);
    let b = match sources.get(1) {
        Some(operand) => to.src(operand, from)?,
        None => a.slot,
    };
    let d = register(to.dst_any(d, into)?, d, into, to);
    if a.bytes < from.bytes() || d.bytes < into.bytes() {
        return Err(refuse("a register is narrower than its type"));
    }
    if is_packed && (a.wide() || d.wide()) {
        return Err(refuse("packed forms have registers of up to 32 bits"));
    }
    let run = fast::choose(&form, a.bytes, d.bytes).unwrap_or(run);
    Ok(Some(Op { run, d, a, b, c: a.slot, form }))
}

fn register(
    (slot, wide): (crate::machine::registers::Slot, bool),
    operand: &Operand,
    ty: Type,
    to: &Lowering,
) -> Register {
    let bytes = match (to.register_bytes(operand), wide) {
        (0, true) => 8,
        (0, false) => ty.bytes(),
        (bytes, _) => bytes,
    };
    Register { slot, bytes }
}

fn convertible(ty: Type) -> bool {
    use Type::*;
    !matches!(ty, Pred | B8 | B16 | B32 | B64 | B128)
}

fn is_packed(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::BF16x2 | Type::E4M3x2 | Type::E5M2x2)
}

/// The form, and whether a rounding was written; `None` where a modifier is not known.
fn parse(modifiers: &[&str], into: Type, from: Type) -> Option<(Form, bool)> {
    let mut form = Form {
        to: into,
        from,
        round: Round::Nearest,
        integer: false,
        ftz: false,
        sat: false,
        relu: false,
        satfinite: false,
        field: 0,
    };
    let mut rounded = false;
    for &modifier in modifiers {
        match modifier {
            "ftz" => form.ftz = true,
            "sat" => form.sat = true,
            "relu" => form.relu = true,
            "satfinite" => form.satfinite = true,
            "rni" | "rzi" | "rmi" | "rpi" => {
                form.round = Round::from_name(&modifier[..2])?;
                form.integer = true;
                rounded = true;
            }
            _ => {
                form.round = Round::from_name(modifier)?;
                rounded = true;
            }
        }
    }
    Some((form, rounded))
}

/// The function that does any valid form, or what is wrong with this one.
fn choose(form: &Form, rounded: bool) -> Result<Run, &'static str> {
    let Form { to, from, integer, .. } = *form;
    if is_packed(to) || is_packed(from) {
        return choose_packed(form, rounded).map(|()| packed as Run);
    }
    let (from_float, to_float) = (from.is_float(), to.is_float());
    if form.ftz && from != Type::F32 && to != Type::F32 {
        return Err(".ftz wants f32 on one side");
    }
    if form.sat && (form.relu || form.satfinite) {
        return Err(".sat goes with neither .relu nor .satfinite");
    }
    let narrows = matches!((from, to), (Type::F32, Type::F16 | Type::BF16 | Type::TF32));
    if (form.relu || form.satfinite) && !narrows {
        return Err(".relu and .satfinite are for f32 to f16, bf16 and tf32");
    }
    if form.round == Round::Away && to != Type::TF32 {
        return Err(".rna is for tf32");
    }
    if from == Type::TF32 || (to == Type::TF32 && from != Type::F32) {
        return Err("tf32 is made of f32 only");
    }
    match (from_float, to_float) {
        (false, false) if rounded => Err("integers are not rounded"),
        (false, true) if integer => Err(".rni and the like are for results that are integers"),
        (true, false) if !integer => {
            Err("a rounding to an integer is wanted: .rni, .rzi, .rmi or .rpi")
        }
        (true, true) if integer && from != to => {
            Err("rounding to an integer keeps the type: cvt.rni.f32.f32")
        }
        (true, true) if !rounded && !widens(from, to) => {
            Err("a rounding is wanted: .rn, .rz, .rm or .rp")
        }
        _ => Ok(one_by_one),
    }
}

/// Whether every number of one format is one of the other.
fn widens(from: Type, to: Type) -> bool {
    let (Some(from), Some(to)) = (scalar::format(from), scalar::format(to)) else { return false };
    from.precision <= to.precision && from.min_exponent >= to.min_exponent
}

fn choose_packed(form: &Form, rounded: bool) -> Result<(), &'static str> {
    use Type::*;
    let small = |ty| matches!(ty, E4M3x2 | E5M2x2);
    if form.ftz || form.sat || form.integer || !rounded {
        return Err("packed forms are rounded, and have neither .ftz nor .sat");
    }
    match (form.from, form.to) {
        (F32, F16x2 | BF16x2) if matches!(form.round, Round::Nearest | Round::Zero) => Ok(()),
        (F32 | F16x2, to) if small(to) && form.round == Round::Nearest && form.satfinite => Ok(()),
        (from, F16x2) if small(from) && form.round == Round::Nearest && !form.satfinite => Ok(()),
        _ => Err("this packed form is not known here"),
    }
}

/// `cvt.pack.sat.u16.s32 d, a, b;` and `cvt.pack.sat.u8.s32.b32 d, a, b, c;`
fn lower_pack(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let refuse = |why: &str| Refusal::form(instruction, why);
    let (ty, third) = match instruction.modifiers[..] {
        ["pack", "sat", ty, "s32"] => (ty, false),
        ["pack", "sat", ty, "s32", "b32"] => (ty, true),
        _ => return Err(refuse("cvt.pack.sat.type.s32 or cvt.pack.sat.type.s32.b32 wanted")),
    };
    let field: u32 = match &ty[1..] {
        "16" => 16,
        "8" => 8,
        "4" => 4,
        "2" => 2,
        _ => return Err(refuse("this type is not known here")),
    };
    let sign = match &ty[..1] {
        "s" => Type::S32,
        "u" => Type::U32,
        _ => return Err(refuse("this type is not known here")),
    };
    if third == (field == 16) || instruction.operands.len() != 3 + usize::from(third) {
        return Err(refuse("fields of 16 bits take two sources, smaller ones three"));
    }
    let (mut form, _) = parse(&[], sign, Type::S32).ok_or_else(|| refuse("no form"))?;
    form.field = field;
    let a = to.src(&instruction.operands[1], Type::S32)?;
    let b = to.src(&instruction.operands[2], Type::S32)?;
    let c = match instruction.operands.get(3) {
        Some(operand) => to.src(operand, Type::B32)?,
        None => a,
    };
    let d = to.dst(&instruction.operands[0], Type::B32)?;
    let four = |slot| Register { slot, bytes: 4 };
    Ok(Op { run: pack, d: four(d), a: four(a), b, c, form })
}
