//! Models from the Hub: what is fetched, what is not, what the cache holds.

use std::path::Path;
use std::sync::Mutex;

use dayrun::model::source::HubError;
use dayrun::model::{LoadOptions, load};
use dayrun::progress::{Progress, quiet};

use super::repository::{FIRST, Files, REPO, Repository, SECOND, address, sha256, tiny};

const WEIGHTS: &str = "model.safetensors";

/// The files of a request list that were asked for by GET.
fn got(server: &super::server::Server) -> Vec<String> {
    let name = |path: &str| path.rsplit('/').next().unwrap().split('?').next().unwrap().to_string();
    let requests = server.take().into_iter().filter(|request| request.method == "GET");
    requests.map(|request| name(&request.path)).collect()
}

#[test]
fn what_is_needed_is_fetched_and_nothing_else() {
    let repository = Repository::tiny();
    let seen = Mutex::new(Vec::new());
    let report = |progress: Progress| seen.lock().unwrap().push(progress);
    let path = repository.client().fetch(&address(""), &report).unwrap();
    assert_eq!(path, repository.home.path().join("hub/models--org--tiny/snapshots").join(FIRST));
    let files = tiny();
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        assert!(std::fs::read(path.join(name)).unwrap() == files[name], "{name}");
    }
    let asked = got(&repository.hub);
    for unneeded in ["pytorch_model.bin", "consolidated.00.pth", "README.md", ".gitattributes"] {
        assert!(!path.join(unneeded).exists());
        assert!(!asked.iter().any(|name| name == unneeded), "{asked:?}");
    }
    assert_eq!(got(&repository.storage), [WEIGHTS]);
    // The bytes lie under their hash, the branch has its reference: other programs find them.
    assert!(repository.blobs().contains(&sha256(&files[WEIGHTS])));
    let reference = repository.home.path().join("hub/models--org--tiny/refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), FIRST);
    let size = files[WEIGHTS].len() as u64;
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!(
        last,
        Progress { stage: "fetching the model", done: size, total: size, unit: "bytes" }
    );
}

/// What is trained on says where it is from.
#[test]
fn a_fetched_model_is_the_model() {
    let repository = Repository::tiny();
    let path = repository.fetch().unwrap();
    let fetched = load(&path, &LoadOptions::default(), &quiet).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny/hub");
    let local = load(&golden, &LoadOptions::default(), &quiet).unwrap();
    let digest = local.identity().strip_prefix("hub ").unwrap();
    assert_eq!(fetched.identity(), format!("{REPO}@1111111 {digest}"));
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let repository = Repository::tiny();
    repository.fetch().unwrap();
    let (hub, storage) = (repository.hub.take(), repository.storage.take());
    assert!(!hub.is_empty() && !storage.is_empty());
    for request in hub {
        assert_eq!(request.header("authorization"), Some("Bearer secret"), "{request:?}");
    }
    for request in storage {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
}

#[test]
fn without_a_token_none_is_sent() {
    let repository = Repository::tiny();
    let hub = dayrun::model::source::Hub { token: None, ..repository.client() };
    hub.fetch(&address(""), &quiet).unwrap();
    assert!(repository.hub.take().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn the_second_time_only_the_commit_is_asked_for() {
    let repository = Repository::tiny();
    let path = repository.fetch().unwrap();
    repository.hub.take();
    repository.storage.take();
    assert_eq!(repository.fetch().unwrap(), path);
    let asked = repository.hub.take();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path, format!("/api/models/{REPO}/revision/main"));
    assert!(repository.storage.take().is_empty());
    // A commit does not move: nothing is asked at all.
    let of_commit = repository.client().fetch(&address(&format!("@{FIRST}")), &quiet).unwrap();
    assert_eq!(of_commit, path);
    assert!(repository.hub.take().is_empty());
}

/// A file that a new commit has not changed has the same ETag and is there already.
#[test]
fn a_new_commit_brings_what_has_changed() {
    let repository = Repository::tiny();
    let first = repository.fetch().unwrap();
    repository.hub.take();
    repository.storage.take();
    repository.edit(|state| {
        state.commit = SECOND;
        state.files.get_mut("tokenizer_config.json").unwrap().push(b'\n');
    });
    let second = repository.fetch().unwrap();
    assert_ne!(first, second);
    let asked = got(&repository.hub);
    assert_eq!(asked, ["main", "tokenizer_config.json"]);
    assert!(repository.storage.take().is_empty());
    let bytes = |path: &Path, name: &str| std::fs::read(path.join(name)).unwrap();
    assert!(bytes(&first, WEIGHTS) == bytes(&second, WEIGHTS));
    assert!(bytes(&first, "tokenizer_config.json") != bytes(&second, "tokenizer_config.json"));
    // The first commit is still there under its own name.
    assert_eq!(repository.client().fetch(&address(&format!("@{FIRST}")), &quiet).unwrap(), first);
}

#[test]
fn the_shards_of_the_index_are_fetched() {
    let mut files = tiny();
    let weights = files.remove(WEIGHTS).unwrap();
    let index = serde_json::json!({ "weight_map": { "a": "b.safetensors", "c": "a.safetensors" } });
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    files.insert("a.safetensors".into(), weights.clone());
    files.insert("b.safetensors".into(), weights[1..].to_vec());
    files.insert("other.safetensors".into(), b"of another index".to_vec());
    let repository = Repository::new(files);
    let path = repository.fetch().unwrap();
    assert_eq!(got(&repository.storage), ["a.safetensors", "b.safetensors"]);
    assert!(std::fs::read(path.join("b.safetensors")).unwrap() == weights[1..]);
}

#[test]
fn one_gguf_file_can_be_named() {
    let mut files = tiny();
    files.insert("tiny-Q8_0.gguf".into(), b"GGUF...".to_vec());
    files.insert("tiny-Q4_0.gguf".into(), b"GGUF".to_vec());
    let repository = Repository::new(files);
    let path = repository.client().fetch(&address("/tiny-Q8_0.gguf"), &quiet).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"GGUF...");
    assert_eq!(got(&repository.storage), ["tiny-Q8_0.gguf"]);
    let error = repository.client().fetch(&address("/other.gguf"), &quiet).unwrap_err();
    assert_eq!(error.to_string(), "org/tiny has no file `other.gguf`");
}

#[test]
fn two_at_once_fetch_it_once() {
    let repository = Repository::tiny();
    let both: Vec<_> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| repository.fetch()));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(both[0].as_ref().unwrap(), both[1].as_ref().unwrap());
    assert_eq!(got(&repository.storage), [WEIGHTS]);
}

#[test]
fn offline_the_cache_has_to_do() {
    let repository = Repository::tiny();
    let offline = dayrun::model::source::Hub { offline: true, ..repository.client() };
    let error = offline.fetch(&address(""), &quiet).unwrap_err();
    assert!(error.to_string().ends_with("no commit of `main`"), "{error}");
    assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE is set"));
    let path = repository.fetch().unwrap();
    repository.hub.take();
    for address in [address(""), address(&format!("@{FIRST}"))] {
        assert_eq!(offline.fetch(&address, &quiet).unwrap(), path);
    }
    std::fs::remove_file(path.join(WEIGHTS)).unwrap();
    let error = offline.fetch(&address(""), &quiet).unwrap_err();
    assert!(error.to_string().contains(&format!("no {WEIGHTS}")), "{error}");
    assert!(matches!(error, HubError::NotCached { .. }));
    assert!(repository.hub.take().is_empty());
}

#[test]
fn what_cannot_be_trained_on_is_refused_before_it_is_fetched() {
    let with = |edit: &dyn Fn(&mut Files)| {
        let mut files = tiny();
        edit(&mut files);
        let repository = Repository::new(files);
        let error = repository.fetch().unwrap_err();
        assert!(repository.storage.take().is_empty());
        (error.to_string(), error.hint().unwrap_or_default())
    };
    let (said, _) = with(&|files| {
        let config = br#"{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}"#;
        files.insert("config.json".into(), config.to_vec());
    });
    assert!(said.contains("config.json") && said.contains("mamba"), "{said}");
    let (said, _) = with(&|files| drop(files.remove(WEIGHTS)));
    assert!(said.contains("no model in safetensors: only PyTorch's pickled weights"), "{said}");
    let (said, hint) = with(&|files| {
        files.remove(WEIGHTS);
        files.insert("a.gguf".into(), vec![]);
    });
    assert!(
        said.contains("1 GGUF files") && hint.contains("hf://org/tiny/a.gguf"),
        "{said} {hint}"
    );
    let (said, _) = with(&|files| {
        files.retain(|name, _| name == "README.md");
        files.insert("adapter_config.json".into(), vec![]);
        files.insert("adapter_model.safetensors".into(), vec![]);
    });
    assert!(said.contains("it is an adapter"), "{said}");
    let (said, _) = with(&|files| drop(files.remove("tokenizer.json")));
    assert_eq!(said, "org/tiny has no file `tokenizer.json`");
}
