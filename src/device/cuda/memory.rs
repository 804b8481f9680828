//! The planned buffers of a program in device memory.

use std::sync::Arc;

use super::buffer::{Buf, View, ViewMut};
use super::device::Cuda;
use super::error::CudaError;
use crate::device::memory::{Buffer, BufferSpec, PATTERN, Placement, Plan};

/// Buffers begin at multiples of this in the arena, as an allocation of their own would.
pub const ALIGN: usize = 256;

/// The buffers of one program on a device.
pub struct Memory {
    cuda: Arc<Cuda>,
    plan: Plan,
    blocks: Vec<Buf<u8>>,
}

impl Memory {
    /// Plans and allocates.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(
        cuda: &Arc<Cuda>,
        specs: Vec<BufferSpec>,
        placement: Placement,
    ) -> Result<Self, CudaError> {
        let plan = Plan::new(specs, placement, ALIGN);
        let blocks =
            plan.blocks().iter().map(|&bytes| cuda.alloc(bytes)).collect::<Result<_, _>>()?;
        Ok(Self { cuda: cuda.clone(), plan, blocks })
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.plan.bytes()
    }

    /// Moves to tick `now`. Under separate placement, buffers whose lifetime begins here are filled with the
    /// pattern.
    pub fn begin(&mut self, now: usize) -> Result<(), CudaError> {
        for block in self.plan.begin(now) {
            self.cuda.fill(&mut self.blocks[block].view_mut(), PATTERN)?;
        }
        Ok(())
    }

    /// Fills a buffer from the host, alive or not.
    pub fn write(&mut self, buffer: Buffer, data: &[u8]) -> Result<(), CudaError> {
        let (block, range) = self.plan.place(buffer);
        self.cuda.write(&mut self.blocks[block].view_mut().slice(range), data)
    }

    /// Borrows buffers at the current tick: some to read, some to write. Panics as [`Plan::check`] does.
    pub fn borrow<const R: usize, const W: usize>(
        &mut self,
        reads: [Buffer; R],
        writes: [Buffer; W],
    ) -> ([View<'_, u8>; R], [ViewMut<'_, u8>; W]) {
        self.plan.check(&reads, &writes);
        let all = |buffer| {
            let (block, range) = self.plan.place(buffer);
            (&self.blocks[block], range)
        };
        // The writes overlap neither each other nor any read, and `self` stays mutably borrowed.
        (
            reads.map(|buffer| {
                let (block, range) = all(buffer);
                block.view().slice(range)
            }),
            writes.map(|buffer| {
                let (block, range) = all(buffer);
                block.shared_mut().slice(range)
            }),
        )
    }
}
