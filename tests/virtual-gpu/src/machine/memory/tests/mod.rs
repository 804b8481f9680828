//! One instruction at a time, from PTX text, on a warp made by hand.

mod access;
mod atomic;
mod copy;

use super::super::block;
use super::super::lower::{Lowering, Symbol};
use super::super::program::Program;
use super::super::registers::{FULL, Lanes, Registers, lanes};
use super::super::{Exec, Fault, Grid, warp};
use super::*;
use crate::memory::Memory;
use crate::ptx::ast::Statement;
use crate::watch::{Finding, Kind, Log};

/// Registers %r0.. %rd0.. %rs0.. %f0.., set before and read after.
struct Run {
    memory: Memory,
    params: Vec<u8>,
    shared: u32,
    local: u32,
    watched: bool,
    mask: u32,
    block: block::State,
    warp: warp::State,
    log: Log,
}

impl Run {
    fn new() -> Run {
        Run {
            memory: Memory::new(1 << 30),
            params: Vec::new(),
            shared: 0,
            local: 0,
            watched: true,
            mask: FULL,
            block: block::State::default(),
            warp: warp::State { live: FULL, ..warp::State::default() },
            log: Log::default(),
        }
    }

    /// Runs instructions with `inputs`, registers' values lane by lane; gives the values of `output`.
    fn run(
        &mut self,
        code: &str,
        inputs: &[(&str, &dyn Fn(u64) -> u64)],
        output: &str,
    ) -> Result<[u64; 32], Fault> {
        let text = format!(
            ".version 8.1\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_param_0)\n{{\n\
             .reg .pred %p<4>; .reg .b16 %rs<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>; .reg .f32 %f<8>; .reg .f64 %fd<8>;\n\
             .local .align 16 .b8 frame[64]; .shared .align 16 .b8 tile[64];\n{code}\nret;\n}}\n"
        );
        let module = crate::ptx::parse(&text).expect("the test's PTX");
        let body = module.functions[0].body.as_ref().expect("a body");
        let symbols = [
            ("k_param_0", Symbol::Param(0)),
            ("frame", Symbol::Local(0)),
            ("tile", Symbol::Shared(0)),
        ];
        let symbols = symbols.map(|(name, symbol)| (name.to_owned(), symbol)).into();
        let mut lowering = Lowering::new(body, symbols);
        let mut ops = Vec::new();
        for statement in &body.statements {
            let Statement::Instruction(instruction) = statement else { continue };
            if instruction.name != "ret" {
                let op = lower(instruction, &mut lowering).expect("it is known");
                ops.push(op.expect("it is of this family"));
            }
        }
        let slot = |lowering: &mut Lowering, name: &str| {
            let at = body.registers.iter().position(|r| r.name == name).expect(name);
            let operand = crate::ptx::ast::Operand::Reg(at as u32);
            lowering.src_any(&operand, Type::B32).expect(name)
        };
        let inputs: Vec<_> =
            inputs.iter().map(|(name, value)| (slot(&mut lowering, name), value)).collect();
        let output = slot(&mut lowering, output);
        let (slots, predicates, constants, _) = lowering.finish();
        let mut file = vec![Lanes([0; 32]); slots as usize];
        let mut predicates = vec![0; predicates as usize];
        let mut regs = Registers { slots: &mut file, predicates: &mut predicates };
        let mut set = |slot: Slot, wide: bool, value: [u64; 32]| {
            if wide {
                regs.set64(slot, FULL, &value);
            } else {
                regs.set32(slot, FULL, &value.map(|x| x as u32));
            }
        };
        for constant in constants {
            set(constant.slot, constant.wide, [constant.bits; 32]);
        }
        for ((slot, wide), value) in inputs {
            set(slot, wide, std::array::from_fn(|lane| value(lane as u64)));
        }
        let program = Program::default();
        let grid = Grid {
            kernel: "k",
            program: &program,
            memory: &self.memory,
            params: &self.params,
            grid_dim: [1; 3],
            block_dim: [32, 1, 1],
            shared_bytes: self.shared,
            dynamic_shared_bytes: 0,
            launch: 1,
            multiprocessors: 1,
            watched: self.watched,
            log: &self.log,
        };
        self.block.shared.resize(self.shared.div_ceil(128) as usize, Lanes([0; 32]));
        self.warp.local.grow(self.local);
        for (pc, op) in ops.iter().enumerate() {
            let regs = Registers { slots: regs.slots, predicates: regs.predicates };
            let mut one = Exec {
                regs,
                mask: self.mask,
                warp: &mut self.warp,
                block: &mut self.block,
                grid: &grid,
                pc: pc as u32,
            };
            exec(op, &mut one)?;
        }
        let (slot, wide) = output;
        Ok(if wide { *regs.r64(slot) } else { regs.r32(slot).map(u64::from) })
    }

    fn findings(&self) -> Vec<Finding> {
        self.log.take()
    }
}

/// An allocation with these bytes.
fn filled(run: &Run, bytes: u64, value: impl Fn(u64) -> u8) -> u64 {
    let address = run.memory.alloc(bytes).unwrap();
    let data: Vec<u8> = (0..bytes).map(value).collect();
    run.memory.write(address, &data).unwrap();
    address
}

fn bytes_at(run: &Run, address: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    run.memory.read(address, &mut data).unwrap();
    data
}

/// Byte `i` of a buffer, no two neighbours alike and every second one with its top bit set.
fn pattern(i: u64) -> u8 {
    (i * 37 + 11) as u8
}

fn expected(at: u64, size: u64) -> u64 {
    (0..size).map(|i| u64::from(pattern(at + i)) << (8 * i)).sum()
}
