//! The virtual GPU as a backend. Launches finish before they return, so the stream is always idle.

use super::backend::{Backend, Handle, Read, Result, lock};
use super::error::DeviceError;
use super::info::{DeviceInfo, DeviceKind, Launch, MemoryInfo};
use ptx_vm::{FaultKind, Kernel, LaunchStats, MmaRounding, Module, Vm, VmConfig};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

const ID: &str = "vm";

pub(super) struct VmBackend {
    vm: Arc<Vm>,
    memory_limit: Option<usize>,
    /// Fetches not yet waited for, by destination.
    fetching: Mutex<HashMap<u64, Handle>>,
}

impl VmBackend {
    pub(super) fn new(config: VmConfig) -> Self {
        Self { memory_limit: config.memory_limit, vm: Arc::new(Vm::new(config)), fetching: Mutex::default() }
    }
}

/// The compute capability that it has unless another is asked for: that of all kernels, of the first GPU that runs them.
pub(super) const CAPABILITY: (u32, u32) = (8, 0);

/// Those that it can be asked for.
const CAPABILITIES: [(u32, u32); 7] = [CAPABILITY, (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0)];

/// The name by which it is opened: what its results and times depend on.
fn id(config: &VmConfig, (major, minor): (u32, u32)) -> String {
    let gpu = if (major, minor) == CAPABILITY { ID.into() } else { format!("{ID}:sm_{major}{minor}") };
    match (config.adverse, config.mma) {
        (Some(seed), _) => format!("{gpu}:adverse:{seed}"),
        (None, MmaRounding::Truncate) => format!("{gpu}:truncate"),
        _ if config.checked => format!("{gpu}:checked"),
        _ => gpu,
    }
}

/// The settings and the compute capability that a name stands for: `vm[:sm_NN][:checked|:truncate|:adverse:SEED]`.
pub(super) fn named(spec: &str) -> Option<(VmConfig, (u32, u32))> {
    let mut rest = spec.strip_prefix(ID)?;
    let mut capability = CAPABILITY;
    if let Some(gpu) = rest.strip_prefix(":sm_") {
        let name = gpu.split(':').next()?;
        rest = &gpu[name.len()..];
        let sm = name.parse::<u32>().ok()?;
        capability = (sm / 10, sm % 10);
        CAPABILITIES.iter().find(|known| **known == capability)?;
    }
    let config = match rest {
        "" => VmConfig::default(),
        ":checked" => VmConfig { checked: true, ..VmConfig::default() },
        ":truncate" => VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() },
        _ => VmConfig::adverse(rest.strip_prefix(":adverse:")?.parse().ok()?),
    };
    Some((config, capability))
}

pub(super) fn info(config: &VmConfig, capability: (u32, u32)) -> DeviceInfo {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        id: id(config, capability),
        kind: DeviceKind::Vm,
        name: format!("virtual GPU on {}", cpu_name()),
        memory: config.memory_limit.unwrap_or_else(|| host_memory().total),
        compute_capability: Some(capability),
        driver: None,
        units: if config.threads == 0 { cores } else { config.threads },
        pci: None,
        unavailable: None,
    }
}

/// The host's memory. If it cannot be read, nothing is refused in advance.
fn host_memory() -> MemoryInfo {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
    };
    MemoryInfo { free: field("MemAvailable").unwrap_or(usize::MAX), total: field("MemTotal").unwrap_or(usize::MAX) }
}

fn downcast<'a, T: 'static>(handle: &'a Handle, what: &str) -> Result<&'a T> {
    let owner = || DeviceError::ForeignMemory { device: ID.into(), owner: format!("another device ({what})") };
    handle.downcast_ref().ok_or_else(owner)
}

impl Backend for VmBackend {
    fn alloc(&self, bytes: usize) -> Result<u64> {
        // Asked before, because the host would overcommit and kill the process later.
        let free = self.memory()?.free;
        let out_of_memory = || DeviceError::OutOfMemory { device: ID.into(), asked: bytes, free };
        if bytes > free {
            return Err(out_of_memory());
        }
        self.vm.alloc(bytes).map_err(|_| out_of_memory())
    }

    fn free(&self, ptr: u64, bytes: usize) {
        lock(&self.fetching).retain(|dst, _| !(ptr..ptr + bytes as u64).contains(dst));
        if let Err(error) = self.vm.free(ptr) {
            tracing::error!("vm: free of {ptr:#x}: {error}");
        }
    }

    fn upload(&self, dst: u64, src: &[u8]) -> Result<()> {
        Ok(self.vm.write(dst, src)?)
    }

    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()> {
        Ok(self.vm.read(src, dst)?)
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        Ok(self.vm.copy(dst, src, bytes)?)
    }

    fn fill(&self, dst: u64, byte: u8, bytes: usize) -> Result<()> {
        Ok(self.vm.fill(dst, byte, bytes)?)
    }

    fn load(&self, name: &str, ptx: &str) -> Result<Handle> {
        let module = Module::parse(name, ptx)
            .map_err(|error| DeviceError::Load { module: name.into(), reason: error.to_string() })?;
        Ok(Arc::new((name.to_owned(), module)))
    }

    fn entry(&self, module: &Handle, entry: &str) -> Result<Handle> {
        let (name, module) = downcast::<(String, Module)>(module, "module")?;
        let kernel: Arc<Kernel> = module
            .kernel(entry)
            .map_err(|error| DeviceError::Load { module: name.clone(), reason: error.to_string() })?;
        Ok(kernel)
    }

    fn launch(&self, entry: &Handle, launch: &Launch<'_>, params: &[u8]) -> Result<Option<LaunchStats>> {
        let kernel = downcast::<Kernel>(entry, "kernel")?;
        let shape = ptx_vm::Launch::new(launch.grid, launch.block).dynamic_shared(launch.shared);
        let stats = self.vm.launch(kernel, &shape, params).map_err(|fault| match fault.kind {
            FaultKind::Interrupted => DeviceError::Interrupted { device: ID.into() },
            _ => DeviceError::Fault {
                kernel: launch.kernel.into(),
                grid: launch.grid,
                block: launch.block,
                fault: Box::new(fault),
            },
        })?;
        Ok(Some(stats))
    }

    fn record(&self) -> Result<Handle> {
        Ok(Arc::new(Instant::now()))
    }

    fn happened(&self, event: &Handle) -> Result<bool> {
        downcast::<Instant>(event, "event").map(|_| true)
    }

    fn await_event(&self, event: &Handle) -> Result<()> {
        downcast::<Instant>(event, "event").map(drop)
    }

    fn elapsed(&self, start: &Handle, end: &Handle) -> Result<Duration> {
        let (start, end) = (downcast::<Instant>(start, "event")?, downcast::<Instant>(end, "event")?);
        Ok(end.saturating_duration_since(*start))
    }

    fn read_async(&self, src: u64, bytes: usize) -> Result<Box<dyn Read>> {
        let mut data = vec![0; bytes];
        if bytes > 0 {
            self.vm.read(src, &mut data)?;
        }
        Ok(Box::new(Done(data)))
    }

    fn pin(&self, content: Vec<u8>) -> Result<Handle> {
        Ok(Arc::new(content))
    }

    /// On a GPU the copy may arrive at any time from now until it is waited for. Here the old content is destroyed at once and the copy
    /// arrives as late as possible, so that wrongly ordered work reads NaN.
    fn fetch(&self, dst: u64, src: &Handle) -> Result<()> {
        let content = downcast::<Vec<u8>>(src, "host memory")?;
        self.vm.fill(dst, 0xff, content.len())?;
        lock(&self.fetching).insert(dst, src.clone());
        Ok(())
    }

    fn fetched(&self, dst: u64) -> Result<()> {
        let arrived = lock(&self.fetching).remove(&dst);
        match &arrived {
            Some(src) => Ok(self.vm.write(dst, downcast::<Vec<u8>>(src, "host memory")?)?),
            None => Ok(()),
        }
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn vm(&self) -> Weak<Vm> {
        Arc::downgrade(&self.vm)
    }

    fn memory(&self) -> Result<MemoryInfo> {
        Ok(match self.memory_limit {
            Some(limit) => MemoryInfo { free: limit.saturating_sub(self.vm.allocated_bytes()), total: limit },
            None => host_memory(),
        })
    }
}

/// A read-back that has already completed.
struct Done(Vec<u8>);

impl Read for Done {
    fn ready(&self) -> Result<bool> {
        Ok(true)
    }

    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
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
