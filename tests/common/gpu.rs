//! Running a test's body on a GPU: the virtual one, or the machine's own with the feature `gpu-tests`.
//!
//! On the virtual GPU the body runs in a process of its own for each schedule of blocks and warps, and what it
//! puts into its [`Bits`] must come out the same from all of them: results depend on no order. On a real GPU
//! it runs twice. Sizes are random: a few in plain `cargo test`, as many as `DAYRUN_SHAPES` says in a sweep.

use std::fs;
use std::sync::Arc;

use dayrun::device::cuda::{Cuda, CudaError};
use virtual_gpu::Options;

/// Random shapes of each kernel in plain `cargo test`.
const FEW: usize = 6;
/// Shapes of a sweep.
const SHAPES: &str = "DAYRUN_SHAPES";
/// The file that a child writes the digest of its results to.
const DIGEST: &str = "DAYRUN_TEST_DIGEST";

/// A digest (FNV-1a) of everything that a test computed.
pub struct Bits(u64);

impl Bits {
    /// Takes the bits of a result in.
    pub fn add<T: bytemuck::Pod>(&mut self, values: &[T]) {
        for &byte in bytemuck::cast_slice::<T, u8>(values) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// How many random shapes to try.
pub fn shapes() -> usize {
    let Ok(asked) = std::env::var(SHAPES) else { return FEW };
    match asked.parse() {
        Ok(shapes) if shapes >= 2 => shapes,
        _ => panic!("{SHAPES} is `{asked}`, expected an integer from 2"),
    }
}

/// Runs `body` on a GPU under several schedules, and fails unless all give the same bits.
///
/// `test` is the test's full name as the test runner prints it.
#[track_caller]
pub fn run(test: &str, body: impl Fn(&Arc<Cuda>, &mut Bits)) {
    let once = || {
        let cuda = open().unwrap_or_else(|error| panic!("{error}"));
        let mut bits = Bits(0xcbf2_9ce4_8422_2325);
        body(&cuda, &mut bits);
        bits.0
    };
    if cfg!(feature = "gpu-tests") {
        assert_eq!(once(), once(), "{test}: two runs on this GPU differ");
        return;
    }
    let child = std::env::var_os(DIGEST);
    let mut digests = Vec::new();
    for seed in [None, Some(1)] {
        let folder = tempfile::tempdir().expect("a folder for the digest");
        let file = folder.path().join("digest");
        let options = Options { seed, ..Options::default() };
        let given = [(DIGEST, file.as_os_str())];
        virtual_gpu::run_with(test, &options, &given, || {
            let to = child.as_ref().expect("a child is told where its digest goes");
            fs::write(to, once().to_le_bytes()).expect("writing the digest");
        });
        if child.is_some() {
            return;
        }
        digests.push(fs::read(&file).expect("the child's digest"));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{test}: schedules differ");
}

/// Runs `body` on a GPU once, for what takes long.
#[track_caller]
pub fn run_once(test: &str, body: impl Fn(&Arc<Cuda>)) {
    let once = || body(&open().unwrap_or_else(|error| panic!("{error}")));
    match cfg!(feature = "gpu-tests") {
        true => once(),
        false => virtual_gpu::run(test, &Options::default(), once),
    }
}

/// The first GPU.
fn open() -> Result<Arc<Cuda>, CudaError> {
    Cuda::open(0, None)
}

/// The machine's GPU for a bench, or `None` and a line that says that it was skipped.
pub fn any() -> Option<Arc<Cuda>> {
    match open() {
        Ok(cuda) => {
            eprintln!("on {}", cuda.name());
            Some(cuda)
        }
        Err(error) => {
            eprintln!("SKIPPED on a GPU: {error}");
            None
        }
    }
}
