//! The way into every function: failures on demand, what has to be there, no panic across the border; and the macro that exports functions.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::made::Id;
use crate::thread::{THREAD, capture_mode, forked};
use crate::work::{GLOBAL, RELAXED};
use crate::{report, world};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a function needs before it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Bare,
    /// `cuInit`.
    Init,
    /// A current context that is alive and has not failed.
    Context,
    /// The same, and that no capture forbids calls which may wait or allocate ("potentially unsafe").
    Unsafe,
}

impl Driver {
    /// Refuses what may wait or allocate while a capture forbids it, and spoils that capture.
    pub(crate) fn forbid_in_capture(&mut self) -> Answer {
        let mode = capture_mode();
        let me = std::thread::current().id();
        let spoilt: Vec<Id> = self
            .captures
            .iter()
            .filter(|(_, c)| {
                let own = c.thread == me && c.mode != RELAXED;
                let others = c.mode == GLOBAL && mode == GLOBAL;
                c.active && mode != RELAXED && (own || others)
            })
            .map(|(id, _)| *id)
            .collect();
        if spoilt.is_empty() {
            return Ok(());
        }
        for id in spoilt {
            self.invalidate(id);
        }
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Fails if the settings say that this call shall.
    fn fail_on_demand(&mut self) -> Answer {
        let (name, number) = (self.call, self.number);
        let failures = &mut self.settings.failures;
        // Every pattern counts its calls, also when an earlier one strikes.
        let struck: Vec<Code> = failures.iter_mut().filter_map(|f| f.strikes(name).then_some(f.code)).collect();
        let Some(&code) = struck.first() else { return Ok(()) };
        // A call that "fails" with success is left out: what a program does without it is what tests of that program should notice.
        let what = if code == Code::SUCCESS { "was left out".into() } else { format!("was made to fail: {code}") };
        if self.injected.len() < MOST_INJECTED {
            self.injected.push(format!("{name}, call {number} of the process, {what}"));
        }
        if code.is_sticky()
            && let Ok(context) = self.current()
        {
            self.fault(context, code, format!("{name} was made to fail with {code}: the context is lost"));
        }
        Err(code)
    }
}

/// The most failures on demand that the report names.
const MOST_INJECTED: usize = 1000;

/// Runs the body of a function. Not generic, or there would be three hundred copies of it.
pub(crate) fn call(
    name: &'static str,
    needs: Needs,
    per_thread: bool,
    body: &mut dyn FnMut(&mut Driver) -> Answer,
) -> u32 {
    let run = || {
        // What else is bare needs nothing of the driver.
        if forked() && (needs != Needs::Bare || name == "cuInit") {
            return Err(Code::NOT_INITIALIZED);
        }
        if THREAD.with(|thread| thread.in_callback.get()) && needs != Needs::Bare {
            return Err(Code::NOT_PERMITTED);
        }
        report::at_exit();
        let d = &mut Driver::new(name, per_thread);
        d.total += 1;
        d.number = d.total;
        *d.calls.entry(name).or_default() += 1;
        d.fail_on_demand()?;
        if needs != Needs::Bare && !d.initialised {
            return Err(Code::NOT_INITIALIZED);
        }
        if matches!(needs, Needs::Context | Needs::Unsafe) {
            let context = d.current()?;
            if let Some(code) = d.contexts[&context].error {
                return Err(code);
            }
        }
        if needs == Needs::Unsafe {
            d.forbid_in_capture()?;
        }
        let result = body(d);
        if needs != Needs::Bare {
            d.progress();
        }
        result
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => {
            eprintln!("vcuda: {name} panicked: this is a fault of vcuda");
            Code::UNKNOWN.0
        }
    }
}

/// A function that is not there.
pub(crate) fn unsupported(name: &'static str) -> u32 {
    if forked() {
        return Code::NOT_SUPPORTED.0;
    }
    report::at_exit();
    let mut world = world::lock();
    world.total += 1;
    *world.calls.entry(name).or_default() += 1;
    let seen = world.unsupported.entry(name).or_default();
    *seen += 1;
    if *seen == 1 {
        eprintln!("vcuda: {name} is not supported");
    }
    Code::NOT_SUPPORTED.0
}

/// Exports functions: `NEEDS fn NAME [/ NAME_FOR_PER_THREAD_STREAMS] (driver, argument: type, …) { body }`. Every pointer argument may be what
/// the program gave: bodies check for null and otherwise trust it, as the driver does.
macro_rules! api {
    () => {};
    (@export $needs:ident $name:ident as $exported:ident, $per_thread:literal, ($d:ident $(, $arg:ident: $ty:ty)* $(,)?), $body:block) => {
        /// # Safety
        /// As cuda.h says for the function of this name.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $exported($($arg: $ty),*) -> u32 {
            let needs = $crate::enter::Needs::$needs;
            let mut body = |$d: &mut $crate::driver::Driver| -> $crate::code::Answer {
                let _ = &$d;
                $body
            };
            $crate::enter::call(stringify!($name), needs, $per_thread, &mut body)
        }
    };
    ($needs:ident fn $name:ident / $ptds:ident $signature:tt $body:block $($rest:tt)*) => {
        $crate::enter::api! { @export $needs $name as $name, false, $signature, $body }
        $crate::enter::api! { @export $needs $name as $ptds, true, $signature, $body }
        $crate::enter::api! { $($rest)* }
    };
    ($needs:ident fn $name:ident $signature:tt $body:block $($rest:tt)*) => {
        $crate::enter::api! { @export $needs $name as $name, false, $signature, $body }
        $crate::enter::api! { $($rest)* }
    };
}
pub(crate) use api;

/// Writes through a pointer that the program gave; null is an error.
pub(crate) fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the program gives a place for a result of this type.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes where a place was given.
pub(crate) fn put_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: as in `put`.
        unsafe { to.write_unaligned(value) };
    }
}

/// Text that the program gave.
pub(crate) fn text<'a>(from: *const std::ffi::c_char) -> Answer<&'a str> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: by the API it is a NUL-terminated string that lives during the call.
    unsafe { std::ffi::CStr::from_ptr(from) }.to_str().map_err(|_| Code::INVALID_VALUE)
}
