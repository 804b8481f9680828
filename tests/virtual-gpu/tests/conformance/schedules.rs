//! Lanes of a warp that wait for each other, and who goes on when: what the scheduler must see to.

use std::sync::mpsc;
use std::time::Duration;

use super::common::Device;
use virtual_gpu::Options;

const HEAD: &str = ".version 8.1\n.target sm_80\n.address_size 64\n";
const REGISTERS: &str = ".reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<8>;";

/// A module with one kernel, `k`, of one pointer, and what comes before it.
fn module(before: &str, body: &str) -> String {
    format!(
        "{HEAD}{before}.visible .entry k(.param .u64 at)\n{{\n{REGISTERS}\nld.param.u64 %rd1, [at];\n\
         mov.u32 %r1, %laneid;\n{body}\n}}\n"
    )
}

/// Launches `k` with one warp of `threads` on zeros, and gives the first `count` of them afterwards. A warp
/// that waits for itself would never come back: it is given up after a minute.
fn run(ptx: String, seed: Option<u64>, threads: u32, count: usize) -> Vec<u32> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let device = Device::with(&ptx, Options { seed, ..Options::default() });
        let at = device.buffer(&vec![0u32; count]);
        device.launch("k", 1, threads, 0, &[at.into()]);
        let _ = send.send(device.read::<u32>(at, count));
    });
    receive.recv_timeout(Duration::from_secs(60)).expect("the launch comes to its end")
}

/// Lanes 1 to 31 wait, in a loop with `wait` in it, for what lane 0 does at a higher place, after 50 steps.
fn one_lane_lets_the_others_go(before: &str, wait: &str) {
    let ptx = module(
        before,
        &format!(
            "setp.eq.u32 %p1, %r1, 0;
            @%p1 bra FIRST;
            SPIN:
            ld.volatile.global.u32 %r2, [%rd1];
            setp.ne.u32 %p2, %r2, 0;
            @%p2 bra DONE;
            {wait}
            bra SPIN;
            FIRST:
            mov.u32 %r3, 0;
            STEPS:
            add.u32 %r3, %r3, 1;
            setp.lt.u32 %p3, %r3, 50;
            @%p3 bra STEPS;
            st.volatile.global.u32 [%rd1], %r3;
            DONE:
            ret;"
        ),
    );
    for seed in [None, Some(1), Some(2)] {
        assert_eq!(run(ptx.clone(), seed, 32, 1), [50], "seed {seed:?}");
    }
}

#[test]
fn lanes_wait_for_a_lane_of_their_warp() {
    one_lane_lets_the_others_go("", "");
}

#[test]
fn lanes_sleep_until_a_lane_of_their_warp_is_done() {
    one_lane_lets_the_others_go("", "nanosleep.u32 20;");
}

#[test]
fn lanes_call_a_function_until_a_lane_of_their_warp_is_done() {
    one_lane_lets_the_others_go(".func f()\n{\nret;\n}\n", "call f, ();");
}

#[test]
fn lanes_part_and_meet_until_a_lane_of_their_warp_is_done() {
    let wait = "and.b32 %r4, %r1, 1;
        setp.eq.u32 %p4, %r4, 0;
        @%p4 bra EVEN;
        add.u32 %r5, %r5, 1;
        bra BOTH;
        EVEN:
        add.u32 %r5, %r5, 2;
        BOTH:";
    one_lane_lets_the_others_go("", wait);
}

/// A quarter of the warp after the other calls a function, where the earlier ones wait at its first
/// instruction, of which the member mask is an immediate.
#[test]
fn lanes_come_late_to_where_others_of_a_function_wait() {
    let before = ".func f()\n{\nbar.warp.sync -1;\nret;\n}\n";
    let body = "shr.u32 %r2, %r1, 3;
        mov.u32 %r3, 0;
        ROUND:
        setp.eq.u32 %p1, %r2, %r3;
        @%p1 call f, ();
        add.u32 %r3, %r3, 1;
        setp.lt.u32 %p2, %r3, 4;
        @%p2 bra ROUND;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r1;
        ret;";
    assert_eq!(run(module(before, body), None, 32, 32), (0..32).collect::<Vec<u32>>());
}

/// Lanes 0 to 7 wait at one bar.warp.sync, 0 to 3 for lanes 8 to 11 and 4 to 7 for lanes 12 to 15, which
/// come to others, one after the other. Each reads what its partner wrote before.
#[test]
fn a_warp_barrier_lets_only_its_own_group_go() {
    let body = "mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        and.b32 %r2, %r1, 7;
        setp.lt.u32 %p1, %r2, 4;
        selp.b32 %r3, 0x0F0F, 0xF0F0, %p1;
        add.u32 %r4, %r1, 1;
        setp.lt.u32 %p2, %r1, 8;
        @!%p2 bra WRITERS;
        bar.warp.sync %r3;
        ld.global.u32 %r5, [%rd3+32];
        st.global.u32 [%rd3], %r5;
        ret;
        WRITERS:
        @!%p1 bra SECOND;
        st.global.u32 [%rd3], %r4;
        bar.warp.sync %r3;
        ret;
        SECOND:
        st.global.u32 [%rd3], %r4;
        bar.warp.sync %r3;
        ret;";
    let want: Vec<u32> = (9..17).chain(9..17).collect();
    for seed in [None, Some(1), Some(2), Some(3)] {
        assert_eq!(run(module("", body), seed, 16, 16), want, "seed {seed:?}");
    }
}

/// The last statement of a body is a branch that is not taken in the end: the thread returns, whatever lies
/// behind it in the machine's order.
#[test]
fn control_that_comes_to_the_end_of_a_body_returns() {
    let body = "setp.eq.u32 %p1, %r1, 77;
        mov.u32 %r2, 0;
        @!%p1 bra LOOP;
        AWAY:
        mov.u32 %r3, 99;
        st.global.u32 [%rd1], %r3;
        ret;
        LOOP:
        add.u32 %r2, %r2, 1;
        setp.gt.u32 %p3, %r2, 1000;
        @%p3 bra AWAY;
        setp.lt.u32 %p2, %r2, 7;
        @%p2 bra LOOP;";
    assert_eq!(run(module("", body), None, 1, 1), [0]);
}

/// Of a special register that is moved to 16 bits there are the lower ones.
#[test]
fn special_registers_in_16_bits() {
    let ptx = module(
        "",
        ".reg .b16 %h1;
        mov.u32 %r2, %ctaid.x;
        setp.ne.u32 %p1, %r2, 65541;
        @%p1 ret;
        mov.u16 %h1, %ctaid.x;
        setp.eq.u16 %p2, %h1, 5;
        selp.b32 %r3, 1, 2, %p2;
        st.global.u32 [%rd1], %r3;
        ret;",
    );
    let device = Device::new(&ptx);
    let at = device.buffer(&[0u32]);
    device.launch("k", 65542, 1, 0, &[at.into()]);
    assert_eq!(device.read::<u32>(at, 1), [1]);
}

/// Recursion with a large frame ends at what a GPU has, not when the host's memory does.
#[test]
fn recursion_ends_where_local_memory_does() {
    let before = ".func f()\n{\n.local .align 4 .b8 a[16384];\ncall f, ();\nret;\n}\n";
    let device = Device::new(&module(before, "call f, ();\nret;"));
    let at = device.buffer(&[0u32]);
    let outcome = device.try_launch("k", 1, 1, 0, &[at.into()]);
    assert!(outcome.stopped);
    assert!(outcome.findings[0].detail.contains("524288 at most"), "{:?}", outcome.findings);
}
