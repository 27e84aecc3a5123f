//! f64 arithmetic in integers for the directed roundings, which no portable instruction offers.

use super::round::Round;

/// A finite nonzero number `(-1)^negative * mantissa * 2^exponent`.
#[derive(Clone, Copy)]
struct Parts {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

fn parts(x: f64) -> Parts {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 } as u128;
    Parts { negative: x.is_sign_negative(), mantissa, exponent: field.max(1) - 1075 }
}

impl Parts {
    /// With the highest bit of the mantissa at 125, where a sum cannot overflow.
    fn normal(self) -> Parts {
        let shift = self.mantissa.leading_zeros() as i32 - 2;
        Parts { mantissa: self.mantissa << shift, exponent: self.exponent - shift, ..self }
    }

    /// Rounds to f64. The lowest bit of the mantissa may stand for anything nonzero below it.
    fn round(self, round: Round) -> f64 {
        let top = 127 - self.mantissa.leading_zeros() as i32;
        let unit = (self.exponent + top - 52).max(-1074);
        let shift = unit - self.exponent;
        let (mut kept, rest, half) = if shift <= 0 {
            (self.mantissa << -shift, 0, 1)
        } else if shift > 127 {
            (0, 1, 2)
        } else {
            (self.mantissa >> shift, self.mantissa & ((1 << shift) - 1), 1 << (shift - 1))
        };
        kept += match round {
            Round::Nearest => rest > half || (rest == half && kept & 1 == 1),
            Round::Zero => false,
            Round::Down => self.negative && rest != 0,
            Round::Up => !self.negative && rest != 0,
        } as u128;
        let sign = (self.negative as u64) << 63;
        // The implicit bit of a normal mantissa adds one to the exponent field; a carry out of the mantissa does so too.
        let bits = ((unit + 1074) as u64).wrapping_shl(52).wrapping_add(kept as u64);
        const INFINITY: u64 = 0x7ff << 52;
        if unit + 1074 >= 0x7ff || bits >= INFINITY {
            let outward = match round {
                Round::Nearest => true,
                Round::Zero => false,
                Round::Down => self.negative,
                Round::Up => !self.negative,
            };
            return f64::from_bits(sign | if outward { INFINITY } else { INFINITY - 1 });
        }
        f64::from_bits(sign | bits)
    }
}

fn special(x: f64) -> bool {
    !x.is_finite() || x == 0.0
}

/// `a * b`
pub(crate) fn mul(a: f64, b: f64, round: Round) -> f64 {
    if special(a) || special(b) {
        return a * b;
    }
    product(parts(a), parts(b)).round(round)
}

fn product(a: Parts, b: Parts) -> Parts {
    Parts { negative: a.negative != b.negative, mantissa: a.mantissa * b.mantissa, exponent: a.exponent + b.exponent }
}

/// `a * b + c` rounded once.
pub(crate) fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    let zero = |negative: bool| if negative { -0.0 } else { 0.0 };
    let negative_product = a.is_sign_negative() != b.is_sign_negative();
    let down = round == Round::Down;
    if a == 0.0 || b == 0.0 {
        return match (c == 0.0, negative_product == c.is_sign_negative()) {
            (false, _) | (true, true) => c,
            (true, false) => zero(down),
        };
    }
    let p = product(parts(a), parts(b));
    if c == 0.0 {
        return p.round(round);
    }
    let (p, c) = (p.normal(), parts(c).normal());
    let (large, small) = if (p.exponent, p.mantissa) >= (c.exponent, c.mantissa) { (p, c) } else { (c, p) };
    let distance = (large.exponent - small.exponent) as u32;
    // Bits shifted out leave a mark in the lowest place; that happens only where that place is far below the rounding position.
    let aligned = match distance {
        0 => small.mantissa,
        1..=127 => small.mantissa >> distance | (small.mantissa << (128 - distance) != 0) as u128,
        _ => 1,
    };
    let mantissa = if large.negative == small.negative { large.mantissa + aligned } else { large.mantissa - aligned };
    if mantissa == 0 {
        return zero(down);
    }
    Parts { mantissa, ..large }.round(round)
}

/// `a / b`
pub(crate) fn div(a: f64, b: f64, round: Round) -> f64 {
    if special(a) || special(b) {
        return a / b;
    }
    let (a, b) = (parts(a).normal(), parts(b).normal());
    // The numerator keeps 126 bits, the denominator 53: the quotient has 73 or 74.
    let (numerator, denominator) = (a.mantissa, b.mantissa >> 73);
    let mantissa = numerator / denominator | (numerator % denominator != 0) as u128;
    Parts { negative: a.negative != b.negative, mantissa, exponent: a.exponent - b.exponent - 73 }.round(round)
}

/// The square root.
pub(crate) fn sqrt(x: f64, round: Round) -> f64 {
    if special(x) || x < 0.0 {
        return x.sqrt();
    }
    let mut x = parts(x).normal();
    if x.exponent % 2 != 0 {
        x.mantissa <<= 1;
        x.exponent -= 1;
    }
    let root = x.mantissa.isqrt();
    let mantissa = root << 1 | (root * root != x.mantissa) as u128;
    Parts { negative: false, mantissa, exponent: x.exponent / 2 - 1 }.round(round)
}
