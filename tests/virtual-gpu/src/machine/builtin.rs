//! Functions that kernels call and the driver provides: vprintf and __assertfail.

use std::ffi::{CString, c_char};
use std::io::Write;

use super::control::Call;
use super::program::LOCAL_WINDOW;
use super::registers::lanes;
use super::{Exec, Fault};
use crate::watch::Kind;

/// A text longer than this has no end.
const MAX_TEXT: usize = 1 << 16;

/// `vprintf(format, arguments)`: every lane prints in turn; the result is the number of arguments, as on
/// a GPU. What is printed goes to standard output at once.
pub fn vprintf(call: &Call, exec: &mut Exec) -> Result<(), Fault> {
    let mut out = Vec::new();
    for lane in lanes(exec.mask) {
        let text = |address| {
            text(exec, lane, address).ok_or_else(|| Fault {
                kind: Kind::OutOfBounds,
                lane,
                detail: format!("printf: no text at {address:#x}"),
            })
        };
        let [format, arguments] = [0, 1].map(|i| parameter(call, exec, lane, i));
        let format = text(format)?;
        let mut arguments = Arguments { exec, lane, at: arguments };
        let count = print(&format, &mut arguments, &text, &mut out)?;
        if let Some((at, 4)) = call.returns.first() {
            let at = exec.warp.local_base + at;
            if let Some(bytes) = exec.warp.local.get_mut(lane, at, 4) {
                bytes.copy_from_slice(&count.to_le_bytes());
            }
        }
    }
    // A reader that has gone away is no fault of the kernel.
    let _ = std::io::stdout().lock().write_all(&out);
    Ok(())
}

/// `__assertfail(message, file, line, function, char size)`.
pub fn assert_fail(call: &Call, exec: &Exec) -> Fault {
    let lane = exec.mask.trailing_zeros() as usize;
    let part = |i| text(exec, lane, parameter(call, exec, lane, i)).unwrap_or_default();
    let part = |i| String::from_utf8_lossy(&part(i)).into_owned();
    let line = parameter(call, exec, lane, 2) as u32;
    let detail = format!("{}:{line}: {}: assertion `{}` failed", part(1), part(3), part(0));
    Fault { kind: Kind::Assert, lane, detail }
}

/// A parameter of up to 8 bytes, zero-extended; 0 where the call has no such one.
fn parameter(call: &Call, exec: &Exec, lane: usize, index: usize) -> u64 {
    let Some((at, bytes)) = call.params.get(index) else { return 0 };
    local(exec, lane, exec.warp.local_base + at, (*bytes).min(8)).unwrap_or(0)
}

fn local(exec: &Exec, lane: usize, at: u32, bytes: u32) -> Option<u64> {
    let mut value = [0; 8];
    value[..bytes as usize].copy_from_slice(exec.warp.local.get(lane, at, bytes)?);
    Some(u64::from_le_bytes(value))
}

/// The text at a generic address, without its NUL.
fn text(exec: &Exec, lane: usize, address: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    while text.len() < MAX_TEXT {
        let at = address.checked_add(text.len() as u64)?;
        let byte = match at.checked_sub(LOCAL_WINDOW).map(u32::try_from) {
            Some(Ok(at)) => exec.warp.local.get(lane, at, 1)?[0],
            _ => {
                let mut byte = [0];
                exec.grid.memory.read(at, &mut byte).ok()?;
                byte[0]
            }
        };
        if byte == 0 {
            return Some(text);
        }
        text.push(byte);
    }
    None
}

/// The argument buffer of a lane: every argument aligned to its size.
struct Arguments<'a, 'b> {
    exec: &'a Exec<'b>,
    lane: usize,
    at: u64,
}

impl Arguments<'_, '_> {
    fn next(&mut self, bytes: u64) -> Result<u64, Fault> {
        // Any number may have been passed for the address.
        self.at = self.at.wrapping_add(bytes - 1) & !(bytes - 1);
        let at = self.at.wrapping_sub(LOCAL_WINDOW);
        self.at = self.at.wrapping_add(bytes);
        u32::try_from(at)
            .ok()
            .and_then(|at| local(self.exec, self.lane, at, bytes as u32))
            .ok_or_else(|| Fault {
                kind: Kind::OutOfBounds,
                lane: self.lane,
                detail: format!("printf: no argument at {:#x}", self.at.wrapping_sub(bytes)),
            })
    }
}

/// Prints, and gives the number of arguments used.
fn print(
    format: &[u8],
    arguments: &mut Arguments,
    text: &dyn Fn(u64) -> Result<Vec<u8>, Fault>,
    out: &mut Vec<u8>,
) -> Result<u32, Fault> {
    let (mut i, mut count) = (0, 0);
    while i < format.len() {
        if format[i] != b'%' {
            out.push(format[i]);
            i += 1;
            continue;
        }
        // %[flags][width][.precision][size]conversion, `*` taking an argument.
        let mut spec = vec![b'%'];
        let (mut long, mut end) = (false, i + 1);
        while let Some(byte) = format.get(end).filter(|byte| b"-+ #0123456789.*".contains(byte)) {
            if *byte == b'*' {
                spec.extend((arguments.next(4)? as i32).to_string().bytes());
                count += 1;
            } else {
                spec.push(*byte);
            }
            end += 1;
        }
        while let Some(size) = format.get(end).filter(|byte| b"hljzt".contains(byte)) {
            long |= b"ljzt".contains(size);
            end += 1;
        }
        let Some(conversion) = format.get(end).copied() else {
            out.extend(&format[i..]);
            break;
        };
        count += u32::from(conversion != b'%');
        match conversion {
            b'%' => out.push(b'%'),
            b'd' | b'i' | b'u' | b'o' | b'x' | b'X' => {
                let value = arguments.next(if long { 8 } else { 4 })?;
                let value = if long || !b"di".contains(&conversion) {
                    value
                } else {
                    i64::from(value as i32) as u64
                };
                spec.extend([b'l', b'l', conversion]);
                c_format(spec, Value::Integer(value), out);
            }
            b'c' => {
                spec.push(b'c');
                c_format(spec, Value::Char(arguments.next(4)? as i32), out);
            }
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
                spec.push(conversion);
                c_format(spec, Value::Float(f64::from_bits(arguments.next(8)?)), out);
            }
            b'p' => out.extend(format!("{:#x}", arguments.next(8)?).bytes()),
            b's' => out.extend(text(arguments.next(8)?)?),
            other => out.extend([b'%', other]),
        }
        i = end + 1;
    }
    Ok(count)
}

enum Value {
    Integer(u64),
    Char(i32),
    Float(f64),
}

/// One conversion, done by the C library, whose rules are the ones wanted.
fn c_format(spec: Vec<u8>, value: Value, out: &mut Vec<u8>) {
    let Ok(spec) = CString::new(spec) else { return };
    let mut buffer = [0u8; 512];
    let (to, size) = (buffer.as_mut_ptr().cast::<c_char>(), buffer.len());
    // SAFETY: the buffer has `size` bytes, and spec holds one conversion of the type that is passed.
    let written = unsafe {
        match value {
            Value::Integer(value) => libc::snprintf(to, size, spec.as_ptr(), value),
            Value::Char(value) => libc::snprintf(to, size, spec.as_ptr(), value),
            Value::Float(value) => libc::snprintf(to, size, spec.as_ptr(), value),
        }
    };
    out.extend(&buffer[..(written.max(0) as usize).min(size - 1)]);
}
