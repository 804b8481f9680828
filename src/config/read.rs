//! Reads a run file: parse, lay `--set` over it, refuse what is unknown, convert, check ranges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::{ComputeDtype, DeviceChoice, Nf4Linear, RunFile, all_keys, sections, sources};
use crate::adapter::refused;

/// Where each key was given, for error messages.
#[derive(Clone, Debug, Default)]
pub struct Source {
    path: PathBuf,
    /// Dotted key → 1-based line.
    lines: BTreeMap<String, usize>,
    /// Dotted key → the `--set` argument as given.
    sets: BTreeMap<String, String>,
}

impl Source {
    /// `run.toml:12`, or `--set train.seed=x`, or only the file for a key that was not given.
    pub fn place(&self, key: &str) -> String {
        if let Some(set) = self.sets.get(key) {
            return format!("--set {set}");
        }
        match self.lines.get(key) {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// Two keys that do not go together. The place is that of the first if it was given.
    fn conflict(
        &self,
        (key, value): (&'static str, String),
        (other, other_value): (&'static str, String),
        why: &'static str,
        advice: String,
    ) -> ConfigError {
        let at = if self.gives(key) || !self.gives(other) { key } else { other };
        let at = self.place(at);
        let (value, other_value, advice) = (value.into(), other_value.into(), advice.into());
        ConfigError::Conflict { key, value, other, other_value, why, advice, at }
    }

    /// Whether the key was given, in the file or by `--set`.
    pub fn gives(&self, key: &str) -> bool {
        self.sets.contains_key(key) || self.lines.contains_key(key)
    }
}

/// Reads `path`, lays the `--set key=value` arguments over it and checks everything that can be
/// checked without loading anything.
pub fn load(path: &Path, sets: &[String]) -> Result<(RunFile, Source), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    parse(&text, path, sets)
}

/// As [`load`], from text; `path` only names it in errors.
pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<(RunFile, Source), ConfigError> {
    let syntax = |e: &toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        let at = format!("{}:{line}", path.display());
        if e.message().contains("duplicate key")
            && let Some(key) = e.span().and_then(|span| text.get(span))
        {
            return ConfigError::Twice { key: key.to_string(), at };
        }
        let message = e.message().to_string();
        ConfigError::Syntax { path: path.to_path_buf(), at, message }
    };
    let mut source = Source { path: path.to_path_buf(), ..Source::default() };
    let spanned = DeTable::parse(text).map_err(|e| syntax(&e))?;
    for (section, value) in spanned.get_ref() {
        let name = section.get_ref().to_string();
        source.lines.insert(name.clone(), line_of(text, section.span().start));
        if let DeValue::Table(keys) = value.get_ref() {
            for (key, _) in keys {
                let line = line_of(text, key.span().start);
                source.lines.insert(format!("{name}.{}", key.get_ref()), line);
            }
        }
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|e| syntax(&e))?;
    for set in sets {
        lay_over(&mut table, set, &mut source)?;
    }
    let run = RunFile::read(table, &source)?;
    run.check(&source)?;
    Ok((run, source))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

/// One `--set key=value`. The value is TOML; what is not TOML is taken as a string, so that
/// `--set model.path=some/dir` needs no quotes within quotes.
fn lay_over(table: &mut toml::Table, set: &str, source: &mut Source) -> Result<(), ConfigError> {
    let bad = || ConfigError::BadSet { set: set.to_string() };
    let (key, text) = set.split_once('=').ok_or_else(bad)?;
    let (key, text) = (key.trim(), text.trim());
    if key.is_empty() {
        return Err(bad());
    }
    let value = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_string()));
    source.sets.insert(key.to_string(), set.to_string());
    let Some((section, name)) = key.split_once('.') else {
        refuse_unknown_section(key, source)?;
        return Err(ConfigError::NotASection { key: key.into(), at: source.place(key) });
    };
    refuse_unknown_section(section, source).map_err(|e| match e {
        // The whole dotted key helps more than its first half.
        ConfigError::UnknownKey { .. } => unknown(key, source),
        other => other,
    })?;
    match table.entry(section).or_insert_with(|| Value::Table(toml::Table::new())) {
        Value::Table(section) => section.insert(name.to_string(), value),
        _ => {
            return Err(ConfigError::NotASection {
                key: section.into(),
                at: source.place(section),
            });
        }
    };
    Ok(())
}

fn refuse_unknown_section(name: &str, source: &Source) -> Result<(), ConfigError> {
    if sections().contains(&name) { Ok(()) } else { Err(unknown(name, source)) }
}

/// An unknown key and the known one that looks or sounds most like it: the same name in another
/// section first, then by edit distance.
fn unknown(key: &str, source: &Source) -> ConfigError {
    let name = key.rsplit('.').next().unwrap_or(key);
    let dotted: Vec<String> = all_keys().iter().map(|k| k.dotted()).collect();
    let candidates = dotted.iter().map(String::as_str).chain(sections());
    let score = |candidate: &str| {
        let own = candidate.rsplit('.').next().unwrap_or(candidate);
        // The section counts little: a key in the wrong section should still be found.
        strsim::jaro_winkler(name, own) + 0.1 * strsim::jaro_winkler(key, candidate)
    };
    let nearest = candidates
        .map(|candidate| (score(candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.88)
        .map(|(_, candidate)| candidate.to_string());
    let nearest = alias(name).map(str::to_string).or(nearest);
    ConfigError::UnknownKey { key: key.to_string(), at: source.place(key), nearest }
}

/// What PEFT can do with a key of this name, and dayrun cannot.
fn refuse_by_name(key: &str, source: &Source) -> Result<(), ConfigError> {
    match key.strip_prefix("lora.").and_then(refused::find) {
        None => Ok(()),
        Some(refused) => Err(ConfigError::NotSupported {
            key: key.to_string(),
            what: refused.what,
            at: source.place(key),
        }),
    }
}

/// What other trainers call our keys.
fn alias(name: &str) -> Option<&'static str> {
    Some(match name {
        "base_model" | "model_name" | "model_name_or_path" => "model.path",
        "load_in_4bit" => "model.quantization",
        "bnb_4bit_use_double_quant" | "use_double_quant" => "model.double_quant",
        "datasets" | "dataset" | "train_file" | "train_files" => "data.train",
        "val_set_size" | "test_datasets" | "eval_file" | "eval_files" => "data.eval",
        "sequence_len" | "max_seq_length" | "max_seq_len" | "cutoff_len" => "data.max_length",
        "lora_r" | "rank" | "lora_rank" => "lora.r",
        "alpha" => "lora.lora_alpha",
        "rslora" => "lora.use_rslora",
        "lora_target_modules" | "lora_target_linear" => "lora.target_modules",
        "dropout" => "lora.lora_dropout",
        "peft_layers_to_transform" => "lora.layers_to_transform",
        "neftune_noise_alpha" => "train.neftune_alpha",
        "lora_model_dir" | "adapter" => "lora.init_adapter",
        "micro_batch_size" | "per_device_train_batch_size" | "batch_size" => {
            "train.micro_batch_tokens"
        }
        "gradient_accumulation_steps" => "train.gradient_accumulation",
        "num_epochs" | "num_train_epochs" => "train.epochs",
        "lr" => "train.learning_rate",
        "lr_scheduler" | "lr_scheduler_type" => "train.schedule",
        "warmup_steps" | "warmup_ratio" => "train.warmup",
        "adam_epsilon" => "train.adam_eps",
        "max_norm" | "gradient_clipping" => "train.max_grad_norm",
        "bf16" | "fp16" | "dtype" => "train.compute_dtype",
        "use_cpu" | "no_cuda" | "device_map" | "gpu" => "train.device",
        "max_memory" | "gpu_memory_limit" => "train.memory",
        "save_steps" => "train.save_every",
        "output_dir" | "output" => "train.out",
        _ => return None,
    })
}

impl RunFile {
    /// Converts a parsed file, refusing unknown sections and keys first.
    pub(super) fn read(mut table: toml::Table, source: &Source) -> Result<Self, ConfigError> {
        let known: Vec<String> = all_keys().iter().map(|k| k.dotted()).collect();
        for (section, value) in &table {
            if !sections().contains(&section.as_str()) {
                return Err(unknown(section, source));
            }
            let Value::Table(keys) = value else {
                return Err(ConfigError::NotASection {
                    key: section.clone(),
                    at: source.place(section),
                });
            };
            for key in keys.keys() {
                let dotted = format!("{section}.{key}");
                if !known.contains(&dotted) {
                    refuse_by_name(&dotted, source)?;
                    return Err(unknown(&dotted, source));
                }
            }
        }
        if let Some(Value::Table(lora)) = table.get("lora") {
            super::lora::check_modules(lora, source)?;
        }
        if let Some(Value::Table(data)) = table.get("data") {
            sources::check(data, source)?;
        }
        let mut section = |name: &str| match table.remove(name) {
            Some(Value::Table(keys)) => keys,
            _ => toml::Table::new(),
        };
        Ok(Self {
            model: super::Model::read(&mut section("model"), source)?,
            data: super::Data::read(&mut section("data"), source)?,
            lora: super::Lora::read(&mut section("lora"), source)?,
            train: super::Train::read(&mut section("train"), source)?,
            eval: super::Eval::read(&mut section("eval"), source)?,
            dispatch: super::Dispatch::read(&mut section("dispatch"), source)?,
        })
    }

    /// What one key's own range cannot say.
    pub(super) fn check(&self, source: &Source) -> Result<(), ConfigError> {
        for key in ["model.path", "data.train"] {
            if !source.gives(key) {
                let example = all_keys().iter().find(|k| k.dotted() == key).map(|k| k.example);
                return Err(ConfigError::Missing {
                    key: key.into(),
                    at: source.place(key),
                    example: example.unwrap_or_default().to_string(),
                });
            }
        }
        let (longest, room) = (self.data.max_length, self.train.micro_batch_tokens);
        if longest > room {
            return Err(source.conflict(
                ("data.max_length", longest.to_string()),
                ("train.micro_batch_tokens", room.to_string()),
                "a document must fit in one micro-batch",
                format!(
                    "set data.max_length to at most {room}, or train.micro_batch_tokens to at \
                     least {longest}"
                ),
            ));
        }
        self.lora.check(source)?;
        self.check_device(source)
    }

    /// What a device cannot do.
    fn check_device(&self, source: &Source) -> Result<(), ConfigError> {
        let device = ("train.device", self.train.device.to_string());
        let on_gpu = matches!(self.train.device, DeviceChoice::Cuda(_));
        if let (DeviceChoice::Cpu, Some(memory)) = (self.train.device, self.train.memory) {
            return Err(source.conflict(
                ("train.memory", memory.to_string()),
                device,
                "it limits what is used of a GPU's memory",
                "leave train.memory out, or set train.device to \"cuda\"".into(),
            ));
        }
        if let (Some(op), false) = (&self.train.cpu_until, on_gpu) {
            return Err(source.conflict(
                ("train.cpu_until", format!("\"{op}\"")),
                device,
                "it divides a step between the CPU and a GPU",
                "leave train.cpu_until out, or set train.device to \"cuda\"".into(),
            ));
        }
        let way = self.dispatch.nf4_linear;
        if self.dispatch.nf4_linear_rows.is_some() && way != Nf4Linear::Auto {
            let way = if way == Nf4Linear::Fused { "fused" } else { "scratch" };
            return Err(source.conflict(
                ("dispatch.nf4_linear", format!("\"{way}\"")),
                ("dispatch.nf4_linear_rows", "a table".into()),
                "the table says what \"auto\" chooses",
                "leave one of them out, or set dispatch.nf4_linear to \"auto\"".into(),
            ));
        }
        if on_gpu && self.train.compute_dtype == ComputeDtype::F32 {
            return Err(source.conflict(
                ("train.compute_dtype", "\"f32\"".into()),
                device,
                "a GPU computes in bf16, with sums, statistics and loss in f32",
                "leave train.compute_dtype out, or set train.device to \"cpu\"".into(),
            ));
        }
        Ok(())
    }
}
