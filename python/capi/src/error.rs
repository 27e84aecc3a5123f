//! Errors as they cross the border: a code, and the last message of the thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// What a function returns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdacacheStatus {
    /// Success.
    Ok = 0,
    /// An argument is wrong: the message says which, and what was expected.
    Argument = 1,
    /// The policy's settings are wrong, or do not fit the model.
    Settings = 2,
    /// There is no CUDA driver, or no context is current.
    NoDevice = 3,
    /// The CUDA driver refused a call.
    Driver = 4,
    /// A fault of this library. Nothing that the call touched is used again.
    Internal = 5,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The code.
    pub status: AdacacheStatus,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Error {
    /// An error of this kind.
    pub fn new(status: AdacacheStatus, message: impl Into<String>) -> Error {
        Error { status, message: message.into() }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Error {
        Error::new(AdacacheStatus::Argument, message)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    // A NUL inside would end the message early.
    let message = CString::new(message.replace('\0', "?")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = message);
}

/// Runs `body` and gives its code; no panic leaves it.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Error>) -> AdacacheStatus {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => AdacacheStatus::Ok,
        Ok(Err(error)) => {
            remember(&error.message);
            error.status
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            remember(&format!("adacache failed inside: {text}"));
            AdacacheStatus::Internal
        }
    }
}

/// The message of the last call of this thread that failed; empty if none did. It is valid until the next call of this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn adacache_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(ptr::null())
}

/// The version of the library: `0.2.0`.
#[unsafe(no_mangle)]
pub extern "C" fn adacache_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
