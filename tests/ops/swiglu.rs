//! swiglu against its f64 reference.
