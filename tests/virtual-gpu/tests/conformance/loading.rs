//! What is not known is refused when a module is loaded, with its line.

use virtual_gpu::{Gpu, Options};

const HEAD: &str = ".version 8.1\n.target sm_80\n.address_size 64\n";

fn refusal(text: &str) -> String {
    let gpu = Gpu::new(Options::default());
    gpu.load(&format!("{HEAD}{text}")).expect_err("it is refused").to_string()
}

#[test]
fn unknown_instructions_are_refused_with_their_line() {
    let said =
        refusal(".visible .entry k()\n{\n.reg .b32 %r<3>;\nfrobnicate.b32 %r1, %r2;\nret;\n}\n");
    assert!(said.contains("line 7") && said.contains("frobnicate.b32"), "{said}");
}

#[test]
fn unknown_forms_of_known_instructions_are_refused() {
    for form in [
        "add.rz.s32 %r1, %r2, %r1;",
        "shfl.sync.round.b32 %r1, %r2, %r1, 31, -1;",
        "ld.texture.b32 %r1, [%rd1];",
        "mma.sync.aligned.m9n9k9.row.col.f32 %r1, %r1, %r1, %r1;",
        "cvt.rn.f33.s32 %r1, %r2;",
        "setp.almost.s32 %p1, %r1, %r2;",
        "bar.maybe 0;",
        "mbarrier.init.shared.b64 [%rd1], %r1;",
        "wgmma.fence.sync.aligned;",
        "cp.async.bulk.commit_group;",
        "add.s32 %r1, %rd1, %r2;",
        "add.s16 %r1, %r2, %r1;",
        "mov.b16 %h1, %r1;",
        "mov.b32 %r1, {%r2, %h1};",
    ] {
        let regs = ".reg .b16 %h<3>; .reg .b32 %r<3>; .reg .b64 %rd<3>; .reg .pred %p<3>;";
        let said = refusal(&format!(".visible .entry k()\n{{\n{regs}\n{form}\nret;\n}}\n"));
        assert!(said.contains("line 7"), "{form}: {said}");
    }
}

#[test]
fn instructions_of_functions_that_nobody_calls_are_looked_at_too() {
    let said = refusal(".func f()\n{\nfrobnicate;\nret;\n}\n.visible .entry k()\n{\nret;\n}\n");
    assert!(said.contains("line 6"), "{said}");
}

#[test]
fn calls_of_functions_that_are_only_declared_are_refused() {
    let text =
        ".extern .func missing\n()\n;\n.visible .entry k()\n{\ncall.uni missing, ();\nret;\n}\n";
    let said = refusal(text);
    assert!(said.contains("line 9") && said.contains("missing"), "{said}");
}

#[test]
fn a_module_larger_than_memory_is_refused() {
    let options = Options { memory_bytes: 1 << 20, ..Options::default() };
    let text = format!("{HEAD}.global .align 4 .b8 table[2097152];\n");
    let said = Gpu::new(options).load(&text).expect_err("it is refused").to_string();
    assert!(said.contains("line 4") && said.contains("table"), "{said}");
}

#[test]
fn what_no_gpu_has_room_for_is_refused() {
    for text in [
        ".visible .entry k()\n{\n.local .b8 a[4294967295];\nret;\n}\n",
        ".visible .entry k()\n{\n.local .b8 a[600000];\nret;\n}\n",
        ".func f()\n{\n.local .b64 a[8589934592], b[1048576];\nret;\n}\n",
        ".visible .entry k(.param .b8 a[4294967304])\n{\nret;\n}\n",
        ".visible .entry k(.param .b8 a[32000], .param .b8 b[800])\n{\nret;\n}\n",
        ".visible .entry k()\n{\n.reg .b64 %rd1;\n.shared .b8 a[4294967295];\n.shared .b64 b;\n\
         mov.u64 %rd1, a;\nmov.u64 %rd1, b;\nret;\n}\n",
    ] {
        let said = refusal(text);
        assert!(said.contains("line 4") && said.contains(" bytes of "), "{text}: {said}");
    }
}

#[test]
fn a_launch_bound_that_no_number_holds_is_no_bound() {
    let text = ".visible .entry k()\n.maxntid 65536, 65536, 2\n{\nret;\n}\n";
    let module = Gpu::new(Options::default()).load(&format!("{HEAD}{text}")).expect("it loads");
    assert_eq!(module.kernel("k").expect("it is there").max_threads(), 1024);
}
