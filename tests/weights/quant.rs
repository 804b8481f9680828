//! Quantising against its plain twin, and the rules at the edges.

use dayrun::quant::nf4::{BLOCK, CODEBOOK};
use dayrun::quant::quantise::THRESHOLDS;
use dayrun::quant::{Absmax, DYNAMIC_MAP, Error, Nf4Matrix, double_quantise, quantise, reference};
use proptest::prelude::*;

use super::matrix_bytes;

fn codes(matrix: &Nf4Matrix) -> Vec<u8> {
    (0..matrix.rows * matrix.cols).map(|i| matrix.code(i)).collect()
}

fn plain(matrix: &Nf4Matrix) -> &[f32] {
    match &matrix.absmax {
        Absmax::Plain(absmax) => absmax,
        Absmax::Nested { .. } => panic!("nested"),
    }
}

fn one_row(values: &[f32]) -> Nf4Matrix {
    quantise(1, values.len(), values).expect("quantises")
}

/// Weights as they come: mostly small, some outliers, some zeros, blocks of nothing but zeros.
fn weights() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    let value = prop_oneof![
        8 => -1.0f32..1.0,
        1 => -300.0f32..300.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => (0u32..0x7f80_0000).prop_map(f32::from_bits),
    ];
    (1usize..9, 1usize..200)
        .prop_flat_map(move |(rows, cols)| {
            let zeros = proptest::collection::vec(proptest::bool::weighted(0.2), 40);
            (Just(rows), Just(cols), proptest::collection::vec(value.clone(), rows * cols), zeros)
        })
        .prop_map(|(rows, cols, mut values, zeros)| {
            for (block, zero) in values.chunks_mut(BLOCK).zip(zeros) {
                if zero {
                    block.fill(0.0);
                }
            }
            (rows, cols, values)
        })
}

/// Subnormal numbers count as zero in the quantiser, and the twin does not know it.
fn flushed(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }).collect()
}

#[test]
fn the_codebook_is_bitsandbytes() {
    let bits: [u32; 16] = [
        0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0,
        0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3,
        0x3f800000,
    ];
    assert_eq!(CODEBOOK.map(f32::to_bits), bits);
}

#[test]
fn a_tie_goes_to_the_lower_code() {
    let mut values = vec![1.0];
    for t in THRESHOLDS {
        values.extend([t.next_down(), t, t.next_up()]);
    }
    let codes = codes(&one_row(&values));
    for (i, code) in codes[1..].chunks(3).enumerate() {
        assert_eq!(code, [i as u8, i as u8, i as u8 + 1], "threshold {i}");
    }
}

#[test]
fn a_block_of_zeros_has_code_0_and_absmax_0() {
    let mut values = vec![0.0; 3 * BLOCK];
    values[2 * BLOCK] = 1.0;
    values[5] = -0.0;
    values[BLOCK + 5] = f32::MIN_POSITIVE / 2.0; // CUDA flushes it
    let matrix = one_row(&values);
    assert_eq!(plain(&matrix), [0.0, 0.0, 1.0]);
    assert!(matrix.codes[..BLOCK].iter().all(|&byte| byte == 0));
    assert!(matrix.to_f32()[..2 * BLOCK].iter().all(|&x| x == 0.0));
    // In a block that has a scale, zero is code 7.
    assert_eq!(matrix.code(2 * BLOCK + 1), 7);
}

#[test]
fn an_outlier_ruins_its_own_block_only() {
    let mut values = vec![0.25f32; 2 * BLOCK];
    values[3] = -1000.0;
    let decoded = one_row(&values).to_f32();
    assert_eq!(decoded[3], -1000.0);
    assert_eq!(decoded[4], 0.0);
    assert!(decoded[BLOCK..].iter().all(|&x| x == 0.25));
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        // Several tasks' worth, two bad values: the first is named, whoever finds it.
        let mut values = vec![0.5f32; 1000 * 300];
        values[234_567] = bad;
        values[299_999] = f32::NAN;
        match quantise(1000, 300, &values) {
            Err(Error::NotFinite { index, value }) => {
                assert_eq!((index, value.to_bits()), (234_567, bad.to_bits()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(quantise(2, 3, &[0.0; 5]), Err(Error::Length { found: 5, .. })));
    assert!(matches!(quantise(usize::MAX, 2, &[0.0; 5]), Err(Error::Length { .. })));
}

#[test]
fn an_empty_matrix_is_empty() {
    let matrix = double_quantise(quantise(0, 64, &[]).expect("quantises"));
    assert_eq!((matrix.codes.len(), matrix.blocks()), (0, 0));
}

#[test]
fn double_quantisation_of_equal_scales_is_exact() {
    let values = vec![0.75f32; 300 * BLOCK];
    let matrix = double_quantise(one_row(&values));
    let Absmax::Nested { codes, absmax2, offset, .. } = &matrix.absmax else { panic!() };
    // Every difference from the mean is zero: the CUDA rule gives code 0 and scale 0.
    assert_eq!((*offset, &absmax2[..]), (0.75, &[0.0, 0.0][..]));
    assert!(codes.iter().all(|&code| code == 0));
    assert_eq!(matrix.to_f32(), values);
}

proptest! {
    #[test]
    fn quantising_agrees_with_the_reference((rows, cols, values) in weights()) {
        let matrix = quantise(rows, cols, &values).expect("quantises");
        let (want_codes, want_absmax) = reference::quantise(&flushed(&values));
        prop_assert_eq!(plain(&matrix), &want_absmax[..]);
        prop_assert_eq!(codes(&matrix), want_codes.clone());
        prop_assert_eq!(matrix.to_f32(), reference::dequantise(&want_codes, &want_absmax));
    }

    #[test]
    fn quantising_again_changes_nothing((rows, cols, values) in weights()) {
        let first = quantise(rows, cols, &values).expect("quantises");
        let again = quantise(rows, cols, &first.to_f32()).expect("quantises");
        prop_assert!(matrix_bytes(&first) == matrix_bytes(&again));
    }

    /// No entry of the map is nearer than the one chosen, and the mean is the mean.
    #[test]
    fn nested_codes_are_nearest(scales in proptest::collection::vec(0.001f32..2.0, 1..600)) {
        let values: Vec<f32> = scales.iter().flat_map(|&s| [s; BLOCK]).collect();
        let matrix = double_quantise(one_row(&values));
        let Absmax::Nested { codes, absmax2, offset, map } = &matrix.absmax else { panic!() };
        prop_assert_eq!(&map[..], &DYNAMIC_MAP[..]);
        let mean = scales.iter().map(|&s| s as f64).sum::<f64>() / scales.len() as f64;
        prop_assert_eq!(*offset, mean as f32);
        for (b, chunk) in scales.chunks(256).enumerate() {
            let max = chunk.iter().map(|s| (s - offset).abs()).fold(0.0, f32::max);
            prop_assert_eq!(absmax2[b], max);
        }
        for (i, &code) in codes.iter().enumerate().filter(|(i, _)| absmax2[i / 256] > 0.0) {
            let distance = |code| reference::nested_distance(&scales, *offset, absmax2, i, code);
            let best = (0..=255).map(distance).fold(f64::INFINITY, f64::min);
            // The midpoint of two entries is rounded to f32.
            prop_assert!(distance(code) <= best + f32::EPSILON as f64, "scale {}", i);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    // Several tasks, with blocks that straddle rows.
    let values: Vec<f32> =
        (0..1000 * 333i64).map(|i| ((i * 7919) % 10007) as f32 - 5000.0).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let matrix = pool.install(|| quantise(1000, 333, &values).map(double_quantise));
        matrix_bytes(&matrix.expect("quantises"))
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
    let (codes, _) = reference::quantise(&values);
    let matrix = quantise(1000, 333, &values).expect("quantises");
    assert!((0..codes.len()).all(|i| codes[i] == matrix.code(i)));
}
