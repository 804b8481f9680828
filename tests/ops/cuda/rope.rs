//! The kernels of rope against the f64 reference.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::rope::{Tables, cuda, reference, velocities};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast};
use crate::rope::pair_bounds;

const THETA: f64 = 10_000.0;
const POSITIONS: usize = 300;
const HALVES: [usize; 8] = [1, 3, 8, 16, 31, 32, 33, 64];

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, bits: &mut Bits) {
    let (tokens, kv_heads, group) = (1 + rng.below(9), 1 + rng.below(3), 1 + rng.below(4));
    let (heads, head_dim) = (kv_heads * group, 2 * HALVES[rng.below(HALVES.len())]);
    let tables =
        cuda::Tables::new(gpu, &Tables::new(head_dim, &velocities(head_dim, THETA), POSITIONS))
            .unwrap();
    let position_ids = rng.indices(tokens, POSITIONS);
    let positions = gpu.upload(&position_ids).unwrap();
    let q = rng.values(tokens * heads * head_dim, 1.0);
    let k = rng.values(tokens * kv_heads * head_dim, 1.0);
    // Table entries, two products and a sum, one rounding.
    let tol = Tol::new(DType::Bf16).rounds(1).steps(3).cols(head_dim);
    for sign in [1.0, -1.0] {
        let op = if sign > 0.0 { cuda::forward } else { cuda::backward };
        let (mut on_q, mut on_k) =
            (gpu.upload(&cast::<bf16>(&q)).unwrap(), gpu.upload(&cast::<bf16>(&k)).unwrap());
        let (to_q, to_k) = (&mut on_q.view_mut(), &mut on_k.view_mut());
        op(gpu, &tables, positions.view(), heads, kv_heads, head_dim, to_q, to_k).unwrap();
        for (name, x, got) in [("q", &q, &on_q), ("k", &k, &on_k)] {
            let want = reference::rotate(THETA, &position_ids, head_dim, sign, x);
            let got = gpu.download(got.view()).unwrap();
            let bounds = pair_bounds(x, head_dim);
            let name = format!("rope.{name}, sign {sign}");
            assert_close(&name, &got, &want, tol.magnitudes(&bounds));
            bits.add(&got);
        }
    }
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::rope::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(3);
        for _ in 0..gpu::shapes() {
            check(gpu, &mut rng, bits);
        }
    });
}

#[test]
fn no_tokens_are_nothing_and_bad_arguments_are_errors() {
    gpu::run("cuda::rope::no_tokens_are_nothing_and_bad_arguments_are_errors", |gpu, _| {
        let tables = cuda::Tables::new(gpu, &Tables::new(4, &velocities(4, THETA), 8)).unwrap();
        assert_eq!(tables.max_positions(), 8);
        let odd = cuda::Tables::new(gpu, &Tables::new(3, &velocities(3, THETA), 8)).unwrap();
        let positions = gpu.upload(&[0u32, 7]).unwrap();
        let run = |tables, tokens: usize, heads, head_dim, q: usize, k: usize| {
            let ones = |n| gpu.upload(&vec![bf16::ONE; n]).unwrap();
            let (mut q, mut k) = (ones(q), ones(k));
            let positions = positions.view().slice(0..tokens);
            let (q, k) = (&mut q.view_mut(), &mut k.view_mut());
            cuda::forward(gpu, tables, positions, heads, 1, head_dim, q, k)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("rope: {message}"));
        assert_eq!(run(&tables, 2, 2, 4, 16, 8), Ok(()));
        assert_eq!(run(&tables, 0, 2, 4, 0, 0), Ok(()));
        assert_eq!(run(&tables, 2, 2, 4, 8, 8), error("rows of q is 1, expected 2"));
        assert_eq!(run(&tables, 2, 2, 4, 16, 4), error("rows of k is 1, expected 2"));
        assert_eq!(run(&tables, 1, 2, 6, 12, 6), error("head_dim of the tables is 4, expected 6"));
        assert_eq!(run(&odd, 1, 2, 3, 6, 3), error("head_dim % 2 is 1, expected 0"));
        let no_heads = error("columns of a row is 0, expected 1 or more");
        assert_eq!(run(&tables, 1, 0, 4, 8, 4), no_heads);
    });
}

#[test]
fn an_unknown_position_makes_its_own_rows_nan() {
    gpu::run("cuda::rope::an_unknown_position_makes_its_own_rows_nan", |gpu, _| {
        let tables = cuda::Tables::new(gpu, &Tables::new(4, &velocities(4, THETA), 8)).unwrap();
        let positions = gpu.upload(&[0u32, 8, 7, u32::MAX]).unwrap();
        let (mut q, mut k) =
            (gpu.upload(&[bf16::ONE; 16]).unwrap(), gpu.upload(&[bf16::ONE; 16]).unwrap());
        let (on_q, on_k) = (&mut q.view_mut(), &mut k.view_mut());
        cuda::forward(gpu, &tables, positions.view(), 1, 1, 4, on_q, on_k).unwrap();
        for rotated in [q, k] {
            let rotated = gpu.download(rotated.view()).unwrap();
            for (row, unknown) in rotated.chunks_exact(4).zip([false, true, false, true]) {
                assert!(row.iter().all(|x| x.is_nan() == unknown), "{rotated:?}");
            }
        }
    });
}
