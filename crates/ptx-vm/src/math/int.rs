//! Integer and bit instructions. Registers are unsigned words; `signed` functions reinterpret them.

/// `mul.hi.u32`
#[inline(always)]
pub fn mul_hi_u32(a: u32, b: u32) -> u32 {
    ((a as u64 * b as u64) >> 32) as u32
}

/// `mul.hi.s32`
#[inline(always)]
pub fn mul_hi_s32(a: u32, b: u32) -> u32 {
    ((a as i32 as i64 * b as i32 as i64) >> 32) as u32
}

/// `mul.hi.u64`
#[inline(always)]
pub fn mul_hi_u64(a: u64, b: u64) -> u64 {
    ((a as u128 * b as u128) >> 64) as u64
}

/// `mul.hi.s64`
#[inline(always)]
pub fn mul_hi_s64(a: u64, b: u64) -> u64 {
    ((a as i64 as i128 * b as i64 as i128) >> 64) as u64
}

/// `mul.hi.u16`
#[inline(always)]
pub fn mul_hi_u16(a: u16, b: u16) -> u16 {
    ((a as u32 * b as u32) >> 16) as u16
}

/// `mul.hi.s16`
#[inline(always)]
pub fn mul_hi_s16(a: u16, b: u16) -> u16 {
    ((a as i16 as i32 * b as i16 as i32) >> 16) as u16
}

/// `mul.wide.u32`
#[inline(always)]
pub fn mul_wide_u32(a: u32, b: u32) -> u64 {
    a as u64 * b as u64
}

/// `mul.wide.s32`
#[inline(always)]
pub fn mul_wide_s32(a: u32, b: u32) -> u64 {
    (a as i32 as i64 * b as i32 as i64) as u64
}

/// `mul.wide.u16`
#[inline(always)]
pub fn mul_wide_u16(a: u16, b: u16) -> u32 {
    a as u32 * b as u32
}

/// `mul.wide.s16`
#[inline(always)]
pub fn mul_wide_s16(a: u16, b: u16) -> u32 {
    (a as i16 as i32 * b as i16 as i32) as u32
}

/// The low 24 bits of an operand of `mul24`, extended.
#[inline(always)]
fn low24(signed: bool, a: u32) -> i64 {
    if signed { (((a << 8) as i32) >> 8) as i64 } else { (a & 0xff_ffff) as i64 }
}

/// `mul24.lo`
#[inline(always)]
pub fn mul24_lo(signed: bool, a: u32, b: u32) -> u32 {
    (low24(signed, a) * low24(signed, b)) as u32
}

/// `mul24.hi`: bits 47 to 16 of the product.
#[inline(always)]
pub fn mul24_hi(signed: bool, a: u32, b: u32) -> u32 {
    ((low24(signed, a) * low24(signed, b)) >> 16) as u32
}

/// `add.sat.s32`
#[inline(always)]
pub fn add_sat_s32(a: u32, b: u32) -> u32 {
    (a as i32 as i64 + b as i32 as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u32
}

/// `sub.sat.s32`
#[inline(always)]
pub fn sub_sat_s32(a: u32, b: u32) -> u32 {
    (a as i32 as i64 - b as i32 as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u32
}

/// `mad.hi.sat.s32` and, with the high part of `mul24`, `mad24.hi.sat.s32`: the sum clamps.
#[inline(always)]
pub fn mad_hi_sat_s32(a: u32, b: u32, c: u32) -> u32 {
    add_sat_s32(mul_hi_s32(a, b), c)
}

/// `add.cc` / `addc.cc` in 32 bits: the sum and the carry out.
#[inline(always)]
pub fn add_carry_u32(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = a as u64 + b as u64 + carry as u64;
    (sum as u32, sum >> 32 != 0)
}

/// `sub.cc` / `subc.cc` in 32 bits: the difference and the borrow out.
#[inline(always)]
pub fn sub_borrow_u32(a: u32, b: u32, borrow: bool) -> (u32, bool) {
    let difference = (a as u64).wrapping_sub(b as u64).wrapping_sub(borrow as u64);
    (difference as u32, difference >> 32 != 0)
}

/// `add.cc` / `addc.cc` in 64 bits.
#[inline(always)]
pub fn add_carry_u64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(carry as u64);
    (sum, first | second)
}

/// `sub.cc` / `subc.cc` in 64 bits.
#[inline(always)]
pub fn sub_borrow_u64(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, first) = a.overflowing_sub(b);
    let (difference, second) = difference.overflowing_sub(borrow as u64);
    (difference, first | second)
}

/// Division, remainder, differences and extrema of one integer type, on registers of its width.
pub trait Arith: Copy {
    /// `div`: by zero all bits are set, as on the hardware; the manual leaves it open. The least number by -1 is itself.
    fn div(self, b: Self) -> Self;
    /// `rem`: by zero the dividend, as on the hardware; the manual leaves it open.
    fn rem(self, b: Self) -> Self;
    /// `sad`: `c + |a - b|`.
    fn sad(self, b: Self, c: Self) -> Self;
}

macro_rules! arith {
    ($($t:ty)*) => {$(
        impl Arith for $t {
            #[inline(always)]
            fn div(self, b: $t) -> $t {
                if b == 0 { !0 } else { self.wrapping_div(b) }
            }
            #[inline(always)]
            fn rem(self, b: $t) -> $t {
                if b == 0 { self } else { self.wrapping_rem(b) }
            }
            #[inline(always)]
            fn sad(self, b: $t, c: $t) -> $t {
                let distance = if self < b { b.wrapping_sub(self) } else { self.wrapping_sub(b) };
                c.wrapping_add(distance)
            }
        }
    )*};
}

arith!(u16 i16 u32 i32 u64 i64);

/// `shl.b16`: amounts above 16 act as 16.
#[inline(always)]
pub fn shl_b16(a: u16, n: u32) -> u16 {
    if n > 15 { 0 } else { a << n }
}

/// `shl.b32`: amounts above 32 act as 32.
#[inline(always)]
pub fn shl_b32(a: u32, n: u32) -> u32 {
    if n > 31 { 0 } else { a << (n & 31) }
}

/// `shl.b64`: amounts above 64 act as 64.
#[inline(always)]
pub fn shl_b64(a: u64, n: u32) -> u64 {
    if n > 63 { 0 } else { a << (n & 63) }
}

/// `shr.u16` and `shr.b16`
#[inline(always)]
pub fn shr_u16(a: u16, n: u32) -> u16 {
    if n > 15 { 0 } else { a >> n }
}

/// `shr.s16`: fills with the sign.
#[inline(always)]
pub fn shr_s16(a: u16, n: u32) -> u16 {
    ((a as i16) >> n.min(15)) as u16
}

/// `shr.u32` and `shr.b32`
#[inline(always)]
pub fn shr_u32(a: u32, n: u32) -> u32 {
    if n > 31 { 0 } else { a >> (n & 31) }
}

/// `shr.s32`: fills with the sign.
#[inline(always)]
pub fn shr_s32(a: u32, n: u32) -> u32 {
    ((a as i32) >> n.min(31)) as u32
}

/// `shr.u64` and `shr.b64`
#[inline(always)]
pub fn shr_u64(a: u64, n: u32) -> u64 {
    if n > 63 { 0 } else { a >> (n & 63) }
}

/// `shr.s64`: fills with the sign.
#[inline(always)]
pub fn shr_s64(a: u64, n: u32) -> u64 {
    ((a as i64) >> n.min(63)) as u64
}

/// The amount of a funnel shift: clamped to 32 or wrapped.
#[inline(always)]
fn funnel_amount(n: u32, wrap: bool) -> u32 {
    if wrap { n & 31 } else { n.min(32) }
}

/// `shf.l`: the high word of `[b, a]` shifted left.
#[inline(always)]
pub fn shf_l(a: u32, b: u32, n: u32, wrap: bool) -> u32 {
    let both = (b as u64) << 32 | a as u64;
    ((both << funnel_amount(n, wrap)) >> 32) as u32
}

/// `shf.r`: the low word of `[b, a]` shifted right.
#[inline(always)]
pub fn shf_r(a: u32, b: u32, n: u32, wrap: bool) -> u32 {
    let both = (b as u64) << 32 | a as u64;
    (both >> funnel_amount(n, wrap)) as u32
}

/// `lop3.b32`: bit `4a+2b+c` of `lut` is the result for the bits `a b c`.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, lut: u8) -> u32 {
    let pick = |i: u8| if lut >> i & 1 != 0 { !0u32 } else { 0 };
    let mux = |s: u32, one: u32, zero: u32| s & one | !s & zero;
    mux(
        a,
        mux(b, mux(c, pick(7), pick(6)), mux(c, pick(5), pick(4))),
        mux(b, mux(c, pick(3), pick(2)), mux(c, pick(1), pick(0))),
    )
}

/// The modes of `prmt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Permute {
    /// Four selectors of four bits; bit 3 replicates the sign.
    Generic,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// `prmt.b32`
#[inline(always)]
pub fn prmt(mode: Permute, a: u32, b: u32, c: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let n = c & 3;
    let select = |i: u32| match mode {
        Permute::Generic => c >> (4 * i) & 0xf,
        Permute::F4e => n + i,
        Permute::B4e => n.wrapping_sub(i) & 7,
        Permute::Rc8 => n,
        Permute::Ecl => n.max(i),
        Permute::Ecr => n.min(i),
        Permute::Rc16 => (n & 1) * 2 + (i & 1),
    };
    let mut d = 0;
    for i in 0..4 {
        let selector = select(i);
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        let byte = if selector & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        d |= (byte as u32) << (8 * i);
    }
    d
}

/// `bfe.u32`
#[inline(always)]
pub fn bfe_u32(a: u32, pos: u32, len: u32) -> u32 {
    bfe_u64(a as u64, pos, len) as u32
}

/// `bfe.s32`
#[inline(always)]
pub fn bfe_s32(a: u32, pos: u32, len: u32) -> u32 {
    // Bits beyond the top are the sign, as the manual asks: they are in the extended operand already.
    bfe_s64(a as i32 as i64 as u64, pos, len) as u32
}

/// `bfe.u64`
#[inline(always)]
pub fn bfe_u64(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let mask = if len > 63 { !0 } else { (1 << (len & 63)) - 1 };
    shr_u64(a, pos) & mask
}

/// `bfe.s64`
#[inline(always)]
pub fn bfe_s64(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let field = shr_s64(a, pos) as i64;
    let unused = 64 - len.min(64);
    if len == 0 { 0 } else { ((field << (unused & 63)) >> (unused & 63)) as u64 }
}

/// `bfi.b32`: the low `len` bits of `a` into `b` at `pos`.
#[inline(always)]
pub fn bfi_b32(a: u32, b: u32, pos: u32, len: u32) -> u32 {
    bfi_b64(a as u64, b as u64, pos, len) as u32
}

/// `bfi.b64`: the low `len` bits of `a` into `b` at `pos`.
#[inline(always)]
pub fn bfi_b64(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let mask = if len > 63 { !0 } else { (1 << (len & 63)) - 1 };
    let mask = shl_b64(mask, pos);
    b & !mask | shl_b64(a, pos) & mask
}

/// `bfind.u32`, with `.shiftamt` when `shift`.
#[inline(always)]
pub fn bfind_u32(a: u32, shift: bool) -> u32 {
    let zeros = a.leading_zeros();
    if a == 0 {
        !0
    } else if shift {
        zeros
    } else {
        31 - zeros
    }
}

/// `bfind.s32`, with `.shiftamt` when `shift`.
#[inline(always)]
pub fn bfind_s32(a: u32, shift: bool) -> u32 {
    bfind_u32(a ^ ((a as i32) >> 31) as u32, shift)
}

/// `bfind.u64`, with `.shiftamt` when `shift`.
#[inline(always)]
pub fn bfind_u64(a: u64, shift: bool) -> u32 {
    let zeros = a.leading_zeros();
    if a == 0 {
        !0
    } else if shift {
        zeros
    } else {
        63 - zeros
    }
}

/// `bfind.s64`, with `.shiftamt` when `shift`.
#[inline(always)]
pub fn bfind_s64(a: u64, shift: bool) -> u32 {
    bfind_u64(a ^ ((a as i64) >> 63) as u64, shift)
}

/// `fns.b32`: the position of the `offset`-th set bit at or beyond `base` (below it for negative offsets), or all ones.
#[inline(always)]
pub fn fns(mask: u32, base: u32, offset: u32) -> u32 {
    let offset = offset as i32;
    if base > 31 {
        return !0;
    }
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { !0 };
    }
    // Counting down is counting up in the reversed mask.
    let up = offset > 0;
    let mut rest = if up { mask >> base << base } else { (mask << (31 - base)).reverse_bits() << (31 - base) };
    for _ in 1..offset.unsigned_abs().min(33) {
        rest &= rest.wrapping_sub(1);
    }
    let found = rest.trailing_zeros();
    if rest == 0 {
        !0
    } else if up {
        found
    } else {
        31 - found
    }
}

/// `bmsk`: `b` ones from bit `a` on.
#[inline(always)]
pub fn bmsk(a: u32, b: u32, clamp: bool) -> u32 {
    let (a1, b1) = (a & 31, b & 31);
    if clamp && a >= 32 {
        return 0;
    }
    let from = !0u32 << a1;
    let beyond = if a1 + b1 >= 32 || (clamp && b >= 32) { 0 } else { !0u32 << (a1 + b1) };
    from & !beyond
}

/// `szext`: the low `n` bits extended.
#[inline(always)]
pub fn szext(signed: bool, a: u32, n: u32, clamp: bool) -> u32 {
    let bits = n & 31;
    if clamp && n >= 32 {
        return a;
    }
    if bits == 0 {
        return 0;
    }
    let unused = 32 - bits;
    if signed { (((a << unused) as i32) >> unused) as u32 } else { a << unused >> unused }
}

/// Byte `i` of an operand of `dp4a`/`dp2a`, extended.
#[inline(always)]
fn byte(signed: bool, a: u32, i: u32) -> i32 {
    let byte = (a >> (8 * i)) as u8;
    if signed { byte as i8 as i32 } else { byte as i32 }
}

/// `dp4a`: four byte products added to `c`, wrapping.
#[inline(always)]
pub fn dp4a(a_signed: bool, b_signed: bool, a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c;
    for i in 0..4 {
        sum = sum.wrapping_add((byte(a_signed, a, i) * byte(b_signed, b, i)) as u32);
    }
    sum
}

/// `dp2a`: two products of halves of `a` with bytes of the low (or `high`) half of `b`, added to `c`, wrapping.
#[inline(always)]
pub fn dp2a(a_signed: bool, b_signed: bool, high: bool, a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c;
    for i in 0..2 {
        let half = (a >> (16 * i)) as u16;
        let half = if a_signed { half as i16 as i32 } else { half as i32 };
        sum = sum.wrapping_add((half * byte(b_signed, b, i + if high { 2 } else { 0 })) as u32);
    }
    sum
}

/// `min`/`max` of the halves of a word: `.u16x2`, `.s16x2`, the latter with `.relu`.
#[inline(always)]
pub fn extremum_16x2(max: bool, signed: bool, relu: bool, a: u32, b: u32) -> u32 {
    let one = |a: u16, b: u16| {
        let less = if signed { (a as i16) < b as i16 } else { a < b };
        let chosen = if less != max { a } else { b };
        if relu & (chosen >> 15 != 0) { 0 } else { chosen }
    };
    super::f16::x2_2(a, b, one)
}

/// `add.u16x2` and `add.s16x2`: both halves, wrapping.
#[inline(always)]
pub fn add_16x2(a: u32, b: u32) -> u32 {
    super::f16::x2_2(a, b, u16::wrapping_add)
}
