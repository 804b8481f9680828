//! nf4_linear: to be written.
