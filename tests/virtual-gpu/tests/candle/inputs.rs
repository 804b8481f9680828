//! Inputs: the same on every machine, in every dtype, and in every layout that candle makes.

use candle_core::{DType, Device, Tensor};

/// The types that every family of kernels is written for.
pub const ALL: [DType; 7] =
    [DType::U8, DType::U32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64];

/// Those of them that round.
pub const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

/// Numbers between `low` and `high`; whole ones for whole types.
pub fn uniform(dtype: DType, shape: &[usize], low: f64, high: f64) -> Tensor {
    let count = shape.iter().product::<usize>();
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ (count as u64) << 17 ^ (high * 64.0) as u64;
    let numbers: Vec<f64> = (0..count)
        .map(|_| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let unit =
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
            let number = low + (high - low) * unit;
            if dtype.is_float() { number } else { number.round() }
        })
        .collect();
    let numbers = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
    numbers.to_dtype(dtype).unwrap()
}

/// Every number of `0..count` once, in a scrambled order.
pub fn permutation(count: usize) -> Vec<u32> {
    // 7919 is prime, so it walks through all residues unless it divides the count.
    assert!(!count.is_multiple_of(7919));
    (0..count).map(|i| ((i * 7919 + 5) % count) as u32).collect()
}

/// One tensor in each layout: a vector of odd length, one that starts at an odd address, a
/// transposed matrix, the middle of a tensor, and a broadcast row.
pub fn views(dtype: DType, low: f64, high: f64) -> Vec<Tensor> {
    let row = uniform(dtype, &[1031], low, high);
    let matrix = uniform(dtype, &[13, 17], low, high);
    let cube = uniform(dtype, &[4, 9, 6], low, high);
    let single = uniform(dtype, &[1, 7], low, high);
    vec![
        row.clone(),
        row.narrow(0, 1, 77).unwrap(),
        matrix.t().unwrap(),
        cube.narrow(1, 2, 5).unwrap(),
        single.broadcast_as((5, 7)).unwrap(),
    ]
}

/// A dtype as candle's kernels spell it.
pub fn name(dtype: DType) -> &'static str {
    dtype.as_str()
}
