//! The functions of the device runtime that compilers call: `printf`, `assert`, `malloc`, `free`.

use super::printf::{print, text};
use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::LOCAL_WINDOW;

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Printf,
    AssertFail,
    Malloc,
    Free,
}

/// A function by name: which, how many arguments and results it takes, and the bytes of the result.
pub(crate) fn find(name: &str) -> Option<(Kind, (usize, usize), u32)> {
    Some(match name {
        "vprintf" => (Kind::Printf, (2, 1), 4),
        "__assertfail" => (Kind::AssertFail, (5, 0), 0),
        "malloc" => (Kind::Malloc, (1, 1), 8),
        "free" => (Kind::Free, (1, 0), 0),
        _ => return None,
    })
}

/// imm = which; list = where the result and the arguments lie in local memory.
pub(crate) struct Runtime;
impl Exec for Runtime {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { run(cx, op) }
    }
}

#[inline(never)]
unsafe fn run(cx: &mut Cx, op: *const Op) -> *const Op {
    for lane in lanes_of(cx.mask) {
        // SAFETY: forwarded.
        if let Err((kind, address, message)) = unsafe { one(cx, op, lane) } {
            return cx.fault(op, kind, Some(lane as u32), address, message);
        }
    }
    // SAFETY: a call is never the last instruction.
    unsafe { op.add(1) }
}

/// Calls the function for a lane.
unsafe fn one(cx: &mut Cx, op: *const Op, lane: usize) -> Result<(), (FaultKind, Option<u64>, String)> {
    // SAFETY: the list holds 64-bit operands; they name variables inside local memory; the heap outlives the launch.
    unsafe {
        let offset = |cx: &Cx, i: usize| (*cx.at::<u64>(cx.list(op, i)))[lane];
        let at = |cx: &Cx, i: usize| cx.local.add(lane * cx.local_len as usize + offset(cx, i) as usize);
        let word = |cx: &mut Cx, i: usize, what| {
            cx.has_read(lane as u32, LOCAL_WINDOW + offset(cx, i), 8, what);
            at(cx, i).cast::<u64>().read_unaligned()
        };
        let lane = lane as u32;
        let missed = |(address, message)| (FaultKind::OutOfBounds, Some(address), message);
        let imm = (*op).imm;
        if imm == Kind::Printf as i64 {
            let (format, arguments) = (word(cx, 1, "the format"), word(cx, 2, "the place of the arguments"));
            let format = text(cx, format, lane).map_err(missed)?;
            let count = print(cx, &format, arguments, lane).map_err(missed)?;
            at(cx, 0).cast::<i32>().write_unaligned(count);
        } else if imm == Kind::Malloc as i64 {
            let bytes = word(cx, 1, "the number of bytes");
            let address = (*cx.heap).malloc(bytes);
            at(cx, 0).cast::<u64>().write_unaligned(address);
        } else if imm == Kind::Free as i64 {
            let address = word(cx, 0, "the pointer");
            if address != 0 && !(*cx.heap).free(address) {
                return Err(missed((
                    address,
                    format!("free of {address:#x}, which is not the start of what malloc gave, or was freed before"),
                )));
            }
        } else {
            let line = word(cx, 2, "the line") as u32;
            let [message, file, function] = [0, 1, 3].map(|i| {
                let address = word(cx, i, "a string");
                text(cx, address, lane).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            });
            let (message, file, function) =
                (message.map_err(missed)?, file.map_err(missed)?, function.map_err(missed)?);
            let message = format!("assertion `{message}` failed at {file}:{line} in {function}");
            return Err((FaultKind::Trap, None, message));
        }
        Ok(())
    }
}
