//! Where the addresses of a warp lie in host memory, 32 at a time, or what to say when they lie nowhere.
//!
//! The common shapes get a fast path: neighbouring lanes on neighbouring addresses are one block copy, equal addresses one
//! access. Bounds are checked against the allocation this instruction touched last; only a miss searches the table.

use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use std::mem::MaybeUninit;

/// Where an instruction's addresses point.
pub(crate) trait Place {
    /// Width of an address.
    type A: Copy + Into<u64>;
    const SHARED: bool;
    const GENERIC: bool;
}
pub(crate) struct Global;
pub(crate) struct Shared;
pub(crate) struct Generic;
impl Place for Global {
    type A = u64;
    const SHARED: bool = false;
    const GENERIC: bool = false;
}
impl Place for Shared {
    type A = u32;
    const SHARED: bool = true;
    const GENERIC: bool = false;
}
impl Place for Generic {
    type A = u64;
    const SHARED: bool = false;
    const GENERIC: bool = true;
}

/// Host memory of 32 accesses.
pub(super) enum Found {
    /// One block, lanes side by side.
    Block(*mut u8),
    /// All lanes the same place.
    Same(*mut u8),
    /// The pointers are in the array given; inactive lanes repeat an active one's.
    Lanes,
    Fault(*const Op),
}

/// Room for 32 pointers, filled only when lanes go to scattered places.
pub(super) type Pointers = [MaybeUninit<*mut u8>; WARP];

/// Finds the host memory of every active lane's `bytes` bytes, a power of two and aligned to it, or faults.
///
/// One pass over the addresses is enough when all of them lie in the memory that this instruction touched last; everything else,
/// and all that is wrong, is for [`search`].
#[inline(always)]
pub(super) unsafe fn find<P: Place>(
    cx: &mut Cx,
    op: *const Op,
    slot: u32,
    offset: i64,
    bytes: u64,
    lanes: &mut Pointers,
) -> Found {
    // SAFETY: the slot has width `P::A`; pointers stay inside the memory because every offset is checked against its end.
    unsafe {
        let raw = &*cx.at::<P::A>(slot);
        let found = if P::SHARED {
            within_shared::<P>(cx, raw, offset, bytes, lanes)
        } else {
            within_cache::<P>(cx, op, raw, offset, bytes, lanes)
        };
        match found {
            Some(found) => found,
            None => search::<P>(cx, op, slot, offset, bytes, lanes),
        }
    }
}

/// Lanes at offsets from `host`: a block that begins at `first`, all at `first`, or each at its own.
///
/// # Safety
/// All offsets lie inside the memory at `host`.
#[inline(always)]
pub(super) unsafe fn found<T: Copy + Into<u64>>(
    host: *mut u8,
    at: &L<T>,
    first: T,
    block: bool,
    same: bool,
    lanes: &mut Pointers,
) -> Found {
    // SAFETY: as above.
    let pointer = |offset: T| unsafe { host.add(offset.into() as usize) };
    if block {
        return Found::Block(pointer(first));
    }
    if same {
        return Found::Same(pointer(first));
    }
    for i in 0..WARP {
        lanes[i] = MaybeUninit::new(pointer(at[i]));
    }
    Found::Lanes
}

/// [`find`] in shared memory; none when something is wrong.
#[inline(always)]
unsafe fn within_shared<P: Place>(
    cx: &Cx,
    raw: &L<P::A>,
    offset: i64,
    bytes: u64,
    lanes: &mut Pointers,
) -> Option<Found> {
    let (mask, add) = (cx.mask, offset as u32);
    let any = (raw[(mask.trailing_zeros() & 31) as usize].into() as u32).wrapping_add(add);
    let (mut top, mut bits, mut stray, mut other) = (0u32, 0u32, 0u32, 0u32);
    let mut at = [0u32; WARP];
    for i in 0..WARP {
        let own = (raw[i].into() as u32).wrapping_add(add);
        let a = if mask == FULL || mask >> i & 1 != 0 { own } else { any };
        at[i] = a;
        top = top.max(a);
        bits |= a;
        stray |= a ^ any.wrapping_add(i as u32 * bytes as u32);
        other |= a ^ any;
    }
    if u64::from(bits) & (bytes - 1) != 0 || u64::from(top) + bytes > u64::from(cx.shared_len) {
        return None;
    }
    // SAFETY: all offsets are inside.
    Some(unsafe { found(cx.shared, &at, any, stray == 0 && mask == FULL, other == 0, lanes) })
}

/// [`find`] in the allocation that this instruction touched last; none when an address is elsewhere, or something is wrong.
#[inline(always)]
unsafe fn within_cache<P: Place>(
    cx: &mut Cx,
    op: *const Op,
    raw: &L<P::A>,
    offset: i64,
    bytes: u64,
    lanes: &mut Pointers,
) -> Option<Found> {
    // SAFETY: the cache belongs to the instruction; all offsets are inside what it holds.
    unsafe {
        let mask = cx.mask;
        let cache = &mut *cx.caches.add((*op).aux as usize);
        let add = (offset as u64).wrapping_sub(cache.base);
        // The last offset there may be. Offsets and this one are below 2^63, or the sign bit of `bad` says that they are not.
        let limit = cache.end.wrapping_sub(cache.base).wrapping_sub(bytes);
        let any = raw[(mask.trailing_zeros() & 31) as usize].into().wrapping_add(add);
        let (mut bad, mut bits, mut stray, mut other) = (limit, cache.base, 0u64, 0u64);
        let mut at = [0u64; WARP];
        for i in 0..WARP {
            let own = raw[i].into().wrapping_add(add);
            let a = if mask == FULL || mask >> i & 1 != 0 { own } else { any };
            at[i] = a;
            bad |= a | limit.wrapping_sub(a);
            bits |= a;
            stray |= a ^ any.wrapping_add(i as u64 * bytes);
            other |= a ^ any;
        }
        if bad >> 63 != 0 || bits & (bytes - 1) != 0 {
            return None;
        }
        let block = stray == 0 && mask == FULL;
        if block {
            prefetch(cache, cx.warp, any.wrapping_add(cache.base), WARP as u64 * bytes);
        }
        Some(found(cache.host, &at, any, block, other == 0, lanes))
    }
}

/// [`find`] without a guess where: fills the cache, tells what is wrong.
#[inline(never)]
unsafe fn search<P: Place>(
    cx: &mut Cx,
    op: *const Op,
    slot: u32,
    offset: i64,
    bytes: u64,
    lanes: &mut Pointers,
) -> Found {
    // SAFETY: the slot has width `P::A`; pointers stay inside allocations because both ends of the range are checked.
    unsafe {
        let raw = &*cx.at::<P::A>(slot);
        let mask = cx.mask;
        let any = (mask.trailing_zeros() & 31) as usize;
        let mut addr = [0u64; WARP];
        for i in 0..WARP {
            let lane = if mask >> i & 1 != 0 { i } else { any };
            addr[i] = raw[lane].into().wrapping_add(offset as u64);
            if P::SHARED {
                addr[i] &= 0xffff_ffff;
            }
        }
        if let Some(lane) = (0..WARP).find(|i| addr[*i] & (bytes - 1) != 0) {
            return Found::Fault(misaligned(cx, op, lane as u32, addr[lane], bytes));
        }
        if P::SHARED {
            // An address that `mapa` has made for the block itself.
            let own = u64::from((cx.rank + 1) << RANK_SHIFT);
            for a in &mut addr {
                *a -= if *a & !u64::from(OFFSET) == own { own } else { 0 };
            }
            let limit = u64::from(cx.shared_len);
            if addr.iter().all(|a| a + bytes <= limit) {
                *lanes = addr.map(|a| MaybeUninit::new(cx.shared.add(a as usize)));
                return Found::Lanes;
            }
            let lane = (0..WARP).find(|i| addr[*i] + bytes > limit).unwrap_or(0);
            return Found::Fault(missed(cx, op, lane as u32, addr[lane], bytes, true));
        }
        let (lo, hi) = addr.iter().fold((u64::MAX, 0), |(lo, hi), a| (lo.min(*a), hi.max(*a)));
        if let Some((base, host)) = refill(cx, op, lo, hi, bytes, P::GENERIC) {
            let block = mask == FULL && (0..WARP).all(|i| addr[i] == lo + i as u64 * bytes);
            return found(host, &addr.map(|a| a - base), lo - base, block, lo == hi, lanes);
        }
        // Several allocations, or a miss: lane by lane.
        for i in 0..WARP {
            match resolve(cx, addr[i], bytes, P::GENERIC, i as u32) {
                Some(p) => lanes[i] = MaybeUninit::new(p),
                None => return Found::Fault(missed(cx, op, i as u32, addr[i], bytes, false)),
            }
        }
        Found::Lanes
    }
}

/// Fetches what this instruction will touch next when its addresses go in long strides, as in grid-stride loops: the hardware's
/// own prefetchers stop at page boundaries.
#[inline(always)]
unsafe fn prefetch(cache: &mut Cache, warp: u32, first: u64, len: u64) {
    let stride = cache.stride(warp, first);
    let next = first.wrapping_add(stride);
    if stride.wrapping_add(2048) > 4096 && next >= cache.base && next.wrapping_add(len) <= cache.end {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the range lies inside the allocation; a prefetch has no effect on memory.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = cache.host.add((next - cache.base) as usize);
            for line in (0..len as usize).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(at.add(line).cast());
            }
        }
    }
}

/// Fetches what a copy of `N` bytes a lane will touch next when it goes on as it has gone from the last one to this.
#[inline(always)]
pub(super) unsafe fn prefetch_lanes<const N: usize>(cx: &mut Cx, op: *const Op, lanes: &Pointers) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the cache belongs to the instruction, and every lane has a pointer; a prefetch has no effect, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let cache = &mut *cx.caches.add((*op).aux as usize);
        let stride = cache.stride(cx.warp, lanes[0].assume_init() as u64) as isize;
        for lane in lanes.iter().step_by(64 / N) {
            _mm_prefetch::<_MM_HINT_T0>(lane.assume_init().wrapping_offset(stride).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (cx, op, lanes);
}

/// Loads the instruction's cache with the allocation that holds `lo ..= hi + bytes`.
unsafe fn refill(cx: &mut Cx, op: *const Op, lo: u64, hi: u64, bytes: u64, generic: bool) -> Option<(u64, *mut u8)> {
    // SAFETY: tables outlive the launch; the cache index comes from the decoder.
    unsafe {
        let end = hi.checked_add(bytes)?;
        if lo >= GLOBAL_BASE {
            let a = (*cx.table).find(lo).or_else(|| (*cx.globals).find(lo))?;
            if end > a.end() {
                return None;
            }
            *cx.caches.add((*op).aux as usize) = Cache { base: a.base, end: a.end(), host: a.host(), last: [lo; 8] };
            return Some((a.base, a.host()));
        }
        // Windows are the block's own and cheap to find; they are not cached because blocks and warps share the cache.
        let inside = |window: u64, len: u32| generic && lo >= window && end <= window + u64::from(len);
        if inside(SHARED_WINDOW, cx.shared_len) {
            return Some((SHARED_WINDOW, cx.shared));
        }
        if generic && let Some(p) = cx.in_cluster(lo, end - lo) {
            return Some((lo, p));
        }
        inside(PARAM_WINDOW, cx.params_len).then(|| (PARAM_WINDOW, cx.params.cast_mut()))
    }
}

/// The host memory of one access, or none when it is out of bounds.
pub(crate) unsafe fn resolve(cx: &Cx, addr: u64, bytes: u64, generic: bool, lane: u32) -> Option<*mut u8> {
    // SAFETY: every branch checks that the range lies inside the memory it points into.
    unsafe {
        let end = addr.checked_add(bytes)?;
        if addr >= GLOBAL_BASE {
            let Some(a) = (*cx.table).find(addr).or_else(|| (*cx.globals).find(addr)) else {
                // Freed memory outlives the launch, so the pointer stays good.
                let a = (*cx.heap).find(addr)?;
                return (end <= a.end()).then(|| a.host().add((addr - a.base) as usize));
            };
            return (end <= a.end()).then(|| a.host().add((addr - a.base) as usize));
        }
        if !generic {
            return None;
        }
        let inside = |window: u64, len: u32| addr >= window && end <= window + u64::from(len);
        if inside(SHARED_WINDOW, cx.shared_len) {
            return Some(cx.shared.add((addr - SHARED_WINDOW) as usize));
        }
        if let Some(p) = cx.in_cluster(addr, bytes) {
            return Some(p);
        }
        if inside(LOCAL_WINDOW, cx.local_len) {
            let frame = lane as usize * cx.local_len as usize;
            return Some(cx.local.add(frame + (addr - LOCAL_WINDOW) as usize));
        }
        if inside(PARAM_WINDOW, cx.params_len) {
            return Some(cx.params.add((addr - PARAM_WINDOW) as usize).cast_mut());
        }
        None
    }
}

#[cold]
#[inline(never)]
pub(super) fn misaligned(cx: &mut Cx, op: *const Op, lane: u32, addr: u64, align: u64) -> *const Op {
    let message = format!("address {addr:#x} is not a multiple of {align}");
    cx.fault(op, FaultKind::Misaligned, Some(lane), Some(addr), message)
}

#[cold]
#[inline(never)]
pub(super) fn missed(cx: &mut Cx, op: *const Op, lane: u32, addr: u64, bytes: u64, shared: bool) -> *const Op {
    let message = describe_miss(cx, addr, bytes, shared);
    cx.fault(op, FaultKind::OutOfBounds, Some(lane), Some(addr), message)
}

/// What lies near a missed address, in words.
pub(crate) fn describe_miss(cx: &Cx, addr: u64, bytes: u64, shared: bool) -> String {
    let window = |name: &str, offset: u64, len: u32| {
        let past = (offset + bytes).saturating_sub(u64::from(len));
        format!("{bytes} bytes at {name} offset {offset:#x}: {past} bytes past the end of the {len} bytes there are")
    };
    let generic = if shared { addr.wrapping_add(SHARED_WINDOW) } else { addr };
    if let Some((rank, offset)) = cx.whose(generic)
        && rank != cx.rank
    {
        let blocks = cx.peers.len();
        return match (rank as usize) < blocks {
            true if shared => {
                format!("{bytes} bytes at {addr:#x}, in block {rank} of the cluster: `.shared::cta` is the block's own")
            }
            true => window(&format!("block {rank}'s shared memory"), u64::from(offset), cx.shared_len),
            false => format!("{bytes} bytes at {addr:#x}, in block {rank} of a cluster of {blocks}"),
        };
    }
    if shared {
        return window("shared memory", addr, cx.shared_len);
    }
    if addr < GLOBAL_BASE {
        for (base, name, len) in [
            (SHARED_WINDOW, "shared memory", cx.shared_len),
            (LOCAL_WINDOW, "local memory", cx.local_len),
            (PARAM_WINDOW, "parameter", cx.params_len),
        ] {
            if (base..base + WINDOW).contains(&addr) {
                return window(name, addr - base, len);
            }
        }
    }
    // SAFETY: the tables outlive the launch.
    let (table, globals) = unsafe { (&*cx.table, &*cx.globals) };
    let near = |t: &crate::memory::Table| t.hint(addr, bytes);
    let hint = if !table.is_new() || globals.iter().next().is_none() { near(table) } else { near(globals) };
    format!("{bytes} bytes at {addr:#x}{hint}")
}
