//! The kernels of attention's backward against the f64 reference.

mod window;

use std::sync::Arc;

use dayrun::device::cuda::{Buf, Cuda};
use dayrun::ops::attention::{Dims, cuda, reference};
use half::bf16;

use crate::common::attention::{Saved, TILE, assert_gradients};
use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, abs_dot, assert_close, assert_same_bits, cast, dot};

/// Inputs exact in bf16, in f64.
struct Case {
    dims: Dims,
    cu: Vec<u32>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    d_o: Vec<f64>,
}

/// What backward wrote.
struct Got {
    delta: Vec<f32>,
    dq: Vec<bf16>,
    dk: Vec<bf16>,
    dv: Vec<bf16>,
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

/// Memory for `len` elements, of which only `values` at the start have been written.
fn partly<T: bytemuck::Pod>(gpu: &Arc<Cuda>, len: usize, values: &[T]) -> Buf<T> {
    let mut buf = gpu.alloc(len).unwrap();
    gpu.write(&mut buf.view_mut().slice(0..values.len()), values).unwrap();
    buf
}

/// Memory for `len` elements, of which only those from `live` on have been written, with `mark`.
fn marked<T: bytemuck::Pod>(gpu: &Arc<Cuda>, len: usize, live: usize, mark: T) -> Buf<T> {
    let mut buf = gpu.alloc(len).unwrap();
    gpu.write(&mut buf.view_mut().slice(live..len), &vec![mark; len - live]).unwrap();
    buf
}

/// The elements before `live`, when those behind still are what [`marked`] has written.
fn unmarked<T: bytemuck::Pod + PartialEq>(
    gpu: &Arc<Cuda>,
    buf: &Buf<T>,
    live: usize,
    mark: T,
) -> Vec<T> {
    let mut values = gpu.download(buf.view()).unwrap();
    assert!(values.split_off(live).iter().all(|&x| x == mark), "written behind the documents");
    values
}

impl Case {
    /// `peak` scales q: the larger, the more one key takes all.
    fn new(dims: Dims, lens: &[usize], peak: f64, rng: &mut Rng) -> Self {
        let tokens = lens.iter().sum::<usize>();
        let q = rng.values(tokens * dims.q_width(), peak);
        let k = rng.values(tokens * dims.kv_width(), 1.0);
        let v = rng.values(tokens * dims.kv_width(), 1.0);
        let d_o = rng.values(tokens * dims.q_width(), 1.0);
        Case { dims, cu: cumulate(lens), q, k, v, d_o }
    }

    fn tokens(&self) -> usize {
        self.cu[self.cu.len() - 1] as usize
    }

    /// (o, lse) of the reference, rounded to what forward stores.
    fn saved(&self) -> (Vec<bf16>, Vec<f32>) {
        let Case { dims, cu, q, k, v, .. } = self;
        let (o, lse) = reference::forward(dims, cu, q, k, v);
        let o = o.iter().map(|&o| bf16::from_f64(o)).collect();
        (o, lse.iter().map(|&lse| lse as f32).collect())
    }

    fn run(&self, gpu: &Arc<Cuda>) -> Got {
        self.run_padded(gpu, 0, 0)
    }

    /// As a plan for more: `documents` empty ones at the end, and `tokens` more rows, which nobody has written
    /// and nobody may read or write.
    fn run_padded(&self, gpu: &Arc<Cuda>, documents: usize, tokens: usize) -> Got {
        let (o, lse) = self.saved();
        self.run_with(gpu, documents, tokens, &o, &lse)
    }

    fn run_with(
        &self,
        gpu: &Arc<Cuda>,
        documents: usize,
        tokens: usize,
        o: &[bf16],
        lse: &[f32],
    ) -> Got {
        let Case { dims, cu, q, k, v, d_o } = self;
        let (live, rows) = (self.tokens(), self.tokens() + tokens);
        let (qw, kw, heads) = (dims.q_width(), dims.kv_width(), dims.heads);
        let mut cu = cu.clone();
        cu.extend(vec![live as u32; documents]);
        let count = cu.len() - 1;
        let cu = gpu.upload(&cu).unwrap();
        let up = |x: &[f64], width: usize| {
            let x: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
            partly(gpu, rows * width, &x)
        };
        let (q, k, v, d_o) = (up(q, qw), up(k, kw), up(v, kw), up(d_o, qw));
        let (o, lse) = (partly(gpu, rows * qw, o), partly(gpu, rows * heads, lse));
        let mut delta = marked(gpu, rows * heads, live * heads, 1f32);
        let out = |width: usize| marked(gpu, rows * width, live * width, bf16::ONE);
        let (mut dq, mut dk, mut dv) = (out(qw), out(kw), out(kw));
        cuda::backward(
            gpu,
            dims,
            cu.view(),
            count,
            rows,
            q.view(),
            k.view(),
            v.view(),
            o.view(),
            lse.view(),
            d_o.view(),
            &mut delta.view_mut(),
            &mut dq.view_mut(),
            &mut dk.view_mut(),
            &mut dv.view_mut(),
        )
        .unwrap();
        Got {
            delta: unmarked(gpu, &delta, live * heads, 1f32),
            dq: unmarked(gpu, &dq, live * qw, bf16::ONE),
            dk: unmarked(gpu, &dk, live * kw, bf16::ONE),
            dv: unmarked(gpu, &dv, live * kw, bf16::ONE),
        }
    }

    fn compare(&self, got: &Got, o: &[bf16], saved: Saved) {
        let Case { dims, cu, q, k, v, d_o } = self;
        assert_gradients(dims, cu, [q, k, v, d_o], saved, [&got.dq, &got.dk, &got.dv]);
        let (o, d): (Vec<f64>, usize) = (o.iter().map(|&o| o.into()).collect(), dims.head_dim);
        let heads = || o.chunks_exact(d).zip(d_o.chunks_exact(d));
        let want: Vec<f64> = heads().map(|(o, d_o)| dot(o, d_o)).collect();
        let sizes: Vec<f64> = heads().map(|(o, d_o)| abs_dot(o, d_o)).collect();
        let tol = Tol::new(DType::F32).sum_len(d).magnitudes(&sizes).cols(dims.heads);
        assert_close("attention_backward delta", &got.delta, &want, tol);
    }

    /// (o, lse) of forward's kernel.
    fn forward(&self, gpu: &Arc<Cuda>) -> (Vec<bf16>, Vec<f32>) {
        let Case { dims, cu, q, k, v, .. } = self;
        let up = |x: &[f64]| gpu.upload(&cast::<bf16>(x)).unwrap();
        let (tokens, documents) = (self.tokens(), cu.len() - 1);
        let (q, k, v, cu) = (up(q), up(k), up(v), gpu.upload(cu).unwrap());
        let mut o = gpu.alloc(q.len()).unwrap();
        let mut lse = gpu.alloc(tokens * dims.heads).unwrap();
        let (to, stats) = (&mut o.view_mut(), &mut lse.view_mut());
        let (q, k, v) = (q.view(), k.view(), v.view());
        cuda::forward(gpu, dims, cu.view(), documents, tokens, q, k, v, to, stats).unwrap();
        (gpu.download(o.view()).unwrap(), gpu.download(lse.view()).unwrap())
    }

    fn check(&self, gpu: &Arc<Cuda>, saved: Saved, bits: &mut Bits) {
        let (o, lse) = match saved {
            Saved::Reference => self.saved(),
            Saved::Forward => self.forward(gpu),
        };
        let got = self.run_with(gpu, 0, 0, &o, &lse);
        self.compare(&got, &o, saved);
        bits.add(&got.delta);
        bits.add(&got.dq);
        bits.add(&got.dk);
        bits.add(&got.dv);
    }
}

#[test]
fn backward_equals_the_reference() {
    gpu::run("cuda::attention_backward::backward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(1);
        for shape in 0..gpu::shapes() {
            let (dims, lens) = (random_dims(&mut rng), random_lens(&mut rng, 5));
            let peak = [0.25, 1.0, 4.0][rng.below(3)];
            let saved = [Saved::Reference, Saved::Forward][shape % 2];
            Case::new(dims, &lens, peak, &mut rng).check(gpu, saved, bits);
        }
    });
}

#[test]
fn a_document_knows_neither_its_neighbours_nor_the_plan() {
    let name = "cuda::attention_backward::a_document_knows_neither_its_neighbours_nor_the_plan";
    gpu::run(name, |gpu, _| {
        let mut rng = Rng::new(2);
        for _ in 0..gpu::shapes() / 2 {
            let (dims, lens) = (random_dims(&mut rng), random_lens(&mut rng, 4));
            let packed = Case::new(dims, &lens, 1.0, &mut rng);
            let all = packed.run_padded(gpu, rng.below(4), rng.below(70));
            let (qw, kw, heads) = (dims.q_width(), dims.kv_width(), dims.heads);
            for pair in packed.cu.windows(2) {
                let (begin, end) = (pair[0] as usize, pair[1] as usize);
                let cut = |x: &[f64], width: usize| x[begin * width..end * width].to_vec();
                let (q, d_o) = (cut(&packed.q, qw), cut(&packed.d_o, qw));
                let (k, v) = (cut(&packed.k, kw), cut(&packed.v, kw));
                let cu = vec![0, pair[1] - pair[0]];
                let alone = Case { dims, cu, q, k, v, d_o }.run(gpu);
                assert_same_bits("delta", &alone.delta, &all.delta[begin * heads..end * heads]);
                assert_same_bits("dq", &alone.dq, &all.dq[begin * qw..end * qw]);
                assert_same_bits("dk", &alone.dk, &all.dk[begin * kw..end * kw]);
                assert_same_bits("dv", &alone.dv, &all.dv[begin * kw..end * kw]);
            }
        }
    });
}

#[test]
fn extreme_scores_stay_finite() {
    gpu::run("cuda::attention_backward::extreme_scores_stay_finite", |gpu, bits| {
        let mut rng = Rng::new(3);
        for peak in [296.0, 2992.0] {
            let mut case = Case::new(dims(1, 2, 64), &[90, 2], peak, &mut rng);
            // The largest score of all comes first for some queries, last for others.
            case.q[..6].fill(peak);
            case.check(gpu, Saved::Reference, bits);
        }
        // Every score about +-1e4, in one direction: all keys tie, and lse is far from 0.
        for sign in [1.0, -1.0] {
            let mut case = Case::new(dims(1, 1, 64), &[70], 1.0, &mut rng);
            case.q.fill(32.0);
            case.k.fill(sign * 40.0);
            case.check(gpu, Saved::Reference, bits);
        }
        // A negative factor turns the order of the scores round.
        let mut dims = dims(2, 2, 128);
        dims.scale = -0.125;
        Case::new(dims, &[67], 1.0, &mut rng).check(gpu, Saved::Reference, bits);
    });
}

#[test]
fn a_nan_stays_in_its_document() {
    gpu::run("cuda::attention_backward::a_nan_stays_in_its_document", |gpu, _| {
        let mut case = Case::new(dims(1, 2, 64), &[5, 70, 3], 1.0, &mut Rng::new(4));
        let (o, lse) = case.saved();
        let want = case.run_with(gpu, 0, 0, &o, &lse);
        case.k[5 * 64] = f64::NAN;
        case.d_o[74 * 128] = f64::INFINITY;
        let got = case.run_with(gpu, 0, 0, &o, &lse);
        let parts = [(&got.dq, &want.dq, 128), (&got.dk, &want.dk, 64), (&got.dv, &want.dv, 64)];
        for (got, want, width) in parts {
            assert_same_bits("before", &got[..5 * width], &want[..5 * width]);
            assert_same_bits("after", &got[75 * width..], &want[75 * width..]);
        }
        assert!(got.dq[5 * 128..75 * 128].iter().all(|x| x.is_nan()), "a NaN key, a clean query");
    });
}

#[test]
fn no_tokens_are_nothing_and_wrong_arguments_are_errors() {
    let name = "cuda::attention_backward::no_tokens_are_nothing_and_wrong_arguments_are_errors";
    gpu::run(name, |gpu, _| {
        let good = dims(1, 2, 64);
        let cu = gpu.upload(&[0u32, 3, 3]).unwrap();
        let zeros = gpu.upload(&[bf16::ZERO; 3 * 128]).unwrap();
        let stats = gpu.upload(&[0f32; 6]).unwrap();
        let (mut delta, mut dq) = (gpu.alloc(6).unwrap(), gpu.alloc::<bf16>(384).unwrap());
        let (mut dk, mut dv) = (gpu.alloc::<bf16>(192).unwrap(), gpu.alloc::<bf16>(192).unwrap());
        // lens of q, k, v, o, lse, d_o, delta, dq, dk, dv.
        let mut run = |dims: &Dims, documents: usize, tokens: usize, lens: [usize; 10]| {
            let view = |n: usize| zeros.view().slice(0..lens[n]);
            cuda::backward(
                gpu,
                dims,
                cu.view(),
                documents,
                tokens,
                view(0),
                view(1),
                view(2),
                view(3),
                stats.view().slice(0..lens[4]),
                view(5),
                &mut delta.view_mut().slice(0..lens[6]),
                &mut dq.view_mut().slice(0..lens[7]),
                &mut dk.view_mut().slice(0..lens[8]),
                &mut dv.view_mut().slice(0..lens[9]),
            )
            .map_err(|error| error.to_string())
        };
        let lens = [384, 192, 192, 384, 6, 384, 6, 384, 192, 192];
        assert_eq!(run(&good, 2, 3, lens), Ok(()));
        assert_eq!(run(&good, 0, 3, lens), Ok(()));
        assert_eq!(run(&good, 2, 0, [0; 10]), Ok(()));
        let names = ["q", "k", "v", "o", "lse", "d_o", "delta", "dq", "dk", "dv"];
        for (n, name) in names.into_iter().enumerate() {
            let mut short = lens;
            short[n] -= 1;
            let (got, want) = (short[n], lens[n]);
            let message = format!("attention: len of {name} is {got}, expected {want}");
            assert_eq!(run(&good, 2, 3, short), Err(message));
        }
        let error = |message: &str| Err(format!("attention: {message}"));
        let message = error("len of cu_seqlens is 3, expected 4 or more");
        assert_eq!(run(&good, 3, 3, lens), message);
        let narrow = Dims { head_dim: 32, ..good };
        assert_eq!(run(&narrow, 2, 3, lens), error("head_dim is 32, expected 64 or 128"));
        let uneven = Dims { heads: 3, kv_heads: 2, ..good };
        assert_eq!(run(&uneven, 2, 3, lens), error("heads is 3, expected a multiple of 2"));
    });
}
