//! The operations on one lane, by name. Each is a type, so that [`super::alu`] can compile a loop around it.

use super::alu::{Bin, Cmp, Tri, Un};
use super::op::Rule;
use crate::math;

macro_rules! un {
    (@rare @rule($r:expr) $($t:tt)*) => { un!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { un!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { un!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Un for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type D = $d;
            #[inline(always)]
            fn f($a: $at) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { un!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! bin {
    (@rare @rule($r:expr) $($t:tt)*) => { bin!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { bin!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { bin!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty, $b:ident: $bt:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Bin for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type B = $bt;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { bin!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! tri {
    (@rare @rule($r:expr) $($t:tt)*) => { tri!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { tri!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { tri!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty, $b:ident: $bt:ty, $c:ident: $ct:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Tri for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type B = $bt;
            type C = $ct;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt, $c: $ct) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { tri!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! cmp {
    (@rare $($t:tt)*) => { cmp!(@ true $($t)*); };
    (@ $rare:literal $($name:ident($a:ident, $b:ident: $t:ty) = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Cmp for $name {
            const RARE: bool = $rare;
            type A = $t;
            #[inline(always)]
            fn f($a: $t, $b: $t) -> bool { $e }
        }
    )*};
    ($($t:tt)*) => { cmp!(@ false $($t)*); };
}

// ---- helpers --------------------------------------------------------------------------------------------------------

use math::float::{Extremum, Round};
pub(crate) use math::float::{ftz, sat, sat_f64 as sat64};

/// The rounding mode of a constant parameter: 0 nearest, 1 zero, 2 down, 3 up.
#[inline(always)]
pub(crate) const fn round(mode: u8) -> Round {
    match mode {
        0 => Round::Nearest,
        1 => Round::Zero,
        2 => Round::Down,
        _ => Round::Up,
    }
}

/// Both halves of a packed pair.
#[inline(always)]
fn halves1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}
#[inline(always)]
fn halves2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}
#[inline(always)]
fn halves3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16, c as u16))
        | u32::from(f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
}

// ---- integers -------------------------------------------------------------------------------------------------------

bin! {
    Add16(a: u16, b: u16) -> u16 = a.wrapping_add(b);
    Add32(a: u32, b: u32) -> u32 = a.wrapping_add(b);
    Add64(a: u64, b: u64) -> u64 = a.wrapping_add(b);
    Sub16(a: u16, b: u16) -> u16 = a.wrapping_sub(b);
    Sub32(a: u32, b: u32) -> u32 = a.wrapping_sub(b);
    Sub64(a: u64, b: u64) -> u64 = a.wrapping_sub(b);
    Mul16(a: u16, b: u16) -> u16 = a.wrapping_mul(b);
    Mul32(a: u32, b: u32) -> u32 = a.wrapping_mul(b);
    Mul64(a: u64, b: u64) -> u64 = a.wrapping_mul(b);
    MulHiU32(a: u32, b: u32) -> u32 = (u64::from(a) * u64::from(b) >> 32) as u32;
    MulHiS32(a: i32, b: i32) -> i32 = (i64::from(a) * i64::from(b) >> 32) as i32;
    MulWideU32(a: u32, b: u32) -> u64 = u64::from(a) * u64::from(b);
    MulWideS32(a: i32, b: i32) -> i64 = i64::from(a) * i64::from(b);
    MinU32(a: u32, b: u32) -> u32 = a.min(b);
    MinS32(a: i32, b: i32) -> i32 = a.min(b);
    MinU64(a: u64, b: u64) -> u64 = a.min(b);
    MinS64(a: i64, b: i64) -> i64 = a.min(b);
    MaxU32(a: u32, b: u32) -> u32 = a.max(b);
    MaxS32(a: i32, b: i32) -> i32 = a.max(b);
    MaxU64(a: u64, b: u64) -> u64 = a.max(b);
    MaxS64(a: i64, b: i64) -> i64 = a.max(b);
}
bin! { @rare
    AddSatS32(a: i32, b: i32) -> i32 = a.saturating_add(b);
    SubSatS32(a: i32, b: i32) -> i32 = a.saturating_sub(b);
    MulHiU16(a: u16, b: u16) -> u16 = (u32::from(a) * u32::from(b) >> 16) as u16;
    MulHiS16(a: i16, b: i16) -> i16 = (i32::from(a) * i32::from(b) >> 16) as i16;
    MulHiU64(a: u64, b: u64) -> u64 = (u128::from(a) * u128::from(b) >> 64) as u64;
    MulHiS64(a: i64, b: i64) -> i64 = (i128::from(a) * i128::from(b) >> 64) as i64;
    MulWideU16(a: u16, b: u16) -> u32 = u32::from(a) * u32::from(b);
    MulWideS16(a: i16, b: i16) -> i32 = i32::from(a) * i32::from(b);
    Mul24LoU(a: u32, b: u32) -> u32 = (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff);
    Mul24LoS(a: i32, b: i32) -> i32 = (a << 8 >> 8).wrapping_mul(b << 8 >> 8);
    Mul24HiU(a: u32, b: u32) -> u32 = (u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff) >> 16) as u32;
    Mul24HiS(a: i32, b: i32) -> i32 = (i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8) >> 16) as i32;
    DivU16(a: u16, b: u16) -> u16 = a.checked_div(b).unwrap_or(!0);
    DivS16(a: i16, b: i16) -> i16 = if b == 0 { -1 } else { a.wrapping_div(b) };
    DivU32(a: u32, b: u32) -> u32 = a.checked_div(b).unwrap_or(!0);
    DivS32(a: i32, b: i32) -> i32 = if b == 0 { -1 } else { a.wrapping_div(b) };
    DivU64(a: u64, b: u64) -> u64 = a.checked_div(b).unwrap_or(!0);
    DivS64(a: i64, b: i64) -> i64 = if b == 0 { -1 } else { a.wrapping_div(b) };
    RemU16(a: u16, b: u16) -> u16 = a.checked_rem(b).unwrap_or(a);
    RemS16(a: i16, b: i16) -> i16 = if b == 0 { a } else { a.wrapping_rem(b) };
    RemU32(a: u32, b: u32) -> u32 = a.checked_rem(b).unwrap_or(a);
    RemS32(a: i32, b: i32) -> i32 = if b == 0 { a } else { a.wrapping_rem(b) };
    RemU64(a: u64, b: u64) -> u64 = a.checked_rem(b).unwrap_or(a);
    RemS64(a: i64, b: i64) -> i64 = if b == 0 { a } else { a.wrapping_rem(b) };
    MinU16(a: u16, b: u16) -> u16 = a.min(b);
    MinS16(a: i16, b: i16) -> i16 = a.min(b);
    MaxU16(a: u16, b: u16) -> u16 = a.max(b);
    MaxS16(a: i16, b: i16) -> i16 = a.max(b);
    Bmsk(a: u32, b: u32) -> u32 = math::int::bmsk(a, b, true);
    BmskWrap(a: u32, b: u32) -> u32 = math::int::bmsk(a, b, false);
    SzextU(a: u32, b: u32) -> u32 = math::int::szext(false, a, b, true);
    SzextS(a: u32, b: u32) -> u32 = math::int::szext(true, a, b, true);
    SzextUWrap(a: u32, b: u32) -> u32 = math::int::szext(false, a, b, false);
    SzextSWrap(a: u32, b: u32) -> u32 = math::int::szext(true, a, b, false);
}
un! {
    Neg16(a: u16) -> u16 = a.wrapping_neg();
    Neg32(a: u32) -> u32 = a.wrapping_neg();
    Neg64(a: u64) -> u64 = a.wrapping_neg();
    Abs32(a: i32) -> i32 = a.wrapping_abs();
    Popc32(a: u32) -> u32 = a.count_ones();
    Clz32(a: u32) -> u32 = a.leading_zeros();
}
un! { @rare
    Cnot16(a: u16) -> u16 = u16::from(a == 0);
    Cnot32(a: u32) -> u32 = u32::from(a == 0);
    Cnot64(a: u64) -> u64 = u64::from(a == 0);
    Abs16(a: i16) -> i16 = a.wrapping_abs();
    Abs64(a: i64) -> i64 = a.wrapping_abs();
    Popc64(a: u64) -> u32 = a.count_ones();
    Clz64(a: u64) -> u32 = a.leading_zeros();
    BfindU32(a: u32) -> u32 = 31u32.wrapping_sub(a.leading_zeros());
    BfindS32(a: i32) -> u32 = 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros());
    BfindU64(a: u64) -> u32 = 63u32.wrapping_sub(a.leading_zeros());
    BfindS64(a: i64) -> u32 = 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros());
    BfindShU32(a: u32) -> u32 = if a == 0 { !0 } else { a.leading_zeros() };
    BfindShS32(a: i32) -> u32 = { let b = a ^ (a >> 31); if b == 0 { !0 } else { b.leading_zeros() } };
    BfindShU64(a: u64) -> u32 = if a == 0 { !0 } else { a.leading_zeros() };
    BfindShS64(a: i64) -> u32 = { let b = a ^ (a >> 63); if b == 0 { !0 } else { b.leading_zeros() } };
}
tri! {
    Mad16(a: u16, b: u16, c: u16) -> u16 = a.wrapping_mul(b).wrapping_add(c);
    Mad32(a: u32, b: u32, c: u32) -> u32 = a.wrapping_mul(b).wrapping_add(c);
    Mad64(a: u64, b: u64, c: u64) -> u64 = a.wrapping_mul(b).wrapping_add(c);
    MadWideU32(a: u32, b: u32, c: u64) -> u64 = (u64::from(a) * u64::from(b)).wrapping_add(c);
    MadWideS32(a: i32, b: i32, c: i64) -> i64 = (i64::from(a) * i64::from(b)).wrapping_add(c);
    Dp4aUU(a: u32, b: u32, c: u32) -> u32 = math::int::dp4a(false, false, a, b, c);
    Dp4aSS(a: u32, b: u32, c: u32) -> u32 = math::int::dp4a(true, true, a, b, c);
    Dp4aSU(a: u32, b: u32, c: u32) -> u32 = math::int::dp4a(true, false, a, b, c);
    Dp4aUS(a: u32, b: u32, c: u32) -> u32 = math::int::dp4a(false, true, a, b, c);
}
tri! { @rare
    MadHiU32(a: u32, b: u32, c: u32) -> u32 = ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c);
    MadHiS32(a: i32, b: i32, c: i32) -> i32 = ((i64::from(a) * i64::from(b) >> 32) as i32).wrapping_add(c);
    MadHiSatS32(a: i32, b: i32, c: i32) -> i32 = ((i64::from(a) * i64::from(b) >> 32) as i32).saturating_add(c);
    MadHiU64(a: u64, b: u64, c: u64) -> u64 = ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c);
    MadHiS64(a: i64, b: i64, c: i64) -> i64 = ((i128::from(a) * i128::from(b) >> 64) as i64).wrapping_add(c);
    MadHiU16(a: u16, b: u16, c: u16) -> u16 = ((u32::from(a) * u32::from(b) >> 16) as u16).wrapping_add(c);
    MadHiS16(a: i16, b: i16, c: i16) -> i16 = ((i32::from(a) * i32::from(b) >> 16) as i16).wrapping_add(c);
    MadWideU16(a: u16, b: u16, c: u32) -> u32 = (u32::from(a) * u32::from(b)).wrapping_add(c);
    MadWideS16(a: i16, b: i16, c: i32) -> i32 = (i32::from(a) * i32::from(b)).wrapping_add(c);
    Mad24LoU(a: u32, b: u32, c: u32) -> u32 = (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c);
    Mad24LoS(a: i32, b: i32, c: i32) -> i32 = (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c);
    Mad24HiU(a: u32, b: u32, c: u32) -> u32 = ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff) >> 16) as u32).wrapping_add(c);
    Mad24HiS(a: i32, b: i32, c: i32) -> i32 = ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8) >> 16) as i32).wrapping_add(c);
    Mad24HiSatS(a: u32, b: u32, c: i32) -> i32 = (math::int::mul24_hi(true, a, b) as i32).saturating_add(c);
    SadU16(a: u16, b: u16, c: u16) -> u16 = c.wrapping_add(a.abs_diff(b));
    SadS16(a: i16, b: i16, c: u16) -> u16 = c.wrapping_add(a.abs_diff(b));
    SadU32(a: u32, b: u32, c: u32) -> u32 = c.wrapping_add(a.abs_diff(b));
    SadS32(a: i32, b: i32, c: u32) -> u32 = c.wrapping_add(a.abs_diff(b));
    SadU64(a: u64, b: u64, c: u64) -> u64 = c.wrapping_add(a.abs_diff(b));
    SadS64(a: i64, b: i64, c: u64) -> u64 = c.wrapping_add(a.abs_diff(b));
    Dp2aLoUU(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(false, false, false, a, b, c);
    Dp2aHiUU(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(false, false, true, a, b, c);
    Dp2aLoSS(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(true, true, false, a, b, c);
    Dp2aHiSS(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(true, true, true, a, b, c);
    Dp2aLoSU(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(true, false, false, a, b, c);
    Dp2aHiSU(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(true, false, true, a, b, c);
    Dp2aLoUS(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(false, true, false, a, b, c);
    Dp2aHiUS(a: u32, b: u32, c: u32) -> u32 = math::int::dp2a(false, true, true, a, b, c);
    Fns(a: u32, b: u32, c: u32) -> u32 = math::int::fns(a, b, c);
}

// Operations that only move bits, or work on bits in the same place, or on halves.
bin! { @rule(Rule::Bits(Some(0xc0)))
    And16(a: u16, b: u16) -> u16 = a & b;
    And32(a: u32, b: u32) -> u32 = a & b;
    And64(a: u64, b: u64) -> u64 = a & b;
}
bin! { @rule(Rule::Bits(Some(0xfc)))
    Or16(a: u16, b: u16) -> u16 = a | b;
    Or32(a: u32, b: u32) -> u32 = a | b;
    Or64(a: u64, b: u64) -> u64 = a | b;
}
bin! { @rule(Rule::Bits(Some(0x3c)))
    Xor16(a: u16, b: u16) -> u16 = a ^ b;
    Xor32(a: u32, b: u32) -> u32 = a ^ b;
    Xor64(a: u64, b: u64) -> u64 = a ^ b;
}
bin! { @rule(Rule::Moves(0b100))
    Shl16(a: u16, b: u32) -> u16 = if b > 15 { 0 } else { a << (b & 15) };
    Shl32(a: u32, b: u32) -> u32 = if b > 31 { 0 } else { a << (b & 31) };
    Shl64(a: u64, b: u32) -> u64 = if b > 63 { 0 } else { a << (b & 63) };
    ShrU16(a: u16, b: u32) -> u16 = if b > 15 { 0 } else { a >> (b & 15) };
    ShrU32(a: u32, b: u32) -> u32 = if b > 31 { 0 } else { a >> (b & 31) };
    ShrU64(a: u64, b: u32) -> u64 = if b > 63 { 0 } else { a >> (b & 63) };
    ShrS16(a: i16, b: u32) -> i16 = a >> b.min(15);
    ShrS32(a: i32, b: u32) -> i32 = a >> b.min(31);
    ShrS64(a: i64, b: u32) -> i64 = a >> b.min(63);
}
bin! { @rare @rule(Rule::Halves)
    Add16x2(a: u32, b: u32) -> u32 = halves2(a, b, |a, b| a.wrapping_add(b));
    MinU16x2(a: u32, b: u32) -> u32 = halves2(a, b, |a, b| a.min(b));
    MinS16x2(a: u32, b: u32) -> u32 = halves2(a, b, |a, b| (a as i16).min(b as i16) as u16);
    MaxU16x2(a: u32, b: u32) -> u32 = halves2(a, b, |a, b| a.max(b));
    MaxS16x2(a: u32, b: u32) -> u32 = halves2(a, b, |a, b| (a as i16).max(b as i16) as u16);
}
un! { @rule(Rule::Bits(Some(0x0f)))
    Not16(a: u16) -> u16 = !a;
    Not32(a: u32) -> u32 = !a;
    Not64(a: u64) -> u64 = !a;
}
un! { @rule(Rule::Moves(0))
    Brev32(a: u32) -> u32 = a.reverse_bits();
}
un! { @rare @rule(Rule::Moves(0))
    Brev64(a: u64) -> u64 = a.reverse_bits();
}
un! { @rule(Rule::Halves)
    NegHalf2(a: u32) -> u32 = a ^ 0x8000_8000;
    AbsHalf2(a: u32) -> u32 = a & 0x7fff_7fff;
    SatHalf2(a: u32) -> u32 = halves1(a, math::f16::sat::<math::f16::F16>);
}
un! { @rare @rule(Rule::Halves)
    FiniteHalf2(a: u32) -> u32 = halves1(a, |h| match h & 0x7fff {
        0x7c00 => h - 1,
        m if m > 0x7c00 => 0,
        _ => h,
    });
}
tri! { @rule(Rule::Moves(0b1000))
    ShfLWrap(a: u32, b: u32, c: u32) -> u32 = (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32;
    ShfRWrap(a: u32, b: u32, c: u32) -> u32 = ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32;
    Prmt(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::Generic, a, b, c);
}
tri! { @rule(Rule::Moves(0b1100))
    BfeU32(a: u32, b: u32, c: u32) -> u32 = math::int::bfe_u32(a, b, c);
    BfeS32(a: u32, b: u32, c: u32) -> u32 = math::int::bfe_s32(a, b, c);
}
tri! { @rare @rule(Rule::Moves(0b1000))
    ShfLClamp(a: u32, b: u32, c: u32) -> u32 = (((u64::from(b) << 32 | u64::from(a)) << c.min(32)) >> 32) as u32;
    ShfRClamp(a: u32, b: u32, c: u32) -> u32 = ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32;
    PrmtF4e(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::F4e, a, b, c);
    PrmtB4e(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::B4e, a, b, c);
    PrmtRc8(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::Rc8, a, b, c);
    PrmtRc16(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::Rc16, a, b, c);
    PrmtEcl(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::Ecl, a, b, c);
    PrmtEcr(a: u32, b: u32, c: u32) -> u32 = math::int::prmt(math::int::Permute::Ecr, a, b, c);
    Slct32(a: u32, b: u32, c: i32) -> u32 = if c >= 0 { a } else { b };
    Slct64(a: u64, b: u64, c: i32) -> u64 = if c >= 0 { a } else { b };
    Slct16(a: u16, b: u16, c: i32) -> u16 = if c >= 0 { a } else { b };
    SlctF16(a: u16, b: u16, c: f32) -> u16 = if c >= 0.0 { a } else { b };
    SlctF32(a: u32, b: u32, c: f32) -> u32 = if c >= 0.0 { a } else { b };
    SlctF64(a: u64, b: u64, c: f32) -> u64 = if c >= 0.0 { a } else { b };
}
tri! { @rare @rule(Rule::Moves(0b1100))
    BfeU64(a: u64, b: u32, c: u32) -> u64 = math::int::bfe_u64(a, b, c);
    BfeS64(a: u64, b: u32, c: u32) -> u64 = math::int::bfe_s64(a, b, c);
}

/// `lop3` with its truth table as operation: the common tables are compiled by themselves, the rest goes through `Lop3Any`.
pub(crate) struct Lop3<const T: u8>;
impl<const T: u8> Tri for Lop3<T> {
    const RULE: Rule = Rule::Bits(Some(T));
    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        lop3(T, a, b, c)
    }
}

/// Bitwise function of three inputs; bit `4a+2b+c` of the table is the result for those inputs.
#[inline(always)]
pub(crate) fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let pick = |i: u8| if table >> i & 1 != 0 { !0u32 } else { 0 };
    let mux = |s: u32, one: u32, zero: u32| s & one | !s & zero;
    mux(
        a,
        mux(b, mux(c, pick(7), pick(6)), mux(c, pick(5), pick(4))),
        mux(b, mux(c, pick(3), pick(2)), mux(c, pick(1), pick(0))),
    )
}

// ---- f32 ------------------------------------------------------------------------------------------------------------

bin! {
    MinF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Min, a, b, false);
    MaxF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Max, a, b, false);
    DivFullF32(a: f32, b: f32) -> f32 = math::float::div_full_f32(a, b);
    DivApproxF32(a: f32, b: f32) -> f32 = math::float::div_approx_f32(a, b);
}
bin! { @rare
    MinNanF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Min, a, b, true);
    MaxNanF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Max, a, b, true);
    MinXorF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Min, a, b, false);
    MaxXorF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Max, a, b, false);
    MinXorNanF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Min, a, b, true);
    MaxXorNanF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Max, a, b, true);
    CopysignF32(a: f32, b: f32) -> f32 = math::float::copysign_f32(a, b);
    CopysignF64(a: f64, b: f64) -> f64 = math::float::copysign_f64(a, b);
    MinF64(a: f64, b: f64) -> f64 = math::float::extremum_f64(Extremum::Min, a, b);
    MaxF64(a: f64, b: f64) -> f64 = math::float::extremum_f64(Extremum::Max, a, b);
}
un! {
    NegF32(a: f32) -> f32 = math::float::neg_f32(a);
    AbsF32(a: f32) -> f32 = math::float::abs_f32(a);
    NegF64(a: f64) -> f64 = -a;
    AbsF64(a: f64) -> f64 = a.abs();
    SqrtApproxF32(a: f32) -> f32 = math::special::sqrt(a);
    RcpApproxF32(a: f32) -> f32 = math::special::rcp(a);
    RsqrtF32(a: f32) -> f32 = math::special::rsqrt(a);
    Ex2F32(a: f32) -> f32 = math::special::ex2(a);
    Lg2F32(a: f32) -> f32 = math::special::lg2(a);
    SinF32(a: f32) -> f32 = math::special::sin(a);
    CosF32(a: f32) -> f32 = math::special::cos(a);
    TanhF32(a: f32) -> f32 = math::special::tanh(a);
    SatF32(a: f32) -> f32 = sat(a);
}
un! { @rare
    RsqrtF64(a: f64) -> f64 = math::special::rsqrt_f64(a);
    RsqrtFtzF64(a: f64) -> f64 = math::special::rsqrt_ftz_f64(a);
    RcpApproxF64(a: f64) -> f64 = math::special::rcp_f64(a);
    SatF64(a: f64) -> f64 = sat64(a);
}

/// IEEE operations by rounding mode (see [`round`]).
macro_rules! rounded {
    ($($name:ident: $t:ty, $f:path, $trait:ident, $($arg:ident $ty:ident)*;)*) => {$(
        pub(crate) struct $name<const M: u8>;
        impl<const M: u8> $trait for $name<M> {
            // Directed roundings are slow paths anyway.
            const RARE: bool = M != 0;
            $(type $ty = $t;)*
            type D = $t;
            #[inline(always)]
            fn f($($arg: $t),*) -> $t {
                $f($($arg,)* round(M))
            }
        }
    )*};
}
rounded! {
    AddF32: f32, math::float::add_f32, Bin, a A b B;
    SubF32: f32, math::float::sub_f32, Bin, a A b B;
    MulF32: f32, math::float::mul_f32, Bin, a A b B;
    DivF32: f32, math::float::div_f32, Bin, a A b B;
    FmaF32: f32, math::float::fma_f32, Tri, a A b B c C;
    SqrtF32: f32, math::float::sqrt_f32, Un, a A;
    RcpF32: f32, math::float::rcp_f32, Un, a A;
    AddF64: f64, math::float::add_f64, Bin, a A b B;
    SubF64: f64, math::float::sub_f64, Bin, a A b B;
    MulF64: f64, math::float::mul_f64, Bin, a A b B;
    DivF64: f64, math::float::div_f64, Bin, a A b B;
    FmaF64: f64, math::float::fma_f64, Tri, a A b B c C;
    SqrtF64: f64, math::float::sqrt_f64, Un, a A;
    RcpF64: f64, math::float::rcp_f64, Un, a A;
}

/// Flushes subnormal inputs and outputs of an f32 operation.
pub(crate) struct Ftz<O>(std::marker::PhantomData<O>);
impl<O: Un<A = f32, D = f32>> Un for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32) -> f32 {
        ftz(O::f(ftz(a)))
    }
}
impl<O: Bin<A = f32, B = f32, D = f32>> Bin for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type B = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32, b: f32) -> f32 {
        ftz(O::f(ftz(a), ftz(b)))
    }
}
impl<O: Tri<A = f32, B = f32, C = f32, D = f32>> Tri for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type B = f32;
    type C = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32, b: f32, c: f32) -> f32 {
        ftz(O::f(ftz(a), ftz(b), ftz(c)))
    }
}
impl<O: Cmp<A = f32>> Cmp for Ftz<O> {
    const RARE: bool = true;
    type A = f32;
    #[inline(always)]
    fn f(a: f32, b: f32) -> bool {
        O::f(ftz(a), ftz(b))
    }
}

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

// ---- comparisons ----------------------------------------------------------------------------------------------------

cmp! {
    Eq32(a, b: u32) = a == b; Ne32(a, b: u32) = a != b;
    Eq64(a, b: u64) = a == b; Ne64(a, b: u64) = a != b;
    LtU32(a, b: u32) = a < b; LeU32(a, b: u32) = a <= b; GtU32(a, b: u32) = a > b; GeU32(a, b: u32) = a >= b;
    LtU64(a, b: u64) = a < b; LeU64(a, b: u64) = a <= b; GtU64(a, b: u64) = a > b; GeU64(a, b: u64) = a >= b;
    LtS32(a, b: i32) = a < b; LeS32(a, b: i32) = a <= b; GtS32(a, b: i32) = a > b; GeS32(a, b: i32) = a >= b;
    LtS64(a, b: i64) = a < b; LeS64(a, b: i64) = a <= b; GtS64(a, b: i64) = a > b; GeS64(a, b: i64) = a >= b;
    EqF32(a, b: f32) = a == b; NeF32(a, b: f32) = (a < b) | (a > b);
    LtF32(a, b: f32) = a < b; LeF32(a, b: f32) = a <= b; GtF32(a, b: f32) = a > b; GeF32(a, b: f32) = a >= b;
    EquF32(a, b: f32) = !((a < b) | (a > b)); NeuF32(a, b: f32) = a != b;
    LtuF32(a, b: f32) = !(a >= b); LeuF32(a, b: f32) = !(a > b); GtuF32(a, b: f32) = !(a <= b); GeuF32(a, b: f32) = !(a < b);
}
cmp! { @rare
    Eq16(a, b: u16) = a == b; Ne16(a, b: u16) = a != b;
    LtU16(a, b: u16) = a < b; LeU16(a, b: u16) = a <= b; GtU16(a, b: u16) = a > b; GeU16(a, b: u16) = a >= b;
    LtS16(a, b: i16) = a < b; LeS16(a, b: i16) = a <= b; GtS16(a, b: i16) = a > b; GeS16(a, b: i16) = a >= b;
    NumF32(a, b: f32) = !a.is_nan() & !b.is_nan(); NanF32(a, b: f32) = a.is_nan() | b.is_nan();
    EqF64(a, b: f64) = a == b; NeF64(a, b: f64) = (a < b) | (a > b);
    LtF64(a, b: f64) = a < b; LeF64(a, b: f64) = a <= b; GtF64(a, b: f64) = a > b; GeF64(a, b: f64) = a >= b;
    EquF64(a, b: f64) = !((a < b) | (a > b)); NeuF64(a, b: f64) = a != b;
    LtuF64(a, b: f64) = !(a >= b); LeuF64(a, b: f64) = !(a > b); GtuF64(a, b: f64) = !(a <= b); GeuF64(a, b: f64) = !(a < b);
    NumF64(a, b: f64) = !a.is_nan() & !b.is_nan(); NanF64(a, b: f64) = a.is_nan() | b.is_nan();
    FiniteF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Finite, a);
    FiniteF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Finite, a);
    InfiniteF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Infinite, a);
    InfiniteF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Infinite, a);
    NumberF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Number, a);
    NumberF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Number, a);
    NotANumberF32(a, _b: f32) = math::float::testp_f32(math::float::Test::NotANumber, a);
    NotANumberF64(a, _b: f64) = math::float::testp_f64(math::float::Test::NotANumber, a);
    NormalF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Normal, a);
    NormalF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Normal, a);
    SubnormalF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Subnormal, a);
    SubnormalF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Subnormal, a);
}
