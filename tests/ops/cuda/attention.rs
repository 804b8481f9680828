//! The kernels of attention's forward and cache against the f64 reference, and against each other.

mod window;

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
    Dims { heads: kv_heads * group, kv_heads, head_dim, scale, window: None }
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

/// Keys and values on the device, and how many each row has.
struct Cache {
    k: Buf<bf16>,
    v: Buf<bf16>,
    capacity: usize,
    lens: Vec<usize>,
}

impl Cache {
    fn new(gpu: &Arc<Cuda>, dims: &Dims, rows: usize, capacity: usize) -> Self {
        let alloc = || gpu.alloc(rows * capacity * dims.kv_width()).unwrap();
        Cache { k: alloc(), v: alloc(), capacity, lens: vec![0; rows] }
    }

    /// Appends `new[b]` tokens to row b and attends; `spare` rows of q, k and v are there for nothing.
    fn attend(
        &mut self,
        gpu: &Arc<Cuda>,
        dims: &Dims,
        new: &[usize],
        (q, k, v): (&[bf16], &[bf16], &[bf16]),
        spare: usize,
    ) -> Vec<bf16> {
        let (qw, kw) = (dims.q_width(), dims.kv_width());
        let (live, rows) = (new.iter().sum::<usize>(), self.lens.len());
        let tokens = live + spare;
        let up = |values: Vec<u32>| gpu.upload(&values).unwrap();
        let (cu, before) = (up(cumulate(new)), up(self.lens.iter().map(|&n| n as u32).collect()));
        self.lens.iter_mut().zip(new).for_each(|(len, n)| *len += n);
        let total = up(self.lens.iter().map(|&n| n as u32).collect());
        let (q, k, v) =
            (partly(gpu, tokens, qw, q), partly(gpu, tokens, kw, k), partly(gpu, tokens, kw, v));
        let mut o = gpu.alloc::<bf16>(tokens * qw).unwrap();
        let mark = vec![bf16::ONE; spare * qw];
        gpu.write(&mut o.view_mut().slice(live * qw..tokens * qw), &mark).unwrap();
        let (kc, vc) = (&mut self.k.view_mut(), &mut self.v.view_mut());
        let (before, kn, vn) = (before.view(), k.view(), v.view());
        let (cu, capacity) = (cu.view(), self.capacity);
        cuda::append(gpu, dims, cu, rows, tokens, before, capacity, kn, vn, kc, vc).unwrap();
        let (kc, vc, total) = (self.k.view(), self.v.view(), total.view());
        let (q, to) = (q.view(), &mut o.view_mut());
        cuda::decode(gpu, dims, cu, rows, tokens, total, capacity, q, kc, vc, to).unwrap();
        let mut o = gpu.download(o.view()).unwrap();
        assert_same_bits("o behind the new tokens", &o.split_off(live * qw), &mark);
        o
    }
}

/// Fills a cache in uneven pieces, then token by token, rows ending at different times. Nothing of the cache is
/// written before, so a key beyond a row's own would be noticed.
#[test]
fn the_cache_gives_what_whole_documents_give() {
    gpu::run("cuda::attention::the_cache_gives_what_whole_documents_give", |gpu, bits| {
        let mut rng = Rng::new(6);
        for shape in 0..gpu::shapes() {
            let of = if shape % 2 == 0 { random_dims } else { window::random };
            let (dims, lens) = (of(&mut rng), random_lens(&mut rng, 4));
            let case = Case::new(dims, &lens, 1.0, &mut rng);
            let (q, k, v) = (cast::<bf16>(&case.q), cast::<bf16>(&case.k), cast::<bf16>(&case.v));
            let (qw, kw) = (dims.q_width(), dims.kv_width());
            let want = case.run(gpu);
            case.compare(&want);
            let mut got = vec![bf16::NAN; q.len()];
            let capacity = case.longest() + rng.below(4);
            let mut cache = Cache::new(gpu, &dims, lens.len(), capacity);
            for step in 0.. {
                let done = cache.lens.clone();
                let rest = |b: usize| lens[b] - done[b];
                let new: Vec<usize> = match step {
                    0 | 1 => (0..lens.len()).map(|b| rng.below(rest(b) + 1)).collect(),
                    2 => (0..lens.len()).map(|b| rest(b).saturating_sub(3)).collect(),
                    _ => (0..lens.len()).map(|b| rest(b).min(1)).collect(),
                };
                if step > 2 && new.iter().all(|&n| n == 0) {
                    break;
                }
                let cut = |x: &[bf16], width: usize| -> Vec<bf16> {
                    let at = |b: usize| (case.cu[b] as usize + done[b]) * width;
                    (0..lens.len()).flat_map(|b| x[at(b)..][..new[b] * width].to_vec()).collect()
                };
                let (q, k, v) = (cut(&q, qw), cut(&k, kw), cut(&v, kw));
                let o = cache.attend(gpu, &dims, &new, (&q, &k, &v), rng.below(3));
                let mut o = &o[..];
                for (b, n) in new.iter().enumerate() {
                    let (row, others) = o.split_at(n * qw);
                    got[(case.cu[b] as usize + done[b]) * qw..][..n * qw].copy_from_slice(row);
                    o = others;
                }
            }
            assert_same_bits("attention_decode o", &got, &want.o);
            bits.add(&got);
        }
    });
}

#[test]
fn append_writes_behind_what_is_there_and_nothing_else() {
    gpu::run("cuda::attention::append_writes_behind_what_is_there_and_nothing_else", |gpu, _| {
        let dims = dims(3, 1, 64);
        let (width, capacity) = (dims.kv_width(), 5);
        // Row 2 has no room for its second token.
        let (lens, new) = ([0u32, 3, 4, 5], [2usize, 0, 2, 0]);
        let mut rng = Rng::new(7);
        let mut values = |n: usize| cast::<bf16>(&rng.values(n * width, 1.0));
        let old = [(); 2].map(|_| values(4 * capacity));
        let fresh = [(); 2].map(|_| values(4));
        let mut caches = old.clone().map(|c| gpu.upload(&c).unwrap());
        let given = fresh.clone().map(|f| gpu.upload(&f).unwrap());
        let (cu, before) = (gpu.upload(&cumulate(&new)).unwrap(), gpu.upload(&lens).unwrap());
        let [kc, vc] = &mut caches;
        let (k, v, to_k, to_v) =
            (given[0].view(), given[1].view(), &mut kc.view_mut(), &mut vc.view_mut());
        let (cu, before) = (cu.view(), before.view());
        cuda::append(gpu, &dims, cu, 4, 4, before, capacity, k, v, to_k, to_v).unwrap();
        for ((mut want, fresh), got) in old.into_iter().zip(fresh).zip(&caches) {
            want[..2 * width].copy_from_slice(&fresh[..2 * width]);
            want[14 * width..15 * width].copy_from_slice(&fresh[2 * width..3 * width]);
            assert_same_bits("attention_append", &gpu.download(got.view()).unwrap(), &want);
        }
    });
}

#[test]
fn totals_that_fit_no_cache_give_nan() {
    gpu::run("cuda::attention::totals_that_fit_no_cache_give_nan", |gpu, _| {
        let dims = dims(1, 2, 64);
        let one = |n: usize| gpu.upload(&vec![bf16::ONE; n]).unwrap();
        let (q, cache) = (one(6 * 128), one(3 * 4 * 64));
        let mut o = one(6 * 128);
        // Two new tokens each; a cache holds 4.
        let (cu, total) =
            (gpu.upload(&[0u32, 2, 4, 6]).unwrap(), gpu.upload(&[1u32, 3, 5]).unwrap());
        let (cu, total, q, cache) = (cu.view(), total.view(), q.view(), cache.view());
        cuda::decode(gpu, &dims, cu, 3, 6, total, 4, q, cache, cache, &mut o.view_mut()).unwrap();
        let o = gpu.download(o.view()).unwrap();
        assert!(o[..2 * 128].iter().all(|o| o.is_nan()), "too few keys");
        assert!(o[2 * 128..4 * 128].iter().all(|o| *o == bf16::ONE), "enough keys");
        assert!(o[4 * 128..].iter().all(|o| o.is_nan()), "more keys than the cache has");
    });
}

/// The second document ends behind the tokens there are, the third before it begins: every buffer is an
/// allocation of its own, so a row that is not there would be noticed.
#[test]
fn documents_that_make_no_sense_reach_no_other_memory() {
    gpu::run("cuda::attention::documents_that_make_no_sense_reach_no_other_memory", |gpu, _| {
        let mut case = Case::new(dims(1, 2, 64), &[40, 30], 1.0, &mut Rng::new(8));
        let want = case.run(gpu);
        let up = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
        let (q, k, v) = (up(&case.q), up(&case.k), up(&case.v));
        case.cu = vec![0, 40, 3_000_000_000, 7];
        let cu = gpu.upload(&case.cu).unwrap();
        let (mut o, mut lse) = (gpu.alloc(70 * 128).unwrap(), gpu.alloc(70 * 2).unwrap());
        let (to, stats) = (&mut o.view_mut(), &mut lse.view_mut());
        let (q, k, v) = (q.view(), k.view(), v.view());
        cuda::forward(gpu, &case.dims, cu.view(), 3, 70, q, k, v, to, stats).unwrap();
        assert_same_bits("o", &gpu.download(o.view()).unwrap(), &want.o);
    });
}

#[test]
fn no_tokens_are_nothing_and_what_does_not_fit_is_an_error() {
    gpu::run(
        "cuda::attention::no_tokens_are_nothing_and_what_does_not_fit_is_an_error",
        |gpu, _| {
            let good = dims(1, 2, 64);
            let (buf, cu) =
                (gpu.upload(&[bf16::ONE; 512]).unwrap(), gpu.upload(&[0u32, 2]).unwrap());
            let (mut o, mut lse) = (gpu.alloc::<bf16>(512).unwrap(), gpu.alloc::<f32>(8).unwrap());
            // Elements of q, k, v, o and lse for two tokens.
            let lens = [256, 128, 128, 256, 4];
            let mut forward = |dims: Dims, documents: usize, tokens: usize, lens: [usize; 5]| {
                let view = |n: usize| buf.view().slice(0..n);
                let (q, k, v) = (view(lens[0]), view(lens[1]), view(lens[2]));
                let (o, lse) =
                    (&mut o.view_mut().slice(0..lens[3]), &mut lse.view_mut().slice(0..lens[4]));
                cuda::forward(gpu, &dims, cu.view(), documents, tokens, q, k, v, o, lse)
                    .map_err(|error| error.to_string())
            };
            let error = |message: &str| Err(format!("attention: {message}"));
            assert_eq!(forward(good, 1, 2, lens), Ok(()));
            assert_eq!(forward(good, 1, 0, [0; 5]), Ok(()));
            assert_eq!(forward(good, 0, 2, lens), Ok(()));
            assert_eq!(
                forward(good, 2, 2, lens),
                error("len of cu_seqlens is 2, expected 3 or more")
            );
            for (i, what) in ["q", "k", "v", "o", "lse"].into_iter().enumerate() {
                let mut short = lens;
                short[i] -= 1;
                let message = format!("len of {what} is {}, expected {}", short[i], lens[i]);
                assert_eq!(forward(good, 1, 2, short), error(&message));
            }
            let odd = Dims { head_dim: 96, ..good };
            assert_eq!(forward(odd, 1, 2, lens), error("head_dim is 96, expected 64 or 128"));
            let blind = Dims { window: Some(0), ..good };
            assert_eq!(forward(blind, 1, 2, lens), error("window is 0, expected 1 or more"));
            let odd = Dims { heads: 3, kv_heads: 2, ..good };
            assert_eq!(forward(odd, 1, 2, lens), error("heads is 3, expected a multiple of 2"));
            let message = format!(
                "tokens * heads / kv_heads + documents is {}, expected less than 2147483647",
                (2usize << 31) + 1
            );
            assert_eq!(forward(good, 1, 1 << 31, lens), error(&message));

            // One row of capacity 3, two new tokens.
            let mut cache = [(); 2].map(|_| gpu.alloc::<bf16>(192).unwrap());
            let [k_cache, v_cache] = &mut cache;
            let mut append = |counts: usize, capacity: usize, [k, v]: [usize; 2]| {
                let view = |n: usize| buf.view().slice(0..n);
                let (k, v, before) = (view(k), view(v), cu.view().slice(0..counts));
                let (kc, vc) = (&mut k_cache.view_mut(), &mut v_cache.view_mut());
                cuda::append(gpu, &good, cu.view(), 1, 2, before, capacity, k, v, kc, vc)
                    .map_err(|error| error.to_string())
            };
            assert_eq!(append(1, 3, [128, 128]), Ok(()));
            assert_eq!(append(2, 3, [128, 128]), error("len of cache_len is 2, expected 1"));
            assert_eq!(append(1, 3, [64, 128]), error("len of k_new is 64, expected 128"));
            assert_eq!(append(1, 3, [128, 64]), error("len of v_new is 64, expected 128"));
            assert_eq!(append(1, 4, [128, 128]), error("len of k_cache is 192, expected 256"));
            let [k_cache, v_cache] = &cache;
            let mut decode = |counts: usize, q: usize, [kc, vc]: [usize; 2], len: usize| {
                let total = cu.view().slice(2 - counts..2);
                let (q, o) = (buf.view().slice(0..q), &mut o.view_mut().slice(0..len));
                let (kc, vc) = (k_cache.view().slice(0..kc), v_cache.view().slice(0..vc));
                cuda::decode(gpu, &good, cu.view(), 1, 2, total, 3, q, kc, vc, o)
                    .map_err(|error| error.to_string())
            };
            assert_eq!(decode(1, 256, [192, 192], 256), Ok(()));
            assert_eq!(decode(2, 256, [192, 192], 256), error("len of total_len is 2, expected 1"));
            assert_eq!(decode(1, 128, [192, 192], 256), error("len of q is 128, expected 256"));
            assert_eq!(
                decode(1, 256, [191, 192], 256),
                error("len of k_cache is 191, expected 192")
            );
            assert_eq!(
                decode(1, 256, [192, 191], 256),
                error("len of v_cache is 191, expected 192")
            );
            assert_eq!(decode(1, 256, [192, 192], 128), error("len of o is 128, expected 256"));
        },
    );
}
