//! mma.sync: every shape and type, with elements placed as the PTX manual's tables say.

use super::common::{Device, Random};
use Element::*;
use half::{bf16, f16};
use virtual_gpu::Options;

const PTX: &str = include_str!("mma.ptx");
const PTX_89: &str = include_str!("mma_89.ptx");
const PTX_90: &str = include_str!("mma_90.ptx");

/// Types of A and B.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    F16,
    BF16,
    TF32,
    F64,
    E4M3,
    E5M2,
    S8,
    U8,
    S4,
    U4,
    B1,
}

impl Element {
    fn bits(self) -> usize {
        match self {
            B1 => 1,
            S4 | U4 => 4,
            S8 | U8 | E4M3 | E5M2 => 8,
            F16 | BF16 => 16,
            TF32 => 32,
            F64 => 64,
        }
    }

    /// A number that the type has exactly.
    fn number(self, random: &mut Random) -> i64 {
        let (low, high) = match self {
            B1 => (0, 1),
            S4 => (-8, 7),
            U4 => (0, 15),
            S8 => (-128, 127),
            U8 => (0, 255),
            // With an f16 accumulator all sums must stay below 2048.
            F16 => (-9, 9),
            E4M3 => (-8, 8),
            E5M2 => (-6, 6),
            BF16 => (-255, 255),
            TF32 => (-2047, 2047),
            F64 => (-1_000_000, 1_000_000),
        };
        let number = low + (random.next() >> 8) as i64 % (high - low + 1);
        // Five has one bit more than e5m2.
        if self == E5M2 && number.abs() == 5 { 4 } else { number }
    }

    fn encode(self, number: i64) -> u64 {
        match self {
            B1 | S4 | U4 | S8 | U8 => number as u64 & ((1 << self.bits()) - 1),
            F16 => u64::from(f16::from_f64(number as f64).to_bits()),
            BF16 => u64::from(bf16::from_f64(number as f64).to_bits()),
            // Below a tf32's 19 bits its register may hold anything.
            TF32 => u64::from((number as f32).to_bits() | 0x1234),
            F64 => (number as f64).to_bits(),
            E4M3 | E5M2 => {
                (0..256).find(|&code| self.decode(code) == number as f64).expect("exact")
            }
        }
    }

    /// The value of an 8-bit code; e4m3 has 4 exponent bits (bias 7), e5m2 has 5 (bias 15).
    fn decode(self, code: u64) -> f64 {
        let (fraction_bits, bias) = if self == E4M3 { (3, 7) } else { (2, 15) };
        let fraction = (code & ((1 << fraction_bits) - 1)) as f64 / f64::from(1 << fraction_bits);
        let exponent = (code as i32 & 0x7F) >> fraction_bits;
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        if code & 0x80 != 0 { -magnitude } else { magnitude }
    }
}

/// Where element i of a lane's fragment of A lies: row, column. Sections "Matrix Fragments for mma.…".
fn place_a(shape: &str, ty: Element, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = |upper: bool| if upper { group } else { group + 8 };
    match (shape, ty) {
        ("m8n8k4", F64) => (group, thread),
        ("m8n8k16", S8 | U8) => (group, thread * 4 + i),
        ("m8n8k32", S4 | U4) => (group, thread * 8 + i),
        ("m8n8k128", B1) => (group, thread * 32 + i),
        ("m16n8k4", TF32 | F64) => (row(i == 0), thread),
        ("m16n8k8", F16 | BF16) => (row(i < 2), thread * 2 + (i & 1)),
        ("m16n8k8", TF32 | F64) => (row(i == 0 || i == 2), if i < 2 { thread } else { thread + 4 }),
        ("m16n8k16", F16 | BF16) => {
            let column = thread * 2 + (i & 1);
            (row(i < 2 || (4..6).contains(&i)), if i < 4 { column } else { column + 8 })
        }
        ("m16n8k16", F64) => {
            let even = i.is_multiple_of(2);
            (row(even), if even { i * 2 + thread } else { i * 2 - 2 + thread })
        }
        ("m16n8k16", S8 | U8 | E4M3 | E5M2) => (row(i < 4), thread * 4 + (i & 3)),
        ("m16n8k32", S4 | U4) => (row(i < 8), thread * 8 + (i & 7)),
        ("m16n8k32", S8 | U8 | E4M3 | E5M2) => {
            let column = thread * 4 + (i & 3);
            (row(i < 4 || (8..12).contains(&i)), if i < 8 { column } else { column + 16 })
        }
        ("m16n8k64", S4 | U4) => {
            let column = thread * 8 + (i & 7);
            (row(i < 8 || (16..24).contains(&i)), if i < 16 { column } else { column + 32 })
        }
        ("m16n8k128", B1) => (row(i < 32), thread * 32 + (i & 31)),
        ("m16n8k256", B1) => {
            let column = thread * 32 + (i & 31);
            (row(i < 32 || (64..96).contains(&i)), if i < 64 { column } else { column + 128 })
        }
        _ => panic!("no shape {shape} of {ty:?}"),
    }
}

/// Where element i of a lane's fragment of B lies: row, column.
fn place_b(shape: &str, ty: Element, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = match (shape, ty) {
        ("m8n8k4" | "m16n8k4", F64 | TF32) => thread,
        ("m8n8k16" | "m16n8k16", S8 | U8 | E4M3 | E5M2) => thread * 4 + i,
        ("m8n8k32" | "m16n8k32", S4 | U4) => thread * 8 + i,
        ("m8n8k128" | "m16n8k128", B1) => thread * 32 + i,
        ("m16n8k8", F16 | BF16) => thread * 2 + i,
        ("m16n8k8", TF32 | F64) => [thread, thread + 4][i],
        ("m16n8k16", F16 | BF16) if i < 2 => thread * 2 + (i & 1),
        ("m16n8k16", F16 | BF16) => thread * 2 + (i & 1) + 8,
        ("m16n8k16", F64) => thread + i * 4,
        ("m16n8k32", S8 | U8 | E4M3 | E5M2) if i < 4 => thread * 4 + (i & 3),
        ("m16n8k32", S8 | U8 | E4M3 | E5M2) => thread * 4 + (i & 3) + 16,
        ("m16n8k64", S4 | U4) if i < 8 => thread * 8 + (i & 7),
        ("m16n8k64", S4 | U4) => thread * 8 + (i & 7) + 32,
        ("m16n8k256", B1) if i < 32 => thread * 32 + (i & 31),
        ("m16n8k256", B1) => thread * 32 + (i & 31) + 128,
        _ => panic!("no shape {shape} of {ty:?}"),
    };
    (row, group)
}

/// Where accumulator i of a lane lies in C and D: row, column.
fn place_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

fn dimensions(shape: &str) -> (usize, usize) {
    let (m, k) = shape[1..].split_once("n8k").expect("m…n8k…");
    (m.parse().expect("m"), k.parse().expect("k"))
}

/// A matrix's fragments as the kernels read them: each lane's elements one behind the other.
fn fragments(
    (rows, columns): (usize, usize),
    bits: usize,
    matrix: &[Vec<i64>],
    encode: impl Fn(i64) -> u64,
    place: impl Fn(usize, usize) -> (usize, usize),
) -> Vec<u8> {
    let per_lane = rows * columns / 32;
    let mut bytes = vec![0; 32 * per_lane * bits / 8];
    for lane in 0..32 {
        for i in 0..per_lane {
            let (row, column) = place(lane, i);
            let code = encode(matrix[row][column]);
            let at = (lane * per_lane + i) * bits;
            for bit in 0..bits {
                bytes[(at + bit) / 8] |= ((code >> bit & 1) as u8) << ((at + bit) % 8);
            }
        }
    }
    bytes
}

/// Types of C and D.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sum {
    Half,
    Single,
    Double,
    Integer,
    Clamped,
    And,
    Xor,
}

impl Sum {
    fn bits(self) -> usize {
        match self {
            Sum::Half => 16,
            Sum::Double => 64,
            _ => 32,
        }
    }

    fn encode(self, number: i64) -> u64 {
        match self {
            Sum::Half => u64::from(f16::from_f64(number as f64).to_bits()),
            Sum::Single => u64::from((number as f32).to_bits()),
            Sum::Double => (number as f64).to_bits(),
            Sum::Clamped => u64::from(number.clamp(i32::MIN.into(), i32::MAX.into()) as u32),
            Sum::Integer | Sum::And | Sum::Xor => u64::from(number as u32),
        }
    }
}

/// Random matrices of integers through a kernel, compared bit by bit with their product.
fn check_in(device: &Device, kernel: &str, a: Element, b: Element, sum: Sum) {
    let shape = kernel.split('_').next().expect("the shape comes first");
    let (m, k) = dimensions(shape);
    let mut random = Random(0x5EED + kernel.len() as u64);
    for round in 0..4 {
        let mut matrix = |rows: usize, columns: usize, number: &dyn Fn(&mut Random) -> i64| {
            let mut row = |_| (0..columns).map(|_| number(&mut random)).collect::<Vec<i64>>();
            (0..rows).map(&mut row).collect::<Vec<_>>()
        };
        let a_matrix = matrix(m, k, &|random| a.number(random));
        let b_matrix = matrix(k, 8, &|random| b.number(random));
        let c_matrix = matrix(m, 8, &|random| match sum {
            Sum::Half => random.next() as i64 % 500,
            Sum::Single | Sum::Double => random.next() as i64 % 100_000,
            // Some of them run over.
            _ => match round % 2 {
                0 => random.next() as i64 % 1000,
                _ => i64::from(if random.next() & 1 == 0 { i32::MAX } else { i32::MIN }),
            },
        });
        let d_matrix: Vec<Vec<i64>> = (0..m)
            .map(|i| {
                let dot = |j: usize| -> i64 {
                    let pairs = (0..k).map(|l| (a_matrix[i][l], b_matrix[l][j]));
                    pairs.map(|(a, b)| if sum == Sum::Xor { a ^ b } else { a * b }).sum()
                };
                (0..8).map(|j| c_matrix[i][j] + dot(j)).collect()
            })
            .collect();

        let a_in =
            fragments((m, k), a.bits(), &a_matrix, |x| a.encode(x), |l, i| place_a(shape, a, l, i));
        let b_in =
            fragments((k, 8), b.bits(), &b_matrix, |x| b.encode(x), |l, i| place_b(shape, b, l, i));
        let encode = |x| sum.encode(x);
        let c_in = fragments((m, 8), sum.bits(), &c_matrix, encode, place_c);
        let want = fragments((m, 8), sum.bits(), &d_matrix, encode, place_c);
        let d = device.unwritten::<u8>(want.len());
        let [a_at, b_at, c_at] = [&a_in, &b_in, &c_in].map(|bytes| device.buffer(bytes));
        device.launch(kernel, 1, 32, 0, &[a_at.into(), b_at.into(), c_at.into(), d.into()]);
        let got: Vec<u8> = device.read(d, want.len());
        let bytes = sum.bits() / 8;
        for (at, (got, want)) in got.chunks(bytes).zip(want.chunks(bytes)).enumerate() {
            let (lane, i) = (at / (m / 4), at % (m / 4));
            assert_eq!(got, want, "{kernel}, round {round}: lane {lane}, d{i}");
        }
    }
}

fn check(kernel: &str, a: Element, b: Element, sum: Sum) {
    check_in(&Device::new(PTX), kernel, a, b, sum);
}

fn check_89(kernel: &str, a: Element, b: Element, sum: Sum) {
    let options = Options { compute_capability: (8, 9), ..Options::default() };
    check_in(&Device::with(PTX_89, options), kernel, a, b, sum);
}

fn check_90(kernel: &str) {
    let options = Options { compute_capability: (9, 0), ..Options::default() };
    check_in(&Device::with(PTX_90, options), kernel, F64, F64, Sum::Double);
}

#[test]
fn f16_k8_sums_in_f32() {
    check("m16n8k8_f16_f32_f32", F16, F16, Sum::Single);
}

#[test]
fn f16_k8_sums_in_f16() {
    check("m16n8k8_f16_f16_f16", F16, F16, Sum::Half);
}

#[test]
fn f16_k16_sums_in_f32() {
    check("m16n8k16_f16_f32_f32", F16, F16, Sum::Single);
}

#[test]
fn f16_k16_sums_in_f16() {
    check("m16n8k16_f16_f16_f16", F16, F16, Sum::Half);
}

#[test]
fn bf16_k8() {
    check("m16n8k8_bf16_f32_f32", BF16, BF16, Sum::Single);
}

#[test]
fn bf16_k16() {
    check("m16n8k16_bf16_f32_f32", BF16, BF16, Sum::Single);
}

#[test]
fn tf32_k4() {
    check("m16n8k4_tf32_f32_f32", TF32, TF32, Sum::Single);
}

#[test]
fn tf32_k8() {
    check("m16n8k8_tf32_f32_f32", TF32, TF32, Sum::Single);
}

#[test]
fn f64_m8_k4() {
    check("m8n8k4_f64", F64, F64, Sum::Double);
}

#[test]
fn f64_m16_k4() {
    check_90("m16n8k4_f64");
}

#[test]
fn f64_m16_k8() {
    check_90("m16n8k8_f64");
}

#[test]
fn f64_m16_k16() {
    check_90("m16n8k16_f64");
}

#[test]
fn s8_m8_k16() {
    check("m8n8k16_s8", S8, S8, Sum::Integer);
}

#[test]
fn u8_m8_k16() {
    check("m8n8k16_u8", U8, U8, Sum::Integer);
}

#[test]
fn s8_by_u8_m8_k16() {
    check("m8n8k16_s8_u8", S8, U8, Sum::Integer);
}

#[test]
fn u8_by_s8_m8_k16() {
    check("m8n8k16_u8_s8", U8, S8, Sum::Integer);
}

#[test]
fn s8_m8_k16_clamped() {
    check("m8n8k16_s8_satfinite", S8, S8, Sum::Clamped);
}

#[test]
fn s8_m16_k16() {
    check("m16n8k16_s8", S8, S8, Sum::Integer);
}

#[test]
fn u8_m16_k16() {
    check("m16n8k16_u8", U8, U8, Sum::Integer);
}

#[test]
fn s8_by_u8_m16_k16() {
    check("m16n8k16_s8_u8", S8, U8, Sum::Integer);
}

#[test]
fn u8_by_s8_m16_k16() {
    check("m16n8k16_u8_s8", U8, S8, Sum::Integer);
}

#[test]
fn s8_m16_k32() {
    check("m16n8k32_s8", S8, S8, Sum::Integer);
}

#[test]
fn u8_m16_k32() {
    check("m16n8k32_u8", U8, U8, Sum::Integer);
}

#[test]
fn s8_by_u8_m16_k32() {
    check("m16n8k32_s8_u8", S8, U8, Sum::Integer);
}

#[test]
fn u8_by_s8_m16_k32() {
    check("m16n8k32_u8_s8", U8, S8, Sum::Integer);
}

#[test]
fn s8_m16_k32_clamped() {
    check("m16n8k32_s8_satfinite", S8, S8, Sum::Clamped);
}

#[test]
fn u8_m16_k32_clamped() {
    check("m16n8k32_u8_satfinite", U8, U8, Sum::Clamped);
}

#[test]
fn s4_m8_k32() {
    check("m8n8k32_s4", S4, S4, Sum::Integer);
}

#[test]
fn u4_m8_k32() {
    check("m8n8k32_u4", U4, U4, Sum::Integer);
}

#[test]
fn s4_by_u4_m8_k32() {
    check("m8n8k32_s4_u4", S4, U4, Sum::Integer);
}

#[test]
fn u4_by_s4_m8_k32() {
    check("m8n8k32_u4_s4", U4, S4, Sum::Integer);
}

#[test]
fn s4_m16_k32() {
    check("m16n8k32_s4", S4, S4, Sum::Integer);
}

#[test]
fn u4_m16_k32() {
    check("m16n8k32_u4", U4, U4, Sum::Integer);
}

#[test]
fn s4_by_u4_m16_k32() {
    check("m16n8k32_s4_u4", S4, U4, Sum::Integer);
}

#[test]
fn u4_by_s4_m16_k32() {
    check("m16n8k32_u4_s4", U4, S4, Sum::Integer);
}

#[test]
fn s4_m16_k64() {
    check("m16n8k64_s4", S4, S4, Sum::Integer);
}

#[test]
fn u4_m16_k64() {
    check("m16n8k64_u4", U4, U4, Sum::Integer);
}

#[test]
fn s4_by_u4_m16_k64() {
    check("m16n8k64_s4_u4", S4, U4, Sum::Integer);
}

#[test]
fn u4_by_s4_m16_k64() {
    check("m16n8k64_u4_s4", U4, S4, Sum::Integer);
}

#[test]
fn s4_m16_k64_clamped() {
    check("m16n8k64_s4_satfinite", S4, S4, Sum::Clamped);
}

#[test]
fn bits_m8_k128() {
    check("m8n8k128_xor", B1, B1, Sum::Xor);
    check("m8n8k128_and", B1, B1, Sum::And);
}

#[test]
fn bits_m16_k128() {
    check("m16n8k128_xor", B1, B1, Sum::Xor);
    check("m16n8k128_and", B1, B1, Sum::And);
}

#[test]
fn bits_m16_k256() {
    check("m16n8k256_xor", B1, B1, Sum::Xor);
    check("m16n8k256_and", B1, B1, Sum::And);
}

#[test]
fn e4m3_k32() {
    check_89("m16n8k32_e4m3", E4M3, E4M3, Sum::Single);
}

#[test]
fn e5m2_k32() {
    check_89("m16n8k32_e5m2", E5M2, E5M2, Sum::Single);
}

#[test]
fn e4m3_by_e5m2_k32() {
    check_89("m16n8k32_e4m3_e5m2", E4M3, E5M2, Sum::Single);
}

#[test]
fn e5m2_by_e4m3_k32() {
    check_89("m16n8k32_e5m2_e4m3", E5M2, E4M3, Sum::Single);
}

#[test]
fn e4m3_k16_sums_in_f16() {
    check_89("m16n8k16_e4m3_f16", E4M3, E4M3, Sum::Half);
}
