//! The Llama decoder as a program: forward, loss, and the backward pass written out.
//!
//! Touvron et al. 2023 (arXiv 2302.13971). The base is frozen, so the backward pass is short: only
//! adapters get gradients, dx stops at the first layer's inputs, norms have no dw, and
//! V = s·x·Aᵀ (forward) and U = s·dy·B (backward) are each made once and used twice.
//! Kept for the backward pass, per layer: both residuals, q, k, v, o with its log-sum-exp, gate
//! and up, the V's. Norms and the SwiGLU product are made again.

use super::config::{Linear, LlamaConfig};
use super::program::{AttentionBackward, GradScratch, Group, LossGradient, Norm, Op, Program};
use crate::device::memory::Buffer;

/// Rows of logits that exist at a time.
pub const LOSS_CHUNK: usize = 256;

/// What a program is for, and its largest sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Losses and adapter gradients of packed documents of at most `tokens` tokens.
    Train { tokens: usize },
    /// Losses only.
    Eval { tokens: usize },
    /// Logits of the last token of each of at most `rows` rows, attending to a KV cache.
    Generate { tokens: usize, rows: usize },
}

/// A program and the buffers that its user reads.
pub struct LlamaProgram {
    pub program: Program,
    /// f32 `[P]`: −log p of each loss position (`Train`, `Eval`).
    pub losses: Buffer,
    /// f32 `[rows, vocab]` (`Generate`), else the loss chunk's scratch.
    pub logits: Buffer,
}

/// Columns of V and U of a group in a layer; 0 where nothing is adapted.
pub type Columns<'a> = &'a dyn Fn(usize, Group) -> usize;

/// Builds the program. `element` is the size of an activation in bytes.
pub fn build(
    config: &LlamaConfig,
    kind: Kind,
    element: usize,
    columns: Columns<'_>,
) -> LlamaProgram {
    let tokens = match kind {
        Kind::Train { tokens } | Kind::Eval { tokens } | Kind::Generate { tokens, .. } => tokens,
    };
    let mut builder = Builder { config, kind, tokens, element, columns, p: Program::default() };
    builder.run()
}

/// What one layer leaves for its backward pass.
struct Saved {
    residual: Buffer,
    rstd: Buffer,
    v_qkv: Option<Buffer>,
    qkv: [Buffer; 3],
    o: Buffer,
    lse: Option<Buffer>,
    v_o: Option<Buffer>,
    residual_mid: Buffer,
    rstd_mid: Buffer,
    v_gate_up: Option<Buffer>,
    gate: Buffer,
    up: Buffer,
    v_down: Option<Buffer>,
}

struct Builder<'a> {
    config: &'a LlamaConfig,
    kind: Kind,
    tokens: usize,
    element: usize,
    columns: Columns<'a>,
    p: Program,
}

impl Builder<'_> {
    /// An activation `[T, width]`.
    fn act(&mut self, name: String, width: usize) -> Buffer {
        self.p.buffer(name, self.tokens * width * self.element)
    }

    /// An f32 statistic `[T, width]`.
    fn stat(&mut self, name: String, width: usize) -> Buffer {
        self.p.buffer(name, self.tokens * width * 4)
    }

    fn out_features(&self, linear: Linear) -> usize {
        linear.shape(self.config).0
    }

    fn run(&mut self) -> LlamaProgram {
        let hidden = self.config.hidden_size;
        let layers = self.config.num_hidden_layers;
        let mut residual = self.act("residual.0".into(), hidden);
        self.p.push(Op::Embedding { out: residual });
        let mut saved: Vec<Saved> = Vec::with_capacity(layers);
        let mut mlp_out = None;
        for layer in 0..layers {
            let (state, out) = self.layer(layer, residual, mlp_out);
            residual = state.residual_mid;
            saved.push(state);
            mlp_out = Some(out);
        }
        let last = match mlp_out {
            Some(x) => {
                let out = self.act("residual.last".into(), hidden);
                self.p.push(Op::Add { x, residual, out });
                out
            }
            None => residual,
        };
        self.head(last, &saved)
    }

    /// A layer's forward pass. `pending` is the previous layer's MLP output, which is added to the
    /// residual by the first norm.
    fn layer(&mut self, i: usize, residual: Buffer, pending: Option<Buffer>) -> (Saved, Buffer) {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("{part}.{i}");
        let h = self.act(name("input_layernorm"), hidden);
        let rstd = self.stat(name("rstd"), 1);
        let norm = Norm::Input(i);
        let residual = match pending {
            None => {
                self.p.push(Op::Norm { x: residual, norm, y: h, rstd });
                residual
            }
            Some(x) => {
                let out = self.act(name("residual"), hidden);
                self.p.push(Op::AddNorm { x, residual, out, norm, y: h, rstd });
                out
            }
        };
        let v_qkv = self.lora_down(i, Group::Qkv, h);
        let qkv = [Linear::Q, Linear::K, Linear::V].map(|linear| self.linear(i, linear, h, v_qkv));
        let [q, k, v] = qkv;
        self.p.push(Op::Rope { q, k });
        let o = self.act(name("attention"), config.num_attention_heads * config.head_dim);
        let lse = if let Kind::Generate { .. } = self.kind {
            self.p.push(Op::CachedAttention { layer: i, q, k, v, o });
            None
        } else {
            let lse = self.stat(name("lse"), config.num_attention_heads);
            self.p.push(Op::Attention { q, k, v, o, lse });
            Some(lse)
        };
        let v_o = self.lora_down(i, Group::O, o);
        let x = self.linear(i, Linear::O, o, v_o);
        let residual_mid = self.act(name("residual_mid"), hidden);
        let h = self.act(name("post_attention_layernorm"), hidden);
        let rstd_mid = self.stat(name("rstd_mid"), 1);
        let norm = Norm::PostAttention(i);
        self.p.push(Op::AddNorm { x, residual, out: residual_mid, norm, y: h, rstd: rstd_mid });
        let v_gate_up = self.lora_down(i, Group::GateUp, h);
        let [gate, up] =
            [Linear::Gate, Linear::Up].map(|linear| self.linear(i, linear, h, v_gate_up));
        let h = self.act(name("swiglu"), inner);
        self.p.push(Op::Swiglu { gate, up, h });
        let v_down = self.lora_down(i, Group::Down, h);
        let out = self.linear(i, Linear::Down, h, v_down);
        let saved = Saved {
            residual,
            rstd,
            v_qkv,
            qkv,
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

    fn lora_down(&mut self, layer: usize, group: Group, x: Buffer) -> Option<Buffer> {
        let columns = (self.columns)(layer, group);
        if columns == 0 {
            return None;
        }
        let v = self.act(format!("lora_v.{group:?}.{layer}"), columns);
        self.p.push(Op::LoraDown { layer, group, x, v });
        Some(v)
    }

    fn linear(&mut self, layer: usize, linear: Linear, x: Buffer, v: Option<Buffer>) -> Buffer {
        let y = self.act(linear.path(layer), self.out_features(linear));
        self.p.push(Op::Linear { layer, linear, x, v, y });
        y
    }

    /// Everything behind the last layer, and the way back.
    fn head(&mut self, last: Buffer, saved: &[Saved]) -> LlamaProgram {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let rows = match self.kind {
            Kind::Generate { rows, .. } => rows,
            _ => self.tokens,
        };
        let chunk = match self.kind {
            Kind::Generate { rows, .. } => rows,
            _ => LOSS_CHUNK.min(self.tokens),
        };
        let gathered = self.p.buffer("gathered", rows * hidden * self.element);
        self.p.push(Op::Gather { x: last, out: gathered });
        let h = self.p.buffer("norm", rows * hidden * self.element);
        let rstd = self.p.buffer("norm.rstd", rows * 4);
        let logits = self.p.buffer("logits", chunk * vocab * 4);
        let losses = self.p.buffer("losses", rows * 4);
        self.p.push(Op::Norm { x: gathered, norm: Norm::Final, y: h, rstd });
        match self.kind {
            Kind::Generate { .. } => {
                self.p.push(Op::Logits { h, logits });
                self.p.keep(logits);
            }
            Kind::Eval { .. } => {
                self.p.push(Op::Loss { h, logits, losses, gradient: None });
                self.p.keep(losses);
            }
            Kind::Train { .. } => {
                let dlogits = self.p.buffer("dlogits", chunk * vocab * self.element);
                let dh = self.p.buffer("d_norm", rows * hidden * self.element);
                let gradient = Some(LossGradient { dlogits, dh });
                self.p.push(Op::Loss { h, logits, losses, gradient });
                self.p.keep(losses);
                let dx = self.p.buffer("d_gathered", rows * hidden * self.element);
                let norm = Norm::Final;
                self.p.push(Op::Zero { x: dx });
                self.p.push(Op::NormBackward {
                    x: gathered,
                    norm,
                    rstd,
                    dy: dh,
                    dx,
                    gathered: true,
                });
                let d_residual = self.act("d_residual".into(), hidden);
                self.p.push(Op::Scatter { x: dx, out: d_residual });
                self.backward(d_residual, saved);
            }
        }
        LlamaProgram { program: std::mem::take(&mut self.p), losses, logits }
    }

    /// The backward pass of all layers. `d_residual` runs down in place.
    fn backward(&mut self, d_residual: Buffer, saved: &[Saved]) {
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
            let stack = self.act(format!("stack.{i}"), columns);
            let product = self.p.buffer(format!("product.{i}"), columns * widest * 4);
            let scratch = GradScratch { stack, product };
            self.mlp_backward(i, saved, d_residual, scratch);
            self.attention_backward(i, saved, d_residual, scratch);
        }
    }

    fn mlp_backward(&mut self, i: usize, saved: &Saved, d_residual: Buffer, scratch: GradScratch) {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let dh = self.act(format!("d_swiglu.{i}"), inner);
        let u =
            self.linears_backward(i, Group::Down, &[d_residual], saved.v_down, Some(dh), scratch);
        let (gate, up) = (saved.gate, saved.up);
        self.p.push(Op::SwigluBackward { gate, up, dh });
        // dh now holds the SwiGLU product again, gate and up their gradients.
        self.grad_down(i, Group::Down, u, dh, scratch);

        let dx = self.act(format!("d_post_attention_layernorm.{i}"), hidden);
        let v = saved.v_gate_up;
        let u = self.linears_backward(i, Group::GateUp, &[gate, up], v, Some(dx), scratch);
        let (x, rstd, norm) = (saved.residual_mid, saved.rstd_mid, Norm::PostAttention(i));
        if u.is_some() {
            let h = self.norm_again(format!("post_attention_layernorm_again.{i}"), x, norm);
            self.grad_down(i, Group::GateUp, u, h, scratch);
        }
        self.p.push(Op::NormBackward { x, norm, rstd, dy: dx, dx: d_residual, gathered: false });
    }

    fn attention_backward(
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
        let (o, dqk) = (saved.o, Op::RopeBackward { dq, dk });
        let grad = AttentionBackward { q, k, v, o, lse, d_o, delta, dq, dk, dv };
        self.p.push(Op::AttentionBackward(grad));
        self.p.push(dqk);

        // Nothing below the first layer has a gradient: its dx is not made.
        let dx = (i > 0).then(|| self.act(format!("d_input_layernorm.{i}"), config.hidden_size));
        let u = self.linears_backward(i, Group::Qkv, &[dq, dk, dv], saved.v_qkv, dx, scratch);
        let (x, rstd, norm) = (saved.residual, saved.rstd, Norm::Input(i));
        if u.is_some() {
            let h = self.norm_again(format!("input_layernorm_again.{i}"), x, norm);
            self.grad_down(i, Group::Qkv, u, h, scratch);
        }
        if let Some(dx) = dx {
            self.p.push(Op::NormBackward {
                x,
                norm,
                rstd,
                dy: dx,
                dx: d_residual,
                gathered: false,
            });
        }
    }

    /// U, dB and dx of a group. Returns U.
    fn linears_backward(
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
                self.p.push(Op::LoraDownBackward { layer, linear, dy, u });
                self.p.push(Op::LoraGradUp { layer, linear, v, dy, scratch });
            }
            u
        });
        if let Some(dx) = dx {
            self.p.push(Op::LinearBackward { layer, group, dy: dy.to_vec(), u, dx });
        }
        u
    }

    fn grad_down(
        &mut self,
        layer: usize,
        group: Group,
        u: Option<Buffer>,
        x: Buffer,
        scratch: GradScratch,
    ) {
        if let Some(u) = u {
            self.p.push(Op::LoraGradDown { layer, group, u, x, scratch });
        }
    }

    fn norm_again(&mut self, name: String, x: Buffer, norm: Norm) -> Buffer {
        let rstd = self.stat(format!("{name}.rstd"), 1);
        let y = self.act(name, self.config.hidden_size);
        self.p.push(Op::Norm { x, norm, y, rstd });
        y
    }
}
