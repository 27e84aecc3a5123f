//! CUDA graphs: work that a thread submits while it captures goes into a graph, on streams of the capture's own, so that other threads can
//! continue to use the device's stream.
//!
//! On any failure or panic, the capture ends and everything created for it is released.

use super::fault::Kernels;
use super::shared::{CAPTURING, Capture, Owned, Shared};
use crate::device::backend::Result;
use cudarc::driver::sys::CUgraphExec;
use std::sync::Arc;

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
    /// Makes a graph of the work that `submit` queues. The context is bound.
    pub(super) fn new(shared: &Arc<Shared>, submit: &dyn Fn() -> Result<()>) -> Result<Executable> {
        let failed = |failure| shared.failed(failure);
        let mut capture = Capture::new(shared).map_err(failed)?;
        capture.begin().map_err(failed)?;

        /// Removes the capture from this thread, even if `submit` panics.
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

impl Owned for Executable {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}
