//! What a command says: results to standard output, remarks to standard error. Nothing else in this program writes to either.
//!
//! * A result that cannot be written, on a full disk for example, is an error. A reader that has closed the pipe has seen enough: the rest is
//!   dropped in silence.
//! * A remark that cannot be written is dropped: nobody is there to be told.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// Whether the reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Makes a write beyond the limit on file sizes (`ulimit -f`) fail, as on a full disk, where it would end the process and leave its files.
pub(crate) fn install() {
    // SAFETY: no handler is installed; the signal is ignored.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Writes `text` to standard output.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    if is_closed() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    settled(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes `text` and the end of its line to standard output.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}

/// Whether the reader of standard output has gone: more results would be for nobody.
pub(crate) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

fn settled(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => CLOSED.store(true, Ordering::Relaxed),
        other => other.context("cannot write to standard output")?,
    }
    Ok(())
}

/// Writes a line to standard error; on a terminal in the place of a progress bar, which comes again below.
pub(crate) fn note(text: impl Display) {
    let mut out = io::stderr().lock();
    let clear = if out.is_terminal() { "\r\x1b[2K" } else { "" };
    let _ = writeln!(out, "{clear}{text}");
}

/// Says what clap has to say: the help that was asked for, or what is wrong with the arguments. Gives the status to end with.
pub(crate) fn usage(said: &clap::Error) -> anyhow::Result<ExitCode> {
    let printed = said.print().and_then(|()| io::stdout().flush());
    if !said.use_stderr() {
        settled(printed)?;
    }
    Ok(ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(2)))
}
