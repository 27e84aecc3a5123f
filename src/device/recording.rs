//! Commands that a thread records instead of executing: graphs under construction.

use std::cell::RefCell;

use super::backend::{Backend, Handle, Result};
use super::error::DeviceError;
use super::group::Rank;
use super::info::{Launch, Work};
use super::kernel::Kernel;

/// A thread's recording: the device (by address) and the graphs so far, the last one unfinished.
pub(super) struct Recording {
    pub(super) device: usize,
    pub(super) parts: Vec<Vec<Command>>,
}

thread_local! {
    /// A thread records only its own work; the work of other threads on the same device executes as usual.
    pub(super) static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// One recorded operation of a device.
pub(super) enum Command {
    Launch { kernel: Kernel, grid: [u32; 3], block: [u32; 3], shared: u32, work: Work, params: Box<[u8]> },
    Copy { dst: u64, src: u64, bytes: usize },
    Fill { dst: u64, byte: u8, bytes: usize },
    Fetch { dst: u64, src: Handle, bytes: usize },
    Fetched { dst: u64 },
    Gather { at: u64, bytes: usize, rank: Rank },
}

impl Command {
    pub(super) fn submit(&self, backend: &dyn Backend) -> Result<()> {
        match self {
            Command::Launch { kernel, grid, block, shared, work, params } => {
                let launch = Launch { kernel: kernel.name(), grid: *grid, block: *block, shared: *shared, work: *work };
                backend.launch(&kernel.0.handle, &launch, params).map(drop)
            }
            Command::Copy { dst, src, bytes } => backend.copy(*dst, *src, *bytes),
            Command::Fill { dst, byte, bytes } => backend.fill(*dst, *byte, *bytes),
            Command::Fetch { dst, src, .. } => backend.fetch(*dst, src),
            Command::Fetched { dst } => backend.fetched(*dst),
            // Not in a graph: the host takes part.
            Command::Gather { .. } => Err(DeviceError::Recording { call: "an exchange" }),
        }
    }
}
