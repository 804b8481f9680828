//! lora_grad against its f64 reference.

use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::lora_grad::{Left, Part, down, reference, up};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, abs_dot, assert_close, cases, cast, devices, dot, finite_difference, nan,
    pairs, pitched, size,
};

/// The columns `part.column .. + part.r` of a matrix with `columns` columns.
fn columns_of(data: &[f64], columns: usize, part: Part) -> Vec<f64> {
    data.chunks(columns).flat_map(|row| row[part.column..part.column + part.r].to_vec()).collect()
}

/// Several adapters stacked with gaps between them (padded ranks), gradients in another order
/// than the columns, and everything that is not theirs untouched.
fn matches_reference<E: GemmElement>(m: usize, n: usize, ranks: &[usize], gap: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut parts: Vec<Part> = Vec::new();
    let mut columns = 0;
    for &r in ranks {
        parts.push(Part { column: columns, r, offset: 0 });
        columns += r + gap;
    }
    let mut len = 3;
    for part in parts.iter_mut().rev() {
        part.offset = len;
        len += part.r * n + 2;
    }
    let (left, right, start) =
        (rng.values(m * columns, 1.0), rng.values(m * n, 1.0), rng.values(len, 1.0));
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    for direction in ["down", "up"] {
        let (mut want, mut bounds) = (start.clone(), abs(&start));
        for &part in &parts {
            let u = columns_of(&left, columns, part);
            let reference = |u: &[f64], right: &[f64]| match direction {
                "down" => reference::down(m, n, part.r, u, right),
                _ => reference::up(m, n, part.r, u, right),
            };
            let add = |to: &mut [f64], from: Vec<f64>| {
                to[part.offset..].iter_mut().zip(from).for_each(|(to, from)| *to += from);
            };
            add(&mut want, reference(&u, &right));
            add(&mut bounds, reference(&abs(&u), &abs(&right)));
        }
        let tol = Tol::new(DType::F32).sum_len(m + 1).magnitudes(&bounds);
        for pair in pairs() {
            let grads = pair.same_bits(direction, |cpu| {
                let ld = columns + gap;
                let data = pitched::<E>(&left, columns, ld);
                let (mut stack, mut product) = (nan::<E>(columns * m), nan::<f32>(columns * n));
                let left =
                    Left { data: &data, ld, columns, stack: &mut stack, product: &mut product };
                let mut grads = cast::<f32>(&start);
                let (right, list) = (cast::<E>(&right), parts.iter().copied());
                match direction {
                    "down" => down(cpu, m, n, left, &right, list, &mut grads).unwrap(),
                    _ => up(cpu, m, n, left, &right, list, &mut grads).unwrap(),
                }
                grads
            });
            assert_close(&format!("lora_grad.{direction}"), &grads, &want, tol);
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(
        m in size(200), n in size(200), ranks in prop::collection::vec(1usize..=20, 1..=3),
        gap in 0usize..=5, seed: u64,
    ) {
        matches_reference::<f32>(m, n, &ranks, gap, seed);
        matches_reference::<bf16>(m, n, &ranks, gap, seed);
    }

    #[test]
    fn reference_equals_finite_differences(
        m in 1usize..4, n_in in 1usize..5, n_out in 1usize..5, r in 1usize..4, seed: u64,
    ) {
        // y = s·x·Aᵀ·Bᵀ; dA comes from U = s·dy·B, dB from V = s·x·Aᵀ.
        use dayrun::ops::lora_down::reference as lora_down;
        let (mut rng, s) = (Rng::new(seed), 1.5);
        let (x, dy) = (rng.values(m * n_in, 1.0), rng.values(m * n_out, 1.0));
        let (a, b) = (rng.values(r * n_in, 1.0), rng.values(n_out * r, 1.0));
        let loss = |a: &[f64], b: &[f64]| {
            let v = lora_down::forward(m, n_in, r, s, &x, a);
            dot(&lora_down::forward(m, r, n_out, 1.0, &v, b), &dy)
        };
        let u = lora_down::backward(m, n_out, r, s, &dy, &b);
        let v = lora_down::forward(m, n_in, r, s, &x, &a);
        let norm = |x: &[f64]| 1.0 + abs_dot(x, x).sqrt();
        let tol = Tol::finite_difference(s * norm(&x) * norm(&dy) * norm(&a) * norm(&b));
        let (da, db) = (reference::down(m, n_in, r, &u, &x), reference::up(m, n_out, r, &v, &dy));
        assert_close("dA", &finite_difference(&a, |a| loss(a, &b)), &da, tol);
        assert_close("dB", &finite_difference(&b, |b| loss(&a, b)), &db, tol);
    }
}

#[test]
fn short_buffers_are_errors_and_no_rows_add_nothing() {
    let cpu = devices().next().unwrap();
    let part = Part { column: 1, r: 2, offset: 4 };
    let run = |cpu: &Cpu,
               data: usize,
               ld: usize,
               x: usize,
               stack: usize,
               product: usize,
               grads: usize,
               part: Part| {
        let (data, x) = (vec![1f32; data], vec![1f32; x]);
        let (mut stack, mut product, mut grads) =
            (vec![0f32; stack], vec![0f32; product], vec![0f32; grads]);
        let left = Left { data: &data, ld, columns: 3, stack: &mut stack, product: &mut product };
        let result = down(cpu, 2, 5, left, &x, std::iter::once(part), &mut grads);
        let left = Left { data: &data, ld, columns: 3, stack: &mut stack, product: &mut product };
        let other = up(cpu, 2, 5, left, &x, std::iter::once(part), &mut grads);
        assert_eq!(result.is_ok(), other.is_ok());
        result
    };
    run(cpu, 7, 4, 10, 6, 15, 14, part).unwrap();
    for (error, want) in [
        (run(cpu, 6, 4, 10, 6, 15, 14, part), "len of U or V is 6, expected 7 or more"),
        (run(cpu, 7, 2, 10, 6, 15, 14, part), "pitch of U or V is 2, expected 3 or more"),
        (run(cpu, 7, 4, 9, 6, 15, 14, part), "len of x or dy is 9, expected 10"),
        (run(cpu, 7, 4, 10, 5, 15, 14, part), "len of stack is 5, expected 6"),
        (run(cpu, 7, 4, 10, 6, 16, 14, part), "len of product is 16, expected 15"),
        (run(cpu, 7, 4, 10, 6, 15, 13, part), "len of grads is 13, expected 14 or more"),
        (
            run(cpu, 7, 4, 10, 6, 15, 14, Part { column: 2, ..part }),
            "columns of U or V is 3, expected 4 or more",
        ),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with(want), "{error}");
    }
    let mut grads = [7f32; 14];
    let left =
        Left { data: &[0f32; 0], ld: 3, columns: 3, stack: &mut [], product: &mut [0.0; 15] };
    down(cpu, 0, 5, left, &[], std::iter::once(part), &mut grads).unwrap();
    assert_eq!(grads, [7.0; 14]);
}
