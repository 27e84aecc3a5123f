//! Arithmetic handlers: an operation on one lane, lifted to 32.

use crate::ir::*;
use crate::math::int::lop3;
use std::marker::PhantomData;

/// `d = f(a)`.
pub(crate) trait Un {
    /// See [`Exec::RARE`].
    const RARE: bool = false;
    /// See [`Rule`].
    const RULE: Rule = Rule::Whole;
    type A: Copy;
    type D: Copy + Default;
    fn f(a: Self::A) -> Self::D;
}
/// `d = f(a, b)`.
pub(crate) trait Bin {
    /// See [`Exec::RARE`].
    const RARE: bool = false;
    /// See [`Rule`].
    const RULE: Rule = Rule::Whole;
    type A: Copy;
    type B: Copy;
    type D: Copy + Default;
    fn f(a: Self::A, b: Self::B) -> Self::D;
}
/// `d = f(a, b, c)`.
pub(crate) trait Tri {
    /// See [`Exec::RARE`].
    const RARE: bool = false;
    /// See [`Rule`].
    const RULE: Rule = Rule::Whole;
    type A: Copy;
    type B: Copy;
    type C: Copy;
    type D: Copy + Default;
    fn f(a: Self::A, b: Self::B, c: Self::C) -> Self::D;
}
/// A comparison: one bit for each lane.
pub(crate) trait Cmp {
    /// See [`Exec::RARE`].
    const RARE: bool = false;
    type A: Copy;
    fn f(a: Self::A, b: Self::A) -> bool;
}

pub(crate) struct UnOp<O>(PhantomData<O>);
impl<O: Un> Exec for UnOp<O> {
    const RARE: bool = O::RARE;
    const RULE: Rule = O::RULE;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the widths of `O`.
        unsafe {
            let [d, a, ..] = (*op).r;
            let a = &*cx.at::<O::A>(a);
            let out = lanes!(i => O::f(a[i]));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

pub(crate) struct BinOp<O>(PhantomData<O>);
impl<O: Bin> Exec for BinOp<O> {
    const RARE: bool = O::RARE;
    const RULE: Rule = O::RULE;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the widths of `O`.
        unsafe {
            let [d, a, b, _] = (*op).r;
            let a = &*cx.at::<O::A>(a);
            let b = &*cx.at::<O::B>(b);
            let out = lanes!(i => O::f(a[i], b[i]));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

pub(crate) struct TriOp<O>(PhantomData<O>);
impl<O: Tri> Exec for TriOp<O> {
    const RARE: bool = O::RARE;
    const RULE: Rule = O::RULE;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the widths of `O`.
        unsafe {
            let [d, a, b, c] = (*op).r;
            let a = &*cx.at::<O::A>(a);
            let b = &*cx.at::<O::B>(b);
            let c = &*cx.at::<O::C>(c);
            let out = lanes!(i => O::f(a[i], b[i], c[i]));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

/// The top bits of 32 bytes.
#[inline(always)]
pub(crate) fn lane_mask(bytes: &L<u8>) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE2; the two loads cover the 32 bytes.
    unsafe {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_movemask_epi8};
        let low = _mm_movemask_epi8(_mm_loadu_si128(bytes.as_ptr().cast()));
        let high = _mm_movemask_epi8(_mm_loadu_si128(bytes.as_ptr().add(16).cast()));
        low as u32 | (high as u32) << 16
    }
    #[cfg(not(target_arch = "x86_64"))]
    bytes.iter().enumerate().fold(0, |mask, (i, b)| mask | u32::from(b >> 7) << i)
}

/// `setp`: r = p, q (or the sink), a, b; imm = combination (see [`combine`]) with the third source in `aux`.
pub(crate) struct SetpOp<O>(PhantomData<O>);
impl<O: Cmp> Exec for SetpOp<O> {
    const RARE: bool = O::RARE;
    const RULE: Rule = Rule::Compare;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the width of `O`.
        unsafe {
            let [p, q, a, b] = (*op).r;
            let a = &*cx.at::<O::A>(a);
            let b = &*cx.at::<O::A>(b);
            let bits = lanes!(i => if O::f(a[i], b[i]) { 0xffu8 } else { 0 });
            let mask = lane_mask(&bits.0);
            let imm = (*op).imm;
            if imm == 0 {
                cx.set_pred(p, mask);
                if q != 0 {
                    cx.set_pred(q, !mask);
                }
            } else {
                let c = cx.pred((*op).aux) ^ if imm & 8 != 0 { FULL } else { 0 };
                cx.set_pred(p, combine(imm & 3, mask, c));
                if q != 0 {
                    cx.set_pred(q, combine(imm & 3, !mask, c));
                }
            }
            op.add(1)
        }
    }
}

/// The boolean operation of `setp.cmp.op`: 1 and, 2 or, 3 xor.
#[inline(always)]
pub(crate) fn combine(how: i64, a: u32, c: u32) -> u32 {
    match how {
        1 => a & c,
        2 => a | c,
        3 => a ^ c,
        _ => a,
    }
}

/// `selp d, a, b, p`: r = d, a, b, p; imm = 1 when p is negated.
pub(crate) struct SelpOp<T>(PhantomData<T>);
impl<T: Bits> Exec for SelpOp<T> {
    const RULE: Rule = Rule::Select;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the width of `T`.
        unsafe {
            let [d, a, b, p] = (*op).r;
            let mask = cx.pred(p) ^ if (*op).imm != 0 { FULL } else { 0 };
            let a = &*cx.at::<T>(a);
            let b = &*cx.at::<T>(b);
            let out = lanes!(i => T::choose(mask >> i & 1, a[i], b[i]));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

/// `mov` between registers of one width.
pub(crate) struct MovOp<T>(PhantomData<T>);
impl<T: Copy> Exec for MovOp<T> {
    const RULE: Rule = Rule::Moves(0);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the width of `T`.
        unsafe {
            let [d, a, ..] = (*op).r;
            let value = cx.get::<T>(a);
            cx.put(d, &value);
            op.add(1)
        }
    }
}

/// Predicate logic: r = d, a, b; imm = truth table of (a, b) plus 16 times the negations.
pub(crate) struct PredOp;
impl Exec for PredOp {
    const RARE: bool = true;
    const RULE: Rule = Rule::Predicates;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the operands are predicates.
        unsafe {
            let [d, a, b, _] = (*op).r;
            let imm = (*op).imm;
            let a = cx.pred(a) ^ if imm & 16 != 0 { FULL } else { 0 };
            let b = cx.pred(b) ^ if imm & 32 != 0 { FULL } else { 0 };
            let value = match imm & 15 {
                0 => a,
                1 => a & b,
                2 => a | b,
                3 => a ^ b,
                _ => !a,
            };
            cx.set_pred(d, value);
            op.add(1)
        }
    }
}

/// A constant predicate: r = d; imm = 0 or 1.
pub(crate) struct PredConst;
impl Exec for PredConst {
    const RARE: bool = true;
    const RULE: Rule = Rule::Constant;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the operand is a predicate.
        unsafe {
            cx.set_pred((*op).r[0], if (*op).imm != 0 { FULL } else { 0 });
            op.add(1)
        }
    }
}

/// `mov.b64 d, {a, b}` and its kin: joins `N` parts of width `P` into `T`; operands d, parts… in the list.
pub(crate) struct Join<T, P, const N: usize>(PhantomData<(T, P)>);
impl<T: Bits, P: Bits, const N: usize> Exec for Join<T, P, N> {
    const RULE: Rule = Rule::MovesList(0);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the list holds 1 + N operands of these widths.
        unsafe {
            let mut out = [0u64; WARP];
            for part in 0..N {
                let src = &*cx.at::<P>(cx.list(op, 1 + part));
                for i in 0..WARP {
                    out[i] |= src[i].bits() << (part * size_of::<P>() * 8);
                }
            }
            let narrow = lanes!(i => T::from_bits(out[i]));
            let d = cx.list(op, 0);
            cx.put(d, &narrow.0);
            op.add(1)
        }
    }
}

/// `mov.b64 {a, b}, s`: the reverse; operands parts…, s. A part without a register is `NO_SLOT`.
pub(crate) struct Split<T, P, const N: usize>(PhantomData<(T, P)>);
impl<T: Bits, P: Bits, const N: usize> Exec for Split<T, P, N> {
    const RULE: Rule = Rule::MovesList(0);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the list holds N + 1 operands of these widths.
        unsafe {
            let src = cx.get::<T>(cx.list(op, N));
            for part in 0..N {
                let d = cx.list(op, part);
                if d != NO_SLOT {
                    let out = lanes!(i => P::from_bits(src[i].bits() >> (part * size_of::<P>() * 8)));
                    cx.put(d, &out.0);
                }
            }
            op.add(1)
        }
    }
}

/// Lane types as plain bits.
pub(crate) trait Bits: Copy + Default {
    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    /// `a` when the bit is 1, `b` when it is 0, without a branch.
    fn choose(bit: u32, a: Self, b: Self) -> Self;
}
macro_rules! bits {
    ($($t:ty)*) => {$(
        impl Bits for $t {
            #[inline(always)]
            fn bits(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_bits(bits: u64) -> $t {
                bits as $t
            }
            #[inline(always)]
            fn choose(bit: u32, a: $t, b: $t) -> $t {
                let other = (bit as $t).wrapping_sub(1);
                a & !other | b & other
            }
        }
    )*};
}
bits!(u8 u16 u32 u64);

/// `bfi`: list = d, a, b, position, length.
pub(crate) struct Bfi<T>(PhantomData<T>);
impl<T: Bits> Exec for Bfi<T> {
    const RARE: bool = false;
    const RULE: Rule = Rule::MovesList(0b11000);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the list holds five operands of these widths.
        unsafe {
            let a = &*cx.at::<T>(cx.list(op, 1));
            let b = &*cx.at::<T>(cx.list(op, 2));
            let pos = &*cx.at::<u32>(cx.list(op, 3));
            let len = &*cx.at::<u32>(cx.list(op, 4));
            let out = lanes!(i => if size_of::<T>() == 4 {
                T::from_bits(u64::from(crate::math::int::bfi_b32(
                    a[i].bits() as u32,
                    b[i].bits() as u32,
                    pos[i],
                    len[i],
                )))
            } else {
                T::from_bits(crate::math::int::bfi_b64(a[i].bits(), b[i].bits(), pos[i], len[i]))
            });
            let d = cx.list(op, 0);
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

/// Addition or subtraction with carry: r = d, a, b, carry predicate; imm bit 0 = subtract, 1 = takes the carry, 2 = gives it.
///
/// A subtraction is `a + !b + carry`, and its carry out is 1 when there was *no* borrow. The manual speaks of borrow-in and borrow-out, which is
/// the same within a chain of subtractions; but the compiler's own 128-bit division reads the flag of `subc.cc` with `addc`, and the assembler
/// hands it the carry of the sum.
pub(crate) struct Carry<T>(PhantomData<T>);
impl<T: Bits> Exec for Carry<T> {
    const RARE: bool = true;
    const RULE: Rule = Rule::Carry;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with the width of `T`.
        unsafe {
            let [d, a, b, p] = (*op).r;
            let imm = (*op).imm;
            let (a, b) = (cx.get::<T>(a), cx.get::<T>(b));
            let (subtract, takes) = (imm & 1 != 0, imm & 2 != 0);
            let carry = match (takes, subtract) {
                (true, _) => cx.pred(p),
                (false, true) => FULL,
                _ => 0,
            };
            let limit = 8 * size_of::<T>() as u32;
            let invert = if subtract { u64::MAX >> (64 - limit) } else { 0 };
            let mut out = [T::default(); WARP];
            let mut given = 0;
            for i in 0..WARP {
                let (x, y) = (u128::from(a[i].bits()), u128::from(b[i].bits() ^ invert));
                let sum = x + y + u128::from(carry >> i & 1);
                out[i] = T::from_bits(sum as u64);
                given |= ((sum >> limit) as u32 & 1) << i;
            }
            cx.put(d, &out);
            if imm & 4 != 0 {
                cx.set_pred(p, given);
            }
            op.add(1)
        }
    }
}

/// `lop3` with any table: imm.
pub(crate) struct Lop3Any;
impl Exec for Lop3Any {
    const RULE: Rule = Rule::Bits(None);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands are 32 bits wide.
        unsafe {
            let [d, a, b, c] = (*op).r;
            let table = (*op).imm as u8;
            let (a, b, c) = (&*cx.at::<u32>(a), &*cx.at::<u32>(b), &*cx.at::<u32>(c));
            let out = lanes!(i => lop3(a[i], b[i], c[i], table));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

/// Video instructions: list = d, a, b, c, four words that describe what is done.
pub(crate) struct VideoOp;
impl Exec for VideoOp {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: the list holds four operands of 32 bits and four literals.
        unsafe {
            let [d, a, b, c] = std::array::from_fn(|i| cx.list(op, i));
            let video = crate::math::video::Video::from_words(std::array::from_fn(|i| cx.list(op, 4 + i)));
            let (a, b, c) = (&*cx.at::<u32>(a), &*cx.at::<u32>(b), &*cx.at::<u32>(c));
            let out = lanes!(i => video.eval(a[i], b[i], c[i]));
            cx.put(d, &out.0);
            op.add(1)
        }
    }
}

/// Both halves of a packed pair.
#[inline(always)]
pub(crate) fn halves1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}

#[inline(always)]
pub(crate) fn halves2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

#[inline(always)]
pub(crate) fn halves3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16, c as u16))
        | u32::from(f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
}
