//! A device that runs nothing. Memory has addresses and sizes but no content, launches have shapes but no effect: callers take the same
//! path as on a GPU of the given size, and an observer counts the work.

use super::backend::{Backend, Handle, Read, Result, lock};
use super::error::DeviceError;
use super::info::{DeviceInfo, DeviceKind, Launch, MemoryInfo};
use ptx_vm::LaunchStats;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;

const ID: &str = "dry";
const ALIGNMENT: u64 = 256;

/// The GPU that a dry device imitates, as far as launches depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryConfig {
    /// Its name.
    pub name: String,
    /// Bytes of memory; allocating more is an error.
    pub memory: usize,
    /// Streaming multiprocessors, which determine the choice of tiles.
    pub units: usize,
    /// Compute capability.
    pub compute_capability: (u32, u32),
}

pub(super) struct DryBackend {
    memory: usize,
    next: AtomicU64,
    /// Bytes by address.
    living: Mutex<HashMap<u64, usize>>,
}

impl DryBackend {
    pub(super) fn new(config: DryConfig) -> (Self, DeviceInfo) {
        let info = DeviceInfo {
            id: ID.into(),
            kind: DeviceKind::Dry,
            name: config.name,
            memory: config.memory,
            compute_capability: Some(config.compute_capability),
            driver: None,
            units: config.units,
            pci: None,
            unavailable: None,
        };
        (Self { memory: config.memory, next: AtomicU64::new(ALIGNMENT), living: Mutex::default() }, info)
    }

    fn used(&self) -> usize {
        lock(&self.living).values().sum()
    }
}

impl Backend for DryBackend {
    fn alloc(&self, bytes: usize) -> Result<u64> {
        let free = self.memory.saturating_sub(self.used());
        if bytes > free {
            return Err(DeviceError::OutOfMemory { device: ID.into(), asked: bytes, free });
        }
        let ptr = self.next.fetch_add((bytes as u64).next_multiple_of(ALIGNMENT), Ordering::Relaxed);
        lock(&self.living).insert(ptr, bytes);
        Ok(ptr)
    }

    fn free(&self, ptr: u64, _bytes: usize) {
        lock(&self.living).remove(&ptr);
    }

    fn upload(&self, _dst: u64, _src: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _src: u64, dst: &mut [u8]) -> Result<()> {
        dst.fill(0);
        Ok(())
    }

    fn copy(&self, _dst: u64, _src: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _dst: u64, _byte: u8, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn load(&self, _name: &str, _ptx: &str) -> Result<Handle> {
        Ok(Arc::new(()))
    }

    fn entry(&self, module: &Handle, _entry: &str) -> Result<Handle> {
        Ok(module.clone())
    }

    fn launch(&self, _entry: &Handle, _launch: &Launch<'_>, _params: &[u8]) -> Result<Option<LaunchStats>> {
        Ok(None)
    }

    fn record(&self) -> Result<Handle> {
        Ok(Arc::new(()))
    }

    fn happened(&self, _event: &Handle) -> Result<bool> {
        Ok(true)
    }

    fn await_event(&self, _event: &Handle) -> Result<()> {
        Ok(())
    }

    fn elapsed(&self, _start: &Handle, _end: &Handle) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn read_async(&self, _src: u64, bytes: usize) -> Result<Box<dyn Read>> {
        Ok(Box::new(Zeros(bytes)))
    }

    fn pin(&self, _content: Vec<u8>) -> Result<Handle> {
        Ok(Arc::new(()))
    }

    fn fetch(&self, _dst: u64, _src: &Handle) -> Result<()> {
        Ok(())
    }

    fn fetched(&self, _dst: u64) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo { free: self.memory.saturating_sub(self.used()), total: self.memory })
    }
}

/// The result of a read-back from memory without content.
struct Zeros(usize);

impl Read for Zeros {
    fn ready(&self) -> Result<bool> {
        Ok(true)
    }

    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(vec![0; self.0])
    }
}
