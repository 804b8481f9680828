//! Atomics, against what a plain loop over the lanes gives.

use super::super::super::program::SHARED_WINDOW;
use super::*;

/// Instruction, bytes, initial values, what the operation is.
type Case = (&'static str, u32, fn(u64, u64) -> u64);

fn cases() -> Vec<Case> {
    let f32s: fn(u64, u64) -> u64 =
        |a, b| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits());
    vec![
        ("add.u32", 4, |a, b| u64::from((a as u32).wrapping_add(b as u32))),
        ("add.s32", 4, |a, b| u64::from((a as u32).wrapping_add(b as u32))),
        ("add.u64", 8, |a, b| a.wrapping_add(b)),
        ("min.u32", 4, |a, b| u64::from((a as u32).min(b as u32))),
        ("min.s32", 4, |a, b| u64::from((a as i32).min(b as i32) as u32)),
        ("min.u64", 8, |a, b| a.min(b)),
        ("min.s64", 8, |a, b| (a as i64).min(b as i64) as u64),
        ("max.u32", 4, |a, b| u64::from((a as u32).max(b as u32))),
        ("max.s32", 4, |a, b| u64::from((a as i32).max(b as i32) as u32)),
        ("max.u64", 8, |a, b| a.max(b)),
        ("max.s64", 8, |a, b| (a as i64).max(b as i64) as u64),
        ("inc.u32", 4, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", 4, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and.b32", 4, |a, b| a & b),
        ("or.b32", 4, |a, b| a | b),
        ("xor.b32", 4, |a, b| a ^ b),
        ("and.b64", 8, |a, b| a & b),
        ("or.b64", 8, |a, b| a | b),
        ("xor.b64", 8, |a, b| a ^ b),
        ("exch.b32", 4, |_, b| b),
        ("exch.b64", 8, |_, b| b),
        ("add.f32", 4, f32s),
        ("add.f64", 8, |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ]
}

/// Operands of a lane: numbers of any sign, and as floats ordinary ones.
fn operand(lane: u64, op: &str) -> u64 {
    if op.ends_with("f32") {
        return u64::from((lane as f32 * 0.37 - 3.0).to_bits());
    }
    if op.ends_with("f64") {
        return (lane as f64 * 1.1 - 7.7).to_bits();
    }
    let x = (lane + 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = if op.starts_with("inc") || op.starts_with("dec") { x >> 58 } else { x };
    if op.ends_with("32") { x & 0xFFFF_FFFF } else { x }
}

fn start(op: &str) -> u64 {
    match op.rsplit('.').next() {
        Some("f32") => u64::from(1.25_f32.to_bits()),
        Some("f64") => 1.25_f64.to_bits(),
        Some(ty) if ty.ends_with("64") => 0x8123_4567_89AB_CDEF,
        _ if op.starts_with("inc") || op.starts_with("dec") => 5,
        _ => 0x89AB_CDEF,
    }
}

#[test]
fn every_operation_in_every_layout_and_space() {
    for (op, bytes, apply) in cases() {
        let (b, old) = if bytes == 8 { ("%rd3", "%rd4") } else { ("%r3", "%r4") };
        for shared in [false, true] {
            for same in [false, true] {
                for mask in [FULL, 0x5555_5554] {
                    let mut run = Run::new();
                    (run.mask, run.shared) = (mask, 512);
                    let mut cells = vec![start(op); 32];
                    let init: Vec<u8> = cells
                        .iter()
                        .flat_map(|c| c.to_le_bytes()[..bytes as usize].to_vec())
                        .collect();
                    let global = filled(&run, init.len() as u64, |i| init[i as usize]);
                    run.block.shared = vec![Lanes([0; 32]); 4];
                    run.block.shared_bytes()[..init.len()].copy_from_slice(&init);
                    let cell = |lane: u64| if same { 2 } else { (lane * 5 + 1) % 32 };
                    let base = if shared { SHARED_WINDOW } else { global };
                    let code = format!("atom.{op} {old}, [%rd2], {b};");
                    let inputs: [(&str, &dyn Fn(u64) -> u64); 3] = [
                        ("%rd2", &|lane| base + cell(lane) * u64::from(bytes)),
                        (b, &|lane| operand(lane, op)),
                        (old, &|_| 77),
                    ];
                    let got = run.run(&code, &inputs, old).unwrap();
                    for lane in 0..32 {
                        let mut want = 77;
                        if mask >> lane & 1 != 0 {
                            let cell = &mut cells[cell(lane) as usize];
                            want = *cell;
                            *cell = apply(*cell, operand(lane, op));
                        }
                        assert_eq!(got[lane as usize], want, "{code} same {same} lane {lane}");
                    }
                    let after = if shared {
                        run.block.shared_bytes()[..init.len()].to_vec()
                    } else {
                        bytes_at(&run, global, init.len())
                    };
                    let want: Vec<u8> = cells
                        .iter()
                        .flat_map(|c| c.to_le_bytes()[..bytes as usize].to_vec())
                        .collect();
                    assert_eq!(after, want, "{code} same {same} shared {shared}");
                    assert_eq!(run.findings(), []);
                }
            }
        }
    }
}

#[test]
fn compare_and_swap_takes_turns() {
    for (ty, bytes, [b, c, old]) in [
        ("b16", 2, ["%rs1", "%rs2", "%rs3"]),
        ("b32", 4, ["%r3", "%r4", "%r5"]),
        ("b64", 8, ["%rd3", "%rd4", "%rd5"]),
    ] {
        let mut run = Run::new();
        let at = filled(&run, 16, |i| u8::from(i == 8) * 31);
        // Lane 31 - k expects k - 1 … : only lanes in falling order would all succeed; in rising order
        // the cell starts at 31, so lane 0 turns it to 30, lane 1 to 29, and so on.
        let code = format!("atom.global.cas.{ty} {old}, [%rd2+8], {b}, {c};");
        let inputs: [(&str, &dyn Fn(u64) -> u64); 3] =
            [("%rd2", &|_| at), (b, &|lane| 31 - lane), (c, &|lane| 30u64.wrapping_sub(lane))];
        let got = run.run(&code, &inputs, old).unwrap();
        assert_eq!(got, std::array::from_fn(|lane| 31 - lane as u64), "{ty}");
        let after = bytes_at(&run, at, 16);
        let full = if bytes == 2 { &[255, 255][..] } else { &[255; 8][..bytes] };
        assert_eq!(&after[8..8 + bytes], full);
        assert!(after[8 + bytes..].iter().chain(&after[..8]).all(|&byte| byte == 0));
    }
}

#[test]
fn halves_are_rounded_to_nearest_even_and_subnormals_kept() {
    // 1 + 2^-11 is halfway between two f16 and goes to the even one, 1; 1 + 3·2^-11 goes up to 1 + 2^-9.
    // The smallest subnormal twice is 2·2^-24. 65504 + 16 overflows; bf16 likewise with 8 bits.
    for (op, a, b, want) in [
        ("add.noftz.f16", 0x3C00, 0x1000, 0x3C00),
        ("add.noftz.f16", 0x3C01, 0x1000, 0x3C02),
        ("add.noftz.f16", 0x0001, 0x0001, 0x0002),
        ("add.noftz.f16", 0x7BFF, 0x4C00, 0x7C00),
        ("add.noftz.f16", 0x7C00, 0xFC00, 0x7FFF),
        ("add.noftz.bf16", 0x3F80, 0x3B80, 0x3F80),
        ("add.noftz.bf16", 0x3F81, 0x3B80, 0x3F82),
        ("add.noftz.bf16", 0x0001, 0x0001, 0x0002),
        ("add.noftz.bf16", 0x7F80, 0xFF80, 0x7FFF),
    ] {
        for (at, pair) in [(0, false), (2, false), (0, true)] {
            let mut run = Run::new();
            run.mask = 1 << 9;
            let cell = if pair { a | a << 16 } else { a << (8 * at) };
            let buffer = filled(&run, 4, |i| (cell >> (8 * i)) as u8);
            let (code, register, operand) = if pair {
                (format!("atom.global.{op}x2 %r1, [%rd2], %r3;"), "%r3", b << 16)
            } else {
                (format!("atom.global.{op} %rs1, [%rd2], %rs3;"), "%rs3", b)
            };
            let inputs: [(&str, &dyn Fn(u64) -> u64); 2] =
                [("%rd2", &|_| buffer + at), (register, &|_| operand)];
            run.run(&code, &inputs, register).unwrap();
            // In a pair the lower half gets a zero added.
            let want = if pair { a | want << 16 } else { want << (8 * at) };
            let got = super::load::little_endian(&bytes_at(&run, buffer, 4));
            assert_eq!(got, want, "{op} {a:#x} {b:#x} at {at}");
        }
    }
}

#[test]
fn global_float_sums_flush_subnormals_and_shared_ones_do_not() {
    let tiny = 0x0000_1000;
    let mut run = Run::new();
    (run.mask, run.shared) = (1, 128);
    let buffer = filled(&run, 4, |i| (tiny >> (8 * i)) as u8);
    let inputs: [(&str, &dyn Fn(u64) -> u64); 2] = [("%rd2", &|_| buffer), ("%f1", &|_| tiny)];
    run.run("red.global.add.f32 [%rd2], %f1;", &inputs, "%f1").unwrap();
    assert_eq!(bytes_at(&run, buffer, 4), [0; 4]);
    run.block.shared = vec![Lanes([tiny as u32; 32])];
    let inputs: [(&str, &dyn Fn(u64) -> u64); 2] = [("%rd2", &|_| 4), ("%f1", &|_| tiny)];
    run.run("red.shared.add.f32 [%rd2], %f1;", &inputs, "%f1").unwrap();
    assert_eq!(run.block.shared[0].0[1], 0x0000_2000);
}

#[test]
fn what_has_no_atomics_is_refused() {
    let mut run = Run::new();
    run.local = 64;
    let address = super::super::super::program::LOCAL_WINDOW;
    let fault = run.run("red.add.u32 [%rd2], %r1;", &[("%rd2", &|_| address)], "%r1").unwrap_err();
    assert_eq!(fault.kind, Kind::IllegalInstruction);
    let unwritten = run.memory.alloc(64).unwrap();
    run.run("red.add.u32 [%rd2], %r1;", &[("%rd2", &|_| unwritten)], "%r1").unwrap();
    assert_eq!(run.findings()[0].kind, Kind::Uninitialised);
}
