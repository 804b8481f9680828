//! `cargo xtask`: what a developer of this repository runs.

fn main() {
    println!("cargo xtask: nothing yet");
}
