//! The backward ops of a program: which slices of which buffers each one gets.

use super::{Run, cut, cut_mut, dims, norm_weight, slot};
use crate::device::cpu::{GemmElement, chunks_mut};
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::llama::LOSS_CHUNK;
use crate::model::program::{AttentionBackward, GradScratch, Group, Norm};
use crate::ops::linear::{BackwardTerm, LowRank};
use crate::ops::lora_grad::Left;
use crate::ops::{
    ShapeError, attention, cross_entropy, head, linear, lora_down, lora_grad, rms_norm, swiglu,
};

impl<E: GemmElement> Run<'_, E> {
    pub(super) fn loss_and_gradient(
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

    pub(super) fn scatter(&mut self, x: Buffer, out: Buffer) -> Result<(), ShapeError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let x = cut::<E>(x, self.p * hidden);
        let out = cut_mut::<E>(out, self.n * hidden);
        self.cpu.blocks(chunks_mut(out, 1 << 15), |out| out.fill(E::from_f32(0.0)));
        for (x, &row) in x.chunks_exact(hidden).zip(self.inputs.positions) {
            out[row as usize * hidden..][..hidden].copy_from_slice(x);
        }
        Ok(())
    }

    pub(super) fn norm_backward(
        &mut self,
        tokens: usize,
        x: Buffer,
        norm: Norm,
        rstd: Buffer,
        dy: Buffer,
        dx: Buffer,
    ) -> Result<(), ShapeError> {
        let (rows, width) = norm.shape(self.config);
        let rows = tokens * rows;
        let len = rows * width;
        let w = norm_weight(self.weights, norm);
        let ([x, rstd, dy], [dx]) = self.memory.borrow([x, rstd, dy], [dx]);
        let (x, dy, dx) = (cut::<E>(x, len), cut::<E>(dy, len), cut_mut::<E>(dx, len));
        rms_norm::backward(self.cpu, width, x, w, cut(rstd, rows), dy, dx)
    }

    pub(super) fn lora_down_backward(
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
        let dims = lora_down::Dims { m: n, width: n_out, r: padded, ld: columns };
        lora_down::backward(self.cpu, dims, slot.scale, dy, b, u)
    }

    pub(super) fn lora_grad_up(
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

    pub(super) fn lora_grad_down(
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

    pub(super) fn linear_backward(
        &mut self,
        layer: usize,
        group: Group,
        dy: &[Buffer],
        u: Option<Buffer>,
        dx: Buffer,
    ) -> Result<(), ShapeError> {
        let n = self.n;
        let n_in = group.linears()[0].shape(self.config).1;
        // With dropout there is no u: what the adapters add comes later.
        let adapter = self.adapter.filter(|_| u.is_some());
        // Up to three dy's and u, always four borrows: the first dy stands in where one is missing.
        let dy = |i: usize| dy.get(i).copied().unwrap_or(dy[0]);
        let (dys, u) = ([dy(0), dy(1), dy(2)], u.unwrap_or(dy(0)));
        let linears = group.linears();
        let (weights, config) = (self.weights, self.config);
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
            BackwardTerm { dy, w: weights.layers[layer].linear(linear).as_weight(), lora }
        };
        let dx = cut_mut::<E>(dx, n * n_in);
        match linears.len() {
            1 => linear::backward(self.cpu, n, &[term(0)], dx),
            2 => linear::backward(self.cpu, n, &[term(0), term(1)], dx),
            _ => linear::backward(self.cpu, n, &[term(0), term(1), term(2)], dx),
        }
    }

    pub(super) fn swiglu_backward(
        &mut self,
        gate: Buffer,
        up: Buffer,
        dh: Buffer,
    ) -> Result<(), ShapeError> {
        let len = self.n * self.config.intermediate_size;
        let ([], [gate, up, dh]) = self.memory.borrow([], [gate, up, dh]);
        swiglu::backward(self.cpu, cut_mut::<E>(gate, len), cut_mut(up, len), cut_mut(dh, len))
    }

    pub(super) fn attention_backward(&mut self, b: AttentionBackward) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config, b.layer));
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
