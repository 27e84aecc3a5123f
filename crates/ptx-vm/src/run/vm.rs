//! The device: memory calls and launches.

use super::adverse::POISON;
use super::block::{INTERRUPTED, LaunchInfo, Runner};
use super::order::Order;
use super::pool::Pool;
use crate::check::{Checks, Races, Watch};
use crate::counters::{Counters, Profile, Tally};
use crate::error::{Fault, FaultKind, FaultKinds};
use crate::ir::Kernel;
use crate::math::mma::TensorCore;
use crate::memory::{Allocation, DevicePtr, Heap, Live, MemoryError, Region, Table};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How a [`Vm`] runs. There will be more to set: begin with `..VmConfig::default()`.
#[derive(Debug, Clone, Default)]
pub struct VmConfig {
    /// Worker threads, the caller's included; 0 takes all cores. There are never more than [`VmConfig::MOST_THREADS`].
    pub threads: usize,
    /// Checked mode: uninitialised reads, shared-memory races and divergent barriers end a launch too. Several times slower.
    pub checked: bool,
    /// Checked mode also looks for races in global memory, among warps and blocks: by one thread, and with twelve bytes of notes for each byte that
    /// a launch touches.
    pub global_races: bool,
    /// The kinds of [`FaultKind::CHECKED`] that checked mode reports; all by default. What ends a launch in any mode does so all the same.
    pub report: FaultKinds,
    /// Gather counters; see [`LaunchStats::counters`].
    pub counters: bool,
    /// Gather counters for each line of the PTX as well; see [`LaunchStats::profile`].
    pub profile: bool,
    /// Warp instructions a block may execute before the launch is stopped as a runaway; they are counted at backward jumps, calls and waits.
    pub instruction_budget: Option<u64>,
    /// Warp instructions all blocks of a launch may execute together before it is stopped as a runaway.
    pub launch_budget: Option<u64>,
    /// How long a launch may take before it is stopped, by the clock on the wall.
    pub timeout: Option<Duration>,
    /// Bytes that may be allocated at a time.
    pub memory_limit: Option<usize>,
    /// Bytes of stack for each thread of a kernel with recursive functions; 64 KiB if not given.
    pub stack_bytes: Option<usize>,
    /// Bytes that `malloc` of kernels may have at a time, as `cudaLimitMallocHeapSize`; 8 MiB if not given.
    pub heap_bytes: Option<usize>,
    /// Blocks begin in an order of this seed instead of by number: CUDA promises none, so a kernel must compute the same. The order also
    /// depends on how many launches the device has begun before, and on nothing else: a program that repeats itself meets the same
    /// orders again. With several threads blocks run at the same time, as they do without a seed.
    pub block_order: Option<u64>,
    /// Launches take every liberty that hardware has and an interpreter does not: blocks in another order, warps in turns of 1 to 50
    /// instructions of which some lag far behind, asynchronous copies and weak stores that arrive as late as waits, fences and barriers allow,
    /// and poison (0xff) in all memory that nobody has written. Everything follows from this seed, the number of launches before and the
    /// block. A correct kernel computes the same; one that lacks a wait, a barrier or a fence mostly does not. In checked mode copies and
    /// stores are not late, because the checks see for themselves who waits for whom.
    pub adverse: Option<u64>,
    /// The architecture of the device, as 80 for sm_80: how much shared memory a block may have, how tensor cores add, and that kernels for
    /// later ones are refused. If not given, the device is of each kernel's own `.target`.
    pub arch: Option<u32>,
    /// How `mma` and `wmma` of floating point add.
    pub mma: MmaRounding,
}

impl VmConfig {
    /// An adverse device: see the field of this name.
    pub fn adverse(seed: u64) -> VmConfig {
        VmConfig { adverse: Some(seed), ..VmConfig::default() }
    }

    /// Threads beyond which more would not help anybody.
    pub const MOST_THREADS: usize = 1024;
}

/// How `mma` and `wmma` add products in floating point. Integers and f64 are the same with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MmaRounding {
    /// One product after the other, each sum rounded to nearest in f32: fast, and about as exact as what hardware does.
    #[default]
    Nearest,
    /// As the tensor cores of [`VmConfig::arch`] do, bit for bit where that is known; see [`TensorCore`]. A
    /// kernel whose tolerances hold with both has not been tuned to this interpreter. An `mma` takes tens of times as long.
    Truncate,
}

impl std::str::FromStr for MmaRounding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "nearest" => Ok(MmaRounding::Nearest),
            "truncate" => Ok(MmaRounding::Truncate),
            _ => Err("neither `nearest` nor `truncate`".to_owned()),
        }
    }
}

/// The shape of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory. Nobody asks whether the program has opted in, as CUDA does above 48 KiB.
    pub dynamic_shared: u32,
}

/// What a finished launch can tell.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[non_exhaustive]
pub struct LaunchStats {
    /// Wall-clock seconds on this machine's CPU.
    pub seconds: f64,
    /// What was counted, when [`VmConfig::counters`] or [`VmConfig::profile`] is on.
    pub counters: Option<Counters>,
    /// The same line by line, when [`VmConfig::profile`] is on.
    pub profile: Option<Profile>,
}

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

    /// Runs a kernel to its end. `params` are the parameter bytes, laid out as the PTX `.param` list says.
    pub fn launch(&self, kernel: &Kernel, launch: &Launch, params: &[u8]) -> Result<LaunchStats, Fault> {
        let start = Instant::now();
        let arch = self.config.arch.unwrap_or(kernel.arch);
        check_launch(kernel, launch, params, arch)?;
        let stack = self.config.stack_bytes.unwrap_or(64 << 10);
        if kernel.stack && stack > MOST_STACK {
            let message = format!("a stack of {stack} bytes a thread: at most {MOST_STACK}");
            return Err(Fault::at_launch(kernel, message));
        }
        let uninterrupted = self.interrupts.load(Ordering::Relaxed);
        if uninterrupted & 1 == 1 {
            return Err(Fault::cut(kernel, FaultKind::Interrupted, INTERRUPTED));
        }
        let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
        // Races are looked for by one thread: it has to know what all blocks have done.
        let races = (self.config.checked && self.config.global_races).then(Arc::<Mutex<Races>>::default);
        let helpers = if races.is_some() { 0 } else { self.helpers };
        let helpers = (blocks.saturating_sub(1)).min(helpers as u64) as usize;
        // `grid.sync()` counts in a workspace of the launch: its size, and the barrier.
        let mut table = self.table();
        let mut workspace = 0;
        if kernel.launch_consts.iter().any(|(_, _, source)| source.is_workspace()) {
            let name = "the grid's workspace";
            let refused = || Fault::at_launch(kernel, "there is no memory for the grid's workspace".to_owned());
            let allocation = Allocation::new(8, true, self.config.checked, name).ok_or_else(refused)?;
            workspace = allocation.base;
            Arc::make_mut(&mut table).insert(allocation);
        }
        static LAUNCHES: AtomicU64 = AtomicU64::new(0);
        let info = LaunchInfo {
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            checked: self.config.checked,
            strict: self.config.checked && self.config.report.contains(FaultKind::Barrier),
            tensor_core: (self.config.mma == MmaRounding::Truncate).then(|| TensorCore::of(arch)),
            budget: self.config.instruction_budget.unwrap_or(u64::MAX),
            launch_budget: self.config.launch_budget.unwrap_or(u64::MAX),
            spent: AtomicU64::new(0),
            timeout: self.config.timeout,
            // A time nobody can wait for is none.
            deadline: self.config.timeout.and_then(|timeout| start.checked_add(timeout)),
            stack,
            heap: &self.heap,
            printed: Mutex::default(),
            workers: helpers as u32 + 1,
            grid_id: LAUNCHES.fetch_add(1, Ordering::Relaxed),
            workspace,
            launch: self.launches.fetch_add(1, Ordering::Relaxed),
            adverse: self.config.adverse,
            late: Mutex::default(),
            // Blocks below the lowest that failed still run, so that the report does not depend on timing.
            failed: AtomicU64::new(u64::MAX),
            hasty: AtomicBool::new(false),
            interrupts: &self.interrupts,
            uninterrupted,
        };
        let table: &Table = &table;
        let order = Order::new(blocks, self.config.block_order.or(self.config.adverse), info.launch);
        let workers = AtomicU32::new(0);
        let fault: Mutex<Option<Fault>> = Mutex::new(None);
        // Where the launch was ended before its end, and whether it was between blocks.
        let interrupted: Mutex<Option<Fault>> = Mutex::new(None);
        let cut = AtomicBool::new(false);
        let counting = self.config.counters || self.config.profile;
        let totals: Mutex<Option<Tally>> = Mutex::default();
        let leaks: Mutex<Leaks> = Mutex::default();
        let work = || {
            let sm = workers.fetch_add(1, Ordering::Relaxed);
            let mut free: Option<Runner<'_>> = None;
            // Blocks that wait for others. More are started then, as many as there is room for, and they take turns.
            let mut waiting: VecDeque<Runner<'_>> = VecDeque::new();
            loop {
                if info.ended().is_some() {
                    if !waiting.is_empty() || !order.is_empty() {
                        cut.store(true, Ordering::Relaxed);
                    }
                    break;
                }
                let room =
                    waiting.front().is_none_or(|w| waiting.len() < (RESIDENT_BYTES / w.bytes().max(1)).clamp(2, 4096));
                let mut runner = match if room { order.take(&info.failed) } else { None } {
                    Some(number) => {
                        let mut runner = free.take().unwrap_or_else(|| {
                            let warps = launch.block.iter().product::<u32>().div_ceil(32) as usize;
                            let tally = counting.then(|| Tally::new(kernel));
                            let id = info.grid_id as u32 + 1;
                            let checks = self
                                .config
                                .checked
                                .then(|| Checks { report: self.config.report, races: races.clone() });
                            let watch = Watch::new(kernel, warps, id, checks, tally);
                            Runner::new(kernel, &info, table, params, watch, sm)
                        });
                        runner.start(number);
                        runner
                    }
                    None => match waiting.pop_front() {
                        Some(runner) => runner,
                        None => break,
                    },
                };
                let outcome = runner.advance();
                if !matches!(outcome, Ok(false)) {
                    for (range, index, fault) in runner.leaks() {
                        let mut leaks = leaks.lock().unwrap_or_else(PoisonError::into_inner);
                        let known = leaks.entry(index).or_insert_with(|| (runner.number, range.clone(), fault.clone()));
                        known.1 = known.1.start.min(range.start)..known.1.end.max(range.end);
                        if runner.number < known.0 {
                            (known.0, known.2) = (runner.number, fault);
                        }
                    }
                }
                match outcome {
                    Ok(true) => {}
                    Ok(false) => {
                        info.hasty.store(true, Ordering::Relaxed);
                        waiting.push_back(runner);
                        continue;
                    }
                    Err(found) if runner.cut => {
                        interrupted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(*found);
                    }
                    Err(found) => {
                        let mut slot = fault.lock().unwrap_or_else(PoisonError::into_inner);
                        if runner.number < info.failed.load(Ordering::Relaxed) {
                            info.failed.store(runner.number, Ordering::Relaxed);
                            *slot = Some(*found);
                        }
                    }
                }
                if free.is_none() {
                    free = Some(runner);
                } else {
                    count(&totals, &mut runner);
                }
            }
            free.iter_mut().for_each(|runner| count(&totals, runner));
        };
        let in_use = self.heap.enter();
        self.pool.run(helpers, &work);
        info.late.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|store| store.write());
        drop(in_use);
        self.remember(leaks.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut texts = std::mem::take(&mut *info.printed.lock().unwrap_or_else(PoisonError::into_inner));
        texts.sort_by_key(|(block, _)| *block);
        if !texts.is_empty() {
            let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            texts.iter().for_each(|(_, text)| *printed += &String::from_utf8_lossy(text));
        }
        if let Some(fault) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault);
        }
        if let Some(fault) = interrupted.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault);
        }
        // Blocks tell in the end what they have executed.
        if cut.load(Ordering::Relaxed) || info.spent.load(Ordering::Relaxed) > info.launch_budget {
            let (kind, message) = info.ended().unwrap_or((FaultKind::Interrupted, INTERRUPTED.to_owned()));
            return Err(Fault::cut(kernel, kind, &message));
        }
        let seconds = start.elapsed().as_secs_f64();
        let tally = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
        let counters = tally.as_ref().map(|tally| {
            let mut sum = Counters::default();
            tally.visit(kernel, |_, counters| sum.add(counters));
            sum
        });
        let profile = tally.filter(|_| self.config.profile).map(|tally| Profile::new(kernel, &tally));
        Ok(LaunchStats { seconds, counters, profile })
    }
}

/// The stores of undefined values of a launch, by instruction: the lowest block that did it, where all went, and that block's report.
type Leaks = BTreeMap<usize, (u64, Range<u64>, Box<Fault>)>;

/// Stores of undefined values remembered for reports.
const LEAKS: usize = 1024;

/// Bytes of stack a thread may have. A GPU has less: all local memory of a thread is 512 KiB.
const MOST_STACK: usize = 16 << 20;

/// Memory of the blocks a worker thread may hold while they wait for others.
const RESIDENT_BYTES: usize = 256 << 20;

/// Adds what a worker has counted.
fn count(totals: &Mutex<Option<Tally>>, runner: &mut Runner<'_>) {
    if let Some(tally) = runner.watch.take().and_then(|watch| watch.tally) {
        match &mut *totals.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(sum) => sum.add(&tally),
            none => *none = Some(tally),
        }
    }
}

/// Refuses launches no GPU would accept.
fn check_launch(kernel: &Kernel, launch: &Launch, params: &[u8], arch: u32) -> Result<(), Fault> {
    let refuse = |message: String| Err(Fault::at_launch(kernel, message));
    if kernel.arch > arch {
        return refuse(format!("the kernel was compiled for sm_{}, the device is sm_{arch}", kernel.arch));
    }
    // Three numbers of 32 bits may be more than one of 64.
    let threads = launch.block.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
    if launch.grid.contains(&0) || threads == 0 {
        return refuse("the grid or the block is empty".to_owned());
    }
    if threads > 1024 || launch.block[2] > 64 {
        return refuse(format!("a block of {threads} threads: at most 1024, and 64 in z"));
    }
    if launch.grid[1] > 65535 || launch.grid[2] > 65535 || launch.grid[0] > i32::MAX as u32 {
        return refuse(format!("grid {:?}: at most 2^31-1, 65535, 65535", launch.grid));
    }
    if let Some(wanted) = kernel.reqntid
        && wanted != launch.block
    {
        return refuse(format!("the kernel was compiled for blocks of {wanted:?} threads, not {:?}", launch.block));
    }
    if let Some(most) = kernel.maxntid
        && threads > most
    {
        return refuse(format!("the kernel was compiled for blocks of at most {most} threads, not {threads}"));
    }
    if params.len() != kernel.param_bytes() {
        return refuse(format!(
            "{} bytes of parameters given, the kernel takes {}",
            params.len(),
            kernel.param_bytes()
        ));
    }
    let (fixed, dynamic) = (kernel.static_shared(), launch.dynamic_shared);
    let most = crate::arch::block_shared(arch);
    if fixed + dynamic as usize > most {
        return refuse(format!(
            "{} bytes of shared memory, {fixed} static and {dynamic} dynamic: a block of sm_{arch} has at most {most} ({} KiB)",
            fixed + dynamic as usize,
            most >> 10
        ));
    }
    Ok(())
}
