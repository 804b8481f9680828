//! Tokenizer files that are damaged, hostile or unknown, and what surrounds a text.

use std::path::{Path, PathBuf};

use dayrun::model::tokenizer::{Error, TextTokenizer};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens").join(name)
}

/// The small tokenizer's files, each changed by `edit` before it is loaded.
fn edited(edit: impl Fn(&mut Value, &mut Value)) -> Result<TextTokenizer, Error> {
    let read = |name| {
        let text = std::fs::read_to_string(golden("small").join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (mut file, mut config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    edit(&mut file, &mut config);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    TextTokenizer::load(folder.path())
}

fn loaded_bytes(name: &str, bytes: &[u8]) -> Result<TextTokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    TextTokenizer::load(if name == "tokenizer.json" { folder.path() } else { &path })
}

/// A post-processor that puts BOS before every text, as Llama's.
fn with_bos(file: &mut Value, _: &mut Value) {
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>":
            {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    });
}

#[test]
fn one_bos_and_never_two() {
    let plain = edited(|_, _| ()).unwrap();
    assert_eq!(plain.encode_plain("the").unwrap(), plain.encode("the").unwrap());
    let tokenizer = edited(with_bos).unwrap();
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[1][..], &[][..]));
    assert_eq!(tokenizer.encode("the").unwrap(), plain.encode("the").unwrap());
    let ids = tokenizer.encode_plain("the").unwrap();
    assert_eq!((ids[0], &ids[1..]), (1, &plain.encode("the").unwrap()[..]));
    // A text that brings its BOS gets no other.
    assert_eq!(tokenizer.encode_plain("<|im_start|>the").unwrap(), ids);
    // The Llama classes of transformers follow the configuration's word.
    let off = edited(|file, config| {
        with_bos(file, config);
        config["tokenizer_class"] = json!("LlamaTokenizerFast");
        config["add_bos_token"] = json!(false);
    });
    assert!(off.unwrap().prefix().is_empty());
}

#[test]
fn stored_truncation_and_padding_are_dropped() {
    let tokenizer = edited(|file, _| {
        file["truncation"] = json!({"direction": "Right", "max_length": 3,
            "strategy": "LongestFirst", "stride": 0});
        file["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    });
    let text = "one two three four five six";
    let plain = edited(|_, _| ()).unwrap();
    assert_eq!(tokenizer.unwrap().encode(text).unwrap(), plain.encode(text).unwrap());
}

#[test]
fn stop_ids_come_from_all_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(golden("small").join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("generation_config.json", r#"{"eos_token_id": [2, 17]}"#);
    write("config.json", r#"{"eos_token_id": 18}"#);
    assert_eq!(TextTokenizer::load(folder.path()).unwrap().stop_ids(), [0, 2, 17, 18]);
    write("config.json", r#"{"eos_token_id": "two"}"#);
    let error = TextTokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: `eos_token_id` holds \"two\""), "{error}");
    write("config.json", "{");
    let error = TextTokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("reading") && error.contains("config.json"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("small").join(name), folder.path().join(name)).unwrap();
    }
    let tokenizer = TextTokenizer::load(folder.path()).unwrap();
    let (rows, model) = (tokenizer.vocab_size(), folder.path());
    tokenizer.check_vocab(model, rows).unwrap();
    // One row more than tokens is padding, which many models have.
    tokenizer.check_vocab(model, rows + 1).unwrap();
    let error = tokenizer.check_vocab(model, rows - 1).unwrap_err();
    let token = tokenizer.token(rows as u32 - 1).unwrap();
    let want = format!(
        "{} has {rows} tokens, the highest {} ({token:?}); the embedding of {} has {} rows",
        model.join("tokenizer.json").display(),
        rows - 1,
        model.display(),
        rows - 1
    );
    assert_eq!(error.to_string(), want);
    assert!(error.hint().is_some_and(|hint| hint.contains("came with the weights")));
    // An id that no token has, and that the model should end with.
    let path = model.join("generation_config.json");
    std::fs::write(path, format!(r#"{{"eos_token_id": [2, {rows}]}}"#)).unwrap();
    let tokenizer = TextTokenizer::load(model).unwrap();
    let error = tokenizer.check_vocab(model, rows).unwrap_err();
    let want = format!("end a generation with id {rows}; the embedding of {}", model.display());
    assert!(error.to_string().contains(&want), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("eos_token_id")));
}

#[test]
fn named_templates_and_template_files() {
    let list = edited(|_, config| {
        config["chat_template"] =
            json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    });
    assert_eq!(list.unwrap().chat_template(), Some("d"));
    let wrong = edited(|_, config| config["chat_template"] = json!(3)).unwrap_err().to_string();
    assert!(wrong.contains("`chat_template` is neither"), "{wrong}");
    let file = TextTokenizer::load(&golden("small")).unwrap();
    assert!(file.chat_template().is_some_and(|text| text.contains("<|im_start|>")));
}

#[test]
fn a_tokenizer_that_panics_is_an_error() {
    // The library subtracts the prefix's length from the token's without looking.
    let error = edited(|file, _| file["model"]["continuing_subword_prefix"] = json!("########"));
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Panicked { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json") && error.hint().is_some());
}

#[test]
fn a_tokenizer_that_loses_text_is_an_error() {
    let error = edited(|file, _| file["decoder"] = Value::Null).unwrap_err();
    assert!(matches!(error, Error::RoundTrip { .. }), "{error}");
    let error = edited(|file, _| file["model"]["dropout"] = json!(0.1)).unwrap_err().to_string();
    assert!(error.contains("BPE dropout") && error.contains("not supported"), "{error}");
}

#[test]
fn damaged_files_are_errors() {
    let whole = std::fs::read(golden("small").join("tokenizer.json")).unwrap();
    for length in (0..whole.len()).step_by(997) {
        assert!(loaded_bytes("tokenizer.json", &whole[..length]).is_err(), "{length} bytes");
    }
    for at in (0..whole.len()).step_by(523) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        // Some flips only rename a token: what counts is that nothing panics.
        let _ = loaded_bytes("tokenizer.json", &bytes);
    }
    let missing = TextTokenizer::load(Path::new("no/such/model")).unwrap_err();
    assert!(missing.to_string().contains("no/such/model"), "{missing}");
}

#[cfg(feature = "gguf")]
mod gguf {
    use super::*;

    /// A golden file with each `from` replaced by `to` of the same length.
    fn replaced(file: &str, from: &str, to: &str) -> Result<TextTokenizer, Error> {
        assert_eq!(from.len(), to.len());
        let mut bytes = std::fs::read(golden(file)).unwrap();
        let places: Vec<usize> = (0..bytes.len() - from.len())
            .filter(|&i| &bytes[i..i + from.len()] == from.as_bytes())
            .collect();
        assert!(!places.is_empty());
        for place in places {
            bytes[place..place + from.len()].copy_from_slice(to.as_bytes());
        }
        loaded_bytes("model.gguf", &bytes)
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        let cases = [
            ("smollm", "smollx", "the pre-tokenizer \"smollx\" is not supported"),
            ("gpt2", "gptx", "tokenizer.ggml.model \"gptx\" is not supported"),
            (
                "tokenizer.ggml.merges",
                "tokenizer.ggml.merged",
                "`tokenizer.ggml.merges` is missing",
            ),
            (
                "tokenizer.ggml.tokens",
                "tokenizer.ggml.tokenx",
                "`tokenizer.ggml.tokens` is missing",
            ),
        ];
        for (from, to, want) in cases {
            let error = replaced("smollm.gguf", from, to).unwrap_err().to_string();
            assert!(error.contains("model.gguf") && error.contains(want), "{error}");
        }
        let error = replaced("sentencepiece.gguf", "<0x41>", "<0x42>").unwrap_err().to_string();
        assert!(error.contains("`tokenizer.ggml.tokens` has \"<0x42>\" twice"), "{error}");
        let error = replaced("sentencepiece.gguf", "ggml.scores", "ggml.scorex");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`tokenizer.ggml.scores` is missing, and so are merges"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors() {
        for name in ["smollm.gguf", "sentencepiece.gguf"] {
            let whole = std::fs::read(golden(name)).unwrap();
            for length in (0..whole.len() - 64).step_by(511) {
                assert!(loaded_bytes("model.gguf", &whole[..length]).is_err(), "{length} bytes");
            }
            for at in (0..whole.len()).step_by(97) {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x81;
                let _ = loaded_bytes("model.gguf", &bytes);
            }
        }
    }
}

#[test]
fn streams_give_whole_characters() {
    let tokenizer = TextTokenizer::load(&golden("small")).unwrap();
    for text in ["Hello, world! 123", "🙂👩‍👩‍👧 你好 e\u{301}", "", "  \n\n x", "caf\u{e9}"]
    {
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let mut out = String::new();
        for id in ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{text:?}: {piece:?}");
            out.push_str(&piece);
        }
        out.push_str(&stream.finish().unwrap());
        assert_eq!(out, text);
    }
    // A generation that ends inside a character.
    let ids = tokenizer.encode("a🙂").unwrap();
    let mut stream = tokenizer.stream();
    let mut out = String::new();
    for id in &ids[..ids.len() - 1] {
        out.push_str(&stream.push(*id).unwrap());
    }
    out.push_str(&stream.finish().unwrap());
    assert!(out.starts_with('a') && out.ends_with('\u{fffd}'), "{out:?}");
}
