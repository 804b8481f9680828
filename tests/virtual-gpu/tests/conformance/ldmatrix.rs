//! ldmatrix, stmatrix, movmatrix: 8 × 8 matrices between shared memory and registers.

use virtual_gpu::{Kind, Options};

use super::common::{Device, list};

const PTX: &str = include_str!("ldmatrix.ptx");
const PTX_90: &str = include_str!("stmatrix.ptx");

/// 64 rows of 8 elements, each a number of its own.
fn elements() -> Vec<u16> {
    (0..512).map(|i| 0x4000 + i * 7).collect()
}

/// The row that each lane points to: a different order in every test.
fn order(seed: u32) -> Vec<u32> {
    (0..32).map(|lane| (lane * 11 + seed * 5) % 64).collect()
}

/// What the manual says a lane gets of matrix `number`: of row lane / 4 the elements 2·(lane % 4) and the
/// next; with `.trans` of column lane / 4.
fn expected(elements: &[u16], rows: &[u32], number: usize, trans: bool, lane: usize) -> u32 {
    let at = |row: usize, column: usize| {
        let (row, column) = if trans { (column, row) } else { (row, column) };
        u32::from(elements[rows[number * 8 + row] as usize * 8 + column])
    };
    let (row, column) = (lane / 4, lane % 4 * 2);
    at(row, column) | at(row, column + 1) << 16
}

fn load(kernel: &str, count: usize, trans: bool, seed: u32) {
    let device = Device::new(PTX);
    let (elements, rows) = (elements(), order(seed));
    let out = device.unwritten::<u32>(32 * count);
    let args = [device.buffer(&elements).into(), device.buffer(&rows).into(), out.into()];
    device.launch(kernel, 1, 32, 1024, &args);
    let got: Vec<u32> = device.read(out, 32 * count);
    for (i, got) in got.iter().enumerate() {
        let (lane, number) = (i / count, i % count);
        let want = expected(&elements, &rows, number, trans, lane);
        assert_eq!(*got, want, "{kernel}: matrix {number}, lane {lane}");
    }
}

#[test]
fn one_matrix() {
    load("ldmatrix_x1", 1, false, 1);
}

#[test]
fn one_matrix_transposed() {
    load("ldmatrix_x1_trans", 1, true, 2);
}

#[test]
fn two_matrices() {
    load("ldmatrix_x2", 2, false, 3);
}

#[test]
fn two_matrices_transposed() {
    load("ldmatrix_x2_trans", 2, true, 4);
}

#[test]
fn four_matrices() {
    load("ldmatrix_x4", 4, false, 5);
}

#[test]
fn four_matrices_transposed() {
    load("ldmatrix_x4_trans", 4, true, 6);
}

#[test]
fn four_matrices_of_the_block_in_a_cluster() {
    load("ldmatrix_x4_cta", 4, false, 7);
}

#[test]
fn four_matrices_at_generic_addresses() {
    load("ldmatrix_x4_generic", 4, false, 8);
}

#[test]
fn an_offset_in_the_address() {
    let device = Device::new(PTX);
    let elements = elements();
    let rows: Vec<u32> = (0..32).map(|lane| lane * 3 % 32).collect();
    let out = device.unwritten::<u32>(32);
    let args = [device.buffer(&elements).into(), device.buffer(&rows).into(), out.into()];
    device.launch("ldmatrix_x1_offset", 1, 32, 1024, &args);
    for (lane, got) in device.read::<u32>(out, 32).iter().enumerate() {
        assert_eq!(*got, expected(&elements[256..], &rows, 0, false, lane), "lane {lane}");
    }
}

#[test]
fn a_matrix_between_registers() {
    let device = Device::new(PTX);
    let elements = elements();
    let rows: Vec<u32> = (0..8).collect();
    let out = device.unwritten::<u32>(32);
    // The first 8 rows, two elements a register, are the matrix as its fragment.
    let args = [device.buffer(&elements).into(), 0u64.into(), out.into()];
    device.launch("movmatrix", 1, 32, 1024, &args);
    for (lane, got) in device.read::<u32>(out, 32).iter().enumerate() {
        assert_eq!(*got, expected(&elements, &rows, 0, true, lane), "lane {lane}");
    }
}

/// Launches a kernel with rows (or offsets) that are wrong; gives the findings.
fn wrong(kernel: &str, rows: &[u32]) -> Vec<virtual_gpu::Finding> {
    let device = Device::new(PTX);
    let out = device.buffer(&[0u32; 64]);
    let args = [device.buffer(&elements()).into(), device.buffer(rows).into(), out.into()];
    device.try_launch(kernel, 1, 32, 1024, &args).findings
}

#[test]
fn rows_must_lie_at_multiples_of_16_bytes() {
    let mut offsets: Vec<u32> = (0..32).map(|lane| lane * 16).collect();
    // Lanes 16 and up give no address to .x2.
    offsets[20] = 3;
    assert!(wrong("ldmatrix_bytes", &offsets).is_empty());
    offsets[9] += 8;
    let findings = wrong("ldmatrix_bytes", &offsets);
    let [finding] = findings.as_slice() else { panic!("{}", list(&findings)) };
    assert_eq!((finding.kind, finding.place.thread), (Kind::Misaligned, [9, 0, 0]));
}

#[test]
fn rows_must_lie_in_shared_memory() {
    let mut offsets: Vec<u32> = (0..32).map(|lane| lane * 16).collect();
    offsets[13] = 1024;
    let findings = wrong("ldmatrix_bytes", &offsets);
    let [finding] = findings.as_slice() else { panic!("{}", list(&findings)) };
    assert_eq!((finding.kind, finding.place.thread), (Kind::OutOfBounds, [13, 0, 0]));
}

#[test]
fn rows_must_have_been_written() {
    let mut rows: Vec<u32> = (0..32).collect();
    assert!(wrong("ldmatrix_unwritten", &rows).is_empty());
    rows[5] = 40;
    let findings = wrong("ldmatrix_unwritten", &rows);
    let [finding] = findings.as_slice() else { panic!("{}", list(&findings)) };
    assert_eq!((finding.kind, finding.place.thread), (Kind::Uninitialised, [5, 0, 0]));
}

#[test]
fn the_whole_warp_must_come() {
    let findings = wrong("ldmatrix_half_a_warp", &order(1));
    let [finding] = findings.as_slice() else { panic!("{}", list(&findings)) };
    assert_eq!((finding.kind, finding.place.thread), (Kind::BarrierNotReached, [16, 0, 0]));
}

fn store(kernel: &str, count: usize, trans: bool, seed: u32) {
    let options = Options { compute_capability: (9, 0), ..Options::default() };
    let device = Device::with(PTX_90, options);
    let rows = order(seed);
    let registers: Vec<u32> = (0..32 * count as u32).map(|i| i * 0x0003_0001 + 0x1000).collect();
    let out = device.unwritten::<u16>(512);
    let args = [device.buffer(&registers).into(), device.buffer(&rows).into(), out.into()];
    device.launch(kernel, 1, 32, 1024, &args);
    let got: Vec<u16> = device.read(out, 512);
    // Loading what was stored gives the registers again.
    for (i, register) in registers.iter().enumerate() {
        let (lane, number) = (i / count, i % count);
        let again = expected(&got, &rows, number, trans, lane);
        assert_eq!(again, *register, "{kernel}: matrix {number}, lane {lane}");
    }
    let written = got.iter().filter(|element| **element != 0xFFFF).count();
    assert_eq!(written, 64 * count, "{kernel}: other rows stay as they are");
}

#[test]
fn one_matrix_stored() {
    store("stmatrix_x1", 1, false, 1);
}

#[test]
fn one_matrix_stored_transposed() {
    store("stmatrix_x1_trans", 1, true, 2);
}

#[test]
fn two_matrices_stored() {
    store("stmatrix_x2", 2, false, 3);
}

#[test]
fn two_matrices_stored_transposed() {
    store("stmatrix_x2_trans", 2, true, 4);
}

#[test]
fn four_matrices_stored() {
    store("stmatrix_x4", 4, false, 5);
}

#[test]
fn four_matrices_stored_transposed() {
    store("stmatrix_x4_trans", 4, true, 6);
}
