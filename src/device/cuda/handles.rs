//! Owners of driver resources (the context, streams, events, page-locked memory), each of which is released once, when its owner is
//! dropped.
//!
//! Every call needs the context to be current on its thread: the backend binds it at each entry point, and destructors bind it themselves.
//! If the driver refuses that, it or the process is shutting down, which releases everything; this is not reported, because a destructor's
//! caller either has an error already or has no use for one.

use super::driver::{Code, Driver, Failure};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUstream};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// A device's primary context, shared by all users of the device in this process. Everything created in it keeps it alive.
pub(super) struct Context {
    driver: &'static Driver,
    device: CUdevice,
    context: CUcontext,
}
// SAFETY: the driver's handles may be used from any thread to which the context is bound.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Context {}

impl Context {
    /// Creates the context, or shares the existing one, and binds it to this thread.
    pub(super) fn retain(driver: &'static Driver, device: CUdevice) -> Result<Arc<Context>, Failure> {
        let mut context = std::ptr::null_mut();
        // SAFETY: `context` is a valid place, `device` comes from the driver.
        unsafe { driver.context_retain(&mut context, device) }?;
        let context = Arc::new(Context { driver, device, context });
        context.bind()?;
        Ok(context)
    }

    pub(super) fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Makes this the current context of the calling thread.
    pub(super) fn bind(&self) -> Result<(), Failure> {
        // SAFETY: the context is retained.
        unsafe { self.driver.context_bind(self.context) }
    }

    /// As [`Context::bind`], for a destructor: whether resources can still be released. A refusal may report an earlier failure, so the
    /// call is repeated once.
    pub(super) fn bind_for_drop(&self) -> bool {
        self.bind().or_else(|_| self.bind()).is_ok()
    }

    pub(super) fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<u32, Failure> {
        device_attribute(self.driver, self.device, attribute)
    }

    /// Free and total bytes.
    pub(super) fn memory(&self) -> Result<(usize, usize), Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are valid places.
        unsafe { self.driver.memory_info(&mut free, &mut total) }?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // The driver does not take a released context off the threads that have it: this thread at least shall not keep one that is gone.
        let mut current = std::ptr::null_mut();
        // SAFETY: `current` is a valid place; the null context may be bound; the context was retained once and is released once, after
        // everything made in it, as that holds it.
        unsafe {
            if self.driver.context_current(&mut current).is_ok() && current == self.context {
                let _ = self.driver.context_bind(std::ptr::null_mut());
            }
            let _ = self.driver.context_release(self.device);
        }
    }
}

/// An attribute of a device; none of them is negative.
pub(super) fn device_attribute(
    driver: &Driver,
    device: CUdevice,
    attribute: sys::CUdevice_attribute,
) -> Result<u32, Failure> {
    let mut value: c_int = 0;
    // SAFETY: `value` is a valid place, `device` comes from the driver.
    unsafe { driver.device_attribute(&mut value, attribute, device) }?;
    Ok(value.max(0) as u32)
}

/// A stream that does not wait for the null stream.
pub(super) struct Stream {
    context: Arc<Context>,
    stream: CUstream,
}
// SAFETY: as for `Context`.
unsafe impl Send for Stream {}
// SAFETY: as for `Context`.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Stream, Failure> {
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `stream` is a valid place.
        unsafe { context.driver.stream_create(&mut stream, flags) }?;
        Ok(Stream { context: context.clone(), stream })
    }

    pub(super) fn raw(&self) -> CUstream {
        self.stream
    }

    /// Waits until all work queued on it is done.
    pub(super) fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the stream lives.
        unsafe { self.context.driver.stream_synchronize(self.stream) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind_for_drop() {
            // SAFETY: made by us, destroyed once; what is queued on it still runs.
            let _ = unsafe { self.context.driver.stream_destroy(self.stream) };
        }
    }
}

/// The purpose of an event.
#[derive(Clone, Copy)]
pub(super) enum EventKind {
    /// Records the time. Waiting for it may take long, and yields the core to others.
    Time,
    /// Records no time; waiting for it has low latency.
    Order,
}

/// A point in a stream.
pub(super) struct Event {
    context: Arc<Context>,
    event: CUevent,
}
// SAFETY: as for `Context`.
unsafe impl Send for Event {}
// SAFETY: as for `Context`.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(context: &Arc<Context>, kind: EventKind) -> Result<Event, Failure> {
        let mut event = std::ptr::null_mut();
        let flags = match kind {
            EventKind::Time => sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC,
            EventKind::Order => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        // SAFETY: `event` is a valid place.
        unsafe { context.driver.event_create(&mut event, flags as u32) }?;
        Ok(Event { context: context.clone(), event })
    }

    /// Records it after the work queued on `stream`.
    ///
    /// # Safety
    /// `stream` must be alive and belong to the event's context.
    pub(super) unsafe fn record(&self, stream: CUstream) -> Result<(), Failure> {
        // SAFETY: by the caller; the event lives.
        unsafe { self.context.driver.event_record(self.event, stream) }
    }

    /// Work queued on `stream` from now on waits for the last recording of this event.
    ///
    /// # Safety
    /// As [`Event::record`].
    pub(super) unsafe fn hold(&self, stream: CUstream) -> Result<(), Failure> {
        // SAFETY: by the caller; the event lives, and there are no flags.
        unsafe { self.context.driver.stream_wait_event(stream, self.event, 0) }
    }

    /// Waits until it has happened.
    pub(super) fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the event lives.
        unsafe { self.context.driver.event_synchronize(self.event) }
    }

    /// Whether it has happened.
    pub(super) fn happened(&self) -> Result<bool, Failure> {
        // SAFETY: the event lives.
        match unsafe { self.context.driver.event_query(self.event) } {
            Ok(()) => Ok(true),
            Err(Failure { code: Code::NOT_READY, .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Milliseconds from `start` to this event; both must be timing events and have happened.
    pub(super) fn milliseconds_since(&self, start: &Event) -> Result<f32, Failure> {
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` is a valid place, the events live.
        unsafe { self.context.driver.event_elapsed(&mut milliseconds, start.event, self.event) }?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind_for_drop() {
            // SAFETY: made by us, destroyed once; one that has not happened yet may be destroyed.
            let _ = unsafe { self.context.driver.event_destroy(self.event) };
        }
    }
}

/// Page-locked host memory. The owner must wait for copies in flight before dropping it, or forget it.
pub(super) struct Pinned {
    context: Arc<Context>,
    ptr: *mut u8,
    bytes: usize,
}
// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// At least `bytes` bytes with undefined content.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned, Failure> {
        // Sizes of a kind can be used again for each other, and none is empty.
        let bytes = bytes.max(1).next_multiple_of(256);
        let mut ptr: *mut c_void = std::ptr::null_mut();
        // SAFETY: `ptr` is a valid place. No flags: write-combined memory would be slow to read.
        unsafe { context.driver.host_alloc(&mut ptr, bytes, 0) }?;
        Ok(Pinned { context: context.clone(), ptr: ptr.cast(), bytes })
    }

    /// Page-locked memory that begins with this content.
    pub(super) fn holding(context: &Arc<Context>, content: &[u8]) -> Result<Pinned, Failure> {
        let pinned = Pinned::new(context, content.len())?;
        // SAFETY: the memory has at least so many bytes, and nobody else knows it yet.
        unsafe { pinned.ptr.copy_from_nonoverlapping(content.as_ptr(), content.len()) };
        Ok(pinned)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts copying its first `bytes` bytes to the device.
    ///
    /// # Safety
    /// These bytes must be initialised and stay unchanged until the copy is done; `dst` must have room for them and not be used before;
    /// `stream` must be alive and belong to the memory's context.
    pub(super) unsafe fn copy_to(&self, dst: CUdeviceptr, bytes: usize, stream: CUstream) -> Result<(), Failure> {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: by the caller.
        unsafe { self.context.driver.copy_from_host(dst, self.ptr.cast(), bytes, stream) }
    }

    /// Starts copying `bytes` bytes from the device to its beginning.
    ///
    /// # Safety
    /// The memory must not be used until the copy is done; `src` must have this many bytes; `stream` must be alive and belong to the
    /// memory's context.
    pub(super) unsafe fn copy_from(&self, src: CUdeviceptr, bytes: usize, stream: CUstream) -> Result<(), Failure> {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: by the caller.
        unsafe { self.context.driver.copy_to_host(self.ptr.cast(), src, bytes, stream) }
    }

    /// Its first `bytes` bytes.
    ///
    /// # Safety
    /// They must be initialised by a completed copy.
    pub(super) unsafe fn content(&self, bytes: usize) -> &[u8] {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: by the caller.
        unsafe { std::slice::from_raw_parts(self.ptr, bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_for_drop() {
            // SAFETY: made by us, freed once.
            let _ = unsafe { self.context.driver.host_free(self.ptr.cast()) };
        }
    }
}
