//! The shadow of shared memory against an oracle that forgets nothing.
//!
//! The oracle gives every thread a vector clock of its own and keeps every access to every byte. What the
//! shadow reports must be true by the oracle (no false alarm, ever); what it misses is counted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::Kind;
use super::clocks::Clocks;
use super::race::{Access, How};
use super::shared::{Hit, Shadow};
use crate::machine::registers::{LANES, W64, lanes};

const WARPS: usize = 4;
pub const THREADS: usize = WARPS * LANES;
/// Bytes of shared memory that the runs touch: few, so that they meet.
const BYTES: u64 = 256;

pub type Clock = [u32; THREADS];

/// One access of a thread to a byte.
#[derive(Clone)]
pub struct Past {
    pub thread: usize,
    /// The thread's own clock then.
    pub at: u32,
    pub writes: bool,
    pub strong: bool,
    pub pc: u32,
}

pub struct Oracle {
    pub clocks: Vec<Clock>,
    pub released: Clock,
    past: HashMap<u64, Vec<Past>>,
    pub value: HashMap<u64, u8>,
    /// Byte to the thread whose copy is under way.
    unwaited: HashMap<u64, usize>,
}

impl Oracle {
    pub fn new() -> Oracle {
        Oracle {
            clocks: (0..THREADS).map(|t| std::array::from_fn(|u| u32::from(t == u))).collect(),
            released: [0; THREADS],
            past: HashMap::new(),
            value: HashMap::new(),
            unwaited: HashMap::new(),
        }
    }

    pub fn join(&mut self, threads: &[usize]) {
        let mut all = [0; THREADS];
        for &t in threads {
            for (a, b) in all.iter_mut().zip(&self.clocks[t]) {
                *a = (*a).max(*b);
            }
        }
        for &t in threads {
            self.clocks[t] = all;
            self.clocks[t][t] += 1;
        }
    }

    /// The lanes of a warp (of all blocks) publish what they know.
    pub fn fence(&mut self, warp: usize) {
        for t in warp * LANES..(warp + 1) * LANES {
            for u in 0..THREADS {
                self.released[u] = self.released[u].max(self.clocks[t][u]);
            }
            self.clocks[t][t] += 1;
        }
    }

    /// A strong access takes up what was published: the whole warp does, as in the clocks.
    pub fn acquire(&mut self, warp: usize) {
        for t in warp * LANES..(warp + 1) * LANES {
            for u in 0..THREADS {
                self.clocks[t][u] = self.clocks[t][u].max(self.released[u]);
            }
        }
    }

    /// The faults of an access by a thread to a byte, with the threads and instructions of races; and
    /// remembers the access. `writes` if it may change the byte, to `value`.
    pub fn access(
        &mut self,
        me: Past,
        byte: u64,
        how: How,
        value: u8,
    ) -> Vec<(Kind, (usize, u32))> {
        let mut wrong = Vec::new();
        if self.unwaited.contains_key(&byte) {
            wrong.push((Kind::AsyncNotWaited, (0, 0)));
        }
        if matches!(how, How::Read | How::Atomic) && !self.value.contains_key(&byte) {
            wrong.push((Kind::Uninitialised, (0, 0)));
        }
        for past in self.past.get(&byte).into_iter().flatten() {
            let clock = &self.clocks[me.thread];
            let ordered = past.thread == me.thread || past.at <= clock[past.thread];
            let clash = me.writes || past.writes && how != How::Write;
            if !ordered && clash && !(me.strong && past.strong) {
                wrong.push((Kind::Race, (past.thread, past.pc)));
            }
        }
        if how == How::AsyncWrite {
            self.unwaited.entry(byte).or_insert(me.thread);
        }
        if me.writes {
            self.value.insert(byte, value);
        }
        self.past.entry(byte).or_default().push(me);
        wrong
    }
}

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
    Barrier(u32),
    WarpSync(usize),
    Fence(usize),
    Wait(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![
        6 => Just(How::Read),
        6 => Just(How::Write),
        1 => Just(How::Atomic),
        1 => Just(How::AsyncWrite)
    ];
    let mask =
        prop_oneof![3 => Just(u32::MAX), 2 => any::<u32>(), 3 => (0..32u32).prop_map(|l| 1 << l)];
    prop_oneof![
        12 => (0..WARPS, mask, 0..4u8, 0..BYTES, 0..5u32, how, prop::bool::weighted(0.1), 0..3u8).prop_map(
            |(warp, mask, shape, at, size, how, strong, value)| Event::Access {
                warp,
                mask: if mask == 0 { 1 } else { mask },
                shape,
                at,
                size: if how == How::AsyncWrite { 2 + size % 3 } else { size },
                how,
                strong: strong && how != How::AsyncWrite || how == How::Atomic,
                value,
            }
        ),
        4 => Just(Event::Barrier(15)),
        1 => (1..16u32).prop_map(Event::Barrier),
        2 => (0..WARPS).prop_map(Event::WarpSync),
        1 => (0..WARPS).prop_map(Event::Fence),
        2 => (0..WARPS).prop_map(Event::Wait),
    ]
}

/// Of the accesses (of a warp) that race how many had a hit; and of the first such ones of every run.
#[derive(Default)]
struct Tally {
    races: u32,
    named: u32,
    first_races: u32,
    first_named: u32,
}

fn play(events: &[Event], shadow: &mut Shadow, clocks: &mut Clocks, tally: &mut Tally) {
    let fresh = !clocks.begin(WARPS);
    shadow.begin(BYTES as u32, 1, fresh);
    let mut oracle = Oracle::new();
    let mut raced = false;
    let mut copies: Vec<(usize, u64, u32)> = Vec::new();
    for (pc, event) in events.iter().enumerate() {
        match *event {
            Event::Barrier(warps) => {
                clocks.barrier(warps, false);
                let threads: Vec<usize> =
                    (0..THREADS).filter(|t| warps >> (t / LANES) & 1 != 0).collect();
                oracle.join(&threads);
            }
            Event::WarpSync(warp) => {
                clocks.warp_sync(warp);
                let threads: Vec<usize> = (warp * LANES..(warp + 1) * LANES).collect();
                oracle.join(&threads);
            }
            Event::Fence(warp) => {
                clocks.fence(warp);
                oracle.fence(warp);
            }
            Event::Wait(warp) => {
                copies.retain(|&(thread, at, bytes)| {
                    if thread / LANES != warp {
                        return true;
                    }
                    let epoch = clocks.epoch(warp);
                    shadow.async_done(epoch, thread as u32, at as u32, bytes);
                    for byte in at..at + u64::from(bytes) {
                        if oracle.unwaited.get(&byte) == Some(&thread) {
                            oracle.unwaited.remove(&byte);
                        }
                        // The write is made now.
                        let now = oracle.clocks[thread][thread];
                        for past in oracle.past.entry(byte).or_default() {
                            if past.thread == thread && past.writes {
                                past.at = now;
                            }
                        }
                    }
                    false
                });
            }
            Event::Access { warp, mask, shape, at, size, how, strong, value } => {
                let bytes = 1 << size;
                let room = BYTES / bytes;
                let addresses: W64 = std::array::from_fn(|lane| {
                    let lane = lane as u64;
                    let unit = match shape {
                        0 => at + lane,
                        1 => at,
                        2 => at + lane * 5,
                        _ => (at ^ (lane << 1)) + lane / 7,
                    };
                    unit % room * bytes
                });
                let values: Vec<u8> = (0..LANES * bytes as usize)
                    .map(|i| {
                        if value == 0 {
                            9
                        } else {
                            (i / bytes as usize) as u8 * (value - 1) + value
                        }
                    })
                    .collect();
                let of = |lane: usize, byte: u64| values[lane * bytes as usize + byte as usize];
                let plain = how == How::Write;
                let unchanged = lanes(mask)
                    .filter(|&lane| {
                        plain
                            && (0..bytes).all(|b| {
                                oracle.value.get(&(addresses[lane] + b)) == Some(&of(lane, b))
                            })
                    })
                    .fold(0, |all, lane| all | 1 << lane);
                let access = Access {
                    warp: warp as u32,
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
                shadow.access(clocks, &access, &mut hits);
                let mut races = false;
                for lane in lanes(mask) {
                    let thread = warp * LANES + lane;
                    let at = oracle.clocks[thread][thread];
                    // A write of what is there is a read.
                    let holds = |b| oracle.value.get(&(addresses[lane] + b)) == Some(&of(lane, b));
                    let writes = if plain { !(0..bytes).all(holds) } else { how != How::Read };
                    let mut wrong = Vec::new();
                    for b in 0..bytes {
                        let me = Past { thread, at, writes, strong, pc: pc as u32 };
                        let value = if plain { of(lane, b) } else { pc as u8 };
                        wrong.extend(oracle.access(me, addresses[lane] + b, how, value));
                    }
                    let hit = hits.iter().find(|hit| hit.lane == lane);
                    if let Some(hit) = hit {
                        let just = wrong.iter().any(|(kind, other)| {
                            *kind == hit.kind
                                && hit.other.is_none_or(|named| {
                                    hit.kind != Kind::Race
                                        || *other == (named.thread as usize, named.pc)
                                })
                        });
                        assert!(just, "false alarm {hit:?} by event {pc} of {events:?}: {wrong:?}");
                    }
                    races |= wrong.iter().any(|(kind, _)| *kind == Kind::Race);
                    if how == How::AsyncWrite
                        && hit.is_none_or(|hit| hit.kind != Kind::AsyncNotWaited)
                    {
                        copies.push((thread, addresses[lane], bytes as u32));
                    }
                }
                if races {
                    tally.races += 1;
                    tally.named += u32::from(!hits.is_empty());
                    if !std::mem::replace(&mut raced, true) {
                        tally.first_races += 1;
                        tally.first_named += u32::from(!hits.is_empty());
                    }
                }
                if strong {
                    oracle.acquire(warp);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Two blocks one after the other in the same shadow.
    #[test]
    fn what_is_reported_is_true(
        first in prop::collection::vec(event(), 1..40),
        second in prop::collection::vec(event(), 1..40),
    ) {
        let (mut shadow, mut clocks, mut tally) = Default::default();
        play(&first, &mut shadow, &mut clocks, &mut tally);
        play(&second, &mut shadow, &mut clocks, &mut tally);
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
        let (mut shadow, mut clocks) = Default::default();
        play(&events, &mut shadow, &mut clocks, &mut tally);
    }
    let share = |named: u32, races: u32| f64::from(named) / f64::from(races);
    let (all, first) =
        (share(tally.named, tally.races), share(tally.first_named, tally.first_races));
    println!(
        "named: {all:.4} of {} racing accesses, {first:.4} of {} first ones",
        tally.races, tally.first_races
    );
    assert!(tally.races > 9_000 && all > 0.98 && first > 0.99, "{all} {first}");
}
