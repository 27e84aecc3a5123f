//! Who touches which bytes, of shared and global memory.

use super::global::Now;
use super::shared::{Actor, Conflict, Manner};
use super::{Check, Verdict};
use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::GLOBAL_BASE;
use crate::step::find::resolve;
use std::sync::PoisonError;

impl Check {
    /// Looks for races in global memory.
    pub(super) unsafe fn touch_global(
        &mut self,
        cx: &Cx,
        a: u64,
        bytes: u64,
        lanes: u32,
        touch: Touch,
        op: *const Op,
    ) -> Verdict {
        let Some(races) = &self.checks.races else { return Ok(()) };
        // SAFETY: forwarded; values are compared for stores only, where the address is good.
        unsafe {
            let lane = lanes.trailing_zeros();
            let now = Now {
                block: self.block,
                warp: cx.seat,
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
                    let clocks = &self.shared.clocks;
                    let other = match found.block == self.block {
                        true => clocks.name(found.thread as u16),
                        false => clocks.thread_of(found.block, found.thread),
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
    pub(super) fn order_blocks(&mut self, cx: &Cx, access: &Access, addr: &[u64; WARP]) {
        let Some(races) = self.checks.races.clone() else { return };
        if access.order & Access::CTA != 0 {
            return;
        }
        let mut races = races.lock().unwrap_or_else(PoisonError::into_inner);
        let (warp, clocks) = (cx.seat as usize, &mut self.shared.clocks);
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
    pub(super) fn not_pending(&self, a: u64, bytes: u64, lane: u32, touch: Touch) -> Verdict {
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

    /// `cp.async`: reads global memory, writes shared memory that stays pending.
    pub(super) unsafe fn look_at_copy(&mut self, cx: &Cx, kernel: &Kernel, access: &Access, op: *const Op) -> Verdict {
        // SAFETY: operands belong to the instruction; every address is checked before use.
        unsafe {
            let to = addresses(cx, access);
            let from = cx.get::<u64>(cx.list(op, 1));
            let size = cx.list(op, 2);
            let n = u64::from(access.bytes);
            let sizes = if size == crate::ir::NO_SLOT { [access.bytes; WARP] } else { cx.get::<u32>(size) };
            let warp = cx.seat as usize;
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
                    let thread = cx.seat * WARP as u32 + lane as u32;
                    let copies = self.shared.clocks.copies_of(thread);
                    let actor = Actor { proxy: Some(copies), ..Actor::lane(warp, lane as u32) };
                    self.touch_shared(cx, cx.place(to[lane] as u32), n, actor, Touch::Async, op)?;
                    let given = if there { bytes } else { 0 };
                    self.memory.copy(cx, (true, to[lane]), (false, source), [n, given], lane, false);
                }
            }
            Ok(())
        }
    }

    /// Notes an access to shared memory, from a place on, which contains the range. `op` is the store whose values may be compared.
    pub(super) unsafe fn touch_shared(
        &mut self,
        cx: &Cx,
        at: u32,
        bytes: u64,
        actor: Actor,
        touch: Touch,
        op: *const Op,
    ) -> Verdict {
        let (first, n) = (at as usize, bytes as usize);
        let lane = actor.lanes.trailing_zeros();
        let rank = at >> RANK_SHIFT;
        if rank != cx.rank && !self.visits.visit(&self.shared.clocks, rank, actor.agents()) {
            let message = || {
                format!("shared memory of block {rank} of the cluster is {} here, and that block is over", touch.verb())
            };
            self.report(FaultKind::Race, lane, Some(u64::from(at & OFFSET)), message)?;
        }
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
            unsafe {
                store_byte(cx, op, lane, values, bytes, (byte - first) as u64)
                    == *cx.peers[byte >> RANK_SHIFT].add(byte & OFFSET as usize)
            }
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
    pub(super) fn describe(&self, conflict: Conflict, touch: Touch, lane: u32, at: u32, byte: usize) -> Verdict {
        let name = |agent| self.shared.clocks.name(agent);
        let how = || match conflict {
            Conflict::Write { other } => format!("and was written by {} with no barrier in between", name(other)),
            Conflict::Read { other } if self.shared.clocks.is_product(other) => format!(
                "and is read by {}, which nobody here knows to be complete: `wgmma.wait_group` waits for it, a barrier tells others",
                name(other)
            ),
            Conflict::Read { other } => format!("and was read by {} with no barrier in between", name(other)),
            Conflict::Pending { other } => format!("while {} into it has not been waited for", name(other)),
        };
        let message = || {
            let (of, byte) = (self.shared.clocks.of_block((byte >> RANK_SHIFT) as u32), byte & OFFSET as usize);
            format!("shared memory{of} at offset {byte:#x} is {} here {}", touch.verb(), how())
        };
        self.report(FaultKind::Race, lane, Some(u64::from(at & OFFSET)), message)
    }
}

/// Where a store has its values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values {
    /// In so many registers of each lane.
    Registers(u32),
    /// `stmatrix`: this row of all matrices, and whether they are transposed.
    Row(u32, bool),
}

/// What an instruction does to memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Touch {
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
    pub(super) fn verb(self) -> &'static str {
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
pub(super) unsafe fn store_byte(cx: &Cx, op: *const Op, lane: u32, values: Values, bytes: u64, i: u64) -> u8 {
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
