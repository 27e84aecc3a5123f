//! Events that order or move memory: fences, mbarriers, bulk copies.

use super::clock::Tracked;
use super::shared::Actor;
use super::touch::Touch;
use super::{Check, Pending, Verdict};
use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::GLOBAL_BASE;

impl Check {
    /// Something that orders or moves memory has happened: an arm for each kind of event.
    pub(super) unsafe fn happened(&mut self, cx: &Cx, event: &Event, kernel: &Kernel, index: usize) -> Verdict {
        let Event { what, lanes, at } = *event;
        let warp = cx.seat as usize;
        let actor = Actor { warp, lanes, proxy: None };
        let lane = lanes.trailing_zeros();
        let thread = cx.seat * WARP as u32 + lane;
        let none = std::ptr::null();
        let object = |check: &mut Check, touch| {
            if let Some(maker) = check.shared.clocks.mbarrier_unmade(warp, lanes, at) {
                let message = || {
                    format!(
                        "the mbarrier at shared offset {:#x} is used here and was made by {} with no barrier in between",
                        at & OFFSET,
                        check.shared.clocks.name(maker)
                    )
                };
                check.report(FaultKind::Race, lane, Some(u64::from(at & OFFSET)), message)?;
            }
            // SAFETY: an mbarrier lies inside shared memory; values are compared for stores only, which these are not.
            unsafe { check.touch_shared(cx, at, 8, actor, touch, none) }
        };
        match what {
            Happened::Fence { wide } => self.shared.clocks.fence(warp, lanes, wide),
            Happened::FenceInit => self.shared.clocks.tell_mbarriers(warp, lanes),
            Happened::Proxy => self.shared.clocks.proxy(warp, lanes),
            Happened::Init => {
                // SAFETY: as above.
                unsafe { self.touch_shared(cx, at, 8, actor, Touch::Init, none)? };
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
            Happened::Bulk { .. } => self.bulk(cx, event, kernel, index)?,
            Happened::Read { from, bytes, what } => {
                // SAFETY: the range is checked before it is looked at.
                let wrong = lanes_of(lanes).filter(|lane| unsafe { self.memory.is_undefined(cx, from, bytes, *lane) });
                let wrong = wrong.fold(0, |m, lane| m | 1 << lane);
                if wrong != 0 {
                    self.memory.found_if_none(index);
                    self.undefined(kernel, (wrong, what))?;
                }
            }
            // SAFETY: the instruction has checked its operands.
            Happened::Multiply { a, b } => unsafe { self.multiplied(cx, [a, b], kernel, index)? },
            Happened::MultiplyFence | Happened::MultiplyCommit | Happened::MultiplyWait { .. } => {
                self.order_products(cx, what);
            }
            Happened::BulkCommit => {
                self.shared.clocks.bulk_commit(warp, lanes);
                for lane in lanes_of(lanes) {
                    *self.groups.entry(cx.seat * WARP as u32 + lane as u32).or_insert(0) += 1;
                }
            }
            Happened::BulkWait { pending, read } => {
                self.shared.clocks.bulk_wait(warp, lanes, pending);
                if !read {
                    let groups = &self.groups;
                    let first = cx.seat * WARP as u32;
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

    /// The undefined bits of what a `st.async` has stored, or of what a `red.async` has combined with what was there.
    unsafe fn stored(&mut self, cx: &Cx, op: *const Op, lane: usize, to: u64, reduce: bool) {
        // SAFETY: operands belong to the instruction.
        unsafe {
            let imm = (*op).imm;
            let (element, count) = ((imm & 255) as usize, (imm >> 8 & 255) as usize);
            for i in 0..count {
                let bits = self.defined.get(cx.seat as usize, cx.list(op, 2 + i), element)[lane];
                self.memory.put_bits(cx, to + (i * element) as u64, &bits.to_le_bytes()[..element], reduce);
            }
        }
    }

    /// A bulk copy has been issued, and has copied.
    fn bulk(&mut self, cx: &Cx, event: &Event, kernel: &Kernel, index: usize) -> Verdict {
        let Event { what, lanes, at } = *event;
        let Happened::Bulk { to, from, bytes, reduce } = what else { return Ok(()) };
        let lane = lanes.trailing_zeros();
        let thread = cx.seat * WARP as u32 + lane;
        // A copy out of shared memory is waited for by its groups, any other by the mbarrier.
        let out = to >= GLOBAL_BASE;
        let how = if out { Tracked::Thread(thread) } else { Tracked::Mbarrier(at) };
        let proxy = Actor { proxy: Some(self.shared.clocks.tracked(how)), warp: cx.seat as usize, lanes };
        let reads = from.map(|from| (from, Touch::Read));
        for (address, touch) in reads.into_iter().chain([(to, if reduce { Touch::Atomic } else { Touch::Async })]) {
            if address >= GLOBAL_BASE {
                self.not_pending(address, u64::from(bytes), lane, touch)?;
                continue;
            }
            let place = cx.place_of(address);
            // SAFETY: the copy has checked both ranges.
            unsafe { self.touch_shared(cx, place, u64::from(bytes), proxy, touch, std::ptr::null())? };
            if Some(address) == from
                && let Some((byte, writer)) = self.shared.untold(place as usize, bytes as usize, thread)
            {
                let byte = byte & OFFSET as usize;
                let message = || {
                    format!(
                        "shared memory at offset {byte:#x} is read here by a bulk copy, and was written by {} with no `fence.proxy.async` in between",
                        self.shared.clocks.name(writer)
                    )
                };
                self.report(FaultKind::Race, lane, Some(byte as u64), message)?;
            }
        }
        let Some(from) = from else {
            if kernel.meta[index].rule == Rule::AsyncStore {
                // SAFETY: the instruction is of that kind.
                unsafe { self.stored(cx, &raw const kernel.code[index], lane as usize, to, reduce) };
            } else {
                self.memory.define_shared(cx.place_of(to), bytes as usize);
            }
            self.shared.clocks.mbarrier_bulk(at);
            return Ok(());
        };
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
        Ok(())
    }
}
