//! The ops that have randomness: adapters that drop a share of their inputs, and noise on the embeddings.

use super::{Run, cut, cut_mut, slot};
use crate::device::cpu::GemmElement;
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::engine::Noise;
use crate::model::lora_layout::AdapterLayout;
use crate::model::program::{GradScratch, Group};
use crate::ops::dropout::Mask;
use crate::ops::lora_grad::Left;
use crate::ops::{ShapeError, dropout, lora_down, lora_grad, lora_up, neftune};

/// The mask of a linear's adapter.
pub(in crate::model) fn mask(
    noise: &Noise,
    layout: &AdapterLayout,
    layer: usize,
    linear: Linear,
) -> Mask {
    let module = layer * Linear::ALL.len() + linear as usize;
    Mask::new(noise.moment, module as u32, layout.dropout)
}

impl<E: GemmElement> Run<'_, E> {
    pub(super) fn neftune(&mut self, x: Buffer) -> Result<(), ShapeError> {
        let Noise { moment, neftune_alpha } = self.inputs.noise;
        if neftune_alpha == 0.0 {
            return Ok(());
        }
        let hidden = self.config.hidden_size;
        let ([], [x]) = self.memory.borrow([], [x]);
        let x = cut_mut::<E>(x, self.n * hidden);
        neftune::forward(self.cpu, neftune_alpha, moment, self.inputs.cu_seqlens, hidden, x)
    }

    pub(super) fn dropped_lora_down(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        dropped: Buffer,
        v: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some((adapter, ld, slot)) = slot(self.adapter, layer, linear) else { return Ok(()) };
        let mask = mask(&self.inputs.noise, &adapter.layout, layer, linear);
        let ([x], [dropped, v]) = self.memory.borrow([x], [dropped, v]);
        let (x, dropped) = (cut::<E>(x, n * n_in), cut_mut::<E>(dropped, n * n_in));
        dropout::forward(self.cpu, mask, x, dropped)?;
        let v = &mut cut_mut::<E>(v, n * ld)[slot.column.min(n * ld)..];
        let a = adapter.slot_a(layer, Group::of(linear), slot, n_in);
        let dims = lora_down::Dims { m: n, width: n_in, r: slot.padded(), ld };
        lora_down::forward(self.cpu, dims, slot.scale, dropped, a, v)
    }

    pub(super) fn dropped_lora_grad_down(
        &mut self,
        layer: usize,
        linear: Linear,
        u: Buffer,
        x: Buffer,
        dropped: Buffer,
        scratch: GradScratch,
    ) -> Result<(), ShapeError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some((adapter, ld, slot)) = slot(self.adapter, layer, linear) else { return Ok(()) };
        let mask = mask(&self.inputs.noise, &adapter.layout, layer, linear);
        let columns = slot.padded();
        let GradScratch { stack, product } = scratch;
        let ([u, x], [dropped, stack, product]) =
            self.memory.borrow([u, x], [dropped, stack, product]);
        let (x, dropped) = (cut::<E>(x, n * n_in), cut_mut::<E>(dropped, n * n_in));
        dropout::forward(self.cpu, mask, x, dropped)?;
        let left = Left {
            data: &cut::<E>(u, n * ld)[slot.column.min(n * ld)..],
            ld,
            columns,
            stack: cut_mut(stack, columns * n),
            product: cut_mut(product, columns * n_in),
        };
        let part = std::iter::once(slot.a_part());
        lora_grad::down(self.cpu, n, n_in, left, dropped, part, self.grads)
    }

    pub(super) fn dropped_lora_up(
        &mut self,
        layer: usize,
        linear: Linear,
        u: Buffer,
        t: Buffer,
        dx: Buffer,
    ) -> Result<(), ShapeError> {
        let (n, n_in) = (self.n, linear.shape(self.config).1);
        let Some((adapter, ld, slot)) = slot(self.adapter, layer, linear) else { return Ok(()) };
        let mask = mask(&self.inputs.noise, &adapter.layout, layer, linear);
        let a = adapter.slot_a(layer, Group::of(linear), slot, n_in);
        let ([u], [t, dx]) = self.memory.borrow([u], [t, dx]);
        let (t, dx) = (cut_mut::<E>(t, n * n_in), cut_mut::<E>(dx, n * n_in));
        let u = &cut::<E>(u, n * ld)[slot.column.min(n * ld)..];
        let dims = lora_up::Dims { m: n, width: n_in, r: slot.padded(), ld };
        lora_up::forward(self.cpu, dims, u, a, t)?;
        dropout::backward(self.cpu, mask, t, dx)
    }
}
