//! The device type: checked memory, launches and read-backs on a backend. The types refer to one another (memory frees itself on its
//! device, an event is waited for on it), so they share a file.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytemuck::Pod;
use ptx_vm::LaunchStats;

use super::backend::{Backend, Handle, Read, Result, lock};
use super::error::DeviceError;
use super::info::{DeviceInfo, DeviceKind, Launch, MemoryInfo, Work};
use super::interrupt::{Interrupter, Interruption};
use super::kernel::{Kernel, KernelInner, param_bytes};
use super::module::Module;
use super::recording::{Command, RECORDING};

/// Observes all work of a device: the hook for profilers. Called on the launching thread, after the work was queued.
///
/// Copies between host and device, copies on the device and fills are reported under the names `upload`, `download`, `copy` and `fill`,
/// with an empty grid; so is a `fetch`, whose copy runs alongside the stream: its reported time is that of queueing it.
pub trait LaunchObserver: Send + Sync {
    /// `start` and `end` were recorded on the stream around the launch; reading the time between them waits for the kernel, so do that
    /// later. `stats` comes from a VM opened with counters.
    fn launched(&self, launch: &Launch<'_>, start: Event, end: Event, stats: Option<LaunchStats>);
}

/// A GPU or a virtual one. Clones share the device.
#[derive(Clone)]
pub struct Device(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) backend: Box<dyn Backend>,
    pub(super) info: DeviceInfo,
    pub(super) modules: Mutex<HashMap<Module, Handle>>,
    pub(super) kernels: Mutex<HashMap<(Module, String), Kernel>>,
    pub(super) observer: RwLock<Option<Arc<dyn LaunchObserver>>>,
    pub(super) allocated: AtomicUsize,
    pub(super) peak: AtomicUsize,
    /// The maximum of allocated bytes.
    pub(super) limit: AtomicUsize,
    /// Address of [`Device::scratch`], once it has been requested.
    pub(super) scratch: Mutex<Option<u64>>,
    /// Whether recorded work is submitted to the backend as graphs.
    pub(super) graphs: AtomicBool,
    pub(super) interruption: Arc<Interruption>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(ptr) = *lock(&self.scratch) {
            self.backend.free(ptr, Device::SCRATCH);
        }
    }
}

impl Device {
    pub(super) fn new(backend: Box<dyn Backend>, info: DeviceInfo, interruption: Arc<Interruption>) -> Self {
        interruption.includes(backend.vm());
        Self(Arc::new(Inner {
            backend,
            info,
            modules: Mutex::default(),
            kernels: Mutex::default(),
            observer: RwLock::default(),
            allocated: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            scratch: Mutex::default(),
            graphs: AtomicBool::new(true),
            interruption,
        }))
    }

    /// Name, memory, versions.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Whether this is the virtual GPU.
    pub fn is_vm(&self) -> bool {
        self.0.info.kind == DeviceKind::Vm
    }

    /// Whether two handles refer to the same opened device, so that memory of one can be used with the other.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Allocates uninitialised memory, aligned to 256 bytes. A length of 0 is allowed.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the requested and the free bytes.
    pub fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.not_recording("an allocation")?;
        self.going()?;
        let ptr = self.claim(bytes)?;
        Ok(Memory { device: self.clone(), ptr, bytes })
    }

    /// Allocates memory from the backend and counts it.
    fn claim(&self, bytes: usize) -> Result<u64> {
        let allocated = &self.0.allocated;
        let before = allocated.fetch_add(bytes, Ordering::Relaxed);
        let free = self.0.limit.load(Ordering::Relaxed).saturating_sub(before);
        let made = if bytes <= free {
            // A null pointer switches features of kernels off, so that even an empty allocation needs an address.
            self.0.backend.alloc(bytes.max(1))
        } else {
            Err(DeviceError::OutOfMemory { device: self.0.info.id.clone(), asked: bytes, free })
        };
        let ptr = made.inspect_err(|_| {
            allocated.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        self.0.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(ptr)
    }

    /// Bytes of [`Device::scratch`]; the first [`Device::SCRATCH_ZEROS`] of them are zeros.
    pub(crate) const SCRATCH: usize = Self::SCRATCH_ZEROS + (24 << 20);
    pub(crate) const SCRATCH_ZEROS: usize = 16 << 10;

    /// Scratch memory through which the blocks of one kernel exchange data; a kernel that changes the zeros at its beginning resets them.
    /// One buffer is enough, because kernels run one after the other. Allocated at the first request, even while recording, and kept as
    /// long as the device: graphs may hold its address.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub(crate) fn scratch(&self) -> Result<u64> {
        let mut scratch = lock(&self.0.scratch);
        if let Some(ptr) = *scratch {
            return Ok(ptr);
        }
        let ptr = *scratch.insert(self.claim(Self::SCRATCH)?);
        if let Err(error) = self.0.backend.fill(ptr, 0, Self::SCRATCH_ZEROS) {
            *scratch = None;
            self.0.backend.free(ptr, Self::SCRATCH);
            self.0.allocated.fetch_sub(Self::SCRATCH, Ordering::Relaxed);
            return Err(error);
        }
        Ok(ptr)
    }

    /// Bytes of [`Device::scratch`], once it has been requested.
    pub(crate) fn scratch_bytes(&self) -> usize {
        lock(&self.0.scratch).map_or(0, |_| Self::SCRATCH)
    }

    /// Bytes of all live allocations on this device.
    pub fn allocated_bytes(&self) -> usize {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// The peak of [`Device::allocated_bytes`].
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Resets [`Device::peak_bytes`] to the bytes allocated now.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.allocated_bytes(), Ordering::Relaxed);
    }

    /// Free and total memory.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn memory(&self) -> Result<MemoryInfo> {
        let MemoryInfo { free, total } = self.0.backend.memory()?;
        let limit = self.0.limit.load(Ordering::Relaxed);
        Ok(MemoryInfo { free: free.min(limit.saturating_sub(self.allocated_bytes())), total: total.min(limit) })
    }

    /// Copies bytes to `dst[offset..]`; `src` may be reused after the call returns.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::ForeignMemory`], or errors of the driver.
    pub fn upload(&self, dst: &Memory, offset: usize, src: &[u8]) -> Result<()> {
        self.not_recording("an upload")?;
        self.going()?;
        let dst = self.address(dst, offset, src.len())?;
        if src.is_empty() { Ok(()) } else { self.observed("upload", 0, src.len(), || self.0.backend.upload(dst, src)) }
    }

    /// Copies `src[offset..]` to the host, after all work queued before.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn download(&self, src: &Memory, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.not_recording("a download")?;
        self.going()?;
        let src = self.address(src, offset, dst.len())?;
        let bytes = dst.len();
        if bytes == 0 { Ok(()) } else { self.observed("download", bytes, 0, || self.0.backend.download(src, dst)) }
    }

    /// Copies on the device. The ranges must not overlap.
    ///
    /// # Errors
    /// As [`Device::upload`]; [`DeviceError::Overlap`].
    pub fn copy(&self, dst: &Memory, dst_offset: usize, src: &Memory, src_offset: usize, bytes: usize) -> Result<()> {
        let (dst, src) = (self.address(dst, dst_offset, bytes)?, self.address(src, src_offset, bytes)?);
        if bytes == 0 {
            return Ok(());
        }
        if dst.abs_diff(src) < bytes as u64 {
            return Err(DeviceError::Overlap { dst, src, bytes });
        }
        if self.recorded(|| Command::Copy { dst, src, bytes }) {
            return Ok(());
        }
        self.going()?;
        self.observed("copy", bytes, bytes, || self.0.backend.copy(dst, src, bytes))
    }

    /// Sets every byte of `dst[range]`.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn fill(&self, dst: &Memory, range: Range<usize>, byte: u8) -> Result<()> {
        let bytes = range.end.saturating_sub(range.start);
        let dst = self.address(dst, range.start, bytes)?;
        if bytes == 0 || self.recorded(|| Command::Fill { dst, byte, bytes }) {
            return Ok(());
        }
        self.going()?;
        self.observed("fill", 0, bytes, || self.0.backend.fill(dst, byte, bytes))
    }

    /// Runs a memory operation, reported to the observer if there is one.
    pub(super) fn observed(
        &self,
        name: &str,
        bytes_read: usize,
        bytes_written: usize,
        run: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some(observer) = self.observer() else { return run() };
        let start = self.record()?;
        run()?;
        let work = Work { flops: 0, bytes_read: bytes_read as u64, bytes_written: bytes_written as u64 };
        let launch = Launch { kernel: name, grid: [0; 3], block: [0; 3], shared: 0, work };
        observer.launched(&launch, start, self.record()?, None);
        Ok(())
    }

    pub(super) fn address(&self, memory: &Memory, offset: usize, bytes: usize) -> Result<u64> {
        if !self.same(&memory.device) {
            return Err(DeviceError::ForeignMemory {
                device: self.0.info.id.clone(),
                owner: memory.device.0.info.id.clone(),
            });
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= memory.bytes => Ok(memory.ptr + offset as u64),
            _ => Err(DeviceError::OutOfRange { offset, bytes, allocation: memory.bytes }),
        }
    }

    /// An entry of an embedded module, loaded at the first request and cached.
    ///
    /// # Errors
    /// [`DeviceError::DriverTooOld`], [`DeviceError::Load`], or [`DeviceError::NoEntry`].
    pub fn kernel(&self, module: Module, entry: &str) -> Result<Kernel> {
        let key = (module, entry.to_owned());
        if let Some(kernel) = lock(&self.0.kernels).get(&key) {
            return Ok(kernel.clone());
        }
        let name = module.name();
        let ptx = module.ptx().ok_or_else(|| DeviceError::Load {
            module: name.into(),
            reason: format!("this build embedded no ptx/{}/{name}.ptx", module.architecture().name),
        })?;
        // Held while loading: two threads must not compile one module twice.
        let mut modules = lock(&self.0.modules);
        let handle = match modules.get(&module) {
            Some(handle) => handle.clone(),
            None => {
                let handle = self.0.backend.load(name, ptx)?;
                modules.insert(module, handle.clone());
                handle
            }
        };
        drop(modules);
        let kernel = self.entry(&handle, name, ptx, entry)?;
        lock(&self.0.kernels).insert(key, kernel.clone());
        Ok(kernel)
    }

    /// An entry of your own PTX. Nothing is cached: keep the kernel.
    ///
    /// # Errors
    /// As [`Device::kernel`].
    pub fn kernel_from_ptx(&self, name: &str, ptx: &str, entry: &str) -> Result<Kernel> {
        let module = self.0.backend.load(name, ptx)?;
        self.entry(&module, name, ptx, entry)
    }

    fn entry(&self, handle: &Handle, module: &str, ptx: &str, entry: &str) -> Result<Kernel> {
        let param_bytes = param_bytes(ptx, entry)
            .ok_or_else(|| DeviceError::NoEntry { module: module.into(), entry: entry.into() })?;
        self.going()?;
        let handle = self.0.backend.entry(handle, entry)?;
        Ok(Kernel(Arc::new(KernelInner { name: entry.into(), param_bytes, handle })))
    }

    /// Queues a kernel. `params` is the struct that the entry takes as its only parameter.
    ///
    /// The struct holds device addresses: the caller must ensure that they are valid while the kernel runs.
    ///
    /// # Errors
    /// [`DeviceError::ParamSize`] if the struct does not match the entry; [`DeviceError::Launch`] if the driver refuses;
    /// [`DeviceError::Fault`] if the VM found a fault. A GPU reports faults of a kernel at a later call.
    pub fn launch<P: Pod>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &P,
    ) -> Result<()> {
        let launch = Launch { kernel: kernel.name(), grid, block, shared, work: Work::default() };
        self.launch_counted(kernel, &launch, params)
    }

    /// As [`Device::launch`], with the launch's work for observers.
    pub(crate) fn launch_counted<P: Pod>(&self, kernel: &Kernel, launch: &Launch<'_>, params: &P) -> Result<()> {
        let inner = &*kernel.0;
        let &Launch { grid, block, shared, work, .. } = launch;
        let params = bytemuck::bytes_of(params);
        if params.len() != inner.param_bytes {
            return Err(DeviceError::ParamSize {
                kernel: inner.name.clone(),
                given: params.len(),
                expected: inner.param_bytes,
            });
        }
        if grid.contains(&0) || block.contains(&0) {
            return Err(DeviceError::launch(launch, &self.0.info.id, "grid and block must not be empty"));
        }
        if [grid[1], grid[2]].iter().any(|&n| n > 65535) {
            return Err(DeviceError::launch(launch, &self.0.info.id, "grid y and z can be 65535 at most"));
        }
        let command = || Command::Launch { kernel: kernel.clone(), grid, block, shared, work, params: params.into() };
        if self.recorded(command) {
            return Ok(());
        }
        self.submit(kernel, launch, params)
    }

    /// Queues a launch whose arguments were checked, reported to the observer if there is one.
    pub(super) fn submit(&self, kernel: &Kernel, launch: &Launch<'_>, params: &[u8]) -> Result<()> {
        self.going()?;
        let handle = &kernel.0.handle;
        let Some(observer) = self.observer() else {
            return self.0.backend.launch(handle, launch, params).map(drop);
        };
        let start = self.record()?;
        let stats = self.0.backend.launch(handle, launch, params)?;
        observer.launched(launch, start, self.record()?, stats);
        Ok(())
    }

    /// Sets the observer of later launches; `None` removes it.
    pub fn observe(&self, observer: Option<Arc<dyn LaunchObserver>>) {
        *self.0.observer.write().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    pub(super) fn observer(&self) -> Option<Arc<dyn LaunchObserver>> {
        self.0.observer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records an event on the stream: a point in time for [`Event::seconds_since`].
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn record(&self) -> Result<Event> {
        Ok(Event { handle: self.0.backend.record()?, device: self.clone() })
    }

    /// Starts copying `src[offset..offset + bytes]` to page-locked host memory and returns at once; the copy is ordered on the stream.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn read_async(&self, src: &Memory, offset: usize, bytes: usize) -> Result<PendingRead> {
        self.not_recording("a read-back")?;
        self.going()?;
        let src = self.address(src, offset, bytes)?;
        Ok(PendingRead { read: self.0.backend.read_async(src, bytes)?, _device: self.clone() })
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// Faults of kernels that ran in the meantime.
    pub fn synchronize(&self) -> Result<()> {
        self.0.backend.synchronize()
    }

    /// A handle with which other threads can interrupt this device.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.0.interruption.clone())
    }

    /// An interrupted device starts no work.
    pub(super) fn going(&self) -> Result<()> {
        if self.0.interruption.asked() {
            return Err(DeviceError::Interrupted { device: self.0.info.id.clone() });
        }
        Ok(())
    }

    /// Ends the graph being recorded and begins the next; returns false, without effect, if none is being recorded.
    pub fn cut(&self) -> bool {
        self.recording(|parts| parts.push(vec![])).is_some()
    }

    /// Records a command, if a recording is on.
    pub(super) fn recorded(&self, command: impl FnOnce() -> Command) -> bool {
        self.recording(|parts| parts.last_mut().map(|part| part.push(command()))).is_some()
    }

    pub(super) fn not_recording(&self, call: &'static str) -> Result<()> {
        match self.recording(|_| ()) {
            Some(()) => Err(DeviceError::Recording { call }),
            None => Ok(()),
        }
    }

    /// This thread's recording of this device, if there is one.
    fn recording<T>(&self, use_it: impl FnOnce(&mut Vec<Vec<Command>>) -> T) -> Option<T> {
        RECORDING.with_borrow_mut(|recording| {
            let recording = recording.as_mut().filter(|recording| recording.device == self.identity())?;
            Some(use_it(&mut recording.parts))
        })
    }

    pub(super) fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.0.info.label())
    }
}

/// An allocation; freed on drop, after the kernels that were queued before.
pub struct Memory {
    device: Device,
    ptr: u64,
    bytes: usize,
}

impl Memory {
    /// The device address.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device that the memory is on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.0.backend.free(self.ptr, self.bytes.max(1));
        self.device.0.allocated.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:#x}, {} bytes, {})", self.ptr, self.bytes, self.device.0.info.id)
    }
}

/// A point on a device's stream.
#[derive(Clone)]
pub struct Event {
    handle: Handle,
    device: Device,
}

impl Event {
    /// Whether it has happened.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn ready(&self) -> Result<bool> {
        self.device.0.backend.happened(&self.handle)
    }

    /// Waits until it has happened, but not for work queued after it.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn wait(&self) -> Result<()> {
        self.device.0.backend.await_event(&self.handle)
    }

    /// Seconds from `start` to this event, both of the same device; waits until both have happened.
    ///
    /// # Errors
    /// Events of two devices, or errors of the driver.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        Ok(self.device.0.backend.elapsed(&start.handle, &self.handle)?.as_secs_f64())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.device.0.info.id)
    }
}

/// Bytes in flight from the device. It may be dropped unread.
pub struct PendingRead {
    // Declared before the device: pinned memory goes back to a backend that still lives.
    read: Box<dyn Read>,
    _device: Device,
}

impl PendingRead {
    /// Whether [`PendingRead::wait`] would return at once.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn ready(&self) -> Result<bool> {
        self.read.ready()
    }

    /// Waits for the copy, but not for work queued after it.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.read.wait()
    }

    /// As [`PendingRead::wait`], as values, such as `f64` sums. A trailing partial value is dropped.
    ///
    /// # Errors
    /// As [`PendingRead::wait`].
    pub fn wait_as<T: Pod>(self) -> Result<Vec<T>> {
        let size = size_of::<T>().max(1);
        Ok(self.wait()?.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect())
    }
}

impl fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingRead")
    }
}
