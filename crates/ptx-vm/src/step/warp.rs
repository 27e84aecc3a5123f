//! What lanes of a warp do together: they wait for each other and exchange values.

use super::call::resume;
use crate::error::FaultKind;
use crate::ir::*;

/// Stops the lanes of `cx.mask` until those in `wanted` have come to `op` too.
#[cold]
#[inline(never)]
pub(super) fn gather(cx: &mut Cx, op: *const Op, wanted: u32) -> *const Op {
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
    if cx.joint || cx.mask == cx.alive && (members == crate::ir::NO_SLOT || !cx.strict) {
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
        let masks = if members == crate::ir::NO_SLOT { [FULL; WARP] } else { cx.get::<u32>(members) };
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
    let (mask, group) = if members == crate::ir::NO_SLOT {
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
            if d != crate::ir::NO_SLOT {
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
                if d != crate::ir::NO_SLOT {
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
