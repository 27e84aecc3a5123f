//! f32 and f64 arithmetic with PTX's rounding, flushing and saturation.
//!
//! NaN results of f32 instructions are the canonical `0x7fffffff`, as on the hardware; those of f64 are whatever quiet NaN the
//! host makes. Rounding to nearest is the host's; the directed modes of f32 are computed in f64 *rounded to odd*, which
//! may be rounded once more without harm, and those of f64 in integers (`super::soft`).

use super::soft;

pub use super::round::Round;

/// NaN as PTX's f32 instructions return it.
pub const NAN_F32: f32 = f32::from_bits(0x7fff_ffff);

/// The number, or the canonical NaN.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    unless_nan(x, x)
}

/// `value`, or the canonical NaN where `x` is one.
#[inline(always)]
pub fn unless_nan(x: f32, value: f32) -> f32 {
    // On bits: the compiler holds all NaN for equal and would drop a float comparison that only changes one into another. Signed, because
    // vectors of bits are compared so in one step.
    let nan = (x.to_bits() & 0x7fff_ffff) as i32 > 0x7f80_0000;
    f32::from_bits(if nan { NAN_F32.to_bits() } else { value.to_bits() })
}

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
pub fn ftz(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// [`ftz`] when `on`.
#[inline(always)]
pub fn ftz_if(on: bool, x: f32) -> f32 {
    if on { ftz(x) } else { x }
}

/// `.sat`: clamps to `[0, 1]`; NaN and -0 become +0.
#[inline(always)]
pub fn sat(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// [`sat`] for f64.
#[inline(always)]
pub fn sat_f64(x: f64) -> f64 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// `.relu`: a negative number or -0 becomes +0; NaN becomes canonical.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { canonical(x) }
}

/// `a + b` rounded to odd: toward zero, with the last bit set when inexact. Rounding the result again to at least two bits less gives what
/// rounding the exact sum would.
#[inline(always)]
pub fn add_odd_f64(a: f64, b: f64) -> f64 {
    let sum = a + b;
    make_odd_f64(sum, two_sum_error(a, b, sum))
}

/// What the rounded `sum` of `a` and `b` lacks: exact; NaN when the sum is not finite.
#[inline(always)]
pub(crate) fn two_sum_error(a: f64, b: f64, sum: f64) -> f64 {
    let virtual_b = sum - a;
    (a - (sum - virtual_b)) + (b - virtual_b)
}

/// A value rounded to nearest and the sign of what it lacks, turned into the value rounded to odd.
#[inline(always)]
pub(crate) fn make_odd_f64(nearest: f64, error: f64) -> f64 {
    let bits = nearest.to_bits();
    // Away from zero when the error has the sign of the value: the magnitude grows by one, else shrinks by one.
    let grows = (error > 0.0) == (nearest > 0.0);
    let moved = if grows { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = (error < 0.0) | (error > 0.0);
    f64::from_bits(if inexact & (bits & 1 == 0) { moved } else { bits })
}

/// f64 to f32 in any rounding; NaN becomes canonical.
#[inline(always)]
pub fn round_to_f32(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    let bits = nearest.to_bits();
    let grow = bits.wrapping_add(1);
    let shrink = bits.wrapping_sub(1);
    let negative = bits >> 31 != 0;
    let bits = match round {
        Round::Nearest => bits,
        Round::Zero if back.abs() > x.abs() => shrink,
        Round::Down if back > x => {
            if negative {
                grow
            } else if bits == 0 {
                0x8000_0001
            } else {
                shrink
            }
        }
        Round::Up if back < x => {
            if negative {
                if bits == 0x8000_0000 { 1 } else { shrink }
            } else {
                grow
            }
        }
        _ => bits,
    };
    canonical(f32::from_bits(bits))
}

/// The sum of two f64 that hold f32 or products of two f32, rounded to f32.
#[inline(always)]
fn sum_f32(a: f64, b: f64, round: Round) -> f32 {
    let sum = add_odd_f64(a, b);
    // Rounding down, an exact zero is -0 as soon as either term is negative.
    let negative_zero = (round == Round::Down) & (sum == 0.0) & (a.is_sign_negative() | b.is_sign_negative());
    if negative_zero { -0.0 } else { round_to_f32(sum, round) }
}

/// `add.f32`
#[inline(always)]
pub fn add_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest { canonical(a + b) } else { sum_f32(a as f64, b as f64, round) }
}

/// `sub.f32`
#[inline(always)]
pub fn sub_f32(a: f32, b: f32, round: Round) -> f32 {
    add_f32(a, -b, round)
}

/// `mul.f32`
#[inline(always)]
pub fn mul_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canonical(a * b);
    }
    // 48 bits and the range of exponents fit f64 exactly.
    round_to_f32(a as f64 * b as f64, round)
}

/// `fma.f32` (and `mad.f32`)
#[inline(always)]
pub fn fma_f32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canonical(a.mul_add(b, c));
    }
    sum_f32(a as f64 * b as f64, c as f64, round)
}

/// `div.rn.f32` and the other IEEE roundings.
#[inline(always)]
pub fn div_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canonical(a / b);
    }
    let (a, b) = (a as f64, b as f64);
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    round_to_f32(make_odd_f64(quotient, if b < 0.0 { -rest } else { rest }), round)
}

/// `div.full.f32`: at most 2 ulp off on the hardware, rounded to nearest here.
#[inline(always)]
pub fn div_full_f32(a: f32, b: f32) -> f32 {
    canonical(a / b)
}

/// `div.approx.f32`: `a * (1/b)`, so a finite number divided by a magnitude above 2^126 gives zero, and infinity NaN.
#[inline(always)]
pub fn div_approx_f32(a: f32, b: f32) -> f32 {
    let huge = (b.abs() > f32::from_bits(0x7e80_0000)) & (b.abs() < f32::INFINITY);
    let quotient = a / b;
    let by_huge = (a * 0.0) * if b < 0.0 { -1.0 } else { 1.0 };
    canonical(if huge { by_huge } else { quotient })
}

/// `sqrt.rn.f32` and the other IEEE roundings.
#[inline(always)]
pub fn sqrt_f32(x: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canonical(x.sqrt());
    }
    let x = x as f64;
    let root = x.sqrt();
    round_to_f32(make_odd_f64(root, (-root).mul_add(root, x)), round)
}

/// `rcp.rn.f32` and the other IEEE roundings.
#[inline(always)]
pub fn rcp_f32(x: f32, round: Round) -> f32 {
    div_f32(1.0, x, round)
}

/// `add.f64`
#[inline(always)]
pub fn add_f64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest {
        return a + b;
    }
    soft::fma(a, 1.0, b, round)
}

/// `sub.f64`
#[inline(always)]
pub fn sub_f64(a: f64, b: f64, round: Round) -> f64 {
    add_f64(a, -b, round)
}

/// `mul.f64`
#[inline(always)]
pub fn mul_f64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest {
        return a * b;
    }
    soft::mul(a, b, round)
}

/// `fma.f64` (and `mad.f64`)
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if round == Round::Nearest {
        return a.mul_add(b, c);
    }
    soft::fma(a, b, c, round)
}

/// `div.f64`
#[inline(always)]
pub fn div_f64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest {
        return a / b;
    }
    soft::div(a, b, round)
}

/// `sqrt.f64`
#[inline(always)]
pub fn sqrt_f64(x: f64, round: Round) -> f64 {
    if round == Round::Nearest {
        return x.sqrt();
    }
    soft::sqrt(x, round)
}

/// `rcp.f64`
#[inline(always)]
pub fn rcp_f64(x: f64, round: Round) -> f64 {
    div_f64(1.0, x, round)
}

/// `abs.f32`
#[inline(always)]
pub fn abs_f32(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7fff_ffff)
}

/// `neg.f32`
#[inline(always)]
pub fn neg_f32(x: f32) -> f32 {
    f32::from_bits(x.to_bits() ^ 0x8000_0000)
}

/// `copysign.f32`: the sign of `a` on the value of `b`.
#[inline(always)]
pub fn copysign_f32(a: f32, b: f32) -> f32 {
    f32::from_bits(a.to_bits() & 0x8000_0000 | b.to_bits() & 0x7fff_ffff)
}

/// `copysign.f64`: the sign of `a` on the value of `b`.
#[inline(always)]
pub fn copysign_f64(a: f64, b: f64) -> f64 {
    b.copysign(a)
}

/// Which of two numbers to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extremum {
    /// `min`
    Min,
    /// `max`
    Max,
}

/// `min`/`max` of f32. A NaN operand loses against a number unless `nan` (`.NaN`); -0 is below +0.
#[inline(always)]
pub fn extremum_f32(which: Extremum, a: f32, b: f32, nan: bool) -> f32 {
    // Equal numbers differ only in the sign of zero: min takes the union of the signs, max the intersection.
    let (chosen, equal) = match which {
        Extremum::Min => (if b < a { b } else { a }, a.to_bits() | b.to_bits()),
        Extremum::Max => (if b > a { b } else { a }, a.to_bits() & b.to_bits()),
    };
    let chosen = if a == b { f32::from_bits(equal) } else { chosen };
    let chosen = if a.is_nan() { b } else { chosen };
    let any = a.is_nan() | b.is_nan();
    canonical(if nan & any { NAN_F32 } else { chosen })
}

/// `min.xorsign.abs` / `max.xorsign.abs` of f32: of the magnitudes, with the product of the signs.
#[inline(always)]
pub fn extremum_xorsign_f32(which: Extremum, a: f32, b: f32, nan: bool) -> f32 {
    let magnitude = extremum_f32(which, a.abs(), b.abs(), nan);
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if magnitude.is_nan() { NAN_F32 } else { f32::from_bits(magnitude.to_bits() | sign) }
}

/// `min`/`max` of f64: a NaN operand loses against a number; -0 is below +0.
#[inline(always)]
pub fn extremum_f64(which: Extremum, a: f64, b: f64) -> f64 {
    let (chosen, equal) = match which {
        Extremum::Min => (if b < a { b } else { a }, a.to_bits() | b.to_bits()),
        Extremum::Max => (if b > a { b } else { a }, a.to_bits() & b.to_bits()),
    };
    let chosen = if a == b { f64::from_bits(equal) } else { chosen };
    if a.is_nan() { b } else { chosen }
}

/// Comparisons of `set` and `setp`. For integers `lo ls hi hs` are the unsigned `lt le gt ge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Equal or unordered.
    Equ,
    /// Not equal or unordered.
    Neu,
    /// Less or unordered.
    Ltu,
    /// Less, equal or unordered.
    Leu,
    /// Greater or unordered.
    Gtu,
    /// Greater, equal or unordered.
    Geu,
    /// Both are numbers.
    Num,
    /// Either is NaN.
    Nan,
}

/// A comparison of floats or integers (for which the unordered forms equal the ordered ones).
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
pub fn compare<T: PartialOrd + Copy>(op: Compare, a: T, b: T) -> bool {
    match op {
        Compare::Eq => a == b,
        // `ne` is ordered: false for NaN.
        Compare::Ne => (a < b) | (a > b),
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        Compare::Equ => !((a < b) | (a > b)),
        Compare::Neu => a != b,
        Compare::Ltu => !(a >= b),
        Compare::Leu => !(a > b),
        Compare::Gtu => !(a <= b),
        Compare::Geu => !(a < b),
        Compare::Num => (a == a) & (b == b),
        Compare::Nan => (a != a) | (b != b),
    }
}

/// The property `testp` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Test {
    Finite,
    Infinite,
    Number,
    NotANumber,
    /// Neither subnormal, infinite nor NaN; zeros count as normal.
    Normal,
    Subnormal,
}

/// `testp.f32`
#[inline(always)]
pub fn testp_f32(test: Test, x: f32) -> bool {
    let m = x.to_bits() & 0x7fff_ffff;
    match test {
        Test::Finite => m < 0x7f80_0000,
        Test::Infinite => m == 0x7f80_0000,
        Test::Number => m <= 0x7f80_0000,
        Test::NotANumber => m > 0x7f80_0000,
        Test::Normal => (m == 0) | (m.wrapping_sub(0x0080_0000) < 0x7f00_0000),
        Test::Subnormal => (m != 0) & (m < 0x0080_0000),
    }
}

/// `testp.f64`
#[inline(always)]
pub fn testp_f64(test: Test, x: f64) -> bool {
    let m = x.to_bits() & (u64::MAX >> 1);
    const INFINITY: u64 = 0x7ff << 52;
    match test {
        Test::Finite => m < INFINITY,
        Test::Infinite => m == INFINITY,
        Test::Number => m <= INFINITY,
        Test::NotANumber => m > INFINITY,
        Test::Normal => (m == 0) | (m.wrapping_sub(1 << 52) < INFINITY - (1 << 52)),
        Test::Subnormal => (m != 0) & (m < 1 << 52),
    }
}
