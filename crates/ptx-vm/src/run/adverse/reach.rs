//! Which memory an access reaches, and whether a store on its way lies there: asked of every load, so compiled for each [`Level`].

use super::store::{NEAR, Ranges, STORES, Span, Store};
use crate::ir::*;
use crate::memory::SHARED_WINDOW;

/// The code of one [`Level`].
#[derive(Clone, Copy)]
pub(super) struct Sight {
    pub(super) touches: unsafe fn(&Cx, &Access, &Ranges<STORES>, &Ranges<NEAR>) -> bool,
    pub(super) reach: unsafe fn(&Cx, &Access) -> Span,
    pub(super) meets: unsafe fn(&Store, &Span, u32, u64) -> bool,
}

/// The generic addresses of an access.
#[inline(always)]
unsafe fn addresses(cx: &Cx, access: &Access) -> Lanes<u64> {
    let offset = access.offset as u64;
    // SAFETY: the operand's width is the one noted.
    unsafe {
        if access.wide {
            let raw = &*cx.at::<u64>(access.addr);
            lanes!(i => raw[i].wrapping_add(offset))
        } else {
            let raw = &*cx.at::<u32>(access.addr);
            lanes!(i => u64::from(raw[i].wrapping_add(offset as u32)) + SHARED_WINDOW)
        }
    }
}

/// Whether a store of two sets may lie where an access reaches: mostly none does, and few instructions find out.
#[inline(always)]
unsafe fn touches(cx: &Cx, access: &Access, own: &Ranges<STORES>, near: &Ranges<NEAR>) -> bool {
    // SAFETY: forwarded.
    let addr = unsafe { addresses(cx, access) };
    let (mask, bytes) = (cx.mask, u64::from(access.bytes));
    // An address from `start` on reaches the lowest store.
    let start = own.low.min(near.low).saturating_sub(bytes - 1);
    let width = own.high.max(near.high).saturating_sub(start);
    let mut inside = false;
    for i in 0..WARP {
        inside |= (addr.0[i].wrapping_sub(start) < width) & (mask >> i & 1 != 0);
    }
    if !inside {
        return false;
    }
    let any = addr.0[(mask.trailing_zeros() & 31) as usize];
    let (mut first, mut last) = (any, any);
    for i in 0..WARP {
        let a = if mask == FULL || mask >> i & 1 != 0 { addr.0[i] } else { any };
        first = first.min(a);
        last = last.max(a);
    }
    let end = last.saturating_add(bytes);
    let mut met = false;
    for i in 0..STORES {
        met |= (own.first[i] < end) & (first < own.end[i]);
    }
    for i in 0..NEAR {
        met |= (near.first[i] < end) & (first < near.end[i]);
    }
    met
}

/// The [`Span`] of an access.
#[inline(always)]
unsafe fn reach(cx: &Cx, access: &Access) -> Span {
    // SAFETY: forwarded.
    let addr = unsafe { addresses(cx, access) };
    let (mask, bytes) = (cx.mask, u64::from(access.bytes));
    let any = addr.0[(mask.trailing_zeros() & 31) as usize];
    let (mut first, mut last, mut bits, mut stray) = (any, any, 0, 0);
    for i in 0..WARP {
        let a = if mask == FULL || mask >> i & 1 != 0 { addr.0[i] } else { any };
        first = first.min(a);
        last = last.max(a);
        bits |= a;
        stray |= a ^ any.wrapping_add(i as u64 * bytes);
    }
    Span { addr, first, last, bits, block: stray == 0 && mask == FULL }
}

/// Whether an active lane of an access of so many `bytes` reaches what it has stored itself.
#[inline(always)]
fn meets(store: &Store, span: &Span, mask: u32, bytes: u64) -> bool {
    let (mask, stored) = (mask & store.mask, store.bytes as u64);
    let mut met = false;
    for i in 0..WARP {
        let (a, s) = (span.addr.0[i], store.addr[i]);
        met |= (a < s.wrapping_add(stored)) & (s < a.wrapping_add(bytes)) & (mask >> i & 1 != 0);
    }
    met
}

/// Compiles all of it for one level, under the names given.
macro_rules! sight {
    ($sight:ident, $touches:ident, $reach:ident, $meets:ident $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $touches(cx: &Cx, access: &Access, own: &Ranges<STORES>, near: &Ranges<NEAR>) -> bool {
            // SAFETY: forwarded.
            unsafe { touches(cx, access, own, near) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn $reach(cx: &Cx, access: &Access) -> Span {
            // SAFETY: forwarded.
            unsafe { reach(cx, access) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn $meets(store: &Store, span: &Span, mask: u32, bytes: u64) -> bool {
            meets(store, span, mask, bytes)
        }

        const $sight: Sight = Sight { touches: $touches, reach: $reach, meets: $meets };
    };
}
sight!(BASE, touches_base, reach_base, meets_base);
#[cfg(target_arch = "x86_64")]
sight!(AVX2, touches_avx2, reach_avx2, meets_avx2, "avx2,bmi1,bmi2,lzcnt,popcnt");
#[cfg(target_arch = "x86_64")]
sight!(
    AVX512,
    touches_avx512,
    reach_avx512,
    meets_avx512,
    "avx512f,avx512bw,avx512dq,avx512cd,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt"
);

/// The code for this machine.
pub(super) fn sight() -> Sight {
    match level() {
        Level::Base => BASE,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => AVX2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => AVX512,
    }
}
