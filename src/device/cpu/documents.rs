//! Packed documents cut into blocks of rows, and matrices cut alike, for `Cpu::blocks`.
//!
//! Blocks are counted from the start of their document, so what is in one depends on nothing that is
//! packed beside it. Nothing is allocated: a task finds its block by walking over the documents.

use std::marker::PhantomData;

use super::Blocks;

/// How packed documents are cut: rows `cu_seqlens[d]..cu_seqlens[d + 1]` into blocks of at most
/// `size`, columns into `columns` parts of equal width.
///
/// A task has one part of two blocks of one document, `distance` blocks apart; with distance 0 they
/// are the same. No two tasks of a cut have the same later block, nor the same earlier one.
#[derive(Clone, Copy)]
pub struct Cut<'a> {
    cu_seqlens: &'a [u32],
    size: usize,
    columns: usize,
    distance: usize,
}

/// Rows `begin..end` of the document `document`, which is rows `start..stop`.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub document: usize,
    pub start: usize,
    pub stop: usize,
    pub begin: usize,
    pub end: usize,
    /// Which part of the columns.
    pub column: usize,
    /// The document's blocks before this one, and those of earlier documents that have several.
    slot: usize,
}

impl Block {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.end - self.begin
    }
}

/// Which of a task's two blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Later,
    Earlier,
}

impl<'a> Cut<'a> {
    /// Blocks of at most `size` rows, the two of a task the same. Panics when a document ends before it
    /// begins.
    pub fn new(cu_seqlens: &'a [u32], size: usize, columns: usize) -> Self {
        assert!(size > 0 && columns > 0, "blocks of no elements");
        assert!(cu_seqlens.is_sorted(), "a document that ends before it begins");
        // Blocks are at most as many as rows: nothing below, which multiplies them by columns, wraps.
        let rows = cu_seqlens.last().map_or(0, |&end| end as usize);
        assert!(rows.checked_mul(columns).is_some(), "more columns than can be counted");
        Self { cu_seqlens, size, columns, distance: 0 }
    }

    /// The same with a task's blocks `distance` blocks apart.
    pub fn apart(self, distance: usize) -> Self {
        Self { distance, ..self }
    }

    /// Blocks of the longest document.
    pub fn longest(&self) -> usize {
        self.documents().map(|(start, stop)| self.blocks(start, stop)).max().unwrap_or(0)
    }

    /// Blocks of documents that have several.
    pub fn slots(&self) -> usize {
        let blocks = self.documents().map(|(start, stop)| self.blocks(start, stop));
        blocks.filter(|&blocks| blocks > 1).sum()
    }

    /// A task's (later, earlier) block.
    pub fn pairs(self) -> Pairs<'a> {
        Pairs(self)
    }

    /// The blocks' rows and columns of a matrix of rows of `pitch` elements.
    pub fn rows_mut<T: Send>(self, side: Side, data: &'a mut [T], pitch: usize) -> RowsMut<'a, T> {
        let last = self.cu_seqlens.last().map_or(0, |&end| end as usize);
        let fits = last.checked_mul(pitch).is_some_and(|needed| needed <= data.len());
        assert!(fits && pitch.is_multiple_of(self.columns), "a matrix too small to be cut");
        RowsMut { data: data.as_mut_ptr(), pitch, cut: self, side, borrow: PhantomData }
    }

    /// `len` elements for each part of each block of a document that has several; none for others.
    pub fn slots_mut<T: Send>(self, side: Side, data: &'a mut [T], len: usize) -> SlotsMut<'a, T> {
        let parts = self.slots().checked_mul(self.columns);
        let needed = parts.and_then(|parts| parts.checked_mul(len));
        assert!(needed.is_some_and(|needed| needed <= data.len()), "slots too few");
        SlotsMut { data: data.as_mut_ptr(), len, cut: self, side, borrow: PhantomData }
    }

    fn documents(&self) -> impl Iterator<Item = (usize, usize)> {
        self.cu_seqlens.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize))
    }

    fn blocks(&self, start: usize, stop: usize) -> usize {
        (stop - start).div_ceil(self.size)
    }

    /// The tasks of all documents.
    fn count(&self) -> usize {
        let blocks = self.documents().map(|(start, stop)| self.blocks(start, stop));
        blocks.map(|blocks| blocks.saturating_sub(self.distance)).sum::<usize>() * self.columns
    }

    /// Task `i`'s blocks, (later, earlier). The last blocks of a document come first: where a task
    /// looks back over the document, those have the most to do.
    fn pair(&self, i: usize) -> (Block, Block) {
        let (mut before, mut slot) = (0, 0);
        for (document, (start, stop)) in self.documents().enumerate() {
            let blocks = self.blocks(start, stop);
            let tasks = blocks.saturating_sub(self.distance) * self.columns;
            if i < before + tasks {
                let (column, back) = ((i - before) % self.columns, (i - before) / self.columns);
                let block = |number: usize| {
                    let begin = start + number * self.size;
                    let end = stop.min(begin + self.size);
                    let slot = if blocks > 1 { slot + number } else { usize::MAX };
                    Block { document, start, stop, begin, end, column, slot }
                };
                let later = blocks - 1 - back;
                return (block(later), block(later - self.distance));
            }
            before += tasks;
            slot += if blocks > 1 { blocks } else { 0 };
        }
        panic!("no such block");
    }

    fn side(&self, side: Side, i: usize) -> Block {
        let (later, earlier) = self.pair(i);
        if side == Side::Later { later } else { earlier }
    }
}

/// See [`Cut::pairs`].
pub struct Pairs<'a>(Cut<'a>);

// SAFETY: a block's numbers are copies.
unsafe impl Blocks for Pairs<'_> {
    type Block = (Block, Block);

    fn count(&self) -> usize {
        self.0.count()
    }

    unsafe fn block(&self, i: usize) -> (Block, Block) {
        self.0.pair(i)
    }
}

/// See [`Cut::rows_mut`].
pub struct RowsMut<'a, T> {
    data: *mut T,
    pitch: usize,
    cut: Cut<'a>,
    side: Side,
    borrow: PhantomData<&'a mut [T]>,
}

/// A rectangle of a matrix, one thread's alone.
pub struct Rectangle<'a, T> {
    data: *mut T,
    pitch: usize,
    rows: usize,
    width: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T> Rectangle<'a, T> {
    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Panics when there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "no such row");
        // SAFETY: a row inside the rectangle, lent as the rectangle is.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.pitch), self.width) }
    }

    /// All rows at once, of a rectangle that has all columns; panics otherwise.
    pub fn into_slice(self) -> &'a mut [T] {
        assert!(self.width == self.pitch, "rows with a gap between them");
        // SAFETY: the rows follow each other without a gap.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.rows * self.width) }
    }
}

// SAFETY: threads get disjoint rectangles through it.
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

// SAFETY: no two tasks have the same part of the same block on one side, blocks don't overlap (the
// documents' ends ascend), and each is handed out once.
unsafe impl<'a, T: Send> Blocks for RowsMut<'a, T> {
    type Block = Rectangle<'a, T>;

    fn count(&self) -> usize {
        self.cut.count()
    }

    unsafe fn block(&self, i: usize) -> Rectangle<'a, T> {
        let block = self.cut.side(self.side, i);
        let width = self.pitch / self.cut.columns;
        // SAFETY: inside the slice, which has all rows of all documents.
        let data = unsafe { self.data.add(block.begin * self.pitch + block.column * width) };
        Rectangle { data, pitch: self.pitch, rows: block.rows(), width, borrow: PhantomData }
    }
}

/// See [`Cut::slots_mut`].
pub struct SlotsMut<'a, T> {
    data: *mut T,
    len: usize,
    cut: Cut<'a>,
    side: Side,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get disjoint slots through it.
unsafe impl<T: Send> Sync for SlotsMut<'_, T> {}

// SAFETY: blocks of documents that have several are numbered through, no two tasks have the same part
// of the same block on one side, and each is handed out once.
unsafe impl<'a, T: Send> Blocks for SlotsMut<'a, T> {
    type Block = &'a mut [T];

    fn count(&self) -> usize {
        self.cut.count()
    }

    unsafe fn block(&self, i: usize) -> &'a mut [T] {
        let block = self.cut.side(self.side, i);
        if block.slot == usize::MAX {
            return &mut [];
        }
        let start = (block.slot * self.cut.columns + block.column) * self.len;
        // SAFETY: one of `slots · columns` slots; nobody else is given this one.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Cpu;

    /// Every pair of blocks of every document comes once, in every part, with its own rows and slots.
    #[test]
    fn every_block_comes_once() {
        let cpu = Cpu::new(3);
        let cu = [0, 0, 5, 12, 12, 13, 29, 32];
        for (size, columns) in [(4, 1), (4, 3), (7, 2), (100, 2)] {
            let cut = Cut::new(&cu, size, columns);
            let width = 2 * columns;
            let mut pairs = vec![[0u8; 32]; 32 * columns];
            let mut seen = vec![0; 32 * width];
            let mut slots = vec![0; cut.slots() * columns * 3];
            for distance in 0..cut.longest() + 1 {
                let cut = cut.apart(distance);
                seen.fill(0);
                slots.fill(0);
                let later = cut.rows_mut(Side::Later, &mut seen, width);
                let slot = cut.slots_mut(Side::Earlier, &mut slots, 3);
                let found = std::sync::Mutex::new(Vec::new());
                cpu.blocks((cut.pairs(), later, slot), |((later, earlier), mut rows, slot)| {
                    assert_eq!(later.begin - earlier.begin, distance * size);
                    assert!(later.rows() <= size && later.end <= later.stop);
                    assert_eq!((rows.width(), later.start), (2, earlier.start));
                    for row in 0..later.rows() {
                        rows.row(row).iter_mut().for_each(|x| *x += 1);
                    }
                    assert_eq!(slot.is_empty(), later.stop - later.start <= size);
                    slot.iter_mut().for_each(|x| *x += 1);
                    found.lock().unwrap().push((later, earlier));
                });
                for (later, earlier) in found.into_inner().unwrap() {
                    for row in later.begin..later.end {
                        let keys = &mut pairs[row * columns + later.column];
                        keys[earlier.begin..earlier.end].iter_mut().for_each(|count| *count += 1);
                    }
                }
                assert!(seen.iter().chain(&slots).all(|&count| count <= 1));
                assert!(distance > 0 || seen.iter().chain(&slots).all(|&count| count == 1));
            }
            for document in cu.windows(2).map(|pair| pair[0] as usize..pair[1] as usize) {
                for row in document.clone() {
                    for (key, &count) in pairs[row * columns].iter().enumerate() {
                        let same = document.contains(&key);
                        let want =
                            same && (key - document.start) / size <= (row - document.start) / size;
                        assert_eq!(count, u8::from(want), "row {row}, key {key}, size {size}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "too small to be cut")]
    fn a_matrix_too_small_is_refused() {
        Cut::new(&[0, 4], 2, 1).rows_mut(Side::Later, &mut [0; 11], 3);
    }

    #[test]
    #[should_panic(expected = "more columns than")]
    fn columns_whose_number_wraps_are_refused() {
        // Two blocks by 2^63 columns: no slots at all, if they wrap.
        Cut::new(&[0, 2], 1, 1 << 63).slots_mut(Side::Later, &mut [0; 1], 1);
    }

    #[test]
    #[should_panic(expected = "ends before it begins")]
    fn documents_that_overlap_are_refused() {
        Cut::new(&[0, 4, 3], 2, 1);
    }
}
