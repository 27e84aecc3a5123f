//! Page-locked memory: the source of fetches and the destination of read-backs.

use std::sync::Arc;

use super::handles::{Event, EventKind, Pinned};
use super::shared::{Owned, Shared};
use crate::device::backend::{Read, Result, lock};

/// Page-locked memory as the source of fetches.
pub(super) struct PinnedBlock {
    pub(super) shared: Arc<Shared>,
    /// Dropped or forgotten manually.
    pub(super) memory: std::mem::ManuallyDrop<Pinned>,
    pub(super) bytes: usize,
}

impl PinnedBlock {
    /// Page-locked memory with this content. The context is bound.
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

/// A copy to page-locked memory, and the event recorded after it.
pub(super) struct Reading {
    shared: Arc<Shared>,
    event: Event,
    /// Taken when the copy is known to be done, and on drop.
    pinned: Option<Pinned>,
    bytes: usize,
}

impl Reading {
    /// Starts copying `bytes` bytes at `src`, after the work queued so far. The context is bound.
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

impl Owned for PinnedBlock {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}
