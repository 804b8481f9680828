//! The shadow of a block's shared memory: who last wrote each cell, and two who read it since.
//!
//! A cell is a 4-byte word until the launch touches less at once: then cells are as small as that, so that
//! neighbours who store two bf16 side by side are told apart.
//!
//! What is remembered of a cell is its last write and two accesses by different threads that nothing
//! orders before each other, of different warps where possible: reads, and writes that no longer are the
//! last but race with nothing as long as all accesses are strong (atomics). A third one is forgotten, so
//! a race with it alone is missed.
//!
//! A write of what is there already counts as a read: it races with a later write of something else, not
//! with reads, nor with writes of the same value.

use super::Kind;
use super::clocks::{Clocks, WARPS};
use super::race::{Access, How};
use crate::machine::registers::{FULL, LANES, W64, lanes};

/// Bits of `Marks::who`: thread of the block, flags, instruction.
const THREAD: u32 = 22;
/// A strong access.
const STRONG: u32 = 1 << 21;
/// Among the readers: it wrote.
const WRITE: u32 = 1 << 20;
/// Several lanes of the instruction wrote this same value.
const MANY: u32 = 1 << 19;
/// Instructions further on are not named.
const PC: u32 = MANY - 1;
/// Epoch of an asynchronous copy that its thread has not waited for.
const UNWAITED: u32 = u32::MAX;

/// Something wrong with an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    pub kind: Kind,
    pub lane: usize,
    /// Address or offset of the cell.
    pub at: u64,
    pub other: Option<Other>,
    /// A plain read of what atomics write. It is no fault if the thread goes on to an atomic there: that
    /// is how compare-and-swap loops begin.
    pub guess: bool,
}

/// The access that one is in conflict with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Linear number of the block.
    pub block: u64,
    /// Number of the thread in its block.
    pub thread: u32,
    pub pc: u32,
    pub wrote: bool,
    pub strong: bool,
    /// It is another lane of the very instruction.
    pub at_once: bool,
}

/// (epoch, who) of every cell.
#[derive(Debug, Default)]
struct Marks {
    epoch: Vec<u32>,
    who: Vec<u32>,
}

impl Marks {
    fn resize(&mut self, cells: usize) {
        self.epoch.resize(cells, 0);
        self.who.resize(cells, 0);
    }

    fn clear(&mut self) {
        self.epoch.fill(0);
        self.who.fill(0);
    }

    fn split(&mut self, by: usize) {
        for part in [&mut self.epoch, &mut self.who] {
            *part = part.iter().flat_map(|&mark| std::iter::repeat_n(mark, by)).collect();
        }
    }

    #[inline(always)]
    fn at(&self, cell: usize) -> (u32, u32) {
        (self.epoch[cell], self.who[cell])
    }

    #[inline(always)]
    fn set(&mut self, cell: usize, (epoch, who): (u32, u32)) {
        self.epoch[cell] = epoch;
        self.who[cell] = who;
    }
}

#[derive(Debug)]
pub struct Shadow {
    /// A cell has `1 << shift` bytes.
    shift: u32,
    bytes: usize,
    launch: u64,
    write: Marks,
    first: Marks,
    second: Marks,
    /// Cells under a copy that was not waited for.
    unwaited: usize,
    /// Strong accesses were seen in this block: the short ways are only for weak ones among weak ones.
    strong: bool,
}

impl Default for Shadow {
    fn default() -> Shadow {
        Shadow {
            shift: 2,
            bytes: 0,
            launch: 0,
            write: Marks::default(),
            first: Marks::default(),
            second: Marks::default(),
            unwaited: 0,
            strong: false,
        }
    }
}

/// Cells that are accessed in a row, by threads in a row.
#[derive(Clone, Copy)]
struct Row {
    start: usize,
    cells: usize,
    /// The first cell's thread, and how many cells each has (as a shift).
    thread: u32,
    each: u32,
    epoch: u32,
    floor: u32,
    base: u32,
    pc: u32,
}

impl Row {
    /// Marks of cells from number `first` of the row on.
    #[inline(always)]
    fn who_by<const N: usize>(&self, first: usize) -> [u32; N] {
        std::array::from_fn(|k| {
            let lane = ((first + k) as u32).wrapping_shr(self.each);
            self.thread.wrapping_add(lane) << THREAD | self.pc
        })
    }

    /// Whether a mark was made by this thread in this epoch.
    #[inline(always)]
    fn is_mine(&self, epoch: u32, who: u32, me: u32) -> bool {
        (epoch ^ self.epoch) | (who ^ me) >> THREAD == 0
    }
}

/// Whether all marks are of `least` or younger, and ordered before the row's access or the row's own.
#[inline(always)]
fn quiet_cells<const N: usize>((epochs, whos): (&[u32], &[u32]), row: Row, least: u32) -> bool {
    let mut bad = 0;
    let (epochs, whos) = (epochs.as_chunks::<N>().0, whos.as_chunks::<N>().0);
    for (i, (epochs, whos)) in epochs.iter().zip(whos).enumerate() {
        let me = row.who_by::<N>(i * N);
        for k in 0..N {
            let ordered = (epochs[k] <= row.floor) | row.is_mine(epochs[k], whos[k], me[k]);
            bad |= u32::from(!(ordered & (epochs[k] >= least)));
        }
    }
    bad == 0
}

impl Shadow {
    /// A new block; `fresh` where the clocks began again.
    pub fn begin(&mut self, bytes: u32, launch: u64, fresh: bool) {
        if fresh || self.unwaited > 0 || (self.launch != launch && self.shift != 2) {
            self.write.clear();
            self.first.clear();
            self.second.clear();
            self.shift = 2;
        }
        (self.unwaited, self.strong, self.launch) = (0, false, launch);
        self.bytes = self.bytes.max((bytes as usize).next_multiple_of(128));
        self.resize();
    }

    fn resize(&mut self) {
        let cells = self.bytes >> self.shift;
        if self.write.epoch.len() < cells {
            for marks in [&mut self.write, &mut self.first, &mut self.second] {
                marks.resize(cells);
            }
        }
    }

    /// Makes cells small enough for an access of so many bytes.
    #[cold]
    fn split(&mut self, shift: u32) {
        let by = 1 << (self.shift - shift);
        for marks in [&mut self.write, &mut self.first, &mut self.second] {
            marks.split(by);
        }
        self.unwaited *= by;
        self.shift = shift;
    }

    /// Examines and remembers an access. What is wrong goes to `hits`: at most one hit a lane.
    pub fn access(&mut self, clocks: &mut Clocks, access: &Access, hits: &mut Vec<Hit>) {
        let shift = access.bytes.trailing_zeros().min(2);
        if shift < self.shift {
            self.split(shift);
        }
        let warp = access.warp as usize;
        let plain = !access.strong && matches!(access.how, How::Read | How::Write);
        self.strong |= access.strong;
        let each = access.bytes.trailing_zeros() - self.shift;
        let row = Row {
            start: 0,
            cells: 1 << each,
            thread: access.warp * LANES as u32,
            each,
            epoch: clocks.epoch(warp),
            floor: clocks.floor(warp),
            base: clocks.base(),
            pc: access.pc.min(PC),
        };
        let quick = plain && !self.strong && access.unchanged == 0;
        if quick && access.mask == FULL && in_a_row(access.addresses, u64::from(access.bytes)) {
            let start = (access.addresses[0] >> self.shift) as usize;
            if self.quiet(Row { start, cells: LANES << each, ..row }, access.how) {
                return;
            }
        }
        let mut rest = access.mask;
        if access.how == How::Read && all_equal(access.addresses, rest) {
            // A broadcast: two readers are enough, since more would be forgotten.
            rest = 1 << rest.trailing_zeros() | 1 << (31 - rest.leading_zeros());
        }
        self.each(clocks, access, rest, row, quick, hits);
        if rest != access.mask && hits.iter().any(|hit| hit.guess) {
            // Which of the readers goes on to an atomic will be seen: each counts.
            self.each(clocks, access, access.mask & !rest, row, quick, hits);
        }
        if access.strong {
            clocks.acquire(warp);
        }
    }

    /// Lane after lane.
    fn each(
        &mut self,
        clocks: &Clocks,
        access: &Access,
        mask: u32,
        row: Row,
        quick: bool,
        hits: &mut Vec<Hit>,
    ) {
        for lane in lanes(mask) {
            let start = (access.addresses[lane] >> self.shift) as usize;
            let thread = row.thread + lane as u32;
            if quick && self.quiet(Row { start, thread, each: 31, ..row }, access.how) {
                continue;
            }
            self.lane(clocks, access, lane, start..start + row.cells, hits);
        }
    }

    /// The way of almost every access: nothing is wrong, which is seen without looking at single cells.
    /// False, and nothing remembered, where that is not so.
    #[inline]
    fn quiet(&mut self, row: Row, how: How) -> bool {
        match row.cells {
            cells if cells % LANES == 0 => self.quiet_by::<LANES>(row, how),
            cells if cells % 4 == 0 => self.quiet_by::<4>(row, how),
            _ => self.quiet_by::<1>(row, how),
        }
    }

    /// `quiet` for `N` cells at a time, a number that the compiler makes vectors of.
    #[inline(always)]
    fn quiet_by<const N: usize>(&mut self, row: Row, how: How) -> bool {
        let cells = row.start..row.start + row.cells;
        let Row { epoch, floor, base, .. } = row;
        // A read needs a write of this block, and that ordered before it; a write needs order only.
        let least = if how == How::Read { base + 1 } else { 0 };
        let write = (&self.write.epoch[cells.clone()], &self.write.who[cells.clone()]);
        let mut ok = quiet_cells::<N>(write, row, least);
        if how == How::Write {
            for marks in [&self.first, &self.second] {
                let marks = (&marks.epoch[cells.clone()], &marks.who[cells.clone()]);
                ok &= quiet_cells::<N>(marks, row, 0);
            }
            if ok {
                self.write.epoch[cells.clone()].fill(epoch);
                let who = self.write.who[cells].as_chunks_mut::<N>().0;
                for (i, who) in who.iter_mut().enumerate() {
                    *who = row.who_by(i * N);
                }
            }
            return ok;
        }
        if !ok {
            return false;
        }
        let f_epoch = self.first.epoch[cells.clone()].as_chunks_mut::<N>().0;
        let f_who = self.first.who[cells.clone()].as_chunks_mut::<N>().0;
        let s_epoch = self.second.epoch[cells.clone()].as_chunks_mut::<N>().0;
        let s_who = self.second.who[cells].as_chunks_mut::<N>().0;
        let first = f_epoch.iter_mut().zip(f_who);
        for (i, ((fe, fw), (se, sw))) in first.zip(s_epoch.iter_mut().zip(s_who)).enumerate() {
            let me = row.who_by::<N>(i * N);
            for k in 0..N {
                let first = (fe[k] <= floor) | row.is_mine(fe[k], fw[k], me[k]);
                let free = (se[k] <= floor) | row.is_mine(se[k], sw[k], me[k]);
                let second = !first & (free | better(fw[k], sw[k], me[k]));
                fe[k] = if first { epoch } else { fe[k] };
                fw[k] = if first { me[k] } else { fw[k] };
                se[k] = if second { epoch } else { se[k] };
                sw[k] = if second { me[k] } else { sw[k] };
            }
        }
        true
    }

    /// One lane's access, cell by cell.
    fn lane(
        &mut self,
        clocks: &Clocks,
        access: &Access,
        lane: usize,
        cells: std::ops::Range<usize>,
        hits: &mut Vec<Hit>,
    ) {
        let me = access.warp * LANES as u32 + lane as u32;
        let strong = if access.strong { STRONG } else { 0 };
        let mark = (clocks.epoch(access.warp as usize), me << THREAD | strong | access.pc.min(PC));
        let base = clocks.base();
        // What nothing has written yet is changed by any write.
        let same = access.unchanged >> lane & 1 != 0
            && cells.clone().all(|cell| self.write.epoch[cell] > base);
        let mut quiet = true;
        for cell in cells {
            let at = (cell as u64) << self.shift;
            // Unchanged is what memory held before any lane wrote: an earlier lane may have changed it.
            let at_once = self.at_once(clocks, access, lane, cell);
            let hit = if at_once.unwrap_or(same) && self.write.epoch[cell] != UNWAITED {
                None
            } else {
                self.examine(clocks, access, lane, cell, at_once.is_some())
            };
            if let Some((kind, other)) = hit
                && std::mem::take(&mut quiet)
            {
                hits.push(Hit { kind, lane, at, other, guess: is_guess(access, other) });
            }
            match access.how {
                _ if self.write.epoch[cell] == UNWAITED => {}
                How::Read => self.note_reader(clocks, cell, mark),
                How::Write if same => self.note_reader(clocks, cell, mark),
                How::Write | How::Atomic => self.note_write(clocks, access, cell, mark),
                How::AsyncWrite => {
                    self.unwaited += 1;
                    self.write.set(cell, (UNWAITED, mark.1));
                }
            }
        }
    }

    /// What is wrong with an access to a cell.
    fn examine(
        &self,
        clocks: &Clocks,
        access: &Access,
        lane: usize,
        cell: usize,
        at_once: bool,
    ) -> Option<(Kind, Option<Other>)> {
        let me = access.warp * LANES as u32 + lane as u32;
        let write = self.write.at(cell);
        let reads = matches!(access.how, How::Read | How::Atomic);
        if write.0 == UNWAITED {
            return Some((Kind::AsyncNotWaited, Some(other(write.1, true))));
        }
        if reads && write.0 <= clocks.base() {
            return Some((Kind::Uninitialised, None));
        }
        let clash = |(epoch, who): (u32, u32)| {
            !(clocks.ordered(who >> THREAD, epoch, me) || access.strong && who & STRONG != 0)
        };
        if clash(write) {
            let same_warp = (write.1 >> THREAD) / WARPS as u32 == access.warp;
            if access.how == How::Read && same_warp && write.1 & MANY != 0 {
                return None;
            }
            return Some((Kind::Race, Some(Other { at_once, ..other(write.1, true) })));
        }
        // A plain read before an atomic may be the first guess of a compare-and-swap loop.
        let writes = matches!(access.how, How::Write | How::AsyncWrite);
        for mark in [self.first.at(cell), self.second.at(cell)] {
            let wrote = mark.1 & WRITE != 0;
            if (writes || wrote) && clash(mark) {
                return Some((Kind::Race, Some(other(mark.1, wrote))));
            }
        }
        None
    }

    /// Whether an earlier lane of this very store was the last to write the cell, and if so whether it
    /// wrote the same bytes.
    fn at_once(&self, clocks: &Clocks, access: &Access, lane: usize, cell: usize) -> Option<bool> {
        let (epoch, who) = self.write.at(cell);
        let (thread, writer) = (who >> THREAD, (who >> THREAD) as usize % LANES);
        if access.how != How::Write
            || thread / LANES as u32 != access.warp
            || epoch != clocks.epoch(access.warp as usize)
            || who & PC != access.pc.min(PC)
            || writer >= lane
            || access.mask >> writer & 1 == 0
            || access.addresses[writer] != access.addresses[lane]
        {
            return None;
        }
        // Accesses are aligned: lanes that share a byte share all of them.
        let bytes = access.bytes as usize;
        let value = |lane: usize| access.values.get(lane * bytes..(lane + 1) * bytes);
        Some(value(writer)? == value(lane)?)
    }

    /// Remembers a read, or a write that is not the last one.
    fn note_reader(&mut self, clocks: &Clocks, cell: usize, mark: (u32, u32)) {
        let me = mark.1 >> THREAD;
        for marks in [&mut self.first, &mut self.second] {
            let old = marks.at(cell);
            if old.0 == mark.0 && (old.1 ^ mark.1) & !(PC | STRONG) == 0 {
                // The same thread again: a weak access stays known.
                if old.1 & STRONG != 0 {
                    marks.set(cell, mark);
                }
                return;
            }
        }
        for marks in [&mut self.first, &mut self.second] {
            let old = marks.at(cell);
            let replaces = old.1 >> THREAD != me || (old.1 ^ mark.1) & (WRITE | STRONG) == 0;
            if replaces && clocks.ordered(old.1 >> THREAD, old.0, me) {
                marks.set(cell, mark);
                return;
            }
        }
        if better(self.first.who[cell], self.second.who[cell], mark.1) {
            self.second.set(cell, mark);
        }
    }

    fn note_write(&mut self, clocks: &Clocks, access: &Access, cell: usize, mark: (u32, u32)) {
        let old = self.write.at(cell);
        let lane = (mark.1 >> THREAD) as usize % LANES;
        if old.0 == mark.0 && self.at_once(clocks, access, lane, cell) == Some(true) {
            self.write.who[cell] |= MANY;
            return;
        }
        let same_thread = (old.1 ^ mark.1) >> THREAD == 0;
        // A strong write does not make a weak one of the same thread forgotten.
        let hides = !same_thread || old.1 & STRONG < mark.1 & STRONG;
        if hides && old.0 > clocks.floor(access.warp as usize) {
            self.note_reader(clocks, cell, (old.0, (old.1 | WRITE) & !MANY));
        }
        self.write.set(cell, mark);
    }

    /// The asynchronous copies of a thread to these bytes are complete: a write that it has just made.
    pub fn async_done(&mut self, epoch: u32, thread: u32, offset: u32, bytes: u32) {
        let cells = (offset as usize) >> self.shift..((offset + bytes) as usize) >> self.shift;
        for cell in cells {
            let (e, who) = self.write.at(cell);
            if e == UNWAITED && who >> THREAD == thread {
                self.write.epoch[cell] = epoch;
                self.unwaited -= 1;
            }
        }
    }
}

fn other(who: u32, wrote: bool) -> Other {
    let strong = who & STRONG != 0;
    Other { block: 0, thread: who >> THREAD, pc: who & PC, wrote, strong, at_once: false }
}

/// Whether it can be the first read of a compare-and-swap loop.
pub fn is_guess(access: &Access, other: Option<Other>) -> bool {
    let plain = access.how == How::Read && !access.strong;
    plain && other.is_some_and(|other| other.wrote && other.strong)
}

/// Whether a reader is worth more than the second one known: it is of a third warp, they are of one.
#[inline(always)]
fn better(first: u32, second: u32, me: u32) -> bool {
    const WARP: u32 = THREAD + 5;
    ((first ^ second) >> WARP == 0) & ((first ^ me) >> WARP != 0)
}

/// Whether lane after lane the addresses go up by `bytes`.
#[inline]
pub fn in_a_row(addresses: &W64, bytes: u64) -> bool {
    let mut off = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        off |= address ^ (addresses[0].wrapping_add(lane as u64 * bytes));
    }
    off == 0
}

/// Whether the lanes of a mask (of at least two) share one address.
#[inline]
pub fn all_equal(addresses: &W64, mask: u32) -> bool {
    let address = addresses[mask.trailing_zeros() as usize % LANES];
    let mut off = 0;
    for (lane, &other) in addresses.iter().enumerate() {
        off |= if mask >> lane & 1 != 0 { other ^ address } else { 0 };
    }
    off == 0
}
