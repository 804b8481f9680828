//! Runs the ops of a program: which slices of which buffers each one gets.

use super::config::{Linear, LlamaConfig};
use super::engine::Inputs;
use super::kv_cache::KvCache;
use super::llama::LOSS_CHUNK;
use super::lora_layout::{AdapterCopy, Slot};
use super::program::{AttentionBackward, GradScratch, Group, Norm, Op};
use super::weights::Weights;
use crate::device::cpu::{Cpu, Element, GemmElement};
use crate::device::memory::{Buffer, Memory};
use crate::ops::lora_grad::Left;
use crate::ops::nf4_linear::{BackwardTerm, LowRank};
use crate::ops::{
    ShapeError, attention, cross_entropy, embedding, head, lora_down, lora_grad, nf4_linear,
    rms_norm, rope, swiglu,
};

/// The first `len` elements of a buffer.
fn cut<T: bytemuck::Pod>(bytes: &[u8], len: usize) -> &[T] {
    &bytemuck::cast_slice(bytes)[..len]
}

/// The first `len` elements of a buffer, to write.
fn cut_mut<T: bytemuck::Pod>(bytes: &mut [u8], len: usize) -> &mut [T] {
    &mut bytemuck::cast_slice_mut(bytes)[..len]
}

/// One execution: everything that an op may need. `n` tokens, `p` gathered positions.
pub struct Run<'a, E> {
    pub cpu: &'a Cpu,
    pub weights: &'a Weights,
    pub config: &'a LlamaConfig,
    pub adapter: Option<&'a AdapterCopy<E>>,
    pub rope: &'a rope::Tables,
    pub inputs: &'a Inputs<'a>,
    pub memory: &'a mut Memory,
    pub grads: &'a mut [f32],
    pub n: usize,
    pub p: usize,
}

impl<E: GemmElement> Run<'_, E> {
    /// Runs one op.
    pub fn op(&mut self, op: &Op, cache: Option<&mut KvCache<E>>) -> Result<(), ShapeError> {
        match *op {
            Op::Embedding { out } => self.embedding(out),
            Op::Add { x, residual, out } => self.add(x, residual, out),
            Op::Norm { x, norm, y, rstd } => self.norm(x, norm, y, rstd),
            Op::AddNorm { x, residual, out, norm, y, rstd } => {
                self.add_norm(x, residual, out, norm, y, rstd)
            }
            Op::LoraDown { layer, group, x, v } => self.lora_down(layer, group, x, v),
            Op::Linear { layer, linear, x, v, y } => self.linear(layer, linear, x, v, y),
            Op::Rope { q, k } => self.rope(q, k, rope::forward::<E>),
            Op::RopeBackward { dq, dk } => self.rope(dq, dk, rope::backward::<E>),
            Op::Attention { q, k, v, o, lse } => self.attention(q, k, v, o, lse),
            Op::CachedAttention { layer, q, k, v, o } => match cache {
                Some(cache) => self.cached_attention(cache, layer, q, k, v, o),
                None => crate::ops::check_at_least("attention::decode", "KV caches", 0, 1),
            },
            Op::Swiglu { gate, up, h } => self.swiglu(gate, up, h),
            Op::SwigluBackward { gate, up, dh } => self.swiglu_backward(gate, up, dh),
            Op::Gather { x, out } => self.gather(x, out),
            Op::Scatter { x, out } => self.scatter(x, out),
            Op::Zero { x } => {
                let ([], [x]) = self.memory.borrow([], [x]);
                x.fill(0);
                Ok(())
            }
            Op::Loss { h, logits, losses, gradient: None } => self.loss(h, logits, losses),
            Op::Loss { h, logits, losses, gradient: Some(g) } => {
                self.loss_and_gradient(h, logits, losses, g.dlogits, g.dh)
            }
            Op::Logits { h, logits } => self.logits(h, logits),
            Op::NormBackward { x, norm, rstd, dy, dx, gathered } => {
                let rows = if gathered { self.p } else { self.n };
                self.norm_backward(rows, x, norm, rstd, dy, dx)
            }
            Op::LoraDownBackward { layer, linear, dy, u } => {
                self.lora_down_backward(layer, linear, dy, u)
            }
            Op::LoraGradUp { layer, linear, v, dy, scratch } => {
                self.lora_grad_up(layer, linear, v, dy, scratch)
            }
            Op::LoraGradDown { layer, group, u, x, scratch } => {
                self.lora_grad_down(layer, group, u, x, scratch)
            }
            Op::LinearBackward { layer, group, ref dy, u, dx } => {
                self.linear_backward(layer, group, dy, u, dx)
            }
            Op::AttentionBackward(buffers) => self.attention_backward(buffers),
        }
    }
}

/// Forward ops.
impl<E: GemmElement> Run<'_, E> {
    fn embedding(&mut self, out: Buffer) -> Result<(), ShapeError> {
        let (table, hidden) = (&self.weights.embed_tokens, self.config.hidden_size);
        let ([], [out]) = self.memory.borrow([], [out]);
        let out = cut_mut::<E>(out, self.n * hidden);
        embedding::forward(self.cpu, self.inputs.tokens, table.as_slice(), hidden, out)
    }

    fn add(&mut self, x: Buffer, residual: Buffer, out: Buffer) -> Result<(), ShapeError> {
        let len = self.n * self.config.hidden_size;
        let ([x, residual], [out]) = self.memory.borrow([x, residual], [out]);
        let (x, residual, out) =
            (cut::<E>(x, len), cut::<E>(residual, len), cut_mut::<E>(out, len));
        self.cpu.level.vectorize(|| {
            for ((out, x), residual) in out.iter_mut().zip(x).zip(residual) {
                *out = E::from_f32(x.to_f32() + residual.to_f32());
            }
        });
        Ok(())
    }

    fn norm(&mut self, x: Buffer, norm: Norm, y: Buffer, rstd: Buffer) -> Result<(), ShapeError> {
        let rows = if norm == Norm::Final { self.p } else { self.n };
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let weights = self.weights;
        let ([x], [y, rstd]) = self.memory.borrow([x], [y, rstd]);
        let (x, y) = (cut::<E>(x, rows * hidden), cut_mut::<E>(y, rows * hidden));
        let w = norm_weight(weights, norm);
        rms_norm::forward(self.cpu, hidden, eps, x, w, y, cut_mut(rstd, rows))
    }

    fn add_norm(
        &mut self,
        x: Buffer,
        residual: Buffer,
        out: Buffer,
        norm: Norm,
        y: Buffer,
        rstd: Buffer,
    ) -> Result<(), ShapeError> {
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let len = self.n * hidden;
        let ([x, residual], [out, y, rstd]) = self.memory.borrow([x, residual], [out, y, rstd]);
        let out = cut_mut::<E>(out, len);
        out.copy_from_slice(cut(residual, len));
        let w = norm_weight(self.weights, norm);
        let (x, y, rstd) = (cut::<E>(x, len), cut_mut::<E>(y, len), cut_mut(rstd, self.n));
        rms_norm::add_forward(self.cpu, hidden, eps, x, out, w, y, rstd)
    }

    fn lora_down(
        &mut self,
        layer: usize,
        group: Group,
        x: Buffer,
        v: Buffer,
    ) -> Result<(), ShapeError> {
        let Some(adapter) = self.adapter else { return Ok(()) };
        let n_in = group.linears()[0].shape(self.config).1;
        let columns = adapter.group(layer, group).columns;
        let ([x], [v]) = self.memory.borrow([x], [v]);
        let (x, v) = (cut::<E>(x, self.n * n_in), cut_mut::<E>(v, self.n * columns));
        let a = adapter.a(layer, group, n_in);
        lora_down::forward(self.cpu, self.n, n_in, columns, adapter.scale, x, a, v, columns)
    }

    fn linear(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        v: Option<Buffer>,
        y: Buffer,
    ) -> Result<(), ShapeError> {
        let n = self.n;
        let w = self.weights.layers[layer].linear(linear);
        let slot = slot(self.adapter, layer, linear);
        // Without an adapter there is no V; x stands in for the borrow.
        let ([x, v], [y]) = self.memory.borrow([x, v.unwrap_or(x)], [y]);
        let lora = slot.map(|(adapter, columns, slot)| LowRank {
            left: &cut::<E>(v, n * columns)[slot.column.min(n * columns)..],
            ld: columns,
            r: slot.padded(),
            right: adapter.slot_b(slot),
        });
        let (x, y) = (cut::<E>(x, n * w.cols), cut_mut::<E>(y, n * w.rows));
        nf4_linear::forward(self.cpu, n, x, w, lora, y)
    }

    fn rope(&mut self, q: Buffer, k: Buffer, rotate: Rotate<E>) -> Result<(), ShapeError> {
        let LlamaConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let ([], [q, k]) = self.memory.borrow([], [q, k]);
        let q = cut_mut::<E>(q, self.n * num_attention_heads * head_dim);
        let k = cut_mut::<E>(k, self.n * num_key_value_heads * head_dim);
        let positions = self.inputs.position_ids;
        rotate(
            self.cpu,
            self.rope,
            positions,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            q,
            k,
        )
    }

    fn attention(
        &mut self,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
        lse: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config));
        let ([q, k, v], [o, lse]) = self.memory.borrow([q, k, v], [o, lse]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        attention::forward(
            self.cpu,
            &dims,
            self.inputs.cu_seqlens,
            cut::<E>(q, q_len),
            cut(k, kv_len),
            cut(v, kv_len),
            cut_mut(o, q_len),
            cut_mut(lse, n * dims.heads),
        )
    }

    fn cached_attention(
        &mut self,
        cache: &mut KvCache<E>,
        layer: usize,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config));
        let ([q, k, v], [o]) = self.memory.borrow([q, k, v], [o]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        let (k, v) = (cut::<E>(k, kv_len), cut::<E>(v, kv_len));
        cache.attend(
            self.cpu,
            &dims,
            layer,
            self.inputs.cu_seqlens,
            cut(q, q_len),
            k,
            v,
            cut_mut(o, q_len),
        )
    }

    fn swiglu(&mut self, gate: Buffer, up: Buffer, h: Buffer) -> Result<(), ShapeError> {
        let len = self.n * self.config.intermediate_size;
        let ([gate, up], [h]) = self.memory.borrow([gate, up], [h]);
        swiglu::forward(self.cpu, cut::<E>(gate, len), cut(up, len), cut_mut(h, len))
    }

    fn gather(&mut self, x: Buffer, out: Buffer) -> Result<(), ShapeError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let x = cut::<E>(x, self.n * hidden);
        let out = cut_mut::<E>(out, self.p * hidden);
        crate::ops::check_all_below("gather", "loss position", self.inputs.positions, self.n)?;
        for (out, &row) in out.chunks_exact_mut(hidden).zip(self.inputs.positions) {
            out.copy_from_slice(&x[row as usize * hidden..][..hidden]);
        }
        Ok(())
    }

    fn logits(&mut self, h: Buffer, logits: Buffer) -> Result<(), ShapeError> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let w = self.weights.head().as_slice();
        let ([h], [logits]) = self.memory.borrow([h], [logits]);
        let (h, logits) = (cut::<E>(h, self.p * hidden), cut_mut(logits, self.p * vocab));
        head::forward(self.cpu, self.p, hidden, h, w, logits)
    }

    fn loss(&mut self, h: Buffer, logits: Buffer, losses: Buffer) -> Result<(), ShapeError> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let w = self.weights.head().as_slice();
        let targets = self.inputs.targets;
        crate::ops::check("loss", "number of targets", targets.len(), self.p)?;
        let ([h], [logits, losses]) = self.memory.borrow([h], [logits, losses]);
        let (h, losses) = (cut::<E>(h, self.p * hidden), cut_mut::<f32>(losses, self.p));
        let chunks = h.chunks(LOSS_CHUNK * hidden).zip(targets.chunks(LOSS_CHUNK));
        for ((h, targets), losses) in chunks.zip(losses.chunks_mut(LOSS_CHUNK)) {
            let logits = cut_mut::<f32>(logits, targets.len() * vocab);
            head::forward(self.cpu, targets.len(), hidden, h, w, logits)?;
            cross_entropy::forward(self.cpu, vocab, logits, targets, losses)?;
        }
        Ok(())
    }
}

/// Backward ops.
impl<E: GemmElement> Run<'_, E> {
    fn loss_and_gradient(
        &mut self,
        h: Buffer,
        logits: Buffer,
        losses: Buffer,
        dlogits: Buffer,
        dh: Buffer,
    ) -> Result<(), ShapeError> {
        let (hidden, vocab, scale) =
            (self.config.hidden_size, self.config.vocab_size, self.inputs.loss_scale);
        let w = self.weights.head().as_slice();
        let targets = self.inputs.targets;
        crate::ops::check("loss", "number of targets", targets.len(), self.p)?;
        let ([h], [logits, losses, dlogits, dh]) =
            self.memory.borrow([h], [logits, losses, dlogits, dh]);
        let (h, losses) = (cut::<E>(h, self.p * hidden), cut_mut::<f32>(losses, self.p));
        let dh = cut_mut::<E>(dh, self.p * hidden);
        let chunks = h.chunks(LOSS_CHUNK * hidden).zip(targets.chunks(LOSS_CHUNK));
        let results = losses.chunks_mut(LOSS_CHUNK).zip(dh.chunks_mut(LOSS_CHUNK * hidden));
        for ((h, targets), (losses, dh)) in chunks.zip(results) {
            let rows = targets.len();
            let logits = cut_mut::<f32>(logits, rows * vocab);
            let dlogits = cut_mut::<E>(dlogits, rows * vocab);
            head::forward(self.cpu, rows, hidden, h, w, logits)?;
            cross_entropy::forward_backward(
                self.cpu, vocab, logits, targets, scale, losses, dlogits,
            )?;
            head::backward(self.cpu, rows, hidden, dlogits, w, dh)?;
        }
        Ok(())
    }

    fn scatter(&mut self, x: Buffer, out: Buffer) -> Result<(), ShapeError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let x = cut::<E>(x, self.p * hidden);
        let out = cut_mut::<E>(out, self.n * hidden);
        out.fill(E::from_f32(0.0));
        for (x, &row) in x.chunks_exact(hidden).zip(self.inputs.positions) {
            out[row as usize * hidden..][..hidden].copy_from_slice(x);
        }
        Ok(())
    }

    fn norm_backward(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Norm,
        rstd: Buffer,
        dy: Buffer,
        dx: Buffer,
    ) -> Result<(), ShapeError> {
        let hidden = self.config.hidden_size;
        let len = rows * hidden;
        let w = norm_weight(self.weights, norm);
        let ([x, rstd, dy], [dx]) = self.memory.borrow([x, rstd, dy], [dx]);
        let (x, dy, dx) = (cut::<E>(x, len), cut::<E>(dy, len), cut_mut::<E>(dx, len));
        rms_norm::backward(self.cpu, hidden, x, w, cut(rstd, rows), dy, dx)
    }

    fn lora_down_backward(
        &mut self,
        layer: usize,
        linear: Linear,
        dy: Buffer,
        u: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, n_out) = (self.n, linear.shape(self.config).0);
        let Some((adapter, columns, slot)) = slot(self.adapter, layer, linear) else {
            return Ok(());
        };
        let (column, padded, b) = (slot.column, slot.padded(), adapter.slot_b(slot));
        let ([dy], [u]) = self.memory.borrow([dy], [u]);
        let dy = cut::<E>(dy, n * n_out);
        let u = &mut cut_mut::<E>(u, n * columns)[column.min(n * columns)..];
        lora_down::backward(self.cpu, n, n_out, padded, adapter.scale, dy, b, u, columns)
    }

    fn lora_grad_up(
        &mut self,
        layer: usize,
        linear: Linear,
        v: Buffer,
        dy: Buffer,
        scratch: GradScratch,
    ) -> Result<(), ShapeError> {
        let (n, n_out) = (self.n, linear.shape(self.config).0);
        let Some((_, columns, slot)) = slot(self.adapter, layer, linear) else { return Ok(()) };
        let r = slot.r;
        let GradScratch { stack, product } = scratch;
        let ([v, dy], [stack, product]) = self.memory.borrow([v, dy], [stack, product]);
        let left = Left {
            data: &cut::<E>(v, n * columns)[slot.column.min(n * columns)..],
            ld: columns,
            columns: r,
            stack: cut_mut(stack, r * n),
            product: cut_mut(product, r * n_out),
        };
        let dy = cut(dy, n * n_out);
        lora_grad::up(self.cpu, n, n_out, left, dy, std::iter::once(slot.b_part()), self.grads)
    }

    fn lora_grad_down(
        &mut self,
        layer: usize,
        group: Group,
        u: Buffer,
        x: Buffer,
        scratch: GradScratch,
    ) -> Result<(), ShapeError> {
        let (n, n_in) = (self.n, group.linears()[0].shape(self.config).1);
        let Some(adapter) = self.adapter else { return Ok(()) };
        let layout = adapter.group(layer, group);
        let columns = layout.columns;
        let GradScratch { stack, product } = scratch;
        let ([u, x], [stack, product]) = self.memory.borrow([u, x], [stack, product]);
        let left = Left {
            data: cut::<E>(u, n * columns),
            ld: columns,
            columns,
            stack: cut_mut(stack, columns * n),
            product: cut_mut(product, columns * n_in),
        };
        let x = cut(x, n * n_in);
        lora_grad::down(self.cpu, n, n_in, left, x, layout.a_parts(), self.grads)
    }

    fn linear_backward(
        &mut self,
        layer: usize,
        group: Group,
        dy: &[Buffer],
        u: Option<Buffer>,
        dx: Buffer,
    ) -> Result<(), ShapeError> {
        let n = self.n;
        let n_in = group.linears()[0].shape(self.config).1;
        // Up to three dy's and u, always four borrows: the first dy stands in where one is missing.
        let dy = |i: usize| dy.get(i).copied().unwrap_or(dy[0]);
        let (dys, u) = ([dy(0), dy(1), dy(2)], u.unwrap_or(dy(0)));
        let linears = group.linears();
        let (weights, config, adapter) = (self.weights, self.config, self.adapter);
        let ([dy0, dy1, dy2, u], [dx]) = self.memory.borrow([dys[0], dys[1], dys[2], u], [dx]);
        let dys = [dy0, dy1, dy2];
        let term = |i: usize| {
            let linear = linears[i.min(linears.len() - 1)];
            let lora = adapter.and_then(|adapter| {
                let layout = adapter.group(layer, group);
                let slot = layout.slot(linear)?;
                let columns = layout.columns;
                Some(LowRank {
                    left: &cut::<E>(u, n * columns)[slot.column.min(n * columns)..],
                    ld: columns,
                    r: slot.padded(),
                    right: adapter.slot_a(layer, group, slot, n_in),
                })
            });
            let dy = cut::<E>(dys[i], n * linear.shape(config).0);
            BackwardTerm { dy, w: weights.layers[layer].linear(linear), lora }
        };
        let dx = cut_mut::<E>(dx, n * n_in);
        match linears.len() {
            1 => nf4_linear::backward(self.cpu, n, &[term(0)], dx),
            2 => nf4_linear::backward(self.cpu, n, &[term(0), term(1)], dx),
            _ => nf4_linear::backward(self.cpu, n, &[term(0), term(1), term(2)], dx),
        }
    }

    fn swiglu_backward(&mut self, gate: Buffer, up: Buffer, dh: Buffer) -> Result<(), ShapeError> {
        let len = self.n * self.config.intermediate_size;
        let ([], [gate, up, dh]) = self.memory.borrow([], [gate, up, dh]);
        swiglu::backward(self.cpu, cut_mut::<E>(gate, len), cut_mut(up, len), cut_mut(dh, len))
    }

    fn attention_backward(&mut self, b: AttentionBackward) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config));
        let ([q, k, v, o, lse, d_o], [delta, dq, dk, dv]) =
            self.memory.borrow([b.q, b.k, b.v, b.o, b.lse, b.d_o], [b.delta, b.dq, b.dk, b.dv]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        attention::backward(
            self.cpu,
            &dims,
            self.inputs.cu_seqlens,
            cut::<E>(q, q_len),
            cut(k, kv_len),
            cut(v, kv_len),
            cut(o, q_len),
            cut(lse, n * dims.heads),
            cut(d_o, q_len),
            cut_mut(delta, n * dims.heads),
            cut_mut(dq, q_len),
            cut_mut(dk, kv_len),
            cut_mut(dv, kv_len),
        )
    }
}

/// The slot of a linear if it is adapted, its adapter, and the pitch of V and U of its group.
fn slot<E: Element>(
    adapter: Option<&AdapterCopy<E>>,
    layer: usize,
    linear: Linear,
) -> Option<(&AdapterCopy<E>, usize, &Slot)> {
    let adapter = adapter?;
    let group = adapter.group(layer, Group::of(linear));
    Some((adapter, group.columns, group.slot(linear)?))
}

/// `rope::forward` or `rope::backward`.
type Rotate<E> = fn(
    &Cpu,
    &rope::Tables,
    &[u32],
    usize,
    usize,
    usize,
    &mut [E],
    &mut [E],
) -> Result<(), ShapeError>;

/// The attention's dimensions.
pub(super) fn dims(config: &LlamaConfig) -> attention::Dims {
    attention::Dims {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
    }
}

fn norm_weight(weights: &Weights, norm: Norm) -> &[half::bf16] {
    match norm {
        Norm::Input(layer) => weights.layers[layer].input_layernorm.as_slice(),
        Norm::PostAttention(layer) => weights.layers[layer].post_attention_layernorm.as_slice(),
        Norm::Final => weights.norm.as_slice(),
    }
}
