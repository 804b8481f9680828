//! indexing.cu, sort.cu: elements by their indices, and the indices by their elements.

use candle_core::{DType, Device, Tensor};
use cudarc::driver::LaunchConfig;

use crate::compare::Bound;
use crate::gpu::{Arg, Gpu, for_elements};
use crate::inputs::{ALL, name, permutation, uniform};

const IDS: [DType; 3] = [DType::U8, DType::U32, DType::I64];

/// A tensor is [left, rows, right], indexed in its middle dimension.
const LEFT: usize = 3;
const ROWS: usize = 11;
const RIGHT: usize = 5;

fn ids(dtype: DType, ids: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(ids, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub fn indexing(gpu: &mut Gpu) {
    for of in IDS {
        for dtype in ALL {
            index_select(gpu, of, dtype);
            gather(gpu, of, dtype);
            scatter(gpu, of, dtype);
            index_add(gpu, of, dtype);
        }
    }
}

fn index_select(gpu: &mut Gpu, of: DType, dtype: DType) {
    let kernel = format!("is_{}_{}", name(of), name(dtype));
    let x = uniform(dtype, &[LEFT, ROWS, RIGHT], 0.0, 99.0);
    let chosen = ids(of, &[4, 0, 10, 4, 7, 1, 1], &[7]);
    let output = gpu.output(dtype, &[LEFT, 7, RIGHT]);
    let (source, indices) = (gpu.upload(&x), gpu.upload(&chosen));
    let sizes = gpu.upload_sizes(&[7, 1]);
    let numel = LEFT * 7 * RIGHT;
    let args = [
        numel.into(),
        1usize.into(),
        gpu.address(&sizes),
        gpu.input(&indices),
        gpu.input(&source),
        gpu.result(&output),
        LEFT.into(),
        ROWS.into(),
        7usize.into(),
        RIGHT.into(),
    ];
    gpu.launch(&kernel, for_elements(numel), &args);
    let expected = x.index_select(&chosen.to_dtype(DType::U32).unwrap(), 1).unwrap();
    gpu.check(&kernel, &output, &expected, Bound::Exact);
}

/// Indices that repeat, one for each element of [LEFT, 4, RIGHT].
fn scattered(of: DType, distinct: bool) -> Tensor {
    let numbers: Vec<u32> = (0..LEFT * 4 * RIGHT)
        .map(|i| {
            let row = i / RIGHT % 4;
            if distinct { (row * 3 + i % 2) as u32 } else { (i * 7 % ROWS) as u32 }
        })
        .collect();
    ids(of, &numbers, &[LEFT, 4, RIGHT])
}

fn gather(gpu: &mut Gpu, of: DType, dtype: DType) {
    let kernel = format!("gather_{}_{}", name(of), name(dtype));
    let x = uniform(dtype, &[LEFT, ROWS, RIGHT], 0.0, 99.0);
    let chosen = scattered(of, false);
    let output = gpu.output(dtype, chosen.dims());
    let (source, indices) = (gpu.upload(&x), gpu.upload(&chosen));
    let numel = chosen.elem_count();
    let args = [
        numel.into(),
        gpu.input(&indices),
        gpu.input(&source),
        gpu.result(&output),
        LEFT.into(),
        ROWS.into(),
        4usize.into(),
        RIGHT.into(),
    ];
    gpu.launch(&kernel, for_elements(numel), &args);
    gpu.check(&kernel, &output, &x.gather(&chosen, 1).unwrap(), Bound::Exact);
}

fn scatter(gpu: &mut Gpu, of: DType, dtype: DType) {
    let into = uniform(dtype, &[LEFT, ROWS, RIGHT], 0.0, 20.0);
    let values = uniform(dtype, &[LEFT, 4, RIGHT], 0.0, 50.0);
    for adds in [false, true] {
        let kernel = format!("{}_{}_{}", if adds { "sa" } else { "s" }, name(of), name(dtype));
        // Where indices repeat, the order of a column's writes decides: one thread does a column.
        let chosen = scattered(of, !adds);
        let output = gpu.in_place(&into);
        let (source, indices) = (gpu.upload(&values), gpu.upload(&chosen));
        let args = [
            gpu.input(&indices),
            gpu.input(&source),
            gpu.result(&output),
            LEFT.into(),
            4usize.into(),
            ROWS.into(),
            RIGHT.into(),
        ];
        gpu.launch(&kernel, for_elements(LEFT * RIGHT), &args);
        let expected = match adds {
            true => into.scatter_add(&chosen, &values, 1).unwrap(),
            false => into.scatter(&chosen, &values, 1).unwrap(),
        };
        // The sums are taken in the same order and rounded alike.
        gpu.check(&kernel, &output, &expected, Bound::Exact);
    }
}

fn index_add(gpu: &mut Gpu, of: DType, dtype: DType) {
    let kernel = format!("ia_{}_{}", name(of), name(dtype));
    let into = uniform(dtype, &[LEFT, ROWS, RIGHT], 0.0, 20.0);
    let values = uniform(dtype, &[LEFT, 6, RIGHT], 0.0, 50.0);
    let chosen = ids(of, &[4, 0, 10, 4, 7, 4], &[6]);
    let output = gpu.in_place(&into);
    let (source, indices) = (gpu.upload(&values), gpu.upload(&chosen));
    let args = [
        gpu.input(&indices),
        6usize.into(),
        gpu.input(&source),
        gpu.result(&output),
        LEFT.into(),
        6usize.into(),
        ROWS.into(),
        RIGHT.into(),
    ];
    gpu.launch(&kernel, for_elements(LEFT * RIGHT), &args);
    gpu.check(&kernel, &output, &into.index_add(&chosen, &values, 1).unwrap(), Bound::Exact);
}

pub fn sort(gpu: &mut Gpu) {
    for dtype in ALL {
        // No two equal: the network is not stable. 200 fit into a byte; more elements than threads
        // in a block where the type can tell them apart.
        let columns = match dtype {
            DType::U8 | DType::BF16 => 200,
            DType::F16 => 1500,
            _ => 2100,
        };
        let row = permutation(columns);
        let rows: Vec<u32> = (0..3).flat_map(|r| row.iter().map(move |x| (x + r) % 256)).collect();
        let rows = if columns == 200 { rows } else { [&row[..], &row[..], &row[..]].concat() };
        let x = ids(dtype, &rows, &[3, columns]);
        for ascending in [true, false] {
            let kernel =
                format!("asort_{}_{}", if ascending { "asc" } else { "desc" }, name(dtype));
            let output = gpu.output(DType::U32, x.dims());
            let source = gpu.upload(&x);
            let padded = columns.next_power_of_two();
            let shape = LaunchConfig {
                grid_dim: (3, 1, 1),
                block_dim: (padded.min(1024) as u32, 1, 1),
                shared_mem_bytes: (padded * 4) as u32,
            };
            let sizes = [Arg::I32(columns as i32), Arg::I32(padded as i32)];
            let args = [&[gpu.input(&source), gpu.result(&output)], &sizes[..]].concat();
            gpu.launch(&kernel, shape, &args);
            let expected = x.arg_sort_last_dim(ascending).unwrap();
            gpu.check(&kernel, &output, &expected, Bound::Exact);
        }
    }
}
