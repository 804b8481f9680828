//! What a pointer points to: cuPointerGetAttribute.

use super::abi::{In, Out, call};
use super::allocation::{Allocation, Origin};
use super::error::{Error, Result};
use super::state::{Driver, current};

/// An attribute's value: their sizes differ.
enum Value {
    Byte(bool),
    Word(u32),
    Long(u64),
}

/// The values of one pointer; an unknown attribute is `InvalidValue`, one that does not apply is too.
fn attribute(driver: &Driver, code: u32, address: u64) -> Result<Value> {
    let found = driver.allocations.at(address, |found| of_allocation(code, address, found));
    if let Some(value) = found {
        return value;
    }
    // A module's variable.
    let (base, len) = driver.gpu.memory().range_of(address).ok_or(Error::InvalidValue)?;
    Ok(match code {
        2 => Value::Word(2),
        3 => Value::Long(address),
        8 | 10 => Value::Byte(false),
        9 => Value::Word(0),
        11 => Value::Long(base),
        12 => Value::Long(len),
        13 => Value::Byte(true),
        _ => return Err(Error::InvalidValue),
    })
}

fn of_allocation(code: u32, address: u64, found: &Allocation) -> Result<Value> {
    let on_host = matches!(found.origin, Origin::Pinned(..) | Origin::Registered(_));
    let managed = matches!(found.origin, Origin::Managed);
    Ok(match code {
        1 => Value::Long(found.context as u64),
        // CU_MEMORYTYPE_HOST and _DEVICE; managed memory says DEVICE.
        2 => Value::Word(if on_host { 1 } else { 2 }),
        3 => Value::Long(address),
        4 if on_host || managed => Value::Long(address),
        6 => Value::Byte(false),
        7 => Value::Long(found.id),
        8 => Value::Byte(managed),
        // The device's number.
        9 => Value::Word(0),
        // Not to be shared between processes.
        10 => Value::Byte(false),
        11 => Value::Long(found.base),
        12 => Value::Long(found.bytes),
        13 => Value::Byte(true),
        14 => Value::Long(0),
        15 => Value::Byte(false),
        // CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE.
        16 => Value::Word(3),
        17 => match found.origin {
            Origin::Pool(pool) => Value::Long(pool as u64),
            _ => Value::Long(0),
        },
        18 => Value::Long(found.bytes),
        19 => Value::Long(found.base),
        20 => Value::Long(found.id),
        _ => return Err(Error::InvalidValue),
    })
}

/// A place for a value, whose type the attribute says.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Place(*mut u64);

impl Place {
    fn put(self, value: Value) -> Result {
        match value {
            Value::Byte(value) => place::<u8>(self).put(u8::from(value)),
            Value::Word(value) => place::<u32>(self).put(value),
            Value::Long(value) => place::<u64>(self).put(value),
        }
    }
}

fn place<T>(place: Place) -> Out<T> {
    Out::from_pointer(place.0.cast())
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(data: Place, code: u32, address: u64) -> u32 {
    call("cuPointerGetAttribute", || data.put(attribute(current()?.0, code, address)?))
}

/// Unlike the single call it gives zeros for what is not known to the driver.
#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttributes(
    count: u32,
    codes: In<u32>,
    data: In<Place>,
    address: u64,
) -> u32 {
    call("cuPointerGetAttributes", || {
        let (driver, _) = current()?;
        let codes = codes.many(count as usize)?;
        for (code, place) in codes.into_iter().zip(data.many(count as usize)?) {
            let zero = match code {
                6 | 8 | 10 | 13 | 15 => Value::Byte(false),
                2 | 16 => Value::Word(0),
                // No device.
                9 => Value::Word(u32::MAX - 1),
                1..=20 => Value::Long(0),
                _ => return Err(Error::InvalidValue),
            };
            place.put(attribute(driver, code, address).unwrap_or(zero))?;
        }
        Ok(())
    })
}

/// CU_POINTER_ATTRIBUTE_SYNC_MEMOPS is the only one to set, and all work is synchronous here.
#[unsafe(no_mangle)]
extern "C" fn cuPointerSetAttribute(value: In<u32>, code: u32, address: u64) -> u32 {
    call("cuPointerSetAttribute", || {
        let (driver, _) = current()?;
        value.get()?;
        if code != 6 || driver.allocations.at(address, |_| ()).is_none() {
            return Err(Error::InvalidValue);
        }
        Ok(())
    })
}
