//! A developer's commands, as functions that tests can call too.
