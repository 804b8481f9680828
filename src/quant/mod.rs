//! NF4 and double quantisation.

pub mod nf4;

pub use nf4::{Absmax, Nf4Matrix};
