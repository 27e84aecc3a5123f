//! f16 and bf16: conversions by bit tricks that vectorise.

use super::float::canonical;

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
