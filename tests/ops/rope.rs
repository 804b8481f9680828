//! rope against its f64 reference.

use dayrun::device::cpu::Element;
use dayrun::ops::rope::{Tables, backward, forward, reference, velocities};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, assert_close, cases, cast, devices, dot, finite_difference, pairs, size,
};

const THETA: f64 = 10_000.0;
const POSITIONS: usize = 512;

/// |a| + |b| for each element's pair: what its two products are bounded by.
pub fn pair_bounds(x: &[f64], head_dim: usize) -> Vec<f64> {
    let half = head_dim / 2;
    let bound = |i: usize| {
        let (head, i) = (i / head_dim * head_dim, i % head_dim % half);
        x[head + i].abs() + x[head + i + half].abs()
    };
    (0..x.len()).map(bound).collect()
}

fn matches_reference<E: Element + Into<f64>>(
    tokens: usize,
    kv_heads: usize,
    group: usize,
    half: usize,
    seed: u64,
) {
    let (heads, head_dim) = (kv_heads * group, 2 * half);
    let mut rng = Rng::new(seed);
    let position_ids = rng.indices(tokens, POSITIONS);
    let tables = Tables::new(head_dim, &velocities(head_dim, THETA), POSITIONS);
    let q = rng.values(tokens * heads * head_dim, 1.0);
    let k = rng.values(tokens * kv_heads * head_dim, 1.0);
    // Table entries, two products and a sum, one rounding to E.
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(3).cols(head_dim);
    for sign in [1.0, -1.0] {
        let want_q = reference::rotate(THETA, &position_ids, head_dim, sign, &q);
        let want_k = reference::rotate(THETA, &position_ids, head_dim, sign, &k);
        let op = if sign > 0.0 { forward::<E> } else { backward::<E> };
        for pair in pairs() {
            let got = pair.same_bits("rope", |cpu| {
                let (mut q, mut k) = (cast::<E>(&q), cast::<E>(&k));
                op(cpu, &tables, &position_ids, heads, kv_heads, head_dim, &mut q, &mut k).unwrap();
                [q, k].concat()
            });
            let (got_q, got_k) = got.split_at(q.len());
            let (bound_q, bound_k) = (pair_bounds(&q, head_dim), pair_bounds(&k, head_dim));
            assert_close("rope.q", got_q, &want_q, tol.magnitudes(&bound_q));
            assert_close("rope.k", got_k, &want_k, tol.magnitudes(&bound_k));
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(
        tokens in size(50), kv_heads in 1usize..4, group in 1usize..4, half in size(65), seed: u64,
    ) {
        matches_reference::<f32>(tokens, kv_heads, group, half, seed);
        matches_reference::<bf16>(tokens, kv_heads, group, half, seed);
    }

    #[test]
    fn reference_backward_equals_finite_differences(half in 1usize..6, seed: u64) {
        let mut rng = Rng::new(seed);
        let (x, dy) = (rng.values(8 * half, 1.0), rng.values(8 * half, 1.0));
        let positions = rng.indices(2, POSITIONS);
        let rotate = |sign: f64, x: &[f64]| reference::rotate(THETA, &positions, 2 * half, sign, x);
        let numeric = finite_difference(&x, |x| dot(&rotate(1.0, x), &dy));
        let bound = 4.0 * dy.iter().map(|dy| dy.abs()).sum::<f64>();
        assert_close("rope.dx", &numeric, &rotate(-1.0, &dy), Tol::finite_difference(bound));
    }
}

/// Rotation by hand: d = 4 has the frequencies 1 and 0.01, and pairs (0, 2) and (1, 3).
#[test]
fn pairs_are_half_a_head_apart() {
    let tables = Tables::new(4, &velocities(4, THETA), 4);
    let (sin1, cos1) = 3f64.sin_cos();
    let (sin2, cos2) = 0.03f64.sin_cos();
    let want =
        [cos1 - 3.0 * sin1, 2.0 * cos2 - 4.0 * sin2, 3.0 * cos1 + sin1, 4.0 * cos2 + 2.0 * sin2];
    for cpu in devices() {
        let (mut q, mut k) = ([1f32, 2.0, 3.0, 4.0], [1f32, 2.0, 3.0, 4.0]);
        forward(cpu, &tables, &[3], 1, 1, 4, &mut q, &mut k).unwrap();
        let tol = Tol::new(DType::F32).steps(4).magnitude(6.0);
        assert_close("rope.q", &q, &want, tol);
        assert_close("rope.k", &k, &want, tol);
    }
}

#[test]
fn bad_arguments_are_errors_and_write_nothing() {
    let cpu = devices().next().unwrap();
    let tables = Tables::new(4, &velocities(4, THETA), 8);
    assert_eq!(tables.max_positions(), 8);
    let odd = Tables::new(3, &velocities(3, THETA), 8);
    let run = |tables, positions: &[u32], heads, head_dim, q: usize, k: usize| {
        let (mut q, mut k) = (vec![1f32; q], vec![1f32; k]);
        let result = forward(cpu, tables, positions, heads, 1, head_dim, &mut q, &mut k);
        assert!(result.is_ok() || q.iter().chain(&k).all(|v| *v == 1.0));
        result.map_err(|error| error.to_string())
    };
    let error = |message: &str| Err(format!("rope: {message}"));
    assert_eq!(run(&tables, &[0, 7], 2, 4, 16, 8), Ok(()));
    assert_eq!(run(&tables, &[], 2, 4, 0, 0), Ok(()));
    assert_eq!(run(&tables, &[0, 8], 2, 4, 16, 8), error("position is 8, expected less than 8"));
    assert_eq!(run(&tables, &[0, 7], 2, 4, 8, 8), error("rows of q is 1, expected 2"));
    assert_eq!(run(&tables, &[0, 7], 2, 4, 16, 4), error("rows of k is 1, expected 2"));
    assert_eq!(run(&tables, &[0], 2, 6, 12, 6), error("head_dim of the tables is 4, expected 6"));
    assert_eq!(run(&odd, &[0], 2, 3, 6, 3), error("head_dim % 2 is 1, expected 0"));
    assert_eq!(run(&tables, &[0], 0, 4, 8, 4), error("columns of a row is 0, expected 1 or more"));
}
