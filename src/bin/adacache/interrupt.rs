//! Ctrl-C and SIGTERM: the first asks the run to stop, the second ends the program, but never in the middle of a write.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// What a shell expects of a program that SIGINT ended.
pub(crate) const EXIT_STATUS: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static WRITING: AtomicBool = AtomicBool::new(false);

/// Installs the handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) && !WRITING.load(Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT_STATUS));
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user wants the run to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Runs `write` to its end even if the user gets impatient: it takes milliseconds and cleans up after itself.
pub(crate) fn shielded<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(true, Ordering::SeqCst);
    let result = write();
    WRITING.store(false, Ordering::SeqCst);
    result
}
