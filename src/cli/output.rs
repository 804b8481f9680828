//! Failures as a person sees them, and standard output that may be closed early.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::train::RunDirError;

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
        eprintln!("error: {}", shown(&self.message));
        if let Some(hint) = &self.hint {
            eprintln!("hint: {}", shown(hint));
        }
    }
}

/// A message as a terminal gets it. It may quote anything that a file holds: control characters stand as
/// escapes, and of a line longer than a screen its beginning and its end.
fn shown(message: &str) -> String {
    const MOST: usize = 2000;
    let line = |line: &str| {
        let count = line.chars().count();
        if count <= MOST {
            return visible(line);
        }
        let begin: String = line.chars().take(MOST / 2).collect();
        let end: String = line.chars().skip(count - MOST / 4).collect();
        format!("{} [...] {}", visible(&begin), visible(&end))
    };
    message.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// What stands in files must not move a terminal's cursor: control characters as escapes.
pub(super) fn visible(text: &str) -> String {
    let one = |c: char| match c.is_control() && c != '\t' {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    };
    text.chars().map(one).collect()
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

/// A file that a command will write when its work is done: wholly or not at all, and never over
/// one that is there.
pub(super) struct NewFile(PathBuf);

impl NewFile {
    /// Refuses a name that is taken, and a directory that cannot be written to, before the work.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let file = Self(path.to_path_buf());
        if path.is_file() || path.is_dir() {
            return Err(file.taken());
        }
        if !path.exists() {
            file.temporary().map_err(|source| file.failed(source))?;
        }
        Ok(file)
    }

    /// Writes it. What is no regular file (`/dev/stdout`) is written to as it is.
    pub(super) fn write(&self, text: &str) -> Result<(), Failure> {
        if self.0.exists() && !self.0.is_file() {
            return std::fs::write(&self.0, text).map_err(|source| self.failed(source));
        }
        let write = || {
            let mut file = self.temporary()?;
            file.write_all(text.as_bytes())?;
            file.persist_noclobber(&self.0).map_err(|error| error.error)
        };
        match write() {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(self.taken()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// A file beside it that goes away by itself.
    fn temporary(&self) -> std::io::Result<tempfile::NamedTempFile> {
        let dir = self.0.parent().filter(|dir| !dir.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        builder.prefix(".writing-");
        #[cfg(unix)]
        {
            // Temporary files are private to their maker; this one becomes a file like any other.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(dir.unwrap_or(Path::new(".")))
    }

    fn taken(&self) -> Failure {
        Failure::new(
            format!("{} exists already, and is not overwritten", self.0.display()),
            "give another name, or move it away",
        )
    }

    fn failed(&self, source: std::io::Error) -> Failure {
        RunDirError::Write { path: self.0.clone(), source }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_fit_for_a_terminal() {
        assert_eq!(shown("bad `\u{1b}[2J`\n  at run.toml:1"), "bad `\\u{1b}[2J`\n  at run.toml:1");
        let long = format!("`{}` is unknown\n  at run.toml:7", "x".repeat(1_000_000));
        let text = shown(&long);
        assert!(text.len() < 3000 && text.ends_with("x` is unknown\n  at run.toml:7"), "{text}");
    }
}
