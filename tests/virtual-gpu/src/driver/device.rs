//! The device: how many, which, what it can.

use std::ffi::c_char;

use super::abi::{Out, Text, call};
use super::attributes::{MAX_BLOCK, MAX_GRID, attribute};
use super::error::{Error, Result};
use super::limits::{REGISTERS, SHARED_PER_BLOCK, THREADS_PER_BLOCK, WARP};
use super::state::{Driver, driver, initialise};
use crate::options::Options;

/// The driver's version as cuDriverGetVersion tells it unless it is set otherwise: 12.9, the first that takes PTX 8.8, which
/// compilers of today write and some programs refuse to hand to an older driver. Programs built for an
/// older CUDA 12 run on it; PTX of a later version is taken as far as it is understood.
pub const VERSION: i32 = 12090;

const PCI: &str = "0000:01:00.0";

/// # Errors
/// `InvalidDevice` for any but the only one, number 0.
pub fn check_device(device: i32) -> Result<()> {
    if device == 0 { Ok(()) } else { Err(Error::InvalidDevice) }
}

fn device(device: i32) -> Result<&'static Driver> {
    let driver = driver()?;
    check_device(device)?;
    Ok(driver)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    call("cuInit", || {
        if flags != 0 {
            return Err(Error::InvalidValue);
        }
        initialise().map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<i32>) -> u32 {
    // May be asked before cuInit, which tells what is wrong with the settings.
    let set = driver().map(|driver| driver.options.driver);
    let set = set.ok().or_else(|| Options::from_env().ok().map(|options| options.driver));
    call("cuDriverGetVersion", || version.put(set.unwrap_or(VERSION)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(out: Out<i32>, ordinal: i32) -> u32 {
    call("cuDeviceGet", || {
        device(ordinal)?;
        out.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<i32>) -> u32 {
    call("cuDeviceGetCount", || {
        driver()?;
        count.put(1)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: Out<c_char>, room: i32, ordinal: i32) -> u32 {
    call("cuDeviceGetName", || {
        let (major, minor) = device(ordinal)?.options.compute_capability;
        let room = usize::try_from(room).map_err(|_| Error::InvalidValue)?;
        name.put_text(&format!("virtual GPU (sm_{major}{minor})"), room)
    })
}

/// The same on every machine, so that nothing takes two runs for two cards.
fn uuid(out: Out<[u8; 16]>, ordinal: i32) -> Result {
    let (major, minor) = device(ordinal)?.options.compute_capability;
    let mut uuid = *b"virtual GPU sm\0\0";
    uuid[14..].copy_from_slice(&[major as u8, minor as u8]);
    out.put(uuid)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(out: Out<[u8; 16]>, ordinal: i32) -> u32 {
    call("cuDeviceGetUuid", || uuid(out, ordinal))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, ordinal: i32) -> u32 {
    call("cuDeviceGetUuid_v2", || uuid(out, ordinal))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: i32) -> u32 {
    call("cuDeviceTotalMem_v2", || bytes.put(device(ordinal)?.options.memory_bytes as usize))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<i32>, code: i32, ordinal: i32) -> u32 {
    call("cuDeviceGetAttribute", || {
        let driver = device(ordinal)?;
        value.put(attribute(code, &driver.options, driver.limits).ok_or(Error::InvalidValue)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, ordinal: i32) -> u32 {
    call("cuDeviceComputeCapability", || {
        let capability = device(ordinal)?.options.compute_capability;
        major.put(capability.0 as i32)?;
        minor.put(capability.1 as i32)
    })
}

/// CUdevprop.
#[repr(C)]
pub struct Properties {
    threads_per_block: i32,
    block: [i32; 3],
    grid: [i32; 3],
    shared_per_block: i32,
    constant: i32,
    warp: i32,
    pitch: i32,
    registers: i32,
    clock: i32,
    texture_align: i32,
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetProperties(properties: Out<Properties>, ordinal: i32) -> u32 {
    call("cuDeviceGetProperties", || {
        let driver = device(ordinal)?;
        properties.put(Properties {
            threads_per_block: THREADS_PER_BLOCK as i32,
            block: MAX_BLOCK.map(|n| n as i32),
            grid: MAX_GRID.map(|n| n as i32),
            shared_per_block: SHARED_PER_BLOCK as i32,
            constant: 64 * 1024,
            warp: WARP as i32,
            pitch: i32::MAX,
            registers: REGISTERS as i32,
            clock: driver.limits.clock as i32,
            texture_align: 512,
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, ordinal: i32) -> u32 {
    call("cuDeviceGetPCIBusId", || {
        device(ordinal)?;
        id.put_text(PCI, usize::try_from(room).map_err(|_| Error::InvalidValue)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetByPCIBusId(out: Out<i32>, id: Text) -> u32 {
    call("cuDeviceGetByPCIBusId", || {
        driver()?;
        if PCI.eq_ignore_ascii_case(&id.get()?) || PCI[5..].eq_ignore_ascii_case(&id.get()?) {
            out.put(0)
        } else {
            Err(Error::InvalidDevice)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, ordinal: i32, peer: i32) -> u32 {
    call("cuDeviceCanAccessPeer", || {
        device(ordinal)?;
        device(peer)?;
        can.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetP2PAttribute(
    _value: Out<i32>,
    _code: i32,
    _first: i32,
    _second: i32,
) -> u32 {
    call("cuDeviceGetP2PAttribute", || Err(Error::InvalidDevice))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetExecAffinitySupport(can: Out<i32>, _kind: i32, ordinal: i32) -> u32 {
    call("cuDeviceGetExecAffinitySupport", || {
        device(ordinal)?;
        can.put(0)
    })
}

/// Profilers have nothing to see here: starting and stopping them is nothing.
#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> u32 {
    call("cuProfilerStart", || super::state::current().map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> u32 {
    call("cuProfilerStop", || super::state::current().map(drop))
}
