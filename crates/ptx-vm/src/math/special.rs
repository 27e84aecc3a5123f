//! The approximations: `ex2`, `lg2`, `sin`, `cos`, `rcp`, `rsqrt`, `tanh`, as short polynomials that vectorise.
//!
//! The hardware's results are given in the manual by error bounds only; these functions stay inside them (each says how far)
//! and give the same bits on every machine. Polynomials are minimax fits. Subnormal operands and results are kept;
//! the caller adds `.ftz`.

// Coefficients of fits: close to well-known constants by nature, and written as the fit printed them.
#![allow(clippy::approx_constant, clippy::excessive_precision)]

use super::float::{canonical, unless_nan};

/// Adding this rounds an f32 below 2^22 to an integer, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// 2^n for n in -126..=127.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// `2^f` for f in [-1/2, 1/2].
#[inline(always)]
fn ex2_fraction(f: f32) -> f32 {
    let p = 1.535_336e-4_f32;
    let p = p.mul_add(f, 1.339_887_5e-3);
    let p = p.mul_add(f, 9.618_437e-3);
    let p = p.mul_add(f, 5.550_332_5e-2);
    let p = p.mul_add(f, 0.240_226_48);
    let p = p.mul_add(f, 0.693_147_2);
    p.mul_add(f, 1.0)
}

/// `ex2.approx.f32`: within 1 ulp (the manual allows 2 ulp); exact for integers.
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    // Outside this range the result is zero or infinity whatever the operand.
    let clamped = if x > -152.0 { x } else { -152.0 };
    let clamped = if clamped < 129.0 { clamped } else { 129.0 };
    let shifted = clamped + ROUNDER;
    let n = shifted.to_bits() as i32 - ROUNDER.to_bits() as i32;
    let p = ex2_fraction(clamped - (shifted - ROUNDER));
    // Two factors, because the power alone may leave the range; only the second can round.
    let half = n >> 1;
    unless_nan(x, p * power(half) * power(n - half))
}

/// `lg2.approx.f32`: absolute error below 2^-23 near 1, relative error below 2^-22.8 elsewhere (allowed: 2^-22); exact for powers of two.
#[inline(always)]
pub fn lg2(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = (if subnormal { x * 16_777_216.0 } else { x }).to_bits() as i32;
    // The exponent that brings the mantissa into [sqrt(1/2), sqrt(2)).
    let n = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let s = f32::from_bits(bits.wrapping_sub(n << 23) as u32) - 1.0;
    let n = n - if subnormal { 24 } else { 0 };
    let p = -0.109_948_054_f32;
    let p = p.mul_add(s, 0.186_174_15);
    let p = p.mul_add(s, -0.191_062_98);
    let p = p.mul_add(s, 0.204_600_77);
    let p = p.mul_add(s, -0.239_617_4);
    let p = p.mul_add(s, 0.288_567_4);
    let p = p.mul_add(s, -0.360_696_65);
    let p = p.mul_add(s, 0.480_898_23);
    let p = p.mul_add(s, -0.721_347_33);
    // The leading coefficient 1/ln 2 in two parts, so that the result near 1 is as good as f32 allows.
    let tail = p.mul_add(s * s, s * 1.925_963_e-8);
    let result = s.mul_add(1.442_695_02, tail) + n as f32;
    let result = if x == f32::INFINITY { x } else { result };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    canonical(if x >= 0.0 { result } else { f32::NAN })
}

/// The angle reduced to [-pi/4, pi/4] and the number of quarter turns removed.
#[inline(always)]
fn quarter_turns(x: f32) -> (f32, u32) {
    // In f64 the reduction is good to 2^-24 for angles below 2^28; beyond, the hardware promises nothing either.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let turns = x as f64 * std::f64::consts::FRAC_2_PI;
    let shifted = turns + ROUNDER;
    let fraction = turns - (shifted - ROUNDER);
    // NaN passes both tests; only angles above 2^51 are clamped.
    let fraction = if fraction > 0.5 { 0.5 } else { fraction };
    let fraction = if fraction < -0.5 { -0.5 } else { fraction };
    ((fraction * std::f64::consts::FRAC_PI_2) as f32, shifted.to_bits() as u32)
}

#[inline(always)]
fn sine_of_turns(r: f32, turns: u32) -> f32 {
    let u = r * r;
    let p = (-1.951_729_8e-4_f32).mul_add(u, 8.332_178e-3);
    let p = p.mul_add(u, -0.166_666_55);
    // The sign is that of the angle, for zero too.
    let sine = (r * u).mul_add(p, r).copysign(r);
    let q = 2.443_845e-5_f32.mul_add(u, -1.388_736_7e-3);
    let q = q.mul_add(u, 4.166_664_7e-2);
    let cosine = (u * u).mul_add(q, u.mul_add(-0.5, 1.0));
    let chosen = if turns & 1 != 0 { cosine } else { sine };
    canonical(f32::from_bits(chosen.to_bits() ^ (turns & 2) << 30))
}

/// `sin.approx.f32`: within 1.5 ulp for angles below 2^20 (allowed: 2^-20.5 absolute within one turn, 2^-20.4 for the cosine). Infinity gives NaN.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (r, turns) = quarter_turns(x);
    sine_of_turns(r, turns)
}

/// `cos.approx.f32`: see [`sin`].
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (r, turns) = quarter_turns(x);
    sine_of_turns(r, turns.wrapping_add(1))
}

/// `tanh.approx.f32`: relative error below 2^-22 (allowed: 2^-11).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let u = x * x;
    let p = (-5.717_036_6e-3_f32).mul_add(u, 2.065_058e-2);
    let p = p.mul_add(u, -5.374_349_5e-2);
    let p = p.mul_add(u, 0.133_314_91);
    let p = p.mul_add(u, -0.333_332_84);
    let small = (x * u).mul_add(p, x);
    // 1 - 2 / (e^2x + 1); above 10 it is one.
    let limited = if magnitude < 10.0 { magnitude } else { 10.0 };
    let scaled = limited * (2.0 * std::f32::consts::LOG2_E);
    let shifted = scaled + ROUNDER;
    let n = shifted.to_bits() as i32 - ROUNDER.to_bits() as i32;
    let exponential = ex2_fraction(scaled - (shifted - ROUNDER)) * power(n);
    let large = 1.0 - 2.0 / (exponential + 1.0);
    let result = (if magnitude < 0.625 { small } else { large }).copysign(x);
    canonical(if x.is_nan() { x } else { result })
}

/// `rcp.approx.f32`: rounded to nearest (allowed: 1 ulp).
#[inline(always)]
pub fn rcp(x: f32) -> f32 {
    canonical(1.0 / x)
}

/// `rsqrt.approx.f32`: within 1 ulp (allowed: relative error 2^-22.9).
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    canonical(1.0 / x.sqrt())
}

/// `sqrt.approx.f32`: rounded to nearest (allowed: relative error 2^-23).
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// The high word rounded to nearest, the low word zero: the precision of the f64 approximations. NaN is the manual's canonical one.
#[inline(always)]
fn high_word(x: f64) -> f64 {
    let bits = if x.is_nan() { 0x7fff_ffff_0000_0000 } else { x.to_bits() };
    f64::from_bits(if x.is_finite() { bits.wrapping_add(1 << 31) } else { bits } & !0xffff_ffff)
}

/// `.ftz` for the f64 approximations.
#[inline(always)]
fn ftz_f64(x: f64) -> f64 {
    if x.abs() < f64::MIN_POSITIVE { 0f64.copysign(x) } else { x }
}

/// `rcp.approx.ftz.f64`: 20 bits of mantissa, subnormals flushed.
#[inline(always)]
pub fn rcp_f64(x: f64) -> f64 {
    ftz_f64(high_word(1.0 / ftz_f64(f64::from_bits(x.to_bits() & !0xffff_ffff))))
}

/// `rsqrt.approx.f64`: rounded.
#[inline(always)]
pub fn rsqrt_f64(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// `rsqrt.approx.ftz.f64`: 20 bits of mantissa, subnormals flushed.
#[inline(always)]
pub fn rsqrt_ftz_f64(x: f64) -> f64 {
    high_word(1.0 / ftz_f64(f64::from_bits(x.to_bits() & !0xffff_ffff)).sqrt())
}
