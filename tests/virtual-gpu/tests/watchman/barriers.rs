//! Barriers and other meetings that some threads miss, and kernels that stop themselves.

use virtual_gpu::watch::Kind;

use super::common::{Arg, Device};
use super::{At, Pair, Source, at};

fn pair(name: &'static str, kind: Kind, fault: At, other: Option<At>) -> Pair {
    let source = Source {
        file: "barriers.cu",
        cu: include_str!("barriers.cu"),
        ptx: include_str!("barriers.ptx"),
    };
    Pair { source, name, kind, fault, other, always: true }
}

fn numbers(device: &Device, count: i32) -> Arg {
    device.buffer(&(0..count).collect::<Vec<i32>>()).into()
}

fn out(device: &Device) -> Arg {
    device.unwritten::<i32>(128).into()
}

#[test]
fn a_divergent_barrier() {
    let (fault, other) = (at(0, 0, "bar.sync"), at(0, 11, "bar.sync"));
    pair("divergent", Kind::BarrierNotReached, fault, Some(other)).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device)])
    });
}

#[test]
fn a_barrier_that_threads_of_a_warp_have_left() {
    let fault = at(0, 32, "bar.sync");
    pair("left_early", Kind::BarrierNotReached, fault, None).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device), 50.into()])
    });
}

#[test]
fn a_named_barrier_that_waits_for_too_many() {
    pair("named", Kind::BarrierNotReached, at(0, 0, "bar.sync"), None)
        .check(|device, kernel| device.try_launch(kernel, 1, 128, 0, &[out(device)]));
}

#[test]
fn a_named_barrier_without_those_who_matter() {
    let (fault, other) = (at(0, 0, "ld.shared"), at(0, 127, "st.shared"));
    pair("named_outsider", Kind::Race, fault, Some(other))
        .check(|device, kernel| device.try_launch(kernel, 1, 128, 0, &[out(device)]));
}

#[test]
fn a_wrong_member_mask() {
    let fault = at(0, 16, "shfl.sync");
    pair("member_mask", Kind::WrongMemberMask, fault, None).check(|device, kernel| {
        device.try_launch(kernel, 1, 32, 0, &[numbers(device, 32), out(device)])
    });
}

#[test]
fn trap() {
    pair("trap", Kind::Trap, at(1, 7, "trap"), None).check(|device, kernel| {
        let mut data = [1; 64];
        data[39] = -1;
        device.try_launch(kernel, 2, 32, 0, &[device.buffer(&data).into(), out(device)])
    });
}

#[test]
fn assert() {
    pair("assert", Kind::Assert, at(1, 7, "call"), None).check(|device, kernel| {
        let mut data = [1; 64];
        data[39] = -1;
        device.try_launch(kernel, 2, 32, 0, &[device.buffer(&data).into(), out(device)])
    });
}
