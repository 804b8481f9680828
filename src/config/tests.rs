//! The run file: round trips and refusals.

use super::*;
use crate::adapter::{LoraConfig, TargetModules};

const SMALL: &str = "[model]\npath = 'm'\n[data]\ntrain = 'a.jsonl'\n";

fn read(text: &str, sets: &[&str]) -> Result<RunFile, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    parse(text, "run.toml".as_ref(), &sets).map(|(run, _)| run)
}

fn refusal(text: &str, sets: &[&str]) -> (String, String) {
    let error = read(text, sets).expect_err("must be refused");
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn resolved_reads_back_equal() {
    let run = read(
        SMALL,
        &[
            "train.learning_rate=3e-5",
            "train.warmup=7",
            "train.max_steps=12",
            "lora.target_modules=[\"v_proj\", \"q_proj\"]",
            "lora.exclude_modules=.*\\.layers\\.0\\..*",
            "lora.layers_to_transform=[0, 3]",
            "lora.layers_pattern=layers",
            "lora.rank_pattern={ 'z\\..*' = 3, \"a.q_proj\" = 5 }",
            "lora.alpha_pattern={ v_proj = 3, q_proj = 2.5 }",
            "lora.init_adapter=some/dir",
            "train.adam_eps=1e-9",
            "train.out=runs/'x' \"y\"",
            "train.device=cuda:2",
            "train.memory=39.3GB",
            "train.cpu_until=layers.1.attention",
            "dispatch.nf4_linear=scratch",
            "data.eval=[\"b.jsonl\", \"c.jsonl\"]",
        ],
    )
    .expect("valid");
    assert_eq!(run.train.warmup, Warmup::Steps(7));
    assert_eq!(run.lora.target_modules, TargetModules::list(["v_proj", "q_proj"]));
    assert_eq!(run.train.device, DeviceChoice::Cuda(2));
    assert_eq!(run.train.memory, Some(ByteSize(39_300_000_000)));
    assert_eq!(run.dispatch.nf4_linear, Nf4Linear::Scratch);
    let again = read(&run.resolved(), &[]).expect("the resolved file is valid");
    assert_eq!(again, run);
    assert_eq!(again.resolved(), run.resolved());
}

#[test]
fn the_commented_file_is_valid_and_holds_the_defaults() {
    let run = read(&RunFile::commented(), &[]).expect("valid");
    let mut want = RunFile::default();
    want.model.path = run.model.path.clone();
    want.data.train = run.data.train.clone();
    assert_eq!(run, want);
    for key in all_keys() {
        assert!(!key.doc.is_empty(), "{} has no meaning", key.dotted());
        assert!(key.default.is_some() || !key.example.is_empty(), "{}", key.dotted());
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let (message, hint) = refusal(&format!("{SMALL}\n[train]\nlearning_rte = 1"), &[]);
    assert_eq!(message, "unknown key `train.learning_rte`\n  at run.toml:7");
    assert_eq!(hint, "did you mean `train.learning_rate`?");
    assert_eq!(refusal(SMALL, &["lr=1"]).1, "did you mean `train.learning_rate`?");
    assert_eq!(refusal(SMALL, &["train.r=1"]).1, "did you mean `lora.r`?");
    assert_eq!(refusal(SMALL, &["lora.lora_r=1"]).1, "did you mean `lora.r`?");
    assert_eq!(refusal(SMALL, &["trian.seed=1"]).1, "did you mean `train.seed`?");
    assert_eq!(refusal("[trian]\nseed=1", &[]).1, "did you mean `train`?");
    let (message, hint) = refusal(SMALL, &["train.zzqx=1"]);
    assert_eq!(message, "unknown key `train.zzqx`\n  at --set train.zzqx=1");
    assert!(hint.contains("dayrun init"), "{hint}");
}

#[test]
fn wrong_values_name_line_and_key() {
    let (message, _) = refusal(&format!("{SMALL}[train]\nlearning_rate = 'fast'"), &[]);
    assert_eq!(
        message,
        "`train.learning_rate` is \"fast\", expected a finite number from 0\n  at run.toml:6"
    );
    for set in [
        "train.learning_rate=nan",
        "train.learning_rate=-1",
        "train.epochs=0",
        "train.epochs=1.5",
        "train.max_steps=0",
        "train.warmup=1.0",
        "train.warmup=-1",
        "train.adam_beta2=1",
        "train.seed=-3",
        "lora.r=0",
        "lora.r=99999",
        "lora.target_modules=[]",
        "lora.exclude_modules=[]",
        "lora.layers_to_transform=-1",
        "lora.layers_to_transform=[]",
        "lora.rank_pattern=8",
        "lora.rank_pattern={ q_proj = 0 }",
        "lora.alpha_pattern={ q_proj = 0 }",
        "lora.lora_dropout=1",
        "lora.lora_dropout=-0.1",
        "train.neftune_alpha=-1",
        "data.too_long=drop",
        "data.max_length=1",
        "eval.batch_rows=0",
        "train.device=gpu",
        "train.device=cuda:x",
        "train.device=1",
        "train.memory=0",
        "train.memory=40 gigs",
        "train.memory=-1",
        "train.memory=39.3",
        "dispatch.nf4_linear=fast",
        "model.quantization=nf8",
        "model.path=",
        "data.train=[]",
    ] {
        let (message, _) = refusal(SMALL, &[set]);
        assert!(message.contains(&format!("at --set {set}")), "{set}: {message}");
        assert!(message.contains("expected"), "{set}: {message}");
    }
}

#[test]
fn refusals_come_with_advice() {
    let hint = |set: &str| refusal(SMALL, &[set]).1;
    assert_eq!(
        hint("train.learning_rate=fast"),
        "for example learning_rate = 0.0002 (the default)"
    );
    assert_eq!(hint("train.learning_rate=\"1e-3\""), "without the quotes: learning_rate = 1e-3");
    assert_eq!(hint("lora.r=0"), "for example r = 16 (the default)");
    assert_eq!(
        hint("data.max_length=4096"),
        "set data.max_length to at most 2048, or \
        train.micro_batch_tokens to at least 4096"
    );
    let (message, advice) = refusal(SMALL, &["lora.target_modules=[\"v_proj\", \"q_prj\"]"]);
    assert!(message.contains("names `q_prj`"), "{message}");
    assert!(advice.starts_with("did you mean `q_proj`? the modules are q_proj, k_"), "{advice}");
    assert!(hint("lora.target_modules=[\"all-linear\"]").contains("not in a list"));
    let (message, advice) = refusal("[train]\nseed = 1\nseed = 2\n", &[]);
    assert_eq!(message, "`seed` is given twice\n  at run.toml:3");
    assert_eq!(advice, "keep one `seed`");
    assert!(refusal("[model]\npath = models/smol\n", &[]).1.contains("quotes"));
}

/// Before anything is loaded.
#[test]
fn targets_that_cannot_be_are_refused() {
    for (sets, want) in [
        (&["lora.target_modules=lm_head"][..], "`target_modules` is \"lm_head\", which names no"),
        (&["lora.target_modules=q_proj"], "`target_modules` is \"q_proj\", which names no linear"),
        (
            &["lora.target_modules=("],
            "`target_modules` has the regular expression \"(\": it is not",
        ),
        (&["lora.rank_pattern={ '*' = 2 }"], "`rank_pattern` has the regular expression \"*\""),
        (&["lora.exclude_modules='.*'"], "`target_modules` is [\"q_proj\","),
        (&["lora.exclude_modules=['mlp']"], "`lora.exclude_modules` names `mlp`"),
        (&["lora.layers_pattern=layers"], "`layers_pattern` is \"layers\": it says where"),
        (
            &["lora.layers_to_transform=1", "lora.target_modules='.*q_proj'"],
            "`layers_to_transform` is [1]: it goes with a list",
        ),
        (&["lora.use_dora=true"], "`lora.use_dora` is not supported: DoRA,"),
        (&["lora.modules_to_save=['lm_head']"], "`lora.modules_to_save` is not supported: whole"),
    ] {
        let (message, hint) = refusal(SMALL, sets);
        assert!(message.starts_with(want), "{message}");
        assert!(message.contains("\n  at --set "), "{message}");
        assert!(!hint.is_empty() || want.contains("layers_"), "{message}");
    }
    assert!(refusal(SMALL, &["lora.target_modules=q_proj"]).1.contains("([\"q_proj\"])"));
    let at = "[lora]\nr = 4\ntarget_modules = '('\n";
    assert!(refusal(&format!("{SMALL}{at}"), &[]).0.ends_with("at run.toml:7"));
}

/// An adapter that PEFT wrote may name what dayrun would not let a person write.
#[test]
fn the_keys_of_an_adapter_to_go_on_from_read_back() {
    let mut run = read(SMALL, &["lora.init_adapter=some/dir"]).unwrap();
    run.lora.take(&LoraConfig {
        target_modules: TargetModules::list(["query_key_value", "q_proj"]),
        ..LoraConfig::default()
    });
    assert_eq!(read(&run.resolved(), &[]).expect("valid"), run);
    read(SMALL, &["lora.target_modules=[\"query_key_value\", \"q_proj\"]"]).expect_err("a typo");
}

#[test]
fn missing_conflicting_and_broken_files() {
    let (message, hint) = refusal("[model]\npath = 'm'\n", &[]);
    assert_eq!(message, "`data.train` is missing\n  at run.toml");
    assert!(hint.contains("train = \"data/train.jsonl\""), "{hint}");
    let (message, _) = refusal(SMALL, &["train.micro_batch_tokens=512"]);
    assert!(message.contains("must fit in one micro-batch"), "{message}");
    assert!(message.contains("at --set train.micro_batch_tokens=512"), "{message}");
    let (message, _) = refusal("[model]\npath = \n", &[]);
    assert!(message.contains("at run.toml:2"), "{message}");
    assert!(refusal("model = 3", &[]).0.contains("is a section"));
    assert!(refusal(SMALL, &["train=3"]).0.contains("is a section"));
    assert!(refusal(SMALL, &["oops"]).0.contains("expected key=value"));
}

#[test]
fn what_a_device_cannot_do_is_refused_by_name() {
    let (message, hint) = refusal(SMALL, &["train.device=cuda", "train.compute_dtype=f32"]);
    assert!(message.starts_with("`train.compute_dtype` is \"f32\", but `train.device` is cuda:0:"));
    assert!(message.ends_with("at --set train.compute_dtype=f32"), "{message}");
    assert!(hint.contains("train.device to \"cpu\""), "{hint}");
    let (message, _) = refusal(SMALL, &["train.device=cpu", "train.memory=39.3GB"]);
    assert!(message.starts_with("`train.memory` is 39.3GB, but `train.device` is cpu:"));
    // Automatic: there may be no GPU to bisect with.
    for device in ["cpu", "auto"] {
        let sets = [&format!("train.device={device}"), "train.cpu_until=embedding"];
        let (message, _) = refusal(SMALL, &sets);
        assert!(message.contains(&format!("but `train.device` is {device}:")), "{message}");
    }
    read(SMALL, &["train.memory=24GiB", "train.compute_dtype=f32"]).expect("auto takes either");
    read(SMALL, &["train.memory=25769803776"]).expect("plain bytes");
    read(SMALL, &["train.device=cuda:1", "train.cpu_until=embedding"]).expect("a GPU is named");
    assert_eq!(refusal(SMALL, &["train.gpu=1"]).1, "did you mean `train.device`?");
}

/// As a run on a GPU leaves it.
#[test]
fn the_dispatch_table_reads_back_equal() {
    let mut run = read(SMALL, &[]).unwrap();
    let row = |out_features, rows| crate::model::LinearDispatch {
        out_features,
        in_features: 64,
        forward_fused_rows: rows,
        backward_fused_rows: 0,
    };
    run.dispatch.nf4_linear_source = Some("measured".into());
    run.dispatch.nf4_linear_rows = Some(vec![row(64, 1400), row(192, i64::MAX as usize)]);
    assert_eq!(read(&run.resolved(), &[]).expect("valid"), run, "{}", run.resolved());
    let (message, _) = refusal(&run.resolved(), &["dispatch.nf4_linear=fused"]);
    assert!(message.contains("`dispatch.nf4_linear_rows` is a table"), "{message}");
    let typo = run.resolved().replace("forward_fused_rows", "forward_rows");
    assert!(refusal(&typo, &[]).0.starts_with("`dispatch.nf4_linear_rows` is "));
    refusal(&run.resolved().replace("out_features", "extra = 1\nout_features"), &[]);
}

#[test]
fn data_are_paths_or_tables() {
    let text = "[model]\npath = 'm'\n[data]\ntrain = ['a.jsonl', { path = 'b', weight = 2, \
                columns = { prompt = 'q', completion = 'a' } }]\neval = 'c'\neval_share = 0.1\n\
                columns = { text = 'body' }\n";
    let run = read(text, &[]).expect("valid");
    let sources = run.data.train_sources();
    assert_eq!((sources[0].weight, sources[0].columns.theirs("text")), (1.0, "body"));
    assert_eq!((sources[1].weight, sources[1].columns.theirs("prompt")), (2.0, "q"));
    // Its own names, and none of the section's.
    assert_eq!(sources[1].columns.theirs("text"), "text");
    assert_eq!(run.data.eval_sources()[0].columns.theirs("text"), "body");
    assert_eq!(read(&run.resolved(), &[]).expect("valid"), run, "{}", run.resolved());
    let many = "[model]\npath = 'm'\n[[data.train]]\npath = 'a'\n[[data.train]]\npath = 'b'\n";
    assert_eq!(read(many, &[]).expect("valid").data.train.0.len(), 2);

    let refused = |set: &str| refusal(SMALL, &[set]);
    let (message, hint) = refused("data.train={ path = 'a', wieght = 2.0 }");
    assert!(message.starts_with("unknown key `data.train.wieght`\n  at --set"), "{message}");
    assert_eq!(hint, "did you mean `data.train.weight`?");
    let (message, hint) = refused("data.columns={ promt = 'q' }");
    assert!(message.starts_with("unknown key `data.columns.promt`"), "{message}");
    assert_eq!(hint, "did you mean `data.columns.prompt`?");
    let (message, _) = refused("data.eval={ path = 'a', weight = 2.0 }");
    assert!(message.starts_with("unknown key `data.eval.weight`"), "{message}");
    let cases = [
        ("data.train=[{ path = 'a', weight = 0 }]", "`data.train.weight` is 0, expected a number"),
        ("data.train=[{ weight = 1.0 }]", "`data.train.path` is missing, expected a path"),
        ("data.train=[{ path = 'a', columns = 'q' }]", "`data.train.columns` is \"q\", expected"),
        ("data.columns={ text = 3 }", "`data.columns.text` is 3, expected a column's name"),
        ("data.eval_share=1", "`data.eval_share` is 1, expected"),
        ("data.train=[3]", "`data.train` is [3], expected a path"),
    ];
    for (set, want) in cases {
        let (message, _) = refused(set);
        assert!(message.starts_with(want), "{message}");
    }
}

#[test]
fn set_takes_toml_and_bare_strings() {
    let run = read(SMALL, &["model.path=some/dir with=sign", "data.train=[\"x\",\"y\"]"]).unwrap();
    assert_eq!(run.model.path, std::path::Path::new("some/dir with=sign"));
    assert_eq!(run.data.train.0.len(), 2);
    assert_eq!(read(SMALL, &["model.path=\"q\""]).unwrap().model.path, std::path::Path::new("q"));
    // A later one wins, as does --set over the file.
    assert_eq!(read(SMALL, &["train.seed=1", "train.seed=2"]).unwrap().train.seed, 2);
}
