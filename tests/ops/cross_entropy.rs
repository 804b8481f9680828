//! cross_entropy against its f64 reference.
