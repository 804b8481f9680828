//! Runs the ops of a program on the device: which part of which buffer each one gets.

use half::bf16;

use super::adapter::GpuAdapter;
use super::batch::Batch;
use super::cache::GpuCache;
use super::weights::GpuWeights;
use crate::device::cuda::{Cuda, Memory, View, ViewMut};
use crate::device::memory::Buffer;
use crate::model::config::LlamaConfig;
use crate::model::dispatch::Dispatch;
use crate::model::program::{Norm, Op};
use crate::ops::{LaunchError, rms_norm};

/// The first `len` elements of a buffer.
fn cut<T: bytemuck::Pod>(bytes: View<'_, u8>, len: usize) -> View<'_, T> {
    bytes.cast().slice(0..len)
}

/// The first `len` elements of a buffer, to write.
fn cut_mut<T: bytemuck::Pod>(bytes: ViewMut<'_, u8>, len: usize) -> ViewMut<'_, T> {
    bytes.cast().slice(0..len)
}

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
    pub n: usize,
    pub p: usize,
}

impl Run<'_> {
    /// Starts one op.
    pub fn op(&mut self, op: &Op, cache: Option<&mut GpuCache>) -> Result<(), LaunchError> {
        let _ = cache;
        match *op {
            Op::Norm { x, norm, y, rstd } => self.norm(x, norm, y, rstd),
            _ => todo!(),
        }
    }

    fn norm(&mut self, x: Buffer, norm: Norm, y: Buffer, rstd: Buffer) -> Result<(), LaunchError> {
        let rows = if norm == Norm::Final { self.p } else { self.n };
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let w = self.weights.norm(norm);
        let ([x], [y, rstd]) = self.memory.borrow([x], [y, rstd]);
        let x = cut::<bf16>(x, rows * hidden);
        let (mut y, mut rstd) = (cut_mut(y, rows * hidden), cut_mut(rstd, rows));
        rms_norm::cuda::forward(self.cuda, hidden, eps, x, w, &mut y, &mut rstd)
    }
}
