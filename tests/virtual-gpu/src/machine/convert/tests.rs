//! The fast conversions are the exact ones.

use super::{Form, Op, Register, fast, one_by_one, packed};
use crate::machine::arith::Round;
use crate::machine::registers::{FULL, LANES, Lanes, Registers, Slot};
use crate::ptx::ast::Type;

const TYPES: [Type; 12] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::BF16,
    Type::F32,
    Type::F64,
];

/// Values around every border of every type, and random ones.
fn values() -> Vec<u64> {
    let mut out = vec![0, 1, u64::MAX];
    for bit in 0..64 {
        for near in [-1i64, 0, 1] {
            out.push((1u64 << bit).wrapping_add_signed(near));
            out.push((1u64 << bit).wrapping_neg().wrapping_add_signed(near));
        }
    }
    for x in [0.5, 1.5, 2.5, 0.49, 65504.0, 65520.0, 65519.9, 3e38, 1e-40, 1e-7, 5.96e-8, 2.98e-8] {
        for x in [x, -x] {
            out.extend([f64::to_bits(x), u64::from((x as f32).to_bits())]);
            out.push(u64::from(half::f16::from_f64(x).to_bits()));
            out.push(u64::from(half::bf16::from_f64(x).to_bits()));
        }
    }
    for power in [7, 8, 15, 16, 31, 32, 63, 64] {
        for near in [-1.0, -0.5, 0.0, 0.5] {
            let x = f64::powi(2.0, power) + near;
            out.extend([x.to_bits(), (-x).to_bits()]);
            out.extend([x, -x].map(|x| u64::from((x as f32).to_bits())));
        }
    }
    let mut state = 1u64;
    for i in 0..4000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = state ^ state >> 29;
        // Random bits, and f32s of ordinary size.
        out.push(if i % 2 == 0 { x } else { x & 0x8FFF_FFFF | 0x4000_0000 });
    }
    while out.len() % LANES != 0 {
        out.push(0x7FC0_0000);
    }
    out
}

/// Runs one function over values; registers of 8 bytes at slots 0, 2 and 4, or of fewer.
fn run(op: &Op, function: super::Run, a: &[u64], b: &[u64], register: Type) -> Vec<u64> {
    let mut slots = [Lanes([0; LANES]); 6];
    for lane in 0..LANES {
        let (low, high) = (a[lane] as u32, (a[lane] >> 32) as u32);
        let bytes = register.bytes();
        let low = if bytes < 4 { low & ((1 << (8 * bytes)) - 1) } else { low };
        let mut words = [0u32; 64];
        words.copy_from_slice(bytemuck::cast_slice(&slots[0..2]));
        if bytes == 8 {
            (words[2 * lane], words[2 * lane + 1]) = (low, high);
        } else {
            words[lane] = low;
        }
        bytemuck::cast_slice_mut::<Lanes, u32>(&mut slots[0..2]).copy_from_slice(&words);
        slots[2].0[lane] = b[lane] as u32;
    }
    let mut regs = Registers { slots: &mut slots, predicates: &mut [] };
    function(op, &mut regs, FULL);
    match op.d.wide() {
        true => regs.r64(op.d.slot).to_vec(),
        false => regs.r32(op.d.slot).map(u64::from).to_vec(),
    }
}

/// Compares the fast function of a form, if there is one, with the exact one.
fn compare(form: Form, a_bytes: u32, d_bytes: u32, exact: super::Run) -> bool {
    let Some(function) = fast::choose(&form, a_bytes, d_bytes) else { return false };
    let register = |slot, bytes| Register { slot: Slot(slot), bytes };
    let (d, a) = (register(4, d_bytes), register(0, a_bytes));
    let op = Op { run: function, d, a, b: Slot(2), c: Slot(0), form };
    let declared = match a_bytes {
        1 => Type::U8,
        2 => Type::U16,
        4 => Type::U32,
        _ => Type::U64,
    };
    let values = values();
    let others: Vec<u64> = values.iter().rev().copied().collect();
    for (a, b) in values.chunks(LANES).zip(others.chunks(LANES)) {
        let (got, want) = (run(&op, function, a, b, declared), run(&op, exact, a, b, declared));
        for lane in 0..LANES {
            let (a, got, want) = (a[lane], got[lane], want[lane]);
            assert_eq!(got, want, "{form:?} of {a:#x}: {got:#x}, exactly {want:#x}");
        }
    }
    true
}

/// Every combination of modifiers that a fast function might be chosen for.
fn forms(from: Type, to: Type) -> Vec<Form> {
    let mut out = Vec::new();
    for round in [Round::Nearest, Round::Zero, Round::Down, Round::Up] {
        for bits in 0..8 {
            let [ftz, sat, relu] = [0, 1, 2].map(|bit| bits >> bit & 1 != 0);
            let f32_side = from == Type::F32 || to == Type::F32;
            let narrows = from == Type::F32 && matches!(to, Type::F16 | Type::BF16);
            if (ftz && !f32_side) || (relu && (sat || !narrows)) || (from == to && ftz && relu) {
                continue;
            }
            for integer in [false, true] {
                let whole = from.is_float() && (!to.is_float() || from == to);
                if integer != whole && (integer || from != to) {
                    continue;
                }
                let satfinite = false;
                out.push(Form { to, from, round, integer, ftz, sat, relu, satfinite, field: 0 });
            }
        }
    }
    out
}

#[test]
fn fast_conversions_are_the_exact_ones() {
    let mut compared = 0;
    for from in TYPES {
        for to in TYPES {
            for form in forms(from, to) {
                for a_bytes in [1, 2, 4, 8].into_iter().filter(|bytes| *bytes >= from.bytes()) {
                    for d_bytes in [1, 2, 4, 8].into_iter().filter(|bytes| *bytes >= to.bytes()) {
                        compared += usize::from(compare(form, a_bytes, d_bytes, one_by_one));
                    }
                }
            }
        }
    }
    assert!(compared > 200, "{compared} compared");
}

#[test]
fn fast_packed_conversions_are_the_exact_ones() {
    for to in [Type::F16x2, Type::BF16x2] {
        for relu in [false, true] {
            let form = Form {
                to,
                from: Type::F32,
                round: Round::Nearest,
                integer: false,
                ftz: false,
                sat: false,
                relu,
                satfinite: false,
                field: 0,
            };
            assert!(compare(form, 4, 4, packed));
        }
    }
}
