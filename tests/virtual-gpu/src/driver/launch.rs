//! Launches: cuLaunchKernel and its like.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::abi::{Host, In, call, tell};
use super::attributes::{MAX_BLOCK, MAX_GRID};
use super::error::{Error, Result};
use super::fault::{judge, refused};
use super::handle::lock;
use super::limits::{REGISTERS, THREADS_PER_BLOCK};
use super::module::Function;
use super::state::{Context, Driver};
use super::stream::stream;
use super::work::{Work, submit};
use crate::gpu::LaunchConfig;

/// A kernel with all that a launch gives it, its parameters copied.
#[derive(Clone)]
pub struct Launch {
    pub function: Arc<Function>,
    /// The function's handle.
    pub handle: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub params: Arc<[u8]>,
    /// The address of each parameter in `params`, for who asks a graph's node.
    pub addresses: Arc<[usize]>,
    /// The blocks wait for each other, so all must be on the device at once.
    pub cooperative: bool,
}

/// Where a call's parameters are: an array of pointers, one to each, or a buffer of all.
#[derive(Clone, Copy)]
pub struct Params {
    pub each: In<Host>,
    pub extra: In<Host>,
}

/// CU_LAUNCH_PARAM_BUFFER_POINTER and _SIZE, in the `extra` list that CU_LAUNCH_PARAM_END (0) ends.
const BUFFER_POINTER: u64 = 1;
const BUFFER_SIZE: u64 = 2;

impl Params {
    /// The bytes of `.param` space.
    ///
    /// # Errors
    /// `InvalidValue` where pointers are missing or a buffer is too short.
    fn copied(&self, function: &Function) -> Result<Arc<[u8]>> {
        let layout = function.kernel.params();
        let bytes = layout.iter().map(|param| param.offset + param.size).max().unwrap_or(0);
        let mut params = vec![0; bytes as usize];
        if !self.extra.is_null() {
            if !self.each.is_null() {
                return Err(Error::InvalidValue);
            }
            let given = self.buffer()?;
            let fits = given.len().min(params.len());
            params[..fits].copy_from_slice(&given[..fits]);
            // The last parameter must be there whole.
            let whole = given.len() >= params.len();
            return if whole { Ok(params.into()) } else { Err(Error::InvalidValue) };
        }
        for (param, from) in layout.iter().zip(self.each.many(layout.len())?) {
            let to = param.offset as usize..(param.offset + param.size) as usize;
            params[to].copy_from_slice(from.bytes(u64::from(param.size))?);
        }
        Ok(params.into())
    }

    fn buffer(&self) -> Result<Vec<u8>> {
        let (mut pointer, mut size) = (None, None);
        // Two pairs and the end are all that there can be.
        for pair in 0..3 {
            let words = self.extra.many(2 * pair + 1)?;
            let key = words[2 * pair].address();
            if key == 0 {
                break;
            }
            let value = self.extra.many(2 * pair + 2)?[2 * pair + 1];
            match key {
                BUFFER_POINTER => pointer = Some(value),
                BUFFER_SIZE => size = Some(In::<u64>::from(value).get()?),
                _ => return Err(Error::InvalidValue),
            }
        }
        let (Some(pointer), Some(size)) = (pointer, size) else { return Err(Error::InvalidValue) };
        Ok(pointer.bytes(size)?.to_vec())
    }
}

impl Launch {
    /// A launch, checked as the driver checks one at the call.
    ///
    /// # Errors
    /// `InvalidHandle`, `InvalidValue` for a grid or block that no device takes or more dynamic shared
    /// memory than the function was given, `LaunchOutOfResources`, `CooperativeLaunchTooLarge`.
    pub fn new(
        driver: &'static Driver,
        handle: usize,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: Params,
        cooperative: bool,
    ) -> Result<Launch> {
        let function = driver.functions.get(handle)?;
        let params = params.copied(&function)?;
        let base = params.as_ptr().expose_provenance();
        let layout = function.kernel.params();
        let addresses = layout.iter().map(|param| base + param.offset as usize).collect();
        let launch =
            Launch { function, handle, grid, block, shared, params, addresses, cooperative };
        launch.check(driver)?;
        Ok(launch)
    }

    fn check(&self, driver: &Driver) -> Result {
        let name = self.function.kernel.name();
        let refuse = |error, why: String| {
            tell("cuLaunchKernel", &format!("{name}: {why}"));
            Err(error)
        };
        let outside =
            |size: [u32; 3], most: [u32; 3]| (0..3).any(|i| size[i] == 0 || size[i] > most[i]);
        if outside(self.grid, MAX_GRID) {
            return refuse(Error::InvalidValue, format!("a grid of {:?} blocks", self.grid));
        }
        let threads: u64 = self.block.iter().map(|&n| u64::from(n)).product();
        if outside(self.block, MAX_BLOCK) || threads > u64::from(THREADS_PER_BLOCK) {
            return refuse(Error::InvalidValue, format!("a block of {:?} threads", self.block));
        }
        let threads = threads as u32;
        let most = self.function.kernel.max_threads();
        if threads > most {
            let why = format!("a block of {threads} threads, of which the kernel takes {most}");
            return refuse(Error::LaunchOutOfResources, why);
        }
        let registers = self.function.registers();
        if registers.saturating_mul(threads) > REGISTERS {
            let why = format!("{threads} threads of {registers} registers");
            return refuse(Error::LaunchOutOfResources, why);
        }
        let limit = lock(&self.function.settings).dynamic_shared;
        if self.shared > limit {
            let why = format!(
                "{} bytes of dynamic shared memory, {limit} are allowed: raise \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
                self.shared
            );
            return refuse(Error::InvalidValue, why);
        }
        let shared = self.function.kernel.static_shared_bytes() + self.shared;
        if shared > driver.limits.shared_per_block_opt_in() {
            let why = format!("{shared} bytes of shared memory");
            return refuse(Error::LaunchOutOfResources, why);
        }
        if self.cooperative {
            let blocks: u64 = self.grid.iter().map(|&n| u64::from(n)).product();
            let each = driver.limits.resident_blocks(threads, registers, shared)?;
            let fit = u64::from(each) * u64::from(driver.options.multiprocessors);
            if blocks > fit {
                let why = format!("a cooperative grid of {blocks} blocks, of which {fit} fit");
                return refuse(Error::CooperativeLaunchTooLarge, why);
            }
        }
        Ok(())
    }

    /// Runs the grid to its end. A fault is kept in the context: the launch itself succeeds.
    pub fn run(&self, driver: &Driver, context: &Context) -> Result {
        context.healthy()?;
        let config = LaunchConfig { grid: self.grid, block: self.block, shared_bytes: self.shared };
        let _running = lock(&driver.running);
        if driver.is_to_fault() {
            let name = self.function.kernel.name();
            tell(
                "cuLaunchKernel",
                &format!("{name}: this launch faults, as VIRTUAL_GPU_FAULT_AT says"),
            );
            context.fail(Error::LaunchFailed);
            return Ok(());
        }
        let outcome = driver
            .gpu
            .launch(&self.function.kernel, &config, &self.params)
            .map_err(|wrong| refused(&wrong))?;
        driver.clock.fetch_add(outcome.warp_instructions, Ordering::Relaxed);
        if let Some(fault) = judge(&driver.options, &outcome) {
            context.fail(fault);
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    on: usize,
    each: In<Host>,
    extra: In<Host>,
) -> u32 {
    call("cuLaunchKernel", || {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        launch(function, grid, block, shared, on, Params { each, extra }, false)
    })
}

fn launch(
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    on: usize,
    params: Params,
    cooperative: bool,
) -> Result {
    let place = stream(on)?;
    place.context.healthy()?;
    let launch = Launch::new(place.driver, function, grid, block, shared, params, cooperative)?;
    submit(&place, Work::Launch(launch))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchCooperativeKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    on: usize,
    each: In<Host>,
) -> u32 {
    call("cuLaunchCooperativeKernel", || {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        launch(function, grid, block, shared, on, Params { each, extra: In::null() }, true)
    })
}

/// CUlaunchConfig.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: In<Attribute>,
    count: u32,
}

/// CUlaunchAttribute: its value is 64 bytes, of which the first are looked at.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Attribute {
    code: u32,
    _pad: u32,
    value: [u32; 16],
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernelEx(
    config: In<Config>,
    function: usize,
    each: In<Host>,
    extra: In<Host>,
) -> u32 {
    launch_ex("cuLaunchKernelEx", config, function, Params { each, extra }, 0)
}

/// `null_stream` is what a stream of 0 means.
pub(super) fn launch_ex(
    name: &'static str,
    config: In<Config>,
    function: usize,
    params: Params,
    null_stream: usize,
) -> u32 {
    call(name, || {
        let Config { grid, block, shared, stream, attributes, count } = config.get()?;
        let mut cooperative = false;
        for attribute in attributes.many(count as usize)? {
            match attribute.code {
                // Cooperative.
                2 => cooperative = attribute.value[0] != 0,
                // Cluster dimension: one block is no cluster.
                4 | 11 if attribute.value[..3].iter().any(|&n| n > 1) => {
                    tell(name, "clusters of blocks are not implemented");
                    return Err(Error::NotSupported);
                }
                // Nothing, cache window, waiting policy, cluster, its scheduling, programmatic overlap,
                // priority, memory domains, preferred cluster, carve-out: hints, or about overlap that
                // there is not.
                0 | 1 | 3 | 4 | 5 | 6 | 8 | 9 | 10 | 11 | 14 => {}
                code => {
                    tell(name, &format!("launch attribute {code} is not implemented"));
                    return Err(Error::NotSupported);
                }
            }
        }
        let stream = if stream == 0 { null_stream } else { stream };
        launch(function, grid, block, shared, stream, params, cooperative)
    })
}
