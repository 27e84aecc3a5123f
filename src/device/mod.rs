//! Where kernels run: one [`Device`] type over two backends, a CUDA GPU and the virtual GPU `ptx-vm`.
//!
//! Both run the same PTX. A device owns one stream: uploads, launches and read-backs happen in the order in which they were
//! asked for. Handles are cheap to clone, free what they own when the last clone goes, and may be used from any thread.
//!
//! ```
//! use adacache::device::Device;
//! # fn main() -> Result<(), adacache::device::DeviceError> {
//! let device = Device::open("auto")?; // a GPU when a driver answers, else the virtual GPU
//! let memory = device.alloc(4)?;
//! device.upload(&memory, 0, &[1, 2, 3, 4])?;
//! let mut back = [0; 4];
//! device.download(&memory, 0, &mut back)?;
//! assert_eq!(back, [1, 2, 3, 4]);
//! # Ok(())
//! # }
//! ```

mod cuda;
mod dry;
mod error;
mod fetch;
mod graph;
mod interrupt;
mod module;
mod vm;

pub use dry::DryConfig;
pub use error::{DeviceError, GpuFault};
pub use fetch::HostMemory;
pub use graph::Graph;
pub use interrupt::Interrupter;
pub use module::Module;
pub use ptx_vm::{LaunchStats, MmaRounding, VmConfig};

use bytemuck::Pod;
use interrupt::Interruption;
use ptx_vm::Vm;
use serde::Serialize;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// What a backend keeps of a loaded entry, an event or a read-back: only the backend that made it can look inside.
type Handle = Arc<dyn Any + Send + Sync>;

/// The whole of what differs between a GPU and the VM. Addresses are device pointers; every range has been checked.
trait Backend: Send + Sync {
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Frees what [`Backend::alloc`] gave for so many bytes; a failure has nowhere to go but the log.
    fn free(&self, ptr: u64, bytes: usize);
    /// Blocks until `src` may be reused.
    fn upload(&self, dst: u64, src: &[u8]) -> Result<()>;
    /// Blocks until `dst` is filled.
    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()>;
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()>;
    fn fill(&self, dst: u64, byte: u8, bytes: usize) -> Result<()>;
    /// Loads PTX text; `name` is for messages.
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
    /// Host memory with this content that [`Backend::fetch`] copies from.
    fn pin(&self, content: Vec<u8>) -> Result<Handle>;
    /// Starts a copy of all of `src` behind what is queued now; what is queued later does not wait for it.
    fn fetch(&self, dst: u64, src: &Handle) -> Result<()>;
    /// What is queued from now on waits for the last fetch to `dst`, if there is one under way.
    fn fetched(&self, dst: u64) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
    fn memory(&self) -> Result<MemoryInfo>;
    /// Makes a graph of what `submit` queues, which is queued into the graph alone; `None` where the backend has no graphs.
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

/// A read-back under way.
trait Read: Send + Sync {
    fn ready(&self) -> Result<bool>;
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Which backend a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The virtual GPU on this machine's CPU.
    Vm,
    /// A CUDA GPU.
    Cuda,
    /// None: nothing runs, everything is counted; see [`Device::dry`].
    Dry,
}

/// What is known about a device without running anything on it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// What [`Device::open`] takes: `vm`, `cuda:0`.
    pub id: String,
    /// Which backend.
    pub kind: DeviceKind,
    /// The product name, or the CPU of the VM.
    pub name: String,
    /// Total memory in bytes; for the VM that of the host.
    pub memory: usize,
    /// Compute capability. The VM's is that of the PTX it runs.
    pub compute_capability: Option<(u32, u32)>,
    /// The newest CUDA version that the driver knows.
    pub driver: Option<(u32, u32)>,
    /// Streaming multiprocessors; of the VM, threads.
    pub units: usize,
    /// PCI bus id of a GPU: what other tools of the driver know it by.
    pub pci: Option<String>,
    /// Why the device cannot be used; `None` when it can.
    pub unavailable: Option<String>,
}

impl DeviceInfo {
    /// The label that every timing carries: id and name.
    pub fn label(&self) -> String {
        format!("{} ({})", self.id, self.name)
    }
}

/// Free and total memory, in bytes: the device's, or within [`Device::limit_memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What can still be allocated.
    pub free: usize,
    /// What there is.
    pub total: usize,
}

/// What a launch does, from the shapes of its arguments: a figure of the task, not of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Operations of its matrix products, two a multiply-add. What surrounds them is not counted.
    pub flops: u64,
    /// The least it has to read: every argument once.
    pub bytes_read: u64,
    /// The least it has to write.
    pub bytes_written: u64,
}

impl Work {
    /// The least it has to move.
    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }
}

/// One launch, as errors and observers see it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Entry name.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// What it does, where the launcher said so.
    pub work: Work,
}

/// Sees everything a device is told to do: the hook of profilers. Called on the launching thread, after the work was queued.
///
/// Copies between the host and the device, copies on the device and fills are seen under the names `upload`, `download`,
/// `copy` and `fill`, with an empty grid; so is a `fetch`, whose copy runs beside the stream: the time seen is that of queueing it.
pub trait LaunchObserver: Send + Sync {
    /// `start` and `end` were recorded on the stream around the launch; reading the time between them waits for the kernel, so
    /// do that later. `stats` comes from a VM opened with counters.
    fn launched(&self, launch: &Launch<'_>, start: Event, end: Event, stats: Option<LaunchStats>);
}

/// A GPU or a virtual one. Clones share the device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Box<dyn Backend>,
    info: DeviceInfo,
    modules: Mutex<HashMap<Module, Handle>>,
    kernels: Mutex<HashMap<(Module, String), Kernel>>,
    observer: RwLock<Option<Arc<dyn LaunchObserver>>>,
    allocated: AtomicUsize,
    peak: AtomicUsize,
    /// The most that may be allocated.
    limit: AtomicUsize,
    /// Address of [`Device::scratch`], once somebody asked for it.
    scratch: Mutex<Option<u64>>,
    /// Whether recorded work is given to the backend as graphs.
    graphs: AtomicBool,
    interruption: Arc<Interruption>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(ptr) = *lock(&self.scratch) {
            self.backend.free(ptr, Device::SCRATCH);
        }
    }
}

/// The lock's content, also after a panic elsewhere: everything behind our locks stays whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Opens a device by name: `auto` (the first usable GPU, else the VM), `vm`, `vm:checked` (which also finds races,
    /// uninitialised reads and divergent barriers, several times slower), `vm:truncate` (whose tensor cores add as hardware's do, cut off
    /// instead of rounded), `vm:adverse:SEED` (which takes every liberty that hardware has: warps and blocks out of order, copies and stores as
    /// late as they may be, poison in fresh memory), `cuda` (the first GPU) or `cuda:N`.
    ///
    /// # Errors
    /// [`DeviceError::UnknownDevice`] for another name; [`DeviceError::NoDriver`], [`DeviceError::DriverTooOld`], [`DeviceError::NoDevice`],
    /// [`DeviceError::Unsupported`] or [`DeviceError::Driver`] when the GPU asked for cannot be used. `auto` and `vm` always succeed; where
    /// there should be a GPU and `auto` cannot use it, a warning (of `tracing`) says why.
    pub fn open(spec: &str) -> Result<Self> {
        match spec {
            "auto" => Ok(Self::usable_gpu().unwrap_or_else(|reason| {
                if let Some(reason) = reason {
                    tracing::warn!("taking the virtual GPU, as no other can be used: {reason}");
                }
                Self::vm(VmConfig::default())
            })),
            "vm" => Ok(Self::vm(VmConfig::default())),
            "vm:checked" => Ok(Self::vm(VmConfig { checked: true, ..VmConfig::default() })),
            "vm:truncate" => Ok(Self::vm(VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() })),
            "cuda" => Self::cuda(0),
            _ => {
                let number = |prefix| spec.strip_prefix(prefix).map(str::parse);
                match (number("cuda:"), spec.strip_prefix("vm:adverse:").map(str::parse)) {
                    (Some(Ok(ordinal)), _) => Self::cuda(ordinal),
                    (_, Some(Ok(seed))) => Ok(Self::vm(VmConfig::adverse(seed))),
                    _ => Err(DeviceError::UnknownDevice { spec: spec.into() }),
                }
            }
        }
    }

    /// The first GPU that opens, or why there is none: nothing where none is to be expected.
    fn usable_gpu() -> Result<Self, Option<String>> {
        let mut reason = None;
        for ordinal in cuda::usable()? {
            match Self::cuda(ordinal) {
                Ok(device) => return Ok(device),
                Err(error) => reason = reason.or(Some(error.to_string())),
            }
        }
        Err(reason)
    }

    /// A virtual GPU with its own memory.
    pub fn vm(config: VmConfig) -> Self {
        Self::vm_with(config, Arc::default())
    }

    /// As [`Device::vm`], for work beside this device's: whoever interrupts one interrupts the other.
    pub fn vm_beside(&self, config: VmConfig) -> Self {
        Self::vm_with(config, self.0.interruption.clone())
    }

    fn vm_with(config: VmConfig, interruption: Arc<Interruption>) -> Self {
        let info = vm::info(&config);
        Self::new(Box::new(vm::VmBackend::new(config)), info, interruption)
    }

    /// The CUDA GPU with this ordinal.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let (backend, info) = cuda::CudaBackend::open(ordinal)?;
        Ok(Self::new(Box::new(backend), info, Arc::default()))
    }

    /// A device that runs nothing: memory is only counted, launches are only shown to the observer, and what is read back is
    /// zero. With it the same code that generates a video tells what that would take.
    pub fn dry(config: DryConfig) -> Self {
        let (backend, info) = dry::DryBackend::new(config);
        Self::new(Box::new(backend), info, Arc::default())
    }

    fn new(backend: Box<dyn Backend>, info: DeviceInfo, interruption: Arc<Interruption>) -> Self {
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

    /// Every device of this machine: the GPUs, or one entry that says why there is none, then the VM.
    pub fn list() -> Vec<DeviceInfo> {
        let mut devices = cuda::list();
        devices.push(vm::info(&VmConfig::default()));
        devices
    }

    /// Name, memory, versions.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Whether this is the virtual GPU.
    pub fn is_vm(&self) -> bool {
        self.0.info.kind == DeviceKind::Vm
    }

    /// Whether two handles mean the same opened device, so that memory of one can be used with the other.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Allocates uninitialised memory, aligned to 256 bytes. A length of 0 is allowed.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with what was asked and what was free.
    pub fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.not_recording("an allocation")?;
        self.going()?;
        let ptr = self.claim(bytes)?;
        Ok(Memory { device: self.clone(), ptr, bytes })
    }

    /// Takes memory from the backend and counts it.
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

    /// Bytes of [`Device::scratch`], and how many of the first are zeros.
    pub(crate) const SCRATCH: usize = Self::SCRATCH_ZEROS + (24 << 20);
    pub(crate) const SCRATCH_ZEROS: usize = 16 << 10;

    /// Memory for what the blocks of one kernel leave each other; a kernel that changes the zeros at its beginning sets them back. One is
    /// enough, because kernels follow one another. Allocated when first asked for, also while recording, and kept as long as the device:
    /// graphs may hold its address.
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

    /// Bytes of [`Device::scratch`], once it has been asked for.
    pub(crate) fn scratch_bytes(&self) -> usize {
        lock(&self.0.scratch).map_or(0, |_| Self::SCRATCH)
    }

    /// Bytes in living allocations of this device.
    pub fn allocated_bytes(&self) -> usize {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// The most that [`Device::allocated_bytes`] ever was.
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Starts [`Device::peak_bytes`] afresh from what is allocated now.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.allocated_bytes(), Ordering::Relaxed);
    }

    /// Free and total memory.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn memory(&self) -> Result<MemoryInfo> {
        let MemoryInfo { free, total } = self.0.backend.memory()?;
        let limit = self.0.limit.load(Ordering::Relaxed);
        Ok(MemoryInfo { free: free.min(limit.saturating_sub(self.allocated_bytes())), total: total.min(limit) })
    }

    /// Copies bytes to `dst[offset..]`; `src` may be reused on return.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::ForeignMemory`], or what the driver says.
    pub fn upload(&self, dst: &Memory, offset: usize, src: &[u8]) -> Result<()> {
        self.not_recording("an upload")?;
        self.going()?;
        let dst = self.address(dst, offset, src.len())?;
        if src.is_empty() { Ok(()) } else { self.observed("upload", 0, src.len(), || self.0.backend.upload(dst, src)) }
    }

    /// Copies `src[offset..]` to the host, after everything queued before.
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
        if self.recorded(|| graph::Command::Copy { dst, src, bytes }) {
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
        if bytes == 0 || self.recorded(|| graph::Command::Fill { dst, byte, bytes }) {
            return Ok(());
        }
        self.going()?;
        self.observed("fill", 0, bytes, || self.0.backend.fill(dst, byte, bytes))
    }

    /// Runs a memory operation, seen by the observer if there is one.
    fn observed(
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

    fn address(&self, memory: &Memory, offset: usize, bytes: usize) -> Result<u64> {
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

    /// An entry of an embedded module, loaded when first asked for and kept.
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
            reason: format!("this build embedded no ptx/{name}.ptx"),
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

    /// Queues a kernel. `params` is the one struct that the entry takes.
    ///
    /// The struct holds device addresses: whoever fills it answers for their being valid while the kernel runs.
    ///
    /// # Errors
    /// [`DeviceError::ParamSize`] when the struct is not the entry's; [`DeviceError::Launch`] when the driver refuses;
    /// [`DeviceError::Fault`] when the VM found a fault. A GPU reports faults of a kernel at a later call.
    pub fn launch<P: Pod>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &P,
    ) -> Result<()> {
        self.launch_counted(kernel, grid, block, shared, params, Work::default())
    }

    /// As [`Device::launch`], with what the launch does, for observers.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub fn launch_counted<P: Pod>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &P,
        work: Work,
    ) -> Result<()> {
        let inner = &*kernel.0;
        let params = bytemuck::bytes_of(params);
        if params.len() != inner.param_bytes {
            return Err(DeviceError::ParamSize {
                kernel: inner.name.clone(),
                given: params.len(),
                expected: inner.param_bytes,
            });
        }
        let launch = Launch { kernel: &inner.name, grid, block, shared, work };
        if grid.contains(&0) || block.contains(&0) {
            return Err(DeviceError::launch(&launch, &self.0.info.id, "grid and block must not be empty"));
        }
        if [grid[1], grid[2]].iter().any(|&n| n > 65535) {
            return Err(DeviceError::launch(&launch, &self.0.info.id, "grid y and z can be 65535 at most"));
        }
        let command =
            || graph::Command::Launch { kernel: kernel.clone(), grid, block, shared, work, params: params.into() };
        if self.recorded(command) {
            return Ok(());
        }
        self.submit(kernel, &launch, params)
    }

    /// Queues a launch whose arguments were checked, seen by the observer if there is one.
    fn submit(&self, kernel: &Kernel, launch: &Launch<'_>, params: &[u8]) -> Result<()> {
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

    /// Sets who sees the launches from now on; `None`: nobody.
    pub fn observe(&self, observer: Option<Arc<dyn LaunchObserver>>) {
        *self.0.observer.write().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    fn observer(&self) -> Option<Arc<dyn LaunchObserver>> {
        self.0.observer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records an event on the stream: a point in time that [`Event::seconds_since`] measures between.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self) -> Result<Event> {
        Ok(Event { handle: self.0.backend.record()?, device: self.clone() })
    }

    /// Starts copying `src[offset..offset + bytes]` to pinned host memory and returns at once; it is ordered on the stream.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn read_async(&self, src: &Memory, offset: usize, bytes: usize) -> Result<PendingRead> {
        self.not_recording("a read-back")?;
        self.going()?;
        let src = self.address(src, offset, bytes)?;
        Ok(PendingRead { read: self.0.backend.read_async(src, bytes)?, _device: self.clone() })
    }

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// Faults of kernels that ran meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        self.0.backend.synchronize()
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

    /// The device that holds it.
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

/// A loaded entry of a module. Cheap to clone.
#[derive(Clone)]
pub struct Kernel(Arc<KernelInner>);

struct KernelInner {
    name: String,
    param_bytes: usize,
    handle: Handle,
}

impl Kernel {
    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Size of the parameter block.
    pub fn param_bytes(&self) -> usize {
        self.0.param_bytes
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.0.name)
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
    /// Faults of kernels that ran before.
    pub fn ready(&self) -> Result<bool> {
        self.device.0.backend.happened(&self.handle)
    }

    /// Waits until it has happened, not for what was queued after it.
    ///
    /// # Errors
    /// Faults of kernels that ran before.
    pub fn wait(&self) -> Result<()> {
        self.device.0.backend.await_event(&self.handle)
    }

    /// Seconds from `start` to this event, both of one device; waits until both have happened.
    ///
    /// # Errors
    /// Events of two devices, or what the driver says.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        Ok(self.device.0.backend.elapsed(&start.handle, &self.handle)?.as_secs_f64())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.device.0.info.id)
    }
}

/// Bytes on their way from the device. Dropping it unread is fine.
pub struct PendingRead {
    // Declared before the device: pinned memory goes back to a backend that still lives.
    read: Box<dyn Read>,
    _device: Device,
}

impl PendingRead {
    /// Whether [`PendingRead::wait`] would return at once.
    ///
    /// # Errors
    /// Faults of kernels that ran before.
    pub fn ready(&self) -> Result<bool> {
        self.read.ready()
    }

    /// Waits for the copy, not for what was queued after it.
    ///
    /// # Errors
    /// Faults of kernels that ran before.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.read.wait()
    }

    /// As [`PendingRead::wait`], as values: `f64` sums, say. A trailing partial value is dropped.
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

/// `MAJOR.MINOR` of a module's `.version` directive.
fn ptx_version(ptx: &str) -> Option<(u32, u32)> {
    let line = ptx.lines().map(str::trim_start).find_map(|line| line.strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?))
}

/// Size of an entry's parameter block from its `.param` declarations; `None` when there is no such entry.
///
/// The driver reads that many bytes from what a launch hands it, so that the size has to be known before.
fn param_bytes(ptx: &str, entry: &str) -> Option<usize> {
    let list = ptx.match_indices(".entry").find_map(|(at, keyword)| {
        let rest = ptx[at + keyword.len()..].trim_start().strip_prefix(entry)?.trim_start();
        match rest.as_bytes().first()? {
            b'(' => rest[1..].split_once(')').map(|(list, _)| list),
            b'{' | b'.' => Some(""),
            _ => None, // A longer name that begins with this one.
        }
    })?;
    let mut end = 0usize;
    for declaration in list.split(',').filter(|d| d.contains(".param")) {
        let mut words = declaration.split_whitespace().peekable();
        let (mut align, mut size) = (None, 1usize);
        while let Some(word) = words.next() {
            match word {
                ".align" => align = words.next()?.parse().ok(),
                ".ptr" => {
                    // `.ptr .global .align 16` is about the pointee.
                    while words.peek().is_some_and(|w| w.starts_with('.')) {
                        if words.next() == Some(".align") {
                            words.next();
                        }
                    }
                }
                _ if word.starts_with('.') && word.ends_with(|c: char| c.is_ascii_digit()) => {
                    let digits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
                    size = digits.parse::<usize>().ok()? / 8;
                }
                _ => {
                    if let Some((_, count)) = word.split_once('[') {
                        align = align.or(Some(size));
                        size *= count.trim_end_matches(']').parse::<usize>().ok()?;
                    }
                }
            }
        }
        end = end.next_multiple_of(align.unwrap_or(size).max(1)) + size;
    }
    Some(end)
}

/// The CPU's name, for the VM's label.
fn cpu_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
        model.unwrap_or(std::env::consts::ARCH).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_directive() {
        assert_eq!(ptx_version("//\n.version 8.0\n.target sm_80\n"), Some((8, 0)));
        assert_eq!(ptx_version(".version 7.8 // x"), Some((7, 8)));
        assert_eq!(ptx_version(".target sm_80"), None);
    }

    #[test]
    fn parameter_block_sizes() {
        let ptx = "
.visible .entry foo_long(
\t.param .align 8 .b8 foo_long_param_0[112]
)
{ }
.visible .entry foo(
\t.param .u32 a,
\t.param .u64 b,
\t.param .u64 .ptr .global .align 16 c,
\t.param .u8 d
)
.maxntid 1, 1, 1
{ }
.entry none()
{ }";
        assert_eq!(param_bytes(ptx, "foo_long"), Some(112));
        assert_eq!(param_bytes(ptx, "foo"), Some(25));
        assert_eq!(param_bytes(ptx, "none"), Some(0));
        assert_eq!(param_bytes(ptx, "fo"), None);
    }
}
