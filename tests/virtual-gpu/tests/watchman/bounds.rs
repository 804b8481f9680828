//! Accesses outside of what there is, and reads of what nothing has written.

use virtual_gpu::Outcome;
use virtual_gpu::watch::Kind;

use super::common::{Arg, Device};
use super::{At, Pair, Source, at};

fn pair(name: &'static str, kind: Kind, fault: At) -> Pair {
    let source = Source {
        file: "bounds.cu",
        cu: include_str!("bounds.cu"),
        ptx: include_str!("bounds.ptx"),
    };
    Pair { source, name, kind, fault, other: None, always: true }
}

/// `count` numbers from 0.
fn numbers(device: &Device, count: i32) -> Arg {
    device.buffer(&(0..count).collect::<Vec<i32>>()).into()
}

fn unwritten(device: &Device, count: usize) -> Arg {
    device.unwritten::<i32>(count).into()
}

#[test]
fn past_the_end() {
    pair("past_end", Kind::OutOfBounds, at(1, 36, "st.global")).check(|device, kernel| {
        let args = [numbers(device, 100), unwritten(device, 100), 100.into()];
        device.try_launch(kernel, 2, 64, 0, &args)
    });
}

#[test]
fn before_the_start() {
    pair("before_start", Kind::OutOfBounds, at(0, 0, "ld.global")).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[numbers(device, 64), unwritten(device, 64)])
    });
}

#[test]
fn by_a_huge_index() {
    pair("huge_index", Kind::OutOfBounds, at(0, 1, "ld.global")).check(|device, kernel| {
        let args = [numbers(device, 32), unwritten(device, 32), numbers(device, 32)];
        device.try_launch(kernel, 1, 32, 0, &args)
    });
}

#[test]
fn past_static_shared_memory() {
    pair("static_shared", Kind::OutOfBounds, at(0, 63, "st.shared"))
        .check(|device, kernel| device.try_launch(kernel, 1, 64, 0, &[unwritten(device, 64)]));
}

#[test]
fn past_dynamic_shared_memory() {
    pair("dynamic_shared", Kind::OutOfBounds, at(0, 16, "st.shared")).check(|device, kernel| {
        device.try_launch(kernel, 1, 32, 128, &[unwritten(device, 32), 32.into()])
    });
}

#[test]
fn past_a_local_array() {
    pair("local_array", Kind::OutOfBounds, at(0, 5, "ld.local")).check(|device, kernel| {
        let indices: Vec<i32> = (0..32).map(|i| if i == 5 { 1 << 20 } else { i % 8 }).collect();
        let at = device.buffer(&indices).into();
        device.try_launch(kernel, 1, 32, 0, &[at, unwritten(device, 32)])
    });
}

#[test]
fn misaligned() {
    pair("misaligned", Kind::Misaligned, at(0, 5, "ld.global")).check(|device, kernel| {
        device.try_launch(kernel, 1, 32, 0, &[numbers(device, 40), unwritten(device, 32)])
    });
}

#[test]
fn misaligned_vector() {
    pair("misaligned_vector", Kind::Misaligned, at(0, 1, "ld.global.v4")).check(
        |device, kernel| {
            let args = [device.buffer(&[1.5f32; 256]).into(), unwritten(device, 32), 5.into()];
            device.try_launch(kernel, 1, 32, 0, &args)
        },
    );
}

/// The kernels are the same: what differs is when the host frees the memory.
#[test]
fn after_it_was_freed() {
    let launch = |device: &Device, kernel: &str| -> Outcome {
        let data = device.buffer(&[1i32; 64]);
        let out = unwritten(device, 64);
        if kernel.ends_with("planted") {
            device.gpu.memory().free(data).expect("an allocation");
        }
        device.try_launch(kernel, 1, 64, 0, &[data.into(), out])
    };
    pair("freed", Kind::UseAfterFree, at(0, 0, "ld.global")).check(launch);
}

#[test]
fn null() {
    pair("null", Kind::OutOfBounds, at(0, 0, "ld.global")).check(|device, kernel| {
        device.try_launch(kernel, 1, 64, 0, &[0u64.into(), unwritten(device, 64)])
    });
}

#[test]
fn unwritten_global_memory() {
    pair("unwritten_global", Kind::Uninitialised, at(0, 0, "ld.global")).check(|device, kernel| {
        device.try_launch(kernel, 2, 64, 0, &[unwritten(device, 128), numbers(device, 128)])
    });
}

#[test]
fn unwritten_shared_memory() {
    pair("unwritten_shared", Kind::Uninitialised, at(0, 0, "ld.shared")).check(|device, kernel| {
        let args = [numbers(device, 64), unwritten(device, 64), 60.into()];
        device.try_launch(kernel, 1, 64, 0, &args)
    });
}
