//! The kernels of attention's forward and cache against the f64 reference, and against each other.

use std::sync::Arc;

use dayrun::device::cuda::{Buf, Cuda};
use dayrun::ops::attention::{Dims, cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, abs_dot, assert_close, assert_same_bits, cast};

/// Keys in a tile of the kernels.
const TILE: usize = 64;

/// Inputs exact in bf16, in f64.
struct Case {
    dims: Dims,
    cu: Vec<u32>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

/// What forward wrote.
struct Got {
    o: Vec<bf16>,
    lse: Vec<f32>,
}

fn dims(kv_heads: usize, group: usize, head_dim: usize) -> Dims {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Dims { heads: kv_heads * group, kv_heads, head_dim, scale }
}

fn random_dims(rng: &mut Rng) -> Dims {
    dims(1 + rng.below(2), [1, 2, 3, 4, 7][rng.below(5)], [64, 128][rng.below(2)])
}

/// Up to `most` documents of some 200 tokens together: empty ones, of a few tokens, around a tile, and others.
fn random_lens(rng: &mut Rng, most: usize) -> Vec<usize> {
    let mut room = 200;
    let mut lens = Vec::new();
    for _ in 0..1 + rng.below(most) {
        let len = match rng.below(6) {
            0 => 0,
            1 | 2 => 1 + rng.below(3),
            3 => TILE - 1 + rng.below(3),
            4 => rng.below(24),
            _ => rng.below(150),
        };
        lens.push(len.min(room));
        room -= len.min(room);
    }
    lens
}

fn cumulate(lens: &[usize]) -> Vec<u32> {
    let mut ends = vec![0];
    for len in lens {
        ends.push(ends[ends.len() - 1] + *len as u32);
    }
    ends
}

/// Memory for `rows` rows of `width`, of which only those in `values` have been written.
fn partly(gpu: &Arc<Cuda>, rows: usize, width: usize, values: &[bf16]) -> Buf<bf16> {
    let mut buf = gpu.alloc(rows * width).unwrap();
    gpu.write(&mut buf.view_mut().slice(0..values.len()), values).unwrap();
    buf
}

impl Case {
    /// `peak` scales q: the larger, the more one key takes all.
    fn new(dims: Dims, lens: &[usize], peak: f64, rng: &mut Rng) -> Self {
        let tokens = lens.iter().sum::<usize>();
        let q = rng.values(tokens * dims.q_width(), peak);
        let k = rng.values(tokens * dims.kv_width(), 1.0);
        let v = rng.values(tokens * dims.kv_width(), 1.0);
        Case { dims, cu: cumulate(lens), q, k, v }
    }

    fn tokens(&self) -> usize {
        self.cu[self.cu.len() - 1] as usize
    }

    fn longest(&self) -> usize {
        self.cu.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }

    fn run(&self, gpu: &Arc<Cuda>) -> Got {
        self.run_padded(gpu, 0, 0)
    }

    /// As a plan for more: `documents` empty ones at the end, and `tokens` more rows, which nobody has written
    /// and nobody may read or write.
    fn run_padded(&self, gpu: &Arc<Cuda>, documents: usize, tokens: usize) -> Got {
        let Case { dims, cu, .. } = self;
        let (q, k, v) = (cast::<bf16>(&self.q), cast::<bf16>(&self.k), cast::<bf16>(&self.v));
        let (qw, kw, heads) = (dims.q_width(), dims.kv_width(), dims.heads);
        let (live, rows) = (self.tokens(), self.tokens() + tokens);
        let mut cu = cu.clone();
        cu.extend(vec![live as u32; documents]);
        let count = cu.len() - 1;
        let cu = gpu.upload(&cu).unwrap();
        let (q, k, v) =
            (partly(gpu, rows, qw, &q), partly(gpu, rows, kw, &k), partly(gpu, rows, kw, &v));
        let (mut o, mut lse) = (gpu.alloc(rows * qw).unwrap(), gpu.alloc(rows * heads).unwrap());
        let (mark, mark_f32) = (vec![bf16::ONE; tokens * qw], vec![1f32; tokens * heads]);
        gpu.write(&mut o.view_mut().slice(live * qw..rows * qw), &mark).unwrap();
        gpu.write(&mut lse.view_mut().slice(live * heads..rows * heads), &mark_f32).unwrap();
        let (to, stats) = (&mut o.view_mut(), &mut lse.view_mut());
        let (qv, kv, vv) = (q.view(), k.view(), v.view());
        cuda::forward(gpu, dims, cu.view(), count, rows, qv, kv, vv, to, stats).unwrap();
        let (mut o, mut lse) = (gpu.download(o.view()).unwrap(), gpu.download(lse.view()).unwrap());
        assert_same_bits("o behind the documents", &o.split_off(live * qw), &mark);
        assert_same_bits("lse behind the documents", &lse.split_off(live * heads), &mark_f32);
        Got { o, lse }
    }

    /// Where the tolerances come from. With S = scale·max Σ|q||k|, a score is off by at most S·(chain(head_dim) + 6)
    /// units: its sum, scale·log2(e) and its product (3), the difference with the maximum (2, being of size 2S), and
    /// the differences between successive maxima. P is off by that factor twice, for the score and for the sum it
    /// is divided by. exp2 may be off by 4 units, once for P and once for each rescaling, of which each key tile has
    /// one; a rescaling also multiplies; the rest divides. The magnitude of a sum takes all its terms positive. P is
    /// rounded to bf16 where it meets v, o where it is stored.
    fn compare(&self, got: &Got) {
        let Case { dims, cu, q, k, v } = self;
        let d = dims.head_dim;
        let (o, lse) = reference::forward(dims, cu, q, k, v);
        let abs_v: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let (bounds, _) = reference::forward(dims, cu, q, k, &abs_v);
        let (score, longest) = (self.score_bound(), self.longest());
        let chain = (d as f64).min(6.0 * (d as f64).sqrt());
        let steps = score.ceil() * (chain + 6.0);
        let tiles = longest.div_ceil(TILE);
        let p = 2 * steps as usize + 16 + 5 * tiles;

        // lse also has its maximum back from base 2 (2), a logarithm (2) and their sum.
        let tol = Tol::new(DType::F32).steps(16 + 5 * tiles).sum_len(d + longest).cols(dims.heads);
        let magnitude = score + (longest.max(2) as f64).ln() + 1.0;
        assert_close("attention_forward lse", &got.lse, &lse, tol.magnitude(magnitude));
        let tol = Tol::new(DType::Bf16).rounds(1).round_result().steps(p).sum_len(2 * longest);
        assert_close("attention_forward o", &got.o, &o, tol.magnitudes(&bounds).cols(d));
    }

    /// The largest scale·Σ|q||k|.
    fn score_bound(&self) -> f64 {
        let Case { dims, cu, q, k, .. } = self;
        let d = dims.head_dim;
        let mut most = 0f64;
        reference::for_each_query(dims, cu, |row, keys| {
            for key in keys {
                let sum = abs_dot(&q[row * d..(row + 1) * d], &k[key * d..(key + 1) * d]);
                most = most.max(f64::from(dims.scale.abs()) * sum);
            }
        });
        most
    }

    fn check(&self, gpu: &Arc<Cuda>, bits: &mut Bits) {
        let got = self.run(gpu);
        self.compare(&got);
        bits.add(&got.o);
        bits.add(&got.lse);
    }
}

#[test]
fn forward_equals_the_reference() {
    gpu::run("cuda::attention::forward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(1);
        for _ in 0..gpu::shapes() {
            let (dims, lens) = (random_dims(&mut rng), random_lens(&mut rng, 5));
            let peak = [0.25, 1.0, 4.0][rng.below(3)];
            Case::new(dims, &lens, peak, &mut rng).check(gpu, bits);
        }
    });
}

#[test]
fn a_document_knows_neither_its_neighbours_nor_the_plan() {
    gpu::run("cuda::attention::a_document_knows_neither_its_neighbours_nor_the_plan", |gpu, _| {
        let mut rng = Rng::new(2);
        for _ in 0..gpu::shapes() / 2 {
            let (dims, lens) = (random_dims(&mut rng), random_lens(&mut rng, 4));
            let packed = Case::new(dims, &lens, 1.0, &mut rng);
            let all = packed.run_padded(gpu, rng.below(4), rng.below(70));
            for pair in packed.cu.windows(2) {
                let (begin, end) = (pair[0] as usize, pair[1] as usize);
                let cut = |x: &[f64], width: usize| x[begin * width..end * width].to_vec();
                let (qw, kw) = (dims.q_width(), dims.kv_width());
                let (q, k, v) = (cut(&packed.q, qw), cut(&packed.k, kw), cut(&packed.v, kw));
                let alone = Case { dims, cu: vec![0, pair[1] - pair[0]], q, k, v }.run(gpu);
                assert_same_bits("o", &alone.o, &all.o[begin * qw..end * qw]);
                let heads = dims.heads;
                assert_same_bits("lse", &alone.lse, &all.lse[begin * heads..end * heads]);
            }
        }
    });
}

#[test]
fn extreme_scores_stay_finite() {
    gpu::run("cuda::attention::extreme_scores_stay_finite", |gpu, bits| {
        let mut rng = Rng::new(3);
        for peak in [296.0, 2992.0] {
            let mut case = Case::new(dims(1, 2, 64), &[90, 2], peak, &mut rng);
            // The largest score of all comes first for some queries, last for others.
            case.q[..6].fill(peak);
            case.check(gpu, bits);
        }
        // Every score about +-1e4, in one direction: all keys tie, and lse is far from 0.
        for sign in [1.0, -1.0] {
            let mut case = Case::new(dims(1, 1, 64), &[70], 1.0, &mut rng);
            case.q.fill(32.0);
            case.k.fill(sign * 40.0);
            case.check(gpu, bits);
        }
        // A negative factor turns the order of the scores round.
        let mut dims = dims(2, 2, 128);
        dims.scale = -0.125;
        Case::new(dims, &[67], 1.0, &mut rng).check(gpu, bits);
    });
}

#[test]
fn a_nan_stays_in_its_document() {
    gpu::run("cuda::attention::a_nan_stays_in_its_document", |gpu, _| {
        let mut case = Case::new(dims(1, 2, 64), &[5, 70, 3], 1.0, &mut Rng::new(4));
        let want = case.run(gpu);
        case.k[5 * 64] = f64::NAN;
        case.v[74 * 64] = f64::INFINITY;
        let (k, v) = (&case.k, &case.v);
        let narrow = |x: &[f64]| x.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>();
        let (k, v) = (gpu.upload(&narrow(k)).unwrap(), gpu.upload(&narrow(v)).unwrap());
        let (q, cu) = (gpu.upload(&narrow(&case.q)).unwrap(), gpu.upload(&case.cu).unwrap());
        let (mut o, mut lse) = (gpu.alloc(78 * 128).unwrap(), gpu.alloc(78 * 2).unwrap());
        let (to, stats) = (&mut o.view_mut(), &mut lse.view_mut());
        let (q, k, v) = (q.view(), k.view(), v.view());
        cuda::forward(gpu, &case.dims, cu.view(), 3, 78, q, k, v, to, stats).unwrap();
        let o = gpu.download(o.view()).unwrap();
        assert_same_bits("before", &o[..5 * 128], &want.o[..5 * 128]);
        assert_same_bits("after", &o[75 * 128..], &want.o[75 * 128..]);
        assert!(o[5 * 128..75 * 128].iter().all(|o| o.is_nan()), "a NaN key leaves a clean query");
    });
}
