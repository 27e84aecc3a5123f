//! All that the driver knows, behind one lock: devices, contexts and what was made in them.

use crate::code::{Answer, Code};
use crate::host;
use crate::made::{Id, Made};
use crate::object::{Context, Device, Event, Function, Kind, Library, Link, Module, Pool, Range, Stream};
use crate::settings::{Schedule, Settings};
use crate::thread::{THREAD, forked, note_forks};
use crate::work::{Capture, Exec, Graph, Op, UserObject};
use ptx_vm::{Vm, VmConfig};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

thread_local! {
    static GOODBYE: Goodbye = const { Goodbye };
}

/// What a thread leaves when it ends: its stack of contexts, and its default streams, whose work goes on.
struct Goodbye;

impl Drop for Goodbye {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.contexts.take());
        if forked() {
            return;
        }
        let mut world = lock();
        let thread = std::thread::current().id();
        let own: Vec<Id> =
            world.contexts.values_mut().filter_map(|context| context.per_thread.remove(&thread)).collect();
        own.into_iter().for_each(|stream| world.remove_stream(stream));
    }
}

/// Makes a context current to this thread, above the others.
pub(crate) fn push_context(context: Id) {
    // A thread that is about to end has said goodbye already.
    let _ = GOODBYE.try_with(|_| ());
    THREAD.with(|thread| thread.contexts.borrow_mut().push(context));
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) initialised: bool,
    /// `cuInit` was called with settings that are right.
    began_once: bool,
    pub(crate) began: Instant,
    pub(crate) devices: Vec<Device>,
    pub(crate) contexts: HashMap<Id, Context>,
    pub(crate) streams: HashMap<Id, Stream>,
    pub(crate) events: HashMap<Id, Event>,
    pub(crate) modules: HashMap<Id, Module>,
    pub(crate) functions: HashMap<Id, Function>,
    pub(crate) libraries: HashMap<Id, Library>,
    /// Kernels of libraries: library and name.
    pub(crate) kernels: HashMap<Id, (Id, CString)>,
    pub(crate) links: HashMap<Id, Link>,
    pub(crate) graphs: HashMap<Id, Graph>,
    pub(crate) execs: HashMap<Id, Exec>,
    /// The program's own references to user objects.
    pub(crate) user_objects: HashMap<Id, (Arc<UserObject>, u32)>,
    pub(crate) captures: HashMap<Id, Capture>,
    pub(crate) pools: HashMap<Id, Pool>,
    pub(crate) memory: BTreeMap<u64, Range>,
    /// What is queued and not done.
    pub(crate) ops: BTreeMap<Id, Op>,
    /// Those of them that wait for nothing and do not run.
    pub(crate) ready: BTreeSet<Id>,
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
            began_once: false,
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
            user_objects: HashMap::new(),
            execs: HashMap::new(),
            captures: HashMap::new(),
            pools: HashMap::new(),
            memory: BTreeMap::new(),
            ops: BTreeMap::new(),
            ready: BTreeSet::new(),
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

    /// The last handle that was made.
    pub(crate) fn newest(&self) -> Id {
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
        if !self.began_once {
            self.began_once = true;
            note_forks();
        }
        if self.settings.devices.is_empty() {
            return Err(Code::NO_DEVICE);
        }
        for (device, spec) in self.settings.devices.clone().into_iter().enumerate() {
            let pool = self.id();
            let default = true;
            let shared_with = BTreeSet::new();
            let new =
                Pool { device, default, threshold: 0, shared_with, reuse: [1; 3], used: 0, used_high: 0, made: made() };
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
        Ok(())
    }

    pub(crate) fn device(&self, ordinal: i32) -> Answer<usize> {
        usize::try_from(ordinal).ok().filter(|i| *i < self.devices.len()).ok_or(Code::INVALID_DEVICE)
    }

    /// The virtual GPU behind a device, made when first asked for.
    pub(crate) fn vm(&mut self, device: usize) -> Arc<Vm> {
        if let Some(vm) = &self.devices[device].vm {
            return vm.clone();
        }
        let adverse = match self.settings.schedule {
            Schedule::Random(seed) => Some(seed ^ device as u64),
            _ => None,
        };
        let (major, minor) = self.devices[device].spec.capability;
        let config = VmConfig {
            memory_limit: Some(self.devices[device].spec.memory as usize),
            checked: self.settings.checked,
            arch: Some(10 * major + minor),
            adverse,
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
        self.streams.insert(legacy, Stream::default_of(context, made()));
        let new = Context {
            device,
            flags,
            primary,
            legacy,
            per_thread: HashMap::new(),
            orphans: vec![],
            error: None,
            peers: HashMap::new(),
            limits: HashMap::new(),
            cache_config: 0,
            shared_config: 0,
            made: made(),
        };
        self.contexts.insert(context, new);
        context
    }

    /// A stream is destroyed; what is queued on it goes on, and a capture that it is in is spoilt.
    pub(crate) fn remove_stream(&mut self, id: Id) {
        let Some(stream) = self.streams.get(&id) else { return };
        if let Some(capture) = stream.capture {
            self.invalidate(capture);
            if self.captures.get(&capture).is_some_and(|c| c.origin == id) {
                self.abandon(capture);
            }
        }
        let Some(gone) = self.streams.remove(&id) else { return };
        if gone.blocks()
            && let Some(context) = self.contexts.get_mut(&gone.context)
        {
            context.orphans.retain(|op| self.ops.contains_key(op));
            context.orphans.extend(gone.tail);
        }
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
                let _ = GOODBYE.try_with(|_| ());
                let id = self.id();
                self.streams.insert(id, Stream::default_of(context, made()));
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
        self.drop_ops(id, Code::CONTEXT_IS_DESTROYED);
        for other in self.contexts.values_mut() {
            other.peers.remove(&id);
        }
        let faulted = context.error.is_some();
        let mut lost = vec![];
        let mut note = |kind: &str, made: &Made, bytes: Option<usize>| {
            // After a fault nothing can be given back one by one.
            if !faulted {
                lost.push(made.leak(kind, bytes));
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
        let captures: Vec<Id> = self.captures.iter().filter(|(_, c)| c.context == id).map(|(id, _)| *id).collect();
        captures.into_iter().for_each(|capture| self.abandon(capture));
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
            Kind::Pinned | Kind::Managed => host::unmap(address, range.bytes),
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
        self.drop_ops(context, code);
    }
}
