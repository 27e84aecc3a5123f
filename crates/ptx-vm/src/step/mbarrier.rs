//! Barriers in shared memory (`mbarrier`).
//!
//! The 64-bit object stands in the block's shared memory, as on the hardware, so it can be copied, invalidated and overwritten like
//! any other bytes. Its layout is ours, since the manual keeps it opaque: bits 0..20 pending arrivals, 20..40 expected arrivals,
//! 40..61 transaction count (signed), 62 set in a valid object, 63 parity of the current phase. A state token is the word as it was
//! before the arrival.

use super::find::{describe_miss, misaligned};
use crate::error::FaultKind;
use crate::ir::NO_SLOT;
use crate::ir::*;
use crate::memory::GLOBAL_BASE;

/// Greatest arrival count and transaction count.
const MOST: i64 = (1 << 20) - 1;
const VALID: u64 = 1 << 62;
const PHASE: u64 = 1 << 63;

impl Object {
    fn unpack(word: u64) -> Option<Object> {
        (word & VALID != 0).then_some(Object {
            pending: word as i64 & MOST,
            expected: (word >> 20) as i64 & MOST,
            bytes: (word << 3) as i64 >> 43,
            phase: word & PHASE != 0,
        })
    }

    fn pack(self) -> u64 {
        let phase = if self.phase { PHASE } else { 0 };
        (self.pending & MOST) as u64
            | ((self.expected & MOST) as u64) << 20
            | (self.bytes as u64 & 0x1f_ffff) << 40
            | VALID
            | phase
    }

    /// Goes to the next phase when nothing is pending any more.
    fn complete(&mut self) -> bool {
        let done = self.pending == 0 && self.bytes == 0;
        if done {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
        done
    }
}

/// What an `mbarrier` instruction does; its flags stand above the lowest byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Act {
    Init,
    Invalidate,
    ExpectBytes,
    CompleteBytes,
    Arrive,
    /// `arrive_drop`: the next phases expect fewer.
    Drop,
    /// `cp.async.mbarrier.arrive`: arrives for the thread's copies; the arrival is an additional one.
    Copies,
    /// The same with `.noinc`.
    CopiesExpected,
    Wait,
}

impl Act {
    const ALL: [Act; 9] = [
        Act::Init,
        Act::Invalidate,
        Act::ExpectBytes,
        Act::CompleteBytes,
        Act::Arrive,
        Act::Drop,
        Act::Copies,
        Act::CopiesExpected,
        Act::Wait,
    ];
    /// Orders no memory.
    pub(crate) const RELAXED: u32 = 1 << 8;
    /// The arrival must not complete the phase.
    pub(crate) const NO_COMPLETE: u32 = 1 << 9;
    /// The operand is the number of bytes to expect, not the count of arrivals.
    pub(crate) const EXPECT: u32 = 1 << 10;
    /// The operand is a parity, not a state.
    pub(crate) const PARITY: u32 = 1 << 11;
}

impl Cx {
    /// The memory of a lane's mbarrier.
    fn object(&mut self, op: *const Op, lane: usize, address: u64) -> Result<*mut u64, *const Op> {
        if address & 7 != 0 {
            return Err(misaligned(self, op, lane as u32, address, 8));
        }
        let Some(place) = self.in_cluster(address, 8) else {
            let mut message = describe_miss(self, address, 8, false);
            if address >= GLOBAL_BASE {
                message = format!("an mbarrier lives in shared memory, and {address:#x} is a global address");
            }
            return Err(self.fault(op, FaultKind::OutOfBounds, Some(lane as u32), Some(address), message));
        };
        Ok(place.cast())
    }

    fn wrong(&mut self, op: *const Op, lane: usize, at: u32, message: &str) -> *const Op {
        let (rank, offset) = (at >> RANK_SHIFT, at & OFFSET);
        let of = if rank == self.rank { String::new() } else { format!(" of block {rank} of the cluster") };
        let message = format!("mbarrier at shared offset {offset:#x}{of}: {message}");
        self.fault(op, FaultKind::Barrier, Some(lane as u32), Some(u64::from(offset)), message)
    }

    /// Takes `bytes` off a lane's mbarrier.
    pub(crate) unsafe fn delivered(
        &mut self,
        op: *const Op,
        lane: usize,
        address: u64,
        bytes: i64,
    ) -> Result<(), *const Op> {
        let place = self.object(op, lane, address)?;
        let at = self.place_of(address);
        // SAFETY: `object` gave a place for the word.
        unsafe {
            let Some(mut object) = Object::unpack(place.read()) else {
                return Err(self.wrong(op, lane, at, "it has not been initialised"));
            };
            object.bytes -= bytes;
            if object.bytes < -MOST {
                return Err(self.wrong(op, lane, at, "more than 2^20-1 bytes completed that nobody expected"));
            }
            let complete = object.complete();
            place.write(object.pack());
            self.changes += 1;
            if complete {
                self.happened(Happened::Complete, 1 << lane, at);
            }
        }
        Ok(())
    }
}

/// `mbarrier.*` but `pending_count`: list = result (or the sink), address (64-bit generic), operand (or the sink); imm = offset; aux = act and
/// flags. A wait in vain lets other warps run.
pub(crate) struct Mbarrier;
impl Exec for Mbarrier {
    const RARE: bool = true;
    const RULE: Rule = Rule::Mbarrier;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe {
            match mbarrier(cx, op) {
                Ok(next) => next,
                Err(stop) => stop,
            }
        }
    }
}

/// All that is done to an mbarrier, by one lane after the other: long because the acts share most of their way.
#[inline(never)]
unsafe fn mbarrier(cx: &mut Cx, op: *const Op) -> Result<*const Op, *const Op> {
    // SAFETY: operands were decoded with these widths; `object` checks addresses.
    unsafe {
        let flags = (*op).aux;
        let act = Act::ALL[(flags & 255) as usize];
        let has = |flag: u32| flags & flag != 0;
        let addr = cx.get::<u64>(cx.list(op, 1));
        let (d, operand) = (cx.list(op, 0), cx.list(op, 2));
        let (mut reached, mut vain) = (0u32, None);
        let mask = cx.mask;
        for i in (0..WARP).filter(|i| mask >> i & 1 != 0) {
            let lanes = 1 << i;
            let address = addr[i].wrapping_add((*op).imm as u64);
            let place = cx.object(op, i, address)?;
            let at = cx.place_of(address);
            if matches!(act, Act::Init | Act::Invalidate | Act::Wait) && at >> RANK_SHIFT != cx.rank {
                return Err(cx.wrong(op, i, at, "only threads of that block make it, end it or wait for it"));
            }
            let value = match (operand, act) {
                (NO_SLOT, _) => 1,
                (_, Act::Wait) if !has(Act::PARITY) => (*cx.at::<u64>(operand))[i] as i64,
                _ => i64::from((*cx.at::<u32>(operand))[i]),
            };
            if act == Act::Init {
                if !(1..=MOST).contains(&value) {
                    return Err(cx.wrong(op, i, at, &format!("a count of {value} is not in 1..=2^20-1")));
                }
                place.write(Object { pending: value, expected: value, bytes: 0, phase: false }.pack());
                cx.changes += 1;
                cx.happened(Happened::Init, lanes, at);
                continue;
            }
            let word = place.read();
            let Some(mut object) = Object::unpack(word) else {
                return Err(cx.wrong(op, i, at, "it has not been initialised"));
            };
            if act == Act::Wait {
                // A state is that of the current phase or the one before; a parity names the phase itself.
                let phase = if has(Act::PARITY) { value & 1 != 0 } else { value as u64 & PHASE != 0 };
                if object.phase != phase {
                    reached |= lanes;
                    cx.happened(Happened::Waited { acquire: !has(Act::RELAXED) }, lanes, at);
                } else if vain.is_none() {
                    vain = Some(Poll { op, lane: i as u32, at, object });
                }
                continue;
            }
            let (mut count, mut expect) = (0, 0);
            match act {
                Act::Invalidate => {
                    place.write(0);
                    cx.happened(Happened::Invalidate, lanes, at);
                    continue;
                }
                Act::ExpectBytes => expect = value,
                Act::CompleteBytes => expect = -value,
                _ if has(Act::EXPECT) => (count, expect) = (1, value),
                _ => count = value,
            }
            object.bytes += expect;
            if object.bytes.abs() > MOST {
                let message = format!("a transaction count of {} bytes: at most 2^20-1", object.bytes);
                return Err(cx.wrong(op, i, at, &message));
            }
            match act {
                Act::Copies => object.pending += 1,
                Act::Drop => object.expected -= count,
                _ => {}
            }
            if count > object.pending || object.expected < 0 {
                let message =
                    format!("{count} arrivals, but only {} of {} are pending", object.pending, object.expected);
                return Err(cx.wrong(op, i, at, &message));
            }
            object.pending -= count;
            cx.happened(
                match act {
                    Act::Arrive | Act::Drop => Happened::Arrive { release: !has(Act::RELAXED) },
                    Act::Copies | Act::CopiesExpected => Happened::CopiesArrive,
                    _ => Happened::Count,
                },
                lanes,
                at,
            );
            if object.complete() {
                if has(Act::NO_COMPLETE) {
                    return Err(cx.wrong(op, i, at, "an arrival with `.noComplete` completes the phase"));
                }
                cx.happened(Happened::Complete, lanes, at);
            }
            place.write(object.pack());
            cx.changes += 1;
            if d != NO_SLOT {
                (*cx.at::<u64>(d))[i] = word;
            }
        }
        if act == Act::Wait {
            cx.set_pred(d, reached);
            if vain.is_some() {
                cx.poll = vain;
                return Ok(cx.pause(Stop::Poll, op.add(1)));
            }
        }
        if reached != 0 {
            cx.changes += 1;
        }
        Ok(op.add(1))
    }
}

/// `fence` and `membar`: nothing here runs out of order, but checked mode wants to know. imm: 0 for the block, 1 beyond it, 2 between proxies, 3 of
/// `mbarrier.init` alone.
pub(crate) struct Fence;
impl Exec for Fence {
    const RARE: bool = true;
    const RULE: Rule = Rule::Fence;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: `op` is valid and never the last instruction.
        unsafe {
            let what = match (*op).imm {
                2 => Happened::Proxy,
                3 => Happened::FenceInit,
                scope => Happened::Fence { wide: scope == 1 },
            };
            cx.happened(what, cx.mask, 0);
            op.add(1)
        }
    }
}
