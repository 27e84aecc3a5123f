//! What the tests of tensor-core kernels share: random inputs, element types on the host, buffers with exact ends, and the bound.
//!
//! The bound is FlashAttention's: a kernel may err at most twice as much as a naive computation in the same dtype does,
//! plus a floor for cases where the naive one is exact by luck. Both errors are against f64 on the same rounded inputs.
//!
//! It holds for tensor cores that round and for those that cut. ptx-vm rounds after every product. Hardware adds a group of exact products to the
//! sum at once: it cuts them, and the sum, e bits behind f32's last place of the largest, adds, and cuts the result to f32. TF32 goes in groups of 4
//! with e = 1 on an A100, of 8 with e = 2 on an H100; 16 bits in groups twice as large (Fasi, Higham, Mikaitis and Pranesh, PeerJ CS 7:e330;
//! Khattak and Mikaitis, arXiv 2512.07004). A cut errs towards zero, so that errors of many add up where those of rounding average out. So the
//! naive sum cuts after every product ([`add_cut`]). For 8 products, in units of the sum's last place, a cut of the sum is 1/2 on average and one of a
//! term 2^-e/2; terms of mixed signs cancel, which leaves, if all products have the sign of their sum:
//!
//! * the naive sum: 8 cuts, 4; twice that is allowed: 8;
//! * f32 on an A100, three TF32 products in two groups each: 6 cuts of the sum and 8 of the terms large x large (those with a small factor have
//!   the signs of rounding errors), 3 + 8/4 = 5; on an H100 3/2 + 8/8 = 2.5;
//! * 16 bits on an A100: 1/2 + 8/4 = 2.5.

use adacache::device::{Device, Memory};
use adacache::tensor::DType;
use half::{bf16, f16};

/// xorshift64*: the same inputs on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.bits() >> 33) as usize) % end
    }

    /// Roughly normal with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..4).map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).sum();
        (sum * 1.732) as f32
    }

    /// Normal values scaled, rounded to `dtype`.
    pub fn values(&mut self, count: usize, scale: f32, dtype: DType) -> Vec<f32> {
        (0..count).map(|_| round(self.normal() * scale, dtype)).collect()
    }
}

/// The nearest number of `dtype`.
pub fn round(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// `sum + product`, cut to f32: how a naive computation adds. See the top of this file.
pub fn add_cut(sum: f32, product: f64) -> f32 {
    let exact = f64::from(sum) + product;
    let nearest = exact as f32;
    if f64::from(nearest).abs() > exact.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

/// What 3xTF32 loses of products of f32 before anything is summed; `magnitude` is Σ|a b|. Of x its parts of 11 bits, each rounded to nearest by the
/// kernels themselves, leave out at most 2^-23 |x|, so that nothing is left for tensor cores to cut off operands. small x small, at most
/// 2^-22 |a b|, is not multiplied. Together 2^-21 |a b|.
pub fn tf32_loss(magnitude: f64) -> f64 {
    2f64.powi(-21) * magnitude
}

pub fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

/// Device memory that ends exactly where its data ends and begins `offset` bytes into its allocation (256-byte aligned), so
/// that `offset` chooses the alignment and one byte too far is a fault.
pub struct Buffer {
    memory: Memory,
    offset: usize,
}

impl Buffer {
    pub fn new(device: &Device, bytes: &[u8], offset: usize) -> Self {
        let memory = device.alloc(offset + bytes.len()).unwrap();
        device.upload(&memory, offset, bytes).unwrap();
        Self { memory, offset }
    }

    /// Filled with 0xff: NaN in every dtype.
    pub fn poisoned(device: &Device, bytes: usize, offset: usize) -> Self {
        Self::new(device, &vec![0xff; bytes], offset)
    }

    pub fn ptr(&self) -> u64 {
        self.memory.ptr() + self.offset as u64
    }

    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.memory.bytes() - self.offset];
        self.memory.device().download(&self.memory, self.offset, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn sums_are_cut_towards_zero() {
    let unit = 2f32.powi(-23);
    for (sum, product, cut) in [
        (1.0, 0.9 * f64::from(unit), 1.0),
        (-1.0, -0.9 * f64::from(unit), -1.0),
        (1.0, 1.9 * f64::from(unit), 1.0 + unit),
        (1.0, -0.1 * f64::from(unit), 1.0 - unit / 2.0),
        (0.5, 0.25, 0.75),
        (0.0, 1e300, f32::MAX),
    ] {
        assert_eq!(add_cut(sum, product), cut, "{sum} + {product:e}");
    }
}

/// `max|got − exact| ≤ 2·max|naive − exact| + floor`; otherwise the ten worst elements.
pub fn assert_close(what: &str, got: &[f32], exact: &[f64], naive: &[f32], floor: f64) {
    assert_eq!(got.len(), exact.len(), "{what}");
    let error = |x: &[f32]| x.iter().zip(exact).map(|(&x, &e)| (f64::from(x) - e).abs()).fold(0.0, f64::max);
    let (naive_error, bound) = (error(naive), 2.0 * error(naive) + floor);
    let mut bad: Vec<(f64, usize)> = got
        .iter()
        .zip(exact)
        .enumerate()
        .map(|(i, (&x, &e))| ((f64::from(x) - e).abs(), i))
        .filter(|&(error, _)| error.is_nan() || error > bound)
        .collect();
    if bad.is_empty() {
        return;
    }
    bad.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst: Vec<String> = bad
        .iter()
        .take(10)
        .map(|&(error, i)| format!("  [{i}] got {} exact {} error {error:.3e}", got[i], exact[i]))
        .collect();
    panic!(
        "{what}: {} of {} elements beyond {bound:.3e} (naive error {naive_error:.3e}, floor {floor:.3e})\n{}",
        bad.len(),
        got.len(),
        worst.join("\n")
    );
}

/// e4m3 by the definition of the format.
pub mod e4m3 {
    use std::sync::OnceLock;

    /// The value of a code; `None` for NaN.
    pub fn value(code: u8) -> Option<f64> {
        let (sign, exponent, fraction) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = match (exponent, code & 7) {
            (15, 7) => return None,
            (0, _) => fraction / 8.0 * 2f64.powi(-6),
            _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
        };
        Some(if sign == 1 { -magnitude } else { magnitude })
    }

    /// The code of the nearest number; of two equally near ones the even code. Beyond 448 the largest.
    pub fn nearest(x: f64) -> u8 {
        static VALUES: OnceLock<Vec<f64>> = OnceLock::new();
        let values = VALUES.get_or_init(|| (0..=126).map(|code| value(code).expect("no NaN")).collect());
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let above = values.partition_point(|value| *value < x.abs()).min(126);
        let far = |code: usize| (values[code] - x.abs()).abs();
        let near = [above.saturating_sub(1), above].into_iter();
        let best = near.min_by(|a, b| far(*a).total_cmp(&far(*b)).then((a & 1).cmp(&(b & 1))));
        sign | best.expect("two codes") as u8
    }
}
