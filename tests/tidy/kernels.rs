//! Rules about kernels/*.cu: their heads, their names, and who launches them.

use std::collections::BTreeSet;

use regex::Regex;

use super::{code, exists, files, none, ops, read};

/// The files of kernels/ without the folder and the ending: `rms_norm`, `attention_backward`.
fn kernel_files() -> Vec<String> {
    let inside = |path: &String| {
        let name = path.strip_prefix("kernels/")?.strip_suffix(".cu")?;
        (!name.contains('/')).then(|| name.to_string())
    };
    files("kernels", ".cu").iter().filter_map(inside).collect()
}

/// The op that a file of kernels/ or a kernel belongs to: the longest op that the name begins with.
fn op_of(name: &str) -> Option<String> {
    let begins = |op: &String| {
        name.strip_prefix(op.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    ops().into_iter().filter(begins).max_by_key(String::len)
}

/// The Rust files with an op's launches: cuda.rs and cuda/*.rs.
fn launchers(op: &str) -> Vec<String> {
    files(&format!("src/ops/{op}"), ".rs")
        .into_iter()
        .filter(|path| path.ends_with("/cuda.rs") || path.contains("/cuda/"))
        .collect()
}

/// The kernels that a .cu file declares.
fn kernels(file: &str) -> Vec<String> {
    let text = read(&format!("kernels/{file}.cu"));
    let kernel = Regex::new(
        r#"extern "C" __global__ void(?:\s+__launch_bounds__\((?:[^()]|\([^()]*\))*\))?\s+(\w+)\("#,
    )
    .unwrap();
    let found: Vec<String> =
        kernel.captures_iter(&text).map(|found| found[1].to_string()).collect();
    let words = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let declared = words.filter(|line| line.contains("__global__")).count();
    assert_eq!(
        found.len(),
        declared,
        "kernels/{file}.cu: a kernel is `extern \"C\" __global__ void`"
    );
    found
}

/// String literals among an op's launches that look like a kernel's name: the op's, or that, `_` and more.
fn names_launched(op: &str) -> Vec<String> {
    let literal = Regex::new(&format!("\"({op}(?:_[a-z0-9_]+)?)\"")).unwrap();
    let texts: Vec<String> = launchers(op).iter().map(|path| read(path)).collect();
    let names = texts.iter().flat_map(|text| literal.captures_iter(text));
    names.map(|found| found[1].to_string()).collect()
}

#[test]
fn a_kernel_file_has_all_its_siblings() {
    let files_there = kernel_files();
    assert!(!files_there.is_empty());
    let mut missing = Vec::new();
    for file in &files_there {
        let Some(op) = op_of(file) else {
            missing.push(format!("kernels/{file}.cu: no op in src/ops has this name"));
            continue;
        };
        for sibling in [format!("kernels/ptx/{file}.ptx"), format!("tests/ops/cuda/{file}.rs")] {
            if !exists(&sibling) {
                missing.push(format!("kernels/{file}.cu: {sibling} is missing"));
            }
        }
        let ptx = format!("kernels/ptx/{file}.ptx\"");
        if !launchers(&op).iter().any(|path| read(path).contains(&ptx)) {
            missing.push(format!("kernels/{file}.cu: src/ops/{op}/cuda.rs embeds no {ptx}"));
        }
    }
    none(missing);
}

#[test]
fn what_stands_beside_kernels_has_one() {
    let there: BTreeSet<String> = kernel_files().into_iter().collect();
    let mut complaints = Vec::new();
    for path in files("kernels/ptx", ".ptx") {
        let name = path["kernels/ptx/".len()..].trim_end_matches(".ptx");
        if !there.contains(name) {
            complaints.push(format!("{path}: there is no kernels/{name}.cu"));
        }
    }
    for path in files("tests/ops/cuda", ".rs").iter().filter(|path| !path.ends_with("/mod.rs")) {
        let name = path["tests/ops/cuda/".len()..].split(['/', '.']).next().unwrap();
        if op_of(name).is_none() {
            complaints.push(format!("{path}: there is no op of this name"));
        }
    }
    for op in ops() {
        let texts: Vec<String> = launchers(&op).iter().map(|path| code(path)).collect();
        let launches = texts.iter().any(|text| text.contains("Launch::new"));
        if launches && !there.iter().any(|file| op_of(file).as_deref() == Some(&op)) {
            complaints.push(format!("src/ops/{op}/cuda.rs: there is no kernels/{op}.cu"));
        }
    }
    none(complaints);
}

/// A name is written out on both sides, so that grep finds who launches what.
#[test]
fn every_kernel_is_launched_and_every_launch_has_a_kernel() {
    let mut declared = BTreeSet::new();
    let mut complaints = Vec::new();
    for file in kernel_files() {
        for kernel in kernels(&file) {
            if op_of(&kernel) != op_of(&file) {
                complaints.push(format!("kernels/{file}.cu: {kernel} does not begin with its op"));
            }
            declared.insert(kernel);
        }
    }
    let launched: BTreeSet<String> = ops().iter().flat_map(|op| names_launched(op)).collect();
    complaints.extend(declared.difference(&launched).map(|name| format!("{name}: never launched")));
    // A file's own name, which a Source has, is no launch, nor is an op's in a message.
    let others: BTreeSet<String> = kernel_files().into_iter().chain(ops()).collect();
    let unknown = launched.difference(&declared).filter(|name| !others.contains(*name));
    complaints.extend(unknown.map(|name| format!("{name}: no .cu file has it")));
    none(complaints);
}

/// Whoever opens a .cu file sees first what it computes, of what shapes, and what it writes.
#[test]
fn a_kernel_file_says_what_it_is() {
    let mut complaints = Vec::new();
    for file in kernel_files() {
        let text = read(&format!("kernels/{file}.cu"));
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        if !head.first().is_some_and(|line| line.starts_with(&format!("// {file}.cu — "))) {
            complaints.push(format!("kernels/{file}.cu: it does not begin `// {file}.cu — `"));
        }
        for word in ["Shapes", "Writes", "Work", "Source"] {
            if !head.iter().any(|line| line.starts_with(&format!("// {word}"))) {
                complaints.push(format!("kernels/{file}.cu: its head has no `// {word}`"));
            }
        }
    }
    none(complaints);
}
