//! Atomic operations, of lanes one after the other.

use crate::ir::*;
use crate::memory::GLOBAL_BASE;
use crate::step::find::{misaligned, missed, resolve};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

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
pub(crate) unsafe fn update(p: *mut u8, atom: Atom, ty: AtomTy, operand: u64, third: u64) -> u64 {
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
            let third = if c == crate::ir::NO_SLOT { 0 } else { read(cx, c, i) };
            // A destination may be the source of a later element.
            let mut operands = [0; 8];
            for (n, operand) in operands.iter_mut().enumerate().take(count) {
                *operand = read(cx, cx.list(op, count + n), i);
            }
            for (n, operand) in operands.into_iter().enumerate().take(count) {
                let old = update(p.add(n * bytes as usize), atom, ty, operand, third);
                let d = cx.list(op, n);
                if d != crate::ir::NO_SLOT {
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
                if c0 == crate::ir::NO_SLOT {
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
