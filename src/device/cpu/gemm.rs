//! The tile GEMM: `out[m, n] = scale · Σ over terms of a[m, k] · b[k, n]`, b packed on the fly.
//!
//! ```text
//!              n                      a task: 32 columns, all rows (or a stretch of them)
//!        ┌──┬──┬──┬──┐
//!      k │  │▒▒│  │  │  b, packed     one panel, k × 32, is packed or decoded (NF4) into the
//!        └──┴──┴──┴──┘                thread's scratch, and lives in L2 while every row meets it
//!   ┌───┐┌──┬──┬──┬──┐
//! m │ a ││  │▓▓│  │  │  12 rows × 32  one register tile: 24 sums of 16 f32; per pair of k two loads
//!   └───┘└──┴──┴──┴──┘                of the panel and 12 broadcasts from a feed 24 dot products. With
//!                                     AMX 32 rows: four sums of 16 × 16 in registers of that shape
//! ```
//!
//! Why so: the register tile bounds the rate (24 independent chains cover the multiplier's latency, and
//! 14 loads for 24 products leave the load ports half idle), so the rest only has to stay out of its way.
//! A panel is packed once per stretch and multiplied with all its rows: at 512 rows packing is some
//! 3 % of the work. A quantised weight is never decoded as a whole, so it costs the memory traffic of its
//! 4 bits. `a` is read where it lies: a tile's rows are as many streams, which the caches follow, unless
//! their pitch is a multiple of 4 KiB; the one product with such a pitch and a contraction too long for a
//! panel in L2, the head's backward, goes through [`gemm_long`].
//!
//! A panel's source comes from memory, not from cache (the weights of a model do not fit any). While a
//! task multiplies, it fetches what its thread is likely to pack next: see [`Source`].
//!
//! Sums run over terms and k in order, in f32 registers, and are rounded once. Work is cut by `m` and
//! `n` alone, so any number of threads gives the same bits.

mod few;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::simd::prefetch::{Source, will_write};
use super::simd::{MR, NARROW, NR, Segment, panel_len, rows_fit};
use super::{Cpu, Element, GemmElement, Level};

pub use few::{as_few, few};

/// One term of the sum: `a[m, 0..k]` at pitch `lda` (0: one row that stands for all), and how to pack 32
/// columns of its `b`.
#[derive(Clone, Copy)]
pub struct Term<'a, E> {
    pub a: &'a [E],
    pub lda: usize,
    pub k: usize,
    /// `pack(columns, panel)` with at most 32 columns, see `simd::panel`.
    pub pack: &'a (dyn Fn(Range<usize>, &mut [E]) + Sync),
    /// What `pack` reads.
    pub source: Source<'a>,
}

/// Where the sum goes: `out[m, n]` at pitch `ld`, overwritten.
pub struct Out<'a, O> {
    pub data: &'a mut [O],
    pub ld: usize,
    /// Multiplies the f32 sum before it is rounded to `O`.
    pub scale: f32,
}

/// Rows below which a stretch is not cut further: packing would cost too much beside the product.
const MIN_ROWS: usize = 128;
/// Most terms of a sum.
const MAX_TERMS: usize = 8;
/// Tasks aimed at where there are enough rows: enough for some 16 threads to share evenly.
const TASKS: usize = 32;

thread_local! {
    /// Panels of the running task, as bytes with room to align; grows to the largest once.
    static PANELS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// What [`gemm_long`] copies together, and its sums: the calling thread's.
    static COPY: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Where tasks write: disjoint rectangles of one matrix.
struct Target<'a, O> {
    data: *mut O,
    ld: usize,
    scale: f32,
    borrow: PhantomData<&'a mut [O]>,
}
// SAFETY: tasks write disjoint (rows × columns) rectangles through it.
unsafe impl<O: Send> Sync for Target<'_, O> {}

impl<'a, O: Element> Target<'a, O> {
    /// Panics when the matrix does not fit `out`.
    fn new(out: &'a mut Out<'_, O>, m: usize, n: usize) -> Self {
        assert!(rows_fit(out.data.len(), out.ld, m, n), "out too short");
        Self { data: out.data.as_mut_ptr(), ld: out.ld, scale: out.scale, borrow: PhantomData }
    }

    /// # Safety
    /// The row and the columns are inside the matrix, and nobody else has them now.
    #[inline(always)]
    unsafe fn row(&self, row: usize, columns: &Range<usize>) -> &'a mut [O] {
        // SAFETY: the caller's promise.
        unsafe {
            let start = self.data.add(row * self.ld + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// Scales, rounds and stores the first rows of a tile.
    ///
    /// # Safety
    /// As [`Target::row`], for all of them.
    #[inline(always)]
    unsafe fn store(&self, level: Level, tile: &Tile, rows: Range<usize>, columns: &Range<usize>) {
        for (sums, row) in tile.as_chunks::<NR>().0.iter().zip(rows) {
            // SAFETY: the caller's promise.
            let out = unsafe { self.row(row, columns) };
            if let Ok(out) = <&mut [O; NR]>::try_from(&mut *out) {
                O::store(level, sums, self.scale, out);
            } else {
                let mut whole = [O::from_f32(0.0); NR];
                O::store(level, sums, self.scale, &mut whole);
                out.copy_from_slice(&whole[..columns.len()]);
            }
        }
    }
}

impl Target<'_, f32> {
    /// Adds what is stored to the first rows of a tile.
    ///
    /// # Safety
    /// As [`Target::row`], for all of them.
    unsafe fn add_to(&self, tile: &mut Tile, rows: Range<usize>, columns: &Range<usize>) {
        for (sums, row) in tile.as_chunks_mut::<NR>().0.iter_mut().zip(rows) {
            // SAFETY: the caller's promise.
            let stored = unsafe { self.row(row, columns) };
            for (sum, &stored) in sums.iter_mut().zip(&*stored) {
                *sum += stored;
            }
        }
    }
}

/// The sums of a register tile.
type Tile = [f32; MR * NR];

/// Computes the product.
///
/// Panics when a slice is shorter than its dimensions say (ops check before).
pub fn gemm<E: GemmElement, O: Element>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    terms: &[Term<'_, E>],
    mut out: Out<'_, O>,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(terms.len() <= MAX_TERMS, "too many terms");
    let target = Target::new(&mut out, m, n);
    for term in terms {
        let one_for_all = term.lda == 0 && term.a.len() >= term.k;
        assert!(one_for_all || rows_fit(term.a.len(), term.lda, m, term.k), "a too short");
    }
    let scratch = terms.iter().map(|term| panel_len::<E>(term.k)).fold(0, add);
    let panels = n.div_ceil(NR);
    let stretches = (TASKS / panels).clamp(1, m.div_ceil(MIN_ROWS));
    let height = m.div_ceil(stretches);
    let columns = |panel: usize| (panel * NR).min(n)..((panel + 1) * NR).min(n);
    side_by_side(cpu, panels * stretches, |task| {
        let (stretch, panel) = (task / panels, task % panels);
        let job = Task {
            level: cpu.level,
            rows: (stretch * height).min(m)..((stretch + 1) * height).min(m),
            columns: columns(panel),
            ahead: columns(panel + 1),
        };
        with_scratch::<E, _>(&PANELS, scratch, |scratch| job.run(terms, scratch, &target));
    });
}

/// Grows every thread's scratch for products over `k` (all terms together), so that none grows it
/// when it meets its first such task, whenever that is.
pub fn reserve<E: GemmElement>(cpu: &Cpu, k: usize) {
    let len = panel_len::<E>(add(k, MAX_TERMS * E::GROUP));
    cpu.broadcast(|| with_scratch::<E, _>(&PANELS, len, |_| ()));
}

/// Runs tasks so that a thread's next one is likely the neighbour of its last: the threads take tasks in
/// turn, so the first of each round is from the first share of them, the second from the second.
///
/// Were neighbours given to two threads at once, these would write next to each other all the time, and
/// the caches' prefetchers would tear the lines out of each other's hands.
fn side_by_side(cpu: &Cpu, tasks: usize, f: impl Fn(usize) + Sync) {
    let threads = cpu.threads();
    let (share, longer) = (tasks / threads, tasks % threads);
    cpu.each(tasks, |i| {
        let (round, thread) = (i / threads, i % threads);
        f(thread * share + thread.min(longer) + round)
    });
}

fn add(a: usize, b: usize) -> usize {
    a.checked_add(b).expect("scratch too long")
}

/// A rectangle of the result.
struct Task {
    level: Level,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Columns whose source to fetch meanwhile.
    ahead: Range<usize>,
}

impl Task {
    fn run<E: GemmElement, O: Element>(
        self,
        terms: &[Term<'_, E>],
        scratch: &mut [E],
        target: &Target<'_, O>,
    ) {
        let mut rest = scratch;
        let mut panels: [&[E]; MAX_TERMS] = [&[]; MAX_TERMS];
        for (term, slot) in terms.iter().zip(&mut panels) {
            let (panel, tail) = rest.split_at_mut(panel_len::<E>(term.k));
            (term.pack)(self.columns.clone(), panel);
            *slot = panel;
            rest = tail;
        }
        let mut segments: [Segment<E>; MAX_TERMS] = std::array::from_fn(|i| {
            let (lda, k) = terms.get(i).map_or((0, 0), |term| (term.lda, term.k));
            Segment { a: std::ptr::null(), lda, k, panel: panels[i].as_ptr() }
        });
        let mut tile = [0.0; MR * NR];
        let tiles = tiles(E::tile_rows(self.level), self.rows.clone());
        let count = tiles.len();
        for (i, rows) in tiles.enumerate() {
            for term in terms {
                term.source.fetch(&self.ahead, i, count);
            }
            for (term, segment) in terms.iter().zip(&mut segments) {
                segment.a = term.a[rows.start * term.lda..].as_ptr();
            }
            for row in rows.clone() {
                // SAFETY: inside the matrix, and this task's alone.
                will_write(unsafe { target.row(row, &self.columns) });
            }
            let segments = &segments[..terms.len()];
            // SAFETY: a's and panels' lengths were checked against m, k and lda; at most a
            // tile's rows.
            unsafe {
                match self.columns.len() <= NARROW {
                    true => E::narrow_tile(self.level, rows.len(), segments, &mut tile),
                    false => E::tile(self.level, rows.len(), segments, &mut tile),
                }
            };
            // SAFETY: rows and columns are inside the matrix, and this task's alone.
            unsafe { target.store(self.level, &tile, rows, &self.columns) };
        }
    }
}

/// Packs rows of b, and of those at most 32 columns, into a panel.
type PackRows<'a, E> = dyn Fn(Range<usize>, Range<usize>, &mut [E]) + Sync + 'a;

/// A product over a contraction too long for a panel to stay in L2.
pub struct Long<'a, E> {
    pub a: &'a [E],
    pub lda: usize,
    pub k: usize,
    /// `pack(rows of b, columns, panel)` with at most [`LONG_K`] rows and 32 columns.
    pub pack: &'a PackRows<'a, E>,
    /// What `pack` reads.
    pub source: Source<'a>,
}

/// Rows of b that [`gemm_long`] takes at a time: a panel of 64 KB in bf16.
pub const LONG_K: usize = 1024;
/// Rows of a that it takes at a time: with their 1024 columns half of an L2 in bf16.
const LONG_ROWS: usize = 256;
/// Rows that one task copies.
const COPY_ROWS: usize = 16;
/// Elements by which its copy of a has a longer pitch than columns, so that rows do not meet in the
/// caches' sets.
const GAP: usize = 32;

/// As [`gemm`], for long `k`: sums over stretches of [`LONG_K`] are added up in f32, in order.
///
/// A stretch of `a` is first copied together: its rows may lie at a pitch of a power of two (a vocabulary
/// of 49152 is 24 pages), where the rows of a tile (12, with AMX 32) would throw each other out of L1.
pub fn gemm_long<E: GemmElement, O: Element>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    product: &Long<'_, E>,
    mut out: Out<'_, O>,
) {
    let &Long { a, lda, k, pack, source } = product;
    if k == 0 {
        return gemm::<E, O>(cpu, m, n, &[], out);
    }
    assert!(rows_fit(a.len(), lda, m, k), "a too short");
    let target = Target::new(&mut out, m, n);
    let panels = n.div_ceil(NR);
    let columns = |panel: usize| (panel * NR).min(n)..((panel + 1) * NR).min(n);
    with_long_scratch::<E, _>(m, n, |copy, sums| {
        let pitch = LONG_K + GAP;
        let mut copied = Out { data: &mut *copy, ld: pitch, scale: 1.0 };
        let mut summed = Out { data: sums, ld: n, scale: 1.0 };
        for first in (0..m).step_by(LONG_ROWS) {
            let height = LONG_ROWS.min(m - first);
            for start in (0..k).step_by(LONG_K) {
                let stretch = start..k.min(start + LONG_K);
                let whole = 0..stretch.len();
                let block = Target::new(&mut copied, height, pitch);
                cpu.each(height.div_ceil(COPY_ROWS), |block_of_rows| {
                    let start = block_of_rows * COPY_ROWS;
                    for row in start..height.min(start + COPY_ROWS) {
                        let from = &a[(first + row) * lda..][stretch.clone()];
                        // SAFETY: a row of the block, this task's alone.
                        unsafe { block.row(row, &whole) }.copy_from_slice(from);
                    }
                });
                let block = &*copied.data;
                let sums = Target::new(&mut summed, height, n);
                side_by_side(cpu, panels, |panel| {
                    let (ahead, columns) = (columns(panel + 1), columns(panel));
                    let source = source.rows(&stretch);
                    let len = panel_len::<E>(stretch.len());
                    with_scratch::<E, _>(&PANELS, len, |panel| {
                        pack(stretch.clone(), columns.clone(), panel);
                        let mut tile = [0.0; MR * NR];
                        let tiles = tiles(E::tile_rows(cpu.level), 0..height);
                        let count = tiles.len();
                        for (i, rows) in tiles.enumerate() {
                            source.fetch(&ahead, i, count);
                            let segment = Segment {
                                a: block[rows.start * pitch..].as_ptr(),
                                lda: pitch,
                                k: stretch.len(),
                                panel: panel.as_ptr(),
                            };
                            // SAFETY: the block has these rows at this pitch, the panel its length.
                            unsafe { E::tile(cpu.level, rows.len(), &[segment], &mut tile) };
                            if stretch.start > 0 {
                                // SAFETY: rows and columns of the sums that are this task's alone.
                                unsafe { sums.add_to(&mut tile, rows.clone(), &columns) };
                            }
                            if stretch.end < k {
                                // SAFETY: as above.
                                unsafe { sums.store(cpu.level, &tile, rows, &columns) };
                            } else {
                                let rows = first + rows.start..first + rows.end;
                                // SAFETY: the same rows and columns of the result.
                                unsafe { target.store(cpu.level, &tile, rows, &columns) };
                            }
                        }
                    });
                });
            }
        }
    });
}

/// Grows this thread's scratch for [`gemm_long`] of results `[m, n]`, and every thread's panels.
pub fn reserve_long<E: GemmElement>(cpu: &Cpu, m: usize, n: usize) {
    reserve::<E>(cpu, LONG_K);
    with_long_scratch::<E, _>(m, n, |_, _| ());
}

/// Lends the copy of a and the sums that [`gemm_long`] needs.
fn with_long_scratch<E: Element, R>(
    m: usize,
    n: usize,
    f: impl FnOnce(&mut [E], &mut [f32]) -> R,
) -> R {
    let rows = m.min(LONG_ROWS);
    with_scratch::<E, _>(&COPY, rows * (LONG_K + GAP), |copy| {
        with_scratch::<f32, _>(&SUMS, rows * n, |sums| f(copy, sums))
    })
}

/// Rows cut into tiles of at most `most` rows and equal height: 16 as 8 + 8 keep more chains in flight than 12 + 4.
fn tiles(most: usize, rows: Range<usize>) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(most);
    let (height, taller) = match count {
        0 => (0, 0),
        _ => (rows.len() / count, rows.len() % count),
    };
    let start = move |i: usize| rows.start + i * height + i.min(taller);
    (0..count).map(move |i| start(i)..start(i + 1))
}

/// Lends `len` elements of the thread's scratch, 64-byte aligned, contents arbitrary.
fn with_scratch<E: Element, R>(
    scratch: &'static std::thread::LocalKey<RefCell<Vec<u64>>>,
    len: usize,
    f: impl FnOnce(&mut [E]) -> R,
) -> R {
    scratch.with_borrow_mut(|scratch| {
        let bytes = len.checked_mul(size_of::<E>()).expect("scratch too long");
        let words = bytes.div_ceil(8) + 8;
        if scratch.len() < words {
            scratch.resize(words, 0);
        }
        let all: &mut [u8] = bytemuck::cast_slice_mut(scratch);
        let skip = all.as_ptr().align_offset(64);
        f(bytemuck::cast_slice_mut(&mut all[skip..][..bytes]))
    })
}
