//! Comparisons and selects: numbers of every type are taken apart, integers to 128 bits, floats to exponent
//! and mantissa, and compared there.

use std::cmp::Ordering;

use super::common::{Device, Random};
use super::integer::{Case, check_with, columns, low, s, u};
use virtual_gpu::Options;

const PTX: &str = include_str!("compare.ptx");

/// Zeros, ones, the smallest and largest numbers, infinities and NaNs of all float types, both signs.
fn edges() -> Vec<u64> {
    let halves = [
        0, 1, 0x3FF, 0x400, 0x7F, 0x80, 0x3C00, 0x3F80, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7F80,
        0x7FC0,
    ];
    let words =
        [0x7F_FFFF, 0x80_0000, 0x3F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_0000];
    let doubles: [u64; 7] = [
        0x000F_FFFF_FFFF_FFFF,
        0x0010_0000_0000_0000,
        1f64.to_bits(),
        f64::MAX.to_bits(),
        f64::INFINITY.to_bits(),
        0x7FF0_0000_0000_0001,
        f64::NAN.to_bits(),
    ];
    let mut edges = Vec::new();
    for (i, half) in halves.into_iter().enumerate() {
        let other = halves[(5 * i + 3) % halves.len()];
        edges.extend([half | other << 16, (half | 0x8000) | other << 16 | 1 << 31]);
    }
    edges.extend(words.iter().flat_map(|word| [*word, word | 1 << 31]));
    edges.extend(doubles.iter().flat_map(|double| [*double, double | 1 << 63]));
    edges
}

fn inputs() -> [Vec<u64>; 5] {
    let mut columns = columns(&edges(), 4096);
    // Neighbours, and equal numbers.
    let mut random = Random(0xC0);
    let (firsts, seconds) = columns.split_at_mut(1);
    for (a, b) in firsts[0].iter().zip(&mut seconds[0]).skip(3600) {
        *b = a.wrapping_add(random.next() % 3).wrapping_sub(1);
    }
    columns
}

/// How a number of this type is to be read.
#[derive(Clone, Copy)]
enum Kind {
    Unsigned(u32),
    Signed(u32),
    /// Bits of the exponent and the mantissa, and whether subnormals count as zeros.
    Float(u32, u32, bool),
}

const F16: Kind = Kind::Float(5, 10, false);
const F16_FTZ: Kind = Kind::Float(5, 10, true);
const BF16: Kind = Kind::Float(8, 7, false);
const F32: Kind = Kind::Float(8, 23, false);
const F32_FTZ: Kind = Kind::Float(8, 23, true);
const F64: Kind = Kind::Float(11, 52, false);

/// Exponent and mantissa, both with the number's sign: numbers of a format are in their order, zeros of
/// both signs equal and infinities above all. `None` for a NaN.
fn decode(bits: u64, exponent_bits: u32, mantissa_bits: u32, flush: bool) -> Option<(i128, i128)> {
    let exponent = low(bits >> mantissa_bits, exponent_bits);
    let mantissa = low(bits, mantissa_bits);
    let negative = bits >> (exponent_bits + mantissa_bits) & 1 == 1;
    let sign = if negative { -1 } else { 1 };
    let largest = low(u64::MAX, exponent_bits);
    match (exponent, mantissa) {
        (e, m) if e == largest && m != 0 => None,
        (0, _) if flush => Some((0, 0)),
        (e, m) => Some((sign * i128::from(e), sign * i128::from(m))),
    }
}

fn compare(kind: Kind, a: u64, b: u64) -> Option<Ordering> {
    match kind {
        Kind::Unsigned(bits) => Some(u(a, bits).cmp(&u(b, bits))),
        Kind::Signed(bits) => Some(s(a, bits).cmp(&s(b, bits))),
        Kind::Float(exponent, mantissa, flush) => {
            let a = decode(a, exponent, mantissa, flush)?;
            let b = decode(b, exponent, mantissa, flush)?;
            Some(a.cmp(&b))
        }
    }
}

/// What an operator says.
fn holds(operator: &str, kind: Kind, a: u64, b: u64) -> bool {
    use Ordering::{Equal, Greater, Less};
    let order = compare(kind, a, b);
    match operator {
        "eq" => order == Some(Equal),
        "ne" => matches!(order, Some(Less | Greater)),
        "lt" | "lo" => order == Some(Less),
        "le" | "ls" => matches!(order, Some(Less | Equal)),
        "gt" | "hi" => order == Some(Greater),
        "ge" | "hs" => matches!(order, Some(Greater | Equal)),
        "equ" => matches!(order, None | Some(Equal)),
        "neu" => matches!(order, None | Some(Less | Greater)),
        "ltu" => matches!(order, None | Some(Less)),
        "leu" => matches!(order, None | Some(Less | Equal)),
        "gtu" => matches!(order, None | Some(Greater)),
        "geu" => matches!(order, None | Some(Greater | Equal)),
        "num" => order.is_some(),
        "nan" => order.is_none(),
        _ => panic!("{operator}"),
    }
}

const BITS: &[&str] = &["eq", "ne"];
const ORDER: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge"];
const UNSIGNED: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const FLOAT: &[&str] =
    &["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// What a kernel's setp writes to q: the opposite of p, what holds of the upper halves, or nothing.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    Opposite,
    Upper,
    None,
}

/// The eight bits that a kernel writes for one operator.
fn setp_twin(operator: &str, kind: Kind, second: Second, [a, b]: [u64; 2], c: bool) -> [bool; 8] {
    let p = holds(operator, kind, a, b);
    let q = match second {
        Second::Upper => holds(operator, kind, a >> 16, b >> 16),
        _ => !p,
    };
    let mut results = [p, q, p && c, q && c, p || !c, q || !c, p != c, q != c];
    if second == Second::None {
        for q in [1, 3, 5, 7] {
            results[q] = BEFORE[q];
        }
    }
    results
}

/// What p and q hold where the guard is off.
const BEFORE: [bool; 8] = [false, true, false, true, false, true, false, true];

#[test]
fn setp_of_every_type_with_every_operator() {
    let kernels: [(&str, Kind, Second, &[&str]); 18] = [
        ("setp_b16", Kind::Unsigned(16), Second::Opposite, BITS),
        ("setp_b32", Kind::Unsigned(32), Second::Opposite, BITS),
        ("setp_b64", Kind::Unsigned(64), Second::Opposite, BITS),
        ("setp_s16", Kind::Signed(16), Second::Opposite, ORDER),
        ("setp_s32", Kind::Signed(32), Second::Opposite, ORDER),
        ("setp_s64", Kind::Signed(64), Second::Opposite, ORDER),
        ("setp_u16", Kind::Unsigned(16), Second::Opposite, UNSIGNED),
        ("setp_u32", Kind::Unsigned(32), Second::Opposite, UNSIGNED),
        ("setp_u64", Kind::Unsigned(64), Second::Opposite, UNSIGNED),
        ("setp_f16", F16, Second::None, FLOAT),
        ("setp_ftz_f16", F16_FTZ, Second::None, FLOAT),
        ("setp_bf16", BF16, Second::None, FLOAT),
        ("setp_f16x2", F16, Second::Upper, FLOAT),
        ("setp_ftz_f16x2", F16_FTZ, Second::Upper, FLOAT),
        ("setp_bf16x2", BF16, Second::Upper, FLOAT),
        ("setp_f32", F32, Second::Opposite, FLOAT),
        ("setp_ftz_f32", F32_FTZ, Second::Opposite, FLOAT),
        ("setp_f64", F64, Second::Opposite, FLOAT),
    ];
    let options = Options { compute_capability: (9, 0), ..Options::default() };
    let device = Device::with(PTX, options);
    let [a, b, c, e, guard] = inputs();
    let n = a.len();
    let from = device.buffer(&[&a[..], &b, &c, &e, &guard].concat());
    let mut failures = Vec::new();
    for (name, kind, second, operators) in kernels {
        let to = device.buffer(&vec![0u64; n * operators.len()]);
        let args = [from.into(), to.into(), (n as u32).into()];
        device.launch(name, n.div_ceil(96) as u32, 96, 0, &args);
        let got: Vec<u64> = device.read(to, n * operators.len());
        for (operator, got) in operators.iter().zip(got.chunks(n)) {
            let wrong = (0..n).find_map(|i| {
                let (c, guard) = (c[i] & 1 == 1, guard[i] != 0);
                let twin = setp_twin(operator, kind, second, [a[i], b[i]], c);
                let want = if guard { twin } else { BEFORE };
                let want = (0..8).fold(0, |bits, i| bits | u64::from(want[i]) << i);
                let (a, b, got) = (a[i], b[i], got[i]);
                (got != want).then(|| {
                    format!("{name} {operator}: {a:#x}, {b:#x}, {c}: got {got:#b}, want {want:#b}, guard {guard}")
                })
            });
            failures.extend(wrong);
        }
    }
    assert!(failures.is_empty(), "{} operators:\n{}", failures.len(), failures.join("\n"));
}

/// `yes` where a comparison of the lower bits holds.
fn set(yes: u64, operator: &str, kind: Kind, a: u64, b: u64) -> i128 {
    if holds(operator, kind, a, b) { i128::from(yes) } else { 0 }
}

/// The same of both halves.
fn set2(yes: u64, operator: &str, kind: Kind, a: u64, b: u64) -> i128 {
    set(yes, operator, kind, a, b) | set(yes, operator, kind, a >> 16, b >> 16) << 16
}

const ONES: u64 = u64::MAX;
const ONE_F32: u64 = 0x3F80_0000;
const ONE_F16: u64 = 0x3C00;
const ONE_BF16: u64 = 0x3F80;

#[test]
fn set_to_ones_or_one() {
    let cases: [Case; 27] = [
        ("set_ge_s32_s32", 32, |a, b, _, _| set(ONES, "ge", Kind::Signed(32), a, b)),
        ("set_lo_u32_u32", 32, |a, b, _, _| set(ONES, "lo", Kind::Unsigned(32), a, b)),
        ("set_ne_u32_b32", 32, |a, b, _, _| set(ONES, "ne", Kind::Unsigned(32), a, b)),
        ("set_lt_f32_s32", 32, |a, b, _, _| set(ONE_F32, "lt", Kind::Signed(32), a, b)),
        ("set_eq_u32_u16", 32, |a, b, _, _| set(ONES, "eq", Kind::Unsigned(16), a, b)),
        ("set_gt_s32_s16", 32, |a, b, _, _| set(ONES, "gt", Kind::Signed(16), a, b)),
        ("set_le_u32_s64", 32, |a, b, _, _| set(ONES, "le", Kind::Signed(64), a, b)),
        ("set_hs_f32_u64", 32, |a, b, _, _| set(ONE_F32, "hs", Kind::Unsigned(64), a, b)),
        ("set_eq_f32_f32", 32, |a, b, _, _| set(ONE_F32, "eq", F32, a, b)),
        ("set_neu_f32_f32", 32, |a, b, _, _| set(ONE_F32, "neu", F32, a, b)),
        ("set_gt_ftz_f32_f32", 32, |a, b, _, _| set(ONE_F32, "gt", F32_FTZ, a, b)),
        ("set_ltu_s32_f64", 32, |a, b, _, _| set(ONES, "ltu", F64, a, b)),
        ("set_lt_f16_f16", 16, |a, b, _, _| set(ONE_F16, "lt", F16, a, b)),
        ("set_nan_u16_f16", 16, |a, b, _, _| set(0xFFFF, "nan", F16, a, b)),
        ("set_ge_u32_f16", 32, |a, b, _, _| set(ONES, "ge", F16, a, b)),
        ("set_ge_s16_bf16", 16, |a, b, _, _| set(0xFFFF, "ge", BF16, a, b)),
        ("set_lt_bf16_bf16", 16, |a, b, _, _| set(ONE_BF16, "lt", BF16, a, b)),
        ("set_gt_f16_s32", 16, |a, b, _, _| set(ONE_F16, "gt", Kind::Signed(32), a, b)),
        ("set_lt_f16x2_f16x2", 32, |a, b, _, _| set2(ONE_F16, "lt", F16, a, b)),
        ("set_equ_ftz_u32_f16x2", 32, |a, b, _, _| set2(0xFFFF, "equ", F16_FTZ, a, b)),
        ("set_ge_bf16x2_bf16x2", 32, |a, b, _, _| set2(ONE_BF16, "ge", BF16, a, b)),
        ("set_neu_u32_bf16x2", 32, |a, b, _, _| set2(0xFFFF, "neu", BF16, a, b)),
        ("set_lt_and_u32_s32", 32, |a, b, c, _| match c & 1 {
            0 => 0,
            _ => set(ONES, "lt", Kind::Signed(32), a, b),
        }),
        ("set_lt_or_f32_f32", 32, |a, b, c, _| match c & 1 {
            0 => i128::from(ONE_F32),
            _ => set(ONE_F32, "lt", F32, a, b),
        }),
        ("set_eq_xor_ftz_u32_f32", 32, |a, b, c, _| match c & 1 {
            0 => i128::from(ONES) - set(ONES, "eq", F32_FTZ, a, b),
            _ => set(ONES, "eq", F32_FTZ, a, b),
        }),
        ("set_lt_and_f16x2_f16x2", 32, |a, b, c, _| match c & 1 {
            0 => 0,
            _ => set2(ONE_F16, "lt", F16, a, b),
        }),
        ("set_geu_xor_u32_f16x2", 32, |a, b, c, _| match c & 1 {
            0 => set2(0xFFFF, "geu", F16, a, b),
            _ => 0xFFFF_FFFF - set2(0xFFFF, "geu", F16, a, b),
        }),
    ];
    check_with(PTX, &inputs(), &cases);
}

/// The first of two where bit 0 of `c` is set.
fn choose(c: u64, a: u64, b: u64) -> i128 {
    i128::from([b, a][(c & 1) as usize])
}

/// The first of two where the float is 0 or more: what its sign bit alone decides but for -0 and NaNs.
fn choose_by_sign(c: u64, a: u64, b: u64, flush: bool) -> i128 {
    let magnitude = c & 0x7FFF_FFFF;
    let at_least_zero = match magnitude {
        0x7F80_0001.. => false,
        0 => true,
        1..0x80_0000 if flush => true,
        _ => c >> 31 & 1 == 0,
    };
    choose(u64::from(at_least_zero), a, b)
}

#[test]
fn selects() {
    let cases: [Case; 22] = [
        ("selp_b16", 16, |a, b, c, _| choose(c, a, b)),
        ("selp_u16", 16, |a, b, c, _| choose(c, a, b)),
        ("selp_s16", 16, |a, b, c, _| choose(c, a, b)),
        ("selp_b32", 32, |a, b, c, _| choose(c, a, b)),
        ("selp_u32", 32, |a, b, c, _| choose(c, a, b)),
        ("selp_s32", 32, |a, b, c, _| choose(c, a, b)),
        ("selp_f32", 32, |a, b, c, _| choose(c, a, b)),
        ("selp_b64", 64, |a, b, c, _| choose(c, a, b)),
        ("selp_u64", 64, |a, b, c, _| choose(c, a, b)),
        ("selp_s64", 64, |a, b, c, _| choose(c, a, b)),
        ("selp_f64", 64, |a, b, c, _| choose(c, a, b)),
        ("selp_not_s32", 32, |a, b, c, _| choose(!c, a, b)),
        ("selp_constants_s16", 16, |a, b, _, _| if s(a, 16) < s(b, 16) { -1 } else { 2 }),
        ("selp_in_place_u64", 64, |a, b, _, _| {
            if s(a, 64) < s(b, 64) { 0xA5A5_A5A5_A5A5_A5A5 } else { i128::from(b) }
        }),
        ("slct_b16_s32", 16, |a, b, c, _| choose(u64::from(s(c, 32) >= 0), a, b)),
        ("slct_u32_s32", 32, |a, b, c, _| choose(u64::from(s(c, 32) >= 0), a, b)),
        ("slct_f32_s32", 32, |a, b, c, _| choose(u64::from(s(c, 32) >= 0), a, b)),
        ("slct_s64_s32", 64, |a, b, c, _| choose(u64::from(s(c, 32) >= 0), a, b)),
        ("slct_s16_f32", 16, |a, b, c, _| choose_by_sign(c, a, b, false)),
        ("slct_b32_f32", 32, |a, b, c, _| choose_by_sign(c, a, b, false)),
        ("slct_f64_f32", 64, |a, b, c, _| choose_by_sign(c, a, b, false)),
        ("slct_ftz_f32_f32", 32, |a, b, c, _| choose_by_sign(c, a, b, true)),
    ];
    check_with(PTX, &inputs(), &cases);
}

#[test]
fn every_kernel_has_a_case() {
    let kernels = PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry "));
    for kernel in kernels {
        let name = kernel.trim_end_matches('(');
        let case = format!("(\"{name}\"");
        assert!(include_str!("compare.rs").contains(&case), "{name} has no case");
    }
}
