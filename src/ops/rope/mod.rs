//! rope: to be written.
