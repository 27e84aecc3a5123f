//! A random number generator for tests, with a taste for the numbers on which arithmetic breaks.

/// Marsaglia's xorshift.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn next(&mut self) -> u32 {
        (self.next64() >> 32) as u32
    }

    /// A word of floats of `bits` (16: two of them) whose exponents cluster at the ends and the middle of the range.
    pub(crate) fn special(&mut self, bits: u32) -> u32 {
        if bits == 16 {
            return self.special16() as u32 | (self.special16() as u32) << 16;
        }
        let x = self.next();
        match self.next() % 16 {
            0 => x & 0x8000_0000,
            1 => x & 0x8000_0000 | 0x7f80_0000,
            2 => x | 0x7f80_0000,
            3 => x & 0x807f_ffff,
            4 => x & 0x8000_0003 | 0x0080_0000,
            5 => x & 0x8000_000f | 0x7f7f_fff0,
            6..=7 => x & 0x83ff_ffff,
            8..=11 => x & 0x83ff_ffff | 0x3c00_0000,
            12 => x & 0xff80_0000,
            _ => x,
        }
    }

    /// As [`Random::special`], mixing what is special in f16 and in bf16.
    pub(crate) fn special16(&mut self) -> u16 {
        let x = self.next() as u16;
        match self.next() % 40 {
            0..=2 => x & 0x8000,
            3 => x & 0x8000 | if x & 1 == 0 { 0x7c00 } else { 0x7f80 },
            4..=9 => x & 0x83ff,
            10..=24 => x & 0x83ff | 0x3c00,
            25..=30 => x & 0xbfff | 0x2000,
            31 => x,
            _ => x & 0x8fff | 0x3000,
        }
    }
}
