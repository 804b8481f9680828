//! Who finds the virtual GPU: the processes started with it, and nobody else.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use virtual_gpu::Options;

/// What `cargo run --example where_is_cuda` says, run as anybody would.
fn where_is_cuda() -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        // Of the whole workspace, as the tests are: with the features of one package alone everything that
        // it needs would be built again.
        .args(["run", "--quiet", "--example", "where_is_cuda"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_ordinary_run_does_not_see_it() {
    // It is built, so it could be found.
    virtual_gpu::library().unwrap();
    let said = where_is_cuda();
    assert!(said.starts_with("no CUDA driver") || said.starts_with("CUDA driver"), "{said}");
    assert!(!said.contains("virtual GPU"), "{said}");
}

#[test]
fn no_library_of_the_drivers_name_is_where_cargo_looks() {
    // The test's executable lies in deps, one below the folder that cargo puts into the path.
    let executable = std::env::current_exe().unwrap();
    let deps = executable.parent().unwrap();
    for folder in [deps, deps.parent().unwrap()] {
        let named = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcuda."))
        };
        let found: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| named(p)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_test_started_with_it_finds_it() {
    virtual_gpu::run("a_test_started_with_it_finds_it", &Options::default(), || {
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "virtual GPU (sm_80)");
    });
}

#[test]
fn any_program_started_with_it_finds_it() {
    // Built by the run that does not see it.
    where_is_cuda();
    let executable = std::env::current_exe().unwrap();
    let folder = executable.parent().unwrap().parent().unwrap();
    let options = Options { compute_capability: (12, 0), ..Options::default() };
    let program = folder.join("examples/where_is_cuda");
    let output = virtual_gpu::command(program, &options).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "CUDA driver, device 0 is virtual GPU (sm_120)");
}

#[test]
fn options_reach_the_test() {
    let options = Options {
        compute_capability: (8, 9),
        memory_bytes: 1 << 30,
        seed: Some(7),
        ..Options::default()
    };
    virtual_gpu::run("options_reach_the_test", &options, || {
        assert_eq!(Options::from_env().unwrap(), options);
    });
}

#[test]
fn a_failure_on_it_is_a_failure_here() {
    let outcome = catch_unwind(|| {
        virtual_gpu::run("a_failure_on_it_is_a_failure_here", &Options::default(), || {
            // Not a panic: the parent catches those of its own process.
            std::process::exit(101);
        });
    });
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("ended with exit status: 101"), "{message}");
}

#[test]
fn a_wrong_name_is_told() {
    let outcome = catch_unwind(|| {
        virtual_gpu::run("no_such_test", &Options::default(), || unreachable!());
    });
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("`no_such_test` is not the name"), "{message}");
}
