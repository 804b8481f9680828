//! A whole tensor-core GEMM: cp.async pipeline, swizzled shared memory, ldmatrix, mma.

use half::bf16;

use super::common::{Device, Random};

const PTX: &str = include_str!("gemm.ptx");

/// `rows` × `columns` numbers in (-1, 1).
fn matrix(rows: usize, columns: usize, seed: u64) -> Vec<bf16> {
    let mut random = Random(seed);
    let mut number = || (random.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    (0..rows * columns).map(|_| bf16::from_f64(number())).collect()
}

fn check(m: usize, n: usize, k: usize) {
    let (a, b) = (matrix(m, k, 21), matrix(n, k, 22));
    let device = Device::new(PTX);
    let bits = |matrix: &[bf16]| matrix.iter().map(|x| x.to_bits()).collect::<Vec<u16>>();
    let (a_at, b_at) = (device.buffer(&bits(&a)), device.buffer(&bits(&b)));
    let c_at = device.unwritten::<f32>(m * n);
    let args = [
        a_at.into(),
        b_at.into(),
        c_at.into(),
        (m as i32).into(),
        (n as i32).into(),
        (k as i32).into(),
    ];
    device.launch("gemm_bf16", [n as u32 / 128, m as u32 / 128], 256, 49152, &args);
    let c: Vec<f32> = device.read(c_at, m * n);

    let wide = |matrix: &[bf16]| matrix.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let (a, b) = (wide(&a), wide(&b));
    for i in 0..m {
        for j in 0..n {
            let products = a[i * k..][..k].iter().zip(&b[j * k..][..k]).map(|(a, b)| a * b);
            let (mut want, mut size) = (0.0, 0.0);
            for product in products {
                want += product;
                size += product.abs();
            }
            let got = f64::from(c[i * n + j]);
            // One rounding to f32 for every 16 of k, each of a partial sum no larger than `size`.
            let tolerance = (k / 16) as f64 * size * 2f64.powi(-24);
            assert!((got - want).abs() <= tolerance, "c[{i}][{j}] is {got}, not {want}");
        }
    }
}

#[test]
fn one_block() {
    check(128, 128, 64);
}

#[test]
fn many_blocks() {
    check(256, 384, 160);
}

#[test]
fn of_256_by_1024_by_1024() {
    check(256, 1024, 1024);
}
