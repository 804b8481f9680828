//! Embedding lookup: `out[t, :] = table[tokens[t], :]`.
//!
//! Shapes: tokens `[T]`, table `[vocab, hidden]` bf16 (the base model's own storage), out
//! `[T, hidden]`, all row-major. bf16 widens to f32 exactly, so the op is exact in both dtypes.
//! The table is frozen: there is no backward.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use half::bf16;

use super::{ShapeError, check, check_all_below, rows};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "embedding";

/// Writes the row of each token. A token id beyond the table is an error, and nothing is written.
pub fn forward<E: Element>(
    cpu: &Cpu,
    tokens: &[u32],
    table: &[bf16],
    hidden: usize,
    out: &mut [E],
) -> Result<(), ShapeError> {
    let vocab = rows(OP, "len of table", table.len(), hidden)?;
    let count = rows(OP, "len of out", out.len(), hidden)?;
    check(OP, "rows of out", count, tokens.len())?;
    check_all_below(OP, "token id", tokens, vocab)?;
    cpu::forward(cpu, tokens, table, hidden, out);
    Ok(())
}
