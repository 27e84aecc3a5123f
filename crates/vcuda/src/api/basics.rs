//! Initialisation, versions, error names, entry points, the profiler.

use crate::code::{Answer, Code};
use crate::enter::{api, put, put_if, text};
use crate::made::Made;
use crate::symbols::{Found, find};
use std::ffi::{c_char, c_void};

const PER_THREAD_DEFAULT_STREAM: u64 = 2;

/// Versions are those that the driver knows; flags ask for the default streams that are legacy, per thread, or as it is.
fn check(version: i32, flags: u64, driver: u32) -> Answer {
    if version < 0 || version as u32 > driver || flags > PER_THREAD_DEFAULT_STREAM {
        return Err(Code::INVALID_VALUE);
    }
    Ok(())
}

fn proc_address(name: *const c_char, version: i32, flags: u64, driver: u32) -> Result<*mut c_void, u32> {
    const NOT_FOUND: u32 = 1;
    const VERSION_NOT_SUFFICIENT: u32 = 2;
    let name = text(name).map_err(|_| NOT_FOUND)?;
    match find(name, version.max(0) as u32, flags & PER_THREAD_DEFAULT_STREAM != 0, driver) {
        Found::Symbol(exported) => crate::stubs::address(exported).ok_or(NOT_FOUND),
        Found::NewerOnly => Err(VERSION_NOT_SUFFICIENT),
        Found::Unknown => Err(NOT_FOUND),
    }
}

api! {
    Bare fn cuInit(d, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (call, number) = (d.call, d.number);
        d.initialise(|| Made { call, number, trace: None })
    }
    Bare fn cuDriverGetVersion(d, version: *mut i32) {
        put(version, d.settings.version as i32)
    }
    Bare fn cuGetErrorName(d, error: u32, name: *mut *const c_char) {
        let found = Code(error).c_name();
        put(name, found.map_or(std::ptr::null(), |name| name.as_ptr().cast()))?;
        found.map(drop).ok_or(Code::INVALID_VALUE)
    }
    Bare fn cuGetErrorString(d, error: u32, words: *mut *const c_char) {
        let found = Code(error).c_text();
        put(words, found.map_or(std::ptr::null(), |words| words.as_ptr().cast()))?;
        found.map(drop).ok_or(Code::INVALID_VALUE)
    }
    Bare fn cuGetProcAddress(d, symbol: *const c_char, function: *mut *mut c_void, version: i32, flags: u64) {
        if symbol.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        check(version, flags, d.settings.version)?;
        let found = proc_address(symbol, version, flags, d.settings.version);
        put(function, found.unwrap_or(std::ptr::null_mut()))?;
        found.map(drop).map_err(|_| Code::NOT_FOUND)
    }
    Bare fn cuGetProcAddress_v2(
        d,
        symbol: *const c_char,
        function: *mut *mut c_void,
        version: i32,
        flags: u64,
        status: *mut u32,
    ) {
        if symbol.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        check(version, flags, d.settings.version)?;
        let found = proc_address(symbol, version, flags, d.settings.version);
        put(function, found.unwrap_or(std::ptr::null_mut()))?;
        put_if(status, found.err().unwrap_or(0));
        // With a place for the status, an absent function is no error.
        if status.is_null() { found.map(drop).map_err(|_| Code::NOT_FOUND) } else { Ok(()) }
    }
    Context fn cuProfilerStart(d) {
        Ok(())
    }
    Context fn cuProfilerStop(d) {
        Ok(())
    }
}
