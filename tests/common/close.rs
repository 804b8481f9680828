//! Comparison with a reference: fails on NaN, names the worst element and the worst row.

use std::fmt::Write;

use super::tol::Tol;

/// Panics unless every element of `got` is within `tol` of `want`.
///
/// The message names the worst element (largest error over what is allowed) and the worst row
/// (largest root mean square of that ratio), and prints what was got and wanted there.
#[track_caller]
pub fn assert_close<T: Copy + Into<f64>>(name: &str, got: &[T], want: &[f64], tol: Tol) {
    if let Err(message) = compare(name, got, want, tol) {
        panic!("{message}");
    }
}

/// As [`assert_close`], but gives the message back.
pub fn compare<T: Copy + Into<f64>>(
    name: &str,
    got: &[T],
    want: &[f64],
    tol: Tol,
) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{name}: {} elements, expected {}", got.len(), want.len()));
    }
    let row_len = tol.row_len(got.len());
    let (mut bad, mut worst, mut worst_row) = (0, (0, -1.0), (0, -1.0));
    let mut squares = 0.0;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (g.into() - w).abs();
        let allowed = tol.allowed(i, w);
        let within = error <= allowed;
        // A NaN anywhere, or infinity against infinity, is as bad as can be.
        let ratio = if error.is_nan() || allowed.is_nan() {
            f64::INFINITY
        } else if within {
            if allowed > 0.0 { error / allowed } else { 0.0 }
        } else {
            error / allowed
        };
        bad += usize::from(!within);
        if ratio > worst.1 {
            worst = (i, ratio);
        }
        squares += ratio * ratio;
        if (i + 1) % row_len == 0 || i + 1 == got.len() {
            let rms = (squares / row_len as f64).sqrt();
            if rms > worst_row.1 {
                worst_row = (i / row_len, rms);
            }
            squares = 0.0;
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let mut message = String::new();
    let (i, ratio) = worst;
    let (row, rms) = worst_row;
    let _ = writeln!(message, "{name}: {bad} of {} elements are off ({tol:?})", got.len());
    let _ = writeln!(
        message,
        "  worst element [{}, {}]: got {:e}, want {:e}, error {:e}, allowed {:e} ({ratio:.3} times)",
        i / row_len,
        i % row_len,
        got[i].into(),
        want[i],
        (got[i].into() - want[i]).abs(),
        tol.allowed(i, want[i]),
    );
    let start = row * row_len;
    let end = (start + row_len.min(8)).min(got.len());
    let show = |values: &mut dyn Iterator<Item = f64>| {
        values.map(|v| format!("{v:.6e}")).collect::<Vec<_>>().join(" ")
    };
    let _ =
        writeln!(message, "  worst row {row}: error {rms:.3} times the allowed, rms; it begins");
    let _ = writeln!(message, "    got  {}", show(&mut got[start..end].iter().map(|&g| g.into())));
    let _ = write!(message, "    want {}", show(&mut want[start..end].iter().copied()));
    Err(message)
}

/// Panics unless both hold the same bits (NaN included).
#[track_caller]
pub fn assert_same_bits<T: bytemuck::Pod + std::fmt::Debug>(name: &str, a: &[T], b: &[T]) {
    assert_eq!(a.len(), b.len(), "{name}: lengths differ");
    let first = (0..a.len()).find(|&i| bytemuck::bytes_of(&a[i]) != bytemuck::bytes_of(&b[i]));
    if let Some(i) = first {
        panic!("{name}: bits differ first at element {i}: {:?} and {:?}", a[i], b[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{DType, Rng, finite_difference};

    fn one_rounding() -> Tol<'static> {
        Tol::new(DType::Bf16).rounds(1).cols(4)
    }

    #[test]
    fn accepts_one_rounding_and_nothing_more() {
        let want: Vec<f64> = (0..4000).map(|i| 1.0 + i as f64 / 4000.0).collect();
        let rounded: Vec<half::bf16> = want.iter().map(|&w| half::bf16::from_f64(w)).collect();
        compare("y", &rounded, &want, one_rounding()).unwrap();
        let scaled: Vec<f64> = want.iter().map(|w| w * 0.99).collect();
        assert!(compare("y", &scaled, &want, one_rounding()).is_err());
    }

    #[test]
    fn rejects_nan_infinity_and_a_zeroed_row_and_names_them() {
        let want = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        for planted in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut got = want;
            got[6] = planted;
            let message = compare("y", &got, &want, one_rounding()).unwrap_err();
            assert!(message.contains("worst element [1, 2]"), "{message}");
        }
        let mut got = want;
        got[..4].fill(0.0);
        let message = compare("y", &got, &want, one_rounding()).unwrap_err();
        assert!(message.contains("4 of 8") && message.contains("worst row 0"), "{message}");
        assert!(compare("y", &[f64::NAN], &[f64::NAN], one_rounding()).is_err());
        assert!(compare("y", &want[..7], &want, one_rounding()).is_err());
    }

    #[test]
    fn magnitudes_widen_what_is_allowed() {
        let tol = Tol::new(DType::F32).sum_len(100);
        assert!(compare("y", &[1e-5], &[0.0], tol).is_err());
        compare("y", &[1e-5], &[0.0], tol.magnitude(10.0)).unwrap();
        compare("y", &[1e-5], &[0.0], tol.magnitudes(&[10.0])).unwrap();
    }

    #[test]
    fn finite_differences_find_a_wrong_gradient() {
        let x = Rng::new(1).values(9, 1.0);
        let f = |x: &[f64]| x.iter().map(|x| x.sin() * x).sum::<f64>();
        let gradient: Vec<f64> = x.iter().map(|x| x.sin() + x * x.cos()).collect();
        let magnitude = x.iter().map(|x| x.abs()).sum();
        let tol = Tol::finite_difference(magnitude);
        let numeric = finite_difference(&x, f);
        compare("df", &numeric, &gradient, tol).unwrap();
        let wrong: Vec<f64> = gradient.iter().map(|g| g * (1.0 + 1e-6)).collect();
        assert!(compare("df", &numeric, &wrong, tol).is_err());
    }
}
