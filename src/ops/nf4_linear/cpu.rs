//! The CPU path: NF4 panels decoded into cache, adapter panels behind them, one tile GEMM.

use super::{BackwardTerm, LowRank};
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::simd::Nf4Codes;
use crate::device::cpu::{Cpu, GemmElement, Level};
use crate::quant::nf4::CODEBOOK;
use crate::quant::{Absmax, Nf4Matrix};

pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &[E],
    w: &Nf4Matrix,
    lora: Option<LowRank<'_, E>>,
    y: &mut [E],
) {
    let (level, n, k) = (cpu.level, w.rows, w.cols);
    let base = |column: usize, columns: usize, panel: &mut [E]| {
        decode_nt(level, w, column, columns, panel);
    };
    let base = Term { a: x, lda: k, k, pack: &base };
    let out = Out { data: y, ld: n, scale: 1.0 };
    match lora {
        None => gemm(cpu, m, n, &[base], out),
        Some(LowRank { left, ld, r, right }) => {
            let pack = |column: usize, columns: usize, panel: &mut [E]| {
                E::pack_nt(level, right, r, column, columns, r, panel);
            };
            gemm(cpu, m, n, &[base, Term { a: left, lda: ld, k: r, pack: &pack }], out);
        }
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
        move |column: usize, columns: usize, panel: &mut [E]| {
            if let Some(w) = w {
                decode_nn(level, w, column, columns, panel);
            }
        }
    });
    let adapter: [_; super::MAX_TERMS] = std::array::from_fn(|i| {
        let lora = terms.get(i).and_then(|term| term.lora);
        move |column: usize, columns: usize, panel: &mut [E]| {
            if let Some(lora) = lora {
                E::pack_nn(level, lora.right, n, lora.r, column, columns, panel);
            }
        }
    });
    let empty: &[E] = &[];
    let mut list: [Term<'_, E>; 2 * super::MAX_TERMS] =
        std::array::from_fn(|i| Term { a: empty, lda: 0, k: 0, pack: &base[i / 2] });
    let mut used = 0;
    for (i, term) in terms.iter().enumerate() {
        list[used] = Term { a: term.dy, lda: term.w.rows, k: term.w.rows, pack: &base[i] };
        used += 1;
        if let Some(lora) = &term.lora {
            list[used] = Term { a: lora.left, lda: lora.ld, k: lora.r, pack: &adapter[i] };
            used += 1;
        }
    }
    gemm(cpu, m, n, &list[..used], Out { data: dx, ld: n, scale: 1.0 });
}

/// Decodes 32 output features into an "nt" panel. The match on the kind of scales is out here, so
/// that the decoder's inner loop is compiled for each.
fn decode_nt<E: GemmElement>(
    level: Level,
    w: &Nf4Matrix,
    row: usize,
    rows: usize,
    panel: &mut [E],
) {
    let codes = &w.codes[..];
    let (n, k) = (w.rows, w.cols);
    let codebook = &CODEBOOK;
    match &w.absmax {
        Absmax::Plain(absmax) => {
            let scale = |block: usize| absmax[block];
            let source = Nf4Codes { codes, rows: n, cols: k, scale, codebook };
            E::nf4_nt(level, &source, row, rows, panel);
        }
        Absmax::Nested { codes: nested, absmax2, offset, map } => {
            let (nested, offset) = (&nested[..], *offset);
            let scale = |block: usize| map[nested[block] as usize] * absmax2[block / 256] + offset;
            let source = Nf4Codes { codes, rows: n, cols: k, scale, codebook };
            E::nf4_nt(level, &source, row, rows, panel);
        }
    }
}

/// Decodes 32 input features of all rows into an "nn" panel.
fn decode_nn<E: GemmElement>(
    level: Level,
    w: &Nf4Matrix,
    col: usize,
    cols: usize,
    panel: &mut [E],
) {
    let codes = &w.codes[..];
    let (n, k) = (w.rows, w.cols);
    let codebook = &CODEBOOK;
    match &w.absmax {
        Absmax::Plain(absmax) => {
            let scale = |block: usize| absmax[block];
            let source = Nf4Codes { codes, rows: n, cols: k, scale, codebook };
            E::nf4_nn(level, &source, col, cols, panel);
        }
        Absmax::Nested { codes: nested, absmax2, offset, map } => {
            let (nested, offset) = (&nested[..], *offset);
            let scale = |block: usize| map[nested[block] as usize] * absmax2[block / 256] + offset;
            let source = Nf4Codes { codes, rows: n, cols: k, scale, codebook };
            E::nf4_nn(level, &source, col, cols, panel);
        }
    }
}
