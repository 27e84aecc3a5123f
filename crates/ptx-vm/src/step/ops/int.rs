//! Operations on integers and bits.

use crate::ir::Rule;
use crate::math;
use crate::math::int::lop3;
use crate::step::alu::{Bin, Tri, Un, halves1, halves2};

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
        lop3(a, b, c, T)
    }
}
