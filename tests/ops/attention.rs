//! attention against its f64 reference, and the cache against attention on whole documents.

mod window;

use dayrun::device::cpu::{Cpu, Element, Level};
use dayrun::ops::attention::{Dims, append, backward, decode, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::tol::QUICK_EXP_STEPS;
use crate::common::{
    DType, Rng, Tol, abs_dot, assert_close, assert_same_bits, cases, cast, devices, dot,
    finite_difference, nan, pairs, to_f64,
};

fn dims(kv_heads: usize, group: usize, head_dim: usize) -> Dims {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Dims { heads: kv_heads * group, kv_heads, head_dim, scale, window: None }
}

fn cumulate(lens: &[usize]) -> Vec<u32> {
    let mut ends = vec![0];
    for len in lens {
        ends.push(ends[ends.len() - 1] + *len as u32);
    }
    ends
}

/// Inputs exact in bf16, in f64.
struct Case {
    dims: Dims,
    cu: Vec<u32>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    d_o: Vec<f64>,
}

/// What forward and backward wrote, one buffer after another in f64.
struct Got {
    o: Vec<f64>,
    lse: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl Case {
    /// `peak` scales q: the larger, the more one key takes all.
    fn new(dims: Dims, lens: &[usize], peak: f64, seed: u64) -> Self {
        let cu = cumulate(lens);
        let tokens = lens.iter().sum::<usize>();
        let mut rng = Rng::new(seed);
        let q = rng.values(tokens * dims.q_width(), peak);
        let k = rng.values(tokens * dims.kv_width(), 1.0);
        let v = rng.values(tokens * dims.kv_width(), 1.0);
        let d_o = rng.values(tokens * dims.q_width(), 1.0);
        Case { dims, cu, q, k, v, d_o }
    }

    fn run<E: Element>(&self, cpu: &Cpu) -> Got {
        let (q, k, v) = (cast::<E>(&self.q), cast::<E>(&self.k), cast::<E>(&self.v));
        let d_o = cast::<E>(&self.d_o);
        let tokens = *self.cu.last().unwrap() as usize;
        let (mut o, mut lse) = (nan::<E>(q.len()), nan::<f32>(tokens * self.dims.heads));
        forward(cpu, &self.dims, &self.cu, &q, &k, &v, &mut o, &mut lse).unwrap();
        let mut delta = nan::<f32>(lse.len());
        let (mut dq, mut dk, mut dv) = (nan::<E>(q.len()), nan::<E>(k.len()), nan::<E>(v.len()));
        backward(
            cpu, &self.dims, &self.cu, &q, &k, &v, &o, &lse, &d_o, &mut delta, &mut dq, &mut dk,
            &mut dv,
        )
        .unwrap();
        let (o, lse) = (to_f64(&o), to_f64(&lse));
        Got { o, lse, dq: to_f64(&dq), dk: to_f64(&dk), dv: to_f64(&dv) }
    }

    /// Runs on every instruction set, 1, 2 and 4 threads, and compares with the reference.
    fn check<E: Element>(&self) {
        for pair in pairs() {
            let got = self.run::<E>(&pair.one);
            got.same_bits(&self.run::<E>(&pair.two));
            got.same_bits(&self.run::<E>(&pair.four));
            let products = self.products::<E>(pair.one.level);
            self.compare(&got, DType::of::<E>(), products);
        }
    }

    /// What the products' operands are rounded to.
    fn products<E: Element>(&self, level: Level) -> DType {
        let whole = self.dims.head_dim.is_multiple_of(16);
        let dots = DType::of::<E>() == DType::Bf16 && whole && level.has_bf16();
        if dots { DType::Bf16 } else { DType::F32 }
    }

    /// Where the tolerances come from. With S = scale·max Σ|q||k|, a score is off by at most
    /// S·(chain(head_dim) + 2) units, so P is off by that factor; twice, for the score and for the
    /// sum it is divided by. exp (4), its argument and lse (|lse| ≤ S + ln keys: 2 each), and one
    /// rescaling per key tile come on top. The magnitude of a sum takes all its terms positive.
    ///
    /// Where `products` are of bf16, P and dS are rounded to it before they are summed: once more each, and
    /// once more for delta, whose o is a sum of such P. Their exponentials are quick ones, in the sum under P as
    /// well. Scores are multiplied by log2(e), lse comes from base 2 and goes back to it: with the
    /// difference 8 more of S + ln keys. What is small enough is lost (see `bounds`).
    fn compare(&self, got: &Got, dtype: DType, products: DType) {
        let Case { dims, cu, q, k, v, d_o } = self;
        let d = dims.head_dim;
        let (o, lse) = reference::forward(dims, cu, q, k, v);
        let (dq, dk, dv) = reference::backward(dims, cu, q, k, v, d_o);
        let bounds = self.bounds(products);
        let longest = cu.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
        let chain = (d as f64).min(6.0 * (d as f64).sqrt());
        let tiles = longest.div_ceil(64);
        let score = bounds.score.ceil() * (chain + 4.0);
        let magnitude = bounds.score + (longest.max(2) as f64).ln() + 1.0;
        let (mut p, mut lse_steps, mut rounds) = (2 * score as usize + 16 + tiles, 4, 0);
        if products == DType::Bf16 {
            p += 2 * QUICK_EXP_STEPS + (8.0 * magnitude).ceil() as usize;
            lse_steps += QUICK_EXP_STEPS + 4;
            rounds = 1;
        }

        let scores = Tol::new(DType::F32).steps(lse_steps).sum_len(d + longest).cols(dims.heads);
        assert_close("attention.lse", &got.lse, &lse, scores.magnitude(magnitude));
        let tol = Tol::new(dtype).rounds(1 + rounds).steps(p).sum_len(2 * longest).cols(d);
        assert_close("attention.o", &got.o, &o, tol.magnitudes(&bounds.o));
        let rows = longest * dims.group();
        let tol = Tol::new(dtype).rounds(1 + rounds).steps(p).sum_len(rows).cols(d);
        assert_close("attention.dv", &got.dv, &dv, tol.magnitudes(&bounds.dv));
        // delta is made of the o that was stored: one more rounding to the dtype, and o's error.
        let tol = Tol::new(dtype).rounds(2 + 2 * rounds).steps(2 * p).cols(d);
        let tol = tol.sum_len(2 * d + 2 * longest);
        let dq_tol = tol.sum_len(longest);
        assert_close("attention.dq", &got.dq, &dq, dq_tol.magnitudes(&bounds.dq));
        let dk_tol = tol.sum_len(rows);
        assert_close("attention.dk", &got.dk, &dk, dk_tol.magnitudes(&bounds.dk));
    }

    /// Where products are of bf16, a P below 2^-125 becomes 0: it is counted as that much larger, in units
    /// of bf16's roundings.
    fn bounds(&self, products: DType) -> Bounds {
        let Case { dims, cu, q, k, v, d_o } = self;
        let d = dims.head_dim;
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (abs_v, abs_d_o) = (abs(v), abs(d_o));
        let (o, _) = reference::forward(dims, cu, q, k, &abs_v);
        let (_, _, mut dv) = reference::backward(dims, cu, q, k, v, &abs_d_o);
        let lost = match products {
            DType::Bf16 => 2.0 * f64::from(f32::MIN_POSITIVE) / products.unit_roundoff(),
            _ => 0.0,
        };
        let (mut score, mut dq, mut dk) = (0f64, vec![0.0; q.len()], vec![0.0; k.len()]);
        reference::for_each_query(dims, cu, |row, keys| {
            let place = row * d..(row + 1) * d;
            let (p, _) = reference::probabilities(dims, &q[place.clone()], k, &keys);
            let delta = dot(&abs_d_o[place.clone()], &o[place.clone()]);
            let scale = f64::from(dims.scale);
            for (p, key) in p.iter().zip(keys) {
                let at = key * d..(key + 1) * d;
                score = score.max(scale * abs_dot(&q[place.clone()], &k[at.clone()]));
                let dp = dot(&abs_d_o[place.clone()], &abs_v[at.clone()]);
                let ds = scale * (p + lost) * (dp + delta);
                for c in 0..d {
                    dv[key * d + c] += lost * abs_d_o[row * d + c];
                    dq[row * d + c] += ds * k[key * d + c].abs();
                    dk[key * d + c] += ds * q[row * d + c].abs();
                }
            }
        });
        Bounds { score, o, dq, dk, dv }
    }
}

/// Σ|terms| of every output, and the largest scale·Σ|q||k|.
struct Bounds {
    score: f64,
    o: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl Got {
    fn parts(&self) -> [(&'static str, &[f64]); 5] {
        let Got { o, lse, dq, dk, dv } = self;
        [("o", o), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv)]
    }

    #[track_caller]
    fn same_bits(&self, other: &Got) {
        for ((name, a), (_, b)) in self.parts().into_iter().zip(other.parts()) {
            assert_same_bits(name, a, b);
        }
    }
}

fn document() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0usize),
        Just(1),
        2usize..20,
        prop::sample::select(vec![63, 64, 65]),
        1usize..150
    ]
}

fn head_dim() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![2usize, 6, 10, 16, 30, 32, 40, 48, 64, 80])
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn equals_reference(
        lens in prop::collection::vec(document(), 0..5),
        kv_heads in 1usize..3,
        group in 1usize..6,
        head_dim in head_dim(),
        peak in prop::sample::select(vec![0.25, 1.0, 4.0]),
        seed: u64,
    ) {
        let case = Case::new(dims(kv_heads, group, head_dim), &lens, peak, seed);
        case.check::<f32>();
        case.check::<bf16>();
    }

    #[test]
    fn a_document_does_not_know_what_it_is_packed_with(
        lens in prop::collection::vec(document(), 1..5),
        group in 1usize..4,
        head_dim in prop::sample::select(vec![10usize, 16]),
        seed: u64,
    ) {
        packed_equals_alone(dims(2, group, head_dim), &lens, seed);
    }

    #[test]
    fn the_cache_gives_what_whole_documents_give(
        lens in prop::collection::vec(1usize..300, 1..5),
        group in 1usize..4,
        head_dim in head_dim(),
        steps in 1usize..5,
        seed: u64,
    ) {
        cache_equals_forward::<f32>(dims(2, group, head_dim), &lens, steps, seed);
        cache_equals_forward::<bf16>(dims(2, group, head_dim), &lens, steps, seed);
    }
}

/// Each document of a packed run has the bits that it has alone.
fn packed_equals_alone(dims: Dims, lens: &[usize], seed: u64) {
    let packed = Case::new(dims, lens, 1.0, seed);
    let (qw, kw) = (dims.q_width(), dims.kv_width());
    for cpu in devices() {
        let all = packed.run::<bf16>(cpu);
        for rows in packed.cu.windows(2) {
            let cut = |x: &[f64], width: usize| {
                x[rows[0] as usize * width..rows[1] as usize * width].to_vec()
            };
            let alone = Case {
                dims,
                cu: vec![0, rows[1] - rows[0]],
                q: cut(&packed.q, qw),
                k: cut(&packed.k, kw),
                v: cut(&packed.v, kw),
                d_o: cut(&packed.d_o, qw),
            };
            let part = Got {
                o: cut(&all.o, qw),
                lse: cut(&all.lse, dims.heads),
                dq: cut(&all.dq, qw),
                dk: cut(&all.dk, kw),
                dv: cut(&all.dv, kw),
            };
            alone.run::<bf16>(cpu).same_bits(&part);
        }
    }
}

/// Fills a cache in `steps` uneven pieces, then token by token, rows ending at different times.
fn cache_equals_forward<E: Element>(dims: Dims, lens: &[usize], steps: usize, seed: u64) {
    let case = Case::new(dims, lens, 1.0, seed);
    let (q, k, v) = (cast::<E>(&case.q), cast::<E>(&case.k), cast::<E>(&case.v));
    let (qw, kw) = (dims.q_width(), dims.kv_width());
    let capacity = lens.iter().max().unwrap() + 3;
    for cpu in devices() {
        let (mut want, mut lse) = (nan::<E>(q.len()), nan::<f32>(q.len() / dims.head_dim));
        forward(cpu, &dims, &case.cu, &q, &k, &v, &mut want, &mut lse).unwrap();

        let mut got = nan::<E>(q.len());
        let (mut k_cache, mut v_cache) =
            (nan::<E>(lens.len() * capacity * kw), nan::<E>(lens.len() * capacity * kw));
        let mut done = vec![0usize; lens.len()];
        let mut rng = Rng::new(seed);
        for step in 0.. {
            let new: Vec<usize> = (lens.iter().zip(&done))
                .map(|(len, done)| {
                    let most = if step < steps { len / steps + 2 } else { 1 };
                    if step < steps { rng.below(most) } else { most }.min(len - done)
                })
                .collect();
            if step >= steps && new.iter().all(|n| *n == 0) {
                break;
            }
            let cut = |x: &[E], width: usize| -> Vec<E> {
                let row = |b: usize| (case.cu[b] as usize + done[b]) * width;
                (0..lens.len()).flat_map(|b| x[row(b)..][..new[b] * width].to_vec()).collect()
            };
            let cu = cumulate(&new);
            let cache_len: Vec<u32> = done.iter().map(|n| *n as u32).collect();
            let (k_new, v_new, q_new) = (cut(&k, kw), cut(&v, kw), cut(&q, qw));
            let mut o = nan::<E>(q_new.len());
            append(
                cpu,
                &dims,
                &cu,
                &cache_len,
                capacity,
                &k_new,
                &v_new,
                &mut k_cache,
                &mut v_cache,
            )
            .unwrap();
            let total: Vec<u32> = done.iter().zip(&new).map(|(a, b)| (a + b) as u32).collect();
            decode(cpu, &dims, &cu, &total, capacity, &q_new, &k_cache, &v_cache, &mut o).unwrap();
            for (b, n) in new.iter().enumerate() {
                let at = (case.cu[b] as usize + done[b]) * qw;
                got[at..][..n * qw].copy_from_slice(&o[cu[b] as usize * qw..][..n * qw]);
                done[b] += n;
            }
        }
        assert_same_bits("attention: cache", &got, &want);
    }
}

#[test]
fn reference_backward_equals_finite_differences() {
    backward_equals_finite_differences(dims(2, 2, 4));
}

fn backward_equals_finite_differences(dims: Dims) {
    let case = Case::new(dims, &[3, 0, 1, 5], 1.0, 7);
    let Case { dims, cu, q, k, v, d_o } = &case;
    let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&reference::forward(dims, cu, q, k, v).0, d_o);
    let (dq, dk, dv) = reference::backward(dims, cu, q, k, v, d_o);
    // |o| is at most the largest |v|.
    let largest = v.iter().fold(0f64, |m, v| m.max(v.abs()));
    let tol = Tol::finite_difference(largest * d_o.iter().map(|d| d.abs()).sum::<f64>());
    assert_close("dq", &finite_difference(q, |q| loss(q, k, v)), &dq, tol);
    assert_close("dk", &finite_difference(k, |k| loss(q, k, v)), &dk, tol);
    assert_close("dv", &finite_difference(v, |v| loss(q, k, v)), &dv, tol);
}

/// 128 wide, several tiles, a group that does not divide a tile of queries.
#[test]
fn llama_shapes() {
    for (group, head_dim) in [(3, 64), (4, 128), (7, 128), (1, 256)] {
        let case = Case::new(dims(1, group, head_dim), &[200, 1, 61], 1.0, 3);
        case.check::<f32>();
        case.check::<bf16>();
    }
}

/// Documents of several blocks of queries, of keys, and of both, whose last blocks are of any length;
/// channels that fill half a panel, and such that leave the path of bf16 products.
#[test]
fn long_documents() {
    let cases: [(Dims, &[usize]); 5] = [
        (dims(1, 3, 64), &[300, 1, 257]),
        (dims(2, 12, 16), &[200, 0, 65]),
        (dims(1, 5, 48), &[270, 128]),
        (dims(1, 2, 40), &[300]),
        (dims(1, 1, 128), &[520]),
    ];
    for (dims, lens) in cases {
        Case::new(dims, lens, 1.0, 9).check::<bf16>();
    }
}

/// A token's bits are the same whatever follows it in its document, over several blocks.
#[test]
fn a_query_does_not_know_what_follows_it() {
    let dims = dims(1, 3, 32);
    let whole = Case::new(dims, &[600], 1.0, 21);
    for cpu in devices() {
        let all = whole.run::<bf16>(cpu);
        for len in [1, 33, 300] {
            let cut = |x: &[f64]| x[..x.len() / 600 * len].to_vec();
            let (q, k, v, d_o) = (cut(&whole.q), cut(&whole.k), cut(&whole.v), cut(&whole.d_o));
            let part = Case { dims, cu: vec![0, len as u32], q, k, v, d_o }.run::<bf16>(cpu);
            assert_same_bits("o", &part.o, &cut(&all.o));
            assert_same_bits("lse", &part.lse, &cut(&all.lse));
            assert_same_bits("dq", &part.dq, &cut(&all.dq));
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    for (peak, head_dim) in [(296.0, 6), (2992.0, 6), (296.0, 16)] {
        let mut case = Case::new(dims(1, 2, head_dim), &[90, 2], peak, 11);
        // The largest score of all comes first for some queries, last for others.
        case.q[..head_dim].fill(peak);
        case.check::<f32>();
        case.check::<bf16>();
    }
    // Every score about +-1e4, in one direction: all keys tie, and lse is far from 0.
    for sign in [1.0, -1.0] {
        let mut case = Case::new(dims(1, 1, 4), &[70], 1.0, 12);
        case.q.fill(1e4f64.sqrt().floor());
        case.k.fill(sign * 50.0);
        case.check::<f32>();
        case.check::<bf16>();
    }
}

#[test]
fn a_nan_stays_in_its_document() {
    nan_stays_in_its_document::<f32>(10);
    nan_stays_in_its_document::<bf16>(10);
    nan_stays_in_its_document::<bf16>(16);
}

fn nan_stays_in_its_document<E: Element>(d: usize) {
    let clean = Case::new(dims(1, 2, d), &[5, 70, 3], 1.0, 5);
    for cpu in devices() {
        let want = clean.run::<E>(cpu);
        let mut broken = Case::new(clean.dims, &[5, 70, 3], 1.0, 5);
        broken.k[5 * d] = f64::NAN;
        broken.v[74 * d] = f64::INFINITY;
        let got = broken.run::<E>(cpu);
        for ((name, got), (_, want)) in got.parts().into_iter().zip(want.parts()) {
            let width = got.len() / 78;
            let (before, after) = (5 * width, 75 * width);
            assert_same_bits(&format!("{name} before"), &got[..before], &want[..before]);
            assert_same_bits(&format!("{name} after"), &got[after..], &want[after..]);
            let between = &got[before..after];
            assert!(name == "dk" || name == "dv" || between.iter().all(|x| x.is_nan()), "{name}");
        }
    }
}

#[test]
fn bad_arguments_are_errors_and_write_nothing() {
    let cpu = devices().next().unwrap();
    let good = dims(1, 2, 4);
    let mut o = [7f32; 24];
    let mut message = |dims: &Dims, cu: &[u32], len: usize| {
        let (q, k, mut lse) = ([0f32; 24], [0f32; 12], [0f32; 6]);
        let error = forward(cpu, dims, cu, &q, &k, &k[..len], &mut o, &mut lse).unwrap_err();
        assert_eq!(o, [7f32; 24]);
        error.to_string()
    };
    assert_eq!(message(&good, &[0, 3], 8), "attention: len of v is 8, expected 12");
    assert_eq!(message(&good, &[0, 4], 12), "attention: len of q is 24, expected 32");
    assert_eq!(message(&good, &[], 12), "attention: len of cu_seqlens is 0, expected 1 or more");
    assert_eq!(message(&good, &[1, 3], 12), "attention: cu_seqlens[0] is 1, expected 0");
    assert_eq!(
        message(&good, &[0, 3, 2, 3], 12),
        "attention: end of a document in cu_seqlens is 2, expected 3 or more"
    );
    let odd = Dims { heads: 3, kv_heads: 2, ..good };
    assert_eq!(message(&odd, &[0, 3], 12), "attention: heads is 3, expected a multiple of 2");
    for wrong in
        [Dims { heads: 0, ..good }, Dims { kv_heads: 0, ..good }, Dims { head_dim: 0, ..good }]
    {
        assert!(message(&wrong, &[0, 3], 12).contains("is 0, expected"));
    }
    let blind = Dims { window: Some(0), ..good };
    assert_eq!(message(&blind, &[0, 3], 12), "attention: window is 0, expected 1 or more");

    let mut cache = [0f32; 2 * 3 * 4];
    let mut other = cache;
    let new = [1f32; 2 * 4];
    let mut put =
        |len: &[u32]| append(cpu, &good, &[0, 1, 2], len, 3, &new, &new, &mut cache, &mut other);
    put(&[0, 2]).unwrap();
    assert!(put(&[0, 3]).is_err());
    assert!(put(&[0]).is_err());
    let mut o = [0f32; 2 * 8];
    let mut see =
        |len: &[u32]| decode(cpu, &good, &[0, 1, 2], len, 3, &[0f32; 16], &cache, &cache, &mut o);
    see(&[1, 3]).unwrap();
    assert!(see(&[1, 4]).is_err());
    assert!(see(&[0, 3]).is_err());
}
