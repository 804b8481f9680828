//! Copies: between host and device, within either, flat, of rows and of slices.

use super::abi::{Host, In, call};
use super::error::{Error, Result};
use super::memory::refused;
use super::state::{Driver, working};
use super::stream::stream;
use super::work::{Work, submit, submit_and_wait};

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Host(Host),
    Device(u64),
    /// The address says it: what is no device memory is the host's.
    Either(u64),
}

impl Side {
    fn offset(self, bytes: u64) -> Side {
        match self {
            Side::Host(host) => Side::Host(host.offset(bytes)),
            Side::Device(address) => Side::Device(address.wrapping_add(bytes)),
            Side::Either(address) => Side::Either(address.wrapping_add(bytes)),
        }
    }

    fn known(self, driver: &Driver) -> Side {
        match self {
            Side::Either(address) if driver.gpu.memory().range_of(address).is_some() => {
                Side::Device(address)
            }
            // Beyond what a process of the host can have: a stray device address, to be refused as such.
            Side::Either(address) if address >> 47 != 0 => Side::Device(address),
            Side::Either(address) => Side::Host(Host::at(address)),
            known => known,
        }
    }
}

/// Rows at a distance of each other, and slices of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    pub side: Side,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from slice to slice.
    pub slice: u64,
}

/// `slices` of `rows` of `width` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Copy {
    pub to: Layout,
    pub from: Layout,
    pub width: u64,
    pub rows: u64,
    pub slices: u64,
}

/// A plain run of bytes.
pub fn flat(to: Side, from: Side, bytes: usize) -> Copy {
    let layout = |side| Layout { side, pitch: 0, slice: 0 };
    Copy { to: layout(to), from: layout(from), width: bytes as u64, rows: 1, slices: 1 }
}

impl Copy {
    /// # Errors
    /// `InvalidValue` where the bytes are in no allocation; a line on stderr says which.
    pub fn run(&self, driver: &Driver) -> Result {
        if self.width == 0 {
            return Ok(());
        }
        let (to, from) = (self.to.side.known(driver), self.from.side.known(driver));
        for slice in 0..self.slices {
            for row in 0..self.rows {
                let at = |layout: &Layout| {
                    let rows = row.wrapping_mul(layout.pitch);
                    slice.wrapping_mul(layout.slice).wrapping_add(rows)
                };
                let (to, from) = (to.offset(at(&self.to)), from.offset(at(&self.from)));
                copy_row(driver, to, from, self.width)?;
            }
        }
        Ok(())
    }
}

fn copy_row(driver: &Driver, to: Side, from: Side, bytes: u64) -> Result {
    let memory = driver.gpu.memory();
    let told = |wrong| refused("memcpy", &wrong);
    match (to, from) {
        (Side::Device(to), Side::Host(from)) => memory.write(to, from.bytes(bytes)?).map_err(told),
        (Side::Host(to), Side::Device(from)) => {
            memory.read(from, to.bytes_mut(bytes)?).map_err(told)
        }
        (Side::Device(to), Side::Device(from)) => memory.copy(to, from, bytes).map_err(told),
        (Side::Host(to), Side::Host(from)) => to.copy_from(from, bytes),
        _ => Err(Error::InvalidValue),
    }
}

fn now(copy: Copy) -> Result {
    submit_and_wait(Work::Copy(copy))
}

fn later(handle: usize, copy: Copy) -> Result {
    submit(&stream(handle)?, Work::Copy(copy))
}

use Side::{Device, Either};

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> u32 {
    call("cuMemcpy", || now(flat(Either(to), Either(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) -> u32 {
    call("cuMemcpyAsync", || later(stream, flat(Either(to), Either(from), bytes)))
}

/// Both contexts are of the one device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyPeer(
    to: u64,
    to_context: usize,
    from: u64,
    from_context: usize,
    bytes: usize,
) -> u32 {
    call("cuMemcpyPeer", || {
        check_contexts(to_context, from_context)?;
        now(flat(Device(to), Device(from), bytes))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: usize,
    from: u64,
    from_context: usize,
    bytes: usize,
    stream: usize,
) -> u32 {
    call("cuMemcpyPeerAsync", || {
        check_contexts(to_context, from_context)?;
        later(stream, flat(Device(to), Device(from), bytes))
    })
}

fn check_contexts(to: usize, from: usize) -> Result {
    let (driver, _) = working()?;
    for context in [to, from] {
        driver.contexts.get(context).map_err(|_| Error::InvalidContext)?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) -> u32 {
    call("cuMemcpyHtoD_v2", || now(flat(Device(to), Side::Host(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: Host,
    bytes: usize,
    stream: usize,
) -> u32 {
    call("cuMemcpyHtoDAsync_v2", || later(stream, flat(Device(to), Side::Host(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) -> u32 {
    call("cuMemcpyDtoH_v2", || now(flat(Side::Host(to), Device(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoHAsync_v2(
    to: Host,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    call("cuMemcpyDtoHAsync_v2", || later(stream, flat(Side::Host(to), Device(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    call("cuMemcpyDtoD_v2", || now(flat(Device(to), Device(from), bytes)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    call("cuMemcpyDtoDAsync_v2", || later(stream, flat(Device(to), Device(from), bytes)))
}

/// One side of CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Side2D {
    x: usize,
    y: usize,
    kind: u32,
    host: Host,
    device: u64,
    array: usize,
    pitch: usize,
}

/// CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy2D {
    from: Side2D,
    to: Side2D,
    width: usize,
    height: usize,
}

/// One side of CUDA_MEMCPY3D; `reserved` is a context in CUDA_MEMCPY3D_PEER.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Side3D {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub level: usize,
    pub kind: u32,
    pub host: Host,
    pub device: u64,
    pub array: usize,
    pub reserved: usize,
    pub pitch: usize,
    pub height: usize,
}

/// CUDA_MEMCPY3D, and CUDA_MEMCPY3D_PEER.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy3D {
    pub from: Side3D,
    pub to: Side3D,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// CU_MEMORYTYPE_HOST, _DEVICE, _ARRAY, _UNIFIED.
fn side(kind: u32, host: Host, device: u64) -> Result<Side> {
    match kind {
        1 => Ok(Side::Host(host)),
        2 => Ok(Device(device)),
        3 => Err(Error::NotSupported),
        4 => Ok(Either(device)),
        _ => Err(Error::InvalidValue),
    }
}

impl Copy3D {
    /// # Errors
    /// `NotSupported` for arrays, `InvalidValue` for rows wider than their pitch.
    pub fn resolve(&self) -> Result<Copy> {
        let layout = |at: &Side3D| {
            let pitch = if at.pitch == 0 { self.width } else { at.pitch };
            let rows = if at.height == 0 { self.height } else { at.height };
            let several = self.height > 1 || self.depth > 1;
            if several && at.x.checked_add(self.width).is_none_or(|end| end > pitch) {
                return Err(Error::InvalidValue);
            }
            let slice = pitch.wrapping_mul(rows);
            let start = at.z.wrapping_mul(slice).wrapping_add(at.y.wrapping_mul(pitch));
            let side = side(at.kind, at.host, at.device)?.offset(start.wrapping_add(at.x) as u64);
            Ok(Layout { side, pitch: pitch as u64, slice: slice as u64 })
        };
        Ok(Copy {
            to: layout(&self.to)?,
            from: layout(&self.from)?,
            width: self.width as u64,
            rows: self.height as u64,
            slices: self.depth as u64,
        })
    }
}

impl Copy2D {
    fn resolve(&self) -> Result<Copy> {
        let side = |at: &Side2D| Side3D {
            x: at.x,
            y: at.y,
            z: 0,
            level: 0,
            kind: at.kind,
            host: at.host,
            device: at.device,
            array: at.array,
            reserved: 0,
            pitch: at.pitch,
            height: 0,
        };
        let (from, to) = (side(&self.from), side(&self.to));
        Copy3D { from, to, width: self.width, height: self.height, depth: 1 }.resolve()
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2D_v2(copy: In<Copy2D>) -> u32 {
    call("cuMemcpy2D_v2", || now(copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2DUnaligned_v2(copy: In<Copy2D>) -> u32 {
    call("cuMemcpy2DUnaligned_v2", || now(copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2DAsync_v2(copy: In<Copy2D>, stream: usize) -> u32 {
    call("cuMemcpy2DAsync_v2", || later(stream, copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy3D_v2(copy: In<Copy3D>) -> u32 {
    call("cuMemcpy3D_v2", || now(copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy3DAsync_v2(copy: In<Copy3D>, stream: usize) -> u32 {
    call("cuMemcpy3DAsync_v2", || later(stream, copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy3DPeer(copy: In<Copy3D>) -> u32 {
    call("cuMemcpy3DPeer", || now(copy.get()?.resolve()?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy3DPeerAsync(copy: In<Copy3D>, stream: usize) -> u32 {
    call("cuMemcpy3DPeerAsync", || later(stream, copy.get()?.resolve()?))
}
