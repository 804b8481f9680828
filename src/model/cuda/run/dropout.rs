//! The ops that have randomness, on the device: adapters that drop a share of their inputs, and noise on the
//! embeddings.

use half::bf16;

use super::{Run, cut, cut_mut};
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::engine::Noise;
use crate::model::program::{GradScratch, Group};
use crate::model::run::mask;
use crate::ops::lora_grad::cuda::Left;
use crate::ops::{LaunchError, dropout, lora_down, lora_grad, lora_up, neftune};

impl Run<'_> {
    pub(super) fn neftune(&mut self, x: Buffer) -> Result<(), LaunchError> {
        let Noise { moment, neftune_alpha } = self.noise;
        if neftune_alpha == 0.0 {
            return Ok(());
        }
        let (n, hidden, batch) = (self.n, self.config.hidden_size, self.batch);
        let ([], [x]) = self.memory.borrow([], [x]);
        neftune::cuda::forward(
            self.cuda,
            neftune_alpha,
            moment,
            batch.cu_seqlens(),
            batch.documents(),
            n,
            hidden,
            &mut cut_mut(x, n * hidden),
        )
    }

    pub(super) fn dropped_lora_down(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        dropped: Buffer,
        v: Buffer,
    ) -> Result<(), LaunchError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let Some((slot, ld)) = adapter.layout.slot(layer, linear) else { return Ok(()) };
        let mask = mask(&self.noise, &adapter.layout, layer, linear);
        let group = Group::of(linear);
        let a = adapter.copy.view().slice(adapter.layout.slot_a(layer, group, slot, n_in));
        let ([x], [dropped, v]) = self.memory.borrow([x], [dropped, v]);
        let mut dropped = cut_mut(dropped, n * n_in);
        dropout::cuda::forward(self.cuda, mask, cut(x, n * n_in), &mut dropped)?;
        let mut v = cut_mut::<bf16>(v, n * ld).slice(slot.column.min(n * ld)..n * ld);
        let (r, scale, x) = (slot.padded(), slot.scale, dropped.as_view());
        lora_down::cuda::forward(self.cuda, n, n_in, r, scale, x, a, &mut v, ld)
    }

    pub(super) fn dropped_lora_grad_down(
        &mut self,
        layer: usize,
        linear: Linear,
        u: Buffer,
        x: Buffer,
        dropped: Buffer,
        scratch: GradScratch,
    ) -> Result<(), LaunchError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some(adapter) = self.adapter.as_deref_mut() else { return Ok(()) };
        let Some((slot, ld)) = adapter.layout.slot(layer, linear) else { return Ok(()) };
        let Some(training) = &mut adapter.training else { return Ok(()) };
        let mask = mask(&self.noise, &adapter.layout, layer, linear);
        let ([u, x], [dropped, partial]) = self.memory.borrow([u, x], [dropped, scratch.product]);
        let mut dropped = cut_mut(dropped, n * n_in);
        dropout::cuda::forward(self.cuda, mask, cut(x, n * n_in), &mut dropped)?;
        let data = cut::<bf16>(u, n * ld).slice(slot.column.min(n * ld)..n * ld);
        let left = Left { data, ld, columns: slot.padded(), partial: partial.cast() };
        let (x, grads) = (dropped.as_view(), &mut training.grads.view_mut());
        lora_grad::cuda::down(self.cuda, n, n_in, left, x, &[slot.a_part()], grads)
    }

    pub(super) fn dropped_lora_up(
        &mut self,
        layer: usize,
        linear: Linear,
        u: Buffer,
        t: Buffer,
        dx: Buffer,
    ) -> Result<(), LaunchError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let Some((slot, ld)) = adapter.layout.slot(layer, linear) else { return Ok(()) };
        let mask = mask(&self.noise, &adapter.layout, layer, linear);
        let group = Group::of(linear);
        let a = adapter.copy.view().slice(adapter.layout.slot_a(layer, group, slot, n_in));
        let ([u], [t, dx]) = self.memory.borrow([u], [t, dx]);
        let (mut t, mut dx) = (cut_mut(t, n * n_in), cut_mut(dx, n * n_in));
        let u = cut::<bf16>(u, n * ld).slice(slot.column.min(n * ld)..n * ld);
        let dims = lora_up::Dims { m: n, width: n_in, r: slot.padded(), ld };
        lora_up::cuda::forward(self.cuda, dims, u, a, &mut t)?;
        dropout::cuda::backward(self.cuda, mask, t.as_view(), &mut dx)
    }
}
