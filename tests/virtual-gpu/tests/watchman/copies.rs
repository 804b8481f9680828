//! Asynchronous copies, and matrices read from shared memory.

use virtual_gpu::watch::Kind;

use super::common::{Arg, Device};
use super::{At, Pair, Source, at};

fn pair(name: &'static str, kind: Kind, fault: At, other: Option<At>) -> Pair {
    let source = Source {
        file: "copies.cu",
        cu: include_str!("copies.cu"),
        ptx: include_str!("copies.ptx"),
    };
    Pair { source, name, kind, fault, other, always: true }
}

fn numbers(device: &Device, count: i32) -> Arg {
    device.buffer(&(1..=count).collect::<Vec<i32>>()).into()
}

fn out(device: &Device) -> Arg {
    device.unwritten::<i32>(64).into()
}

#[test]
fn not_waited_for() {
    let (fault, other) = (at(0, 0, "ld.shared"), at(0, 0, "cp.async"));
    pair("not_waited", Kind::AsyncNotWaited, fault, Some(other)).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device)])
    });
}

#[test]
fn waited_for_by_others_only() {
    let (fault, other) = (at(0, 32, "ld.shared"), at(0, 31, "cp.async"));
    pair("neighbours", Kind::Race, fault, Some(other)).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device)])
    });
}

#[test]
fn the_wrong_stage_of_a_pipeline() {
    // The second warp is the last at the barrier, and goes on first.
    let (fault, other) = (at(0, 32, "ld.shared"), at(0, 31, "cp.async"));
    pair("pipeline", Kind::AsyncNotWaited, fault, Some(other)).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 256), out(device), 4.into()])
    });
}

#[test]
fn a_wait_off_by_one() {
    // The second warp is the last at the barrier, and goes on first.
    let (fault, other) = (at(0, 32, "ld.shared"), at(0, 31, "cp.async"));
    pair("wait_off_by_one", Kind::AsyncNotWaited, fault, Some(other)).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 256), out(device), 4.into()])
    });
}

#[test]
fn ldmatrix_of_unwritten_rows() {
    let fault = at(0, 7, "ldmatrix");
    pair("ldmatrix", Kind::Uninitialised, fault, None).check(|device, kernel| {
        device.try_launch(kernel, 1, 32, 0, &[numbers(device, 32), out(device)])
    });
}
