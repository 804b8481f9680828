//! The Llama decoder as a program: forward, loss, and the backward pass written out.
//!
//! Touvron et al. 2023 (arXiv 2302.13971). The base is frozen, so the backward pass is short: only
//! adapters get gradients, dx stops at the first layer's inputs, norms have no dw, and
//! V = s·x·Aᵀ (forward) and U = s·dy·B (backward) are each made once and used twice.
//! Kept for the backward pass, per layer: both residuals, q, k, v, o with its log-sum-exp, gate
//! and up, the V's; q and k also from before their norms, where there are such. The other norms and the
//! SwiGLU product are made again. Which layer rotates, slides or norms, the configuration says
//! (`model::family`).

use super::config::{Linear, LlamaConfig};
use super::dispatch::Dispatch;
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

impl Kind {
    /// The most tokens of a run.
    pub fn tokens(self) -> usize {
        match self {
            Kind::Train { tokens } | Kind::Eval { tokens } | Kind::Generate { tokens, .. } => {
                tokens
            }
        }
    }

    /// The most rows whose final hidden state is wanted.
    pub fn rows(self) -> usize {
        match self {
            Kind::Train { tokens } | Kind::Eval { tokens } => tokens,
            Kind::Generate { rows, .. } => rows,
        }
    }

    /// The same program for runs of at most `tokens` tokens.
    pub fn with_tokens(self, tokens: usize) -> Self {
        match self {
            Kind::Train { .. } => Kind::Train { tokens },
            Kind::Eval { .. } => Kind::Eval { tokens },
            Kind::Generate { rows, .. } => Kind::Generate { tokens, rows },
        }
    }
}

/// What of a program's memory depends on the device.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Activations of so many bytes.
    Cpu { element: usize },
    /// bf16; logits at a pitch of [`logits_pitch`]; where the table says so, scratch for decoded weights of
    /// those that are in NF4; scratch for so many partial products of the adapters' gradients.
    Cuda { dispatch: &'a Dispatch, nf4: IsNf4<'a>, splits: usize },
}

/// Elements between two rows of logits on a GPU, whose kernels load 8 at a time.
pub fn logits_pitch(vocab: usize) -> usize {
    vocab.next_multiple_of(8)
}

/// A program and the buffers that its user reads.
pub struct LlamaProgram {
    pub program: Program,
    /// f32 `[P]`: −log p of each loss position (`Train`, `Eval`).
    pub losses: Buffer,
    /// f32 `[rows, vocab]` (`Generate`), else the loss chunk's scratch; on a GPU with padded rows.
    pub logits: Buffer,
}

/// Columns of V and U of a group in a layer; 0 where nothing is adapted.
pub type Columns<'a> = &'a dyn Fn(usize, Group) -> usize;

/// Whether the weight of a layer's linear is in NF4.
pub type IsNf4<'a> = &'a dyn Fn(usize, Linear) -> bool;

/// Builds the program. `dropout`: adapters drop a share of their inputs when they are trained.
pub fn build(
    config: &LlamaConfig,
    kind: Kind,
    target: Target<'_>,
    columns: Columns<'_>,
    dropout: bool,
) -> LlamaProgram {
    let element = match target {
        Target::Cpu { element } => element,
        Target::Cuda { .. } => size_of::<half::bf16>(),
    };
    let tokens = kind.tokens();
    let dropout = dropout && matches!(kind, Kind::Train { .. });
    let mut builder =
        Builder { config, kind, tokens, target, element, columns, dropout, p: Program::default() };
    builder.run()
}

/// What one layer leaves for its backward pass.
struct Saved {
    residual: Buffer,
    rstd: Buffer,
    v_qkv: Option<Buffer>,
    /// As attention takes them.
    qkv: [Buffer; 3],
    /// q and k before their norms, where the model has these.
    qk_norm: Option<[Normed; 2]>,
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

/// What the backward pass of q's or k's norm needs.
#[derive(Clone, Copy)]
struct Normed {
    norm: Norm,
    x: Buffer,
    rstd: Buffer,
}

struct Builder<'a> {
    config: &'a LlamaConfig,
    kind: Kind,
    tokens: usize,
    target: Target<'a>,
    element: usize,
    columns: Columns<'a>,
    dropout: bool,
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
        self.p.push("embedding", Op::Embedding { out: residual });
        if let Kind::Train { .. } = self.kind {
            self.p.push("neftune", Op::Neftune { x: residual });
        }
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
                self.p.push("residual", Op::Add { x, residual, out });
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
    fn qk_norm(&mut self, i: usize, qkv: [Buffer; 3]) -> ([Buffer; 3], Option<[Normed; 2]>) {
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

    /// dx of q's or k's norm.
    fn qk_norm_backward(&mut self, i: usize, part: &str, normed: Normed, dy: Buffer) -> Buffer {
        let Normed { norm, x, rstd } = normed;
        let (rows, width) = norm.shape(self.config);
        let width = rows * width;
        let dx = self.act(format!("d_{part}.{i}"), width);
        let name = op_name(i, &format!("{part}.backward"));
        self.p.push(format!("{name}.zero"), Op::Zero { x: dx, width, gathered: false });
        self.p.push(name, Op::NormBackward { x, norm, rstd, dy, dx, gathered: false });
        dx
    }

    fn lora_down(&mut self, layer: usize, group: Group, x: Buffer) -> Option<Buffer> {
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

    /// As [`Builder::lora_down`], each adapter with a mask of its own.
    fn dropped_lora_down(&mut self, layer: usize, group: Group, x: Buffer, v: Buffer) {
        for &linear in group.linears() {
            let name = op_name(layer, &format!("{}.lora_down", linear.name()));
            let dropped = self.act(format!("dropped.{name}"), linear.shape(self.config).1);
            self.p.push(name, Op::DroppedLoraDown { layer, linear, x, dropped, v });
        }
    }

    /// As [`Builder::grad_down`], with the masks of the forward pass.
    fn dropped_grad_down(
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
    fn dropped_lora_up(&mut self, layer: usize, group: Group, u: Buffer, dx: Buffer) {
        for &linear in group.linears() {
            let name = op_name(layer, &format!("{}.lora_up.backward", linear.name()));
            let t = self.act(name.clone(), linear.shape(self.config).1);
            self.p.push(name, Op::DroppedLoraUp { layer, linear, u, t, dx });
        }
    }

    fn linear(&mut self, layer: usize, linear: Linear, x: Buffer, v: Option<Buffer>) -> Buffer {
        let y = self.act(linear.path(layer), self.out_features(linear));
        let scratch = self.forward_scratch(layer, linear);
        let name = op_name(layer, linear.name());
        self.p.push(name, Op::Linear { layer, linear, x, v, y, scratch });
        y
    }

    /// Room for a linear's decoded weight, where its forward pass takes that way.
    fn forward_scratch(&mut self, layer: usize, linear: Linear) -> Option<Buffer> {
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

    /// Room for the decoded weights of a group, where its backward pass takes that way: the fused kernel takes
    /// nothing but NF4.
    fn backward_scratch(&mut self, layer: usize, group: Group) -> Option<Buffer> {
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
        self.p.push("gather", Op::Gather { x: last, out: gathered });
        let h = self.p.buffer("norm", rows * hidden * self.element);
        let rstd = self.p.buffer("norm.rstd", rows * 4);
        let pitch = match self.target {
            Target::Cpu { .. } => vocab,
            Target::Cuda { .. } => logits_pitch(vocab),
        };
        let logits = self.p.buffer("logits", chunk * pitch * 4);
        let losses = self.p.buffer("losses", rows * 4);
        self.p.push("norm", Op::Norm { x: gathered, norm: Norm::Final, y: h, rstd });
        match self.kind {
            Kind::Generate { .. } => {
                self.p.push("logits", Op::Logits { h, logits });
                self.p.keep(logits);
            }
            Kind::Eval { .. } => {
                self.p.push("loss", Op::Loss { h, logits, losses, gradient: None });
                self.p.keep(losses);
            }
            Kind::Train { .. } => {
                let dlogits = self.p.buffer("dlogits", chunk * pitch * self.element);
                let dh = self.p.buffer("d_norm", rows * hidden * self.element);
                let gradient = Some(LossGradient { dlogits, dh });
                self.p.push("loss", Op::Loss { h, logits, losses, gradient });
                self.p.keep(losses);
                let dx = self.p.buffer("d_gathered", rows * hidden * self.element);
                let norm = Norm::Final;
                let zero = Op::Zero { x: dx, width: hidden, gathered: true };
                self.p.push("norm.backward.zero", zero);
                self.p.push(
                    "norm.backward",
                    Op::NormBackward { x: gathered, norm, rstd, dy: dh, dx, gathered: true },
                );
                let d_residual = self.act("d_residual".into(), hidden);
                self.p.push("gather.backward", Op::Scatter { x: dx, out: d_residual });
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

    fn mlp_backward(&mut self, i: usize, saved: &Saved, d_residual: Buffer, scratch: GradScratch) {
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

    fn grad_down(
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

    fn norm_again(&mut self, layer: usize, part: &str, x: Buffer, norm: Norm) -> Buffer {
        let op = op_name(layer, &format!("{part}.again"));
        let rstd = self.stat(format!("{op}.rstd"), 1);
        let y = self.act(op.clone(), self.config.hidden_size);
        self.p.push(op, Op::Norm { x, norm, y, rstd });
        y
    }
}

/// `layers.3.attention`.
fn op_name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}
