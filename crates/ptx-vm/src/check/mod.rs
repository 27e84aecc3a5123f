//! What is looked at before each instruction when somebody asks for it: the checks of checked mode, and the counters.
//!
//! The handlers know nothing of this. An observed launch runs another loop, which looks at an instruction's [`Access`] and operands before
//! it executes, so an unobserved one pays nothing.

mod clock;
mod shared;

use crate::counters::Tally;
use crate::error::FaultKind;
use crate::exec::mbarrier::{Event, Happened};
use crate::exec::mem::resolve;
use crate::exec::op::{Cx, Op, WARP};
use crate::ir::{Access, AccessKind, Kernel};
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, SHARED_WINDOW};
use crate::parse::Space;
use clock::Tracked;
use shared::{Actor, Conflict, Manner, Shadow};
use std::sync::atomic::Ordering;

/// The observer of one worker thread.
pub(crate) struct Watch {
    check: Option<Check>,
    pub(crate) tally: Option<Tally>,
}

/// The state of checked mode.
struct Check {
    shared: Shadow,
    /// One byte for each byte of local memory: written or not.
    local: Vec<u8>,
    local_len: usize,
}

impl Watch {
    /// An observer, or none when nothing is to be observed.
    pub(crate) fn new(checked: bool, tally: Option<Tally>) -> Option<Box<Watch>> {
        (checked || tally.is_some()).then(|| {
            Box::new(Watch {
                check: checked.then(|| Check { shared: Shadow::default(), local: Vec::new(), local_len: 0 }),
                tally,
            })
        })
    }

    /// A new block begins: its shared and local memory hold nothing.
    pub(crate) fn start_block(&mut self, shared: usize, warps: usize, local: usize) {
        if let Some(check) = &mut self.check {
            check.shared.start(shared, warps);
            check.local.clear();
            check.local.resize(local * WARP * warps, 0);
            check.local_len = local;
        }
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
            if meta.guard {
                let (all, mask) = (cx.mask, cx.holding(op));
                let inner = op.add(1);
                if mask == 0 {
                    return inner.add(1);
                }
                cx.mask = mask;
                let next = self.step(cx, kernel, inner);
                cx.mask = all;
                return next;
            }
            if let (Some(check), Some(access)) = (&mut self.check, &meta.access)
                && let Err((kind, lane, address, message)) = check.look(cx, access, op)
            {
                return cx.fault(op, kind, Some(lane), Some(address), message);
            }
            let next = ((*op).run)(cx, op);
            if !cx.events.is_empty() {
                return self.events(cx, op, next);
            }
            next
        }
    }
}

impl Watch {
    /// Takes note of what the instruction `op` did besides its accesses; `next` comes after it.
    #[cold]
    unsafe fn events(&mut self, cx: &mut Cx, op: *const Op, next: *const Op) -> *const Op {
        let events = std::mem::take(&mut cx.events);
        if let Some(check) = &mut self.check
            && cx.trap.is_none()
        {
            for event in &events {
                // SAFETY: the instruction has checked its addresses.
                if let Err((kind, lane, address, message)) = unsafe { check.happened(cx, event) } {
                    return cx.fault(op, kind, Some(lane), Some(address), message);
                }
            }
        }
        cx.events = events;
        cx.events.clear();
        next
    }
}

type Verdict = Result<(), (FaultKind, u32, u64, String)>;

/// The addresses of an access, lane by lane.
///
/// # Safety
/// `access` belongs to the instruction about to run.
pub(crate) unsafe fn addresses(cx: &Cx, access: &Access) -> [u64; WARP] {
    // SAFETY: the operand's width is the one noted.
    let raw =
        unsafe { if access.wide { cx.get::<u64>(access.addr) } else { cx.get::<u32>(access.addr).map(u64::from) } };
    raw.map(|a| {
        let a = a.wrapping_add(access.offset as u64);
        if access.wide { a } else { a & 0xffff_ffff }
    })
}

impl Check {
    /// Checks one access and notes what it does.
    unsafe fn look(&mut self, cx: &Cx, access: &Access, op: *const Op) -> Verdict {
        // SAFETY: operands belong to the instruction about to run; addresses are checked before they are used.
        unsafe {
            let warp = cx.warp as usize;
            match access.kind {
                AccessKind::WarpSync => self.shared.clocks.warp_sync(warp, cx.mask, cx.alive),
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
                }
                AccessKind::CopyAsync => self.look_at_copy(cx, access, op)?,
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
                    if access.order != 0 {
                        self.order(cx, access, &addr);
                    }
                }
            }
            Ok(())
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
        let (warp, lane) = (cx.warp as usize, lanes.trailing_zeros());
        let actor = Actor { warp, lanes, proxy: None };
        let end = |len: u32, base: u64| a >= base && a - base + bytes <= u64::from(len);
        if access.space == Space::Shared && !access.wide {
            if a + bytes <= u64::from(cx.shared_len) {
                // SAFETY: inside shared memory.
                unsafe { self.touch_shared(cx, a, bytes, actor, touch, op)? };
            }
        } else if a >= GLOBAL_BASE {
            // SAFETY: tables outlive the launch.
            unsafe { touch_global(cx, a, bytes, lane, touch)? };
        } else if end(cx.shared_len, SHARED_WINDOW) {
            // SAFETY: inside shared memory.
            unsafe { self.touch_shared(cx, a - SHARED_WINDOW, bytes, actor, touch, op)? };
        } else if end(cx.local_len, LOCAL_WINDOW) {
            for lane in (0..WARP).filter(|l| lanes >> l & 1 != 0) {
                let thread = warp * WARP + lane;
                let at = thread * self.local_len + (a - LOCAL_WINDOW) as usize;
                let cells = &mut self.local[at..at + bytes as usize];
                if !touch.reads() {
                    cells.fill(1);
                } else if let Some(i) = cells.iter().position(|c| *c == 0) {
                    let message = format!(
                        "{bytes} bytes of local memory {} at offset {:#x}, byte {i} of which nobody has written",
                        touch.verb(),
                        a - LOCAL_WINDOW
                    );
                    return Err((FaultKind::Uninitialised, lane as u32, a, message));
                }
            }
        }
        Ok(())
    }

    /// Something that orders or moves memory has happened.
    unsafe fn happened(&mut self, cx: &Cx, event: &Event) -> Verdict {
        let Event { what, lanes, at } = *event;
        let warp = cx.warp as usize;
        let actor = Actor { warp, lanes, proxy: None };
        let lane = lanes.trailing_zeros();
        let none = std::ptr::null();
        // SAFETY: an mbarrier lies inside shared memory; values are compared for stores only, which these are not.
        let object = |check: &mut Check, touch| unsafe { check.touch_shared(cx, u64::from(at), 8, actor, touch, none) };
        match what {
            Happened::Fence => self.shared.clocks.fence(warp, lanes),
            Happened::Init => {
                object(self, Touch::Init)?;
                self.shared.clocks.mbarrier_init(at);
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
                let thread = cx.warp * WARP as u32 + lane;
                // A copy out of shared memory is waited for by its groups, any other by the mbarrier.
                let how = if to >= GLOBAL_BASE { Tracked::Thread(thread) } else { Tracked::Mbarrier(at) };
                let proxy = Actor { proxy: Some(self.shared.clocks.tracked(how)), ..actor };
                for (address, touch) in [(from, Touch::Read), (to, if reduce { Touch::Atomic } else { Touch::Async })] {
                    // SAFETY: the copy has checked both ranges.
                    unsafe {
                        if address >= GLOBAL_BASE {
                            touch_global(cx, address, u64::from(bytes), lane, touch)?;
                        } else {
                            let offset = address - SHARED_WINDOW;
                            self.touch_shared(cx, offset, u64::from(bytes), proxy, touch, none)?;
                        }
                    }
                }
                if to < GLOBAL_BASE {
                    self.shared.clocks.mbarrier_bulk(at);
                }
            }
            Happened::BulkCommit => self.shared.clocks.bulk_commit(warp, lanes),
            Happened::BulkWait(pending) => self.shared.clocks.bulk_wait(warp, lanes, pending),
        }
        Ok(())
    }

    /// `cp.async`: reads global memory, writes shared memory that stays pending.
    unsafe fn look_at_copy(&mut self, cx: &Cx, access: &Access, op: *const Op) -> Verdict {
        // SAFETY: operands belong to the instruction; every address is checked before use.
        unsafe {
            let to = addresses(cx, access);
            let from = cx.get::<u64>(cx.list(op, 1));
            let size = cx.list(op, 2);
            let n = u64::from(access.bytes);
            let sizes = if size == crate::exec::alu::NO_SLOT { [access.bytes; WARP] } else { cx.get::<u32>(size) };
            for lane in (0..WARP).filter(|l| cx.mask >> l & 1 != 0) {
                let source = from[lane].wrapping_add(i64::from((*op).r[0] as i32) as u64);
                let bytes = u64::from(sizes[lane]).min(n);
                if bytes > 0 && resolve(cx, source, bytes, false, lane as u32).is_some() {
                    touch_global(cx, source, bytes, lane as u32, Touch::Read)?;
                }
                if to[lane] + n <= u64::from(cx.shared_len) {
                    let thread = cx.warp * WARP as u32 + lane as u32;
                    let copies = self.shared.clocks.copies_of(thread);
                    let actor = Actor { proxy: Some(copies), ..Actor::lane(cx.warp as usize, lane as u32) };
                    self.touch_shared(cx, to[lane], n, actor, Touch::Async, op)?;
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
            Some((byte, conflict)) => Err(self.describe(conflict, touch, lane, at, bytes, byte)),
        }
    }

    #[cold]
    fn describe(
        &self,
        conflict: Conflict,
        touch: Touch,
        lane: u32,
        at: u64,
        bytes: u64,
        byte: usize,
    ) -> (FaultKind, u32, u64, String) {
        let what = touch.verb();
        let name = |agent| self.shared.clocks.name(agent);
        let race = |text: String| (FaultKind::Race, format!("shared memory at offset {byte:#x} is {what} here {text}"));
        let (kind, message) = match conflict {
            Conflict::Unwritten => (
                FaultKind::Uninitialised,
                format!(
                    "{bytes} bytes of shared memory {what} at offset {at:#x}, byte {} of which was never written in this block",
                    byte as u64 - at
                ),
            ),
            Conflict::Write { other, .. } => {
                race(format!("and was written by {} with no barrier in between", name(other)))
            }
            Conflict::Read { other } => race(format!("and was read by {} with no barrier in between", name(other))),
            Conflict::Pending { other } => race(format!("while {} into it has not been waited for", name(other))),
        };
        (kind, lane, at, message)
    }
}

/// Notes an access to global memory.
unsafe fn touch_global(cx: &Cx, a: u64, bytes: u64, lane: u32, touch: Touch) -> Verdict {
    // SAFETY: tables outlive the launch.
    let found = unsafe {
        let known = (*cx.table).find(a).or_else(|| (*cx.globals).find(a));
        known.cloned().or_else(|| (*cx.heap).find(a))
    };
    if let Some(allocation) = found
        && a + bytes <= allocation.end()
        && let Some(written) = &allocation.written
    {
        let at = (a - allocation.base) as usize;
        let cells = &written[at..at + bytes as usize];
        if touch.reads()
            && let Some(i) = cells.iter().position(|c| c.load(Ordering::Relaxed) == 0)
        {
            let message = format!(
                "{bytes} bytes {} at {a:#x}, byte {i} of which nobody has written (offset {} of the allocation {:#x}, {} bytes)",
                touch.verb(),
                at + i,
                allocation.base,
                allocation.len
            );
            return Err((FaultKind::Uninitialised, lane, a, message));
        }
        if touch.writes() {
            cells.iter().for_each(|c| c.store(1, Ordering::Relaxed));
        }
    }
    Ok(())
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
    fn reads(self) -> bool {
        matches!(self, Touch::Read | Touch::StrongRead | Touch::Atomic)
    }
    fn writes(self) -> bool {
        !matches!(self, Touch::Read | Touch::StrongRead)
    }
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
