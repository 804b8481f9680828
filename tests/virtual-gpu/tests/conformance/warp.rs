//! Exchange between the lanes of a warp, in divergent code and with partial masks.

use virtual_gpu::{Gpu, Kind, Options};

use super::common::{Device, Random, list};

const PTX: &str = include_str!("warp.ptx");
const PTX_90: &str = include_str!("warp_90.ptx");
/// What a lane that stays away leaves in its outputs.
const AWAY: u32 = 0xAAAA_AAAA;

/// For 64 lanes a member mask and a path each: random groups, some lanes in none, lanes of a group on the
/// same path.
fn groups(random: &mut Random) -> (Vec<u32>, Vec<u32>) {
    let (mut masks, mut paths) = (vec![0; 64], vec![0; 64]);
    for warp in 0..2 {
        let group: Vec<u64> = (0..32).map(|_| random.next() >> 20 & 3).collect();
        let path: Vec<u32> = (0..4).map(|_| (random.next() >> 9) as u32 & 1).collect();
        for lane in 0..32 {
            paths[warp * 32 + lane] = path[group[lane] as usize];
            if group[lane] != 3 {
                let members = (0..32).filter(|&other| group[other] == group[lane]);
                masks[warp * 32 + lane] = members.fold(0, |mask, other| mask | 1 << other);
            }
        }
    }
    (masks, paths)
}

fn words(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| (random.next() >> 16) as u32).collect()
}

/// The manual's pseudo-code for shfl: source lane, and whether it is in range.
fn source(mode: &str, lane: i32, b: u32, c: u32) -> (i32, bool) {
    let (bval, cval, segmask) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let max_lane = (lane & segmask) | (cval & !segmask);
    let min_lane = lane & segmask;
    let (j, inside) = match mode {
        "up" => (lane - bval, lane - bval >= max_lane),
        "down" => (lane + bval, lane + bval <= max_lane),
        "bfly" => (lane ^ bval, (lane ^ bval) <= max_lane),
        _ => {
            let j = min_lane | (bval & !segmask);
            (j, j <= max_lane)
        }
    };
    if inside { (j, true) } else { (lane, false) }
}

/// A mode of shfl with any b and c, in random groups on two paths.
fn shuffle(mode: &str) {
    let device = Device::new(PTX);
    let mut random = Random(31);
    let mut compared = 0;
    for round in 0..40 {
        let (masks, paths) = groups(&mut random);
        let a: Vec<u32> = words(&mut random, 64).iter().map(|x| x & 0x0FFF_FFFF).collect();
        let b: Vec<u32> = words(&mut random, 64).iter().map(|x| x % 40).collect();
        // A width as C++ has it, or anything.
        let segments = 0x1F1F & (0x2000 - (0x100 << (round % 6)));
        let c: Vec<u32> = match round % 3 {
            0 => words(&mut random, 64),
            1 => vec![segments & 0x1F00; 64],
            _ => vec![segments & 0x1F00 | 0x1F; 64],
        };
        let out = device.unwritten::<u32>(128);
        let args = [&a, &b, &c, &masks, &paths].map(|values| device.buffer(values).into());
        device.launch(
            &format!("shfl_{mode}"),
            1,
            64,
            0,
            &[args.as_slice(), &[out.into()]].concat(),
        );
        for (i, got) in device.read::<[u32; 2]>(out, 64).into_iter().enumerate() {
            if masks[i] == 0 {
                assert_eq!(got, [AWAY; 2], "round {round}, thread {i} stays away");
                continue;
            }
            let (j, inside) = source(mode, i as i32 % 32, b[i], c[i]);
            assert_eq!(got[1], u32::from(inside), "round {round}, thread {i}: predicate");
            // From a lane outside the group the value is undefined.
            if masks[i] >> j & 1 == 1 {
                let added = if paths[i] & 1 == 1 { 1000 } else { 0 };
                let want = a[i / 32 * 32 + j as usize] + added;
                assert_eq!(got[0], want, "round {round}, thread {i} from lane {j}");
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "only {compared} defined values");
}

#[test]
fn shfl_up() {
    shuffle("up");
}

#[test]
fn shfl_down() {
    shuffle("down");
}

#[test]
fn shfl_bfly() {
    shuffle("bfly");
}

#[test]
fn shfl_idx() {
    shuffle("idx");
}

/// The C++ functions, as the programming guide describes them.
fn shuffle_functions(width: usize) {
    let device = Device::new(PTX);
    let input = words(&mut Random(32), 32);
    for delta in 0..width {
        let (from, out) = (device.buffer(&input), device.unwritten::<u32>(128));
        let args = [from.into(), out.into(), (delta as u32).into(), (width as i32).into()];
        device.launch("shuffle_functions", 1, 32, 0, &args);
        for (lane, got) in device.read::<[u32; 4]>(out, 32).into_iter().enumerate() {
            let (first, place) = (lane / width * width, lane % width);
            let up = if place >= delta { lane - delta } else { lane };
            let down = if place + delta < width { lane + delta } else { lane };
            let want = [up, down, lane ^ delta, first + delta].map(|from| input[from]);
            assert_eq!(got, want, "width {width}, delta {delta}, lane {lane}");
        }
    }
}

#[test]
fn shuffles_of_width_32() {
    shuffle_functions(32);
}

#[test]
fn shuffles_of_width_16() {
    shuffle_functions(16);
}

#[test]
fn shuffles_of_width_8() {
    shuffle_functions(8);
}

#[test]
fn shuffles_of_width_4() {
    shuffle_functions(4);
}

#[test]
fn shuffles_of_width_2_and_1() {
    shuffle_functions(2);
    shuffle_functions(1);
}

#[test]
fn shuffles_of_floats_and_doubles() {
    let device = Device::new(PTX);
    let input: Vec<f64> = (0..32).map(|i| f64::from(i) * 1.25 + 1e9).collect();
    let out = device.unwritten::<f64>(32);
    device.launch("shuffle_types", 1, 32, 0, &[device.buffer(&input).into(), out.into()]);
    let want = input.iter().sum::<f64>() + f64::from((0..32).sum::<i32>());
    assert_eq!(device.read::<f64>(out, 32), [want; 32]);
}

#[test]
fn votes() {
    let device = Device::new(PTX);
    let mut random = Random(33);
    for round in 0..30u32 {
        let (masks, paths) = groups(&mut random);
        // Also rounds where all agree.
        let level = [1u32 << 31, 0, u32::MAX][round as usize % 3];
        let input: Vec<i32> =
            words(&mut random, 64).iter().map(|&x| if x < level { 1 } else { -1 }).collect();
        let out = device.unwritten::<[u32; 5]>(64);
        let (a, b) = (device.buffer(&masks), device.buffer(&paths));
        device.launch(
            "votes",
            1,
            64,
            0,
            &[device.buffer(&input).into(), a.into(), b.into(), out.into()],
        );
        for (i, got) in device.read::<[u32; 5]>(out, 64).into_iter().enumerate() {
            let group: Vec<usize> = (0..32).filter(|lane| masks[i] >> lane & 1 == 1).collect();
            let ayes = group.iter().filter(|&&lane| input[i / 32 * 32 + lane] > 0);
            let ballot = ayes.clone().fold(0u32, |mask, lane| mask | 1 << lane);
            let (count, all) = (ayes.count(), group.len());
            let flags = [count == all, count > 0, count == all || count == 0, count == 0];
            let [all, any, uniform, none] = flags.map(u32::from);
            let want = match (masks[i], paths[i] & 1) {
                (0, _) => [AWAY; 5],
                (_, 1) => [AWAY, AWAY, AWAY, ballot ^ 1, AWAY],
                _ => [all, any, uniform, ballot, none],
            };
            assert_eq!(got, want, "round {round}, thread {i}");
        }
    }
}

#[test]
fn votes_of_negated_predicates() {
    let device = Device::new(PTX);
    for (input, want) in [
        ((0..32).map(|i| i % 3 - 1).collect::<Vec<i32>>(), {
            let no = (0..32).filter(|i| i % 3 - 1 <= 0);
            [no.fold(0, |mask, i| mask | 1 << i), 0]
        }),
        (vec![0; 32], [u32::MAX, 1]),
    ] {
        let out = device.unwritten::<[u32; 2]>(32);
        device.launch("vote_negated", 1, 32, 0, &[device.buffer(&input).into(), out.into()]);
        assert_eq!(device.read::<[u32; 2]>(out, 32), [want; 32]);
    }
}

#[test]
fn matches() {
    let device = Device::new(PTX);
    let mut random = Random(34);
    for round in 0..30u64 {
        let (masks, _) = groups(&mut random);
        // Few values, some of them different in the upper half only.
        let values = 1 + round % 4;
        let mut value = || random.next() >> 8;
        let input: Vec<u64> =
            (0..64).map(|_| (value() % values) | (value() % values) << 32).collect();
        let out = device.unwritten::<[u32; 6]>(64);
        let args = [device.buffer(&input).into(), device.buffer(&masks).into(), out.into()];
        device.launch("matches", 1, 64, 0, &args);
        for (i, got) in device.read::<[u32; 6]>(out, 64).into_iter().enumerate() {
            let equal = |keep: u64| {
                let same = |lane: &usize| (input[i / 32 * 32 + lane] ^ input[i]) & keep == 0;
                let group = (0..32).filter(|lane| masks[i] >> lane & 1 == 1);
                group.filter(same).fold(0u32, |mask, lane| mask | 1 << lane)
            };
            let (narrow, wide) = (equal(0xFFFF_FFFF), equal(u64::MAX));
            let all = |equal: u32| if equal == masks[i] { [equal, 1] } else { [0, 0] };
            let want = match masks[i] {
                0 => [AWAY, AWAY, AWAY, AWAY, 2, 2],
                _ => [narrow, wide, all(narrow)[0], all(wide)[0], all(narrow)[1], all(wide)[1]],
            };
            assert_eq!(got, want, "round {round}, thread {i}");
        }
    }
}

#[test]
fn reductions() {
    let device = Device::new(PTX);
    let mut random = Random(35);
    for round in 0..20 {
        let (masks, _) = groups(&mut random);
        let input = words(&mut random, 64);
        let out = device.unwritten::<[u32; 9]>(64);
        let args = [device.buffer(&input).into(), device.buffer(&masks).into(), out.into()];
        device.launch("reductions", 1, 64, 0, &args);
        for (i, got) in device.read::<[u32; 9]>(out, 64).into_iter().enumerate() {
            let group: Vec<u32> = (0..32)
                .filter(|lane| masks[i] >> lane & 1 == 1)
                .map(|lane| input[i / 32 * 32 + lane])
                .collect();
            if group.is_empty() {
                assert_eq!(got, [AWAY; 9], "round {round}, thread {i} stays away");
                continue;
            }
            let sum = group.iter().map(|&x| u64::from(x)).sum::<u64>() as u32;
            let signed = || group.iter().map(|&x| x as i32);
            let want = [
                sum,
                *group.iter().min().expect("not empty"),
                *group.iter().max().expect("not empty"),
                sum,
                signed().min().expect("not empty") as u32,
                signed().max().expect("not empty") as u32,
                group.iter().fold(u32::MAX, |all, x| all & x),
                group.iter().fold(0, |all, x| all | x),
                group.iter().fold(0, |all, x| all ^ x),
            ];
            assert_eq!(got, want, "round {round}, thread {i}");
        }
    }
}

#[test]
fn active_masks() {
    let device = Device::new(PTX);
    let input = words(&mut Random(36), 32);
    let out = device.unwritten::<u32>(32);
    device.launch("active_masks", 1, 32, 0, &[device.buffer(&input).into(), out.into()]);
    let lanes = |bits: u32| {
        (0..32).filter(|&i| input[i] & bits == bits).fold(0u32, |mask, i| mask | 1 << i)
    };
    for (i, got) in device.read::<u32>(out, 32).into_iter().enumerate() {
        let want = match input[i] & 7 {
            6 | 7 => lanes(6),
            odd if odd & 1 == 1 => lanes(1),
            _ => u32::MAX,
        };
        assert_eq!(got, want, "lane {i}");
    }
}

#[test]
fn tiles_with_masks_of_their_own() {
    let device = Device::new(PTX);
    let input = words(&mut Random(37), 64);
    let rounds = [3, 11, 0, 7, 25, 1, 2, 9];
    let out = device.unwritten::<u32>(64);
    let args = [device.buffer(&input).into(), device.buffer(&rounds).into(), out.into()];
    device.launch("tiles", 1, 64, 0, &args);
    let got: Vec<u32> = device.read(out, 64);
    for (tile, &rounds) in rounds.iter().enumerate() {
        let mut x = input[tile * 8..][..8].to_vec();
        for round in 0..rounds as usize {
            x[round % 8] ^= input[(tile * 8 + round % 8 + round) % 64];
            let from = x[round % 8];
            x.iter_mut().for_each(|x| *x = x.wrapping_add(from));
            let ballot = (0..8).fold(0, |mask, i| mask | (x[i] & 1) << i);
            // The functions take the ballot of the tile's lanes only, shifted to bit 0.
            x.iter_mut().for_each(|x| *x = x.wrapping_add(ballot));
        }
        assert_eq!(got[tile * 8..][..8], x, "tile {tile}");
    }
}

#[test]
fn a_tile_that_is_complete_does_not_take_another_along() {
    let device = Device::new(PTX);
    let input = words(&mut Random(40), 32);
    let out = device.unwritten::<u32>(32);
    device.launch("tile_after_tile", 1, 32, 0, &[device.buffer(&input).into(), out.into()]);
    let want: Vec<u32> = (0..32).map(|lane| input[lane].wrapping_add(input[lane ^ 1])).collect();
    assert_eq!(device.read::<u32>(out, 32), want);
}

#[test]
fn warp_barriers_order_shared_memory() {
    let device = Device::new(PTX);
    let input = words(&mut Random(38), 32);
    let out = device.unwritten::<u32>(32);
    device.launch("warp_barriers", 1, 32, 0, &[device.buffer(&input).into(), out.into()]);
    let mut want = input.clone();
    for _ in 0..5 {
        let slots = want.clone();
        for lane in 0..12 {
            want[lane] = slots[lane].wrapping_mul(3).wrapping_add(slots[(lane + 1) % 12]);
        }
    }
    for lane in 12..32 {
        want[lane] = input[lane] ^ input[43 - lane];
    }
    assert_eq!(device.read::<u32>(out, 32), want);
}

#[test]
fn wrong_member_masks_are_found() {
    let device = Device::new(PTX);
    let findings = |masks: &[u32]| {
        let out = device.buffer(&[0u32; 32]);
        let args = [device.buffer(masks).into(), out.into()];
        device.try_launch("shuffle_with", 1, 32, 0, &args).findings
    };
    assert!(findings(&[u32::MAX; 32]).is_empty());
    assert!(findings(&[[0x0000_FFFF; 16], [0xFFFF_0000; 16]].concat()).is_empty());

    let lacking = findings(&[0xFFFF_FFFB; 32]);
    let [finding] = lacking.as_slice() else { panic!("{}", list(&lacking)) };
    assert_eq!((finding.kind, finding.place.thread), (Kind::WrongMemberMask, [2, 0, 0]));

    let mut masks = [u32::MAX; 32];
    masks[7] = 0xFF;
    let differing = findings(&masks);
    let [finding] = differing.as_slice() else { panic!("{}", list(&differing)) };
    assert_eq!(finding.kind, Kind::WrongMemberMask);
}

#[test]
fn elections() {
    let options = Options { compute_capability: (9, 0), ..Options::default() };
    let device = Device::with(PTX_90, options);
    let (masks, _) = groups(&mut Random(39));
    let out = device.unwritten::<[u32; 2]>(64);
    device.launch("elections", 1, 64, 0, &[device.buffer(&masks).into(), out.into()]);
    let got: Vec<[u32; 2]> = device.read(out, 64);
    for (i, &mask) in masks.iter().enumerate() {
        if mask == 0 {
            assert_eq!(got[i], [AWAY, 2], "thread {i}");
            continue;
        }
        // Which lane it is, is the machine's choice; that it is one of the group, and one only, is not.
        let [leader, elected] = got[i];
        assert_eq!(mask >> leader & 1, 1, "thread {i}");
        assert_eq!(elected == 1, leader as usize == i % 32, "thread {i}");
        let first = i / 32 * 32 + mask.trailing_zeros() as usize;
        assert_eq!(leader, got[first][0], "thread {i}");
    }
}

#[test]
fn instructions_of_older_gpus_are_refused() {
    let gpu = Gpu::new(Options::default());
    for (instruction, why) in [
        ("shfl.up.b32 %r1, %r2, 1, 0;", "without .sync"),
        ("vote.ballot.b32 %r1, %p1;", "without .sync"),
        (
            "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};",
            "not known",
        ),
        (
            "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1}, %r1, 0;",
            "sparse",
        ),
    ] {
        let text = format!(
            ".version 8.1\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n\
             .reg .pred %p<2>;\n.reg .b32 %r<3>;\n{instruction}\nret;\n}}\n"
        );
        let error = gpu.load(&text).err().unwrap_or_else(|| panic!("{instruction} was taken"));
        let error = error.to_string();
        assert!(error.contains(why) && error.contains('8'), "{instruction}: {error}");
    }
}
