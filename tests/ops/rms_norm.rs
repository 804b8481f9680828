//! rms_norm against its f64 reference.
