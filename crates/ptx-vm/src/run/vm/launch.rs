//! Launches: blocks are handed to the workers, and what they found is put together.

use super::{Leaks, Vm};
use crate::check::{Checks, Races, Watch};
use crate::counters::{Counters, Profile, Tally};
use crate::error::{Fault, FaultKind};
use crate::ir::Kernel;
use crate::math::mma::TensorCore;
use crate::memory::{Allocation, Table};
use crate::run::cluster::Cluster;
use crate::run::config::{Launch, LaunchStats, MmaRounding};
use crate::run::launch::{INTERRUPTED, LaunchInfo};
use crate::run::order::Order;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes of stack a thread may have. A GPU has less: all local memory of a thread is 512 KiB.
const MOST_STACK: usize = 16 << 20;

/// Memory of the blocks a worker thread may hold while they wait for others.
const RESIDENT_BYTES: usize = 256 << 20;

/// Refuses launches no GPU would accept.
fn check_launch(kernel: &Kernel, launch: &Launch, params: &[u8], arch: u32) -> Result<([u32; 3], bool), Fault> {
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
    let cluster = cluster_size(kernel, launch, arch).map_err(|why| Fault::at_launch(kernel, why))?;
    let (fixed, dynamic) = (kernel.static_shared(), launch.dynamic_shared);
    let most = crate::arch::block_shared(arch);
    if fixed + dynamic as usize > most {
        return refuse(format!(
            "{} bytes of shared memory, {fixed} static and {dynamic} dynamic: a block of sm_{arch} has at most {most} ({} KiB)",
            fixed + dynamic as usize,
            most >> 10
        ));
    }
    Ok(cluster)
}

/// The blocks of a cluster, by launch or kernel, and whether either says so.
fn cluster_size(kernel: &Kernel, launch: &Launch, arch: u32) -> Result<([u32; 3], bool), String> {
    let rules = &kernel.cluster;
    let given = match (rules.required, launch.cluster) {
        (Some(wanted), Some(given)) if wanted != given => {
            return Err(format!("the kernel was compiled for clusters of {wanted:?} blocks, not {given:?}"));
        }
        (wanted, given) => wanted.or(given),
    };
    let Some(size) = given else {
        return match rules.explicit {
            true => {
                Err("the kernel takes clusters (`.explicitcluster`), and the launch does not say of what size"
                    .to_owned())
            }
            false => Ok(([1; 3], false)),
        };
    };
    let blocks = crate::arch::cluster_blocks(size)?;
    if arch < 90 && blocks > 1 {
        return Err(format!("clusters take sm_90, the device is sm_{arch}"));
    }
    if let Some(most) = rules.most
        && blocks > most
    {
        return Err(format!("the kernel was compiled for clusters of at most {most} blocks, not {blocks}"));
    }
    if !rules.counted && (0..3).any(|i| !launch.grid[i].is_multiple_of(size[i])) {
        return Err(format!("grid {:?} does not consist of clusters of {size:?} blocks", launch.grid));
    }
    let most = [i32::MAX as u32, 65535, 65535];
    if rules.counted && (0..3).any(|i| launch.grid[i] > most[i] / size[i]) {
        return Err(format!(
            "grid {:?} of clusters of {size:?} blocks: at most 2^31-1, 65535, 65535 blocks",
            launch.grid
        ));
    }
    Ok((size, true))
}

impl Vm {
    /// Runs a kernel to its end. `params` are the parameter bytes, laid out as the PTX `.param` list says.
    // Over 60 lines: one step after the other, each with what the one before made.
    pub fn launch(&self, kernel: &Kernel, launch: &Launch, params: &[u8]) -> Result<LaunchStats, Fault> {
        let start = Instant::now();
        let arch = self.config.arch.unwrap_or(kernel.arch);
        let (cluster, explicit_cluster) = check_launch(kernel, launch, params, arch)?;
        let size = cluster.iter().product::<u32>();
        let stack = self.config.stack_bytes.unwrap_or(64 << 10);
        if kernel.stack && stack > MOST_STACK {
            let message = format!("a stack of {stack} bytes a thread: at most {MOST_STACK}");
            return Err(Fault::at_launch(kernel, message));
        }
        let uninterrupted = self.interrupts.load(Ordering::Relaxed);
        if uninterrupted & 1 == 1 {
            return Err(Fault::cut(kernel, FaultKind::Interrupted, INTERRUPTED));
        }
        let grid = match kernel.cluster.counted {
            true => std::array::from_fn(|i| launch.grid[i] * cluster[i]),
            false => launch.grid,
        };
        let clusters = grid.iter().map(|n| u64::from(*n)).product::<u64>() / u64::from(size);
        // Races are looked for by one thread: it has to know what all blocks have done.
        let races = (self.config.checked && self.config.global_races).then(Arc::<Mutex<Races>>::default);
        let helpers = if races.is_some() { 0 } else { self.helpers };
        let helpers = (clusters.saturating_sub(1)).min(helpers as u64) as usize;
        let (table, workspace) = self.with_workspace(kernel)?;
        static LAUNCHES: AtomicU64 = AtomicU64::new(0);
        let info = LaunchInfo {
            grid,
            block: launch.block,
            cluster,
            blocks: size,
            explicit_cluster,
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
        let work = Work {
            vm: self,
            kernel,
            params,
            info: &info,
            table: &table,
            order: Order::new(clusters, self.config.block_order.or(self.config.adverse), info.launch),
            races,
            workers: AtomicU32::new(0),
            fault: Mutex::default(),
            interrupted: Mutex::default(),
            cut: AtomicBool::new(false),
            totals: Mutex::default(),
            leaks: Mutex::default(),
        };
        let in_use = self.heap.enter();
        self.pool.run(helpers, &|| work.run());
        taken(&info.late).drain(..).for_each(|store| store.write());
        drop(in_use);
        let seconds = start.elapsed().as_secs_f64();
        let (counters, profile) = work.end()?;
        Ok(LaunchStats { seconds, counters, profile })
    }

    /// The memory that a launch sees. `grid.sync()` counts in a workspace of the launch: its size, and the barrier.
    fn with_workspace(&self, kernel: &Kernel) -> Result<(Arc<Table>, u64), Fault> {
        let mut table = self.table();
        if !kernel.launch_consts.iter().any(|(_, _, source)| source.is_workspace()) {
            return Ok((table, 0));
        }
        let refused = || Fault::at_launch(kernel, "there is no memory for the grid's workspace".to_owned());
        let allocation = Allocation::new(8, true, self.config.checked, "the grid's workspace").ok_or_else(refused)?;
        let base = allocation.base;
        Arc::make_mut(&mut table).insert(allocation);
        Ok((table, base))
    }
}

fn taken<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A launch while it runs: what its workers share.
struct Work<'l> {
    vm: &'l Vm,
    kernel: &'l Kernel,
    params: &'l [u8],
    info: &'l LaunchInfo<'l>,
    table: &'l Table,
    order: Order,
    races: Option<Arc<Mutex<Races>>>,
    workers: AtomicU32,
    fault: Mutex<Option<Fault>>,
    /// Where the launch was ended before its end.
    interrupted: Mutex<Option<Fault>>,
    /// It was ended between blocks.
    cut: AtomicBool,
    totals: Mutex<Option<Tally>>,
    leaks: Mutex<Leaks>,
}

impl<'l> Work<'l> {
    /// The work of one worker: blocks or clusters of them, until there are no more.
    fn run(&self) {
        let sm = self.workers.fetch_add(1, Ordering::Relaxed);
        let mut free: Option<Cluster<'l>> = None;
        // Blocks that wait for others. More are started then, as many as there is room for, and they take turns.
        let mut waiting: VecDeque<Cluster<'l>> = VecDeque::new();
        loop {
            if self.info.ended().is_some() {
                if !waiting.is_empty() || !self.order.is_empty() {
                    self.cut.store(true, Ordering::Relaxed);
                }
                break;
            }
            let room =
                waiting.front().is_none_or(|w| waiting.len() < (RESIDENT_BYTES / w.bytes().max(1)).clamp(2, 4096));
            let mut cluster = match if room { self.order.take(&self.info.failed) } else { None } {
                Some(number) => {
                    let mut cluster = free.take().unwrap_or_else(|| self.cluster(sm));
                    cluster.start(number);
                    cluster
                }
                None => match waiting.pop_front() {
                    Some(cluster) => cluster,
                    None => break,
                },
            };
            match cluster.advance() {
                Ok(false) => {
                    self.info.hasty.store(true, Ordering::Relaxed);
                    waiting.push_back(cluster);
                    continue;
                }
                outcome => self.ended(&mut cluster, outcome.err()),
            }
            if free.is_none() {
                free = Some(cluster);
            } else {
                self.count(&mut cluster);
            }
        }
        free.iter_mut().for_each(|cluster| self.count(cluster));
    }

    fn cluster(&self, sm: u32) -> Cluster<'l> {
        let config = &self.vm.config;
        let seats = self.info.seats() * self.info.blocks as usize;
        let tally = (config.counters || config.profile).then(|| Tally::new(self.kernel));
        let id = self.info.grid_id as u32 + 1;
        let checks = config.checked.then(|| Checks { report: config.report, races: self.races.clone() });
        let watch = Watch::new(self.kernel, seats, id, checks, tally);
        Cluster::new(self.kernel, self.info, self.table, self.params, watch, sm)
    }

    /// A block or a cluster has ended, or failed.
    fn ended(&self, cluster: &mut Cluster<'_>, found: Option<Box<Fault>>) {
        for (range, index, fault) in cluster.leaks() {
            let mut leaks = taken(&self.leaks);
            let known = leaks.entry(index).or_insert_with(|| (cluster.place, range.clone(), fault.clone()));
            known.1 = known.1.start.min(range.start)..known.1.end.max(range.end);
            if cluster.place < known.0 {
                (known.0, known.2) = (cluster.place, fault);
            }
        }
        let Some(found) = found else { return };
        if cluster.cut() {
            taken(&self.interrupted).get_or_insert(*found);
            return;
        }
        let mut slot = taken(&self.fault);
        if cluster.place < self.info.failed.load(Ordering::Relaxed) {
            self.info.failed.store(cluster.place, Ordering::Relaxed);
            *slot = Some(*found);
        }
    }

    /// Adds what a worker has counted.
    fn count(&self, cluster: &mut Cluster<'_>) {
        if let Some(tally) = cluster.watch().and_then(|watch| watch.tally) {
            match &mut *taken(&self.totals) {
                Some(sum) => sum.add(&tally),
                none => *none = Some(tally),
            }
        }
    }

    /// What has come of it all.
    fn end(self) -> Result<(Option<Counters>, Option<Profile>), Fault> {
        let (vm, kernel, info) = (self.vm, self.kernel, self.info);
        vm.remember(std::mem::take(&mut taken(&self.leaks)));
        let mut texts = std::mem::take(&mut *taken(&info.printed));
        texts.sort_by_key(|(block, _)| *block);
        if !texts.is_empty() {
            let mut printed = taken(&vm.printed);
            texts.iter().for_each(|(_, text)| *printed += &String::from_utf8_lossy(text));
        }
        if let Some(fault) = taken(&self.fault).take() {
            return Err(fault);
        }
        if let Some(fault) = taken(&self.interrupted).take() {
            return Err(fault);
        }
        // Blocks tell in the end what they have executed.
        if self.cut.load(Ordering::Relaxed) || info.spent.load(Ordering::Relaxed) > info.launch_budget {
            let (kind, message) = info.ended().unwrap_or((FaultKind::Interrupted, INTERRUPTED.to_owned()));
            return Err(Fault::cut(kernel, kind, &message));
        }
        let tally = taken(&self.totals).take();
        let counters = tally.as_ref().map(|tally| {
            let mut sum = Counters::default();
            tally.visit(kernel, |_, counters| sum.add(counters));
            sum
        });
        let profile = tally.filter(|_| vm.config.profile).map(|tally| Profile::new(kernel, &tally));
        Ok((counters, profile))
    }
}
