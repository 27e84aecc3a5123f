//! A CUDA GPU as a backend, through the driver API (cudarc). The driver is looked for at run time: a machine without one
//! builds and runs this file, and gets an error that says so.

use super::{
    Backend, DeviceError, DeviceInfo, DeviceKind, Handle, Launch, LaunchStats, MemoryInfo, Read, Result, lock,
    ptx_version,
};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The oldest GPU that has `mma` on bf16 and `cp.async`.
const OLDEST: (u32, u32) = (8, 0);
/// Dynamic shared memory that needs no opting in.
const DEFAULT_SHARED: u32 = 48 << 10;
/// `CU_LAUNCH_PARAM_BUFFER_POINTER` and `_SIZE` of cuda.h, which bindings leave out: they are casts to pointers. 0 ends the list.
const PARAM_BUFFER_POINTER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

pub(super) struct CudaBackend(Arc<Shared>);

/// What read-backs and events keep alive: the context and its one stream.
struct Shared {
    context: Arc<CudaContext>,
    stream: Stream,
    id: String,
    driver: (u32, u32),
    largest_shared: u32,
    /// Page-locked buffers to use again: allocating one stalls the GPU.
    pinned: Mutex<Vec<Pinned>>,
    /// Fetches that are no part of a graph.
    copies: Mutex<Copies>,
    /// The last kernel queued, for faults that surface at a later call.
    last: Mutex<Option<Queued>>,
}

#[derive(Clone)]
struct Queued {
    kernel: Arc<str>,
    grid: [u32; 3],
    block: [u32; 3],
}

struct Stream(sys::CUstream);
// SAFETY: the driver's handles may be used from any thread to which the context is bound, and every use binds it.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks a stream itself.
unsafe impl Sync for Stream {}

/// A stream for copies from the host beside the work, and the events that tie the two together.
struct Copies {
    stream: Stream,
    /// Recorded behind the work that a copy has to wait for.
    forked: sys::CUevent,
    /// Recorded behind the last copy to an address; whether nobody has waited for it yet.
    done: HashMap<u64, (sys::CUevent, bool)>,
}
// SAFETY: as for `Stream`.
unsafe impl Send for Copies {}

impl Copies {
    /// In the context that is bound; [`Copies::destroy`] has to follow.
    fn new() -> Result<Self, DriverError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        match result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING) {
            Ok(forked) => Ok(Copies { stream: Stream(stream), forked, done: HashMap::new() }),
            Err(error) => {
                // SAFETY: just made.
                let _ = unsafe { result::stream::destroy(stream) };
                Err(error)
            }
        }
    }

    /// Copies behind what is queued on `main` now. Where `main` is being captured, this stream joins the capture by waiting for it.
    ///
    /// # Safety
    /// The context is bound, `main` and the memory at `dst` live, and `src` is page-locked until the copy is done.
    unsafe fn fetch(&mut self, main: sys::CUstream, dst: u64, src: &[u8]) -> Result<(), DriverError> {
        let event = match self.done.get(&dst) {
            Some((event, _)) => *event,
            None => result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        };
        self.done.insert(dst, (event, false));
        // SAFETY: by the caller; the events were made by us.
        unsafe {
            result::event::record(self.forked, main)?;
            result::stream::wait_event(self.stream.0, self.forked, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)?;
            result::memcpy_htod_async(dst, src, self.stream.0)?;
            result::event::record(event, self.stream.0)?;
        }
        self.done.insert(dst, (event, true));
        Ok(())
    }

    /// What comes next on `main` waits for the copy to `dst`, if there is one under way.
    ///
    /// # Safety
    /// As [`Copies::fetch`].
    unsafe fn join(&mut self, main: sys::CUstream, dst: u64) -> Result<(), DriverError> {
        match self.done.get_mut(&dst) {
            Some((event, flying @ true)) => {
                *flying = false;
                // SAFETY: by the caller.
                unsafe { result::stream::wait_event(main, *event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            }
            _ => Ok(()),
        }
    }

    /// As [`Copies::join`], for every copy under way.
    ///
    /// # Safety
    /// As [`Copies::fetch`].
    unsafe fn join_all(&mut self, main: sys::CUstream) -> Result<(), DriverError> {
        let addresses: Vec<u64> = self.done.keys().copied().collect();
        // SAFETY: by the caller.
        addresses.into_iter().try_for_each(|dst| unsafe { self.join(main, dst) })
    }

    /// Gives stream and events back.
    ///
    /// # Safety
    /// The context is bound, and nothing follows.
    unsafe fn destroy(&mut self) {
        // SAFETY: made by us, and destroyed once as nothing follows.
        unsafe {
            for (_, (event, _)) in self.done.drain() {
                let _ = result::event::destroy(event);
            }
            let _ = result::event::destroy(self.forked);
            let _ = result::stream::destroy(self.stream.0);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return; // The driver is going down, and takes everything with it.
        }
        for pinned in lock(&self.pinned).drain(..) {
            // SAFETY: made by malloc_host, freed once; reads hold `Shared`, so that none is under way.
            let _ = unsafe { result::free_host(pinned.ptr.cast()) };
        }
        // SAFETY: the context is bound, and this is the end.
        unsafe { lock(&self.copies).destroy() };
        // SAFETY: made by us, destroyed once.
        let _ = unsafe { result::stream::destroy(self.stream.0) };
    }
}

/// `(major, minor)` of the CUDA version that the driver knows, or why there is none.
fn driver() -> Result<(u32, u32)> {
    // SAFETY: it only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver { reason: "libcuda is not installed".into() });
    }
    let answer = result::init().and_then(|()| {
        let mut version = 0;
        // SAFETY: `version` is a valid place for an int.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
        Ok(version as u32)
    });
    match answer {
        Ok(version) => Ok((version / 1000, version % 1000 / 10)),
        Err(error) => Err(DeviceError::NoDriver { reason: format!("libcuda is there, but {}", words(error)) }),
    }
}

/// Every GPU, or one entry that says why there is none.
pub(super) fn list() -> Vec<DeviceInfo> {
    let nothing = |reason: String| {
        vec![DeviceInfo {
            id: "cuda".into(),
            kind: DeviceKind::Cuda,
            name: "NVIDIA GPU".into(),
            memory: 0,
            compute_capability: None,
            driver: None,
            units: 0,
            pci: None,
            unavailable: Some(reason),
        }]
    };
    let driver = match driver() {
        Ok(driver) => driver,
        Err(error) => return nothing(error.to_string()),
    };
    match result::device::get_count() {
        Ok(count) if count > 0 => (0..count as usize).map(|ordinal| info(ordinal, driver)).collect(),
        Ok(_) => nothing("the driver has no GPU".into()),
        Err(error) => nothing(words(error)),
    }
}

/// Facts about a GPU, without a context on it. The driver answered before.
fn info(ordinal: usize, driver: (u32, u32)) -> DeviceInfo {
    use sys::CUdevice_attribute::*;
    let id = format!("cuda:{ordinal}");
    let ask = || -> Result<DeviceInfo, DriverError> {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: `device` comes from the driver.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map(|value| value as u32);
        let capability = (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = result::device::get_name(device)?;
        let (major, minor) = capability;
        let too_old = DeviceError::Unsupported { device: format!("{id} ({name})"), major, minor };
        Ok(DeviceInfo {
            id: id.clone(),
            kind: DeviceKind::Cuda,
            name,
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device) }?,
            compute_capability: Some(capability),
            driver: Some(driver),
            units: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            pci: pci_bus_id(device),
            unavailable: (capability < OLDEST).then(|| too_old.to_string()),
        })
    };
    ask().unwrap_or_else(|error| DeviceInfo {
        id: id.clone(),
        kind: DeviceKind::Cuda,
        name: "NVIDIA GPU".into(),
        memory: 0,
        compute_capability: None,
        driver: Some(driver),
        units: 0,
        pci: None,
        unavailable: Some(words(error)),
    })
}

/// `0000:3b:00.0`, say.
fn pci_bus_id(device: sys::CUdevice) -> Option<String> {
    let mut text = [0 as std::ffi::c_char; 32];
    // SAFETY: the buffer has the length given, and the driver ends what it writes there with a NUL.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, device) }.result().ok()?;
    let bytes: Vec<u8> = text.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(bytes).ok()
}

/// The driver's name and words for an error.
fn words(error: DriverError) -> String {
    format!("{}: {}", name_of(error), text_of(error))
}

fn name_of(error: DriverError) -> String {
    error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned())
}

fn text_of(error: DriverError) -> String {
    error.error_string().map_or_else(|_| "unknown error".into(), |text| text.to_string_lossy().into_owned())
}

/// A graph in the making: where its work and its copies from the host go.
struct Capture {
    stream: sys::CUstream,
    copies: Copies,
}

thread_local! {
    /// The graph into which this thread submits work.
    static CAPTURING: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

impl Shared {
    /// Where work goes: the one stream, or the graph that this thread is making.
    fn target(&self) -> sys::CUstream {
        CAPTURING.with_borrow(|capture| capture.as_ref().map_or(self.stream.0, |capture| capture.stream))
    }

    /// Lets `run` have the stream where work goes, and the copies beside it.
    fn with_copies(
        &self,
        run: impl FnOnce(sys::CUstream, &mut Copies) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        CAPTURING.with_borrow_mut(|capture| match capture {
            Some(Capture { stream, copies }) => run(*stream, copies),
            None => run(self.stream.0, &mut lock(&self.copies)),
        })
    }

    /// Waits until the work queued so far is done, and every copy beside it.
    fn wait(&self) -> Result<()> {
        // SAFETY: both streams live as long as `Shared`.
        unsafe {
            result::stream::synchronize(self.stream.0)
                .and_then(|()| result::stream::synchronize(lock(&self.copies).stream.0))
        }
        .map_err(self.failed("cuStreamSynchronize"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.failed("cuCtxSetCurrent"))
    }

    /// Turns a driver error into ours. A fault of a kernel surfaces at some later call, hence the hint.
    fn failed(&self, call: &'static str) -> impl Fn(DriverError) -> DeviceError + '_ {
        use sys::CUresult::*;
        move |error| {
            let mut text = text_of(error);
            let faulted = matches!(
                error.0,
                CUDA_ERROR_ILLEGAL_ADDRESS
                    | CUDA_ERROR_MISALIGNED_ADDRESS
                    | CUDA_ERROR_ILLEGAL_INSTRUCTION
                    | CUDA_ERROR_LAUNCH_FAILED
                    | CUDA_ERROR_LAUNCH_TIMEOUT
                    | CUDA_ERROR_ASSERT
            );
            if let (true, Some(last)) = (faulted, lock(&self.last).clone()) {
                let Queued { kernel, grid, block } = last;
                text += &format!(
                    " (a kernel failed; the last one queued was {kernel}, grid {grid:?}, block {block:?}; \
                     run with --device vm to find the instruction)"
                );
            }
            DeviceError::Driver { call, device: self.id.clone(), name: name_of(error), text }
        }
    }

    /// What `handle` holds, when this very context made it.
    fn own<'a, T: Owned>(&self, handle: &'a Handle) -> Result<&'a T> {
        let foreign = |owner: &str| DeviceError::ForeignMemory { device: self.id.clone(), owner: owner.into() };
        let found: &T = handle.downcast_ref().ok_or_else(|| foreign("another device"))?;
        let owner = found.shared();
        if std::ptr::eq(owner, self) { Ok(found) } else { Err(foreign(&owner.id)) }
    }
}

/// Something made by a context.
trait Owned: 'static {
    fn shared(&self) -> &Shared;
}

/// PTX text. The driver compiles it entry by entry, in [`Backend::entry`].
struct Module {
    shared: Arc<Shared>,
    name: String,
    ptx: String,
}

struct Function {
    shared: Arc<Shared>,
    name: Arc<str>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    /// The dynamic shared memory opted in to so far.
    opted_in: AtomicU32,
}
// SAFETY: as for `Stream`.
unsafe impl Send for Function {}
// SAFETY: as for `Stream`.
unsafe impl Sync for Function {}

impl Drop for Function {
    fn drop(&mut self) {
        if self.shared.context.bind_to_thread().is_ok() {
            // SAFETY: loaded by us and unloaded once. The driver waits for launches under way.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

struct Event {
    shared: Arc<Shared>,
    event: sys::CUevent,
}
// SAFETY: as for `Stream`.
unsafe impl Send for Event {}
// SAFETY: as for `Stream`.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if self.shared.context.bind_to_thread().is_ok() {
            // SAFETY: made by us, destroyed once; an event under way may be destroyed.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// An instantiated graph.
struct Executable {
    shared: Arc<Shared>,
    graph: sys::CUgraphExec,
}
// SAFETY: as for `Stream`.
unsafe impl Send for Executable {}
// SAFETY: as for `Stream`.
unsafe impl Sync for Executable {}

impl Drop for Executable {
    fn drop(&mut self) {
        if self.shared.context.bind_to_thread().is_ok() {
            // SAFETY: made by us, destroyed once; the driver keeps it while it runs.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

macro_rules! owned {
    ($($type:ty),*) => { $(impl Owned for $type { fn shared(&self) -> &Shared { &self.shared } })* };
}
owned!(Module, Function, Event, Executable, PinnedBlock);

/// Page-locked memory that fetches copy from.
struct PinnedBlock {
    shared: Arc<Shared>,
    memory: Pinned,
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        // Copies from it may be under way. Where that cannot be known it is better lost than given back.
        if self.shared.bind().and_then(|()| self.shared.wait()).is_ok() {
            // SAFETY: made by malloc_host, freed once.
            let _ = unsafe { result::free_host(self.memory.ptr.cast()) };
        }
    }
}

/// Page-locked host memory.
struct Pinned {
    ptr: *mut u8,
    bytes: usize,
}
// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Pinned {}

impl CudaBackend {
    pub(super) fn open(ordinal: usize) -> Result<(Self, DeviceInfo)> {
        let driver = driver()?;
        let count = result::device::get_count().map_err(|e| DeviceError::NoDriver { reason: words(e) })? as usize;
        if ordinal >= count {
            return Err(DeviceError::NoDevice { ordinal, count });
        }
        let info = info(ordinal, driver);
        let id = info.id.clone();
        if let Some((major, minor)) = info.compute_capability.filter(|&capability| capability < OLDEST) {
            return Err(DeviceError::Unsupported { device: info.label(), major, minor });
        }
        let failed = |call| {
            let device = id.clone();
            move |e| DeviceError::Driver { call, device, name: name_of(e), text: text_of(e) }
        };
        let context = CudaContext::new(ordinal).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let optin = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let largest_shared = context.attribute(optin).map_err(failed("cuDeviceGetAttribute"))? as u32;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        let copies = Copies::new().map_err(failed("cuStreamCreate"))?;
        let shared = Shared {
            context,
            stream: Stream(stream),
            id: id.clone(),
            driver,
            largest_shared,
            pinned: Mutex::default(),
            copies: Mutex::new(copies),
            last: Mutex::default(),
        };
        Ok((Self(Arc::new(shared)), info))
    }

    fn record_event(&self) -> Result<Event> {
        let shared = &self.0;
        shared.bind()?;
        // CU_EVENT_DEFAULT is the flag that keeps times.
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(shared.failed("cuEventCreate"))?;
        let event = Event { shared: shared.clone(), event };
        // SAFETY: event and stream live.
        unsafe { result::event::record(event.event, shared.stream.0) }.map_err(shared.failed("cuEventRecord"))?;
        Ok(event)
    }

    fn wait_for_stream(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `Shared`.
        unsafe { result::stream::synchronize(self.0.stream.0) }.map_err(self.0.failed("cuStreamSynchronize"))
    }
}

/// A new page-locked buffer of `bytes`, all zero.
fn page_locked(shared: &Shared, bytes: usize) -> Result<Pinned> {
    let size = bytes.next_multiple_of(256).max(256);
    // Flags 0: write-combined memory would be slow to read.
    // SAFETY: whoever gets the buffer frees it once.
    let ptr = unsafe { result::malloc_host(size, 0) }.map_err(shared.failed("cuMemHostAlloc"))?;
    // SAFETY: `size` bytes were just allocated.
    unsafe { ptr.cast::<u8>().write_bytes(0, size) };
    Ok(Pinned { ptr: ptr.cast(), bytes: size })
}

impl Backend for CudaBackend {
    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.0.bind()?;
        // SAFETY: uninitialised device memory; nothing on the host reads it before a kernel or a copy wrote it.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory {
                device: self.0.id.clone(),
                asked: bytes,
                free: self.0.context.mem_get_info().map_or(0, |(free, _)| free),
            },
            _ => self.0.failed("cuMemAlloc")(error),
        })
    }

    fn free(&self, ptr: u64) {
        // Kernels that use the memory may still be queued on the stream.
        let done = self.0.bind().and_then(|()| self.0.wait()).and_then(|()| {
            // SAFETY: `Memory` frees what it allocated, once.
            unsafe { result::free_sync(ptr) }.map_err(self.0.failed("cuMemFree"))
        });
        if let Err(error) = done {
            tracing::error!("free of {ptr:#x}: {error}");
        }
    }

    fn upload(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the range lies in one allocation, and `src` outlives the copy because we wait for it.
        unsafe { result::memcpy_htod_async(dst, src, self.0.stream.0) }.map_err(self.0.failed("cuMemcpyHtoDAsync"))?;
        self.wait_for_stream()
    }

    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()> {
        self.0.bind()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(dst, src, self.0.stream.0) }.map_err(self.0.failed("cuMemcpyDtoHAsync"))?;
        self.wait_for_stream()
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.0.bind()?;
        // SAFETY: both ranges lie in allocations and do not overlap.
        unsafe { result::memcpy_dtod_async(dst, src, bytes, self.0.target()) }
            .map_err(self.0.failed("cuMemcpyDtoDAsync"))
    }

    fn fill(&self, dst: u64, byte: u8, bytes: usize) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the range lies in one allocation.
        unsafe { result::memset_d8_async(dst, byte, bytes, self.0.target()) }.map_err(self.0.failed("cuMemsetD8Async"))
    }

    fn load(&self, name: &str, ptx: &str) -> Result<Handle> {
        check_version(name, ptx, self.0.driver)?;
        Ok(Arc::new(Module { shared: self.0.clone(), name: name.into(), ptx: ptx.into() }))
    }

    fn entry(&self, module: &Handle, entry: &str) -> Result<Handle> {
        let shared = &self.0;
        let module = shared.own::<Module>(module)?;
        shared.bind()?;
        let no_nul = |_| DeviceError::Load { module: module.name.clone(), reason: "the text has a NUL byte".into() };
        let text = CString::new(only_entry(&module.ptx, entry)).map_err(no_nul)?;
        let name = CString::new(entry).map_err(no_nul)?;

        let mut log = vec![0u8; 8 << 10];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The driver takes the length by value in the pointer's place.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text is NUL-terminated, options and values have two entries each, the log has the length given.
        let loaded = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&mut handle, text.as_ptr().cast(), 2, options, values).result()
        };
        if let Err(error) = loaded {
            let log = String::from_utf8_lossy(log.split(|&b| b == 0).next().unwrap_or_default()).trim().to_owned();
            let reason = format!("{entry} on {}: {} {log}", shared.id, words(error));
            return Err(DeviceError::Load { module: module.name.clone(), reason: reason.trim_end().into() });
        }
        // SAFETY: the module has just been loaded.
        let function = unsafe { result::module::get_function(handle, name) };
        let function = function.map_err(|error| {
            // SAFETY: loaded above, nothing uses it.
            let _ = unsafe { result::module::unload(handle) };
            match error.0 {
                sys::CUresult::CUDA_ERROR_NOT_FOUND => {
                    DeviceError::NoEntry { module: module.name.clone(), entry: entry.into() }
                }
                _ => shared.failed("cuModuleGetFunction")(error),
            }
        })?;
        let opted_in = AtomicU32::new(DEFAULT_SHARED);
        Ok(Arc::new(Function { shared: shared.clone(), name: entry.into(), module: handle, function, opted_in }))
    }

    fn launch(&self, entry: &Handle, launch: &Launch<'_>, params: &[u8]) -> Result<Option<LaunchStats>> {
        let shared = &self.0;
        let function = shared.own::<Function>(entry)?;
        shared.bind()?;
        let refused = |reason: String| DeviceError::launch(launch, &shared.id, reason);
        if launch.shared > shared.largest_shared {
            return Err(refused(format!("a block can have at most {} bytes of shared memory", shared.largest_shared)));
        }
        if launch.shared > function.opted_in.load(Ordering::Relaxed) {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function lives as long as its module, which `function` owns.
            unsafe { result::function::set_function_attribute(function.function, attribute, launch.shared as i32) }
                .map_err(|error| refused(words(error)))?;
            function.opted_in.fetch_max(launch.shared, Ordering::Relaxed);
        }
        // One packed buffer rather than a pointer for each parameter: it is what the caller has, and the driver copies it.
        let mut size = params.len();
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(PARAM_BUFFER_POINTER),
            params.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(PARAM_BUFFER_SIZE),
            (&raw mut size).cast(),
            std::ptr::null_mut(),
        ];
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function is loaded in this context; `params` has the size of its parameter block (checked by the caller)
        // and is copied during the call.
        let queued = unsafe {
            let (f, stream) = (function.function, shared.target());
            let none = std::ptr::null_mut();
            sys::cuLaunchKernel(f, gx, gy, gz, bx, by, bz, launch.shared as c_uint, stream, none, extra.as_mut_ptr())
        };
        queued.result().map_err(|error| refused(words(error)))?;
        *lock(&shared.last) = Some(Queued { kernel: function.name.clone(), grid: launch.grid, block: launch.block });
        Ok(None)
    }

    fn record(&self) -> Result<Handle> {
        Ok(Arc::new(self.record_event()?))
    }

    fn elapsed(&self, start: &Handle, end: &Handle) -> Result<Duration> {
        let (start, end) = (self.0.own::<Event>(start)?, self.0.own::<Event>(end)?);
        self.0.bind()?;
        // SAFETY: both events live and were recorded, with times, on the one stream.
        let milliseconds = unsafe {
            result::event::synchronize(end.event).map_err(self.0.failed("cuEventSynchronize"))?;
            result::event::elapsed(start.event, end.event).map_err(self.0.failed("cuEventElapsedTime"))?
        };
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) * 1e-3))
    }

    fn read_async(&self, src: u64, bytes: usize) -> Result<Box<dyn Read>> {
        let shared = &self.0;
        shared.bind()?;
        let fits = |pool: &Vec<Pinned>| pool.iter().position(|p| p.bytes >= bytes);
        let mut pool = lock(&shared.pinned);
        let reused = fits(&pool).map(|at| pool.swap_remove(at));
        drop(pool);
        let pinned = match reused {
            Some(pinned) => pinned,
            None => page_locked(shared, bytes)?,
        };
        // SAFETY: the buffer has `bytes` initialised bytes and no other user until the event has happened.
        let queued = unsafe {
            let dst = std::slice::from_raw_parts_mut(pinned.ptr, bytes);
            if bytes == 0 { Ok(()) } else { result::memcpy_dtoh_async(dst, src, shared.stream.0) }
        };
        let event = queued.map_err(shared.failed("cuMemcpyDtoHAsync")).and_then(|()| self.record_event());
        match event {
            Ok(event) => Ok(Box::new(Copying { event, pinned: Some(pinned), bytes })),
            Err(error) => {
                // A copy may be under way without an event to wait for: give the buffer up only after the stream is idle.
                if self.wait_for_stream().is_ok() {
                    lock(&shared.pinned).push(pinned);
                }
                Err(error)
            }
        }
    }

    fn pin(&self, content: Vec<u8>) -> Result<Handle> {
        let shared = &self.0;
        shared.bind()?;
        let memory = page_locked(shared, content.len())?;
        // SAFETY: the buffer has at least so many bytes, and nobody else knows it yet.
        unsafe { memory.ptr.copy_from_nonoverlapping(content.as_ptr(), content.len()) };
        Ok(Arc::new(PinnedBlock { shared: shared.clone(), memory: Pinned { bytes: content.len(), ..memory } }))
    }

    fn fetch(&self, dst: u64, src: &Handle) -> Result<()> {
        let shared = &self.0;
        let PinnedBlock { memory, .. } = shared.own(src)?;
        shared.bind()?;
        // SAFETY: the buffer has so many initialised bytes and nobody writes it; its drop waits for copies under way, and a graph
        // keeps it. The range at `dst` lies in one allocation, whose free waits too.
        let queued = shared.with_copies(|main, copies| unsafe {
            copies.fetch(main, dst, std::slice::from_raw_parts(memory.ptr, memory.bytes))
        });
        queued.map_err(shared.failed("cuMemcpyHtoDAsync"))
    }

    fn fetched(&self, dst: u64) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the context is bound and its streams live.
        let joined = self.0.with_copies(|main, copies| unsafe { copies.join(main, dst) });
        joined.map_err(self.0.failed("cuStreamWaitEvent"))
    }

    fn synchronize(&self) -> Result<()> {
        self.0.bind()?;
        self.0.wait()
    }

    fn instantiate(&self, submit: &dyn Fn() -> Result<()>) -> Result<Option<Handle>> {
        let shared = &self.0;
        shared.bind()?;
        // Streams of its own: other threads go on using the device's.
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(shared.failed("cuStreamCreate"))?;
        let copies = Copies::new().map_err(|error| {
            // SAFETY: just made.
            let _ = unsafe { result::stream::destroy(stream) };
            shared.failed("cuStreamCreate")(error)
        })?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let mut ended = None;
        // SAFETY: the streams were just made; the capture is ended also after a failure, and the streams destroyed once.
        let (submitted, captured) = unsafe {
            let submitted = match result::stream::begin_capture(stream, mode) {
                Ok(()) => {
                    CAPTURING.set(Some(Capture { stream, copies }));
                    let submitted = submit();
                    // A capture ends where it began: with every copy behind it. What follows the graph needs not wait for any.
                    let joined = CAPTURING.take().map_or(Ok(()), |mut capture| {
                        let joined = capture.copies.join_all(stream);
                        ended = Some(capture.copies);
                        joined
                    });
                    submitted.and(joined.map_err(shared.failed("cuStreamWaitEvent")))
                }
                Err(error) => {
                    ended = Some(copies);
                    Err(shared.failed("cuStreamBeginCapture")(error))
                }
            };
            let captured = result::stream::end_capture(stream);
            if let Some(mut copies) = ended {
                copies.destroy();
            }
            let _ = result::stream::destroy(stream);
            (submitted, captured)
        };
        submitted?;
        let graph = captured.map_err(shared.failed("cuStreamEndCapture"))?;
        // SAFETY: the graph was just captured, and is destroyed once.
        let executable = unsafe {
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made.map_err(shared.failed("cuGraphInstantiate"))?
        };
        let executable = Executable { shared: shared.clone(), graph: executable };
        // SAFETY: both live. The first launch would upload it otherwise.
        unsafe { result::graph::upload(executable.graph, shared.stream.0) }.map_err(shared.failed("cuGraphUpload"))?;
        Ok(Some(Arc::new(executable)))
    }

    fn replay(&self, graph: &Handle) -> Result<()> {
        let graph = self.0.own::<Executable>(graph)?;
        self.0.bind()?;
        // SAFETY: graph and stream live.
        unsafe { result::graph::launch(graph.graph, self.0.stream.0) }.map_err(self.0.failed("cuGraphLaunch"))
    }

    fn memory(&self) -> Result<MemoryInfo> {
        let (free, total) = self.0.context.mem_get_info().map_err(self.0.failed("cuMemGetInfo"))?;
        Ok(MemoryInfo { free, total })
    }
}

/// A copy to pinned memory, and the event behind it.
struct Copying {
    event: Event,
    /// Taken on drop only.
    pinned: Option<Pinned>,
    bytes: usize,
}

impl Copying {
    fn wait_for_event(&self) -> Result<()> {
        let shared = &self.event.shared;
        shared.bind()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.event.event) }.map_err(shared.failed("cuEventSynchronize"))
    }
}

impl Read for Copying {
    fn ready(&self) -> Result<bool> {
        let shared = &self.event.shared;
        shared.bind()?;
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.event.event) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(shared.failed("cuEventQuery")(error)),
        }
    }

    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        self.wait_for_event()?;
        let data = self.pinned.as_ref().map(|pinned| {
            // SAFETY: the copy is done, and filled `bytes` bytes of the buffer.
            unsafe { std::slice::from_raw_parts(pinned.ptr, self.bytes) }.to_vec()
        });
        Ok(data.unwrap_or_default())
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        // After an error the copy may still be under way: leaking a small buffer is better than handing it out.
        if let (Ok(()), Some(pinned)) = (self.wait_for_event(), self.pinned.take()) {
            lock(&self.event.shared.pinned).push(pinned);
        }
    }
}

/// What brought a version of the PTX ISA. From the release notes of the PTX ISA and of CUDA.
struct Release {
    ptx: (u32, u32),
    cuda: (u32, u32),
    /// The oldest driver branch.
    driver: u32,
}

const fn release(ptx: (u32, u32), cuda: (u32, u32), driver: u32) -> Release {
    Release { ptx, cuda, driver }
}

/// Oldest first.
const RELEASES: &[Release] = &[
    release((7, 0), (11, 0), 450),
    release((7, 1), (11, 1), 455),
    release((7, 2), (11, 2), 460),
    release((7, 3), (11, 3), 465),
    release((7, 4), (11, 4), 470),
    release((7, 5), (11, 5), 495),
    release((7, 6), (11, 6), 510),
    release((7, 7), (11, 7), 515),
    release((7, 8), (11, 8), 520),
    release((8, 0), (12, 0), 525),
    release((8, 1), (12, 1), 530),
    release((8, 2), (12, 2), 535),
    release((8, 3), (12, 3), 545),
    release((8, 4), (12, 4), 550),
    release((8, 5), (12, 5), 555),
    release((8, 6), (12, 7), 565),
    release((8, 7), (12, 8), 570),
    release((8, 8), (12, 9), 575),
    release((9, 0), (13, 0), 580),
];

/// Compares a module's `.version` with the driver's CUDA version: the driver's own message would not say what to install.
fn check_version(module: &str, ptx: &str, driver: (u32, u32)) -> Result<()> {
    let Some(version) = ptx_version(ptx) else {
        return Err(DeviceError::Load { module: module.into(), reason: "it has no .version directive".into() });
    };
    match RELEASES.iter().find(|release| release.ptx >= version) {
        Some(Release { cuda, driver: branch, .. }) if driver < *cuda => Err(DeviceError::DriverTooOld {
            module: module.into(),
            ptx: version,
            driver,
            needed: format!("{branch} (CUDA {}.{})", cuda.0, cuda.1),
        }),
        _ => Ok(()), // Newer than this table: the driver decides.
    }
}

/// A module's text without the bodies of the other entries: the driver compiles whole modules, and attention has dozens.
fn only_entry(ptx: &str, entry: &str) -> String {
    let mut kept = String::with_capacity(ptx.len() / 4);
    let (mut depth, mut skipping) = (0i32, false);
    for line in ptx.split_inclusive('\n') {
        let code = line.split("//").next().unwrap_or_default();
        if depth == 0
            && let Some((before, rest)) = code.split_once(".entry")
            && before.split_whitespace().all(|word| word == ".visible" || word == ".weak")
        {
            let name = rest.trim_start().split(|c: char| c == '(' || c == '{' || c.is_whitespace()).next();
            skipping = name != Some(entry);
        }
        let (opened, closed) = (code.matches('{').count() as i32, code.matches('}').count() as i32);
        if !skipping {
            kept.push_str(line);
        }
        depth += opened - closed;
        if depth == 0 && closed > 0 {
            skipping = false;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_compared_with_the_driver() {
        let ptx = ".version 8.0\n.target sm_80\n";
        assert!(check_version("linear", ptx, (12, 0)).is_ok());
        assert!(check_version("linear", ptx, (13, 1)).is_ok());
        let message = check_version("linear", ptx, (11, 8)).unwrap_err().to_string();
        assert!(message.contains("linear.ptx is PTX ISA 8.0") && message.contains("driver 525"), "{message}");
        assert!(message.contains("CUDA 11.8"), "{message}");
        assert!(
            check_version("x", ".version 7.9\n", (11, 8)).is_err(),
            "an unlisted version needs the next one's driver"
        );
        assert!(check_version("x", ".version 99.0\n", (12, 0)).is_ok());
        assert!(check_version("x", "", (12, 0)).is_err());
    }

    #[test]
    fn other_entries_are_dropped_and_all_else_stays() {
        let ptx = ".version 8.0\n.extern .shared .align 16 .b8 smem[];\n// a { in a comment\n.visible .entry a_long(\n\t.param .u64 p\n)\n{\n\t{\n\tret;\n\t}\n}\n\t// .globl\ta\n.visible .entry a(\n\t.param .u64 p\n)\n.maxntid 32, 1, 1\n{\n\tret; // .entry b(\n}\n\t.file\t1 \"x.cu\"\n";
        let kept = only_entry(ptx, "a");
        assert!(kept.contains(".extern .shared") && kept.contains(".file\t1") && kept.contains(".maxntid"));
        assert_eq!(kept.matches(".visible .entry").count(), 1);
        assert!(!kept.contains("a_long"));
        assert_eq!(kept.matches('}').count(), 1);
        assert_eq!(super::super::param_bytes(&kept, "a"), Some(8));
    }
}
