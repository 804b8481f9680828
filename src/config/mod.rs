//! The run file: typed, documented, validated before anything loads.
