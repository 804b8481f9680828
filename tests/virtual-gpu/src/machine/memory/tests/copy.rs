//! Asynchronous copies.

use super::*;

fn shared(run: &mut Run) -> Vec<u8> {
    run.block.shared_bytes().to_vec()
}

#[test]
fn copies_of_every_size_with_zero_fill() {
    for (bytes, how) in [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")] {
        for sized in [false, true] {
            for mask in [FULL, 0x0000_FF01] {
                let mut run = Run::new();
                (run.mask, run.shared) = (mask, 1024);
                run.block.shared = vec![Lanes([0xEEEE_EEEE; 32]); 8];
                let buffer = filled(&run, 1024, pattern);
                let size = |lane: u64| if sized { lane % (bytes + 1) } else { bytes };
                let size_operand = if sized { ", %r5" } else { "" };
                let code =
                    format!("cp.async.{how}.shared.global [%r1], [%rd2], {bytes}{size_operand};");
                let inputs: [(&str, &dyn Fn(u64) -> u64); 3] = [
                    ("%r1", &|lane| (31 - lane) * bytes),
                    ("%rd2", &|lane| buffer + lane * bytes),
                    ("%r5", &size),
                ];
                run.run(&code, &inputs, "%r1").unwrap();
                let mut want = vec![0xEE; 1024];
                for lane in lanes(mask) {
                    for i in 0..bytes {
                        let byte = if i < size(lane as u64) {
                            pattern(lane as u64 * bytes + i)
                        } else {
                            0
                        };
                        want[(31 - lane) * bytes as usize + i as usize] = byte;
                    }
                }
                assert_eq!(shared(&mut run), want, "{code} {mask:#x}");
                assert_eq!(run.findings(), []);
            }
        }
    }
}

#[test]
fn a_source_that_is_not_read_may_be_anywhere() {
    let mut run = Run::new();
    run.shared = 512;
    run.block.shared = vec![Lanes([0xEEEE_EEEE; 32]); 4];
    let buffer = filled(&run, 256, pattern);
    let inputs: [(&str, &dyn Fn(u64) -> u64); 3] = [
        ("%r1", &|lane| lane * 16),
        ("%rd2", &|lane| buffer + lane * 16),
        ("%r5", &|lane| u64::from(lane < 16) * 16),
    ];
    run.run("cp.async.cg.shared.global.L2::128B [%r1], [%rd2], 16, %r5;", &inputs, "%r1").unwrap();
    let got = shared(&mut run);
    for (i, byte) in got.iter().enumerate() {
        assert_eq!(*byte, if i < 256 { pattern(i as u64) } else { 0 }, "byte {i}");
    }
    let fault = run.run("cp.async.cg.shared.global [%r1], [%rd2], 16;", &inputs, "%r1");
    let fault = fault.unwrap_err();
    assert_eq!((fault.kind, fault.lane), (Kind::OutOfBounds, 16));
    run.mask = 0xFFFF;
    let low: [(&str, &dyn Fn(u64) -> u64); 2] =
        [("%r1", &|lane| lane * 16), ("%rd2", &|lane| buffer + lane * 8)];
    let fault = run.run("cp.async.ca.shared.global [%r1], [%rd2], 16;", &low, "%r1").unwrap_err();
    assert_eq!((fault.kind, fault.lane), (Kind::Misaligned, 1));
}

#[test]
fn groups_are_waited_for_in_order() {
    let mut run = Run::new();
    run.shared = 512;
    let buffer = filled(&run, 512, pattern);
    let inputs: [(&str, &dyn Fn(u64) -> u64); 2] =
        [("%r1", &|lane| lane * 4), ("%rd2", &|lane| buffer + lane * 4)];
    let open = |run: &Run| run.warp.pending.open();
    let copy = "cp.async.ca.shared.global [%r1], [%rd2], 4;";
    let three =
        format!("{copy} cp.async.commit_group; {copy} {copy} cp.async.commit_group; {copy}");
    run.run(&three, &inputs, "%r1").unwrap();
    assert_eq!(open(&run), 4 * 32);
    run.run("cp.async.wait_group 2;", &[], "%r1").unwrap();
    assert_eq!(open(&run), 4 * 32);
    run.run("cp.async.wait_group 1;", &[], "%r1").unwrap();
    assert_eq!(open(&run), 3 * 32);
    run.mask = 0xFF;
    run.run("cp.async.wait_group 0;", &[], "%r1").unwrap();
    assert_eq!(open(&run), 3 * 32 - 2 * 8);
    run.mask = FULL;
    run.run("cp.async.wait_group 0;", &[], "%r1").unwrap();
    assert_eq!(open(&run), 32);
    run.run("cp.async.wait_all;", &[], "%r1").unwrap();
    assert_eq!(open(&run), 0);
}

#[test]
fn a_true_predicate_ignores_the_source() {
    let mut run = Run::new();
    run.shared = 128;
    run.block.shared = vec![Lanes([0xEEEE_EEEE; 32])];
    let buffer = filled(&run, 128, pattern);
    let inputs: [(&str, &dyn Fn(u64) -> u64); 2] =
        [("%r1", &|lane| lane * 4), ("%rd2", &|lane| buffer + lane * 4)];
    // Predicates are no values here: one that nothing has set is false.
    run.run("cp.async.ca.shared.global [%r1], [%rd2], 4, %p1;", &inputs, "%r1").unwrap();
    assert_eq!(shared(&mut run), (0..128).map(pattern).collect::<Vec<_>>());
    run.run("cp.async.ca.shared.global [%r1], [%rd2], 4, !%p1;", &inputs, "%r1").unwrap();
    assert_eq!(shared(&mut run), [0; 128]);
}
