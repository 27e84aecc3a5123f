//! What is looked at before each instruction when somebody asks for it: the checks of checked mode, and the counters.
//!
//! The handlers know nothing of this. An observed launch runs another loop, which looks at an instruction's [`Access`] and operands before
//! it executes, so an unobserved one pays nothing.

mod shared;

use crate::counters::Counters;
use crate::error::FaultKind;
use crate::exec::mem::resolve;
use crate::exec::op::{Cx, Op, WARP};
use crate::ir::{Access, AccessKind, Kernel};
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, SHARED_WINDOW};
use crate::parse::Space;
use shared::{Conflict, Shadow};
use std::sync::atomic::Ordering;

/// The observer of one worker thread.
pub(crate) struct Watch {
    check: Option<Check>,
    pub(crate) counters: Option<Box<Counters>>,
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
    pub(crate) fn new(checked: bool, counters: bool) -> Option<Box<Watch>> {
        (checked || counters).then(|| {
            Box::new(Watch {
                check: checked.then(|| Check { shared: Shadow::default(), local: Vec::new(), local_len: 0 }),
                counters: counters.then(Box::default),
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

    /// A barrier has opened: what came before is ordered before what comes.
    pub(crate) fn barrier(&mut self) {
        if let Some(check) = &mut self.check {
            check.shared.barrier();
        }
    }

    /// Looks at an instruction, then executes it.
    ///
    /// # Safety
    /// As for a handler.
    pub(crate) unsafe fn step(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op) -> *const Op {
        // SAFETY: `op` points into the kernel's code; a guard is followed by the instruction it guards.
        unsafe {
            let meta = &kernel.meta[op.offset_from(cx.code) as usize];
            if meta.guard {
                let [p, negate, ..] = (*op).r;
                let all = cx.mask;
                let mask = (cx.pred(p) ^ negate) & all;
                let inner = op.add(1);
                if mask == 0 {
                    return inner.add(1);
                }
                cx.mask = mask;
                let next = self.step(cx, kernel, inner);
                cx.mask = all;
                return next;
            }
            if let Some(counters) = &mut self.counters {
                counters.count(cx, meta, op);
            }
            if let (Some(check), Some(access)) = (&mut self.check, &meta.access)
                && let Err((kind, lane, address, message)) = check.look(cx, access, op)
            {
                return cx.fault(op, kind, Some(lane), Some(address), message);
            }
            ((*op).run)(cx, op)
        }
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
                AccessKind::WarpSync => self.shared.warp_sync(warp),
                AccessKind::Commit => self.shared.commit(warp, cx.mask),
                AccessKind::Wait(n) => self.shared.wait(warp, cx.mask, n),
                AccessKind::Rows(rows) | AccessKind::RowsStore(rows) => {
                    // Each row's address comes from one lane, but the row is read (or written) by the warp as one.
                    let addr = addresses(cx, access);
                    let store = matches!(access.kind, AccessKind::RowsStore(_));
                    for (lane, &a) in addr.iter().enumerate().take(rows as usize) {
                        if a + 16 <= u64::from(cx.shared_len) {
                            self.touch_shared(
                                cx,
                                a,
                                16,
                                lane as u32,
                                if store { Touch::Write(None) } else { Touch::Read },
                                op,
                            )?;
                        }
                    }
                }
                AccessKind::CopyAsync => self.look_at_copy(cx, access, op)?,
                AccessKind::Load | AccessKind::Store | AccessKind::Atomic => {
                    let addr = addresses(cx, access);
                    let bytes = u64::from(access.bytes);
                    for (lane, &a) in addr.iter().enumerate() {
                        if cx.mask >> lane & 1 == 0 {
                            continue;
                        }
                        self.look_at_lane(cx, access, op, lane as u32, a, bytes)?;
                    }
                }
            }
            Ok(())
        }
    }

    unsafe fn look_at_lane(
        &mut self,
        cx: &Cx,
        access: &Access,
        op: *const Op,
        lane: u32,
        a: u64,
        bytes: u64,
    ) -> Verdict {
        let touch = match access.kind {
            AccessKind::Load => Touch::Read,
            AccessKind::Store => Touch::Write(Some(access.lanes)),
            _ => Touch::Atomic,
        };
        let direct = access.space == Space::Shared && !access.wide;
        let end = |len: u32, base: u64| a >= base && a - base + bytes <= u64::from(len);
        if direct {
            if a + bytes <= u64::from(cx.shared_len) {
                // SAFETY: inside shared memory.
                unsafe { self.touch_shared(cx, a, bytes, lane, touch, op)? };
            }
        } else if a >= GLOBAL_BASE {
            // SAFETY: tables outlive the launch.
            let found = unsafe { (*cx.table).find(a).or_else(|| (*cx.globals).find(a)) };
            if let Some(allocation) = found
                && a + bytes <= allocation.end()
                && let Some(written) = &allocation.written
            {
                let at = (a - allocation.base) as usize;
                let cells = &written[at..at + bytes as usize];
                match touch {
                    Touch::Read => {
                        if let Some(i) = cells.iter().position(|c| c.load(Ordering::Relaxed) == 0) {
                            let message = format!(
                                "{bytes} bytes read at {a:#x}, byte {i} of which nobody has written (offset {} of the allocation {:#x}, {} bytes)",
                                at + i,
                                allocation.base,
                                allocation.len
                            );
                            return Err((FaultKind::Uninitialised, lane, a, message));
                        }
                    }
                    _ => {
                        if matches!(touch, Touch::Atomic) && cells.iter().any(|c| c.load(Ordering::Relaxed) == 0) {
                            let message = format!("atomic on {bytes} bytes at {a:#x} that nobody has written");
                            return Err((FaultKind::Uninitialised, lane, a, message));
                        }
                        cells.iter().for_each(|c| c.store(1, Ordering::Relaxed));
                    }
                }
            }
        } else if end(cx.shared_len, SHARED_WINDOW) {
            // SAFETY: inside shared memory.
            unsafe { self.touch_shared(cx, a - SHARED_WINDOW, bytes, lane, touch, op)? };
        } else if end(cx.local_len, LOCAL_WINDOW) {
            let thread = cx.warp as usize * WARP + lane as usize;
            let at = thread * self.local_len + (a - LOCAL_WINDOW) as usize;
            let cells = &mut self.local[at..at + bytes as usize];
            if matches!(touch, Touch::Read) {
                if let Some(i) = cells.iter().position(|c| *c == 0) {
                    let message = format!(
                        "{bytes} bytes read at offset {:#x} of local memory, byte {i} of which was never written",
                        a - LOCAL_WINDOW
                    );
                    return Err((FaultKind::Uninitialised, lane, a, message));
                }
            } else {
                cells.fill(1);
            }
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
                    let read = Access { kind: AccessKind::Load, space: Space::Global, wide: true, ..*access };
                    self.look_at_lane(cx, &read, op, lane as u32, source, bytes)?;
                }
                if to[lane] + n <= u64::from(cx.shared_len) {
                    self.touch_shared(cx, to[lane], n, lane as u32, Touch::Async, op)?;
                }
            }
            Ok(())
        }
    }

    unsafe fn touch_shared(&mut self, cx: &Cx, at: u64, bytes: u64, lane: u32, touch: Touch, op: *const Op) -> Verdict {
        let thread = cx.warp * WARP as u32 + lane;
        for i in 0..bytes {
            let byte = (at + i) as usize;
            let found = match touch {
                Touch::Read => self.shared.read(byte, thread),
                Touch::Write(_) => self.shared.write(byte, thread, op as usize),
                Touch::Async => self.shared.copy(byte, thread),
                Touch::Atomic => self.shared.atomic(byte, thread),
            };
            let Some(conflict) = found else { continue };
            // Two threads that write the same value do no harm.
            if let (Touch::Write(Some(lanes)), Conflict::Write { other, same_instruction }) = (touch, conflict) {
                // SAFETY: the store's operands; the byte lies inside shared memory.
                unsafe {
                    let mine = store_byte(cx, op, lane, lanes, bytes, i);
                    let theirs = if same_instruction {
                        store_byte(cx, op, other % WARP as u32, lanes, bytes, i)
                    } else {
                        *cx.shared.add(byte)
                    };
                    let aligned = !same_instruction || other / WARP as u32 == cx.warp;
                    if aligned && mine == theirs {
                        continue;
                    }
                }
            }
            let what = match touch {
                Touch::Read => "read",
                Touch::Write(_) => "written",
                Touch::Async => "written by cp.async",
                Touch::Atomic => "updated",
            };
            let (kind, message) = match conflict {
                Conflict::Unwritten => (
                    FaultKind::Uninitialised,
                    format!(
                        "{bytes} bytes of shared memory {what} at offset {at:#x}, byte {i} of which was never written in this block"
                    ),
                ),
                Conflict::Write { other, .. } => (
                    FaultKind::Race,
                    format!(
                        "shared memory at offset {byte:#x} is {what} here and was written by thread {other} with no barrier in between"
                    ),
                ),
                Conflict::Read { other: Some(other) } => (
                    FaultKind::Race,
                    format!(
                        "shared memory at offset {byte:#x} is {what} here and was read by thread {other} with no barrier in between"
                    ),
                ),
                Conflict::Read { other: None } => (
                    FaultKind::Race,
                    format!(
                        "shared memory at offset {byte:#x} is {what} here and was read by several threads with no barrier in between"
                    ),
                ),
                Conflict::Pending { other } => (
                    FaultKind::Race,
                    format!(
                        "shared memory at offset {byte:#x} is {what} here while the cp.async of thread {other} into it has not been waited for"
                    ),
                ),
            };
            return Err((kind, lane, at, message));
        }
        Ok(())
    }
}

/// What an instruction does to shared memory.
#[derive(Debug, Clone, Copy)]
enum Touch {
    Read,
    /// With the number of registers of the store, where the values can be compared.
    Write(Option<u32>),
    Async,
    Atomic,
}

/// Byte `i` of what a lane stores.
unsafe fn store_byte(cx: &Cx, op: *const Op, lane: u32, lanes: u32, bytes: u64, i: u64) -> u8 {
    // SAFETY: stores keep up to two registers in place and list more; register lanes hold at least an element.
    unsafe {
        let element = bytes / u64::from(lanes.max(1));
        let (reg, byte) = ((i / element) as usize, (i % element) as usize);
        let slot = if lanes <= 2 { (*op).r[reg] } else { cx.list(op, reg) };
        let width = (element as usize).max(2);
        *cx.at::<u8>(slot).cast::<u8>().add(lane as usize * width + byte)
    }
}
