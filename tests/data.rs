//! Loading data: what a row becomes, what a bad row, template or file is refused with.

use std::path::PathBuf;

use dayrun::data::encode::PromptAs;
use dayrun::data::template::ChatTemplate;
use dayrun::data::{self, DataOptions, Dataset, Document, OnBadRow, TooLong};
use dayrun::model::tokenizer::{SpecialTokens, TextTokenizer};
use dayrun::progress::quiet;

fn tokenizer() -> TextTokenizer {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens/small");
    TextTokenizer::load(&path).unwrap()
}

/// The small tokenizer without a chat template.
fn without_template() -> TextTokenizer {
    let folder = tempfile::tempdir().unwrap();
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens/small");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    TextTokenizer::load(folder.path()).unwrap()
}

fn load_with(rows: &str, options: &DataOptions) -> Result<Dataset, data::Error> {
    load_by(&tokenizer(), rows, options)
}

fn load_by(
    tokenizer: &TextTokenizer,
    rows: &str,
    options: &DataOptions,
) -> Result<Dataset, data::Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows).unwrap();
    data::load(&[path], tokenizer, options, &quiet)
}

fn load(rows: &str) -> Result<Dataset, data::Error> {
    load_with(rows, &DataOptions::new(512))
}

/// All documents, as they can be compared.
fn documents(dataset: &Dataset) -> Vec<Document> {
    (0..dataset.documents.len()).map(|i| dataset.documents.get(i).unwrap()).collect()
}

fn first(dataset: &Dataset) -> Document {
    dataset.documents.get(0).unwrap()
}

/// The message, without the folder.
fn refusal(result: Result<Dataset, data::Error>) -> String {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(error.hint().is_none_or(|hint| !hint.is_empty()));
    text.split_once("rows.jsonl").map_or(text.clone(), |(_, rest)| rest.to_string())
}

/// The text that the loss counts.
fn learned(tokenizer: &TextTokenizer, document: &data::Document) -> String {
    let pairs = document.tokens.iter().zip(&document.loss_mask);
    let ids: Vec<u32> = pairs.filter(|(_, loss)| **loss).map(|(id, _)| *id).collect();
    tokenizer.decode_with_special(&ids).unwrap()
}

const GOOD: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}"#;

#[test]
fn bad_rows_are_named_by_file_and_line() {
    let cases = [
        ("{\"messages\": oops}", ":3: not JSON: expected value at column 14"),
        ("[]", ":3: a row must be a JSON object, this is a list"),
        ("{\"x\": \"x\"}", ":3: has none of `messages`, `conversations`, `prompt`"),
        ("{\"text\": \"x\"}", ":3: is a `text` row in a file of `messages` rows"),
        (
            r#"{"prompt": "a", "completion": "b"}"#,
            ":3: is a `prompt` row in a file of `messages` rows",
        ),
        (
            r#"{"messages": [{"role": "user", "content": 3}]}"#,
            ":3: `messages[0].content` must be a text, it is a number",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            ":3: has no loss token: no assistant turn is to be learned",
        ),
    ];
    for (row, want) in cases {
        let rows = format!("{GOOD}\n\n{row}\n{GOOD}\n");
        let got = refusal(load(&rows));
        assert!(got.starts_with(want), "{got} / {want}");

        let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..DataOptions::new(512) };
        let dataset = load_with(&rows, &skip).unwrap();
        assert_eq!((dataset.stats.rows, dataset.stats.skipped), (3, 1));
        assert_eq!(dataset.documents.len(), 2);
        let first = dataset.stats.first_skipped.unwrap();
        assert!(first.contains(want), "{first}");
    }
}

#[test]
fn a_bad_first_row_does_not_decide_the_kind() {
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..DataOptions::new(512) };
    let dataset = load_with(&format!("{{\n{GOOD}\n"), &skip).unwrap();
    assert_eq!((dataset.documents.len(), dataset.stats.skipped), (1, 1));
    assert!(refusal(load(&format!("{{\n{GOOD}\n"))).starts_with(":1: not JSON"));
}

#[test]
fn empty_data_are_refused() {
    for text in ["", "\n  \n"] {
        let error = load(text).unwrap_err();
        let whole = error.to_string();
        assert!(matches!(error, data::Error::Empty { skipped: 0, .. }), "{whole}");
        assert!(whole.starts_with("no usable row in ") && whole.contains("rows.jsonl"), "{whole}");
    }
    let skip = DataOptions { on_bad_row: OnBadRow::Skip, ..DataOptions::new(512) };
    assert!(refusal(load_with("{}\n", &skip)).contains("(1 were skipped)"));
    let none = data::load::<PathBuf>(&[], &tokenizer(), &skip, &quiet);
    assert!(matches!(none, Err(data::Error::NoFiles)));
    let missing = data::load(&[PathBuf::from("no/such.jsonl")], &tokenizer(), &skip, &quiet);
    assert!(refusal(missing).contains("no/such.jsonl"));
    assert!(matches!(load_with(GOOD, &DataOptions::new(1)), Err(data::Error::MaxLength(1))));
}

#[test]
fn loss_lies_on_the_assistant_and_its_end_of_turn() {
    let tokenizer = tokenizer();
    let dataset = load(GOOD).unwrap();
    // EOS is the pad token of this tokenizer too, and is learned all the same.
    assert_eq!(tokenizer.pad_id(), tokenizer.eos_id());
    assert_eq!(learned(&tokenizer, &first(&dataset)), "Hello!<|im_end|>");
    let rows = r#"{"messages": [{"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant\nb"}, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}, {"role": "assistant", "content": ""}]}"#;
    let dataset = load(rows).unwrap();
    assert_eq!(learned(&tokenizer, &first(&dataset)), "c<|im_end|><|im_end|>");
    let rows = r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]}"#;
    let dataset = load(rows).unwrap();
    assert_eq!(learned(&tokenizer, &first(&dataset)), "d<|im_end|>");
}

#[test]
fn plain_rows_are_text_or_turns() {
    let tokenizer = tokenizer();
    let row = r#"{"prompt": "Q: two\n", "completion": "A: 2"}"#;
    let text = |dataset: &Dataset| tokenizer.decode_with_special(&first(dataset).tokens);
    let dataset = load(row).unwrap();
    assert_eq!(text(&dataset).unwrap(), "Q: two\nA: 2<|im_end|>");
    assert_eq!(learned(&tokenizer, &first(&dataset)), "A: 2<|im_end|>");
    let chat = DataOptions { prompt_as: PromptAs::Chat, ..DataOptions::new(512) };
    let dataset = load_with(row, &chat).unwrap();
    let want = "<|im_start|>user\nQ: two\n<|im_end|>\n<|im_start|>assistant\nA: 2<|im_end|>\n";
    assert!(text(&dataset).unwrap().ends_with(want));
    assert_eq!(learned(&tokenizer, &first(&dataset)), "A: 2<|im_end|>");
}

#[test]
fn a_chat_needs_a_template() {
    let bare = without_template();
    let error = load_by(&bare, GOOD, &DataOptions::new(512)).unwrap_err();
    assert!(matches!(error, data::Error::NoTemplate { .. }), "{error}");
    let source = tokenizer().chat_template().map(str::to_string);
    let own = DataOptions { chat_template: source, ..DataOptions::new(512) };
    let documents_of = |loaded: Result<Dataset, data::Error>| documents(&loaded.unwrap());
    assert_eq!(documents_of(load_by(&bare, GOOD, &own)), documents_of(load(GOOD)));
    let row = r#"{"prompt": "a", "completion": "b"}"#;
    assert_eq!(documents_of(load_by(&bare, row, &DataOptions::new(512))), documents_of(load(row)));
}

#[test]
fn long_documents_are_cut_or_split_and_counted() {
    let row = format!(r#"{{"prompt": "", "completion": "{}"}}"#, "x y ".repeat(50));
    let whole = load(&row).unwrap();
    let length = first(&whole).tokens.len();
    assert!(length > 64 && whole.stats.longest == length);
    let cut = load_with(&row, &DataOptions::new(32)).unwrap();
    assert_eq!((cut.stats.truncated, cut.stats.split, cut.documents.len()), (1, 0, 1));
    assert_eq!(first(&cut).tokens, first(&whole).tokens[..32]);
    assert_eq!((whole.stats.lengths.quantile(1.0), cut.stats.lengths.above(32)), (Some(length), 1));
    let split = DataOptions { too_long: TooLong::Split, ..DataOptions::new(32) };
    let split = load_with(&row, &split).unwrap();
    assert_eq!((split.stats.truncated, split.stats.split), (0, 1));
    let joined: Vec<u32> = documents(&split).into_iter().flat_map(|d| d.tokens).collect();
    // A last piece of one token has nothing to predict.
    let kept = length - if length % 32 == 1 { 1 } else { 0 };
    assert_eq!(joined, first(&whole).tokens[..kept]);

    let row = format!(r#"{{"prompt": "{}", "completion": "z"}}"#, "x y ".repeat(50));
    let got = refusal(load_with(&row, &DataOptions::new(32)));
    assert_eq!(got, ":1: has no loss token: its loss tokens lie behind `max_length`");
    let split = DataOptions { too_long: TooLong::Split, ..DataOptions::new(32) };
    let split = load_with(&row, &split).unwrap();
    assert_eq!(split.documents.len(), 1);
    assert!(split.stats.pieces_without_loss > 0);
}

#[test]
fn threads_and_chunks_do_not_matter() {
    let rows: String = (0..5000)
        .map(|i| format!("{{\"prompt\": \"row {i} \", \"completion\": \"{}\"}}\n", i * i))
        .collect();
    let of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load(&rows).unwrap())
    };
    let (one, two) = (of(1), of(2));
    assert_eq!((documents(&one), &one.stats), (documents(&two), &two.stats));
    assert_eq!(one.documents.len(), 5000);
    let text = tokenizer().decode(&one.documents.get(4999).unwrap().tokens).unwrap();
    assert_eq!(text, format!("row 4999 {}", 4999 * 4999));
}

#[test]
fn evaluation_rows_have_prompt_and_answer() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, format!("\n{GOOD}\n")).unwrap();
    let (rows, stats) =
        data::load_eval(&[path], &tokenizer, &DataOptions::new(512), &quiet).unwrap();
    assert_eq!((rows.len(), rows[0].line, stats.rows), (1, 2, 1));
    assert_eq!(rows[0].answer, "Hello!");
    assert!(rows[0].document.tokens.starts_with(&rows[0].prompt));
    let text = tokenizer.decode_with_special(&rows[0].prompt).unwrap();
    assert!(text.ends_with("Hi<|im_end|>\n<|im_start|>assistant\n"), "{text:?}");
}

fn options_with(template: &str) -> DataOptions {
    DataOptions { chat_template: Some(template.into()), ..DataOptions::new(512) }
}

const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>x</think>b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;

#[test]
fn templates_that_rewrite_the_past() {
    // Reasoning is shown in the last turn and dropped from earlier ones.
    let drops = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% else %}\
                 {{ m.content.split('</think>')[-1] }}{% endif %}<|im_end|>{% endfor %}";
    let dataset = load_with(TWO_TURNS, &options_with(drops)).unwrap();
    assert_eq!(learned(&tokenizer(), &first(&dataset)), "b<|im_end|>d<|im_end|>");
    assert_eq!(dataset.stats.rewritten, 1);
    assert_eq!(load_with(GOOD, &options_with(drops)).unwrap().stats.rewritten, 0);
    // Without a stop token nobody can tell where such a turn ends.
    let open = drops.replace("<|im_end|>", "\n");
    let got = refusal(load_with(TWO_TURNS, &options_with(&open)));
    assert!(got.contains("they end without a stop token, so their tokens cannot be told"), "{got}");
    // Where the messages around a turn are not to be found, there is no second way.
    let both = drops.replace("m.content.split", "(m.role ~ m.content[1:]).split");
    let got = refusal(load_with(TWO_TURNS, &options_with(&both)));
    assert!(got.contains("messages[0..=1] read differently once later messages"), "{got}");
    // A generation prompt that is not how a turn begins.
    let other = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}\
                 {% if add_generation_prompt %}Answer: {% endif %}";
    let got = refusal(load_with(TWO_TURNS, &options_with(other)));
    assert!(got.contains("generation prompt is not how it begins"), "{got}");
}

#[test]
fn templates_say_why_they_fail() {
    let cases = [
        ("{{ messages[7].content.strip() }}", "undefined"),
        ("{{ messages[0].content.frobnicate() }}", "frobnicate"),
        ("{{ strftime_now('%Q') }}", "strftime_now(\"%Q\")"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ];
    for (template, want) in cases {
        let got = refusal(load_with(GOOD, &options_with(template)));
        assert!(got.starts_with(":1: the chat template failed") && got.contains(want), "{got}");
    }
    let raises =
        "{% macro f() %}{{ raise_exception('no system here, «please»') }}{% endmacro %}{{ f() }}";
    let error = load_with(&format!("{GOOD}\n"), &options_with(raises)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with(
            ".jsonl:1: the chat template refuses this conversation: no system here, «please»"
        ),
        "{text}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("the template's own rule")), "{error:?}");
    let endless =
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}";
    let error = load_with(GOOD, &options_with(endless)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(":1: the chat template does not end: it was stopped after 20000000 steps"),
        "{text}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("another template")), "{error:?}");
    let marks = "{% generation %}{{ messages[0].content }}{% endgeneration %}";
    let got = refusal(load_with(&GOOD.replace("Hi", "\u{fdd0}"), &options_with(marks)));
    assert!(got.contains("the row holds U+FDD0 or U+FDD1"), "{got}");
    let torn = "{% set x %}{% generation %}abc{% endgeneration %}{% endset %}{{ x[:2] }}";
    let got = refusal(load_with(GOOD, &options_with(torn)));
    assert!(got.contains("it cuts its generation blocks apart"), "{got}");
    for template in ["{% if %}", "{% frobnicate %}", "{{ x", "{% include 'other' %}"] {
        let got = refusal(load_with(GOOD, &options_with(template)));
        assert!(got.contains("template"), "{got}");
    }
}

#[test]
fn turns_without_a_stop_token_are_counted() {
    let none = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}\
                {% if add_generation_prompt %}assistant: {% endif %}";
    let dataset = load_with(TWO_TURNS, &options_with(none)).unwrap();
    assert_eq!(dataset.stats.turns_without_stop, 2);
    assert_eq!(learned(&tokenizer(), &first(&dataset)), "<think>x</think>b\nd\n");
    assert_eq!(load(TWO_TURNS).unwrap().stats.turns_without_stop, 0);
}

#[test]
fn templates_render_as_python_does() {
    let special = SpecialTokens { bos: Some("<s>".into()), ..SpecialTokens::default() };
    let date = Some("2024-07-26".parse().unwrap());
    let messages =
        [serde_json::json!({"role": "user", "content": "<b> & \"é\"", "box": {"n": null},
        "yes": true, "x": 1.0, "list": [1, "a"]})];
    let render = |source: &str| {
        ChatTemplate::new(source, &special, date).unwrap().render(&messages, None, true).unwrap()
    };
    let cases = [
        (
            "{{ messages[0] | tojson }}",
            "{\"role\": \"user\", \"content\": \"<b> & \\\"é\\\"\", \"box\": {\"n\": null}, \"yes\": true, \
          \"x\": 1.0, \"list\": [1, \"a\"]}",
        ),
        ("{{ messages[0].list | tojson(separators=(',', ':')) }}", "[1,\"a\"]"),
        ("{{ messages[0].list | tojson(indent=2) }}", "[\n  1,\n  \"a\"\n]"),
        ("{{ messages[0].content }}", "<b> & \"é\""),
        (
            "{{ messages[0].box.n }}|{{ messages[0].yes }}|{{ messages[0].x }}|{{ messages[0].list }}",
            "None|True|1.0|[1, 'a']",
        ),
        ("{{ bos_token }}|{{ eos_token }}|{{ eos_token is defined }}", "<s>||False"),
        ("{{ tools is none }}|{{ add_generation_prompt }}", "True|True"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% for m in messages %}\n  {% if true %}\n x\n  {% endif %}\n{% endfor %}\n", " x\n"),
        ("{% generation %}\na\n{%- endgeneration %}\n|", "a|"),
        ("x {%- generation -%}\n  a\n  {% endgeneration -%}\n |", "xa\n|"),
        ("{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}", "21"),
        ("{% raw %}\n{% generation %}{% endraw %}", "\n{% generation %}"),
        ("{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a-b'.rsplit('-') }}", "['a-b', 'c']['a', 'b']"),
        ("[{{ '\\u001c a\\u00a0' | trim }}]{{ tools is iterable }}", "[a]False"),
        (
            "{% set ns = namespace(n=0) %}{% for i in [1, 2, 3] %}{% if i == 3 %}{% break %}{% endif %}\
          {% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{{ ' a b '.strip().split(' ')[-1].upper() }}", "B"),
        (
            "{{ messages[0].get('missing', 'd') }}|{% for k, v in messages[0].items() %}{{ k }} {% endfor %}",
            "d|role content box yes x list ",
        ),
    ];
    for (source, want) in cases {
        assert_eq!(render(source), want, "{source}");
    }
}
