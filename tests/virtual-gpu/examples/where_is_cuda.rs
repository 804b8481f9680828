//! Prints which CUDA driver this process finds, the way cudarc looks for it: one line.

fn main() {
    // SAFETY: it loads the libraries that it finds under the driver's names; a driver's initialisers
    // have no requirements.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        println!("no CUDA driver");
        return;
    }
    match cudarc::driver::CudaContext::new(0).and_then(|context| context.name()) {
        Ok(name) => println!("CUDA driver, device 0 is {name}"),
        Err(error) => println!("CUDA driver, no device: {error}"),
    }
}
