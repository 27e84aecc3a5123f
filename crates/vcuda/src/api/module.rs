//! Modules, libraries and the linker.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if, text};
use crate::image::{Log, ptx_of};
use crate::made::Id;
use crate::object::{Library, Link};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};

/// An image in a file; text gets the NUL that ends it.
fn read_file(path: *const c_char) -> Answer<Vec<u8>> {
    let mut bytes = std::fs::read(text(path)?).map_err(|_| Code::FILE_NOT_FOUND)?;
    bytes.push(0);
    // A fatbin's header tells a length, which has to be there.
    bytes.resize(bytes.len().max(64), 0);
    Ok(bytes)
}

fn load(d: &mut Driver, out: *mut Id, image: *const u8, log: Log) -> Answer {
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: by the API an image is whole, and text ends with NUL.
    let image = unsafe { ptx_of(image) }?;
    let ptx = image.text_for(d.devices[d.current_device()?].spec.capability)?;
    let module = d.load(&ptx, log, None)?;
    put(out, module)
}

fn no_log() -> Answer<Log> {
    Log::new(0, std::ptr::null(), std::ptr::null_mut())
}

fn variable(d: &Driver, address: *mut u64, bytes: *mut usize, module: Id, name: *const c_char) -> Answer {
    let module = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
    let (at, size) = *module.variables.get(text(name)?).ok_or(Code::NOT_FOUND)?;
    put_if(address, at);
    put_if(bytes, size);
    Ok(())
}

fn new_library(
    d: &mut Driver,
    out: *mut Id,
    image: *const u8,
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
) -> Answer {
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let log = Log::new(count, options, values)?;
    // SAFETY: as in `load`.
    let image = unsafe { ptx_of(image) }?;
    if let Err(error) = ptx_vm::Module::parse("library.ptx", &image.newest()?) {
        log.write("", &format!("ptxas fatal   : {error}"));
        return Err(Code::INVALID_PTX);
    }
    let (id, made) = (d.id(), d.made());
    let library = Library { image, modules: HashMap::new(), kernels: HashMap::new(), made };
    d.libraries.insert(id, library);
    put(out, id)
}

fn library_kernel(d: &mut Driver, library: Id, name: &str) -> Answer<Id> {
    let known = d.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
    if let Some(kernel) = known.kernels.get(name) {
        return Ok(*kernel);
    }
    let source = ptx_vm::Module::parse("library.ptx", &known.image.newest()?).map_err(|_| Code::INVALID_PTX)?;
    if !source.entries().any(|entry| entry == name) {
        return Err(Code::NOT_FOUND);
    }
    let id = d.id();
    d.kernels.insert(id, (library, CString::new(name).map_err(|_| Code::INVALID_VALUE)?));
    if let Some(library) = d.libraries.get_mut(&library) {
        library.kernels.insert(name.to_owned(), id);
    }
    Ok(id)
}

fn names_of(d: &Driver, library: Id) -> Answer<Vec<String>> {
    let known = d.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
    let source = ptx_vm::Module::parse("library.ptx", &known.image.newest()?).map_err(|_| Code::INVALID_PTX)?;
    Ok(source.entries().map(str::to_owned).collect())
}

api! {
    Unsafe fn cuModuleLoad(d, out: *mut Id, path: *const c_char) {
        let bytes = read_file(path)?;
        load(d, out, bytes.as_ptr(), no_log()?)
    }
    Unsafe fn cuModuleLoadData(d, out: *mut Id, image: *const u8) {
        load(d, out, image, no_log()?)
    }
    Unsafe fn cuModuleLoadDataEx(
        d,
        out: *mut Id,
        image: *const u8,
        count: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) {
        load(d, out, image, Log::new(count, options, values)?)
    }
    Unsafe fn cuModuleLoadFatBinary(d, out: *mut Id, image: *const u8) {
        load(d, out, image, no_log()?)
    }
    Unsafe fn cuModuleUnload(d, module: Id) {
        let known = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if known.library.is_some() {
            return Err(Code::NOT_PERMITTED);
        }
        // As with memory of the device: drivers wait, and programs rely on it.
        let context = known.context;
        d.drain(context)?;
        d.unload(module);
        Ok(())
    }
    Context fn cuModuleGetFunction(d, out: *mut Id, module: Id, name: *const c_char) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let function = d.function(module, text(name)?)?;
        put(out, function)
    }
    Context fn cuModuleGetFunctionCount(d, count: *mut u32, module: Id) {
        put(count, d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.source.entries().count() as u32)
    }
    Context fn cuModuleEnumerateFunctions(d, out: *mut Id, count: u32, module: Id) {
        let source = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.source.clone();
        for (i, name) in source.entries().take(count as usize).enumerate() {
            let function = d.function(module, name)?;
            put(out.wrapping_add(i), function)?;
        }
        Ok(())
    }
    Context fn cuModuleGetGlobal_v2(d, address: *mut u64, bytes: *mut usize, module: Id, name: *const c_char) {
        variable(d, address, bytes, module, name)
    }
    Context fn cuModuleGetLoadingMode(d, mode: *mut u32) {
        // Eager.
        put(mode, 1)
    }
    Context fn cuModuleGetTexRef(d, out: *mut Id, module: Id, name: *const c_char) {
        let _ = (out, module, name);
        Err(Code::NOT_FOUND)
    }
    Context fn cuModuleGetSurfRef(d, out: *mut Id, module: Id, name: *const c_char) {
        let _ = (out, module, name);
        Err(Code::NOT_FOUND)
    }

    Init fn cuLibraryLoadData(
        d,
        out: *mut Id,
        image: *const u8,
        options: *const u32,
        values: *mut *mut c_void,
        count: u32,
        library_options: *const u32,
        library_values: *mut *mut c_void,
        library_count: u32,
    ) {
        // They say that variables are shared by contexts, and that the image stays: nothing that changes what happens here.
        let _ = (library_options, library_values, library_count);
        new_library(d, out, image, count, options, values)
    }
    Init fn cuLibraryLoadFromFile(
        d,
        out: *mut Id,
        path: *const c_char,
        options: *const u32,
        values: *mut *mut c_void,
        count: u32,
        library_options: *const u32,
        library_values: *mut *mut c_void,
        library_count: u32,
    ) {
        let _ = (library_options, library_values, library_count);
        let bytes = read_file(path)?;
        new_library(d, out, bytes.as_ptr(), count, options, values)
    }
    Init fn cuLibraryUnload(d, library: Id) {
        let known = d.libraries.remove(&library).ok_or(Code::INVALID_HANDLE)?;
        for (context, module) in known.modules {
            let _ = d.drain(context);
            d.unload(module);
        }
        d.kernels.retain(|_, (of, _)| *of != library);
        Ok(())
    }
    Init fn cuLibraryGetKernel(d, out: *mut Id, library: Id, name: *const c_char) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let kernel = library_kernel(d, library, text(name)?)?;
        put(out, kernel)
    }
    Init fn cuLibraryGetKernelCount(d, count: *mut u32, library: Id) {
        put(count, names_of(d, library)?.len() as u32)
    }
    Init fn cuLibraryEnumerateKernels(d, out: *mut Id, count: u32, library: Id) {
        for (i, name) in names_of(d, library)?.iter().take(count as usize).enumerate() {
            let kernel = library_kernel(d, library, name)?;
            put(out.wrapping_add(i), kernel)?;
        }
        Ok(())
    }
    Context fn cuLibraryGetModule(d, out: *mut Id, library: Id) {
        let module = d.library_module(library)?;
        put(out, module)
    }
    Context fn cuLibraryGetGlobal(d, address: *mut u64, bytes: *mut usize, library: Id, name: *const c_char) {
        let module = d.library_module(library)?;
        variable(d, address, bytes, module, name)
    }
    Init fn cuKernelGetLibrary(d, out: *mut Id, kernel: Id) {
        put(out, d.kernels.get(&kernel).ok_or(Code::INVALID_HANDLE)?.0)
    }
    Context fn cuKernelGetFunction(d, out: *mut Id, kernel: Id) {
        if !d.kernels.contains_key(&kernel) {
            return Err(Code::INVALID_HANDLE);
        }
        let function = d.launchable(kernel)?;
        put(out, function)
    }

    Context fn cuLinkCreate_v2(d, count: u32, options: *const u32, values: *mut *mut c_void, out: *mut Id) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let log = Log::new(count, options, values)?;
        let (id, made) = (d.id(), d.made());
        d.links.insert(id, Link { parts: vec![], made_image: None, log, made });
        put(out, id)
    }
    Context fn cuLinkAddData_v2(
        d,
        link: Id,
        kind: u32,
        data: *const u8,
        bytes: usize,
        name: *const c_char,
        count: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) {
        let _ = (name, count, options, values);
        let mut image = crate::api::list(data, bytes)?;
        add_part(d, link, kind, &mut image)
    }
    Context fn cuLinkAddFile_v2(
        d,
        link: Id,
        kind: u32,
        path: *const c_char,
        count: u32,
        options: *const u32,
        values: *mut *mut c_void,
    ) {
        let _ = (count, options, values);
        let mut image = read_file(path)?;
        add_part(d, link, kind, &mut image)
    }
    Context fn cuLinkComplete(d, link: Id, image: *mut *mut c_void, bytes: *mut usize) {
        let (at, size) = d.link(link)?;
        put(image, at)?;
        put_if(bytes, size);
        Ok(())
    }
    Context fn cuLinkDestroy(d, link: Id) {
        d.links.remove(&link).map(drop).ok_or(Code::INVALID_HANDLE)
    }
}

fn add_part(d: &mut Driver, link: Id, kind: u32, image: &mut Vec<u8>) -> Answer {
    const FATBIN: u32 = 2;
    const PTX: u32 = 1;
    image.push(0);
    image.resize(image.len().max(64), 0);
    let capability = d.devices[d.current_device()?].spec.capability;
    let part = match kind {
        // SAFETY: NUL-terminated or a fatbin, whole; the buffer lives during the call.
        PTX | FATBIN => unsafe { ptx_of(image.as_ptr()) }?.text_for(capability)?.to_string(),
        // Objects, libraries and machine code hold nothing that a virtual GPU runs.
        _ => return Err(Code::NO_BINARY_FOR_GPU),
    };
    let link = d.links.get_mut(&link).ok_or(Code::INVALID_HANDLE)?;
    if let Err(error) = ptx_vm::Module::parse("part.ptx", &part) {
        link.log.write("", &format!("ptxas fatal   : {error}"));
        return Err(Code::INVALID_PTX);
    }
    link.parts.push(part);
    Ok(())
}
