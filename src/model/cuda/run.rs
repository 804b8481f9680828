//! Runs the ops of a program on the device: which part of which buffer each one gets.

mod backward;
mod dropout;
mod forward;

use half::bf16;

use super::adapter::GpuAdapter;
use super::batch::Batch;
use super::cache::GpuCache;
use super::weights::GpuWeights;
use crate::device::cuda::{Cuda, Memory, View, ViewMut};
use crate::device::memory::Buffer;
use crate::model::config::LlamaConfig;
use crate::model::dispatch::Dispatch;
use crate::model::engine::Noise;
use crate::model::program::Op;
use crate::ops::{LaunchError, check_at_least, rope};

/// The first `len` elements of a buffer.
fn cut<T: bytemuck::Pod>(bytes: View<'_, u8>, len: usize) -> View<'_, T> {
    bytes.cast().slice(0..len)
}

/// The first `len` elements of a buffer, to write.
fn cut_mut<T: bytemuck::Pod>(bytes: ViewMut<'_, u8>, len: usize) -> ViewMut<'_, T> {
    bytes.cast().slice(0..len)
}

/// `rope::cuda::forward` or `rope::cuda::backward`.
type Rotate = fn(
    &Cuda,
    &rope::cuda::Tables,
    View<u32>,
    usize,
    usize,
    usize,
    &mut ViewMut<bf16>,
    &mut ViewMut<bf16>,
) -> Result<(), LaunchError>;

/// One execution: everything that an op may need. `n` tokens, `p` gathered positions.
pub struct Run<'a> {
    pub cuda: &'a Cuda,
    pub weights: &'a GpuWeights,
    pub config: &'a LlamaConfig,
    pub dispatch: &'a Dispatch,
    pub adapter: Option<&'a mut GpuAdapter>,
    pub batch: &'a Batch,
    pub memory: &'a mut Memory,
    pub loss_scale: f32,
    pub noise: Noise,
    pub n: usize,
    pub p: usize,
}

impl Run<'_> {
    /// Starts one op.
    pub fn op(&mut self, op: &Op, cache: Option<&mut GpuCache>) -> Result<(), LaunchError> {
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
            Op::Linear { layer, linear, x, v, y, scratch } => {
                self.linear(layer, linear, x, v, y, scratch)
            }
            Op::Rope { q, k } => self.rope(q, k, rope::cuda::forward),
            Op::RopeBackward { dq, dk } => self.rope(dq, dk, rope::cuda::backward),
            Op::Attention { layer, q, k, v, o, lse } => self.attention(layer, q, k, v, o, lse),
            Op::CachedAttention { layer, q, k, v, o } => match cache {
                Some(cache) => self.cached_attention(cache, layer, q, k, v, o),
                None => Ok(check_at_least("attention::decode", "KV caches", 0, 1)?),
            },
            Op::Swiglu { gate, up, h } => self.swiglu(gate, up, h),
            Op::SwigluBackward { gate, up, dh } => self.swiglu_backward(gate, up, dh),
            Op::Gather { x, out } => self.gather(x, out),
            Op::Scatter { x, out } => self.scatter(x, out),
            Op::Zero { x, width, gathered } => self.zero(x, width, gathered),
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
            Op::LinearBackward { layer, group, ref dy, u, dx, scratch } => {
                self.linear_backward(layer, group, dy, u, dx, scratch)
            }
            Op::AttentionBackward(buffers) => self.attention_backward(buffers),
        }
    }

    fn zero(&mut self, x: Buffer, width: usize, gathered: bool) -> Result<(), LaunchError> {
        let rows = if gathered { self.p } else { self.n };
        let ([], [x]) = self.memory.borrow([], [x]);
        Ok(self.cuda.fill(&mut cut_mut::<bf16>(x, rows * width), 0)?)
    }
}
