//! Threads of a block that meet at the same bytes with nothing to order them.

use virtual_gpu::watch::Kind;

use super::common::{Arg, Device};
use super::{At, Pair, Source, at};

fn pair(name: &'static str, fault: At, other: At) -> Pair {
    let source =
        Source { file: "races.cu", cu: include_str!("races.cu"), ptx: include_str!("races.ptx") };
    Pair { source, name, kind: Kind::Race, fault, other: Some(other), always: true }
}

fn numbers(device: &Device, count: i32) -> Arg {
    device.buffer(&(1..=count).collect::<Vec<i32>>()).into()
}

fn out(device: &Device) -> Arg {
    device.unwritten::<i32>(64).into()
}

#[test]
fn read_after_write() {
    // The first warp reads what the second one has not written yet, which is told as that.
    pair("read_after_write", at(0, 32, "ld.shared"), at(0, 31, "st.shared")).check(
        |device, kernel| device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device)]),
    );
}

#[test]
fn write_after_read() {
    pair("write_after_read", at(0, 0, "st.shared"), at(0, 63, "ld.shared")).check(
        |device, kernel| {
            device.try_launch(kernel, 1, 64, 0, &[numbers(device, 256), out(device), 4.into()])
        },
    );
}

#[test]
fn write_after_write() {
    pair("write_after_write", at(0, 37, "st.shared"), at(0, 5, "st.shared"))
        .check(|device, kernel| device.try_launch(kernel, 1, 64, 0, &[out(device)]));
}

#[test]
fn lanes_of_one_instruction() {
    pair("lanes_at_once", at(0, 1, "st.shared"), at(0, 0, "st.shared"))
        .check(|device, kernel| device.try_launch(kernel, 1, 32, 0, &[out(device)]));
}

#[test]
fn within_a_warp() {
    pair("within_a_warp", at(0, 0, "ld.shared"), at(0, 1, "st.shared")).check(|device, kernel| {
        device.try_launch(kernel, 1, 32, 0, &[numbers(device, 32), out(device)])
    });
}

#[test]
fn half_words() {
    pair("half_words", at(0, 40, "st.shared"), at(0, 41, "st.shared")).check(|device, kernel| {
        let data: Vec<i16> = (0..64).collect();
        device.try_launch(kernel, 1, 64, 0, &[device.buffer(&data).into(), out(device)])
    });
}

#[test]
fn global_memory_in_a_block() {
    pair("global_in_a_block", at(0, 0, "ld.global"), at(0, 16, "st.global")).check(
        |device, kernel| device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), 64.into()]),
    );
}

#[test]
fn atomics_and_plain_accesses() {
    pair("atomics_and_plain", at(0, 0, "ld.shared"), at(0, 31, "atom.shared")).check(
        |device, kernel| device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), out(device)]),
    );
}

#[test]
fn a_flag_without_a_fence() {
    let (fault, other) = (at(0, 32, "ld.shared"), at(0, 31, "st.shared"));
    pair("flag_in_a_block", fault, other).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 32), out(device)])
    });
}

#[test]
fn a_guess_without_a_compare_and_swap() {
    // Of each warp one thread goes on to no atomic: thread 40 reads what the first warp has summed up.
    // Where all plain reads come before the atomics there is nothing to see.
    let pair = pair("compare_and_swap", at(0, 40, "ld.global"), at(0, 31, "atom.global"));
    Pair { always: false, ..pair }.check(|device, kernel| {
        let mut numbers = [1.0f32; 64];
        (numbers[8], numbers[40]) = (0.0, 0.0);
        let args = [device.buffer(&numbers).into(), device.buffer(&[0.0f32]).into(), out(device)];
        device.try_launch(kernel, 1, 64, 0, &args)
    });
}
