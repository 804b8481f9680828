//! Fuzz tests: everything that is read from outside, given seeded inputs that are almost right.
//!
//! An input is made from its number alone. `DAYRUN_FUZZ=1000000 cargo test --test fuzz` gives every target
//! so many; `DAYRUN_FUZZ_FROM=N DAYRUN_FUZZ=1` repeats the one that a failure has named. Beyond "does not
//! panic", every target holds its reader to this:
//!
//! - what was accepted can be written, and reads again as the same thing;
//! - what lies in a file lies inside of it, and no two tensors share a byte;
//! - a refusal names the file, and the line, key, tensor or byte;
//! - reading never holds more memory than a [`Budget`] in proportion to the input;
//! - inputs of both kinds, accepted and refused, are common: or nothing of the above was tested.

#[path = "../common/alloc.rs"]
mod alloc;
// Not all of tests/common: a GPU is none of this binary's business.
#[allow(dead_code)]
#[path = "../common"]
mod common {
    pub mod inputs;
    pub use inputs::Rng;
}
#[cfg(feature = "gguf")]
mod gguf;
mod json;
mod mutate;
mod peft;
mod records;
mod rows;
mod run_file;
mod safetensors;

use std::time::Instant;

use alloc::{Counting, peak_of};
use common::Rng;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a reader may hold at once: `fixed` bytes, and `per_byte` for each byte of its input.
struct Budget {
    fixed: usize,
    per_byte: usize,
}

impl Budget {
    /// What `read` gives of an input of `len` bytes. Panics if it held more than the budget.
    #[track_caller]
    fn hold<T>(&self, len: usize, read: impl FnOnce() -> T) -> T {
        let (result, peak) = peak_of(read);
        let most = self.fixed + self.per_byte * len;
        assert!(peak <= most, "{len} bytes read with {peak} bytes of memory, more than {most}");
        result
    }
}

/// Names the input that a check panicked on.
struct Naming(&'static str, u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: input {} (DAYRUN_FUZZ_FROM={} DAYRUN_FUZZ=1)", self.0, self.1, self.1);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// Runs `check` on inputs of its own making, `default` of them unless DAYRUN_FUZZ says otherwise. It
/// panics at a fault and says whether its input was accepted.
fn for_each_input(name: &'static str, default: u64, check: impl Fn(&mut Rng) -> bool) {
    let (from, count) = (number("DAYRUN_FUZZ_FROM"), number("DAYRUN_FUZZ").unwrap_or(default));
    let seed = name.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(257) + u64::from(byte));
    let start = Instant::now();
    let mut accepted = 0;
    let first = from.unwrap_or(0);
    for i in first..first + count {
        let naming = Naming(name, i);
        // Seeds side by side would give streams that follow each other.
        let mut rng = Rng::new(Rng::new(seed ^ i).next_u64());
        accepted += u64::from(check(&mut rng));
        drop(naming);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {count} inputs in {seconds:.1} s, {accepted} accepted");
    if from.is_none() {
        let share = accepted as f64 / count.max(1) as f64;
        assert!((0.05..0.95).contains(&share), "{name}: {accepted} of {count} were accepted");
    }
}

/// Panics unless the message on an input of `len` bytes says all of `parts`, and quotes the input at most
/// twice (the command line cuts long lines).
#[track_caller]
fn check_message(message: &str, len: usize, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
    let most = 1000 + 2 * len;
    assert!(message.len() <= most, "{} bytes on an input of {len}: {message:.200}", message.len());
}

/// A directory that no disk is behind, where there is such a place: some file systems wait for the disk
/// whenever a file is written over.
fn in_memory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("a directory")
}
