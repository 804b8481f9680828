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
    #[should_panic(expected = "blocks: [2, 3]")]
    fn a_block_too_few_is_refused() {
        let (x, mut y) = ([0; 16], [0; 17]);
        Cpu::new(2).blocks((chunks(&x, 8), chunks_mut(&mut y, 8)), |_| ());
    }
}
