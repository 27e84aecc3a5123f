//! Branches, reconvergence, exits, barriers, guards, and what the lanes of a warp tell each other.

use super::op::*;
use crate::error::FaultKind;

/// What a call is charged: functions may call each other for as long as a loop may run.
const CALL: i64 = 32;

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

/// Takes up the next pending path, or ends the warp.
#[inline(always)]
fn resume(cx: &mut Cx, op: *const Op) -> *const Op {
    while let Some(path) = cx.paths.pop() {
        let mask = path.mask & cx.alive;
        if path.frame != NO_FRAME {
            leave(cx, &path, mask);
        }
        if mask != 0 {
            cx.mask = mask;
            return path.pc;
        }
    }
    cx.pause(Stop::Exit, op)
}

/// The parts of what a call knows of its callee: where in the list, and what.
const FRAME_SLOT: usize = 0;
const SAVE_BYTES: usize = 1;
const FRAME_BYTES: usize = 2;
const PRED_FIRST: usize = 3;
const PRED_END: usize = 4;
const SAVED: usize = 5;

/// Calls a function with code of its own: r = what to know of it (in the lists), whether it may be active already, number of arguments;
/// list = pairs of the callee's register and the caller's value; imm = target.
///
/// The callee's registers are its own, so a call saves nothing, except when the callee may be active further up: then its registers go
/// to the new frame, in the memory of each lane, and come back when the lanes return.
pub(crate) struct Call;
impl Exec for Call {
    const RARE: bool = true;
    const RULE: Rule = Rule::Call;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: lists and slots were made for this kernel; the new frame is checked against the stack.
        unsafe {
            let [about, saves, arguments, _] = (*op).r;
            let about = cx.lists.add(about as usize);
            let frame = cx.top + if saves != 0 { *about.add(SAVE_BYTES) } else { 0 };
            let top = frame + *about.add(FRAME_BYTES);
            if top > cx.local_len {
                return overflow(cx, op);
            }
            if saves != 0 {
                saved::<true>(cx, about, frame);
            }
            cx.staged.clear();
            for i in 0..arguments as usize {
                let value = cx.get::<u64>(cx.list(op, 2 * i + 1));
                cx.staged.push(value);
            }
            for i in 0..arguments as usize {
                let value = cx.staged[i];
                cx.put(cx.list(op, 2 * i), &value);
            }
            cx.put(*about.add(FRAME_SLOT), &[u64::from(frame); WARP]);
            cx.paths.push(Path { meet: op, pc: op.add(1), mask: cx.mask, frame: cx.top });
            cx.top = top;
            let to = cx.code.add((*op).imm as usize);
            cx.fuel -= CALL;
            if cx.fuel < 0 { cx.pause(Stop::Quantum, to) } else { to }
        }
    }
}

#[cold]
#[inline(never)]
fn overflow(cx: &mut Cx, op: *const Op) -> *const Op {
    let message =
        format!("the {} bytes of local memory of a thread are used up by nested calls or alloca", cx.local_len);
    let lane = cx.mask.trailing_zeros();
    cx.fault(op, FaultKind::StackOverflow, Some(lane), None, message)
}

/// `alloca`: r = d, bytes (both 64 bits wide); imm = alignment. All lanes get the room of the one that asks for most.
pub(crate) struct Alloca;
impl Exec for Alloca {
    const RARE: bool = true;
    const RULE: Rule = Rule::Demands(0b10);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands are 64 bits wide.
        unsafe {
            let [d, bytes, ..] = (*op).r;
            let bytes = cx.get::<u64>(bytes);
            let most = (0..WARP).filter(|i| cx.mask >> i & 1 != 0).map(|i| bytes[i]).max().unwrap_or(0);
            let at = u64::from(cx.top).next_multiple_of((*op).imm as u64);
            let Some(top) = at.checked_add(most).filter(|top| *top <= u64::from(cx.local_len)) else {
                return overflow(cx, op);
            };
            // Saved registers lie behind.
            cx.top = top.next_multiple_of(32) as u32;
            cx.put(d, &[at; WARP]);
            op.add(1)
        }
    }
}

/// `stacksave`: r = d; `stackrestore`: r = the sink, a. Both 64 bits wide.
pub(crate) struct StackPointer;
impl Exec for StackPointer {
    const RARE: bool = true;
    const RULE: Rule = Rule::Demands(0b10);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands are 64 bits wide.
        unsafe {
            let [d, a, ..] = (*op).r;
            if d != super::alu::NO_SLOT {
                cx.put(d, &[u64::from(cx.top); WARP]);
            } else if cx.paths.last().is_none_or(|path| path.frame != NO_FRAME) {
                // Lanes on other paths would lose theirs; they give it back when the function returns.
                let saved = cx.get::<u64>(a);
                let most = (0..WARP).filter(|i| cx.mask >> i & 1 != 0).map(|i| saved[i]).max().unwrap_or(0);
                cx.top = cx.top.min(most as u32);
            }
            op.add(1)
        }
    }
}

/// Saves a function's registers below `frame`, or brings them back, for the active lanes.
unsafe fn saved<const SAVE: bool>(cx: &mut Cx, about: *const u32, frame: u32) {
    // SAFETY: the list names slots of this kernel; there are as many bytes below the frame as they need.
    unsafe {
        let lanes = || (0..WARP).filter(|lane| cx.mask >> lane & 1 != 0);
        let at = |lane: usize| cx.local.add(lane * cx.local_len as usize + (frame - *about.add(SAVE_BYTES)) as usize);
        let mut offset = 0;
        for i in 0..*about.add(SAVED) as usize {
            let (slot, bytes) = (*about.add(SAVED + 1 + 2 * i), *about.add(SAVED + 2 + 2 * i) as usize);
            let register = cx.at::<u8>(slot).cast::<u8>();
            for lane in lanes() {
                let (memory, register) = (at(lane).add(offset), register.add(lane * bytes));
                if SAVE {
                    std::ptr::copy_nonoverlapping(register, memory, bytes);
                } else {
                    std::ptr::copy_nonoverlapping(memory, register, bytes);
                }
            }
            offset += bytes;
        }
        for p in *about.add(PRED_FIRST)..*about.add(PRED_END) {
            let pred = cx.preds.add(p as usize);
            for lane in lanes() {
                let memory = at(lane).add(offset);
                if SAVE {
                    *memory = (*pred >> lane & 1) as u8;
                } else {
                    *pred = *pred & !(1 << lane) | u32::from(*memory) << lane;
                }
            }
            offset += 1;
        }
    }
}

/// All lanes of a call have returned or exited: back to the caller's frame.
#[inline(never)]
fn leave(cx: &mut Cx, call: &Path, mask: u32) {
    // SAFETY: the path was made by a call instruction of this kernel.
    unsafe {
        let [about, saves, ..] = (*call.meet).r;
        if saves != 0 && mask != 0 {
            cx.mask = mask;
            let about = cx.lists.add(about as usize);
            saved::<false>(cx, about, call.frame + *about.add(SAVE_BYTES));
        }
    }
    cx.top = call.frame;
}

/// Takes lanes that return out of the paths of the function they leave.
#[inline(always)]
fn retire(cx: &mut Cx, gone: u32) {
    for path in cx.paths.iter_mut().rev().take_while(|path| path.frame == NO_FRAME) {
        path.mask &= !gone;
    }
}

/// `ret` of a function with code of its own.
pub(crate) struct Ret;
impl Exec for Ret {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        retire(cx, cx.mask);
        resume(cx, op)
    }
}

/// `@p ret`: r = predicate, negated.
pub(crate) struct RetIf;
impl Exec for RetIf {
    const RARE: bool = true;
    const RULE: Rule = Rule::Decide;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the operand is a predicate; a function ends with an unguarded return.
        unsafe {
            let gone = cx.holding(op);
            retire(cx, gone);
            cx.mask &= !gone;
            if cx.mask == 0 { resume(cx, op) } else { op.add(1) }
        }
    }
}

/// A call by address that fits no function: r = address.
pub(crate) struct BadCall;
impl Exec for BadCall {
    const RARE: bool = true;
    const RULE: Rule = Rule::Demands(1);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        let lane = cx.mask.trailing_zeros();
        // SAFETY: addresses are 64 bits wide.
        let address = unsafe { (*cx.at::<u64>((*op).r[0]))[lane as usize & 31] };
        let message = format!("a call of {address:#x}, which is not the address of a function of this kind");
        cx.fault(op, FaultKind::Trap, Some(lane), Some(address), message)
    }
}

/// `exit` and `ret` of an entry.
pub(crate) struct Exit;
impl Exec for Exit {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        cx.alive &= !cx.mask;
        resume(cx, op)
    }
}

/// `@p exit`: r = predicate, negated.
pub(crate) struct ExitIf;
impl Exec for ExitIf {
    const RARE: bool = true;
    const RULE: Rule = Rule::Decide;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the operand is a predicate.
        unsafe {
            let gone = cx.holding(op);
            cx.alive &= !gone;
            cx.mask &= !gone;
            if cx.mask == 0 { resume(cx, op) } else { op.add(1) }
        }
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
            let threads = if threads == super::alu::NO_SLOT { 0 } else { (*cx.at::<u32>(threads))[lane] };
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

/// Stops the lanes of `cx.mask` until those in `wanted` have come to `op` too.
#[cold]
#[inline(never)]
fn gather(cx: &mut Cx, op: *const Op, wanted: u32) -> *const Op {
    cx.wanted = [wanted; WARP];
    cx.pause(Stop::Sync, op)
}

/// Before an instruction that all lanes of the warp execute together. True when some are elsewhere: the warp has stopped.
#[inline(always)]
pub(crate) fn apart(cx: &mut Cx, op: *const Op) -> bool {
    if cx.mask != FULL && cx.mask != cx.alive {
        gather(cx, op, FULL);
        return true;
    }
    false
}

/// Before a `.sync` instruction of the lanes that `members` names (the sink: all). False when it cannot run: the warp has stopped, because
/// somebody is not here yet or, in checked mode, because a lane does not name itself.
#[inline(always)]
unsafe fn gathered(cx: &mut Cx, op: *const Op, members: u32) -> bool {
    if cx.joint || cx.mask == cx.alive && (members == super::alu::NO_SLOT || !cx.strict) {
        return true;
    }
    // SAFETY: forwarded.
    unsafe { part(cx, op, members) }
}

/// Finds out whom each lane waits for, and whether all of them are here.
#[inline(never)]
unsafe fn part(cx: &mut Cx, op: *const Op, members: u32) -> bool {
    // SAFETY: the membermask is 32 bits wide.
    unsafe {
        let masks = if members == super::alu::NO_SLOT { [FULL; WARP] } else { cx.get::<u32>(members) };
        let (mut wanted, mut strangers) = (0, 0);
        for (i, mask) in masks.iter().enumerate() {
            let active = cx.mask >> i & 1;
            wanted |= mask & active.wrapping_neg();
            strangers |= (!mask >> i & active) << i;
        }
        if strangers != 0 && cx.strict {
            let lane = strangers.trailing_zeros();
            let mask = masks[lane as usize & 31];
            let message = format!("the membermask {mask:#010x} does not name the lane that executes, {lane}");
            cx.fault(op, FaultKind::Barrier, Some(lane), None, message);
            return false;
        }
        if wanted & cx.alive & !cx.mask == 0 {
            return true;
        }
        for (i, mask) in masks.iter().enumerate() {
            // Undefined by the manual when a lane does not name itself; hardware lets it through.
            cx.wanted[i] = mask | 1 << i & strangers;
        }
        cx.pause(Stop::Sync, op);
        false
    }
}

/// `bar.warp.sync`: r = membermask. The waiting is all there is to it.
pub(crate) struct WarpSync;
impl Exec for WarpSync {
    const RARE: bool = true;
    const RULE: Rule = Rule::Demands(1);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: never the last instruction.
        unsafe { if gathered(cx, op, (*op).r[0]) { op.add(1) } else { std::ptr::null() } }
    }
}

/// Where a strand goes on whose current path has been taken from it.
pub(crate) struct Resume;
impl Exec for Resume {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        resume(cx, op)
    }
}

/// The next group of lanes that execute a `.sync` instruction together: those with the membermask of the first lane of `left` (with
/// all lanes when the slot is the sink). Gives the lanes that take part and the lanes that get this result.
#[inline(always)]
unsafe fn together(cx: &Cx, members: u32, left: u32, present: u32) -> (u32, u32) {
    let (mask, group) = if members == super::alu::NO_SLOT {
        (FULL, left)
    } else {
        // SAFETY: the operand is 32 bits wide.
        let masks = unsafe { &*cx.at::<u32>(members) };
        let mask = masks[(left.trailing_zeros() & 31) as usize];
        let same = masks.iter().enumerate().fold(0, |bits, (i, m)| bits | u32::from(*m == mask) << i);
        (mask, same & left)
    };
    (mask & present, group)
}

/// Runs `body` for each group of lanes with one membermask, under its mask: `together` gives `set`, the lanes that take part.
macro_rules! each_group {
    ($cx:ident, $op:ident, $members:expr, $set:ident => $body:block) => {{
        if !gathered($cx, $op, $members) {
            return std::ptr::null();
        }
        let present = $cx.mask;
        let mut left = present;
        while left != 0 {
            let ($set, group) = together($cx, $members, left, present);
            $cx.mask = group;
            $body
            left &= !group;
        }
        $cx.mask = present;
        $op.add(1)
    }};
}

/// The lanes that lanes of a `shfl` read from, and which of them are inside their segments: 0 up, 1 down, 2 bfly, 3 idx.
#[inline(always)]
pub(crate) fn sources(mode: u8, b: &L<u32>, c: &L<u32>) -> (L<u32>, u32) {
    let mut source = [0u32; WARP];
    let mut inside = 0u32;
    for i in 0..WARP {
        let lane = i as u32;
        let segment = c[i] >> 8 & 31;
        let clamp = c[i] & 31;
        let b = b[i] & 31;
        let max = lane & segment | clamp & !segment;
        let min = lane & segment;
        let (j, ok) = match mode {
            0 => {
                let j = lane.wrapping_sub(b);
                (j, j as i32 >= max as i32)
            }
            1 => (lane + b, lane + b <= max),
            2 => (lane ^ b, lane ^ b <= max),
            _ => {
                let j = min | b & !segment;
                (j, j <= max)
            }
        };
        source[i] = if ok { j & 31 } else { lane };
        inside |= u32::from(ok) << i;
    }
    (source, inside)
}

/// `shfl.sync`: list = d, a, b, c (all 32 bits), predicate (0: none), membermask (or the sink: all); imm and `MODE` = 0 up, 1 down,
/// 2 bfly, 3 idx.
pub(crate) struct Shuffle<const MODE: u8>;
impl<const MODE: u8> Exec for Shuffle<MODE> {
    const RULE: Rule = Rule::Shuffle;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the list holds five operands of these widths.
        unsafe {
            if !gathered(cx, op, cx.list(op, 5)) {
                return std::ptr::null();
            }
            let a = cx.get::<u32>(cx.list(op, 1));
            let b = &*cx.at::<u32>(cx.list(op, 2));
            let c = &*cx.at::<u32>(cx.list(op, 3));
            let (source, inside) = sources(MODE, b, c);
            let mut out = [0u32; WARP];
            for i in 0..WARP {
                out[i] = a[(source[i] & 31) as usize];
            }
            let d = cx.list(op, 0);
            if d != super::alu::NO_SLOT {
                cx.put(d, &out);
            }
            let p = cx.list(op, 4);
            if p != 0 {
                cx.set_pred(p, inside);
            }
            op.add(1)
        }
    }
}

/// `vote`: r = destination (predicate or register), predicate, membermask (or the sink); imm = 0 all, 1 any, 2 uni, 3 ballot, bit 8 = negated.
pub(crate) struct Vote;
impl Exec for Vote {
    const RARE: bool = true;
    const RULE: Rule = Rule::Vote;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operand kinds follow from the mode.
        unsafe {
            let [d, p, members, _] = (*op).r;
            let imm = (*op).imm;
            let votes = cx.pred(p) ^ if imm & 256 != 0 { FULL } else { 0 };
            each_group!(cx, op, members, set => {
                let yes = votes & set;
                let truth = match imm & 255 {
                    0 => yes == set,
                    1 => yes != 0,
                    2 => yes == 0 || yes == set,
                    _ => {
                        cx.put(d, &[yes; WARP]);
                        false
                    }
                };
                if imm & 255 < 3 {
                    cx.set_pred(d, if truth { FULL } else { 0 });
                }
            })
        }
    }
}

/// `activemask`: r = d.
pub(crate) struct ActiveMask;
impl Exec for ActiveMask {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the destination is 32 bits wide.
        unsafe {
            let mask = cx.mask;
            cx.put((*op).r[0], &[mask; WARP]);
            op.add(1)
        }
    }
}

/// `elect.sync`: r = d (or the sink), predicate, membermask (or the sink).
pub(crate) struct Elect;
impl Exec for Elect {
    const RARE: bool = true;
    const RULE: Rule = Rule::Elect;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operand kinds are fixed.
        unsafe {
            let [d, p, members, _] = (*op).r;
            each_group!(cx, op, members, set => {
                let leader = set.trailing_zeros() & 31;
                if d != super::alu::NO_SLOT {
                    cx.put(d, &[leader; WARP]);
                }
                cx.set_pred(p, 1 << leader);
            })
        }
    }
}

/// `match.any` / `match.all`: r = d, a, predicate (0: none), membermask (or the sink); imm bit 0 = all, bit 1 = 64-bit.
pub(crate) struct Match;
impl Exec for Match {
    const RARE: bool = true;
    const RULE: Rule = Rule::Match;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: widths follow from imm.
        unsafe {
            let [d, a, p, members] = (*op).r;
            let wide = (*op).imm & 2 != 0;
            let values: L<u64> = if wide { cx.get::<u64>(a) } else { cx.get::<u32>(a).map(u64::from) };
            each_group!(cx, op, members, set => {
                let mut out = [0u32; WARP];
                for i in 0..WARP {
                    for j in 0..WARP {
                        out[i] |= u32::from(values[i] == values[j] && set >> j & 1 != 0) << j;
                    }
                }
                if (*op).imm & 1 != 0 {
                    let lane = (set.trailing_zeros() & 31) as usize;
                    let all = out[lane] == set;
                    out = [if all { set } else { 0 }; WARP];
                    if p != 0 {
                        cx.set_pred(p, if all { FULL } else { 0 });
                    }
                }
                cx.put(d, &out);
            })
        }
    }
}

/// `redux.sync`: r = d, a, membermask (or the sink); imm = 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; bit 8 = signed.
pub(crate) struct Redux;
impl Exec for Redux {
    const RARE: bool = true;
    const RULE: Rule = Rule::Redux;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands are 32 bits wide.
        unsafe {
            let [d, a, members, _] = (*op).r;
            let a = cx.get::<u32>(a);
            let imm = (*op).imm;
            each_group!(cx, op, members, set => {
            let active = (0..WARP).filter(|i| set >> i & 1 != 0).map(|i| a[i]);
            let value = match (imm & 255, imm & 256 != 0) {
                (0, _) => active.fold(0, u32::wrapping_add),
                (1, false) => active.min().unwrap_or(0),
                (2, false) => active.max().unwrap_or(0),
                (1, true) => active.map(|v| v as i32).min().unwrap_or(0) as u32,
                (2, true) => active.map(|v| v as i32).max().unwrap_or(0) as u32,
                (3, _) => active.fold(!0, |s, v| s & v),
                (4, _) => active.fold(0, |s, v| s | v),
                _ => active.fold(0, |s, v| s ^ v),
            };
            cx.put(d, &[value; WARP]);
            })
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

/// `mma.sync`: list = D, A, B, C registers; imm = index of the kernel, x2 counts in `aux`: d | a<<8 | b<<16 | c<<24,
/// plus 128 when the registers are 64 bits wide; r0 = what a tensor core computes instead, or 0.
pub(crate) struct Mma;

/// The registers of D, A, B and C in the list of an [`Mma`].
#[inline(always)]
pub(crate) fn operand_counts(aux: u32) -> [usize; 4] {
    [aux & 127, aux >> 8 & 255, aux >> 16 & 255, aux >> 24].map(|count| count as usize)
}

impl Exec for Mma {
    const RARE: bool = true;
    const RULE: Rule = Rule::Multiply;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        use crate::math::mma::{Fragments, Kernel, Product, multiply};
        // SAFETY: the list holds as many operands as the shape has; `imm` is a micro-kernel the decoder put there.
        unsafe {
            let ([n, a, b, c], wide) = (operand_counts((*op).aux), (*op).aux & 128 != 0);
            let mut f = Fragments::NULL;
            let mut at = 0;
            let mut take = |n: usize, cx: &Cx, out: &mut [*mut L<u32>]| {
                for slot in out.iter_mut().take(n) {
                    *slot = cx.at::<u32>(cx.list(op, at));
                    at += 1;
                }
            };
            let mut regs = [std::ptr::null_mut(); 4];
            take(n, cx, &mut f.d);
            take(a, cx, &mut regs);
            f.a = regs.map(|p| p.cast_const());
            take(b, cx, &mut regs);
            f.b = [regs[0], regs[1]].map(|p| p.cast_const());
            take(c, cx, &mut regs);
            f.c = regs.map(|p| p.cast_const());
            let kernel: Kernel = std::mem::transmute::<usize, Kernel>((*op).imm as usize);
            let core = cx.tensor_core.filter(|_| (*op).r[0] != 0);
            let kernel = |f: &Fragments| match core {
                None => kernel(f),
                Some(core) => multiply(core, Product::of_code((*op).r[0]), f),
            };
            if cx.mask == FULL {
                kernel(&f);
            } else {
                if apart(cx, op) {
                    return std::ptr::null();
                }
                // All lanes take part by definition; when some have exited their results are dropped.
                let mut out = [[0u64; WARP]; 4];
                let targets = f.d;
                for (d, out) in f.d.iter_mut().zip(&mut out).take(n) {
                    *d = std::ptr::from_mut(out).cast();
                }
                kernel(&f);
                for (&target, out) in targets.iter().zip(&out).take(n) {
                    for lane in (0..WARP).filter(|lane| cx.mask >> lane & 1 != 0) {
                        if wide {
                            (*target.cast::<L<u64>>())[lane] = out[lane];
                        } else {
                            (*target)[lane] = (*std::ptr::from_ref(out).cast::<L<u32>>())[lane];
                        }
                    }
                }
            }
            op.add(1)
        }
    }
}

/// [`Mma`] of f32 accumulators whose operands are prepared, together with those that follow; see [`crate::ir::stage`]. As there, with the
/// halves of the address of the [`Staged`] kernels in r1 and r2, the number of products in r3, and the places of A and B at the end of
/// each list.
///
/// [`Staged`]: crate::math::mma::Staged
pub(crate) struct StagedMma;
impl Exec for StagedMma {
    const RARE: bool = true;
    const RULE: Rule = Rule::Multiply;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        use crate::ir::stage::TOGETHER;
        use crate::math::mma::{Prepared, Staged};
        if apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: the decoder has counted the products and put the address there.
        unsafe {
            let [_, low, high, count] = (*op).r;
            let staged = &*((u64::from(low) | u64::from(high) << 32) as usize as *const Staged);
            let count = count as usize;
            let mut products = [std::mem::MaybeUninit::<Prepared>::uninit(); TOGETHER];
            for (i, product) in products.iter_mut().enumerate().take(count) {
                product.write(prepare(cx, staged, op.add(i)));
            }
            if cx.mask != FULL {
                for i in 0..count {
                    Mma::exec(cx, op.add(i));
                }
            } else {
                (staged.multiply)(std::slice::from_raw_parts(products.as_ptr().cast(), count));
            }
            op.add(count)
        }
    }
}

/// The product `op`, whose operands are prepared now unless they have been.
///
/// # Safety
/// The list holds as many operands as the shape has, and two places inside the stage.
#[inline(always)]
unsafe fn prepare(cx: &mut Cx, staged: &crate::math::mma::Staged, op: *const Op) -> crate::math::mma::Prepared {
    use crate::ir::stage::PREPARE;
    // SAFETY: as above.
    unsafe {
        let [_, a, b, _] = operand_counts((*op).aux);
        let list = cx.lists.add((*op).x as usize);
        let [at_a, at_b] = [*list.add(8 + a + b), *list.add(9 + a + b)];
        let place = |at: u32| cx.stage.add((at & !PREPARE) as usize);
        let register = |i: usize| cx.at::<u32>(*list.add(i));
        let operand = |first: usize, n: usize, i: usize| {
            if i < n { register(first + i).cast_const() } else { std::ptr::null() }
        };
        if at_a & PREPARE != 0 {
            (staged.a)(&std::array::from_fn(|i| operand(4, a, i)), place(at_a));
        }
        if at_b & PREPARE != 0 {
            (staged.b)(&std::array::from_fn(|i| operand(4 + a, b, i)), place(at_b));
        }
        crate::math::mma::Prepared {
            a: place(at_a),
            b: place(at_b),
            c: std::array::from_fn(|i| register(4 + a + b + i).cast_const()),
            d: std::array::from_fn(register),
        }
    }
}
