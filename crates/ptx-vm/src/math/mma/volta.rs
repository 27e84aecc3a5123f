//! `mma.m8n8k4` with f16, the shape of Volta: four products of 8x8x4 in a warp.
//!
//! Product `p` belongs to a *quad pair*: the lanes `4p..4p+4` and `16+4p..16+4p+4`. The second quad has rows 4 to 7 of A, C and D and columns 4
//! to 7 of B. Layouts are those of the manual's "Matrix Fragments for `mma.m8n8k4` with `.f16` floating point type":
//!
//! ```text
//! A row, B col     lane of the row (column), element k
//! A col, B row     lane k of the quad, element row (column) of the quad
//! C, D f16         lane of the row, element col
//! C, D f32         lane row & 1 | col & 2 of the quad, element col & 4 | row & 2 | col & 1
//! ```
//!
//! The numbers are those of the larger f16 shapes. No vector kernels: current compilers do not emit this shape.

use super::kernel::{Fragments, Kernel, Lanes};
use crate::math::f16::{f16_to_f32, f32_to_f16};
use crate::math::float::canonical;

/// The accumulators of one kernel: with f32 results there is a kernel for the left four columns and one for the right four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulators {
    /// C and D in f16, all columns: 4 C, 4 D.
    Half,
    /// D in f32, left or right columns: 4 D, and of C the same 4 in f32, or all 4 in f16.
    Single {
        /// C is in f16.
        half: bool,
        /// The right columns.
        right: bool,
    },
}

/// The kernel for a layout: 2 A, 2 B, and C and D as the accumulators say.
pub fn volta(a_row: bool, b_row: bool, accumulators: Accumulators) -> Kernel {
    match (a_row, b_row) {
        (true, true) => by_accumulators::<true, false>(accumulators),
        (true, false) => by_accumulators::<true, true>(accumulators),
        (false, true) => by_accumulators::<false, false>(accumulators),
        (false, false) => by_accumulators::<false, true>(accumulators),
    }
}

fn by_accumulators<const A_ALONG: bool, const B_ALONG: bool>(accumulators: Accumulators) -> Kernel {
    match accumulators {
        Accumulators::Half => product::<A_ALONG, B_ALONG, true, true, false>,
        Accumulators::Single { half: true, right: false } => product::<A_ALONG, B_ALONG, true, false, false>,
        Accumulators::Single { half: true, right: true } => product::<A_ALONG, B_ALONG, true, false, true>,
        Accumulators::Single { half: false, right: false } => product::<A_ALONG, B_ALONG, false, false, false>,
        Accumulators::Single { half: false, right: true } => product::<A_ALONG, B_ALONG, false, false, true>,
    }
}

/// Element `i` of a lane's four f16, or eight, in consecutive registers.
fn half(registers: &[Lanes], lane: usize, i: usize) -> f32 {
    f16_to_f32((registers[i / 2][lane] >> (16 * (i % 2))) as u16)
}

/// Element `k` of a row of A or a column of B; a lane holds one of them `ALONG` k, or elements of four for one k.
fn multiplicand<const ALONG: bool>(registers: &[Lanes; 2], pair: usize, outer: usize, k: usize) -> f32 {
    let quad = 4 * pair + 16 * (outer / 4);
    if ALONG { half(registers, quad + outer % 4, k) } else { half(registers, quad + k, outer % 4) }
}

unsafe fn product<
    const A_ALONG: bool,
    const B_ALONG: bool,
    const C_HALF: bool,
    const D_HALF: bool,
    const RIGHT: bool,
>(
    f: &Fragments,
) {
    // SAFETY: the caller passes valid pointers for the registers of the shape. All are read before D is written.
    let (a, b, c) = unsafe { ([*f.a[0], *f.a[1]], [*f.b[0], *f.b[1]], f.c.map(|p| *p)) };
    let mut d = [[0; 32]; 4];
    let columns = match (D_HALF, RIGHT) {
        (true, _) => 0..8,
        (false, false) => 0..4,
        (false, true) => 4..8,
    };
    for pair in 0..4 {
        for row in 0..8 {
            let quad = 4 * pair + 16 * (row / 4);
            for col in columns.clone() {
                // Lane and register of the f32 layout, within the kernel's half.
                let (lane, register) = (quad + (row & 1 | col & 2), row & 2 | col & 1);
                let mut sum = if C_HALF { half(&c, quad + row % 4, col) } else { f32::from_bits(c[register][lane]) };
                for k in 0..4 {
                    let (x, y) = (multiplicand::<A_ALONG>(&a, pair, row, k), multiplicand::<B_ALONG>(&b, pair, col, k));
                    sum = x.mul_add(y, sum);
                }
                if D_HALF {
                    d[col / 2][quad + row % 4] |= u32::from(f32_to_f16(sum)) << (16 * (col % 2));
                } else {
                    d[register][lane] = canonical(sum).to_bits();
                }
            }
        }
    }
    for (target, d) in f.d.iter().zip(d) {
        // SAFETY: as above.
        unsafe { **target = d };
    }
}
