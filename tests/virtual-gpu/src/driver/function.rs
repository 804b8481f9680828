//! Functions: their attributes, and the kernels of libraries, which are the same thing here.

use std::ffi::c_char;

use super::abi::{Out, call};
use super::device::check_device;
use super::error::{Error, Result};
use super::handle::lock;
use super::limits::THREADS_PER_BLOCK;
use super::module::{Function, put_name};
use super::state::{Driver, driver};

/// CUfunction_attribute.
const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;

fn attribute(driver: &Driver, function: &Function, code: u32) -> Result<i32> {
    let (major, minor) = driver.options.compute_capability;
    let settings = *lock(&function.settings);
    let value = match code {
        0 => function.kernel.max_threads().min(THREADS_PER_BLOCK),
        1 => function.kernel.static_shared_bytes(),
        // Constant memory is the module's.
        2 => 0,
        3 => function.kernel.local_bytes(),
        4 => function.registers(),
        // PTX and binary version: of the device, for which it is compiled.
        5 | 6 => 10 * major + minor,
        7 => 0,
        MAX_DYNAMIC_SHARED => settings.dynamic_shared,
        CARVEOUT => return Ok(settings.carveout),
        // Clusters.
        10..=15 => 0,
        _ => return Err(Error::InvalidValue),
    };
    Ok(value as i32)
}

fn set_attribute(driver: &Driver, function: &Function, code: u32, value: i32) -> Result {
    match code {
        MAX_DYNAMIC_SHARED => {
            let value = u32::try_from(value).map_err(|_| Error::InvalidValue)?;
            let most = driver.limits.shared_per_block_opt_in();
            if value.saturating_add(function.kernel.static_shared_bytes()) > most {
                return Err(Error::InvalidValue);
            }
            lock(&function.settings).dynamic_shared = value;
        }
        CARVEOUT if (-1..=100).contains(&value) => lock(&function.settings).carveout = value,
        // Clusters: that there are none can be said.
        10..=15 if value == 0 => {}
        10..=15 => return Err(Error::NotSupported),
        _ => return Err(Error::InvalidValue),
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(out: Out<i32>, code: u32, function: usize) -> u32 {
    call("cuFuncGetAttribute", || {
        let driver = driver()?;
        out.put(attribute(driver, &*driver.functions.get(function)?, code)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, code: u32, value: i32) -> u32 {
    call("cuFuncSetAttribute", || {
        let driver = driver()?;
        set_attribute(driver, &*driver.functions.get(function)?, code, value)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetAttribute(out: Out<i32>, code: u32, kernel: usize, device: i32) -> u32 {
    call("cuKernelGetAttribute", || {
        check_device(device)?;
        let driver = driver()?;
        out.put(attribute(driver, &*driver.functions.get(kernel)?, code)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelSetAttribute(code: u32, value: i32, kernel: usize, device: i32) -> u32 {
    call("cuKernelSetAttribute", || {
        check_device(device)?;
        let driver = driver()?;
        set_attribute(driver, &*driver.functions.get(kernel)?, code, value)
    })
}

fn set_cache_config(function: usize, config: u32) -> Result {
    let function = driver()?.functions.get(function)?;
    if config > 3 {
        return Err(Error::InvalidValue);
    }
    lock(&function.settings).cache_config = config;
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: usize, config: u32) -> u32 {
    call("cuFuncSetCacheConfig", || set_cache_config(function, config))
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelSetCacheConfig(kernel: usize, config: u32, device: i32) -> u32 {
    call("cuKernelSetCacheConfig", || {
        check_device(device)?;
        set_cache_config(kernel, config)
    })
}

/// Banks of shared memory are 4 bytes wide on all cards of today.
#[unsafe(no_mangle)]
extern "C" fn cuFuncSetSharedMemConfig(function: usize, config: u32) -> u32 {
    call("cuFuncSetSharedMemConfig", || {
        driver()?.functions.get(function)?;
        if config > 2 { Err(Error::InvalidValue) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetModule(out: Out<usize>, function: usize) -> u32 {
    call("cuFuncGetModule", || out.put(driver()?.functions.get(function)?.module))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetName(out: Out<*const c_char>, function: usize) -> u32 {
    call("cuFuncGetName", || put_name(out, function))
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetName(out: Out<*const c_char>, kernel: usize) -> u32 {
    call("cuKernelGetName", || put_name(out, kernel))
}

fn param(function: usize, index: usize, offset: Out<usize>, size: Out<usize>) -> Result {
    let function = driver()?.functions.get(function)?;
    let param = function.kernel.params().get(index).ok_or(Error::InvalidValue)?;
    offset.put(param.offset as usize)?;
    size.put_if_wanted(param.size as usize);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamInfo(
    function: usize,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> u32 {
    call("cuFuncGetParamInfo", || param(function, index, offset, size))
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetParamInfo(
    kernel: usize,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> u32 {
    call("cuKernelGetParamInfo", || param(kernel, index, offset, size))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamCount(function: usize, count: Out<usize>) -> u32 {
    call("cuFuncGetParamCount", || {
        count.put(driver()?.functions.get(function)?.kernel.params().len())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetParamCount(kernel: usize, count: Out<usize>) -> u32 {
    call("cuKernelGetParamCount", || {
        count.put(driver()?.functions.get(kernel)?.kernel.params().len())
    })
}

/// CU_FUNCTION_LOADING_STATE_LOADED: all is loaded with its module.
#[unsafe(no_mangle)]
extern "C" fn cuFuncIsLoaded(state: Out<u32>, function: usize) -> u32 {
    call("cuFuncIsLoaded", || {
        driver()?.functions.get(function)?;
        state.put(1)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncLoad(function: usize) -> u32 {
    call("cuFuncLoad", || driver()?.functions.get(function).map(drop))
}
