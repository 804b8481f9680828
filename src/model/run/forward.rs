//! The forward ops of a program: which slices of which buffers each one gets.

use std::ops::Range;

use super::{Rotate, Run, cut, cut_mut, dims, norm_weight, slot};
use crate::device::cpu::{GemmElement, chunks, chunks_mut};
use crate::device::memory::Buffer;
use crate::model::config::{Linear, LlamaConfig};
use crate::model::kv_cache::KvCache;
use crate::model::llama::LOSS_CHUNK;
use crate::model::program::{Group, Norm};
use crate::ops::linear::LowRank;
use crate::ops::{
    ShapeError, attention, cross_entropy, embedding, head, linear, lora_down, rms_norm, swiglu,
};

/// Rows in one task of a copy.
const ROWS: usize = 16;

impl<E: GemmElement> Run<'_, E> {
    pub(super) fn embedding(&mut self, out: Buffer) -> Result<(), ShapeError> {
        let (table, hidden) = (&self.weights.embed_tokens, self.config.hidden_size);
        let ([], [out]) = self.memory.borrow([], [out]);
        let out = cut_mut::<E>(out, self.n * hidden);
        embedding::forward(self.cpu, self.inputs.tokens, table.as_slice(), hidden, out)
    }

    pub(super) fn add(
        &mut self,
        x: Buffer,
        residual: Buffer,
        out: Buffer,
    ) -> Result<(), ShapeError> {
        let len = self.n * self.config.hidden_size;
        let ([x, residual], [out]) = self.memory.borrow([x, residual], [out]);
        let hidden = self.config.hidden_size;
        rms_norm::add(self.cpu, hidden, cut::<E>(x, len), cut(residual, len), cut_mut(out, len))
    }

    pub(super) fn norm(
        &mut self,
        x: Buffer,
        norm: Norm,
        y: Buffer,
        rstd: Buffer,
    ) -> Result<(), ShapeError> {
        let tokens = if norm == Norm::Final { self.p } else { self.n };
        let (rows, width) = norm.shape(self.config);
        let (rows, eps) = (tokens * rows, self.config.rms_norm_eps as f32);
        let weights = self.weights;
        let ([x], [y, rstd]) = self.memory.borrow([x], [y, rstd]);
        let (x, y) = (cut::<E>(x, rows * width), cut_mut::<E>(y, rows * width));
        let w = norm_weight(weights, norm);
        rms_norm::forward(self.cpu, width, eps, x, w, y, cut_mut(rstd, rows))
    }

    pub(super) fn add_norm(
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
        let w = norm_weight(self.weights, norm);
        let (x, residual, out) = (cut::<E>(x, len), cut(residual, len), cut_mut(out, len));
        let (y, rstd) = (cut_mut(y, len), cut_mut(rstd, self.n));
        rms_norm::add_forward(self.cpu, hidden, eps, x, residual, out, w, y, rstd)
    }

    pub(super) fn lora_down(
        &mut self,
        layer: usize,
        group: Group,
        x: Buffer,
        v: Buffer,
    ) -> Result<(), ShapeError> {
        let Some(adapter) = self.adapter else { return Ok(()) };
        let n_in = group.linears()[0].shape(self.config).1;
        let layout = adapter.group(layer, group);
        let (n, ld) = (self.n, layout.columns);
        let ([x], [v]) = self.memory.borrow([x], [v]);
        let (x, v) = (cut::<E>(x, n * n_in), cut_mut::<E>(v, n * ld));
        let a = adapter.a(layer, group, n_in);
        for (Range { start, end }, scale) in layout.scaled() {
            let dims = lora_down::Dims { m: n, width: n_in, r: end - start, ld };
            let (a, v) = (&a[start * n_in..end * n_in], &mut v[start.min(n * ld)..]);
            lora_down::forward(self.cpu, dims, scale, x, a, v)?;
        }
        Ok(())
    }

    pub(super) fn linear(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        v: Option<Buffer>,
        y: Buffer,
    ) -> Result<(), ShapeError> {
        let n = self.n;
        let weights = &self.weights.layers[layer];
        let (w, bias) = (weights.linear(linear).as_weight(), weights.bias(linear));
        let slot = slot(self.adapter, layer, linear);
        // Without an adapter there is no V; x stands in for the borrow.
        let ([x, v], [y]) = self.memory.borrow([x, v.unwrap_or(x)], [y]);
        let lora = slot.map(|(adapter, columns, slot)| LowRank {
            left: &cut::<E>(v, n * columns)[slot.column.min(n * columns)..],
            ld: columns,
            r: slot.padded(),
            right: adapter.slot_b(slot),
        });
        let (n_out, n_in) = w.shape();
        let (x, y) = (cut::<E>(x, n * n_in), cut_mut::<E>(y, n * n_out));
        linear::forward(self.cpu, n, x, w, lora, bias, y)
    }

    pub(super) fn rope(
        &mut self,
        q: Buffer,
        k: Buffer,
        rotate: Rotate<E>,
    ) -> Result<(), ShapeError> {
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

    pub(super) fn attention(
        &mut self,
        layer: usize,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
        lse: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config, layer));
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

    pub(super) fn cached_attention(
        &mut self,
        cache: &mut KvCache<E>,
        layer: usize,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        o: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, dims) = (self.n, dims(self.config, layer));
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

    pub(super) fn swiglu(&mut self, gate: Buffer, up: Buffer, h: Buffer) -> Result<(), ShapeError> {
        let len = self.n * self.config.intermediate_size;
        let ([gate, up], [h]) = self.memory.borrow([gate, up], [h]);
        swiglu::forward(self.cpu, cut::<E>(gate, len), cut(up, len), cut_mut(h, len))
    }

    pub(super) fn gather(&mut self, x: Buffer, out: Buffer) -> Result<(), ShapeError> {
        let hidden = self.config.hidden_size;
        let ([x], [out]) = self.memory.borrow([x], [out]);
        let x = cut::<E>(x, self.n * hidden);
        let out = cut_mut::<E>(out, self.p * hidden);
        crate::ops::check_all_below("gather", "loss position", self.inputs.positions, self.n)?;
        let blocks = (chunks_mut(out, ROWS * hidden), chunks(self.inputs.positions, ROWS));
        self.cpu.blocks(blocks, |(out, positions)| {
            for (out, &row) in out.chunks_exact_mut(hidden).zip(positions) {
                out.copy_from_slice(&x[row as usize * hidden..][..hidden]);
            }
        });
        Ok(())
    }

    pub(super) fn logits(&mut self, h: Buffer, logits: Buffer) -> Result<(), ShapeError> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let w = self.weights.head().as_slice();
        let ([h], [logits]) = self.memory.borrow([h], [logits]);
        let (h, logits) = (cut::<E>(h, self.p * hidden), cut_mut(logits, self.p * vocab));
        head::forward(self.cpu, self.p, hidden, h, w, logits)
    }

    pub(super) fn loss(
        &mut self,
        h: Buffer,
        logits: Buffer,
        losses: Buffer,
    ) -> Result<(), ShapeError> {
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
