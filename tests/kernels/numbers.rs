//! What the tests of tensor-core kernels share: random inputs, element types on the host, buffers with exact ends, and the bound.
//!
//! The bound is FlashAttention's: a kernel may err at most twice as much as a naive computation in the same dtype does,
//! plus a floor for cases where the naive one is exact by luck. Both errors are against f64 on the same rounded inputs.

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
