//! The tile GEMM: `out[m, n] = scale · Σ over terms of a[m, k] · b[k, n]`, b packed on the fly.
//!
//! A task owns 32 columns (and, where there are few of them, a stretch of rows): it has every term's
//! `b` packed or decoded into a panel of its thread's scratch, which then serves all its rows from
//! cache, so a quantised weight is never decoded as a whole. Sums run over terms and k in order, in
//! f32 registers, and are rounded once.

use std::cell::RefCell;

use rayon::prelude::*;

use super::simd::{MR, NR, Segment, panel_len, rows_fit};
use super::{Cpu, Element, GemmElement, Level};

/// One term of the sum: `a[m, 0..k]` at pitch `lda`, and how to pack 32 columns of its `b`.
pub struct Term<'a, E> {
    pub a: &'a [E],
    pub lda: usize,
    pub k: usize,
    /// `pack(first column, columns ≤ 32, panel)`, see `simd::panel`.
    pub pack: &'a (dyn Fn(usize, usize, &mut [E]) + Sync),
}

/// Where the sum goes: `out[m, n]` at pitch `ld`, overwritten.
pub struct Out<'a, O> {
    pub data: &'a mut [O],
    pub ld: usize,
    /// Multiplies the f32 sum before it is rounded to `O`.
    pub scale: f32,
}

/// Rows below which a stretch is not cut further.
const MIN_ROWS: usize = 96;
/// Most terms of a sum.
const MAX_TERMS: usize = 8;
/// Tasks aimed at where there are enough rows: enough for some 16 threads to share evenly.
const TASKS: usize = 32;

thread_local! {
    /// Panels of the running task, as bytes with room to align; grows to the largest once.
    static SCRATCH: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

struct OutPtr<O>(*mut O);
// SAFETY: tasks write disjoint (rows × columns) rectangles through it.
unsafe impl<O: Send> Sync for OutPtr<O> {}

/// Computes the product. Work is cut by `m` and `n` alone, so any number of threads gives the
/// same bits.
///
/// Panics when a slice is shorter than its dimensions say (ops check before).
pub fn gemm<E: GemmElement, O: Element>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    terms: &[Term<'_, E>],
    out: Out<'_, O>,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(rows_fit(out.data.len(), out.ld, m, n), "out too short");
    for term in terms {
        assert!(rows_fit(term.a.len(), term.lda, m, term.k), "a too short");
    }
    let scratch = terms.iter().map(|term| panel_len::<E>(term.k));
    let scratch = scratch.fold(0, add);
    let panels = n.div_ceil(NR);
    let stretches = (TASKS / panels).clamp(1, m.div_ceil(MIN_ROWS));
    let rows = m.div_ceil(stretches).next_multiple_of(MR);
    let stretches = m.div_ceil(rows);
    let target = OutPtr(out.data.as_mut_ptr());
    let (ld, scale) = (out.ld, out.scale);
    cpu.install(|| {
        (0..panels * stretches).into_par_iter().for_each(|task| {
            let (panel, stretch) = (task / stretches, task % stretches);
            let columns = panel * NR..n.min((panel + 1) * NR);
            let rows = stretch * rows..m.min((stretch + 1) * rows);
            // A closure must capture the wrapper, not the raw pointer in it.
            let target = &target;
            with_scratch::<E, _>(scratch, |scratch| {
                run_task(cpu, rows, columns, terms, scratch, target, ld, scale)
            });
        })
    });
}

/// Grows every thread's scratch for products over `k` (all terms together), so that none grows it
/// when it meets its first such task, whenever that is.
pub fn reserve<E: GemmElement>(cpu: &Cpu, k: usize) {
    cpu.broadcast(|| with_scratch::<E, _>(panel_len::<E>(add(k, MAX_TERMS * E::GROUP)), |_| ()));
}

fn add(a: usize, b: usize) -> usize {
    a.checked_add(b).expect("scratch too long")
}

#[allow(clippy::too_many_arguments)]
fn run_task<E: GemmElement, O: Element>(
    cpu: &Cpu,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    terms: &[Term<'_, E>],
    scratch: &mut [E],
    target: &OutPtr<O>,
    ld: usize,
    scale: f32,
) {
    assert!(terms.len() <= MAX_TERMS);
    let mut rest = scratch;
    let mut panels: [&[E]; MAX_TERMS] = [&[]; MAX_TERMS];
    for (term, slot) in terms.iter().zip(&mut panels) {
        let (panel, tail) = rest.split_at_mut(panel_len::<E>(term.k));
        (term.pack)(columns.start, columns.len(), panel);
        *slot = panel;
        rest = tail;
    }
    // Tiles of equal height: 16 rows as 8 + 8 keep more chains in flight than 12 + 4.
    let tiles = rows.len().div_ceil(MR);
    let mut tile = [0.0f32; MR * NR];
    let mut first = rows.start;
    for t in 0..tiles {
        let height = rows.len() / tiles + usize::from(t < rows.len() % tiles);
        let segments: [Segment<E>; MAX_TERMS] = std::array::from_fn(|i| match terms.get(i) {
            Some(term) => Segment {
                a: term.a[first * term.lda..].as_ptr(),
                lda: term.lda,
                k: term.k,
                panel: panels[i].as_ptr(),
            },
            None => Segment { a: std::ptr::null(), lda: 0, k: 0, panel: std::ptr::null() },
        });
        // SAFETY: a's and panels' lengths were checked against m, k and lda; height ≤ 12.
        unsafe { E::tile(cpu.level, height, &segments[..terms.len()], &mut tile) };
        for (r, row) in tile.as_chunks::<NR>().0.iter().take(height).enumerate() {
            // SAFETY: row first + r < m, columns < n ≤ ld; no other task writes here.
            let out = unsafe {
                let start = target.0.add((first + r) * ld + columns.start);
                std::slice::from_raw_parts_mut(start, columns.len())
            };
            store(cpu.level, row, scale, out);
        }
        first += height;
    }
}

#[inline(always)]
fn store<O: Element>(level: Level, tile: &[f32; NR], scale: f32, out: &mut [O]) {
    if let Ok(out) = <&mut [O; NR]>::try_from(&mut *out) {
        O::store(level, tile, scale, out);
    } else {
        for (out, &x) in out.iter_mut().zip(tile) {
            *out = O::from_f32(x * scale);
        }
    }
}

/// Lends `len` elements of the thread's scratch, 64-byte aligned, contents arbitrary.
fn with_scratch<E: Element, R>(len: usize, f: impl FnOnce(&mut [E]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
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
