//! The kernels of embedding, which move rows: exact.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::embedding::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, assert_same_bits, cast};

const HIDDEN: [usize; 8] = [1, 3, 8, 64, 127, 128, 129, 200];

/// `count` different numbers below `limit`, ascending.
fn some_of(rng: &mut Rng, count: usize, limit: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..limit as u32).collect();
    for i in 0..count {
        let j = i + rng.below(limit - i);
        all.swap(i, j);
    }
    all.truncate(count);
    all.sort_unstable();
    all
}

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, bits: &mut Bits) {
    let (rows, vocab) = (1 + rng.below(30), 1 + rng.below(60));
    let hidden = HIDDEN[rng.below(HIDDEN.len())];
    let upload = |x: &[f64]| gpu.upload(&cast::<bf16>(x)).unwrap();
    let exact = Tol::new(DType::Bf16).cols(hidden);

    let (tokens, table) = (rng.indices(rows, vocab), rng.values(vocab * hidden, 1.0));
    let on_tokens = gpu.upload(&tokens).unwrap();
    let mut x = gpu.alloc::<bf16>(rows * hidden).unwrap();
    let to = &mut x.view_mut();
    cuda::forward(gpu, on_tokens.view(), upload(&table).view(), hidden, to).unwrap();
    let want = reference::forward(&tokens, &table, hidden);
    let x_bits = gpu.download(x.view()).unwrap();
    assert_close("embedding_forward", &x_bits, &want, exact);
    bits.add(&x_bits);

    let count = rng.below(rows + 1);
    let positions = some_of(rng, count, rows);
    let on_positions = gpu.upload(&positions).unwrap();
    let mut gathered = gpu.alloc::<bf16>(count * hidden).unwrap();
    let to = &mut gathered.view_mut();
    cuda::gather(gpu, x.view(), on_positions.view(), hidden, to).unwrap();
    let got = gpu.download(gathered.view()).unwrap();
    let row = |i: u32| x_bits[i as usize * hidden..][..hidden].iter().copied();
    let want: Vec<bf16> = positions.iter().flat_map(|&i| row(i)).collect();
    assert_same_bits("embedding_gather_rows", &got, &want);

    let mut scattered = gpu.alloc::<bf16>(rows * hidden).unwrap();
    let to = &mut scattered.view_mut();
    cuda::scatter(gpu, gathered.view(), on_positions.view(), hidden, to).unwrap();
    let got = gpu.download(scattered.view()).unwrap();
    let mut want = vec![bf16::ZERO; rows * hidden];
    for &i in &positions {
        let i = i as usize * hidden;
        want[i..i + hidden].copy_from_slice(&x_bits[i..i + hidden]);
    }
    assert_same_bits("embedding_scatter_rows", &got, &want);

    let residual = cast::<bf16>(&rng.values(rows * hidden, 4.0));
    let on_residual = gpu.upload(&residual).unwrap();
    let mut sum = gpu.alloc::<bf16>(rows * hidden).unwrap();
    cuda::add(gpu, x.view(), on_residual.view(), &mut sum.view_mut()).unwrap();
    let want: Vec<bf16> = std::iter::zip(&x_bits, &residual)
        .map(|(x, residual)| bf16::from_f32(residual.to_f32() + x.to_f32()))
        .collect();
    assert_same_bits("embedding_add", &gpu.download(sum.view()).unwrap(), &want);
}

#[test]
fn kernels_move_rows_exactly() {
    gpu::run("cuda::embedding::kernels_move_rows_exactly", |gpu, bits| {
        let mut rng = Rng::new(6);
        for _ in 0..gpu::shapes() {
            check(gpu, &mut rng, bits);
        }
    });
}

#[test]
fn what_does_not_exist_is_nan_to_read_and_nothing_to_write() {
    let name = "cuda::embedding::what_does_not_exist_is_nan_to_read_and_nothing_to_write";
    gpu::run(name, |gpu, _| {
        let x = gpu.upload(&[bf16::ONE; 6]).unwrap();
        let indices = gpu.upload(&[1u32, 2, 0, u32::MAX]).unwrap();
        let mut out = gpu.alloc::<bf16>(12).unwrap();
        let nan = [false, false, false, true, true, true, false, false, false, true, true, true];
        for forward in [true, false] {
            let to = &mut out.view_mut();
            match forward {
                true => cuda::forward(gpu, indices.view(), x.view(), 3, to).unwrap(),
                false => cuda::gather(gpu, x.view(), indices.view(), 3, to).unwrap(),
            }
            let got = gpu.download(out.view()).unwrap();
            assert_eq!(got.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), nan);
        }
        let mut to = gpu.alloc::<bf16>(6).unwrap();
        let rows = gpu.upload(&[bf16::ONE; 12]).unwrap();
        cuda::scatter(gpu, rows.view(), indices.view(), 3, &mut to.view_mut()).unwrap();
        assert_eq!(gpu.download(to.view()).unwrap(), [bf16::ONE; 6]);
    });
}

#[test]
fn no_rows_are_nothing_and_bad_arguments_are_errors() {
    gpu::run("cuda::embedding::no_rows_are_nothing_and_bad_arguments_are_errors", |gpu, _| {
        let table = gpu.upload(&[bf16::ONE; 12]).unwrap();
        let indices = gpu.upload(&[0u32, 1]).unwrap();
        let mut out = gpu.upload(&[bf16::from_f32(7.0); 12]).unwrap();
        let mut run = |op: &str, count: usize, hidden: usize, x: usize, len: usize| {
            let (x, indices) = (table.view().slice(0..x), indices.view().slice(0..count));
            let out = &mut out.view_mut().slice(0..len);
            let done = match op {
                "forward" => cuda::forward(gpu, indices, x, hidden, out),
                "gather" => cuda::gather(gpu, x, indices, hidden, out),
                "scatter" => cuda::scatter(gpu, x, indices, hidden, out),
                _ => cuda::add(gpu, x, table.view().slice(0..hidden), out),
            };
            done.map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("embedding: {message}"));
        let zero = error("columns of a row is 0, expected 1 or more");
        assert_eq!(run("forward", 2, 3, 12, 6), Ok(()));
        assert_eq!(run("forward", 0, 3, 12, 0), Ok(()));
        assert_eq!(run("forward", 2, 3, 12, 3), error("rows of out is 1, expected 2"));
        assert_eq!(
            run("forward", 2, 5, 12, 6),
            error("len of table is 12, expected a multiple of 5")
        );
        assert_eq!(run("forward", 1, 0, 12, 0), zero);
        assert_eq!(run("gather", 2, 3, 12, 6), Ok(()));
        assert_eq!(run("gather", 0, 3, 12, 0), Ok(()));
        assert_eq!(run("gather", 2, 0, 12, 0), zero);
        assert_eq!(run("gather", 2, 3, 12, 5), error("len of out to gather to is 5, expected 6"));
        assert_eq!(run("scatter", 0, 3, 0, 12), Ok(()));
        assert_eq!(run("scatter", 2, 3, 6, 12), Ok(()));
        assert_eq!(run("scatter", 2, 0, 0, 12), zero);
        assert_eq!(run("scatter", 2, 3, 5, 12), error("len of x to scatter is 5, expected 6"));
        let odd = error("len of out to scatter to is 11, expected a multiple of 3");
        assert_eq!(run("scatter", 2, 3, 6, 11), odd);
        assert_eq!(run("add", 0, 4, 4, 4), Ok(()));
        assert_eq!(run("add", 0, 0, 0, 0), Ok(()));
        assert_eq!(run("add", 0, 3, 4, 4), error("len of residual is 3, expected 4"));
        assert_eq!(run("add", 0, 4, 4, 5), error("len of the sum is 5, expected 4"));
    });
}
