//! mov in all its forms, cvta, isspacep, clocks.

#[derive(Debug, Clone)]
pub enum Op {}
