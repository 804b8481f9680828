//! Between memory and registers: one element of every lane at a time.

use super::super::registers::{LANES, Registers, W32, W64, lanes};
use super::address::Reach;
use super::decode::Reg;
use super::raw;

/// Element number `at / S` of every lane, zero-extended; `width` bytes belong to a lane.
///
/// # Safety
/// `reach` was checked for `width` bytes a lane at a multiple of `width`; `at + S <= width`.
#[inline(always)]
pub unsafe fn gather<const S: usize>(reach: &Reach, width: usize, at: usize) -> W64 {
    // SAFETY: within what was checked; `S` divides `width` and `at`.
    unsafe {
        match reach {
            Reach::Row(host) => {
                std::array::from_fn(|i| raw::load::<S>(host.wrapping_add(i * width + at)))
            }
            Reach::Same(host) => [raw::load::<S>(host.wrapping_add(at)); LANES],
            Reach::Any(hosts) => std::array::from_fn(|i| raw::load::<S>(hosts[i].wrapping_add(at))),
        }
    }
}

/// As `gather`, for elements of up to 4 bytes.
///
/// # Safety
/// As for `gather`.
#[inline(always)]
pub unsafe fn gather32<const S: usize>(reach: &Reach, width: usize, at: usize) -> W32 {
    // SAFETY: as in `gather`.
    unsafe {
        match reach {
            Reach::Row(host) => {
                std::array::from_fn(|i| raw::load::<S>(host.wrapping_add(i * width + at)) as u32)
            }
            Reach::Same(host) => [raw::load::<S>(host.wrapping_add(at)) as u32; LANES],
            Reach::Any(hosts) => {
                std::array::from_fn(|i| raw::load::<S>(hosts[i].wrapping_add(at)) as u32)
            }
        }
    }
}

/// Writes the low `S` bytes of every lane's value; of lanes at the same address the last one stays.
///
/// # Safety
/// As for `gather`; only lanes of `mask` are written.
#[inline(always)]
pub unsafe fn scatter<const S: usize>(
    reach: &Reach,
    mask: u32,
    width: usize,
    at: usize,
    value: impl Fn(usize) -> u64,
) {
    // SAFETY: as in `gather`.
    unsafe {
        match reach {
            Reach::Row(host) => {
                for i in 0..LANES {
                    raw::store::<S>(host.wrapping_add(i * width + at), value(i));
                }
            }
            Reach::Same(host) => {
                let last = 31 - (mask | 1).leading_zeros() as usize;
                raw::store::<S>(host.wrapping_add(at), value(last));
            }
            Reach::Any(hosts) => {
                for i in lanes(mask) {
                    raw::store::<S>(hosts[i].wrapping_add(at), value(i));
                }
            }
        }
    }
}

/// Writes elements of `size` (up to 4) bytes to a register, sign-extended to its width or zero-extended.
#[inline(always)]
pub fn put32(regs: &mut Registers, mask: u32, to: Reg, size: u32, signed: bool, value: &W32) {
    if !signed || size == to.bytes {
        if to.wide {
            regs.set64(to.slot, mask, &value.map(u64::from));
        } else {
            regs.set32(to.slot, mask, value);
        }
        return;
    }
    let shift = 32 - 8 * size;
    let extended = value.map(|x| ((x << shift) as i32) >> shift);
    if to.wide {
        regs.set64(to.slot, mask, &extended.map(|x| i64::from(x) as u64));
    } else {
        // A register of 16 bits keeps its upper half zero.
        let keep = u32::MAX >> (32 - 8 * to.bytes);
        regs.set32(to.slot, mask, &extended.map(|x| x as u32 & keep));
    }
}

/// Writes elements of any size to a register.
pub fn put(regs: &mut Registers, mask: u32, to: Reg, size: u32, signed: bool, value: &W64) {
    if size == 8 {
        regs.set64(to.slot, mask, value);
    } else {
        put32(regs, mask, to, size, signed, &value.map(|x| x as u32));
    }
}

/// A register's bits, of which the low ones are stored.
pub fn take(regs: &Registers, from: Reg) -> W64 {
    if from.wide { *regs.r64(from.slot) } else { regs.r32(from.slot).map(u64::from) }
}
