//! Which result of the driver a kernel's fault, or the watchman's finding, becomes.

use super::abi::tell;
use super::error::Error;
use crate::gpu::{LaunchError, Outcome};
use crate::options::{Options, Watch};
use crate::watch::{Kind, report};

/// Tells a launch's findings on stderr, and says what its context returns from then on.
pub fn judge(options: &Options, outcome: &Outcome) -> Option<Error> {
    report::tell(&outcome.findings, options.report.as_deref());
    if outcome.stopped {
        // The fatal one is the last: it ended the launch.
        let fatal = outcome.findings.iter().rev().find(|finding| finding.kind.is_fatal());
        return Some(fatal.map_or(Error::LaunchFailed, |finding| code_of(finding.kind)));
    }
    match options.watch {
        Watch::Fail => outcome.findings.first().map(|finding| code_of(finding.kind)),
        Watch::Off | Watch::Report => None,
    }
}

/// The code that a GPU gives, or for what only the watchman sees the one that says least wrong.
fn code_of(kind: Kind) -> Error {
    match kind {
        Kind::OutOfBounds | Kind::UseAfterFree => Error::IllegalAddress,
        Kind::Misaligned => Error::MisalignedAddress,
        Kind::Assert => Error::Assert,
        Kind::IllegalInstruction => Error::IllegalInstruction,
        // `trap` and what hangs or races on a GPU.
        _ => Error::LaunchFailed,
    }
}

/// A launch that the device did not begin.
pub fn refused(wrong: &LaunchError) -> Error {
    tell("cuLaunchKernel", &wrong.to_string());
    match wrong {
        LaunchError::TooManyThreads { .. } | LaunchError::TooMuchShared { .. } => {
            Error::LaunchOutOfResources
        }
        LaunchError::Shape { .. }
        | LaunchError::RequiredThreads { .. }
        | LaunchError::Params { .. } => Error::InvalidValue,
    }
}
