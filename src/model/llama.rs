//! The Llama decoder as a program: forward, loss, and the backward pass written out.
//!
//! Touvron et al. 2023 (arXiv 2302.13971). The base is frozen, so the backward pass is short: only
//! adapters get gradients, dx stops at the first layer's inputs, norms have no dw, and
//! V = s·x·Aᵀ (forward) and U = s·dy·B (backward) are each made once and used twice.
//! Kept for the backward pass, per layer: both residuals, q, k, v, o with its log-sum-exp, gate
//! and up, the V's; q and k also from before their norms, where there are such. The other norms and the
//! SwiGLU product are made again. Which layer rotates, slides or norms, the configuration says
//! (`model::family`).

mod backward;
mod dropout;
mod forward;

use super::config::{Linear, LlamaConfig};
use super::dispatch::Dispatch;
use super::program::{Group, LossGradient, Norm, Op, Program};
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
}

/// `layers.3.attention`.
fn op_name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}
