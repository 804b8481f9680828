//! nf4_linear against its f64 reference.
