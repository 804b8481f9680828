//! The shared primitives with AMX: eight registers that are tiles of 16 × 64 bytes, and a product of them.
//!
//! Every function here needs what `has_amx_bf16` tests. What is no product of bf16 is AVX-512's.
//!
//! ```text
//!             B6: k 0..32 × columns 0..16   B7: columns 16..32      a panel, pairs of k in rows
//! A4: rows 0..16  × k 0..32   C0                    C1
//! A5: rows 16..32 × k 0..32   C2                    C3              32 × 32 sums in f32
//! ```
//!
//! Four loads of 1 KB feed four products of 16 × 16 × 32, which take 16 cycles each: 16 times the rate of a
//! 512-bit dot product. From there on the loads and what surrounds the product decide.

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_setzero_si512,
};
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use half::bf16;

pub use super::avx512bf16::{nf4_nn_bf16, nf4_nt_bf16, store_bf16};
pub use super::avx512f::{nf4_nn_f32, nf4_nt_f32, pack_nt, pair_rows, tile_f32};
use super::{MR, NR, Segment};

/// Rows of sums that one product makes, two products high.
pub const ROWS: usize = 32;
/// Rows of one register.
pub const HALF: usize = 16;
/// Elements of k that one product takes: a row of A is 64 bytes.
pub const DEPTH: usize = 32;
/// Bytes from one row of a panel to the next.
const PANEL_PITCH: usize = 4 * NR;

/// Whether the system lets this process use tiles: Linux wants to be asked, once, since they make the
/// state that it saves for each thread 8 KB longer.
pub fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let has_tiles = {
            // Leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE.
            let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
            features & (1 << 22) != 0 && features & (1 << 24) != 0
        };
        has_tiles && ask()
    })
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call of two numbers that touches no memory of ours; it clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// What `ldtilecfg` reads: bytes in a row and rows of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The registers' shapes for tiles of 0 to 32 rows.
static SHAPES: [Shapes; ROWS + 1] = {
    let mut all = [const { shapes(1) }; ROWS + 1];
    let mut rows = 1;
    while rows <= ROWS {
        all[rows] = shapes(rows);
        rows += 1;
    }
    all
};

const fn shapes(rows: usize) -> Shapes {
    let first = if rows < HALF { rows } else { HALF } as u8;
    // A register of no rows may not be configured beside others; it is not used then.
    let second = if rows > HALF { rows - HALF } else { HALF } as u8;
    let mut shapes =
        Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let of_each = [first, first, second, second, first, second, HALF as u8, HALF as u8];
    let mut register = 0;
    while register < of_each.len() {
        shapes.row_bytes[register] = 64;
        shapes.rows[register] = of_each[register];
        register += 1;
    }
    shapes
}

thread_local! {
    /// Inside a [`Kept`]: the rows that this thread's registers are configured for, 0 before the first.
    static KEPT: Cell<Option<u8>> = const { Cell::new(None) };
}

/// While it lives, this thread's registers stay as the last tile configured them: configuring takes as long as
/// the products of a contraction of 64. Dropped where the thread goes on to other people's code, who
/// may configure them for themselves, and before it sleeps.
pub struct Kept {
    outermost: bool,
    /// It is about this thread.
    not_send: PhantomData<*const ()>,
}

impl Kept {
    pub fn new() -> Self {
        let outermost = KEPT.get().is_none();
        if outermost {
            KEPT.set(Some(0));
        }
        Self { outermost, not_send: PhantomData }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.outermost && KEPT.take().is_some_and(|rows| rows > 0) {
            // SAFETY: they were configured, so the CPU has the instruction.
            unsafe { release() };
        }
    }
}

/// Configures the registers for tiles of `rows` rows: sums 0 and 1 of factor 4, sums 2 and 3 of factor 5, which
/// are in use with more than 16. Returns whether to release them afterwards.
///
/// # Safety
/// The CPU has the level.
#[inline(always)]
pub unsafe fn configure(rows: usize) -> bool {
    let kept = KEPT.get();
    if kept != Some(rows as u8) {
        let shapes = &raw const SHAPES[rows];
        // SAFETY: the caller's promise; 64 bytes with a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, readonly, preserves_flags))
        };
        if kept.is_some() {
            KEPT.set(Some(rows as u8));
        }
    }
    kept.is_none()
}

/// # Safety
/// The CPU has the level.
#[inline(always)]
pub unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// [`super::GemmElement::tile`] for bf16, with up to 32 rows.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows > HALF {
            true => tile::<true, true>(rows, segments, out),
            false => tile::<false, true>(rows, segments, out),
        }
    }
}

/// [`super::GemmElement::narrow_tile`] for bf16: without the right half.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn narrow_tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows > HALF {
            true => tile::<true, false>(rows, segments, out),
            false => tile::<false, false>(rows, segments, out),
        }
    }
}

/// Sums of `rows` rows: `TALL` where more than 16, `WIDE` with columns 16 to 32.
///
/// The registers hold their values from one `asm!` to the next, since the compiler has no use of its own
/// for them, and nothing but this loop runs in between.
///
/// # Safety
/// As [`tile_bf16`].
#[inline(always)]
unsafe fn tile<const TALL: bool, const WIDE: bool>(
    rows: usize,
    segments: &[Segment<bf16>],
    out: &mut [f32; MR * NR],
) {
    // SAFETY: rows is at most 32.
    let release_it = unsafe {
        let release_it = configure(rows);
        zero::<0>();
        zero::<1>();
        zero::<2>();
        zero::<3>();
        release_it
    };
    for segment in segments {
        let pitch = segment.lda * size_of::<bf16>();
        let (mut a, mut panel) = (segment.a.cast::<u8>(), segment.panel.cast::<u8>());
        for _ in 0..segment.k / DEPTH {
            // SAFETY: 32 elements of each row of `a`, 16 rows of the panel.
            unsafe {
                multiply::<TALL, WIDE>(a, pitch, panel);
                a = a.add(DEPTH * size_of::<bf16>());
                panel = panel.add(HALF * PANEL_PITCH);
            }
        }
        let left = segment.k % DEPTH;
        if left > 0 {
            // SAFETY: `left` elements of each row of `a`, ceil(left / 2) rows of the panel.
            unsafe {
                let (a, panel) =
                    (Padded::of_a(a, pitch, rows, left), Padded::of_panel(panel, left));
                multiply::<TALL, WIDE>(a.0.as_ptr().cast(), 64, panel.0.as_ptr().cast());
            }
        }
    }
    let out = out.as_mut_ptr().cast::<u8>();
    // SAFETY: the shapes have `rows` rows together; each has 64 bytes, twice in a row of `out`.
    unsafe {
        store::<0>(out, PANEL_PITCH);
        if WIDE {
            store::<1>(out.add(64), PANEL_PITCH);
        }
        if TALL {
            store::<2>(out.add(HALF * PANEL_PITCH), PANEL_PITCH);
            if WIDE {
                store::<3>(out.add(HALF * PANEL_PITCH + 64), PANEL_PITCH);
            }
        }
        if release_it {
            release();
        }
    }
}

/// The end of a contraction, with zeros behind it: neither the next columns of A nor what lies behind the
/// panel may come into a sum, since a NaN times zero is none.
pub struct Padded(pub [MaybeUninit<__m512i>; 2 * HALF]);

impl Padded {
    /// Of A, a line a row; lines that the registers do not have stay unwritten.
    ///
    /// # Safety
    /// `rows` ≤ 32 rows of `left` < 32 elements are readable at this pitch; the CPU has AVX-512 F and BW.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn of_a(a: *const u8, pitch: usize, rows: usize, left: usize) -> Self {
        let mut padded = Self([MaybeUninit::uninit(); 2 * HALF]);
        let mask = (1u32 << left) - 1;
        for (r, line) in padded.0.iter_mut().take(rows).enumerate() {
            // SAFETY: the caller's promise; the mask leaves out what lies behind the row.
            line.write(unsafe { _mm512_maskz_loadu_epi16(mask, a.add(r * pitch).cast()) });
        }
        padded
    }

    /// Of a panel, two lines a pair of k.
    ///
    /// # Safety
    /// ceil(left / 2) rows of the panel are readable; the CPU has AVX-512 F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn of_panel(panel: *const u8, left: usize) -> Self {
        let mut padded = Self([MaybeUninit::new(_mm512_setzero_si512()); 2 * HALF]);
        for (i, line) in padded.0.iter_mut().take(2 * left.div_ceil(2)).enumerate() {
            // SAFETY: the caller's promise.
            line.write(unsafe { _mm512_loadu_si512(panel.add(64 * i).cast()) });
        }
        padded
    }
}

/// Adds the product of 32 columns of A and 16 rows of the panel to the sums.
///
/// # Safety
/// They are readable; the registers are configured.
#[inline(always)]
unsafe fn multiply<const TALL: bool, const WIDE: bool>(
    a: *const u8,
    pitch: usize,
    panel: *const u8,
) {
    // All loads first: one between two products costs a seventh of the rate.
    // SAFETY: the caller's promise.
    unsafe {
        load::<4>(a, pitch);
        if TALL {
            load::<5>(a.add(HALF * pitch), pitch);
        }
        load::<6>(panel, PANEL_PITCH);
        if WIDE {
            load::<7>(panel.add(64), PANEL_PITCH);
        }
        dot::<0, 4, 6>();
        if WIDE {
            dot::<1, 4, 7>();
        }
        if TALL {
            dot::<2, 5, 6>();
            if WIDE {
                dot::<3, 5, 7>();
            }
        }
    }
}

/// # Safety
/// The register is configured.
#[inline(always)]
unsafe fn zero<const T: u8>() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) }
}

/// # Safety
/// The register's rows are readable from `from`, one each `pitch` bytes.
#[inline(always)]
pub unsafe fn load<const T: u8>(from: *const u8, pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm{t}, [{from} + {pitch}]",
            t = const T,
            from = in(reg) from,
            pitch = in(reg) pitch,
            options(nostack, readonly, preserves_flags),
        )
    }
}

/// # Safety
/// The register's rows are writable from `to`, one each `pitch` bytes.
#[inline(always)]
pub unsafe fn store<const T: u8>(to: *mut u8, pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{to} + {pitch}], tmm{t}",
            t = const T,
            to = in(reg) to,
            pitch = in(reg) pitch,
            options(nostack, preserves_flags),
        )
    }
}

/// `C += A · B`, a pair of k in each word of A's row and of B's row.
///
/// # Safety
/// The registers are configured.
#[inline(always)]
pub unsafe fn dot<const C: u8, const A: u8, const B: u8>() {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
            c = const C,
            a = const A,
            b = const B,
            options(nostack, nomem, preserves_flags),
        )
    }
}

/// Products on four registers; see [`super::multiply_chains`].
///
/// # Safety
/// The CPU has the level.
pub unsafe fn multiply_chains(rounds: usize) -> usize {
    // SAFETY: the caller's promise. The factors are zeros, which take as long as others.
    unsafe {
        let release_it = configure(ROWS);
        zero::<4>();
        zero::<5>();
        zero::<6>();
        zero::<7>();
        for _ in 0..rounds {
            dot::<0, 4, 6>();
            dot::<1, 4, 7>();
            dot::<2, 5, 6>();
            dot::<3, 5, 7>();
        }
        if release_it {
            release();
        }
    }
    rounds * 4 * HALF * HALF * DEPTH
}

#[cfg(test)]
mod tests {
    use super::super::{GemmElement, Level, panel_len, plain};
    use super::*;

    /// Tiles of other heights in between, kept or not, nested or not, change nothing.
    #[test]
    fn kept_registers_have_the_shape_of_the_tile() {
        let Ok(level) = Level::from_name("amx_bf16") else {
            eprintln!("SKIPPED: no AMX here");
            return;
        };
        let a: Vec<bf16> = (0..MR * DEPTH).map(|i| bf16::from_f32((i % 23) as f32)).collect();
        let panel: Vec<bf16> = (0..DEPTH * NR).map(|i| bf16::from_f32((i % 19) as f32)).collect();
        let segment = Segment { a: a.as_ptr(), lda: DEPTH, k: DEPTH, panel: panel.as_ptr() };
        let tile = |rows: usize| {
            let mut out = [0.0; MR * NR];
            // SAFETY: MR rows of 32 elements, a whole panel.
            unsafe { bf16::tile(level, rows, std::slice::from_ref(&segment), &mut out) };
            assert!(out[rows * NR..].iter().all(|x| *x == 0.0), "written behind {rows} rows");
            out[..rows * NR].to_vec()
        };
        let alone: Vec<_> = (1..=ROWS).map(tile).collect();
        for _ in 0..2 {
            let kept = Kept::new();
            for (i, rows) in [32, 5, 5, 17, 16, 1, 32].into_iter().enumerate() {
                let nested = (i % 2 == 0).then(Kept::new);
                assert_eq!(tile(rows), alone[rows - 1], "{rows} rows");
                drop(nested);
                assert_eq!(KEPT.get(), Some(rows as u8));
            }
            drop(kept);
            assert_eq!(KEPT.get(), None);
            assert_eq!(tile(7), alone[6]);
        }
    }

    /// Every height gives the bits of the sum in its order, over segments whose ends are no whole tile; what
    /// lies behind a row of A, or behind a panel, comes into none.
    #[test]
    fn sums_are_of_even_and_odd_elements_by_tiles() {
        let Ok(level) = Level::from_name("amx_bf16") else {
            eprintln!("SKIPPED: no AMX here");
            return;
        };
        const LDA: usize = 80;
        let lengths = [16, 77, 32, 1, 64];
        let value = |i: usize| bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 7.0);
        let a = |row: usize, k: usize| value(row * 13 + k);
        let rows_of_a = |k: usize| -> Vec<bf16> {
            let nan = bf16::NAN;
            (0..MR * LDA).map(|i| if i % LDA < k { a(i / LDA, i % LDA) } else { nan }).collect()
        };
        let b = |k: usize, column: usize| value(k * 31 + column + 5);
        let panel = |k: usize| {
            let mut panel = vec![bf16::NAN; panel_len::<bf16>(k) + NR];
            plain::pack(0, k, NR, &mut panel, b);
            panel
        };
        let data = lengths.map(|k| (rows_of_a(k), panel(k)));
        let segments: [_; 5] = std::array::from_fn(|i| Segment {
            a: data[i].0.as_ptr(),
            lda: LDA,
            k: lengths[i],
            panel: data[i].1.as_ptr(),
        });
        let sum = |row: usize, column: usize| {
            let mut sum = 0f32;
            for k in lengths {
                for tile in (0..k).step_by(DEPTH) {
                    let mut parts = [0f32; 2];
                    for k in tile..k.min(tile + DEPTH) {
                        let part = &mut parts[k % 2];
                        *part = a(row, k).to_f32().mul_add(b(k, column).to_f32(), *part);
                    }
                    sum += parts[0] + parts[1];
                }
            }
            sum
        };
        for rows in 1..=ROWS {
            for columns in [NR, NR / 2] {
                let mut out = [f32::NAN; MR * NR];
                // SAFETY: MR rows of at most 80 elements, panels of their full length.
                unsafe {
                    match columns {
                        NR => bf16::tile(level, rows, &segments, &mut out),
                        _ => bf16::narrow_tile(level, rows, &segments, &mut out),
                    }
                };
                for (row, out) in out.chunks_exact(NR).take(rows).enumerate() {
                    for (column, got) in out[..columns].iter().enumerate() {
                        let want = sum(row, column);
                        assert_eq!(got.to_bits(), want.to_bits(), "{rows} rows: {row}, {column}");
                    }
                }
                let behind = &out[rows * NR..];
                assert!(behind.iter().all(|x| x.is_nan()), "{rows} rows: written behind them");
            }
        }
    }
}
