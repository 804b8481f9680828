//! Quantising on the GPU: the bytes of the CPU's quantiser, and codes as near as the f64 rule's.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::nf4_quantize::{cuda, reference};
use dayrun::quant::nf4::CODEBOOK;
use dayrun::quant::{Absmax, DYNAMIC_MAP, double_quantise, quantise};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{Rng, assert_same_bits};

/// Weights with blocks of zeros, of subnormal numbers, of one value, and of very different size.
fn weights(rng: &mut Rng, n: usize) -> Vec<f32> {
    let mut x: Vec<f32> = rng.values(n, 0.05).into_iter().map(|x| x as f32).collect();
    for (i, block) in x.chunks_mut(64).enumerate() {
        match (i + n) % 9 {
            3 => block.fill(0.0),
            4 => block.fill(1e-39),
            5 => block.iter_mut().for_each(|x| *x *= 1e-30),
            6 => block.fill(-2.5),
            7 => block.iter_mut().enumerate().for_each(|(j, x)| *x = CODEBOOK[j % 16]),
            _ => {}
        }
    }
    x
}

/// Values on the thresholds between codes, where the lower code wins, and next to them; the first is the scale of its
/// block: 1 leaves the rest as it is, and one near the largest number has a subnormal reciprocal.
fn at_thresholds(n: usize, scale: f32) -> Vec<f32> {
    let value = |i: usize| {
        let t = (CODEBOOK[i % 15] + CODEBOOK[i % 15 + 1]) / 2.0;
        let t = [t.next_down(), t, t.next_up()][i / 15 % 3];
        if i.is_multiple_of(64) { scale } else { t * scale }
    };
    (0..n).map(value).collect()
}

/// `x` rounded to bf16 through the kernel for bf16, `x` itself through the one for f32.
fn check_both(gpu: &Arc<Cuda>, x: &[f32], bits: &mut Bits) {
    let narrow: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    check(gpu, &narrow, true, bits);
    check(gpu, x, false, bits);
}

fn check(gpu: &Arc<Cuda>, x: &[f32], narrow: bool, bits: &mut Bits) {
    let n = x.len();
    let (mut codes, mut absmax) =
        (gpu.alloc::<u8>(n.div_ceil(2)).unwrap(), gpu.alloc::<f32>(n.div_ceil(64)).unwrap());
    let (to, scales) = (&mut codes.view_mut(), &mut absmax.view_mut());
    if narrow {
        let x: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        cuda::forward_bf16(gpu, gpu.upload(&x).unwrap().view(), to, scales).unwrap();
    } else {
        cuda::forward_f32(gpu, gpu.upload(x).unwrap().view(), to, scales).unwrap();
    }
    let (got, scales) = (gpu.download(codes.view()).unwrap(), gpu.download(absmax.view()).unwrap());
    let want = quantise(1, n, x).unwrap();
    let Absmax::Plain(want_scales) = &want.absmax else { unreachable!("plain scales") };
    assert_same_bits("nf4_quantize codes", &got, &want.codes);
    assert_same_bits("nf4_quantize absmax", &scales, want_scales);
    bits.add(&got);
    check_codes(x, &got);
    check_nested(gpu, &scales, bits, want);
}

/// The f64 rule: no code is farther from its value than the nearest, but for the rounding of x · (1/absmax).
fn check_codes(x: &[f32], got: &[u8]) {
    let wide: Vec<f64> =
        x.iter().map(|x| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { f64::from(*x) }).collect();
    let (codes, absmax) = reference::forward(&wide);
    for (i, &want) in codes.iter().enumerate() {
        let code = if i % 2 == 0 { got[i / 2] >> 4 } else { got[i / 2] & 15 };
        let distance = |code: u8| {
            let scale = absmax[i / 64];
            if scale == 0.0 {
                0.0
            } else {
                (f64::from(CODEBOOK[code as usize]) - wide[i] / scale).abs()
            }
        };
        // Two roundings of f32, of the reciprocal and of the product, move a value of at most 1 by 2^-23.
        let excess = distance(code) - distance(want);
        assert!(excess <= 2.0 * f64::from(f32::EPSILON), "element {i}: {code}, nearest is {want}");
    }
}

fn check_nested(gpu: &Arc<Cuda>, absmax: &[f32], bits: &mut Bits, plain: dayrun::quant::Nf4Matrix) {
    let blocks = absmax.len();
    let (absmax, map) = (gpu.upload(absmax).unwrap(), gpu.upload(&DYNAMIC_MAP).unwrap());
    let mut offset = gpu.alloc::<f32>(1).unwrap();
    let mut scales = gpu.alloc::<u8>(blocks).unwrap();
    let mut absmax2 = gpu.alloc::<f32>(blocks.div_ceil(256)).unwrap();
    let (o, s, a) = (&mut offset.view_mut(), &mut scales.view_mut(), &mut absmax2.view_mut());
    cuda::double_quantise(gpu, absmax.view(), map.view(), o, s, a).unwrap();
    let want = double_quantise(plain);
    let Absmax::Nested { codes, absmax2: want2, offset: want_offset, .. } = &want.absmax else {
        unreachable!("nested scales")
    };
    // Sums of so few are the same but for the last bits of f64, which rounding to f32 takes away.
    assert_same_bits("offset", &gpu.download(offset.view()).unwrap(), &[*want_offset]);
    assert_same_bits("scales", &gpu.download(scales.view()).unwrap(), codes);
    assert_same_bits("absmax2", &gpu.download(absmax2.view()).unwrap(), want2);
    bits.add(&gpu.download(scales.view()).unwrap());
}

#[test]
fn bytes_are_the_cpus() {
    gpu::run("cuda::nf4_quantize::bytes_are_the_cpus", |gpu, bits| {
        let mut rng = Rng::new(21);
        for i in 0..gpu::shapes() {
            // Up to some 300 blocks: more than one second scale.
            let n = if i % 3 == 0 { 1 + rng.below(20_000) } else { 1 + rng.below(700) };
            let mut x = weights(&mut rng, n);
            if i % 2 == 0 {
                x.iter_mut().for_each(|x| *x *= 1.000_123);
            }
            check_both(gpu, &x, bits);
        }
    });
}

#[test]
fn ties_go_to_the_lower_code() {
    gpu::run("cuda::nf4_quantize::ties_go_to_the_lower_code", |gpu, bits| {
        for scale in [1.0, -1.0, 0.5, 3e38, 1.2e-38] {
            check_both(gpu, &at_thresholds(199, scale), bits);
        }
    });
}

/// A sum of n f64 of one sign is off by n · 2^-53 of itself at most, in whatever order. So two of them, below 2^26
/// scales, are within a quarter of an f32's last bit of each other, and rounded they are the same or neighbours.
#[test]
fn the_mean_of_many_scales_is_the_cpus_or_its_neighbour() {
    gpu::run(
        "cuda::nf4_quantize::the_mean_of_many_scales_is_the_cpus_or_its_neighbour",
        |gpu, bits| {
            let mut rng = Rng::new(23);
            for n in [255, 256, 257, 70_001] {
                let absmax: Vec<f32> = (0..n)
                    .map(|i| rng.uniform() as f32 * 10f32.powi(-(((n - 1 - i) % 30) as i32)))
                    .collect();
                let want = (absmax.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64) as f32;
                let (x, map) = (gpu.upload(&absmax).unwrap(), gpu.upload(&DYNAMIC_MAP).unwrap());
                let mut offset = gpu.alloc::<f32>(1).unwrap();
                let mut scales = gpu.alloc::<u8>(n).unwrap();
                let mut absmax2 = gpu.alloc::<f32>(n.div_ceil(256)).unwrap();
                let (o, s, a) =
                    (&mut offset.view_mut(), &mut scales.view_mut(), &mut absmax2.view_mut());
                cuda::double_quantise(gpu, x.view(), map.view(), o, s, a).unwrap();
                let got = gpu.download(offset.view()).unwrap()[0];
                assert!(
                    got.to_bits().abs_diff(want.to_bits()) <= 1,
                    "{n} scales: {got}, not {want}"
                );
                // Whatever the offset is, the second scales follow from it.
                let want: Vec<f32> = absmax
                    .chunks(256)
                    .map(|part| part.iter().fold(0f32, |most, x| most.max((x - got).abs())))
                    .collect();
                assert_same_bits("absmax2", &gpu.download(absmax2.view()).unwrap(), &want);
                bits.add(&[got]);
            }
            // None at all: the CPU's offset is zero.
            let map = gpu.upload(&DYNAMIC_MAP).unwrap();
            let nothing = gpu.upload::<f32>(&[]).unwrap();
            let (mut offset, mut scales) =
                (gpu.alloc::<f32>(1).unwrap(), gpu.alloc::<u8>(0).unwrap());
            let mut absmax2 = gpu.alloc::<f32>(0).unwrap();
            let (o, s, a) =
                (&mut offset.view_mut(), &mut scales.view_mut(), &mut absmax2.view_mut());
            cuda::double_quantise(gpu, nothing.view(), map.view(), o, s, a).unwrap();
            assert_same_bits("offset of nothing", &gpu.download(offset.view()).unwrap(), &[0f32]);
        },
    );
}

#[test]
fn what_is_not_finite_shows_in_its_blocks_scale() {
    gpu::run("cuda::nf4_quantize::what_is_not_finite_shows_in_its_blocks_scale", |gpu, _| {
        let mut x = vec![0.5f32; 192];
        (x[70], x[130]) = (f32::NAN, f32::INFINITY);
        let (mut codes, mut absmax) = (gpu.alloc::<u8>(96).unwrap(), gpu.alloc::<f32>(3).unwrap());
        let x = gpu.upload(&x).unwrap();
        let (to, scales) = (&mut codes.view_mut(), &mut absmax.view_mut());
        cuda::forward_f32(gpu, x.view(), to, scales).unwrap();
        let scales = gpu.download(absmax.view()).unwrap();
        assert!(scales[0] == 0.5 && scales[1].is_nan() && scales[2] == f32::INFINITY, "{scales:?}");
        let short = &mut codes.view_mut().slice(0..95);
        assert!(cuda::forward_f32(gpu, x.view(), short, &mut absmax.view_mut()).is_err());
        let nothing = x.view().slice(0..0);
        let (to, scales) = (&mut codes.view_mut().slice(0..0), &mut absmax.view_mut().slice(0..0));
        cuda::forward_f32(gpu, nothing, to, scales).unwrap();
    });
}
