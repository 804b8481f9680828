//! The NF4 cache: the same bits cold and warm, and a damaged file built again.

use std::fs;
use std::path::{Path, PathBuf};

use dayrun::model::weights::Weights;
use dayrun::model::{LoadOptions, load};
use dayrun::progress::quiet;
use safetensors::Dtype;
use tempfile::{TempDir, tempdir};

use super::writer::{ODD, TINY, Tiny, stored, write_hub};
use super::{assert_same, load_plain};

fn hub(tiny: &Tiny) -> TempDir {
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &tiny.config(), &stored(Dtype::BF16, &tiny.tensors()));
    dir
}

fn load_with(source: &Path, cache: &Path) -> Weights {
    load(source, &LoadOptions { cache_dir: Some(cache.into()), ..LoadOptions::default() }, &quiet)
        .expect("loads")
}

/// The files in a cache directory, temporary ones too.
fn files(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(cache).expect("lists").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn cold_warm_and_uncached_give_the_same_bits() {
    for tiny in [TINY, ODD] {
        let (source, cache) = (hub(&tiny), tempdir().expect("a directory"));
        let cache = cache.path().join("not").join("there").join("yet");
        let plain = load_plain(source.path()).expect("loads");
        let cold = load_with(source.path(), &cache);
        assert_eq!(files(&cache).len(), 1);
        let written = fs::metadata(&files(&cache)[0]).and_then(|m| m.modified()).expect("a time");
        let warm = load_with(source.path(), &cache);
        let kept = fs::metadata(&files(&cache)[0]).and_then(|m| m.modified()).expect("a time");
        assert_eq!(written, kept, "a warm start writes nothing");
        assert_same(&plain, &cold);
        assert_same(&plain, &warm);
        assert_eq!(plain.identity(), warm.identity());
    }
}

#[test]
fn a_damaged_file_is_built_again() {
    let (source, cache) = (hub(&TINY), tempdir().expect("a directory"));
    // Not the cached model, which maps the file that is damaged below.
    let plain = load_plain(source.path()).expect("loads");
    load_with(source.path(), cache.path());
    let file = files(cache.path()).remove(0);
    let whole = fs::read(&file).expect("reads");
    let mut damages = vec![Vec::new(), whole[..whole.len() - 1].to_vec(), whole[..100].to_vec()];
    for at in [0, 8, 15, 16, 60, 90, 128, 5000, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        damages.push(flipped);
    }
    damages.push([&whole[..], &[0; 64]].concat());
    for (i, damaged) in damages.iter().enumerate() {
        fs::write(&file, damaged).expect("writes");
        assert_same(&plain, &load_with(source.path(), cache.path()));
        assert!(fs::read(&file).expect("reads") == whole, "damage {i} was not repaired");
    }
    assert_eq!(files(cache.path()), [file], "no temporary file is left");
}

#[test]
fn another_content_is_another_file() {
    let (source, cache) = (hub(&TINY), tempdir().expect("a directory"));
    let first = load_with(source.path(), cache.path());
    let mut tensors = TINY.tensors();
    tensors[3].values[5] += 1.0;
    write_hub(source.path(), &TINY.config(), &stored(Dtype::BF16, &tensors));
    let second = load_with(source.path(), cache.path());
    assert_same(&second, &load_plain(source.path()).expect("loads"));
    assert_ne!(first.identity(), second.identity());
    let mut config = TINY.config();
    config["rope_theta"] = 5e5.into();
    write_hub(source.path(), &config, &stored(Dtype::BF16, &tensors));
    assert_eq!(load_with(source.path(), cache.path()).config.rope_theta, 5e5);
    assert_eq!(files(cache.path()).len(), 3);
}

#[test]
fn the_identity_names_source_and_content() {
    let source = hub(&TINY);
    let name = source.path().file_name().and_then(|n| n.to_str()).expect("a name");
    let weights = load_plain(source.path()).expect("loads");
    let identity = weights.identity();
    let digest = identity
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix(" (sha256-tree "))
        .and_then(|rest| rest.strip_suffix(")"));
    assert!(digest.is_some_and(|d| d.len() == 16), "{identity}");
    assert_eq!(identity, load_plain(&source.path().join(".")).expect("loads").identity());
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let (source, dir) = (hub(&TINY), tempdir().expect("a directory"));
    let file = dir.path().join("file");
    fs::write(&file, "in the way").expect("writes");
    let weights = load_with(source.path(), &file);
    assert_same(&weights, &load_plain(source.path()).expect("loads"));
}

#[test]
fn threads_do_not_change_a_bit() {
    let source = hub(&ODD);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let cache = tempdir().expect("a directory");
        pool.install(|| load_with(source.path(), cache.path()));
        fs::read(&files(cache.path())[0]).expect("reads")
    };
    let one = run(1);
    assert!(one == run(2) && one == run(4));
}
