//! All that the driver knows, behind one lock: devices, contexts and what was made in them.

use crate::code::{Answer, Code};
use crate::graph::{Capture, Exec, Graph};
use crate::module::{Function, Library, Link, Module};
use crate::schedule::Op;
use crate::settings::{Schedule, Settings};
use crate::spec::Spec;
use ptx_vm::{Region, Vm, VmConfig};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

/// A handle. Handles are numbers that are never used again, so that a stale one is known.
pub(crate) type Id = u64;

/// What a thread is to the driver.
pub(crate) struct Thread {
    /// The stack of current contexts.
    pub(crate) contexts: RefCell<Vec<Id>>,
    /// Inside a host function of a stream: no driver calls from there.
    pub(crate) in_callback: Cell<bool>,
    /// `cuThreadExchangeStreamCaptureMode`.
    pub(crate) capture_mode: Cell<u32>,
}

thread_local! {
    pub(crate) static THREAD: Thread = const {
        Thread { contexts: RefCell::new(Vec::new()), in_callback: Cell::new(false), capture_mode: Cell::new(0) }
    };
}

/// Who made something: for the report of leaks.
pub(crate) struct Made {
    pub(crate) call: &'static str,
    /// Number of the call in the process.
    pub(crate) number: u64,
    pub(crate) trace: Option<Backtrace>,
}

pub(crate) struct Device {
    pub(crate) spec: Spec,
    /// Made with the first context.
    pub(crate) vm: Option<Arc<Vm>>,
    pub(crate) primary: Option<Id>,
    pub(crate) primary_uses: u32,
    pub(crate) primary_flags: u32,
    pub(crate) default_pool: Id,
    pub(crate) pool: Id,
}

pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) flags: u32,
    pub(crate) primary: bool,
    /// The legacy default stream.
    pub(crate) legacy: Id,
    pub(crate) per_thread: HashMap<ThreadId, Id>,
    /// The fault that it died of.
    pub(crate) error: Option<Code>,
    /// Devices whose memory kernels of this context may use.
    pub(crate) peers: HashSet<usize>,
    pub(crate) limits: HashMap<u32, usize>,
    pub(crate) cache_config: u32,
    pub(crate) shared_config: u32,
    pub(crate) made: Made,
}

pub(crate) struct Stream {
    pub(crate) context: Id,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// What the next operation waits for.
    pub(crate) tail: Vec<Id>,
    pub(crate) capture: Option<Id>,
    /// In a capture: the nodes that the next one depends on.
    pub(crate) captured_tail: Vec<Id>,
    /// The default streams belong to their context and are no leaks.
    pub(crate) default: bool,
    pub(crate) made: Made,
}

impl Stream {
    /// Whether it takes turns with the legacy default stream.
    pub(crate) fn blocks(&self) -> bool {
        self.flags & 1 == 0
    }
}

pub(crate) enum EventState {
    Never,
    Recorded { op: Id },
    /// Recorded in a capture, and what was captured there so far.
    Captured { capture: Id, nodes: Vec<Id> },
}

pub(crate) struct Event {
    pub(crate) context: Id,
    pub(crate) flags: u32,
    pub(crate) state: EventState,
    /// When the last record happened, in seconds.
    pub(crate) time: Option<f64>,
    /// Queries in vain since the last record.
    pub(crate) queries: u32,
    pub(crate) made: Made,
}

/// Memory by its address.
pub(crate) enum Kind {
    Device,
    /// Of a pool; `freed` once a free is queued.
    Pooled { pool: Id, freed: bool },
    /// A variable of a module.
    Variable,
    /// Host memory that the driver allocated.
    Pinned,
    /// Host memory of the program.
    Registered,
    Managed,
}

pub(crate) struct Range {
    pub(crate) id: Id,
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
    pub(crate) context: Id,
    /// The device whose memory it is; of host memory, the one that was current.
    pub(crate) device: usize,
    pub(crate) flags: u32,
    /// Of host memory: how the virtual GPUs know it.
    pub(crate) region: Option<Region>,
    pub(crate) made: Made,
}

impl Range {
    pub(crate) fn on_host(&self) -> bool {
        matches!(self.kind, Kind::Pinned | Kind::Registered | Kind::Managed)
    }
}

pub(crate) struct Pool {
    pub(crate) device: usize,
    pub(crate) default: bool,
    pub(crate) threshold: u64,
    pub(crate) reuse: [u32; 3],
    pub(crate) used: u64,
    pub(crate) used_high: u64,
    pub(crate) made: Made,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) initialised: bool,
    pub(crate) began: Instant,
    pub(crate) devices: Vec<Device>,
    pub(crate) contexts: HashMap<Id, Context>,
    pub(crate) streams: HashMap<Id, Stream>,
    pub(crate) events: HashMap<Id, Event>,
    pub(crate) modules: HashMap<Id, Module>,
    pub(crate) functions: HashMap<Id, Function>,
    pub(crate) libraries: HashMap<Id, Library>,
    /// Kernels of libraries: library and name.
    pub(crate) kernels: HashMap<Id, (Id, String)>,
    pub(crate) links: HashMap<Id, Link>,
    pub(crate) graphs: HashMap<Id, Graph>,
    pub(crate) execs: HashMap<Id, Exec>,
    pub(crate) captures: HashMap<Id, Capture>,
    pub(crate) pools: HashMap<Id, Pool>,
    pub(crate) memory: BTreeMap<u64, Range>,
    /// What is queued and not done.
    pub(crate) ops: BTreeMap<Id, Op>,
    /// An operation is running with the lock released.
    pub(crate) busy: bool,
    next: Id,
    random: u64,
    /// Calls by function.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    pub(crate) total: u64,
    /// What went wrong in kernels and copies, in words.
    pub(crate) faults: Vec<String>,
    pub(crate) injected: Vec<String>,
    pub(crate) unsupported: BTreeMap<&'static str, u64>,
    pub(crate) remarks: Vec<String>,
    /// What was there when its context went.
    pub(crate) lost: Vec<serde_json::Value>,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::new(Settings::from_env())));
/// Something was done, or the turn to run is free.
pub(crate) static CHANGED: Condvar = Condvar::new();

pub(crate) fn lock() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn new(settings: Settings) -> World {
        let random = match settings.schedule {
            Schedule::Random(seed) => seed,
            _ => 0,
        };
        World {
            settings,
            initialised: false,
            began: Instant::now(),
            devices: vec![],
            contexts: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            kernels: HashMap::new(),
            links: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            captures: HashMap::new(),
            pools: HashMap::new(),
            memory: BTreeMap::new(),
            ops: BTreeMap::new(),
            busy: false,
            next: 0x1000,
            random,
            calls: BTreeMap::new(),
            total: 0,
            faults: vec![],
            injected: vec![],
            unsupported: BTreeMap::new(),
            remarks: vec![],
            lost: vec![],
        }
    }

    /// A handle that was never used.
    pub(crate) fn id(&mut self) -> Id {
        self.next += 16;
        self.next
    }

    /// A number below `n`, from the seed.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n.max(1)
    }

    pub(crate) fn schedule(&self) -> Schedule {
        self.settings.schedule
    }

    /// Says something once on stderr, and in the report.
    pub(crate) fn remark(&mut self, text: String) {
        if !self.remarks.contains(&text) {
            eprintln!("vcuda: {text}");
            self.remarks.push(text);
        }
    }

    /// Makes the devices; the work of `cuInit`.
    pub(crate) fn initialise(&mut self, made: impl Fn() -> Made) -> Answer {
        if let Some(error) = &self.settings.error {
            eprintln!("vcuda: {error}");
            return Err(Code::INVALID_VALUE);
        }
        if self.initialised {
            return Ok(());
        }
        for (device, spec) in self.settings.devices.clone().into_iter().enumerate() {
            let pool = self.id();
            let default = true;
            let new = Pool { device, default, threshold: 0, reuse: [1; 3], used: 0, used_high: 0, made: made() };
            self.pools.insert(pool, new);
            self.devices.push(Device {
                spec,
                vm: None,
                primary: None,
                primary_uses: 0,
                primary_flags: 0,
                default_pool: pool,
                pool,
            });
        }
        self.initialised = true;
        crate::report::at_exit();
        if self.devices.is_empty() { Err(Code::NO_DEVICE) } else { Ok(()) }
    }

    pub(crate) fn device(&self, ordinal: i32) -> Answer<usize> {
        usize::try_from(ordinal).ok().filter(|i| *i < self.devices.len()).ok_or(Code::INVALID_DEVICE)
    }

    /// The virtual GPU behind a device, made when first asked for.
    pub(crate) fn vm(&mut self, device: usize) -> Arc<Vm> {
        if let Some(vm) = &self.devices[device].vm {
            return vm.clone();
        }
        let block_order = match self.settings.schedule {
            Schedule::Random(seed) => Some(seed ^ device as u64),
            _ => None,
        };
        let config = VmConfig {
            memory_limit: Some(self.devices[device].spec.memory as usize),
            checked: self.settings.checked,
            block_order,
            ..VmConfig::default()
        };
        let vm = Arc::new(Vm::new(config));
        self.devices[device].vm = Some(vm.clone());
        // Host memory that is there already.
        for region in self.memory.values().filter_map(|range| range.region.as_ref()) {
            let _ = vm.map(region);
        }
        vm
    }

    pub(crate) fn new_context(&mut self, device: usize, flags: u32, primary: bool, made: impl Fn() -> Made) -> Id {
        self.vm(device);
        let (context, legacy) = (self.id(), self.id());
        self.add_stream(legacy, context, 0, 0, true, made());
        let new = Context {
            device,
            flags,
            primary,
            legacy,
            per_thread: HashMap::new(),
            error: None,
            peers: HashSet::new(),
            limits: HashMap::new(),
            cache_config: 0,
            shared_config: 0,
            made: made(),
        };
        self.contexts.insert(context, new);
        context
    }

    pub(crate) fn add_stream(&mut self, id: Id, context: Id, flags: u32, priority: i32, default: bool, made: Made) {
        let stream =
            Stream { context, flags, priority, tail: vec![], capture: None, captured_tail: vec![], default, made };
        self.streams.insert(id, stream);
    }

    /// The context on top of this thread's stack, alive.
    pub(crate) fn current(&self) -> Answer<Id> {
        let top = THREAD.with(|thread| thread.contexts.borrow().last().copied()).unwrap_or(0);
        match self.contexts.get(&top) {
            Some(_) => Ok(top),
            None if top == 0 => Err(Code::INVALID_CONTEXT),
            None => Err(Code::CONTEXT_IS_DESTROYED),
        }
    }

    pub(crate) fn current_device(&self) -> Answer<usize> {
        Ok(self.contexts[&self.current()?].device)
    }

    /// The stream of a handle; `per_thread`: what null means.
    pub(crate) fn stream(&mut self, handle: Id, per_thread: bool, made: impl Fn() -> Made) -> Answer<Id> {
        let special = match handle {
            0 => Some(per_thread),
            1 => Some(false),
            2 => Some(true),
            _ => None,
        };
        match special {
            None => self.streams.contains_key(&handle).then_some(handle).ok_or(Code::INVALID_HANDLE),
            Some(false) => Ok(self.contexts[&self.current()?].legacy),
            Some(true) => {
                let context = self.current()?;
                let thread = std::thread::current().id();
                if let Some(id) = self.contexts[&context].per_thread.get(&thread) {
                    return Ok(*id);
                }
                let id = self.id();
                self.add_stream(id, context, 0, 0, true, made());
                self.contexts.get_mut(&context).ok_or(Code::INVALID_CONTEXT)?.per_thread.insert(thread, id);
                Ok(id)
            }
        }
    }

    /// The memory that holds an address, and its first address.
    pub(crate) fn range(&self, address: u64) -> Option<(u64, &Range)> {
        let (base, range) = self.memory.range(..=address).next_back()?;
        (address - base < (range.bytes as u64).max(1)).then_some((*base, range))
    }

    /// Memory that holds all of `bytes` from `address`.
    pub(crate) fn whole_range(&self, address: u64, bytes: usize) -> Option<(u64, &Range)> {
        let (base, range) = self.range(address)?;
        ((address - base) as usize).checked_add(bytes).filter(|end| *end <= range.bytes).map(|_| (base, range))
    }

    /// Ends a context and everything made in it.
    pub(crate) fn destroy_context(&mut self, id: Id) {
        let Some(context) = self.contexts.remove(&id) else { return };
        self.ops.retain(|_, op| op.context != id || op.running);
        let faulted = context.error.is_some();
        let mut lost = vec![];
        let mut note = |kind: &str, made: &Made, bytes: Option<usize>| {
            // After a fault nothing can be given back one by one.
            if !faulted {
                lost.push(crate::report::entry(kind, made, bytes));
            }
        };
        for (_, stream) in self.streams.iter().filter(|(_, s)| s.context == id && !s.default) {
            note("stream", &stream.made, None);
        }
        self.streams.retain(|_, stream| stream.context != id);
        for (_, event) in self.events.iter().filter(|(_, e)| e.context == id) {
            note("event", &event.made, None);
        }
        self.events.retain(|_, event| event.context != id);
        for (_, module) in self.modules.iter().filter(|(_, m)| m.context == id && m.library.is_none()) {
            note("module", &module.made, None);
        }
        for (_, exec) in self.execs.iter().filter(|(_, e)| e.context == id) {
            note("graph exec", &exec.made, None);
        }
        self.execs.retain(|_, exec| exec.context != id);
        let modules: Vec<Id> = self.modules.iter().filter(|(_, m)| m.context == id).map(|(id, _)| *id).collect();
        modules.into_iter().for_each(|module| self.unload(module));
        let addresses: Vec<u64> = self.memory.iter().filter(|(_, r)| r.context == id).map(|(at, _)| *at).collect();
        for address in addresses {
            let range = &self.memory[&address];
            if !matches!(range.kind, Kind::Pooled { freed: true, .. }) {
                note(range.kind.name(), &range.made, Some(range.bytes));
            }
            self.release(address);
        }
        self.captures.retain(|_, capture| capture.context != id);
        self.lost.extend(lost);
        CHANGED.notify_all();
    }

    /// Takes a module away, with its functions and variables.
    pub(crate) fn unload(&mut self, id: Id) {
        let Some(module) = self.modules.remove(&id) else { return };
        self.functions.retain(|_, function| function.module != id);
        for address in module.variables.values().map(|(address, _)| *address) {
            self.memory.remove(&address);
            for vm in self.devices.iter().filter_map(|device| device.vm.as_ref()) {
                let _ = vm.unmap(address);
            }
        }
    }

    /// Gives memory back, whatever its kind; false when nothing begins there.
    pub(crate) fn release(&mut self, address: u64) -> bool {
        let Some(range) = self.memory.remove(&address) else { return false };
        for vm in self.devices.iter().filter_map(|device| device.vm.as_ref()) {
            match range.kind {
                // Peers have it mapped.
                Kind::Device | Kind::Pooled { .. } if Some(range.device) == self.owner_of(vm) => {}
                _ => drop(vm.unmap(address)),
            }
        }
        match range.kind {
            Kind::Device | Kind::Pooled { .. } => {
                if let Kind::Pooled { pool, .. } = range.kind
                    && let Some(pool) = self.pools.get_mut(&pool)
                {
                    pool.used = pool.used.saturating_sub(range.bytes as u64);
                }
                if let Some(vm) = &self.devices[range.device].vm {
                    let _ = vm.free(address);
                }
            }
            Kind::Pinned | Kind::Managed => crate::memory::unmap_host(address, range.bytes),
            Kind::Registered | Kind::Variable => {}
        }
        true
    }

    fn owner_of(&self, vm: &Arc<Vm>) -> Option<usize> {
        self.devices.iter().position(|device| device.vm.as_ref().is_some_and(|own| Arc::ptr_eq(own, vm)))
    }

    /// The context died of a fault: what is queued in it never runs.
    pub(crate) fn fault(&mut self, context: Id, code: Code, words: String) {
        eprintln!("vcuda: {words}");
        self.faults.push(words);
        if let Some(context) = self.contexts.get_mut(&context) {
            context.error.get_or_insert(code);
        }
        self.ops.retain(|_, op| op.context != context || op.running);
        CHANGED.notify_all();
    }
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Device => "device memory",
            Kind::Pooled { .. } => "pool memory",
            Kind::Variable => "variable",
            Kind::Pinned => "pinned host memory",
            Kind::Registered => "registered host memory",
            Kind::Managed => "managed memory",
        }
    }
}
