//! A whole run: load, tokenise, prove, train, save, evaluate, sum up.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use half::bf16;

use super::device::Request;
use super::evaluate::{EvalFile, EvaluateError, EvaluateOptions, Evaluation, evaluate};
use super::proof;
use super::run_dir::{RunDir, Summary, peak_rss_bytes};
use super::training::{Training, epoch};
use super::{Base, Schedule, StepReport, Trainer, TrainerOptions};
use crate::Error;
use crate::adapter::{Adapter, BaseModel, PeftError, peft};
use crate::config::{ComputeDtype, OnRow, PromptAs, RunFile, TooLong};
use crate::data::{
    self, DataOptions, Dataset, EvalRow, HeldOut, Source, Statistics, encode, named,
};
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::model;
use crate::progress::Report;

/// Tokens of the first documents on which a fresh adapter is compared with none.
const PROOF_TOKENS: usize = 48;

/// How a run is watched and stopped.
pub struct Watch<'a> {
    /// How far a stage is.
    pub report: Report<'a>,
    /// After every update: what it did, and the planned number of updates.
    pub on_step: &'a (dyn Fn(&StepReport, u64) + Sync),
    /// When the run directory has been made.
    pub on_dir: &'a (dyn Fn(&Path) + Sync),
    /// When the data are loaded, the run is proven and an evaluation is done: a line to show.
    pub on_note: &'a (dyn Fn(&str) + Sync),
    /// Set to stop after the update in progress; the adapter is saved.
    pub stop: &'a AtomicBool,
}

/// What a run came to.
pub struct Outcome {
    pub dir: RunDir,
    pub summary: Summary,
    pub adapter: Adapter,
    pub base: Base,
    /// The evaluation files in the order of the run file.
    pub files: Vec<EvalFile>,
    pub before: Option<Evaluation>,
    pub after: Option<Evaluation>,
}

/// Which rows a run keeps from training, if any.
pub fn held_out(run: &RunFile) -> Option<HeldOut> {
    let share = run.data.eval_share;
    (share > 0.0).then_some(HeldOut { share, seed: run.train.seed })
}

/// How a run file's data section is loaded. Nothing is held out: see [`held_out`].
pub fn data_options(run: &RunFile) -> Result<DataOptions, Error> {
    let data = &run.data;
    let template = data.chat_template.as_deref().map(named::source);
    Ok(DataOptions {
        too_long: match data.too_long {
            TooLong::Truncate => data::TooLong::Truncate,
            TooLong::Split => data::TooLong::Split,
        },
        on_bad_row: match data.on_bad_row {
            OnRow::Error => data::OnBadRow::Error,
            OnRow::Skip => data::OnBadRow::Skip,
        },
        prompt_as: match data.prompt_as {
            PromptAs::Text => encode::PromptAs::Text,
            PromptAs::Chat => encode::PromptAs::Chat,
        },
        chat_template: template.transpose()?,
        template_kwargs: data.template_kwargs.json(),
        // The run file has been checked: what is there is a date.
        date: data.date.as_ref().and_then(|date| date.parse().ok()),
        cache_dir: model::default_cache_dir().unwrap_or_else(std::env::temp_dir),
        ..DataOptions::new(data.max_length)
    })
}

/// How a run file's evaluation is done.
pub fn evaluate_options(run: &RunFile) -> EvaluateOptions {
    EvaluateOptions {
        compute_dtype: run.train.compute_dtype,
        micro_batch_tokens: run.train.micro_batch_tokens,
        exact_match: run.eval.exact_match,
        max_new_tokens: run.eval.max_new_tokens,
        batch_rows: run.eval.batch_rows,
    }
}

/// Loads evaluation rows, source by source. `on_note` hears what of one is not as it was written.
pub fn eval_files(
    base: &Base,
    sources: &[Source],
    options: &DataOptions,
    report: Report,
    on_note: &dyn Fn(&str),
) -> Result<Vec<EvalFile>, Error> {
    let one = |source: &Source| {
        let sources = std::slice::from_ref(source);
        let load = || data::load_eval(sources, &base.tokenizer, options, report);
        let (rows, stats) = base.cpu.install(load)?;
        let losses = left_out(&stats);
        if !losses.is_empty() {
            let path = source.path.display();
            on_note(&format!("{path}: {} rows; {}", stats.rows, losses.join("; ")));
        }
        if let Some(first) = &stats.first_skipped {
            tracing::warn!("the first row skipped: {first}");
        }
        Ok(EvalFile { path: source.path.clone(), rows })
    };
    sources.iter().map(one).collect()
}

/// The rows that a run keeps from training, as one file of evaluation rows.
pub fn held_out_file(rows: Vec<EvalRow>) -> EvalFile {
    EvalFile { path: "held out".into(), rows }
}

/// Runs a checked run file into the directory `out`, from loading to summary.json.
pub fn run_file(run: &RunFile, out: &Path, watch: &Watch) -> Result<Outcome, Error> {
    let start = Instant::now();
    RunDir::check(out)?;
    check_files(run)?;
    let mut run = run.clone();
    run.train.out = Some(out.to_path_buf());
    let mut base = Base::open(&run.model.path, &Request::of(&run), watch.report)?;
    if let Some(name) = &run.model.name {
        base.name = name.clone();
    }
    let line = base.device.line();
    tracing::info!("{line}");
    (watch.on_note)(&line);
    // The resolved run file says what the run has used: a run from it uses the same.
    base.resolve(&mut run);
    tracing::info!("base model {}, {:?}", base.weights.identity(), base.weights.config);

    let positions = base.weights.config.max_position_embeddings;
    if run.data.max_length > positions {
        tracing::warn!(
            "data.max_length = {} lowered to the {positions} positions that the model was made for",
            run.data.max_length
        );
        run.data.max_length = positions;
    }
    let adapter = first_adapter(&mut run, &base)?;
    #[cfg(feature = "cuda")]
    if let (Some(_), Some(op)) = (&base.gpu, &run.train.cpu_until) {
        model::cuda::check_op(&base.weights, &adapter, op)?;
    }
    let vocab_size = Some(base.weights.config.vocab_size);
    let options = DataOptions { vocab_size, ..data_options(&run)? };
    let holding = DataOptions { held_out: held_out(&run), ..options.clone() };
    let sources = run.data.train_sources();
    let load = || data::load(&sources, &base.tokenizer, &holding, watch.report);
    let mut dataset = base.cpu.install(load)?;
    note_data(&dataset, watch);
    let sources = run.data.eval_sources();
    let mut files = eval_files(&base, &sources, &options, watch.report, watch.on_note)?;
    if !dataset.held_out.is_empty() {
        files.push(held_out_file(std::mem::take(&mut dataset.held_out)));
    }
    match run.train.compute_dtype {
        ComputeDtype::Bf16 => go::<bf16>(run, base, dataset, files, adapter, start, watch),
        ComputeDtype::F32 => go::<f32>(run, base, dataset, files, adapter, start, watch),
    }
}

/// Every file that the run will read must open, before the first of them is read.
fn check_files(run: &RunFile) -> Result<(), Error> {
    let open = |path: &Path| {
        let file = std::fs::File::open(path);
        file.map_err(|source| data::Error::Io { path: path.into(), source })
    };
    for source in run.data.train.0.iter().chain(&run.data.eval.0) {
        for file in data::files::expand(&source.path)? {
            open(&file)?;
        }
    }
    if let Some(template) = &run.data.chat_template {
        named::source(template)?;
    }
    if let Some(dir) = &run.lora.init_adapter {
        let path = dir.join("adapter_config.json");
        if let Err(source) = std::fs::File::open(&path) {
            return Err(PeftError::Read { path, source }.into());
        }
    }
    Ok(())
}

/// A fresh adapter, or the one to go on from; the run file then says what that one is.
fn first_adapter(run: &mut RunFile, base: &Base) -> Result<Adapter, Error> {
    let model = &base.weights.config;
    if let Some(dir) = run.lora.init_adapter.clone() {
        let mut adapter = peft::load(&dir, model, &base.name)?;
        run.lora.take(&adapter.config);
        // How to train is the run file's to say.
        adapter.config.lora_dropout = run.lora.lora_dropout;
        tracing::info!("adapter from {}: every tensor matches", dir.display());
        return Ok(adapter);
    }
    Ok(Adapter::new(run.lora.config(), model, run.train.seed)?)
}

/// What of the rows was left out, cut or is doubtful.
fn left_out(stats: &Statistics) -> Vec<String> {
    let counts = [
        (stats.skipped, "bad rows skipped"),
        (stats.truncated, "documents truncated"),
        (stats.split, "documents split"),
        (stats.pieces_without_loss, "pieces without a loss token left out"),
        (stats.straddled, "rows with a token over the border of prompt and completion"),
        (stats.turns_without_stop, "answers without a stop token at their end"),
        (stats.rewritten, "conversations whose earlier turns the chat template rewrites"),
    ];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!("{count} {what}")).collect()
}

fn note_data(dataset: &Dataset, watch: &Watch) {
    let stats = &dataset.stats;
    let mut text = format!(
        "{} rows, {} documents, {} tokens, {} of them with loss, the longest document has {}",
        stats.rows, stats.documents, stats.tokens, stats.loss_tokens, stats.longest
    );
    if stats.held_out > 0 {
        text.push_str(&format!("; {} rows held out for the evaluation", stats.held_out));
    }
    for loss in left_out(stats) {
        text.push_str(&format!("; {loss}"));
    }
    (watch.on_note)(&text);
    tracing::info!("data: {text}");
    if let Some(first) = &stats.first_skipped {
        tracing::warn!("the first row skipped: {first}");
    }
    if stats.turns_without_stop > 0 {
        tracing::warn!(
            "{} answers end without a stop token: the model will not learn to stop",
            stats.turns_without_stop
        );
    }
}

fn go<E: GemmElement>(
    run: RunFile,
    base: Base,
    dataset: Dataset,
    files: Vec<EvalFile>,
    adapter: Adapter,
    start: Instant,
    watch: &Watch,
) -> Result<Outcome, Error> {
    if run.lora.init_adapter.is_none() {
        let (mut documents, mut room) = (Vec::new(), PROOF_TOKENS);
        for i in 0..dataset.documents.len() {
            let mut tokens = dataset.documents.get(i)?.tokens;
            tokens.truncate(room);
            if tokens.is_empty() {
                break;
            }
            room -= tokens.len();
            documents.push(tokens);
        }
        let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        proof::fresh_adapter_changes_nothing::<E>(&base, &adapter, &documents)?;
        tracing::info!("the fresh adapter changes no logit of {} tokens", PROOF_TOKENS - room);
    }
    let accumulation = run.train.gradient_accumulation;
    let first = epoch(&run, &dataset, 0)?;
    let updates = |batches: usize| batches.div_ceil(accumulation) as u64;
    let total = match run.train.max_steps {
        Some(steps) => steps,
        None => {
            let mut total = updates(first.len());
            for e in 1..run.train.epochs as u64 {
                total += updates(epoch(&run, &dataset, e)?.len());
            }
            total
        }
    };
    let trainer_options = TrainerOptions {
        micro_batch_tokens: run.train.micro_batch_tokens,
        beta1: run.train.adam_beta1,
        beta2: run.train.adam_beta2,
        eps: run.train.adam_eps,
        weight_decay: run.train.weight_decay,
        max_grad_norm: match run.train.max_grad_norm {
            0.0 => f64::INFINITY,
            norm => norm,
        },
        neftune_alpha: run.train.neftune_alpha,
        seed: run.train.seed,
        placement: Placement::Packed,
    };
    if base.device.is_gpu() {
        // What does not fit into its memory is told before anything is written.
        drop(Trainer::<E>::new(&base.model(), adapter.clone(), trainer_options)?);
    }
    let dir = RunDir::create(run.train.out.as_deref().unwrap_or(Path::new("run")), &run)?;
    (watch.on_dir)(dir.path());
    // Before any work: there is room on the disk, and from here on there is always an adapter.
    let data = run.data.train.0.iter().map(|source| source.path.display().to_string()).collect();
    let about = BaseModel { data, ..base.about() };
    let mut training = Training::new(dir, about);
    training.save(&adapter, 0).map_err(|error| training.halted(error))?;

    let options = evaluate_options(&run);
    let judge = |adapter: Option<&Adapter>, when: &str| -> Result<Option<Evaluation>, Error> {
        if files.is_empty() || (when == "before" && !run.eval.before) {
            return Ok(None);
        }
        let result = evaluate(&base, adapter, &files, &options, watch.report, watch.stop);
        if let Err(EvaluateError::Stopped) = result {
            (watch.on_note)(&format!("the evaluation {when} training was not done"));
            return Ok(None);
        }
        let result = result?;
        let text = line(&result, when);
        tracing::info!("{text}");
        (watch.on_note)(&text);
        Ok(Some(result))
    };
    let before = judge(run.lora.init_adapter.as_ref().map(|_| &adapter), "before")
        .map_err(|error| training.halted(error))?;

    let mut trainer = Trainer::<E>::new(&base.model(), adapter, trainer_options)
        .map_err(|error| training.halted(error.into()))?;
    let schedule = Schedule::new(&run.train, total);
    tracing::info!("{total} updates, {} bytes of working memory", trainer.planned_bytes());
    // Whatever fails from here on: what was trained is saved, drawn and summed up first.
    let mut failure = training.train(&run, &dataset, first, &schedule, &mut trainer, watch).err();
    failure = failure.or(training.finish(&mut trainer, &base.weights.config).err());
    let adapter = trainer.last_adapter().clone();
    // Its memory is not needed while answers are generated.
    drop(trainer);
    let mut after = None;
    if failure.is_none() && !training.interrupted {
        match judge(Some(&adapter), "after") {
            Ok(evaluation) => {
                training.interrupted = evaluation.is_none() && !files.is_empty();
                after = evaluation;
            }
            Err(error) => failure = Some(error),
        }
    }
    let stats = &dataset.stats;
    let room = (training.batches * run.train.micro_batch_tokens as u64) as f64;
    let rate =
        |count: u64| if training.seconds > 0.0 { count as f64 / training.seconds } else { 0.0 };
    let summary = Summary {
        tokens_per_second: rate(training.tokens),
        loss_tokens_per_second: rate(training.loss_tokens),
        peak_rss_bytes: peak_rss_bytes(),
        seconds: start.elapsed().as_secs_f64(),
        training_seconds: training.seconds,
        final_loss: training.losses.last().map(|(_, loss)| *loss),
        steps: training.losses.len() as u64,
        tokens: training.tokens,
        loss_tokens: training.loss_tokens,
        utilisation: if room > 0.0 { training.tokens as f64 / room } else { 0.0 },
        trainable_parameters: adapter.params.len(),
        skipped_rows: stats.skipped,
        truncated_rows: stats.truncated,
        device: base.device.name(),
        gpu: base.device.gpu_summary(),
        threads: base.cpu.threads(),
        base_model: base.weights.identity().to_string(),
        dayrun_version: env!("CARGO_PKG_VERSION").into(),
        interrupted: training.interrupted,
        error: failure.as_ref().map(Error::to_string),
        exact_match_before: before.as_ref().and_then(Evaluation::exact_match),
        exact_match_after: after.as_ref().and_then(Evaluation::exact_match),
        perplexity_before: before.as_ref().and_then(Evaluation::perplexity),
        perplexity_after: after.as_ref().and_then(Evaluation::perplexity),
        extra: serde_json::Map::new(),
    };
    let written = training.dir.write_summary(&summary).map_err(Error::from);
    if let Some(error) = failure.or(written.err()) {
        return Err(training.halted(error));
    }
    Ok(Outcome { dir: training.dir, summary, adapter, base, files, before, after })
}

fn line(result: &Evaluation, when: &str) -> String {
    let mut text = format!("{when} training:");
    if let Some(perplexity) = result.perplexity() {
        text.push_str(&format!(" perplexity {perplexity:.3}"));
    }
    if let Some(rate) = result.exact_match() {
        text.push_str(&format!(", exact match {:.1} %", 100.0 * rate));
    }
    text.push_str(&format!(" ({} rows, {:.1} s)", result.rows.len(), result.seconds));
    text
}
