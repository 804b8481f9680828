//! Branches, calls, barriers, fences, traps.

#[derive(Debug, Clone)]
pub enum Op {}
