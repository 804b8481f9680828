//! Chat templates of the model families against transformers (tests/golden/templates, made by
//! scripts/golden_templates.py): texts, token ids and loss masks.
//!
//! The templates are other people's and not in this repository: `.ci/run` puts them into the cache. Where
//! they are not, the tests that need them say that they were skipped.

use std::path::{Path, PathBuf};

use dayrun::data::encode::{EncodeError, Encoder, PromptAs};
use dayrun::data::records::Record;
use dayrun::data::template::{ChatTemplate, TemplateError};
use dayrun::model::tokenizer::{SpecialTokens, TextTokenizer};
use serde_json::{Map, Value};

/// The tokenizers' names.
const FAMILIES: [&str; 6] = ["llama3", "smollm2", "smollm3", "qwen", "tekken", "mistral"];

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates")
}

fn golden(name: &str) -> Map<String, Value> {
    let text = std::fs::read_to_string(golden_dir().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(name: &str) -> TextTokenizer {
    TextTokenizer::load(&golden_dir().join(name)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The folder of templates in the cache; said why, if it is not there.
fn templates() -> Option<PathBuf> {
    let folder =
        std::env::var_os("DAYRUN_CACHE").map(|cache| PathBuf::from(cache).join("chat-templates"));
    let folder = folder.filter(|folder| folder.is_dir());
    if folder.is_none() {
        eprintln!(
            "SKIPPED: no chat templates to compare with transformers: set DAYRUN_CACHE to a folder whose \
             chat-templates/ holds them, as .ci/run does"
        );
    }
    folder
}

/// 64-bit FNV-1a.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A mask's runs, start and end of each, in one list.
fn runs(mask: &[bool]) -> Vec<u32> {
    let mut out: Vec<u32> = Vec::new();
    for (i, _) in mask.iter().enumerate().filter(|(_, loss)| **loss) {
        let i = i as u32;
        match out.last_mut() {
            Some(end) if *end == i => *end = i + 1,
            _ => out.extend([i, i + 1]),
        }
    }
    out
}

/// A conversation of the golden file.
struct Chat<'a>(&'a Value);

impl Chat<'_> {
    fn messages(&self) -> &[Value] {
        self.0["messages"].as_array().unwrap()
    }

    fn tools(&self) -> Option<&Value> {
        self.0.get("tools")
    }

    fn template(
        &self,
        source: &str,
        special: &SpecialTokens,
    ) -> Result<ChatTemplate, TemplateError> {
        let date = Some("2026-03-04".parse().unwrap());
        let template = ChatTemplate::new(source, special, date)?;
        let none = Map::new();
        let variables = self.0.get("variables").map_or(&none, |v| v.as_object().unwrap());
        Ok(template.with_variables(variables))
    }
}

#[test]
fn splits_equal_the_tokenizers_library() {
    let texts = golden("texts.json");
    for name in FAMILIES {
        let hub = load(name);
        for (text, want) in &texts {
            assert_eq!(hub.encode_plain(text).unwrap(), ids(&want[name]), "{name}: {text:?}");
        }
    }
}

#[test]
#[cfg(feature = "gguf")]
fn a_gguf_tokenizer_equals_its_hub_tokenizer() {
    let texts = golden("texts.json");
    for name in FAMILIES {
        let (hub, gguf) = (load(name), load(&format!("{name}.gguf")));
        for (text, want) in &texts {
            assert_eq!(gguf.encode_plain(text).unwrap(), ids(&want[name]), "{name}: {text:?}");
        }
        for chat in golden("chats.json").values() {
            for message in chat["messages"].as_array().unwrap() {
                let text = message["content"].as_str().unwrap_or_default();
                let (a, b) = (hub.encode_with_spans(text), gguf.encode_with_spans(text));
                assert_eq!(a.unwrap(), b.unwrap(), "{name}: {text:?}");
            }
        }
        assert_eq!((hub.bos_id(), hub.eos_id()), (gguf.bos_id(), gguf.eos_id()), "{name}");
        assert_eq!((hub.prefix(), hub.suffix()), (gguf.prefix(), gguf.suffix()), "{name}");
        assert_eq!(hub.pad_id(), gguf.pad_id(), "{name}");
        assert_eq!(hub.stop_ids(), gguf.stop_ids(), "{name}");
        assert_eq!(hub.vocab_size(), gguf.vocab_size(), "{name}");
        for id in 0..hub.vocab_size() as u32 {
            assert_eq!(hub.is_special(id), gguf.is_special(id), "{name}: {:?}", hub.token(id));
        }
    }
}

#[test]
fn ids_and_masks_equal_transformers_for_every_family() {
    let Some(folder) = templates() else { return };
    let chats = golden("chats.json");
    let mut wrong = Vec::new();
    for (key, want) in &golden("expected.json") {
        let (name, chat) = key.split_once(" | ").unwrap();
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let tokenizer = load(want["with"].as_str().unwrap());
        if let Err(problem) = compare(&source, &tokenizer, &Chat(&chats[chat]), want) {
            wrong.push(format!("{key}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// One conversation under one template, as transformers has it.
fn compare(
    source: &str,
    tokenizer: &TextTokenizer,
    chat: &Chat,
    want: &Value,
) -> Result<(), String> {
    let template = chat.template(source, tokenizer.special_tokens()).map_err(|e| e.to_string())?;
    let text = match template.render(chat.messages(), chat.tools(), false) {
        Err(TemplateError::Raised(message)) if want["raises"] == message => return Ok(()),
        Err(_) if want.get("fails").is_some() => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(text) => text,
    };
    if want["text"] != fnv(text.bytes()) {
        return Err(format!("the text differs, wanted {want}: {text:?}"));
    }
    let encoder = Encoder { tokenizer, template: Some(&template), prompt_as: PromptAs::Text };
    let (messages, tools) = (chat.messages().to_vec(), chat.tools().cloned());
    let encoded = encoder.encode(&Record::Chat { messages, tools, loss_from: 0 });
    let document = match encoded {
        // Where nothing marks it and nothing stands before it.
        Err(error) if chat.messages()[0]["role"] == "assistant" && !template.marks_assistant() => {
            let told = error.to_string().starts_with("messages[0] is the assistant's");
            return if told { Ok(()) } else { Err(error.to_string()) };
        }
        other => other.map_err(|e: EncodeError| e.to_string())?.document,
    };
    let bytes = document.tokens.iter().flat_map(|id| id.to_le_bytes());
    let tokens = document.tokens.len();
    if want["ids"] != fnv(bytes) || want["tokens"] != tokens {
        return Err(format!("{tokens} tokens, wanted {want}: {text:?}"));
    }
    let loss = runs(&document.loss_mask);
    if loss != ids(&want["loss"]) {
        return Err(format!("the loss falls on {loss:?}, wanted {}: {text:?}", want["loss"]));
    }
    Ok(())
}

/// The golden rows of the template `name` whose conversations have neither tools nor variables.
fn without_tools(name: &str) -> Vec<(Value, Value)> {
    let chats = golden("chats.json");
    let rows = golden("expected.json").into_iter().filter_map(|(key, want)| {
        let (template, chat) = key.split_once(" | ").unwrap();
        let chat = &chats[chat];
        let calls = chat["messages"].as_array().unwrap().iter().any(|m| !m["tool_calls"].is_null());
        let none = chat.get("tools").is_none() && chat.get("variables").is_none() && !calls;
        (template == name && none).then(|| (chat.clone(), want))
    });
    rows.collect()
}

/// The template of ours by that name.
fn named(name: &str) -> String {
    dayrun::data::named::source(Path::new(name)).unwrap()
}

#[test]
fn named_templates_are_those_of_their_families() {
    let families = [
        ("llama-3", "NousResearch-Meta-Llama-3-8B-Instruct", "llama3", 29),
        ("mistral", "mistralai-Mistral-7B-Instruct-v0.2", "mistral", 24),
        ("chatml", "HuggingFaceTB-SmolLM2-135M-Instruct", "smollm2", 9),
    ];
    for (name, like, tokenizer, at_least) in families {
        let (source, tokenizer) = (named(name), load(tokenizer));
        let mut same = 0;
        for (chat, want) in without_tools(like) {
            let chat = Chat(&chat);
            if want.get("raises").is_some() {
                let template = chat.template(&source, tokenizer.special_tokens()).unwrap();
                let refusal = template.render(chat.messages(), None, false).unwrap_err();
                assert!(matches!(refusal, TemplateError::Raised(_)), "{name}: {refusal}");
                continue;
            }
            // SmolLM2's own system prompt is nobody else's.
            if name != "chatml" || chat.messages()[0]["role"] == "system" {
                compare(&source, &tokenizer, &chat, &want).unwrap();
                same += 1;
            }
        }
        assert!(same >= at_least, "{name}: only {same}");
    }
}

#[test]
fn alpaca_is_stanfords_prompt() {
    let special = SpecialTokens { eos: Some("</s>".into()), ..SpecialTokens::default() };
    let template = ChatTemplate::new(&named("alpaca"), &special, None).unwrap();
    let say = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let rows = [
        say("user", "Add 2 and 2."),
        say("assistant", "4"),
        say("user", "And 3."),
        say("assistant", "7"),
    ];
    let first = "Below is an instruction that describes a task. Write a response that appropriately completes \
                 the request.\n\n### Instruction:\nAdd 2 and 2.\n\n### Response:\n";
    assert_eq!(template.render(&rows[..1], None, true).unwrap(), first);
    let rendered = template.render_marked(&rows, None, false).unwrap();
    let rest = "4</s>\n\n### Instruction:\nAnd 3.\n\n### Response:\n7</s>";
    assert_eq!(rendered.text, format!("{first}{rest}"));
    let generated: Vec<&str> =
        rendered.generated.iter().map(|r| &rendered.text[r.clone()]).collect();
    assert_eq!(generated, ["4</s>", "7</s>"]);
    let system = [say("system", "Answer."), say("user", "2+2")];
    let text = template.render(&system, None, true).unwrap();
    assert_eq!(text, "Answer.\n\n### Instruction:\n2+2\n\n### Response:\n");
}

#[test]
fn named_templates_refuse_what_they_have_no_place_for() {
    let special = SpecialTokens::default();
    let user = serde_json::json!({"role": "user", "content": "x"});
    let call =
        serde_json::json!({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]});
    for name in ["chatml", "llama-3", "mistral", "alpaca"] {
        let template = ChatTemplate::new(&named(name), &special, None).unwrap();
        let tools = serde_json::json!([{"type": "function"}]);
        let refusal = template
            .render(std::slice::from_ref(&user), Some(&tools), false)
            .unwrap_err()
            .to_string();
        let want =
            format!("refuses this conversation: the template \"{name}\" has no place for tools");
        assert!(refusal.contains(&want), "{refusal}");
        let refusal = template.render(&[user.clone(), call.clone()], None, false).unwrap_err();
        assert!(refusal.to_string().contains("has no place for tool calls"), "{refusal}");
    }
}

#[test]
fn every_template_of_the_package_renders_as_in_transformers() {
    let Some(folder) = templates() else { return };
    let (chats, mut every) = (golden("chats.json"), golden("every.json"));
    let columns = every.remove("chats").unwrap();
    // They mark texts as `safe`, and Jinja escapes HTML in what is joined to those.
    every
        .retain(|name, _| !name.starts_with("SvalTek") && !name.starts_with("meetkai-functionary"));
    let tokenizer = load("tekken");
    let mut wrong = Vec::new();
    for (name, row) in &every {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let columns = columns.as_array().unwrap().iter().map(|c| c.as_str().unwrap());
        for (column, want) in columns.zip(row.as_str().unwrap().split(' ')) {
            let (chat, prompt) = column.split_once(" | ").unwrap();
            let chat = Chat(&chats[chat]);
            let rendered = chat
                .template(&source, tokenizer.special_tokens())
                .and_then(|t| t.render(chat.messages(), chat.tools(), prompt == "True"));
            let got = match &rendered {
                Ok(text) => fnv(text.bytes())[8..].to_string(),
                Err(TemplateError::Raised(_)) => "raises".into(),
                Err(_) => "fails".into(),
            };
            // Python stops at a loop over None where minijinja sees nothing to do.
            if got != want && want != "fails" {
                wrong.push(format!("{name} | {column}: {want}, not {rendered:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
