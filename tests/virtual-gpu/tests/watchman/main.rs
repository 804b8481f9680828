//! Planted faults are found and named exactly, and their mended twins run clean.
//!
//! Kernels come in pairs, `NAME_planted` and `NAME_mended`. The line of a planted fault is marked in the
//! .cu, and where that line is in the PTX follows from its `.loc` lines and the instruction.

#[path = "../common/mod.rs"]
mod common;

mod barriers;
mod blocks;
mod bounds;
mod copies;
mod races;
mod report;

use common::{Device, list};
use virtual_gpu::watch::Kind;
use virtual_gpu::{Finding, Options, Outcome};

/// A .cu file and its PTX.
pub struct Source {
    pub file: &'static str,
    pub cu: &'static str,
    pub ptx: &'static str,
}

/// A thread at an instruction of a marked line.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub block: u32,
    pub thread: u32,
    /// How the instruction begins.
    pub op: &'static str,
}

/// What is wanted of a pair.
pub struct Pair {
    pub source: Source,
    pub name: &'static str,
    pub kind: Kind,
    pub fault: At,
    pub other: Option<At>,
    /// It is seen in every order in which blocks and warps may run.
    pub always: bool,
}

impl Source {
    /// Line, from 1, of the one that a mark is on in a kernel.
    fn cu_line(&self, kernel: &str, mark: &str) -> Option<u32> {
        let lines: Vec<&str> = self.cu.lines().collect();
        let start = lines.iter().position(|line| line.contains(&format!(" {kernel}(")))?;
        let end = start + lines[start..].iter().position(|line| *line == "}")?;
        let at = start + lines[start..end].iter().position(|line| line.ends_with(mark))?;
        Some(at as u32 + 1)
    }

    /// Lines, from 1, of the PTX's instructions that begin with `op` and come from a line of the .cu.
    fn ptx_lines(&self, kernel: &str, cu_line: u32, op: &str) -> Vec<u32> {
        let (mut inside, mut from, mut found) = (false, None, Vec::new());
        for (number, line) in (1..).zip(self.ptx.lines()) {
            let line = line.trim();
            if line.starts_with(".visible .entry") {
                inside = line.contains(&format!(" {kernel}("));
            } else if let Some(loc) = line.strip_prefix(".loc") {
                from = loc.split_whitespace().nth(1).and_then(|line| line.parse::<u32>().ok());
            }
            let bare = line.split_once(' ').filter(|(guard, _)| guard.starts_with('@'));
            let bare = bare.map_or(line, |(_, rest)| rest.trim_start());
            if inside && from == Some(cu_line) && bare.starts_with(op) {
                found.push(number);
            }
        }
        found
    }
}

fn options(seed: Option<u64>, threads: usize) -> Options {
    Options { seed, threads, ..Options::default() }
}

impl Pair {
    /// Runs both kernels by `launch` and holds the findings against what is wanted.
    pub fn check(&self, launch: impl Fn(&Device, &str) -> Outcome) {
        let planted = format!("{}_planted", self.name);
        let mended = format!("{}_mended", self.name);
        let outcome = launch(&Device::with(self.source.ptx, options(None, 1)), &planted);
        let found = list(&outcome.findings);
        let fault = self.line(&planted, "// fault");
        let mut lines = vec![fault];
        lines.extend(self.source.cu_line(&planted, "// other"));
        // Nothing else is blamed.
        for finding in &outcome.findings {
            let (file, line) = finding.place.source.clone().expect("a line of the .cu");
            assert!(
                file.ends_with(self.source.file) && lines.contains(&line),
                "{planted}:\n{found}"
            );
            assert_eq!(finding.kernel, planted);
        }
        let finding = outcome.findings.iter().find(|finding| self.is_wanted(finding, &planted));
        assert!(
            finding.is_some(),
            "{planted}: wanted {:?} {:?} {:?} at .cu line {fault}, found\n{found}",
            self.kind,
            self.fault,
            self.other
        );
        assert!(!outcome.stopped || self.kind.is_fatal(), "{planted}:\n{found}");
        // Whatever the order in which blocks and warps run, the fault is seen and its twin is clean.
        for seed in 0..12 {
            let options = options(Some(seed), 1 + seed as usize % 2);
            let outcome = launch(&Device::with(self.source.ptx, options.clone()), &planted);
            let found = list(&outcome.findings);
            assert!(
                !outcome.findings.is_empty() || !self.always,
                "{planted}, seed {seed}: nothing found"
            );
            for finding in &outcome.findings {
                let line = finding.place.source.as_ref().map_or(0, |(_, line)| *line);
                assert!(lines.contains(&line), "{planted}, seed {seed}:\n{found}");
            }
            let outcome = launch(&Device::with(self.source.ptx, options), &mended);
            let found = list(&outcome.findings);
            assert!(found.is_empty() && !outcome.stopped, "{mended}, seed {seed}:\n{found}");
        }
        let outcome = launch(&Device::with(self.source.ptx, options(None, 1)), &mended);
        let found = list(&outcome.findings);
        assert!(found.is_empty() && !outcome.stopped, "{mended}:\n{found}");
    }

    fn line(&self, kernel: &str, mark: &str) -> u32 {
        let line = self.source.cu_line(kernel, mark);
        line.unwrap_or_else(|| panic!("{kernel} has no line with `{mark}`"))
    }

    fn is_wanted(&self, finding: &Finding, kernel: &str) -> bool {
        let is = |place: &virtual_gpu::watch::Place, at: At, mark: &str| {
            let line = self.line(kernel, mark);
            let ptx = self.source.ptx_lines(kernel, line, at.op);
            assert!(!ptx.is_empty(), "{kernel}: no {} from line {line}", at.op);
            place.block == [at.block, 0, 0]
                && place.thread == [at.thread, 0, 0]
                && ptx.contains(&place.ptx_line)
                && place.source.as_ref().is_some_and(|(_, at)| *at == line)
        };
        // Where both are on one line there is no mark for the other.
        let mark =
            if self.source.cu_line(kernel, "// other").is_some() { "// other" } else { "// fault" };
        finding.kind == self.kind
            && is(&finding.place, self.fault, "// fault")
            && match (&finding.other, self.other) {
                (Some(place), Some(at)) => is(place, at, mark),
                (None, None) => true,
                _ => false,
            }
    }
}

/// A thread at an instruction.
pub fn at(block: u32, thread: u32, op: &'static str) -> At {
    At { block, thread, op }
}
