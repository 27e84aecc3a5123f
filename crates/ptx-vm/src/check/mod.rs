//! Checked mode and counters: what is looked at before each instruction when somebody asks for it.

use crate::exec::op::{Cx, Op};
use crate::ir::Kernel;

/// The observer of one worker thread.
pub(crate) struct Watch {}

impl Watch {
    pub(crate) fn start_block(&mut self, _shared: usize, _warps: usize, _local: usize) {}
    pub(crate) fn barrier(&mut self) {}

    /// Looks at an instruction, then executes it.
    ///
    /// # Safety
    /// As for a handler.
    pub(crate) unsafe fn step(&mut self, cx: &mut Cx, _kernel: &Kernel, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { ((*op).run)(cx, op) }
    }
}
