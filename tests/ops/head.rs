//! head against its f64 reference.
