//! All working memory of a step, planned from the lifetimes of its buffers before step 0.
//!
//! Two placements. [`Placement::Packed`] (production) lets buffers whose lifetimes do not meet share
//! one arena. [`Placement::Separate`] gives each an allocation of its own and fills it with a
//! signalling pattern whenever its lifetime begins. Tests run under both and must get the same
//! bits, because one big arena hides overruns and stale reads from every checker.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;

/// Host buffers begin on a cache line.
const ALIGN: usize = 64;
/// Every byte of a fresh buffer under separate placement: a NaN in f32 and in bf16.
pub const PATTERN: u8 = 0xff;

/// How buffers are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    Packed,
    Separate,
}

/// A planned buffer: its size and the first and last tick (op index) at which it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferSpec {
    pub name: String,
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

/// Which buffer of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub usize);

/// Where the buffers of one program lie and when they live, on whatever device.
pub struct Plan {
    specs: Vec<BufferSpec>,
    /// Block and byte offset of each buffer.
    places: Vec<(usize, usize)>,
    /// Bytes of each block to allocate.
    blocks: Vec<usize>,
    placement: Placement,
    now: usize,
}

impl Plan {
    /// Plans; buffers begin at multiples of `align` bytes of a shared block.
    pub fn new(specs: Vec<BufferSpec>, placement: Placement, align: usize) -> Self {
        let (places, blocks) = match placement {
            Placement::Separate => {
                let blocks = specs.iter().map(|spec| spec.bytes).collect();
                ((0..specs.len()).map(|i| (i, 0)).collect(), blocks)
            }
            Placement::Packed => {
                let (offsets, total) = pack(&specs, align);
                (offsets.into_iter().map(|offset| (0, offset)).collect(), vec![total])
            }
        };
        Self { specs, places, blocks, placement, now: 0 }
    }

    /// Bytes of each block to allocate.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// Bytes to allocate.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().sum()
    }

    /// Moves to tick `now`. Gives the blocks to fill with [`PATTERN`]: under separate placement, those of
    /// the buffers whose lifetime begins here.
    pub fn begin(&mut self, now: usize) -> impl Iterator<Item = usize> {
        self.now = now;
        let looked_at = match self.placement {
            Placement::Separate => self.specs.len(),
            Placement::Packed => 0,
        };
        let specs = self.specs[..looked_at].iter().enumerate();
        specs.filter(move |(_, spec)| spec.first == now).map(|(i, _)| i)
    }

    /// The buffers that hold something when tick `now` begins: written before, and used then or later.
    pub fn live_before(&self, now: usize) -> impl Iterator<Item = Buffer> {
        let specs = self.specs.iter().enumerate();
        specs.filter(move |(_, spec)| spec.first < now && now <= spec.last).map(|(i, _)| Buffer(i))
    }

    /// Block and bytes of a buffer.
    pub fn place(&self, buffer: Buffer) -> (usize, Range<usize>) {
        let (block, offset) = self.places[buffer.0];
        (block, offset..offset + self.specs[buffer.0].bytes)
    }

    /// Checks that buffers may be lent at the current tick: some to read, some to write.
    ///
    /// Panics when a written one overlaps another borrowed one, or when one is not alive: both
    /// are mistakes in a program, not in its input.
    pub fn check(&self, reads: &[Buffer], writes: &[Buffer]) {
        for (i, &write) in writes.iter().enumerate() {
            for &other in reads.iter().chain(&writes[i + 1..]) {
                assert!(
                    !self.overlap(write, other),
                    "{} overlaps {}",
                    self.specs[write.0].name,
                    self.specs[other.0].name
                );
            }
        }
        for buffer in reads.iter().chain(writes) {
            let spec = &self.specs[buffer.0];
            assert!(
                (spec.first..=spec.last).contains(&self.now),
                "{} is used at tick {}, outside its lifetime",
                spec.name,
                self.now
            );
            let (block, range) = self.place(*buffer);
            assert!(range.end <= self.blocks[block]);
        }
    }

    fn overlap(&self, a: Buffer, b: Buffer) -> bool {
        let ((block_a, a), (block_b, b)) = (self.place(a), self.place(b));
        block_a == block_b && a.start < b.end && b.start < a.end
    }
}

/// The buffers of one program in host memory.
pub struct Memory {
    plan: Plan,
    blocks: Vec<Block>,
}

impl Memory {
    /// Plans and allocates.
    pub fn new(specs: Vec<BufferSpec>, placement: Placement) -> Self {
        let plan = Plan::new(specs, placement, ALIGN);
        let blocks = plan.blocks().iter().map(|&bytes| Block::new(bytes)).collect();
        Self { plan, blocks }
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.plan.bytes()
    }

    /// Moves to tick `now`. Under separate placement, buffers whose lifetime begins here are
    /// filled with the pattern.
    pub fn begin(&mut self, now: usize) {
        for block in self.plan.begin(now) {
            self.blocks[block].all_mut().fill(PATTERN);
        }
    }

    /// The bytes of every buffer that holds something when tick `now` begins.
    pub fn live_before(&self, now: usize) -> impl Iterator<Item = (Buffer, &[u8])> {
        self.plan.live_before(now).map(|buffer| {
            let (block, range) = self.plan.place(buffer);
            (buffer, &self.blocks[block].all()[range])
        })
    }

    /// Borrows buffers at the current tick: some to read, some to write. Panics as [`Plan::check`] does.
    pub fn borrow<const R: usize, const W: usize>(
        &mut self,
        reads: [Buffer; R],
        writes: [Buffer; W],
    ) -> ([&[u8]; R], [&mut [u8]; W]) {
        self.plan.check(&reads, &writes);
        // SAFETY: the writes overlap neither each other nor any read (just checked), all lie in
        // blocks that live as long as `self`, which stays mutably borrowed.
        unsafe {
            (
                reads.map(|buffer| {
                    let (data, len) = self.range(buffer);
                    std::slice::from_raw_parts(data, len)
                }),
                writes.map(|buffer| {
                    let (data, len) = self.range(buffer);
                    std::slice::from_raw_parts_mut(data, len)
                }),
            )
        }
    }

    fn range(&self, buffer: Buffer) -> (*mut u8, usize) {
        let (block, range) = self.plan.place(buffer);
        let block = &self.blocks[block];
        assert!(range.end <= block.bytes);
        // SAFETY: the offset lies inside the block (just checked).
        (unsafe { block.data.as_ptr().add(range.start) }, range.len())
    }
}

/// Offsets that let no two buffers with meeting lifetimes overlap, and the arena's size.
///
/// Largest first, each at the lowest offset that is free for its whole lifetime.
fn pack(specs: &[BufferSpec], align: usize) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(specs[i].bytes), i));
    let mut offsets = vec![0; specs.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(specs.len());
    let mut total = 0;
    for i in order {
        let spec = &specs[i];
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|&&j| specs[j].first <= spec.last && spec.first <= specs[j].last)
            .map(|&j| offsets[j]..offsets[j] + specs[j].bytes)
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset = 0usize;
        for range in taken {
            if offset + spec.bytes <= range.start {
                break;
            }
            offset = offset.max(range.end.next_multiple_of(align));
        }
        offsets[i] = offset;
        total = total.max(offset + spec.bytes);
        placed.push(i);
    }
    (offsets, total)
}

/// One zeroed allocation.
struct Block {
    data: NonNull<u8>,
    bytes: usize,
}

impl Block {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes.max(1), ALIGN)
            .expect("a buffer larger than the address space")
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is at least 1.
        let data = unsafe { alloc_zeroed(layout) };
        let Some(data) = NonNull::new(data) else { handle_alloc_error(layout) };
        Self { data, bytes }
    }

    fn all(&self) -> &[u8] {
        // SAFETY: the block owns these bytes, all initialised.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }

    fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: the block owns these bytes, all initialised.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.data.as_ptr(), Self::layout(self.bytes)) };
    }
}

// SAFETY: a block is plain memory with one owner.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bytes: usize, first: usize, last: usize) -> BufferSpec {
        BufferSpec { name: format!("b{bytes}"), bytes, first, last }
    }

    #[test]
    fn buffers_alive_together_never_overlap() {
        let specs: Vec<BufferSpec> =
            (0..60).map(|i| spec(1 + i * 37 % 500, i * 7 % 50, i * 7 % 50 + i * 13 % 20)).collect();
        let (offsets, total) = pack(&specs, ALIGN);
        for i in 0..specs.len() {
            assert!(offsets[i] + specs[i].bytes <= total && offsets[i].is_multiple_of(ALIGN));
            for j in 0..i {
                let meet = specs[i].first <= specs[j].last && specs[j].first <= specs[i].last;
                let apart = offsets[i] + specs[i].bytes <= offsets[j]
                    || offsets[j] + specs[j].bytes <= offsets[i];
                assert!(!meet || apart, "{i} and {j}");
            }
        }
        assert!(total < specs.iter().map(|s| s.bytes).sum());
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn a_buffer_is_not_lent_twice() {
        let mut memory = Memory::new(vec![spec(8, 0, 1)], Placement::Packed);
        memory.borrow([Buffer(0)], [Buffer(0)]);
    }

    #[test]
    #[should_panic(expected = "outside its lifetime")]
    fn a_dead_buffer_is_not_lent() {
        let mut memory = Memory::new(vec![spec(8, 0, 1)], Placement::Packed);
        memory.begin(2);
        memory.borrow([Buffer(0)], []);
    }

    #[test]
    fn a_fresh_separate_buffer_holds_the_pattern() {
        let mut memory = Memory::new(vec![spec(8, 1, 2)], Placement::Separate);
        memory.begin(1);
        let ([], [bytes]) = memory.borrow([], [Buffer(0)]);
        assert_eq!(bytes, [PATTERN; 8]);
        bytes.fill(1);
        memory.begin(2);
        assert_eq!(memory.borrow([Buffer(0)], []).0[0], [1; 8]);
    }
}
