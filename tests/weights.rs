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
    let start = Instant::now();
    let weights = load(Path::new(&path), &LoadOptions::default(), &quiet).expect("loads");
    println!("{}: {:?}, {:?}", weights.identity(), weights.config, start.elapsed());
    let q = weights.layers[0].linears[0].to_f32();
    println!("{:?}", &q[..8]);
}
