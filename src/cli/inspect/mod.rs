//! `dayrun inspect`: what lies at a path, before any training.

mod adapter;
mod data;
mod model;
mod page;
mod run_file;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Terminal;
use super::output::{Failure, print};
use crate::config::{self, RunFile};
use crate::model::source::{self, Address};
use page::Page;

/// Look at a model, an adapter, data or a run file, before any training.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun inspect models/smol                       a model: what it is, what would be quantised
  dayrun inspect models/smol.gguf --tensors        all of its tensors
  dayrun inspect runs/run                          an adapter; or a directory of several
  dayrun inspect rows.jsonl                        data: what kinds of rows, and which are bad
  dayrun inspect rows.parquet --model models/smol  lengths, where the loss falls, how they pack
  dayrun inspect rows.jsonl --model models/smol --set data.max_length=512 --rows 5
  dayrun inspect run.toml                          all that a run would use
  dayrun inspect models/smol --json | jq .model.memory

Of a model nothing but headers is read; one on the Hub is fetched first. Loss falls on the text in
colour; without a terminal that text stands in \u{27e6}brackets\u{27e7}. The code is 1 where something cannot be used.")]
pub struct Args {
    /// A model (a Hugging Face directory, a GGUF file, or hf://org/name), a PEFT adapter or a directory of several,
    /// data (a file or a directory), or a run file (.toml).
    path: PathBuf,
    /// For data: the model whose tokenizer and chat template they are for.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// For data and run files: set a key of the run file, such as data.columns. May be given several
    /// times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// For data: show so many rows with their loss.
    #[arg(long, value_name = "N", default_value_t = 2)]
    rows: usize,
    /// For a model: list its tensors, those of all layers as one.
    #[arg(long)]
    tensors: bool,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed in the end, and whether all of it can be used.
struct Report {
    page: Page,
    json: Value,
    usable: bool,
}

/// What a path is, by its looks.
#[derive(Debug, PartialEq)]
enum Kind {
    RunFile,
    Adapter,
    Model,
    Data,
}

fn kind_of(path: &Path) -> Result<Kind, Failure> {
    if Address::of(path).is_some() {
        return Ok(Kind::Model);
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !path.exists() {
        return Err(Failure::new(
            format!("{}: no such file or directory", path.display()),
            "give a model, an adapter, data or a run file",
        ));
    }
    if path.is_dir() {
        let has = |name: &str| path.join(name).exists();
        // Trainers leave a tokenizer beside an adapter.
        if has("adapter_config.json") {
            return Ok(Kind::Adapter);
        }
        if has("config.json") || has("tokenizer.json") {
            return Ok(Kind::Model);
        }
        return Ok(if adapter::is_in(path) { Kind::Adapter } else { Kind::Data });
    }
    Ok(match ending.as_str() {
        "toml" => Kind::RunFile,
        "gguf" => Kind::Model,
        "safetensors" => {
            let parent = path.parent().map_or(".".into(), |dir| dir.display().to_string());
            return Err(Failure::new(
                format!("{} is one file of a model or an adapter", path.display()),
                format!("give its directory: {parent}"),
            ));
        }
        _ => Kind::Data,
    })
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let report = match kind_of(&args.path)? {
        Kind::Model => model::report(&args.path, args.tensors, terminal)?,
        Kind::Adapter => adapter::report(&args.path, args.model.as_deref(), terminal)?,
        Kind::Data => data::report(&data_run(args)?, args.model.is_some(), args.rows, terminal)?,
        Kind::RunFile => {
            let (run, _) = config::load(&args.path, &args.set)?;
            run_file::report(&args.path, &run, args, terminal)
        }
    };
    terminal.clear();
    match args.json {
        true => print(&format!("{:#}\n", report.json))?,
        false => print(&report.page.text())?,
    }
    Ok(if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The path on this machine of a model; one from the Hub is fetched, as a run would do.
fn local<'a>(path: &'a Path, terminal: &Terminal) -> Result<Cow<'a, Path>, Failure> {
    Ok(source::local(path, &|progress| terminal.report(progress))?)
}

/// The run file that data are looked at with: theirs and the model's paths, and what was set.
fn data_run(args: &Args) -> Result<RunFile, Failure> {
    let text = |path: &Path| toml::Value::from(path.to_string_lossy().as_ref()).to_string();
    // No model is read without one, and the file needs a name for it.
    let model = args.model.as_deref().unwrap_or(Path::new("none"));
    let sets = [
        vec![
            format!("model.path={}", text(model)),
            format!("data.train={}", text(&args.path)),
            // A page that ends at the first bad row would not show the others.
            "data.on_bad_row=\"skip\"".into(),
        ],
        args.set.clone(),
    ];
    Ok(config::parse("", Path::new("the command line"), &sets.concat())?.0)
}

/// A part that failed, on its page.
fn failed(title: &str, failure: &Failure) -> Report {
    let mut page = Page::new();
    page.title(title);
    page.problem(&failure.message, failure.hint.as_deref());
    let json = json!({"error": failure.message, "hint": failure.hint});
    Report { page, json, usable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_by_its_looks() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, "{}").expect("written");
            path
        };
        let kind = |path: &Path| kind_of(path).expect("something");
        place("model/config.json");
        place("model/tokenizer.json");
        place("adapter/adapter_config.json");
        place("adapter/tokenizer.json");
        place("runs/one/adapter/adapter_config.json");
        place("rows/a.jsonl");
        let folder = |name: &str| kind(&dir.path().join(name));
        assert_eq!(folder("model"), Kind::Model);
        assert_eq!(folder("adapter"), Kind::Adapter);
        assert_eq!((folder("runs"), folder("runs/one")), (Kind::Adapter, Kind::Adapter));
        assert_eq!(folder("rows"), Kind::Data);
        assert_eq!(kind(&place("run.toml")), Kind::RunFile);
        assert_eq!(kind(&place("a.GGUF")), Kind::Model);
        assert_eq!(kind(&place("rows.parquet")), Kind::Data);
        let failure = kind_of(&place("m/model.safetensors")).expect_err("one file");
        assert!(failure.hint.expect("advice").ends_with("m"));
        assert!(kind_of(Path::new("nothing/there")).is_err());
    }
}
