//! rope against its f64 reference.
