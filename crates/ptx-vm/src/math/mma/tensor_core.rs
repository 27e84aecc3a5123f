//! The additions of hardware's tensor cores, bit for bit where they are known: see [`TensorCore`].

use super::kernel::{Fragments, Lanes};
use super::product::{Format, Layout, Product};
use crate::math::f16::{f16_to_f32, f32_to_f16, odd_f32};

/// How a generation of tensor cores adds, found out by test vectors and by millions of random ones on the hardware:
///
/// * M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, [Numerical behavior of NVIDIA tensor cores](https://peerj.com/articles/cs-330/), 2021
/// * F. A. Khattak, M. Mikaitis, [Accurate models of NVIDIA tensor cores](https://arxiv.org/abs/2512.07004), 2025
/// * P. Xie, Y. Wang, F. Yang, M. Yang, [MMA-Sim](https://arxiv.org/abs/2511.10909), 2025
///
/// A product and its accumulator are summed in blocks along `k`, in order; the result of one is the accumulator of the next. In
/// a block
///
/// 1. products are exact, with the sum of their operands' exponents, not normalised: a significand from 1 up to 4. Subnormal operands
///    count in full, with the least exponent of their format. Products and accumulators that are zero are left out.
/// 2. all are aligned to the largest exponent (or to the floor below, if that is more), and cut off behind [`Self::fraction_bits`] bits: rounded
///    towards zero, each for itself.
/// 3. the sum of these is exact, and cut off to f32, or rounded to f16, to nearest even. Both have subnormal numbers.
///
/// | | fraction bits | products in a block: f16, bf16 | tf32 | e4m3, e5m2 | floor for f32, for f16 |
/// | --- | --- | --- | --- | --- | --- |
/// | sm_70 | 23 | 4 | | | none, 2^-19 |
/// | sm_75 | 24 | 8 | | | 2^-132, 2^-20 |
/// | sm_80 to sm_89 | 24; for 8-bit operands 13 | 8 | 4 | 16 | 2^-132, 2^-20 |
/// | sm_90 | 25; for 8-bit operands 13 | 16 | 8 | 32 | 2^-133, 2^-21 |
/// | sm_100 to sm_121 | 25 | 16 | 8 | 32 | 2^-133, 2^-21 |
///
/// Where there are 13 fraction bits, results in f32 have no more than that either.
///
/// The studies agree but for this: the second has the floors, from tests of tiny numbers; the third says of sm_75 that a block has 8 products,
/// the first 4.
///
/// # How far from exact
///
/// With `n` products in a block, `F` fraction bits and `M` the largest magnitude among accumulator and products, a block errs by less than
/// `(n + 1) 2^-F M` by alignment, and by the last bit of its result: less than `2^-23` of it in f32 (`2^-13` for 13 fraction bits), half a unit in f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorCore {
    /// Bits kept behind the point of the largest term.
    pub fraction_bits: u32,
    /// The same for e4m3 and e5m2.
    pub fraction_bits_8: u32,
    /// Products in a block with f16 and bf16; half as many with tf32.
    pub block: usize,
    /// Products in a block with e4m3 and e5m2.
    pub block_8: usize,
    /// How much less than the least exponent of normal results the terms may be aligned to.
    floor: i32,
    /// With f32 results too.
    floor_f32: bool,
}

impl TensorCore {
    /// The tensor cores of an architecture, as 80 for sm_80.
    pub fn of(arch: u32) -> TensorCore {
        let ampere =
            TensorCore { fraction_bits: 24, fraction_bits_8: 13, block: 8, block_8: 16, floor: 6, floor_f32: true };
        match arch {
            0..75 => TensorCore { fraction_bits: 23, block: 4, floor: 5, floor_f32: false, ..ampere },
            75..90 => ampere,
            90..100 => TensorCore { fraction_bits: 25, block: 16, block_8: 32, floor: 7, ..ampere },
            _ => TensorCore { fraction_bits: 25, fraction_bits_8: 25, block: 16, block_8: 32, floor: 7, ..ampere },
        }
    }
}

/// Operands as integers: 10 bits behind the point of `significand`, whatever the format. The exponent of a zero is far below all others.
struct Operands<const R: usize, const C: usize> {
    significand: [[i32; C]; R],
    exponent: [[i32; C]; R],
    /// For infinities and NaN, of which there may be some.
    value: [[f32; C]; R],
    finite: bool,
}

const NOTHING: i32 = -10_000;

impl<const R: usize, const C: usize> Operands<R, C> {
    const ZERO: Self =
        Operands { significand: [[0; C]; R], exponent: [[NOTHING; C]; R], value: [[0.0; C]; R], finite: true };

    #[inline(always)]
    fn set(&mut self, row: usize, col: usize, x: f32, format: Format) {
        let (significand, exponent) = parts(x, format.least());
        let significand = (significand >> 13) as i32;
        self.significand[row][col] = if x < 0.0 { -significand } else { significand };
        self.exponent[row][col] = exponent;
        self.value[row][col] = x;
        self.finite &= x.is_finite();
    }
}

/// A finite number as 24 bits, 23 behind the point, and an exponent of at least `least`.
#[inline(always)]
fn parts(x: f32, least: i32) -> (u32, i32) {
    let bits = x.to_bits() & 0x7fff_ffff;
    let (biased, fraction) = ((bits >> 23) as i32, bits & 0x007f_ffff);
    let (significand, exponent) = if biased == 0 { (fraction, -126) } else { (fraction | 0x0080_0000, biased - 127) };
    if significand == 0 {
        return (0, NOTHING);
    }
    // Subnormal numbers of the format lose only zeros.
    (significand >> (least - exponent).clamp(0, 31), exponent.max(least))
}

/// How one product adds.
struct Sum {
    bits: i32,
    block: usize,
    half: bool,
    /// f32 results have no more than 13 fraction bits.
    short: bool,
    floor: i32,
}

impl Sum {
    fn new(core: TensorCore, product: &Product) -> Sum {
        let eight = product.a.per_word() == 4;
        let bits = if eight { core.fraction_bits_8 } else { core.fraction_bits };
        let block = match product.a {
            Format::F16 | Format::Bf16 => core.block,
            Format::Tf32 => (core.block / 2).max(1),
            Format::E4m3 | Format::E5m2 => core.block_8,
        };
        let floor = match product.half && product.a == Format::F16 {
            true => -14 - core.floor,
            false if core.floor_f32 => -126 - core.floor,
            false => NOTHING,
        };
        Sum { bits: bits as i32, block, half: product.half, short: bits < 23, floor }
    }

    /// `acc += a b` for one row of A and eight columns of B.
    #[inline(always)]
    fn row<const R: usize, const K: usize>(
        &self,
        a: &Operands<R, K>,
        row: usize,
        b: &Operands<K, 8>,
        k: usize,
        acc: &mut [f32; 8],
    ) {
        for first in (0..k).step_by(self.block) {
            let block = first..(first + self.block).min(k);
            if !(a.finite && b.finite && acc.iter().all(|x| x.is_finite())) {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let products = block.clone().map(|k| (a.value[row][k], b.value[k][j]));
                    *acc = match special(products, *acc) {
                        Some(value) => value,
                        None => self.one(a, row, b, block.clone(), j, *acc),
                    };
                }
                continue;
            }
            let start = acc.map(|x| parts(x, if self.half { -14 } else { -126 }));
            let mut top = [self.floor; 8];
            for j in 0..8 {
                top[j] = top[j].max(start[j].1);
            }
            for k in block.clone() {
                for j in 0..8 {
                    top[j] = top[j].max(a.exponent[row][k] + b.exponent[k][j]);
                }
            }
            let (up, down) = ((self.bits - 20).max(0), (20 - self.bits).max(0));
            let mut sums = [0i64; 8];
            for k in block {
                for j in 0..8 {
                    let product = a.significand[row][k] * b.significand[k][j];
                    let shift = (top[j] - a.exponent[row][k] - b.exponent[k][j] + down).min(31);
                    let kept = ((product.unsigned_abs() << up) >> shift) as i32;
                    sums[j] += i64::from(if product < 0 { -kept } else { kept });
                }
            }
            let (up, down) = ((self.bits - 23).max(0), (23 - self.bits).max(0));
            for j in 0..8 {
                let (significand, exponent) = start[j];
                let kept = i64::from((significand << up) >> (top[j] - exponent + down).min(31));
                sums[j] += if acc[j] < 0.0 { -kept } else { kept };
                acc[j] = self.result(sums[j], top[j]);
            }
        }
    }

    /// One element, for rows that hold infinities or NaN elsewhere.
    #[cold]
    fn one<const R: usize, const K: usize>(
        &self,
        a: &Operands<R, K>,
        row: usize,
        b: &Operands<K, 8>,
        block: std::ops::Range<usize>,
        j: usize,
        acc: f32,
    ) -> f32 {
        let (mut x, mut y) = (Operands::<1, K>::ZERO, Operands::<K, 8>::ZERO);
        for k in block.clone() {
            (x.significand[0][k], x.exponent[0][k]) = (a.significand[row][k], a.exponent[row][k]);
            (y.significand[k][0], y.exponent[k][0]) = (b.significand[k][j], b.exponent[k][j]);
        }
        let mut sums = [acc, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        // Blocks before this one are zero there and would only be cut off again.
        let only = Sum { block: K, ..*self };
        only.row(&x, 0, &y, block.end, &mut sums);
        sums[0]
    }

    /// The sum of a block, in units of `2^(top - bits)`, as a result.
    #[inline(always)]
    fn result(&self, sum: i64, top: i32) -> f32 {
        if sum == 0 {
            return 0.0;
        }
        // At most 40 bits, and exponents of less than 300: exact.
        let exact = sum as f64 * f64::from_bits(((1023 + top - self.bits) as u64) << 52);
        if self.half {
            return f16_to_f32(f32_to_f16(odd_f32(exact)));
        }
        let cut = if self.short { 39 } else { 29 };
        if exact.abs() < f64::from(f32::MIN_POSITIVE) {
            // Units of 2^-149, or of 2^-139.
            let unit = f64::from_bits((1023 + if self.short { 139 } else { 149 }) << 52);
            return ((exact * unit).trunc() / unit) as f32;
        }
        f64::from_bits(exact.to_bits() >> cut << cut) as f32
    }
}

/// What a sum is that has an infinity or a NaN in it.
fn special(products: impl Iterator<Item = (f32, f32)>, acc: f32) -> Option<f32> {
    let mut sum = if acc.is_finite() { 0.0 } else { acc };
    for (a, b) in products {
        if !(a.is_finite() && b.is_finite()) {
            sum += a * b;
        }
    }
    if sum.is_nan() {
        Some(f32::NAN)
    } else if sum.is_infinite() {
        Some(sum)
    } else {
        None
    }
}

fn single(x: f32) -> u32 {
    crate::math::float::canonical(x).to_bits()
}

/// Computes a product as `core` does.
///
/// # Safety
/// As for [`super::Kernel`], with the fragments of the product.
pub unsafe fn multiply(core: TensorCore, product: Product, f: &Fragments) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has these instructions; the rest is the caller's contract.
        return unsafe { avx2(core, product, f) };
    }
    // SAFETY: the caller's contract.
    unsafe { any(core, product, f) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(core: TensorCore, product: Product, f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { any(core, product, f) }
}

#[inline(always)]
unsafe fn any(core: TensorCore, product: Product, f: &Fragments) {
    let sum = Sum::new(core, &product);
    // SAFETY: the caller's contract.
    unsafe {
        match product.layout {
            Layout::Wide { k } => wide(&sum, &product, k, f),
            Layout::Volta { .. } => volta(&sum, &product, f),
        }
    }
}

#[inline(always)]
unsafe fn wide(sum: &Sum, product: &Product, k: usize, f: &Fragments) {
    let k = k.min(32);
    let (mut a, mut b) = (Operands::<16, 32>::ZERO, Operands::<32, 8>::ZERO);
    let per = product.a.per_word();
    let steps = k.div_ceil(4 * per);
    for step in 0..steps {
        for (t, i) in (0..4).flat_map(|t| (0..per).map(move |i| (t, i))) {
            let at = (4 * step + t) * per + i;
            for g in 0..8 {
                // SAFETY: the registers of the shape: two of A and one of B for each step.
                let words =
                    unsafe { [(*f.a[2 * step])[4 * g + t], (*f.a[2 * step + 1])[4 * g + t], (*f.b[step])[4 * g + t]] };
                a.set(g, at, product.a.element(words[0], i), product.a);
                a.set(g + 8, at, product.a.element(words[1], i), product.a);
                b.set(at, g, product.b.element(words[2], i), product.b);
            }
        }
    }
    let mut acc = [[0f32; 8]; 16];
    let mut d: [Lanes; 4] = [[0; 32]; 4];
    let registers = if product.half { 2 } else { 4 };
    for (r, &c) in f.c.iter().enumerate().take(registers) {
        for lane in 0..32 {
            // SAFETY: the registers of the shape.
            let word = unsafe { (*c)[lane] };
            let (g, col) = (lane / 4, 2 * (lane % 4));
            if product.half {
                acc[g + 8 * r][col] = f16_to_f32(word as u16);
                acc[g + 8 * r][col + 1] = f16_to_f32((word >> 16) as u16);
            } else {
                acc[g + 8 * (r / 2)][col + r % 2] = f32::from_bits(word);
            }
        }
    }
    for (row, acc) in acc.iter_mut().enumerate() {
        sum.row(&a, row, &b, k, acc);
    }
    for (r, d) in d.iter_mut().enumerate().take(registers) {
        for (lane, d) in d.iter_mut().enumerate() {
            let (g, col) = (lane / 4, 2 * (lane % 4));
            *d = if product.half {
                let row = &acc[g + 8 * r];
                u32::from(f32_to_f16(row[col])) | u32::from(f32_to_f16(row[col + 1])) << 16
            } else {
                single(acc[g + 8 * (r / 2)][col + r % 2])
            };
        }
    }
    for (r, d) in d.iter().enumerate().take(registers) {
        // SAFETY: as above. Everything has been read.
        unsafe { *f.d[r] = *d };
    }
}

unsafe fn volta(sum: &Sum, product: &Product, f: &Fragments) {
    let Layout::Volta { a_row, b_row, c_half, right } = product.layout else { return };
    // SAFETY: the registers of the shape. All are read before D is written.
    let (ra, rb, rc) = unsafe { ([*f.a[0], *f.a[1]], [*f.b[0], *f.b[1]], f.c.map(|c| *c)) };
    let half =
        |registers: &[Lanes], lane: usize, i: usize| f16_to_f32((registers[i / 2][lane] >> (16 * (i % 2))) as u16);
    let mut d = [[0; 32]; 4];
    for pair in 0..4 {
        let (mut a, mut b) = (Operands::<8, 4>::ZERO, Operands::<4, 8>::ZERO);
        for outer in 0..8 {
            let quad = 4 * pair + 16 * (outer / 4);
            for k in 0..4 {
                let element = |registers: &[Lanes; 2], along: bool| {
                    if along { half(registers, quad + outer % 4, k) } else { half(registers, quad + k, outer % 4) }
                };
                a.set(outer, k, element(&ra, a_row), Format::F16);
                b.set(k, outer, element(&rb, !b_row), Format::F16);
            }
        }
        for row in 0..8 {
            let quad = 4 * pair + 16 * (row / 4);
            // Lane and register of an f32, within the kernel's half of the columns.
            let place = |col: usize| (quad + (row & 1 | col & 2), row & 2 | col & 1);
            let columns = if product.half { 0..8 } else { 4 * usize::from(right)..4 * usize::from(right) + 4 };
            let mut acc = [0f32; 8];
            for col in columns.clone() {
                let (lane, register) = place(col);
                acc[col] = if c_half { half(&rc, quad + row % 4, col) } else { f32::from_bits(rc[register][lane]) };
            }
            sum.row(&a, row, &b, 4, &mut acc);
            for col in columns {
                let (lane, register) = place(col);
                if product.half {
                    d[col / 2][quad + row % 4] |= u32::from(f32_to_f16(acc[col])) << (16 * (col % 2));
                } else {
                    d[register][lane] = single(acc[col]);
                }
            }
        }
    }
    for (target, d) in f.d.iter().zip(d) {
        // SAFETY: as above.
        unsafe { **target = d };
    }
}
