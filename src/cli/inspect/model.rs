//! A model on a page.

use std::path::Path;

use serde_json::json;

use super::Report;
use super::page::{Page, many, of, size, thousands};
use crate::cli::{Failure, Terminal};
use crate::data::DataOptions;
use crate::model::config::LlamaConfig;
use crate::model::inspect::{self, Memory, ModelInfo, Tensors, TokenizerInfo};
use crate::model::rope_scaling::RopeScaling;
use crate::model::tokenizer::TextTokenizer;

pub(super) fn report(path: &Path, tensors: bool, terminal: &Terminal) -> Result<Report, Failure> {
    let path = super::local(path, terminal)?;
    let mut info = inspect::inspect(&path)?;
    if let Some(refusal) = template_refusal(&path, &info) {
        info.refusals.push(refusal);
    }
    let usable = info.refusals.is_empty();
    let page = page(&info, tensors);
    Ok(Report { page, json: json!({"model": info}), usable })
}

/// A chat template that cannot be read, which only chat rows would find.
fn template_refusal(path: &Path, info: &ModelInfo) -> Option<inspect::Refusal> {
    info.tokenizer.as_ref().filter(|tokenizer| tokenizer.has_chat_template)?;
    let tokenizer = TextTokenizer::load(path).ok()?;
    let error = DataOptions::new(2).template(&tokenizer).err()?;
    Some(inspect::Refusal { problem: error.to_string(), hint: error.hint() })
}

fn page(info: &ModelInfo, tensors: bool) -> Page {
    let mut page = Page::new();
    page.title(&format!("model {}", info.path.display()));
    let found = &info.found;
    let called = match (&found.architectures[..], &found.model_type) {
        ([], None) => "unknown".to_string(),
        ([], Some(kind)) => kind.clone(),
        (names, _) => names.join(", "),
    };
    let family = match info.family {
        Some(family) => format!("{family} ({called})"),
        None => format!("{called}: none of the families that are supported"),
    };
    if let Some(name) = &found.name {
        page.line("name", name);
    }
    page.line("family", family);
    page.line("format", info.format);
    match &info.config {
        Some(config) => decoder(&mut page, config),
        None => {
            let size = |(key, value): (&String, &serde_json::Value)| format!("{key} {value}");
            let sizes: Vec<String> = found.sizes.iter().map(size).collect();
            page.line("its files say", sizes.join("\n"));
        }
    }
    if let Some(tensors) = &info.tensors {
        on_disk(&mut page, tensors);
    }
    if let Some(memory) = &info.memory {
        in_memory(&mut page, memory, info.quantised);
    }
    if let Some(tokenizer) = &info.tokenizer {
        tokens(&mut page, tokenizer);
    }
    for refusal in &info.refusals {
        page.blank();
        page.problem(&refusal.problem, refusal.hint.as_deref());
    }
    if let (Some(all), true) = (&info.tensors, tensors) {
        list(&mut page, all);
    }
    page
}

fn decoder(page: &mut Page, config: &LlamaConfig) {
    let (heads, kv) = (config.num_attention_heads, config.num_key_value_heads);
    page.line("layers", format!("{} of width {}", config.num_hidden_layers, config.hidden_size));
    let heads = format!("{heads} heads of {}, {kv} for keys and values", config.head_dim);
    page.line("attention", heads);
    page.line("MLP", config.intermediate_size.to_string());
    page.line("context", format!("{} tokens", thousands(config.max_position_embeddings)));
    page.line("rope", rope(config));
    let mut differences = Vec::new();
    if config.differences.qkv_bias {
        differences.push("biases of q, k and v");
    }
    if config.differences.o_bias {
        differences.push("a bias of o");
    }
    if config.differences.qk_norm {
        differences.push("norms of q and k");
    }
    if !differences.is_empty() {
        page.line("with", differences.join(", "));
    }
    if let Some(window) = window(config) {
        page.line("sliding window", window);
    }
    let tied = if config.tie_word_embeddings { ", tied to the head" } else { "" };
    page.line("embedding", format!("{} rows{tied}", thousands(config.vocab_size)));
}

fn rope(config: &LlamaConfig) -> String {
    let scaling = match &config.differences.rope_scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, original_max_position_embeddings: original, .. } => {
            format!(", llama3 scaling by {factor} from {} tokens", thousands(*original))
        }
        RopeScaling::Factors(factors) => {
            format!(", scaled by {} factors of the file", factors.len())
        }
    };
    let layers = config.num_hidden_layers;
    let without = (0..layers).filter(|&layer| !config.layer(layer).rope).count();
    let without = match without {
        0 => String::new(),
        some => format!("; none in {some} of {layers} layers"),
    };
    format!("rope_theta {}{scaling}{without}", config.rope_theta)
}

/// The layers that slide, and over how much.
fn window(config: &LlamaConfig) -> Option<String> {
    let layers = config.num_hidden_layers;
    let windows: Vec<usize> =
        (0..layers).filter_map(|layer| config.layer(layer).sliding_window).collect();
    let tokens = thousands(*windows.first()?);
    Some(match windows.len() == layers {
        true => format!("{tokens} tokens"),
        false => format!("{tokens} tokens, in {} of {layers} layers", windows.len()),
    })
}

fn on_disk(page: &mut Page, tensors: &Tensors) {
    let bytes = size(tensors.file_bytes);
    let files = of(tensors.files, "file");
    page.line("on disk", format!("{bytes} in {files}, {}", of(tensors.count, "tensor")));
    let types: Vec<String> = tensors
        .dtypes
        .iter()
        .map(|d| format!("{} in {} of {}", size(d.bytes), of(d.tensors, "tensor"), d.dtype))
        .collect();
    page.line("", types.join("\n"));
    page.line("parameters", many(tensors.parameters));
}

fn in_memory(page: &mut Page, memory: &Memory, quantised: bool) {
    page.line("in memory", format!("{} as NF4", size(memory.bytes())));
    let how =
        if quantised { "lie there in 4 bits, and are taken so" } else { "would be quantised" };
    let linears = format!(
        "{} of parameters in linear layers {how}: {}",
        many(memory.linear_parameters),
        size(memory.nf4_bytes)
    );
    let dense = format!(
        "{} in the embedding, the head, norms and biases stay in 16 bits: {}",
        many(memory.dense_parameters),
        size(memory.dense_bytes)
    );
    page.line("", format!("{linears}\n{dense}"));
}

fn tokens(page: &mut Page, tokenizer: &TokenizerInfo) {
    let named = [("BOS", &tokenizer.bos), ("EOS", &tokenizer.eos), ("pad", &tokenizer.pad)];
    let named =
        named.iter().filter_map(|(name, token)| Some(format!("{name} {}", token.as_deref()?)));
    let named: Vec<String> = named.collect();
    let vocabulary = format!("{} tokens", thousands(tokenizer.vocabulary));
    page.line("tokenizer", [vec![vocabulary], named].concat().join(", "));
    if !tokenizer.stop.is_empty() {
        page.line("stops at", tokenizer.stop.join(" "));
    }
    page.line("chat template", if tokenizer.has_chat_template { "yes" } else { "no" });
}

fn list(page: &mut Page, tensors: &Tensors) {
    page.blank();
    let rows: Vec<Vec<String>> = tensors
        .groups
        .iter()
        .map(|group| {
            let shapes: Vec<String> = group.shapes.iter().map(|s| format!("{s:?}")).collect();
            let shape = match shapes.len() {
                0..=2 => shapes.join(" "),
                more => format!("{more} shapes"),
            };
            vec![
                group.name.clone(),
                thousands(group.tensors),
                shape,
                group.dtypes.join(" "),
                many(group.parameters),
                size(group.bytes),
            ]
        })
        .collect();
    page.table(&["tensor", "count>", "shape", "type", "parameters>", "bytes>"], &rows);
}
