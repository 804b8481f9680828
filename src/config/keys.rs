//! Every key of the run file: name, type, default, what is allowed, what it means.

use std::path::PathBuf;

use super::device::{ByteSize, DeviceChoice, Threads};
use super::section::section;
use super::sources::Sources;
use super::values::{
    ComputeDtype, Nf4Linear, OnRow, PromptAs, Quantization, ScheduleKind, TooLong, Variables,
    Warmup,
};
use crate::adapter::{Names, OneOrMany, Patterns, RANKS, TargetModules};
use crate::data::Columns;
use crate::model::LinearDispatch;

section! {
    /// The frozen base model.
    "model" Model {
        /// The base model: a Hugging Face directory (config.json, tokenizer.json, safetensors),
        /// one GGUF file, or a model on the Hub: "hf://org/name", with "@revision" if need be, which is
        /// kept in Hugging Face's cache. Paths are relative to the directory that dayrun is started in.
        path: PathBuf = PathBuf::new(), "a path or hf://org/name", |p| !p.as_os_str().is_empty(),
            example "\"models/SmolLM2-135M-Instruct\"";
        /// The base model's name for others, who load the adapter with PEFT: mostly its name on
        /// the Hub. Without it, that of hf://org/name, or the path.
        name: Option<String> = None, "a name", |_| true,
            example "\"HuggingFaceTB/SmolLM2-135M-Instruct\"";
        /// How the base's linear layers are held. "nf4" is QLoRA's 4-bit type. "none" is plain LoRA: weights as
        /// they are published, in bf16 (where they are in more, rounded to it; with train.compute_dtype = "f32"
        /// unrounded). Everything but these layers is in bf16 in any case.
        quantization: Quantization = Quantization::Nf4, "\"nf4\" or \"none\"", |_| true;
        /// Quantise the 4-bit blocks' scales once more, to 8 bits (saves 0.37 bits a weight).
        double_quant: bool = true, "true (single quantisation is not there yet)", |v| *v;
    }
}

section! {
    /// What to learn from: JSONL, JSON or Parquet files of rows such as
    /// {"prompt": ..., "completion": ...} or {"messages": [{"role": "user", "content": ...}, ...]};
    /// also conversations (ShareGPT), instruction/input/output (Alpaca), text, and ready-made
    /// input_ids with labels. Loss falls on completions and on assistant turns only.
    "data" Data {
        /// Training data: a file or a directory of files, or a list. With a weight an entry's rows
        /// are seen more often or less: [{ path = "a.jsonl", weight = 2.0 }, "b.parquet"] sees those
        /// of the first twice in an epoch; 0.5 is every second one, in the next epoch the others.
        train: Sources = Sources::default(), "a path, a table of path, weight and columns, or a list of these",
            |p| !p.0.is_empty(), example "\"data/train.jsonl\"";
        /// Data for the evaluation before and after training.
        eval: Sources = Sources::default(), "a path, a table of path and columns, or a list of these",
            |_| true;
        /// The share of the training rows that is held out for the evaluation: 0.05 keeps about one
        /// in twenty. Which, depends on train.seed and their place alone.
        eval_share: f64 = 0.0, "a number from 0 to below 1", |v| (0.0..1.0).contains(v);
        /// What the data's columns are called: { prompt = "question", completion = "answer" }. A
        /// table in train or eval may have its own.
        columns: Columns = Columns::default(), "a table of our names and yours", |_| true;
        /// The longest document, in tokens. At most train.micro_batch_tokens.
        max_length: usize = 2048, "an integer from 2", |v| *v >= 2;
        /// What happens to a longer document: "truncate" keeps its beginning, "split" cuts it
        /// into several documents.
        too_long: TooLong = TooLong::Truncate, "\"truncate\" or \"split\"", |_| true;
        /// What happens to a line that is not a valid record, or that has not one token to learn
        /// from: "error" stops and names it, "skip" leaves it out and counts it.
        on_bad_row: OnRow = OnRow::Error, "\"error\" or \"skip\"", |_| true;
        /// What a prompt/completion row becomes on a model with a chat template: plain "text", or
        /// a "chat" of one user turn and one assistant turn.
        prompt_as: PromptAs = PromptAs::Text, "\"text\" or \"chat\"", |_| true;
        /// A chat template that takes the place of the model's own: "chatml", "llama-3", "mistral"
        /// or "alpaca" for base models, or a file (Jinja; a file of such a name as ./chatml).
        chat_template: Option<PathBuf> = None, "a name or a path", |_| true,
            example "\"chatml\"";
        /// Variables for the chat template, such as { enable_thinking = false }.
        template_kwargs: Variables = Variables::default(), "a table", |_| true;
        /// The date that a template sees which asks for today's, so that runs can be repeated.
        date: Option<String> = None, "a date such as \"2025-01-31\"",
            |v| v.as_ref().is_none_or(|v| v.parse::<jiff::civil::Date>().is_ok()),
            example "\"2025-01-31\"";
    }
}

section! {
    /// The adapter. The keys are PEFT's, and mean what they mean there.
    "lora" Lora {
        /// Rank of the adapter matrices.
        r: usize = 16, "an integer from 1 to 1024", |v| RANKS.contains(v);
        /// The adapter's output is scaled by lora_alpha / r.
        lora_alpha: f64 = 16.0, "a finite number above 0", |v| v.is_finite() && *v > 0.0;
        /// Scale by lora_alpha / sqrt(r) instead (rsLoRA: steadier at high ranks).
        use_rslora: bool = false, "true or false", |_| true;
        /// Which linear layers are adapted: "all-linear" (all but the head); a list of paths or
        /// their ends, such as ["q_proj", "v_proj"]; or a regular expression that matches whole
        /// paths, such as '.*\.(q|v)_proj'. A path: model.layers.0.self_attn.q_proj.
        target_modules: TargetModules = TargetModules::AllLinear,
            "\"all-linear\", a list of module names, or a regular expression",
            |v| !matches!(v, TargetModules::Named(names) if !is_given(names));
        /// Which of these are not adapted after all: a list, or a regular expression.
        exclude_modules: Option<Names> = None, "a list of module names, or a regular expression",
            |v| v.as_ref().is_none_or(is_given), example "[\"model.layers.0.self_attn.q_proj\"]";
        /// Only these layers, counted from 0: a number or a list. With a list of target_modules, or
        /// "all-linear".
        layers_to_transform: Option<OneOrMany<usize>> = None, "a layer's number, or a list of them",
            |v| v.as_ref().is_none_or(|v| !v.as_slice().is_empty()), example "[0, 1, 2]";
        /// What stands before a layer's number in a path; without it, anything.
        layers_pattern: Option<OneOrMany<String>> = None, "a text or a list of texts",
            |v| v.as_ref().is_none_or(|v| !v.as_slice().is_empty()), example "\"layers\"";
        /// Another r for some modules: regular expressions for a path or its end, such as
        /// { "q_proj" = 8, 'layers\.[01]\..*' = 32 }. The first that matches counts.
        rank_pattern: Patterns<usize> = Patterns::default(),
            "a table of expressions and integers from 1 to 1024",
            |v| v.0.iter().all(|(_, r)| RANKS.contains(r));
        /// Another lora_alpha for some modules, in the same way.
        alpha_pattern: Patterns<f64> = Patterns::default(),
            "a table of expressions and numbers above 0",
            |v| v.0.iter().all(|(_, alpha)| alpha.is_finite() && *alpha > 0.0);
        /// The share of a layer's inputs that training leaves out, at random, on the way into the adapter.
        lora_dropout: f64 = 0.0, "a number from 0 to below 1", |v| (0.0..1.0).contains(v);
        /// Go on from this PEFT adapter directory instead of a fresh adapter. The keys above are
        /// then taken from it, all but lora_dropout.
        init_adapter: Option<PathBuf> = None, "a path", |_| true,
            example "\"runs/first/adapter\"";
    }
}

section! {
    /// The training itself.
    "train" Train {
        /// Tokens of one micro-batch. Documents are packed into it without attention across
        /// their borders, so nothing is padded.
        micro_batch_tokens: usize = 2048, "an integer from 2 to 1048576",
            |v| (2..=1 << 20).contains(v);
        /// Micro-batches per update. Their loss is averaged over all their loss tokens.
        gradient_accumulation: usize = 1, "an integer from 1", |v| *v >= 1;
        /// Passes over the training data.
        epochs: usize = 1, "an integer from 1", |v| *v >= 1;
        /// Stop after this many updates, whatever `epochs` says.
        max_steps: Option<u64> = None, "an integer from 1", |v| v.is_none_or(|v| v >= 1),
            example "100";
        /// The highest learning rate, reached after the warm-up.
        learning_rate: f64 = 2e-4, "a finite number from 0", |v| v.is_finite() && *v >= 0.0;
        /// How the rate falls after the warm-up: "cosine" or "linear" to 0, or "constant".
        schedule: ScheduleKind = ScheduleKind::Cosine, "\"cosine\", \"linear\" or \"constant\"",
            |_| true;
        /// The warm-up: an integer counts updates, a number below 1 with a decimal point is a
        /// share of all updates.
        warmup: Warmup = Warmup::Ratio(0.03), "an integer from 0, or a number from 0.0 to below 1.0",
            |v| v.is_valid();
        /// Noise on the embeddings in training (NEFTune), uniform in ± neftune_alpha / sqrt(tokens
        /// of the document · hidden size); 5 to 15 are usual, 0 turns it off.
        neftune_alpha: f64 = 0.0, "a finite number from 0", |v| v.is_finite() && *v >= 0.0;
        /// AdamW's decoupled weight decay.
        weight_decay: f64 = 0.0, "a finite number from 0", |v| v.is_finite() && *v >= 0.0;
        /// AdamW's decay rate of the first moment.
        adam_beta1: f64 = 0.9, "a number from 0 to below 1", |v| (0.0..1.0).contains(v);
        /// AdamW's decay rate of the second moment.
        adam_beta2: f64 = 0.999, "a number from 0 to below 1", |v| (0.0..1.0).contains(v);
        /// Added to AdamW's denominator.
        adam_eps: f64 = 1e-8, "a finite number above 0", |v| v.is_finite() && *v > 0.0;
        /// Gradients are scaled down to this norm over all parameters; 0 turns clipping off.
        max_grad_norm: f64 = 1.0, "a finite number from 0", |v| v.is_finite() && *v >= 0.0;
        /// Seed of the adapter's first values and of the order of the data. The same seed on the
        /// same machine gives the same bits.
        seed: u64 = 0, "an integer from 0", |v| *v <= i64::MAX as u64;
        /// Type of the activations: "bf16" (sums, statistics and loss stay in f32) or "f32".
        compute_dtype: ComputeDtype = ComputeDtype::Bf16, "\"bf16\" or \"f32\"", |_| true;
        /// What it runs on: "cpu", "cuda" (the first GPU), "cuda:1" (the second), or "auto": the
        /// first GPU if it can be used, else the CPU. The run says which, and why.
        device: DeviceChoice = DeviceChoice::Auto, "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"",
            |_| true;
        /// Use at most so much of the GPU's memory, as on a smaller card. Without it, what is free.
        memory: Option<ByteSize> = None, "a size such as \"39.3GB\", \"24GiB\", \"800MB\" or bytes above 0",
            |v| v.is_none_or(|v| v.0 > 0), example "\"39.3GB\"";
        /// To find a wrong result: the CPU runs a step's ops before this one, the GPU from there.
        /// With -vv a run lists them, in their order, also where the name is none of them.
        cpu_until: Option<String> = None, "the name of an op", |_| true,
            example "\"layers.1.attention\"";
        /// CPU threads; "auto" takes as many as may run at once: the cores, less what an affinity mask
        /// or a container's limit leaves out. The result does not depend on it.
        threads: Threads = Threads::Auto, "\"auto\" or an integer from 1 to 1024", |_| true;
        /// The adapter is saved every so many updates, and at the end; 0: only at the end.
        save_every: u64 = 100, "an integer from 0", |v| *v <= i64::MAX as u64;
        /// The run directory. Without it: runs/ and the run file's name.
        out: Option<PathBuf> = None, "a path", |_| true, example "\"runs/my-run\"";
    }
}

section! {
    /// The evaluation on data.eval: perplexity, and the share of rows whose greedy answer is the
    /// expected one, word for word.
    "eval" Eval {
        /// Evaluate the untrained model too, so that the effect can be seen.
        before: bool = true, "true or false", |_| true;
        /// Generate answers and compare them. Turn it off where many answers are right.
        exact_match: bool = true, "true or false", |_| true;
        /// The longest answer, in tokens.
        max_new_tokens: usize = 128, "an integer from 1", |v| *v >= 1;
        /// Rows decoded at once.
        batch_rows: usize = 32, "an integer from 1 to 1024", |v| (1..=1024).contains(v);
    }
}

section! {
    /// Which way a GPU takes where there are several. The result differs in its last bits, so the
    /// run.toml of a run directory holds what was chosen, and a run from that file does the same.
    "dispatch" Dispatch {
        /// Products with a 4-bit weight: "fused" decodes as it multiplies, "scratch" decodes the
        /// weight into memory first, "auto" chooses by shape.
        nf4_linear: Nf4Linear = Nf4Linear::Auto, "\"auto\", \"fused\" or \"scratch\"", |_| true;
        /// Where the table below is from; for people.
        nf4_linear_source: Option<String> = None, "a text", |_| true,
            example "\"a guess for sm_80 (as A100) until it is measured\"";
        /// What "auto" follows: for each shape of a weight, up to how many rows of a product are
        /// taken fused, forward and backward. A run on a GPU fills it in where it is not given.
        nf4_linear_rows: Option<Vec<LinearDispatch>> = None,
            "a list of tables of out_features, in_features, forward_fused_rows and backward_fused_rows",
            |v| v.as_ref().is_none_or(|v| !v.is_empty()),
            example "[{ out_features = 576, in_features = 1536, forward_fused_rows = 1400, backward_fused_rows = 0 }]";
    }
}

/// A list with nothing in it, or an empty expression, names no module.
fn is_given(names: &Names) -> bool {
    match names {
        Names::Pattern(text) => !text.is_empty(),
        Names::List(names) => !names.is_empty(),
    }
}
