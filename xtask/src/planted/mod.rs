//! Mistakes planted in kernels, which tests must find: `cargo xtask planted`.
//!
//! The production code has no way to take other PTX than its own, and a build per mistake would take hours. So the
//! tests are built once, and each mistake gets a copy of their executable in which the PTX of its kernels is replaced
//! by that of the changed source, less comments and indentation and filled up with spaces to the same length.

mod table;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::ptx;
pub use table::{MISTAKES, Mistake};

/// What a test said to a mistake.
struct Found<'a> {
    mistake: &'a Mistake,
    /// `None`: the test passed.
    said: Option<String>,
}

/// Plants every mistake (or those whose text, kernels or test contain `only`) and runs its test. Without `only` it
/// writes docs/planted.md and returns its path.
///
/// # Errors
/// A compiler that can't be had, a mistake that no longer applies, a build that fails; at the end
/// [`Error::NotFound`] with the mistakes that no test has found.
pub fn run(only: Option<&str>) -> Result<PathBuf, Error> {
    let folder = crate::target().join("planted");
    fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
    let executable = tests()?;
    let binary = fs::read(&executable).map_err(Error::io("reading", &executable))?;
    let wanted = |mistake: &&Mistake| {
        let all = [mistake.what, mistake.kernels, mistake.test];
        only.is_none_or(|only| all.iter().any(|text| text.contains(only)))
    };
    let (mut found, mut passed) = (Vec::new(), BTreeSet::new());
    for mistake in MISTAKES.iter().filter(wanted) {
        // A test that fails anyway finds nothing.
        if passed.insert(mistake.test)
            && let Some(said) = answer(&executable, mistake)?
        {
            return Err(Error::Fails { test: mistake.test, said });
        }
        let said = try_one(mistake, &binary, &folder)?;
        println!("{}: {}\n    {}", mistake.kernels, mistake.what, shown(&said));
        found.push(Found { mistake, said });
    }
    let page = crate::root().join("docs/planted.md");
    if only.is_none() {
        fs::write(&page, render(&found)).map_err(Error::io("writing", &page))?;
    }
    let missed = found.iter().filter(|found| found.said.is_none());
    let missed: Vec<String> = missed.map(|found| found.mistake.what.to_string()).collect();
    if missed.is_empty() { Ok(page) } else { Err(Error::NotFound { missed }) }
}

/// The text of a source or header with the mistake in it.
///
/// # Errors
/// What should stand there does not, or more than once: [`Error::Untold`].
pub fn planted(mistake: &Mistake) -> Result<String, Error> {
    let path = crate::root().join("kernels").join(mistake.file);
    let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
    match text.matches(mistake.right).count() {
        1 => Ok(text.replace(mistake.right, mistake.wrong)),
        _ => Err(Error::Untold {
            kernel: mistake.kernels.to_string(),
            what: "a planted mistake's place is not there once: see xtask/src/planted/table.rs",
        }),
    }
}

/// The executable of the tests in tests/ops, built.
fn tests() -> Result<PathBuf, Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["test", "--package=dayrun", "--test=ops", "--no-run", "--message-format=json"])
        .current_dir(crate::root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io("starting", &cargo))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut named =
        text.split("\"executable\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let ours = |path: &&str| {
        Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with("ops-"))
    };
    let path = named.find(ours).filter(|_| output.status.success());
    path.map(PathBuf::from).ok_or(Error::Build { status: output.status })
}

/// Plants one mistake, and returns what its test said.
fn try_one(mistake: &Mistake, binary: &[u8], folder: &Path) -> Result<Option<String>, Error> {
    let sources = folder.join("kernels");
    copy(&crate::root().join("kernels"), &sources)?;
    let changed = sources.join(mistake.file);
    fs::write(&changed, planted(mistake)?).map_err(Error::io("writing", &changed))?;
    let request = ptx::Request {
        files: vec![sources.join(mistake.kernels).with_extension("cu")],
        out: Some(folder.to_path_buf()),
        ..ptx::Request::default()
    };
    ptx::run(&request)?;
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(Error::io("reading", &path));
    let name = format!("{}.ptx", mistake.kernels);
    let right = read(crate::root().join("kernels/ptx").join(&name))?;
    let wrong = fitted(&read(folder.join(&name))?, right.len()).ok_or(Error::Untold {
        kernel: mistake.kernels.to_string(),
        what: "the PTX of a planted mistake is longer than that of the kernel",
    })?;
    let copy = folder.join("ops");
    // A process may still have the last one.
    let _ = fs::remove_file(&copy);
    fs::write(&copy, replaced(binary, right.as_bytes(), wrong.as_bytes(), mistake)?)
        .map_err(Error::io("writing", &copy))?;
    runnable(&copy)?;
    answer(&copy, mistake)
}

/// What the mistake's test says when an executable runs it; `None` when it passes.
fn answer(executable: &Path, mistake: &Mistake) -> Result<Option<String>, Error> {
    let test = format!("cuda::{}", mistake.test);
    let output = Command::new(executable)
        .args([test.as_str(), "--exact"])
        .current_dir(crate::root())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("starting", executable))?;
    let out = String::from_utf8_lossy(&output.stdout);
    if !out.contains("running 1 test") {
        return Err(Error::Untold {
            kernel: mistake.kernels.to_string(),
            what: "the test of a planted mistake is not there: see xtask/src/planted/table.rs",
        });
    }
    Ok((!output.status.success()).then(|| said(&out)))
}

/// The PTX without comments and indentation, its lines where they were, and spaces up to `len`.
fn fitted(ptx: &str, len: usize) -> Option<String> {
    let code = |line: &str| line.split("//").next().unwrap_or_default().trim().to_string();
    let mut text: String = ptx.lines().map(|line| code(line) + "\n").collect();
    let spaces = len.checked_sub(text.len())?;
    text.extend(std::iter::repeat_n(' ', spaces));
    Some(text)
}

fn replaced(
    binary: &[u8],
    right: &[u8],
    wrong: &[u8],
    mistake: &Mistake,
) -> Result<Vec<u8>, Error> {
    let mut binary = binary.to_vec();
    let (mut from, mut times) = (0, 0);
    while let Some(at) = binary[from..].windows(right.len()).position(|there| there == right) {
        binary[from + at..][..right.len()].copy_from_slice(wrong);
        (from, times) = (from + at + right.len(), times + 1);
    }
    let what = "its PTX is not in the tests' executable: cargo xtask ptx, and build again";
    let kernel = mistake.kernels.to_string();
    if times > 0 { Ok(binary) } else { Err(Error::Untold { kernel, what }) }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io("making", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("listing", from))? {
        let path = entry.map_err(Error::io("listing", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(Error::io("copying", &path))?;
        }
    }
    Ok(())
}

fn runnable(program: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(program, mode).map_err(Error::io("setting the mode of", program))?;
    }
    Ok(())
}

/// What tells what is wrong: the watchman's first finding, or else the comparison's words.
fn said(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    let finding = lines.iter().position(|line| line.starts_with("what   "));
    if let Some([kind, what, place, ..]) = finding.and_then(|at| lines.get(at.checked_sub(1)?..)) {
        let kind = kind.trim_start_matches("virtual GPU: ").split(':').next().unwrap_or_default();
        let [what, place] = [what, place].map(|line| line.split_once(' ').unwrap_or_default().1);
        return format!("{kind}: {}; {}", what.trim(), place.trim());
    }
    let panicked = lines.iter().position(|line| line.contains("panicked at"));
    let ends = |line: &&&str| !(line.is_empty() || line.starts_with("note: "));
    let words = panicked.map(|at| lines[at + 1..].iter().take_while(ends).take(4));
    let words: Vec<&str> = words.into_iter().flatten().copied().collect();
    if words.is_empty() {
        "it failed and said nothing".to_string()
    } else {
        short(&words.join("; "))
    }
}

/// A comparison's words up to its worst element, without how the tolerance came about.
fn short(words: &str) -> String {
    let words = words.split("; worst row").next().unwrap_or_default();
    match (words.find(" (Tol {"), words.find(" });")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &words[..from], &words[to + 3..]),
        _ => words.to_string(),
    }
}

fn shown(said: &Option<String>) -> &str {
    said.as_deref().unwrap_or("NOT FOUND")
}

fn render(found: &[Found]) -> String {
    let mut out = "# Mistakes that the tests have found\n\n\
        Written by `cargo xtask planted`, which plants each of these mistakes in a kernel, and runs the one test of\n\
        tests/ops/cuda that must see it, on the virtual GPU, over the few shapes of a plain `cargo test`. What a test\n\
        said first stands in the last column: a finding of the watchman names kernel and place, a comparison the worst\n\
        element. The changes themselves are in `xtask/src/planted/table.rs`; that each still applies is a test.\n\n\
        | mistake | planted in | test | what it said |\n| --- | --- | --- | --- |\n"
        .to_string();
    for Found { mistake, said } in found {
        let said = shown(said).replace('|', "\\|");
        let Mistake { what, file, test, .. } = mistake;
        let _ = writeln!(out, "| {what} | kernels/{file} | `{test}` | {said} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_still_applies() {
        for mistake in MISTAKES {
            planted(mistake).unwrap_or_else(|error| panic!("{}: {error}", mistake.what));
            let (module, test) = mistake.test.rsplit_once("::").unwrap();
            let module = module.replace("::", "/");
            let file = crate::root().join("tests/ops/cuda").join(module).with_extension("rs");
            let text = fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("fn {test}()")), "no test {}", mistake.test);
        }
    }

    #[test]
    fn ptx_is_fitted_line_by_line() {
        assert_eq!(fitted("\tadd x; // y\n\n", 10).as_deref(), Some("add x;\n\n  "));
        assert_eq!(fitted("add x;\n", 6), None);
    }

    #[test]
    fn the_first_thing_said_is_told() {
        let text = "virtual GPU: Race: two threads meet\n  what   a store\n  where  kernel k, PTX line 3\n  do  x\n";
        assert_eq!(said(text), "Race: a store; kernel k, PTX line 3");
        assert_eq!(said("a\nb panicked at c:\nrow 3\n  differs\nnote: run\n"), "row 3; differs");
        assert_eq!(said("a"), "it failed and said nothing");
        let text = "panicked at x:\ny: 1 of 2 are off (Tol { rounds: 1 }); worst element [0]\nworst row 0\n";
        assert_eq!(said(text), "y: 1 of 2 are off; worst element [0]");
    }
}
