//! An ordinary cudarc program, which knows nothing of a virtual GPU: saxpy on device 0.
//!
//! `saxpy wrong` runs the kernel with a mistake in it. With `virtual-gpu` in front, that is found.

use std::error::Error;
use std::process::ExitCode;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

const PTX: &str = include_str!("saxpy.ptx");
const N: usize = 1000;

fn saxpy(kernel: &str) -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    println!("device 0: {}", context.name()?);
    let stream = context.default_stream();
    let kernel = context.load_module(Ptx::from_src(PTX))?.load_function(kernel)?;
    let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let (x, mut y) = (stream.clone_htod(&x)?, stream.clone_htod(&[1.0f32; N])?);
    let (a, n) = (2.0f32, N as i32);
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&a).arg(&x).arg(&mut y).arg(&n);
    // SAFETY: the arguments are of the types that the kernel declares; it writes n elements of y.
    unsafe { launch.launch(LaunchConfig::for_num_elems(N as u32))? };
    let y = stream.clone_dtoh(&y)?;
    assert!(y.iter().enumerate().all(|(i, y)| *y == 2.0 * i as f32 + 1.0), "{y:?}");
    println!("{N} elements are right");
    Ok(())
}

fn main() -> ExitCode {
    // SAFETY: it loads the libraries that it finds under the driver's names; a driver's initialisers
    // have no requirements.
    if !unsafe { sys::is_culib_present() } {
        eprintln!(
            "no CUDA driver here; try: virtual-gpu {}",
            std::env::args().next().unwrap_or_default()
        );
        return ExitCode::FAILURE;
    }
    let wrong = std::env::args().nth(1).is_some_and(|argument| argument == "wrong");
    match saxpy(if wrong { "saxpy_wrong" } else { "saxpy" }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
