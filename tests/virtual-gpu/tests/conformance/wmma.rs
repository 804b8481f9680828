//! nvcuda::wmma: a tile's product in every shape, type and layout.

use half::{bf16, f16};

use super::common::{Device, Random};

const PTX: &str = include_str!("wmma.ptx");
/// Elements from one row (or column) to the next.
const PITCH: usize = 48;

/// An element in memory.
#[derive(Clone, Copy, Debug)]
enum Type {
    F16,
    BF16,
    F32,
    F64,
    Byte,
    Word,
}

impl Type {
    fn bytes(self) -> usize {
        match self {
            Type::Byte => 1,
            Type::F16 | Type::BF16 => 2,
            Type::F32 | Type::Word => 4,
            Type::F64 => 8,
        }
    }

    fn encode(self, number: i64) -> u64 {
        match self {
            Type::F16 => u64::from(f16::from_f64(number as f64).to_bits()),
            Type::BF16 => u64::from(bf16::from_f64(number as f64).to_bits()),
            Type::F32 => u64::from((number as f32).to_bits()),
            Type::F64 => (number as f64).to_bits(),
            Type::Byte | Type::Word => number as u64,
        }
    }
}

/// A matrix in memory, with 0xFF around it.
fn stored(matrix: &[Vec<i64>], ty: Type, by_column: bool) -> Vec<u8> {
    let mut bytes = vec![0xFF; 32 * PITCH * ty.bytes()];
    for (i, row) in matrix.iter().enumerate() {
        for (j, &number) in row.iter().enumerate() {
            let index = if by_column { j * PITCH + i } else { i * PITCH + j };
            let at = index * ty.bytes();
            let code = ty.encode(number).to_le_bytes();
            bytes[at..at + ty.bytes()].copy_from_slice(&code[..ty.bytes()]);
        }
    }
    bytes
}

fn check(kernel: &str, [m, n, k]: [usize; 3], element: Type, sum: Type, range: (i64, i64)) {
    let device = Device::new(PTX);
    let mut random = Random(51);
    for layouts in 0..8 {
        let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<i64>> {
            let (low, high) = range;
            let mut number = || low + (random.next() >> 8) as i64 % (high - low + 1);
            (0..rows).map(|_| (0..columns).map(|_| number()).collect()).collect()
        };
        let (a, b, c) = (matrix(m, k), matrix(k, n), matrix(m, n));
        let mut d = c.clone();
        for (d, a) in d.iter_mut().zip(&a) {
            for (j, d) in d.iter_mut().enumerate() {
                *d += a.iter().zip(&b).map(|(a, b)| a * b[j]).sum::<i64>();
            }
        }
        let by_column = |bit: i32| layouts >> bit & 1 == 1;
        let c_at = device.buffer(&stored(&c, sum, by_column(2)));
        let a_at = device.buffer(&stored(&a, element, by_column(0)));
        let b_at = device.buffer(&stored(&b, element, by_column(1)));
        let want = stored(&d, sum, by_column(2));
        let d_at = device.buffer(&vec![0xFFu8; want.len()]);
        let args = [a_at.into(), b_at.into(), c_at.into(), d_at.into(), layouts.into()];
        device.launch(kernel, 1, 32, 0, &args);
        let got: Vec<u8> = device.read(d_at, want.len());
        for (at, (got, want)) in got.chunks(sum.bytes()).zip(want.chunks(sum.bytes())).enumerate() {
            assert_eq!(got, want, "{kernel}, layouts {layouts}: element {at} of memory");
        }
    }
}

#[test]
fn f16_sums_in_f32() {
    check("m16n16k16_f16_f32", [16, 16, 16], Type::F16, Type::F32, (-100, 100));
}

#[test]
fn f16_sums_in_f16() {
    check("m16n16k16_f16_f16", [16, 16, 16], Type::F16, Type::F16, (-9, 9));
}

#[test]
fn f16_of_8_rows() {
    check("m8n32k16_f16_f32", [8, 32, 16], Type::F16, Type::F32, (-100, 100));
}

#[test]
fn f16_of_32_rows() {
    check("m32n8k16_f16_f16", [32, 8, 16], Type::F16, Type::F16, (-9, 9));
}

#[test]
fn bf16_of_16_rows() {
    check("m16n16k16_bf16", [16, 16, 16], Type::BF16, Type::F32, (-255, 255));
}

#[test]
fn bf16_of_8_rows() {
    check("m8n32k16_bf16", [8, 32, 16], Type::BF16, Type::F32, (-255, 255));
}

#[test]
fn bf16_of_32_rows() {
    check("m32n8k16_bf16", [32, 8, 16], Type::BF16, Type::F32, (-255, 255));
}

#[test]
fn tf32() {
    check("m16n16k8_tf32", [16, 16, 8], Type::F32, Type::F32, (-1000, 1000));
}

#[test]
fn f64() {
    check("m8n8k4_f64", [8, 8, 4], Type::F64, Type::F64, (-1_000_000, 1_000_000));
}

#[test]
fn s8_of_16_rows() {
    check("m16n16k16_s8", [16, 16, 16], Type::Byte, Type::Word, (-128, 127));
}

#[test]
fn u8_of_8_rows() {
    check("m8n32k16_u8", [8, 32, 16], Type::Byte, Type::Word, (0, 255));
}

#[test]
fn s8_of_32_rows() {
    check("m32n8k16_s8", [32, 8, 16], Type::Byte, Type::Word, (-128, 127));
}
