//! Rotary position embedding, in place on q and k.
//!
//! For each head and each i < d/2, with p the token's position and θ_i its velocity, theta^(-2i/d) unless the
//! model stretches it:
//! `q'[i] = q[i]·cos(p·θ_i) - q[i + d/2]·sin(p·θ_i)`,
//! `q'[i + d/2] = q[i + d/2]·cos(p·θ_i) + q[i]·sin(p·θ_i)`.
//! The pairs are (i, i + d/2), Hugging Face's "rotate half"; weights in llama.cpp's order, which
//! pairs (2i, 2i + 1), are brought into this order when they are loaded.
//!
//! Shapes: position_ids `[T]` (they restart at each packed document), q `[T, heads·d]`, k
//! `[T, kv_heads·d]` in the activation dtype E, row-major. Arithmetic is f32, one rounding to E.
//!
//! A rotation's inverse is its transpose: the backward turns dq and dk by the opposite angle.
//!
//! Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_all_below, rows};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "rope";

/// The angular velocities theta^(-2i/d), i < d/2, in radians a token.
pub fn velocities(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect()
}

/// cos and sin of every position and velocity, made once.
#[derive(Clone, Debug)]
pub struct Tables {
    head_dim: usize,
    max_positions: usize,
    /// `[max_positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[max_positions, head_dim / 2]`
    sin: Vec<f32>,
}

impl Tables {
    /// Angles are computed in f64 and rounded once, so that far positions stay exact.
    ///
    /// Panics unless there are head_dim / 2 velocities.
    pub fn new(head_dim: usize, velocities: &[f64], max_positions: usize) -> Self {
        let half = head_dim / 2;
        assert_eq!(velocities.len(), half, "velocities of half a head");
        let mut cos = Vec::with_capacity(max_positions * half);
        let mut sin = Vec::with_capacity(max_positions * half);
        for position in 0..max_positions {
            for velocity in velocities {
                let angle = position as f64 * velocity;
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { head_dim, max_positions, cos, sin }
    }

    /// Positions 0 .. this are in the tables.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// Rotates q and k. A position beyond the tables is an error, and nothing is written.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    cpu: &Cpu,
    tables: &Tables,
    position_ids: &[u32],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q: &mut [E],
    k: &mut [E],
) -> Result<(), ShapeError> {
    let tokens = position_ids.len();
    check_shapes(tables.head_dim, tokens, heads, kv_heads, head_dim, q.len(), k.len())?;
    check_all_below(OP, "position", position_ids, tables.max_positions)?;
    cpu::rotate::<E, false>(cpu, tables, position_ids, heads, kv_heads, q, k);
    Ok(())
}

/// Rotates dq and dk back: the gradients before the rotation.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cpu: &Cpu,
    tables: &Tables,
    position_ids: &[u32],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    dq: &mut [E],
    dk: &mut [E],
) -> Result<(), ShapeError> {
    let tokens = position_ids.len();
    check_shapes(tables.head_dim, tokens, heads, kv_heads, head_dim, dq.len(), dk.len())?;
    check_all_below(OP, "position", position_ids, tables.max_positions)?;
    cpu::rotate::<E, true>(cpu, tables, position_ids, heads, kv_heads, dq, dk);
    Ok(())
}

fn check_shapes(
    table_dim: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q_len: usize,
    k_len: usize,
) -> Result<(), ShapeError> {
    check(OP, "head_dim of the tables", table_dim, head_dim)?;
    check(OP, "head_dim % 2", head_dim % 2, 0)?;
    let count = rows(OP, "len of q", q_len, heads.saturating_mul(head_dim))?;
    check(OP, "rows of q", count, tokens)?;
    let count = rows(OP, "len of k", k_len, kv_heads.saturating_mul(head_dim))?;
    check(OP, "rows of k", count, tokens)
}
