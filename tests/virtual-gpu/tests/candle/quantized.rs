//! quantized.cu: weights in GGML's block formats, dequantised and multiplied.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use cudarc::driver::LaunchConfig;
use half::f16;

use crate::compare::Bound;
use crate::gpu::{Arg, Bytes, Gpu, Output, blocks};
use crate::inputs::uniform;

/// A block format as candle's kernels spell it: elementwise ones, products by vectors, by experts.
struct Format {
    dtype: GgmlDType,
    name: &'static str,
    /// Threads in a block of its dequantising kernel.
    threads: usize,
    /// Columns and rows in a tile of its matrix product.
    tile: (usize, usize),
}

const fn format(
    dtype: GgmlDType,
    name: &'static str,
    threads: usize,
    tile: (usize, usize),
) -> Format {
    Format { dtype, name, threads, tile }
}

const FORMATS: [Format; 10] = [
    format(GgmlDType::Q4_0, "q4_0", 32, (64, 128)),
    format(GgmlDType::Q4_1, "q4_1", 32, (64, 128)),
    format(GgmlDType::Q5_0, "q5_0", 256, (128, 64)),
    format(GgmlDType::Q5_1, "q5_1", 256, (128, 64)),
    format(GgmlDType::Q8_0, "q8_0", 32, (128, 64)),
    format(GgmlDType::Q2K, "q2_K", 64, (64, 128)),
    format(GgmlDType::Q3K, "q3_K", 64, (128, 128)),
    format(GgmlDType::Q4K, "q4_K", 32, (64, 128)),
    format(GgmlDType::Q5K, "q5_K", 64, (64, 128)),
    format(GgmlDType::Q6K, "q6_K", 64, (64, 64)),
];

/// Not a power of two, a multiple of the largest block.
const COLUMNS: usize = 768;
/// Even: the products by 2 to 8 vectors do two rows at a time, and read a row after an odd last one
/// (`reads_a_row_too_many`).
const ROWS: usize = 6;
/// candle pads rows of inputs to so many columns.
const PADDING: usize = 512;

/// A matrix in a block format, on the device and as candle dequantises it.
struct Weights {
    bytes: Bytes,
    plain: Tensor,
    /// What each block of 32 adds to all of its elements, where the kernels multiply that by the
    /// inputs' sum as it was before they were quantised: [rows, blocks], 0 in the other formats.
    offsets: Tensor,
}

fn weights(gpu: &Gpu, format: &Format, shape: &[usize]) -> Weights {
    let numbers = uniform(DType::F32, shape, -1.0, 1.0);
    let quantized = QTensor::quantize(&numbers, format.dtype).unwrap();
    let mut bytes = quantized.data().unwrap().into_owned();
    // candle pads the storage: a tile of a product may reach over the end.
    bytes.resize(bytes.len() + PADDING * format.dtype.type_size() / format.dtype.block_size(), 0);
    let plain = quantized.dequantize(&Device::Cpu).unwrap();
    let offsets = offsets(format, &bytes, shape);
    Weights { bytes: gpu.upload_bytes(&bytes), plain, offsets }
}

/// GGML's definitions: q4_0 is d (q - 8), q5_0 is d (q - 16), q4_1 and q5_1 are d q + m, q4_K and q5_K
/// are d s q - e m with 6 bits each for the s and m of eight blocks of 32. Scales stand first.
fn offsets(format: &Format, bytes: &[u8], shape: &[usize]) -> Tensor {
    let per_block = format.dtype.block_size() / 32;
    let number = |i: usize| {
        let block = &bytes[i / per_block * format.dtype.type_size()..];
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
        match format.name {
            "q4_0" => -8.0 * half(0),
            "q5_0" => -16.0 * half(0),
            "q4_1" | "q5_1" => half(2),
            "q4_K" | "q5_K" => {
                let (packed, j) = (&block[4..16], i % per_block);
                let minimum = match j {
                    0..4 => packed[j + 4] & 63,
                    _ => packed[j + 4] >> 4 | packed[j] >> 6 << 4,
                };
                -half(2) * f64::from(minimum)
            }
            _ => 0.0,
        }
    };
    let blocks = shape.iter().product::<usize>() / 32;
    let numbers: Vec<f64> = (0..blocks).map(number).collect();
    Tensor::from_vec(numbers, (blocks * 32 / COLUMNS, COLUMNS / 32), &Device::Cpu).unwrap()
}

pub fn quantized(gpu: &mut Gpu) {
    for format in &FORMATS {
        dequantize(gpu, format);
        get_rows(gpu, format);
        dequantize_mul_mat_vec(gpu, format);
        for batch in 1..=8 {
            mul_mat_vec(gpu, format, batch);
        }
        mul_mat(gpu, format, 128);
        if !format.name.ends_with("_0") && !format.name.ends_with("_1") || format.name == "q8_0" {
            indexed_moe(gpu, format);
        }
    }
    dequantize(gpu, &format(GgmlDType::Q8K, "q8_K", 32, (0, 0)));
    get_plain_rows(gpu);
    check_quantize(gpu);
}

fn is_k(format: &Format) -> bool {
    format.name.ends_with("_K")
}

fn dequantize(gpu: &mut Gpu, format: &Format) {
    let elements = ROWS * COLUMNS;
    let weights = weights(gpu, format, &[ROWS, COLUMNS]);
    for dtype in [DType::F32, DType::F16] {
        let kernel = format!("dequantize_block_{}_{}", format.name, dtype.as_str());
        let output = gpu.output(dtype, &[ROWS, COLUMNS]);
        let mut args = vec![gpu.address(&weights.bytes), gpu.result(&output)];
        let grid = if format.threads == 256 { elements.div_ceil(512) } else { elements / 256 };
        if !is_k(format) {
            let count = if format.threads == 256 { elements } else { elements / 32 };
            args.push(Arg::I32(count as i32));
        }
        gpu.launch(&kernel, blocks(grid, format.threads), &args);
        let expected = weights.plain.to_dtype(dtype).unwrap();
        // A scale times a code, minus a minimum, each a product itself: 3 roundings of terms that are
        // no larger than twice the largest weight. f16: and the result's.
        let largest = (weights.plain.ones_like().unwrap() * 2.0).unwrap();
        let bound = match dtype {
            DType::F32 => Bound::Of(6.0, DType::F32, largest),
            _ => Bound::Roundings(2.0),
        };
        gpu.check(&kernel, &output, &expected, bound);
    }
}

fn get_rows(gpu: &mut Gpu, format: &Format) {
    let kernel = format!("get_rows_{}", format.name);
    let weights = weights(gpu, format, &[ROWS, COLUMNS]);
    let ids = Tensor::from_slice(&[4u32, 0, 3, 3, 5], 5, &Device::Cpu).unwrap();
    let output = gpu.output(DType::F32, &[5, COLUMNS]);
    let chosen = gpu.upload(&ids);
    let (threads, grid) = match is_k(format) {
        true => (format.threads, COLUMNS / 256),
        false => (256, COLUMNS.div_ceil(512)),
    };
    let row = COLUMNS * format.dtype.type_size() / format.dtype.block_size();
    let args = [
        gpu.address(&weights.bytes),
        gpu.input(&chosen),
        gpu.result(&output),
        Arg::I64(COLUMNS as i64),
        row.into(),
    ];
    gpu.launch(&kernel, grid_2d(5, grid, threads, 1), &args);
    let expected = weights.plain.index_select(&ids, 0).unwrap();
    let largest = (expected.ones_like().unwrap() * 2.0).unwrap();
    gpu.check(&kernel, &output, &expected, Bound::Of(6.0, DType::F32, largest));
}

fn get_plain_rows(gpu: &mut Gpu) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let kernel = format!("get_rows_{}", dtype.as_str());
        let table = uniform(dtype, &[ROWS, 300], -1.0, 1.0);
        let ids = Tensor::from_slice(&[5u32, 0, 3], 3, &Device::Cpu).unwrap();
        let output = gpu.output(DType::F32, &[3, 300]);
        let (source, chosen) = (gpu.upload(&table), gpu.upload(&ids));
        let args = [
            gpu.input(&source),
            gpu.input(&chosen),
            gpu.result(&output),
            Arg::I64(300),
            (300 * dtype.size_in_bytes()).into(),
        ];
        gpu.launch(&kernel, grid_2d(3, 2, 256, 1), &args);
        let expected = table.index_select(&ids, 0).unwrap().to_dtype(DType::F32).unwrap();
        gpu.check(&kernel, &output, &expected, Bound::Exact);
    }
}

fn grid_2d(x: usize, y: usize, threads_x: usize, threads_y: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (threads_x as u32, threads_y as u32, 1),
        shared_mem_bytes: 0,
    }
}

fn wide(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F64).unwrap()
}

/// The product by an f32 vector.
fn dequantize_mul_mat_vec(gpu: &mut Gpu, format: &Format) {
    let kernel = match is_k(format) {
        true => format!("dequantize_mul_mat_vec_{}", format.name.to_lowercase()),
        false => format!("dequantize_mul_mat_vec_{}_cuda", format.name),
    };
    let weights = weights(gpu, format, &[ROWS, COLUMNS]);
    let y = uniform(DType::F32, &[COLUMNS, 1], -1.0, 1.0);
    let output = gpu.output(DType::F32, &[ROWS]);
    let vector = gpu.upload(&y);
    let args = [
        gpu.address(&weights.bytes),
        gpu.input(&vector),
        gpu.result(&output),
        Arg::I32(COLUMNS as i32),
        Arg::I32(ROWS as i32),
    ];
    gpu.launch(&kernel, grid_2d(ROWS, 1, 32, 1), &args);
    let expected = wide(&weights.plain).matmul(&wide(&y)).unwrap().squeeze(1).unwrap();
    let terms = wide(&weights.plain).abs().unwrap().matmul(&wide(&y).abs().unwrap()).unwrap();
    // A thread adds 24 products one after the other, then the warp adds 32 sums in 5 steps. A weight
    // is off by 3 roundings, relative to twice the largest one: 2 n in all is more than that.
    let bound =
        Bound::Of(2.0 * 24.0 + 16.0, DType::F32, (terms.squeeze(1).unwrap() + 1.0).unwrap());
    gpu.check(&kernel, &output, &expected.to_dtype(DType::F32).unwrap(), bound);
}

/// Inputs in blocks of 32 bytes with a scale, as the device makes them of f32: GGML's Q8_1.
struct Quantized {
    bytes: Output,
    /// What the codes stand for: [rows, columns].
    values: Tensor,
    /// By how much the sum of a block's inputs is above the sum of those: [rows, blocks].
    excess: Tensor,
}

fn quantize(gpu: &Gpu, y: &Tensor) -> Quantized {
    let (rows, columns) = y.dims2().unwrap();
    let padded = columns.next_multiple_of(PADDING);
    let bytes = gpu.output(DType::U8, &[rows * padded / 32 * 36]);
    let source = gpu.upload(y);
    let sizes = [Arg::I32(columns as i32), Arg::I32(padded as i32)];
    let args = [&[gpu.input(&source), gpu.result(&bytes)], &sizes[..]].concat();
    gpu.launch("quantize_q8_1", grid_2d(padded / 256, rows, 256, 1), &args);
    let (mut values, mut excess) = (Vec::new(), Vec::new());
    // What the kernel makes is checked byte by byte in `check_quantize`.
    let made: Vec<u8> = gpu.download(&bytes).to_vec1().unwrap();
    for row in made.chunks(padded / 32 * 36) {
        for block in row.chunks(36).take(columns / 32) {
            let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
            let codes = block[4..].iter().map(|&code| half(0) * f64::from(code as i8));
            excess.push(half(2) - codes.clone().sum::<f64>());
            values.extend(codes);
        }
    }
    let values = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
    let excess = Tensor::from_vec(excess, (rows, columns / 32), &Device::Cpu).unwrap();
    Quantized { bytes, values, excess }
}

/// Every byte of the blocks, from the definition: d = max |x| / 127, codes round(x / d), and the sum
/// of the x in the order of the warp's butterfly; d and the sum are kept in f16.
fn check_quantize(gpu: &mut Gpu) {
    let y = uniform(DType::F32, &[3, COLUMNS], -1.0, 1.0);
    let rows: Vec<Vec<f32>> = y.to_vec2().unwrap();
    let mut expected = Vec::new();
    for mut row in rows {
        row.resize(COLUMNS.next_multiple_of(PADDING), 0.0);
        for block in row.chunks(32) {
            let d = block.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
            let mut sums = block.to_vec();
            for step in [16, 8, 4, 2, 1] {
                sums = (0..32).map(|lane| sums[lane] + sums[lane ^ step]).collect();
            }
            expected.extend(f16::from_f32(d).to_le_bytes());
            expected.extend(f16::from_f32(sums[0]).to_le_bytes());
            let code = |x: &f32| if d == 0.0 { 0 } else { (x / d).round() as i8 as u8 };
            expected.extend(block.iter().map(code));
        }
    }
    let count = expected.len();
    let expected = Tensor::from_vec(expected, count, &Device::Cpu).unwrap();
    let quantized = quantize(gpu, &y);
    gpu.check("quantize_q8_1", &quantized.bytes, &expected, Bound::Exact);
}

/// The product of quantised inputs by weights, and its bound.
///
/// Codes are multiplied and summed as integers. A block's result is then a few products and a sum or
/// two in f32, of terms that are no larger than twice the largest weight times the inputs; a thread sums
/// 24 of those at most, the block's threads a dozen more.
fn product(
    values: &Tensor,
    excess: &Tensor,
    weights: &Tensor,
    offsets: &Tensor,
) -> (Tensor, Bound) {
    let codes = values.matmul(&wide(weights).t().unwrap()).unwrap();
    let sums = excess.matmul(&offsets.t().unwrap()).unwrap();
    let expected = (codes + sums).unwrap();
    let largest: f32 = weights.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
    let terms = values.abs().unwrap().sum_keepdim(1).unwrap();
    let terms = (terms * (2.0 * f64::from(largest))).unwrap();
    let terms = terms.broadcast_as(expected.dims()).unwrap();
    (expected.to_dtype(DType::F32).unwrap(), Bound::Of(40.0, DType::F32, terms))
}

/// The product by up to 8 quantised vectors, a kernel for each number.
fn mul_mat_vec(gpu: &mut Gpu, format: &Format, batch: usize) {
    let kernel = format!("mul_mat_vec_{}_q8_1_cuda{batch}", format.name);
    let weights = weights(gpu, format, &[ROWS, COLUMNS]);
    let y = uniform(DType::F32, &[batch, COLUMNS], -1.0, 1.0);
    let inputs = quantize(gpu, &y);
    let output = gpu.output(DType::F32, &[batch, ROWS]);
    let shape = match batch {
        1 => grid_2d(ROWS, 1, 32, 4),
        2..=4 => grid_2d(ROWS.div_ceil(2), 1, 32, 4),
        _ => grid_2d(ROWS.div_ceil(2), 1, 32, 2),
    };
    let sizes = [COLUMNS, ROWS, COLUMNS.next_multiple_of(PADDING), ROWS];
    let mut args =
        vec![gpu.address(&weights.bytes), gpu.result(&inputs.bytes), gpu.result(&output)];
    args.extend(sizes.map(|size| Arg::I32(size as i32)));
    gpu.launch(&kernel, shape, &args);
    // Those of the K formats are multiplied by the sum of the codes here.
    let offsets = match is_k(format) {
        true => weights.offsets.zeros_like().unwrap(),
        false => weights.offsets,
    };
    let (expected, bound) = product(&inputs.values, &inputs.excess, &weights.plain, &offsets);
    gpu.check(&kernel, &output, &expected, bound);
}

/// candle's kernels for 2 to 8 vectors compute rows in pairs and leave out the writing of a row that
/// is not there, but not the reading of its weights: with rows longer than the padding that reaches
/// past the allocation. A real GPU says nothing, since its allocations end at larger units.
pub fn reads_a_row_too_many(gpu: &mut Gpu) {
    let format = &FORMATS[0];
    let numbers = uniform(DType::F32, &[7, COLUMNS], -1.0, 1.0);
    let quantized = QTensor::quantize(&numbers, format.dtype).unwrap();
    let weights = gpu.upload_bytes(&quantized.data().unwrap());
    let inputs = quantize(gpu, &uniform(DType::F32, &[2, COLUMNS], -1.0, 1.0));
    let output = gpu.output(DType::F32, &[2, 7]);
    let mut args = vec![gpu.address(&weights), gpu.result(&inputs.bytes), gpu.result(&output)];
    args.extend([COLUMNS, 7, COLUMNS.next_multiple_of(PADDING), 7].map(|n| Arg::I32(n as i32)));
    gpu.launch("mul_mat_vec_q4_0_q8_1_cuda2", grid_2d(4, 1, 32, 4), &args);
}

/// The tiled products where the rows are no multiple of a tile's: the kernels compute the rest of the
/// tile, too, of shared memory that nothing has written, and leave out the writing of its results.
/// The watchman tells of each, so this is for a device that is not watched.
pub fn edges_of_tiles(gpu: &mut Gpu) {
    for format in &FORMATS {
        mul_mat(gpu, format, 37);
    }
}

/// The tiled product by a quantised matrix.
fn mul_mat(gpu: &mut Gpu, format: &Format, rows: usize) {
    let kernel = format!("mul_mat_{}", format.name);
    let columns = 11;
    let weights = weights(gpu, format, &[rows, COLUMNS]);
    let y = uniform(DType::F32, &[columns, COLUMNS], -1.0, 1.0);
    let inputs = quantize(gpu, &y);
    let output = gpu.output(DType::F32, &[columns, rows]);
    let grid = (rows.div_ceil(format.tile.1), columns.div_ceil(format.tile.0));
    let sizes = [COLUMNS, rows, columns, COLUMNS.next_multiple_of(PADDING), rows];
    let mut args =
        vec![gpu.address(&weights.bytes), gpu.result(&inputs.bytes), gpu.result(&output)];
    args.extend(sizes.map(|size| Arg::I32(size as i32)));
    gpu.launch(&kernel, grid_2d(grid.0, grid.1, 32, 4), &args);
    // This one takes 16 off each code of q5_0 before it multiplies.
    let offsets = match format.name {
        "q5_0" => weights.offsets.zeros_like().unwrap(),
        _ => weights.offsets,
    };
    let (expected, bound) = product(&inputs.values, &inputs.excess, &weights.plain, &offsets);
    gpu.check(&kernel, &output, &expected, bound);
}

/// The product of each token by the matrices of the experts that it chose.
fn indexed_moe(gpu: &mut Gpu, format: &Format) {
    let short = format.name.replace("_K", "k");
    let kernel = format!("indexed_moe_forward_{short}_q8_1");
    let (experts, batch, chosen) = (4, 3, 2);
    let weights = weights(gpu, format, &[experts, ROWS, COLUMNS]);
    let y = uniform(DType::F32, &[batch, COLUMNS], -1.0, 1.0);
    let inputs = quantize(gpu, &y);
    let ids = [3u32, 0, 1, 3, 2, 2];
    let choice = gpu.upload(&Tensor::from_slice(&ids, (batch, chosen), &Device::Cpu).unwrap());
    let output = gpu.output(DType::F32, &[batch * chosen, ROWS]);
    let shape = LaunchConfig {
        grid_dim: (ROWS as u32, batch as u32, chosen as u32),
        block_dim: (32, 4, 1),
        shared_mem_bytes: 0,
    };
    let sizes = [ROWS, COLUMNS, batch, chosen, COLUMNS.next_multiple_of(PADDING), 1];
    let mut args = vec![
        gpu.address(&weights.bytes),
        gpu.result(&inputs.bytes),
        gpu.input(&choice),
        gpu.result(&output),
    ];
    args.extend(sizes.map(|size| Arg::I32(size as i32)));
    gpu.launch(&kernel, shape, &args);
    // The kernel takes an expert to be as many blocks as in the formats with blocks of 256: that is
    // right for those, and for q8_0 an eighth of an expert. What it computes is what is expected.
    let expert_size = ROWS * COLUMNS / 256 * format.dtype.block_size();
    let all = weights.plain.flatten_all().unwrap();
    for (i, &expert) in ids.iter().enumerate() {
        let matrix = all.narrow(0, expert as usize * expert_size, ROWS * COLUMNS).unwrap();
        let matrix = matrix.reshape((ROWS, COLUMNS)).unwrap();
        let token = |of: &Tensor| of.narrow(0, i / chosen, 1).unwrap();
        // Formats that experts come in have no offsets.
        let none = Tensor::zeros((ROWS, COLUMNS / 32), DType::F64, &Device::Cpu).unwrap();
        let (values, excess) = (token(&inputs.values), token(&inputs.excess));
        let (expected, bound) = product(&values, &excess, &matrix, &none);
        gpu.check_row(&kernel, &output, i, &expected, bound);
    }
}
