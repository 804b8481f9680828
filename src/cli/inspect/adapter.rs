//! An adapter, or several in a directory, on a page.

use std::path::Path;

use serde_json::{Value, json};

use super::Report;
use super::page::{Page, many, size, thousands};
use crate::adapter::{AdapterInfo, Listed, PeftError, list};
use crate::cli::{Failure, Terminal};
use crate::model::config::LlamaConfig;
use crate::model::inspect::{self, Refusal};

/// Whether there is an adapter in `dir` or in a folder of it, or a run's own.
pub(super) fn is_in(dir: &Path) -> bool {
    let has = |dir: &Path| {
        [dir.to_path_buf(), dir.join("adapter")]
            .iter()
            .any(|dir| dir.join("adapter_config.json").is_file())
    };
    let folders = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    has(dir) || folders.map(|entry| entry.path()).any(|path| has(&path))
}

/// The adapters in `dir`; with a model also whether they fit it.
pub(super) fn report(
    dir: &Path,
    model: Option<&Path>,
    terminal: &Terminal,
) -> Result<Report, Failure> {
    let shape = match model {
        Some(model) => Some(shape_of(model, terminal)?),
        None => None,
    };
    let shape = shape.as_ref().zip(model);
    of(&list(dir)?, dir, shape)
}

/// A model's shape. One that is not supported has none, and whether an adapter fits it cannot be told.
fn shape_of(model: &Path, terminal: &Terminal) -> Result<LlamaConfig, Failure> {
    let info = inspect::inspect(&super::local(model, terminal)?)?;
    match (info.config, info.refusals.into_iter().next()) {
        (Some(config), _) => Ok(config),
        (None, Some(Refusal { problem, hint })) => Err(Failure { message: problem, hint }),
        (None, None) => Err(Failure::new(
            format!("{} has no configuration that could be read", model.display()),
            "dayrun inspect MODEL says what is there",
        )),
    }
}

/// These, each on a few lines; one alone in full.
fn of(all: &[Listed], dir: &Path, model: Option<(&LlamaConfig, &Path)>) -> Result<Report, Failure> {
    let mut page = Page::new();
    if all.len() > 1 {
        page.title(&format!("{} adapters in {}", all.len(), dir.display()));
        page.table(
            &["name", "r", "modules>", "parameters>", "updates>", "loss>", "base model"],
            &all.iter().filter_map(|one| one.info.as_ref().ok().map(row)).collect::<Vec<_>>(),
        );
    }
    let (mut jsons, mut usable) = (Vec::new(), true);
    for one in all {
        let fit = one
            .info
            .as_ref()
            .ok()
            .zip(model)
            .map(|(info, (config, path))| info.fits(config, &path.display().to_string()));
        match &one.info {
            Ok(info) if all.len() == 1 => full(&mut page, info),
            Ok(_) => {}
            Err(error) => problem(&mut page, error),
        }
        match &fit {
            Some(Err(error)) => problem(&mut page, error),
            Some(Ok(())) if all.len() == 1 => page.line("fits", "the model given"),
            _ => {}
        }
        usable &= one.info.is_ok() && !matches!(fit, Some(Err(_)));
        jsons.push(json_of(one, fit.as_ref()));
    }
    Ok(Report { page, json: json!({"adapters": jsons}), usable })
}

fn problem(page: &mut Page, error: &PeftError) {
    page.blank();
    page.problem(&error.to_string(), error.hint().as_deref());
}

fn ranks(info: &AdapterInfo) -> String {
    info.ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// `target_modules`, cut to a line: it may list every path.
fn targets(info: &AdapterInfo) -> String {
    const MOST: usize = 100;
    let text = serde_json::to_string(&info.config.target_modules).unwrap_or_default();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

fn row(info: &AdapterInfo) -> Vec<String> {
    let trained = info.trained.as_ref();
    let steps = trained.map_or("".into(), |trained| thousands(trained.steps));
    let loss = trained.and_then(|trained| trained.final_loss);
    vec![
        info.name.clone(),
        ranks(info),
        thousands(info.modules),
        many(info.parameters as u64),
        steps,
        loss.map_or("".into(), |loss| format!("{loss:.4}")),
        info.base_model.clone().unwrap_or_default(),
    ]
}

fn full(page: &mut Page, info: &AdapterInfo) {
    let config = &info.config;
    page.title(&format!("adapter {}", info.path.display()));
    page.line("of the base", info.base_model.as_deref().unwrap_or("not said"));
    let scale = if config.use_rslora { "lora_alpha / sqrt(r)" } else { "lora_alpha / r" };
    page.line("r", ranks(info));
    page.line("lora_alpha", format!("{} (scale {scale})", config.lora_alpha));
    page.line("target_modules", targets(info));
    if config.lora_dropout > 0.0 {
        page.line("lora_dropout", config.lora_dropout.to_string());
    }
    page.line("adapts", format!("{} linear layers", thousands(info.modules)));
    page.line(
        "parameters",
        format!("{} in {}", many(info.parameters as u64), info.dtypes.join(", ")),
    );
    page.line("on disk", size(info.bytes));
    if let Some(trained) = &info.trained {
        let loss = trained.final_loss.map_or(String::new(), |loss| format!(", loss {loss:.4}"));
        let end = if trained.finished { "" } else { "; the run did not end by itself" };
        page.line("trained", format!("{} updates{loss}{end}", thousands(trained.steps)));
        if let Some(bytes) = &trained.base_bytes {
            page.line("on the bytes", bytes);
        }
    }
}

fn json_of(one: &Listed, fit: Option<&Result<(), PeftError>>) -> Value {
    let refusal = |error: &PeftError| json!({"problem": error.to_string(), "hint": error.hint()});
    let info = match &one.info {
        Ok(info) => info,
        Err(error) => return json!({"path": one.path, "refusal": refusal(error)}),
    };
    let trained = info.trained.as_ref().map(|trained| {
        json!({
            "steps": trained.steps,
            "final_loss": trained.final_loss,
            "finished": trained.finished,
            "base_bytes": trained.base_bytes,
        })
    });
    json!({
        "path": one.path,
        "name": info.name,
        "base_model": info.base_model,
        "r": info.config.r,
        "ranks": info.ranks,
        "lora_alpha": info.config.lora_alpha,
        "use_rslora": info.config.use_rslora,
        "target_modules": info.config.target_modules,
        "modules": info.modules,
        "parameters": info.parameters,
        "dtypes": info.dtypes,
        "bytes": info.bytes,
        "trained": trained,
        "refusal": fit.and_then(|fit| fit.as_ref().err()).map(refusal),
    })
}
