//! Data as people bring them: every format and kind of row gives the same documents, and what cannot be
//! read is refused by its name.

use std::path::{Path, PathBuf};

use dayrun::data::encode::PromptAs;
use dayrun::data::{
    self, Columns, DataOptions, Dataset, Document, HeldOut, OnBadRow, Source, TooLong,
};
use dayrun::model::tokenizer::TextTokenizer;
use dayrun::progress::quiet;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn rows(name: &str) -> PathBuf {
    golden("rows").join(name)
}

fn tokenizer() -> TextTokenizer {
    TextTokenizer::load(&golden("tokens/small")).unwrap()
}

fn load_with(sources: &[Source], options: &DataOptions) -> Result<Dataset, data::Error> {
    data::load(sources, &tokenizer(), options, &quiet)
}

fn load(path: &Path) -> Result<Dataset, data::Error> {
    load_with(&[path.to_path_buf().into()], &DataOptions::new(512))
}

fn documents(dataset: &Dataset) -> Vec<Document> {
    (0..dataset.documents.len()).map(|i| dataset.documents.get(i).unwrap()).collect()
}

/// The text of the first document, special tokens included, and what of it is learned.
fn texts(dataset: &Dataset) -> (String, String) {
    let document = dataset.documents.get(0).unwrap();
    let pairs = document.tokens.iter().zip(&document.loss_mask);
    let learned: Vec<u32> = pairs.filter(|(_, loss)| **loss).map(|(id, _)| *id).collect();
    let tokenizer = tokenizer();
    let text = |ids: &[u32]| tokenizer.decode_with_special(ids).unwrap();
    (text(&document.tokens), text(&learned))
}

/// Files in a directory of their own.
fn written(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn load_text(rows: &str, options: &DataOptions) -> Result<Dataset, data::Error> {
    let dir = written(&[("rows.jsonl", rows.as_bytes())]);
    load_with(&[dir.path().join("rows.jsonl").into()], options)
}

/// What a file of these bytes is refused with, without its folder; there is always advice.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let dir = written(&[(name, bytes)]);
    let error = load(&dir.path().join(name)).expect_err("refused");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_gives_the_same_documents_as_lines() {
    for kind in ["text", "prompt", "alpaca", "messages", "conversations", "tools", "input_ids"] {
        let lines = load(&rows(&format!("{kind}.jsonl"))).unwrap();
        let table = load(&rows(&format!("{kind}.parquet"))).unwrap();
        assert_eq!(lines.documents.len(), 20, "{kind}");
        assert_eq!(documents(&lines), documents(&table), "{kind}");
        assert_eq!(lines.stats, table.stats, "{kind}");
    }
    let lines = documents(&load(&rows("messages.jsonl")).unwrap());
    for codec in ["none", "snappy", "gzip", "zstd", "lz4", "brotli"] {
        let table = load(&rows(&format!("messages-{codec}.parquet"))).unwrap();
        assert_eq!(documents(&table), lines, "{codec}");
    }
    let conversations = load(&rows("conversations.parquet")).unwrap();
    assert_eq!(documents(&conversations), lines, "ShareGPT's names for the same turns");
}

/// A table has a null where a message calls no tool; a template must not see it.
#[test]
#[cfg(feature = "parquet")]
fn calls_and_tools_of_a_table_reach_the_template() {
    let template = "{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}\
                    {% if add_generation_prompt %}{\"role\": \"assistant\", {% endif %}";
    let options = DataOptions { chat_template: Some(template.into()), ..DataOptions::new(4096) };
    let of = |name: &str| load_with(&[rows(name).into()], &options).unwrap();
    let (lines, table) = (of("calls.jsonl"), of("calls.parquet"));
    assert_eq!(documents(&lines), documents(&table));
    let all: Vec<u32> = documents(&table).into_iter().flat_map(|d| d.tokens).collect();
    let text = tokenizer().decode_with_special(&all).unwrap();
    assert!(text.contains("\"tool_calls\": [{\"type\": \"function\"") && !text.contains("null"));
}

#[test]
fn lists_give_the_same_documents_as_lines() {
    let lines = documents(&load(&rows("messages.jsonl")).unwrap());
    for name in ["list.json", "indented.json"] {
        assert_eq!(documents(&load(&rows(name)).unwrap()), lines, "{name}");
    }
    // By content, not by name.
    let text = std::fs::read(rows("list.json")).unwrap();
    let dir = written(&[("rows.jsonl", &text)]);
    assert_eq!(documents(&load(&dir.path().join("rows.jsonl")).unwrap()), lines);
}

#[test]
fn marks_and_line_ends_do_not_matter() {
    let text = std::fs::read_to_string(rows("prompt.jsonl")).unwrap();
    let plain = documents(&load(&rows("prompt.jsonl")).unwrap());
    for other in [format!("\u{feff}{text}"), text.replace('\n', "\r\n"), text.replace('\n', "\n\n")]
    {
        assert_eq!(documents(&load_text(&other, &DataOptions::new(512)).unwrap()), plain);
    }
}

#[test]
fn a_directory_and_a_list_are_read_in_order() {
    let first = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    let dir = written(&[
        ("b.json", b"[{\"text\": \"three\"}]"),
        ("a.jsonl", first.as_bytes()),
        ("README", b"x"),
    ]);
    let whole = load(dir.path()).unwrap();
    assert_eq!(whole.documents.len(), 3);
    assert_eq!(texts(&whole).0, "one<|im_end|>");
    let files: Vec<Source> = ["b.json", "a.jsonl"].map(|f| dir.path().join(f).into()).to_vec();
    let listed = load_with(&files, &DataOptions::new(512)).unwrap();
    assert_eq!(texts(&listed).0, "three<|im_end|>");
    let ranges: Vec<_> = listed.sets.iter().map(|set| set.documents.clone()).collect();
    assert_eq!(ranges, [0..1, 1..3]);
    assert_eq!((listed.sets[1].stats.rows, listed.stats.rows), (2, 3));
}

#[test]
fn texts_and_alpaca_rows() {
    let options = DataOptions::new(512);
    let dataset = load_text("{\"text\": \"all of it\"}", &options).unwrap();
    let whole = "all of it<|im_end|>".to_string();
    assert_eq!(texts(&dataset), (whole.clone(), whole));

    let row = r#"{"instruction": "Add.", "input": "1 2", "output": "3"}"#;
    let (text, learned) = texts(&load_text(row, &options).unwrap());
    let want = "Below is an instruction that describes a task, paired with an input that provides further \
                context. Write a response that appropriately completes the request.\n\n\
                ### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3<|im_end|>";
    assert_eq!((text.as_str(), learned.as_str()), (want, "3<|im_end|>"));
    let chat = DataOptions { prompt_as: PromptAs::Chat, ..options.clone() };
    let (text, learned) = texts(&load_text(row, &chat).unwrap());
    assert!(
        text.ends_with("user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"),
        "{text}"
    );
    assert_eq!(learned, "3<|im_end|>");
    // Without an input; a system text takes the place of the preamble.
    let row = r#"{"instruction": "Go.", "input": "", "output": "ok", "system": "Be terse."}"#;
    let (text, _) = texts(&load_text(row, &options).unwrap());
    assert_eq!(text, "Be terse.\n\n### Instruction:\nGo.\n\n### Response:\nok<|im_end|>");
    assert!(
        texts(&load_text(row, &chat).unwrap())
            .0
            .starts_with("<|im_start|>system\nBe terse.<|im_end|>")
    );
}

#[test]
fn conversations_become_messages() {
    let options = DataOptions::new(512);
    let theirs = r#"{"system": "S", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    let ours = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let [theirs, ours] = [theirs, ours].map(|row| documents(&load_text(row, &options).unwrap()));
    assert_eq!(theirs, ours);
    // What the template sees of calls, answers and tools.
    let template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }};\
                    {% endfor %}{{ tools | tojson if tools }}";
    let shown = DataOptions { chat_template: Some(template.into()), ..options };
    let row =
        r#"{"tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "a"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        {"from": "observation", "value": "9"}, {"from": "gpt", "value": "b"}]}"#
            .replace('\n', " ");
    let error = load_text(&row, &shown).unwrap_err().to_string();
    // The turns lie where the template's text changes, so that it is refused; the words tell what it saw.
    assert!(error.contains("read differently"), "{error}");
    let template = template.replace("{{ tools | tojson if tools }}", "");
    let shown =
        DataOptions { chat_template: Some(format!("{{{{ tools | tojson }}}}{template}")), ..shown };
    let generation = "{% if add_generation_prompt %}assistant:{% endif %}";
    let shown = DataOptions {
        chat_template: shown.chat_template.map(|template| template + generation),
        ..shown
    };
    let (text, learned) = texts(&load_text(&row, &shown).unwrap());
    let call = r#"[{"type": "function", "function": {"name": "f", "arguments": {}}}]"#;
    assert_eq!(text, format!("[{{\"name\": \"f\"}}]user:a;assistant:{call};tool:9;assistant:b;"));
    assert_eq!(learned, format!("{call};b;"));
}

#[test]
fn ready_made_tokens_are_taken_as_they_are() {
    let options = DataOptions::new(4);
    let row = r#"{"input_ids": [5, 6, 7, 8, 0, 0], "labels": [-100, -100, 7, 8, -100, -100], "attention_mask": [1, 1, 1, 1, 0, 0]}"#;
    let document = load_text(row, &options).unwrap().documents.get(0).unwrap();
    assert_eq!(document.tokens, [5, 6, 7, 8]);
    assert_eq!(document.loss_mask, [false, false, true, true]);
    let document =
        load_text("{\"input_ids\": [5, 6]}", &options).unwrap().documents.get(0).unwrap();
    assert_eq!(document.loss_mask, [true, true]);
    let error = load_text("{\"input_ids\": [1, 99999]}", &options).unwrap_err().to_string();
    let vocab = tokenizer().vocab_size();
    let want = format!(
        "rows.jsonl:1: `input_ids[1]` is 99999, outside of the model's vocabulary of {vocab} ids"
    );
    assert!(error.ends_with(&want), "{error}");
    let larger = DataOptions { vocab_size: Some(100_000), ..options.clone() };
    load_text("{\"input_ids\": [1, 99999]}", &larger).unwrap();
    let none = load_text("{\"input_ids\": [1, 2], \"labels\": [1, -100]}", &options)
        .unwrap_err()
        .to_string();
    assert!(none.ends_with("has no loss token: every label behind the first is -100"), "{none}");
}

#[test]
fn columns_have_the_names_that_the_table_gives_them() {
    let columns = |pairs: &[(&str, &str)]| {
        let pair = |&(ours, theirs): &(&str, &str)| (ours.to_string(), theirs.to_string());
        Columns(pairs.iter().map(pair).collect())
    };
    let of = |row: &str, columns: Columns| {
        let dir = written(&[("rows.jsonl", row.as_bytes())]);
        let path = dir.path().join("rows.jsonl");
        load_with(&[Source { columns, ..path.into() }], &DataOptions::new(512))
    };
    // Not `text`, though there is one.
    let row = r#"{"text": "no", "question": "a", "answer": " b"}"#;
    let mapped = of(row, columns(&[("prompt", "question"), ("completion", "answer")])).unwrap();
    assert_eq!(texts(&mapped), ("a b<|im_end|>".into(), " b<|im_end|>".into()));
    // Two that have each other's name.
    let row = r#"{"prompt": "a", "completion": "b"}"#;
    let swapped = of(row, columns(&[("prompt", "completion"), ("completion", "prompt")])).unwrap();
    assert_eq!(texts(&swapped).0, "ba<|im_end|>");
    let row = r#"{"dialog": [{"from": "human", "value": 3}]}"#;
    let error = of(row, columns(&[("conversations", "dialog")])).unwrap_err().to_string();
    assert!(error.ends_with(":1: `dialog[0].value` must be a text, it is a number"), "{error}");
    let missing = of("{\"x\": 1}", columns(&[("text", "body")])).unwrap_err().to_string();
    assert!(missing.ends_with(":1: `body` is missing, it must be a text"), "{missing}");
}

#[test]
#[cfg(feature = "parquet")]
fn columns_of_a_table_have_other_names_too() {
    let names = [("prompt", "instruction"), ("completion", "output")];
    let columns = Columns(names.map(|(a, b)| (a.to_string(), b.to_string())).into());
    let source = |file| Source { columns: columns.clone(), ..rows(file).into() };
    let [table, lines] = ["alpaca.parquet", "alpaca.jsonl"]
        .map(|file| documents(&load_with(&[source(file)], &DataOptions::new(512)).unwrap()));
    assert_eq!(table, lines);
    // A column that no kind of row has by its own name.
    let meta = Columns([("text".to_string(), "meta".to_string())].into());
    let source = Source { columns: meta, ..rows("text.parquet").into() };
    let error = load_with(&[source], &DataOptions::new(512)).unwrap_err().to_string();
    assert!(error.ends_with(", row 1: `meta` must be a text, it is a number"), "{error}");
    let none = Columns([("text".to_string(), "body".to_string())].into());
    let source = Source { columns: none, ..rows("alpaca.parquet").into() };
    let error = load_with(&[source], &DataOptions::new(512)).unwrap_err().to_string();
    assert!(
        error.ends_with("alpaca.parquet, row 1: `body` is missing, it must be a text"),
        "{error}"
    );
}

#[test]
fn damaged_files_are_refused_by_name() {
    let cases: [(&str, &[u8], &str); 9] = [
        (
            "a.json",
            b"[{\"text\": \"a\"}, {\"te",
            "a.json is not whole: its list breaks off in or behind row 2",
        ),
        ("a.json", b"[1]", "a.json, row 1: a row must be a JSON object, this is a number"),
        ("a.json", b"{\n\"a\": 1}", "a.json is a JSON object without a list named `data`"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "a.jsonl.gz is compressed with gzip"),
        ("a.jsonl", b"\xff\xfe{\x00", "a.jsonl is UTF-16, not UTF-8"),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1",
            "a.parquet is a pointer of Git LFS, not the file itself",
        ),
        (
            "a.parquet",
            b"hello",
            "a.parquet is named .parquet, but does not begin as such a file does",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"\xffb\"}\n",
            "a.jsonl:2: not UTF-8 at byte 11",
        ),
        (
            "a.jsonl",
            b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}",
            "a.jsonl:1: `messages[0]` is the assistant's: a conversation begins with a user or a system message",
        ),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(refusal(name, bytes), want);
    }
}

#[test]
#[cfg(feature = "parquet")]
fn half_a_parquet_file_is_refused() {
    let whole = std::fs::read(rows("messages-snappy.parquet")).unwrap();
    let want = "a.parquet is not a whole Parquet file: ";
    for end in [4, 20, whole.len() / 2, whole.len() - 1] {
        let got = refusal("a.parquet", &whole[..end]);
        assert!(got.starts_with(want), "{end}: {got}");
    }
    // Whole ends, a hole in the middle: rows are wrong, or none can be read; it is said by the row.
    let mut damaged = whole.clone();
    damaged[60..whole.len() / 3].fill(0xff);
    let got = refusal("a.parquet", &damaged);
    assert!(got.starts_with("a.parquet") && got.contains("row "), "{got}");
    // A table without a column of any use names its columns.
    let plain = DataOptions::new(512);
    let columns = Columns([("text".to_string(), "none".to_string())].into());
    let source = Source { columns, ..rows("text.parquet").into() };
    assert!(load_with(&[source], &plain).is_err());
}

#[test]
#[cfg(not(feature = "parquet"))]
fn parquet_is_refused_by_a_build_without_it() {
    let error = load(&rows("messages.parquet")).unwrap_err().to_string();
    assert!(
        error.ends_with("messages.parquet is a Parquet file, which this build does not read"),
        "{error}"
    );
}

#[test]
fn a_row_of_100_mb_is_refused() {
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(100_000_000));
    let rows = format!("{{\"text\": \"a\"}}\n{long}\n{{\"text\": \"b\"}}\n");
    let want = "2: is longer than 32 MB, the most that a row may have";
    assert_eq!(refusal("a.jsonl", rows.as_bytes()), format!("a.jsonl:{want}"));
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..DataOptions::new(512) };
    let dataset = load_text(&rows, &skip).unwrap();
    assert_eq!((dataset.documents.len(), dataset.stats.rows, dataset.stats.skipped), (2, 3, 1));
    let list = format!("[{{\"text\": \"a\"}}, {long}, {{\"text\": \"b\"}}]");
    assert_eq!(refusal("a.json", list.as_bytes()), format!("a.json, row {want}"));
    assert_eq!(load_text(&list, &skip).unwrap().documents.len(), 2);
}

#[test]
fn skipped_rows_are_counted_with_their_reasons() {
    let rows = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"\"}\n\
                {\"prompt\": \"a\"}\noops\n{\"text\": \"c\"}\n{\"prompt\": 1, \"completion\": \"b\"}\n";
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..DataOptions::new(512) };
    let stats = load_text(rows, &skip).unwrap().stats;
    assert_eq!((stats.rows, stats.skipped, stats.documents), (6, 5, 1));
    let reasons: Vec<_> = stats.reasons.iter().map(|(why, of)| (*why, of.rows)).collect();
    let want =
        [("a key missing or wrong", 3), ("not JSON", 1), ("of another kind than the first row", 1)];
    assert_eq!(reasons, want);
    let first = &stats.reasons["a key missing or wrong"].first;
    assert!(first.ends_with(":2: `completion` is empty: there is nothing to learn"), "{first}");
    assert_eq!(stats.kinds.values().sum::<usize>(), 1);
}

/// `count` rows of a few words.
fn many(count: usize) -> String {
    (0..count)
        .map(|i| format!("{{\"prompt\": \"row {i}\", \"completion\": \" is {}\"}}\n", i * i))
        .collect()
}

#[test]
fn a_share_is_held_out_by_seed_and_row() {
    let rows = many(2000);
    let of = |seed| {
        let held_out = Some(HeldOut { share: 0.1, seed });
        load_text(&rows, &DataOptions { held_out, ..DataOptions::new(512) }).unwrap()
    };
    let one = of(1);
    let held = one.held_out.len();
    assert!((150..250).contains(&held), "{held}");
    assert_eq!(
        (one.stats.held_out, one.stats.rows, one.documents.len()),
        (held, 2000, 2000 - held)
    );
    // Together they are all rows, each once.
    let all = load_text(&rows, &DataOptions::new(512)).unwrap();
    let mut both = documents(&one);
    both.extend(one.held_out.iter().map(|row| row.document.clone()));
    let sorted = |mut documents: Vec<Document>| {
        documents.sort_by(|a, b| a.tokens.cmp(&b.tokens));
        documents
    };
    assert_eq!(sorted(both), sorted(documents(&all)));
    assert_eq!(one.held_out, of(1).held_out);
    assert_ne!(one.held_out, of(2).held_out);
    assert_eq!(one.held_out[0].answer, format!(" is {}", (one.held_out[0].line - 1).pow(2)));
    let none =
        DataOptions { held_out: Some(HeldOut { share: 1e-9, seed: 0 }), ..DataOptions::new(512) };
    let error = load_text(&rows, &none).unwrap_err().to_string();
    assert!(error.ends_with("of 2000 rows held out leaves nothing to evaluate on"), "{error}");
}

#[test]
fn data_sets_are_mixed_by_weight() {
    let dir = written(&[("a.jsonl", many(10).as_bytes()), ("b.jsonl", many(20).as_bytes())]);
    let source = |name: &str, weight| Source { weight, ..dir.path().join(name).into() };
    let sources = [source("a.jsonl", 2.0), source("b.jsonl", 0.5)];
    let dataset = load_with(&sources, &DataOptions::new(512)).unwrap();
    let seen = dataset.epoch_documents(3, 0);
    assert_eq!(seen.len(), 30);
    assert!((0..10).all(|d| seen.iter().filter(|&&x| x == d).count() == 2));
    let later = dataset.epoch_documents(3, 1);
    assert!((10..30).all(|d| seen.contains(&d) != later.contains(&d)));
    let epoch = data::pack::Epoch::new(&dataset, 64, 3, 0).unwrap();
    let packed: usize = (0..epoch.len()).map(|i| epoch.documents(i).len()).sum();
    assert_eq!(packed, 30);
}

/// More tokens than may be in memory are in a file, and nothing else differs; nor does it on more threads.
#[test]
fn streamed_data_are_the_same_data() {
    let text = many(20_000);
    let load_in = |memory_tokens, threads| {
        let options =
            DataOptions { memory_tokens, too_long: TooLong::Split, ..DataOptions::new(16) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load_text(&text, &options).unwrap())
    };
    let memory = load_in(usize::MAX, 1);
    assert!(!memory.documents.on_disk());
    let epoch = data::pack::Epoch::new(&memory, 64, 1, 0).unwrap();
    let batches = epoch.batches(&memory.documents).unwrap();
    for threads in [1, 2, 4] {
        let disk = load_in(1000, threads);
        assert!(disk.documents.on_disk());
        assert_eq!(disk.stats, memory.stats);
        assert_eq!(documents(&disk), documents(&memory));
        assert_eq!(data::pack::Epoch::new(&disk, 64, 1, 0).unwrap(), epoch);
        assert_eq!(epoch.batches(&disk.documents).unwrap(), batches);
    }
}
