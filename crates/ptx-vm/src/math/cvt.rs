//! `cvt`: between all pairs of integer and floating-point types.
//!
//! An f64 *rounded to odd* serves as the common wide number: any further rounding of it is that of the exact value.

use super::f16::{self, Bf16, F16};
use super::float::{self, NAN_F32, Round, make_odd_f64, round_to_f32};

/// Rounding to an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoundInt {
    /// `.rni`: to nearest even.
    Nearest,
    /// `.rzi`: toward zero.
    Zero,
    /// `.rmi`: toward minus infinity.
    Down,
    /// `.rpi`: toward plus infinity.
    Up,
}

/// `cvt.rni.f32.f32` and the like: to an integral f32.
#[inline(always)]
pub fn integral_f32(x: f32, round: RoundInt) -> f32 {
    float::canonical(match round {
        RoundInt::Nearest => x.round_ties_even(),
        RoundInt::Zero => x.trunc(),
        RoundInt::Down => x.floor(),
        RoundInt::Up => x.ceil(),
    })
}

/// `cvt.rni.f64.f64` and the like: to an integral f64.
#[inline(always)]
pub fn integral_f64(x: f64, round: RoundInt) -> f64 {
    match round {
        RoundInt::Nearest => x.round_ties_even(),
        RoundInt::Zero => x.trunc(),
        RoundInt::Down => x.floor(),
        RoundInt::Up => x.ceil(),
    }
}

/// `cvt.rni.f16.f16` and the like: to an integral half.
#[inline(always)]
pub fn integral_half<H: f16::Half>(h: u16, round: RoundInt) -> u16 {
    H::narrow(integral_f32(H::widen(h), round))
}

/// An integer type of PTX.
pub trait Int: Copy {
    /// Least value.
    const MIN: i128;
    /// Greatest value.
    const MAX: i128;
    /// Exact.
    fn wide(self) -> i128;
    /// The low bits.
    fn wrap(x: i128) -> Self;
    /// From an integral f32 with clamping; NaN gives 0, or the top bit alone in 64-bit types.
    fn from_f32(x: f32) -> Self;
    /// From an integral f64 with clamping; NaN gives the top bit alone.
    fn from_f64(x: f64) -> Self;
    /// To f64, to nearest even.
    fn to_f64(self) -> f64;
    /// To f32, to nearest even.
    fn to_f32(self) -> f32;
}

macro_rules! int {
    ($($t:ty, $nan32:expr;)*) => {$(
        impl Int for $t {
            const MIN: i128 = <$t>::MIN as i128;
            const MAX: i128 = <$t>::MAX as i128;
            #[inline(always)]
            fn wide(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn wrap(x: i128) -> $t {
                x as $t
            }
            #[inline(always)]
            fn from_f32(x: f32) -> $t {
                if x.is_nan() { $nan32 } else { x as $t }
            }
            #[inline(always)]
            fn from_f64(x: f64) -> $t {
                if x.is_nan() { 1 << (<$t>::BITS - 1) } else { x as $t }
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
        }
    )*};
}

int! {
    u8, 0; i8, 0; u16, 0; i16, 0; u32, 0; i32, 0;
    u64, 1 << 63; i64, 1 << 63;
}

/// Integer to integer with `.sat`: clamps to the range of the destination.
#[inline(always)]
pub fn saturate<S: Int, D: Int>(x: S) -> D {
    D::wrap(x.wide().clamp(D::MIN, D::MAX))
}

/// Integer to integer: the low bits, or the extension of the source.
#[inline(always)]
pub fn resize<S: Int, D: Int>(x: S) -> D {
    D::wrap(x.wide())
}

/// f32 to integer: always clamps to the range of the destination.
#[inline(always)]
pub fn f32_to_int<D: Int>(x: f32, round: RoundInt) -> D {
    D::from_f32(integral_f32(x, round))
}

/// f64 to integer: always clamps to the range of the destination.
#[inline(always)]
pub fn f64_to_int<D: Int>(x: f64, round: RoundInt) -> D {
    D::from_f64(integral_f64(x, round))
}

/// f16 or bf16 to integer: always clamps to the range of the destination.
#[inline(always)]
pub fn half_to_int<H: f16::Half, D: Int>(h: u16, round: RoundInt) -> D {
    f32_to_int(H::widen(h), round)
}

/// An integer as f64 rounded to odd.
#[inline(always)]
fn odd_from_int<S: Int>(x: S) -> f64 {
    let nearest = x.to_f64();
    // At most 64 bits: nearest is an integer of at most 2^64, exact in i128.
    make_odd_f64(nearest, (x.wide() - nearest as i128) as f64)
}

/// Integer to f32.
#[inline(always)]
pub fn int_to_f32<S: Int>(x: S, round: Round) -> f32 {
    if round == Round::Nearest { x.to_f32() } else { round_to_f32(odd_from_int(x), round) }
}

/// Integer to f64.
#[inline(always)]
pub fn int_to_f64<S: Int>(x: S, round: Round) -> f64 {
    let nearest = x.to_f64();
    let error = x.wide() - nearest as i128;
    let (grow, shrink) = (nearest.to_bits().wrapping_add(1), nearest.to_bits().wrapping_sub(1));
    let negative = nearest < 0.0;
    let moved = match round {
        Round::Zero if (error < 0) != negative && error != 0 => shrink,
        Round::Down if error < 0 => {
            if negative {
                grow
            } else {
                shrink
            }
        }
        Round::Up if error > 0 => {
            if negative {
                shrink
            } else {
                grow
            }
        }
        _ => nearest.to_bits(),
    };
    f64::from_bits(moved)
}

/// Integer to f16 or bf16.
#[inline(always)]
pub fn int_to_half<S: Int, H: f16::Half>(x: S, round: Round) -> u16 {
    f16::narrow::<H>(f16::odd_f32(odd_from_int(x)), round, false)
}

/// f64 to f16 or bf16.
#[inline(always)]
pub fn f64_to_half<H: f16::Half>(x: f64, round: Round) -> u16 {
    f16::narrow::<H>(f16::odd_f32(x), round, false)
}

/// f64 to f32.
#[inline(always)]
pub fn f64_to_f32(x: f64, round: Round) -> f32 {
    if round == Round::Nearest { float::canonical(x as f32) } else { round_to_f32(x, round) }
}

/// f32 to f64: exact; NaN becomes the canonical `0x7fffffffffffffff` shortened to a quiet NaN of the host.
#[inline(always)]
pub fn f32_to_f64(x: f32) -> f64 {
    x as f64
}

/// f16 to bf16.
#[inline(always)]
pub fn f16_to_bf16(h: u16, round: Round) -> u16 {
    f16::narrow::<Bf16>(f16::f16_to_f32(h), round, false)
}

/// bf16 to f16.
#[inline(always)]
pub fn bf16_to_f16(h: u16, round: Round) -> u16 {
    f16::narrow::<F16>(f16::bf16_to_f32(h), round, false)
}

/// `cvt.rn.f16x2.f32 d, a, b` and its bf16 twin: `a` in the upper half.
#[inline(always)]
pub fn pack_half<H: f16::Half>(a: f32, b: f32, round: Round, relu: bool, satfinite: bool) -> u32 {
    let one = |x: f32| {
        let h = f16::narrow::<H>(x, round, satfinite);
        if relu { f16::relu::<H>(h) } else { h }
    };
    one(b) as u32 | (one(a) as u32) << 16
}

/// How `cvt.tf32.f32` rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoundTf32 {
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rn`: to nearest even.
    Nearest,
    /// `.rz`: toward zero.
    Zero,
}

/// `cvt.tf32.f32`: 10 bits of mantissa in the upper 19 bits of the word.
#[inline(always)]
pub fn f32_to_tf32(x: f32, round: RoundTf32, relu: bool, satfinite: bool) -> u32 {
    let bits = x.to_bits();
    let rounded = match round {
        RoundTf32::NearestAway => bits.wrapping_add(0x1000),
        RoundTf32::Nearest => bits.wrapping_add(0x0fff + (bits >> 13 & 1)),
        RoundTf32::Zero => bits,
    } & 0xffff_e000;
    let rounded = if x.is_infinite() { bits } else { rounded };
    let limited = if satfinite & (rounded & 0x7fff_ffff == 0x7f80_0000) { rounded - 0x2000 } else { rounded };
    let limited = if relu & (limited >> 31 != 0) { 0 } else { limited };
    if x.is_nan() { NAN_F32.to_bits() } else { limited }
}

/// The 8-bit formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum F8 {
    /// 4 bits of exponent, 3 of mantissa, no infinity, greatest number 448.
    E4M3,
    /// 5 bits of exponent, 2 of mantissa, greatest number 57344.
    E5M2,
}

/// `cvt.rn.satfinite` from f32 to an 8-bit format: overflow gives the greatest number, NaN the format's NaN.
#[inline(always)]
pub fn f32_to_f8(format: F8, x: f32, relu: bool) -> u8 {
    // Mantissa bits, least exponent of a normal number, greatest value, NaN.
    let (mantissa, least, greatest, nan) = match format {
        F8::E4M3 => (3, -6, 0x7e, 0x7f),
        F8::E5M2 => (2, -14, 0x7b, 0x7f),
    };
    let magnitude = x.abs();
    // The spacing of the numbers around x, found from its exponent; adding and taking 1.5 * 2^23 of them rounds.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).clamp(least, 127 - 23);
    let unit = f32::from_bits(((exponent - mantissa + 127) as u32) << 23);
    let steps = (magnitude / unit).round_ties_even().min(1024.0) as i32;
    // A mantissa that rounds up to the next power of two carries into the exponent by itself.
    let code = steps + ((exponent - least) << mantissa);
    let code = code.min(greatest) as u8;
    let signed = if relu & (x < 0.0) { 0 } else { code | (x.to_bits() >> 24 & 0x80) as u8 };
    let signed = if relu & (x == 0.0) { 0 } else { signed };
    if x.is_nan() { nan } else { signed }
}

/// An 8-bit format to f16: exact.
#[inline(always)]
pub fn f8_to_f16(format: F8, x: u8) -> u16 {
    match format {
        // The upper half of an f16.
        F8::E5M2 => {
            if x & 0x7f > 0x7c {
                f16::NAN_F16
            } else {
                (x as u16) << 8
            }
        }
        F8::E4M3 => {
            // As an f32 the number is 2^120 too small; the multiplication also normalises subnormals. All numbers but 0 are normal in f16,
            // whose exponents are 112 less.
            let magnitude = u32::from(x & 0x7f);
            let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
            let h = if magnitude == 0 { 0 } else { (value.to_bits() >> 13).wrapping_sub(112 << 10) };
            if magnitude == 0x7f { f16::NAN_F16 } else { h as u16 | ((x & 0x80) as u16) << 8 }
        }
    }
}
