//! reduce.cu: sums, extremes, their places, softmax, norms, rotary embedding.

use candle_core::{DType, Device, Tensor};
use candle_nn::{ops, rotary_emb};
use cudarc::driver::LaunchConfig;

use crate::compare::Bound;
use crate::gpu::{Arg, Gpu, blocks, for_elements};
use crate::inputs::{ALL, FLOATS, name, permutation, uniform};

pub fn reduce(gpu: &mut Gpu) {
    for dtype in ALL {
        // Whole numbers whose sum is exact in every type and order: at most 77 threes.
        let x = uniform(dtype, &[5, 7, 77], 0.0, 3.0);
        let x = if dtype.is_float() { x.round().unwrap() } else { x };
        fast_sum(gpu, &x, 2);
        // Few terms go to a kernel with a thread for each sum.
        fast_sum(gpu, &x, 1);
        fast_sum(gpu, &x.transpose(0, 2).unwrap(), 0);
        extremes(gpu, dtype);
    }
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64, DType::U32] {
        atomic_sum(gpu, dtype);
    }
    for dtype in FLOATS {
        softmax(gpu, dtype);
        norms(gpu, dtype);
        rope(gpu, dtype);
    }
}

/// Dimensions and strides with the reduced dimension at the end.
fn reduced_last(x: &Tensor, dim: usize) -> Vec<usize> {
    let order: Vec<usize> = (0..x.rank()).filter(|&d| d != dim).chain([dim]).collect();
    let dims = order.iter().map(|&d| x.dims()[d]);
    dims.chain(order.iter().map(|&d| x.stride()[d])).collect()
}

fn fast_sum(gpu: &mut Gpu, x: &Tensor, dim: usize) {
    let dtype = x.dtype();
    let terms = x.dims()[dim];
    let sums = x.elem_count() / terms;
    let expected = x.sum(dim).unwrap();
    let output = gpu.output(dtype, expected.dims());
    let input = gpu.upload(x);
    let sizes = gpu.upload_sizes(&reduced_last(x, dim));
    let small = terms <= 32;
    let kernel = format!("fast_sum{}_{}", if small { "_small" } else { "" }, name(dtype));
    let shape = match small {
        true => blocks(sums.div_ceil(256), 256),
        false => blocks(sums, terms.min(1024).next_power_of_two()),
    };
    let args = [
        if small { sums.into() } else { x.elem_count().into() },
        terms.into(),
        x.rank().into(),
        gpu.address(&sizes),
        gpu.input(&input),
        gpu.result(&output),
    ];
    gpu.launch(&kernel, shape, &args);
    gpu.check(&kernel, &output, &expected, Bound::Exact);
}

fn extremes(gpu: &mut Gpu, dtype: DType) {
    // No two equal, so that the place of each extreme is one.
    let columns = if dtype == DType::BF16 || dtype == DType::U8 { 83 } else { 300 };
    let numbers: Vec<u32> =
        (0..3u32).flat_map(|row| permutation(columns).into_iter().map(move |x| x + row)).collect();
    let x = Tensor::from_vec(numbers, (3, columns), &Device::Cpu).unwrap();
    let x = x.to_dtype(dtype).unwrap();
    let input = gpu.upload(&x);
    let sizes = gpu.upload_sizes(&reduced_last(&x, 1));
    for (stem, expected) in [
        ("fast_min", x.min(1).unwrap()),
        ("fast_max", x.max(1).unwrap()),
        ("fast_argmin", x.argmin(1).unwrap()),
        ("fast_argmax", x.argmax(1).unwrap()),
    ] {
        let kernel = format!("{stem}_{}", name(dtype));
        let output = gpu.output(expected.dtype(), &[3]);
        let args = [
            x.elem_count().into(),
            columns.into(),
            2usize.into(),
            gpu.address(&sizes),
            gpu.input(&input),
            gpu.result(&output),
        ];
        gpu.launch(&kernel, blocks(3, columns.next_power_of_two()), &args);
        gpu.check(&kernel, &output, &expected, Bound::Exact);
    }
}

/// The sum that adds each element into its place with an atomic.
fn atomic_sum(gpu: &mut Gpu, dtype: DType) {
    let kernel = format!("sum_{}", name(dtype));
    let x = uniform(dtype, &[9, 70], 0.0, 3.0);
    let x = if dtype.is_float() { x.round().unwrap() } else { x };
    let output = gpu.in_place(&Tensor::zeros(9, dtype, &Device::Cpu).unwrap());
    let input = gpu.upload(&x);
    let sizes = gpu.upload_sizes(&[9, 70, 70, 1, 70, 1]);
    let args = [
        x.elem_count().into(),
        2usize.into(),
        1usize.into(),
        gpu.address(&sizes),
        gpu.input(&input),
        gpu.result(&output),
    ];
    gpu.launch(&kernel, for_elements(x.elem_count()), &args);
    gpu.check(&kernel, &output, &x.sum(1).unwrap(), Bound::Exact);
}

fn softmax(gpu: &mut Gpu, dtype: DType) {
    let kernel = format!("softmax_{}", name(dtype));
    let (rows, columns) = (9, 77);
    let x = uniform(dtype, &[rows, columns], -2.0, 2.0);
    let output = gpu.output(dtype, x.dims());
    let input = gpu.upload(&x);
    let shape =
        LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (1, 32, 1), shared_mem_bytes: 0 };
    let args = [gpu.input(&input), gpu.result(&output), Arg::I32(columns as i32)];
    gpu.launch(&kernel, shape, &args);
    // x - max is at most 4 and is rounded: 4 roundings of the exponential, which adds 3 to 6 of its
    // own; the sum of n terms of one sign adds n at most, in f32 for f16 and bf16, where that is
    // less than one; the quotient adds 2. Each on both sides.
    let bound = match dtype {
        DType::F16 | DType::BF16 => Bound::Roundings(20.0),
        _ => Bound::Roundings(2.0 * columns as f64 + 24.0),
    };
    gpu.check(&kernel, &output, &ops::softmax_last_dim(&x).unwrap(), bound);
}

fn norms(gpu: &mut Gpu, dtype: DType) {
    for columns in [96, 1100] {
        let block = if columns < 1024 { 32 } else { 1024 };
        let x = uniform(dtype, &[3, columns], -4.0, 4.0);
        let alpha = uniform(dtype, &[columns], 0.5, 1.5);
        let beta = uniform(dtype, &[columns], -0.5, 0.75);
        let [source, scale, shift] = [&x, &alpha, &beta].map(|tensor| gpu.upload(tensor));
        let sizes = [Arg::I32(columns as i32), Arg::I32(block as i32), Arg::F32(1e-5)];

        let kernel = format!("rmsnorm_{}", name(dtype));
        let output = gpu.output(dtype, x.dims());
        let args = [gpu.input(&source), gpu.result(&output), gpu.input(&scale)];
        gpu.launch(&kernel, blocks(3, block), &[&args[..], &sizes].concat());
        // The device sums in f32 whatever the type, n terms of one sign, of which the root is taken:
        // n/2 roundings of f32 on each side, and a few of the output's type.
        let expected = match dtype {
            // candle's fused one has no f64.
            DType::F64 => ops::rms_norm_slow(&x, &alpha, 1e-5).unwrap(),
            _ => ops::rms_norm(&x, &alpha, 1e-5).unwrap(),
        };
        let sum_and_rest = |rest: f64| match dtype {
            DType::F16 | DType::BF16 => Bound::Roundings(rest),
            _ => Bound::Of(columns as f64 + rest, DType::F32, expected.abs().unwrap()),
        };
        gpu.check(&kernel, &output, &expected, sum_and_rest(4.0));

        let kernel = format!("layernorm_{}", name(dtype));
        let output = gpu.output(dtype, x.dims());
        let args = [gpu.input(&source), gpu.result(&output), gpu.input(&scale), gpu.input(&shift)];
        gpu.launch(&kernel, blocks(3, block), &[&args[..], &sizes].concat());
        // As above, but the mean and the shift cancel: terms of size 1 to the result's.
        let expected = match dtype {
            DType::F64 => ops::layer_norm_slow(&x, &alpha, &beta, 1e-5).unwrap(),
            _ => ops::layer_norm(&x, &alpha, &beta, 1e-5).unwrap(),
        };
        let magnitude = (expected.abs().unwrap() + 4.0).unwrap();
        let bound = match dtype {
            DType::F16 | DType::BF16 => Bound::Of(4.0, dtype, magnitude),
            _ => Bound::Of(columns as f64 + 8.0, DType::F32, magnitude),
        };
        gpu.check(&kernel, &output, &expected, bound);
    }
}

fn rope(gpu: &mut Gpu, dtype: DType) {
    let (b, h, t, d) = (2, 3, 5, 8);
    let x = uniform(dtype, &[b, h, t, d], -4.0, 4.0);
    let x_thd = x.transpose(1, 2).unwrap().force_contiguous().unwrap();
    for per_batch in [false, true] {
        let angles: &[usize] = if per_batch { &[b, t, d / 2] } else { &[t, d / 2] };
        let angles = uniform(DType::F64, angles, 0.0, 6.0);
        let cos = angles.cos().unwrap().to_dtype(dtype).unwrap();
        let sin = angles.sin().unwrap().to_dtype(dtype).unwrap();
        let [cos_there, sin_there] = [&cos, &sin].map(|tensor| gpu.upload(tensor));
        let stride = Arg::U32(if per_batch { (h * t * d) as u32 } else { 0 });
        let [b, h, t, d] = [b, h, t, d].map(|size| size as u32);
        for (stem, x, expected, sizes) in [
            (
                "rope_i",
                &x,
                rotary_emb::rope_i(&x, &cos, &sin),
                vec![Arg::U32(b * h), Arg::U32(t * d), stride],
            ),
            (
                "rope",
                &x,
                rotary_emb::rope(&x, &cos, &sin),
                vec![Arg::U32(b * h), Arg::U32(t * d), Arg::U32(d), stride],
            ),
            (
                "rope_thd",
                &x_thd,
                rotary_emb::rope_thd(&x_thd, &cos, &sin),
                vec![Arg::U32(b), Arg::U32(t), Arg::U32(h), Arg::U32(d), stride],
            ),
        ] {
            let kernel = format!("{stem}_{}", name(dtype));
            let output = gpu.output(dtype, x.dims());
            let source = gpu.upload(x);
            let buffers = [
                gpu.input(&source),
                gpu.input(&cos_there),
                gpu.input(&sin_there),
                gpu.result(&output),
            ];
            let pairs = x.elem_count() / 2;
            gpu.launch(&kernel, for_elements(pairs), &[&buffers[..], &sizes].concat());
            // Two products and a sum, each rounded or not on each side, of terms up to 4 each.
            let magnitude = x.ones_like().unwrap().affine(8.0, 0.0).unwrap();
            gpu.check(&kernel, &output, &expected.unwrap(), Bound::Of(3.0, dtype, magnitude));
        }
    }
}
