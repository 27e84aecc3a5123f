//! Calls of functions with code of their own, what returns from them, and `exit`.

use crate::error::FaultKind;
use crate::ir::*;

/// What a call is charged: functions may call each other for as long as a loop may run.
const CALL: i64 = 32;

/// Takes up the next pending path, or ends the warp.
#[inline(always)]
pub(super) fn resume(cx: &mut Cx, op: *const Op) -> *const Op {
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
            if d != crate::ir::NO_SLOT {
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
