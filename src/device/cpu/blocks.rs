//! Slices cut into blocks that the tasks of a job share: block `i` belongs to task `i`.

use std::marker::PhantomData;

/// What can be cut into blocks: slices, shared or not, and several of them side by side.
///
/// # Safety
/// `block(i)` may be called for different `i < count()` on different threads.
pub unsafe trait Blocks: Sync {
    /// One block.
    type Block;

    /// Number of blocks; the last one may be shorter.
    fn count(&self) -> usize;

    /// # Safety
    /// `i < count()`, and each `i` is asked for once.
    unsafe fn block(&self, i: usize) -> Self::Block;
}

/// Blocks of `size` elements to read.
pub struct Chunks<'a, T> {
    data: &'a [T],
    size: usize,
}

/// `data` in blocks of `size` elements.
pub fn chunks<T: Sync>(data: &[T], size: usize) -> Chunks<'_, T> {
    assert!(size > 0, "blocks of no elements");
    Chunks { data, size }
}

// SAFETY: blocks are only read.
unsafe impl<'a, T: Sync> Blocks for Chunks<'a, T> {
    type Block = &'a [T];

    fn count(&self) -> usize {
        self.data.len().div_ceil(self.size)
    }

    unsafe fn block(&self, i: usize) -> &'a [T] {
        let start = i * self.size;
        &self.data[start..self.data.len().min(start + self.size)]
    }
}

/// Blocks of `size` elements to write.
pub struct ChunksMut<'a, T> {
    data: *mut T,
    len: usize,
    size: usize,
    borrow: PhantomData<&'a mut [T]>,
}

/// `data` in blocks of `size` elements, each for one task alone.
pub fn chunks_mut<T: Send>(data: &mut [T], size: usize) -> ChunksMut<'_, T> {
    assert!(size > 0, "blocks of no elements");
    ChunksMut { data: data.as_mut_ptr(), len: data.len(), size, borrow: PhantomData }
}

// SAFETY: threads get disjoint blocks through it.
unsafe impl<T: Send> Sync for ChunksMut<'_, T> {}

// SAFETY: blocks of different `i` don't overlap, and each is handed out once.
unsafe impl<'a, T: Send> Blocks for ChunksMut<'a, T> {
    type Block = &'a mut [T];

    fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    unsafe fn block(&self, i: usize) -> &'a mut [T] {
        let start = i * self.size;
        assert!(start < self.len, "no such block");
        let len = self.size.min(self.len - start);
        // SAFETY: inside the slice; nobody else is given this block.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// The blocks' own numbers, beside slices, where a task needs to know which block it has.
pub struct Numbers(usize);

/// As many blocks as `count`, block `i` being the number `i`.
pub fn numbers(count: usize) -> Numbers {
    Numbers(count)
}

// SAFETY: a number is a copy.
unsafe impl Blocks for Numbers {
    type Block = usize;

    fn count(&self) -> usize {
        self.0
    }

    unsafe fn block(&self, i: usize) -> usize {
        i
    }
}

/// Pieces to write that end where a list says.
pub struct PiecesMut<'a, T> {
    data: *mut T,
    ends: &'a [usize],
    borrow: PhantomData<&'a mut [T]>,
}

/// `data` in pieces, the first up to element `ends[0]`, the next from there to `ends[1]`, each for one
/// task alone.
pub fn pieces_mut<'a, T: Send>(data: &'a mut [T], ends: &'a [usize]) -> PiecesMut<'a, T> {
    let inside = ends.last().is_none_or(|&end| end <= data.len());
    assert!(inside && ends.is_sorted(), "pieces that overlap or go beyond the end");
    PiecesMut { data: data.as_mut_ptr(), ends, borrow: PhantomData }
}

// SAFETY: threads get disjoint pieces through it.
unsafe impl<T: Send> Sync for PiecesMut<'_, T> {}

// SAFETY: the ends ascend, so pieces of different `i` don't overlap, and each is handed out once.
unsafe impl<'a, T: Send> Blocks for PiecesMut<'a, T> {
    type Block = &'a mut [T];

    fn count(&self) -> usize {
        self.ends.len()
    }

    unsafe fn block(&self, i: usize) -> &'a mut [T] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        // SAFETY: inside the slice, whose length the last end does not exceed; nobody else is given
        // this piece.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), self.ends[i] - start) }
    }
}

/// Side by side, as `zip` has them; all must have the same number of blocks.
macro_rules! side_by_side {
    ($($part:ident $index:tt),+) => {
        // SAFETY: as each part's.
        unsafe impl<$($part: Blocks),+> Blocks for ($($part,)+) {
            type Block = ($($part::Block,)+);

            fn count(&self) -> usize {
                let counts = [$(self.$index.count()),+];
                assert!(counts.iter().all(|&count| count == counts[0]), "blocks: {counts:?}");
                counts[0]
            }

            unsafe fn block(&self, i: usize) -> Self::Block {
                // SAFETY: the caller's promise.
                unsafe { ($(self.$index.block(i),)+) }
            }
        }
    };
}
side_by_side!(A 0, B 1);
side_by_side!(A 0, B 1, C 2);
side_by_side!(A 0, B 1, C 2, D 3);
side_by_side!(A 0, B 1, C 2, D 3, E 4);
side_by_side!(A 0, B 1, C 2, D 3, E 4, F 5);
side_by_side!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Cpu;

    #[test]
    fn blocks_are_those_of_the_slices() {
        let cpu = Cpu::new(3);
        for len in [0, 1, 7, 8, 9, 100] {
            let x: Vec<u32> = (0..len).collect();
            let mut y = vec![0; x.len()];
            let mut sums = vec![0; x.len().div_ceil(8)];
            cpu.blocks((chunks(&x, 8), chunks_mut(&mut y, 8), chunks_mut(&mut sums, 1)), |block| {
                let (x, y, sum) = block;
                y.copy_from_slice(x);
                sum[0] = x.iter().sum::<u32>();
            });
            assert_eq!(x, y);
            let want: Vec<u32> = x.chunks(8).map(|x| x.iter().sum()).collect();
            assert_eq!(sums, want);
        }
    }

    #[test]
    fn pieces_end_where_the_list_says() {
        let mut y = [9; 8];
        Cpu::new(2).blocks((chunks(&[1, 2, 3], 1), pieces_mut(&mut y, &[3, 3, 7])), |(i, y)| {
            y.fill(i[0]);
        });
        assert_eq!(y, [1, 1, 1, 3, 3, 3, 3, 9]);
        for ends in [[1, 9], [5, 4]] {
            let refused = std::panic::catch_unwind(|| pieces_mut(&mut [0; 8], &ends).count());
            assert!(refused.is_err(), "{ends:?}");
        }
    }

    #[test]
    #[should_panic(expected = "blocks: [2, 3]")]
    fn a_block_too_few_is_refused() {
        let (x, mut y) = ([0; 16], [0; 17]);
        Cpu::new(2).blocks((chunks(&x, 8), chunks_mut(&mut y, 8)), |_| ());
    }
}
