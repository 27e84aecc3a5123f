//! The way into every function: failures on demand, what has to be there, no panic across the border; and the macro that exports functions.

use crate::code::{Answer, Code};
use crate::world::{self, Id, Made, THREAD, World};
use std::backtrace::Backtrace;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::MutexGuard;

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

/// One call: the world, locked, and who calls.
pub(crate) struct Driver {
    world: Option<MutexGuard<'static, World>>,
    pub(crate) call: &'static str,
    pub(crate) number: u64,
    /// The newest handle when the call began: operations above were queued since.
    pub(crate) before: Id,
    /// Whether null means the thread's own default stream.
    pub(crate) per_thread: bool,
}

impl Deref for Driver {
    type Target = World;
    fn deref(&self) -> &World {
        // `unlocked` alone takes it away, and puts it back before it returns.
        self.world.as_ref().expect("the lock is held")
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut World {
        self.world.as_mut().expect("the lock is held")
    }
}

impl Driver {
    /// A call of the driver's own threads.
    pub(crate) fn internal() -> Driver {
        Driver { world: Some(world::lock()), call: "driver", number: 0, before: 0, per_thread: false }
    }

    /// Runs `body` with the lock released.
    pub(crate) fn unlocked<T>(&mut self, body: impl FnOnce() -> T) -> T {
        self.world = None;
        let result = body();
        self.world = Some(world::lock());
        result
    }

    /// Waits until something has changed.
    pub(crate) fn wait(&mut self) {
        if let Some(guard) = self.world.take() {
            self.world = Some(world::CHANGED.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }

    /// Who makes something now.
    pub(crate) fn made(&self) -> Made {
        let trace = self.settings.report.is_some().then(Backtrace::force_capture);
        Made { call: self.call, number: self.number, trace }
    }

    /// The stream of a handle, in the current context where work is submitted to it.
    pub(crate) fn own_stream(&mut self, handle: Id) -> Answer<Id> {
        let stream = self.any_stream(handle)?;
        if self.streams[&stream].context == self.current()? { Ok(stream) } else { Err(Code::INVALID_HANDLE) }
    }

    /// The stream of a handle, of any context.
    pub(crate) fn any_stream(&mut self, handle: Id) -> Answer<Id> {
        let (per_thread, call, number) = (self.per_thread, self.call, self.number);
        (**self).stream(handle, per_thread, || Made { call, number, trace: None })
    }

    /// Refuses what may wait or allocate while a capture forbids it, and spoils that capture.
    pub(crate) fn forbid_in_capture(&mut self) -> Answer {
        let mode = THREAD.with(|thread| thread.capture_mode.get());
        let me = std::thread::current().id();
        let spoilt: Vec<Id> = self
            .captures
            .iter()
            .filter(|(_, c)| {
                let own = c.thread == me && c.mode != crate::graph::RELAXED;
                let others = c.mode == crate::graph::GLOBAL && mode == crate::graph::GLOBAL;
                c.active && mode != crate::graph::RELAXED && (own || others)
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
}

/// Failures on demand that the report names.
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
        if world::forked() && (needs != Needs::Bare || name == "cuInit") {
            return Err(Code::NOT_INITIALIZED);
        }
        if THREAD.with(|thread| thread.in_callback.get()) && needs != Needs::Bare {
            return Err(Code::NOT_PERMITTED);
        }
        let world = world::lock();
        let before = world.newest();
        let mut driver = Driver { world: Some(world), call: name, number: 0, before, per_thread };
        let d = &mut driver;
        d.total += 1;
        d.number = d.total;
        *d.calls.entry(name).or_default() += 1;
        let failures = &mut d.settings.failures;
        // Every pattern counts its calls, also when an earlier one strikes.
        let struck: Vec<Code> = failures.iter_mut().filter_map(|f| f.strikes(name).then_some(f.code)).collect();
        if let Some(code) = struck.first() {
            // A call that "fails" with success is left out: what a program does without it is what tests of that program should notice.
            let what = if *code == Code::SUCCESS { "was left out".into() } else { format!("was made to fail: {code}") };
            let line = format!("{name}, call {} of the process, {what}", d.number);
            if d.injected.len() < MOST_INJECTED {
                d.injected.push(line);
            }
            if code.is_sticky()
                && let Ok(context) = d.current()
            {
                d.fault(context, *code, format!("{name} was made to fail with {code}: the context is lost"));
            }
            return Err(*code);
        }
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
    if world::forked() {
        return Code::NOT_SUPPORTED.0;
    }
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
            let mut body = |$d: &mut $crate::enter::Driver| -> $crate::code::Answer {
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
