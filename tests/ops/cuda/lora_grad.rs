//! The adapters' gradients on the GPU against the f64 reference: true ranks only, several splits, added to.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::lora_grad::{Part, cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast, pitched};

/// Adapters of some rank side by side, their columns padded to 16, their gradients in one vector with gaps.
struct Group {
    parts: Vec<Part>,
    columns: usize,
    grads: usize,
}

fn group(rng: &mut Rng, n: usize) -> Group {
    let mut group = Group { parts: Vec::new(), columns: 0, grads: 3 };
    for _ in 0..1 + rng.below(3) {
        let r = [1usize, 5, 8, 16, 17, 33][rng.below(6)];
        group.parts.push(Part { column: group.columns, r, offset: group.grads });
        group.columns += r.next_multiple_of(16);
        group.grads += r * n + rng.below(3);
    }
    group
}

/// Columns `first .. first + r` of rows of `columns`.
fn cut(values: &[f64], columns: usize, first: usize, r: usize) -> Vec<f64> {
    values.chunks_exact(columns).flat_map(|row| &row[first..first + r]).copied().collect()
}

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, m: usize, bits: &mut Bits) {
    let n = 8 * (1 + rng.below(35));
    let Group { parts, columns, grads: len } = group(rng, n);
    let ld = columns + 8 * rng.below(3);
    let (left, right) = (rng.values(m * columns, 0.5), rng.values(m * n, 1.0));
    let before = rng.values(len, 1.0);
    let on_left = gpu.upload(&pitched::<bf16>(&left, columns, ld)).unwrap();
    let on_right = gpu.upload(&cast::<bf16>(&right)).unwrap();
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    for up in [false, true] {
        let mut grads = gpu.upload(&cast::<f32>(&before)).unwrap();
        let mut partial = gpu.alloc(cuda::splits(m) * columns * n).unwrap();
        let data = on_left.view();
        let left_on_gpu = cuda::Left { data, ld, columns, partial: partial.view_mut() };
        let run = if up { cuda::up } else { cuda::down };
        run(gpu, m, n, left_on_gpu, on_right.view(), &parts, &mut grads.view_mut()).unwrap();
        let got = gpu.download(grads.view()).unwrap();
        let (mut want, mut bounds) = (before.clone(), abs(&before));
        let product = if up { reference::up } else { reference::down };
        for part in &parts {
            let own = cut(&left, columns, part.column, part.r);
            let sums = product(m, n, part.r, &own, &right);
            let sizes = product(m, n, part.r, &abs(&own), &abs(&right));
            for (i, (sum, size)) in sums.iter().zip(&sizes).enumerate() {
                want[part.offset + i] += sum;
                bounds[part.offset + i] += size;
            }
        }
        // The rows, the splits, and what was there before.
        let tol = Tol::new(DType::F32).sum_len(m + cuda::splits(m) + 1).magnitudes(&bounds);
        let name = format!("lora_grad up {up}, m {m}, n {n}, {parts:?}");
        assert_close(&name, &got, &want, tol.cols(n));
        bits.add(&got);
    }
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::lora_grad::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(17);
        for shape in 0..gpu::shapes() {
            // One in six with several splits, the last of them shorter.
            let m = if shape % 6 == 1 { 513 + rng.below(1100) } else { 1 + rng.below(150) };
            check(gpu, &mut rng, m, bits);
        }
    });
}

#[test]
fn scratch_for_the_most_rows_is_enough_for_all() {
    assert_eq!(cuda::splits(0), 1);
    assert!((0..20_000).all(|m| cuda::splits(m) <= cuda::splits(m + 1)));
}

#[test]
fn no_rows_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::lora_grad::no_rows_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let (u, x) = (gpu.upload(&[bf16::ONE; 32]).unwrap(), gpu.upload(&[bf16::ONE; 16]).unwrap());
        let mut partial = gpu.alloc::<f32>(16 * 8).unwrap();
        let mut grads = gpu.upload(&[0f32; 24]).unwrap();
        let mut run = |m: usize, scratch: usize, parts: &[Part]| {
            let partial = partial.view_mut().slice(0..scratch);
            let left = cuda::Left { data: u.view(), ld: 16, columns: 16, partial };
            let x = x.view().slice(0..if m == 0 { 0 } else { 16 });
            cuda::down(gpu, m, 8, left, x, parts, &mut grads.view_mut())
                .map_err(|error| error.to_string())
        };
        let part = Part { column: 0, r: 3, offset: 0 };
        let error = |message: &str| Err(format!("lora_grad::down: {message}"));
        assert_eq!(run(2, 128, &[part]), Ok(()));
        assert_eq!(run(0, 128, &[part]), Ok(()));
        assert_eq!(run(2, 128, &[]), Ok(()));
        assert_eq!(run(2, 127, &[part]), error("len of partial is 127, expected 128 or more"));
        assert_eq!(run(3, 128, &[part]), error("len of U or V is 32, expected 48 or more"));
        let outside = Part { offset: 1, ..part };
        assert_eq!(run(2, 128, &[outside]), error("len of grads is 24, expected 25 or more"));
        let outside = Part { column: 14, ..part };
        assert_eq!(run(2, 128, &[outside]), error("columns of U or V is 16, expected 17 or more"));
        assert_eq!(run(2, 128, &[part; 9]), error("parts is 9, expected less than 9"));
        assert_eq!(gpu.download(grads.view()).unwrap(), [2f32; 24]);
    });
}
