//! Loading base models.

use std::path::Path;
use std::time::Instant;

use dayrun::model::{LoadOptions, load};
use dayrun::progress::quiet;

/// Not part of the suite: `DAYRUN_MODEL=PATH cargo test --test weights -- --ignored`.
#[test]
#[ignore = "needs a model"]
fn time_a_load() {
    let path = std::env::var("DAYRUN_MODEL").expect("DAYRUN_MODEL");
    let cache = tempfile::tempdir().expect("a directory");
    let options = LoadOptions { cache_dir: Some(cache.path().into()) };
    for (name, options) in [
        ("no cache", LoadOptions::default()),
        ("cold", options.clone()),
        ("warm", options.clone()),
        ("warm", options),
    ] {
        let start = Instant::now();
        let weights = load(Path::new(&path), &options, &quiet).expect("loads");
        println!("{name}: {:?} {}", start.elapsed(), weights.identity());
    }
}
