//! f16 and bf16: conversions by bit tricks that vectorise, and arithmetic rounded once.
//!
//! Sums, differences and products of halves are computed in f32 and rounded again: f32 has more than twice the bits, so
//! the second rounding is that of the exact result. A fused multiply-add needs more: it is rounded to odd first.
//! NaN results are the canonical `0x7fff`.

use super::float::{self, Compare, Extremum, Round, canonical, compare, extremum_f32};

/// NaN as PTX's f16 and bf16 instructions return it.
pub const NAN_F16: u16 = 0x7fff;

/// f16 to f32: exact; NaN becomes the canonical one.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let h = h as u32;
    let shifted = (h & 0x7fff) << 13;
    // Read as an f32 the number is 2^112 too small; the multiplication also normalises subnormals.
    let scaled = f32::from_bits(shifted) * f32::from_bits(0x7780_0000);
    let bits = if shifted >= 0x0f80_0000 { shifted | 0x7f80_0000 } else { scaled.to_bits() };
    canonical(f32::from_bits(bits | (h & 0x8000) << 16))
}

/// bf16 to f32: exact; NaN becomes the canonical one.
#[inline(always)]
pub fn bf16_to_f32(b: u16) -> f32 {
    canonical(f32::from_bits((b as u32) << 16))
}

/// f32 to f16, to nearest even; overflow becomes infinity, NaN `0x7fff`.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let twice = bits.wrapping_add(bits);
    // Overflow to infinity, then bring back; adding a power of two of the right exponent rounds the mantissa in place.
    let base = (x.abs() * f32::from_bits(0x7780_0000)) * f32::from_bits(0x0880_0000);
    let bias = (twice & 0xff00_0000).max(0x7100_0000);
    let base = (f32::from_bits((bias >> 1) + 0x0780_0000) + base).to_bits();
    let magnitude = ((base >> 13) & 0x7c00) + (base & 0x0fff);
    let half = (bits >> 16) & 0x8000 | magnitude;
    (if twice > 0xff00_0000 { 0x7fff } else { half }) as u16
}

/// f32 to bf16, to nearest even; NaN becomes `0x7fff`.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if x.is_nan() { 0x7fff } else { rounded }) as u16
}

/// The two 16-bit formats, for code that is the same in both.
pub trait Half {
    /// Infinity.
    const INFINITY: u16;
    /// The least normal number.
    const MIN_NORMAL: u16;
    /// One.
    const ONE: u16;
    /// Exact.
    fn widen(h: u16) -> f32;
    /// To nearest even.
    fn narrow(x: f32) -> u16;
}

/// IEEE binary16.
#[derive(Debug, Clone, Copy)]
pub struct F16;

/// The upper half of an f32.
#[derive(Debug, Clone, Copy)]
pub struct Bf16;

impl Half for F16 {
    const INFINITY: u16 = 0x7c00;
    const MIN_NORMAL: u16 = 0x0400;
    const ONE: u16 = 0x3c00;
    #[inline(always)]
    fn widen(h: u16) -> f32 {
        f16_to_f32(h)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        f32_to_f16(x)
    }
}

impl Half for Bf16 {
    const INFINITY: u16 = 0x7f80;
    const MIN_NORMAL: u16 = 0x0080;
    const ONE: u16 = 0x3f80;
    #[inline(always)]
    fn widen(h: u16) -> f32 {
        bf16_to_f32(h)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        f32_to_bf16(x)
    }
}

/// f32 to a half in any rounding; `satfinite` replaces infinities by the greatest finite number.
#[inline(always)]
pub fn narrow<H: Half>(x: f32, round: Round, satfinite: bool) -> u16 {
    let nearest = H::narrow(x);
    let back = H::widen(nearest);
    let grow = nearest.wrapping_add(1);
    let shrink = nearest.wrapping_sub(1);
    let negative = nearest >> 15 != 0;
    let h = match round {
        Round::Nearest => nearest,
        Round::Zero => {
            if back.abs() > x.abs() {
                shrink
            } else {
                nearest
            }
        }
        Round::Down => {
            let below = if negative {
                grow
            } else if nearest == 0 {
                0x8001
            } else {
                shrink
            };
            if back > x { below } else { nearest }
        }
        Round::Up => {
            let above = if !negative {
                grow
            } else if nearest == 0x8000 {
                1
            } else {
                shrink
            };
            if back < x { above } else { nearest }
        }
    };
    if satfinite & (h & 0x7fff == H::INFINITY) { h - 1 } else { h }
}

/// `.ftz` on f16: a subnormal becomes a zero of its sign.
#[inline(always)]
pub fn ftz<H: Half>(h: u16) -> u16 {
    if h & 0x7fff < H::MIN_NORMAL { h & 0x8000 } else { h }
}

/// `.sat` on a half: clamps to `[0, 1]`; NaN and -0 become +0.
#[inline(always)]
pub fn sat<H: Half>(h: u16) -> u16 {
    // Negative numbers have bit 15 set, NaN lies above infinity.
    if h > H::INFINITY {
        0
    } else if h > H::ONE {
        H::ONE
    } else {
        h
    }
}

/// `.relu` on a half: negative numbers become +0, NaN canonical.
#[inline(always)]
pub fn relu<H: Half>(h: u16) -> u16 {
    if h & 0x7fff > H::INFINITY {
        NAN_F16
    } else if h >> 15 != 0 {
        0
    } else {
        h
    }
}

/// `add` of halves.
#[inline(always)]
pub fn add<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) + H::widen(b))
}

/// `sub` of halves.
#[inline(always)]
pub fn sub<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) - H::widen(b))
}

/// `mul` of halves.
#[inline(always)]
pub fn mul<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) * H::widen(b))
}

/// `fma` of halves, rounded once.
#[inline(always)]
pub fn fma<H: Half>(a: u16, b: u16, c: u16) -> u16 {
    // The product is exact in f64, in range and in bits.
    let sum = float::add_odd_f64(H::widen(a) as f64 * H::widen(b) as f64, H::widen(c) as f64);
    H::narrow(odd_f32(sum))
}

/// f64 to f32 rounded to odd.
#[inline(always)]
pub(crate) fn odd_f32(x: f64) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    let bits = nearest.to_bits();
    let moved = if back.abs() > x.abs() { bits.wrapping_sub(1) } else { bits.wrapping_add(1) };
    f32::from_bits(if (back != x) & (bits & 1 == 0) & !x.is_nan() { moved } else { bits })
}

/// `neg` of a half.
#[inline(always)]
pub fn neg(h: u16) -> u16 {
    h ^ 0x8000
}

/// `abs` of a half.
#[inline(always)]
pub fn abs(h: u16) -> u16 {
    h & 0x7fff
}

/// `min`/`max` of halves; see [`extremum_f32`].
#[inline(always)]
pub fn extremum<H: Half>(which: Extremum, a: u16, b: u16, nan: bool) -> u16 {
    H::narrow(extremum_f32(which, H::widen(a), H::widen(b), nan))
}

/// `min`/`max` `.xorsign.abs` of halves.
#[inline(always)]
pub fn extremum_xorsign<H: Half>(which: Extremum, a: u16, b: u16, nan: bool) -> u16 {
    H::narrow(float::extremum_xorsign_f32(which, H::widen(a), H::widen(b), nan))
}

/// A comparison of halves, for `set` and `setp`.
#[inline(always)]
pub fn compare_half<H: Half>(op: Compare, a: u16, b: u16) -> bool {
    compare(op, H::widen(a), H::widen(b))
}

/// `ex2.approx` of a half: correctly rounded but for ties of the f32 approximation.
#[inline(always)]
pub fn ex2<H: Half>(h: u16) -> u16 {
    H::narrow(super::special::ex2(H::widen(h)))
}

/// `tanh.approx` of a half.
#[inline(always)]
pub fn tanh<H: Half>(h: u16) -> u16 {
    H::narrow(super::special::tanh(H::widen(h)))
}

/// Applies a function to both halves of a word: the `x2` forms.
#[inline(always)]
pub fn x2_1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    f(a as u16) as u32 | (f((a >> 16) as u16) as u32) << 16
}

/// As [`x2_1`] for two operands.
#[inline(always)]
pub fn x2_2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    f(a as u16, b as u16) as u32 | (f((a >> 16) as u16, (b >> 16) as u16) as u32) << 16
}

/// As [`x2_1`] for three operands.
#[inline(always)]
pub fn x2_3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16, c as u16) as u32;
    low | (f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16) as u32) << 16
}
