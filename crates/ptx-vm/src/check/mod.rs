//! What is looked at before each instruction when somebody asks for it: the checks of checked mode, and the counters.
//!
//! The handlers know nothing of this. An observed launch runs another loop, which looks at an instruction's [`Access`] and operands before
//! it executes, so an unobserved one pays nothing.

mod arrays;
mod clock;
mod defined;
mod global;
mod memory;
mod shared;

use crate::counters::Tally;
use crate::error::{FaultKind, FaultKinds};
use crate::ir::{
    Access, AccessKind, Class, Cx, Event, Happened, Kernel, Meta, Op, Rule, WARP, addresses, guarded, lanes_of,
};
use crate::memory::{GLOBAL_BASE, SHARED_WINDOW};
use crate::parse::Space;
use crate::step::find::resolve;
use arrays::Arrays;
use clock::Tracked;
use defined::Defined;
use global::Now;
pub(crate) use global::Races;
pub(crate) use memory::Leak;
use memory::Memory;
use shared::{Actor, Conflict, Manner, Shadow};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Bulk copies to global memory that have not been waited for.
    pending: Vec<Pending>,
    /// Groups of bulk copies each thread has committed.
    groups: HashMap<u32, u32>,
    /// What is looked for.
    checks: Checks,
    /// The number of the block.
    block: u64,
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
                pending: Vec::new(),
                groups: HashMap::new(),
                checks,
                block: 0,
            };
            Box::new(Watch { check: checks.map(check), tally })
        })
    }

    /// A new block begins: its registers, its shared memory, of which the first `own` bytes are its own, and its local memory hold nothing.
    pub(crate) fn start_block(
        &mut self,
        kernel: &Kernel,
        block: u64,
        [shared, own]: [usize; 2],
        warps: usize,
        local: usize,
    ) {
        if let Some(check) = &mut self.check {
            check.block = block;
            check.shared.start(shared, warps);
            check.memory.start(shared, warps, local);
            check.memory.define_shared(own as u32, shared - own);
            check.defined.start(kernel, warps);
            check.arrays.iter_mut().for_each(Arrays::start);
            check.pending.clear();
            check.groups.clear();
        }
    }

    /// What the block has stored to global memory that is undefined.
    pub(crate) fn leaks(&mut self) -> Vec<Leak> {
        self.check.as_mut().map(|check| std::mem::take(&mut check.memory.leaks)).unwrap_or_default()
    }

    /// A warp arrives at a barrier and goes on.
    pub(crate) fn arrive(&mut self, id: usize, warp: usize) {
        if let Some(check) = &mut self.check {
            check.shared.clocks.arrive_named(id, warp);
        }
    }

    /// A barrier opens for the warps that wait at it; `all` when no other warp is left.
    pub(crate) fn release(&mut self, id: usize, warps: &[usize], all: bool) {
        if let Some(check) = &mut self.check {
            match all {
                true => check.shared.clocks.barrier(),
                false => check.shared.clocks.release_named(id, warps),
            }
        }
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
                check.defined.ran(cx.warp as usize, mask, !next.is_null());
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
        if let Some(check) = &mut self.check
            && cx.trap.is_none()
        {
            for event in &events {
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

impl Check {
    /// Checks an instruction that is about to run and notes what it does.
    unsafe fn look(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op, index: usize) -> Verdict {
        // SAFETY: operands belong to the instruction about to run; addresses are checked before they are used.
        unsafe {
            let meta = &kernel.meta[index];
            if cx.alive != cx.began && cx.mask == cx.alive && meta.aligned {
                self.exited(cx, meta)?;
            }
            let wrong = self.defined.pass(cx, kernel, op, meta);
            if wrong.0 != 0 {
                self.undefined(kernel, wrong)?;
            }
            let Some(access) = &meta.access else {
                if let Some(arrays) = &mut self.arrays {
                    arrays.pass(cx, kernel, op, meta);
                }
                return Ok(());
            };
            let warp = cx.warp as usize;
            let addressed = match access.kind {
                AccessKind::Rows(rows) | AccessKind::RowsStore(rows, _) => u32::MAX >> (32 - rows.min(32)),
                AccessKind::Load | AccessKind::Store | AccessKind::Atomic | AccessKind::CopyAsync => cx.mask,
                _ => 0,
            };
            if addressed != 0 {
                let lanes = self.defined.lanes(warp, access.addr, if access.wide { 8 } else { 4 });
                if lanes & addressed != 0 {
                    self.undefined(kernel, (lanes & addressed, "the address"))?;
                }
                self.in_its_array(cx, kernel, access, addressed)?;
                if let Some(arrays) = &mut self.arrays {
                    arrays.pass(cx, kernel, op, meta);
                }
            }
            match access.kind {
                AccessKind::WarpSync => self.warp_sync(cx, op),
                AccessKind::Commit => self.shared.clocks.commit(warp, cx.mask),
                AccessKind::Wait(n) => self.shared.clocks.wait(warp, cx.mask, n),
                AccessKind::Rows(rows) | AccessKind::RowsStore(rows, _) => {
                    // Each row's address comes from one lane, but the row is read (or written) by the warp as one.
                    let addr = addresses(cx, access);
                    for (lane, &a) in addr.iter().enumerate().take(rows as usize) {
                        let touch = match access.kind {
                            AccessKind::RowsStore(_, trans) => Touch::Write(Values::Row(lane as u32, trans)),
                            _ => Touch::Read,
                        };
                        if a + 16 <= u64::from(cx.shared_len) {
                            self.touch_shared(cx, a, 16, Actor::lane(warp, lane as u32), touch, op)?;
                        }
                    }
                    match access.kind {
                        AccessKind::RowsStore(_, trans) => {
                            self.memory.store_rows(&self.defined, cx, op, access, trans);
                        }
                        _ => {
                            let trans = access.order & Access::TRANSPOSED != 0;
                            self.memory.load_rows(&mut self.defined, cx, op, index, access, trans);
                        }
                    }
                }
                AccessKind::CopyAsync => self.look_at_copy(cx, kernel, access, op)?,
                // Told as an event when it has happened.
                AccessKind::Bulk { .. } => {}
                AccessKind::Load | AccessKind::Store | AccessKind::Atomic => {
                    let addr = addresses(cx, access);
                    let row = addr
                        .windows(2)
                        .all(|w| w[0] != w[1] && w[1].wrapping_sub(w[0]) == addr[1].wrapping_sub(addr[0]));
                    let mut left = cx.mask;
                    while left != 0 {
                        let lane = left.trailing_zeros();
                        let a = addr[lane as usize];
                        // Lanes that read the same are looked at as one.
                        let mut lanes = 1 << lane;
                        if access.kind == AccessKind::Load && !row {
                            let same = (0..WARP).fold(0, |m, i| m | u32::from(addr[i] == a) << i);
                            lanes = same & left;
                        }
                        left &= !lanes;
                        self.look_at_lanes(cx, access, op, lanes, a)?;
                    }
                    if access.order & Access::STRONG != 0 {
                        self.order(cx, access, &addr);
                        if access.wide {
                            self.order_blocks(cx, access, &addr);
                        }
                    }
                    if access.order & Access::CONSTANT != 0
                        && let Some((lane, a, message)) = self.memory.constant(cx, access)
                    {
                        self.report(FaultKind::Race, lane, Some(a), || message)?;
                    }
                    match (access.kind, meta.rule) {
                        (AccessKind::Load, _) => self.memory.load(&mut self.defined, cx, op, index, access),
                        (AccessKind::Store, _) => {
                            self.memory.store(&self.defined, cx, op, index, access, kernel);
                        }
                        (_, rule) => {
                            let wide = rule == Rule::Atomic128;
                            self.memory.atomic(&mut self.defined, cx, op, index, access, wide);
                        }
                    }
                }
            }
            Ok(())
        }
    }

    /// Matrix instructions need all threads of the warp; a barrier does not wait for those that have exited.
    #[cold]
    fn exited(&self, cx: &Cx, meta: &Meta) -> Verdict {
        if !matches!(meta.class, Class::Tensor | Class::Matrix) {
            return Ok(());
        }
        let (here, all) = (cx.mask.count_ones(), cx.began.count_ones());
        let message = || format!("this is executed by {here} of the {all} threads of the warp: the others have exited");
        self.report(FaultKind::Barrier, cx.mask.trailing_zeros(), None, message)
    }

    /// An address taken of one array of shared memory must not reach into another.
    unsafe fn in_its_array(&self, cx: &Cx, kernel: &Kernel, access: &Access, lanes: u32) -> Verdict {
        let Some(numbers) = self.arrays.as_ref().and_then(|arrays| arrays.get(cx.warp as usize, access.addr)) else {
            return Ok(());
        };
        // SAFETY: the access belongs to the instruction about to run.
        let addr = unsafe { addresses(cx, access) };
        let bytes = u64::from(access.bytes);
        for lane in (0..WARP).filter(|lane| lanes >> lane & 1 != 0 && numbers[*lane] != 0) {
            let at = if access.wide { addr[lane].wrapping_sub(SHARED_WINDOW) } else { addr[lane] };
            let (_, first, end) = &kernel.arrays[numbers[lane] as usize - 1];
            // What is outside shared memory is found without this.
            let inside = at.checked_add(bytes).is_some_and(|end| end <= u64::from(cx.shared_len));
            if inside && (at < *first || at + bytes > *end) {
                let name =
                    |name: &str| if name.is_empty() { "dynamic shared memory".to_owned() } else { format!("`{name}`") };
                let met = kernel.arrays.iter().find(|(_, first, end)| at + bytes > *first && at < *end);
                let message = || {
                    let (by, of) = match at < *first {
                        true => (first - at, "before the beginning"),
                        false => (at + bytes - end, "past the end"),
                    };
                    let met = met.map_or(String::new(), |(other, ..)| format!(", in {}", name(other)));
                    format!(
                        "{bytes} bytes at shared memory offset {at:#x}: {by} bytes {of} of {}{met}",
                        name(&kernel.arrays[numbers[lane] as usize - 1].0)
                    )
                };
                self.report(FaultKind::OutOfBounds, lane as u32, Some(at), message)?;
            }
        }
        Ok(())
    }

    /// An undefined value decides something.
    #[cold]
    fn undefined(&self, kernel: &Kernel, (lanes, what): (u32, &str)) -> Verdict {
        let message = || format!("{what} is undefined: {}", self.memory.from(kernel));
        self.report(FaultKind::Uninitialised, lanes.trailing_zeros(), None, message)
    }

    /// Something is wrong, if that kind of thing is to be reported.
    fn report(&self, kind: FaultKind, lane: u32, at: Option<u64>, message: impl FnOnce() -> String) -> Verdict {
        if self.checks.report.contains(kind) { Err((kind, lane, at, message())) } else { Ok(()) }
    }

    /// `bar.warp.sync` orders the lanes that name each other.
    unsafe fn warp_sync(&mut self, cx: &Cx, op: *const Op) {
        let (warp, clocks) = (cx.warp as usize, &mut self.shared.clocks);
        // SAFETY: the membermask is 32 bits wide.
        unsafe {
            let members = (*op).r[0];
            if members == crate::ir::NO_SLOT || cx.joint {
                // Joint lanes wait for the same ones.
                clocks.warp_sync(warp, cx.mask, cx.alive);
                return;
            }
            let masks = cx.get::<u32>(members);
            let mut left = cx.mask;
            while left != 0 {
                let mask = masks[left.trailing_zeros() as usize];
                let same = (0..WARP).fold(0, |m, i| m | u32::from(masks[i] == mask) << i) & left;
                left &= !same;
                // Some may have yet to come.
                if mask & cx.alive & !cx.mask == 0 {
                    clocks.warp_sync(warp, same, cx.alive);
                }
            }
        }
    }

    /// What strong operations on flags order.
    fn order(&mut self, cx: &Cx, access: &Access, addr: &[u64; WARP]) {
        let clocks = &mut self.shared.clocks;
        let (acquire, release) = (access.order & Access::ACQUIRE != 0, access.order & Access::RELEASE != 0);
        if clocks.quiet() && !release {
            return;
        }
        let window = if access.wide { 0 } else { SHARED_WINDOW };
        let mut left = cx.mask;
        while left != 0 {
            let a = addr[left.trailing_zeros() as usize];
            let lanes = (0..WARP).fold(0, |m, i| m | u32::from(addr[i] == a) << i) & left;
            left &= !lanes;
            if access.kind != AccessKind::Store {
                clocks.observe(cx.warp as usize, lanes, a.wrapping_add(window), acquire);
            }
            if access.kind != AccessKind::Load {
                clocks.publish(cx.warp as usize, lanes, a.wrapping_add(window), release);
            }
        }
    }

    /// Looks at lanes that touch the bytes at `a`.
    unsafe fn look_at_lanes(&mut self, cx: &Cx, access: &Access, op: *const Op, lanes: u32, a: u64) -> Verdict {
        let bytes = u64::from(access.bytes);
        let strong = access.order & Access::STRONG != 0;
        let touch = match access.kind {
            AccessKind::Load if strong => Touch::StrongRead,
            AccessKind::Load => Touch::Read,
            AccessKind::Store if strong => Touch::StrongWrite,
            AccessKind::Store => Touch::Write(Values::Registers(access.lanes)),
            _ => Touch::Atomic,
        };
        let actor = Actor { warp: cx.warp as usize, lanes, proxy: None };
        let end = |len: u32, base: u64| a >= base && a - base + bytes <= u64::from(len);
        if access.space == Space::Shared && !access.wide {
            if a + bytes <= u64::from(cx.shared_len) {
                // SAFETY: inside shared memory.
                unsafe { self.touch_shared(cx, a, bytes, actor, touch, op)? };
            }
        } else if a >= GLOBAL_BASE {
            self.not_pending(a, bytes, lanes.trailing_zeros(), touch)?;
            if self.checks.races.is_some() {
                // SAFETY: the instruction belongs to the code.
                unsafe { self.touch_global(cx, a, bytes, lanes, touch, op)? };
            }
        } else if end(cx.shared_len, SHARED_WINDOW) {
            // SAFETY: inside shared memory.
            unsafe { self.touch_shared(cx, a - SHARED_WINDOW, bytes, actor, touch, op)? };
        }
        Ok(())
    }

    /// Looks for races in global memory.
    unsafe fn touch_global(&mut self, cx: &Cx, a: u64, bytes: u64, lanes: u32, touch: Touch, op: *const Op) -> Verdict {
        let Some(races) = &self.checks.races else { return Ok(()) };
        // SAFETY: forwarded; values are compared for stores only, where the address is good.
        unsafe {
            let lane = lanes.trailing_zeros();
            let now = Now {
                block: self.block,
                warp: cx.warp,
                lane,
                op: op.offset_from(cx.code) as u32,
                atomic: matches!(touch, Touch::Atomic),
                strong: matches!(touch, Touch::StrongRead | Touch::StrongWrite | Touch::Atomic),
                write: !matches!(touch, Touch::Read | Touch::StrongRead),
            };
            let Some(place) = resolve(cx, a, bytes, true, lane) else { return Ok(()) };
            // Threads that write the same value do no harm.
            let harmless = |address: u64| match touch {
                Touch::Write(values) => {
                    store_byte(cx, op, lane, values, bytes, address - a) == *place.add((address - a) as usize)
                }
                _ => false,
            };
            let mut races = races.lock().unwrap_or_else(PoisonError::into_inner);
            match races.touch(&self.shared.clocks, now, a, bytes, harmless) {
                None => Ok(()),
                Some(found) => {
                    let other = match found.block == self.block {
                        true => format!("thread {}", found.thread),
                        false => format!("thread {} of block {}", found.thread, found.block),
                    };
                    let message = || {
                        format!(
                            "global memory at {:#x} is {} here and was {} by {other}, and nothing orders the two",
                            found.address,
                            touch.verb(),
                            if found.wrote { "written" } else { "read" },
                        )
                    };
                    self.report(FaultKind::Race, lane, Some(a), message)
                }
            }
        }
    }

    /// What strong operations on flags in global memory order among blocks.
    fn order_blocks(&mut self, cx: &Cx, access: &Access, addr: &[u64; WARP]) {
        let Some(races) = self.checks.races.clone() else { return };
        if access.order & Access::CTA != 0 {
            return;
        }
        let mut races = races.lock().unwrap_or_else(PoisonError::into_inner);
        let (warp, clocks) = (cx.warp as usize, &mut self.shared.clocks);
        let (acquire, release) = (access.order & Access::ACQUIRE != 0, access.order & Access::RELEASE != 0);
        for lane in (0..WARP).filter(|lane| cx.mask >> lane & 1 != 0 && addr[*lane] >= GLOBAL_BASE) {
            if access.kind != AccessKind::Store {
                let clock = races.observe(clocks, self.block, addr[lane]);
                if !clock.is_empty() {
                    clocks.hears(warp, 1 << lane, &clock, acquire);
                }
            }
            if access.kind != AccessKind::Load
                && let Some(clock) = clocks.tells(warp, lane, release)
            {
                races.publish(clocks, self.block, (warp * WARP + lane) as u32, addr[lane], &clock);
            }
        }
    }

    /// Global memory must not be touched while a bulk copy to it is under way.
    fn not_pending(&self, a: u64, bytes: u64, lane: u32, touch: Touch) -> Verdict {
        match self.pending.iter().find(|p| a < p.end && p.first < a.saturating_add(bytes)) {
            None => Ok(()),
            Some(p) => {
                let message = || {
                    format!(
                        "global memory at {a:#x} is {} here while a bulk copy of thread {} to it has not been waited for: `cp.async.bulk.wait_group` without `.read` does",
                        touch.verb(),
                        p.thread
                    )
                };
                self.report(FaultKind::Race, lane, Some(a), message)
            }
        }
    }

    /// Something that orders or moves memory has happened.
    unsafe fn happened(&mut self, cx: &Cx, event: &Event, kernel: &Kernel, index: usize) -> Verdict {
        let Event { what, lanes, at } = *event;
        let warp = cx.warp as usize;
        let actor = Actor { warp, lanes, proxy: None };
        let lane = lanes.trailing_zeros();
        let thread = cx.warp * WARP as u32 + lane;
        let none = std::ptr::null();
        let object = |check: &mut Check, touch| {
            if let Some(maker) = check.shared.clocks.mbarrier_unmade(warp, lanes, at) {
                let message = || {
                    format!(
                        "the mbarrier at shared offset {at:#x} is used here and was made by {} with no barrier in between",
                        check.shared.clocks.name(maker)
                    )
                };
                check.report(FaultKind::Race, lane, Some(u64::from(at)), message)?;
            }
            // SAFETY: an mbarrier lies inside shared memory; values are compared for stores only, which these are not.
            unsafe { check.touch_shared(cx, u64::from(at), 8, actor, touch, none) }
        };
        match what {
            Happened::Fence { wide } => self.shared.clocks.fence(warp, lanes, wide),
            Happened::Proxy => self.shared.clocks.proxy(warp, lanes),
            Happened::Init => {
                // SAFETY: as above.
                unsafe { self.touch_shared(cx, u64::from(at), 8, actor, Touch::Init, none)? };
                self.memory.define_shared(at, 8);
                self.shared.clocks.mbarrier_init(thread, at);
            }
            // `mbarrier` operations do not race with each other: only the memory's next use must come after.
            Happened::Count | Happened::Invalidate => object(self, Touch::Atomic)?,
            Happened::Arrive { release } => {
                object(self, Touch::Atomic)?;
                self.shared.clocks.mbarrier_arrive(warp, lanes, at, release);
            }
            Happened::CopiesArrive => {
                object(self, Touch::Atomic)?;
                self.shared.clocks.mbarrier_copies(warp, lanes, at);
            }
            Happened::Complete => self.shared.clocks.mbarrier_complete(at),
            Happened::Waited { acquire } => {
                object(self, Touch::StrongRead)?;
                self.shared.clocks.mbarrier_waited(warp, lanes, at, acquire);
            }
            Happened::Bulk { to, from, bytes, reduce } => {
                // A copy out of shared memory is waited for by its groups, any other by the mbarrier.
                let out = to >= GLOBAL_BASE;
                let how = if out { Tracked::Thread(thread) } else { Tracked::Mbarrier(at) };
                let proxy = Actor { proxy: Some(self.shared.clocks.tracked(how)), ..actor };
                for (address, touch) in [(from, Touch::Read), (to, if reduce { Touch::Atomic } else { Touch::Async })] {
                    if address >= GLOBAL_BASE {
                        self.not_pending(address, u64::from(bytes), lane, touch)?;
                        continue;
                    }
                    let offset = address - SHARED_WINDOW;
                    // SAFETY: the copy has checked both ranges.
                    unsafe { self.touch_shared(cx, offset, u64::from(bytes), proxy, touch, none)? };
                    if address == from
                        && let Some((byte, writer)) = self.shared.untold(offset as usize, bytes as usize, thread)
                    {
                        let message = || {
                            format!(
                                "shared memory at offset {byte:#x} is read here by a bulk copy, and was written by {} with no `fence.proxy.async` in between",
                                self.shared.clocks.name(writer)
                            )
                        };
                        self.report(FaultKind::Race, lane, Some(byte as u64), message)?;
                    }
                }
                // SAFETY: the copy has checked both ranges.
                unsafe {
                    let size = [u64::from(bytes); 2];
                    let found = self.memory.copy(cx, (false, to), (false, from), size, lane as usize, reduce);
                    if found && out {
                        self.memory.found(index);
                        self.memory.leak(cx, index, lane, to, u64::from(bytes), kernel);
                    }
                }
                if out {
                    let group = self.groups.get(&thread).copied().unwrap_or(0);
                    self.pending.push(Pending { first: to, end: to + u64::from(bytes), thread, group });
                } else {
                    self.shared.clocks.mbarrier_bulk(at);
                }
            }
            Happened::BulkCommit => {
                self.shared.clocks.bulk_commit(warp, lanes);
                for lane in lanes_of(lanes) {
                    *self.groups.entry(cx.warp * WARP as u32 + lane as u32).or_insert(0) += 1;
                }
            }
            Happened::BulkWait { pending, read } => {
                self.shared.clocks.bulk_wait(warp, lanes, pending);
                if !read {
                    let groups = &self.groups;
                    let first = cx.warp * WARP as u32;
                    self.pending.retain(|p| {
                        let mine = p.thread >= first && p.thread - first < 32 && lanes >> (p.thread - first) & 1 != 0;
                        let committed = groups.get(&p.thread).copied().unwrap_or(0);
                        !(mine && p.group < committed.saturating_sub(pending))
                    });
                }
            }
        }
        Ok(())
    }

    /// `cp.async`: reads global memory, writes shared memory that stays pending.
    unsafe fn look_at_copy(&mut self, cx: &Cx, kernel: &Kernel, access: &Access, op: *const Op) -> Verdict {
        // SAFETY: operands belong to the instruction; every address is checked before use.
        unsafe {
            let to = addresses(cx, access);
            let from = cx.get::<u64>(cx.list(op, 1));
            let size = cx.list(op, 2);
            let n = u64::from(access.bytes);
            let sizes = if size == crate::ir::NO_SLOT { [access.bytes; WARP] } else { cx.get::<u32>(size) };
            let warp = cx.warp as usize;
            let unsized_lanes = self.defined.lanes(warp, size, 4);
            let astray = self.defined.lanes(warp, cx.list(op, 1), 8);
            for lane in lanes_of(cx.mask) {
                if unsized_lanes >> lane & 1 != 0 {
                    self.undefined(kernel, (1 << lane, "the size"))?;
                }
                let source = from[lane].wrapping_add(i64::from((*op).r[0] as i32) as u64);
                let bytes = u64::from(sizes[lane]).min(n);
                if bytes > 0 && astray >> lane & 1 != 0 {
                    self.undefined(kernel, (1 << lane, "the source address"))?;
                }
                let there = bytes > 0 && resolve(cx, source, bytes, false, lane as u32).is_some();
                if there {
                    self.not_pending(source, bytes, lane as u32, Touch::Read)?;
                }
                if to[lane] + n <= u64::from(cx.shared_len) {
                    let thread = cx.warp * WARP as u32 + lane as u32;
                    let copies = self.shared.clocks.copies_of(thread);
                    let actor = Actor { proxy: Some(copies), ..Actor::lane(warp, lane as u32) };
                    self.touch_shared(cx, to[lane], n, actor, Touch::Async, op)?;
                    let given = if there { bytes } else { 0 };
                    self.memory.copy(cx, (true, to[lane]), (false, source), [n, given], lane, false);
                }
            }
            Ok(())
        }
    }

    /// Notes an access to shared memory, which contains the range. `op` is the store whose values may be compared.
    unsafe fn touch_shared(
        &mut self,
        cx: &Cx,
        at: u64,
        bytes: u64,
        actor: Actor,
        touch: Touch,
        op: *const Op,
    ) -> Verdict {
        let (first, n) = (at as usize, bytes as usize);
        let lane = actor.lanes.trailing_zeros();
        let manner = match touch {
            Touch::Read | Touch::StrongRead => None,
            // SAFETY: the instruction belongs to the code.
            Touch::Write(_) => Some(Manner::Store(unsafe { op.offset_from(cx.code) } as u32)),
            Touch::StrongWrite => Some(Manner::Strong),
            Touch::Atomic => Some(Manner::Atomic),
            Touch::Async | Touch::Init => Some(Manner::Copy),
        };
        // Two threads that write the same value do no harm.
        let harmless = |byte: usize, conflict: Conflict| {
            let (Touch::Write(values), Conflict::Write { .. }) = (touch, conflict) else { return false };
            // SAFETY: the store's operands; the byte lies inside shared memory.
            unsafe { store_byte(cx, op, lane, values, bytes, (byte - first) as u64) == *cx.shared.add(byte) }
        };
        let found = match manner {
            None => self.shared.read(first, n, actor, matches!(touch, Touch::StrongRead)),
            Some(manner) => self.shared.write(first, n, actor, manner, harmless),
        };
        match found {
            None => Ok(()),
            Some((byte, conflict)) => self.describe(conflict, touch, lane, at, byte),
        }
    }

    #[cold]
    fn describe(&self, conflict: Conflict, touch: Touch, lane: u32, at: u64, byte: usize) -> Verdict {
        let name = |agent| self.shared.clocks.name(agent);
        let how = || match conflict {
            Conflict::Write { other } => format!("and was written by {} with no barrier in between", name(other)),
            Conflict::Read { other } => format!("and was read by {} with no barrier in between", name(other)),
            Conflict::Pending { other } => format!("while {} into it has not been waited for", name(other)),
        };
        let message = || format!("shared memory at offset {byte:#x} is {} here {}", touch.verb(), how());
        self.report(FaultKind::Race, lane, Some(at), message)
    }
}

/// Where a store has its values.
#[derive(Debug, Clone, Copy)]
enum Values {
    /// In so many registers of each lane.
    Registers(u32),
    /// `stmatrix`: this row of all matrices, and whether they are transposed.
    Row(u32, bool),
}

/// What an instruction does to memory.
#[derive(Debug, Clone, Copy)]
enum Touch {
    Read,
    StrongRead,
    Write(Values),
    StrongWrite,
    Async,
    /// `mbarrier.init`.
    Init,
    Atomic,
}

impl Touch {
    fn verb(self) -> &'static str {
        match self {
            Touch::Read | Touch::StrongRead => "read",
            Touch::Write(_) | Touch::StrongWrite => "written",
            Touch::Async => "written by an asynchronous copy",
            Touch::Init => "made an mbarrier",
            Touch::Atomic => "updated",
        }
    }
}

/// Byte `i` of what a lane stores.
unsafe fn store_byte(cx: &Cx, op: *const Op, lane: u32, values: Values, bytes: u64, i: u64) -> u8 {
    // SAFETY: stores keep up to two registers in place and list more; register lanes hold at least an element.
    unsafe {
        let (slot, lane, byte, width) = match values {
            Values::Registers(n) => {
                let element = bytes / u64::from(n.max(1));
                let reg = (i / element) as usize;
                let slot = if n <= 2 { (*op).r[reg] } else { cx.list(op, reg) };
                (slot, lane as usize, (i % element) as usize, (element as usize).max(2))
            }
            // Each lane holds two neighbours of a row, four lanes the row; transposed, those of a column.
            Values::Row(row, trans) => {
                let (matrix, r, i) = ((row / 8) as usize, (row % 8) as usize, i as usize);
                let (lane, byte) = if trans { (i / 2 * 4 + r / 2, r % 2 * 2 + i % 2) } else { (r * 4 + i / 4, i % 4) };
                (cx.list(op, matrix), lane, byte, 4)
            }
        };
        *cx.at::<u8>(slot).cast::<u8>().add(lane * width + byte)
    }
}
