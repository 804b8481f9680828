//! A kernel as the machine runs it: one code vector for the kernel and every function it can reach.

use super::Inst;
use super::registers::Slot;
use crate::watch::{Finding, Kind, Place};

/// Where the shared memory of the running block appears among generic addresses.
pub const SHARED_WINDOW: u64 = 0x0000_9000_0000_0000;
/// Where a thread's local memory appears.
pub const LOCAL_WINDOW: u64 = 0x0000_A000_0000_0000;
/// Where the kernel's parameters appear.
pub const PARAM_WINDOW: u64 = 0x0000_B000_0000_0000;
/// "Addresses" of functions: this and the number of the function in its module.
pub const FUNCTION_WINDOW: u64 = 0x0000_C000_0000_0000;
/// Bytes of a thread's local memory, at most (CUDA C++ Programming Guide, "Technical Specifications").
pub const MOST_LOCAL: u32 = 512 << 10;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// A kernel, lowered.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub code: Vec<Inst>,
    /// PTX line, and (index into `files`, line) of the .cu, of every instruction.
    pub lines: Vec<(u32, Option<(u32, u32)>)>,
    pub files: Vec<String>,
    /// `functions[0]` is the kernel.
    pub functions: Vec<Function>,
    /// From a function's number in its module to its index in `functions`, for calls through pointers.
    pub pointers: Vec<Option<u32>>,
    /// Offset and name of the shared variables, by offset.
    pub shared_names: Vec<(u32, String)>,
    /// Bytes of the static shared variables that the kernel and its functions use.
    pub static_shared_bytes: u32,
    /// Bytes of the kernel's parameters.
    pub param_bytes: u32,
}

/// What a call needs to know of its callee.
#[derive(Debug, Clone, Default)]
pub struct Function {
    pub name: String,
    /// Index of its first instruction.
    pub entry: u32,
    /// Slots and predicates of its frame.
    pub slots: u32,
    pub predicates: u32,
    /// Bytes of a thread's local memory in its frame: variables, and parameters of calls.
    pub local_bytes: u32,
    /// Immediates, written into their slots on entry.
    pub constants: Vec<Constant>,
    /// Special registers that stay as they are, written on entry.
    pub specials: Vec<(Slot, Special)>,
    /// Offset in its local memory, and size, of each parameter and return value (none for a kernel).
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
}

/// An immediate and its slot.
#[derive(Debug, Clone, Copy)]
pub struct Constant {
    pub slot: Slot,
    pub wide: bool,
    pub bits: u64,
}

/// Special registers that do not change while a thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    NTid(u8),
    CtaId(u8),
    NCtaId(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    TotalSmemSize,
    DynamicSmemSize,
    /// Registers that are always 0 here: `%envreg`, cluster indices.
    Zero,
    /// Cluster sizes, always 1 here.
    One,
}

impl super::Grid<'_> {
    /// A finding with its places spelt out.
    pub fn finding(
        &self,
        kind: Kind,
        at: super::warp::Spot,
        other: Option<super::warp::Spot>,
        detail: String,
    ) -> Finding {
        Finding {
            kind,
            kernel: self.kernel.to_owned(),
            place: self.place(at),
            other: other.map(|spot| self.place(spot)),
            detail,
            count: 1,
        }
    }

    fn place(&self, spot: super::warp::Spot) -> Place {
        let (ptx_line, source) =
            self.program.lines.get(spot.pc as usize).copied().unwrap_or((0, None));
        let source = source.map(|(file, line)| {
            let name = self.program.files.get(file as usize).cloned().unwrap_or_default();
            (name, line)
        });
        Place { block: spot.block, thread: spot.thread, ptx_line, source }
    }
}
