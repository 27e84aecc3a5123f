//! `mma` with 8-bit floats: every e4m3 and e5m2 number is an f16 number, so a product is one or two of the f16 kernels.
//!
//! A word holds elements `k = 4t..4t+3` of a row or column. The order of summation is free, so the low pair of each word may stand
//! where m16n8k16 f16 has `k 2t,2t+1` and the high pair where it has `k 2t+8,2t+9`, in A and B alike.

use super::choose::kernels;
use super::kernel::{Fragments, Kernel, Lanes};
use crate::math::cvt::{F8, f8_to_f16};
use crate::math::f16::{f16_to_f32, f32_to_f16};

/// Registers of a fragment, aligned for the vector kernels.
#[repr(align(64))]
struct Room<const N: usize>([Lanes; N]);

/// The kernel for A and B in e5m2 (or e4m3), with `k` of 32 (or 16) and accumulators of f16 (or f32). Fragments are those of 8-bit
/// integers; with f16 accumulators C and D are two registers, widened first and rounded once at the end.
pub fn fp8(k32: bool, a_e5m2: bool, b_e5m2: bool, half: bool) -> Kernel {
    match (k32, half) {
        (false, false) => by_format::<1, false>(a_e5m2, b_e5m2),
        (false, true) => by_format::<1, true>(a_e5m2, b_e5m2),
        (true, false) => by_format::<2, false>(a_e5m2, b_e5m2),
        (true, true) => by_format::<2, true>(a_e5m2, b_e5m2),
    }
}

fn by_format<const STEPS: usize, const HALF: bool>(a_e5m2: bool, b_e5m2: bool) -> Kernel {
    match (a_e5m2, b_e5m2) {
        (false, false) => product::<false, false, STEPS, HALF>,
        (false, true) => product::<false, true, STEPS, HALF>,
        (true, false) => product::<true, false, STEPS, HALF>,
        (true, true) => product::<true, true, STEPS, HALF>,
    }
}

/// The low and the high pairs of a register as f16.
#[inline(always)]
pub(super) fn widen(register: &Lanes, e5m2: bool) -> [Lanes; 2] {
    if e5m2 { pairs::<true>(register) } else { pairs::<false>(register) }
}

#[inline(always)]
fn pairs<const E5: bool>(register: &Lanes) -> [Lanes; 2] {
    let format = if E5 { F8::E5M2 } else { F8::E4M3 };
    let pair = |w: u32| u32::from(f8_to_f16(format, w as u8)) | u32::from(f8_to_f16(format, (w >> 8) as u8)) << 16;
    let mut out = [[0; 32]; 2];
    for i in 0..32 {
        (out[0][i], out[1][i]) = (pair(register[i]), pair(register[i] >> 16));
    }
    out
}

unsafe fn product<const A_E5: bool, const B_E5: bool, const STEPS: usize, const HALF: bool>(f: &Fragments) {
    // SAFETY: the pointers this shape uses are valid registers, by the contract of `Kernel`; the rest are locals.
    unsafe {
        let mut sums = Room([[0; 32]; 4]);
        for i in 0..4 {
            sums.0[i] =
                if HALF { (*f.c[i / 2]).map(|w| f16_to_f32((w >> (16 * (i % 2))) as u16).to_bits()) } else { *f.c[i] };
        }
        let at: [*mut Lanes; 4] = std::array::from_fn(|i| &raw mut sums.0[i]);
        for step in 0..STEPS {
            let [upper, lower] = [0, 1].map(|half| pairs::<A_E5>(&*f.a[2 * step + half]));
            let a = Room([upper[0], lower[0], upper[1], lower[1]]);
            let b = Room(pairs::<B_E5>(&*f.b[step]));
            let half_product = Fragments {
                d: at,
                a: std::array::from_fn(|i| &raw const a.0[i]),
                b: std::array::from_fn(|i| &raw const b.0[i]),
                c: at.map(<*mut Lanes>::cast_const),
            };
            (kernels().m16n8k16_f16)(&half_product);
        }
        if HALF {
            for (i, d) in f.d.iter().enumerate().take(2) {
                let half = |n: usize, lane: usize| u32::from(f32_to_f16(f32::from_bits(sums.0[2 * i + n][lane])));
                **d = std::array::from_fn(|lane| half(0, lane) | half(1, lane) << 16);
            }
        } else {
            for (i, d) in f.d.iter().enumerate() {
                **d = sums.0[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::Random;

    /// The value of an 8-bit float from its definition.
    fn value(e5m2: bool, x: u8) -> f64 {
        let (bits, bias) = if e5m2 { (2, 15) } else { (3, 7) };
        let (exponent, fraction) =
            (i32::from(x >> bits) & if e5m2 { 31 } else { 15 }, f64::from(x & ((1 << bits) - 1)));
        let scale = f64::from(1 << bits);
        let magnitude = match exponent {
            0 => fraction / scale * 2f64.powi(1 - bias),
            _ => (1.0 + fraction / scale) * 2f64.powi(exponent - bias),
        };
        if x >> 7 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn products_match_the_layout_of_8_bit_operands() {
        let mut random = Random::new(5);
        for case in 0..16 {
            let [k32, a_e5m2, b_e5m2, half] = [1, 2, 4, 8].map(|bit| case & bit != 0);
            let mut r = Room([[0; 32]; 14]);
            for word in r.0[..6].iter_mut().flatten() {
                // Small numbers and no infinities: exponents around the bias.
                *word = random.next() & 0xbfbf_bfbf & !0x4040_4040 | 0x2020_2020;
            }
            for word in r.0[6..10].iter_mut().flatten() {
                *word = if half { 0x3c00_4000 } else { 3.5f32.to_bits() };
            }
            let p = r.0.as_mut_ptr();
            let reg = |i: usize| p.wrapping_add(i);
            let f = Fragments {
                d: std::array::from_fn(|i| reg(10 + i)),
                a: std::array::from_fn(|i| reg(i).cast_const()),
                b: std::array::from_fn(|i| reg(4 + i).cast_const()),
                c: std::array::from_fn(|i| reg(6 + i).cast_const()),
            };
            // SAFETY: the pointers are registers of `r`.
            unsafe { fp8(k32, a_e5m2, b_e5m2, half)(&f) };
            for row in 0..16 {
                for col in 0..8 {
                    let mut want = if !half {
                        3.5
                    } else if col % 2 == 0 {
                        2.0
                    } else {
                        1.0
                    };
                    for k in 0..if k32 { 32 } else { 16 } {
                        let (block, t, i) = (k / 16, k % 16 / 4, k % 4);
                        let byte = |word: u32| (word >> (8 * i)) as u8;
                        want += value(a_e5m2, byte(r.0[row / 8 + 2 * block][4 * (row % 8) + t]))
                            * value(b_e5m2, byte(r.0[4 + block][4 * col + t]));
                    }
                    let lane = 4 * (row % 8) + col / 2;
                    let got = if half {
                        f64::from(f16_to_f32((r.0[10 + row / 8][lane] >> (16 * (col % 2))) as u16))
                    } else {
                        f64::from(f32::from_bits(r.0[10 + 2 * (row / 8) + col % 2][lane]))
                    };
                    let bound = if half { 1e-3 * want.abs() + 1e-3 } else { 1e-4 };
                    assert!((got - want).abs() <= bound, "case {case} ({row}, {col}): {got} for {want}");
                }
            }
        }
    }
}
