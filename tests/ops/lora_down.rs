//! lora_down against its f64 reference.

use dayrun::device::cpu::GemmElement;
use dayrun::ops::lora_down::{Dims, backward, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, abs_dot, abs_product, assert_close, cases, cast, devices, dot,
    finite_difference, nan, pairs, size,
};

/// Both directions; the columns between `r` and the pitch must stay as they were.
fn matches_reference<E: GemmElement + Into<f64>>(
    m: usize,
    n: usize,
    r: usize,
    gap: usize,
    scale: f32,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let (x, a) = (rng.values(m * n, 1.0), rng.values(r * n, 0.5));
    let b: Vec<f64> = (0..n * r).map(|i| a[i % r * n + i / r]).collect();
    let want = reference::forward(m, n, r, f64::from(scale), &x, &a);
    // B = Aᵀ, so both directions compute the same.
    assert_close(
        "reference U",
        &reference::backward(m, n, r, f64::from(scale), &x, &b),
        &want,
        Tol::new(DType::F64).rounds(2),
    );
    let mut bounds = abs_product(m, n, r, &x, &a);
    bounds.iter_mut().for_each(|bound| *bound *= f64::from(scale).abs());
    let dtype = DType::of::<E>();
    let tol = Tol::new(dtype).sum_len(n).steps(1).magnitudes(&bounds).round_result().cols(r);
    let ld = r + gap;
    for pair in pairs() {
        for direction in ["V", "U"] {
            let out = pair.same_bits(direction, |cpu| {
                let mut out = nan::<E>((m - 1) * ld + r);
                let x = cast::<E>(&x);
                let dims = Dims { m, width: n, r, ld };
                if direction == "V" {
                    forward(cpu, dims, scale, &x, &cast::<E>(&a), &mut out).unwrap();
                } else {
                    backward(cpu, dims, scale, &x, &cast::<E>(&b), &mut out).unwrap();
                }
                out
            });
            let rows: Vec<E> = out.chunks(ld).flat_map(|row| row[..r].to_vec()).collect();
            assert_close(&format!("lora_down.{direction}"), &rows, &want, tol);
            let mut gaps = out.chunks(ld).flat_map(|row| &row[r..]);
            assert!(gaps.all(|x| x.to_f32().is_nan()), "{direction} was written past column {r}");
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(
        m in size(200), n in size(300), r in 1usize..=50, gap in 0usize..=17, seed: u64,
        scale in prop::sample::select(vec![1f32, 0.5, 2.0, 1.7, -0.3]),
    ) {
        matches_reference::<f32>(m, n, r, gap, scale, seed);
        matches_reference::<bf16>(m, n, r, gap, scale, seed);
    }

    #[test]
    fn reference_backward_is_the_adjoint(
        m in 1usize..4, n_out in 1usize..7, r in 1usize..5, seed: u64,
    ) {
        // U is the gradient of Σ dy∘(s·V·Bᵀ) in V.
        let mut rng = Rng::new(seed);
        let (v, b, dy) = (rng.values(m * r, 1.0), rng.values(n_out * r, 1.0), rng.values(m * n_out, 1.0));
        let loss = |v: &[f64]| dot(&reference::forward(m, r, n_out, 1.5, v, &b), &dy);
        let u = reference::backward(m, n_out, r, 1.5, &dy, &b);
        let all: f64 = v.iter().map(|v| 1.0 + v.abs()).sum();
        let bound = 1.5 * all * abs_dot(&dy, &dy).sqrt() * abs_dot(&b, &b).sqrt();
        assert_close("U", &finite_difference(&v, loss), &u, Tol::finite_difference(bound));
    }
}

#[test]
fn short_buffers_are_errors_and_no_rows_are_no_work() {
    let cpu = devices().next().unwrap();
    let (x, a, mut v) = ([1f32; 10], [1f32; 15], [1f32; 7]);
    let dims = Dims { m: 2, width: 5, r: 3, ld: 4 };
    forward(cpu, dims, 1.0, &x, &a, &mut v).unwrap();
    backward(cpu, dims, 1.0, &x, &a, &mut v).unwrap();
    for f in [forward::<f32>, backward::<f32>] {
        assert!(f(cpu, dims, 1.0, &x[1..], &a, &mut v).is_err());
        assert!(f(cpu, dims, 1.0, &x, &a[1..], &mut v).is_err());
        assert!(f(cpu, dims, 1.0, &x, &a, &mut v[1..]).is_err());
        let error = f(cpu, Dims { ld: 2, ..dims }, 1.0, &x, &a, &mut v).unwrap_err();
        assert!(error.to_string().ends_with("pitch of the result is 2, expected 3 or more"));
        f(cpu, Dims { m: 0, ..dims }, 1.0, &[], &a, &mut []).unwrap();
        f(cpu, Dims { r: 0, ..dims }, 1.0, &x, &[], &mut v).unwrap();
    }
}
