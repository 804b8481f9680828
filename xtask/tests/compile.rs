//! The compiler without CUDA: what it makes is the same everywhere, what it refuses is told.

use xtask::cuda::{Source, Toolchain, assemble, assemble_to, disassemble, toolchain};
use xtask::error::Error;

const SAXPY: &str = r#"
#include <cuda_bf16.h>
#include "scale.h"
extern "C" __global__ void saxpy(int n, float a, const float* x, __nv_bfloat16* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __float2bfloat16(scale(a, x[i]) + __bfloat162float(y[i]));
}
"#;
const SCALE: &str = "__device__ inline float scale(float a, float x) { return a * x; }\n";

/// The compiler, or `None` on a machine that can't have it, which is told.
fn compiler() -> Option<Toolchain> {
    match toolchain() {
        Ok(toolchain) => Some(toolchain),
        Err(error) if error.lacks() => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn saxpy<'a>(options: &'a [&'a str]) -> Source<'a> {
    Source { name: "tests/saxpy.cu", text: SAXPY, headers: &[("scale.h", SCALE)], options }
}

#[test]
fn ptx_is_the_same_twice_and_names_no_machine() {
    let Some(compiler) = compiler() else { return };
    let first = compiler.compile(&saxpy(&["-lineinfo"])).unwrap();
    let second = toolchain().unwrap().compile(&saxpy(&["-lineinfo"])).unwrap();
    assert_eq!(first, second);
    for expected in
        [".version 8.1", ".target sm_80", ".entry saxpy(", "\"tests/saxpy.cu\"", "\"cuda/"]
    {
        assert!(first.contains(expected), "no {expected} in\n{first}");
    }
    let files = first.lines().filter(|line| line.starts_with("\t.file"));
    let absolute: Vec<_> = files.filter(|line| line.contains("\"/")).collect();
    assert!(absolute.is_empty(), "{absolute:?}");
    assert!(!first.contains(&xtask::root().display().to_string()));
    let kept = compiler.compile_cached(&saxpy(&["-lineinfo"])).unwrap();
    assert_eq!(kept, first);
    assert_eq!(compiler.compile_cached(&saxpy(&["-lineinfo"])).unwrap(), first);
}

#[test]
fn options_choose_the_architecture() {
    let Some(compiler) = compiler() else { return };
    let ptx = compiler.compile(&saxpy(&["--gpu-architecture=compute_90a"])).unwrap();
    assert!(ptx.contains(".target sm_90a"), "{ptx}");
}

#[test]
fn a_compilation_before_it_changes_nothing() {
    let Some(compiler) = compiler() else { return };
    let text = "__device__ __noinline__ int f(int x) { return x * x; }\n\
                extern \"C\" __global__ void k(int* x) { x[0] = f(x[1]) + f(x[2]); }\n";
    let source = Source { name: "k.cu", text, ..Source::default() };
    let first = compiler.compile(&source).unwrap();
    assert!(first.contains("// callseq 0, 0"), "{first}");
    assert_eq!(compiler.compile(&source).unwrap(), first);
}

#[test]
fn dp4a_has_a_body() {
    let Some(compiler) = compiler() else { return };
    let text = "extern \"C\" __global__ void k(int* x) { x[0] = __dp4a(x[1], x[2], x[3]); }\n";
    let ptx = compiler.compile(&Source { name: "k.cu", text, ..Source::default() }).unwrap();
    assert!(ptx.contains("dp4a.s32.s32") && !ptx.contains(".extern"), "{ptx}");
}

#[test]
fn a_refusal_shows_file_line_and_reason() {
    let Some(compiler) = compiler() else { return };
    let text = "extern \"C\" __global__ void k(int* x) {\n    x[0] = missing;\n}\n";
    let source = Source { name: "kernels/k.cu", text, ..Source::default() };
    let Err(error @ Error::Compile { .. }) = compiler.compile(&source) else {
        panic!("an undefined name was compiled")
    };
    let shown = error.to_string();
    for expected in ["compiling kernels/k.cu", "kernels/k.cu(2): error", "\"missing\""] {
        assert!(shown.contains(expected), "no {expected} in\n{shown}");
    }
}

#[test]
fn ptxas_assembles_what_nvrtc_makes_and_refuses_what_is_wrong() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saxpy.ptx");
    let ptx = compiler.compile(&saxpy(&[])).unwrap();
    std::fs::write(&file, &ptx).unwrap();
    for arch in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_120"] {
        let said = assemble(&file, arch).unwrap();
        assert!(said.contains("saxpy") && said.contains("registers"), "{said}");
    }
    let cubin = folder.path().join("saxpy.cubin");
    assemble_to(&file, "sm_120", &cubin).unwrap();
    let text = disassemble(&cubin).unwrap();
    assert!(text.contains(".text.saxpy") && text.contains("EXIT"), "{text}");
    let refusal = disassemble(&file).unwrap_err();
    assert!(matches!(refusal, Error::Disassemble { .. }), "{refusal}");
    std::fs::write(&file, ptx.replace("fma.rn.f32", "fma.rn.f33")).unwrap();
    let refusal = assemble(&file, "sm_80").unwrap_err();
    assert!(matches!(&refusal, Error::Assemble { log, .. } if log.contains("f33")), "{refusal}");
}
