//! The device: memory calls, and what it keeps from launch to launch.

mod launch;

use super::adverse::POISON;
use super::pool::Pool;
use crate::error::{Fault, FaultKind};
use crate::memory::{Allocation, DevicePtr, Heap, Live, MemoryError, Region, Table};
use crate::run::config::VmConfig;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A virtual GPU with its memory and its worker threads.
pub struct Vm {
    config: VmConfig,
    /// Launches and memory calls work on the table as it was when they began, and nobody waits for anybody.
    table: RwLock<Arc<Table>>,
    allocated: AtomicUsize,
    peak: AtomicUsize,
    heap: Heap,
    printed: Mutex<String>,
    /// Where kernels have stored undefined values, and which store it was.
    leaks: Mutex<VecDeque<(Range<u64>, Box<Fault>)>>,
    /// Calls of `interrupt` and `resume` that changed anything: odd while launches are to end.
    interrupts: AtomicU64,
    launches: AtomicU64,
    pool: Pool,
    helpers: usize,
}

/// The stores of undefined values of a launch, by instruction: the lowest block that did it, where all went, and that block's report.
type Leaks = BTreeMap<usize, (u64, Range<u64>, Box<Fault>)>;

/// Stores of undefined values remembered for reports.
const LEAKS: usize = 1024;

impl Vm {
    /// A device with no memory allocated.
    pub fn new(config: VmConfig) -> Vm {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let helpers = if config.threads == 0 { cores } else { config.threads }.min(VmConfig::MOST_THREADS) - 1;
        let pool = Pool::new(helpers);
        let heap = Heap::new(config.heap_bytes.unwrap_or(8 << 20), config.checked);
        Vm {
            config,
            table: RwLock::default(),
            allocated: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            heap,
            printed: Mutex::default(),
            leaks: Mutex::default(),
            interrupts: AtomicU64::new(0),
            launches: AtomicU64::new(0),
            pool,
            helpers,
        }
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the table for all that begins later.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(Arc::make_mut(&mut self.table.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reserves exactly `bytes` bytes, aligned to 256; their content is undefined until written.
    pub fn alloc(&self, bytes: usize) -> Result<DevicePtr, MemoryError> {
        self.alloc_labelled(bytes, "")
    }

    /// As [`Vm::alloc`], with a name for reports.
    pub fn alloc_labelled(&self, bytes: usize, label: &str) -> Result<DevicePtr, MemoryError> {
        let allocated = self.allocated.load(Ordering::Relaxed);
        let limit = self.config.memory_limit.unwrap_or(usize::MAX);
        let full = MemoryError::OutOfMemory { requested: bytes, allocated, limit };
        if bytes > limit.saturating_sub(allocated) {
            return Err(full);
        }
        let allocation = Allocation::new(bytes, false, self.config.checked, label).ok_or(full)?;
        if self.config.adverse.is_some() {
            // SAFETY: the allocation has as many bytes, and nobody else knows of it.
            unsafe { std::ptr::write_bytes(allocation.host(), POISON, bytes) };
        }
        let base = allocation.base;
        self.change(|table| table.insert(allocation));
        let now = self.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(base)
    }

    /// Gives an allocation back. The null pointer is allowed and does nothing. Launches under way keep the memory until they end.
    pub fn free(&self, ptr: DevicePtr) -> Result<(), MemoryError> {
        if ptr == 0 {
            return Ok(());
        }
        let gone = self.change(|table| table.remove(ptr))?;
        self.allocated.fetch_sub(gone.len, Ordering::Relaxed);
        Ok(())
    }

    /// The allocation or mapped region that holds `ptr`.
    pub fn region(&self, ptr: DevicePtr) -> Option<Region> {
        self.table().find(ptr).cloned().map(Region)
    }

    /// Lets memory calls and launches of this device use a region from now on; launches under way do not see it. A region that is mapped
    /// already, or an allocation of this device, stays as it is. What is mapped counts neither as allocated nor as live.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`] when other memory of this device has some of the addresses.
    pub fn map(&self, region: &Region) -> Result<(), MemoryError> {
        self.change(|table| table.map(&region.0))
    }

    /// Ends [`Vm::map`] of the region that begins at `ptr`. Launches under way may use it until they end.
    ///
    /// # Errors
    /// [`MemoryError::NotMapped`] when no mapped region begins there.
    pub fn unmap(&self, ptr: DevicePtr) -> Result<(), MemoryError> {
        self.change(|table| table.unmap(ptr))
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

    /// Device to host. In checked mode all bits have to be defined: written by the host, or computed from what is defined.
    ///
    /// # Errors
    /// Besides addresses that are not inside one allocation: [`MemoryError::Undefined`], with the store that did it if a kernel did.
    pub fn read(&self, ptr: DevicePtr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        match self.undefined(ptr, bytes.len())? {
            Some(error) => Err(error),
            None => self.read_anyway(ptr, bytes),
        }
    }

    /// The first byte of a range that has undefined bits, as the error that [`Vm::read`] gives. None outside checked mode.
    ///
    /// # Errors
    /// Addresses that are not inside one allocation.
    pub fn undefined(&self, ptr: DevicePtr, len: usize) -> Result<Option<MemoryError>, MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, len)?;
        if !self.config.report.contains(FaultKind::Uninitialised) {
            return Ok(None);
        }
        let Some(first) = allocation.first_undefined(offset, len) else { return Ok(None) };
        let address = ptr + first as u64;
        let leaks = self.leaks.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = leaks.iter().rev().find(|(range, _)| range.contains(&address)).map(|(_, fault)| fault.clone());
        let (offset, label) = (offset + first, allocation.name.clone());
        Ok(Some(MemoryError::Undefined { ptr: address, offset, label, cause }))
    }

    /// The last store of undefined bits to a range that still has some.
    pub(crate) fn leak(&self, ptr: DevicePtr, len: usize) -> Option<Box<Fault>> {
        if !self.config.report.contains(FaultKind::Uninitialised) {
            return None;
        }
        let table = self.table();
        let (allocation, _) = table.range(ptr, len).ok()?;
        let leaks = self.leaks.lock().unwrap_or_else(PoisonError::into_inner);
        let undefined = |range: &Range<u64>| {
            let (first, end) = (range.start.max(ptr), range.end.min(ptr + len as u64));
            first < end
                && allocation.first_undefined((first - allocation.base) as usize, (end - first) as usize).is_some()
        };
        leaks.iter().rev().find(|(range, _)| undefined(range)).map(|(_, fault)| fault.clone())
    }

    /// As [`Vm::read`], with whatever stands where bits are undefined.
    ///
    /// # Errors
    /// Addresses that are not inside one allocation.
    pub fn read_anyway(&self, ptr: DevicePtr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(allocation.host().add(offset), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Which of `len` bytes at `ptr` are defined; none where nobody keeps account of that (only checked mode does).
    pub(crate) fn written(&self, ptr: DevicePtr, len: usize) -> Option<Vec<bool>> {
        let table = self.table();
        let (allocation, offset) = table.range(ptr, len).ok()?;
        let undefined = allocation.undefined.as_ref()?;
        Some(undefined[offset..offset + len].iter().map(|bits| bits.load(Ordering::Relaxed) == 0).collect())
    }

    /// Device to device; the ranges may overlap.
    pub fn copy(&self, dst: DevicePtr, src: DevicePtr, len: usize) -> Result<(), MemoryError> {
        let table = self.table();
        let (from, from_offset) = table.range(src, len)?;
        let (to, to_offset) = table.range(dst, len)?;
        // SAFETY: both ranges are inside their allocations.
        unsafe { std::ptr::copy(from.host().add(from_offset), to.host().add(to_offset), len) };
        to.copy_undefined(to_offset, from, from_offset, len);
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

    /// What is allocated now, in the order of allocation.
    pub fn live(&self) -> Vec<Live> {
        self.table().list()
    }

    /// Ends the device. Whatever is still allocated is given back all the same, and listed in the error.
    pub fn close(self) -> Result<(), MemoryError> {
        let live = self.live();
        if live.is_empty() { Ok(()) } else { Err(MemoryError::Leaked(live)) }
    }

    /// Bytes allocated now.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The most bytes ever allocated at a time.
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// What kernels have written with `printf` since this was last asked: launch after launch, the blocks of each in order.
    pub fn take_printed(&self) -> String {
        std::mem::take(&mut *self.printed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What `malloc` gave to kernels and `free` has not taken back: address and bytes. They stay from launch to launch.
    pub fn heap(&self) -> Vec<(DevicePtr, usize)> {
        self.heap.live()
    }

    /// Ends every launch that runs now, and every one begun from now on, with [`FaultKind::Interrupted`]: within milliseconds, whatever
    /// the kernels do. Memory keeps what they have written so far. Meant to be called from another thread.
    pub fn interrupt(&self) {
        self.interrupts.fetch_or(1, Ordering::Relaxed);
    }

    /// Launches run again. Those that [`Vm::interrupt`] met still end, even when they have not come to it yet.
    pub fn resume(&self) {
        let next = |n: u64| (n & 1 == 1).then(|| n + 1);
        // An error says that nothing was interrupted.
        let _ = self.interrupts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn remember(&self, leaks: Leaks) {
        if leaks.is_empty() {
            return;
        }
        let mut all = self.leaks.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(leaks.into_values().map(|(_, range, fault)| (range, fault)));
        let old = all.len().saturating_sub(LEAKS);
        all.drain(..old);
    }
}
