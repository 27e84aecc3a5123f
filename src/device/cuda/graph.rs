//! CUDA graphs: what a thread submits while it captures goes into a graph, on streams of the capture's own, so that other threads go on using the
//! device's.
//!
//! Whatever fails on the way, or panics, the capture ends and everything made for it is given back.

use super::Shared;
use super::copies::Copies;
use super::driver::Failure;
use super::fault::Kernels;
use super::handles::Stream;
use crate::device::Result;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode};
use std::cell::RefCell;
use std::sync::Arc;

/// A graph in the making: where its work and its copies from the host go. Dropped before [`Capture::end`], it is abandoned.
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
    static CAPTURING: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

impl Capture {
    fn new(shared: &Arc<Shared>) -> Result<Capture, Failure> {
        let (copies, stream) = (Copies::new(&shared.context)?, Stream::new(&shared.context)?);
        Ok(Capture { shared: shared.clone(), copies, stream, kernels: Kernels::default(), begun: false })
    }

    /// Begins to capture. Calls that could break a capture stay forbidden to this thread alone.
    fn begin(&mut self) -> Result<(), Failure> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not capturing.
        unsafe { self.shared.driver().capture_begin(self.stream.raw(), mode) }?;
        self.begun = true;
        Ok(())
    }

    /// The graph of what was captured.
    fn end(mut self) -> Result<(CapturedGraph, Kernels), Failure> {
        // A capture ends where it began: with every copy behind it. What follows the graph needs not wait for any.
        // SAFETY: the stream lives.
        let joined = unsafe { self.copies.join_all(self.stream.raw()) };
        let graph = self.finish();
        joined?;
        Ok((graph?, std::mem::take(&mut self.kernels)))
    }

    /// Ends the capture, whatever has become of it: a stream whose capture was invalidated has to be told too.
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

/// What this thread captures, if it is capturing.
pub(super) fn capturing<T>(use_it: impl FnOnce(Option<&mut Capture>) -> T) -> T {
    CAPTURING.with_borrow_mut(|capture| use_it(capture.as_mut()))
}

impl Capture {
    /// Where work goes.
    pub(super) fn stream(&self) -> CUstream {
        self.stream.raw()
    }

    /// The same with the copies beside it.
    pub(super) fn with_copies(&mut self) -> (CUstream, &mut Copies) {
        (self.stream.raw(), &mut self.copies)
    }

    /// Remembers a kernel that was captured.
    pub(super) fn add(&mut self, name: &Arc<str>) {
        self.kernels.add(name);
    }
}

/// A graph that has not been instantiated.
struct CapturedGraph {
    shared: Arc<Shared>,
    /// May be null.
    graph: CUgraph,
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: captured by us and destroyed once; executables made of it stand by themselves.
            let _ = unsafe { self.shared.driver().graph_destroy(self.graph) };
        }
    }
}

/// An instantiated graph.
pub(super) struct Executable {
    pub(super) shared: Arc<Shared>,
    graph: CUgraphExec,
    kernels: Arc<Kernels>,
}
// SAFETY: the driver's handles may be used from any thread to which the context is bound.
unsafe impl Send for Executable {}
// SAFETY: as above.
unsafe impl Sync for Executable {}

impl Executable {
    /// Makes a graph of what `submit` queues. The context is bound.
    pub(super) fn new(shared: &Arc<Shared>, submit: &dyn Fn() -> Result<()>) -> Result<Executable> {
        let failed = |failure| shared.failed(failure);
        let mut capture = Capture::new(shared).map_err(failed)?;
        capture.begin().map_err(failed)?;

        /// Takes the capture off this thread, also when `submit` panics.
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                drop(CAPTURING.take());
            }
        }
        CAPTURING.set(Some(capture));
        let leave = Leave;
        let submitted = submit();
        let capture = CAPTURING.take();
        drop(leave);
        // First what `submit` met: an invalidated capture is but its consequence.
        submitted?;
        let Some(capture) = capture else { unreachable!("only this function takes a capture") };
        let (graph, kernels) = capture.end().map_err(failed)?;

        let mut executable =
            Executable { shared: shared.clone(), graph: std::ptr::null_mut(), kernels: kernels.into() };
        let driver = shared.driver();
        // SAFETY: the graph was captured and lives; there are no flags. The first launch would upload it otherwise.
        unsafe {
            driver.graph_instantiate(&mut executable.graph, graph.graph, 0).map_err(failed)?;
            driver.graph_upload(executable.graph, shared.stream.raw()).map_err(failed)?;
        }
        Ok(executable)
    }

    pub(super) fn raw(&self) -> CUgraphExec {
        self.graph
    }

    pub(super) fn kernels(&self) -> &Arc<Kernels> {
        &self.kernels
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        if !self.graph.is_null() && self.shared.context.bind_for_drop() {
            // SAFETY: made by us, destroyed once; the driver keeps it while it runs.
            let _ = unsafe { self.shared.driver().executable_destroy(self.graph) };
        }
    }
}
