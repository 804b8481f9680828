//! Blocks of one launch that meet in device memory.

use virtual_gpu::watch::Kind;

use super::common::{Arg, Device};
use super::{At, Pair, Source, at};

fn pair(name: &'static str, fault: At, other: At) -> Pair {
    let source = Source {
        file: "blocks.cu",
        cu: include_str!("blocks.cu"),
        ptx: include_str!("blocks.ptx"),
    };
    Pair { source, name, kind: Kind::CrossBlockRace, fault, other: Some(other), always: true }
}

fn numbers(device: &Device, count: i32) -> Arg {
    device.buffer(&(0..count).collect::<Vec<i32>>()).into()
}

fn zeros(device: &Device, count: usize) -> Arg {
    device.buffer(&vec![0i32; count]).into()
}

#[test]
fn a_flag_without_a_fence() {
    pair("flag", at(1, 32, "ld.global"), at(0, 32, "st.global")).check(|device, kernel| {
        let args = [zeros(device, 64), zeros(device, 1), zeros(device, 64)];
        device.try_launch(kernel, 2, 64, 0, &args)
    });
}

#[test]
fn the_last_block_without_a_fence() {
    pair("last_block", at(5, 0, "ld.global"), at(0, 0, "st.global")).check(|device, kernel| {
        let args = [numbers(device, 192), zeros(device, 6), zeros(device, 1), zeros(device, 1)];
        device.try_launch(kernel, 6, 32, 0, &args)
    });
}

#[test]
fn a_sum_without_atomics() {
    pair("plain_sum", at(1, 0, "ld.global"), at(0, 0, "st.global")).check(|device, kernel| {
        device.try_launch(kernel, 6, 32, 0, &[numbers(device, 192), zeros(device, 1)])
    });
}

#[test]
fn atomics_and_plain_accesses() {
    pair("mixed", at(1, 1, "ld.global"), at(0, 0, "atom.global")).check(|device, kernel| {
        device.try_launch(kernel, 6, 32, 0, &[zeros(device, 1), zeros(device, 6)])
    });
}

#[test]
fn blocks_that_overlap() {
    pair("overlap", at(1, 0, "st.global"), at(0, 0, "st.global")).check(|device, kernel| {
        device.try_launch(kernel, 4, 32, 0, &[numbers(device, 160), zeros(device, 160)])
    });
}

#[test]
fn in_place() {
    pair("in_place", at(1, 0, "st.global"), at(0, 0, "ld.global")).check(|device, kernel| {
        let data = numbers(device, 160);
        let mended = [data.clone(), numbers(device, 160), zeros(device, 1)];
        let args = if kernel.ends_with("planted") { &mended[..1] } else { &mended };
        device.try_launch(kernel, 4, 32, 0, args)
    });
}
