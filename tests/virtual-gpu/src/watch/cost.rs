//! What watching costs: nanoseconds per access of a warp, printed by
//! `cargo test -p virtual-gpu --release --lib watch::cost -- --ignored --nocapture`.

use std::time::Instant;

use super::clocks::Clocks;
use super::global::{self, Fences, View};
use super::race::{Access, How};
use super::shared;
use crate::machine::registers::{FULL, LANES, W64};

const WARPS: u32 = 8;
const ROUNDS: u64 = 20_000;

fn row(first: u64, bytes: u32) -> W64 {
    std::array::from_fn(|lane| first + lane as u64 * u64::from(bytes))
}

/// Eight warps write and read, a barrier between, again and again.
fn time(
    what: &str,
    bytes: u32,
    addresses: impl Fn(u64) -> W64,
    mut access: impl FnMut(&mut Clocks, &Access),
) {
    let values = vec![7; LANES * bytes as usize];
    let mut clocks = Clocks::default();
    clocks.begin(WARPS as usize);
    // The least of many rounds: other processes only add to it.
    let mut spent = [f64::MAX; 2];
    let places: Vec<W64> = (0..u64::from(WARPS)).map(addresses).collect();
    for _ in 0..ROUNDS {
        for (how, spent) in [How::Write, How::Read].into_iter().zip(&mut spent) {
            let start = Instant::now();
            for warp in 0..WARPS {
                // Reads are of what the neighbour wrote.
                let place = if how == How::Read { (warp + 1) % WARPS } else { warp };
                let values = if how == How::Write { &values[..] } else { &[] };
                let addresses = &places[place as usize];
                access(
                    &mut clocks,
                    &Access {
                        warp,
                        mask: FULL,
                        addresses,
                        bytes,
                        how,
                        strong: false,
                        unchanged: 0,
                        values,
                        pc: 5,
                    },
                );
            }
            *spent = spent.min(start.elapsed().as_secs_f64());
            clocks.barrier((1 << WARPS) - 1, true);
        }
    }
    let each = |spent: f64| spent * 1e9 / f64::from(WARPS);
    println!("{what}: write {:.0} ns, read {:.0} ns", each(spent[0]), each(spent[1]));
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_access() {
    for bytes in [4, 16, 2] {
        let mut shadow = shared::Shadow::default();
        shadow.begin(WARPS * 512, 1, false);
        let mut hits = Vec::new();
        let size = u64::from(bytes) * 32;
        time(
            &format!("shared, rows of {bytes} bytes a lane"),
            bytes,
            |w| row(w * size, bytes),
            |clocks, a| {
                shadow.access(clocks, a, &mut hits);
            },
        );
        assert!(hits.is_empty());
    }
    let mut shadow = shared::Shadow::default();
    shadow.begin(WARPS * 1024, 1, false);
    let mut hits = Vec::new();
    time(
        "shared, 16 bytes a lane, swizzled",
        16,
        |w| row(w * 512, 16).map(|a| a ^ (a >> 3 & 112)),
        |clocks, a| {
            shadow.access(clocks, a, &mut hits);
        },
    );
    for bytes in [4, 16, 2] {
        let shadow = global::Shadow::default();
        let (mut view, fences) = (View::default(), Fences::default());
        let size = u64::from(bytes) * 32;
        time(
            &format!("global, rows of {bytes} bytes a lane"),
            bytes,
            |w| row(w * size, bytes),
            |clocks, a| {
                view.enter(&fences);
                view.access(
                    (clocks, &fences, 1),
                    (&shadow, 0, 1 << 16),
                    a,
                    View::worth(a),
                    &mut hits,
                );
                view.leave(clocks, a);
            },
        );
    }
    assert!(hits.is_empty(), "{hits:?}");
}
