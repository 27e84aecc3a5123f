//! Copies between the host and the device that nobody waits for at once: weights that are fetched beside the work, and results that are read
//! back while it goes on.

use super::Shared;
use super::driver::Failure;
use super::handles::{Context, Event, EventKind, Pinned, Stream};
use crate::device::{Read, Result, lock};
use cudarc::driver::sys::CUstream;
use std::collections::HashMap;
use std::sync::Arc;

/// A stream for copies from the host beside the work, and the events that tie the two together.
pub(super) struct Copies {
    context: Arc<Context>,
    stream: Stream,
    /// Recorded behind the work that a copy has to wait for.
    forked: Event,
    /// Recorded behind the last copy to an address; whether nobody has waited for it yet.
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

    /// Copies all of `src` behind what is queued on `main` now. Where `main` is being captured, this stream joins the capture by waiting for it.
    ///
    /// # Safety
    /// `main` lives, and so does the memory at `dst`; `src` stays until the copy is done.
    pub(super) unsafe fn fetch(&mut self, main: CUstream, dst: u64, src: &PinnedBlock) -> Result<(), Failure> {
        let event = match self.done.remove(&dst) {
            Some((event, _)) => event,
            None => Event::new(&self.context, EventKind::Order)?,
        };
        // SAFETY: by the caller; nobody writes the block.
        unsafe {
            self.forked.record(main)?;
            self.forked.hold(self.stream.raw())?;
            src.memory.copy_to(dst, src.bytes, self.stream.raw())?;
            event.record(self.stream.raw())?;
        }
        self.done.insert(dst, (event, true));
        Ok(())
    }

    /// What comes next on `main` waits for the copy to `dst`, if there is one under way.
    ///
    /// # Safety
    /// `main` lives.
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

    /// As [`Copies::join`], for every copy under way.
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

    /// Waits until every copy is done. What was copied to is forgotten: that memory may be freed.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.stream.synchronize()?;
        self.done.clear();
        Ok(())
    }
}

/// Page-locked memory that fetches copy from.
pub(super) struct PinnedBlock {
    pub(super) shared: Arc<Shared>,
    /// Dropped or forgotten by hand.
    memory: std::mem::ManuallyDrop<Pinned>,
    bytes: usize,
}

impl PinnedBlock {
    /// Memory with this content. The context is bound.
    pub(super) fn new(shared: &Arc<Shared>, content: &[u8]) -> Result<PinnedBlock> {
        let memory = Pinned::holding(&shared.context, content).map_err(|failure| shared.failed(failure))?;
        let memory = std::mem::ManuallyDrop::new(memory);
        Ok(PinnedBlock { shared: shared.clone(), memory, bytes: content.len() })
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        // Copies from it may be under way. Where that cannot be known it is better lost than given back.
        if self.shared.settle().is_ok() {
            // SAFETY: this is the end of its owner.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// A copy to page-locked memory, and the event behind it.
pub(super) struct Reading {
    shared: Arc<Shared>,
    event: Event,
    /// Taken when the copy is known to be done, and on drop.
    pinned: Option<Pinned>,
    bytes: usize,
}

impl Reading {
    /// Starts copying `bytes` bytes at `src`, behind what is queued. The context is bound.
    pub(super) fn begin(shared: &Arc<Shared>, src: u64, bytes: usize) -> Result<Reading> {
        let mut pool = lock(&shared.pinned);
        let fitting = pool.iter().position(|pinned| pinned.bytes() >= bytes);
        let reused = fitting.map(|at| pool.swap_remove(at));
        drop(pool);
        let failed = |failure| shared.failed(failure);
        let pinned = match reused {
            Some(pinned) => pinned,
            None => Pinned::new(&shared.context, bytes).map_err(failed)?,
        };
        // Made before the copy starts, so that there is nothing but the copy to wait for.
        let event = Event::new(&shared.context, EventKind::Order).map_err(failed)?;
        if bytes > 0 {
            // SAFETY: the memory has no other user until the event has happened; the range at `src` lies in one allocation.
            unsafe { pinned.copy_from(src, bytes, shared.stream.raw()) }.map_err(failed)?;
        }
        // SAFETY: the stream lives.
        if let Err(failure) = unsafe { event.record(shared.stream.raw()) } {
            // The copy is under way, and there is no event to wait for. Where the stream does not answer the memory is better lost.
            match shared.stream.synchronize() {
                Ok(()) => lock(&shared.pinned).push(pinned),
                Err(_) => std::mem::forget(pinned),
            }
            return Err(shared.failed(failure));
        }
        Ok(Reading { shared: shared.clone(), event, pinned: Some(pinned), bytes })
    }

    fn finish(&self) -> Result<()> {
        self.shared.bind()?;
        self.event.synchronize().map_err(|failure| self.shared.failed(failure))
    }
}

impl Read for Reading {
    fn ready(&self) -> Result<bool> {
        self.shared.bind()?;
        self.event.happened().map_err(|failure| self.shared.failed(failure))
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        self.finish()?;
        let Some(pinned) = self.pinned.take() else { return Ok(vec![]) };
        // SAFETY: the copy is done, and has filled so many bytes.
        let content = unsafe { pinned.content(self.bytes) }.to_vec();
        lock(&self.shared.pinned).push(pinned);
        Ok(content)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(pinned) = self.pinned.take() else { return };
        // A refusal may tell of something that went wrong before, so that it is asked once more.
        match self.finish().or_else(|_| self.finish()) {
            Ok(()) => lock(&self.shared.pinned).push(pinned),
            // The copy may still be under way: a lost buffer is better than one that is written into.
            Err(_) => std::mem::forget(pinned),
        }
    }
}
