//! The forward ops of a program on the device.

use std::ops::Range;

use half::bf16;

use super::{Rotate, Run, cut, cut_mut};
use crate::device::cuda::{Cuda, View, ViewMut};
use crate::device::memory::Buffer;
use crate::model::config::{Linear, LlamaConfig};
use crate::model::cuda::cache::GpuCache;
use crate::model::cuda::weights::GpuMatrix;
use crate::model::llama::{LOSS_CHUNK, logits_pitch};
use crate::model::program::{Group, Norm};
use crate::model::run::dims;
use crate::ops::gemm_bf16::cuda::Segment;
use crate::ops::nf4_linear::cuda::LowRank;
use crate::ops::{
    LaunchError, attention, check_at_least, cross_entropy, embedding, gemm_bf16, head, lora_down,
    nf4_dequantize, nf4_linear, rms_norm, swiglu,
};

impl Run<'_> {
    pub(super) fn embedding(&mut self, out: Buffer) -> Result<(), LaunchError> {
        let (table, hidden) = (self.weights.embed_tokens(), self.config.hidden_size);
        let ([], [out]) = self.memory.borrow([], [out]);
        let mut out = cut_mut(out, self.n * hidden);
        embedding::cuda::forward(self.cuda, self.batch.tokens(), table, hidden, &mut out)
    }

    pub(super) fn add(
        &mut self,
        x: Buffer,
        residual: Buffer,
        out: Buffer,
    ) -> Result<(), LaunchError> {
        let len = self.n * self.config.hidden_size;
        let ([x, residual], [out]) = self.memory.borrow([x, residual], [out]);
        embedding::cuda::add(self.cuda, cut(x, len), cut(residual, len), &mut cut_mut(out, len))
    }

    pub(super) fn norm(
        &mut self,
        x: Buffer,
        norm: Norm,
        y: Buffer,
        rstd: Buffer,
    ) -> Result<(), LaunchError> {
        let tokens = if norm == Norm::Final { self.p } else { self.n };
        let (rows, width) = norm.shape(self.config);
        let (rows, eps) = (tokens * rows, self.config.rms_norm_eps as f32);
        let w = self.weights.norm(norm);
        let ([x], [y, rstd]) = self.memory.borrow([x], [y, rstd]);
        let x = cut::<bf16>(x, rows * width);
        let (mut y, mut rstd) = (cut_mut(y, rows * width), cut_mut(rstd, rows));
        rms_norm::cuda::forward(self.cuda, width, eps, x, w, &mut y, &mut rstd)
    }

    pub(super) fn add_norm(
        &mut self,
        x: Buffer,
        residual: Buffer,
        out: Buffer,
        norm: Norm,
        y: Buffer,
        rstd: Buffer,
    ) -> Result<(), LaunchError> {
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let len = self.n * hidden;
        let w = self.weights.norm(norm);
        let ([x, residual], [out, y, rstd]) = self.memory.borrow([x, residual], [out, y, rstd]);
        let (x, residual) = (cut(x, len), cut(residual, len));
        let (mut out, mut y, mut rstd) =
            (cut_mut(out, len), cut_mut(y, len), cut_mut(rstd, self.n));
        let cuda = self.cuda;
        rms_norm::cuda::add_forward(cuda, hidden, eps, x, residual, &mut out, w, &mut y, &mut rstd)
    }

    pub(super) fn lora_down(
        &mut self,
        layer: usize,
        group: Group,
        x: Buffer,
        v: Buffer,
    ) -> Result<(), LaunchError> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let n_in = group.linears()[0].shape(self.config).1;
        let layout = adapter.layout.group(layer, group);
        let (n, ld) = (self.n, layout.columns);
        let a = adapter.copy.view().slice(adapter.layout.a(layer, group, n_in));
        let ([x], [v]) = self.memory.borrow([x], [v]);
        let (x, mut v) = (cut(x, n * n_in), cut_mut(v, n * ld));
        for (Range { start, end }, scale) in layout.scaled() {
            let a = a.slice(start * n_in..end * n_in);
            let mut v = v.reborrow().slice(start.min(n * ld)..n * ld);
            lora_down::cuda::forward(self.cuda, n, n_in, end - start, scale, x, a, &mut v, ld)?;
        }
        Ok(())
    }

    /// A weight in bf16 as it is; one in NF4 fused, or by way of the scratch, as the dispatch table says for so
    /// many rows.
    pub(super) fn linear(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        v: Option<Buffer>,
        y: Buffer,
        scratch: Option<Buffer>,
    ) -> Result<(), LaunchError> {
        let (n, cuda) = (self.n, self.cuda);
        let bias = self.weights.bias(layer, linear);
        let (n_out, n_in) = linear.shape(self.config);
        let fused = self.dispatch.forward_is_fused((n_out, n_in), n);
        let adapter = self.adapter.as_deref();
        // Without an adapter there is no V; x stands in for the borrow.
        let v = v.unwrap_or(x);
        let lora = |v| {
            let adapter = adapter?;
            let (slot, columns) = adapter.layout.slot(layer, linear)?;
            let left = cut::<bf16>(v, n * columns);
            Some(LowRank {
                left: left.slice(slot.column.min(n * columns)..n * columns),
                ld: columns,
                r: slot.padded(),
                right: adapter.copy.view().slice(adapter.layout.slot_b(slot)),
            })
        };
        match (self.weights.linear(layer, linear), scratch.filter(|_| !fused)) {
            (GpuMatrix::Bf16(w), _) => {
                let ([x, v], [y]) = self.memory.borrow([x, v], [y]);
                let (x, y) = (cut(x, n * n_in), cut_mut(y, n * n_out));
                dense(cuda, (n_out, n_in), n, x, w.view(), lora(v), bias, y)
            }
            (GpuMatrix::Nf4(w), Some(scratch)) => {
                let ([x, v], [y, scratch]) = self.memory.borrow([x, v], [y, scratch]);
                let (x, y) = (cut(x, n * n_in), cut_mut(y, n * n_out));
                let mut decoded = cut_mut(scratch, n_out * n_in);
                nf4_dequantize::cuda::forward(cuda, w, &mut decoded, n_in)?;
                dense(cuda, (n_out, n_in), n, x, decoded.as_view(), lora(v), bias, y)
            }
            (GpuMatrix::Nf4(w), None) => {
                let ([x, v], [y]) = self.memory.borrow([x, v], [y]);
                let (x, mut y) = (cut(x, n * n_in), cut_mut(y, n * n_out));
                nf4_linear::cuda::forward(cuda, n, x, w, lora(v), bias, &mut y)
            }
        }
    }

    pub(super) fn rope(&mut self, q: Buffer, k: Buffer, rotate: Rotate) -> Result<(), LaunchError> {
        let LlamaConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let ([], [q, k]) = self.memory.borrow([], [q, k]);
        let mut q = cut_mut(q, self.n * num_attention_heads * head_dim);
        let mut k = cut_mut(k, self.n * num_key_value_heads * head_dim);
        rotate(
            self.cuda,
            self.weights.rope(),
            self.batch.position_ids(),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            &mut q,
            &mut k,
        )
    }

    pub(super) fn attention(
        &mut self,
        layer: usize,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
        lse: Buffer,
    ) -> Result<(), LaunchError> {
        let (n, dims) = (self.n, dims(self.config, layer));
        let ([q, k, v], [o, lse]) = self.memory.borrow([q, k, v], [o, lse]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        attention::cuda::forward(
            self.cuda,
            &dims,
            self.batch.cu_seqlens(),
            self.batch.documents(),
            n,
            cut(q, q_len),
            cut(k, kv_len),
            cut(v, kv_len),
            &mut cut_mut(o, q_len),
            &mut cut_mut(lse, n * dims.heads),
        )
    }

    pub(super) fn cached_attention(
        &mut self,
        cache: &mut GpuCache,
        layer: usize,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
    ) -> Result<(), LaunchError> {
        let (n, dims, batch) = (self.n, dims(self.config, layer), self.batch);
        check_at_least("attention::decode", "layers of the cache", cache.k.len(), layer + 1)?;
        let ([q, k, v], [o]) = self.memory.borrow([q, k, v], [o]);
        let (q_len, kv_len) = (n * dims.q_width(), n * dims.kv_width());
        attention::cuda::append(
            self.cuda,
            &dims,
            batch.cu_seqlens(),
            cache.rows,
            n,
            batch.cache_lens(),
            cache.capacity,
            cut(k, kv_len),
            cut(v, kv_len),
            &mut cache.k[layer].view_mut(),
            &mut cache.v[layer].view_mut(),
        )?;
        attention::cuda::decode(
            self.cuda,
            &dims,
            batch.cu_seqlens(),
            cache.rows,
            n,
            batch.cache_totals(),
            cache.capacity,
            cut(q, q_len),
            cache.k[layer].view(),
            cache.v[layer].view(),
            &mut cut_mut(o, q_len),
        )
    }

    pub(super) fn swiglu(
        &mut self,
        gate: Buffer,
        up: Buffer,
        h: Buffer,
    ) -> Result<(), LaunchError> {
        let len = self.n * self.config.intermediate_size;
        let ([gate, up], [h]) = self.memory.borrow([gate, up], [h]);
        swiglu::cuda::forward(self.cuda, cut(gate, len), cut(up, len), &mut cut_mut(h, len))
    }

    pub(super) fn gather(&mut self, x: Buffer, out: Buffer) -> Result<(), LaunchError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let (x, mut out) = (cut(x, self.n * hidden), cut_mut(out, self.p * hidden));
        embedding::cuda::gather(self.cuda, x, self.batch.positions(), hidden, &mut out)
    }

    pub(super) fn logits(&mut self, h: Buffer, logits: Buffer) -> Result<(), LaunchError> {
        let (hidden, ld) = (self.config.hidden_size, logits_pitch(self.config.vocab_size));
        let w = self.weights.head();
        let ([h], [logits]) = self.memory.borrow([h], [logits]);
        let (h, mut logits) = (cut(h, self.p * hidden), cut_mut(logits, self.p * ld));
        head::cuda::forward(self.cuda, self.p, hidden, h, w, &mut logits, ld)
    }

    pub(super) fn loss(
        &mut self,
        h: Buffer,
        logits: Buffer,
        losses: Buffer,
    ) -> Result<(), LaunchError> {
        let (hidden, vocab, cuda) = (self.config.hidden_size, self.config.vocab_size, self.cuda);
        let (w, ld) = (self.weights.head(), logits_pitch(vocab));
        let targets = self.batch.targets();
        let ([h], [logits, losses]) = self.memory.borrow([h], [logits, losses]);
        let (h, mut losses) = (cut::<bf16>(h, self.p * hidden), cut_mut(losses, self.p));
        let mut logits = logits.cast::<f32>();
        for start in (0..self.p).step_by(LOSS_CHUNK) {
            let end = self.p.min(start + LOSS_CHUNK);
            let h = h.slice(start * hidden..end * hidden);
            let mut logits = logits.reborrow().slice(0..(end - start) * ld);
            head::cuda::forward(cuda, end - start, hidden, h, w, &mut logits, ld)?;
            let losses = &mut losses.reborrow().slice(start..end);
            let (logits, targets) = (logits.as_view(), targets.slice(start..end));
            cross_entropy::cuda::forward(cuda, vocab, logits, ld, targets, losses)?;
        }
        Ok(())
    }
}

/// y = x·Wᵀ + V·Bᵀ (+ bias) with W `shape` in bf16, for `n` rows.
#[allow(clippy::too_many_arguments)]
fn dense(
    cuda: &Cuda,
    (n_out, n_in): (usize, usize),
    n: usize,
    x: View<bf16>,
    w: View<bf16>,
    lora: Option<LowRank>,
    bias: Option<View<bf16>>,
    mut y: ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let base = Segment { a: x, lda: n_in, b: w, ldb: n_in, k: n_in };
    match lora {
        None => gemm_bf16::cuda::nt(cuda, n, n_out, 1.0, &[base], bias, &mut y, n_out),
        Some(LowRank { left, ld, r, right }) => {
            let lora = Segment { a: left, lda: ld, b: right, ldb: r, k: r };
            gemm_bf16::cuda::nt(cuda, n, n_out, 1.0, &[base, lora], bias, &mut y, n_out)
        }
    }
}
