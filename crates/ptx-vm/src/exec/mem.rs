//! Loads, stores, atomics, `ldmatrix`, `cp.async`: 32 addresses at a time.
//!
//! The common shapes get a fast path: neighbouring lanes on neighbouring addresses are one block copy, equal addresses one
//! access. Bounds are checked against the allocation this instruction touched last; only a miss searches the table.

use super::alu::lane_mask;
use super::op::*;
use crate::error::FaultKind;
use crate::math::matrix::transpose;
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

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
enum Found {
    /// One block, lanes side by side.
    Block(*mut u8),
    /// All lanes the same place.
    Same(*mut u8),
    /// The pointers are in the array given; inactive lanes repeat an active one's.
    Lanes,
    Fault(*const Op),
}

/// Room for 32 pointers, filled only when lanes go to scattered places.
type Pointers = [MaybeUninit<*mut u8>; WARP];

/// Finds the host memory of every active lane's `bytes` bytes, a power of two and aligned to it, or faults.
///
/// One pass over the addresses is enough when all of them lie in the memory that this instruction touched last; everything else,
/// and all that is wrong, is for [`search`].
#[inline(always)]
unsafe fn find<P: Place>(
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
unsafe fn found<T: Copy + Into<u64>>(
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
            let limit = u64::from(cx.shared_len);
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
unsafe fn prefetch_lanes<const N: usize>(cx: &mut Cx, op: *const Op, lanes: &Pointers) {
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

/// A lane's element in memory and in its register.
pub(crate) trait Elem: Copy + Default + 'static {
    /// The lane type of the register.
    type R: Copy + Default;
    fn load(self) -> Self::R;
    fn store(r: Self::R) -> Self;
}
macro_rules! elem {
    ($($m:ty => $r:ty),*) => {$(
        impl Elem for $m {
            type R = $r;
            #[inline(always)]
            fn load(self) -> $r { self as $r }
            #[inline(always)]
            fn store(r: $r) -> $m { r as $m }
        }
    )*};
}
elem!(u8 => u16, u16 => u16, u32 => u32, u64 => u64);

/// The register operands of a vector access: in place up to two, listed above.
#[inline(always)]
unsafe fn reg<const V: usize>(cx: &Cx, op: *const Op, i: usize) -> u32 {
    // SAFETY: the decoder lists `V` registers.
    unsafe { if V <= 2 { (*op).r[i] } else { cx.list(op, i) } }
}

/// `ld` of `V` elements: registers as [`reg`] says, r[3] = address, imm = offset.
pub(crate) struct Load<P, M, const V: usize>(PhantomData<(P, M)>);
impl<P: Place, M: Elem, const V: usize> Exec for Load<P, M, V> {
    const RARE: bool = P::GENERIC || V > 4 || size_of::<M>() == 1 && V > 1;
    const RULE: Rule = Rule::Load;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: `find` gives pointers good for `V` elements; alignment was checked.
        unsafe {
            let mut lanes: Pointers = [MaybeUninit::uninit(); WARP];
            let bytes = (V * size_of::<M>()) as u64;
            let mut copy = [MaybeUninit::<[M; V]>::uninit(); WARP];
            let src: *const [M; V] = match find::<P>(cx, op, (*op).r[3], (*op).imm, bytes, &mut lanes) {
                Found::Block(p) => p.cast_const().cast(),
                Found::Same(p) => {
                    copy = [MaybeUninit::new(p.cast::<[M; V]>().read_unaligned()); WARP];
                    copy.as_ptr().cast()
                }
                Found::Lanes => {
                    for i in 0..WARP {
                        copy[i] = MaybeUninit::new(lanes[i].assume_init().cast::<[M; V]>().read_unaligned());
                    }
                    copy.as_ptr().cast()
                }
                Found::Fault(next) => return next,
            };
            let src = &*src.cast::<[[M; V]; WARP]>();
            for v in 0..V {
                let d = reg::<V>(cx, op, v);
                if d != super::alu::NO_SLOT {
                    let out = lanes!(i => src[i][v].load());
                    cx.put(d, &out.0);
                }
            }
            op.add(1)
        }
    }
}

/// `st` of `V` elements.
pub(crate) struct Store<P, M, const V: usize>(PhantomData<(P, M)>);
impl<P: Place, M: Elem, const V: usize> Exec for Store<P, M, V> {
    const RARE: bool = P::GENERIC || V > 4 || size_of::<M>() == 1 && V > 1;
    const RULE: Rule = Rule::Store;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: as in `Load`.
        unsafe {
            let mut lanes: Pointers = [MaybeUninit::uninit(); WARP];
            let bytes = (V * size_of::<M>()) as u64;
            let mut value = [[M::default(); V]; WARP];
            let found = find::<P>(cx, op, (*op).r[3], (*op).imm, bytes, &mut lanes);
            for v in 0..V {
                let src = &*cx.at::<M::R>(reg::<V>(cx, op, v));
                for i in 0..WARP {
                    value[i][v] = M::store(src[i]);
                }
            }
            let mask = cx.mask;
            match found {
                Found::Block(p) => p.cast::<[[M; V]; WARP]>().write_unaligned(value),
                Found::Same(p) => {
                    // One of the racing lanes wins; as on the hardware in practice, the highest.
                    let last = 31 - (mask | 1).leading_zeros();
                    p.cast::<[M; V]>().write_unaligned(value[last as usize]);
                }
                Found::Lanes => {
                    if mask == FULL {
                        for i in 0..WARP {
                            lanes[i].assume_init().cast::<[M; V]>().write_unaligned(value[i]);
                        }
                    } else {
                        let mut left = mask;
                        while left != 0 {
                            let i = left.trailing_zeros() as usize;
                            left &= left - 1;
                            lanes[i].assume_init().cast::<[M; V]>().write_unaligned(value[i]);
                        }
                    }
                }
                Found::Fault(next) => return next,
            }
            op.add(1)
        }
    }
}

/// `ldmatrix` of `N` 8x8 matrices of 16-bit elements: list = `N` destinations, address; imm = offset.
pub(crate) struct LdMatrix<const N: usize, const TRANS: bool>;
impl<const N: usize, const TRANS: bool> Exec for LdMatrix<N, TRANS> {
    const RULE: Rule = Rule::LoadMatrix;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if super::control::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: rows are checked against shared memory; the list holds N + 1 operands.
        unsafe {
            let addr = cx.get::<u32>(cx.list(op, N));
            let offset = (*op).imm as u32;
            let limit = cx.shared_len.wrapping_sub(16);
            let mut bits = 0;
            let mut top = 0;
            for i in 0..N * 8 {
                let a = addr[i].wrapping_add(offset);
                bits |= a;
                top = top.max(a);
            }
            if bits & 15 != 0 || top > limit || cx.shared_len < 16 {
                return bad_rows(cx, op, &addr, N * 8, offset);
            }
            // The addresses are a copy: a destination may be their register.
            for n in 0..N {
                let mut rows = [[0u32; 4]; 8];
                for r in 0..8 {
                    rows[r] = cx.shared.add(addr[n * 8 + r].wrapping_add(offset) as usize).cast::<[u32; 4]>().read();
                }
                let value = std::mem::transmute::<[[u32; 4]; 8], L<u32>>(rows);
                cx.put(cx.list(op, n), &if TRANS { transpose(&value) } else { value });
            }
            op.add(1)
        }
    }
}

/// `stmatrix`: list = `N` sources, address.
pub(crate) struct StMatrix<const N: usize, const TRANS: bool>;
impl<const N: usize, const TRANS: bool> Exec for StMatrix<N, TRANS> {
    const RARE: bool = true;
    const RULE: Rule = Rule::StoreMatrix;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if super::control::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: as in `LdMatrix`.
        unsafe {
            let addr = cx.get::<u32>(cx.list(op, N));
            let offset = (*op).imm as u32;
            for i in 0..N * 8 {
                let a = addr[i].wrapping_add(offset);
                if a & 15 != 0 || u64::from(a) + 16 > u64::from(cx.shared_len) {
                    return bad_rows(cx, op, &addr, N * 8, offset);
                }
            }
            for n in 0..N {
                let value = cx.get::<u32>(cx.list(op, n));
                let value = if TRANS { transpose(&value) } else { value };
                let rows = std::mem::transmute::<L<u32>, [[u32; 4]; 8]>(value);
                for (r, row) in rows.iter().enumerate() {
                    cx.shared.add(addr[n * 8 + r].wrapping_add(offset) as usize).cast::<[u32; 4]>().write(*row);
                }
            }
            op.add(1)
        }
    }
}

#[cold]
#[inline(never)]
fn bad_rows(cx: &mut Cx, op: *const Op, addr: &L<u32>, rows: usize, offset: u32) -> *const Op {
    for (i, a) in addr.iter().enumerate().take(rows) {
        let a = u64::from(a.wrapping_add(offset));
        if a & 15 != 0 {
            return misaligned(cx, op, i as u32, a, 16);
        }
        if a + 16 > u64::from(cx.shared_len) {
            return missed(cx, op, i as u32, a, 16, true);
        }
    }
    unreachable!("called only when a row is bad")
}

/// `movmatrix.trans`: r = d, a.
pub(crate) struct MovMatrix;
impl Exec for MovMatrix {
    const RARE: bool = true;
    const RULE: Rule = Rule::Moves(0);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if super::control::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: operands are 32 bits wide.
        unsafe {
            let [d, a, ..] = (*op).r;
            let value = cx.get::<u32>(a);
            cx.put(d, &transpose(&value));
            op.add(1)
        }
    }
}

/// `cp.async` of `N` bytes: list = shared address, global address, source size (or the sink); imm = shared offset, r[0..2] = global offset.
/// The copy happens at once; that it may be seen only after a wait is what checked mode watches.
pub(crate) struct CpAsync<const N: usize>;
impl<const N: usize> Exec for CpAsync<N> {
    const RULE: Rule = Rule::Copy;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
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
            if size != super::alu::NO_SLOT {
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
                super::alu::NO_SLOT => [N as u32; WARP],
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

/// What an atomic does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Atom {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// How an atomic's operand is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AtomTy {
    U32,
    S32,
    U64,
    S64,
    F32,
    /// As global memory adds them: subnormal operands and sums are zeros.
    F32Flushed,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    B16,
}

impl Atom {
    pub(crate) const ALL: [Atom; 10] =
        [Atom::Add, Atom::Min, Atom::Max, Atom::And, Atom::Or, Atom::Xor, Atom::Exch, Atom::Cas, Atom::Inc, Atom::Dec];
}
impl AtomTy {
    pub(crate) const ALL: [AtomTy; 12] = [
        AtomTy::U32,
        AtomTy::S32,
        AtomTy::U64,
        AtomTy::S64,
        AtomTy::F32,
        AtomTy::F32Flushed,
        AtomTy::F64,
        AtomTy::F16,
        AtomTy::Bf16,
        AtomTy::F16x2,
        AtomTy::Bf16x2,
        AtomTy::B16,
    ];
    pub(crate) fn bytes(self) -> u64 {
        match self {
            AtomTy::U64 | AtomTy::S64 | AtomTy::F64 => 8,
            AtomTy::F16 | AtomTy::Bf16 | AtomTy::B16 => 2,
            _ => 4,
        }
    }
}

/// The new value of an atomic.
pub(crate) fn atomic_result(atom: Atom, ty: AtomTy, old: u64, b: u64, c: u64) -> u64 {
    use super::alu::Bin;
    use super::ops::{Ftz, Half, Half2, MaxF32, MinF32};
    type AddF32 = super::ops::AddF32<0>;
    let (o32, b32) = (old as u32, b as u32);
    match (atom, ty) {
        (Atom::Exch, _) => b,
        (Atom::Cas, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (Atom::And, _) => old & b,
        (Atom::Or, _) => old | b,
        (Atom::Xor, _) => old ^ b,
        (Atom::Inc, _) => u64::from(if o32 >= b32 { 0 } else { o32 + 1 }),
        (Atom::Dec, _) => u64::from(if o32 == 0 || o32 > b32 { b32 } else { o32 - 1 }),
        (Atom::Add, AtomTy::F32) => u64::from(AddF32::f(f32::from_bits(o32), f32::from_bits(b32)).to_bits()),
        (Atom::Add, AtomTy::F32Flushed) => {
            u64::from(Ftz::<AddF32>::f(f32::from_bits(o32), f32::from_bits(b32)).to_bits())
        }
        (Atom::Add, AtomTy::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Atom::Add, AtomTy::F16) => u64::from(<Half<AddF32, false> as Bin>::f(old as u16, b as u16)),
        (Atom::Add, AtomTy::Bf16) => u64::from(<Half<AddF32, true> as Bin>::f(old as u16, b as u16)),
        (Atom::Add, AtomTy::F16x2) => u64::from(<Half2<AddF32, false> as Bin>::f(o32, b32)),
        (Atom::Add, AtomTy::Bf16x2) => u64::from(<Half2<AddF32, true> as Bin>::f(o32, b32)),
        (Atom::Add, AtomTy::U64 | AtomTy::S64) => old.wrapping_add(b),
        (Atom::Add, _) => u64::from(o32.wrapping_add(b32)),
        (Atom::Min, AtomTy::S32) => u64::from((o32 as i32).min(b32 as i32) as u32),
        (Atom::Max, AtomTy::S32) => u64::from((o32 as i32).max(b32 as i32) as u32),
        (Atom::Min, AtomTy::S64) => (old as i64).min(b as i64) as u64,
        (Atom::Max, AtomTy::S64) => (old as i64).max(b as i64) as u64,
        (Atom::Min, AtomTy::F32) => u64::from(MinF32::f(f32::from_bits(o32), f32::from_bits(b32)).to_bits()),
        (Atom::Max, AtomTy::F32) => u64::from(MaxF32::f(f32::from_bits(o32), f32::from_bits(b32)).to_bits()),
        (Atom::Min, AtomTy::F16) => u64::from(<Half<MinF32, false> as Bin>::f(old as u16, b as u16)),
        (Atom::Max, AtomTy::F16) => u64::from(<Half<MaxF32, false> as Bin>::f(old as u16, b as u16)),
        (Atom::Min, AtomTy::Bf16) => u64::from(<Half<MinF32, true> as Bin>::f(old as u16, b as u16)),
        (Atom::Max, AtomTy::Bf16) => u64::from(<Half<MaxF32, true> as Bin>::f(old as u16, b as u16)),
        (Atom::Min, AtomTy::F16x2) => u64::from(<Half2<MinF32, false> as Bin>::f(o32, b32)),
        (Atom::Max, AtomTy::F16x2) => u64::from(<Half2<MaxF32, false> as Bin>::f(o32, b32)),
        (Atom::Min, AtomTy::Bf16x2) => u64::from(<Half2<MinF32, true> as Bin>::f(o32, b32)),
        (Atom::Max, AtomTy::Bf16x2) => u64::from(<Half2<MaxF32, true> as Bin>::f(o32, b32)),
        (Atom::Min, _) => old.min(b),
        (Atom::Max, _) => old.max(b),
    }
}

/// Updates a word that other blocks may work on at this moment; gives the old value.
///
/// # Safety
/// `p` is aligned memory of the size of `ty`.
pub(super) unsafe fn update(p: *mut u8, atom: Atom, ty: AtomTy, operand: u64, third: u64) -> u64 {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        match ty.bytes() {
            2 => {
                let word = AtomicU16::from_ptr(p.cast());
                let f = |old| Some(atomic_result(atom, ty, u64::from(old), operand, third) as u16);
                u64::from(word.fetch_update(Ordering::AcqRel, Ordering::Acquire, f).unwrap_or_default())
            }
            4 => {
                let word = AtomicU32::from_ptr(p.cast());
                let f = |old| Some(atomic_result(atom, ty, u64::from(old), operand, third) as u32);
                u64::from(word.fetch_update(Ordering::AcqRel, Ordering::Acquire, f).unwrap_or_default())
            }
            _ => {
                let word = AtomicU64::from_ptr(p.cast());
                let f = |old| Some(atomic_result(atom, ty, old, operand, third));
                word.fetch_update(Ordering::AcqRel, Ordering::Acquire, f).unwrap_or_default()
            }
        }
    }
}

/// `atom` and `red` of a vector of `r[0]` elements: list = destinations (or the sink), sources b, address (64-bit generic), c (or the
/// sink), kind, type; imm = offset.
pub(crate) struct Atomic;
impl Exec for Atomic {
    const RARE: bool = true;
    const RULE: Rule = Rule::Atomic;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { atomic(cx, op) }
    }
}

#[inline(never)]
unsafe fn atomic(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: operands were decoded with the widths of the type; `resolve` checks addresses.
    unsafe {
        let count = (*op).r[0] as usize;
        let [addr, c, atom, ty] = std::array::from_fn(|i| cx.list(op, 2 * count + i));
        let (atom, ty) = (Atom::ALL[atom as usize], AtomTy::ALL[ty as usize]);
        let bytes = ty.bytes();
        let all = bytes * count as u64;
        let addr = cx.get::<u64>(addr);
        let read = |cx: &Cx, slot: u32, i: usize| match bytes {
            2 => u64::from((*cx.at::<u16>(slot))[i]),
            4 => u64::from((*cx.at::<u32>(slot))[i]),
            _ => (*cx.at::<u64>(slot))[i],
        };
        for i in (0..WARP).filter(|i| cx.mask >> i & 1 != 0) {
            let a = addr[i].wrapping_add((*op).imm as u64);
            if a & (all - 1) != 0 {
                return misaligned(cx, op, i as u32, a, all);
            }
            let Some(p) = resolve(cx, a, all, true, i as u32) else {
                return missed(cx, op, i as u32, a, all, false);
            };
            let ty = if ty == AtomTy::F32 && atom == Atom::Add && a >= GLOBAL_BASE { AtomTy::F32Flushed } else { ty };
            let third = if c == super::alu::NO_SLOT { 0 } else { read(cx, c, i) };
            // A destination may be the source of a later element.
            let mut operands = [0; 8];
            for (n, operand) in operands.iter_mut().enumerate().take(count) {
                *operand = read(cx, cx.list(op, count + n), i);
            }
            for (n, operand) in operands.into_iter().enumerate().take(count) {
                let old = update(p.add(n * bytes as usize), atom, ty, operand, third);
                let d = cx.list(op, n);
                if d != super::alu::NO_SLOT {
                    match bytes {
                        2 => (*cx.at::<u16>(d))[i] = old as u16,
                        4 => (*cx.at::<u32>(d))[i] = old as u32,
                        _ => (*cx.at::<u64>(d))[i] = old,
                    }
                }
            }
        }
        op.add(1)
    }
}

/// `atom.b128`: list = destination and address, then b and c by halves; without c (the sinks) an exchange; imm = offset.
///
/// A lock makes these atomic among themselves: few machines have a 128-bit exchange, and few kernels ask for one.
pub(crate) struct Atomic128;
impl Exec for Atomic128 {
    const RARE: bool = true;
    const RULE: Rule = Rule::Atomic128;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
        // SAFETY: the list holds operands of 64 bits; `resolve` checks addresses.
        unsafe {
            let [d0, d1, addr, b0, b1, c0, c1] = std::array::from_fn(|i| cx.list(op, i));
            let addr = cx.get::<u64>(addr);
            for i in (0..WARP).filter(|i| cx.mask >> i & 1 != 0) {
                let a = addr[i].wrapping_add((*op).imm as u64);
                if a & 15 != 0 {
                    return misaligned(cx, op, i as u32, a, 16);
                }
                let Some(p) = resolve(cx, a, 16, true, i as u32) else {
                    return missed(cx, op, i as u32, a, 16, false);
                };
                let p = p.cast::<[u64; 2]>();
                let lane = |slot: u32| (*cx.at::<u64>(slot))[i];
                let b = [lane(b0), lane(b1)];
                let guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let old = p.read_unaligned();
                if c0 == super::alu::NO_SLOT {
                    p.write_unaligned(b);
                } else if old == b {
                    p.write_unaligned([lane(c0), lane(c1)]);
                }
                drop(guard);
                (*cx.at::<u64>(d0))[i] = old[0];
                (*cx.at::<u64>(d1))[i] = old[1];
            }
            op.add(1)
        }
    }
}
