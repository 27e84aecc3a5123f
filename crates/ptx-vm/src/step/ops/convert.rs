//! Conversions: generic over types and modes, through what the mathematics offers.

use super::float::{ftz, round};
use crate::ir::Rule;
use crate::math;
use crate::math::cvt::{Int, RoundInt};
use crate::math::f16::{Bf16, F16};
use crate::step::alu::{Bin, Tri, Un};

macro_rules! conversions {
    ($rule:expr; $($name:ident($a:ident: $at:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Un for $name {
            const RULE: Rule = $rule;
            type A = $at;
            type D = $d;
            #[inline(always)]
            fn f($a: $at) -> $d { $e }
        }
    )*};
}
conversions! {
    Rule::Moves(0);
    Zext16To32(a: u16) -> u32 = u32::from(a);
    Sext16To32(a: i16) -> i32 = i32::from(a);
    Zext16To64(a: u16) -> u64 = u64::from(a);
    Sext16To64(a: i16) -> i64 = i64::from(a);
    Zext32To64(a: u32) -> u64 = u64::from(a);
    Sext32To64(a: i32) -> i64 = i64::from(a);
    Trunc64To32(a: u64) -> u32 = a as u32;
    Trunc64To16(a: u64) -> u16 = a as u16;
    Trunc32To16(a: u32) -> u16 = a as u16;
    Sext8To16(a: u16) -> i16 = i16::from(a as u8 as i8);
    Zext8To16(a: u16) -> u16 = a & 0xff;
}
conversions! {
    Rule::Whole;
    F16ToF32(a: u16) -> f32 = math::f16::f16_to_f32(a);
    Bf16ToF32(a: u16) -> f32 = math::f16::bf16_to_f32(a);
    F16ToF64(a: u16) -> f64 = f64::from(math::f16::f16_to_f32(a));
    Bf16ToF64(a: u16) -> f64 = f64::from(math::f16::bf16_to_f32(a));
    F32ToF64(a: f32) -> f64 = math::cvt::f32_to_f64(a);
    ReluHalfF16(a: u16) -> u16 = math::f16::relu::<F16>(a);
    ReluHalfBf16(a: u16) -> u16 = math::f16::relu::<Bf16>(a);
    FlushF32(a: f32) -> f32 = ftz(a);
}

/// The rounding to an integer of a constant parameter: 0 nearest, 1 zero, 2 down, 3 up.
#[inline(always)]
const fn round_int(mode: u8) -> RoundInt {
    match mode {
        0 => RoundInt::Nearest,
        1 => RoundInt::Zero,
        2 => RoundInt::Down,
        _ => RoundInt::Up,
    }
}

/// A conversion's source as a lane type.
type Ph<T> = std::marker::PhantomData<T>;

macro_rules! generic_conversions {
    ($($(#[rare($rare:expr)])? $name:ident<$($g:ident: $b:path),*; $($c:ident: $ct:ty),*>($a:ident: $at:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name<$($g,)* $(const $c: $ct),*>(Ph<($($g,)*)>);
        impl<$($g: $b + Copy + Default,)* $(const $c: $ct),*> Un for $name<$($g,)* $($c),*> {
            const RARE: bool = generic_conversions!(@ $($rare)?);
            type A = $at;
            type D = $d;
            #[inline(always)]
            fn f($a: $at) -> $d { $e }
        }
    )*};
    (@ $rare:expr) => { $rare };
    (@) => { true };
}
generic_conversions! {
    #[rare(size_of::<D>() != 4)] F32ToInt<D: Int; M: u8>(a: f32) -> D = math::cvt::f32_to_int::<D>(a, round_int(M));
    F64ToInt<D: Int; M: u8>(a: f64) -> D = math::cvt::f64_to_int::<D>(a, round_int(M));
    #[rare(size_of::<S>() != 4 || M != 0)] IntToF32<S: Int; M: u8>(a: S) -> f32 = math::cvt::int_to_f32(a, round(M));
    IntToF64<S: Int; M: u8>(a: S) -> f64 = math::cvt::int_to_f64(a, round(M));
    IntToHalf<S: Int; M: u8, B: bool>(a: S) -> u16 = if B { math::cvt::int_to_half::<S, Bf16>(a, round(M)) } else { math::cvt::int_to_half::<S, F16>(a, round(M)) };
    Clamp<S: Int, D: Int; >(a: S) -> D = math::cvt::saturate::<S, D>(a);
    #[rare(M != 0 || F)] F32ToHalf<; M: u8, B: bool, F: bool>(a: f32) -> u16 = if B { math::f16::narrow::<Bf16>(a, round(M), F) } else { math::f16::narrow::<F16>(a, round(M), F) };
    F64ToHalf<; M: u8, B: bool>(a: f64) -> u16 = if B { math::cvt::f64_to_half::<Bf16>(a, round(M)) } else { math::cvt::f64_to_half::<F16>(a, round(M)) };
    F64ToF32<; M: u8>(a: f64) -> f32 = math::cvt::f64_to_f32(a, round(M));
    IntegralF32<; M: u8>(a: f32) -> f32 = math::cvt::integral_f32(a, round_int(M));
    IntegralF64<; M: u8>(a: f64) -> f64 = math::cvt::integral_f64(a, round_int(M));
    IntegralHalf<; M: u8, B: bool>(a: u16) -> u16 = if B { math::cvt::integral_half::<Bf16>(a, round_int(M)) } else { math::cvt::integral_half::<F16>(a, round_int(M)) };
}

/// `cvt.tf32.f32`: `M` 0 to nearest even, 1 toward zero, 2 to nearest and away from zero.
pub(crate) struct Tf32<const M: u8, const R: bool, const S: bool>;
impl<const M: u8, const RELU: bool, const FINITE: bool> Un for Tf32<M, RELU, FINITE> {
    type A = f32;
    type D = u32;
    #[inline(always)]
    fn f(a: f32) -> u32 {
        use math::cvt::RoundTf32;
        let round = match M {
            0 => RoundTf32::Nearest,
            1 => RoundTf32::Zero,
            _ => RoundTf32::NearestAway,
        };
        math::cvt::f32_to_tf32(a, round, RELU, FINITE)
    }
}

/// `cvt.rn.bf16x2.f32 d, a, b`.
pub(crate) struct PackHalf<const M: u8, const B: bool, const R: bool, const F: bool>;
impl<const M: u8, const BF: bool, const RELU: bool, const FINITE: bool> Bin for PackHalf<M, BF, RELU, FINITE> {
    const RULE: Rule = Rule::Pack;
    type A = f32;
    type B = f32;
    type D = u32;
    #[inline(always)]
    fn f(a: f32, b: f32) -> u32 {
        if BF {
            math::cvt::pack_half::<Bf16>(a, b, round(M), RELU, FINITE)
        } else {
            math::cvt::pack_half::<F16>(a, b, round(M), RELU, FINITE)
        }
    }
}

/// The 8-bit format of a constant parameter.
#[inline(always)]
const fn f8(e5: bool) -> math::cvt::F8 {
    if e5 { math::cvt::F8::E5M2 } else { math::cvt::F8::E4M3 }
}

/// `cvt.rn.satfinite.e4m3x2.f32 d, a, b`: `a` in the upper byte.
pub(crate) struct PackF8<const E5: bool, const R: bool>;
impl<const E5: bool, const RELU: bool> Bin for PackF8<E5, RELU> {
    type A = f32;
    type B = f32;
    type D = u16;
    #[inline(always)]
    fn f(a: f32, b: f32) -> u16 {
        let one = |x| u16::from(math::cvt::f32_to_f8(f8(E5), x, RELU));
        one(b) | one(a) << 8
    }
}
/// `cvt.rn.satfinite.e4m3x2.f16x2`.
pub(crate) struct NarrowF8<const E5: bool, const R: bool>;
impl<const E5: bool, const RELU: bool> Un for NarrowF8<E5, RELU> {
    const RARE: bool = true;
    type A = u32;
    type D = u16;
    #[inline(always)]
    fn f(a: u32) -> u16 {
        let half = |h| math::f16::f16_to_f32(h);
        PackF8::<E5, RELU>::f(half((a >> 16) as u16), half(a as u16))
    }
}
/// `cvt.rn.f16x2.e4m3x2`.
pub(crate) struct UnpackF8<const E5: bool, const R: bool>;
impl<const E5: bool, const RELU: bool> Un for UnpackF8<E5, RELU> {
    type A = u16;
    type D = u32;
    #[inline(always)]
    fn f(a: u16) -> u32 {
        let one = |x: u8| {
            let h = math::cvt::f8_to_f16(f8(E5), x);
            u32::from(if RELU { math::f16::relu::<F16>(h) } else { h })
        };
        one(a as u8) | one((a >> 8) as u8) << 16
    }
}

generic_conversions! {
    ClampTo8<S: Int; SIGNED: bool>(a: S) -> u16 = if SIGNED { math::cvt::saturate::<S, i8>(a) as i16 as u16 } else { u16::from(math::cvt::saturate::<S, u8>(a)) };
    F32To8<; M: u8, SIGNED: bool>(a: f32) -> u16 = if SIGNED { math::cvt::f32_to_int::<i8>(a, round_int(M)) as i16 as u16 } else { u16::from(math::cvt::f32_to_int::<u8>(a, round_int(M))) };
    F64To8<; M: u8, SIGNED: bool>(a: f64) -> u16 = if SIGNED { math::cvt::f64_to_int::<i8>(a, round_int(M)) as i16 as u16 } else { u16::from(math::cvt::f64_to_int::<u8>(a, round_int(M))) };
}

/// `cvt.pack.sat.u16.s32`: `a` above `b`.
pub(crate) struct Pack16<const S: bool>;
impl<const S: bool> Tri for Pack16<S> {
    type A = i32;
    type B = i32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: i32, b: i32, _: u32) -> u32 {
        let one = |x: i32| if S { x.clamp(-32768, 32767) as u32 & 0xffff } else { x.clamp(0, 65535) as u32 };
        one(a) << 16 | one(b)
    }
}
/// `cvt.pack.sat.u8.s32.b32` and narrower: `a` above `b`, of `N` bits each, below `c` shifted up.
pub(crate) struct PackBits<const N: u32, const S: bool>;
impl<const N: u32, const S: bool> Tri for PackBits<N, S> {
    type A = i32;
    type B = i32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: i32, b: i32, c: u32) -> u32 {
        let (low, high) = if S { (-(1 << (N - 1)), (1 << (N - 1)) - 1) } else { (0, (1 << N) - 1) };
        let one = |x: i32| x.clamp(low, high) as u32 & ((1 << N) - 1);
        c << (2 * N) | one(a) << N | one(b)
    }
}
