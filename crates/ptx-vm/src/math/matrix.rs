//! `ldmatrix` and `stmatrix`: 8 by 8 matrices of 16-bit elements between rows in shared memory and fragments.
//!
//! A matrix is eight rows of 16 bytes; lane `4 g + t` holds elements `2t, 2t+1` of row `g`, so without `.trans` a register
//! is the eight rows one after another.

use super::mma::Lanes;

/// One row: eight elements.
pub type Row = [u8; 16];

/// One matrix of `ldmatrix`: rows to a register.
#[inline(always)]
pub fn load(rows: &[&Row; 8]) -> Lanes {
    let mut out = [0; 32];
    for (g, row) in rows.iter().enumerate() {
        for t in 0..4 {
            out[4 * g + t] = u32::from_le_bytes([row[4 * t], row[4 * t + 1], row[4 * t + 2], row[4 * t + 3]]);
        }
    }
    out
}

/// The transpose of a matrix held in a register: what `.trans` adds, and `movmatrix`.
#[inline(always)]
pub fn transpose(register: &Lanes) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE2; the register is eight vectors.
    unsafe {
        use std::arch::x86_64::*;
        let r: [__m128i; 8] = std::array::from_fn(|g| _mm_loadu_si128(register.as_ptr().cast::<__m128i>().add(g)));
        // Elements of two rows side by side, then of four, then of all.
        let low = |i: usize| _mm_unpacklo_epi16(r[i], r[i + 1]);
        let high = |i: usize| _mm_unpackhi_epi16(r[i], r[i + 1]);
        let (a, b) = ([low(0), low(2), low(4), low(6)], [high(0), high(2), high(4), high(6)]);
        let mut out = [0; 32];
        for (half, rows) in [a, b].into_iter().enumerate() {
            let quads = [
                _mm_unpacklo_epi32(rows[0], rows[1]),
                _mm_unpackhi_epi32(rows[0], rows[1]),
                _mm_unpacklo_epi32(rows[2], rows[3]),
                _mm_unpackhi_epi32(rows[2], rows[3]),
            ];
            let to = out.as_mut_ptr().cast::<__m128i>().add(4 * half);
            for pair in 0..2 {
                _mm_storeu_si128(to.add(2 * pair), _mm_unpacklo_epi64(quads[pair], quads[2 + pair]));
                _mm_storeu_si128(to.add(2 * pair + 1), _mm_unpackhi_epi64(quads[pair], quads[2 + pair]));
            }
        }
        out
    }
    #[cfg(not(target_arch = "x86_64"))]
    transpose_words(register)
}

/// [`transpose`] by the manual's words.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn transpose_words(register: &Lanes) -> Lanes {
    let mut out = [0; 32];
    for g in 0..8 {
        for t in 0..4 {
            // Elements (g, 2t) and (g, 2t+1) come from rows 2t and 2t+1, column g.
            let (even, odd) = (register[4 * (2 * t) + g / 2], register[4 * (2 * t + 1) + g / 2]);
            let shift = 16 * (g % 2);
            out[4 * g + t] = (even >> shift & 0xffff) | (odd >> shift) << 16;
        }
    }
    out
}

/// One matrix of `ldmatrix.trans`.
#[inline(always)]
pub fn load_trans(rows: &[&Row; 8]) -> Lanes {
    transpose(&load(rows))
}

/// One matrix of `stmatrix`: a register to rows.
#[inline(always)]
pub fn store(register: &Lanes) -> [Row; 8] {
    let mut rows = [[0; 16]; 8];
    for (g, row) in rows.iter_mut().enumerate() {
        for t in 0..4 {
            row[4 * t..4 * t + 4].copy_from_slice(&register[4 * g + t].to_le_bytes());
        }
    }
    rows
}

/// One matrix of `stmatrix.trans`.
#[inline(always)]
pub fn store_trans(register: &Lanes) -> [Row; 8] {
    store(&transpose(register))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_hold_the_elements_the_manual_says() {
        let rows: [Row; 8] =
            std::array::from_fn(|r| std::array::from_fn(|i| if i % 2 == 0 { (8 * r + i / 2) as u8 } else { 0 }));
        let views = std::array::from_fn(|r| &rows[r]);
        let (plain, trans) = (load(&views), load_trans(&views));
        for lane in 0..32 {
            let (g, t) = (lane as u32 / 4, lane as u32 % 4);
            assert_eq!(plain[lane], (8 * g + 2 * t) | (8 * g + 2 * t + 1) << 16);
            assert_eq!(trans[lane], (8 * (2 * t) + g) | (8 * (2 * t + 1) + g) << 16);
        }
        assert_eq!(store(&plain), rows);
        assert_eq!(store_trans(&trans), rows);
        assert_eq!(transpose(&plain), transpose_words(&plain));
    }
}
