//! The rules of the house that a machine can keep. ARCHITECTURE.md and CONTRIBUTING.md say why.

#[path = "tidy/kernels.rs"]
mod kernels;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A source file longer than this is two files.
const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` whose name ends with `ext`, as paths relative to the repository.
fn files(folder: &str, ext: &str) -> Vec<String> {
    fn walk(folder: &Path, ext: &str, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                walk(&path, ext, found);
            } else if path.to_string_lossy().ends_with(ext) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(relative.replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ext, &mut found);
    found
}

fn sources() -> Vec<String> {
    ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, ".rs")).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// A file's code: comments cut off, and what stands in string literals.
fn code(path: &str) -> String {
    strip(&read(path))
}

fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                while i < chars.len() && !(chars[i] == '*' && at(i + 1) == '/') {
                    out.extend((chars[i] == '\n').then_some('\n'));
                    i += 1;
                }
                i += 2;
            }
            // r"..." and r#"..."#: no escapes, ended by a quote and as many hashes.
            'r' if (at(i + 1) == '"' || at(i + 1) == '#')
                && (i == 0 || !(chars[i - 1].is_alphanumeric() || chars[i - 1] == '_')) =>
            {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) != '"' {
                    out.push('r');
                    i += 1;
                    continue;
                }
                i += 2 + hashes;
                let ends =
                    |i: usize| at(i) == '"' && (0..hashes).all(|hash| at(i + 1 + hash) == '#');
                while i < chars.len() && !ends(i) {
                    out.extend((chars[i] == '\n').then_some('\n'));
                    i += 1;
                }
                i += 1 + hashes;
                out.push_str("\"\"");
            }
            '"' => {
                i += 1;
                while i < chars.len() && chars[i] != '"' {
                    out.extend((chars[i] == '\n').then_some('\n'));
                    i += if chars[i] == '\\' && at(i + 1) != '\n' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            // 'x', '\n', '"'; a lifetime has no closing quote there.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
                out.push_str("' '");
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// A file's code above its unit tests.
fn production(path: &str) -> String {
    let code = code(path);
    code.split("#[cfg(test)]").next().unwrap_or_default().to_string()
}

/// Fails with every complaint at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// `path:line: why` for each line of `code` that the pattern matches.
fn lines_with(path: &str, code: &str, pattern: &Regex, why: &str) -> Vec<String> {
    code.lines()
        .enumerate()
        .filter(|(_, line)| pattern.is_match(line))
        .map(|(i, line)| format!("{path}:{}: {why}: {}", i + 1, line.trim()))
        .collect()
}

#[test]
fn stripping_leaves_code() {
    let text = "a(\"un\\\"safe\", '\"', 'u'); // unsafe\nb::<'a>(r#\"x\"y\"#) /* unsafe */;";
    assert_eq!(strip(text), "a(\"\", ' ', ' '); \nb::<'a>(\"\") ;");
}

#[test]
fn every_file_says_what_it_is() {
    none(
        sources()
            .into_iter()
            .filter(|path| !read(path).starts_with("//! "))
            .map(|path| format!("{path}: the first line is not a `//!` that says what it is"))
            .collect(),
    );
}

#[test]
fn files_are_short() {
    none(
        sources()
            .into_iter()
            .map(|path| (read(&path).lines().count(), path))
            .filter(|(lines, _)| *lines > MAX_LINES)
            .map(|(lines, path)| format!("{path}: {lines} lines, at most {MAX_LINES}"))
            .collect(),
    );
}

/// The folders of src/ops: one for each op.
fn ops() -> Vec<String> {
    let mut ops: Vec<String> = fs::read_dir(root().join("src/ops"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    ops.sort();
    ops
}

#[test]
fn an_op_has_all_its_siblings() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let benches: BTreeSet<&str> = manifest["bench"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|bench| bench["harness"].as_bool() == Some(false))
        .filter_map(|bench| bench["name"].as_str())
        .collect();
    let ops = ops();
    assert!(!ops.is_empty());
    let mut missing = Vec::new();
    for op in &ops {
        let has = |file: &str| exists(&format!("src/ops/{op}/{file}"));
        let mut siblings: Vec<String> = ["mod.rs", "reference.rs"]
            .into_iter()
            .map(|file| format!("src/ops/{op}/{file}"))
            .collect();
        siblings.push(format!("benches/{op}.rs"));
        siblings.extend(has("cpu.rs").then(|| format!("tests/ops/{op}.rs")));
        missing.extend(
            siblings
                .iter()
                .filter(|path| !exists(path))
                .map(|path| format!("op {op}: {path} is missing")),
        );
        if !has("cpu.rs") && !has("cuda.rs") {
            missing.push(format!("op {op}: neither src/ops/{op}/cpu.rs nor src/ops/{op}/cuda.rs"));
        }
        if !benches.contains(op.as_str()) {
            missing.push(format!("op {op}: Cargo.toml has no [[bench]] with harness = false"));
        }
    }
    none(missing);
}

#[test]
fn every_bench_is_in_the_manifest() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let named: BTreeSet<String> = manifest["bench"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|bench| Some(format!("benches/{}.rs", bench["name"].as_str()?)))
        .collect();
    let there: BTreeSet<String> = files("benches", ".rs").into_iter().collect();
    assert_eq!(named, there);
}

/// Cargo builds tests/*.rs and tests/*/main.rs by itself and nothing else: other files must be
/// named as modules by one that is built.
#[test]
fn every_test_file_is_in_a_target() {
    let mut reached: BTreeSet<String> = files("tests", ".rs")
        .into_iter()
        .filter(|path| match path.matches('/').count() {
            1 => true,
            2 => path.ends_with("/main.rs"),
            _ => false,
        })
        .collect();
    // Workspace members below tests/ are packages of their own.
    let member = |path: &str| {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        Path::new(folder).ancestors().any(|folder| {
            folder != Path::new("") && root().join(folder).join("Cargo.toml").exists()
        })
    };
    let module = Regex::new(r#"(?m)(?:#\[path = "([^"]+)"\]\s*)?^\s*(?:pub )?mod (\w+);"#).unwrap();
    let mut queue: Vec<String> = reached.iter().cloned().collect();
    while let Some(path) = queue.pop() {
        let folder = Path::new(&path).parent().unwrap();
        let stem = Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
        let is_root = path.matches('/').count() == 1 || stem == "main" || stem == "mod";
        let base = if is_root { folder.to_path_buf() } else { folder.join(&stem) };
        for found in module.captures_iter(&read(&path)) {
            let candidates = match found.get(1) {
                Some(at) => vec![folder.join(at.as_str())],
                None => {
                    let name = &found[2];
                    vec![base.join(format!("{name}.rs")), base.join(name).join("mod.rs")]
                }
            };
            for candidate in candidates {
                let candidate = normal(&candidate);
                if exists(&candidate) && reached.insert(candidate.clone()) {
                    queue.push(candidate);
                }
            }
        }
    }
    none(
        files("tests", ".rs")
            .into_iter()
            .filter(|path| !reached.contains(path) && !member(path))
            .map(|path| format!("{path}: no target includes it, so it is never built"))
            .collect(),
    );
}

/// `a/b/../c` as `a/c`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            other => parts.push(other.as_os_str().to_string_lossy().into_owned()),
        }
    }
    parts.join("/")
}

/// Paths in backticks in ARCHITECTURE.md and CONTRIBUTING.md, unless they hold a placeholder.
#[test]
fn files_named_in_the_pages_exist() {
    let quoted =
        Regex::new(r"`((?:src|tests|benches|docs|data|kernels|tools|\.ci)/[A-Za-z0-9_./-]*)`")
            .unwrap();
    let mut missing = Vec::new();
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(page);
        let named: Vec<&str> =
            quoted.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).collect();
        assert!(!named.is_empty(), "{page} names no file");
        missing.extend(
            named
                .into_iter()
                .filter(|path| !path.contains("NAME") && !exists(path))
                .map(|path| format!("{page} names {path}, which does not exist")),
        );
    }
    none(missing);
}

/// `unsafe` lives in src/device, in an op's cuda.rs, in the tests' counting allocator and in the
/// virtual GPU, each with its reason.
#[test]
fn unsafe_only_where_it_belongs() {
    let word = Regex::new(r"\bunsafe\b").unwrap();
    let allowed = |path: &str| {
        path.starts_with("src/device/")
            || (path.starts_with("src/ops/")
                && (path.ends_with("/cuda.rs") || path.contains("/cuda/")))
            || path == "tests/common/alloc.rs"
            || path.starts_with("tests/virtual-gpu/")
    };
    none(
        sources()
            .into_iter()
            .filter(|path| !allowed(path))
            .flat_map(|path| lines_with(&path, &code(&path), &word, "unsafe"))
            .collect(),
    );
}

/// Every unsafe block and impl has a SAFETY comment close above it (or inside a chain of them), every
/// public unsafe function a Safety section.
#[test]
fn unsafe_blocks_say_why_they_are_safe() {
    const ABOVE: usize = 5;
    let block = Regex::new(r"\bunsafe (?:\{|impl\b)").unwrap();
    let function = Regex::new(r"\bpub(?:\([a-z]+\))? unsafe fn\b").unwrap();
    let mut complaints = Vec::new();
    for path in files("src", ".rs") {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            let said = |from: usize, what: &str| lines[from..=i].iter().any(|l| l.contains(what));
            if block.is_match(line) && !said(i.saturating_sub(ABOVE), "SAFETY") {
                complaints.push(format!("{path}:{}: no SAFETY comment above", i + 1));
            }
            if function.is_match(line) && !said(i.saturating_sub(4 * ABOVE), "# Safety") {
                complaints.push(format!("{path}:{}: no Safety section", i + 1));
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_below_cli_prints() {
    let print = Regex::new(r"\b(?:e?print(?:ln)?|dbg)!").unwrap();
    none(
        files("src", ".rs")
            .into_iter()
            .filter(|path| !path.starts_with("src/cli/"))
            .flat_map(|path| lines_with(&path, &production(&path), &print, "prints"))
            .collect(),
    );
}

/// What a layer's code never names, so that arrows point one way.
#[test]
fn arrows_point_one_way() {
    let rules: [(&str, &[&str]); 6] = [
        ("src/device/", &["ops", "quant", "adapter", "model", "data", "config", "train", "cli"]),
        ("src/quant/", &["ops", "adapter", "model", "data", "config", "train", "cli"]),
        ("src/ops/", &["model", "data", "config", "train", "cli"]),
        ("src/model/", &["train", "cli"]),
        ("src/data/", &["train", "cli"]),
        ("src/", &["cli"]),
    ];
    let mut complaints = Vec::new();
    for (folder, never) in rules {
        let pattern =
            Regex::new(&format!(r"\b(?:crate|dayrun)::(?:{})\b", never.join("|"))).unwrap();
        for path in files(folder.trim_end_matches('/'), ".rs") {
            if path.starts_with("src/cli/") || path == "src/main.rs" {
                continue;
            }
            let why = format!("{folder} never uses this");
            complaints.extend(lines_with(&path, &production(&path), &pattern, &why));
        }
    }
    none(complaints);
}

/// A tolerance is derived in tests/common/tol.rs: nobody compares with a number of their own.
/// Refused outside that folder: `x.abs() < 1e-3`, `diff <= 0.01`, a literal in assert_close.
#[test]
fn tolerances_come_from_the_table() {
    let number = r"(?:[0-9][0-9_]*\.[0-9_]+(?:e-?[0-9]+)?|[0-9][0-9_]*e-[0-9]+)(?:f32|f64)?";
    let patterns = [
        Regex::new(&format!(r"\babs\(\)[^;{{]*<=?\s*{number}")).unwrap(),
        Regex::new(&format!(r"\b(?:diff|error|err|delta|worst|gap)\w*\s*<=?\s*{number}")).unwrap(),
        Regex::new(&format!(r"assert_close[^;]*,\s*{number}\s*\)")).unwrap(),
    ];
    // The tables themselves; the virtual GPU's is the PTX manual's list of maximum errors.
    let tables =
        ["tests/common/", "tests/virtual-gpu/tests/conformance/approximations.rs", "tests/tidy.rs"];
    // The virtual GPU's own code branches on numbers: that is no comparison of a test.
    let code_not_tests = "tests/virtual-gpu/src/";
    let is_test = |path: &String| {
        !path.starts_with(code_not_tests) && !tables.iter().any(|table| path.starts_with(table))
    };
    let mut complaints = Vec::new();
    for path in files("tests", ".rs").into_iter().filter(is_test) {
        for pattern in &patterns {
            complaints.extend(lines_with(&path, &code(&path), pattern, "a tolerance of its own"));
        }
    }
    none(complaints);
}

/// The repository speaks of the project alone.
#[test]
fn nothing_of_anyones_machine_is_left() {
    let word = Regex::new(
        r"(?i)/work/(?:wt|main|shared)|/root/|\bworktree|\bworkplace|this session|(?:crates|pypi|npmjs)\.(?:io|org)/",
    )
    .unwrap();
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "Cargo.toml"];
    let others = [
        files("docs", ".md"),
        files("tests", ".py"),
        files("scripts", ".py"),
        files("kernels", ".cu"),
        files("kernels", ".cuh"),
        files("xtask/src", ".rs"),
        files("data", ".toml"),
        files(".ci", "run"),
    ]
    .concat();
    none(
        sources()
            .into_iter()
            .chain(pages.iter().map(|page| page.to_string()).filter(|page| exists(page)))
            .chain(others)
            .filter(|path| path != "tests/tidy.rs")
            .flat_map(|path| lines_with(&path, &read(&path), &word, "not of this project"))
            .collect(),
    );
}
