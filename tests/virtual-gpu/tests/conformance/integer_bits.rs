//! Bit fields, shifts, permutations, logic and dot products: loops over bits and bytes, written after the
//! pseudo code's meaning in the PTX manual.

use super::common::Device;
use super::integer::{Case, PTX, check, low, s, u};

fn bit(value: u64, i: u32) -> u64 {
    if i < 64 { value >> i & 1 } else { 0 }
}

/// A number of `bits` bits, each by its position.
fn from_bits(bits: u32, f: impl Fn(u32) -> u64) -> i128 {
    (0..bits).fold(0, |value, i| value | i128::from(f(i) & 1) << i)
}

fn count_ones(a: u64, bits: u32) -> i128 {
    (0..bits).map(|i| i128::from(bit(a, i))).sum()
}

/// The highest position whose bit is other than the sign; -1 for none.
fn find(a: u64, bits: u32, signed: bool) -> i128 {
    let sign = if signed { bit(a, bits - 1) } else { 0 };
    (0..bits).rev().find(|&i| bit(a, i) != sign).map_or(-1, i128::from)
}

fn shift_amount(a: u64, bits: u32, signed: bool) -> i128 {
    match find(a, bits, signed) {
        -1 => -1,
        found => i128::from(bits) - 1 - found,
    }
}

fn nth_set(value: u64, base: u64, offset: u64) -> i128 {
    let (base, offset) = (u(base, 32), s(offset, 32));
    if base > 31 {
        return -1;
    }
    let set = |i: &i128| bit(value, *i as u32) == 1;
    let found = match offset {
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth(offset as usize - 1),
        _ => (0..=base).rev().filter(set).nth(-offset as usize - 1),
    };
    found.unwrap_or(-1)
}

fn extract(a: u64, at: u64, length: u64, bits: u32, signed: bool) -> i128 {
    let (at, length) = (low(at, 8) as u32, low(length, 8) as u32);
    let sign = match signed && length > 0 {
        true => bit(a, (at + length - 1).min(bits - 1)),
        false => 0,
    };
    from_bits(bits, |i| if i < length && at + i < bits { bit(a, at + i) } else { sign })
}

fn insert(a: u64, b: u64, at: u64, length: u64, bits: u32) -> i128 {
    let (at, length) = (low(at, 8) as u32, low(length, 8) as u32);
    from_bits(bits, |i| if i >= at && i < at + length { bit(a, i - at) } else { bit(b, i) })
}

/// `length` ones from `at` up.
fn mask(at: i128, length: i128) -> i128 {
    from_bits(32, |i| u64::from(i128::from(i) >= at && i128::from(i) < at + length))
}

fn extend(a: u64, length: i128, signed: bool) -> i128 {
    match (length, signed) {
        (0, _) => 0,
        (length @ 1..=31, true) => s(a, length as u32),
        (length @ 1..=31, false) => u(a, length as u32),
        _ => u(a, 32),
    }
}

#[test]
fn bit_fields() {
    check(&[
        ("popc_b32", 32, |a, _, _, _| count_ones(a, 32)),
        ("popc_b64", 32, |a, _, _, _| count_ones(a, 64)),
        ("clz_b32", 32, |a, _, _, _| 31 - find(a, 32, false)),
        ("clz_b64", 32, |a, _, _, _| 63 - find(a, 64, false)),
        ("brev_b32", 32, |a, _, _, _| from_bits(32, |i| bit(a, 31 - i))),
        ("brev_b64", 64, |a, _, _, _| from_bits(64, |i| bit(a, 63 - i))),
        ("bfind_s32", 32, |a, _, _, _| find(a, 32, true)),
        ("bfind_u32", 32, |a, _, _, _| find(a, 32, false)),
        ("bfind_s64", 32, |a, _, _, _| find(a, 64, true)),
        ("bfind_u64", 32, |a, _, _, _| find(a, 64, false)),
        ("bfind_shiftamt_s32", 32, |a, _, _, _| shift_amount(a, 32, true)),
        ("bfind_shiftamt_u32", 32, |a, _, _, _| shift_amount(a, 32, false)),
        ("bfind_shiftamt_s64", 32, |a, _, _, _| shift_amount(a, 64, true)),
        ("bfind_shiftamt_u64", 32, |a, _, _, _| shift_amount(a, 64, false)),
        ("fns_b32", 32, |a, b, c, _| nth_set(a, b, c)),
        ("bfe_s32", 32, |a, b, c, _| extract(a, b, c, 32, true)),
        ("bfe_u32", 32, |a, b, c, _| extract(a, b, c, 32, false)),
        ("bfe_s64", 64, |a, b, c, _| extract(a, b, c, 64, true)),
        ("bfe_u64", 64, |a, b, c, _| extract(a, b, c, 64, false)),
        ("bfi_b32", 32, |a, b, c, e| insert(a, b, c, e, 32)),
        ("bfi_b64", 64, |a, b, c, e| insert(a, b, c, e, 64)),
        ("bmsk_clamp", 32, |a, b, _, _| mask(u(a, 32), u(b, 32))),
        ("bmsk_wrap", 32, |a, b, _, _| mask(u(a, 5), u(b, 5))),
        ("szext_clamp_s32", 32, |a, b, _, _| extend(a, u(b, 32), true)),
        ("szext_clamp_u32", 32, |a, b, _, _| extend(a, u(b, 32), false)),
        ("szext_wrap_s32", 32, |a, b, _, _| extend(a, u(b, 5), true)),
        ("szext_wrap_u32", 32, |a, b, _, _| extend(a, u(b, 5), false)),
    ]);
}

/// Byte `i` of the eight of a and b.
fn byte(a: u64, b: u64, i: u64) -> u64 {
    let byte = if i < 4 { a >> (8 * i) } else { b >> (8 * (i - 4)) };
    low(byte, 8)
}

/// Bytes by their numbers, lowest first.
fn bytes(a: u64, b: u64, numbers: [u64; 4]) -> i128 {
    (0..4).fold(0, |d, i| d | i128::from(byte(a, b, numbers[i])) << (8 * i))
}

fn permute(a: u64, b: u64, selector: u64) -> i128 {
    (0..4).fold(0, |d, i| {
        let nibble = selector >> (4 * i) & 15;
        let chosen = byte(a, b, nibble & 7);
        let sign = if chosen >= 128 { 255 } else { 0 };
        d | i128::from(if nibble & 8 != 0 { sign } else { chosen }) << (8 * i)
    })
}

#[test]
fn permutations() {
    check(&[
        ("prmt_b32", 32, |a, b, c, _| permute(a, b, c)),
        ("prmt_7351", 32, |a, b, _, _| bytes(a, b, [1, 5, 3, 7])),
        ("prmt_b9f8", 32, |a, b, _, _| permute(a, b, 0xB9F8)),
        ("prmt_f4e", 32, |a, b, c, _| {
            let c = c & 3;
            bytes(a, b, [c, c + 1, c + 2, c + 3])
        }),
        // Backwards around the eight bytes.
        ("prmt_b4e", 32, |a, b, c, _| {
            let c = c & 3;
            bytes(a, b, [c, (c + 7) % 8, (c + 6) % 8, (c + 5) % 8])
        }),
        ("prmt_rc8", 32, |a, b, c, _| bytes(a, b, [c & 3; 4])),
        ("prmt_ecl", 32, |a, b, c, _| bytes(a, b, [0, 1, 2, 3].map(|i: u64| i.max(c & 3)))),
        ("prmt_ecr", 32, |a, b, c, _| bytes(a, b, [0, 1, 2, 3].map(|i: u64| i.min(c & 3)))),
        ("prmt_rc16", 32, |a, b, c, _| {
            let half = 2 * (c & 1);
            bytes(a, b, [half, half + 1, half, half + 1])
        }),
    ]);
}

/// Byte or half `i` as a number.
fn part(value: u64, bits: u32, i: u32, signed: bool) -> i128 {
    let part = value >> (bits * i);
    if signed { s(part, bits) } else { u(part, bits) }
}

fn dot4(a: u64, b: u64, signed: [bool; 2]) -> i128 {
    (0..4).map(|i| part(a, 8, i, signed[0]) * part(b, 8, i, signed[1])).sum()
}

fn dot2(a: u64, b: u64, first: u32, signed: [bool; 2]) -> i128 {
    (0..2).map(|i| part(a, 16, i, signed[0]) * part(b, 8, first + i, signed[1])).sum()
}

fn distances(a: u64, b: u64, signed: bool) -> [i128; 4] {
    [0, 1, 2, 3].map(|i| (part(a, 8, i, signed) - part(b, 8, i, signed)).abs())
}

fn pack(bytes: [i128; 4]) -> i128 {
    (0..4).fold(0, |d, i| d | bytes[i] << (8 * i))
}

#[test]
fn dot_products() {
    check(&[
        ("dp4a_s32_s32", 32, |a, b, c, _| u(c, 32) + dot4(a, b, [true, true])),
        ("dp4a_s32_u32", 32, |a, b, c, _| u(c, 32) + dot4(a, b, [true, false])),
        ("dp4a_u32_s32", 32, |a, b, c, _| u(c, 32) + dot4(a, b, [false, true])),
        ("dp4a_u32_u32", 32, |a, b, c, _| u(c, 32) + dot4(a, b, [false, false])),
        ("dp2a_lo_s32_s32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 0, [true, true])),
        ("dp2a_lo_s32_u32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 0, [true, false])),
        ("dp2a_lo_u32_s32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 0, [false, true])),
        ("dp2a_lo_u32_u32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 0, [false, false])),
        ("dp2a_hi_s32_s32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 2, [true, true])),
        ("dp2a_hi_s32_u32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 2, [true, false])),
        ("dp2a_hi_u32_s32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 2, [false, true])),
        ("dp2a_hi_u32_u32", 32, |a, b, c, _| u(c, 32) + dot2(a, b, 2, [false, false])),
        ("vabsdiff4_u32", 32, |a, b, _, _| pack(distances(a, b, false))),
        ("vabsdiff4_s32", 32, |a, b, _, _| pack(distances(a, b, true))),
        ("vabsdiff4_add_u32", 32, |a, b, c, _| {
            u(c, 32) + distances(a, b, false).iter().sum::<i128>()
        }),
        ("vabsdiff4_add_s32", 32, |a, b, c, _| {
            u(c, 32) + distances(a, b, true).iter().sum::<i128>()
        }),
    ]);
}

/// By how many places, at most all of them.
fn count(b: u64, bits: u32) -> u32 {
    u(b, 32).min(i128::from(bits)) as u32
}

/// `b:a` as one number.
fn pair(a: u64, b: u64) -> i128 {
    u(b, 32) << 32 | u(a, 32)
}

/// The results of all 256 tables, hashed in order.
fn all_tables(a: u64, b: u64, c: u64) -> i128 {
    (0..256u64).fold(0x811C_9DC5u32, |hash, table| {
        let d = from_bits(32, |i| {
            let index = 4 * bit(a, i) + 2 * bit(b, i) + bit(c, i);
            bit(table, index as u32)
        });
        hash.wrapping_mul(0x0100_0193) ^ d as u32
    }) as i128
}

const LOGIC: [Case; 35] = [
    ("and_b16", 16, |a, b, _, _| from_bits(16, |i| bit(a, i) * bit(b, i))),
    ("and_b32", 32, |a, b, _, _| from_bits(32, |i| bit(a, i) * bit(b, i))),
    ("and_b64", 64, |a, b, _, _| from_bits(64, |i| bit(a, i) * bit(b, i))),
    ("or_b16", 16, |a, b, _, _| from_bits(16, |i| bit(a, i).max(bit(b, i)))),
    ("or_b32", 32, |a, b, _, _| from_bits(32, |i| bit(a, i).max(bit(b, i)))),
    ("or_b64", 64, |a, b, _, _| from_bits(64, |i| bit(a, i).max(bit(b, i)))),
    ("xor_b16", 16, |a, b, _, _| from_bits(16, |i| bit(a, i) + bit(b, i))),
    ("xor_b32", 32, |a, b, _, _| from_bits(32, |i| bit(a, i) + bit(b, i))),
    ("xor_b64", 64, |a, b, _, _| from_bits(64, |i| bit(a, i) + bit(b, i))),
    ("or_constant_b16", 16, |a, _, _, _| from_bits(16, |i| if i == 15 { 1 } else { bit(a, i) })),
    ("not_b16", 16, |a, _, _, _| from_bits(16, |i| 1 - bit(a, i))),
    ("not_b32", 32, |a, _, _, _| from_bits(32, |i| 1 - bit(a, i))),
    ("not_b64", 64, |a, _, _, _| from_bits(64, |i| 1 - bit(a, i))),
    ("cnot_b16", 16, |a, _, _, _| i128::from(u(a, 16) == 0)),
    ("cnot_b32", 32, |a, _, _, _| i128::from(u(a, 32) == 0)),
    ("cnot_b64", 64, |a, _, _, _| i128::from(a == 0)),
    ("shl_b16", 16, |a, b, _, _| u(a, 16) << count(b, 16)),
    ("shl_b32", 32, |a, b, _, _| u(a, 32) << count(b, 32)),
    ("shl_b64", 64, |a, b, _, _| (u(a, 64) as u128).wrapping_shl(count(b, 64)) as i128),
    ("shr_b16", 16, |a, b, _, _| u(a, 16) >> count(b, 16)),
    ("shr_u16", 16, |a, b, _, _| u(a, 16) >> count(b, 16)),
    ("shr_s16", 16, |a, b, _, _| s(a, 16) >> count(b, 16)),
    ("shr_b32", 32, |a, b, _, _| u(a, 32) >> count(b, 32)),
    ("shr_u32", 32, |a, b, _, _| u(a, 32) >> count(b, 32)),
    ("shr_s32", 32, |a, b, _, _| s(a, 32) >> count(b, 32)),
    ("shr_b64", 64, |a, b, _, _| u(a, 64) >> count(b, 64)),
    ("shr_u64", 64, |a, b, _, _| u(a, 64) >> count(b, 64)),
    ("shr_s64", 64, |a, b, _, _| s(a, 64) >> count(b, 64)),
    ("shf_l_clamp", 32, |a, b, c, _| (pair(a, b) << count(c, 32)) >> 32),
    ("shf_l_wrap", 32, |a, b, c, _| (pair(a, b) << (c % 32)) >> 32),
    ("shf_r_clamp", 32, |a, b, c, _| pair(a, b) >> count(c, 32)),
    ("shf_r_wrap", 32, |a, b, c, _| pair(a, b) >> (c % 32)),
    ("lop3_b32", 32, |a, b, c, _| all_tables(a, b, c)),
    ("logic_of_predicates", 32, |a, _, _, _| {
        let (p, q) = (a & 1 == 1, a & 2 == 2);
        let results = [p && q, p || q, p != q, !p, p && !q, !p || q];
        from_bits(6, |i| u64::from(results[i as usize]))
    }),
    ("guarded_predicate", 32, |a, b, _, _| if u(a, 32) == u(b, 32) { 7 } else { 1 }),
];

#[test]
fn logic_and_shifts() {
    check(&LOGIC);
}

#[test]
fn by_constants() {
    check(&[
        ("shl_b16_by_9", 16, |a, _, _, _| u(a, 16) << 9),
        ("shl_b16_by_16", 16, |_, _, _, _| 0),
        ("shr_u16_by_3", 16, |a, _, _, _| u(a, 16) / 8),
        ("shr_s16_by_3", 16, |a, _, _, _| s(a, 16).div_euclid(8)),
        ("shl_b32_by_31", 32, |a, _, _, _| u(a, 32) << 31),
        ("shl_b32_by_32", 32, |_, _, _, _| 0),
        ("shr_u32_by_7", 32, |a, _, _, _| u(a, 32) / 128),
        ("shr_s32_by_7", 32, |a, _, _, _| s(a, 32).div_euclid(128)),
        ("shr_s32_by_99", 32, |a, _, _, _| if s(a, 32) < 0 { -1 } else { 0 }),
        ("shl_b64_by_33", 64, |a, _, _, _| u(a, 31) << 33),
        ("shl_b64_by_64", 64, |_, _, _, _| 0),
        ("shr_u64_by_63", 64, |a, _, _, _| i128::from(bit(a, 63))),
        ("shr_s64_by_33", 64, |a, _, _, _| s(a, 64).div_euclid(1 << 33)),
        ("bfe_u32_by_5_9", 32, |a, _, _, _| extract(a, 5, 9, 32, false)),
        ("bfe_u32_by_40_9", 32, |a, _, _, _| extract(a, 40, 9, 32, false)),
        ("bfe_u32_by_0_255", 32, |a, _, _, _| extract(a, 0, 255, 32, false)),
        ("bfe_s32_by_28_9", 32, |a, _, _, _| extract(a, 28, 9, 32, true)),
        ("bfe_s32_by_3_0", 32, |a, _, _, _| extract(a, 3, 0, 32, true)),
        ("bfe_u64_by_30_9", 64, |a, _, _, _| extract(a, 30, 9, 64, false)),
        ("bfe_s64_by_30_40", 64, |a, _, _, _| extract(a, 30, 40, 64, true)),
        ("bfi_b32_by_3_29", 32, |a, b, _, _| insert(a, b, 3, 29, 32)),
        ("bfi_b32_by_32_4", 32, |a, b, _, _| insert(a, b, 32, 4, 32)),
        ("bfi_b32_by_5_0", 32, |a, b, _, _| insert(a, b, 5, 0, 32)),
        ("bfi_b64_by_32_32", 64, |a, b, _, _| insert(a, b, 32, 32, 64)),
        ("bfi_b64_by_8_200", 64, |a, b, _, _| insert(a, b, 8, 200, 64)),
    ]);
}

/// `lop3` that joins whether its result is other than zero to a predicate; NVRTC 12.1's PTX is too old to
/// have it.
const LOP3_WITH_PREDICATE: &str = "
.version 8.2
.target sm_80
.address_size 64
.visible .entry lop3_with_predicate(.param .u64 to) {
    .reg .pred p, q, c;
    .reg .b32 r<8>;
    .reg .b64 d<4>;
    mov.u32 r0, %tid.x;
    and.b32 r1, r0, 1;
    and.b32 r2, r0, 2;
    setp.ge.u32 c, r0, 16;
    setp.ne.u32 q, 0, 0;
    lop3.or.b32 r3|p, r1, r2, r0, 0xC0, c;
    lop3.or.b32 r4|q, r1, r2, r0, 0xFC, !c;
    selp.u32 r5, 1, 0, p;
    selp.u32 r6, 2, 0, q;
    lop3.and.b32 _|p, r1, r2, r0, 0xFC, c;
    selp.u32 r7, 4, 0, p;
    or.b32 r5, r5, r6;
    or.b32 r5, r5, r7;
    shl.b32 r4, r4, 8;
    or.b32 r5, r5, r4;
    ld.param.u64 d0, [to];
    mul.wide.u32 d1, r0, 4;
    add.s64 d0, d0, d1;
    st.global.u32 [d0], r5;
    ret;
}
";

#[test]
fn lop3_with_a_predicate() {
    let device = Device::new(LOP3_WITH_PREDICATE);
    let to = device.buffer(&[0u32; 32]);
    device.launch("lop3_with_predicate", 1, 32, 0, &[to.into()]);
    let got: Vec<u32> = device.read(to, 32);
    for (tid, got) in (0..32).zip(got) {
        // a and b have no bit in common, so their conjunction is zero.
        let (either, c) = (tid & 3, tid >= 16);
        let results = [c, either != 0 || !c, either != 0 && c];
        let bits: u32 = (0..3).map(|i| u32::from(results[i]) << i).sum();
        assert_eq!(got, bits | either << 8, "thread {tid}");
    }
}

#[test]
fn every_kernel_has_a_case() {
    let sources = [include_str!("integer.rs"), include_str!("integer_bits.rs")].concat();
    let kernels = PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry "));
    for kernel in kernels {
        let name = kernel.trim_end_matches('(');
        assert!(sources.contains(&format!("(\"{name}\"")), "{name} has no case");
    }
}
