//! Between memory and registers: one element of every lane at a time.

use super::super::registers::{FULL, LANES, Lanes, Registers, W32, W64, lanes};
use super::address::Part;
use super::decode::Reg;
use super::raw;
use super::reach::Reach;

/// The element of `S` bytes that begins at byte `at` of each lane's `width`, zero-extended.
///
/// # Safety
/// `reach` was checked for `width` bytes a lane at a multiple of `width`; `at + S <= width`.
#[inline(always)]
pub unsafe fn gather<const S: usize>(
    reach: &Reach,
    part: &Part,
    width: usize,
    at: usize,
    mut put: impl FnMut(usize, u64),
) {
    // SAFETY: within what was checked; `S` divides `width` and `at`.
    unsafe {
        match reach {
            // Two neighbours at a time, where they lie as one number of twice the size.
            Reach::Row(host) if S == 4 && width == 4 && (*host as usize).is_multiple_of(8) => {
                for i in (0..LANES).step_by(2) {
                    let two = raw::load::<8>(host.wrapping_add(i * 4));
                    put(i, two & 0xFFFF_FFFF);
                    put(i + 1, two >> 32);
                }
            }
            Reach::Row(host) => {
                for i in 0..LANES {
                    put(i, raw::load::<S>(host.wrapping_add(i * width + at)));
                }
            }
            Reach::Same(host) => {
                let value = raw::load::<S>(host.wrapping_add(at));
                (0..LANES).for_each(|i| put(i, value));
            }
            Reach::Any(from) => {
                for (i, address) in part.addresses.iter().enumerate() {
                    put(i, raw::load::<S>(from.wrapping_add(*address as usize).wrapping_add(at)));
                }
            }
            Reach::Each(hosts) => {
                for (i, host) in hosts.iter().enumerate() {
                    put(i, raw::load::<S>(host.wrapping_add(at)));
                }
            }
        }
    }
}

/// `gather` for a size that is known only now.
///
/// # Safety
/// As for `gather`.
pub unsafe fn gather_any(reach: &Reach, part: &Part, size: u32, width: usize, at: usize) -> W64 {
    let mut values = [0; LANES];
    let put = |i: usize, value| values[i] = value;
    // SAFETY: handed on to the caller.
    unsafe {
        match size {
            1 => gather::<1>(reach, part, width, at, put),
            2 => gather::<2>(reach, part, width, at, put),
            4 => gather::<4>(reach, part, width, at, put),
            _ => gather::<8>(reach, part, width, at, put),
        }
    }
    values
}

/// Writes the low `S` bytes of every lane's value; of lanes at the same address the last one stays.
///
/// # Safety
/// As for `gather`; only lanes of the part's mask are written.
#[inline(always)]
pub unsafe fn scatter<const S: usize>(
    reach: &Reach,
    part: &Part,
    width: usize,
    at: usize,
    value: impl Fn(usize) -> u64,
) {
    // SAFETY: as in `gather`.
    unsafe {
        match reach {
            Reach::Row(host) if S == 4 && width == 4 && (*host as usize).is_multiple_of(8) => {
                for i in (0..LANES).step_by(2) {
                    let two = value(i) & 0xFFFF_FFFF | value(i + 1) << 32;
                    raw::store::<8>(host.wrapping_add(i * 4), two);
                }
            }
            Reach::Row(host) => {
                for i in 0..LANES {
                    raw::store::<S>(host.wrapping_add(i * width + at), value(i));
                }
            }
            Reach::Same(host) => {
                let last = 31 - (part.mask | 1).leading_zeros() as usize;
                raw::store::<S>(host.wrapping_add(at), value(last));
            }
            Reach::Any(from) => {
                for i in lanes(part.mask) {
                    let host = from.wrapping_add(part.addresses[i] as usize);
                    raw::store::<S>(host.wrapping_add(at), value(i));
                }
            }
            Reach::Each(hosts) => {
                for i in lanes(part.mask) {
                    raw::store::<S>(hosts[i].wrapping_add(at), value(i));
                }
            }
        }
    }
}

/// Loads an element of up to 4 bytes of every lane into a register.
///
/// # Safety
/// As for `gather`.
#[inline(always)]
pub unsafe fn load32<const S: usize>(
    regs: &mut Registers,
    to: Reg,
    signed: bool,
    (reach, part): (&Reach, &Part),
    (width, at): (usize, usize),
) {
    if part.mask == FULL && !to.wide && !(signed && to.bytes > S as u32) {
        let out = &mut regs.slots[to.slot.0 as usize].0;
        // SAFETY: handed on to the caller.
        unsafe { gather::<S>(reach, part, width, at, |i, value| out[i] = value as u32) };
        return;
    }
    let mut out = [0; LANES];
    // SAFETY: handed on to the caller.
    unsafe { gather::<S>(reach, part, width, at, |i, value| out[i] = value as u32) };
    put32(regs, part.mask, to, S as u32, signed, &out);
}

/// Loads an element of 8 bytes of every lane into a register.
///
/// # Safety
/// As for `gather`.
#[inline(always)]
pub unsafe fn load64(
    regs: &mut Registers,
    to: Reg,
    (reach, part): (&Reach, &Part),
    (width, at): (usize, usize),
) {
    if part.mask == FULL {
        let at_slot = to.slot.0 as usize;
        let pair: Option<&mut [Lanes; 2]> =
            regs.slots.get_mut(at_slot..at_slot + 2).and_then(|pair| pair.try_into().ok());
        if let Some(pair) = pair {
            let out = bytemuck::cast_mut::<[Lanes; 2], W64>(pair);
            // SAFETY: handed on to the caller.
            unsafe { gather::<8>(reach, part, width, at, |i, value| out[i] = value) };
        }
        return;
    }
    let mut out = [0; LANES];
    // SAFETY: handed on to the caller.
    unsafe { gather::<8>(reach, part, width, at, |i, value| out[i] = value) };
    regs.set64(to.slot, part.mask, &out);
}

/// Writes elements of `size` (up to 4) bytes to a register, sign-extended to its width or zero-extended.
#[inline]
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
