//! The kernels of gemm_bf16 against the f64 reference: every tile, both layouts, one to six products.

use std::sync::Arc;

use dayrun::device::cpu::Element;
use dayrun::device::cuda::{Buf, Cuda};
use dayrun::ops::LaunchError;
use dayrun::ops::gemm_bf16::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast, pitched};

const DEPTHS: [usize; 10] = [1, 8, 15, 31, 32, 33, 64, 70, 100, 129];
const WIDTHS: [usize; 10] = [1, 7, 16, 33, 64, 65, 127, 130, 200, 290];
/// Rows for the flat, the small and the large tile (with more than 64 columns).
const HEIGHTS: [[usize; 4]; 3] = [[1, 3, 15, 16], [17, 31, 50, 64], [65, 128, 129, 270]];

/// How B lies, and what C is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nt,
    NtF32,
    Nn,
}

struct Product {
    k: usize,
    a: Vec<f64>,
    b: Vec<f64>,
    lda: usize,
    ldb: usize,
}

/// A pitch that fits `columns`: a multiple of 8, sometimes more than needed.
fn pitch(rng: &mut Rng, columns: usize) -> usize {
    columns.next_multiple_of(8) + 8 * rng.below(3)
}

fn product(rng: &mut Rng, kind: Kind, m: usize, n: usize) -> Product {
    let k = DEPTHS[rng.below(DEPTHS.len())];
    let (a, b) = (rng.values(m * k, 1.0), rng.values(n * k, 1.0));
    let (lda, ldb) = (pitch(rng, k), pitch(rng, if kind == Kind::Nn { n } else { k }));
    Product { k, a, b, lda, ldb }
}

fn want(kind: Kind, m: usize, n: usize, alpha: f64, products: &[Product]) -> (Vec<f64>, Vec<f64>) {
    let multiply = if kind == Kind::Nn { reference::nn } else { reference::nt };
    let of = |a: &dyn Fn(f64) -> f64| {
        let parts: Vec<(Vec<f64>, Vec<f64>)> = products
            .iter()
            .map(|p| (p.a.iter().map(|&x| a(x)).collect(), p.b.iter().map(|&x| a(x)).collect()))
            .collect();
        let segments: Vec<reference::Segment> = parts
            .iter()
            .zip(products)
            .map(|((a, b), p)| reference::Segment { a, b, k: p.k })
            .collect();
        multiply(m, n, a(alpha), &segments)
    };
    (of(&|x| x), of(&f64::abs))
}

/// C at its pitch, full of a value that must stay between its rows; what lies in the rows.
fn rows_of<E: Element>(c: &[E], n: usize, ldc: usize) -> Vec<E> {
    for row in c.chunks(ldc) {
        assert!(row[n..].iter().all(|x| x.to_f32() == SENTINEL), "written between the rows of C");
    }
    c.chunks(ldc).flat_map(|row| &row[..n]).copied().collect()
}

const SENTINEL: f32 = 77.0;

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, kind: Kind, m: usize, n: usize, bits: &mut Bits) {
    let alpha = [1.0, 0.5, -1.25, 3.0][rng.below(4)];
    let products: Vec<Product> =
        (0..1 + rng.below(cuda::SEGMENTS)).map(|_| product(rng, kind, m, n)).collect();
    let ldc = pitch(rng, n);
    let buffers: Vec<(Buf<bf16>, Buf<bf16>)> = products
        .iter()
        .map(|p| {
            let b_columns = if kind == Kind::Nn { n } else { p.k };
            let a = gpu.upload(&pitched::<bf16>(&p.a, p.k, p.lda)).unwrap();
            (a, gpu.upload(&pitched::<bf16>(&p.b, b_columns, p.ldb)).unwrap())
        })
        .collect();
    let segments: Vec<cuda::Segment> = buffers
        .iter()
        .zip(&products)
        .map(|((a, b), p)| cuda::Segment {
            a: a.view(),
            lda: p.lda,
            b: b.view(),
            ldb: p.ldb,
            k: p.k,
        })
        .collect();
    // Half of those that may have one have a bias.
    let bias = (kind == Kind::Nt && rng.below(2) == 0).then(|| rng.values(n, 2.0));
    let len = (m - 1) * ldc + n;
    let (mut want, mut bounds) = want(kind, m, n, alpha, &products);
    if let Some(bias) = &bias {
        want.chunks_mut(n).for_each(|row| row.iter_mut().zip(bias).for_each(|(c, b)| *c += b));
        bounds
            .chunks_mut(n)
            .for_each(|row| row.iter_mut().zip(bias).for_each(|(c, b)| *c += b.abs()));
    }
    let name =
        format!("{kind:?} {m} x {n}, k {:?}", products.iter().map(|p| p.k).collect::<Vec<_>>());
    let depth = products.iter().map(|p| p.k).sum::<usize>() + usize::from(bias.is_some());
    let alpha = alpha as f32;
    if kind == Kind::NtF32 {
        let mut c = gpu.upload(&vec![SENTINEL; len]).unwrap();
        cuda::nt_f32(gpu, m, n, alpha, &segments, &mut c.view_mut(), ldc).unwrap();
        let got = rows_of(&gpu.download(c.view()).unwrap(), n, ldc);
        // The sum, and the multiplication by alpha.
        let tol = Tol::new(DType::F32).steps(1).sum_len(depth).magnitudes(&bounds).cols(n);
        assert_close(&name, &got, &want, tol);
        bits.add(&got);
    } else {
        let mut c = gpu.upload(&vec![bf16::from_f32(SENTINEL); len]).unwrap();
        let bias = bias.map(|bias| gpu.upload(&cast::<bf16>(&bias)).unwrap());
        let (bias, to) = (bias.as_ref().map(Buf::view), &mut c.view_mut());
        match kind {
            Kind::Nn => cuda::nn(gpu, m, n, alpha, &segments, to, ldc),
            _ => cuda::nt(gpu, m, n, alpha, &segments, bias, to, ldc),
        }
        .unwrap();
        let got = rows_of(&gpu.download(c.view()).unwrap(), n, ldc);
        let tol = Tol::new(DType::Bf16).steps(1).sum_len(depth).magnitudes(&bounds);
        assert_close(&name, &got, &want, tol.round_result().cols(n));
        bits.add(&got);
    }
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::gemm_bf16::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(7);
        for shape in 0..gpu::shapes() {
            for kind in [Kind::Nt, Kind::NtF32, Kind::Nn] {
                let m = HEIGHTS[shape % 3][rng.below(4)];
                let mut n = WIDTHS[rng.below(WIDTHS.len())];
                if shape < 3 {
                    // Every tile at least once in a small sample.
                    n = 65 + rng.below(100);
                }
                check(gpu, &mut rng, kind, m, n, bits);
            }
        }
    });
}

#[test]
fn no_products_are_zeros_and_no_rows_nothing() {
    gpu::run("cuda::gemm_bf16::no_products_are_zeros_and_no_rows_nothing", |gpu, _| {
        let mut c = gpu.upload(&[bf16::ONE; 3 * 8]).unwrap();
        cuda::nt(gpu, 0, 5, 1.0, &[], None, &mut c.view_mut(), 8).unwrap();
        cuda::nn(gpu, 3, 0, 1.0, &[], &mut c.view_mut(), 8).unwrap();
        assert_eq!(gpu.download(c.view()).unwrap(), [bf16::ONE; 24]);
        let empty = gpu.alloc::<bf16>(0).unwrap();
        let nothing = cuda::Segment { a: empty.view(), lda: 8, b: empty.view(), ldb: 8, k: 0 };
        cuda::nn(gpu, 3, 8, 1.0, &[nothing], &mut c.view_mut(), 8).unwrap();
        assert_eq!(gpu.download(c.view()).unwrap(), [bf16::ZERO; 24]);
        let bias = gpu.upload(&[bf16::ONE; 8]).unwrap();
        cuda::nt(gpu, 3, 8, 2.0, &[], Some(bias.view()), &mut c.view_mut(), 8).unwrap();
        assert_eq!(gpu.download(c.view()).unwrap(), [bf16::ONE; 24]);
    });
}

#[test]
fn what_does_not_fit_is_an_error() {
    gpu::run("cuda::gemm_bf16::what_does_not_fit_is_an_error", |gpu, _| {
        let (a, b) = (gpu.upload(&[bf16::ONE; 64]).unwrap(), gpu.upload(&[bf16::ONE; 64]).unwrap());
        let mut c = gpu.upload(&[bf16::ONE; 64]).unwrap();
        let segment = cuda::Segment { a: a.view(), lda: 16, b: b.view(), ldb: 16, k: 16 };
        let mut run = |segments: &[cuda::Segment], m, n, ldc| {
            let text = |error: LaunchError| error.to_string();
            let bias = b.view().slice(0..4);
            cuda::nt(gpu, m, n, 1.0, segments, Some(bias), &mut c.view_mut(), ldc).map_err(text)
        };
        let error = |message: &str| Err(format!("gemm_bf16: {message}"));
        assert_eq!(run(&[segment], 4, 4, 8), Ok(()));
        assert_eq!(run(&[segment], 5, 4, 8), error("len of a is 64, expected 80 or more"));
        assert_eq!(run(&[segment], 4, 5, 8), error("len of bias is 4, expected 5"));
        let deep = cuda::Segment { ldb: 24, ..segment };
        assert_eq!(run(&[deep], 4, 4, 8), error("len of b is 64, expected 88 or more"));
        assert_eq!(run(&[segment], 4, 4, 4), error("pitch of c is 4, expected a multiple of 8"));
        assert_eq!(run(&[segment], 4, 4, 24), error("len of c is 64, expected 76 or more"));
        let narrow = cuda::Segment { lda: 8, ..segment };
        assert_eq!(run(&[narrow], 4, 4, 8), error("pitch of a is 8, expected 16 or more"));
        let odd = cuda::Segment { ldb: 17, ..segment };
        assert_eq!(run(&[odd], 4, 4, 8), error("pitch of b is 17, expected a multiple of 8"));
        let seven = [segment; 7];
        assert_eq!(run(&seven, 4, 4, 8), error("products is 7, expected less than 7"));
        let shifted = cuda::Segment { a: a.view().slice(1..64), ..segment };
        let message = run(&[shifted], 3, 4, 8).unwrap_err();
        assert!(
            message.contains("address of a") && message.contains("multiple of 16"),
            "{message}"
        );
    });
}
