//! A repository as the Hub serves it: small files by itself, large ones by redirects to a storage on
//! another address.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayrun::model::source::{Address, Hub, HubError};
use dayrun::progress::quiet;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::server::{Reply, Request, Server, Then};

pub const REPO: &str = "org/tiny";
pub const FIRST: &str = "1111111111111111111111111111111111111111";
pub const SECOND: &str = "2222222222222222222222222222222222222222";

/// Files by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What the servers say; tests change it while they run.
#[derive(Clone)]
pub struct State {
    pub commit: &'static str,
    pub files: Files,
    /// Answers to the next requests, in their order, in place of the true ones: the Hub's, the storage's.
    pub hub: Vec<Reply>,
    pub storage: Vec<Reply>,
    /// What becomes of the storage's next bodies.
    pub then: Vec<Then>,
    /// The storage gives the whole file, whatever range is asked for.
    pub no_ranges: bool,
}

pub struct Repository {
    pub hub: Server,
    pub storage: Server,
    pub state: Arc<Mutex<State>>,
    pub home: tempfile::TempDir,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The files of a directory.
pub fn files_in(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    entries.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// The tiny model of the golden files, beside what a repository has that nobody needs.
pub fn tiny() -> Files {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny/hub");
    let mut files = files_in(&dir);
    for unneeded in
        ["pytorch_model.bin", "original/consolidated.00.pth", "README.md", ".gitattributes"]
    {
        files.insert(unneeded.into(), b"not needed".to_vec());
    }
    files
}

impl Repository {
    pub fn new(files: Files) -> Self {
        let state = State {
            commit: FIRST,
            files,
            hub: vec![],
            storage: vec![],
            then: vec![],
            no_ranges: false,
        };
        let state = Arc::new(Mutex::new(state));
        let of_storage = state.clone();
        let storage =
            Server::start(move |request| storage(&mut of_storage.lock().unwrap(), request));
        let (of_hub, address) = (state.clone(), storage.address.clone());
        let hub = Server::start(move |request| hub(&mut of_hub.lock().unwrap(), &address, request));
        Self { hub, storage, state, home: tempfile::tempdir().unwrap() }
    }

    pub fn tiny() -> Self {
        Self::new(tiny())
    }

    /// A client with little patience.
    pub fn client(&self) -> Hub {
        Hub {
            cache: Some(self.home.path().join("hub")),
            endpoint: self.hub.address.clone(),
            token: Some("secret".into()),
            offline: false,
            stall: Duration::from_millis(400),
            tries: 3,
            pause: Duration::from_millis(10),
        }
    }

    pub fn fetch(&self) -> Result<std::path::PathBuf, HubError> {
        self.client().fetch(&address(""), &quiet)
    }

    pub fn edit(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.state.lock().unwrap());
    }

    /// The files in the cache's folder of bytes.
    pub fn blobs(&self) -> Vec<String> {
        let blobs = self.home.path().join("hub/models--org--tiny/blobs");
        let Ok(entries) = fs::read_dir(blobs) else { return vec![] };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
        names.sort();
        names
    }
}

/// `hf://org/tiny` and what follows.
pub fn address(rest: &str) -> Address {
    Address::parse(&format!("hf://{REPO}{rest}")).unwrap()
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|end| name.ends_with(end))
}

fn hub(state: &mut State, storage: &str, request: &Request) -> Reply {
    if !state.hub.is_empty() {
        return state.hub.remove(0);
    }
    let commit = state.commit;
    let api = format!("/api/models/{REPO}/revision/");
    if let Some(revision) = request.path.strip_prefix(&api) {
        if !["main", commit].contains(&revision) {
            return Reply::new(404, "{\"error\": \"no\"}").with("X-Error-Code", "RevisionNotFound");
        }
        let siblings: Vec<_> =
            state.files.keys().map(|name| json!({ "rfilename": name })).collect();
        let about = json!({ "id": REPO, "sha": commit, "siblings": siblings });
        return Reply::new(200, about.to_string());
    }
    let prefix = format!("/{REPO}/resolve/{commit}/");
    let Some(name) = request.path.strip_prefix(&prefix) else {
        return Reply::new(401, "{\"error\": \"Repository not found\"}")
            .with("X-Error-Code", "RepoNotFound");
    };
    let Some(bytes) = state.files.get(name) else {
        return Reply::new(404, "Entry not found").with("X-Error-Code", "EntryNotFound");
    };
    let sha = sha256(bytes);
    if is_large(name) {
        return Reply::new(302, "Found")
            .with("X-Linked-Etag", format!("\"{sha}\""))
            .with("X-Linked-Size", bytes.len().to_string())
            .with("Location", format!("{storage}/bytes/{name}?signature=x"));
    }
    // As git names it: not the hash of the bytes alone.
    Reply::new(200, bytes.clone()).with("ETag", format!("W/\"{}\"", &sha[..40]))
}

fn storage(state: &mut State, request: &Request) -> Reply {
    if !state.storage.is_empty() {
        return state.storage.remove(0);
    }
    let name = request.path.strip_prefix("/bytes/").and_then(|rest| rest.split('?').next());
    let Some(bytes) = name.and_then(|name| state.files.get(name)) else {
        return Reply::new(404, "");
    };
    let mut reply = match request.start().filter(|_| !state.no_ranges) {
        None => Reply::new(200, bytes.clone()),
        Some(start) => Reply::new(206, &bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
    };
    // Not what the Hub says: the storage's own.
    reply = reply.with("ETag", "\"other\"");
    if !state.then.is_empty() {
        reply.then = state.then.remove(0);
    }
    reply
}
