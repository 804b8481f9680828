//! rms_norm: to be written.
