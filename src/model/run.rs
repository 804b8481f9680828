//! Runs the ops of a program: which slices of which buffers each one gets.

mod backward;
mod dropout;
mod forward;

#[cfg(feature = "cuda")]
pub(super) use dropout::mask;

use super::config::{Linear, LlamaConfig};
use super::engine::Inputs;
use super::kv_cache::KvCache;
use super::lora_layout::{AdapterCopy, Slot};
use super::program::{Group, Norm, Op};
use super::weights::Weights;
use crate::device::cpu::{Cpu, Element, GemmElement, chunks_mut};
use crate::device::memory::Memory;
use crate::ops::{ShapeError, attention, rope};

/// The first `len` elements of a buffer.
fn cut<T: bytemuck::Pod>(bytes: &[u8], len: usize) -> &[T] {
    &bytemuck::cast_slice(bytes)[..len]
}

/// The first `len` elements of a buffer, to write.
fn cut_mut<T: bytemuck::Pod>(bytes: &mut [u8], len: usize) -> &mut [T] {
    &mut bytemuck::cast_slice_mut(bytes)[..len]
}

/// One execution: everything that an op may need. `n` tokens, `p` gathered positions.
pub struct Run<'a, E> {
    pub cpu: &'a Cpu,
    pub weights: &'a Weights,
    pub config: &'a LlamaConfig,
    pub adapter: Option<&'a AdapterCopy<E>>,
    pub rope: &'a rope::Tables,
    pub inputs: &'a Inputs<'a>,
    pub memory: &'a mut Memory,
    pub grads: &'a mut [f32],
    pub n: usize,
    pub p: usize,
}

impl<E: GemmElement> Run<'_, E> {
    /// Runs one op.
    pub fn op(&mut self, op: &Op, cache: Option<&mut KvCache<E>>) -> Result<(), ShapeError> {
        match *op {
            Op::Embedding { out } => self.embedding(out),
            Op::Neftune { x } => self.neftune(x),
            Op::Add { x, residual, out } => self.add(x, residual, out),
            Op::Norm { x, norm, y, rstd } => self.norm(x, norm, y, rstd),
            Op::AddNorm { x, residual, out, norm, y, rstd } => {
                self.add_norm(x, residual, out, norm, y, rstd)
            }
            Op::LoraDown { layer, group, x, v } => self.lora_down(layer, group, x, v),
            Op::DroppedLoraDown { layer, linear, x, dropped, v } => {
                self.dropped_lora_down(layer, linear, x, dropped, v)
            }
            Op::DroppedLoraGradDown { layer, linear, u, x, dropped, scratch } => {
                self.dropped_lora_grad_down(layer, linear, u, x, dropped, scratch)
            }
            Op::DroppedLoraUp { layer, linear, u, t, dx } => {
                self.dropped_lora_up(layer, linear, u, t, dx)
            }
            Op::Linear { layer, linear, x, v, y, .. } => self.linear(layer, linear, x, v, y),
            Op::Rope { q, k } => self.rope(q, k, rope::forward::<E>),
            Op::RopeBackward { dq, dk } => self.rope(dq, dk, rope::backward::<E>),
            Op::Attention { layer, q, k, v, o, lse } => self.attention(layer, q, k, v, o, lse),
            Op::CachedAttention { layer, q, k, v, o } => match cache {
                Some(cache) => self.cached_attention(cache, layer, q, k, v, o),
                None => crate::ops::check_at_least("attention::decode", "KV caches", 0, 1),
            },
            Op::Swiglu { gate, up, h } => self.swiglu(gate, up, h),
            Op::SwigluBackward { gate, up, dh } => self.swiglu_backward(gate, up, dh),
            Op::Gather { x, out } => self.gather(x, out),
            Op::Scatter { x, out } => self.scatter(x, out),
            Op::Zero { x, width, gathered } => {
                let rows = if gathered { self.p } else { self.n };
                let ([], [x]) = self.memory.borrow([], [x]);
                let x = cut_mut::<E>(x, rows * width);
                self.cpu.blocks(chunks_mut(x, 1 << 15), |x| x.fill(E::from_f32(0.0)));
                Ok(())
            }
            Op::Loss { h, logits, losses, gradient: None } => self.loss(h, logits, losses),
            Op::Loss { h, logits, losses, gradient: Some(g) } => {
                self.loss_and_gradient(h, logits, losses, g.dlogits, g.dh)
            }
            Op::Logits { h, logits } => self.logits(h, logits),
            Op::NormBackward { x, norm, rstd, dy, dx, gathered } => {
                let rows = if gathered { self.p } else { self.n };
                self.norm_backward(rows, x, norm, rstd, dy, dx)
            }
            Op::LoraDownBackward { layer, linear, dy, u } => {
                self.lora_down_backward(layer, linear, dy, u)
            }
            Op::LoraGradUp { layer, linear, v, dy, scratch } => {
                self.lora_grad_up(layer, linear, v, dy, scratch)
            }
            Op::LoraGradDown { layer, group, u, x, scratch } => {
                self.lora_grad_down(layer, group, u, x, scratch)
            }
            Op::LinearBackward { layer, group, ref dy, u, dx, .. } => {
                self.linear_backward(layer, group, dy, u, dx)
            }
            Op::AttentionBackward(buffers) => self.attention_backward(buffers),
        }
    }
}

/// The slot of a linear if it is adapted, its adapter, and the pitch of V and U of its group.
fn slot<E: Element>(
    adapter: Option<&AdapterCopy<E>>,
    layer: usize,
    linear: Linear,
) -> Option<(&AdapterCopy<E>, usize, &Slot)> {
    let adapter = adapter?;
    let group = adapter.group(layer, Group::of(linear));
    Some((adapter, group.columns, group.slot(linear)?))
}

/// `rope::forward` or `rope::backward`.
type Rotate<E> = fn(
    &Cpu,
    &rope::Tables,
    &[u32],
    usize,
    usize,
    usize,
    &mut [E],
    &mut [E],
) -> Result<(), ShapeError>;

/// The dimensions of a layer's attention.
pub(super) fn dims(config: &LlamaConfig, layer: usize) -> attention::Dims {
    attention::Dims {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
        window: config.layer(layer).sliding_window,
    }
}

fn norm_weight(weights: &Weights, norm: Norm) -> &[half::bf16] {
    // The program has norms of q and k only where the model has them.
    let qk_norm = |layer: usize, which: usize| {
        weights.layers[layer].qk_norm.as_ref().map_or(&[][..], |norms| norms[which].as_slice())
    };
    match norm {
        Norm::Query(layer) => qk_norm(layer, 0),
        Norm::Key(layer) => qk_norm(layer, 1),
        Norm::Input(layer) => weights.layers[layer].input_layernorm.as_slice(),
        Norm::PostAttention(layer) => weights.layers[layer].post_attention_layernorm.as_slice(),
        Norm::Final => weights.norm.as_slice(),
    }
}
