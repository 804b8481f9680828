//! Attention's forward and cache in a sliding window.

use super::*;

/// Windows of one key, of a few, around a tile, and longer than most documents.
pub fn random(rng: &mut Rng) -> Dims {
    let window = match rng.below(4) {
        0 => 1,
        1 => 2 + rng.below(20),
        2 => TILE - 1 + rng.below(3),
        _ => 1 + rng.below(150),
    };
    Dims { window: Some(window), ..random_dims(rng) }
}

#[test]
fn forward_equals_the_reference() {
    gpu::run("cuda::attention::window::forward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(11);
        for _ in 0..gpu::shapes() {
            let (dims, lens) = (random(&mut rng), random_lens(&mut rng, 5));
            let peak = [0.25, 1.0, 4.0][rng.below(3)];
            Case::new(dims, &lens, peak, &mut rng).check(gpu, bits);
        }
        // Several tiles before the window; neighbours in a warp of which some see no key of a tile.
        for (group, window) in [(1, 9), (1, 64), (2, 65), (7, 3)] {
            let dims = Dims { window: Some(window), ..dims(1, group, 64) };
            Case::new(dims, &[210], 1.0, &mut rng).check(gpu, bits);
        }
    });
}

#[test]
fn a_window_that_holds_every_document_changes_no_bit() {
    let name = "cuda::attention::window::a_window_that_holds_every_document_changes_no_bit";
    gpu::run(name, |gpu, _| {
        let mut case = Case::new(dims(1, 3, 64), &[130, 70], 1.0, &mut Rng::new(12));
        let want = case.run(gpu);
        for window in [130, 131, 1 << 20, i32::MAX as usize, usize::MAX] {
            case.dims.window = Some(window);
            let got = case.run(gpu);
            assert_same_bits("o", &got.o, &want.o);
            assert_same_bits("lse", &got.lse, &want.lse);
        }
    });
}

/// The tiles before the window were never written, which would be noticed.
#[test]
fn what_lies_before_the_window_is_not_read() {
    gpu::run("cuda::attention::window::what_lies_before_the_window_is_not_read", |gpu, bits| {
        let dims = Dims { window: Some(3), ..dims(1, 2, 64) };
        let (capacity, total, width) = (200, 132, dims.kv_width());
        let mut rng = Rng::new(13);
        let mut values = |n: usize| cast::<bf16>(&rng.values(n, 1.0));
        let q = gpu.upload(&values(dims.q_width())).unwrap();
        let [k, v] = [(); 2].map(|()| {
            let mut cache = gpu.alloc::<bf16>(capacity * width).unwrap();
            let live = 2 * TILE * width..total * width;
            let written = values(live.len());
            gpu.write(&mut cache.view_mut().slice(live), &written).unwrap();
            cache
        });
        let (cu, totals) = (gpu.upload(&[0u32, 1]).unwrap(), gpu.upload(&[total as u32]).unwrap());
        let mut o = gpu.alloc::<bf16>(dims.q_width()).unwrap();
        let (cu, totals, q) = (cu.view(), totals.view(), q.view());
        let (k, v, to) = (k.view(), v.view(), &mut o.view_mut());
        cuda::decode(gpu, &dims, cu, 1, 1, totals, capacity, q, k, v, to).unwrap();
        let o = gpu.download(o.view()).unwrap();
        assert!(o.iter().all(|o| o.is_finite()));
        bits.add(&o);
    });
}

#[test]
fn a_window_of_no_key_is_an_error() {
    gpu::run("cuda::attention::window::a_window_of_no_key_is_an_error", |gpu, _| {
        let dims = Dims { window: Some(0), ..dims(1, 1, 64) };
        let (cu, one) = (gpu.upload(&[0u32, 1]).unwrap(), gpu.upload(&[bf16::ONE; 64]).unwrap());
        let (mut o, mut lse) = (gpu.alloc(64).unwrap(), gpu.alloc(1).unwrap());
        let (to, stats, one) = (&mut o.view_mut(), &mut lse.view_mut(), one.view());
        let error = cuda::forward(gpu, &dims, cu.view(), 1, 1, one, one, one, to, stats);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "attention: window is 0, expected 1 or more");
    });
}
