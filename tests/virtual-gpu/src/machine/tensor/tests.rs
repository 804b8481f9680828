//! mma on bare registers: every shape and type against products of integers, so that they are exact.

use std::collections::HashMap;

use super::super::lower::Lowering;
use super::super::registers::{Lanes, Registers};
use super::*;
use crate::ptx::ast::Statement;

/// Lowers the one instruction of a kernel with registers %r, %f, %d.
fn lowered<T>(text: &str, then: impl FnOnce(Result<Option<Op>, Refusal>, (u32, u32)) -> T) -> T {
    let text = format!(
        ".version 8.1\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n\
         .reg .b32 %r<40>;\n.reg .f32 %f<20>;\n.reg .f64 %d<40>;\n{text}\n}}\n"
    );
    let module = crate::ptx::parse(&text).expect("the text is PTX");
    let body = module.functions[0].body.as_ref().expect("a body");
    let Statement::Instruction(instruction) = &body.statements[0] else { panic!("no instruction") };
    let mut lowering = Lowering::new(body, HashMap::new());
    let op = lower(instruction, &mut lowering);
    let (slots, predicates, ..) = lowering.finish();
    then(op, (slots, predicates))
}

/// A warp with as many slots as needed, filled by `fill(slot, lane)`.
fn slots(count: u32, fill: impl Fn(usize, usize) -> u32) -> Vec<Lanes> {
    (0..count as usize).map(|slot| Lanes(std::array::from_fn(|lane| fill(slot, lane)))).collect()
}

/// The registers of an mma are lowered in the order A, B, C, D: A's are slots 0 and up.
#[test]
fn bf16_k16_places_every_element() {
    let text = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 \
                {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f4,%f5,%f6,%f7};";
    let value = |row: usize, column: usize| (row * 7 + column * 3) as i32 % 15 - 7;
    let bf16 = |value: i32| u32::from(half::bf16::from_f32(value as f32).to_bits());
    lowered(text, |op, (count, _)| {
        let Ok(Some(Op::Mma(mma))) = op else { panic!("{op:?}") };
        let mut file = slots(count, |slot, lane| {
            let (group, thread) = (lane >> 2, lane & 3);
            let pair = |f: &dyn Fn(usize) -> u32| f(0) | f(1) << 16;
            match slot {
                // The manual's table for A: a0,a1 | a2,a3 | a4,a5 | a6,a7.
                0 => pair(&|e| bf16(value(group, thread * 2 + e))),
                1 => pair(&|e| bf16(value(group + 8, thread * 2 + e))),
                2 => pair(&|e| bf16(value(group, thread * 2 + e + 8))),
                3 => pair(&|e| bf16(value(group + 8, thread * 2 + e + 8))),
                // B: b0,b1 | b2,b3.
                4 => pair(&|e| bf16(value(thread * 2 + e, group + 5))),
                5 => pair(&|e| bf16(value(thread * 2 + e + 8, group + 5))),
                _ => (slot as f32 * 100.0 + lane as f32).to_bits(),
            }
        });
        let mut regs = Registers { slots: &mut file, predicates: &mut [] };
        mma::exec(&mma, &mut regs);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                let c = (6 + i as i32) * 100 + lane as i32;
                let product: i32 = (0..16).map(|k| value(row, k) * value(k, column + 5)).sum();
                let d = f32::from_bits(file[10 + i].0[lane]);
                assert_eq!(d, (product + c) as f32, "lane {lane}, d{i}");
            }
        }
    });
}
