//! Divergence, calls, barriers.

use super::common::{Device, Random};

const PTX: &str = include_str!("control.ptx");

fn inputs(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.next() as u32).collect()
}

/// Runs `kernel(in, out, n)` on `input` in blocks of 96, and compares with the twin.
fn check(kernel: &str, input: &[u32], twin: impl Fn(u32) -> u32) {
    let device = Device::new(PTX);
    let n = input.len() as u32;
    let (from, to) = (device.buffer(input), device.buffer(&vec![0u32; input.len()]));
    device.launch(kernel, n.div_ceil(96), 96, 0, &[from.into(), to.into(), n.into()]);
    let got: Vec<u32> = device.read(to, input.len());
    for (i, (got, input)) in got.iter().zip(input).enumerate() {
        assert_eq!(*got, twin(*input), "{kernel}: element {i}, input {input}");
    }
}

#[test]
fn every_thread_knows_its_place() {
    let device = Device::new(PTX);
    let (grid, block) = ([3, 2, 2], [5, 3, 4]);
    let threads = 12 * 60;
    let out = device.buffer(&vec![0u32; threads * 3]);
    device.launch("thread_numbers", grid, block, 0, &[out.into()]);
    let got: Vec<u32> = device.read(out, threads * 3);
    let mut i = 0;
    for b in 0..12u32 {
        for t in 0..60u32 {
            let place = [
                (b % 3) | (b / 3 % 2) << 8 | (b / 6) << 16,
                (t % 5) | (t / 5 % 3) << 8 | (t / 15) << 16,
                (t % 32) | (t / 32) << 8,
            ];
            assert_eq!(got[i..i + 3], place, "block {b} thread {t}");
            i += 3;
        }
    }
}

#[test]
fn loops_of_different_lengths() {
    let input: Vec<u32> = (1..=1000).collect();
    check("collatz", &input, |mut value| {
        let mut steps = 0;
        while value != 1 {
            value = if value % 2 == 1 { 3 * value + 1 } else { value / 2 };
            steps += 1;
        }
        steps
    });
}

#[test]
fn nested_loops_with_early_exits() {
    check("nested_loops", &inputs(1000, 11), |x| {
        let mut hash = 1u32;
        for a in 0..x % 7 {
            'two: {
                for b in 0..(x >> 3) % 5 + a {
                    if (x ^ b) % 3 == 0 {
                        continue;
                    }
                    if hash % 11 == 7 {
                        break;
                    }
                    let mut c = b;
                    loop {
                        hash = hash.wrapping_mul(31).wrapping_add(c);
                        if hash & 16 != 0 {
                            break 'two;
                        }
                        let more = c > a;
                        c = c.wrapping_sub(1);
                        if !more {
                            break;
                        }
                    }
                }
                hash = hash.wrapping_add(a);
            }
            hash ^= a << 5;
            if hash % 13 == 4 {
                return hash;
            }
        }
        hash
    });
}

#[test]
fn switch_tables() {
    check("switch_table", &inputs(1000, 12), |x| {
        let mut y = x;
        for _ in 0..4 {
            match y % 12 {
                0 => y = y.wrapping_mul(3).wrapping_add(1),
                1 => y ^= 0x55,
                2 => y = y.wrapping_add(17).rotate_left(3),
                3 => y = y.rotate_left(3),
                4 => y = !y,
                5 => y = y.wrapping_sub(x),
                6 => y /= 3,
                7 => y = y.reverse_bits(),
                8 => y = y.wrapping_mul(y),
                9 => return y.wrapping_add(9),
                10 => y = (y >> 1) ^ 0x1234,
                _ => y = y.wrapping_add(1_000_003),
            }
        }
        y
    });
}

#[test]
fn recursion() {
    const FIBONACCI: [u32; 12] = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    check("recursion", &inputs(100, 13), |x| FIBONACCI[x as usize % 12]);
}

#[test]
fn structs_go_by_value() {
    let device = Device::new(PTX);
    let input = inputs(100, 14);
    let (from, to) = (device.buffer(&input), device.buffer(&[0u64; 100]));
    device.launch("structs_by_value", 1, 100, 0, &[from.into(), to.into(), 100u32.into()]);
    let got: Vec<u64> = device.read(to, 100);
    for (got, x) in got.iter().zip(input) {
        let combine = |(a, b, c): (u32, u64, f32), y: u32| {
            let entry = x.wrapping_mul((y & 3) + 1);
            (a.wrapping_add(entry), b.wrapping_mul(u64::from(y)), c - y as f32)
        };
        let start = (x, 1u64 << 33, 0.5f32);
        let (a, b, c) = combine(if x & 1 == 1 { combine(start, x) } else { start }, 3);
        let want = u64::from(a).wrapping_add(b).wrapping_add((c * 2.0) as i64 as u64);
        assert_eq!(*got, want, "input {x}");
    }
}

#[test]
fn function_pointers() {
    check("function_pointers", &inputs(100, 15), |x| {
        let y = match x % 3 {
            0 => x.wrapping_mul(2),
            1 => x.wrapping_mul(x),
            _ => x.wrapping_neg(),
        };
        y.wrapping_add(1)
    });
}

#[test]
fn lanes_of_a_warp_wait_for_each_other() {
    let device = Device::new(PTX);
    let (lock, count) = (device.buffer(&[0u32]), device.buffer(&[0u32]));
    device.launch("spin_lock", 6, 96, 0, &[lock.into(), count.into()]);
    assert_eq!(device.read::<u32>(count, 1), [6 * 96]);
}

#[test]
fn warps_of_a_block_wait_for_each_other() {
    let device = Device::new(PTX);
    let out = device.buffer(&[0u32; 24]);
    device.launch("token", 3, 256, 0, &[out.into()]);
    let want: Vec<u32> = (0..24).map(|i| i % 8 * 10).collect();
    assert_eq!(device.read::<u32>(out, 24), want);
}

#[test]
fn blocks_of_a_grid_wait_for_each_other() {
    let device = Device::new(PTX);
    let (arrived, data, out) =
        (device.buffer(&[0u32]), device.buffer(&[0u32; 20]), device.buffer(&[0u32; 20]));
    device.launch("grid_barrier", 20, 1, 0, &[arrived.into(), data.into(), out.into()]);
    assert_eq!(device.read::<u32>(out, 20), [210; 20]);
}

#[test]
fn barriers_count_votes() {
    let device = Device::new(PTX);
    for (input, expected) in [
        ((0..80).collect::<Vec<u32>>(), 40 | 1 << 16 | 1 << 17),
        (vec![1; 80], 80 | 1 << 16),
        ((0..80).map(|i| i * 50).collect(), 0),
    ] {
        let (from, to) = (device.buffer(&input), device.buffer(&[0u32; 80]));
        device.launch("barrier_votes", 1, 80, 0, &[from.into(), to.into()]);
        assert_eq!(device.read::<u32>(to, 80), [expected; 80]);
    }
}

#[test]
fn named_barriers_between_makers_and_takers() {
    let device = Device::new(PTX);
    let rounds = 9;
    let input = inputs(64 * rounds, 16);
    let (from, to) = (device.buffer(&input), device.buffer(&vec![0u32; 64 * rounds]));
    device.launch("named_barriers", 1, 128, 0, &[from.into(), to.into(), (rounds as u32).into()]);
    let got: Vec<u32> = device.read(to, 64 * rounds);
    for (i, got) in got.iter().enumerate() {
        let from = i / 64 * 64 + 63 - i % 64;
        assert_eq!(*got, input[from].wrapping_mul(3), "round {} thread {}", i / 64, i % 64);
    }
}

#[test]
fn uneven_work_between_barriers() {
    let device = Device::new(PTX);
    let out = device.buffer(&[0u32; 512]);
    device.launch("uneven_work", 4, 128, 0, &[out.into()]);
    let mut mine: Vec<u32> = (0..128).collect();
    for round in 0..5 {
        for (t, mine) in (0..).zip(&mut mine) {
            for k in 0..(t * 7 + round) % 19 {
                *mine = mine.wrapping_mul(5).wrapping_add(k);
            }
        }
        let sum = mine.clone();
        for t in 0..128 {
            mine[t] = mine[t].wrapping_add(sum[(t + 37) % 128]);
        }
    }
    let got: Vec<u32> = device.read(out, 512);
    for (i, got) in got.iter().enumerate() {
        assert_eq!(*got, mine[i % 128], "block {} thread {}", i / 128, i % 128);
    }
}

#[test]
fn warp_barriers_in_both_branches_meet() {
    let device = Device::new(PTX);
    let out = device.buffer(&[0u32; 32]);
    device.launch("warp_barriers_in_both_branches", 1, 32, 0, &[out.into()]);
    let want: Vec<u32> =
        (0..32).map(|t| if t % 2 == 1 { (t - 1) * 5 + 1 } else { (t + 1) * 3 + 2 }).collect();
    assert_eq!(device.read::<u32>(out, 32), want);
}

/// printf writes to the process's standard output, so a process of its own prints.
#[test]
fn printf_prints() {
    const CHILD: &str = "VIRTUAL_GPU_PRINTS";
    if std::env::var_os(CHILD).is_some() {
        Device::new(PTX).launch("prints", 1, 32, 0, &[(-9).into()]);
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["control::printf_prints", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let want = "plain % -5 -9 7 ff FF 10 q text|   42|42   |00042|+42|    42|\
                -1099511627776 9223372036854775808 1000000000 3|\
                1.500000 1.235e+04 1e-07     2.35|abc %$d|three 1 2 3 3\n\
                thread 0\nthread 1\nthread 2\n";
    // 2.345f is 2.3450000286…: the C library's own rounding of it.
    assert!(said.contains(want), "{said}");
}

/// The same results in every order of blocks and warps.
#[test]
fn shuffled_schedules_give_the_same() {
    for seed in 0..20 {
        let options = virtual_gpu::Options { seed: Some(seed), ..Default::default() };
        let device = Device::with(PTX, options);
        let out = device.buffer(&[0u32; 512]);
        device.launch("uneven_work", 4, 128, 0, &[out.into()]);
        let got: Vec<u32> = device.read(out, 512);
        assert_eq!(got[..128], got[384..], "seed {seed}");
        let out = device.buffer(&[0u32; 24]);
        device.launch("token", 3, 256, 0, &[out.into()]);
        let want: Vec<u32> = (0..24).map(|i| i % 8 * 10).collect();
        assert_eq!(device.read::<u32>(out, 24), want, "seed {seed}");
    }
}

/// A warp sees what was voted when it voted, however late it goes on.
#[test]
fn votes_are_kept_for_who_voted() {
    for seed in std::iter::once(None).chain((0..20).map(Some)) {
        let device = Device::with(PTX, virtual_gpu::Options { seed, ..Default::default() });
        let out = device.buffer(&[0u32; 192]);
        device.launch("votes_of_pairs", 1, 96, 0, &[out.into()]);
        let got: Vec<u32> = device.read(out, 192);
        // 3 and 7 of warps 0 and 1; 23 and 27 of warps 1 and 2.
        let want = |i| {
            if i < 64 {
                10
            } else if i < 128 {
                0
            } else {
                23 + 27
            }
        };
        for (i, got) in got.iter().enumerate() {
            assert_eq!(*got, want(i), "seed {seed:?}, round {}, thread {}", i / 96, i % 96);
        }
    }
}

const BY_INDEX: &str = include_str!("by_index.ptx");

/// brx.idx with lanes at every target and past it (its guard is false), in a loop; fences between.
#[test]
fn branches_by_index() {
    let device = Device::new(BY_INDEX);
    let out = device.buffer(&[0u32; 70]);
    device.launch("by_index", 1, 70, 0, &[out.into()]);
    for (thread, got) in (0u32..).zip(device.read::<u32>(out, 70)) {
        let want = (0..9).fold(0u32, |x, round| match (thread + round) % 5 {
            0 => x + 100,
            1 | 3 => x ^ 0x55,
            2 => x << 1,
            _ => x.wrapping_mul(3).wrapping_add(7),
        });
        assert_eq!(got, want, "thread {thread}");
    }
}

#[test]
fn traps_and_indices_past_the_table_end_the_launch() {
    let device = Device::new(BY_INDEX);
    let kind = |which: u32| {
        let outcome = device.try_launch("out_of_the_table", 1, 32, 0, &[which.into()]);
        outcome.findings.first().map(|finding| (finding.kind, finding.place.ptx_line))
    };
    assert_eq!(kind(0), None);
    assert_eq!(kind(1), Some((virtual_gpu::Kind::Trap, 65)));
    assert_eq!(kind(2), Some((virtual_gpu::Kind::IllegalInstruction, 61)));
}
