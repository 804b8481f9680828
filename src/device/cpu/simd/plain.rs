//! The tile GEMM's primitives in plain Rust, written so that 128-bit vectors (SSE2) do them well.

use half::bf16;

use super::{GemmElement, MR, NR, Segment};

/// Where element (k, column) lies in a panel.
#[inline(always)]
fn place<E: GemmElement>(k: usize, column: usize) -> usize {
    (k / E::GROUP) * E::GROUP * NR + column * E::GROUP + k % E::GROUP
}

/// Packs with a plain loop: `value(k, column)` for k in `from..k`, zero where `column >= columns`.
#[inline(always)]
pub fn pack<E: GemmElement>(
    from: usize,
    k: usize,
    columns: usize,
    panel: &mut [E],
    value: impl Fn(usize, usize) -> E,
) {
    let zero = E::from_f32(0.0);
    for kk in from..k.next_multiple_of(E::GROUP) {
        for column in 0..NR {
            let inside = kk < k && column < columns;
            panel[place::<E>(kk, column)] = if inside { value(kk, column) } else { zero };
        }
    }
}

/// [`GemmElement::tile`] for bf16. Pairs of k are widened as one 32-bit word.
///
/// # Safety
/// As [`GemmElement::tile`].
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile::<bf16, Pairs, 2>(rows, segments, out) }
}

/// [`GemmElement::tile`] for f32.
///
/// # Safety
/// As [`GemmElement::tile`].
pub unsafe fn tile_f32(rows: usize, segments: &[Segment<f32>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile::<f32, Singles, 1>(rows, segments, out) }
}

/// How `W` columns of a panel's row (`G` elements of k each) become f32.
trait Widen<E, const G: usize> {
    /// # Safety
    /// `G · W` elements are readable from `panel`.
    unsafe fn widen<const W: usize>(panel: *const E) -> [[f32; W]; G];
}

struct Pairs;
struct Singles;

impl Widen<bf16, 2> for Pairs {
    #[inline(always)]
    unsafe fn widen<const W: usize>(panel: *const bf16) -> [[f32; W]; 2] {
        // SAFETY: the caller's promise; any bits are a u32.
        let words = unsafe { panel.cast::<[u32; W]>().read_unaligned() };
        let low = words.map(|word| f32::from_bits(word << 16));
        let high = words.map(|word| f32::from_bits(word & 0xffff_0000));
        if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
    }
}

impl Widen<f32, 1> for Singles {
    #[inline(always)]
    unsafe fn widen<const W: usize>(panel: *const f32) -> [[f32; W]; 1] {
        // SAFETY: the caller's promise.
        [unsafe { panel.cast::<[f32; W]>().read_unaligned() }]
    }
}

/// Cuts the tile into blocks of 32 sums: eight 128-bit registers of the sixteen. Every sum runs over
/// k in order, so its bits do not depend on the block that it falls in.
///
/// # Safety
/// As [`GemmElement::tile`].
#[inline(always)]
unsafe fn tile<E: GemmElement, B: Widen<E, G>, const G: usize>(
    rows: usize,
    segments: &[Segment<E>],
    out: &mut [f32; MR * NR],
) {
    let mut row = 0;
    while row < rows {
        // SAFETY: the blocks' rows are below `rows`; the rest is the caller's promise.
        row += unsafe {
            match rows - row {
                1 => strip::<E, B, G, 1, 32>(row, segments, out),
                2 | 3 => strip::<E, B, G, 2, 16>(row, segments, out),
                _ => strip::<E, B, G, 4, 8>(row, segments, out),
            }
        };
    }
}

/// `R` rows from `row`, `W` columns at a time; returns `R`.
///
/// # Safety
/// As [`GemmElement::tile`], with `row + R` rows; `W` divides 32.
#[inline(always)]
unsafe fn strip<E: GemmElement, B: Widen<E, G>, const G: usize, const R: usize, const W: usize>(
    row: usize,
    segments: &[Segment<E>],
    out: &mut [f32; MR * NR],
) -> usize {
    for column in (0..NR).step_by(W) {
        let mut acc = [[0.0f32; W]; R];
        for segment in segments {
            for step in 0..segment.k.div_ceil(G) {
                let k = step * G;
                // SAFETY: row `step` of the panel, columns `column .. column + W`.
                let b = unsafe { B::widen::<W>(segment.panel.add(k * NR + column * G)) };
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (g, b) in b.iter().enumerate() {
                        if k + g < segment.k {
                            // SAFETY: row `row + r` of `a` has k elements.
                            let a =
                                unsafe { segment.a.add((row + r) * segment.lda + k + g).read() };
                            let a = a.to_f32();
                            acc.iter_mut().zip(b).for_each(|(acc, b)| *acc += a * b);
                        }
                    }
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            out[(row + r) * NR + column..][..W].copy_from_slice(acc);
        }
    }
    R
}

#[cfg(test)]
mod tests {
    use super::super::{Level, panel_len};
    use super::*;

    /// Every height gives the bits of the sum in order, over two segments with odd k.
    fn sums_run_in_order<E: GemmElement>() {
        let lengths = [7, 13];
        let value = |i: usize| E::from_f32(((i * 37 % 101) as f32 - 50.0) / 7.0);
        let a: Vec<E> = (0..MR * 13).map(value).collect();
        let panels = lengths.map(|k| {
            let mut panel = vec![E::from_f32(f32::NAN); panel_len::<E>(k)];
            pack(0, k, NR, &mut panel, |k, column| value(k * 31 + column + 5));
            panel
        });
        let segments: [_; 2] = std::array::from_fn(|i| Segment {
            a: a.as_ptr(),
            lda: 13,
            k: lengths[i],
            panel: panels[i].as_ptr(),
        });
        for rows in 1..=MR {
            let mut out = [f32::NAN; MR * NR];
            // SAFETY: 12 rows of 13 elements, panels of their full length.
            unsafe { E::tile(Level::PORTABLE, rows, &segments, &mut out) };
            for (i, out) in out[..rows * NR].iter().enumerate() {
                let mut want = 0.0;
                for k in lengths.into_iter().flat_map(|k| 0..k) {
                    want += a[i / NR * 13 + k].to_f32() * value(k * 31 + i % NR + 5).to_f32();
                }
                assert_eq!(out.to_bits(), f32::to_bits(want), "{rows} rows, output {i}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_height() {
        sums_run_in_order::<bf16>();
        sums_run_in_order::<f32>();
    }
}
