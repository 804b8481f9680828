//! A Llama decoder in plain f64, one document at a time, with every family's differences. It shares no code
//! with the library.

use dayrun::adapter::Adapter;
use dayrun::device::cpu::Element;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::model::rope_scaling::RopeScaling;
use dayrun::model::weights::{self, Dense, Weights};

struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// x·Wᵀ for one row x.
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.cols);
        self.data.chunks(self.cols).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    fn dense(d: &Dense) -> Self {
        let data = d.as_slice().iter().map(|x| f64::from(x.to_f32())).collect();
        Matrix { rows: d.rows, cols: d.cols, data }
    }

    /// The values that the linear multiplies with: rounded once to `E`.
    fn linear<E: Element>(w: &weights::Matrix) -> Self {
        let (rows, cols) = w.shape();
        let value = |i| match w {
            weights::Matrix::Nf4(w) => w.value(i),
            weights::Matrix::Bf16(w) => w.as_slice()[i].to_f32(),
            weights::Matrix::F32(w) => w.as_slice()[i],
        };
        let rounded = |i| f64::from(E::from_f32(value(i)).to_f32());
        Matrix { rows, cols, data: (0..rows * cols).map(rounded).collect() }
    }
}

struct Layer {
    input_norm: Vec<f64>,
    post_norm: Vec<f64>,
    /// Of q's and of k's heads.
    qk_norm: Option<[Vec<f64>; 2]>,
    linears: Vec<Matrix>,
    biases: Vec<Option<Vec<f64>>>,
    rope: bool,
    window: Option<usize>,
}

/// The base in f64, and what the adapter is scaled by.
pub struct Model {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
    /// Radians a token, for each pair of channels.
    velocities: Vec<f64>,
    embed: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f64>,
    head: Matrix,
}

/// Losses and logits of one document.
pub struct Output {
    /// `[T, vocab]`
    pub logits: Vec<f64>,
    pub vocab: usize,
}

impl Output {
    /// −log p(target) at a position.
    pub fn loss(&self, position: usize, target: u32) -> f64 {
        let row = &self.logits[position * self.vocab..(position + 1) * self.vocab];
        let max = row.iter().fold(f64::MIN, |a, &b| a.max(b));
        max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - row[target as usize]
    }
}

impl Model {
    /// The model that runs in `E`, without its roundings of activations.
    pub fn new<E: Element>(weights: &Weights) -> Self {
        let c = &weights.config;
        let vector = |d: &Dense| Matrix::dense(d).data;
        let layers = weights.layers.iter().enumerate().map(|(i, layer)| Layer {
            input_norm: Matrix::dense(&layer.input_layernorm).data,
            post_norm: Matrix::dense(&layer.post_attention_layernorm).data,
            qk_norm: layer.qk_norm.as_ref().map(|norms| norms.each_ref().map(vector)),
            linears: layer.linears.iter().map(Matrix::linear::<E>).collect(),
            biases: layer.biases.iter().map(|bias| bias.as_ref().map(vector)).collect(),
            rope: c.differences.layers.get(i).is_none_or(|kind| kind.rope),
            window: c.differences.layers.get(i).and_then(|kind| kind.sliding_window),
        });
        Model {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            eps: c.rms_norm_eps,
            velocities: velocities(c.head_dim, c.rope_theta, &c.differences.rope_scaling),
            embed: Matrix::dense(&weights.embed_tokens),
            layers: layers.collect(),
            norm: Matrix::dense(&weights.norm).data,
            head: Matrix::dense(weights.lm_head.as_ref().unwrap_or(&weights.embed_tokens)),
        }
    }

    /// One document's logits. `params` stand in for the adapter's own parameters.
    pub fn forward(&self, tokens: &[u32], adapter: Option<(&Adapter, &[f64])>) -> Output {
        let n = tokens.len();
        let hidden = self.embed.cols;
        let mut x: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&t| self.embed.data[t as usize * hidden..][..hidden].to_vec())
            .collect();
        for (i, layer) in self.layers.iter().enumerate() {
            let linear = |l: Linear, x: &[f64]| {
                let mut y = layer.linears[l as usize].apply(x);
                if let Some(bias) = &layer.biases[l as usize] {
                    add(&mut y, bias);
                }
                if let Some((adapter, params)) = adapter {
                    add_lora(adapter, params, &l.path(i), x, &mut y);
                }
                y
            };
            let h: Vec<Vec<f64>> =
                x.iter().map(|x| rms_norm(x, &layer.input_norm, self.eps)).collect();
            let project = |l: Linear| h.iter().map(|h| linear(l, h)).collect::<Vec<_>>();
            let (mut q, mut k, v) = (project(Linear::Q), project(Linear::K), project(Linear::V));
            for (position, (q, k)) in q.iter_mut().zip(&mut k).enumerate() {
                if let Some(norms) = &layer.qk_norm {
                    for (x, norm) in [&mut *q, &mut *k].into_iter().zip(norms) {
                        *x = x
                            .chunks(self.head_dim)
                            .flat_map(|x| rms_norm(x, norm, self.eps))
                            .collect();
                    }
                }
                if layer.rope {
                    self.rotate(position, q);
                    self.rotate(position, k);
                }
            }
            for t in 0..n {
                let first = layer.window.map_or(0, |window| (t + 1).max(window) - window);
                let o = self.attend(&q[t], &k[first..=t], &v[first..=t]);
                add(&mut x[t], &linear(Linear::O, &o));
                let h = rms_norm(&x[t], &layer.post_norm, self.eps);
                let (gate, up) = (linear(Linear::Gate, &h), linear(Linear::Up, &h));
                let h: Vec<f64> =
                    gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(&mut x[t], &linear(Linear::Down, &h));
            }
        }
        let logits =
            x.iter().flat_map(|x| self.head.apply(&rms_norm(x, &self.norm, self.eps))).collect();
        Output { logits, vocab: self.head.rows }
    }

    /// The losses of a batch, in the order of its loss positions.
    pub fn losses(&self, batch: &MicroBatch, adapter: Option<(&Adapter, &[f64])>) -> Vec<f64> {
        let mut losses = vec![f64::NAN; batch.targets.len()];
        for pair in batch.cu_seqlens.windows(2) {
            let out = self.forward(&batch.tokens[pair[0] as usize..pair[1] as usize], adapter);
            let places = batch.loss_positions.iter().zip(&batch.targets);
            for (loss, (&position, &target)) in losses.iter_mut().zip(places) {
                if (pair[0]..pair[1]).contains(&position) {
                    *loss = out.loss((position - pair[0]) as usize, target);
                }
            }
        }
        losses
    }

    /// Rotates pairs half a head apart.
    fn rotate(&self, position: usize, x: &mut [f64]) {
        let d = self.head_dim;
        for head in x.chunks_mut(d) {
            for i in 0..d / 2 {
                let angle = position as f64 * self.velocities[i];
                let (a, b) = (head[i], head[i + d / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + d / 2] = a * angle.sin() + b * angle.cos();
            }
        }
    }

    /// One query row over all keys given.
    fn attend(&self, q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<f64> {
        let d = self.head_dim;
        let mut o = vec![0.0; self.heads * d];
        for head in 0..self.heads {
            let at = head / (self.heads / self.kv_heads) * d;
            let q = &q[head * d..(head + 1) * d];
            let dot = |k: &[f64]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
            let weights: Vec<f64> =
                k.iter().map(|k| (dot(&k[at..at + d]) / (d as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (w, v) in weights.iter().zip(v) {
                for i in 0..d {
                    o[head * d + i] += w / total * v[at + i];
                }
            }
        }
        o
    }
}

/// Of the pairs of a head, as transformers' `modeling_rope_utils` has them: inverse frequencies.
fn velocities(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Vec<f64> {
    let plain = (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64));
    match *scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|v| v / factor).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f64;
            let scaled = |v: f64| {
                let wavelength = 2.0 * std::f64::consts::PI / v;
                if wavelength > original / low_freq_factor {
                    v / factor
                } else if wavelength < original / high_freq_factor {
                    v
                } else {
                    let smooth = (original / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * v / factor + smooth * v
                }
            };
            plain.map(scaled).collect()
        }
        RopeScaling::Factors(ref factors) => {
            plain.zip(factors).map(|(v, &factor)| v / f64::from(factor)).collect()
        }
    }
}

/// y += s·(x·Aᵀ)·Bᵀ if the module is adapted.
fn add_lora(adapter: &Adapter, params: &[f64], path: &str, x: &[f64], y: &mut [f64]) {
    let Some(module) = adapter.modules.iter().find(|module| module.path == path) else { return };
    let (r, s) = (module.r, f64::from(module.scale));
    let a = &params[module.a..module.a + r * module.in_features];
    let b = &params[module.b..module.b + r * module.out_features];
    let v: Vec<f64> = a
        .chunks(module.in_features)
        .map(|a| s * a.iter().zip(x).map(|(a, x)| a * x).sum::<f64>())
        .collect();
    for (y, b) in y.iter_mut().zip(b.chunks(r)) {
        *y += b.iter().zip(&v).map(|(b, v)| b * v).sum::<f64>();
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(w).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
}
