//! Plain f64: that of `linear`, on the weight's decoded values.

pub use crate::ops::linear::reference::{backward_add, forward};
