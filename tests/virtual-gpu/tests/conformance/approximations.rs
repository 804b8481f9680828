//! The approximate instructions: special values exactly, all others within the errors of the PTX manual.

use super::common::Random;
use super::exact::{BF16, F16, F32, F64, Fmt, edges};
use super::float::{Form, Operands, PTX, PTX_90, run};

/// How far a result may be from the value.
#[derive(Clone, Copy, Debug)]
enum Error {
    /// In units of the last place of the result.
    Ulps(f64),
    Relative(f64),
    Absolute(f64),
}

fn value(fmt: Fmt, bits: u64) -> f64 {
    match fmt {
        F64 => f64::from_bits(bits),
        F32 => f64::from(f32::from_bits(bits as u32)),
        F16 => half::f16::from_bits(bits as u16).to_f64(),
        _ => half::bf16::from_bits(bits as u16).to_f64(),
    }
}

/// The smallest normal number, the smallest number, and where infinity begins after rounding.
fn limits(fmt: Fmt) -> (f64, f64, f64) {
    let step = value(fmt, fmt.largest()) - value(fmt, fmt.largest() - 1);
    (value(fmt, 1 << fmt.fraction_bits), value(fmt, 1), value(fmt, fmt.largest()) + step / 2.0)
}

fn check_one(form: &Form, error: Error, operands: &[u64], got: u64, want: f64) {
    let fmt = form.fmt;
    let (normal, smallest, infinite) = limits(fmt);
    let shown = format!("{} of {operands:x?}: {got:#x}, wanted {want:e}", form.text);
    let sign = if want.is_sign_negative() { fmt.sign() } else { 0 };
    if want.is_nan() {
        assert!(fmt.is_nan(got), "{shown}");
        assert!(fmt == F64 || got == fmt.sign() - 1, "{shown}: not the canonical NaN");
        return;
    }
    let flushed = form.has("ftz") && want.abs() < normal * (1.0 - 1e-6);
    if want == 0.0 || flushed {
        return assert_eq!(got, sign, "{shown}");
    }
    if want.abs() >= infinite {
        return assert_eq!(got, sign | fmt.infinity(), "{shown}");
    }
    let ulp = f64::powi(2.0, want.abs().log2().floor() as i32 - fmt.fraction_bits as i32);
    let allowed = match error {
        Error::Ulps(ulps) => ulps * ulp.max(smallest),
        // Numbers below the normal ones are as far from each other as the smallest is large.
        Error::Relative(relative) => (relative * want.abs()).max(smallest),
        Error::Absolute(absolute) => absolute,
    };
    let distance = (value(fmt, got) - want).abs();
    assert!(distance <= allowed, "{shown}, got {:e}, {distance:e} apart", value(fmt, got));
}

/// Operands of every size, and the edges.
fn operands(fmt: Fmt) -> Operands {
    let mut random = Random(0xA99);
    let mut a = edges(fmt);
    if fmt == F16 || fmt == BF16 {
        a = (0..1 << 16).collect();
    } else {
        let all = fmt.sign() | (fmt.sign() - 1);
        for i in 0..4000 {
            let bits = random.next() & all;
            // Half of them between 2^-8 and 2^7.
            let fraction = bits & (fmt.sign() | ((1 << fmt.fraction_bits) - 1));
            let exponent = (fmt.one() >> fmt.fraction_bits) - 8 + random.next() % 16;
            a.push(if i % 2 == 0 { bits } else { fraction | exponent << fmt.fraction_bits });
        }
    }
    let b: Vec<u64> = a.iter().cycle().skip(17).take(a.len()).copied().collect();
    [a, b.clone(), b]
}

/// Runs a kernel; `exact` gives value and error for a form, `None` where the manual says nothing.
fn check(
    ptx: &str,
    kernel: &str,
    forms: &[&str],
    exact: impl Fn(&Form, f64, f64) -> Option<(f64, Error)>,
) {
    let parsed: Vec<Form> = forms.iter().map(|text| Form::new(text)).collect();
    let fmt = parsed[0].fmt;
    let mut values = operands(fmt);
    if parsed.iter().any(|form| form.packed) {
        // The scalar forms do not look at the upper halves.
        let upper: Vec<u64> = values[0].iter().rev().copied().collect();
        values[0].iter_mut().zip(upper).for_each(|(low, high)| *low |= high << 16);
    }
    let got = run(ptx, kernel, forms.len(), &values);
    for (form, got) in parsed.iter().zip(&got) {
        let mut checked = 0;
        for (i, &got) in got.iter().enumerate() {
            let halves = if form.packed { 2 } else { 1 };
            for half in 0..halves {
                let part = |x: u64| match fmt {
                    F16 | BF16 => x >> (16 * half) & 0xFFFF,
                    _ => x,
                };
                let [a, b] = [0, 1].map(|operand| part(values[operand][i]));
                let [x, y] = [a, b].map(|bits| value(fmt, form.flush(bits)));
                if let Some((want, error)) = exact(form, x, y) {
                    check_one(form, error, &[a, b], part(got), want);
                    checked += 1;
                }
            }
        }
        assert!(checked * 4 > got.len(), "{}: {checked} checked", form.text);
    }
}

fn power(exponent: f64) -> f64 {
    exponent.exp2()
}

const F32_FORMS: [&str; 19] = [
    "div.approx.f32",
    "div.approx.ftz.f32",
    "div.full.f32",
    "div.full.ftz.f32",
    "rcp.approx.f32",
    "rcp.approx.ftz.f32",
    "sqrt.approx.f32",
    "sqrt.approx.ftz.f32",
    "rsqrt.approx.f32",
    "rsqrt.approx.ftz.f32",
    "sin.approx.f32",
    "sin.approx.ftz.f32",
    "cos.approx.f32",
    "cos.approx.ftz.f32",
    "lg2.approx.f32",
    "lg2.approx.ftz.f32",
    "ex2.approx.f32",
    "ex2.approx.ftz.f32",
    "tanh.approx.f32",
];

/// One instruction of the f32 kernel.
fn check_f32(op: &str, exact: impl Fn(&Form, f64, f64) -> Option<(f64, Error)>) {
    let values = operands(F32);
    let got = run(PTX, "approximations_f32", F32_FORMS.len(), &values);
    let mut checked = 0;
    for (text, got) in F32_FORMS.iter().zip(&got) {
        let form = Form::new(text);
        if form.op != op {
            continue;
        }
        for (i, &got) in got.iter().enumerate() {
            let [a, b] = [0, 1].map(|operand| values[operand][i]);
            let [x, y] = [a, b].map(|bits| value(F32, form.flush(bits)));
            if let Some((want, error)) = exact(&form, x, y) {
                check_one(&form, error, &[a, b], got, want);
                checked += 1;
            }
        }
    }
    assert!(checked > 1000, "{op}: {checked} checked");
}

#[test]
fn div_approx_and_full() {
    check_f32("div", |form, x, y| {
        let large = y.abs() > power(126.0) && y.is_finite();
        if !form.has("approx") {
            return Some((x / y, Error::Ulps(2.0)));
        }
        // a · (1 / b): the reciprocal of a large b is zero.
        Some((if large { x * (0.0 * y) } else { x / y }, Error::Ulps(2.0)))
    });
}

#[test]
fn rcp_approx() {
    check_f32("rcp", |_, x, _| Some((1.0 / x, Error::Ulps(1.0))));
}

#[test]
fn sqrt_approx() {
    check_f32("sqrt", |_, x, _| Some((x.sqrt(), Error::Relative(power(-23.0)))));
}

#[test]
fn rsqrt_approx() {
    check_f32("rsqrt", |_, x, _| Some((1.0 / x.sqrt(), Error::Relative(power(-22.9)))));
}

#[test]
fn sin_and_cos_approx() {
    use std::f64::consts::PI;
    for (op, function) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
        check_f32(op, |_, x, _| {
            let error = if x.abs() <= 2.0 * PI { power(-20.5) } else { power(-14.7) };
            // Nothing is promised beyond 100 π, but for infinities.
            let known = x.abs() <= 100.0 * PI || !x.is_finite();
            known.then(|| (function(x), Error::Absolute(error)))
        });
    }
}

#[test]
fn lg2_approx() {
    check_f32("lg2", |_, x, _| {
        let near = x > 0.5 && x < 2.0;
        let error = power(-22.0);
        Some((x.log2(), if near { Error::Absolute(error) } else { Error::Relative(error) }))
    });
}

#[test]
fn ex2_approx() {
    check_f32("ex2", |_, x, _| Some((x.exp2(), Error::Ulps(2.0))));
}

#[test]
fn tanh_approx() {
    check_f32("tanh", |_, x, _| Some((x.tanh(), Error::Relative(power(-11.0)))));
}

#[test]
fn f64_approximations() {
    let forms = ["rcp.approx.ftz.f64", "rsqrt.approx.f64", "rsqrt.approx.ftz.f64"];
    check(PTX, "approximations_f64", &forms, |form, x, _| {
        // The .ftz ones look at the upper 32 bits only.
        let upper = f64::from_bits(x.to_bits() & 0xFFFF_FFFF_0000_0000);
        let x = if form.has("ftz") && !x.is_nan() { upper } else { x };
        match form.text {
            "rcp.approx.ftz.f64" => Some((1.0 / x, Error::Relative(power(-20.0)))),
            "rsqrt.approx.f64" => Some((1.0 / x.sqrt(), Error::Relative(power(-51.0)))),
            _ => Some((1.0 / x.sqrt(), Error::Relative(power(-20.0)))),
        }
    });
}

#[test]
fn every_f16_of_the_approximations() {
    let forms = ["ex2.approx.f16", "tanh.approx.f16", "ex2.approx.f16x2", "tanh.approx.f16x2"];
    check(PTX, "approximations_f16", &forms, |form, x, _| match form.op {
        "ex2" => Some((x.exp2(), Error::Relative(power(-9.9)))),
        _ => Some((x.tanh(), Error::Absolute(power(-10.987)))),
    });
}

#[test]
fn every_bf16_of_the_approximations() {
    let forms =
        ["ex2.approx.ftz.bf16", "tanh.approx.bf16", "ex2.approx.ftz.bf16x2", "tanh.approx.bf16x2"];
    check(PTX_90, "approximations_bf16", &forms, |form, x, _| match form.op {
        "ex2" => Some((x.exp2(), Error::Relative(power(-7.0)))),
        _ => Some((x.tanh(), Error::Absolute(power(-8.0)))),
    });
}
