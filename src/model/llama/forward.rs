//! The ops of a layer's forward pass.

use super::{Builder, Kind, Normed, Saved, Target, op_name};
use crate::device::memory::Buffer;
use crate::model::config::Linear;
use crate::model::program::{Group, Norm, Op};

impl Builder<'_> {
    /// A layer's forward pass. `pending` is the previous layer's MLP output, which is added to the
    /// residual by the first norm.
    pub(super) fn layer(
        &mut self,
        i: usize,
        residual: Buffer,
        pending: Option<Buffer>,
    ) -> (Saved, Buffer) {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("{part}.{i}");
        let op = |part: &str| op_name(i, part);
        let h = self.act(name("input_layernorm"), hidden);
        let rstd = self.stat(name("rstd"), 1);
        let norm = Norm::Input(i);
        let residual = match pending {
            None => {
                self.p.push(op("input_layernorm"), Op::Norm { x: residual, norm, y: h, rstd });
                residual
            }
            Some(x) => {
                let out = self.act(name("residual"), hidden);
                self.p.push(
                    op("input_layernorm"),
                    Op::AddNorm { x, residual, out, norm, y: h, rstd },
                );
                out
            }
        };
        let v_qkv = self.lora_down(i, Group::Qkv, h);
        let qkv = [Linear::Q, Linear::K, Linear::V].map(|linear| self.linear(i, linear, h, v_qkv));
        let (qkv, qk_norm) = self.qk_norm(i, qkv);
        let [q, k, v] = qkv;
        if config.layer(i).rope {
            self.p.push(op("rope"), Op::Rope { q, k });
        }
        let o = self.act(name("attention"), config.num_attention_heads * config.head_dim);
        let lse = if let Kind::Generate { .. } = self.kind {
            self.p.push(op("attention"), Op::CachedAttention { layer: i, q, k, v, o });
            None
        } else {
            let lse = self.stat(name("lse"), config.num_attention_heads);
            self.p.push(op("attention"), Op::Attention { layer: i, q, k, v, o, lse });
            Some(lse)
        };
        let v_o = self.lora_down(i, Group::O, o);
        let x = self.linear(i, Linear::O, o, v_o);
        let residual_mid = self.act(name("residual_mid"), hidden);
        let h = self.act(name("post_attention_layernorm"), hidden);
        let rstd_mid = self.stat(name("rstd_mid"), 1);
        let norm = Norm::PostAttention(i);
        self.p.push(
            op("post_attention_layernorm"),
            Op::AddNorm { x, residual, out: residual_mid, norm, y: h, rstd: rstd_mid },
        );
        let v_gate_up = self.lora_down(i, Group::GateUp, h);
        let [gate, up] =
            [Linear::Gate, Linear::Up].map(|linear| self.linear(i, linear, h, v_gate_up));
        let h = self.act(name("swiglu"), inner);
        self.p.push(op("swiglu"), Op::Swiglu { gate, up, h });
        let v_down = self.lora_down(i, Group::Down, h);
        let out = self.linear(i, Linear::Down, h, v_down);
        let saved = Saved {
            residual,
            rstd,
            v_qkv,
            qkv,
            qk_norm,
            o,
            lse,
            v_o,
            residual_mid,
            rstd_mid,
            v_gate_up,
            gate,
            up,
            v_down,
        };
        (saved, out)
    }

    /// The norms of q's and k's heads, where the model has them: what attention takes, and what backward needs.
    pub(super) fn qk_norm(
        &mut self,
        i: usize,
        qkv: [Buffer; 3],
    ) -> ([Buffer; 3], Option<[Normed; 2]>) {
        if !self.config.differences.qk_norm {
            return (qkv, None);
        }
        let [q, k, v] = qkv;
        let mut norm = |part: &str, norm: Norm, x: Buffer| {
            let (rows, width) = norm.shape(self.config);
            let y = self.act(format!("{part}.{i}"), rows * width);
            let rstd = self.stat(format!("{part}.rstd.{i}"), rows);
            self.p.push(op_name(i, part), Op::Norm { x, norm, y, rstd });
            (y, Normed { norm, x, rstd })
        };
        let (q, q_normed) = norm("q_norm", Norm::Query(i), q);
        let (k, k_normed) = norm("k_norm", Norm::Key(i), k);
        ([q, k, v], Some([q_normed, k_normed]))
    }

    pub(super) fn lora_down(&mut self, layer: usize, group: Group, x: Buffer) -> Option<Buffer> {
        let columns = (self.columns)(layer, group);
        if columns == 0 {
            return None;
        }
        let v = self.act(format!("lora_v.{group:?}.{layer}"), columns);
        if self.dropout {
            self.dropped_lora_down(layer, group, x, v);
        } else {
            let name = op_name(layer, &format!("{}.lora_down", group.name()));
            self.p.push(name, Op::LoraDown { layer, group, x, v });
        }
        Some(v)
    }

    pub(super) fn linear(
        &mut self,
        layer: usize,
        linear: Linear,
        x: Buffer,
        v: Option<Buffer>,
    ) -> Buffer {
        let y = self.act(linear.path(layer), self.out_features(linear));
        let scratch = self.forward_scratch(layer, linear);
        let name = op_name(layer, linear.name());
        self.p.push(name, Op::Linear { layer, linear, x, v, y, scratch });
        y
    }

    /// Room for a linear's decoded weight, where its forward pass takes that way.
    pub(super) fn forward_scratch(&mut self, layer: usize, linear: Linear) -> Option<Buffer> {
        let Target::Cuda { dispatch, nf4, .. } = self.target else { return None };
        let (out_features, in_features) = linear.shape(self.config);
        if !nf4(layer, linear)
            || dispatch.forward_is_fused((out_features, in_features), self.tokens)
        {
            return None;
        }
        let bytes = out_features * in_features * self.element;
        Some(self.p.buffer(format!("decoded.{}.{layer}", linear.name()), bytes))
    }
}
