//! The allocation that an instruction used last: found again without a lock.

use std::sync::Arc;

use super::region::Region;
use super::{Memory, MemoryError};

const ENTRIES: usize = 32;

/// A cache in front of the table of allocations, for one host thread. An instruction nearly always stays
/// within one allocation, so entries go by the instruction's place in the program.
#[derive(Debug, Default)]
pub struct Lookup {
    /// State of the table that the entries are from.
    generation: u64,
    entries: [Option<Arc<Region>>; ENTRIES],
    /// Regions of one access that is spread over several, kept alive until the next one.
    pub held: Vec<Arc<Region>>,
}

impl Lookup {
    /// Makes sure that the instruction's entry is the region that `address` is in.
    #[inline(always)]
    pub fn find(&mut self, memory: &Memory, pc: u32, address: u64) -> Result<(), MemoryError> {
        let generation = memory.generation();
        if let Some(region) = &self.entries[pc as usize % ENTRIES]
            && self.generation == generation
            && address.wrapping_sub(region.base) < region.bytes
        {
            return Ok(());
        }
        self.miss(memory, generation, pc, address)
    }

    #[cold]
    fn miss(
        &mut self,
        memory: &Memory,
        generation: u64,
        pc: u32,
        address: u64,
    ) -> Result<(), MemoryError> {
        if self.generation != generation {
            self.entries = Default::default();
            self.held.clear();
            self.generation = generation;
        }
        self.entries[pc as usize % ENTRIES] = Some(memory.region(address, 1)?);
        Ok(())
    }

    /// What `find` found.
    #[inline(always)]
    pub fn region(&self, pc: u32) -> Option<&Region> {
        self.entries[pc as usize % ENTRIES].as_deref()
    }
}
