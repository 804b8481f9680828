//! linear against its f64 reference, and NF4's decode that feeds it, bit for bit.

use dayrun::device::cpu::simd::{NR, Nf4Codes, panel_len};
use dayrun::device::cpu::{Cpu, Element, GemmElement, Level};
use dayrun::ops::linear::{BackwardTerm, LowRank, Rows, Weight, backward, forward, reference};
use dayrun::quant::nf4::{BLOCK, CODEBOOK, NESTED_BLOCK};
use dayrun::quant::{Absmax, Nf4Matrix};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, abs_product, assert_close, assert_same_bits, cases, cast, devices,
    finite_difference, nan, pairs, pitched, size, to_f64,
};

/// A matrix of random codes. Scales differ by more than any tolerance from block to block, so
/// that a neighbour's shows; under `nested` each is a code, a second scale and an offset.
pub fn matrix(rng: &mut Rng, rows: usize, cols: usize, nested: bool) -> Nf4Matrix {
    let codes: Vec<u8> = (0..(rows * cols).div_ceil(2)).map(|_| rng.below(256) as u8).collect();
    let blocks = (rows * cols).div_ceil(BLOCK);
    let absmax = if nested {
        Absmax::Nested {
            codes: (0..blocks).map(|_| rng.below(256) as u8).collect::<Vec<u8>>().into(),
            absmax2: (0..blocks.div_ceil(NESTED_BLOCK))
                .map(|_| 0.2 + rng.uniform() as f32)
                .collect(),
            offset: 0.3,
            map: (0..256).map(|_| rng.uniform() as f32 - 0.5).collect(),
        }
    } else {
        Absmax::Plain((0..blocks).map(|_| 0.1 + rng.uniform() as f32).collect())
    };
    Nf4Matrix { rows, cols, codes: codes.into(), absmax }
}

/// How a weight is held.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Nf4,
    /// With scales that are quantised again.
    Nested,
    Bf16,
    F32,
}

const KINDS: [Kind; 4] = [Kind::Nf4, Kind::Nested, Kind::Bf16, Kind::F32];

fn kind() -> impl Strategy<Value = Kind> {
    (0..KINDS.len()).prop_map(|i| KINDS[i])
}

/// A random weight, held.
enum Held {
    Nf4(Nf4Matrix),
    Bf16(usize, Vec<bf16>),
    F32(usize, Vec<f32>),
}

impl Held {
    fn new(rng: &mut Rng, rows: usize, cols: usize, kind: Kind) -> Self {
        match kind {
            Kind::Nf4 => Held::Nf4(matrix(rng, rows, cols, false)),
            Kind::Nested => Held::Nf4(matrix(rng, rows, cols, true)),
            Kind::Bf16 => Held::Bf16(cols, cast(&rng.values(rows * cols, 0.5))),
            Kind::F32 => {
                // Not exact in bf16, unlike the generator's values.
                let values = rng.values(rows * cols, 0.5).into_iter().map(|x| x as f32 * 1.001);
                Held::F32(cols, values.collect())
            }
        }
    }

    fn weight(&self) -> Weight<'_> {
        match self {
            Held::Nf4(w) => Weight::Nf4(w),
            Held::Bf16(cols, data) => {
                Weight::Bf16(Rows { rows: data.len() / cols, cols: *cols, data })
            }
            Held::F32(cols, data) => {
                Weight::F32(Rows { rows: data.len() / cols, cols: *cols, data })
            }
        }
    }

    /// The values that the op multiplies with: rounded once to `E`.
    fn values<E: Element + Into<f64>>(&self) -> Vec<f64> {
        let values: Vec<f32> = match self {
            Held::Nf4(w) => w.to_f32(),
            Held::Bf16(_, data) => data.iter().map(|x| x.to_f32()).collect(),
            Held::F32(_, data) => data.clone(),
        };
        to_f64(&values.into_iter().map(E::from_f32).collect::<Vec<E>>())
    }
}

/// Input widths: whole blocks (the fast decoders) and any others.
fn width() -> impl Strategy<Value = usize> {
    prop_oneof![(1usize..=4).prop_map(|n| 64 * n), size(200)]
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n_in: usize,
    n_out: usize,
    r: usize,
    /// Columns between the ends of V's rows and their pitch.
    gap: usize,
    kind: Kind,
    biased: bool,
    seed: u64,
}

fn shape() -> impl Strategy<Value = Shape> {
    let held = (kind(), any::<bool>());
    // No columns have no pitch.
    (size(200), width(), size(200), 0usize..=20, 0usize..=17, held, any::<u64>()).prop_map(
        |(m, n_in, n_out, r, gap, (kind, biased), seed)| Shape {
            m,
            n_in,
            n_out,
            r,
            gap: gap * usize::from(r > 0),
            kind,
            biased,
            seed,
        },
    )
}

fn forward_matches<E: GemmElement + Into<f64>>(s: Shape) {
    let Shape { m, n_in, n_out, r, gap, kind, biased, seed } = s;
    let mut rng = Rng::new(seed);
    let held = Held::new(&mut rng, n_out, n_in, kind);
    let w = held.weight();
    let (x, v, b) = (rng.values(m * n_in, 1.0), rng.values(m * r, 1.0), rng.values(n_out * r, 0.5));
    let wv = held.values::<E>();
    let bias: Vec<bf16> = rng.values(n_out, 1.0).into_iter().map(bf16::from_f64).collect();
    let bias = biased.then_some(&bias[..]);
    let mut want = reference::forward(m, n_in, n_out, r, &x, &wv, &v, &b);
    let mut bounds = abs_product(m, n_in, n_out, &x, &wv);
    bounds.iter_mut().zip(abs_product(m, r, n_out, &v, &b)).for_each(|(a, b)| *a += b);
    if let Some(bias) = bias {
        for (want, bounds) in want.chunks_mut(n_out).zip(bounds.chunks_mut(n_out)) {
            want.iter_mut().zip(bias).for_each(|(y, b)| *y += b.to_f64());
            bounds.iter_mut().zip(bias).for_each(|(y, b)| *y += b.to_f64().abs());
        }
    }
    let tol = Tol::new(DType::of::<E>())
        .sum_len(n_in + r + usize::from(biased))
        .magnitudes(&bounds)
        .round_result()
        .cols(n_out);
    for pair in pairs() {
        let y = pair.same_bits("linear.y", |cpu| {
            let mut y = nan::<E>(m * n_out);
            let (left, right) = (pitched::<E>(&v, r, r + gap), cast::<E>(&b));
            let lora = LowRank { left: &left, ld: r + gap, r, right: &right };
            forward(cpu, m, &cast::<E>(&x), w, Some(lora), bias, &mut y).unwrap();
            y
        });
        assert_close("linear.y", &y, &want, tol);
        // Without an adapter: as with one of zeros, bit for bit but for the sign of zeros.
        let bare = pair.same_bits("linear.y without adapter", |cpu| {
            let mut y = nan::<E>(m * n_out);
            forward(cpu, m, &cast::<E>(&x), w, None, bias, &mut y).unwrap();
            y
        });
        let mut zero = nan::<E>(m * n_out);
        let (left, right) = (pitched::<E>(&v, r, r + gap), vec![E::from_f32(0.0); n_out * r]);
        let lora = LowRank { left: &left, ld: r + gap, r, right: &right };
        forward(&pair.one, m, &cast::<E>(&x), w, Some(lora), bias, &mut zero).unwrap();
        assert!(bare == zero, "an adapter of zeros changes y on {}", pair.one.name());
    }
}

fn backward_matches<E: GemmElement + Into<f64>>(s: Shape, terms: usize) {
    let Shape { m, n_in, n_out, r, gap, kind, seed, .. } = s;
    let mut rng = Rng::new(seed);
    // Every term has its own width and its own way of holding the weight; the last one has no adapter when
    // there are several.
    struct Data {
        w: Held,
        r: usize,
        dy: Vec<f64>,
        u: Vec<f64>,
        a: Vec<f64>,
    }
    let data: Vec<Data> = (0..terms)
        .map(|i| {
            let n_out = (n_out + 7 * i).min(200);
            let r = if i > 0 && i + 1 == terms { 0 } else { r };
            let w = Held::new(&mut rng, n_out, n_in, KINDS[(kind as usize + i) % KINDS.len()]);
            let dy = rng.values(m * n_out, 1.0);
            Data { w, r, dy, u: rng.values(m * r, 1.0), a: rng.values(r * n_in, 0.5) }
        })
        .collect();
    let mut want = vec![0.0; m * n_in];
    let mut bounds = want.clone();
    let mut sum_len = 0;
    for d in &data {
        let (n_out, wv) = (d.w.weight().shape().0, d.w.values::<E>());
        reference::backward_add(m, n_in, n_out, d.r, &d.dy, &wv, &d.u, &d.a, &mut want);
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (dy, wv, u, a) = (abs(&d.dy), abs(&wv), abs(&d.u), abs(&d.a));
        reference::backward_add(m, n_in, n_out, d.r, &dy, &wv, &u, &a, &mut bounds);
        sum_len += n_out + d.r;
    }
    let tol =
        Tol::new(DType::of::<E>()).sum_len(sum_len).magnitudes(&bounds).round_result().cols(n_in);
    for pair in pairs() {
        let dx = pair.same_bits("linear.dx", |cpu| {
            let dy: Vec<Vec<E>> = data.iter().map(|d| cast(&d.dy)).collect();
            let u: Vec<Vec<E>> = data.iter().map(|d| pitched(&d.u, d.r, d.r + gap)).collect();
            let a: Vec<Vec<E>> = data.iter().map(|d| cast(&d.a)).collect();
            let list: Vec<BackwardTerm<'_, E>> = (data.iter().enumerate())
                .map(|(i, d)| BackwardTerm {
                    dy: &dy[i],
                    w: d.w.weight(),
                    lora: (d.r > 0).then(|| LowRank {
                        left: &u[i],
                        ld: d.r + gap,
                        r: d.r,
                        right: &a[i],
                    }),
                })
                .collect();
            let mut dx = nan::<E>(m * n_in);
            backward(cpu, m, &list, &mut dx).unwrap();
            dx
        });
        assert_close("linear.dx", &dx, &want, tol);
    }
}

/// Decodes every panel of `w` on `level` and compares each element with `Nf4Matrix::value`,
/// rounded once; what lies outside the matrix must be zero.
fn panels_are_exact<E: GemmElement>(level: Level, w: &Nf4Matrix) {
    let scale = |block: usize| w.absmax.get(block);
    let source =
        Nf4Codes { codes: &w.codes, rows: w.rows, cols: w.cols, scale, codebook: &CODEBOOK };
    let value = |row: usize, col: usize| {
        let inside = row < w.rows && col < w.cols;
        E::from_f32(if inside { w.value(row * w.cols + col) } else { 0.0 })
    };
    let g = E::GROUP;
    for (direction, contraction, other) in [("nt", w.cols, w.rows), ("nn", w.rows, w.cols)] {
        let mut panel = nan::<E>(panel_len::<E>(contraction));
        for first in (0..other).step_by(NR) {
            let count = NR.min(other - first);
            panel.fill(E::from_f32(f32::NAN));
            if direction == "nt" {
                E::nf4_nt(level, &source, first, count, &mut panel);
            } else {
                E::nf4_nn(level, &source, first, count, &mut panel);
            }
            let want: Vec<E> = (0..panel.len())
                .map(|i| {
                    let (k, column) = (i / (NR * g) * g + i % g, i / g % NR);
                    let column = if column < count { first + column } else { usize::MAX };
                    if direction == "nt" { value(column, k) } else { value(k, column) }
                })
                .collect();
            let name = format!("{direction} panel {first} of {}x{} on {level:?}", w.rows, w.cols);
            assert_same_bits(&name, &panel, &want);
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn forward_equals_reference(s in shape()) {
        forward_matches::<f32>(s);
        forward_matches::<bf16>(s);
    }

    #[test]
    fn backward_equals_reference(s in shape(), terms in 1usize..=4) {
        backward_matches::<f32>(s, terms);
        backward_matches::<bf16>(s, terms);
    }

    #[test]
    fn decode_is_exact(rows in size(100), cols in width(), nested: bool, seed: u64) {
        let w = matrix(&mut Rng::new(seed), rows, cols, nested);
        for level in Level::available() {
            panels_are_exact::<f32>(level, &w);
            panels_are_exact::<bf16>(level, &w);
        }
    }

    #[test]
    fn reference_backward_equals_finite_differences(
        m in 1usize..4, n_in in 1usize..7, n_out in 1usize..7, r in 0usize..4, seed: u64,
    ) {
        // V = x·Aᵀ, so U = dy·B: dx is the gradient of Σ y∘dy.
        let mut rng = Rng::new(seed);
        let (x, w) = (rng.values(m * n_in, 1.0), rng.values(n_out * n_in, 1.0));
        let (a, b) = (rng.values(r * n_in, 1.0), rng.values(n_out * r, 1.0));
        let dy = rng.values(m * n_out, 1.0);
        let down = dayrun::ops::lora_down::reference::forward;
        let loss = |x: &[f64]| {
            let v = down(m, n_in, r, 1.0, x, &a);
            let y = reference::forward(m, n_in, n_out, r, x, &w, &v, &b);
            crate::common::dot(&y, &dy)
        };
        let u = dayrun::ops::lora_down::reference::backward(m, n_out, r, 1.0, &dy, &b);
        let mut dx = vec![0.0; m * n_in];
        reference::backward_add(m, n_in, n_out, r, &dy, &w, &u, &a, &mut dx);
        let sum = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
        let bound = (1.0 + sum(&x)) * sum(&dy) * (sum(&w) + sum(&a) * sum(&b));
        assert_close("dx", &finite_difference(&x, loss), &dx, Tol::finite_difference(bound));
    }
}

#[test]
fn sums_past_the_scratch_of_one_width_and_rows_past_one_stretch() {
    // More panels than tasks, and rows in several stretches.
    for (m, n_in, n_out) in
        [(1, 576, 200), (3, 64, 1100), (8, 640, 97), (400, 128, 33), (200, 1000, 40)]
    {
        for kind in [Kind::Nested, Kind::Bf16] {
            let s = Shape { m, n_in, n_out, r: 16, gap: 0, kind, biased: true, seed: 5 };
            forward_matches::<f32>(s);
            forward_matches::<bf16>(s);
            backward_matches::<bf16>(s, 1);
        }
    }
}

/// A row's result has the bits that it has beside many others, at every number of rows: whichever way
/// few rows go, and on every instruction set.
fn few_rows_are_rows_of_many<E: GemmElement>(n_in: usize, n_out: usize, r: usize, kind: Kind) {
    const MANY: usize = 21;
    let mut rng = Rng::new((n_in * 1000 + n_out + r) as u64);
    let held = Held::new(&mut rng, n_out, n_in, kind);
    let w = held.weight();
    let (ld, x) = (r + 3, cast::<E>(&rng.values(MANY * n_in, 1.0)));
    let left = pitched::<E>(&rng.values(MANY * r, 1.0), r, ld);
    let right = cast::<E>(&rng.values(n_out * r, 0.5));
    for pair in pairs() {
        let run = |cpu: &Cpu, first: usize, m: usize, adapted: bool| {
            let lora = LowRank { left: &left[first * ld..], ld, r, right: &right };
            let mut y = nan::<E>(m * n_out);
            let x = &x[first * n_in..(first + m) * n_in];
            forward(cpu, m, x, w, adapted.then_some(lora), None, &mut y).unwrap();
            y
        };
        for adapted in [false, true] {
            let many = run(&pair.one, 0, MANY, adapted);
            for m in 1..=12 {
                let first = m % 5;
                let few = pair.same_bits("few rows", |cpu| run(cpu, first, m, adapted));
                let name =
                    format!("{m} rows of {n_out}x{n_in} {kind:?}, r {r}, on {}", pair.one.name());
                assert_same_bits(&name, &few, &many[first * n_out..(first + m) * n_out]);
            }
        }
    }
}

#[test]
fn few_rows_have_the_bits_they_have_among_many() {
    // Whole panels and parts, blocks of scales past one look-up (32), widths with blocks that straddle
    // rows, ranks that are no pairs.
    for (n_in, n_out, r) in [
        (64, 1, 2),
        (64, 32, 16),
        (576, 192, 16),
        (192, 100, 8),
        (2112, 33, 6),
        (64 * 70, 47, 2),
        (96, 40, 16),
        (100, 31, 4),
        (128, 65, 3),
        (7, 5, 1),
    ] {
        let nf4 = if n_out % 2 == 0 { Kind::Nested } else { Kind::Nf4 };
        for kind in [nf4, Kind::Bf16, Kind::F32] {
            few_rows_are_rows_of_many::<bf16>(n_in, n_out, r, kind);
            few_rows_are_rows_of_many::<f32>(n_in, n_out, r, kind);
        }
    }
}

#[test]
fn no_rows_are_no_work_and_nan_stays_in_its_row() {
    let held = Held::new(&mut Rng::new(1), 40, 64, Kind::Nested);
    let w = held.weight();
    for cpu in devices() {
        forward::<f32>(cpu, 0, &[], w, None, None, &mut []).unwrap();
        backward::<bf16>(cpu, 0, &[BackwardTerm { dy: &[], w, lora: None }], &mut []).unwrap();
        // In bf16 as in f32.
        let mut x = vec![bf16::ONE; 3 * 64];
        x[64 + 5] = bf16::NAN;
        let mut y = vec![bf16::ZERO; 3 * 40];
        forward(cpu, 3, &x, w, None, None, &mut y).unwrap();
        assert!((0..120).all(|i| y[i].is_nan() == (i / 40 == 1)), "on {}", cpu.name());
        let mut x = vec![1f32; 3 * 64];
        x[64 + 5] = f32::NAN;
        let mut y = vec![0f32; 3 * 40];
        forward(cpu, 3, &x, w, None, None, &mut y).unwrap();
        for (row, y) in y.chunks(40).enumerate() {
            assert!(y.iter().all(|y| y.is_nan() == (row == 1)), "row {row}");
        }
    }
}

#[test]
fn short_buffers_are_errors() {
    let cpu = devices().next().unwrap();
    let held = Held::new(&mut Rng::new(1), 5, 6, Kind::Nf4);
    let w = held.weight();
    let (x, mut y, right) = ([1f32; 12], [1f32; 10], [1f32; 15]);
    let left = [1f32; 7];
    let lora = LowRank { left: &left, ld: 4, r: 3, right: &right };
    forward(cpu, 2, &x, w, Some(lora), None, &mut y).unwrap();
    let message = |e: Result<(), dayrun::ops::ShapeError>| e.unwrap_err().to_string();
    assert_eq!(
        message(forward(cpu, 2, &x[1..], w, None, None, &mut y)),
        "linear::forward: len of x is 11, expected 12"
    );
    assert_eq!(
        message(forward(cpu, 2, &x, w, None, None, &mut y[1..])),
        "linear::forward: len of y is 9, expected 10"
    );
    assert_eq!(
        message(forward(cpu, 2, &x, w, None, Some(&[bf16::ONE; 4]), &mut y)),
        "linear::forward: len of bias is 4, expected 5"
    );
    for (bad, part) in [
        (LowRank { left: &left[1..], ..lora }, "len of V or U is 6, expected 7 or more"),
        (LowRank { ld: 2, ..lora }, "pitch of V or U is 2, expected 3 or more"),
        (LowRank { right: &right[1..], ..lora }, "len of the adapter matrix is 14, expected 15"),
    ] {
        let error = message(forward(cpu, 2, &x, w, Some(bad), None, &mut y));
        assert!(error.ends_with(part), "{error}");
    }
    let (values, halves) = ([1f32; 29], [bf16::ONE; 29]);
    for short in [
        Weight::F32(Rows { rows: 5, cols: 6, data: &values }),
        Weight::Bf16(Rows { rows: 5, cols: 6, data: &halves }),
    ] {
        assert_eq!(
            message(forward(cpu, 2, &x, short, None, None, &mut y)),
            "linear::forward: len of w is 29, expected 30"
        );
        let term = BackwardTerm { dy: &y, w: short, lora: None };
        assert_eq!(
            message(backward(cpu, 2, &[term], &mut [1f32; 12])),
            "linear::backward: len of w is 29, expected 30"
        );
    }
    let mut dx = [1f32; 12];
    let term = BackwardTerm { dy: &y, w, lora: None };
    let narrow = Held::new(&mut Rng::new(1), 5, 5, Kind::Nf4);
    backward(cpu, 2, &[term; 4], &mut dx).unwrap();
    assert!(backward::<f32>(cpu, 2, &[], &mut dx).is_err());
    assert!(backward(cpu, 2, &[term; 5], &mut dx).is_err());
    assert!(backward(cpu, 2, &[term], &mut dx[1..]).is_err());
    assert!(
        backward(cpu, 2, &[term, BackwardTerm { w: narrow.weight(), ..term }], &mut dx).is_err()
    );
    assert!(backward(cpu, 2, &[BackwardTerm { dy: &y[1..], ..term }], &mut dx).is_err());
    let lora = Some(LowRank { right: &right, ..lora });
    assert!(backward(cpu, 2, &[BackwardTerm { lora, ..term }], &mut dx).is_err());
}

/// Codes that end before the matrix does are a mistake that must not read past the end.
#[test]
#[should_panic]
fn missing_codes_panic() {
    let mut w = matrix(&mut Rng::new(1), 32, 64, false);
    w.codes = w.codes.window(0, 1000).unwrap();
    let mut y = vec![0f32; 32];
    let _ = forward(devices().next().unwrap(), 1, &[1f32; 64], Weight::Nf4(&w), None, None, &mut y);
}
