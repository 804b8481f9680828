//! The shadow of device memory: which thread of which block last wrote, and which read, each word of it in
//! the running launch.
//!
//! Every allocation has one, made page by page as kernels touch it. A cell is a 4-byte word until a page is
//! accessed by less at once, then as small as that. A cell has two keys: its last write (with the value,
//! so that equal writes can be told from a race) and one read. A key says launch, block, thread, epoch (see
//! `clocks`) and instruction in 64 bits, so that blocks on several host threads share cells without locks.
//!
//! Within a block the clocks of its warps say what is ordered. Between blocks a write is ordered before
//! what another block does if the first block made a fence (or a release) after it, and the other one a
//! strong access after that fence: flags, locks, "the last block sums up", barriers of the grid. Which
//! thread did so is not asked. What is missed: a second reader or an earlier strong writer of a word
//! (one of each is remembered), blocks from the two millionth on, and within a block what lies 4000
//! barriers back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::Kind;
use super::clocks::Clocks;
use super::race::{Access, How};
use super::shared::{Hit, Other, all_equal, in_a_row, is_guess};
use crate::machine::registers::{FULL, LANES, lanes};

/// Bytes of a page, as a shift.
const PAGE: u32 = 14;

// Bits of a key, from the lowest: instruction 16, strong 1, epoch 12, thread 10, block 21, launch 4.
const STRONG: u64 = 1 << 16;
const EPOCH: u32 = 17;
const THREAD: u32 = 29;
const BLOCK: u32 = 39;
const TAG: u32 = 60;
const EPOCHS: u32 = 1 << 12;
const BLOCKS: u64 = 1 << 21;
const PCS: u32 = 1 << 16;
/// In place of the value that an atomic leaves.
const ATOMIC: u32 = 0x5AC3_96E1;
/// Launches that a page tells apart; 0 is none.
const TAGS: u64 = 15;

/// The shadow of one allocation.
#[derive(Debug, Default)]
pub struct Shadow {
    pages: OnceLock<Box<[OnceLock<Box<Page>>]>>,
}

#[derive(Debug)]
struct Page {
    /// The launch that has tag 1.
    since: AtomicU64,
    clearing: Mutex<()>,
    /// Shift of the smallest cells in use: 2, 1 or 0.
    shift: AtomicU32,
    /// By shift.
    cells: [OnceLock<Cells>; 3],
}

#[derive(Debug, Default)]
struct Cells {
    writes: OnceLock<Box<[AtomicU64]>>,
    values: OnceLock<Box<[AtomicU32]>>,
    reads: OnceLock<Box<[AtomicU64]>>,
}

impl Shadow {
    /// The page of an offset into the allocation of so many bytes.
    #[inline]
    fn page(&self, offset: u64, bytes: u64, launch: u64) -> Option<&Page> {
        let pages =
            self.pages.get_or_init(|| (0..=bytes >> PAGE).map(|_| OnceLock::new()).collect());
        pages.get((offset >> PAGE) as usize).map(|page| &**page.get_or_init(|| Page::new(launch)))
    }
}

impl Page {
    fn new(launch: u64) -> Box<Page> {
        Box::new(Page {
            since: AtomicU64::new(launch),
            clearing: Mutex::new(()),
            shift: AtomicU32::new(2),
            cells: Default::default(),
        })
    }

    /// What keys of this launch have in front; `None` for a launch older than what the page knows.
    #[inline]
    fn tag(&self, launch: u64) -> Option<u64> {
        let since = self.since.load(Ordering::Acquire);
        match launch.checked_sub(since) {
            Some(age) if age < TAGS => Some(age + 1),
            Some(_) => Some(self.clear(launch)),
            None => None,
        }
    }

    /// Tags are used up: what earlier launches left goes, and this one has tag 1.
    #[cold]
    fn clear(&self, launch: u64) -> u64 {
        let _one = self.clearing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let since = self.since.load(Ordering::Acquire);
        if launch.saturating_sub(since) < TAGS {
            return launch.saturating_sub(since) + 1;
        }
        let keys = self.cells.iter().filter_map(OnceLock::get);
        for key in
            keys.flat_map(|cells| [cells.writes.get(), cells.reads.get()]).flatten().flatten()
        {
            key.store(0, Ordering::Relaxed);
        }
        self.since.store(launch, Ordering::Release);
        1
    }

    /// Cells of at most so many bytes (as a shift), and their own shift.
    #[inline]
    fn cells(&self, shift: u32) -> (&Cells, u32) {
        let now = self.shift.load(Ordering::Acquire);
        if shift < now {
            return self.split(now, shift);
        }
        (self.cells[now as usize].get_or_init(Cells::default), now)
    }

    /// What other host threads write into the larger cells meanwhile is lost.
    #[cold]
    fn split(&self, from: u32, to: u32) -> (&Cells, u32) {
        let cells = self.cells[to as usize].get_or_init(|| {
            let new = Cells::default();
            let Some(old) = self.cells[from as usize].get() else { return new };
            if let Some(reads) = old.reads.get() {
                for (i, key) in new.reads(to).iter().enumerate() {
                    let old = reads[i >> (from - to)].load(Ordering::Relaxed);
                    key.store(old, Ordering::Relaxed);
                }
            }
            if let (Some(writes), Some(values)) = (old.writes.get(), old.values.get()) {
                let (new_writes, new_values) = new.writes(to);
                let part = (1 << to) * 8;
                for (i, (key, value)) in new_writes.iter().zip(new_values).enumerate() {
                    let within = i as u32 & ((1 << (from - to)) - 1);
                    let whole = values[i >> (from - to)].load(Ordering::Relaxed);
                    value.store(whole >> (within * part), Ordering::Relaxed);
                    let old = writes[i >> (from - to)].load(Ordering::Relaxed);
                    key.store(old, Ordering::Relaxed);
                }
            }
            new
        });
        self.shift.fetch_min(to, Ordering::AcqRel);
        (cells, to)
    }
}

impl Cells {
    fn reads(&self, shift: u32) -> &[AtomicU64] {
        self.reads.get_or_init(|| empty(shift))
    }

    fn writes(&self, shift: u32) -> (&[AtomicU64], &[AtomicU32]) {
        let values = || (0..1 << (PAGE - shift)).map(|_| AtomicU32::new(0)).collect();
        (self.writes.get_or_init(|| empty(shift)), self.values.get_or_init(values))
    }
}

fn empty(shift: u32) -> Box<[AtomicU64]> {
    (0..1 << (PAGE - shift)).map(|_| AtomicU64::new(0)).collect()
}

/// What the blocks of a launch know of each other's fences.
#[derive(Debug, Default)]
pub struct Fences {
    /// Goes up with every fence.
    clock: AtomicU64,
    /// Of every block: for its fences, step of the block and time.
    blocks: Mutex<HashMap<u64, Vec<(u32, u64)>>>,
}

impl Fences {
    /// Fences of a block that are kept apart.
    const KEPT: usize = 64;

    fn blocks(&self) -> MutexGuard<'_, HashMap<u64, Vec<(u32, u64)>>> {
        self.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Block number `block` makes a fence in its step `step`.
    pub fn fence(&self, block: u64, step: u32) {
        let mut blocks = self.blocks();
        let time = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        let fences = blocks.entry(block).or_default();
        fences.push((step, time));
        if fences.len() > Fences::KEPT {
            // Two become one that takes effect earlier than the later of them did: a miss, no alarm.
            *fences = fences.chunks(2).map(|pair| (pair[pair.len() - 1].0, pair[0].1)).collect();
        }
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Whether a block made a fence after step `step` and no later than `time`.
    fn ordered(&self, block: u64, step: u32, time: u64) -> bool {
        let blocks = self.blocks();
        let fences = blocks.get(&block).map_or(&[][..], Vec::as_slice);
        fences.iter().any(|&(at, then)| at > step && then <= time)
    }
}

/// What the running block needs for its accesses to device memory.
#[derive(Debug, Default)]
pub struct View {
    /// Linear number of the block.
    pub block: u64,
    /// When the block last took up what others had published.
    acquired: u64,
    /// It has made a strong access since: the next access is after it.
    acquiring: bool,
}

/// One lane's access in numbers.
struct Me {
    block: u64,
    thread: u32,
    /// Its key without launch.
    key: u64,
}

impl View {
    pub fn begin(&mut self, block: u64) {
        *self = View { block, ..View::default() };
    }

    /// Before an access's lanes are looked at.
    pub fn enter(&mut self, fences: &Fences) {
        if std::mem::take(&mut self.acquiring) {
            self.acquired = fences.now();
        }
    }

    /// After they were.
    pub fn leave(&mut self, clocks: &mut Clocks, access: &Access) {
        if access.strong {
            self.acquiring = true;
            clocks.acquire(access.warp as usize);
        }
    }

    /// Lanes whose access must be looked at.
    pub fn worth(access: &Access) -> u32 {
        let mask = access.mask;
        if access.how == How::Read && all_equal(access.addresses, mask) {
            // A broadcast: of several readers one is remembered.
            return 1 << mask.trailing_zeros() | 1 << (31 - mask.leading_zeros());
        }
        mask
    }

    /// Examines and remembers the accesses of `mask`'s lanes, all of them to the allocation of `bytes`
    /// at `base`, of which `shadow` is the shadow.
    #[allow(clippy::too_many_arguments)]
    pub fn access(
        &self,
        (clocks, fences, launch): (&Clocks, &Fences, u64),
        (shadow, base, bytes): (&Shadow, u64, u64),
        access: &Access,
        mask: u32,
        hits: &mut Vec<Hit>,
    ) {
        if self.block >= BLOCKS {
            return;
        }
        let warp = access.warp as usize;
        let epoch = (clocks.epoch(warp) - clocks.base()).min(EPOCHS - 1);
        let strong = if access.strong { STRONG } else { 0 };
        let pc = u64::from(access.pc.min(PCS - 1));
        let key = self.block << BLOCK | u64::from(epoch) << EPOCH | strong | pc;
        // Allocations by the host may begin anywhere.
        let base = base & !15;
        let size = access.bytes.trailing_zeros().min(2);
        let row = Row { mask, key, warp: access.warp, size };
        if self.quiet(clocks, (shadow, base, bytes + 15), launch, access, row) {
            return;
        }
        let mut last: Option<(u64, u64, &Cells, u32)> = None;
        for lane in lanes(mask) {
            let offset = access.addresses[lane] - base;
            let (tag, cells, shift) = match last {
                Some((number, tag, cells, shift)) if number == offset >> PAGE => {
                    (tag, cells, shift)
                }
                _ => {
                    let Some(page) = shadow.page(offset, bytes + 15, launch) else { return };
                    let Some(tag) = page.tag(launch) else { return };
                    let (cells, shift) = page.cells(size);
                    last = Some((offset >> PAGE, tag, cells, shift));
                    (tag, cells, shift)
                }
            };
            let thread = access.warp * LANES as u32 + lane as u32;
            let key = key | tag << TAG | u64::from(thread) << THREAD;
            let me = Me { block: self.block, thread, key };
            let start = (offset & ((1 << PAGE) - 1)) as usize >> shift;
            let count = (access.bytes as usize >> shift).max(1);
            let check = Check { view: self, clocks, fences, access, lane, me, cells, shift };
            if let Some((kind, cell, other)) = check.run(start..start + count) {
                let at = base + (offset & !((1 << PAGE) - 1)) + ((cell as u64) << shift);
                let guess = is_guess(access, Some(other));
                hits.push(Hit { kind, lane, at, other: Some(other), guess });
            }
        }
    }
}

/// Accesses of 32 lanes side by side: their key without launch and thread.
struct Row {
    mask: u32,
    key: u64,
    warp: u32,
    /// Wanted size of a cell, as a shift.
    size: u32,
}

impl View {
    /// The way of almost every access: the lanes are side by side, and nothing is wrong. False, and
    /// nothing remembered, where that is not so.
    fn quiet(
        &self,
        clocks: &Clocks,
        (shadow, base, bytes): (&Shadow, u64, u64),
        launch: u64,
        access: &Access,
        row: Row,
    ) -> bool {
        let (read, width) = (access.how == How::Read, u64::from(access.bytes));
        let plain = !access.strong && access.unchanged == 0 && (read || access.how == How::Write);
        if !plain || row.mask != FULL || !in_a_row(access.addresses, width) {
            return false;
        }
        let offset = access.addresses[0] - base;
        let within = offset & ((1 << PAGE) - 1);
        if within + width * LANES as u64 > 1 << PAGE {
            return false;
        }
        let Some(page) = shadow.page(offset, bytes, launch) else { return false };
        let Some(tag) = page.tag(launch) else { return false };
        let (cells, shift) = page.cells(row.size);
        let start = within as usize >> shift;
        let each = access.bytes.trailing_zeros() - shift;
        let here = start..start + (LANES << each);
        let key = row.key | tag << TAG | u64::from(row.warp * LANES as u32) << THREAD;
        let key = |k: usize| key + (((k >> each) as u64) << THREAD);
        let warp = row.warp as usize;
        let floor = u64::from(clocks.floor(warp).saturating_sub(clocks.base())) << EPOCH;
        // Of another launch, or of this block and ordered before or this thread's own.
        const EPOCHS_BITS: u64 = ((EPOCHS - 1) as u64) << EPOCH;
        let ordered = |old: u64, me: u64| {
            ((old ^ me) >> BLOCK == 0)
                & ((old & EPOCHS_BITS <= floor) | ((old ^ me) >> THREAD == 0))
        };
        let quiet = |old: u64, me: u64| ((old ^ me) >> TAG != 0) | ordered(old, me);
        let all_quiet = |keys: &[AtomicU64]| {
            keys.iter()
                .enumerate()
                .fold(true, |all, (k, old)| all & quiet(old.load(Ordering::Relaxed), key(k)))
        };
        if cells.writes.get().is_some_and(|writes| !all_quiet(&writes[here.clone()])) {
            return false;
        }
        if read {
            for (k, cell) in cells.reads(shift)[here].iter().enumerate() {
                let (old, me) = (cell.load(Ordering::Relaxed), key(k));
                // A weak read by the same thread in the same epoch says the same.
                if (old ^ me) >> (EPOCH - 1) != 0 && (quiet(old, me) || old & STRONG != 0) {
                    cell.store(me, Ordering::Relaxed);
                }
            }
            return true;
        }
        if cells.reads.get().is_some_and(|reads| !all_quiet(&reads[here.clone()])) {
            return false;
        }
        let (writes, values) = cells.writes(shift);
        let (writes, values) = (&writes[here.clone()], &values[here]);
        let store = |k: usize, value: u32| {
            values[k].store(value, Ordering::Relaxed);
            writes[k].store(key(k), Ordering::Release);
        };
        match shift {
            2 => {
                let words = access.values.as_chunks().0.iter().take(values.len());
                words.enumerate().for_each(|(k, word)| store(k, u32::from_le_bytes(*word)));
            }
            1 => {
                let halves = access.values.as_chunks().0.iter().take(values.len());
                halves.enumerate().for_each(|(k, half)| store(k, u16::from_le_bytes(*half).into()));
            }
            _ => {
                let bytes = access.values.iter().take(values.len());
                bytes.enumerate().for_each(|(k, byte)| store(k, (*byte).into()));
            }
        }
        true
    }
}

/// One lane at its cells.
struct Check<'a> {
    view: &'a View,
    clocks: &'a Clocks,
    fences: &'a Fences,
    access: &'a Access<'a>,
    lane: usize,
    me: Me,
    cells: &'a Cells,
    shift: u32,
}

type Wrong = (Kind, usize, Other);

impl Check<'_> {
    #[inline]
    fn run(&self, cells: std::ops::Range<usize>) -> Option<Wrong> {
        match self.access.how {
            How::Read => self.read(cells),
            // A write of what is there already is a read that cannot go wrong.
            How::Write
                if self.access.unchanged >> self.lane & 1 != 0 && !self.is_late(cells.start) =>
            {
                self.note_reads(cells);
                None
            }
            _ => self.write(cells),
        }
    }

    /// Whether an earlier lane of this very instruction has changed what this one finds unchanged.
    fn is_late(&self, cell: usize) -> bool {
        let writes = self.cells.writes.get();
        self.is_at_once(writes.map_or(0, |writes| writes[cell].load(Ordering::Relaxed)))
    }

    /// Whether a write was made by another lane of this very instruction.
    fn is_at_once(&self, key: u64) -> bool {
        const THREADS: u64 = ((1 << (BLOCK - THREAD)) - 1) << THREAD;
        let (thread, writer) = (thread(key), thread(key) as usize % LANES);
        (key ^ self.me.key) & !THREADS == 0
            && thread / LANES as u32 == self.access.warp
            && writer < self.lane
            && self.access.mask >> writer & 1 != 0
            && self.access.addresses[writer] == self.access.addresses[self.lane]
    }

    fn read(&self, cells: std::ops::Range<usize>) -> Option<Wrong> {
        let mut wrong = None;
        if let Some(writes) = self.cells.writes.get() {
            for cell in cells.clone() {
                let write = writes[cell].load(Ordering::Acquire);
                if self.is_now(write) && wrong.is_none() {
                    wrong = self.clash(write, true).map(|(kind, other)| (kind, cell, other));
                }
            }
        }
        self.note_reads(cells);
        wrong
    }

    #[inline]
    fn note_reads(&self, cells: std::ops::Range<usize>) {
        for key in &self.cells.reads(self.shift)[cells] {
            let old = key.load(Ordering::Relaxed);
            if (old ^ self.me.key) >> EPOCH == 0 && old & STRONG <= self.me.key & STRONG {
                continue;
            }
            if !self.is_now(old) || self.replaces(old) {
                key.store(self.me.key, Ordering::Relaxed);
            }
        }
    }

    /// Whether this read is worth more than one of the same launch: that is kept if it is another
    /// block's, which any write here races with, or another thread's and not yet ordered before.
    fn replaces(&self, old: u64) -> bool {
        if old & STRONG > self.me.key & STRONG {
            return true;
        }
        block(old) == self.me.block && self.is_ordered(old)
    }

    fn write(&self, cells: std::ops::Range<usize>) -> Option<Wrong> {
        let (writes, values) = self.cells.writes(self.shift);
        let reads = self.cells.reads.get();
        let mut wrong = None;
        for (i, cell) in cells.enumerate() {
            let value = self.value(i);
            let old = writes[cell].load(Ordering::Acquire);
            let now = self.is_now(old);
            let is_there = |v| v == self.mask(values[cell].load(Ordering::Relaxed));
            if now && value.is_some_and(is_there) {
                // Equal writes do not race: as for whole lanes, the second of them counts as a read.
                self.note_reads(cell..cell + 1);
                continue;
            }
            if wrong.is_none() {
                let read = reads.map_or(0, |reads| reads[cell].load(Ordering::Relaxed));
                let clash =
                    |key, wrote| if self.is_now(key) { self.clash(key, wrote) } else { None };
                // A plain read before an atomic may be the first guess of a compare-and-swap loop.
                let plain = self.access.how == How::Write;
                wrong = clash(old, true)
                    .or_else(|| if plain { clash(read, false) } else { None })
                    .map(|(kind, other)| (kind, cell, other));
            }
            values[cell].store(value.unwrap_or(ATOMIC), Ordering::Relaxed);
            writes[cell].store(self.me.key, Ordering::Release);
        }
        wrong
    }

    /// What the lane writes into its `i`-th cell; `None` for an atomic.
    fn value(&self, i: usize) -> Option<u32> {
        let bytes = 1 << self.shift;
        let start = self.lane * self.access.bytes as usize + i * bytes;
        let value = self.access.values.get(start..start + bytes)?;
        let mut whole = [0; 4];
        whole[..bytes].copy_from_slice(value);
        Some(u32::from_le_bytes(whole))
    }

    fn mask(&self, value: u32) -> u32 {
        value & (u32::MAX >> (32 - (8 << self.shift)))
    }

    #[inline(always)]
    fn is_now(&self, key: u64) -> bool {
        (key ^ self.me.key) >> TAG == 0
    }

    /// Whether an access of this block is ordered before this one.
    fn is_ordered(&self, key: u64) -> bool {
        let epoch = (key >> EPOCH) as u32 & (EPOCHS - 1);
        epoch == EPOCHS - 1
            || self.clocks.ordered(thread(key), self.clocks.base() + epoch, self.me.thread)
    }

    /// The race with an access of this launch, if there is one.
    fn clash(&self, key: u64, wrote: bool) -> Option<(Kind, Other)> {
        if self.access.strong && key & STRONG != 0 {
            return None;
        }
        let (block, thread, pc) = (block(key), thread(key), key as u32 & (PCS - 1));
        let epoch = (key >> EPOCH) as u32 & (EPOCHS - 1);
        let pc = if pc == PCS - 1 { u32::MAX } else { pc };
        let strong = key & STRONG != 0;
        let mut other = Other { block, thread, pc, wrote, strong, at_once: false };
        if block == self.me.block {
            if self.is_ordered(key) {
                return None;
            }
            other.at_once = wrote && self.is_at_once(key);
            return Some((Kind::Race, other));
        }
        // The last epoch stands for all that are later: any fence may have come after those.
        let step = if epoch == EPOCHS - 1 { 0 } else { epoch };
        if self.fences.ordered(block, step, self.view.acquired) {
            return None;
        }
        Some((Kind::CrossBlockRace, other))
    }
}

fn block(key: u64) -> u64 {
    key >> BLOCK & (BLOCKS - 1)
}

fn thread(key: u64) -> u32 {
    (key >> THREAD) as u32 & ((1 << (BLOCK - THREAD)) - 1)
}
