//! The CPU path: the weight's panels packed (NF4: decoded) into cache, adapter panels behind them, one tile GEMM.

use std::ops::Range;

use half::bf16;

use super::{BackwardTerm, LowRank, Weight};
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::simd::Nf4Codes;
use crate::device::cpu::simd::prefetch::Source;
use crate::device::cpu::{Cpu, GemmElement, Level};
use crate::quant::nf4::{CODEBOOK, nested_scale};
use crate::quant::{Absmax, Nf4Matrix};

pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &[E],
    w: Weight<'_>,
    lora: Option<LowRank<'_, E>>,
    bias: Option<&[bf16]>,
    y: &mut [E],
) {
    if super::few::forward(cpu, m, x, w, lora, bias, y) {
        return;
    }
    let (level, (n, k)) = (cpu.level, w.shape());
    let base = |columns: Range<usize>, panel: &mut [E]| {
        pack(level, w, Direction::Nt, columns, panel);
    };
    let right = |columns: Range<usize>, panel: &mut [E]| {
        if let Some(LowRank { r, right, .. }) = lora {
            E::pack_nt(level, right, r, columns.start, columns.len(), r, panel);
        }
    };
    let bias_row = |columns: Range<usize>, panel: &mut [E]| {
        if let Some(bias) = bias {
            pack_row(&bias[columns], panel);
        }
    };
    let one = [E::from_f32(1.0)];
    let source = source(w, Direction::Nt);
    let mut terms = [Term { a: x, lda: k, k, pack: &base, source }; 3];
    let mut used = 1;
    if let Some(LowRank { left, ld, r, .. }) = lora {
        terms[used] = Term { a: left, lda: ld, k: r, pack: &right, source: Source::Cached };
        used += 1;
    }
    if bias.is_some() {
        // A contraction over one element, which is 1 in every row.
        terms[used] = Term { a: &one, lda: 0, k: 1, pack: &bias_row, source: Source::Cached };
        used += 1;
    }
    gemm(cpu, m, n, &terms[..used], Out { data: y, ld: n, scale: 1.0 });
}

/// A panel whose contraction is one element long.
fn pack_row<E: GemmElement>(row: &[bf16], panel: &mut [E]) {
    panel.fill(E::from_f32(0.0));
    for (word, x) in panel.chunks_exact_mut(E::GROUP).zip(row) {
        word[0] = E::from_f32(x.to_f32());
    }
}

pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    terms: &[BackwardTerm<'_, E>],
    dx: &mut [E],
) {
    let level = cpu.level;
    // A fixed-size list of closures, so that the hot loop allocates nothing.
    let base: [_; super::MAX_TERMS] = std::array::from_fn(|i| {
        let w = terms.get(i).map(|term| term.w);
        move |columns: Range<usize>, panel: &mut [E]| {
            if let Some(w) = w {
                pack(level, w, Direction::Nn, columns, panel);
            }
        }
    });
    let adapter: [_; super::MAX_TERMS] = std::array::from_fn(|i| {
        let lora = terms.get(i).and_then(|term| term.lora);
        move |columns: Range<usize>, panel: &mut [E]| {
            if let Some(lora) = lora {
                E::pack_nn(level, lora.right, n, lora.r, columns.start, columns.len(), panel);
            }
        }
    });
    let empty: &[E] = &[];
    let mut list: [Term<'_, E>; 2 * super::MAX_TERMS] = std::array::from_fn(|i| Term {
        a: empty,
        lda: 0,
        k: 0,
        pack: &base[i / 2],
        source: Source::Cached,
    });
    let mut used = 0;
    for (i, term) in terms.iter().enumerate() {
        let (a, (k, _)) = (term.dy, term.w.shape());
        let source = source(term.w, Direction::Nn);
        list[used] = Term { a, lda: k, k, pack: &base[i], source };
        used += 1;
        if let Some(LowRank { left, ld, r, .. }) = term.lora {
            let (pack, source) = (&adapter[i], Source::Cached);
            list[used] = Term { a: left, lda: ld, k: r, pack, source };
            used += 1;
        }
    }
    gemm(cpu, m, n, &list[..used], Out { data: dx, ld: n, scale: 1.0 });
}

/// Whether a panel's columns are output features (y = x·Wᵀ) or input features (dx = dy·W).
#[derive(Clone, Copy)]
enum Direction {
    Nt,
    Nn,
}

/// Packs 32 columns of a weight into a panel, rounded to `E`.
fn pack<E: GemmElement>(
    level: Level,
    w: Weight<'_>,
    direction: Direction,
    columns: Range<usize>,
    panel: &mut [E],
) {
    let (first, count) = (columns.start, columns.len());
    match (w, direction) {
        (Weight::Nf4(w), _) => decode(level, w, direction, columns, panel),
        (Weight::Bf16(w), Direction::Nt) => {
            E::pack_nt_bf16(level, w.data, w.cols, first, count, w.cols, panel);
        }
        (Weight::Bf16(w), Direction::Nn) => {
            E::pack_nn_bf16(level, w.data, w.cols, w.rows, first, count, panel);
        }
        (Weight::F32(w), Direction::Nt) => {
            E::pack_nt_f32(level, w.data, w.cols, first, count, w.cols, panel);
        }
        (Weight::F32(w), Direction::Nn) => {
            E::pack_nn_f32(level, w.data, w.cols, w.rows, first, count, panel);
        }
    }
}

/// What [`pack`] reads.
fn source(w: Weight<'_>, direction: Direction) -> Source<'_> {
    let (data, bits): (&[u8], usize) = match w {
        Weight::Nf4(w) => (&w.codes, 4),
        Weight::Bf16(w) => (bytemuck::cast_slice(w.data), 16),
        Weight::F32(w) => (bytemuck::cast_slice(w.data), 32),
    };
    let pitch = w.shape().1 * bits / 8;
    match direction {
        Direction::Nt => Source::Rows { data, pitch },
        Direction::Nn => Source::Columns { data, pitch, bits },
    }
}

/// Decodes 32 columns into a panel. The match on the kind of scales is out here, so that the
/// decoder's inner loop is compiled for each.
fn decode<E: GemmElement>(
    level: Level,
    w: &Nf4Matrix,
    direction: Direction,
    columns: Range<usize>,
    panel: &mut [E],
) {
    match &w.absmax {
        Absmax::Plain(absmax) => {
            decode_scaled(level, w, |block| absmax[block], direction, columns, panel);
        }
        Absmax::Nested { codes, absmax2, offset, map } => {
            let scale = nested_scale(codes, absmax2, *offset, map);
            decode_scaled(level, w, scale, direction, columns, panel);
        }
    }
}

fn decode_scaled<E: GemmElement>(
    level: Level,
    w: &Nf4Matrix,
    scale: impl Fn(usize) -> f32,
    direction: Direction,
    columns: Range<usize>,
    panel: &mut [E],
) {
    let source = with_scales(w, scale);
    match direction {
        Direction::Nt => E::nf4_nt(level, &source, columns.start, columns.len(), panel),
        Direction::Nn => E::nf4_nn(level, &source, columns.start, columns.len(), panel),
    }
}

/// A weight as the decoders see it.
pub fn with_scales<S>(w: &Nf4Matrix, scale: S) -> Nf4Codes<'_, S> {
    let Nf4Matrix { rows, cols, ref codes, .. } = *w;
    Nf4Codes { codes, rows, cols, scale, codebook: &CODEBOOK }
}
