//! How many blocks of a kernel fit: cuOccupancy and its like, by the formula in `limits`.

use super::abi::{BlockToShared, In, Out, call, shared_for_block};
use super::error::{Error, Result};
use super::launch::Config;
use super::limits::{THREADS_PER_BLOCK, WARP};
use super::module::Function;
use super::state::{Driver, driver};

/// Blocks of a kernel on one multiprocessor.
fn resident(driver: &Driver, function: &Function, threads: u32, dynamic: usize) -> Result<u32> {
    let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
    let shared = function.kernel.static_shared_bytes().saturating_add(dynamic);
    driver.limits.resident_blocks(threads, function.registers(), shared)
}

fn active_blocks(out: Out<i32>, function: usize, threads: i32, dynamic: usize) -> Result {
    let driver = driver()?;
    let function = driver.functions.get(function)?;
    let threads = u32::try_from(threads).map_err(|_| Error::InvalidValue)?;
    out.put(resident(driver, &function, threads, dynamic)? as i32)
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: Out<i32>,
    function: usize,
    threads: i32,
    dynamic: usize,
) -> u32 {
    call("cuOccupancyMaxActiveBlocksPerMultiprocessor", || {
        active_blocks(out, function, threads, dynamic)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: Out<i32>,
    function: usize,
    threads: i32,
    dynamic: usize,
    flags: u32,
) -> u32 {
    call("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", || {
        // CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE.
        if flags > 1 {
            return Err(Error::InvalidValue);
        }
        active_blocks(out, function, threads, dynamic)
    })
}

/// What the two calls for a good size of block are asked.
struct Wanted {
    function: usize,
    shared_of: BlockToShared,
    dynamic: usize,
    /// Threads; 0 for no limit.
    limit: i32,
}

/// The block with which the most threads are on a multiprocessor; of several the largest.
fn best_block(least_grid: Out<i32>, block: Out<i32>, wanted: Wanted) -> Result {
    let driver = driver()?;
    let function = driver.functions.get(wanted.function)?;
    let limit = u32::try_from(wanted.limit).map_err(|_| Error::InvalidValue)?;
    let most = function.kernel.max_threads().min(THREADS_PER_BLOCK);
    let most = if limit == 0 { most } else { most.min(limit) };
    let mut best = (0, 0, 0);
    let mut threads = most;
    while threads > 0 {
        let dynamic = shared_for_block(wanted.shared_of, threads, wanted.dynamic);
        let blocks = resident(driver, &function, threads, dynamic)?;
        if blocks * threads > best.0 {
            best = (blocks * threads, threads, blocks);
        }
        // The greatest first, then whole warps.
        threads = if threads % WARP == 0 { threads - WARP } else { threads / WARP * WARP };
    }
    block.put(best.1 as i32)?;
    least_grid.put((best.2 * driver.options.multiprocessors) as i32)
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSize(
    least_grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared_of: BlockToShared,
    dynamic: usize,
    limit: i32,
) -> u32 {
    call("cuOccupancyMaxPotentialBlockSize", || {
        best_block(least_grid, block, Wanted { function, shared_of, dynamic, limit })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    least_grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared_of: BlockToShared,
    dynamic: usize,
    limit: i32,
    flags: u32,
) -> u32 {
    call("cuOccupancyMaxPotentialBlockSizeWithFlags", || {
        if flags > 1 {
            return Err(Error::InvalidValue);
        }
        best_block(least_grid, block, Wanted { function, shared_of, dynamic, limit })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: usize,
    blocks: i32,
    threads: i32,
) -> u32 {
    call("cuOccupancyAvailableDynamicSMemPerBlock", || {
        let driver = driver()?;
        let function = driver.functions.get(function)?;
        let blocks = u32::try_from(blocks).map_err(|_| Error::InvalidValue)?;
        let threads = u32::try_from(threads).map_err(|_| Error::InvalidValue)?;
        if blocks == 0 || blocks > resident(driver, &function, threads, 0)? {
            return Err(Error::InvalidValue);
        }
        let fixed = function.kernel.static_shared_bytes();
        bytes.put(driver.limits.dynamic_shared_for(blocks, fixed) as usize)
    })
}

/// A cluster of one block is all that there is.
#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialClusterSize(
    size: Out<i32>,
    function: usize,
    _config: In<Config>,
) -> u32 {
    call("cuOccupancyMaxPotentialClusterSize", || {
        driver()?.functions.get(function)?;
        size.put(1)
    })
}
