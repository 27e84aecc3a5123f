//! What a thread is to the driver, and threads of the driver's own that call functions of the program.

use crate::made::Id;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What a thread is to the driver.
pub(crate) struct Thread {
    /// The stack of current contexts. `Goodbye` of `world` empties it; without a destructor of its own it can be used until the thread has ended.
    pub(crate) contexts: ManuallyDrop<RefCell<Vec<Id>>>,
    /// Inside a host function of a stream: no driver calls from there.
    pub(crate) in_callback: Cell<bool>,
    /// `cuThreadExchangeStreamCaptureMode`.
    pub(crate) capture_mode: Cell<u32>,
}

thread_local! {
    pub(crate) static THREAD: Thread = const {
        Thread {
            contexts: ManuallyDrop::new(RefCell::new(Vec::new())),
            in_callback: Cell::new(false),
            capture_mode: Cell::new(0),
        }
    };
}

/// The capture mode that this thread has set.
pub(crate) fn capture_mode() -> u32 {
    THREAD.with(|thread| thread.capture_mode.get())
}

/// Calls a function of the program on a thread of its own, from which no calls of the driver are allowed.
pub(crate) fn call_back(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let run = move || {
        THREAD.with(|thread| thread.in_callback.set(true));
        body();
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether this is a copy that `fork` made of a process that had used the driver: as on a GPU, nothing of the driver works in it.
pub(crate) fn forked() -> bool {
    FORKED.load(Relaxed)
}

/// From now on every `fork` is noted in the copy.
pub(crate) fn note_forks() {
    extern "C" fn in_child() {
        FORKED.store(true, Relaxed);
    }
    // SAFETY: a function of this library, which stays loaded.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}
