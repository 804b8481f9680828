//! The ops of adapters that drop a share of their inputs: each adapter by itself, for each has a mask of its own.

use super::{Builder, op_name};
use crate::device::memory::Buffer;
use crate::model::program::{GradScratch, Group, Op};

impl Builder<'_> {
    /// As [`Builder::lora_down`], each adapter with a mask of its own.
    pub(super) fn dropped_lora_down(&mut self, layer: usize, group: Group, x: Buffer, v: Buffer) {
        for &linear in group.linears() {
            let name = op_name(layer, &format!("{}.lora_down", linear.name()));
            let dropped = self.act(format!("dropped.{name}"), linear.shape(self.config).1);
            self.p.push(name, Op::DroppedLoraDown { layer, linear, x, dropped, v });
        }
    }

    /// As [`Builder::grad_down`], with the masks of the forward pass.
    pub(super) fn dropped_grad_down(
        &mut self,
        layer: usize,
        group: Group,
        u: Buffer,
        x: Buffer,
        scratch: GradScratch,
    ) {
        for &linear in group.linears() {
            let name = op_name(layer, &format!("{}.lora_grad_a", linear.name()));
            let dropped = self.act(format!("dropped.{name}"), linear.shape(self.config).1);
            self.p.push(name, Op::DroppedLoraGradDown { layer, linear, u, x, dropped, scratch });
        }
    }

    /// What each adapter adds to dx, behind its mask.
    pub(super) fn dropped_lora_up(&mut self, layer: usize, group: Group, u: Buffer, dx: Buffer) {
        for &linear in group.linears() {
            let name = op_name(layer, &format!("{}.lora_up.backward", linear.name()));
            let t = self.act(name.clone(), linear.shape(self.config).1);
            self.p.push(name, Op::DroppedLoraUp { layer, linear, u, t, dx });
        }
    }
}
