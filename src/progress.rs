//! Progress reports: how the layers below tell whoever watches how far they are.

/// One report. `total` 0 means that the end is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is being done, as a person would say it: `loading`, `quantising`, `tokenising`.
    pub stage: &'static str,
    pub done: u64,
    pub total: u64,
    /// What `done` and `total` count: `bytes`, `tensors`, `rows`, `steps`.
    pub unit: &'static str,
}

/// Where reports go. The library never prints; the command line draws a bar, tests pass [`quiet`].
pub type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// Drops every report.
pub fn quiet(_: Progress) {}
