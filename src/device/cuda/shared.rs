//! The state that all objects of a context keep alive: the context, its stream, its fault, and the graph that a thread is capturing in it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::{self, CUgraph, CUstream, CUstreamCaptureMode};

use super::copies::Copies;
use super::driver::{Driver, Failure};
use super::fault::{self, Kernels, Queued};
use super::handles::{Context, Pinned, Stream};
use crate::device::backend::{Handle, Result, lock};
use crate::device::error::{DeviceError, GpuFault};

/// The state that read-backs and events keep alive: the context and its one stream.
pub(super) struct Shared {
    /// Page-locked buffers for reuse: allocating one stalls the GPU.
    pub(super) pinned: Mutex<Vec<Pinned>>,
    /// Fetches that are not part of a graph.
    pub(super) copies: Mutex<Copies>,
    pub(super) stream: Stream,
    pub(super) id: String,
    pub(super) driver: (u32, u32),
    /// Bytes of the device's memory.
    pub(super) memory: usize,
    /// Maximum shared memory per block.
    pub(super) largest_shared: u32,
    /// The last work queued, for faults that are reported by a later call.
    pub(super) last: Mutex<Option<Queued>>,
    /// The fault of the device, after which it does no more work.
    pub(super) fault: OnceLock<GpuFault>,
    // Behind everything that is made in it.
    pub(super) context: Arc<Context>,
}

impl Shared {
    pub(super) fn driver(&self) -> &'static Driver {
        self.context.driver()
    }

    /// The stream for work: the main stream, or that of the graph that this thread is capturing.
    pub(super) fn target(&self) -> sys::CUstream {
        capturing(|capture| capture.map_or(self.stream.raw(), |capture| capture.stream()))
    }

    /// Runs `run` with the stream for work and its copies.
    pub(super) fn with_copies(
        &self,
        run: impl FnOnce(sys::CUstream, &mut Copies) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        capturing(|capture| match capture {
            Some(capture) => {
                let (stream, copies) = capture.with_copies();
                run(stream, copies)
            }
            None => run(self.stream.raw(), &mut lock(&self.copies)),
        })
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind().map_err(|failure| self.failed(failure))
    }

    /// Waits until the work queued so far and every copy alongside it are done.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        self.context.bind()?;
        self.stream.synchronize()?;
        lock(&self.copies).finish()
    }

    /// As [`Shared::wait`], for a destructor. A refusal may report an earlier failure, so the call is repeated once.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        self.wait().or_else(|_| self.wait())
    }

    /// Converts a driver code to an error. A code about earlier work names that work, as far as it is known, and the device reports the
    /// same error from then on: its context is lost.
    pub(super) fn failed(&self, failure: Failure) -> DeviceError {
        let (driver, Failure { call, code }) = (self.driver(), failure);
        let (name, text) = (driver.name(code), driver.text(code));
        let fault = match fault::cause(code) {
            Some(cause) => Some(self.fault.get_or_init(|| GpuFault {
                device: self.id.clone(),
                call,
                name: name.clone(),
                text: text.clone(),
                last: lock(&self.last).as_ref().map_or_else(|| "no kernel".into(), Queued::to_string),
                advice: fault::advice(cause),
            })),
            None => self.fault.get(),
        };
        match fault {
            Some(fault) => DeviceError::GpuFault(Box::new(fault.clone())),
            None => DeviceError::Driver { call, device: self.id.clone(), name, text },
        }
    }

    /// The content of `handle`, if this context created it.
    pub(super) fn own<'a, T: Owned>(&self, handle: &'a Handle) -> Result<&'a T> {
        let foreign = |owner: &str| DeviceError::ForeignMemory { device: self.id.clone(), owner: owner.into() };
        let found: &T = handle.downcast_ref().ok_or_else(|| foreign("another device"))?;
        let owner = found.shared();
        if std::ptr::eq(owner, self) { Ok(found) } else { Err(foreign(&owner.id)) }
    }
}

/// An object created by a context.
pub(super) trait Owned: 'static {
    fn shared(&self) -> &Shared;
}

/// A graph being captured: the streams for its work and its copies from the host. If dropped before [`Capture::end`], it is abandoned.
pub(super) struct Capture {
    shared: Arc<Shared>,
    // Before the main stream: what has joined a capture goes before its origin.
    copies: Copies,
    stream: Stream,
    kernels: Kernels,
    /// Whether the driver is capturing.
    begun: bool,
}

thread_local! {
    /// The graph into which this thread submits work.
    pub(super) static CAPTURING: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

impl Capture {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Capture, Failure> {
        let (copies, stream) = (Copies::new(&shared.context)?, Stream::new(&shared.context)?);
        Ok(Capture { shared: shared.clone(), copies, stream, kernels: Kernels::default(), begun: false })
    }

    /// Begins the capture. Only this thread is forbidden to make calls that could break a capture.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not capturing.
        unsafe { self.shared.driver().capture_begin(self.stream.raw(), mode) }?;
        self.begun = true;
        Ok(())
    }

    /// The captured graph.
    pub(super) fn end(mut self) -> Result<(CapturedGraph, Kernels), Failure> {
        // A capture ends where it began: with every copy behind it. What follows the graph needs not wait for any.
        // SAFETY: the stream lives.
        let joined = unsafe { self.copies.join_all(self.stream.raw()) };
        let graph = self.finish();
        joined?;
        Ok((graph?, std::mem::take(&mut self.kernels)))
    }

    /// Ends the capture in any state: even a stream whose capture was invalidated must end it.
    fn finish(&mut self) -> Result<CapturedGraph, Failure> {
        self.begun = false;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream lives and is capturing; `graph` is a valid place.
        let ended = unsafe { self.shared.driver().capture_end(self.stream.raw(), &mut graph) };
        // Also beside an error there may be a graph to give back.
        let graph = CapturedGraph { shared: self.shared.clone(), graph };
        ended.map(|()| graph)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.begun && self.shared.context.bind_for_drop() {
            let _ = self.finish();
        }
    }
}

/// This thread's capture, if there is one.
pub(super) fn capturing<T>(use_it: impl FnOnce(Option<&mut Capture>) -> T) -> T {
    CAPTURING.with_borrow_mut(|capture| use_it(capture.as_mut()))
}

impl Capture {
    /// The stream for work.
    pub(super) fn stream(&self) -> CUstream {
        self.stream.raw()
    }

    /// The same, with its copies.
    pub(super) fn with_copies(&mut self) -> (CUstream, &mut Copies) {
        (self.stream.raw(), &mut self.copies)
    }

    /// Remembers a kernel that was captured.
    pub(super) fn add(&mut self, name: &Arc<str>) {
        self.kernels.add(name);
    }
}

/// A graph that has not been instantiated.
pub(super) struct CapturedGraph {
    shared: Arc<Shared>,
    /// May be null.
    pub(super) graph: CUgraph,
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: captured by us and destroyed once; executables made of it stand by themselves.
            let _ = unsafe { self.shared.driver().graph_destroy(self.graph) };
        }
    }
}
