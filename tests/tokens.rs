//! Token ids, loss masks and templated text against transformers' and sentencepiece's
//! (tests/golden/tokens, made by scripts/golden_tokens.py).

use std::path::{Path, PathBuf};

use dayrun::data::encode::{Encoder, PromptAs};
use dayrun::data::records::Record;
use dayrun::data::template::ChatTemplate;
use dayrun::model::tokenizer::TextTokenizer;
use serde_json::Value;

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens")
}

fn golden() -> Value {
    let path = golden_dir().join("tokens.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn load(name: &str) -> TextTokenizer {
    TextTokenizer::load(&golden_dir().join(name)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// A mask's runs, as the golden file has them.
fn runs(mask: &[bool]) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (i, _) in mask.iter().enumerate().filter(|(_, loss)| **loss) {
        match out.last_mut() {
            Some(run) if run.1 == i => run.1 = i + 1,
            _ => out.push((i, i + 1)),
        }
    }
    out
}

fn golden_runs(value: &Value) -> Vec<(usize, usize)> {
    let pair = |v: &Value| (v[0].as_u64().unwrap() as usize, v[1].as_u64().unwrap() as usize);
    value.as_array().unwrap().iter().map(pair).collect()
}

/// All chats and plain rows of the golden file through `tokenizer`; how many were compared.
fn compare(tokenizer: &TextTokenizer, which: &str) -> usize {
    let golden = golden();
    let date = golden["date"].as_str().unwrap().parse().unwrap();
    let mut compared = 0;
    for case in golden["chats"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let source = golden["templates"][name].as_str().unwrap();
        let template = ChatTemplate::new(source, tokenizer.special_tokens(), Some(date)).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
        let what = format!("{name}: {}", case["messages"]);
        assert_eq!(template.render(messages, tools, false).unwrap(), case["text"], "{what}");
        let before = &messages[..messages.len() - 1];
        assert_eq!(template.render(before, tools, true).unwrap(), case["prompt"], "{what}");

        let encoder = Encoder { tokenizer, template: Some(&template), prompt_as: PromptAs::Text };
        let record =
            Record::Chat { messages: messages.clone(), tools: tools.cloned(), loss_from: 0 };
        let encoded = encoder.encode(&record).unwrap();
        assert_eq!(encoded.document.tokens, ids(&case[which]["ids"]), "{what}");
        let loss = &encoded.document.loss_mask;
        assert_eq!(runs(loss), golden_runs(&case[which]["loss"]), "{what}");
        assert_eq!(encoded.turns_without_stop, 0, "{what}");
        compared += 1;
    }
    for case in golden["plain"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap().to_string();
        let record = Record::Plain { prompt: text("prompt"), completion: text("completion") };
        let encoder = Encoder { tokenizer, template: None, prompt_as: PromptAs::Text };
        let encoded = encoder.encode(&record).unwrap();
        assert_eq!(encoded.document.tokens, ids(&case[which]["ids"]), "{case}");
        let loss = &encoded.document.loss_mask;
        assert_eq!(runs(loss), golden_runs(&case[which]["loss"]), "{case}");
        compared += 1;
    }
    compared
}

#[test]
fn ids_and_masks_equal_transformers() {
    assert!(compare(&load("small"), "small") > 40);
}

#[test]
#[cfg(feature = "gguf")]
fn a_gguf_gives_the_same_ids() {
    assert!(compare(&load("smollm.gguf"), "small") > 40);
    let (hub, gguf) = (load("small"), load("smollm.gguf"));
    assert_eq!(hub.stop_ids(), gguf.stop_ids());
    assert_eq!((hub.bos_id(), hub.eos_id()), (gguf.bos_id(), gguf.eos_id()));
    assert_eq!(hub.vocab_size(), gguf.vocab_size());
}

#[test]
#[cfg(feature = "gguf")]
fn llama_3_splits_equal_the_tokenizers_library() {
    let tokenizer = load("llama-bpe.gguf");
    for case in golden()["llama-bpe"].as_array().unwrap() {
        let got = tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{case}");
    }
    // Nothing said in the file: llama.cpp puts BOS before Llama 3's texts.
    assert_eq!(tokenizer.prefix(), [1]);
}

#[test]
#[cfg(feature = "gguf")]
fn sentencepiece_vocabularies_equal_sentencepiece() {
    let tokenizer = load("sentencepiece.gguf");
    for case in golden()["sentencepiece"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&got).unwrap(), text);
    }
    let plain = tokenizer.encode_plain("the").unwrap();
    assert_eq!(plain[0], tokenizer.bos_id().unwrap());
}

/// The demo model's own tokenizer, where the model is in the cache.
#[test]
#[cfg(all(feature = "gguf", feature = "cli"))]
fn smollm2_equals_transformers() {
    let Some(path) = demo_model() else {
        eprintln!("skipped: the demo model is not in the cache");
        return;
    };
    let tokenizer = TextTokenizer::load(&path).unwrap();
    assert!(compare(&tokenizer, "smollm2") > 40);
    // Published with the model's own tokenizer.json.
    assert_eq!(tokenizer.encode("Hello").unwrap(), [19556]);
    let want = [504, 3575, 282, 4649, 314];
    assert_eq!(tokenizer.encode("The capital of France is").unwrap(), want);
    let want = [1604, 3987, 46477, 24, 94, 727];
    assert_eq!(tokenizer.encode("def fibonacci(n):").unwrap(), want);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    assert_eq!(tokenizer.stop_ids(), [0, 2]);
    assert_eq!(tokenizer.vocab_size(), 49_152);
    tokenizer.check_vocab(&path, 49_152).unwrap();
    assert!(tokenizer.check_vocab(&path, 49_151).is_err());
}

/// The demo model in dayrun's cache, if it is there; nothing is fetched.
#[cfg(all(feature = "gguf", feature = "cli"))]
fn demo_model() -> Option<PathBuf> {
    let cache = dayrun::model::default_cache_dir()?;
    Some(cache.join("models").join(dayrun::model::source::DEMO.file)).filter(|path| path.is_file())
}
