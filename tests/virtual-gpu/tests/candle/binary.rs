//! binary.cu, ternary.cu: two tensors in, or three, in any mixture of layouts.

use candle_core::{DType, Result, Tensor};

use crate::compare::Bound;
use crate::gpu::{Arg, Gpu, for_elements};
use crate::inputs::{ALL, name, uniform, views};

type Op = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>);

const ARITHMETIC: [Op; 6] = [
    ("badd", |a, b| a + b),
    ("bsub", |a, b| a - b),
    ("bmul", |a, b| a * b),
    ("bdiv", |a, b| a / b),
    ("bmaximum", |a, b| a.maximum(b)),
    ("bminimum", |a, b| a.minimum(b)),
];

const COMPARISONS: [Op; 6] = [
    ("eq", |a, b| a.eq(b)),
    ("ne", |a, b| a.ne(b)),
    ("lt", |a, b| a.lt(b)),
    ("le", |a, b| a.le(b)),
    ("gt", |a, b| a.gt(b)),
    ("ge", |a, b| a.ge(b)),
];

pub fn binary(gpu: &mut Gpu) {
    for dtype in ALL {
        for (stem, cpu) in ARITHMETIC {
            let kernel = format!("{stem}_{}", name(dtype));
            // One correctly rounded operation on each side; candle divides f16 and bf16 in f32, the
            // device by a reciprocal: each rounds once more.
            let rounds_twice = stem == "bdiv" && matches!(dtype, DType::F16 | DType::BF16);
            for (a, b) in pairs(dtype) {
                let bound = if rounds_twice { Bound::Roundings(2.0) } else { Bound::Exact };
                check(gpu, &kernel, &a, &b, dtype, &cpu(&a, &b).unwrap(), bound);
            }
        }
        for (stem, cpu) in COMPARISONS {
            let kernel = format!("{stem}_{}", name(dtype));
            // Few values, so that some are equal.
            let a = uniform(dtype, &[15, 11], 1.0, 4.0).round_if_float();
            let b = uniform(dtype, &[11, 15], 1.0, 5.0).round_if_float().t().unwrap();
            for b in [b.force_contiguous().unwrap(), b] {
                let expected = cpu(&a, &b).unwrap();
                check(gpu, &kernel, &a, &b, DType::U8, &expected, Bound::Exact);
            }
        }
    }
}

trait RoundIfFloat {
    fn round_if_float(&self) -> Tensor;
}

impl RoundIfFloat for Tensor {
    fn round_if_float(&self) -> Tensor {
        if self.dtype().is_float() { self.round().unwrap() } else { self.clone() }
    }
}

/// Left sides are no smaller than right ones, and no product is above 255: whole types do not wrap,
/// which candle's CPU code would take for a mistake.
fn pairs(dtype: DType) -> Vec<(Tensor, Tensor)> {
    let left = views(dtype, 7.0, 30.0);
    let right = views(dtype, 1.0, 7.0);
    let contiguous = right.iter().map(|tensor| tensor.force_contiguous().unwrap());
    let mixed = left.clone().into_iter().zip(contiguous);
    left.clone().into_iter().zip(right.clone()).chain(mixed).collect()
}

fn check(
    gpu: &mut Gpu,
    kernel: &str,
    a: &Tensor,
    b: &Tensor,
    dtype: DType,
    expected: &Tensor,
    bound: Bound,
) {
    let output = gpu.output(dtype, a.dims());
    let (a, b) = (gpu.upload(a), gpu.upload(b));
    let sizes = [a.layout.dims(), a.layout.stride(), b.layout.stride()].concat();
    let sizes = gpu.upload_sizes(&sizes);
    let contiguous = a.layout.is_contiguous() && b.layout.is_contiguous();
    let numel = a.layout.shape().elem_count();
    let args = [
        numel.into(),
        a.layout.dims().len().into(),
        if contiguous { Arg::U64(0) } else { gpu.address(&sizes) },
        gpu.input(&a),
        gpu.input(&b),
        gpu.result(&output),
    ];
    gpu.launch(kernel, for_elements(numel), &args);
    gpu.check(kernel, &output, expected, bound);
}

pub fn ternary(gpu: &mut Gpu) {
    for condition in [DType::U8, DType::U32, DType::I64] {
        for dtype in ALL {
            let kernel = format!("where_{}_{}", name(condition), name(dtype));
            let chosen = views(condition, 0.0, 1.0);
            let (yes, no) = (views(dtype, 0.0, 99.0), views(dtype, 100.0, 200.0));
            for ((chosen, yes), no) in chosen.iter().zip(&yes).zip(&no) {
                let expected = chosen.where_cond(yes, no).unwrap();
                let output = gpu.output(dtype, chosen.dims());
                let inputs = [chosen, yes, no].map(|tensor| gpu.upload(tensor));
                let layouts = inputs.each_ref().map(|input| input.layout.stride());
                let sizes = gpu.upload_sizes(&[&[chosen.dims()], &layouts[..]].concat().concat());
                let numel = chosen.elem_count();
                let mut args = vec![numel.into(), chosen.rank().into(), gpu.address(&sizes)];
                args.extend(inputs.iter().map(|input| gpu.input(input)));
                args.push(gpu.result(&output));
                gpu.launch(&kernel, for_elements(numel), &args);
                gpu.check(&kernel, &output, &expected, Bound::Exact);
            }
        }
    }
}
