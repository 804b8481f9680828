//! conv.cu: convolutions, pools, upsampling.

use candle_core::{DType, Tensor};

use crate::compare::Bound;
use crate::gpu::{Arg, Gpu, for_elements};
use crate::inputs::{FLOATS, name, uniform};

/// Small whole numbers: products and sums are exact in every type and order.
fn whole(dtype: DType, shape: &[usize]) -> Tensor {
    let x = uniform(dtype, shape, 0.0, 3.0);
    if dtype.is_float() { x.round().unwrap() } else { x }
}

pub fn conv(gpu: &mut Gpu) {
    for dtype in FLOATS.into_iter().chain([DType::U8, DType::U32]) {
        convolutions(gpu, dtype);
        max_pool(gpu, dtype);
        upsample_nearest(gpu, dtype);
    }
    for dtype in FLOATS {
        avg_pool(gpu, dtype);
        upsample_bilinear(gpu, dtype);
    }
}

fn convolutions(gpu: &mut Gpu, dtype: DType) {
    let (x1, k1) = (whole(dtype, &[2, 3, 17]), whole(dtype, &[4, 3, 3]));
    let (x2, k2) = (whole(dtype, &[2, 2, 7, 9]), whole(dtype, &[3, 2, 3, 3]));
    // A transposed kernel is [in, out, ..].
    let (t1, t2) = (whole(dtype, &[3, 4, 3]), whole(dtype, &[2, 3, 3, 3]));
    let strided = |x: &Tensor| x.transpose(0, 1).unwrap().force_contiguous().unwrap();
    // The same numbers in another layout: the kernels take strides.
    let x1 = [x1.clone(), strided(&x1).transpose(0, 1).unwrap()];
    let x2 = [x2.clone(), strided(&x2).transpose(0, 1).unwrap()];
    let (stride, padding, dilation, extra) = (2, 1, 1, 1);
    // candle's CPU convolves the wide floats only; in them these sums, below 256, are exact too.
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
    for x in &x1 {
        let expected = wide(x).conv1d(&wide(&k1), padding, stride, dilation, 1).unwrap();
        let sizes = [expected.dims()[2], stride, padding, dilation];
        launch(gpu, "conv1d", x, &k1, &sizes, &expected);
        let expected =
            wide(x).conv_transpose1d(&wide(&t1), padding, extra, stride, dilation, 1).unwrap();
        let sizes = [expected.dims()[2], stride, padding, extra, dilation];
        launch(gpu, "conv_transpose1d", x, &t1, &sizes, &expected);
    }
    for x in &x2 {
        let expected = wide(x).conv2d(&wide(&k2), padding, stride, dilation, 1).unwrap();
        let sizes = [expected.dims()[3], expected.dims()[2], stride, padding, dilation];
        launch(gpu, "conv2d", x, &k2, &sizes, &expected);
        let expected =
            wide(x).conv_transpose2d(&wide(&t2), padding, extra, stride, dilation).unwrap();
        let sizes = [expected.dims()[3], expected.dims()[2], stride, padding, extra, dilation];
        launch(gpu, "conv_transpose2d", x, &t2, &sizes, &expected);
    }
}

fn launch(gpu: &mut Gpu, stem: &str, x: &Tensor, k: &Tensor, sizes: &[usize], expected: &Tensor) {
    let kernel = format!("{stem}_{}", name(x.dtype()));
    let expected = &expected.to_dtype(x.dtype()).unwrap();
    let output = gpu.output(x.dtype(), expected.dims());
    let layouts = [x.dims(), x.stride(), k.dims(), k.stride()].concat();
    let layouts = gpu.upload_sizes(&layouts);
    let (input, weights) = (gpu.upload(x), gpu.upload(k));
    let mut args = vec![Arg::from(x.elem_count())];
    args.extend(sizes.iter().map(|&size| Arg::from(size)));
    let buffers = [gpu.input(&input), gpu.input(&weights), gpu.result(&output)];
    args.push(gpu.address(&layouts));
    args.extend(buffers);
    gpu.launch(&kernel, for_elements(expected.elem_count()), &args);
    gpu.check(&kernel, &output, expected, Bound::Exact);
}

/// A kernel of one tensor in four dimensions.
fn planes(gpu: &mut Gpu, stem: &str, x: &Tensor, before: &[Arg], expected: &Tensor, bound: Bound) {
    let kernel = format!("{stem}_{}", name(x.dtype()));
    let output = gpu.output(x.dtype(), expected.dims());
    let input = gpu.upload(x);
    let layout = gpu.upload_sizes(&[x.dims(), x.stride()].concat());
    let buffers = [gpu.address(&layout), gpu.input(&input), gpu.result(&output)];
    let args = [before, &buffers].concat();
    gpu.launch(&kernel, for_elements(expected.elem_count()), &args);
    gpu.check(&kernel, &output, expected, bound);
}

fn max_pool(gpu: &mut Gpu, dtype: DType) {
    let x = uniform(dtype, &[2, 3, 9, 9], 0.0, 99.0);
    let expected = x.max_pool2d_with_stride((3, 3), (2, 2)).unwrap();
    let sizes = [x.elem_count(), 3, 3, 2, 2].map(Arg::from);
    planes(gpu, "max_pool2d", &x, &sizes, &expected, Bound::Exact);
}

/// The mean of four whole numbers is exact.
fn avg_pool(gpu: &mut Gpu, dtype: DType) {
    let x = whole(dtype, &[2, 3, 9, 9]);
    let expected = x.avg_pool2d_with_stride((2, 2), (2, 2)).unwrap();
    let sizes = [x.elem_count(), 2, 2, 2, 2].map(Arg::from);
    planes(gpu, "avg_pool2d", &x, &sizes, &expected, Bound::Exact);
}

fn upsample_nearest(gpu: &mut Gpu, dtype: DType) {
    // Square: candle's scale of one side is taken from the other.
    let x = uniform(dtype, &[2, 3, 5, 5], 0.0, 99.0);
    let expected = x.upsample_nearest2d(8, 8).unwrap();
    let scale = Arg::F64(5.0 / 8.0);
    let sizes = [Arg::from(8usize), Arg::from(8usize), scale, scale];
    planes(gpu, "upsample_nearest2d", &x, &sizes, &expected, Bound::Exact);
}

fn upsample_bilinear(gpu: &mut Gpu, dtype: DType) {
    let x = uniform(dtype, &[2, 3, 5, 6], 0.0, 9.0);
    for corners in [false, true] {
        let expected = x.upsample_bilinear2d(8, 11, corners).unwrap();
        let no = [Arg::U8(0), Arg::F64(0.0), Arg::U8(0), Arg::F64(0.0)];
        let sizes = [Arg::from(11usize), Arg::from(8usize), Arg::U8(corners.into())];
        // Four terms of one sign, each the product of a value and two weights: at most 8 roundings
        // of f32 or wider on each side, and the result's own.
        let magnitude = x.ones_like().unwrap().affine(0.0, 9.0).unwrap();
        let magnitude = magnitude.max_all().unwrap().broadcast_as(expected.dims()).unwrap();
        let bound = match dtype {
            DType::F16 | DType::BF16 => Bound::Roundings(2.0),
            _ => Bound::Of(16.0, DType::F32, magnitude),
        };
        planes(gpu, "upsample_bilinear2d", &x, &[&sizes[..], &no].concat(), &expected, bound);
    }
}
