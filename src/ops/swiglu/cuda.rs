//! SwiGLU on the GPU: kernels/swiglu.cu. Shapes and rounding as in the op's own page.

use half::bf16;

use super::OP;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, dimension};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/swiglu.ptx") };

/// Threads of a block (THREADS in swiglu.cu).
const THREADS: u32 = 256;

/// Writes h.
pub fn forward(
    cuda: &Cuda,
    gate: View<bf16>,
    up: View<bf16>,
    h: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check(OP, "len of up", up.len(), gate.len())?;
    check(OP, "len of h", h.len(), gate.len())?;
    let n = gate.len();
    let grid = [dimension(OP, "blocks", n.div_ceil(THREADS as usize))? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "swiglu_forward", grid, THREADS);
    let launch = launch.read(gate).read(up).write(h).value(n as u64);
    // SAFETY: the lengths are checked above; a thread touches one element below n.
    Ok(unsafe { launch.run() }?)
}

/// Overwrites gate with dgate, up with dup, and dh with h, bit-equal to what [`forward`] wrote.
pub fn backward(
    cuda: &Cuda,
    gate: &mut ViewMut<bf16>,
    up: &mut ViewMut<bf16>,
    dh: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check(OP, "len of up", up.len(), gate.len())?;
    check(OP, "len of dh", dh.len(), gate.len())?;
    let n = gate.len();
    let grid = [dimension(OP, "blocks", n.div_ceil(THREADS as usize))? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "swiglu_backward", grid, THREADS);
    let launch = launch.write(gate).write(up).write(dh).value(n as u64);
    // SAFETY: the lengths are checked above; a thread touches one element below n.
    Ok(unsafe { launch.run() }?)
}
