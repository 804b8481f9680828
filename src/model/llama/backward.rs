//! The ops of the backward pass, layer by layer from the last.

use super::{Builder, Normed, Saved, Target, op_name};
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::program::{AttentionBackward, GradScratch, Group, Norm, Op};

impl Builder<'_> {
    /// The backward pass of all layers. `d_residual` runs down in place.
    pub(super) fn backward(&mut self, d_residual: Buffer, saved: &[Saved]) {
        let widest = [self.config.hidden_size, self.config.intermediate_size]
            .into_iter()
            .chain(Linear::ALL.map(|linear| self.out_features(linear)))
            .max()
            .unwrap_or(0);
        let columns = (0..saved.len())
            .flat_map(|layer| Group::ALL.map(|group| (self.columns)(layer, group)))
            .max()
            .unwrap_or(0);
        for (i, saved) in saved.iter().enumerate().rev() {
            // The scratch is named anew for each layer, so that its lifetime stays short.
            let (stack, splits) = match self.target {
                Target::Cpu { .. } => (columns, 1),
                Target::Cuda { splits, .. } => (0, splits),
            };
            let stack = self.act(format!("stack.{i}"), stack);
            let product = self.p.buffer(format!("product.{i}"), splits * columns * widest * 4);
            let scratch = GradScratch { stack, product };
            self.mlp_backward(i, saved, d_residual, scratch);
            self.attention_backward(i, saved, d_residual, scratch);
        }
    }

    pub(super) fn mlp_backward(
        &mut self,
        i: usize,
        saved: &Saved,
        d_residual: Buffer,
        scratch: GradScratch,
    ) {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let dh = self.act(format!("d_swiglu.{i}"), inner);
        let u =
            self.linears_backward(i, Group::Down, &[d_residual], saved.v_down, Some(dh), scratch);
        let (gate, up) = (saved.gate, saved.up);
        self.p.push(op_name(i, "swiglu.backward"), Op::SwigluBackward { gate, up, dh });
        // dh now holds the SwiGLU product again, gate and up their gradients.
        self.grad_down(i, Group::Down, u, dh, scratch);

        let dx = self.act(format!("d_post_attention_layernorm.{i}"), hidden);
        let v = saved.v_gate_up;
        let u = self.linears_backward(i, Group::GateUp, &[gate, up], v, Some(dx), scratch);
        let (x, rstd, norm) = (saved.residual_mid, saved.rstd_mid, Norm::PostAttention(i));
        if u.is_some() {
            let h = self.norm_again(i, "post_attention_layernorm", x, norm);
            self.grad_down(i, Group::GateUp, u, h, scratch);
        }
        let name = op_name(i, "post_attention_layernorm.backward");
        let dy = dx;
        self.p.push(name, Op::NormBackward { x, norm, rstd, dy, dx: d_residual, gathered: false });
    }

    pub(super) fn attention_backward(
        &mut self,
        i: usize,
        saved: &Saved,
        d_residual: Buffer,
        scratch: GradScratch,
    ) {
        let config = self.config;
        let heads = config.num_attention_heads;
        let d_o = self.act(format!("d_attention.{i}"), heads * config.head_dim);
        let v = saved.v_o;
        let u = self.linears_backward(i, Group::O, &[d_residual], v, Some(d_o), scratch);
        self.grad_down(i, Group::O, u, saved.o, scratch);

        let Some(lse) = saved.lse else { return };
        let [q, k, v] = saved.qkv;
        let delta = self.stat(format!("delta.{i}"), heads);
        let [dq, dk, dv] = [Linear::Q, Linear::K, Linear::V]
            .map(|linear| self.act(format!("d_{}.{i}", linear.name()), self.out_features(linear)));
        let (layer, o) = (i, saved.o);
        let grad = AttentionBackward { layer, q, k, v, o, lse, d_o, delta, dq, dk, dv };
        self.p.push(op_name(i, "attention.backward"), Op::AttentionBackward(grad));
        if config.layer(i).rope {
            self.p.push(op_name(i, "rope.backward"), Op::RopeBackward { dq, dk });
        }
        let (dq, dk) = match saved.qk_norm {
            None => (dq, dk),
            Some([q, k]) => (
                self.qk_norm_backward(i, "q_norm", q, dq),
                self.qk_norm_backward(i, "k_norm", k, dk),
            ),
        };

        // Nothing below the first layer has a gradient: its dx is not made.
        let dx = (i > 0).then(|| self.act(format!("d_input_layernorm.{i}"), config.hidden_size));
        let u = self.linears_backward(i, Group::Qkv, &[dq, dk, dv], saved.v_qkv, dx, scratch);
        let (x, rstd, norm) = (saved.residual, saved.rstd, Norm::Input(i));
        if u.is_some() {
            let h = self.norm_again(i, "input_layernorm", x, norm);
            self.grad_down(i, Group::Qkv, u, h, scratch);
        }
        if let Some(dx) = dx {
            let (dy, dx) = (dx, d_residual);
            let name = op_name(i, "input_layernorm.backward");
            self.p.push(name, Op::NormBackward { x, norm, rstd, dy, dx, gathered: false });
        }
    }

    /// U, dB and dx of a group. Returns U.
    pub(super) fn linears_backward(
        &mut self,
        layer: usize,
        group: Group,
        dy: &[Buffer],
        v: Option<Buffer>,
        dx: Option<Buffer>,
        scratch: GradScratch,
    ) -> Option<Buffer> {
        let u = v.map(|v| {
            let columns = (self.columns)(layer, group);
            let u = self.act(format!("lora_u.{group:?}.{layer}"), columns);
            for (&linear, &dy) in group.linears().iter().zip(dy) {
                let name = |part: &str| op_name(layer, &format!("{}.{part}", linear.name()));
                let down = Op::LoraDownBackward { layer, linear, dy, u };
                self.p.push(name("lora_down.backward"), down);
                let grad = Op::LoraGradUp { layer, linear, v, dy, scratch };
                self.p.push(name("lora_grad_b"), grad);
            }
            u
        });
        if let Some(dx) = dx {
            let scratch = self.backward_scratch(layer, group);
            let name = op_name(layer, &format!("{}.backward", group.name()));
            let dy = dy.to_vec();
            // With dropout the adapters' part has a mask of its own, and is added afterwards.
            let inside = u.filter(|_| !self.dropout);
            self.p.push(name, Op::LinearBackward { layer, group, dy, u: inside, dx, scratch });
            if let Some(u) = u.filter(|_| self.dropout) {
                self.dropped_lora_up(layer, group, u, dx);
            }
        }
        u
    }

    pub(super) fn grad_down(
        &mut self,
        layer: usize,
        group: Group,
        u: Option<Buffer>,
        x: Buffer,
        scratch: GradScratch,
    ) {
        let Some(u) = u else { return };
        if self.dropout {
            return self.dropped_grad_down(layer, group, u, x, scratch);
        }
        let name = op_name(layer, &format!("{}.lora_grad_a", group.name()));
        self.p.push(name, Op::LoraGradDown { layer, group, u, x, scratch });
    }

    pub(super) fn norm_again(&mut self, layer: usize, part: &str, x: Buffer, norm: Norm) -> Buffer {
        let op = op_name(layer, &format!("{part}.again"));
        let rstd = self.stat(format!("{op}.rstd"), 1);
        let y = self.act(op.clone(), self.config.hidden_size);
        self.p.push(op, Op::Norm { x, norm, y, rstd });
        y
    }

    /// dx of q's or k's norm.
    pub(super) fn qk_norm_backward(
        &mut self,
        i: usize,
        part: &str,
        normed: Normed,
        dy: Buffer,
    ) -> Buffer {
        let Normed { norm, x, rstd } = normed;
        let (rows, width) = norm.shape(self.config);
        let width = rows * width;
        let dx = self.act(format!("d_{part}.{i}"), width);
        let name = op_name(i, &format!("{part}.backward"));
        self.p.push(format!("{name}.zero"), Op::Zero { x: dx, width, gathered: false });
        self.p.push(name, Op::NormBackward { x, norm, rstd, dy, dx, gathered: false });
        dx
    }

    /// Room for the decoded weights of a group, where its backward pass takes that way: the fused kernel takes
    /// nothing but NF4.
    pub(super) fn backward_scratch(&mut self, layer: usize, group: Group) -> Option<Buffer> {
        let Target::Cuda { dispatch, nf4, .. } = self.target else { return None };
        let linears = group.linears();
        let quantised = || linears.iter().filter(|linear| nf4(layer, **linear));
        let shapes = || quantised().map(|linear| linear.shape(self.config));
        let fused = shapes().all(|shape| dispatch.backward_is_fused(shape, self.tokens));
        let all = quantised().count() == linears.len();
        let weights: usize = shapes().map(|(out, within)| out * within).sum();
        if weights == 0 || (all && fused) {
            return None;
        }
        let name = format!("decoded.{}.backward.{layer}", group.name());
        Some(self.p.buffer(name, weights * self.element))
    }
}
