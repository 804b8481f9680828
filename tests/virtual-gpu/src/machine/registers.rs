//! The register file of a warp: every register holds its 32 lanes side by side.
//!
//! A register of up to 32 bits is one slot, `[u32; 32]` (values of 8 and 16 bits are kept zero-extended);
//! one of 64 bits is two slots, seen as `[u64; 32]`. A predicate is a mask with one bit a lane. Immediates
//! and special registers live in slots too, so that an operand is never anything but a slot.

use bytemuck::{Pod, Zeroable};

/// The lanes of a warp.
pub const LANES: usize = 32;
/// A 32-bit value of every lane.
pub type W32 = [u32; LANES];
/// A 64-bit value of every lane.
pub type W64 = [u64; LANES];
/// All lanes.
pub const FULL: u32 = u32::MAX;

/// Storage of one slot, aligned for vector loads.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Lanes(pub W32);

/// Where a register of up to 32 bits lies in its function's frame, or the first half of a 64-bit one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Where a predicate lies in its function's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pred(pub u32);

/// The registers that the running function sees: a window of the warp's register stack.
pub struct Registers<'w> {
    pub slots: &'w mut [Lanes],
    pub predicates: &'w mut [u32],
}

impl Registers<'_> {
    #[inline(always)]
    pub fn r32(&self, slot: Slot) -> &W32 {
        &self.slots[slot.0 as usize].0
    }

    #[inline(always)]
    pub fn r64(&self, slot: Slot) -> &W64 {
        let at = slot.0 as usize;
        bytemuck::cast_ref::<[Lanes; 2], W64>(self.slots[at..at + 2].try_into().expect("two slots"))
    }

    /// Writes the lanes of `mask`; the others keep what they have.
    #[inline(always)]
    pub fn set32(&mut self, slot: Slot, mask: u32, value: &W32) {
        blend(&mut self.slots[slot.0 as usize].0, mask, value);
    }

    #[inline(always)]
    pub fn set64(&mut self, slot: Slot, mask: u32, value: &W64) {
        let at = slot.0 as usize;
        let pair: &mut [Lanes; 2] = (&mut self.slots[at..at + 2]).try_into().expect("two slots");
        blend(bytemuck::cast_mut::<[Lanes; 2], W64>(pair), mask, value);
    }

    #[inline(always)]
    pub fn pred(&self, pred: Pred) -> u32 {
        self.predicates[pred.0 as usize]
    }

    #[inline(always)]
    pub fn set_pred(&mut self, pred: Pred, mask: u32, value: u32) {
        let old = &mut self.predicates[pred.0 as usize];
        *old = (*old & !mask) | (value & mask);
    }

    /// `d = f(a)` in every lane of `mask`.
    #[inline(always)]
    pub fn map32(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u32) -> u32) {
        let a = *self.r32(a);
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i]);
        }
        self.set32(d, mask, &out);
    }

    #[inline(always)]
    pub fn map32x2(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (*self.r32(a), *self.r32(b));
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i]);
        }
        self.set32(d, mask, &out);
    }

    #[inline(always)]
    pub fn map32x3(
        &mut self,
        mask: u32,
        d: Slot,
        [a, b, c]: [Slot; 3],
        f: impl Fn(u32, u32, u32) -> u32,
    ) {
        let (a, b, c) = (*self.r32(a), *self.r32(b), *self.r32(c));
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i], c[i]);
        }
        self.set32(d, mask, &out);
    }

    #[inline(always)]
    pub fn map64(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u64) -> u64) {
        let a = *self.r64(a);
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i]);
        }
        self.set64(d, mask, &out);
    }

    #[inline(always)]
    pub fn map64x2(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (*self.r64(a), *self.r64(b));
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i]);
        }
        self.set64(d, mask, &out);
    }

    #[inline(always)]
    pub fn map64x3(
        &mut self,
        mask: u32,
        d: Slot,
        [a, b, c]: [Slot; 3],
        f: impl Fn(u64, u64, u64) -> u64,
    ) {
        let (a, b, c) = (*self.r64(a), *self.r64(b), *self.r64(c));
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i], c[i]);
        }
        self.set64(d, mask, &out);
    }
}

/// `old` where the mask has no bit, `new` where it has one.
#[inline(always)]
fn blend<T: Copy>(old: &mut [T; LANES], mask: u32, new: &[T; LANES]) {
    if mask == FULL {
        *old = *new;
    } else {
        // Two halves that the compiler does not know to be of one mask, on copies: it makes one masked
        // store of each. Seen as a whole, it takes lane 31 for a test of the sign and falls to pieces.
        let halves = std::hint::black_box([mask & 0xFFFF, mask >> 16]);
        let (mut out, new) = (*old, *new);
        for (half, mask) in halves.into_iter().enumerate() {
            for i in 0..LANES / 2 {
                let lane = half * (LANES / 2) + i;
                out[lane] = if mask & (1 << i) != 0 { new[lane] } else { out[lane] };
            }
        }
        *old = out;
    }
}

/// The numbers of the lanes in a mask, lowest first.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}
