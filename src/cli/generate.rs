//! `dayrun generate`: an answer, token by token as it comes.

use std::io::Read;
use std::process::ExitCode;

use half::bf16;
use serde_json::{Value, json};

use super::Terminal;
use super::base_args::{BaseArgs, Opened};
use super::output::{Failure, print};
use crate::config::{ComputeDtype, PromptAs, RunFile};
use crate::data;
use crate::data::records::Record;
use crate::device::cpu::GemmElement;
use crate::model::generate::{Generator, Limits, Sampling};
use crate::model::tokenizer;
use crate::train::run::data_options;

/// Generate an answer, streamed to standard output.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun generate --run runs/run \"What is the capital of France?\"
  dayrun generate --run runs/run --no-adapter \"...\"           what the base model says
  echo \"Once upon a time\" | dayrun generate --model models/smol --raw
  dayrun generate --run runs/run --device cpu \"...\"          even where there is a GPU
  dayrun generate --run runs/run --temperature 0.7 --top-p 0.9 --seed 1 \"...\"

A run's prompt is read as the run's training rows were: as plain text for prompt/completion rows
(data.prompt_as = \"text\"), as a chat for messages rows. --chat and --raw force one. Without a
run, it is a chat if the model has a chat template.")]
pub struct Args {
    #[command(flatten)]
    base: BaseArgs,
    /// What to say to the model; without it, standard input is read.
    prompt: Option<String>,
    /// Continue the prompt as plain text, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Give the prompt as a user's turn, with the model's chat template.
    #[arg(long, conflicts_with = "raw")]
    chat: bool,
    /// A system message before the prompt, which makes it a chat.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// 0: always the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Choose among the K most likely tokens only; 0: all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the fewest tokens that have this probability together.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f64,
    /// The same seed gives the same answer.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The longest answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count)]
    max_new_tokens: usize,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|t| t.is_finite() && *t >= 0.0);
    value.ok_or_else(|| "expected a number from 0".into())
}

fn probability(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|p| *p > 0.0 && *p <= 1.0);
    value.ok_or_else(|| "expected a number above 0 and up to 1".into())
}

fn count(text: &str) -> Result<usize, String> {
    let value = text.parse::<usize>().ok().filter(|n| (1..=1 << 20).contains(n));
    value.ok_or_else(|| "expected an integer from 1 to 1048576".into())
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| {
                Failure::new(
                    format!("reading the prompt from standard input: {e}"),
                    "it must be UTF-8",
                )
            })?;
            text.trim_end_matches(['\n', '\r']).to_string()
        }
    };
    let opened = args.base.open(terminal)?;
    terminal.clear();
    let ids = encode(args, &prompt, &opened)?;
    if ids.is_empty() {
        return Err(Failure::new("the prompt is empty", "give a text, or pipe one in"));
    }
    match opened.run.train.compute_dtype {
        ComputeDtype::Bf16 => stream::<bf16>(args, ids, &opened),
        ComputeDtype::F32 => stream::<f32>(args, ids, &opened),
    }
}

/// Whether the run's training rows were plain texts. What cannot be read counts as chats.
fn trained_on_text(run: &RunFile) -> bool {
    let first = run.data.train_sources().first().and_then(data::first_record);
    let text = matches!(
        first,
        Some(
            Record::Plain { .. } | Record::Text(_) | Record::Alpaca { .. } | Record::Tokens { .. }
        )
    );
    run.data.prompt_as == PromptAs::Text && text
}

/// The prompt's tokens: as the run's rows were, or as a chat if the model knows how to.
fn encode(args: &Args, prompt: &str, opened: &Opened) -> Result<Vec<u32>, Failure> {
    let tokenizer = &opened.base.tokenizer;
    let forced = args.chat || args.system.is_some();
    let plain = args.raw || (!forced && opened.of_run && trained_on_text(&opened.run));
    let template = match plain {
        true => None,
        false => data_options(&opened.run)?.template(tokenizer)?,
    };
    let Some(template) = template else {
        if forced {
            let flag = if args.system.is_some() { "--system" } else { "--chat" };
            return Err(Failure::new(
                format!("{flag}: the model has no chat template"),
                "put all into the prompt, or give a chat template in the run file",
            ));
        }
        tracing::info!("the prompt is plain text");
        return Ok(tokenizer.encode_plain(prompt)?);
    };
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let system = args.system.iter().map(|text| message("system", text));
    let messages: Vec<Value> = system.chain([message("user", prompt)]).collect();
    let text = template.render(&messages, None, true).map_err(|e| {
        Failure::new(format!("the model's chat template {e}"), "--raw goes without the template")
    })?;
    Ok(tokenizer.encode(&text)?)
}

fn stream<E: GemmElement>(
    args: &Args,
    ids: Vec<u32>,
    opened: &Opened,
) -> Result<ExitCode, Failure> {
    let base = &opened.base;
    let positions = base.weights.config.max_position_embeddings;
    let room = positions.saturating_sub(ids.len());
    if room == 0 {
        return Err(Failure::new(
            format!("the prompt has {} tokens, the model takes {positions}", ids.len()),
            "shorten it",
        ));
    }
    let max_new_tokens = args.max_new_tokens.min(room);
    let capacity = ids.len() + max_new_tokens;
    let mut generator = Generator::<E>::new(&base.model(), opened.adapter.as_ref(), 1, capacity)?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let limits = Limits { max_new_tokens, stop_ids: base.tokenizer.stop_ids(), stop: None };
    let mut decoder = base.tokenizer.stream();
    // The generation goes on when a token cannot be shown; the first failure is told at the end.
    let mut failed: Option<Failure> = None;
    let mut show = |text: Result<String, tokenizer::Error>| {
        if let Err(failure) = text.map_err(Failure::from).and_then(|text| print(&text)) {
            failed.get_or_insert(failure);
        }
    };
    let mut on_token = |_: usize, token: u32| show(decoder.push(token));
    generator.generate(&[ids], &sampling, &limits, &mut on_token)?;
    show(decoder.finish());
    match failed {
        Some(failure) => Err(failure),
        None => print("\n").map(|()| ExitCode::SUCCESS),
    }
}
