//! Findings for those who must act on them: paragraphs for a person, lines of JSON for a program.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::finding::{Finding, Kind, Place};

impl Kind {
    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "an access outside of what there is",
            Kind::Misaligned => "an address that is no multiple of the access's size",
            Kind::UseAfterFree => "an access to memory that was freed",
            Kind::Trap => "the kernel stopped itself",
            Kind::Assert => "an assertion of the kernel failed",
            Kind::BarrierNotReached => "threads wait for others that do not come",
            Kind::WrongMemberMask => "a member mask that does not fit who executes the instruction",
            Kind::IllegalInstruction => "an instruction that cannot be executed",
            Kind::Uninitialised => "a read of memory that nothing has written",
            Kind::Race => {
                "two threads of a block meet at the same bytes with nothing to order them"
            }
            Kind::AsyncNotWaited => {
                "an asynchronous copy is under way to the bytes that are touched"
            }
            Kind::CrossBlockRace => {
                "two blocks of a launch meet at the same bytes with nothing to order them"
            }
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "check the index against the size, or launch fewer threads",
            Kind::Misaligned => {
                "align the pointer and the pitch to the size of the access, or use a narrower one"
            }
            Kind::UseAfterFree => "free the memory after the last launch that uses it",
            Kind::Trap | Kind::Assert => "see the condition on that line",
            Kind::BarrierNotReached => {
                "let every thread of the block reach the same barrier: move it out of the branch, and \
                 guard the work instead of returning early"
            }
            Kind::WrongMemberMask => {
                "name exactly the lanes that execute it: __activemask() does not; a ballot before the \
                 branch does"
            }
            Kind::IllegalInstruction => "see the line",
            Kind::Uninitialised => {
                "write it before (a copy, a fill, a store by every thread that others read from)"
            }
            Kind::Race => {
                "put a __syncthreads() between the two lines (within a warp a __syncwarp()), or use \
                 atomics for both"
            }
            Kind::AsyncNotWaited => {
                "wait for the copy's group (cp.async.wait_group, __pipeline_wait_prior), then let a \
                 barrier tell the other threads"
            }
            Kind::CrossBlockRace => {
                "use atomics, or a __threadfence() between the data and the flag or counter that \
                 announces it; or split the launch in two"
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "block ({bx},{by},{bz}) thread ({tx},{ty},{tz}), PTX line {}", self.ptx_line)?;
        match &self.source {
            Some((file, line)) => write!(f, " ({file}:{line})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}: {}", self.kind, self.kind.meaning())?;
        writeln!(f, "  what   {}", self.detail)?;
        writeln!(f, "  where  kernel {}, {}", self.kernel, self.place)?;
        if let Some(other) = &self.other {
            writeln!(f, "  other  {other}")?;
        }
        if self.count > 1 {
            writeln!(f, "  count  {}, this is the first block's first", self.count)?;
        }
        write!(f, "  do     {}", self.kind.advice())
    }
}

impl Finding {
    /// One line of JSON: `{"kind":"Race","kernel":…,"detail":…,"count":…,"block":[0,0,0],
    /// "thread":[32,0,0],"ptx_line":57,"file":"races.cu","line":9,"other":{…}}`; `file` and `line` only
    /// where the PTX has them, `other` only where there is one.
    pub fn to_json(&self) -> String {
        let mut json = format!(
            "{{\"kind\":\"{:?}\",\"kernel\":{},\"detail\":{},\"count\":{},{}",
            self.kind,
            quoted(&self.kernel),
            quoted(&self.detail),
            self.count,
            place(&self.place)
        );
        if let Some(other) = &self.other {
            json.push_str(&format!(",\"other\":{{{}}}", place(other)));
        }
        json.push('}');
        json
    }
}

fn place(place: &Place) -> String {
    let Place { block, thread, ptx_line, source } = place;
    let numbers = |[x, y, z]: [u32; 3]| format!("[{x},{y},{z}]");
    let (block, thread) = (numbers(*block), numbers(*thread));
    let mut json = format!("\"block\":{block},\"thread\":{thread},\"ptx_line\":{ptx_line}");
    if let Some((file, line)) = source {
        json.push_str(&format!(",\"file\":{},\"line\":{line}", quoted(file)));
    }
    json
}

/// A JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Prints findings on stderr, and appends them to the file if there is one: a line of JSON each, whole
/// even where several processes write.
pub fn tell(findings: &[Finding], file: Option<&Path>) {
    for finding in findings {
        eprintln!("virtual GPU: {finding}");
    }
    let (Some(file), false) = (file, findings.is_empty()) else { return };
    let lines: String = findings.iter().map(|finding| finding.to_json() + "\n").collect();
    let written = OpenOptions::new().create(true).append(true).open(file);
    if let Err(error) = written.and_then(|mut file| file.write_all(lines.as_bytes())) {
        eprintln!("virtual GPU: appending findings to {}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        let place = |thread, ptx_line, line| Place {
            block: [1, 0, 0],
            thread: [thread, 0, 0],
            ptx_line,
            source: Some(("a \"b\"\\c.cu".to_owned(), line)),
        };
        Finding {
            kind: Kind::Race,
            kernel: "sum".to_owned(),
            place: place(32, 57, 9),
            other: Some(Place { source: None, ..place(31, 43, 8) }),
            detail: "read of 4 bytes\tat `tile` + 124".to_owned(),
            count: 64,
        }
    }

    #[test]
    fn a_person_reads_a_paragraph() {
        assert_eq!(
            finding().to_string(),
            "Race: two threads of a block meet at the same bytes with nothing to order them\n  \
             what   read of 4 bytes\tat `tile` + 124\n  \
             where  kernel sum, block (1,0,0) thread (32,0,0), PTX line 57 (a \"b\"\\c.cu:9)\n  \
             other  block (1,0,0) thread (31,0,0), PTX line 43\n  \
             count  64, this is the first block's first\n  \
             do     put a __syncthreads() between the two lines (within a warp a __syncwarp()), or use \
             atomics for both"
        );
    }

    #[test]
    fn a_program_reads_a_line_of_json() {
        assert_eq!(
            finding().to_json(),
            r#"{"kind":"Race","kernel":"sum","detail":"read of 4 bytes\u0009at `tile` + 124","count":64,"block":[1,0,0],"thread":[32,0,0],"ptx_line":57,"file":"a \"b\"\\c.cu","line":9,"other":{"block":[1,0,0],"thread":[31,0,0],"ptx_line":43}}"#
        );
    }

    #[test]
    fn lines_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("findings.jsonl");
        tell(&[finding()], Some(&file));
        tell(&[], Some(&file));
        tell(&[finding(), finding()], Some(&file));
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [finding().to_json().as_str(); 3]);
    }
}
