//! Shared by the test binaries: tolerances, comparisons, seeded inputs.
