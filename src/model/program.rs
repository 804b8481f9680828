//! A step as a list of ops over named buffers: what runs, in which order, on which memory.
//!
//! The list is built once. The lifetime of every buffer is read off it (first op that names it to
//! the last one), so all memory is planned before step 0 and the hot loop allocates nothing.

use super::config::{Linear, LlamaConfig};
use crate::device::memory::{Buffer, BufferSpec};

/// Linears of a layer that share an input: their A's are stacked, so the input is read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    Qkv,
    O,
    GateUp,
    Down,
}

impl Group {
    pub const ALL: [Group; 4] = [Group::Qkv, Group::O, Group::GateUp, Group::Down];

    /// The linears of the group, in the order of the model.
    pub fn linears(self) -> &'static [Linear] {
        match self {
            Group::Qkv => &[Linear::Q, Linear::K, Linear::V],
            Group::O => &[Linear::O],
            Group::GateUp => &[Linear::Gate, Linear::Up],
            Group::Down => &[Linear::Down],
        }
    }

    /// Its name in the names of ops.
    pub fn name(self) -> &'static str {
        match self {
            Group::Qkv => "qkv",
            Group::O => "o",
            Group::GateUp => "gate_up",
            Group::Down => "down",
        }
    }

    /// The group that a linear belongs to.
    pub fn of(linear: Linear) -> Group {
        match linear {
            Linear::Q | Linear::K | Linear::V => Group::Qkv,
            Linear::O => Group::O,
            Linear::Gate | Linear::Up => Group::GateUp,
            Linear::Down => Group::Down,
        }
    }
}

/// Which norm's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    Input(usize),
    PostAttention(usize),
    /// Of each head of q.
    Query(usize),
    /// Of each head of k.
    Key(usize),
    Final,
}

impl Norm {
    /// How many rows a token has, and their width.
    pub fn shape(self, config: &LlamaConfig) -> (usize, usize) {
        match self {
            Norm::Input(_) | Norm::PostAttention(_) | Norm::Final => (1, config.hidden_size),
            Norm::Query(_) => (config.num_attention_heads, config.head_dim),
            Norm::Key(_) => (config.num_key_value_heads, config.head_dim),
        }
    }
}

/// One op of a program. Rows are tokens (`T` at most, the batch's real number at run time) or, where
/// said, gathered positions (`P`).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// out = embed_tokens[tokens]
    Embedding { out: Buffer },
    /// x += noise, where the run has some
    Neftune { x: Buffer },
    /// out = residual + x
    Add { x: Buffer, residual: Buffer, out: Buffer },
    /// y = norm(x); keeps rstd
    Norm { x: Buffer, norm: Norm, y: Buffer, rstd: Buffer },
    /// out = residual + x; y = norm(out); keeps rstd
    AddNorm { x: Buffer, residual: Buffer, out: Buffer, norm: Norm, y: Buffer, rstd: Buffer },
    /// v = s·x·Aᵀ for every adapter of the group
    LoraDown { layer: usize, group: Group, x: Buffer, v: Buffer },
    /// v = s·dropped·Aᵀ into the linear's columns; dropped = mask ∘ x / (1 − p)
    DroppedLoraDown { layer: usize, linear: Linear, x: Buffer, dropped: Buffer, v: Buffer },
    /// y = x·Wᵀ (+ v·Bᵀ); `scratch` holds W decoded, where the device takes that way
    Linear {
        layer: usize,
        linear: Linear,
        x: Buffer,
        v: Option<Buffer>,
        y: Buffer,
        scratch: Option<Buffer>,
    },
    /// q, k rotated in place by their positions
    Rope { q: Buffer, k: Buffer },
    /// o = softmax(q·kᵀ)·v within documents, causal, in the layer's window; keeps the log-sum-exp
    Attention { layer: usize, q: Buffer, k: Buffer, v: Buffer, o: Buffer, lse: Buffer },
    /// k and v appended to the layer's cache; o = attention over the cache
    CachedAttention { layer: usize, q: Buffer, k: Buffer, v: Buffer, o: Buffer },
    /// h = silu(gate)·up
    Swiglu { gate: Buffer, up: Buffer, h: Buffer },
    /// out[P] = x[positions]
    Gather { x: Buffer, out: Buffer },
    /// Losses of P rows, in chunks; with a gradient, dh = dlogits·head, too
    Loss { h: Buffer, logits: Buffer, losses: Buffer, gradient: Option<LossGradient> },
    /// logits[P] = h·headᵀ
    Logits { h: Buffer, logits: Buffer },
    /// x = 0, rows of `width`; `gathered`: P of them
    Zero { x: Buffer, width: usize, gathered: bool },
    /// out = 0; out[positions] = x[P]
    Scatter { x: Buffer, out: Buffer },
    /// dx += backward of the norm; `gathered`: over P rows
    NormBackward { x: Buffer, norm: Norm, rstd: Buffer, dy: Buffer, dx: Buffer, gathered: bool },
    /// u = s·dy·B into the linear's columns
    LoraDownBackward { layer: usize, linear: Linear, dy: Buffer, u: Buffer },
    /// dB += dyᵀ·v
    LoraGradUp { layer: usize, linear: Linear, v: Buffer, dy: Buffer, scratch: GradScratch },
    /// dA += uᵀ·x for every adapter of the group
    LoraGradDown { layer: usize, group: Group, u: Buffer, x: Buffer, scratch: GradScratch },
    /// dA += uᵀ·dropped of one adapter, with the mask of the forward pass
    DroppedLoraGradDown {
        layer: usize,
        linear: Linear,
        u: Buffer,
        x: Buffer,
        dropped: Buffer,
        scratch: GradScratch,
    },
    /// dx += mask ∘ t / (1 − p); t = u·A of one adapter
    DroppedLoraUp { layer: usize, linear: Linear, u: Buffer, t: Buffer, dx: Buffer },
    /// dx = Σ over the group of dy·W (+ u·A); `scratch` holds the W's decoded, one behind the other
    LinearBackward {
        layer: usize,
        group: Group,
        dy: Vec<Buffer>,
        u: Option<Buffer>,
        dx: Buffer,
        scratch: Option<Buffer>,
    },
    /// gate → dgate, up → dup, dh → h, in place
    SwigluBackward { gate: Buffer, up: Buffer, dh: Buffer },
    /// dq, dk, dv from d_o
    AttentionBackward(AttentionBackward),
    /// dq, dk rotated back in place
    RopeBackward { dq: Buffer, dk: Buffer },
}

/// Buffers of [`Op::Loss`] when the gradient is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossGradient {
    pub dlogits: Buffer,
    pub dh: Buffer,
}

/// Scratch of the adapter gradients, see `ops::lora_grad`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradScratch {
    pub stack: Buffer,
    pub product: Buffer,
}

/// Buffers of [`Op::AttentionBackward`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionBackward {
    pub layer: usize,
    pub q: Buffer,
    pub k: Buffer,
    pub v: Buffer,
    pub o: Buffer,
    pub lse: Buffer,
    pub d_o: Buffer,
    pub delta: Buffer,
    pub dq: Buffer,
    pub dk: Buffer,
    pub dv: Buffer,
}

impl Op {
    /// The name under which the op's time is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embedding { .. } => "embedding",
            Op::Neftune { .. } => "neftune",
            Op::Add { .. } => "add",
            Op::Norm { .. } | Op::AddNorm { .. } => "rms_norm",
            Op::LoraDown { .. } => "lora_down",
            Op::DroppedLoraDown { .. } => "dropout and lora_down",
            Op::DroppedLoraGradDown { .. } => "dropout and lora_grad",
            Op::DroppedLoraUp { .. } => "dropout and lora_up",
            Op::Linear { .. } => "linear",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::CachedAttention { .. } => "attention (cached)",
            Op::Swiglu { .. } => "swiglu",
            Op::Gather { .. } | Op::Scatter { .. } | Op::Zero { .. } => "gather",
            Op::Loss { .. } | Op::Logits { .. } => "head and loss",
            Op::NormBackward { .. } => "rms_norm backward",
            Op::LoraDownBackward { .. } => "lora_down backward",
            Op::LoraGradUp { .. } | Op::LoraGradDown { .. } => "lora_grad",
            Op::LinearBackward { .. } => "linear backward",
            Op::SwigluBackward { .. } => "swiglu backward",
            Op::AttentionBackward(..) => "attention backward",
            Op::RopeBackward { .. } => "rope backward",
        }
    }

    /// Every buffer the op reads or writes.
    fn buffers(&self) -> Vec<Buffer> {
        match self {
            Op::Embedding { out } => vec![*out],
            Op::Neftune { x } => vec![*x],
            Op::Add { x, residual, out } => vec![*x, *residual, *out],
            Op::Norm { x, y, rstd, .. } => vec![*x, *y, *rstd],
            Op::AddNorm { x, residual, out, y, rstd, .. } => vec![*x, *residual, *out, *y, *rstd],
            Op::LoraDown { x, v, .. } => vec![*x, *v],
            Op::DroppedLoraDown { x, dropped, v, .. } => vec![*x, *dropped, *v],
            Op::DroppedLoraGradDown { u, x, dropped, scratch, .. } => {
                vec![*u, *x, *dropped, scratch.stack, scratch.product]
            }
            Op::DroppedLoraUp { u, t, dx, .. } => vec![*u, *t, *dx],
            Op::Linear { x, v, y, scratch, .. } => {
                [*x, *y].into_iter().chain(*v).chain(*scratch).collect()
            }
            Op::Rope { q, k } => vec![*q, *k],
            Op::Attention { q, k, v, o, lse, .. } => vec![*q, *k, *v, *o, *lse],
            Op::CachedAttention { q, k, v, o, .. } => vec![*q, *k, *v, *o],
            Op::Swiglu { gate, up, h } => vec![*gate, *up, *h],
            Op::Gather { x, out } | Op::Scatter { x, out } => vec![*x, *out],
            Op::Loss { h, logits, losses, gradient } => {
                let gradient = gradient.map(|g| [g.dlogits, g.dh]);
                [*h, *logits, *losses].into_iter().chain(gradient.into_iter().flatten()).collect()
            }
            Op::Logits { h, logits } => vec![*h, *logits],
            Op::Zero { x, .. } => vec![*x],
            Op::NormBackward { x, rstd, dy, dx, .. } => vec![*x, *rstd, *dy, *dx],
            Op::LoraDownBackward { dy, u, .. } => vec![*dy, *u],
            Op::LoraGradUp { v, dy, scratch, .. } => {
                vec![*v, *dy, scratch.stack, scratch.product]
            }
            Op::LoraGradDown { u, x, scratch, .. } => vec![*u, *x, scratch.stack, scratch.product],
            Op::LinearBackward { dy, u, dx, scratch, .. } => {
                dy.iter().copied().chain(*u).chain([*dx]).chain(*scratch).collect()
            }
            Op::SwigluBackward { gate, up, dh } => vec![*gate, *up, *dh],
            Op::AttentionBackward(a) => {
                vec![a.q, a.k, a.v, a.o, a.lse, a.d_o, a.delta, a.dq, a.dk, a.dv]
            }
            Op::RopeBackward { dq, dk } => vec![*dq, *dk],
        }
    }
}

/// A finished list of ops and the buffers they need.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub ops: Vec<Op>,
    /// A name of its own for each op: `layers.3.attention.backward`.
    names: Vec<String>,
    buffers: Vec<(String, usize)>,
    /// Buffers that the caller reads after the last op.
    results: Vec<Buffer>,
}

impl Program {
    /// Names a buffer of `bytes`.
    pub fn buffer(&mut self, name: impl Into<String>, bytes: usize) -> Buffer {
        self.buffers.push((name.into(), bytes));
        Buffer(self.buffers.len() - 1)
    }

    /// A buffer's name and bytes.
    pub fn named(&self, buffer: Buffer) -> (&str, usize) {
        let (name, bytes) = &self.buffers[buffer.0];
        (name, *bytes)
    }

    /// Every buffer.
    pub fn buffers(&self) -> impl Iterator<Item = Buffer> {
        (0..self.buffers.len()).map(Buffer)
    }

    /// Appends an op under a name that no other has.
    pub fn push(&mut self, name: impl Into<String>, op: Op) {
        self.names.push(name.into());
        self.ops.push(op);
    }

    /// The ops' names, in the order in which they run.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Keeps a buffer alive past the last op.
    pub fn keep(&mut self, buffer: Buffer) {
        self.results.push(buffer);
    }

    /// The tick at which results are read.
    pub fn end(&self) -> usize {
        self.ops.len()
    }

    /// Sizes and lifetimes.
    pub fn specs(&self) -> Vec<BufferSpec> {
        let mut lifetimes = vec![(usize::MAX, 0); self.buffers.len()];
        for (tick, op) in self.ops.iter().enumerate() {
            for buffer in op.buffers() {
                let (first, last) = &mut lifetimes[buffer.0];
                *first = (*first).min(tick);
                *last = tick;
            }
        }
        for buffer in &self.results {
            lifetimes[buffer.0].1 = self.end();
        }
        self.buffers
            .iter()
            .zip(lifetimes)
            .map(|((name, bytes), (first, last))| {
                // A buffer that no op names takes no room.
                let bytes = if first == usize::MAX { 0 } else { *bytes };
                BufferSpec { name: name.clone(), bytes, first: first.min(last), last }
            })
            .collect()
    }
}
