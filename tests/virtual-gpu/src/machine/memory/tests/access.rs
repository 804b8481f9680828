//! Loads and stores.

use super::super::super::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use super::*;

#[test]
fn loads_of_every_width_sign_and_layout() {
    type Layout = (&'static str, fn(u64, u64) -> u64);
    let layouts: [Layout; 4] = [
        ("row", |lane, size| lane * size),
        ("same", |_, size| 3 * size),
        ("reversed", |lane, size| (31 - lane) * size),
        ("strided", |lane, size| (lane * 3 % 32) * size),
    ];
    for (ty, size, signed) in [
        ("b8", 1, false),
        ("u8", 1, false),
        ("s8", 1, true),
        ("u16", 2, false),
        ("s16", 2, true),
        ("b32", 4, false),
        ("s32", 4, true),
        ("f32", 4, false),
        ("b64", 8, false),
    ] {
        for (register, bits) in [("%rs1", 16), ("%r1", 32), ("%rd1", 64)] {
            // f32 goes to registers of its own width only; the others to wider ones, too.
            if bits < size * 8 || ty == "f32" && bits != 32 {
                continue;
            }
            for (name, layout) in &layouts {
                for mask in [FULL, 0x0FFF_FFF0, 0x8000_0001] {
                    let mut run = Run::new();
                    run.mask = mask;
                    let buffer = filled(&run, 4096, pattern);
                    let code = format!("ld.global.{ty} {register}, [%rd2+16];");
                    let got = run
                        .run(&code, &[("%rd2", &|lane| buffer + layout(lane, size))], register)
                        .unwrap();
                    for lane in 0..32 {
                        let mut want = 0;
                        if mask >> lane & 1 != 0 {
                            want = expected(16 + layout(lane, size), size);
                            if signed {
                                let shift = 64 - 8 * size;
                                want = ((want << shift) as i64 >> shift) as u64;
                            }
                            want &= u64::MAX >> (64 - bits);
                        }
                        assert_eq!(got[lane as usize], want, "{code} {name} {mask:#x} lane {lane}");
                    }
                    assert_eq!(run.findings(), []);
                }
            }
        }
    }
}

#[test]
fn stores_write_their_bytes_and_no_others() {
    for (ty, size) in [("b8", 1), ("u16", 2), ("f32", 4), ("b64", 8)] {
        for register in ["%r1", "%rd1"] {
            if (register == "%rd1") != (size == 8) && size == 8 {
                continue;
            }
            for (name, stride) in [("row", size), ("strided", 3 * size), ("same", 0)] {
                for mask in [FULL, 0x0000_FFFE] {
                    let mut run = Run::new();
                    run.mask = mask;
                    let buffer = filled(&run, 1024, pattern);
                    let value = |lane: u64| 0xA1B2_C3D4_E5F6_0718 ^ (lane * 0x0101_0101_0101_0101);
                    let code = format!("st.global.{ty} [%rd2+8], {register};");
                    let inputs: [(&str, &dyn Fn(u64) -> u64); 2] =
                        [("%rd2", &|lane| buffer + lane * stride), (register, &value)];
                    run.run(&code, &inputs, register).unwrap();
                    let mut want: Vec<u8> = (0..1024).map(pattern).collect();
                    for lane in lanes(mask) {
                        let at = 8 + lane * stride as usize;
                        let bytes = value(lane as u64).to_le_bytes();
                        want[at..at + size as usize].copy_from_slice(&bytes[..size as usize]);
                    }
                    assert_eq!(bytes_at(&run, buffer, 1024), want, "{code} {name} {mask:#x}");
                }
            }
        }
    }
}

#[test]
fn vectors() {
    let mut run = Run::new();
    let buffer = filled(&run, 4096, pattern);
    let at = |lane: u64| buffer + lane * 16;
    for (i, register) in ["%r1", "%r2", "%r3", "%r4"].into_iter().enumerate() {
        let code = "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];";
        let got = run.run(code, &[("%rd2", &at)], register).unwrap();
        for lane in 0..32 {
            assert_eq!(got[lane as usize], expected(lane * 16 + 4 * i as u64, 4));
        }
    }
    let got = run.run("ld.global.v2.s8 {%r1, _}, [%rd2];", &[("%rd2", &at)], "%r1").unwrap();
    assert_eq!(got[0], u64::from(pattern(0)));
    assert_eq!(got[3], u64::from(pattern(48) as i8 as u32));
    let copy = "ld.global.v2.b64 {%rd4, %rd5}, [%rd2]; st.global.v2.b64 [%rd3], {%rd5, %rd4};";
    let to = run.memory.alloc(512).unwrap();
    run.run(copy, &[("%rd2", &at), ("%rd3", &|lane| to + lane * 16)], "%rd4").unwrap();
    let got = bytes_at(&run, to, 512);
    for (i, byte) in got.iter().enumerate() {
        assert_eq!(*byte, pattern(i as u64 ^ 8), "byte {i}");
    }
    assert_eq!(run.findings(), []);
}

#[test]
fn generic_addresses_reach_every_space_in_one_instruction() {
    let mut run = Run::new();
    (run.shared, run.local) = (256, 64);
    run.params = (0..64).map(pattern).collect();
    let buffer = filled(&run, 4096, |i| pattern(i + 7));
    run.block.shared = vec![Lanes([0x5AA5_1234; 32]); 2];
    run.run(
        "st.local.u32 [%r5], %r6;",
        &[("%r5", &|lane| lane % 16 * 4), ("%r6", &|lane| 1000 + lane)],
        "%r6",
    )
    .unwrap();
    let address = |lane: u64| match lane % 4 {
        0 => buffer + lane * 4,
        1 => SHARED_WINDOW + lane * 4,
        2 => LOCAL_WINDOW + lane % 16 * 4,
        _ => PARAM_WINDOW + lane,
    };
    // Parameters at a multiple of four only.
    let address = |lane: u64| if lane % 4 == 3 { address(lane) & !3 } else { address(lane) };
    let got = run.run("ld.u32 %r1, [%rd2];", &[("%rd2", &address)], "%r1").unwrap();
    for lane in 0..32 {
        let want = match lane % 4 {
            0 => (0..4).map(|i| u64::from(pattern(lane * 4 + i + 7)) << (8 * i)).sum(),
            1 => 0x5AA5_1234,
            2 => 1000 + lane,
            _ => expected(lane & !3, 4),
        };
        assert_eq!(got[lane as usize], want, "lane {lane}");
    }
}

#[test]
fn frames_are_relative_to_the_local_base() {
    let mut run = Run::new();
    run.local = 256;
    run.warp.local_base = 128;
    let got = run
        .run(
            "st.local.v2.u32 [frame+8], {%r1, %r2}; ld.local.u32 %r3, [%r4];",
            &[("%r1", &|lane| lane), ("%r2", &|lane| lane + 100), ("%r4", &|_| 128 + 12)],
            "%r3",
        )
        .unwrap();
    assert_eq!(got, std::array::from_fn(|lane| lane as u64 + 100));
}

#[test]
fn parameters() {
    let mut run = Run::new();
    run.params = (0..64).map(pattern).collect();
    let got = run.run("ld.param.v2.u32 {%r1, %r2}, [k_param_0+8];", &[], "%r2").unwrap();
    assert_eq!(got, [expected(12, 4); 32]);
    let got = run.run("ld.param.s8 %rd1, [k_param_0+1];", &[], "%rd1").unwrap();
    assert_eq!(got, [i64::from(pattern(1) as i8) as u64; 32]);
    let got = run.run("ld.param.b16 %rs1, [%rd2];", &[("%rd2", &|lane| lane * 2)], "%rs1").unwrap();
    assert_eq!(got, std::array::from_fn(|lane| expected(lane as u64 * 2, 2)));
    let fault = run.run("ld.param.u64 %rd1, [k_param_0+60];", &[], "%rd1").unwrap_err();
    assert_eq!(fault.kind, Kind::OutOfBounds);
}

#[test]
fn stray_accesses_are_named() {
    let mut run = Run::new();
    let a = filled(&run, 1024, pattern);
    let b = filled(&run, 100, pattern);
    let at = |run: &mut Run, address: &dyn Fn(u64) -> u64| {
        let fault = run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", address)], "%r1").unwrap_err();
        (fault.kind, fault.lane, fault.detail)
    };
    let (kind, lane, detail) = at(&mut run, &|lane| a + 1024 - 64 + lane * 4);
    assert_eq!((kind, lane), (Kind::OutOfBounds, 16));
    let end = a + 1024;
    assert_eq!(
        detail,
        format!(
            "read of 4 bytes at {end:#x}, 0 bytes past the end of the 1024 bytes at {a:#x} (allocation 1)"
        )
    );
    let scattered = |lane: u64| a + (lane * 5 % 32) * 32 + 28;
    run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", &scattered)], "%r1").unwrap();
    let (kind, lane, _) = at(&mut run, &|lane| scattered(lane) + if lane == 19 { 4 } else { 0 });
    assert_eq!((kind, lane), (Kind::OutOfBounds, 19));
    let (kind, lane, detail) = at(&mut run, &|lane| if lane == 7 { b - 8 } else { b });
    assert_eq!((kind, lane), (Kind::OutOfBounds, 7));
    assert!(detail.contains("8 bytes before the 100 bytes at"), "{detail}");
    let (kind, lane, detail) = at(&mut run, &|lane| a + u64::from(lane == 9) * 2);
    assert_eq!((kind, lane), (Kind::Misaligned, 9));
    assert!(detail.ends_with("not a multiple of 4"), "{detail}");
    let (kind, _, detail) = at(&mut run, &|lane| lane * 4);
    assert_eq!(kind, Kind::OutOfBounds);
    assert!(detail.contains("null pointer"), "{detail}");
    run.memory.free(a).unwrap();
    let (kind, _, detail) = at(&mut run, &|_| a + 4);
    assert_eq!(kind, Kind::UseAfterFree);
    assert!(detail.contains("which were freed"), "{detail}");
    run.shared = 128;
    let fault = run.run("st.shared.u32 [%r1], %r1;", &[("%r1", &|lane| lane * 8)], "%r1");
    let fault = fault.unwrap_err();
    assert_eq!((fault.kind, fault.lane), (Kind::OutOfBounds, 16));
    assert!(fault.detail.contains("write of 4 bytes at shared 0x80, 0 bytes past"), "{fault:?}");
    let fault = run.run("ld.local.u32 %r1, [%r2];", &[("%r2", &|lane| lane * 4)], "%r1");
    assert_eq!(fault.unwrap_err().kind, Kind::OutOfBounds);
}

#[test]
fn unwritten_global_memory_is_found_by_the_byte() {
    let mut run = Run::new();
    let a = run.memory.alloc(1024).unwrap();
    run.memory.write(a, &[1; 100]).unwrap();
    let at = |lane: u64| a + lane * 4;
    run.mask = 0x01FF_FFFF;
    run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", &at)], "%r1").unwrap();
    assert_eq!(run.findings(), []);
    run.mask = FULL;
    run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", &at)], "%r1").unwrap();
    let findings = run.findings();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].kind, findings[0].place.thread), (Kind::Uninitialised, [25, 0, 0]));
    // Kernel stores initialise; an unwatched run asks nothing.
    run.run("st.global.u32 [%rd2], %r1;", &[("%rd2", &at)], "%r1").unwrap();
    run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", &at)], "%r1").unwrap();
    assert_eq!(run.findings(), []);
    run.watched = false;
    run.run("ld.global.u32 %r1, [%rd2];", &[("%rd2", &|l| at(l) + 512)], "%r1").unwrap();
    assert_eq!(run.findings(), []);
}

#[test]
fn one_instruction_may_reach_many_allocations() {
    let mut run = Run::new();
    let all: Vec<u64> =
        (0..32).map(|lane| filled(&run, 64, move |i| pattern(i + lane * 5))).collect();
    let got = run
        .run("ld.global.u16 %r1, [%rd2];", &[("%rd2", &|l| all[l as usize] + 2)], "%r1")
        .unwrap();
    for (lane, value) in got.iter().enumerate() {
        assert_eq!(*value, expected(2 + lane as u64 * 5, 2));
    }
}
