//! lora_up against its f64 reference.

use dayrun::device::cpu::GemmElement;
use dayrun::ops::lora_up::{Dims, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, assert_close, cases, cast, devices, nan, pairs, pitched, size,
};

fn matches_reference<E: GemmElement + Into<f64>>(
    m: usize,
    n: usize,
    r: usize,
    gap: usize,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let (u, a) = (rng.values(m * r, 1.0), rng.values(r * n, 0.5));
    let want = reference::forward(m, n, r, &u, &a);
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = reference::forward(m, n, r, &abs(&u), &abs(&a));
    let tol = Tol::new(DType::of::<E>()).sum_len(r).magnitudes(&bounds).round_result().cols(n);
    for pair in pairs() {
        let t = pair.same_bits("lora_up.T", |cpu| {
            let mut t = nan::<E>(m * n);
            let dims = Dims { m, width: n, r, ld: r + gap };
            let u = pitched::<E>(&u, r, r + gap);
            forward(cpu, dims, &u, &cast::<E>(&a), &mut t).unwrap();
            t
        });
        assert_close("lora_up.T", &t, &want, tol);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(
        m in size(200), n in size(300), r in 1usize..=50, gap in 0usize..=17, seed: u64,
    ) {
        matches_reference::<f32>(m, n, r, gap, seed);
        matches_reference::<bf16>(m, n, r, gap, seed);
    }
}

#[test]
fn short_buffers_are_errors_and_no_rows_are_no_work() {
    let cpu = devices().next().unwrap();
    let (u, a, mut t) = ([1f32; 7], [1f32; 15], [1f32; 10]);
    let dims = Dims { m: 2, width: 5, r: 3, ld: 4 };
    forward(cpu, dims, &u, &a, &mut t).unwrap();
    assert_eq!(t, [3.0; 10]);
    assert!(forward(cpu, dims, &u[1..], &a, &mut t).is_err());
    assert!(forward(cpu, dims, &u, &a[1..], &mut t).is_err());
    assert!(forward(cpu, dims, &u, &a, &mut t[1..]).is_err());
    let error = forward(cpu, Dims { ld: 2, ..dims }, &u, &a, &mut t).unwrap_err();
    assert_eq!(error.to_string(), "lora_up: pitch of u is 2, expected 3 or more");
    forward::<f32>(cpu, Dims { m: 0, ..dims }, &[], &a, &mut []).unwrap();
    forward(cpu, Dims { r: 0, ..dims }, &u, &[], &mut t).unwrap();
    assert_eq!(t, [0.0; 10]);
}
