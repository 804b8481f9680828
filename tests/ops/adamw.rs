//! adamw against its f64 reference.
