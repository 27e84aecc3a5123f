//! The video instructions: `vadd` and its kin on parts of registers, and their SIMD forms on two halves or four bytes.

/// What is computed from the selected parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Add,
    Sub,
    AbsDiff,
    Min,
    Max,
    Average,
    ShiftLeft,
    ShiftRight,
    MultiplyAdd,
    Compare,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Add,
        Kind::Sub,
        Kind::AbsDiff,
        Kind::Min,
        Kind::Max,
        Kind::Average,
        Kind::ShiftLeft,
        Kind::ShiftRight,
        Kind::MultiplyAdd,
        Kind::Compare,
    ];
}

/// A whole register, as a selector of a scalar instruction; bytes are 0 to 3, halves 4 and 5.
pub const WORD: u8 = 6;

/// One video instruction. All fields are bytes, so that an operand list can carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// The operation.
    pub kind: Kind,
    /// Comparison: 0 eq, 1 ne, 2 lt, 3 le, 4 gt, 5 ge.
    pub compare: u8,
    /// Elements: 1 (scalar), 2 or 4.
    pub lanes: u8,
    /// Whether the types of d, a and b are signed.
    pub signed: [bool; 3],
    /// `.sat`.
    pub saturate: bool,
    /// Secondary operation: 0 none, 1 add, 2 min, 3 max.
    pub second: u8,
    /// Shift amounts are taken modulo 32, not clamped.
    pub wrap: bool,
    /// `vmad`: the product is negated, `c` is negated, one is added.
    pub negate: [bool; 3],
    /// `vmad`: right shift of the result.
    pub scale: u8,
    /// Scalar: where the result is merged into `c` (or [`WORD`]). SIMD: mask of the elements computed.
    pub target: u8,
    /// Selectors of a and b: one for a scalar, one for each element otherwise.
    pub select: [[u8; 4]; 2],
}

impl Video {
    /// The instruction as words of an operand list.
    pub fn words(&self) -> [u32; 4] {
        let flags = [self.signed[0], self.signed[1], self.signed[2], self.saturate, self.wrap];
        let flags = flags.into_iter().chain(self.negate).enumerate().fold(0, |bits, (i, f)| bits | u32::from(f) << i);
        let bytes = |b: [u8; 4]| u32::from_le_bytes(b);
        [
            bytes([self.kind as u8, self.compare, self.lanes, self.second]),
            flags | u32::from(self.scale) << 16 | u32::from(self.target) << 24,
            bytes(self.select[0]),
            bytes(self.select[1]),
        ]
    }

    /// The reverse of [`Video::words`].
    pub fn from_words(words: [u32; 4]) -> Video {
        let [kind, compare, lanes, second] = words[0].to_le_bytes();
        let flag = |i: u32| words[1] >> i & 1 != 0;
        Video {
            kind: Kind::ALL[usize::from(kind) % Kind::ALL.len()],
            compare,
            lanes,
            signed: [flag(0), flag(1), flag(2)],
            saturate: flag(3),
            second,
            wrap: flag(4),
            negate: [flag(5), flag(6), flag(7)],
            scale: (words[1] >> 16) as u8,
            target: (words[1] >> 24) as u8,
            select: [words[2].to_le_bytes(), words[3].to_le_bytes()],
        }
    }

    /// The result for one thread.
    pub fn eval(&self, a: u32, b: u32, c: u32) -> u32 {
        if self.lanes > 1 {
            return self.simd(a, b, c);
        }
        let (x, y) = (part(a, self.select[0][0], self.signed[1]), part(b, self.select[1][0], self.signed[2]));
        if self.kind == Kind::MultiplyAdd {
            return self.multiply_add(x, y, c);
        }
        let bits = match self.target {
            0..=3 => 8,
            4 | 5 => 16,
            _ => 32,
        };
        let value = self.saturated(self.one(x, y), bits);
        let third = if self.signed[0] { i64::from(c as i32) } else { i64::from(c) };
        let value = match self.second {
            1 => value + third,
            2 => value.min(third),
            3 => value.max(third),
            _ => value,
        } as u32;
        match self.target {
            n @ 0..=3 => insert(c, value, 8 * u32::from(n), 0xff),
            n @ (4 | 5) => insert(c, value, 16 * u32::from(n - 4), 0xffff),
            _ => value,
        }
    }

    fn simd(&self, a: u32, b: u32, c: u32) -> u32 {
        let bits = 32 / u32::from(self.lanes);
        let mask = ((1u64 << bits) - 1) as u32;
        let pair = u64::from(b) << 32 | u64::from(a);
        let element = |select: u8, signed: bool| {
            let value = (pair >> (u32::from(select) * bits)) as u32 & mask;
            if signed { i64::from((value << (32 - bits)) as i32 >> (32 - bits)) } else { i64::from(value) }
        };
        let mut d = c;
        for i in 0..u32::from(self.lanes) {
            if self.target >> i & 1 == 0 {
                continue;
            }
            let x = element(self.select[0][i as usize], self.signed[1]);
            let y = element(self.select[1][i as usize], self.signed[2]);
            let value = self.saturated(self.one(x, y), bits);
            d = if self.second == 1 { d.wrapping_add(value as u32) } else { insert(d, value as u32, i * bits, mask) };
        }
        d
    }

    /// The operation on two parts.
    fn one(&self, x: i64, y: i64) -> i64 {
        let amount = if self.wrap { y & 31 } else { y.min(32) };
        match self.kind {
            Kind::Add => x + y,
            Kind::Sub => x - y,
            Kind::AbsDiff => (x - y).abs(),
            Kind::Min => x.min(y),
            Kind::Max => x.max(y),
            Kind::Average => (x + y + i64::from(x + y >= 0)) >> 1,
            Kind::ShiftLeft => x << amount,
            Kind::ShiftRight => x >> amount,
            Kind::MultiplyAdd => x * y,
            Kind::Compare => i64::from(match self.compare {
                0 => x == y,
                1 => x != y,
                2 => x < y,
                3 => x <= y,
                4 => x > y,
                _ => x >= y,
            }),
        }
    }

    fn saturated(&self, value: i64, bits: u32) -> i64 {
        if self.saturate { clamp(i128::from(value), bits, self.signed[0]) } else { value }
    }

    fn multiply_add(&self, x: i64, y: i64, c: u32) -> u32 {
        let [product, third, one] = self.negate;
        let signed = self.signed[1] || self.signed[2] || product || third;
        let mut sum = i128::from(x) * i128::from(y);
        let mut c = c;
        if !one && product {
            sum = !sum;
        } else if !one && third {
            c = !c;
        }
        let c = if signed { i128::from(c as i32) } else { i128::from(c) };
        let sum = (sum + c + i128::from(one || product || third)) >> self.scale;
        if self.saturate { clamp(sum, 32, signed) as u32 } else { sum as u32 }
    }
}

/// A byte, half or word, extended.
fn part(x: u32, select: u8, signed: bool) -> i64 {
    match (select, signed) {
        (n @ 0..=3, false) => i64::from((x >> (8 * n)) as u8),
        (n @ 0..=3, true) => i64::from((x >> (8 * n)) as i8),
        (n @ (4 | 5), false) => i64::from((x >> (16 * (n - 4))) as u16),
        (n @ (4 | 5), true) => i64::from((x >> (16 * (n - 4))) as i16),
        (_, false) => i64::from(x),
        (_, true) => i64::from(x as i32),
    }
}

fn insert(into: u32, value: u32, at: u32, mask: u32) -> u32 {
    into & !(mask << at) | (value & mask) << at
}

fn clamp(value: i128, bits: u32, signed: bool) -> i64 {
    let (low, high) = if signed { (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    value.clamp(low, high) as i64
}
