//! swiglu: to be written.
