//! The backward ops of a program on the device.

use half::bf16;

use super::{Run, cut, cut_mut};
use crate::device::cuda::{View, ViewMut};
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::cuda::adapter::GpuAdapter;
use crate::model::cuda::weights::{GpuMatrix, GpuWeights};
use crate::model::llama::{LOSS_CHUNK, logits_pitch};
use crate::model::program::{AttentionBackward, GradScratch, Group, Norm};
use crate::model::run::dims;
use crate::ops::gemm_bf16::cuda::Segment;
use crate::ops::lora_grad::Part;
use crate::ops::lora_grad::cuda::Left;
use crate::ops::nf4_linear::cuda::{LowRank, Term, Weight};
use crate::ops::{
    LaunchError, attention, cross_entropy, embedding, gemm_bf16, head, lora_down, lora_grad,
    nf4_dequantize, nf4_linear, rms_norm, swiglu,
};

impl Run<'_> {
    pub(super) fn loss_and_gradient(
        &mut self,
        h: Buffer,
        logits: Buffer,
        losses: Buffer,
        dlogits: Buffer,
        dh: Buffer,
    ) -> Result<(), LaunchError> {
        let (hidden, vocab, cuda) = (self.config.hidden_size, self.config.vocab_size, self.cuda);
        let (w, ld, scale) = (self.weights.head(), logits_pitch(vocab), self.loss_scale);
        let targets = self.batch.targets();
        let ([h], [logits, losses, dlogits, dh]) =
            self.memory.borrow([h], [logits, losses, dlogits, dh]);
        let (h, mut losses) = (cut::<bf16>(h, self.p * hidden), cut_mut(losses, self.p));
        let mut dh = cut_mut(dh, self.p * hidden);
        let (mut logits, mut dlogits) = (logits.cast::<f32>(), dlogits.cast::<bf16>());
        for start in (0..self.p).step_by(LOSS_CHUNK) {
            let end = self.p.min(start + LOSS_CHUNK);
            let rows = end - start;
            let h = h.slice(start * hidden..end * hidden);
            let mut logits = logits.reborrow().slice(0..rows * ld);
            let mut dlogits = dlogits.reborrow().slice(0..rows * ld);
            head::cuda::forward(cuda, rows, hidden, h, w, &mut logits, ld)?;
            cross_entropy::cuda::forward_backward(
                cuda,
                vocab,
                logits.as_view(),
                ld,
                targets.slice(start..end),
                scale,
                &mut losses.reborrow().slice(start..end),
                &mut dlogits,
                ld,
            )?;
            let dh = &mut dh.reborrow().slice(start * hidden..end * hidden);
            head::cuda::backward(cuda, rows, hidden, dlogits.as_view(), ld, w, dh)?;
        }
        Ok(())
    }

    pub(super) fn scatter(&mut self, x: Buffer, out: Buffer) -> Result<(), LaunchError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let (x, mut out) = (cut(x, self.p * hidden), cut_mut(out, self.n * hidden));
        embedding::cuda::scatter(self.cuda, x, self.batch.positions(), hidden, &mut out)
    }

    pub(super) fn norm_backward(
        &mut self,
        tokens: usize,
        x: Buffer,
        norm: Norm,
        rstd: Buffer,
        dy: Buffer,
        dx: Buffer,
    ) -> Result<(), LaunchError> {
        let (rows, width) = norm.shape(self.config);
        let rows = tokens * rows;
        let len = rows * width;
        let w = self.weights.norm(norm);
        let ([x, rstd, dy], [dx]) = self.memory.borrow([x, rstd, dy], [dx]);
        let (x, rstd, dy) = (cut(x, len), cut(rstd, rows), cut(dy, len));
        rms_norm::cuda::backward(self.cuda, width, x, w, rstd, dy, &mut cut_mut(dx, len))
    }

    pub(super) fn lora_down_backward(
        &mut self,
        layer: usize,
        linear: Linear,
        dy: Buffer,
        u: Buffer,
    ) -> Result<(), LaunchError> {
        let (n, n_out) = (self.n, linear.shape(self.config).0);
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let Some((slot, columns)) = adapter.layout.slot(layer, linear) else { return Ok(()) };
        let (r, scale) = (slot.padded(), slot.scale);
        let b = adapter.copy.view().slice(adapter.layout.slot_b(slot));
        let ([dy], [u]) = self.memory.borrow([dy], [u]);
        let dy = cut(dy, n * n_out);
        let u = cut_mut::<bf16>(u, n * columns);
        let mut u = u.slice(slot.column.min(n * columns)..n * columns);
        lora_down::cuda::backward(self.cuda, n, n_out, r, scale, dy, b, &mut u, columns)
    }

    pub(super) fn lora_grad_up(
        &mut self,
        layer: usize,
        linear: Linear,
        v: Buffer,
        dy: Buffer,
        scratch: GradScratch,
    ) -> Result<(), LaunchError> {
        let (n, n_out) = (self.n, linear.shape(self.config).0);
        let Some(adapter) = self.adapter.as_deref_mut() else { return Ok(()) };
        let Some((slot, columns)) = adapter.layout.slot(layer, linear) else { return Ok(()) };
        let Some(training) = &mut adapter.training else { return Ok(()) };
        let ([v, dy], [partial]) = self.memory.borrow([v, dy], [scratch.product]);
        let v = cut::<bf16>(v, n * columns);
        let left = Left {
            data: v.slice(slot.column.min(n * columns)..n * columns),
            ld: columns,
            columns: slot.r,
            partial: partial.cast(),
        };
        let grads = &mut training.grads.view_mut();
        lora_grad::cuda::up(self.cuda, n, n_out, left, cut(dy, n * n_out), &[slot.b_part()], grads)
    }

    pub(super) fn lora_grad_down(
        &mut self,
        layer: usize,
        group: Group,
        u: Buffer,
        x: Buffer,
        scratch: GradScratch,
    ) -> Result<(), LaunchError> {
        let (n, n_in) = (self.n, group.linears()[0].shape(self.config).1);
        let Some(adapter) = self.adapter.as_deref_mut() else { return Ok(()) };
        let layout = adapter.layout.group(layer, group);
        let Some(training) = &mut adapter.training else { return Ok(()) };
        let columns = layout.columns;
        let ([u, x], [partial]) = self.memory.borrow([u, x], [scratch.product]);
        let data = cut(u, n * columns);
        let left = Left { data, ld: columns, columns, partial: partial.cast() };
        let mut parts = [Part { column: 0, r: 0, offset: 0 }; lora_grad::cuda::PARTS];
        let mut count = 0;
        for (place, part) in parts.iter_mut().zip(layout.a_parts()) {
            *place = part;
            count += 1;
        }
        let (x, grads) = (cut(x, n * n_in), &mut training.grads.view_mut());
        lora_grad::cuda::down(self.cuda, n, n_in, left, x, &parts[..count], grads)
    }

    /// Weights in NF4 fused, or by way of the scratch, as the dispatch table says for so many rows: fused if it
    /// says so for every linear of the group. With one in bf16 among them it is a product of bf16 for all.
    pub(super) fn linear_backward(
        &mut self,
        layer: usize,
        group: Group,
        dy: &[Buffer],
        u: Option<Buffer>,
        dx: Buffer,
        scratch: Option<Buffer>,
    ) -> Result<(), LaunchError> {
        let (n, cuda, config, weights) = (self.n, self.cuda, self.config, self.weights);
        let linears = group.linears();
        let n_in = linears[0].shape(config).1;
        // With dropout there is no u: what the adapters add comes later.
        let adapter = self.adapter.as_deref().filter(|_| u.is_some());
        // Up to three dy's and u, always four borrows: the first dy stands in where one is missing.
        let dy = |i: usize| dy.get(i).copied().unwrap_or(dy[0]);
        let reads = [dy(0), dy(1), dy(2), u.unwrap_or(dy(0))];
        let is_fused = |linear: &Linear| self.dispatch.backward_is_fused(linear.shape(config), n);
        let may_be_fused = scratch.is_none() || linears.iter().all(is_fused);
        if let Some(w) = quantised(weights, layer, group).filter(|_| may_be_fused) {
            let ([dy0, dy1, dy2, u], [dx]) = self.memory.borrow(reads, [dx]);
            let dys = [dy0, dy1, dy2];
            let term = |i: usize| {
                let linear = linears[i.min(linears.len() - 1)];
                let dy = cut(dys[i], n * linear.shape(config).0);
                Term { dy, w: w[i], lora: low_rank(adapter, layer, linear, u, n, n_in) }
            };
            let mut dx = cut_mut(dx, n * n_in);
            return match linears.len() {
                1 => nf4_linear::cuda::backward(cuda, n, &[term(0)], &mut dx),
                2 => nf4_linear::cuda::backward(cuda, n, &[term(0), term(1)], &mut dx),
                _ => nf4_linear::cuda::backward(cuda, n, &[term(0), term(1), term(2)], &mut dx),
            };
        }
        let (dys, u, dx, mut rest) = match scratch {
            Some(scratch) => {
                let ([dy0, dy1, dy2, u], [dx, scratch]) = self.memory.borrow(reads, [dx, scratch]);
                ([dy0, dy1, dy2], u, dx, scratch.cast::<bf16>())
            }
            None => {
                let ([dy0, dy1, dy2, u], [dx]) = self.memory.borrow(reads, [dx]);
                ([dy0, dy1, dy2], u, dx, ViewMut::empty())
            }
        };
        let nothing = View::<bf16>::empty();
        let none = Segment { a: nothing, lda: 0, b: nothing, ldb: 0, k: 0 };
        let mut segments = [none; gemm_bf16::cuda::SEGMENTS];
        for ((&linear, dy), pair) in linears.iter().zip(dys).zip(segments.chunks_exact_mut(2)) {
            let n_out = linear.shape(config).0;
            let b = match weights.linear(layer, linear) {
                GpuMatrix::Bf16(w) => w.view(),
                GpuMatrix::Nf4(w) => {
                    let (mut decoded, behind) = rest.split_at(n_out * n_in);
                    rest = behind;
                    nf4_dequantize::cuda::forward(cuda, w, &mut decoded, n_in)?;
                    decoded.into_view()
                }
            };
            pair[0] = Segment { a: cut(dy, n * n_out), lda: n_out, b, ldb: n_in, k: n_out };
            if let Some(LowRank { left, ld, r, right }) =
                low_rank(adapter, layer, linear, u, n, n_in)
            {
                pair[1] = Segment { a: left, lda: ld, b: right, ldb: n_in, k: r };
            }
        }
        gemm_bf16::cuda::nn(cuda, n, n_in, 1.0, &segments, &mut cut_mut(dx, n * n_in), n_in)
    }

    pub(super) fn swiglu_backward(
        &mut self,
        gate: Buffer,
        up: Buffer,
        dh: Buffer,
    ) -> Result<(), LaunchError> {
        let len = self.n * self.config.intermediate_size;
        let ([], [gate, up, dh]) = self.memory.borrow([], [gate, up, dh]);
        let (mut gate, mut up, mut dh) = (cut_mut(gate, len), cut_mut(up, len), cut_mut(dh, len));
        swiglu::cuda::backward(self.cuda, &mut gate, &mut up, &mut dh)
    }

    pub(super) fn attention_backward(&mut self, b: AttentionBackward) -> Result<(), LaunchError> {
        let (n, dims) = (self.n, dims(self.config, b.layer));
        let ([q, k, v, o, lse, d_o], [delta, dq, dk, dv]) =
            self.memory.borrow([b.q, b.k, b.v, b.o, b.lse, b.d_o], [b.delta, b.dq, b.dk, b.dv]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        attention::cuda::backward(
            self.cuda,
            &dims,
            self.batch.cu_seqlens(),
            self.batch.documents(),
            n,
            cut(q, q_len),
            cut(k, kv_len),
            cut(v, kv_len),
            cut(o, q_len),
            cut(lse, n * dims.heads),
            cut(d_o, q_len),
            &mut cut_mut(delta, n * dims.heads),
            &mut cut_mut(dq, q_len),
            &mut cut_mut(dk, kv_len),
            &mut cut_mut(dv, kv_len),
        )
    }
}

/// The weights of a group, if all of them are in NF4; the last one stands in where there are fewer than three.
fn quantised(weights: &GpuWeights, layer: usize, group: Group) -> Option<[&Weight; 3]> {
    let linears = group.linears();
    let weight = |i: usize| match weights.linear(layer, linears[i.min(linears.len() - 1)]) {
        GpuMatrix::Nf4(w) => Some(w),
        GpuMatrix::Bf16(_) => None,
    };
    Some([weight(0)?, weight(1)?, weight(2)?])
}

/// U and A of a linear, if it is adapted.
fn low_rank<'a>(
    adapter: Option<&'a GpuAdapter>,
    layer: usize,
    linear: Linear,
    u: View<'a, u8>,
    n: usize,
    n_in: usize,
) -> Option<LowRank<'a>> {
    let adapter = adapter?;
    let (slot, columns) = adapter.layout.slot(layer, linear)?;
    let u = cut::<bf16>(u, n * columns);
    let a = adapter.layout.slot_a(layer, Group::of(linear), slot, n_in);
    Some(LowRank {
        left: u.slice(slot.column.min(n * columns)..n * columns),
        ld: columns,
        r: slot.padded(),
        right: adapter.copy.view().slice(a),
    })
}
