//! `hf://` in a run file and on the command line, in Hugging Face's environment variables.

use std::path::Path;
use std::process::{Command, Output};

use super::repository::{REPO, Repository};
use super::server::{Reply, Then};

/// The binary with the test's Hub and home.
fn dayrun(repository: &Repository, args: &[&str], vars: &[(&str, &str)]) -> Output {
    let home = repository.home.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayrun"));
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
        .args(args)
        .current_dir(home)
        .env("DAYRUN_CACHE", home.join("cache"))
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", &repository.hub.address)
        .envs(vars.iter().copied());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_model_on_the_hub_is_trained_on() {
    let repository = Repository::tiny();
    let home = repository.home.path();
    write(&home.join("token"), "from the file\n");
    let rows: String = (0..8)
        .map(|i| format!("{{\"prompt\": \"{i} and {i} is\", \"completion\": \" {}\"}}\n", 2 * i))
        .collect();
    write(&home.join("rows.jsonl"), &rows);
    let run = format!(
        "[model]\npath = \"hf://{REPO}\"\n[data]\ntrain = \"rows.jsonl\"\nmax_length = 64\n\
         [train]\nmicro_batch_tokens = 64\nmax_steps = 2\n"
    );
    let of_hub = run.replace("rows.jsonl", "hf://datasets/org/rows");
    write(&home.join("dataset.toml"), &of_hub);
    let text = said(&dayrun(&repository, &["train", "dataset.toml"], &[]));
    assert!(text.contains("hf://datasets/org/rows is a dataset on the Hub"), "{text}");
    assert!(repository.hub.take().is_empty());
    write(&home.join("run.toml"), &run);
    let output = dayrun(&repository, &["train", "run.toml"], &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("fetching the model"), "{}", said(&output));
    let asked = repository.hub.take();
    let token = Some("Bearer from the file");
    assert!(asked.iter().all(|request| request.header("authorization") == token));
    // Others find the adapter's base under its name on the Hub.
    let config = std::fs::read(home.join("runs/run/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], REPO);
    let readme = std::fs::read_to_string(home.join("runs/run/adapter/README.md")).unwrap();
    assert!(readme.contains("org/tiny@1111111 (sha256-tree "), "{readme}");
    // The run names its model; without a connection the cache has it.
    let args = ["generate", "--run", "runs/run", "--max-new-tokens", "2", "1 and 1 is"];
    let output = dayrun(&repository, &args, &[("HF_HUB_OFFLINE", "1")]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(repository.hub.take().is_empty());
}

#[test]
fn refusals_have_their_advice() {
    let repository = Repository::tiny();
    let generate = |model: &str, vars: &[(&str, &str)]| {
        let output = dayrun(&repository, &["generate", "--model", model, "hello"], vars);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    let text = generate("hf://datasets/org/rows", &[]);
    assert!(text.contains("error: `hf://datasets/org/rows` is a dataset, not a model"), "{text}");
    let gated = Reply::new(401, "{\"error\": \"restricted\"}").with("X-Error-Code", "GatedRepo");
    repository.edit(|state| state.hub = vec![gated]);
    let text = generate("hf://org/tiny", &[]);
    assert!(text.contains("error: the Hub refuses org/tiny (401: restricted)"), "{text}");
    assert!(text.contains("hint: ") && text.contains("set HF_TOKEN"), "{text}");
    let text = generate("hf://org/tiny", &[("HF_HUB_OFFLINE", "1")]);
    assert!(text.contains("hf://org/tiny is not in the cache"), "{text}");
    repository.edit(|state| {
        state.hub = vec![Reply { then: Then::Silence, ..Reply::default() }; 9];
    });
    let text = generate("hf://org/tiny", &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
    assert!(text.contains("no progress for 1 s"), "{text}");
}
