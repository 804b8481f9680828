//! Code that was not written for the virtual GPU: candle's CUDA kernels, compiled as they are,
//! against candle's own results on the CPU.

mod binary;
mod compare;
mod conv;
mod elementwise;
mod gpu;
mod indexing;
mod inputs;
mod quantized;
mod reduce;
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};

use virtual_gpu::{Options, Watch};

use crate::gpu::Gpu;

/// candle's sources, and how many kernels of each are checked.
const CHECKED: [(&str, usize); 11] = [
    ("affine", 7),
    ("binary", 84),
    ("cast", 45),
    ("conv", 44),
    ("fill", 21),
    ("indexing", 105),
    ("quantized", 142),
    ("reduce", 71),
    ("sort", 14),
    ("ternary", 21),
    ("unary", 99),
];

/// Runs the checks of one source on the virtual GPU; its name is the test's.
fn on_gpu(source: &str, check: fn(&mut Gpu)) {
    // Compiled here: the child would wait for it as long, and say less.
    let Some(ptx) = source::ptx(&format!("{source}.cu")) else { return };
    virtual_gpu::run(source, &Options::default(), || {
        let kernels = ptx.matches(".visible .entry").count();
        let mut gpu = Gpu::new(ptx.clone());
        check(&mut gpu);
        let checked: Vec<&str> = gpu.checked().iter().map(String::as_str).collect();
        println!("{source}.cu: {} of {kernels} kernels: {}", checked.len(), checked.join(" "));
        let expected = CHECKED.iter().find(|(name, _)| *name == source).map(|(_, count)| *count);
        assert_eq!(Some(checked.len()), expected, "kernels of {source}.cu that were checked");
    });
}

#[test]
fn at_least_a_hundred_kernels_are_checked() {
    let count: usize = CHECKED.iter().map(|(_, count)| count).sum();
    println!("{count} of candle's kernels");
    assert!(count >= 100);
}

#[test]
fn affine() {
    on_gpu("affine", elementwise::affine);
}

#[test]
fn binary() {
    on_gpu("binary", binary::binary);
}

#[test]
fn cast() {
    on_gpu("cast", elementwise::cast);
}

#[test]
fn conv() {
    on_gpu("conv", conv::conv);
}

#[test]
fn fill() {
    on_gpu("fill", elementwise::fill);
}

#[test]
fn indexing() {
    on_gpu("indexing", indexing::indexing);
}

#[test]
fn quantized() {
    on_gpu("quantized", quantized::quantized);
}

/// What the watchman finds in candle's own kernels; everything else above is without a finding.
#[test]
fn a_row_too_many_is_found() {
    let Some(ptx) = source::ptx("quantized.cu") else { return };
    virtual_gpu::run("a_row_too_many_is_found", &Options::default(), || {
        let mut gpu = Gpu::new(ptx.clone());
        let launch = AssertUnwindSafe(|| quantized::reads_a_row_too_many(&mut gpu));
        let said = *catch_unwind(launch).unwrap_err().downcast::<String>().unwrap();
        assert!(said.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{said}");
    });
}

#[test]
fn edges_of_tiles_are_right_unwatched() {
    let Some(ptx) = source::ptx("quantized.cu") else { return };
    let options = Options { watch: Watch::Off, ..Options::default() };
    virtual_gpu::run("edges_of_tiles_are_right_unwatched", &options, || {
        quantized::edges_of_tiles(&mut Gpu::new(ptx.clone()));
    });
}

#[test]
fn reduce() {
    on_gpu("reduce", reduce::reduce);
}

#[test]
fn sort() {
    on_gpu("sort", indexing::sort);
}

#[test]
fn ternary() {
    on_gpu("ternary", binary::ternary);
}

#[test]
fn unary() {
    on_gpu("unary", elementwise::unary);
}
