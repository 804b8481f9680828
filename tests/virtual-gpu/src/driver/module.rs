//! Modules and their functions: PTX in, kernels out.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex};

use super::abi::{Host, In, Out, Text, call, tell};
use super::error::{Error, Result};
use super::fatbin;
use super::handle::lock;
use super::image::{self, JitOptions};
use super::limits::{REGISTERS_PER_THREAD, SHARED_PER_BLOCK};
use super::state::{Driver, current, driver, working};
use crate::module::{Kernel, LoadError, Module};

pub struct LoadedModule {
    pub context: usize,
    pub module: Arc<Module>,
    /// The library that it is of, 0 for none.
    pub library: usize,
    /// Handles that were given, so that a name has one.
    functions: Mutex<BTreeMap<String, usize>>,
}

impl LoadedModule {
    pub fn new(context: usize, module: Arc<Module>) -> LoadedModule {
        LoadedModule { context, module, library: 0, functions: Mutex::default() }
    }

    /// The handle of a kernel.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn function(&self, driver: &Driver, handle: usize, name: &str) -> Result<usize> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let kernel = self.module.kernel(name).ok_or(Error::NotFound)?;
        let function = driver.functions.insert(Function::new(self.context, handle, kernel)?);
        functions.insert(name.to_string(), function);
        Ok(function)
    }
}

pub struct Function {
    pub context: usize,
    /// Its module's or library's handle.
    pub module: usize,
    pub kernel: Kernel,
    pub name: CString,
    pub settings: Mutex<Settings>,
}

/// What cuFuncSetAttribute has set.
#[derive(Clone, Copy)]
pub struct Settings {
    /// The most dynamic shared memory that a launch may ask for, in bytes.
    pub dynamic_shared: u32,
    /// Percents, -1 for the driver's choice: kept, without effect.
    pub carveout: i32,
    pub cache_config: u32,
}

impl Function {
    fn new(context: usize, module: usize, kernel: Kernel) -> Result<Function> {
        let name = CString::new(kernel.name()).map_err(|_| Error::InvalidValue)?;
        let dynamic_shared = SHARED_PER_BLOCK.saturating_sub(kernel.static_shared_bytes());
        let settings = Settings { dynamic_shared, carveout: -1, cache_config: 0 };
        Ok(Function { context, module, kernel, name, settings: Mutex::new(settings) })
    }

    /// Registers that a thread takes: PTX has as many as it likes, a compiler would make them fit.
    pub fn registers(&self) -> u32 {
        let most = 65536 / self.kernel.max_threads().max(1);
        self.kernel.registers().clamp(16, REGISTERS_PER_THREAD).min(most.max(16))
    }
}

/// Loads an image for a context.
///
/// # Errors
/// `InvalidImage`, `NoBinaryForGpu`, `InvalidPtx`; the log and stderr say why.
pub fn load(driver: &Driver, image: image::Bytes, jit: &JitOptions) -> Result<Arc<Module>> {
    let text = image.ptx(driver)?;
    let refuse = |error, why: &str| {
        tell("module", why);
        jit.tell_error(why);
        error
    };
    let (major, minor) = driver.options.compute_capability;
    if !fatbin::runs_on(&text, 10 * major + minor) {
        let why =
            format!("the PTX's .target does not run on sm_{major}{minor}: compile it for that");
        return Err(refuse(Error::InvalidPtx, &why));
    }
    driver.gpu.load(&text).map_err(|wrong| match &wrong {
        LoadError::Memory { .. } => refuse(Error::OutOfMemory, &wrong.to_string()),
        _ => refuse(Error::InvalidPtx, &wrong.to_string()),
    })
}

fn load_into(out: Out<usize>, image: image::Bytes, jit: &JitOptions) -> Result {
    let (driver, context) = working()?;
    out.check()?;
    let module = load(driver, image, jit)?;
    jit.tell_nothing();
    out.put(driver.modules.insert(LoadedModule::new(context.handle, module)))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(out: Out<usize>, image: Host) -> u32 {
    call("cuModuleLoadData", || load_into(out, image::Bytes::at(image)?, &JitOptions::default()))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    out: Out<usize>,
    image: Host,
    count: u32,
    options: In<u32>,
    values: Out<Host>,
) -> u32 {
    call("cuModuleLoadDataEx", || {
        let jit = JitOptions::new(count, options, values)?;
        load_into(out, image::Bytes::at(image)?, &jit)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadFatBinary(out: Out<usize>, image: Host) -> u32 {
    call("cuModuleLoadFatBinary", || {
        load_into(out, image::Bytes::at(image)?, &JitOptions::default())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoad(out: Out<usize>, path: Text) -> u32 {
    call("cuModuleLoad", || {
        load_into(out, image::Bytes::in_file(&path.get()?)?, &JitOptions::default())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> u32 {
    call("cuModuleUnload", || {
        let (driver, _) = current()?;
        driver.modules.remove(module)?;
        driver.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

/// CU_MODULE_EAGER_LOADING.
#[unsafe(no_mangle)]
extern "C" fn cuModuleGetLoadingMode(mode: Out<u32>) -> u32 {
    call("cuModuleGetLoadingMode", || mode.put(1))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(out: Out<usize>, module: usize, name: Text) -> u32 {
    call("cuModuleGetFunction", || {
        let (driver, _) = current()?;
        let loaded = driver.modules.get(module)?;
        out.put(loaded.function(driver, module, &name.get()?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunctionCount(count: Out<u32>, module: usize) -> u32 {
    call("cuModuleGetFunctionCount", || {
        count.put(driver()?.modules.get(module)?.module.kernel_names().len() as u32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleEnumerateFunctions(out: Out<usize>, count: u32, module: usize) -> u32 {
    call("cuModuleEnumerateFunctions", || {
        let driver = driver()?;
        let loaded = driver.modules.get(module)?;
        let names = loaded.module.kernel_names().into_iter().take(count as usize);
        let handles: Result<Vec<usize>> =
            names.map(|name| loaded.function(driver, module, name)).collect();
        out.put_all(handles?)
    })
}

/// A variable's address and size; one of the two may be unwanted.
///
/// # Errors
/// `NotFound`; `InvalidValue` if both are unwanted.
pub fn global(module: &Module, address: Out<u64>, bytes: Out<usize>, name: Text) -> Result {
    if address.is_null() && bytes.is_null() {
        return Err(Error::InvalidValue);
    }
    let (at, size) = module.global(&name.get()?).ok_or(Error::NotFound)?;
    address.put_if_wanted(at);
    bytes.put_if_wanted(size as usize);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: usize,
    name: Text,
) -> u32 {
    call("cuModuleGetGlobal_v2", || {
        let (driver, _) = current()?;
        global(&driver.modules.get(module)?.module, address, bytes, name)
    })
}

/// Its name, for cuFuncGetName and cuKernelGetName: good for as long as the function is.
pub fn put_name(out: Out<*const c_char>, function: usize) -> Result {
    out.put(driver()?.functions.get(function)?.name.as_ptr())
}
