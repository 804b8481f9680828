//! Loads and stores: widths, vectors, signs, cache hints, state spaces, asynchronous copies.

use bytemuck::{NoUninit, Pod, Zeroable};

use super::common::{Arg, Device, Random};

const PTX: &str = include_str!("memory.ptx");

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..count).map(|_| (random.next() >> 13) as u8).collect()
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

fn signed(bytes: &[u8]) -> u64 {
    let shift = 64 - 8 * bytes.len();
    ((number(bytes) << shift) as i64 >> shift) as u64
}

/// Copies elements of `size` bytes in a row, scattered and all to one place; `holes` are padding bytes,
/// which a copy may leave out.
fn check_copy(kernel: &str, size: usize, holes: &[usize]) {
    let device = Device::new(PTX);
    for n in [1, 31, 32, 333] {
        let input = random_bytes(n * size, 1 + n as u64);
        for step in [1, 7] {
            if n % 7 == 0 && step == 7 {
                continue;
            }
            let from = device.buffer(&input);
            let to = device.buffer(&vec![0xEEu8; n * size + 8]);
            let blocks = (n as u32).div_ceil(64);
            let args = [from.into(), to.into(), (n as u32).into(), (step as u32).into()];
            device.launch(kernel, blocks, 64, 0, &args);
            let got: Vec<u8> = device.read(to, n * size + 8);
            for i in 0..n {
                for k in (0..size).filter(|k| !holes.contains(k)) {
                    let at = i * step % n * size + k;
                    assert_eq!(got[at], input[i * size + k], "{kernel} n {n} element {i} byte {k}");
                }
            }
            assert_eq!(got[n * size..], [0xEE; 8], "{kernel}: past the end");
        }
    }
}

#[test]
fn copies_of_one_byte() {
    check_copy("copy_u8", 1, &[]);
}

#[test]
fn copies_of_two_bytes() {
    check_copy("copy_u16", 2, &[]);
}

#[test]
fn copies_of_four_bytes() {
    check_copy("copy_u32", 4, &[]);
    check_copy("copy_f32", 4, &[]);
}

#[test]
fn copies_of_eight_bytes() {
    check_copy("copy_u64", 8, &[]);
    check_copy("copy_f64", 8, &[]);
}

#[test]
fn copies_of_vectors_of_four_bytes() {
    check_copy("copy_uchar4", 4, &[]);
    check_copy("copy_ushort2", 4, &[]);
}

#[test]
fn copies_of_vectors_of_eight_bytes() {
    check_copy("copy_float2", 8, &[]);
}

#[test]
fn copies_of_vectors_of_sixteen_bytes() {
    check_copy("copy_float4", 16, &[]);
    check_copy("copy_double2", 16, &[]);
}

#[test]
fn copies_of_seven_bytes() {
    check_copy("copy_odd", 7, &[]);
}

#[test]
fn copies_of_structures_with_holes() {
    check_copy("copy_mixed", 24, &[1, 17, 18, 19, 20, 21, 22, 23]);
}

#[test]
fn loads_extend_to_wider_registers() {
    let device = Device::new(PTX);
    let n = 300;
    let input = random_bytes(8 * n, 21);
    let (from, to) = (device.buffer(&input), device.unwritten::<u64>(11 * n));
    device.launch("extend", 3, 128, 0, &[from.into(), to.into(), (n as u32).into()]);
    let got: Vec<u64> = device.read(to, 11 * n);
    for (i, got) in got.chunks(11).enumerate() {
        let x = &input[8 * i..];
        let want = [
            signed(&x[..1]),
            number(&x[..1]),
            signed(&x[..2]),
            number(&x[..2]),
            signed(&x[..4]),
            number(&x[..4]),
            signed(&x[..1]) & 0xFFFF_FFFF,
            signed(&x[..2]) & 0xFFFF_FFFF,
            number(&x[..2]),
            signed(&x[..1]) & 0xFFFF,
            number(&x[..1]),
        ];
        assert_eq!(got, want, "bytes {:02x?}", &x[..8]);
    }
}

#[test]
fn stores_take_the_low_bytes_of_wider_registers() {
    let device = Device::new(PTX);
    let input: Vec<u64> = random_bytes(8 * 100, 22).chunks(8).map(number).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<u8>(1600));
    device.launch("narrow", 4, 32, 0, &[from.into(), to.into(), 100u32.into()]);
    let got: Vec<u8> = device.read(to, 1600);
    for (got, x) in got.chunks(16).zip(&input) {
        let b = x.to_le_bytes();
        let want = [
            b[0], b[0], b[0], b[1], b[0], b[1], b[2], b[3], b[1], b[2], b[4], b[5], b[5], b[5],
            b[6], b[6],
        ];
        assert_eq!(got, want);
    }
}

#[test]
fn vectors_of_every_element() {
    let device = Device::new(PTX);
    let input = random_bytes(16 * 100, 23);
    let (from, to) = (device.buffer(&input), device.unwritten::<u64>(800));
    device.launch("vectors", 4, 32, 0, &[from.into(), to.into(), 100u32.into()]);
    let got: Vec<u64> = device.read(to, 800);
    for (got, x) in got.chunks(8).zip(input.chunks(16)) {
        let n = |at: usize, bytes: usize| number(&x[at..at + bytes]);
        let s = |at: usize, bytes: usize| signed(&x[at..at + bytes]) as u32;
        let want = [
            n(0, 1) + 1000 * n(1, 1),
            u64::from(s(4, 1) ^ s(5, 1) << 1 ^ s(6, 1) << 2 ^ s(7, 1) << 3),
            u64::from(s(8, 2) ^ s(10, 2) << 1),
            n(0, 2) + n(2, 2) + n(4, 2) + n(6, 2),
            n(8, 4) << 32 | n(12, 4),
            n(4, 4) << 32 | n(12, 4),
            n(0, 8),
            n(8, 8),
        ];
        assert_eq!(got, want);
    }
}

#[test]
fn cache_hints_and_orders_change_no_value() {
    let device = Device::new(PTX);
    let n = 128u32;
    let input: Vec<u32> = (0..n).map(|i| i * i + 5).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<u32>(18 * 128));
    device.launch("hints", 2, 64, 0, &[from.into(), to.into(), n.into()]);
    let got: Vec<u32> = device.read(to, 18 * 128);
    for k in 0..18 {
        for i in 0..128 {
            let want = if k == 17 { input[i & !31] } else { input[i] + k as u32 };
            assert_eq!(got[k * 128 + i], want, "hint {k} element {i}");
        }
    }
}

const CONSTANTS: [u32; 16] = [7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67];

#[test]
fn one_load_reaches_every_space() {
    let device = Device::new(PTX);
    let input: Vec<u32> = (0..128).map(|i| 3000 + i).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<u32>(128));
    device.launch("generic_loads", 1, 128, 0, &[from.into(), to.into()]);
    let want: Vec<u32> = (0..128)
        .map(|t| {
            let mine = |k: u32| 2000 + 10 * t + k;
            let first = match t % 4 {
                0 => 3000 + t,
                1 => 1000 + 127 - t,
                2 => mine(t % 8),
                _ => CONSTANTS[t as usize % 16],
            };
            first + mine(t % 3)
        })
        .collect();
    assert_eq!(device.read::<u32>(to, 128), want);
}

#[test]
fn one_store_reaches_every_space() {
    let device = Device::new(PTX);
    let to = device.buffer(&[0u32; 256]);
    device.launch("generic_stores", 1, 128, 0, &[to.into()]);
    let got: Vec<u32> = device.read(to, 256);
    for t in 0..128u32 {
        let (global, tile, mine) = match t % 3 {
            0 => (500 + t, 0, t % 4 + 1),
            1 => (0, 500 + t, t % 4 + 1),
            _ => (0, 0, 500 + t),
        };
        assert_eq!(got[t as usize], global, "thread {t}");
        assert_eq!(got[128 + t as usize], tile + 10000 * mine, "thread {t}");
    }
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Table {
    values: [i32; 24],
    scale: f64,
    letters: [u8; 13],
    hole: [u8; 3],
    rows: [u64; 3],
}

#[test]
fn structures_as_parameters_are_indexed() {
    let device = Device::new(PTX);
    let rows = [0, 1, 2].map(|k| {
        let row: Vec<f32> = (0..64).map(|i| (i * 10 + k) as f32 * 0.5).collect();
        device.buffer(&row)
    });
    let table = Table {
        values: std::array::from_fn(|i| 1000 - 97 * i as i32),
        scale: 0.125,
        letters: std::array::from_fn(|i| 200 + i as u8),
        hole: [0; 3],
        rows,
    };
    let to = device.unwritten::<f64>(64);
    let args = [
        Arg(bytemuck::bytes_of(&table).to_vec()),
        Arg((-7i16).to_le_bytes().to_vec()),
        Arg(vec![200]),
        to.into(),
    ];
    device.launch("parameters", 1, 64, 0, &args);
    let got: Vec<f64> = device.read(to, 64);
    for (t, got) in got.iter().enumerate() {
        let want = f64::from(table.values[t % 24]) * 0.125
            + f64::from(i32::from(table.letters[t % 13]) * 200)
            - 7.0
            + (t * 10 + t % 3) as f64 * 0.5;
        assert_eq!(*got, want, "thread {t}");
    }
}

#[test]
fn vectors_as_parameters() {
    let device = Device::new(PTX);
    let to = device.unwritten::<u64>(32);
    let floats = [3.0f32, 1e6, 70.0, 5.0];
    let args = [
        Arg(bytemuck::bytes_of(&floats).to_vec()),
        Arg(vec![9, 0, 0, 250]),
        Arg(bytemuck::bytes_of(&[1u64 << 40, 1 << 50]).to_vec()),
        Arg(vec![253, 0, 4]),
        to.into(),
    ];
    device.launch("parameter_vectors", 1, 32, 0, &args);
    let rest = 9 + 500 + (1u64 << 40) + (1 << 46) - 3 + 4;
    let want: Vec<u64> = (0..32).map(|t| floats[t % 4] as u64 + rest).collect();
    assert_eq!(device.read::<u64>(to, 32), want);
}

#[test]
fn tables_in_constant_and_global_memory() {
    let device = Device::new(PTX);
    let to = device.unwritten::<f32>(32);
    device.launch("tables", 1, 32, 0, &[to.into()]);
    let rows: [(f32, f32, [u8; 5]); 4] = [
        (1.0, 1.5, [1, 2, 3, 4, 5]),
        (-2.0, 2.5, [6, 7, 0, 0, 0]),
        (3.0, -3.5, [0; 5]),
        (-32768.0, 4.5, [9, 9, 9, 9, 255]),
    ];
    let got: Vec<f32> = device.read(to, 32);
    for t in 0..32 {
        let (a, b, c) = rows[t % 4];
        let constant = if t < 16 { CONSTANTS[t] as f32 } else { 0.0 };
        let want =
            a + b + f32::from(c[t % 5]) + constant + [10.0, 20.0, 30.0, 0.0, 0.0][t % 5] + 30.0;
        assert_eq!(got[t], want, "thread {t}");
    }
}

#[test]
fn constants_are_written_by_the_host() {
    let device = Device::new(PTX);
    let (address, bytes) = device.module.global("uninitialised_constants").expect("a constant");
    assert_eq!(bytes, 128);
    let values: Vec<f32> = (0..32).map(|i| i as f32 * 1.5).collect();
    device.gpu.memory().write(address, bytemuck::cast_slice(&values)).expect("in bounds");
    let to = device.unwritten::<f32>(32);
    device.launch("write_constants_back", 1, 32, 0, &[to.into()]);
    assert_eq!(device.read::<f32>(to, 32), values);
}

#[test]
fn global_variables_live_as_long_as_their_module() {
    let device = Device::new(PTX);
    let to = device.unwritten::<u32>(1);
    for call in 1..=3 {
        device.launch("count_calls", 1, 1, 0, &[to.into()]);
        assert_eq!(device.read::<u32>(to, 1), [100 + call]);
    }
}

#[test]
fn local_arrays_are_indexed_by_data() {
    let device = Device::new(PTX);
    let mut random = Random(24);
    let input: Vec<i32> = (0..16 * 96).map(|_| random.next() as i32).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<i32>(16 * 96));
    device.launch("local_sort", 2, 48, 0, &[from.into(), to.into()]);
    let mut want = input;
    want.chunks_mut(16).for_each(<[i32]>::sort_unstable);
    assert_eq!(device.read::<i32>(to, 16 * 96), want);
}

#[test]
fn local_memory_of_every_width() {
    let device = Device::new(PTX);
    let input = random_bytes(32 * 64, 25);
    let (from, to) = (device.buffer(&input), device.unwritten::<u64>(64));
    device.launch("local_bytes", 1, 64, 0, &[from.into(), to.into()]);
    let got: Vec<u64> = device.read(to, 64);
    for (t, input) in input.chunks(32).enumerate() {
        let mut b = [0u8; 32];
        for k in 0..32 {
            b[(k + t) % 32] = input[k];
        }
        let h = t % 16 * 2;
        b[h] ^= 0xFF;
        b[h + 1] ^= 0xFF;
        let w = t % 8 * 4;
        let more = (number(&b[w..w + 4]) as u32).wrapping_add(1);
        b[w..w + 4].copy_from_slice(&more.to_le_bytes());
        let d = |k: usize| number(&b[8 * k..8 * k + 8]);
        let want = d(t % 4) ^ d(t % 2 * 2) ^ d(t % 2 * 2 + 1) << 1;
        assert_eq!(got[t], want, "thread {t}");
    }
}

#[test]
fn frames_of_functions_do_not_overlap() {
    fn depth_first(depth: u32, trail: &mut [u32; 8], x: u32) -> u32 {
        let mine = [x, x.wrapping_add(1), x.wrapping_mul(3), depth];
        trail[depth as usize] = mine[x as usize % 4];
        if depth < 5 {
            let next = mine[x.wrapping_add(depth) as usize % 4];
            return depth_first(depth + 1, trail, next).wrapping_add(mine[depth as usize % 4]);
        }
        x
    }
    let device = Device::new(PTX);
    let to = device.unwritten::<u32>(64);
    device.launch("local_frames", 1, 64, 0, &[to.into()]);
    let got: Vec<u32> = device.read(to, 64);
    for (t, got) in (0..).zip(got) {
        let mut trail = [0; 8];
        let x = depth_first(0, &mut trail, t);
        let want = trail.iter().fold(x, |x, step| x.wrapping_mul(31).wrapping_add(*step));
        assert_eq!(got, want, "thread {t}");
    }
}

#[test]
fn static_and_dynamic_shared_memory() {
    let device = Device::new(PTX);
    for bytes in [256u32, 512, 48 << 10] {
        let to = device.unwritten::<u64>(32);
        device.launch("shared_layout", 1, 32, bytes, &[to.into(), bytes.into()]);
        let got: Vec<u64> = device.read(to, 32);
        for t in 0..32u64 {
            let q = 4 * (7 - t % 8) * 4 + 6;
            let at = 16 * (t % (u64::from(bytes) / 16));
            let word = |at: u64| number(&[at, at + 1, at + 2, at + 3].map(|k| k as u8 ^ 0x5A));
            let want = 3 * (31 - t) % 256
                + t / 2 * 2 * 1000
                + (65535 - t * 7 % 32) * 1_000_000
                + q * 1_000_000_000_000
                + word(at + 12) % 251
                + word(at) % 241;
            assert_eq!(got[t as usize], want, "{bytes} bytes, thread {t}");
        }
    }
}

#[test]
fn a_transpose_in_shared_memory() {
    let device = Device::new(PTX);
    let (rows, columns) = (70usize, 100usize);
    let input: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<f32>(rows * columns));
    let args = [from.into(), to.into(), (rows as u32).into(), (columns as u32).into()];
    device.launch("transpose", [4, 3], [32, 8], 0, &args);
    let got: Vec<f32> = device.read(to, rows * columns);
    for (i, got) in got.iter().enumerate() {
        assert_eq!(*got, (i % rows * columns + i / rows) as f32, "element {i}");
    }
}

#[test]
fn shared_addresses_of_32_bits() {
    let device = Device::new(PTX);
    let to = device.unwritten::<u32>(32);
    device.launch("shared_addresses", 1, 32, 0, &[to.into()]);
    let want: Vec<u32> = (0..32).map(|t| t * t + t * t * t).collect();
    assert_eq!(device.read::<u32>(to, 32), want);
}

#[test]
fn lists_are_followed() {
    let device = Device::new(PTX);
    let next: Vec<u32> = (0..256).map(|i| (i * 77 + 13) % 256).collect();
    let (from, to) = (device.buffer(&next), device.unwritten::<u32>(256));
    device.launch("follow", 4, 64, 0, &[from.into(), to.into(), 9u32.into()]);
    let want: Vec<u32> = (0..256u32).map(|i| (0..9).fold(i, |at, _| next[at as usize])).collect();
    assert_eq!(device.read::<u32>(to, 256), want);
}

#[test]
fn lanes_reach_allocations_of_their_own() {
    let device = Device::new(PTX);
    let start = |k: usize| vec![k as f32; 4];
    let buffers: Vec<u64> = (0..40).map(|k| device.buffer(&start(k))).collect();
    let table = device.buffer(&buffers);
    device.launch("many_buffers", 5, 32, 0, &[table.into(), 40u32.into()]);
    for (k, buffer) in buffers.iter().enumerate() {
        let want: Vec<f32> = (0..4).map(|j| (2 * k + 40 * j + k) as f32).collect();
        assert_eq!(device.read::<f32>(*buffer, 4), want, "buffer {k}");
    }
}

#[test]
fn offsets_on_both_sides() {
    let device = Device::new(PTX);
    let input: Vec<i32> = (0..100).map(|i| i * i).collect();
    let (from, to) = (device.buffer(&input), device.unwritten::<i32>(96));
    device.launch("neighbours", 3, 32, 0, &[from.into(), to.into()]);
    let want: Vec<i32> =
        input.windows(5).map(|w| w[0] - 2 * w[1] + 3 * w[2] - w[3] + w[4]).collect();
    assert_eq!(device.read::<i32>(to, 96), want);
}

#[derive(Clone, Copy, Pod, Zeroable, PartialEq, Debug)]
#[repr(C)]
struct Quad([u32; 4]);

fn check_pipeline(kernel: &str) {
    let device = Device::new(PTX);
    for rounds in [1usize, 2, 3, 4, 9] {
        let count = 2 * rounds * 64;
        let input: Vec<Quad> =
            (0..count as u32).map(|i| Quad([i, i * 3, i * 5, i ^ 0xFFFF])).collect();
        let (from, to) = (device.buffer(&input), device.unwritten::<Quad>(count));
        device.launch(kernel, 2, 64, 0, &[from.into(), to.into(), (rounds as u32).into()]);
        let got: Vec<Quad> = device.read(to, count);
        for (i, got) in got.iter().enumerate() {
            let Quad([x, y, z, w]) = input[i / 64 * 64 + 63 - i % 64];
            let round = (i / 64 % rounds) as u32;
            assert_eq!(*got, Quad([w, z, y, x + round]), "{kernel}, {rounds} rounds, element {i}");
        }
    }
}

#[test]
fn asynchronous_copies_one_stage() {
    check_pipeline("pipeline_1");
}

#[test]
fn asynchronous_copies_two_stages() {
    check_pipeline("pipeline_2");
}

#[test]
fn asynchronous_copies_three_stages() {
    check_pipeline("pipeline_3");
}

#[test]
fn asynchronous_copies_four_stages() {
    check_pipeline("pipeline_4");
}

fn check_zero_fill(kernel: &str, size: usize) {
    let device = Device::new(PTX);
    for bytes in [0, 1, size - 1, size, 17 * size + 3, 64 * size] {
        let input = random_bytes(bytes.max(1), 26);
        let (from, to) = (device.buffer(&input), device.unwritten::<u8>(64 * size));
        device.launch(kernel, 1, 64, 0, &[from.into(), to.into(), (bytes as u32).into()]);
        let mut want = input[..bytes].to_vec();
        want.resize(64 * size, 0);
        assert_eq!(device.read::<u8>(to, 64 * size), want, "{kernel}, {bytes} bytes");
    }
}

#[test]
fn zero_fill_to_four_bytes() {
    check_zero_fill("zero_fill_4", 4);
}

#[test]
fn zero_fill_to_eight_bytes() {
    check_zero_fill("zero_fill_8", 8);
}

#[test]
fn zero_fill_to_sixteen_bytes() {
    check_zero_fill("zero_fill_16", 16);
}
