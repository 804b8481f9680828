//! Integer, bit and logic instructions: every form against exact arithmetic in 128 bits, or a loop over
//! bits written after the PTX manual's description.

use super::common::{Device, Random};
use virtual_gpu::Options;

pub const PTX: &str = include_str!("integer.ptx");

/// Kernel, bits of its result, and the result (as many of its lower bits) of a b c e.
pub type Case = (&'static str, u32, fn(u64, u64, u64, u64) -> i128);

/// What the kernels leave in `d` where the guard is off.
const UNTOUCHED: u64 = 0xA5A5_A5A5_A5A5_A5A5;

const EDGES: [u64; 38] = [
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    17,
    24,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
    0x5555_5555_5555_5555,
    0xAAAA_AAAA_AAAA_AAAA,
    0x0123_4567_89AB_CDEF,
    0xFEDC_BA98_7654_3210,
    0x8000_7FFF_8000_7FFF,
    0x7F80_FF01_7F80_FF01,
];

/// The columns a b c e and the guard: every pair of edges, and random numbers of all lengths, `n` in all.
pub fn columns(edges: &[u64], n: usize) -> [Vec<u64>; 5] {
    let mut random = Random(0x5EED);
    let mut columns: [Vec<u64>; 5] = Default::default();
    for a in edges {
        for b in edges {
            columns[0].push(*a);
            columns[1].push(*b);
            for column in [2, 3] {
                columns[column].push(edges[random.next() as usize % edges.len()]);
            }
        }
    }
    for column in &mut columns[..4] {
        column.resize_with(n, || random.next() >> (random.next() % 64));
    }
    for i in 0..n {
        // Whole warps, single lanes, and any lanes.
        columns[4].push(match i / 32 % 4 {
            0 | 1 => 1,
            2 => u64::from(i % 32 == i / 128 % 32),
            _ => random.next() & 1,
        });
    }
    columns
}

pub fn low(value: u64, bits: u32) -> u64 {
    if bits == 64 { value } else { value & ((1 << bits) - 1) }
}

/// The lower bits as an unsigned number.
pub fn u(value: u64, bits: u32) -> i128 {
    i128::from(low(value, bits))
}

/// The lower bits as a signed number.
pub fn s(value: u64, bits: u32) -> i128 {
    let value = u(value, bits);
    if value >> (bits - 1) == 1 { value - (1 << bits) } else { value }
}

pub fn check(cases: &[Case]) {
    check_with(PTX, &columns(&EDGES, 2500), cases);
}

/// Runs every case, and tells of all that fail with their first wrong element.
pub fn check_with(ptx: &str, columns: &[Vec<u64>; 5], cases: &[Case]) {
    let options = Options { compute_capability: (9, 0), ..Options::default() };
    let device = Device::with(ptx, options);
    let [a, b, c, e, guard] = columns;
    let n = a.len();
    let from = device.buffer(&columns.concat());
    let mut failures = Vec::new();
    for (name, bits, twin) in cases {
        let to = device.buffer(&vec![0u64; n]);
        let args = [from.into(), to.into(), (n as u32).into()];
        device.launch(name, n.div_ceil(96) as u32, 96, 0, &args);
        let got: Vec<u64> = device.read(to, n);
        let wrong = (0..n).find_map(|i| {
            let want = match guard[i] {
                0 => low(UNTOUCHED, *bits),
                _ => low(twin(a[i], b[i], c[i], e[i]) as u64, *bits),
            };
            let (a, b, c, e, guard, got) = (a[i], b[i], c[i], e[i], guard[i], got[i]);
            (got != want).then(|| {
                format!(
                    "{name}({a:#x}, {b:#x}, {c:#x}, {e:#x}), guard {guard}: \
                     got {got:#x}, want {want:#x}"
                )
            })
        });
        failures.extend(wrong);
    }
    let (wrong, all) = (failures.len(), cases.len());
    assert!(failures.is_empty(), "{wrong} of {all} forms:\n{}", failures.join("\n"));
}

fn saturate(value: i128) -> i128 {
    value.clamp(i128::from(i32::MIN), i128::from(i32::MAX))
}

/// `f` of each half.
fn halves(a: u64, b: u64, f: impl Fn(u64, u64) -> i128) -> i128 {
    u(f(a, b) as u64, 16) | u(f(low(a, 32) >> 16, low(b, 32) >> 16) as u64, 16) << 16
}

#[test]
fn sums_and_differences() {
    check(&[
        ("add_s16", 16, |a, b, _, _| s(a, 16) + s(b, 16)),
        ("add_u16", 16, |a, b, _, _| u(a, 16) + u(b, 16)),
        ("add_s32", 32, |a, b, _, _| s(a, 32) + s(b, 32)),
        ("add_u32", 32, |a, b, _, _| u(a, 32) + u(b, 32)),
        ("add_s64", 64, |a, b, _, _| s(a, 64) + s(b, 64)),
        ("add_u64", 64, |a, b, _, _| u(a, 64) + u(b, 64)),
        ("add_sat_s32", 32, |a, b, _, _| saturate(s(a, 32) + s(b, 32))),
        ("add_u16x2", 32, |a, b, _, _| halves(a, b, |a, b| u(a, 16) + u(b, 16))),
        ("add_s16x2", 32, |a, b, _, _| halves(a, b, |a, b| s(a, 16) + s(b, 16))),
        ("sub_s16", 16, |a, b, _, _| s(a, 16) - s(b, 16)),
        ("sub_u16", 16, |a, b, _, _| u(a, 16) - u(b, 16)),
        ("sub_s32", 32, |a, b, _, _| s(a, 32) - s(b, 32)),
        ("sub_u32", 32, |a, b, _, _| u(a, 32) - u(b, 32)),
        ("sub_s64", 64, |a, b, _, _| s(a, 64) - s(b, 64)),
        ("sub_u64", 64, |a, b, _, _| u(a, 64) - u(b, 64)),
        ("sub_sat_s32", 32, |a, b, _, _| saturate(s(a, 32) - s(b, 32))),
        ("add_constant_s16", 16, |a, _, _, _| s(a, 16) - 32767),
        ("sub_constant_s64", 64, |a, _, _, _| -9 - s(a, 64)),
        ("sad_s16", 16, |a, b, c, _| u(c, 16) + (s(a, 16) - s(b, 16)).abs()),
        ("sad_u16", 16, |a, b, c, _| u(c, 16) + (u(a, 16) - u(b, 16)).abs()),
        ("sad_s32", 32, |a, b, c, _| u(c, 32) + (s(a, 32) - s(b, 32)).abs()),
        ("sad_u32", 32, |a, b, c, _| u(c, 32) + (u(a, 32) - u(b, 32)).abs()),
        ("sad_s64", 64, |a, b, c, _| u(c, 64) + (s(a, 64) - s(b, 64)).abs()),
        ("sad_u64", 64, |a, b, c, _| u(c, 64) + (u(a, 64) - u(b, 64)).abs()),
        ("abs_s16", 16, |a, _, _, _| s(a, 16).abs()),
        ("abs_s32", 32, |a, _, _, _| s(a, 32).abs()),
        ("abs_s64", 64, |a, _, _, _| s(a, 64).abs()),
        ("neg_s16", 16, |a, _, _, _| -s(a, 16)),
        ("neg_s32", 32, |a, _, _, _| -s(a, 32)),
        ("neg_s64", 64, |a, _, _, _| -s(a, 64)),
    ]);
}

#[test]
fn lesser_and_greater() {
    check(&[
        ("min_s16", 16, |a, b, _, _| s(a, 16).min(s(b, 16))),
        ("min_u16", 16, |a, b, _, _| u(a, 16).min(u(b, 16))),
        ("min_s32", 32, |a, b, _, _| s(a, 32).min(s(b, 32))),
        ("min_u32", 32, |a, b, _, _| u(a, 32).min(u(b, 32))),
        ("min_s64", 64, |a, b, _, _| s(a, 64).min(s(b, 64))),
        ("min_u64", 64, |a, b, _, _| u(a, 64).min(u(b, 64))),
        ("max_s16", 16, |a, b, _, _| s(a, 16).max(s(b, 16))),
        ("max_u16", 16, |a, b, _, _| u(a, 16).max(u(b, 16))),
        ("max_s32", 32, |a, b, _, _| s(a, 32).max(s(b, 32))),
        ("max_u32", 32, |a, b, _, _| u(a, 32).max(u(b, 32))),
        ("max_s64", 64, |a, b, _, _| s(a, 64).max(s(b, 64))),
        ("max_u64", 64, |a, b, _, _| u(a, 64).max(u(b, 64))),
        ("min_s16x2", 32, |a, b, _, _| halves(a, b, |a, b| s(a, 16).min(s(b, 16)))),
        ("min_u16x2", 32, |a, b, _, _| halves(a, b, |a, b| u(a, 16).min(u(b, 16)))),
        ("max_s16x2", 32, |a, b, _, _| halves(a, b, |a, b| s(a, 16).max(s(b, 16)))),
        ("max_u16x2", 32, |a, b, _, _| halves(a, b, |a, b| u(a, 16).max(u(b, 16)))),
        ("min_relu_s16x2", 32, |a, b, _, _| halves(a, b, |a, b| s(a, 16).min(s(b, 16)).max(0))),
        ("max_relu_s16x2", 32, |a, b, _, _| halves(a, b, |a, b| s(a, 16).max(s(b, 16)).max(0))),
        ("min_relu_s32", 32, |a, b, _, _| s(a, 32).min(s(b, 32)).max(0)),
        ("max_relu_s32", 32, |a, b, _, _| s(a, 32).max(s(b, 32)).max(0)),
    ]);
}

/// Upper half of the product of all 64 bits, from products of 32.
fn high_product(a: u64, b: u64) -> i128 {
    let (a0, a1, b0, b1) = (u(a, 32), u(a >> 32, 32), u(b, 32), u(b >> 32, 32));
    let middle = ((a0 * b0) >> 32) + a1 * b0;
    a1 * b1 + (middle >> 32) + ((u(middle as u64, 32) + a0 * b1) >> 32)
}

/// The product of the lower 24 bits.
fn s24(a: u64, b: u64) -> i128 {
    s(a, 24) * s(b, 24)
}

fn u24(a: u64, b: u64) -> i128 {
    u(a, 24) * u(b, 24)
}

#[test]
fn products() {
    check(&[
        ("mul_lo_s16", 16, |a, b, _, _| s(a, 16) * s(b, 16)),
        ("mul_lo_u16", 16, |a, b, _, _| u(a, 16) * u(b, 16)),
        ("mul_hi_s16", 16, |a, b, _, _| (s(a, 16) * s(b, 16)) >> 16),
        ("mul_hi_u16", 16, |a, b, _, _| (u(a, 16) * u(b, 16)) >> 16),
        ("mul_wide_s16", 32, |a, b, _, _| s(a, 16) * s(b, 16)),
        ("mul_wide_u16", 32, |a, b, _, _| u(a, 16) * u(b, 16)),
        ("mul_lo_s32", 32, |a, b, _, _| s(a, 32) * s(b, 32)),
        ("mul_lo_u32", 32, |a, b, _, _| u(a, 32) * u(b, 32)),
        ("mul_hi_s32", 32, |a, b, _, _| (s(a, 32) * s(b, 32)) >> 32),
        ("mul_hi_u32", 32, |a, b, _, _| (u(a, 32) * u(b, 32)) >> 32),
        ("mul_wide_s32", 64, |a, b, _, _| s(a, 32) * s(b, 32)),
        ("mul_wide_u32", 64, |a, b, _, _| u(a, 32) * u(b, 32)),
        ("mul_lo_s64", 64, |a, b, _, _| s(a, 64) * s(b, 64)),
        ("mul_lo_u64", 64, |a, b, _, _| s(a, 64) * s(b, 64)),
        ("mul_hi_s64", 64, |a, b, _, _| (s(a, 64) * s(b, 64)) >> 64),
        ("mul_hi_u64", 64, |a, b, _, _| high_product(a, b)),
        ("mad_lo_s16", 16, |a, b, c, _| s(a, 16) * s(b, 16) + s(c, 16)),
        ("mad_lo_u16", 16, |a, b, c, _| u(a, 16) * u(b, 16) + u(c, 16)),
        ("mad_hi_s16", 16, |a, b, c, _| ((s(a, 16) * s(b, 16)) >> 16) + s(c, 16)),
        ("mad_hi_u16", 16, |a, b, c, _| ((u(a, 16) * u(b, 16)) >> 16) + u(c, 16)),
        ("mad_wide_s16", 32, |a, b, c, _| s(a, 16) * s(b, 16) + s(c, 32)),
        ("mad_wide_u16", 32, |a, b, c, _| u(a, 16) * u(b, 16) + u(c, 32)),
        ("mad_lo_s32", 32, |a, b, c, _| s(a, 32) * s(b, 32) + s(c, 32)),
        ("mad_lo_u32", 32, |a, b, c, _| u(a, 32) * u(b, 32) + u(c, 32)),
        ("mad_hi_s32", 32, |a, b, c, _| ((s(a, 32) * s(b, 32)) >> 32) + s(c, 32)),
        ("mad_hi_u32", 32, |a, b, c, _| ((u(a, 32) * u(b, 32)) >> 32) + u(c, 32)),
        ("mad_hi_sat_s32", 32, |a, b, c, _| saturate(((s(a, 32) * s(b, 32)) >> 32) + s(c, 32))),
        ("mad_wide_s32", 64, |a, b, c, _| s(a, 32) * s(b, 32) + s(c, 64)),
        ("mad_wide_u32", 64, |a, b, c, _| u(a, 32) * u(b, 32) + u(c, 64)),
        ("mad_lo_s64", 64, |a, b, c, _| s(a, 64) * s(b, 64) + s(c, 64)),
        ("mad_lo_u64", 64, |a, b, c, _| s(a, 64) * s(b, 64) + s(c, 64)),
        ("mad_hi_s64", 64, |a, b, c, _| ((s(a, 64) * s(b, 64)) >> 64) + s(c, 64)),
        ("mad_hi_u64", 64, |a, b, c, _| high_product(a, b) + u(c, 64)),
        ("mul24_lo_s32", 32, |a, b, _, _| s24(a, b)),
        ("mul24_lo_u32", 32, |a, b, _, _| u24(a, b)),
        ("mul24_hi_s32", 32, |a, b, _, _| s24(a, b) >> 16),
        ("mul24_hi_u32", 32, |a, b, _, _| u24(a, b) >> 16),
        ("mad24_lo_s32", 32, |a, b, c, _| s24(a, b) + s(c, 32)),
        ("mad24_lo_u32", 32, |a, b, c, _| u24(a, b) + u(c, 32)),
        ("mad24_hi_s32", 32, |a, b, c, _| (s24(a, b) >> 16) + s(c, 32)),
        ("mad24_hi_u32", 32, |a, b, c, _| (u24(a, b) >> 16) + u(c, 32)),
        ("mad24_hi_sat_s32", 32, |a, b, c, _| saturate((s24(a, b) >> 16) + s(c, 32))),
    ]);
}

/// All ones for a division by zero.
fn quotient(a: i128, b: i128) -> i128 {
    a.checked_div(b).unwrap_or(-1)
}

fn remainder(a: i128, b: i128) -> i128 {
    if b == 0 { -1 } else { a - b * (a / b) }
}

#[test]
fn quotients_and_remainders() {
    check(&[
        ("div_s16", 16, |a, b, _, _| quotient(s(a, 16), s(b, 16))),
        ("div_u16", 16, |a, b, _, _| quotient(u(a, 16), u(b, 16))),
        ("div_s32", 32, |a, b, _, _| quotient(s(a, 32), s(b, 32))),
        ("div_u32", 32, |a, b, _, _| quotient(u(a, 32), u(b, 32))),
        ("div_s64", 64, |a, b, _, _| quotient(s(a, 64), s(b, 64))),
        ("div_u64", 64, |a, b, _, _| quotient(u(a, 64), u(b, 64))),
        ("rem_s16", 16, |a, b, _, _| remainder(s(a, 16), s(b, 16))),
        ("rem_u16", 16, |a, b, _, _| remainder(u(a, 16), u(b, 16))),
        ("rem_s32", 32, |a, b, _, _| remainder(s(a, 32), s(b, 32))),
        ("rem_u32", 32, |a, b, _, _| remainder(u(a, 32), u(b, 32))),
        ("rem_s64", 64, |a, b, _, _| remainder(s(a, 64), s(b, 64))),
        ("rem_u64", 64, |a, b, _, _| remainder(u(a, 64), u(b, 64))),
    ]);
}

/// Twice 64 bits as one number, modulo 2^128: `high` is -1 for a negative one of 64 bits.
fn product128(a: u64, b: u64) -> u128 {
    ((high_product(a, b) as u128) << 64) | u128::from(a.wrapping_mul(b))
}

/// Whether `product + c` of 32 bits carries.
fn carries(product: i128, c: u64) -> i128 {
    (u(product as u64, 32) + u(c, 32)) >> 32
}

#[test]
fn extended_precision() {
    check(&[
        ("carry_add_u32", 64, |a, b, _, _| u(a, 64) + u(b, 64)),
        ("carry_add_out_u32", 64, |a, b, _, _| (u(a, 64) + u(b, 64)) >> 64),
        ("carry_add_in_s32", 64, |a, b, c, _| {
            u(a, 64) + u(b, 64) + ((u(c, 32) + u(c >> 32, 32)) >> 32)
        }),
        ("carry_sub_u32", 64, |a, b, _, _| u(a, 64) - u(b, 64)),
        ("carry_sub_out_u32", 64, |a, b, _, _| if a < b { -1 } else { 0 }),
        ("carry_add_out_u64", 64, |a, b, c, _| u(c, 64) + ((u(a, 64) + u(b, 64)) >> 64)),
        ("carry_sub_out_s64", 64, |a, b, c, _| u(c, 64) - i128::from(a < b)),
        ("carry_kept_u64", 64, |a, b, c, _| {
            u(a, 64) + u(b, 64) + u(c, 64) + ((u(a, 64) + u(b, 64)) >> 64)
        }),
        ("carry_product_u32", 64, |a, b, _, _| high_product(a, b)),
        ("carry_product_u64", 64, |a, b, c, _| {
            (product128(a, b).wrapping_add(u128::from(c)) >> 64) as i128
        }),
        ("carry_product_s64", 64, |a, b, c, _| (s(a, 64) * s(b, 64) + u(c, 64)) >> 64),
        ("carry_of_mad_hi_s32", 32, |a, b, c, _| carries((s(a, 32) * s(b, 32)) >> 32, c)),
        ("carry_of_mad_hi_u32", 32, |a, b, c, _| carries((u(a, 32) * u(b, 32)) >> 32, c)),
        ("carry_of_madc_lo_cc_s32", 32, |a, b, c, _| {
            (u((u(a, 32) * u(b, 32)) as u64, 32) + u(c, 32) + (u(a, 32) >> 31)) >> 32
        }),
    ]);
}
