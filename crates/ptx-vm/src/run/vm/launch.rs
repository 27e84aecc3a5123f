//! Launches: blocks are handed to the workers, and what they found is put together.

use super::{Leaks, Vm};
use crate::check::{Checks, Races, Watch};
use crate::counters::{Counters, Profile, Tally};
use crate::error::{Fault, FaultKind};
use crate::ir::Kernel;
use crate::math::mma::TensorCore;
use crate::memory::{Allocation, Table};
use crate::run::block::Runner;
use crate::run::config::{Launch, LaunchStats, MmaRounding};
use crate::run::launch::{INTERRUPTED, LaunchInfo};
use crate::run::order::Order;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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

impl Vm {
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
