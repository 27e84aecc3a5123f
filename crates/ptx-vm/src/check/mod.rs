//! What is looked at before each instruction when somebody asks for it: the checks of checked mode, and the counters.
//!
//! The handlers know nothing of this. An observed launch runs another loop, which looks at an instruction's [`Access`] and operands before
//! it executes, so an unobserved one pays nothing.

mod arrays;
mod bytes;
mod clock;
mod defined;
mod global;
mod happened;
mod look;
mod memory;
mod products;
mod shared;
mod touch;
mod visits;
mod warpgroup;

use crate::counters::Tally;
use crate::error::{FaultKind, FaultKinds};
use crate::ir::{Cx, Happened, Kernel, NAMED, Op, RANK_SHIFT, guarded};
use arrays::Arrays;
use defined::Defined;
pub(crate) use global::Races;
pub(crate) use memory::Leak;
use memory::Memory;
use products::Products;
use shared::Shadow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use visits::Visits;

/// The observer of one worker thread.
pub(crate) struct Watch {
    check: Option<Check>,
    pub(crate) tally: Option<Tally>,
}

/// The state of checked mode.
struct Check {
    shared: Shadow,
    memory: Memory,
    defined: Defined,
    arrays: Option<Arrays>,
    /// Those of warpgroups, in a kernel that has such.
    products: Option<Products>,
    /// Bulk copies to global memory that have not been waited for.
    pending: Vec<Pending>,
    /// Groups of bulk copies each thread has committed.
    groups: HashMap<u32, u32>,
    /// What is looked for.
    checks: Checks,
    /// The number of the cluster's first block.
    block: u64,
    /// What blocks of a cluster do in each other's shared memory.
    visits: Visits,
}

/// What checked mode looks for.
pub(crate) struct Checks {
    /// The kinds it reports.
    pub(crate) report: FaultKinds,
    /// What all blocks have done to global memory, when races are looked for there too.
    pub(crate) races: Option<Arc<Mutex<Races>>>,
}

/// A bulk copy to global memory.
struct Pending {
    first: u64,
    end: u64,
    thread: u32,
    /// The number of its group among those of the thread.
    group: u32,
}

impl Watch {
    /// An observer of the `launch`-th launch of a kernel by blocks of so many warps, or none when nothing is to be observed.
    pub(crate) fn new(
        kernel: &Kernel,
        warps: usize,
        launch: u32,
        checks: Option<Checks>,
        tally: Option<Tally>,
    ) -> Option<Box<Watch>> {
        (checks.is_some() || tally.is_some()).then(|| {
            let check = |checks| Check {
                shared: Shadow::default(),
                memory: Memory::new(launch),
                defined: Defined::new(kernel, warps),
                arrays: Arrays::new(kernel, warps),
                products: Products::new(kernel, warps),
                pending: Vec::new(),
                groups: HashMap::new(),
                checks,
                block: 0,
                visits: Visits::default(),
            };
            Box::new(Watch { check: checks.map(check), tally })
        })
    }

    /// A new cluster begins, of so many blocks and numbers of warps in each: their registers, their shared memory, of which the first `own`
    /// bytes are a block's own, and their local memory hold nothing.
    pub(crate) fn start_cluster(
        &mut self,
        kernel: &Kernel,
        block: u64,
        [shared, own]: [usize; 2],
        [blocks, seats]: [usize; 2],
        local: usize,
    ) {
        let warps = blocks * seats;
        if let Some(check) = &mut self.check {
            check.block = block;
            check.visits.start(blocks);
            check.shared.start(shared, [blocks, seats]);
            check.memory.start(shared, [blocks, seats], local);
            for rank in 0..blocks as u32 {
                check.memory.define_shared(rank << RANK_SHIFT | own as u32, shared - own);
            }
            check.defined.start(kernel, warps);
            check.arrays.iter_mut().for_each(Arrays::start);
            check.products.iter_mut().for_each(Products::start);
            check.pending.clear();
            check.groups.clear();
        }
    }

    /// What the block has stored to global memory that is undefined.
    pub(crate) fn leaks(&mut self) -> Vec<Leak> {
        self.check.as_mut().map(|check| std::mem::take(&mut check.memory.leaks)).unwrap_or_default()
    }

    /// All warps of the block have ended: what is wrong with that, in words, and the warp and the instruction.
    pub(crate) fn ended(&self) -> Option<(usize, usize, String)> {
        self.check.as_ref().and_then(Check::unfinished)
    }

    /// A warp of the block of that rank arrives at a barrier and goes on.
    pub(crate) fn arrive(&mut self, rank: u32, id: usize, warp: usize) {
        if let Some(check) = &mut self.check {
            check.shared.clocks.arrive_named(rank as usize * NAMED + id, warp);
        }
    }

    /// A barrier opens for the warps that wait at it; `all` when no other warp of the cluster is left.
    pub(crate) fn release(&mut self, rank: u32, id: usize, warps: &[usize], all: bool) {
        if let Some(check) = &mut self.check {
            if id >= NAMED {
                return check.warpgroup_waited(warps);
            }
            match all {
                true => check.shared.clocks.barrier(),
                false => check.shared.clocks.release_named(rank as usize * NAMED + id, warps),
            }
        }
    }

    /// Lanes arrive at the barrier of the cluster.
    pub(crate) fn cluster_arrive(&mut self, warp: usize, lanes: u32, release: bool) {
        if let Some(check) = &mut self.check {
            check.shared.clocks.cluster_arrive(warp, lanes, release);
        }
    }

    /// It opens: all threads of the cluster have arrived.
    pub(crate) fn cluster_open(&mut self) {
        if let Some(check) = &mut self.check {
            check.shared.cluster_open();
        }
    }

    /// Lanes go on that have waited at it.
    pub(crate) fn cluster_wait(&mut self, warp: usize, lanes: u32, acquire: bool) {
        if let Some(check) = &mut self.check {
            check.shared.clocks.cluster_wait(warp, lanes, acquire);
        }
    }

    /// Lanes of a warp of the block of that rank exit.
    pub(crate) fn exit(&mut self, rank: u32, warp: usize, lanes: u32) {
        if let Some(check) = &mut self.check {
            check.visits.exit(&check.shared.clocks, rank, warp, lanes);
        }
    }

    /// The block of that rank is over: what is wrong with that, in words.
    pub(crate) fn over(&mut self, rank: u32) -> Option<String> {
        let check = self.check.as_mut()?;
        let found = check.visits.over(&check.shared.clocks, rank);
        found.filter(|_| check.checks.report.contains(FaultKind::Race))
    }

    /// Looks at an instruction, then executes it.
    ///
    /// # Safety
    /// As for a handler.
    pub(crate) unsafe fn step(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op) -> *const Op {
        // SAFETY: `op` points into the kernel's code; a guard is followed by the instruction it guards.
        unsafe {
            let index = op.offset_from(cx.code) as usize;
            let meta = &kernel.meta[index];
            if let Some(tally) = &mut self.tally {
                tally.count(cx, meta, op, index);
            }
            if let Some(check) = &mut self.check
                && let Err((kind, lane, address, message)) = check.look(cx, kernel, op, index)
            {
                return cx.fault(op, kind, Some(lane), address, message);
            }
            if meta.guard {
                return guarded(cx, op, |cx, inner| self.step(cx, kernel, inner));
            }
            let mask = cx.mask;
            let next = ((*op).alone)(cx, op);
            if let Some(check) = &mut self.check
                && check.defined.waits()
            {
                check.defined.ran(cx.seat as usize, mask, !next.is_null());
            }
            if !cx.events.is_empty() {
                return self.events(cx, kernel, op, next);
            }
            next
        }
    }
}

impl Watch {
    /// Takes note of what the instruction `op` did besides its accesses; `next` comes after it.
    #[cold]
    unsafe fn events(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op, next: *const Op) -> *const Op {
        // SAFETY: `op` belongs to the kernel.
        let index = unsafe { op.offset_from(cx.code) } as usize;
        let events = std::mem::take(&mut cx.events);
        if let Some(check) = &mut self.check {
            // Of what went wrong by an undefined value, that is told.
            let trapped = cx.trap.is_some();
            for event in events.iter().filter(|event| !trapped || matches!(event.what, Happened::Read { .. })) {
                // SAFETY: the instruction has checked its addresses.
                if let Err((kind, lane, address, message)) = unsafe { check.happened(cx, event, kernel, index) } {
                    return cx.fault(op, kind, Some(lane), address, message);
                }
            }
        }
        cx.events = events;
        cx.events.clear();
        next
    }
}

/// What is wrong: the kind, the lane, the address if there is one, and in words.
type Verdict = Result<(), (FaultKind, u32, Option<u64>, String)>;
