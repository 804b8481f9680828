//! The register tile of f32 multiply-adds, written once for registers of any width.
//!
//! Panels and rows of A are read as 32-bit words: an f32, or two bf16 that lie together and are
//! widened to f32 by a shift and a mask, which is exact. Every sum runs over k in order, one
//! multiply-add after the other, so its bits depend on the kind of multiply-add alone: fused with
//! AVX2 and AVX-512, which give the same bits, and with two roundings in portable code.

use super::{GemmElement, MR, NR, Segment};

/// A register of f32, or of as many words.
///
/// # Safety
/// Every function needs the CPU to have the instruction set of the type.
pub trait Vector: Copy {
    const LANES: usize;

    /// # Safety
    /// `LANES` words are readable from `from`.
    unsafe fn load(from: *const u32) -> Self;
    /// # Safety
    /// `LANES` floats are writable from `to`.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// See the trait.
    unsafe fn splat(word: u32) -> Self;
    /// `self · b + sum`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self;
    /// The bf16 that comes first in memory in each word, widened.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn first(self) -> Self;
    /// The bf16 that comes second.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn second(self) -> Self;
    /// The same words, of which the compiler does not know that they are all one: it would shift the one
    /// in a general register and broadcast it from there, which costs more than a broadcast from memory.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn hidden(self) -> Self {
        self
    }
    /// The same pointer, of which the compiler does not know that it is: what was read through one is
    /// read again through the other.
    fn again<T>(pointer: *const T) -> *const T {
        pointer
    }
}

/// [`Vector::again`] on x86.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "there is no instruction that could read")]
pub fn again<T>(mut pointer: *const T) -> *const T {
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
    };
    pointer
}

/// `R` rows from `row` by `W` registers of columns from `column`, kept in `R · W` registers over all
/// segments.
///
/// # Safety
/// As [`GemmElement::tile`], with `row + R` rows; the columns are inside a panel; the CPU has the
/// instruction set of `V`.
#[inline(always)]
pub unsafe fn block<V: Vector, E: GemmElement, const R: usize, const W: usize>(
    row: usize,
    column: usize,
    segments: &[Segment<E>],
    out: &mut [f32; MR * NR],
) {
    // SAFETY: the caller's promise.
    let zero = unsafe { V::splat(0) };
    let mut sums = [[zero; W]; R];
    for segment in segments {
        // SAFETY: row `row + r` of `a` has k elements.
        let a = unsafe { segment.a.add(row * segment.lda) };
        let mut panel = segment.panel.cast::<u32>();
        for step in 0..segment.k / E::GROUP {
            // SAFETY: word `step` of each row of `a`, row `step` of the panel's words.
            unsafe {
                let word = |r: usize| {
                    a.add(r * segment.lda + step * E::GROUP).cast::<u32>().read_unaligned()
                };
                let b = load::<V, W>(panel.add(column));
                if E::GROUP == 1 {
                    add::<V, WHOLE, R, W>(&mut sums, word, b);
                } else {
                    add::<V, FIRST, R, W>(&mut sums, word, b);
                    // Read again, because the words of all rows do not fit into the registers beside
                    // the sums: kept, they would be written to the stack.
                    let (a, panel) = (V::again(a), V::again(panel));
                    let word = |r: usize| {
                        a.add(r * segment.lda + step * E::GROUP).cast::<u32>().read_unaligned()
                    };
                    let b = load::<V, W>(panel.add(column));
                    add::<V, SECOND, R, W>(&mut sums, word, b);
                }
                panel = panel.add(NR);
            }
        }
        if !segment.k.is_multiple_of(E::GROUP) {
            // SAFETY: the last bf16 of each row, alone; the panel's row is there, padded.
            unsafe {
                let last = |r: usize| {
                    let at = a.add(r * segment.lda + segment.k - 1).cast::<u16>().read();
                    if cfg!(target_endian = "little") { at.into() } else { u32::from(at) << 16 }
                };
                let b = load::<V, W>(panel.add(column));
                add::<V, FIRST, R, W>(&mut sums, last, b);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (w, sum) in sums.iter().enumerate() {
            let at = &mut out[(row + r) * NR + column + w * V::LANES..][..V::LANES];
            // SAFETY: that many floats.
            unsafe { sum.store(at.as_mut_ptr()) };
        }
    }
}

/// # Safety
/// `W` registers are readable.
#[inline(always)]
unsafe fn load<V: Vector, const W: usize>(panel: *const u32) -> [V; W] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut b = [V::splat(0); W];
        for (w, b) in b.iter_mut().enumerate() {
            *b = V::load(panel.add(w * V::LANES));
        }
        b
    }
}

/// What a word holds: one f32, or two bf16 of which one is meant.
const WHOLE: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;

/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn part<V: Vector, const PART: usize>(words: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match PART {
            WHOLE => words,
            FIRST => words.first(),
            _ => words.second(),
        }
    }
}

/// `sums[r] += word(r) · b`, with one part of the words of both.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn add<V: Vector, const PART: usize, const R: usize, const W: usize>(
    sums: &mut [[V; W]; R],
    word: impl Fn(usize) -> u32,
    mut b: [V; W],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for b in &mut b {
            *b = part::<V, PART>(*b);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let words = V::splat(word(r));
            let a = if PART == WHOLE { words } else { part::<V, PART>(words.hidden()) };
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = a.multiply_add(b, *sum);
            }
        }
    }
}

/// `rounds` multiply-adds on each of `N` registers that do not wait for each other. Returns how many
/// scalar ones that were.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
pub unsafe fn chains<V: Vector, const N: usize>(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [V::splat(0); N];
        let a = V::splat(std::hint::black_box(1f32.to_bits()));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = a.multiply_add(a, *sum);
            }
        }
        for sum in sums {
            let mut out = [0f32; 16];
            sum.store(out.as_mut_ptr());
            std::hint::black_box(out);
        }
    }
    rounds * N * V::LANES
}
