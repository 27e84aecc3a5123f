//! What an `mma` multiplies, and in which layout.

use crate::math::cvt::{F8, f8_to_f16};
use crate::math::f16::{bf16_to_f32, f16_to_f32};

/// Formats of operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`; the low 13 bits do not count.
    Tf32,
    /// `.e4m3`
    E4m3,
    /// `.e5m2`
    E5m2,
}

impl Format {
    const ALL: [Format; 5] = [Format::F16, Format::Bf16, Format::Tf32, Format::E4m3, Format::E5m2];

    /// Elements of a 32-bit word.
    pub(super) fn per_word(self) -> usize {
        match self {
            Format::Tf32 => 1,
            Format::F16 | Format::Bf16 => 2,
            Format::E4m3 | Format::E5m2 => 4,
        }
    }

    /// The least exponent of a normal number.
    pub(super) fn least(self) -> i32 {
        match self {
            Format::F16 | Format::E5m2 => -14,
            Format::Bf16 | Format::Tf32 => -126,
            Format::E4m3 => -6,
        }
    }

    /// Element `i` of a word, widened.
    pub(super) fn element(self, word: u32, i: usize) -> f32 {
        match self {
            Format::F16 => f16_to_f32((word >> (16 * i)) as u16),
            Format::Bf16 => bf16_to_f32((word >> (16 * i)) as u16),
            Format::Tf32 => f32::from_bits(word & 0xffff_e000),
            Format::E4m3 => f16_to_f32(f8_to_f16(F8::E4M3, (word >> (8 * i)) as u8)),
            Format::E5m2 => f16_to_f32(f8_to_f16(F8::E5M2, (word >> (8 * i)) as u8)),
        }
    }
}

/// Where the elements of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 16 rows, 8 columns and this `k`: the shapes of the module's table that begin with `m16n8`.
    Wide {
        /// 4 to 32.
        k: usize,
    },
    /// `m8n8k4` with f16.
    Volta {
        /// `.row` for A.
        a_row: bool,
        /// `.row` for B.
        b_row: bool,
        /// C is in f16. D is where [`Product::half`].
        c_half: bool,
        /// Columns 4 to 7 of a D in f32.
        right: bool,
    },
}

/// A product of fragments in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Format of A.
    pub a: Format,
    /// Format of B.
    pub b: Format,
    /// D (and C, unless the layout says otherwise) is f16, not f32.
    pub half: bool,
    /// Where elements are.
    pub layout: Layout,
}

impl Product {
    /// In bits, never 0.
    pub fn code(self) -> u32 {
        let layout = match self.layout {
            Layout::Wide { k } => (k as u32) << 2,
            Layout::Volta { a_row, b_row, c_half, right } => {
                2 | u32::from(a_row) << 2 | u32::from(b_row) << 3 | u32::from(c_half) << 4 | u32::from(right) << 5
            }
        };
        1 | layout << 1 | u32::from(self.half) << 10 | (self.a as u32) << 11 | (self.b as u32) << 14
    }

    /// What [`Product::code`] gave.
    pub fn of_code(code: u32) -> Product {
        let bit = |n: u32| code >> n & 1 == 1;
        let format = |at: u32| Format::ALL[(code >> at & 7) as usize % Format::ALL.len()];
        let layout = if bit(2) {
            Layout::Volta { a_row: bit(3), b_row: bit(4), c_half: bit(5), right: bit(6) }
        } else {
            Layout::Wide { k: (code >> 3 & 63) as usize }
        };
        Product { a: format(11), b: format(14), half: bit(10), layout }
    }
}
