//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! * The first one interrupts: devices begin nothing more, the virtual GPU ends what it runs within milliseconds, and loops are told to stop. The
//!   command ends through `main`, as it does when something goes wrong: nothing half-written stays behind, everything is given back to the driver, and
//!   the exit status is 130. On a GPU that waits for what is queued, at most the rest of a long step or two short ones: nothing can take that back,
//!   and memory that it works on cannot be freed before.
//! * The second one does nothing more, as there is nothing more that could be done in order; it says what is being waited for.
//! * The third one ends the process where it stands, for whatever hangs or cannot be interrupted, as a text encoder on the CPU: without a write
//!   under way, and without running any destructor or exit handler. The driver's own would run beside calls of other threads into that very driver,
//!   which is undefined; the operating system takes everything back, a GPU's work too, as it does after a crash.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use adacache::device::{Device, Interrupter};
use anyhow::Context;

use crate::log;

/// What a shell expects of a program that SIGINT ended.
const EXIT_STATUS: u8 = 130;

/// Signals so far.
static ASKED: AtomicUsize = AtomicUsize::new(0);
static WRITING: AtomicBool = AtomicBool::new(false);
static INSTALLED: AtomicBool = AtomicBool::new(false);
static DEVICES: Mutex<Vec<Interrupter>> = Mutex::new(vec![]);

/// Installs the handler, once.
pub(crate) fn install() -> anyhow::Result<()> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(signalled).context("cannot listen for Ctrl-C")
}

/// Runs on a thread of its own.
fn signalled() {
    match ASKED.fetch_add(1, Ordering::SeqCst) {
        0 => DEVICES.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Interrupter::interrupt),
        1 => log::say("interrupted", "waiting for the work in progress; interrupt again to stop at once"),
        _ if WRITING.load(Ordering::SeqCst) => {}
        // SAFETY: it ends the process; nothing of this program runs any more.
        _ => unsafe { libc::_exit(i32::from(EXIT_STATUS)) },
    }
}

/// Interrupts `device` when a signal comes; at once if one has come.
pub(crate) fn watch(device: &Device) {
    let interrupter = device.interrupter();
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if asked() {
        interrupter.interrupt();
    }
    devices.push(interrupter);
}

/// Whether the user wants the run to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) > 0
}

/// For callbacks that may stop a run.
pub(crate) fn go_on() -> ControlFlow<()> {
    if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// How a command ends that the user stopped, and what has become of its work.
pub(crate) fn ended(work: &str) -> ExitCode {
    log::say("interrupted", work);
    ExitCode::from(EXIT_STATUS)
}

/// Runs `write` to its end even if the user gets impatient: it takes milliseconds and cleans up after itself.
pub(crate) fn shielded<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(true, Ordering::SeqCst);
    let result = write();
    WRITING.store(false, Ordering::SeqCst);
    result
}
