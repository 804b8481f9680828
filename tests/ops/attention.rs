//! attention against its f64 reference.
