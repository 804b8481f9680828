//! reduce against its f64 reference.
