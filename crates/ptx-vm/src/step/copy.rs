//! `cp.async`.

use crate::ir::*;
use crate::step::alu::lane_mask;
use crate::step::find::{Found, Global, Pointers, find, misaligned, missed, prefetch_lanes, resolve};
use std::mem::MaybeUninit;

/// `cp.async` of `N` bytes: list = shared address, global address, source size (or the sink); imm = shared offset, r[0..2] = global offset.
/// The copy happens at once; that it may be seen only after a wait is what checked mode watches.
pub(crate) struct CpAsync<const N: usize>;
impl<const N: usize> Exec for CpAsync<N> {
    const RULE: Rule = Rule::Copy;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // Long, as it is inlined whole into its handlers.
        // SAFETY: both ends are checked; a source size of zero reads nothing.
        unsafe {
            let to = cx.get::<u32>(cx.list(op, 0));
            let from = cx.list(op, 1);
            let size = cx.list(op, 2);
            let offset = (*op).imm as u32;
            let from_offset = i64::from((*op).r[0] as i32);
            let mask = cx.mask;
            let (mut bits, mut top) = (0, 0u32);
            for i in 0..WARP {
                let a = if mask >> i & 1 != 0 { to[i].wrapping_add(offset) } else { 0 };
                bits |= a;
                top = top.max(a);
            }
            if bits & (N as u32 - 1) != 0 || u64::from(top) + N as u64 > u64::from(cx.shared_len) {
                for i in (0..WARP).filter(|i| mask >> i & 1 != 0) {
                    let a = u64::from(to[i].wrapping_add(offset));
                    if a & (N as u64 - 1) != 0 {
                        return misaligned(cx, op, i as u32, a, N as u64);
                    }
                    if a + N as u64 > u64::from(cx.shared_len) {
                        return missed(cx, op, i as u32, a, N as u64, true);
                    }
                }
            }
            // Lanes that copy anything, and whether those copy all.
            let (mut live, mut whole) = (mask, true);
            if size != crate::ir::NO_SLOT {
                let given = &*cx.at::<u32>(size);
                let some = lane_mask(&lanes!(i => if given[i] != 0 { 0xffu8 } else { 0 }).0);
                let full = lane_mask(&lanes!(i => if given[i] >= N as u32 { 0xffu8 } else { 0 }).0);
                live &= some;
                whole = live & !full == 0;
            }
            let shared = cx.shared;
            let target = |i: usize| shared.add(to[i].wrapping_add(offset) as usize).cast::<[u8; N]>();
            let mut lanes: Pointers = [MaybeUninit::uninit(); WARP];
            if whole && live != 0 {
                cx.mask = live;
                let found = find::<Global>(cx, op, from, from_offset, N as u64, &mut lanes);
                cx.mask = mask;
                match found {
                    Found::Block(p) => lanes = std::array::from_fn(|i| MaybeUninit::new(p.add(i * N))),
                    Found::Same(p) => lanes = [MaybeUninit::new(p); WARP],
                    Found::Lanes => prefetch_lanes::<N>(cx, op, &lanes),
                    Found::Fault(next) => return next,
                }
            }
            if whole && live == FULL {
                for i in 0..WARP {
                    target(i).write_unaligned(lanes[i].assume_init().cast::<[u8; N]>().read_unaligned());
                }
                return op.add(1);
            }
            let lengths = match size {
                crate::ir::NO_SLOT => [N as u32; WARP],
                size => (*cx.at::<u32>(size)).map(|given| given.min(N as u32)),
            };
            if !whole && let Some(fault) = partial::<N>(cx, op, from, from_offset, live, &lengths, &mut lanes) {
                return fault;
            }
            for i in lanes_of(mask) {
                let mut value = [0u8; N];
                if live >> i & 1 != 0 {
                    std::ptr::copy_nonoverlapping(lanes[i].assume_init(), value.as_mut_ptr(), lengths[i] as usize);
                }
                target(i).write_unaligned(value);
            }
            op.add(1)
        }
    }
}

/// The sources of a `cp.async` of partial sizes: each lane is checked for its own length.
#[cold]
#[inline(never)]
unsafe fn partial<const N: usize>(
    cx: &mut Cx,
    op: *const Op,
    from: u32,
    offset: i64,
    live: u32,
    lengths: &L<u32>,
    lanes: &mut Pointers,
) -> Option<*const Op> {
    // SAFETY: the slot is 64 bits wide.
    let addr = unsafe { cx.get::<u64>(from) };
    for i in lanes_of(live) {
        let a = addr[i].wrapping_add(offset as u64);
        if a & (N as u64 - 1) != 0 {
            return Some(misaligned(cx, op, i as u32, a, N as u64));
        }
        // SAFETY: `resolve` checks.
        match unsafe { resolve(cx, a, u64::from(lengths[i]), false, i as u32) } {
            Some(p) => lanes[i] = MaybeUninit::new(p),
            None => return Some(missed(cx, op, i as u32, a, u64::from(lengths[i]), false)),
        }
    }
    None
}
