//! What the watchman tells: the kind of fault, and the kernel, block, thread and line where it is.

use std::sync::Mutex;

use super::global::Fences;

/// The kinds of fault. The first group ends the launch, as on a GPU; the second lets it go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An address in no allocation, or past a variable's, window's or allocation's end.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// An address in an allocation that was freed.
    UseAfterFree,
    /// `trap`, and C++'s `__trap()`.
    Trap,
    /// `assert` in a kernel.
    Assert,
    /// A barrier or a `.sync` instruction that some threads never reach.
    BarrierNotReached,
    /// A `.sync` instruction whose member mask lacks the lane that executes it, or differs between lanes.
    WrongMemberMask,
    /// What the machine cannot do: a jump through a pointer to nowhere, a stack that grows without end.
    IllegalInstruction,

    /// A read of memory that nothing has written.
    Uninitialised,
    /// Two threads of a block, one of them writing, with no barrier between.
    Race,
    /// An asynchronous copy's destination touched before the copy was waited for.
    AsyncNotWaited,
    /// A block writes where another block of the same launch reads or writes, without atomics or a fence.
    CrossBlockRace,
}

impl Kind {
    /// Whether a real GPU would stop here.
    pub fn is_fatal(self) -> bool {
        self < Kind::Uninitialised
    }
}

/// One thread at one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// File and line of the .cu, where the PTX has `.loc`.
    pub source: Option<(String, u32)>,
}

/// A fault with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub kernel: String,
    pub place: Place,
    /// The other thread of a race.
    pub other: Option<Place>,
    /// What was done, with which bytes: `write of 4 bytes at 0x… , 16 past the end of the 1024 bytes at 0x…`.
    pub detail: String,
    /// How often it happened, in how many threads, in the launch: the places are of the first.
    pub count: u64,
}

/// What makes a finding the same as another: kind and lines. Of those the first block's is kept, in the
/// order of the grid, whichever ran first.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub kind: Kind,
    pub line: u32,
    /// The other thread's line, 0 without one.
    pub other: u32,
    pub block: [u32; 3],
}

/// The findings of one launch, one for each kind and pair of lines; shared by the threads that run its blocks.
#[derive(Debug, Default)]
pub struct Log {
    findings: Mutex<Vec<Finding>>,
    /// What its blocks have published to each other.
    pub fences: Fences,
}

impl Log {
    pub fn report(&self, finding: Finding) {
        let key = Key {
            kind: finding.kind,
            line: finding.place.ptx_line,
            other: finding.other.as_ref().map_or(0, |other| other.ptx_line),
            block: finding.place.block,
        };
        self.report_as(key, || finding);
    }

    /// `report` for what may come a million times: the finding is only made where it is new.
    pub fn report_as(&self, key: Key, make: impl FnOnce() -> Finding) {
        let mut findings = self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = findings.iter_mut().find(|f| {
            (f.kind, f.place.ptx_line) == (key.kind, key.line)
                && f.other.as_ref().map_or(0, |other| other.ptx_line) == key.other
        });
        let order = |[x, y, z]: [u32; 3]| [z, y, x];
        match known {
            Some(known) => {
                let count = known.count + 1;
                if order(key.block) < order(known.place.block) {
                    *known = make();
                }
                known.count = count;
            }
            None => findings.push(make()),
        }
    }

    /// All findings so far; the log is empty after.
    pub fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
