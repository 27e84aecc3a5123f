//! What a thread writes down instead of doing it: the commands of graphs in the making.

use std::cell::RefCell;

use super::backend::{Backend, Handle, Result};
use super::info::{Launch, Work};
use super::kernel::Kernel;

/// What a thread is writing down: which device's work (by address), and the graphs so far, the last one unfinished.
pub(super) struct Recording {
    pub(super) device: usize,
    pub(super) parts: Vec<Vec<Command>>,
}

thread_local! {
    /// A thread records what it does itself; what others do on the same device goes on as ever.
    pub(super) static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// One thing a device was told to do, while it was only writing down.
pub(super) enum Command {
    Launch { kernel: Kernel, grid: [u32; 3], block: [u32; 3], shared: u32, work: Work, params: Box<[u8]> },
    Copy { dst: u64, src: u64, bytes: usize },
    Fill { dst: u64, byte: u8, bytes: usize },
    Fetch { dst: u64, src: Handle, bytes: usize },
    Fetched { dst: u64 },
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
        }
    }
}
