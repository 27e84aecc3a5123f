//! f32 and f64 arithmetic.

/// NaN as PTX's f32 instructions return it.
pub const NAN_F32: f32 = f32::from_bits(0x7fff_ffff);

/// The number, or the canonical NaN.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { NAN_F32 } else { x }
}

/// `a + b` rounded to odd: toward zero, with the last bit set when inexact. Rounding the result again to at least two bits less gives what
/// rounding the exact sum would.
#[inline(always)]
pub fn add_odd_f64(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let virtual_b = sum - a;
    let error = (a - (sum - virtual_b)) + (b - virtual_b);
    make_odd_f64(sum, error)
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
