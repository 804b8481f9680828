//! What a person reads, and what a program does.
