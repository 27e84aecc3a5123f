//! Branches and where paths meet, guards, barriers of the block, and what does next to nothing.

use crate::error::FaultKind;
use crate::ir::*;
use crate::step::warp::gather;

/// Charges a backward jump to the time slice. True when the slice is used up.
#[inline(always)]
unsafe fn charge(cx: &mut Cx, from: *const Op, to: *const Op) -> bool {
    if to <= from {
        // SAFETY: both point into the same kernel.
        cx.fuel -= unsafe { from.offset_from(to) } as i64 + 1;
        return cx.fuel < 0;
    }
    false
}

/// `bra` taken by all: imm = target.
pub(crate) struct Jump;
impl Exec for Jump {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: targets are checked by the decoder.
        unsafe {
            let to = cx.code.add((*op).imm as usize);
            if charge(cx, op, to) { cx.pause(Stop::Quantum, to) } else { to }
        }
    }
}

/// `@p bra`: r = predicate, negated; imm = target; x = where the paths meet (`u32::MAX`: nowhere).
pub(crate) struct Branch;
impl Exec for Branch {
    const RARE: bool = true;
    const RULE: Rule = Rule::Decide;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: targets are checked by the decoder.
        unsafe {
            let taken = cx.holding(op);
            if taken == 0 {
                return op.add(1);
            }
            let to = cx.code.add((*op).imm as usize);
            if taken != cx.mask {
                return diverge(cx, op, taken, to);
            }
            if charge(cx, op, to) { cx.pause(Stop::Quantum, to) } else { to }
        }
    }
}

#[inline(never)]
unsafe fn diverge(cx: &mut Cx, op: *const Op, taken: u32, to: *const Op) -> *const Op {
    // SAFETY: targets are checked by the decoder.
    unsafe {
        let next = op.add(1);
        let stay = cx.mask & !taken;
        let meet = if (*op).x == u32::MAX { std::ptr::null() } else { cx.code.add((*op).x as usize) };
        if !meet.is_null() && !cx.paths.last().is_some_and(|top| top.meet == meet && top.pc == meet) {
            cx.paths.push(Path { meet, pc: meet, mask: cx.mask, frame: NO_FRAME });
        }
        let go = if to == meet {
            cx.mask = stay;
            next
        } else if next == meet {
            cx.mask = taken;
            to
        } else {
            cx.paths.push(Path { meet, pc: to, mask: taken, frame: NO_FRAME });
            cx.mask = stay;
            next
        };
        if charge(cx, op, go) { cx.pause(Stop::Quantum, go) } else { go }
    }
}

/// Stands where paths meet: waits for the others.
pub(crate) struct Meet;
impl Exec for Meet {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        while let Some(top) = cx.paths.last()
            && top.meet == op
        {
            let path = *top;
            cx.paths.pop();
            let mask = path.mask & cx.alive;
            if mask == 0 {
                continue;
            }
            cx.mask = mask;
            if path.pc != op {
                return path.pc;
            }
        }
        // SAFETY: a kernel never ends with a meeting point.
        unsafe { op.add(1) }
    }
}

/// `@p` before any other instruction: r = predicate, negated. Executes the next instruction under the mask.
pub(crate) struct Guard;
impl Exec for Guard {
    const RARE: bool = true;
    const RULE: Rule = Rule::Decide;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the decoder puts a guarded instruction behind every guard.
        unsafe { guarded(cx, op, |cx, inner| ((*inner).run)(cx, inner)) }
    }
}

/// `bar`: r = barrier (register or constant), threads (or the sink), predicate, result; imm = 0 sync, 1 arrive, 2.. reductions,
/// bit 8 = negated.
pub(crate) struct Barrier;
impl Exec for Barrier {
    const RARE: bool = true;
    const RULE: Rule = Rule::Barrier;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands are 32 bits wide; predicates are predicates.
        unsafe {
            let [id, threads, p, d] = (*op).r;
            let kind = (*op).imm & 255;
            let lane = (cx.mask.trailing_zeros() & 31) as usize;
            let id = (*cx.at::<u32>(id))[lane];
            let threads = if threads == crate::ir::NO_SLOT { 0 } else { (*cx.at::<u32>(threads))[lane] };
            if cx.mask != cx.alive {
                // The other lanes of the warp come first, on whatever path they are.
                return gather(cx, op, FULL);
            }
            if (*op).r[0] & CONST_BIT == 0 {
                let ids = &*cx.at::<u32>((*op).r[0]);
                if let Some(other) = (0..WARP).find(|i| cx.mask >> i & 1 != 0 && ids[*i] != id) {
                    let message = format!("lanes of one warp name different barriers, {id} and {}", ids[other]);
                    return cx.fault(op, FaultKind::Barrier, Some(other as u32), None, message);
                }
            }
            if id > 15 {
                return cx.fault(
                    op,
                    FaultKind::Barrier,
                    Some(lane as u32),
                    None,
                    format!("barrier {id}: there are 16"),
                );
            }
            let reduce = match kind {
                2 => Some(Reduce::Popc),
                3 => Some(Reduce::And),
                4 => Some(Reduce::Or),
                _ => None,
            };
            let lanes = if reduce.is_some() { cx.pred(p) ^ if (*op).imm & 256 != 0 { FULL } else { 0 } } else { 0 };
            // Lanes that do not take part must not spoil an `and`.
            let lanes = if kind == 3 { lanes | !cx.mask } else { lanes & cx.mask };
            cx.arrival = Arrival { id, threads, waits: kind != 1, reduce: reduce.map(|r| (r, lanes)), result: d };
            cx.pause(Stop::Barrier, op.add(1))
        }
    }
}

/// Instructions without an effect here: fences, prefetches, waits for copies that have already happened.
pub(crate) struct Nop;
impl Exec for Nop {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(_: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: never the last instruction.
        unsafe { op.add(1) }
    }
}

/// `nanosleep` and other invitations to let somebody else run.
pub(crate) struct Yield;
impl Exec for Yield {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: never the last instruction.
        unsafe { cx.pause(Stop::Yield, op.add(1)) }
    }
}

/// `trap`.
pub(crate) struct TrapOp;
impl Exec for TrapOp {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        let lane = cx.mask.trailing_zeros();
        cx.fault(op, FaultKind::Trap, Some(lane), None, "the kernel executed `trap`".to_owned())
    }
}

/// `%clock`, `%clock64`, `%globaltimer`: r = d; imm bit 0 = 64-bit, bit 1 = the upper half.
pub(crate) struct Clock;
impl Exec for Clock {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the width follows from imm.
        unsafe {
            let now = clock() >> if (*op).imm & 2 != 0 { 32 } else { 0 };
            let d = (*op).r[0];
            if (*op).imm & 1 != 0 {
                cx.put(d, &[now; WARP]);
            } else {
                cx.put(d, &[now as u32; WARP]);
            }
            op.add(1)
        }
    }
}

#[inline(never)]
fn clock() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64
}
