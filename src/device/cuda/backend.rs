//! The backend itself: all device operations, through the driver.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute};
use ptx_vm::{LaunchStats, TENSOR_MAP_BYTES, TensorMap};

use super::copies::Copies;
use super::driver::{self, Code, Driver, Failure};
use super::fault::{self, Queued};
use super::gpus::{count, device, driver, info, unsuitable};
use super::graph::Executable;
use super::handles::{Context, Event, EventKind, Stream};
use super::module::{Function, Module, check_version};
use super::pinned::{PinnedBlock, Reading};
use super::shared::{Owned, Shared, capturing};
use crate::device::backend::{Backend, Handle, Read, Result, lock};
use crate::device::error::DeviceError;
use crate::device::info::{DeviceInfo, Launch, MemoryInfo};

/// A timing event.
struct Recorded {
    shared: Arc<Shared>,
    event: Event,
}

impl Owned for Recorded {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}

pub(in crate::device) struct CudaBackend(Arc<Shared>);

impl CudaBackend {
    pub(in crate::device) fn open(ordinal: usize) -> Result<(Self, DeviceInfo)> {
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

    /// Binds the context and runs a closure in it.
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

    fn tensor_map(&self, map: &TensorMap, _portable: [u8; TENSOR_MAP_BYTES]) -> Result<[u8; TENSOR_MAP_BYTES]> {
        let mut encoded = [0; TENSOR_MAP_BYTES];
        self.in_context(|driver, _| {
            encoded = driver.encode_tensor_map(map)?;
            Ok(())
        })?;
        Ok(encoded)
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
        self.in_context(|_, shared| {
            // SAFETY: nobody writes the block; its drop waits for copies under way, and a graph keeps it. The range at `dst` lies in one
            // allocation, whose free waits too.
            shared.with_copies(|main, copies| unsafe { copies.fetch(main, dst, &block.memory, block.bytes) })
        })
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

    /// The GPU named by `ADACACHE_DEVICE`, if any; it must open in that case.
    fn gpu() -> Option<CudaBackend> {
        let name = std::env::var("ADACACHE_DEVICE").unwrap_or_default();
        let ordinal = name.strip_prefix("cuda")?.trim_start_matches(':');
        let ordinal = if ordinal.is_empty() { 0 } else { ordinal.parse().unwrap() };
        Some(CudaBackend::open(ordinal).unwrap().0)
    }

    /// However the construction of a graph fails, its thread submits to the device again afterwards, and the next graph succeeds.
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
