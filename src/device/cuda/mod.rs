//! A CUDA GPU as a backend, through the driver API. The driver is looked for at run time: a machine without one builds and runs this
//! file, and gets an error that says so.
//!
//! `driver` is the table of the driver's functions, `handles` owns what they give out, `module` compiles PTX, `copies` and `graph` are what
//! their names say, `fault` reads the codes that tell of earlier work.

mod copies;
mod driver;
mod fault;
mod graph;
mod handles;
mod module;

use self::copies::{Copies, PinnedBlock, Reading};
use self::driver::{Code, Driver, Failure};
use self::fault::Queued;
use self::graph::{Executable, capturing};
use self::handles::{Context, Event, EventKind, Pinned, Stream, device_attribute};
use self::module::{Function, Module, check_driver, check_version};
use super::error::GpuFault;
use super::{
    Backend, DeviceError, DeviceInfo, DeviceKind, Handle, Launch, LaunchStats, MemoryInfo, Read, Result, lock,
};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The oldest GPU that has `mma` on bf16 and `cp.async`.
const OLDEST: (u32, u32) = (8, 0);

pub(super) struct CudaBackend(Arc<Shared>);

/// What read-backs and events keep alive: the context and its one stream.
struct Shared {
    /// Page-locked buffers to use again: allocating one stalls the GPU.
    pinned: Mutex<Vec<Pinned>>,
    /// Fetches that are no part of a graph.
    copies: Mutex<Copies>,
    stream: Stream,
    id: String,
    driver: (u32, u32),
    /// Bytes of the device's memory.
    memory: usize,
    /// The most shared memory that a block can have.
    largest_shared: u32,
    /// What was queued last, for faults that surface at a later call.
    last: Mutex<Option<Queued>>,
    /// What the device failed at. It does nothing any more.
    fault: OnceLock<GpuFault>,
    // Behind everything that is made in it.
    context: Arc<Context>,
}

/// The driver, initialised, and the `(major, minor)` of the CUDA version that it knows.
fn driver() -> Result<(&'static Driver, (u32, u32)), driver::Absent> {
    let driver = Driver::get().map_err(Clone::clone)?;
    let mut version = 0;
    // SAFETY: there are no flags; `version` is a valid place for an int.
    let answer = unsafe { driver.init(0).and_then(|()| driver.driver_version(&mut version)) };
    answer.map_err(|failure| no_answer(driver, failure))?;
    let version = version.max(0) as u32;
    Ok((driver, (version / 1000, version % 1000 / 10)))
}

/// Why a driver that is there does not begin.
fn no_answer(driver: &Driver, failure: Failure) -> driver::Absent {
    let library = driver.library();
    if failure.code == Code::STUB_LIBRARY {
        let reason = format!(
            "{library} is the stub that a toolkit has for linking (CUDA_ERROR_STUB_LIBRARY): take its folder off LD_LIBRARY_PATH"
        );
        return driver::Absent { reason, ordinary: false };
    }
    // A driver may be installed where there is no GPU, and a GPU may be hidden.
    let hidden = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    let ordinary = failure.code == Code::NO_DEVICE && (hidden || !driver::kernel_driver());
    driver::Absent { reason: format!("{library} is there, but {}", driver.words(failure)), ordinary }
}

/// Every GPU, or one entry that says why there is none.
pub(super) fn list() -> Vec<DeviceInfo> {
    gpus().unwrap_or_else(|driver::Absent { reason, .. }| {
        vec![DeviceInfo {
            id: "cuda".into(),
            kind: DeviceKind::Cuda,
            name: "NVIDIA GPU".into(),
            memory: 0,
            compute_capability: None,
            driver: None,
            units: 0,
            pci: None,
            unavailable: Some(DeviceError::NoDriver { reason }.to_string()),
        }]
    })
}

/// The ordinals of the GPUs that can be used, in order. Where there are none: why, unless that is how a machine without a GPU looks.
pub(super) fn usable() -> Result<Vec<usize>, Option<String>> {
    let gpus = gpus().map_err(|driver::Absent { reason, ordinary }| (!ordinary).then_some(reason))?;
    let ordinals: Vec<usize> =
        gpus.iter().enumerate().filter(|(_, gpu)| gpu.unavailable.is_none()).map(|(ordinal, _)| ordinal).collect();
    match gpus.into_iter().find_map(|gpu| gpu.unavailable) {
        reason @ Some(_) if ordinals.is_empty() => Err(reason),
        _ => Ok(ordinals),
    }
}

/// Every GPU; never an empty list.
fn gpus() -> Result<Vec<DeviceInfo>, driver::Absent> {
    let (driver, version) = driver()?;
    match count(driver) {
        Ok(0) => Err(no_answer(driver, Failure { call: "cuDeviceGetCount", code: Code::NO_DEVICE })),
        Ok(count) => Ok((0..count).map(|ordinal| info(driver, ordinal, version)).collect()),
        Err(failure) => Err(no_answer(driver, failure)),
    }
}

fn count(driver: &Driver) -> Result<usize, Failure> {
    let mut count = 0;
    // SAFETY: `count` is a valid place.
    unsafe { driver.device_count(&mut count) }?;
    Ok(count.max(0) as usize)
}

/// Facts about a GPU, without a context on it. The driver answered before.
fn info(driver: &Driver, ordinal: usize, version: (u32, u32)) -> DeviceInfo {
    let unknown = DeviceInfo {
        id: format!("cuda:{ordinal}"),
        kind: DeviceKind::Cuda,
        name: "NVIDIA GPU".into(),
        memory: 0,
        compute_capability: None,
        driver: Some(version),
        units: 0,
        pci: None,
        unavailable: None,
    };
    match facts(driver, ordinal, unknown.clone()) {
        Ok(info) => DeviceInfo { unavailable: unsuitable(&info).map(|error| error.to_string()), ..info },
        Err(failure) => DeviceInfo { unavailable: Some(driver.words(failure)), ..unknown },
    }
}

fn facts(driver: &Driver, ordinal: usize, unknown: DeviceInfo) -> Result<DeviceInfo, Failure> {
    use CUdevice_attribute::*;
    let device = device(driver, ordinal)?;
    let attribute = |attribute| device_attribute(driver, device, attribute);
    let capability = (
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let mut memory = 0;
    // SAFETY: `memory` is a valid place, `device` comes from the driver.
    unsafe { driver.device_memory(&mut memory, device) }?;
    // SAFETY: the driver is given room for so many characters.
    let name = text(|at, length| unsafe { driver.device_name(at, length, device) })?;
    // SAFETY: as above.
    let pci = text(|at, length| unsafe { driver.device_pci_bus_id(at, length, device) });
    Ok(DeviceInfo {
        name,
        memory,
        compute_capability: Some(capability),
        units: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        pci: pci.ok(), // `0000:3b:00.0`, say.
        ..unknown
    })
}

fn device(driver: &Driver, ordinal: usize) -> Result<CUdevice, Failure> {
    let mut device = 0;
    // SAFETY: `device` is a valid place.
    unsafe { driver.device(&mut device, ordinal as i32) }?;
    Ok(device)
}

/// A text that the driver writes where it is told to, with at most so many characters and a NUL at its end.
fn text(write: impl FnOnce(*mut std::ffi::c_char, i32) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut text = [0 as std::ffi::c_char; 256];
    write(text.as_mut_ptr(), text.len() as i32)?;
    let bytes: Vec<u8> = text.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What keeps a GPU from running our kernels.
fn unsuitable(info: &DeviceInfo) -> Option<DeviceError> {
    if let Some((major, minor)) = info.compute_capability.filter(|&capability| capability < OLDEST) {
        return Some(DeviceError::Unsupported { device: info.label(), major, minor });
    }
    check_driver(info.driver?).err()
}

impl Shared {
    fn driver(&self) -> &'static Driver {
        self.context.driver()
    }

    /// Where work goes: the one stream, or the graph that this thread is making.
    fn target(&self) -> sys::CUstream {
        capturing(|capture| capture.map_or(self.stream.raw(), |capture| capture.stream()))
    }

    /// Lets `run` have the stream where work goes, and the copies beside it.
    fn with_copies(&self, run: impl FnOnce(sys::CUstream, &mut Copies) -> Result<(), Failure>) -> Result<(), Failure> {
        capturing(|capture| match capture {
            Some(capture) => {
                let (stream, copies) = capture.with_copies();
                run(stream, copies)
            }
            None => run(self.stream.raw(), &mut lock(&self.copies)),
        })
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        self.context.bind().map_err(|failure| self.failed(failure))
    }

    /// Waits until the work queued so far is done, and every copy beside it.
    fn wait(&self) -> Result<(), Failure> {
        self.context.bind()?;
        self.stream.synchronize()?;
        lock(&self.copies).finish()
    }

    /// As [`Shared::wait`], for a destructor. A refusal may tell of something that went wrong before, so that it is asked once more.
    fn settle(&self) -> Result<(), Failure> {
        self.wait().or_else(|_| self.wait())
    }

    /// Turns a driver's answer into an error. One that tells of earlier work names that, as far as it is known, and the device says the same from
    /// then on: its context is lost.
    fn failed(&self, failure: Failure) -> DeviceError {
        let (driver, Failure { call, code }) = (self.driver(), failure);
        let (name, text) = (driver.name(code), driver.text(code));
        let fault = match fault::cause(code) {
            Some(cause) => Some(self.fault.get_or_init(|| GpuFault {
                device: self.id.clone(),
                call,
                name: name.clone(),
                text: text.clone(),
                last: lock(&self.last).as_ref().map_or_else(|| "no kernel".into(), Queued::to_string),
                advice: fault::advice(cause),
            })),
            None => self.fault.get(),
        };
        match fault {
            Some(fault) => DeviceError::GpuFault(Box::new(fault.clone())),
            None => DeviceError::Driver { call, device: self.id.clone(), name, text },
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

macro_rules! owned {
    ($($type:ty),*) => { $(impl Owned for $type { fn shared(&self) -> &Shared { &self.shared } })* };
}
owned!(Module, Function, Recorded, Executable, PinnedBlock);

/// An event that keeps the time.
struct Recorded {
    shared: Arc<Shared>,
    event: Event,
}

impl CudaBackend {
    pub(super) fn open(ordinal: usize) -> Result<(Self, DeviceInfo)> {
        let (driver, version) = driver().map_err(|driver::Absent { reason, .. }| DeviceError::NoDriver { reason })?;
        let count = count(driver).map_err(|failure| DeviceError::NoDriver { reason: driver.words(failure) })?;
        if ordinal >= count {
            return Err(DeviceError::NoDevice { ordinal, count });
        }
        let info = info(driver, ordinal, version);
        if let Some(error) = unsuitable(&info) {
            return Err(error);
        }
        let id = info.id.clone();
        let failed = |Failure { call, code }| {
            let (name, text) = (driver.name(code), driver.text(code));
            DeviceError::Driver { call, device: info.label(), name, text }
        };
        let open = || -> Result<Shared, Failure> {
            let context = Context::retain(driver, device(driver, ordinal)?)?;
            let optin = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            Ok(Shared {
                pinned: Mutex::default(),
                copies: Mutex::new(Copies::new(&context)?),
                stream: Stream::new(&context)?,
                id,
                driver: version,
                memory: info.memory,
                largest_shared: context.attribute(optin)?,
                last: Mutex::default(),
                fault: OnceLock::new(),
                context,
            })
        };
        let shared = open().map_err(failed)?;
        Ok((Self(Arc::new(shared)), info))
    }

    /// Binds the context and does something in it.
    fn in_context(&self, run: impl FnOnce(&'static Driver, &Shared) -> Result<(), Failure>) -> Result<()> {
        let shared = &*self.0;
        shared.bind()?;
        run(shared.driver(), shared).map_err(|failure| shared.failed(failure))
    }
}

impl Backend for CudaBackend {
    fn alloc(&self, bytes: usize) -> Result<u64> {
        let shared = &self.0;
        shared.bind()?;
        let out_of_memory = || DeviceError::OutOfMemory {
            device: shared.id.clone(),
            asked: bytes,
            free: shared.context.memory().map_or(0, |(free, _)| free),
        };
        // Drivers do not agree on what they answer to absurd sizes.
        if bytes > shared.memory {
            return Err(out_of_memory());
        }
        let mut ptr = 0;
        // SAFETY: `ptr` is a valid place; nothing on the host reads the memory before a kernel or a copy wrote it.
        match unsafe { shared.driver().memory_alloc(&mut ptr, bytes) } {
            Ok(()) => Ok(ptr),
            Err(Failure { code: Code::OUT_OF_MEMORY, .. }) => Err(out_of_memory()),
            Err(failure) => Err(shared.failed(failure)),
        }
    }

    fn free(&self, ptr: u64, _bytes: usize) {
        let shared = &self.0;
        // Kernels and copies that use the memory may still be queued. Where that cannot be known it is better lost than given to others.
        // SAFETY: `Memory` frees what it allocated, once.
        let freed = shared.settle().and_then(|()| unsafe { shared.driver().memory_free(ptr) });
        if let Err(failure) = freed {
            let error = shared.failed(failure);
            // A device that has failed says so to whoever asks it for something.
            if shared.fault.get().is_none() {
                tracing::error!("memory of {} at {ptr:#x} is lost: {error}", shared.id);
            }
        }
    }

    fn upload(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.in_context(|driver, shared| {
            // SAFETY: the range lies in one allocation, and `src` outlives the copy because we wait for it.
            unsafe { driver.copy_from_host(dst, src.as_ptr().cast(), src.len(), shared.stream.raw()) }?;
            shared.stream.synchronize()
        })
    }

    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()> {
        self.in_context(|driver, shared| {
            // SAFETY: as above.
            unsafe { driver.copy_to_host(dst.as_mut_ptr().cast(), src, dst.len(), shared.stream.raw()) }?;
            shared.stream.synchronize()
        })
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        // SAFETY: both ranges lie in allocations and do not overlap.
        self.in_context(|driver, shared| unsafe { driver.copy(dst, src, bytes, shared.target()) })
    }

    fn fill(&self, dst: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the range lies in one allocation.
        self.in_context(|driver, shared| unsafe { driver.fill(dst, byte, bytes, shared.target()) })
    }

    fn load(&self, name: &str, ptx: &str) -> Result<Handle> {
        check_version(name, ptx, self.0.driver)?;
        Ok(Arc::new(Module { shared: self.0.clone(), name: name.into(), ptx: ptx.into() }))
    }

    fn entry(&self, module: &Handle, entry: &str) -> Result<Handle> {
        let module = self.0.own::<Module>(module)?;
        self.0.bind()?;
        Ok(Arc::new(module.entry(entry)?))
    }

    fn launch(&self, entry: &Handle, launch: &Launch<'_>, params: &[u8]) -> Result<Option<LaunchStats>> {
        let shared = &self.0;
        let function = shared.own::<Function>(entry)?;
        shared.bind()?;
        let refused = |reason: String| DeviceError::launch(launch, &shared.id, reason);
        if launch.shared > function.most_shared() {
            return Err(refused(format!(
                "a block of it can have at most {} bytes of dynamic shared memory",
                function.most_shared()
            )));
        }
        // One packed buffer rather than a pointer for each parameter: it is what the caller has, and the driver copies it.
        let mut size = params.len();
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize),
            params.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize),
            (&raw mut size).cast(),
            std::ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_END_AS_INT as usize),
        ];
        let extra = if params.is_empty() { std::ptr::null_mut() } else { extra.as_mut_ptr() };
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function is loaded in this context; `params` has the size of its parameter block (checked by the caller)
        // and is copied during the call.
        let queued = unsafe {
            let (f, stream) = (function.raw(), shared.target());
            shared.driver().launch(f, gx, gy, gz, bx, by, bz, launch.shared, stream, std::ptr::null_mut(), extra)
        };
        queued.map_err(|failure| match fault::cause(failure.code) {
            // Not this launch.
            Some(_) => shared.failed(failure),
            None => refused(shared.driver().words(failure)),
        })?;
        capturing(|capture| match capture {
            Some(capture) => capture.add(&function.name),
            None => {
                let (name, Launch { grid, block, .. }) = (function.name.clone(), *launch);
                *lock(&shared.last) = Some(Queued::Kernel { name, grid, block });
            }
        });
        Ok(None)
    }

    fn record(&self) -> Result<Handle> {
        let shared = &self.0;
        shared.bind()?;
        let record = || -> Result<Event, Failure> {
            let event = Event::new(&shared.context, EventKind::Time)?;
            // SAFETY: the stream lives.
            unsafe { event.record(shared.stream.raw()) }?;
            Ok(event)
        };
        let event = record().map_err(|failure| shared.failed(failure))?;
        Ok(Arc::new(Recorded { shared: shared.clone(), event }))
    }

    fn happened(&self, event: &Handle) -> Result<bool> {
        let Recorded { event, .. } = self.0.own(event)?;
        self.0.bind()?;
        event.happened().map_err(|failure| self.0.failed(failure))
    }

    fn await_event(&self, event: &Handle) -> Result<()> {
        let Recorded { event, .. } = self.0.own(event)?;
        self.in_context(|_, _| event.synchronize())
    }

    fn elapsed(&self, start: &Handle, end: &Handle) -> Result<Duration> {
        let (start, end) = (self.0.own::<Recorded>(start)?, self.0.own::<Recorded>(end)?);
        let mut milliseconds = 0.0;
        self.in_context(|_, _| {
            // Both have to have happened, in whatever order they were recorded.
            start.event.synchronize()?;
            end.event.synchronize()?;
            milliseconds = end.event.milliseconds_since(&start.event)?;
            Ok(())
        })?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) * 1e-3))
    }

    fn read_async(&self, src: u64, bytes: usize) -> Result<Box<dyn Read>> {
        self.0.bind()?;
        Ok(Box::new(Reading::begin(&self.0, src, bytes)?))
    }

    fn pin(&self, content: Vec<u8>) -> Result<Handle> {
        self.0.bind()?;
        Ok(Arc::new(PinnedBlock::new(&self.0, &content)?))
    }

    fn fetch(&self, dst: u64, src: &Handle) -> Result<()> {
        let block = self.0.own::<PinnedBlock>(src)?;
        // SAFETY: nobody writes the block; its drop waits for copies under way, and a graph keeps it. The range at `dst` lies in one allocation,
        // whose free waits too.
        self.in_context(|_, shared| shared.with_copies(|main, copies| unsafe { copies.fetch(main, dst, block) }))
    }

    fn fetched(&self, dst: u64) -> Result<()> {
        // SAFETY: the streams live.
        self.in_context(|_, shared| shared.with_copies(|main, copies| unsafe { copies.join(main, dst) }))
    }

    fn synchronize(&self) -> Result<()> {
        self.in_context(|_, shared| shared.wait())
    }

    fn instantiate(&self, submit: &dyn Fn() -> Result<()>) -> Result<Option<Handle>> {
        self.0.bind()?;
        Ok(Some(Arc::new(Executable::new(&self.0, submit)?)))
    }

    fn replay(&self, graph: &Handle) -> Result<()> {
        let graph = self.0.own::<Executable>(graph)?;
        self.in_context(|driver, shared| {
            let mut copies = lock(&shared.copies);
            // What was fetched outside is there inside: the graph cannot wait for it in its middle.
            // SAFETY: graph and stream live.
            unsafe {
                copies.join_all(shared.stream.raw())?;
                driver.graph_launch(graph.raw(), shared.stream.raw())?;
            }
            *lock(&shared.last) = Some(Queued::Graph(graph.kernels().clone()));
            Ok(())
        })
    }

    fn memory(&self) -> Result<MemoryInfo> {
        self.0.bind()?;
        let (free, total) = self.0.context.memory().map_err(|failure| self.0.failed(failure))?;
        Ok(MemoryInfo { free, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The GPU that `ADACACHE_DEVICE` names, if it names one; then it has to open.
    fn gpu() -> Option<CudaBackend> {
        let name = std::env::var("ADACACHE_DEVICE").unwrap_or_default();
        let ordinal = name.strip_prefix("cuda")?.trim_start_matches(':');
        let ordinal = if ordinal.is_empty() { 0 } else { ordinal.parse().unwrap() };
        Some(CudaBackend::open(ordinal).unwrap().0)
    }

    /// Whatever becomes of a graph in the making, its thread submits to the device again afterwards, and the next graph succeeds.
    #[test]
    fn a_graph_that_fails_in_the_making_leaves_nothing() {
        let Some(gpu) = gpu() else { return };
        let memory = gpu.alloc(256).unwrap();
        let weights = gpu.pin(vec![4; 256]).unwrap();
        let usual = |gpu: &CudaBackend| {
            gpu.fill(memory, 1, 256).unwrap();
            gpu.read_async(memory, 256).unwrap().wait().unwrap()
        };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = gpu.instantiate(&|| {
                gpu.fill(memory, 2, 256)?;
                gpu.fetch(memory, &weights)?; // A second stream, that has not joined again.
                panic!("on purpose")
            });
        }));
        assert!(panicked.is_err() && capturing(|capture| capture.is_none()));
        assert_eq!(usual(&gpu), [1; 256]);

        let failed = gpu.instantiate(&|| {
            gpu.fetch(memory, &weights)?;
            Err(DeviceError::UnknownDevice { spec: "on purpose".into() })
        });
        assert!(matches!(failed, Err(DeviceError::UnknownDevice { .. })), "what was met is told, not its consequence");
        assert!(capturing(|capture| capture.is_none()));
        assert_eq!(usual(&gpu), [1; 256]);

        // An allocation breaks a capture.
        let broken = gpu.instantiate(&|| {
            let other = gpu.alloc(1)?;
            gpu.free(other, 1);
            gpu.fill(memory, 2, 256)
        });
        assert!(broken.is_err());
        assert_eq!(usual(&gpu), [1; 256]);

        let graph = gpu.instantiate(&|| {
            gpu.fetch(memory, &weights)?;
            gpu.fetched(memory)
        });
        gpu.replay(&graph.unwrap().unwrap()).unwrap();
        assert_eq!(gpu.read_async(memory, 256).unwrap().wait().unwrap(), [4; 256]);
        gpu.free(memory, 256);
    }
}
