//! Failures as a person sees them, and standard output that may be closed early.

use std::io::Write;

use crate::Error;

/// Why a command failed: what happened, where, and what to do.
#[derive(Debug)]
pub struct Failure {
    /// May have lines of its own for where it happened, each beginning with two spaces.
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with advice.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }

    /// Prints it on standard error.
    pub(super) fn print(&self) {
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: Error = error.into();
        Self { message: error.to_string(), hint: error.hint() }
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { message: format!("writing to standard output: {e}"), hint: None })
        }
        _ => Ok(()),
    }
}

/// The name that the program was started by (`target/release/dayrun`), so that a command shown
/// to be tried works as it stands.
pub(super) fn program_name() -> String {
    std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "dayrun".into())
}
