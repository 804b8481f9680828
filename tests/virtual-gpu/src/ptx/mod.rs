//! PTX text to its syntax tree.

pub mod ast;
