//! Libraries: modules that belong to no context.

use super::abi::{Host, In, Out, Text, call};
use super::error::{Error, Result};
use super::image::{self, JitOptions};
use super::module::{LoadedModule, global, load};
use super::state::driver;

fn load_into(out: Out<usize>, image: image::Bytes, jit: &JitOptions) -> Result {
    let driver = driver()?;
    out.check()?;
    let module = load(driver, image, jit)?;
    jit.tell_nothing();
    // No context has the handle 0, so none takes it along at its end.
    out.put(driver.libraries.insert(LoadedModule::new(0, module)))
}

/// The library's own options say how its code is kept in memory, which it is not.
#[unsafe(no_mangle)]
extern "C" fn cuLibraryLoadData(
    out: Out<usize>,
    image: Host,
    options: In<u32>,
    values: Out<Host>,
    count: u32,
    _library_options: Host,
    _library_values: Host,
    _library_count: u32,
) -> u32 {
    call("cuLibraryLoadData", || {
        let jit = JitOptions::new(count, options, values)?;
        load_into(out, image::Bytes::at(image)?, &jit)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryLoadFromFile(
    out: Out<usize>,
    path: Text,
    options: In<u32>,
    values: Out<Host>,
    count: u32,
    _library_options: Host,
    _library_values: Host,
    _library_count: u32,
) -> u32 {
    call("cuLibraryLoadFromFile", || {
        let jit = JitOptions::new(count, options, values)?;
        load_into(out, image::Bytes::in_file(&path.get()?)?, &jit)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryUnload(library: usize) -> u32 {
    call("cuLibraryUnload", || {
        let driver = driver()?;
        driver.libraries.remove(library)?;
        driver.functions.retain(|_, function| function.module != library);
        driver.modules.retain(|_, module| module.library != library);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetKernel(out: Out<usize>, library: usize, name: Text) -> u32 {
    call("cuLibraryGetKernel", || {
        let driver = driver()?;
        let loaded = driver.libraries.get(library)?;
        out.put(loaded.function(driver, library, &name.get()?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetKernelCount(count: Out<u32>, library: usize) -> u32 {
    call("cuLibraryGetKernelCount", || {
        count.put(driver()?.libraries.get(library)?.module.kernel_names().len() as u32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryEnumerateKernels(out: Out<usize>, count: u32, library: usize) -> u32 {
    call("cuLibraryEnumerateKernels", || {
        let driver = driver()?;
        let loaded = driver.libraries.get(library)?;
        let names = loaded.module.kernel_names().into_iter().take(count as usize);
        let handles: Result<Vec<usize>> =
            names.map(|name| loaded.function(driver, library, name)).collect();
        out.put_all(handles?)
    })
}

/// The module of a library in the current context: the same code and the same variables.
#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetModule(out: Out<usize>, library: usize) -> u32 {
    call("cuLibraryGetModule", || {
        let (driver, _) = super::state::current()?;
        let loaded = driver.libraries.get(library)?;
        if let Some((handle, _)) = driver.modules.find(|module| module.library == library) {
            return out.put(handle);
        }
        let mut module = LoadedModule::new(0, loaded.module.clone());
        module.library = library;
        out.put(driver.modules.insert(module))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetGlobal(
    address: Out<u64>,
    bytes: Out<usize>,
    library: usize,
    name: Text,
) -> u32 {
    call("cuLibraryGetGlobal", || {
        global(&driver()?.libraries.get(library)?.module, address, bytes, name)
    })
}

/// A kernel's handle is a function's.
#[unsafe(no_mangle)]
extern "C" fn cuKernelGetFunction(out: Out<usize>, kernel: usize) -> u32 {
    call("cuKernelGetFunction", || {
        super::state::current()?.0.functions.get(kernel)?;
        out.put(kernel)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetLibrary(out: Out<usize>, kernel: usize) -> u32 {
    call("cuKernelGetLibrary", || {
        let driver = driver()?;
        let module = driver.functions.get(kernel)?.module;
        driver.libraries.get(module).map_err(|_| Error::InvalidHandle)?;
        out.put(module)
    })
}
