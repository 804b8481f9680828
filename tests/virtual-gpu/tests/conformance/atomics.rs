//! Atomics: every operation and type, in global and shared memory, between lanes, warps and blocks.

use bytemuck::{Pod, Zeroable};

use super::common::{Device, Random};

const PTX: &str = include_str!("atomics.ptx");

/// Blocks and threads of most launches here: warps that are not full among them.
const BLOCKS: u32 = 7;
const THREADS: u32 = 80;
const ALL: usize = (BLOCKS * THREADS) as usize;

fn values(seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    (0..ALL).map(|_| random.next()).collect()
}

fn words(seed: u64) -> Vec<u32> {
    values(seed).iter().map(|x| (x >> 7) as u32).collect()
}

#[test]
fn sums_into_one_cell() {
    let device = Device::new(PTX);
    let input = words(31);
    let from = device.buffer(&input);
    let u = device.buffer(&[5u32, 6, 7]);
    let (l, f, d) = (device.buffer(&[8u64]), device.buffer(&[0.0f32]), device.buffer(&[0.0f64]));
    let args = [from.into(), u.into(), l.into(), f.into(), d.into()];
    device.launch("sums", BLOCKS, THREADS, 0, &args);
    let sum = |f: &dyn Fn(u32) -> u64| input.iter().fold(0u64, |all, x| all.wrapping_add(f(*x)));
    let all = sum(&|x| x.into());
    let want = [
        5u32.wrapping_add(all as u32),
        6u32.wrapping_sub(sum(&|x| u64::from(x & 0xFFFF)) as u32),
        7u32.wrapping_sub(all as u32),
    ];
    assert_eq!(device.read::<u32>(u, 3), want);
    assert_eq!(device.read::<u64>(l, 1), [8 + (all << 20)]);
    // Sums of integers below 2^24 and 2^53 are exact in any order.
    assert_eq!(device.read::<f32>(f, 1), [sum(&|x| u64::from(x & 63)) as f32]);
    assert_eq!(device.read::<f64>(d, 1), [all as f64 * 0.5]);
}

#[test]
fn nobody_shares_a_ticket() {
    let device = Device::new(PTX);
    for (kernel, counter) in
        [("tickets", device.buffer(&[0u32, 0])), ("wide_tickets", device.buffer(&[3u64 << 40]))]
    {
        let owner = device.buffer(&vec![u32::MAX; ALL]);
        device.launch(kernel, BLOCKS, THREADS, 0, &[counter.into(), owner.into()]);
        let mut got: Vec<u32> = device.read(owner, ALL);
        got.sort_unstable();
        assert_eq!(got, (0..ALL as u32).collect::<Vec<_>>(), "{kernel}");
    }
}

#[test]
fn smallest_and_largest_signed_and_unsigned() {
    let device = Device::new(PTX);
    let input: Vec<i64> = values(32).iter().map(|x| *x as i64).collect();
    let from = device.buffer(&input);
    let s = device.buffer(&[i32::MAX, i32::MIN]);
    let u = device.buffer(&[u32::MAX, 0]);
    let sl = device.buffer(&[i64::MAX, i64::MIN]);
    let ul = device.buffer(&[u64::MAX, 0]);
    let args = [from.into(), s.into(), u.into(), sl.into(), ul.into()];
    device.launch("extremes", BLOCKS, THREADS, 0, &args);
    fn ends<T: Ord + Copy>(values: impl Iterator<Item = T> + Clone) -> [T; 2] {
        [values.clone().min().unwrap(), values.max().unwrap()]
    }
    assert_eq!(device.read::<i32>(s, 2), ends(input.iter().map(|x| *x as i32)));
    assert_eq!(device.read::<u32>(u, 2), ends(input.iter().map(|x| *x as u32)));
    assert_eq!(device.read::<i64>(sl, 2), ends(input.iter().copied()));
    assert_eq!(device.read::<u64>(ul, 2), ends(input.iter().map(|x| *x as u64)));
}

/// Each thread has a cell of its own: the old value must be what was there, the new one what it should.
fn check_old<T: Pod + Zeroable + PartialEq + std::fmt::Debug>(
    name: &str,
    value: impl Fn(u64) -> T,
    apply: impl Fn(T, T) -> T,
) {
    let device = Device::new(PTX);
    // 7 and 561 have no common factor: as many cells as threads, and one more, all different.
    let n = ALL + 1;
    let mut cells: Vec<T> = values(33).iter().map(|x| value(*x)).collect();
    cells.push(value(3));
    let input: Vec<T> = values(34).iter().map(|x| value(*x)).collect();
    let (at, from) = (device.buffer(&pod(&cells)), device.buffer(&pod(&input)));
    let old = device.unwritten::<T>(ALL);
    let args = [at.into(), from.into(), old.into(), (n as u32).into()];
    device.launch(&format!("old_{name}"), BLOCKS, THREADS, 0, &args);
    assert_old(&device.read(old, ALL), &device.read(at, n), &cells, &input, apply, name);
}

fn pod<T: Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn assert_old<T: Copy + PartialEq + std::fmt::Debug>(
    old: &[T],
    after: &[T],
    cells: &[T],
    input: &[T],
    apply: impl Fn(T, T) -> T,
    name: &str,
) {
    let mut want = cells.to_vec();
    for (i, x) in input.iter().enumerate() {
        let cell = i * 7 % cells.len();
        assert_eq!(old[i], want[cell], "{name}: thread {i}");
        want[cell] = apply(want[cell], *x);
    }
    assert_eq!(after, want, "{name}");
}

#[test]
fn add_and_subtract_return_what_was_there() {
    check_old("add", |x| x as u32, u32::wrapping_add);
    check_old("sub", |x| x as i32, i32::wrapping_sub);
}

#[test]
fn exchange_returns_what_was_there() {
    check_old("exch", |x| x as u32, |_, b| b);
    check_old("exch64", |x| x, |_, b| b);
    check_old("exchf", |x| x as u32 as f32, |_, b| b);
}

#[test]
fn min_and_max_return_what_was_there() {
    check_old("min", |x| x as i32, Ord::min);
    check_old("max", |x| x, Ord::max);
}

#[test]
fn bit_operations_return_what_was_there() {
    check_old("and", |x| x as u32, |a, b| a & b);
    check_old("or", |x| x, |a, b| a | b);
    check_old("xor", |x| x as u32, |a, b| a ^ b);
}

#[test]
fn float_sums_are_rounded_to_nearest_even() {
    // Of one sign and magnitude or far apart: rounding, cancellation, absorption; no subnormals.
    let float = |x: u64| f32::from_bits((x as u32 & 0x87FF_FFFF) | 0x3800_0000);
    check_old("addf", float, |a, b| (f64::from(a) + f64::from(b)) as f32);
    check_old(
        "addd",
        |x| f64::from_bits(x & 0x83FF_FFFF_FFFF_FFFF | 0x3C00_0000_0000_0000),
        |a, b| a + b,
    );
}

#[test]
fn compare_and_swap_when_equal_only() {
    // Values of two bits: a quarter of the cells is what is asked for.
    check_old("cas", |x| x as u32 & 3, |a, b| if a == b & !1 { b } else { a });
}

#[test]
fn rings_wrap_around() {
    let device = Device::new(PTX);
    for bound in [0u32, 1, 9, 1000] {
        // Both start above the bound, which takes them to 0 and to the bound.
        let start = bound + 3;
        let cells = device.buffer(&[start, start]);
        let (up, down) = (device.buffer(&[0u32; 1004]), device.buffer(&[0u32; 1004]));
        let args = [cells.into(), up.into(), down.into(), bound.into()];
        device.launch("rings", BLOCKS, THREADS, 0, &args);
        let (mut seen_up, mut seen_down) = (vec![0u32; 1004], vec![0u32; 1004]);
        seen_up[start as usize] += 1;
        seen_down[start as usize] += 1;
        let period = bound as usize + 1;
        for i in 0..ALL - 1 {
            seen_up[i % period] += 1;
            seen_down[bound as usize - i % period] += 1;
        }
        assert_eq!(device.read::<u32>(up, 1004), seen_up, "up to {bound}");
        assert_eq!(device.read::<u32>(down, 1004), seen_down, "down from {bound}");
        let end = ((ALL - 1) % period) as u32;
        assert_eq!(device.read::<u32>(cells, 2), [end, bound - end], "bound {bound}");
    }
}

#[test]
fn bits_set_flipped_and_cleared() {
    let device = Device::new(PTX);
    let count = ALL.div_ceil(32);
    let (or, xor) = (device.buffer(&vec![0u32; count]), device.buffer(&[1u32]));
    let and = device.buffer(&[u64::MAX; 2]);
    device.launch("bits", BLOCKS, THREADS, 0, &[or.into(), xor.into(), and.into()]);
    let mut all = vec![u32::MAX; count];
    all[count - 1] >>= (count * 32 - ALL) as u32;
    assert_eq!(device.read::<u32>(or, count), all);
    let flipped = (0..ALL as u32).fold(1, |x, i| x ^ i.wrapping_mul(0x9E37_79B9));
    assert_eq!(device.read::<u32>(xor, 1), [flipped]);
    assert_eq!(device.read::<u64>(and, 2), [0, 0]);
}

#[test]
fn exchanges_make_a_chain() {
    let device = Device::new(PTX);
    let (cell, before) = (device.buffer(&[u32::MAX]), device.unwritten::<u32>(ALL));
    device.launch("chain", BLOCKS, THREADS, 0, &[cell.into(), before.into()]);
    let before: Vec<u32> = device.read(before, ALL);
    let mut at = device.read::<u32>(cell, 1)[0];
    for left in (0..ALL).rev() {
        assert_ne!(at, u32::MAX, "the chain ends {left} links early");
        at = before[at as usize];
    }
    assert_eq!(at, u32::MAX);
}

#[test]
fn loops_around_compare_and_swap() {
    let device = Device::new(PTX);
    let input: Vec<f32> = words(35).iter().map(|x| (x % 100_000) as f32 * 0.25).collect();
    let from = device.buffer(&input);
    let (maximum, best) = (device.buffer(&[0.0f32]), device.buffer(&[0u64]));
    let small = device.buffer(&[3u16, 0x1234]);
    let args = [from.into(), maximum.into(), best.into(), small.into()];
    device.launch("cas_loops", BLOCKS, THREADS, 0, &args);
    let pairs = input.iter().enumerate().map(|(i, x)| u64::from(x.to_bits()) << 32 | i as u64);
    let top = pairs.max().unwrap();
    assert_eq!(device.read::<u32>(maximum, 1), [(top >> 32) as u32]);
    assert_eq!(device.read::<u64>(best, 1), [top]);
    let steps = (0..ALL).fold(3u16, |x, _| x.wrapping_mul(5).wrapping_add(1));
    assert_eq!(device.read::<u16>(small, 2), [steps, 0x1234]);
}

#[test]
fn a_lock_between_lanes_warps_and_blocks() {
    let device = Device::new(PTX);
    let (lock, cell) = (device.buffer(&[0u32]), device.buffer(&[0u32]));
    let log = device.buffer(&vec![u32::MAX; ALL]);
    device.launch("lock_global", BLOCKS, THREADS, 0, &[lock.into(), cell.into(), log.into()]);
    assert_eq!(device.read::<u32>(cell, 1), [ALL as u32]);
    let mut log: Vec<u32> = device.read(log, ALL);
    log.sort_unstable();
    assert_eq!(log, (0..ALL as u32).collect::<Vec<_>>());
}

#[test]
fn a_lock_in_shared_memory() {
    let device = Device::new(PTX);
    let to = device.unwritten::<u32>(BLOCKS as usize);
    device.launch("lock_shared", BLOCKS, THREADS, 0, &[to.into()]);
    assert_eq!(
        device.read::<u32>(to, BLOCKS as usize),
        [THREADS * (THREADS - 1) / 2; BLOCKS as usize]
    );
}

#[test]
fn a_histogram_in_two_steps() {
    let device = Device::new(PTX);
    let input: Vec<u8> =
        values(36).iter().flat_map(|x| x.to_le_bytes()).map(|b| b & b >> 1).collect();
    let mut want = [0u32; 256];
    input.iter().for_each(|byte| want[*byte as usize] += 1);
    let (from, to) = (device.buffer(&input), device.buffer(&[0u32; 256]));
    let args = [from.into(), to.into(), (input.len() as u32).into()];
    device.launch("histogram", BLOCKS, THREADS, 0, &args);
    assert_eq!(device.read::<u32>(to, 256), want);
}

#[test]
fn shared_cells_of_every_type() {
    let device = Device::new(PTX);
    let input: Vec<i32> = words(37).iter().map(|x| *x as i32).collect();
    let (from, to) = (device.buffer(&input), device.buffer(&[0.0f64; 16 * BLOCKS as usize]));
    device.launch("shared_cells", BLOCKS, THREADS, 0, &[from.into(), to.into()]);
    let got: Vec<f64> = device.read(to, 16 * BLOCKS as usize);
    for (block, (got, x)) in got.chunks(16).zip(input.chunks(THREADS as usize)).enumerate() {
        let sum = |f: &dyn Fn(i32) -> i64| x.iter().map(|x| f(*x)).sum::<i64>();
        let each = || x.iter().copied();
        let ring = |period: u32| THREADS % period;
        let wide = |x: i32| u64::from(x as u32) << 8;
        let want = [
            f64::from(each().min().unwrap()),
            f64::from(each().max().unwrap()),
            f64::from(each().fold(0, i32::wrapping_add)),
            f64::from(each().fold(0, |a, b| a ^ b)),
            f64::from(ring(10)),
            f64::from((13 - ring(13)) % 13),
            f64::from(each().fold(0, |a, x| a | 1u32 << (x & 31))),
            f64::from(each().fold(u32::MAX, |a, x| a & !(1 << (x & 31)))),
            (sum(&|x| i64::from(x & 0xFFFF)) as u64 * (1 << 32)) as f64,
            each().map(wide).min().unwrap() as f64,
            each().map(wide).max().unwrap() as f64,
            5.0,
            sum(&|x| i64::from(x & 15)) as f64,
            sum(&i64::from) as f64 * 0.25,
        ];
        assert_eq!(got[..14], want, "block {block}");
    }
}

#[test]
fn one_atomic_reaches_global_and_shared_memory() {
    let device = Device::new(PTX);
    let (global, to) = (device.buffer(&[0u32]), device.unwritten::<u32>(2 * BLOCKS as usize));
    device.launch("mixed_spaces", BLOCKS, THREADS, 0, &[global.into(), to.into()]);
    let sum = |pick: &dyn Fn(u32) -> bool| (0..THREADS).filter(|t| pick(*t)).sum::<u32>();
    assert_eq!(device.read::<u32>(global, 1), [BLOCKS * sum(&|t| t % 3 == 0)]);
    let here = [0, 1].map(|k| sum(&|t| t % 3 != 0 && t % 2 == k));
    assert_eq!(device.read::<u32>(to, 2 * BLOCKS as usize), here.repeat(BLOCKS as usize));
}

#[test]
fn sums_of_halves() {
    let device = Device::new(PTX);
    let zeros = || device.buffer(&[0u16; 2]);
    let (h, b, h2, b2) = (zeros(), zeros(), zeros(), zeros());
    device.launch("halves", 2, 64, 0, &[h.into(), b.into(), h2.into(), b2.into()]);
    let sum = |k| 2.0 * (0..64).filter(|t| t % 2 == k).map(|t| (t % 5) as f32).sum::<f32>();
    let f16s = |at| {
        device
            .read::<u16>(at, 2)
            .iter()
            .map(|x| half::f16::from_bits(*x).to_f32())
            .collect::<Vec<_>>()
    };
    let bf16s = |at| {
        device
            .read::<u16>(at, 2)
            .iter()
            .map(|x| half::bf16::from_bits(*x).to_f32())
            .collect::<Vec<_>>()
    };
    assert_eq!(f16s(h), [sum(0), sum(1)]);
    assert_eq!(bf16s(b), [64.0, 64.0]);
    assert_eq!(f16s(h2), [128.0, -256.0]);
    assert_eq!(bf16s(b2), [128.0, 64.0]);
}

#[test]
fn scopes_and_orders_change_no_value() {
    let device = Device::new(PTX);
    let cells = device.buffer(&[0u32; 32 * (BLOCKS as usize + 1)]);
    device.launch("scopes", BLOCKS, THREADS, 0, &[cells.into()]);
    let got: Vec<u32> = device.read(cells, 32 * (BLOCKS as usize + 1));
    let all = ALL as u32;
    assert_eq!(got[..7], [all, 2 * all, all - 1, 3 * all, u32::MAX, 4 * all, 5 * all]);
    assert!((1..=BLOCKS as usize).all(|block| got[32 * block] == THREADS));
}

#[test]
fn the_last_block_adds_up() {
    let device = Device::new(PTX);
    let input = words(38);
    let (from, partial) = (device.buffer(&input), device.unwritten::<u32>(BLOCKS as usize));
    let want = input.iter().fold(0, |a: u32, b| a.wrapping_add(*b));
    for _ in 0..2 {
        let to = device.unwritten::<u32>(1);
        device.launch("last_block", BLOCKS, THREADS, 0, &[from.into(), partial.into(), to.into()]);
        assert_eq!(device.read::<u32>(to, 1), [want]);
    }
}

#[test]
fn messages_from_block_to_block() {
    let device = Device::new(PTX);
    let (data, flags) = (device.unwritten::<u32>(40), device.buffer(&[0u32; 40]));
    device.launch("relay", 40, 1, 0, &[data.into(), flags.into()]);
    let mut want = Vec::new();
    for b in 0..40u32 {
        let before = want.last().copied().unwrap_or(1u32);
        want.push(before.wrapping_mul(3).wrapping_add(b));
    }
    assert_eq!(device.read::<u32>(data, 40), want);
}
