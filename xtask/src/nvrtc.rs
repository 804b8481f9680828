//! libnvrtc, loaded at run time: CUDA C++ text to PTX text.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::{null, null_mut};

use libloading::Library;

use crate::cuda::Source;
use crate::error::Error;

/// `nvrtcProgram`, an opaque pointer.
type Program = *mut std::ffi::c_void;
/// `nvrtcResult`; 0 is success.
type Status = c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
type Say = unsafe extern "C" fn(Status) -> *const c_char;

/// The functions of the library that are used (NVRTC documentation, section 3).
pub(crate) struct Nvrtc {
    create: Create,
    compile: Compile,
    ptx_size: Size,
    ptx: Get,
    log_size: Size,
    log: Get,
    destroy: Destroy,
    say: Say,
    // The functions above are valid while the library is loaded.
    _library: Library,
}

impl Nvrtc {
    pub(crate) fn load(path: &Path) -> Result<Nvrtc, Error> {
        let load = |source| Error::Load { path: path.into(), source };
        // SAFETY: the file is NVIDIA's library, checked by its hash when it was fetched; its
        // initialisers have no requirements.
        let library = unsafe { Library::new(path) }.map_err(load)?;
        // SAFETY: the types are those that nvrtc.h of this version declares for these names, and
        // the functions are kept only as long as the library (the struct owns both).
        unsafe {
            Ok(Nvrtc {
                create: *library.get(b"nvrtcCreateProgram\0").map_err(load)?,
                compile: *library.get(b"nvrtcCompileProgram\0").map_err(load)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0").map_err(load)?,
                ptx: *library.get(b"nvrtcGetPTX\0").map_err(load)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0").map_err(load)?,
                log: *library.get(b"nvrtcGetProgramLog\0").map_err(load)?,
                destroy: *library.get(b"nvrtcDestroyProgram\0").map_err(load)?,
                say: *library.get(b"nvrtcGetErrorString\0").map_err(load)?,
                _library: library,
            })
        }
    }

    /// Compiles with exactly these options.
    pub(crate) fn compile(&self, source: &Source, options: &[String]) -> Result<String, Error> {
        let c = |text: &str, part| {
            CString::new(text).map_err(|_| Error::Null { name: source.name.into(), part })
        };
        let name = c(source.name, "name")?;
        let text = c(source.text, "text")?;
        let headers = source
            .headers
            .iter()
            .map(|(name, text)| Ok((c(name, "header's name")?, c(text, "header")?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let header_names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let header_texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let options =
            options.iter().map(|option| c(option, "options")).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = Open { nvrtc: self, program: null_mut() };
        // SAFETY: every pointer is to a null-terminated string that outlives the call, the two
        // arrays have as many elements as their count says; NVRTC copies what it keeps.
        let status = unsafe {
            (self.create)(
                &mut program.program,
                text.as_ptr(),
                name.as_ptr(),
                header_names.len() as c_int,
                if headers.is_empty() { null() } else { header_texts.as_ptr() },
                if headers.is_empty() { null() } else { header_names.as_ptr() },
            )
        };
        self.check(status, source, String::new)?;
        // SAFETY: the program is open, the options are null-terminated strings that live here.
        let status =
            unsafe { (self.compile)(program.program, options.len() as c_int, options.as_ptr()) };
        self.check(status, source, || program.text(self.log_size, self.log))?;
        Ok(program.text(self.ptx_size, self.ptx))
    }

    fn check(
        &self,
        status: Status,
        source: &Source,
        log: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: nvrtcGetErrorString takes any number and returns a static string.
        let said = unsafe { CStr::from_ptr((self.say)(status)) };
        let said = said.to_string_lossy().into_owned();
        Err(Error::Compile { name: source.name.into(), said, log: log() })
    }
}

/// A program that is destroyed when it goes out of scope.
struct Open<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Open<'_> {
    /// The PTX or the log; empty if NVRTC has none.
    fn text(&self, size: Size, get: Get) -> String {
        let mut bytes = 0;
        // SAFETY: the program is open, the size is written to a local.
        if unsafe { size(self.program, &mut bytes) } != 0 || bytes == 0 {
            return String::new();
        }
        let mut text = vec![0u8; bytes];
        // SAFETY: the buffer has the size that was asked for, terminator included.
        if unsafe { get(self.program, text.as_mut_ptr().cast()) } != 0 {
            return String::new();
        }
        text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(bytes));
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: the program was created and is destroyed once.
            unsafe { (self.nvrtc.destroy)(&mut self.program) };
        }
    }
}
