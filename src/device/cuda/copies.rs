//! Asynchronous copies from the host: weights that are fetched alongside other work.

use super::driver::Failure;
use super::handles::{Context, Event, EventKind, Pinned, Stream};
use cudarc::driver::sys::CUstream;
use std::collections::HashMap;
use std::sync::Arc;

/// A stream for copies from the host, and the events that synchronise it with the main stream.
pub(super) struct Copies {
    context: Arc<Context>,
    stream: Stream,
    /// Recorded after the work that a copy must wait for.
    forked: Event,
    /// The event recorded after the last copy to an address, and whether nothing has waited for it yet.
    done: HashMap<u64, (Event, bool)>,
}

impl Copies {
    pub(super) fn new(context: &Arc<Context>) -> Result<Copies, Failure> {
        Ok(Copies {
            context: context.clone(),
            stream: Stream::new(context)?,
            forked: Event::new(context, EventKind::Order)?,
            done: HashMap::new(),
        })
    }

    /// Copies `bytes` bytes, all of `src`, after the work queued on `main` now. If `main` is being captured, this stream joins the capture
    /// by waiting for it.
    ///
    /// # Safety
    /// `main` and the memory at `dst` must be alive; `src` must stay valid until the copy is done.
    pub(super) unsafe fn fetch(&mut self, main: CUstream, dst: u64, src: &Pinned, bytes: usize) -> Result<(), Failure> {
        let event = match self.done.remove(&dst) {
            Some((event, _)) => event,
            None => Event::new(&self.context, EventKind::Order)?,
        };
        // SAFETY: by the caller; nobody writes the block.
        unsafe {
            self.forked.record(main)?;
            self.forked.hold(self.stream.raw())?;
            src.copy_to(dst, bytes, self.stream.raw())?;
            event.record(self.stream.raw())?;
        }
        self.done.insert(dst, (event, true));
        Ok(())
    }

    /// Later work on `main` waits for the copy to `dst`, if one is in flight.
    ///
    /// # Safety
    /// `main` must be alive.
    pub(super) unsafe fn join(&mut self, main: CUstream, dst: u64) -> Result<(), Failure> {
        match self.done.get_mut(&dst) {
            Some((event, flying @ true)) => {
                // SAFETY: by the caller.
                unsafe { event.hold(main) }?;
                *flying = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// As [`Copies::join`], for every copy in flight.
    ///
    /// # Safety
    /// As [`Copies::join`].
    pub(super) unsafe fn join_all(&mut self, main: CUstream) -> Result<(), Failure> {
        let flying = self.done.values_mut().filter(|(_, flying)| *flying);
        flying.into_iter().try_for_each(|(event, flying)| {
            // SAFETY: by the caller.
            unsafe { event.hold(main) }?;
            *flying = false;
            Ok(())
        })
    }

    /// Waits until every copy is done. The destinations are forgotten: that memory may be freed.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.stream.synchronize()?;
        self.done.clear();
        Ok(())
    }
}
