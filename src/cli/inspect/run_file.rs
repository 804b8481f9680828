//! All that a run file names, on one page: its model, its adapter, its data. A part that fails is said to,
//! and the others are shown.

use std::path::Path;

use serde_json::{Value, json};

use super::page::{Page, many, thousands};
use super::{Args, Report, adapter, data, failed, model};
use crate::cli::{Failure, Terminal};
use crate::config::RunFile;
use crate::model::config::LlamaConfig;
use crate::model::inspect;

pub(super) fn report(path: &Path, run: &RunFile, args: &Args, terminal: &Terminal) -> Report {
    let mut page = Page::new();
    page.title(&format!("run file {}", path.display()));
    let mut json = json!({"run_file": path});
    let mut usable = true;
    let mut add = |part: &str, report: Result<Report, Failure>| {
        let mut report = report.unwrap_or_else(|failure| failed(part, &failure));
        // A part that brings its own name is taken out of it.
        let inner = report.json.get_mut(part).map(Value::take);
        json[part] = inner.unwrap_or(report.json);
        page.add(report.page);
        usable &= report.usable;
    };
    let model_path = args.model.as_deref().unwrap_or(&run.model.path);
    add("model", model::report(model_path, args.tensors, terminal));
    let info = super::local(model_path, terminal).ok().and_then(|p| inspect::inspect(&p).ok());
    let shape = info.and_then(|model| model.config);
    match (&run.lora.init_adapter, &shape) {
        (Some(dir), _) => add("adapters", adapter::report(dir, Some(model_path), terminal)),
        (None, Some(shape)) => add("lora", fresh(run, shape)),
        (None, None) => {}
    }
    let run = RunFile {
        model: crate::config::Model { path: model_path.to_path_buf(), ..run.model.clone() },
        ..run.clone()
    };
    add("data", data::report(&run, true, args.rows, terminal));
    if !run.data.eval.0.is_empty() {
        // Evaluation rows are looked at as training rows would be.
        let mut held = run.clone();
        held.data.train = run.data.eval.clone();
        held.data.eval_share = 0.0;
        let report = data::report(&held, true, 0, terminal);
        add(
            "eval",
            report.map(|mut report| {
                report.json = report.json["data"].take();
                report
            }),
        );
    }
    Report { page, json, usable }
}

/// The adapter that the run would train on its model.
fn fresh(run: &RunFile, model: &LlamaConfig) -> Result<Report, Failure> {
    let mut page = Page::new();
    page.title("adapter to train");
    let targets = run.lora.config().targets(model)?;
    let parameters: u64 = targets
        .iter()
        .map(|target| {
            let (rows, cols) = target.linear.shape(model);
            (target.r * (rows + cols)) as u64
        })
        .sum();
    let mut ranks: Vec<usize> = targets.iter().map(|target| target.r).collect();
    ranks.sort_unstable();
    ranks.dedup();
    page.line("r", ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
    page.line("adapts", format!("{} linear layers", thousands(targets.len())));
    page.line("parameters", many(parameters));
    let json = json!({"ranks": ranks, "modules": targets.len(), "parameters": parameters});
    Ok(Report { page, json: json!({"lora": json}), usable: true })
}
