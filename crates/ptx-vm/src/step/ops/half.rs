//! Operations on f16 and bf16, packed or not.

use crate::ir::Rule;
use crate::math;
use crate::step::alu::{Bin, Cmp, Tri, Un, halves1, halves2, halves3};

/// An f32 operation on f16 (`B` false) or bf16 values, rounded once.
pub(crate) struct Half<O, const B: bool>(std::marker::PhantomData<O>);
/// The same on both halves of a register.
pub(crate) struct Half2<O, const B: bool>(std::marker::PhantomData<O>);

#[inline(always)]
pub(crate) fn widen<const B: bool>(h: u16) -> f32 {
    if B { math::f16::bf16_to_f32(h) } else { math::f16::f16_to_f32(h) }
}
#[inline(always)]
pub(crate) fn narrow<const B: bool>(x: f32) -> u16 {
    if B { math::f16::f32_to_bf16(x) } else { math::f16::f32_to_f16(x) }
}
impl<O: Un<A = f32, D = f32>, const B: bool> Un for Half<O, B> {
    const RARE: bool = O::RARE;
    type A = u16;
    type D = u16;
    #[inline(always)]
    fn f(a: u16) -> u16 {
        narrow::<B>(O::f(widen::<B>(a)))
    }
}
impl<O: Bin<A = f32, B = f32, D = f32>, const B: bool> Bin for Half<O, B> {
    const RARE: bool = O::RARE;
    type A = u16;
    type B = u16;
    type D = u16;
    #[inline(always)]
    fn f(a: u16, b: u16) -> u16 {
        narrow::<B>(O::f(widen::<B>(a), widen::<B>(b)))
    }
}
impl<O: Cmp<A = f32>, const B: bool> Cmp for Half<O, B> {
    const RARE: bool = true;
    type A = u16;
    #[inline(always)]
    fn f(a: u16, b: u16) -> bool {
        O::f(widen::<B>(a), widen::<B>(b))
    }
}
impl<O: Un<A = f32, D = f32>, const B: bool> Un for Half2<O, B> {
    const RARE: bool = O::RARE;
    const RULE: Rule = Rule::Halves;
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32) -> u32 {
        halves1(a, Half::<O, B>::f)
    }
}
impl<O: Bin<A = f32, B = f32, D = f32>, const B: bool> Bin for Half2<O, B> {
    const RARE: bool = O::RARE;
    const RULE: Rule = Rule::Halves;
    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32) -> u32 {
        halves2(a, b, <Half<O, B> as Bin>::f)
    }
}

/// `.xorsign.abs` of halves: an operation on the magnitudes, then the product of the signs. On bits, because widening drops the sign of NaN.
pub(crate) struct HalfXor<O, const B: bool>(std::marker::PhantomData<O>);
/// The same on both halves of a register.
pub(crate) struct HalfXor2<O, const B: bool>(std::marker::PhantomData<O>);
impl<O: Bin<A = f32, B = f32, D = f32>, const B: bool> Bin for HalfXor<O, B> {
    const RARE: bool = true;
    type A = u16;
    type B = u16;
    type D = u16;
    #[inline(always)]
    fn f(a: u16, b: u16) -> u16 {
        let magnitude = <Half<O, B> as Bin>::f(a & 0x7fff, b & 0x7fff);
        if magnitude > if B { 0x7f80 } else { 0x7c00 } { magnitude } else { magnitude | (a ^ b) & 0x8000 }
    }
}
impl<O: Bin<A = f32, B = f32, D = f32>, const B: bool> Bin for HalfXor2<O, B> {
    const RARE: bool = true;
    const RULE: Rule = Rule::Halves;
    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32) -> u32 {
        halves2(a, b, <HalfXor<O, B> as Bin>::f)
    }
}

/// `.ftz` of f16: subnormal operands and results become zeros of their sign.
pub(crate) struct FtzHalf<O>(std::marker::PhantomData<O>);
/// The same for packed pairs.
pub(crate) struct FtzHalf2<O>(std::marker::PhantomData<O>);

#[inline(always)]
fn ftz_half(a: u16) -> u16 {
    math::f16::ftz::<math::f16::F16>(a)
}
#[inline(always)]
fn ftz_half2(a: u32) -> u32 {
    halves1(a, ftz_half)
}
macro_rules! ftz_half {
    ($($wrapper:ident, $t:ty, $flush:expr;)*) => {$(
        impl<O: Un<A = $t, D = $t>> Un for $wrapper<O> {
            const RARE: bool = true;
            const RULE: Rule = O::RULE;
            type A = $t;
            type D = $t;
            #[inline(always)]
            fn f(a: $t) -> $t {
                $flush(O::f($flush(a)))
            }
        }
        impl<O: Bin<A = $t, B = $t, D = $t>> Bin for $wrapper<O> {
            const RARE: bool = true;
            const RULE: Rule = O::RULE;
            type A = $t;
            type B = $t;
            type D = $t;
            #[inline(always)]
            fn f(a: $t, b: $t) -> $t {
                $flush(O::f($flush(a), $flush(b)))
            }
        }
        impl<O: Tri<A = $t, B = $t, C = $t, D = $t>> Tri for $wrapper<O> {
            const RARE: bool = true;
            const RULE: Rule = O::RULE;
            type A = $t;
            type B = $t;
            type C = $t;
            type D = $t;
            #[inline(always)]
            fn f(a: $t, b: $t, c: $t) -> $t {
                $flush(O::f($flush(a), $flush(b), $flush(c)))
            }
        }
    )*};
}
ftz_half! {
    FtzHalf, u16, ftz_half;
    FtzHalf2, u32, ftz_half2;
}
impl<O: Cmp<A = u16>> Cmp for FtzHalf<O> {
    const RARE: bool = true;
    type A = u16;
    #[inline(always)]
    fn f(a: u16, b: u16) -> bool {
        O::f(ftz_half(a), ftz_half(b))
    }
}

/// Half-precision `fma`, rounded once. `R` adds relu, `S` saturates.
pub(crate) struct HalfFma<const B: bool, const R: bool, const S: bool>;
impl<const B: bool, const R: bool, const S: bool> Tri for HalfFma<B, R, S> {
    type A = u16;
    type B = u16;
    type C = u16;
    type D = u16;
    #[inline(always)]
    fn f(a: u16, b: u16, c: u16) -> u16 {
        use math::f16::{Bf16, F16};
        let h = if B { math::f16::fma::<Bf16>(a, b, c) } else { math::f16::fma::<F16>(a, b, c) };
        let h = if S { if B { math::f16::sat::<Bf16>(h) } else { math::f16::sat::<F16>(h) } } else { h };
        if R { if B { math::f16::relu::<Bf16>(h) } else { math::f16::relu::<F16>(h) } } else { h }
    }
}
pub(crate) struct HalfFma2<const B: bool, const R: bool, const S: bool>;
impl<const B: bool, const R: bool, const S: bool> Tri for HalfFma2<B, R, S> {
    const RULE: Rule = Rule::Halves;

    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        halves3(a, b, c, HalfFma::<B, R, S>::f)
    }
}

un! {
    NegHalf(a: u16) -> u16 = a ^ 0x8000;
    AbsHalf(a: u16) -> u16 = a & 0x7fff;
    SatHalf(a: u16) -> u16 = math::f16::sat::<math::f16::F16>(a);
}
un! { @rare
    // `wmma` with `.satfinite`: infinities become the greatest numbers, NaN becomes +0.
    FiniteOrZeroF32(a: f32) -> f32 = if a.is_nan() { 0.0 } else { a.clamp(f32::MIN, f32::MAX) };
}
