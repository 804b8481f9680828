//! affine.cu, unary.cu, cast.cu, fill.cu: one element in, one out.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

use crate::compare::Bound;
use crate::gpu::{Arg, Gpu, Output, for_elements, scalar};
use crate::inputs::{ALL, FLOATS, name, uniform, views};

/// Launches a kernel of the form (numel, rank, sizes or null, before.., input, output, after..).
fn launch(
    gpu: &Gpu,
    kernel: &str,
    input: &Tensor,
    dtype: DType,
    before: &[Arg],
    after: &[Arg],
) -> Output {
    let output = gpu.output(dtype, input.dims());
    let input = gpu.upload(input);
    let layout = &input.layout;
    let sizes = gpu.upload_sizes(&[layout.dims(), layout.stride()].concat());
    let numel = layout.shape().elem_count();
    let sizes = if layout.is_contiguous() { Arg::U64(0) } else { gpu.address(&sizes) };
    let mut args = vec![numel.into(), layout.dims().len().into(), sizes];
    args.extend(before);
    args.extend([gpu.input(&input), gpu.result(&output)]);
    args.extend(after);
    gpu.launch(kernel, for_elements(numel), &args);
    output
}

pub fn affine(gpu: &mut Gpu) {
    for dtype in ALL {
        let kernel = format!("affine_{}", name(dtype));
        // Both sides round a product and a sum, or the device both at once: 2 roundings each, of
        // numbers no larger than the terms.
        let (mul, add) = if dtype.is_float() { (-1.625, 0.375) } else { (3.0, 5.0) };
        for x in views(dtype, if dtype.is_float() { -4.0 } else { 0.0 }, 40.0) {
            let output =
                launch(gpu, &kernel, &x, dtype, &[], &[scalar(dtype, mul), scalar(dtype, add)]);
            let expected = x.affine(mul, add).unwrap();
            let bound = if dtype.is_float() {
                let terms = x.to_dtype(DType::F64).unwrap().abs().unwrap();
                Bound::Of(4.0, dtype, terms.affine(mul.abs(), add.abs()).unwrap())
            } else {
                Bound::Exact
            };
            gpu.check(&kernel, &output, &expected, bound);
        }
    }
}

/// A unary kernel: its name, the range of its inputs, candle's own function, and by how many
/// roundings of the output they may differ: in f16 and bf16, in f32, in f64.
///
/// f32 and f64: twice the units in the last place that CUDA's programming guide states for the
/// device function, plus 2 for the host's. f16 and bf16: one rounding of the result on each side
/// and one more where the device or candle rounds an intermediate result.
struct Unary {
    name: &'static str,
    range: (f64, f64),
    cpu: fn(&Tensor) -> Result<Tensor>,
    roundings: Roundings,
}

enum Roundings {
    /// Correctly rounded, or no arithmetic at all.
    None,
    /// Relative to the result.
    Result(f64, f64, f64),
    /// Relative to the input: terms that cancel are no larger.
    Input(f64),
    /// Relative to 1: terms that cancel are no larger.
    One(f64),
}

use Roundings::{Input, None as Exact, One, Result as Relative};

/// Φ(x), the integral of the normal density: candle has no such function of its own.
fn normcdf(x: &Tensor) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F64)?;
    let erf = (wide / 2f64.sqrt())?.erf()?;
    ((erf + 1.0)? * 0.5)?.to_dtype(x.dtype())
}

const UNARY: [Unary; 21] = [
    Unary { name: "ucopy", range: (-4.0, 4.0), cpu: |x| x.force_contiguous(), roundings: Exact },
    Unary { name: "uneg", range: (-4.0, 4.0), cpu: Tensor::neg, roundings: Exact },
    Unary { name: "uabs", range: (-4.0, 4.0), cpu: Tensor::abs, roundings: Exact },
    Unary { name: "uceil", range: (-9.0, 9.0), cpu: Tensor::ceil, roundings: Exact },
    Unary { name: "ufloor", range: (-9.0, 9.0), cpu: Tensor::floor, roundings: Exact },
    Unary { name: "uround", range: (-9.0, 9.0), cpu: Tensor::round, roundings: Exact },
    Unary { name: "urelu", range: (-4.0, 4.0), cpu: Tensor::relu, roundings: Exact },
    Unary { name: "usign", range: (-4.0, 4.0), cpu: Tensor::sign, roundings: Exact },
    Unary { name: "usqr", range: (-4.0, 4.0), cpu: Tensor::sqr, roundings: Exact },
    // Correctly rounded in f32 and f64, an approximation rounded to f16 and bf16.
    Unary {
        name: "usqrt",
        range: (0.0, 9.0),
        cpu: Tensor::sqrt,
        roundings: Relative(2.0, 0.0, 0.0),
    },
    Unary {
        name: "urecip",
        range: (0.1, 9.0),
        cpu: Tensor::recip,
        roundings: Relative(2.0, 0.0, 0.0),
    },
    Unary {
        name: "uexp",
        range: (-9.0, 9.0),
        cpu: Tensor::exp,
        roundings: Relative(3.0, 6.0, 4.0),
    },
    Unary { name: "ulog", range: (0.1, 9.0), cpu: Tensor::log, roundings: Relative(3.0, 4.0, 4.0) },
    Unary {
        name: "usin",
        range: (-9.0, 9.0),
        cpu: Tensor::sin,
        roundings: Relative(3.0, 6.0, 6.0),
    },
    Unary {
        name: "ucos",
        range: (-9.0, 9.0),
        cpu: Tensor::cos,
        roundings: Relative(3.0, 6.0, 6.0),
    },
    Unary {
        name: "utanh",
        range: (-4.0, 4.0),
        cpu: Tensor::tanh,
        roundings: Relative(3.0, 6.0, 4.0),
    },
    Unary {
        name: "uerf",
        range: (-3.0, 3.0),
        cpu: Tensor::erf,
        roundings: Relative(3.0, 6.0, 8.0),
    },
    Unary { name: "unormcdf", range: (-3.0, 3.0), cpu: normcdf, roundings: One(12.0) },
    Unary { name: "ugelu", range: (-4.0, 4.0), cpu: Tensor::gelu, roundings: Input(16.0) },
    Unary { name: "ugelu_erf", range: (-4.0, 4.0), cpu: Tensor::gelu_erf, roundings: Input(14.0) },
    Unary {
        name: "usilu",
        range: (-4.0, 4.0),
        cpu: Tensor::silu,
        roundings: Relative(8.0, 12.0, 10.0),
    },
];

pub fn unary(gpu: &mut Gpu) {
    for op in &UNARY {
        let dtypes: &[DType] = if op.name == "ucopy" { &ALL } else { &FLOATS };
        for &dtype in dtypes {
            check_unary(gpu, op, dtype, &[]);
        }
    }
    for dtype in FLOATS {
        let sigmoid = Unary {
            name: "usigmoid",
            range: (-4.0, 4.0),
            cpu: ops::sigmoid,
            roundings: Relative(8.0, 12.0, 10.0),
        };
        check_unary(gpu, &sigmoid, dtype, &[]);
        // α(eˣ - 1) cancels near 0; candle's function takes α as f64.
        let elu =
            Unary { name: "uelu", range: (-4.0, 4.0), cpu: |x| x.elu(0.75), roundings: One(8.0) };
        check_unary(gpu, &elu, dtype, &[scalar(dtype, 0.75)]);
        // CUDA's guide: powf 4, pow 2 units in the last place.
        let pow = Unary {
            name: "upowf",
            range: (0.1, 4.0),
            cpu: |x| x.powf(2.5),
            roundings: Relative(3.0, 10.0, 6.0),
        };
        check_unary(gpu, &pow, dtype, &[scalar(dtype, 2.5)]);
    }
}

fn check_unary(gpu: &mut Gpu, op: &Unary, dtype: DType, before: &[Arg]) {
    let kernel = format!("{}_{}", op.name, name(dtype));
    let low = if dtype.is_float() { op.range.0 } else { 0.0 };
    for x in views(dtype, low, op.range.1) {
        let output = launch(gpu, &kernel, &x, dtype, before, &[]);
        let bound = match op.roundings {
            Exact => Bound::Exact,
            Relative(half, single, double) => Bound::Roundings(match dtype {
                DType::F32 => single,
                DType::F64 => double,
                _ => half,
            }),
            Input(count) => Bound::Of(count, dtype, x.abs().unwrap()),
            One(count) => Bound::Of(count, dtype, x.ones_like().unwrap()),
        };
        gpu.check(&kernel, &output, &(op.cpu)(&x).unwrap(), bound);
    }
}

pub fn cast(gpu: &mut Gpu) {
    for from in ALL {
        for to in ALL {
            // The kernels that candle has none of.
            let missing = |a: DType, b: DType| (from, to) == (a, b) || (from, to) == (b, a);
            if missing(DType::I64, DType::F16) || missing(DType::I64, DType::BF16) {
                continue;
            }
            let kernel = format!("cast_{}_{}", name(from), name(to));
            // Within the narrowest type: outside it C++ leaves the result open.
            let low = if from.is_float() && to.is_float() { -200.0 } else { 0.0 };
            for x in views(from, low, 200.0) {
                let output = launch(gpu, &kernel, &x, to, &[], &[]);
                // By way of f32 it is rounded twice: by the kernel to bf16, by candle's CPU to f16.
                let bound = match (from, to) {
                    (DType::F64, DType::BF16 | DType::F16) => Bound::Roundings(2.0),
                    _ => Bound::Exact,
                };
                gpu.check(&kernel, &output, &x.to_dtype(to).unwrap(), bound);
            }
        }
    }
}

pub fn fill(gpu: &mut Gpu) {
    for dtype in ALL {
        let value = scalar(dtype, 42.0);
        let full = |shape: &[usize]| {
            Tensor::full(42f32, shape, &candle_core::Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let kernel = format!("fill_{}", name(dtype));
        let output = gpu.output(dtype, &[1031]);
        gpu.launch(&kernel, for_elements(1031), &[gpu.result(&output), value, 1031usize.into()]);
        gpu.check(&kernel, &output, &full(&[1031]), Bound::Exact);

        // Every second column of a matrix is set, the others keep what they had.
        let kernel = format!("const_set_{}", name(dtype));
        let matrix = uniform(dtype, &[9, 14], 0.0, 9.0);
        let output = gpu.in_place(&matrix);
        let sizes = gpu.upload_sizes(&[9, 7, 14, 2]);
        let args = [63usize.into(), 2usize.into(), gpu.address(&sizes), value, gpu.result(&output)];
        gpu.launch(&kernel, for_elements(63), &args);
        let kept = matrix.reshape((9, 7, 2)).unwrap().narrow(2, 1, 1).unwrap();
        let expected = Tensor::cat(&[&full(&[9, 7, 1]), &kept], 2).unwrap();
        gpu.check(&kernel, &output, &expected.reshape((9, 14)).unwrap(), Bound::Exact);

        // A block of a matrix into a block of another one.
        let kernel = format!("copy2d_{}", name(dtype));
        let (from, to) = (uniform(dtype, &[5, 11], 0.0, 9.0), uniform(dtype, &[5, 8], 0.0, 9.0));
        let (source, output) = (gpu.upload(&from), gpu.in_place(&to));
        let sizes = [5u32, 7, 11, 8].map(Arg::U32);
        let args = [&[gpu.input(&source), gpu.result(&output)], &sizes[..]].concat();
        gpu.launch(&kernel, for_elements(35), &args);
        let parts = [from.narrow(1, 0, 7).unwrap(), to.narrow(1, 7, 1).unwrap()];
        gpu.check(&kernel, &output, &Tensor::cat(&parts, 1).unwrap(), Bound::Exact);
    }
}
