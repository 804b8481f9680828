//! The shadow of device memory against the oracle that forgets nothing, with two blocks in turns.

use proptest::prelude::*;

use super::Kind;
use super::clocks::Clocks;
use super::global::{Fences, Shadow, View};
use super::oracle::{Oracle, Past};
use super::race::{Access, How};
use super::shared::Hit;
use crate::machine::registers::{LANES, W64, lanes};

const BLOCKS: usize = 2;
/// Warps of a block.
const WARPS: usize = 2;
/// Where the allocation begins, as registered host memory may.
const BASE: u64 = 0x1004;
/// Bytes that are touched: the last of one page of the shadow and the first of the next.
const BYTES: u64 = 192;
const FIRST: u64 = 0x1000 + (1 << 14) - 64;

#[derive(Debug, Clone)]
enum Event {
    Access {
        warp: usize,
        mask: u32,
        shape: u8,
        at: u64,
        size: u32,
        how: How,
        strong: bool,
        value: u8,
    },
    Barrier(usize),
    WarpSync(usize),
    Fence(usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let warp = 0..BLOCKS * WARPS;
    let how = prop_oneof![6 => Just(How::Read), 6 => Just(How::Write), 1 => Just(How::Atomic)];
    let mask =
        prop_oneof![3 => Just(u32::MAX), 2 => 1..u32::MAX, 3 => (0..32u32).prop_map(|l| 1 << l)];
    prop_oneof![
        10 => (warp.clone(), mask, 0..4u8, 0..BYTES, 0..5u32, how, prop::bool::weighted(0.2), 0..3u8)
            .prop_map(|(warp, mask, shape, at, size, how, strong, value)| Event::Access {
                warp, mask, shape, at, size, how, strong: strong || how == How::Atomic, value,
            }),
        3 => (0..BLOCKS).prop_map(Event::Barrier),
        1 => warp.clone().prop_map(Event::WarpSync),
        4 => (warp, prop::bool::weighted(0.8)).prop_map(|(warp, wide)| Event::Fence(warp, wide)),
    ]
}

#[derive(Default)]
struct Tally {
    first_races: u32,
    first_named: u32,
}

fn play(events: &[Event], shadow: &Shadow, launch: u64, tally: &mut Tally) {
    let fences = Fences::default();
    let mut blocks: Vec<(Clocks, View)> = Vec::new();
    for block in 0..BLOCKS {
        let (mut clocks, mut view) = (Clocks::default(), View::default());
        clocks.begin(WARPS);
        view.begin(block as u64);
        blocks.push((clocks, view));
    }
    let mut oracle = Oracle::new();
    let mut raced = false;
    for byte in FIRST..FIRST + BYTES {
        oracle.value.insert(byte, 77);
    }
    for (pc, event) in events.iter().enumerate() {
        match *event {
            Event::Barrier(block) => {
                blocks[block].0.barrier(3, true);
                let threads: Vec<usize> =
                    (block * WARPS * LANES..(block + 1) * WARPS * LANES).collect();
                oracle.join(&threads);
            }
            Event::WarpSync(warp) => {
                blocks[warp / WARPS].0.warp_sync(warp % WARPS);
                let threads: Vec<usize> = (warp * LANES..(warp + 1) * LANES).collect();
                oracle.join(&threads);
            }
            Event::Fence(warp, wide) => {
                let block = warp / WARPS;
                blocks[block].0.fence(warp % WARPS);
                if wide {
                    fences.fence(block as u64, blocks[block].0.steps());
                    oracle.fence(warp);
                }
            }
            Event::Access { warp, mask, shape, at, size, how, strong, value } => {
                let (block, bytes) = (warp / WARPS, 1 << size);
                let room = BYTES / bytes;
                let addresses: W64 = std::array::from_fn(|lane| {
                    let lane = lane as u64;
                    let unit = match shape {
                        0 => at + lane,
                        1 => at,
                        2 => at + lane * 5,
                        _ => (at ^ (lane << 1)) + lane / 7,
                    };
                    FIRST + unit % room * bytes
                });
                let values: Vec<u8> = (0..LANES * bytes as usize)
                    .map(|i| {
                        let lane = (i / bytes as usize) as u8;
                        if value == 0 { 9 } else { lane * (value - 1) + value }
                    })
                    .collect();
                let of = |lane: usize, b: u64| values[lane * bytes as usize + b as usize];
                let plain = how == How::Write;
                let holds = |oracle: &Oracle, lane: usize| {
                    (0..bytes)
                        .all(|b| oracle.value.get(&(addresses[lane] + b)) == Some(&of(lane, b)))
                };
                let unchanged = lanes(mask)
                    .filter(|&lane| plain && holds(&oracle, lane))
                    .fold(0, |all, lane| all | 1 << lane);
                let access = Access {
                    warp: (warp % WARPS) as u32,
                    mask,
                    addresses: &addresses,
                    bytes: bytes as u32,
                    how,
                    strong,
                    unchanged,
                    values: if plain { &values } else { &[] },
                    pc: pc as u32,
                };
                let mut hits: Vec<Hit> = Vec::new();
                let (clocks, view) = &mut blocks[block];
                view.enter(&fences);
                let whole = (shadow, BASE, BYTES + FIRST - BASE);
                view.access(
                    (clocks, &fences, launch),
                    whole,
                    &access,
                    View::worth(&access),
                    &mut hits,
                );
                view.leave(clocks, &access);
                let mut races = false;
                for lane in lanes(mask) {
                    let thread = warp * LANES + lane;
                    let at = oracle.clocks[thread][thread];
                    let writes = if plain { !holds(&oracle, lane) } else { how != How::Read };
                    let mut wrong = Vec::new();
                    for b in 0..bytes {
                        let me = Past { thread, at, writes, strong, pc: pc as u32 };
                        let value = if plain { of(lane, b) } else { 200 - pc as u8 };
                        wrong.extend(oracle.access(me, addresses[lane] + b, how, value));
                    }
                    races |= !wrong.is_empty();
                    let Some(hit) = hits.iter().find(|hit| hit.lane == lane) else { continue };
                    let other = hit.other.expect("the other thread");
                    let named = other.block as usize * WARPS * LANES + other.thread as usize;
                    let cross = if other.block as usize == block {
                        Kind::Race
                    } else {
                        Kind::CrossBlockRace
                    };
                    assert!(
                        hit.kind == cross && wrong.contains(&(Kind::Race, (named, other.pc))),
                        "false alarm {hit:?} by event {pc} of {events:?}: {wrong:?}"
                    );
                }
                if races && !std::mem::replace(&mut raced, true) {
                    tally.first_races += 1;
                    tally.first_named += u32::from(!hits.is_empty());
                }
                if strong {
                    oracle.acquire(warp);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Launch after launch in the same shadow, more of them than it has tags.
    #[test]
    fn what_is_reported_is_true(
        launches in prop::collection::vec(prop::collection::vec(event(), 1..40), 1..20),
    ) {
        let shadow = Shadow::default();
        for (launch, events) in (1..).zip(&launches) {
            play(events, &shadow, launch, &mut Tally::default());
        }
    }
}

/// What the shadow forgets, and atomics after plain reads, which it leaves alone, are few.
#[test]
fn most_races_are_named() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut tally = Tally::default();
    for _ in 0..2000 {
        let events = prop::collection::vec(event(), 1..40).new_tree(&mut runner).unwrap().current();
        play(&events, &Shadow::default(), 1, &mut tally);
    }
    let share = f64::from(tally.first_named) / f64::from(tally.first_races);
    println!("named: {share:.4} of {} first races", tally.first_races);
    assert!(tally.first_races > 1_500 && share > 0.9, "{share}");
}
