//! embedding against its f64 reference.
