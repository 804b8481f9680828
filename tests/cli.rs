//! The binary itself: help, refusals, and a whole run on a tiny model.
//!
//! `DAYRUN_BLESS=1 cargo test --test cli` writes the help snapshots anew.

mod common;
#[path = "cli/inspect.rs"]
mod inspect;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::tol::READ_JSON;
use common::{DType, Tol, assert_close};
use serde_json::Value;

/// The binary, with a quantisation cache of its own.
fn dayrun(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayrun"));
    command.current_dir(dir).env("DAYRUN_CACHE", dir.join("cache")).env("COLUMNS", "100");
    command.env_remove("RUST_LOG");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    dayrun(dir).args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tiny() -> PathBuf {
    root().join("tests/golden/tiny/hub")
}

/// A directory with a run file for the tiny model and some rows.
fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rows: String = (0..24)
        .map(|i| format!("{{\"prompt\": \"{i} and {i} is\", \"completion\": \" {}\"}}\n", 2 * i))
        .collect();
    std::fs::write(dir.path().join("rows.jsonl"), &rows).unwrap();
    let few: String = rows.lines().take(5).map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("test.jsonl"), few).unwrap();
    let text = format!(
        "[model]\npath = {:?}\n[data]\ntrain = \"rows.jsonl\"\neval = \"test.jsonl\"\n\
         max_length = 64\n[lora]\nr = 4\n[train]\nmicro_batch_tokens = 64\nlearning_rate = 1e-3\n\
         max_steps = 5\nsave_every = 2\n[eval]\nmax_new_tokens = 8\n",
        tiny()
    );
    std::fs::write(dir.path().join("run.toml"), text).unwrap();
    dir
}

fn check_snapshot(name: &str, got: &str) {
    let path = root().join("tests/snapshots").join(name);
    if std::env::var_os("DAYRUN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{} (DAYRUN_BLESS=1 writes it anew)", path.display());
}

/// `args` end in `--help`.
fn check_help(dir: &Path, args: &[&str]) {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}");
    assert!(args[0] == "quickstart" || stdout(&output).contains("Examples:"), "{args:?}");
    let names = [&["help"], &args[..args.len() - 1]].concat();
    check_snapshot(&format!("{}.txt", names.join("-")), &stdout(&output));
}

#[test]
fn help_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "init", "inspect", "train", "eval", "generate", "quickstart"] {
        let args: Vec<&str> = [name, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        check_help(dir.path(), &args);
    }
    check_help(dir.path(), &["bench", "--help"]);
    check_help(dir.path(), &["bench", "train", "--help"]);
    check_help(dir.path(), &["bench", "generate", "--help"]);
    check_help(dir.path(), &["bench", "data", "--help"]);
    let output = run(dir.path(), &["init"]);
    check_snapshot("init.toml", &stdout(&output));
}

/// Exit code and standard error of a refusal; paths of the temporary directory cut out.
fn refusal(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(dir, args);
    let text = stderr(&output).replace(&dir.display().to_string(), "DIR");
    (output.status.code().expect("not killed"), text)
}

#[test]
fn refusals_say_what_where_and_what_to_do() {
    let dir = project();
    let dir = dir.path();
    let mut seen = String::new();
    std::fs::write(dir.join("typo.toml"), "[model]\npath = 'm'\n[train]\nlearning_rte = 1\n")
        .unwrap();
    std::fs::write(dir.join("broken.toml"), "[model\n").unwrap();
    std::fs::write(
        dir.join("bad.jsonl"),
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"x\": 1}\n",
    )
    .unwrap();
    std::fs::write(dir.join("empty.jsonl"), "\n").unwrap();
    std::fs::create_dir(dir.join("used")).unwrap();
    std::fs::write(dir.join("used/file"), "x").unwrap();
    std::fs::write(dir.join("blank.jsonl"), "\n").unwrap();
    std::fs::write(dir.join("twice.toml"), "[train]\nseed = 1\nseed = 2\n").unwrap();
    std::fs::create_dir(dir.join("dora")).unwrap();
    std::fs::write(
        dir.join("dora/adapter_config.json"),
        "{\"peft_type\": \"LORA\", \"use_dora\": true}",
    )
    .unwrap();
    let cases: &[&[&str]] = &[
        &["train", "nowhere.toml"],
        &["train", "typo.toml"],
        &["train", "broken.toml"],
        &["train", "run.toml", "--set", "train.learning_rate=fast"],
        &["train", "run.toml", "--set", "lora.r=0"],
        &["train", "run.toml", "--set", "lora_r=8"],
        &["train", "run.toml", "--set", "oops"],
        &["train", "run.toml", "--set", "data.max_length=100"],
        &["train", "run.toml", "--resume"],
        &["train", "run.toml", "--out", "used"],
        &["train", "run.toml", "--set", "model.path=no/model"],
        &["train", "run.toml", "--set", "data.train=no.jsonl"],
        &["train", "run.toml", "--set", "data.train=bad.jsonl"],
        &["train", "run.toml", "--set", "data.train=empty.jsonl"],
        &["train", "run.toml", "--set", "data.train=[\"empty.jsonl\", \"blank.jsonl\"]"],
        &["train", "run.toml", "--set", "data.train=used"],
        &["train", "run.toml", "--set", "model.path=rows.jsonl"],
        &["train", "run.toml", "--set", "model.path=used"],
        &["train", "run.toml", "--set", "lora.target_modules=[\"q_prj\"]"],
        &["train", "twice.toml"],
        &["train", "run.toml", "--set", "lora.init_adapter=no/adapter"],
        &["train", "run.toml", "--set", "train.device=gpu"],
        &["train", "run.toml", "--set", "train.memory=40 gigs"],
        &["train", "run.toml", "--set", "dispatch.nf4_linear=fast"],
        &["train", "run.toml", "--device", "cuda", "--set", "train.compute_dtype=f32"],
        &["train", "run.toml", "--device", "cpu", "--memory", "39.3GB"],
        &["train", "run.toml", "--set", "train.cpu_until=layers.1.attention"],
        &["eval", "--model", "no/model", "--device", "cpu", "--memory", "24GiB", "test.jsonl"],
        &["generate", "--model", "m", "--device", "cuda:1", "--compute-dtype", "f32", "hello"],
        &["init", "run.toml"],
        &["eval", "--model", "no/model", "test.jsonl"],
        &["generate", "--run", "no/run", "hello"],
        &["generate", "--run", "used", "hello"],
        &["generate", "--model", "no/model", "--adapter", "dora", "hello"],
        &["bench", "train", "--model", "no/model"],
        &["bench", "train", "--model", "no/model", "--lengths", "no.txt"],
        &["bench", "train", "--model", "no/model", "--lengths", "rows.jsonl"],
        &["bench", "train", "--model", "no/model", "--lengths", "blank.jsonl"],
    ];
    for args in cases {
        let (code, text) = refusal(dir, args);
        assert_eq!(code, 1, "{args:?}: {text}");
        assert!(text.contains("error: "), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        // Progress of what went well before is not part of the refusal.
        let at = text.find("error: ").unwrap();
        seen.push_str(&format!("$ dayrun {}\n{}\n", args.join(" "), &text[at..]));
    }
    check_snapshot("refusals.txt", &seen);
    assert!(!dir.join("runs").exists(), "a refused run leaves nothing behind");
    // Wrong usage is clap's to refuse, with code 2.
    let usage = ["train", "run.toml", "--device", "gpu"];
    for args in
        [&["train"][..], &usage, &["generate", "x"], &["eval", "--no-such-flag"], &["tarin"]]
    {
        assert_eq!(refusal(dir, args).0, 2, "{args:?}");
    }
}

/// What a run says on a machine without NVIDIA's driver, named and unnamed.
#[cfg(feature = "cuda")]
#[test]
fn without_a_driver_a_named_gpu_is_refused_and_auto_says_why_it_is_the_cpu() {
    use dayrun::device::cuda::{Cuda, CudaError};
    if Cuda::count() != Err(CudaError::NoDriver) {
        eprintln!("SKIPPED: this machine has NVIDIA's driver");
        return;
    }
    let dir = project();
    let (code, text) = refusal(dir.path(), &["train", "run.toml", "--device", "cuda"]);
    assert_eq!(code, 1, "{text}");
    check_snapshot("no-driver.txt", &text);
    assert!(!dir.path().join("runs").exists(), "a refused run leaves nothing behind");
    let sets = ["--set", "train.max_steps=1", "--set", "eval.before=false", "--memory", "24GiB"];
    let (code, text) = refusal(dir.path(), &[&["train", "run.toml"][..], &sets].concat());
    assert_eq!(code, 0, "{text}");
    let line = text.lines().find(|line| line.starts_with("on cpu (")).expect("the device is told");
    assert!(line.contains("): no GPU here: the NVIDIA driver's library"), "{line}");
    // What was used, not what was asked for.
    let resolved = dir.path().join("runs/run/run.toml");
    let (resolved, _) = dayrun::config::load(&resolved, &[]).expect("valid");
    assert_eq!(resolved.train.device, dayrun::config::DeviceChoice::Cpu);
    assert_eq!(resolved.train.memory, None);
}

/// Weighed and held-out data through a whole run, and evaluated again from what it leaves.
#[test]
fn a_run_holds_rows_out_and_finds_them_again() {
    let dir = project();
    let train = "data.train=[{ path = \"rows.jsonl\", weight = 2.0 }]";
    let sets = [train, "data.eval=[]", "data.eval_share=0.25", "train.max_steps=1"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let output = run(dir.path(), &[&["train", "run.toml", "--out", "held"][..], &sets].concat());
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let (before, _) = text.split_once(" rows held out for the evaluation").expect(&text);
    let count = before.rsplit(' ').next().unwrap();
    assert!((1..24).contains(&count.parse::<usize>().unwrap()), "{text}");
    let resolved = std::fs::read_to_string(dir.path().join("held/run.toml")).unwrap();
    assert!(
        resolved.contains("eval_share = 0.25") && resolved.contains("weight = 2.0"),
        "{resolved}"
    );
    let output = run(dir.path(), &["eval", "--run", "held", "--no-exact-match"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with(&format!("held out: {count} rows, perplexity ")));
}

#[test]
fn init_writes_a_file_that_is_valid_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["init", "new.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let path = dir.path().join("new.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, stdout(&run(dir.path(), &["init"])));
    dayrun::config::load(&path, &[]).expect("valid");
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(refusal(dir.path(), &["init", "new.toml"]).0, 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_whole_run_and_what_it_leaves() {
    let dir = project();
    let dir = dir.path();
    let output = run(dir, &["train", "run.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let hint = "hint: this base has 0.00 billion parameters; model.quantization = \"none\" trains";
    assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    let out = dir.join("runs/run");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 5);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], i as u64 + 1);
        for key in ["loss", "lr", "grad_norm", "tokens", "loss_tokens", "seconds"] {
            assert!(line[key].as_f64().expect(key) > 0.0, "{key} in {line}");
        }
        assert!(line["loss_tokens"].as_u64() < line["tokens"].as_u64());
    }
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    for key in [
        "tokens_per_second",
        "seconds",
        "final_loss",
        "trainable_parameters",
        "perplexity_before",
        "perplexity_after",
    ] {
        assert!(summary[key].as_f64().expect(key) > 0.0, "{key} in {summary}");
    }
    for key in ["exact_match_before", "exact_match_after"] {
        assert!(summary[key].as_f64().is_some(), "{key} in {summary}");
    }
    assert!(summary["device"].as_str().expect("device").starts_with("cpu ("));
    assert!(summary["perplexity_after"].as_f64() < summary["perplexity_before"].as_f64());
    assert!(std::fs::read_to_string(out.join("loss.svg")).unwrap().contains("<svg"));
    let log = std::fs::read_to_string(out.join("dayrun.log")).unwrap();
    assert!(log.contains("changes no logit") && log.contains("adapter saved"), "{log}");
    // The resolved run file is the run again, defaults and command line filled in.
    let (resolved, _) = dayrun::config::load(&out.join("run.toml"), &[]).expect("valid");
    assert_eq!(resolved.lora.r, 4);
    assert_eq!(std::fs::read_to_string(out.join("run.toml")).unwrap(), resolved.resolved());
    // The same again: the same bits.
    let again = run(dir, &["train", "runs/run/run.toml", "--out", "again"]);
    assert!(again.status.success(), "{}", stderr(&again));
    let tensors = "adapter/adapter_model.safetensors";
    let bytes = std::fs::read(out.join(tensors)).unwrap();
    assert!(bytes == std::fs::read(dir.join("again").join(tensors)).unwrap());
    // Nothing is overwritten.
    assert_eq!(refusal(dir, &["train", "run.toml"]).0, 1);

    // Evaluation alone gives the run's own figures, and the rows.
    let eval = run(dir, &["eval", "--run", "runs/run", "--rows", "rows-out.jsonl"]);
    assert!(eval.status.success(), "{}", stderr(&eval));
    let perplexity = summary["perplexity_after"].as_f64().unwrap();
    assert!(stdout(&eval).contains(&format!("perplexity {perplexity:.4}")), "{}", stdout(&eval));
    let rows = std::fs::read_to_string(dir.join("rows-out.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 5);
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(row["loss"].as_f64().unwrap() > 0.0 && row["loss_tokens"].as_u64().unwrap() > 0);
        assert!(row["answer"].is_string() && row["line"].is_u64() && row["file"].is_string());
    }

    let (code, text) = refusal(dir, &["eval", "--run", "runs/run", "--rows", "rows-out.jsonl"]);
    assert!(code == 1 && text.contains("not overwritten"), "{text}");
    assert_eq!(std::fs::read_to_string(dir.join("rows-out.jsonl")).unwrap(), rows);

    // Generation: the same seed gives the same answer, prompt from an argument or a pipe.
    let args = ["generate", "--run", "runs/run", "--raw", "--temperature", "0.8", "--seed", "3"];
    let with = |extra: &[&str]| {
        let args: Vec<&str> = args.iter().chain(extra).copied().collect();
        let output = run(dir, &args);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(
        with(&["--max-new-tokens", "6", "2 and 2"]),
        with(&["--max-new-tokens", "6", "2 and 2"])
    );

    // The run's rows were plain texts, and so is its prompt, unless a chat is asked for.
    let answer = |extra: &[&str]| {
        let args = ["generate", "--run", "runs/run", "--max-new-tokens", "12", "2 and 2 is"];
        let args: Vec<&str> = args.iter().chain(extra).copied().collect();
        let output = run(dir, &args);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(answer(&[]), answer(&["--raw"]));
    assert_ne!(answer(&[]), answer(&["--chat"]));

    // Going on from the adapter.
    let on = ["train", "run.toml", "--out", "on", "--set", "lora.init_adapter=runs/run/adapter"];
    let output = run(dir, &on);
    assert!(output.status.success(), "{}", stderr(&output));
    let on = std::fs::read_to_string(dir.join("on/summary.json")).unwrap();
    let on: Value = serde_json::from_str(&on).unwrap();
    let before = on["perplexity_before"].as_f64().unwrap();
    assert!(before.to_bits() == perplexity.to_bits(), "{before} is not {perplexity}");
}

#[test]
fn a_run_on_a_base_that_is_not_quantised() {
    let dir = project();
    let dir = dir.path();
    let output =
        run(dir, &["train", "run.toml", "--set", "model.quantization=none", "--out", "plain"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("hint: "), "{}", stderr(&output));
    let readme = std::fs::read_to_string(dir.join("plain/adapter/README.md")).unwrap();
    assert!(readme.contains("| held in training as | bf16, not quantised |"), "{readme}");
    // The run directory says how its base is held, and what is made from it holds it so.
    let summary = std::fs::read_to_string(dir.join("plain/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let perplexity = summary["perplexity_after"].as_f64().unwrap();
    let says = |args: &[&str]| {
        let output = run(dir, args);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let wanted = format!("perplexity {perplexity:.4}");
    assert!(says(&["eval", "--run", "plain"]).contains(&wanted), "{wanted}");
    assert!(!says(&["eval", "--run", "plain", "--quantization", "nf4"]).contains(&wanted));
    says(&["generate", "--run", "plain", "--max-new-tokens", "4", "2 and 2 is"]);
    let tiny = tiny();
    let bench = ["bench", "train", "--model", tiny.to_str().unwrap(), "--quantization", "none"];
    let bench = says(&[&bench[..], &["--seq", "32", "--steps", "1", "--warmup", "0"]].concat());
    assert!(bench.contains("the base's linears in bf16, not quantised"), "{bench}");
    // A base that is in 4 bits already is none.
    let bnb = root().join("tests/golden/tiny/bnb");
    let bnb = format!("model.path={bnb:?}");
    let args = ["train", "run.toml", "--set", "model.quantization=none", "--set", &bnb];
    let (code, text) = refusal(dir, &[&args[..], &["--out", "other"]].concat());
    assert!(code == 1 && text.contains("quantised already"), "{text}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_adapter() {
    let dir = project();
    let dir = dir.path();
    let mut child = dayrun(dir)
        .args(["train", "run.toml", "--set", "train.max_steps=100000", "-vv"])
        .args(["--set", "eval.before=false", "--set", "train.save_every=0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let step = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("step "));
    assert!(step.is_some(), "the training began");
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().expect("kill");
    assert!(killed.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(130), "{rest:?}");
    let out = dir.join("runs/run");
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["interrupted"], true);
    let model = dayrun::config::load(&out.join("run.toml"), &[]).expect("valid").0.model.path;
    assert_eq!(model, tiny());
    assert!(out.join("adapter/adapter_model.safetensors").exists());
}

/// The adapter of `out` is whole, and the summary names the update and the error.
fn check_halted(out: &Path, text: &str) {
    let summary = std::fs::read_to_string(out.join("summary.json")).expect("summed up");
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let steps = summary["steps"].as_u64().unwrap();
    assert!(steps >= 1 && summary["error"].is_string(), "{summary}");
    assert!(text.contains(&format!("the adapter of step {steps} is in ")), "{text}");
    // The run has read it back before it said so.
    assert!(out.join("adapter/adapter_model.safetensors").exists());
}

#[test]
fn a_run_that_diverges_keeps_what_was_trained() {
    let dir = project();
    let dir = dir.path();
    let sets = ["--set", "train.learning_rate=1e30", "--set", "train.save_every=0"];
    let sets = [&["train", "run.toml", "--set", "eval.before=false"][..], &sets].concat();
    let (code, text) = refusal(dir, &sets);
    assert_eq!(code, 1, "{text}");
    check_halted(&dir.join("runs/run"), &text);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_is_noticed_before_the_first_update() {
    let dir = project();
    let dir = dir.path();
    // Fills the quantisation cache, which a full disk would not hold either.
    let first = run(dir, &["train", "run.toml", "--out", "first", "--set", "train.max_steps=1"]);
    assert!(first.status.success(), "{}", stderr(&first));
    let binary = env!("CARGO_BIN_EXE_dayrun");
    // Writes beyond 4 KiB fail with an error, as those to a full disk do.
    let script = format!("trap '' XFSZ; ulimit -f 8; exec '{binary}' train run.toml");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .env("DAYRUN_CACHE", dir.join("cache"))
        .output()
        .expect("sh starts");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("saving the adapter") && text.contains("no adapter saved"), "{text}");
    let out = dir.join("runs/run");
    assert!(!out.join("adapter").exists(), "an empty directory misleads");
    assert_eq!(std::fs::read_to_string(out.join("metrics.jsonl")).unwrap(), "");
}

/// [`run`] on the first processor that this process may use, where the system has the tool for it.
fn on_one_processor(dir: &Path, args: &[&str]) -> Option<Output> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let first = allowed.trim().split([',', '-']).next()?;
    let mut command = Command::new("taskset");
    command.args(["-c", first, env!("CARGO_BIN_EXE_dayrun")]).args(args);
    command.current_dir(dir).env("DAYRUN_CACHE", dir.join("cache")).output().ok()
}

#[test]
fn a_benchmark_says_how_fast_and_where_the_time_goes() {
    let dir = project();
    std::fs::write(dir.path().join("lengths.txt"), "12\n30\n\n7\n25\n").unwrap();
    let model = tiny().display().to_string();
    let bench = ["bench", "train", "--model", &model, "--device", "cpu", "--warmup", "1"];
    let with = |more: &[&str]| {
        let output = run(dir.path(), &[&bench[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let text = with(&["--batch", "2", "--seq", "16", "--steps", "3", "--json"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {text}"));
    assert_eq!(number("tokens_per_step"), 32.0);
    assert_eq!(line["step_seconds"].as_array().unwrap().len(), 3);
    let steps = line["step_seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap());
    let mut steps: Vec<f64> = steps.collect();
    let mean = steps.iter().sum::<f64>() / 3.0;
    steps.sort_by(f64::total_cmp);
    let equal = |what: &str, got: f64, want: f64, roundings: usize| {
        assert_close(what, &[got], &[want], Tol::new(DType::F64).rounds(roundings));
    };
    // Two numbers are read; one division there, one product here.
    equal("tokens of the median", number("tok_s") * steps[1], 32.0, 2 * READ_JSON + 2);
    let work = number("tok_s") * number("flops_per_token") / 1e9;
    // Four numbers are read; three operations there, three here.
    let reached = number("peak_fraction") * number("peak_gflop_s");
    equal("share of the peak", reached, work, 4 * READ_JSON + 6);
    assert!(number("rss_gb") > 0.0 && number("peak_gflop_s") > 0.1);
    let ops = line["seconds_per_op"].as_object().unwrap();
    for op in ["linear", "attention backward", "head and loss", "outside ops"] {
        assert!(ops[op].as_f64().unwrap() > 0.0, "{op}: {text}");
    }
    let sum: f64 = ops.values().map(|s| s.as_f64().unwrap()).sum();
    // Of both sides all numbers are read; the mean is three operations there and here, and each op is
    // taken off there and added here.
    equal("ops make up the step", sum, mean, 2 * (READ_JSON + 3 + ops.len()));

    // 30 + 12 and 25 + 7 tokens: no micro-batch of more than 42, and all of them are real.
    let ragged = ["--lengths", "lengths.txt", "--micro-batch-tokens", "42", "--steps", "2"];
    // `--threads auto` counts what an affinity mask leaves.
    let text = match on_one_processor(dir.path(), &[&bench[..], &ragged].concat()) {
        Some(output) => {
            assert!(stdout(&output).contains(", 1 threads,"), "{}", stderr(&output));
            stdout(&output)
        }
        None => with(&ragged),
    };
    assert!(text.contains("37 tokens in"), "{text}");
    assert!(text.contains("% of the peak of") && text.contains("attention backward"), "{text}");
}

#[test]
fn a_benchmark_of_generation_has_both_rates() {
    let dir = project();
    let model = tiny().display().to_string();
    let bench = ["bench", "generate", "--model", &model, "--device", "cpu", "--rounds", "2"];
    // More prompt tokens than one run reads: the first rows are ahead when the last one begins.
    let shape = ["--rows", "40", "--prompt", "30", "--new", "3"];
    let output = run(dir.path(), &[&bench[..], &shape, &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["prefill_tok_s", "decode_tok_s", "rss_gb"] {
        assert!(line[key].as_f64().unwrap_or_else(|| panic!("{key}: {text}")) > 0.0, "{text}");
    }
    assert_eq!((&line["rows"], &line["prompt"]), (&40.into(), &30.into()));
    assert_eq!(line["new"], 3);
    for phase in ["prefill", "decode"] {
        let ops = line["seconds_per_op"][phase].as_object().unwrap();
        assert!(ops.contains_key("linear") && ops.contains_key("outside ops"), "{text}");
    }
    // By default prompt and answer are longer than this model takes.
    let output = run(dir.path(), &[&bench[..], &["--prompt", "20", "--new", "4"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("prefill") && text.contains("attention (cached)"), "{text}");
    let (code, text) = refusal(dir.path(), &[&bench[..], &["--prompt", "1000000"]].concat());
    assert!(code == 1 && text.contains("the model takes"), "{code}: {text}");
}
