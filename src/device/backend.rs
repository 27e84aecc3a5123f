//! The differences between a GPU, the virtual GPU and a device that runs nothing.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ptx_vm::{LaunchStats, TENSOR_MAP_BYTES, TensorMap, Vm};

use super::error::DeviceError;
use super::info::{Launch, MemoryInfo};

pub(super) type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// A backend's data for a loaded entry, an event or a read-back, opaque to everything but that backend.
pub(super) type Handle = Arc<dyn Any + Send + Sync>;

/// The interface that a GPU and the VM each implement. Addresses are device pointers; every range has been checked.
pub(super) trait Backend: Send + Sync {
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Frees memory from [`Backend::alloc`] of this size; failures are only logged.
    fn free(&self, ptr: u64, bytes: usize);
    /// Blocks until `src` may be reused.
    fn upload(&self, dst: u64, src: &[u8]) -> Result<()>;
    /// Blocks until `dst` is filled.
    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()>;
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()>;
    fn fill(&self, dst: u64, byte: u8, bytes: usize) -> Result<()>;
    /// Loads PTX text; `name` appears in messages.
    fn load(&self, name: &str, ptx: &str) -> Result<Handle>;
    fn entry(&self, module: &Handle, entry: &str) -> Result<Handle>;
    /// `params` has exactly the size of the entry's parameter block.
    fn launch(&self, entry: &Handle, launch: &Launch<'_>, params: &[u8]) -> Result<Option<LaunchStats>>;
    /// An event recorded on the stream now.
    fn record(&self) -> Result<Handle>;
    /// Whether a recorded event has happened.
    fn happened(&self, event: &Handle) -> Result<bool>;
    /// Waits until a recorded event has happened.
    fn await_event(&self, event: &Handle) -> Result<()>;
    /// Time from one event to a later one; waits for both.
    fn elapsed(&self, start: &Handle, end: &Handle) -> Result<Duration>;
    /// Starts a copy to pinned host memory and returns at once.
    fn read_async(&self, src: u64, bytes: usize) -> Result<Box<dyn Read>>;
    /// Host memory with this content, as a source for [`Backend::fetch`].
    fn pin(&self, content: Vec<u8>) -> Result<Handle>;
    /// Starts a copy of all of `src` after the work queued now; work queued later does not wait for it.
    fn fetch(&self, dst: u64, src: &Handle) -> Result<()>;
    /// Work queued from now on waits for the last fetch to `dst`, if it is still in flight.
    fn fetched(&self, dst: u64) -> Result<()>;
    /// Encodes a tensor map that follows the rules; `portable` is what the VM makes of it.
    fn tensor_map(&self, _map: &TensorMap, portable: [u8; TENSOR_MAP_BYTES]) -> Result<[u8; TENSOR_MAP_BYTES]> {
        Ok(portable)
    }
    fn synchronize(&self) -> Result<()>;
    fn memory(&self) -> Result<MemoryInfo>;
    /// Makes a graph of the work that `submit` queues, which goes into the graph only; `None` if the backend has no graphs.
    fn instantiate(&self, _submit: &dyn Fn() -> Result<()>) -> Result<Option<Handle>> {
        Ok(None)
    }
    /// Queues a graph of [`Backend::instantiate`].
    fn replay(&self, _graph: &Handle) -> Result<()> {
        Ok(())
    }
    /// The virtual GPU, if it is one: its launches can be interrupted.
    fn vm(&self) -> Weak<Vm> {
        Weak::new()
    }
}

/// A read-back in flight.
pub(super) trait Read: Send + Sync {
    fn ready(&self) -> Result<bool>;
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// The lock's content, even after a panic elsewhere: the data in our locks is consistent between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
