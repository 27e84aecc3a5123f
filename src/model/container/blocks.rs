//! Quantised blocks of GGUF files, as ggml lays them out (`ggml-common.h`, `ggml-quants.c`): small integers, which a scale of their block or of a
//! part of it turns into numbers. Blocks whose names begin with Q4 to Q8 have 32 elements, those that end with K have 256.

use half::f16;

/// The layout of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // Their published names.
pub(in crate::model) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Blocks {
    /// Elements of a block.
    pub(super) fn elements(self) -> usize {
        match self {
            Blocks::Q4_0 | Blocks::Q4_1 | Blocks::Q5_0 | Blocks::Q5_1 | Blocks::Q8_0 => 32,
            Blocks::Q2_K | Blocks::Q3_K | Blocks::Q4_K | Blocks::Q5_K | Blocks::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Blocks::Q4_0 => 18,
            Blocks::Q4_1 => 20,
            Blocks::Q5_0 => 22,
            Blocks::Q5_1 => 24,
            Blocks::Q8_0 => 34,
            Blocks::Q2_K => 84,
            Blocks::Q3_K => 110,
            Blocks::Q4_K => 144,
            Blocks::Q5_K => 176,
            Blocks::Q6_K => 210,
        }
    }

    /// The elements of whole blocks.
    pub(super) fn floats(self, data: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; data.len() / self.bytes() * self.elements()];
        for (block, out) in data.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.elements())) {
            match self {
                Blocks::Q4_0 => fours(&block[2..], out, |q| f32::from(q as i8 - 8) * half(block, 0)),
                Blocks::Q4_1 => fours(&block[4..], out, |q| f32::from(q) * half(block, 0) + half(block, 2)),
                Blocks::Q5_0 => fives(&block[2..], out, |q| f32::from(q as i8 - 16) * half(block, 0)),
                Blocks::Q5_1 => fives(&block[4..], out, |q| f32::from(q) * half(block, 0) + half(block, 2)),
                Blocks::Q8_0 => {
                    out.iter_mut().zip(&block[2..]).for_each(|(x, q)| *x = f32::from(*q as i8) * half(block, 0))
                }
                Blocks::Q2_K => q2_k(block, out),
                Blocks::Q3_K => q3_k(block, out),
                Blocks::Q4_K => q4_k(block, out),
                Blocks::Q5_K => q5_k(block, out),
                Blocks::Q6_K => q6_k(block, out),
            }
        }
        out
    }
}

/// The scale at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 16 bytes: the low halves are the elements 0 to 15, the high ones 16 to 31.
fn fours(qs: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    for i in 0..16 {
        out[i] = value(qs[i] & 15);
        out[i + 16] = value(qs[i] >> 4);
    }
}

/// As [`fours`], after 32 bits with the fifth bits of all.
fn fives(block: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let high = |i: usize| (block[i / 8] >> (i % 8) & 1) << 4;
    for (i, q) in block[4..].iter().enumerate() {
        out[i] = value(q & 15 | high(i));
        out[i + 16] = value(q >> 4 | high(i + 16));
    }
}

/// The two bits of element `i` of 256 in 64 bytes: in each half of them four planes, one for each pair of bits.
fn pair(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// 16 scales and minima of four bits each, 64 bytes of pairs, the scales of both.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half(block, 80), half(block, 82));
    for (i, x) in out.iter_mut().enumerate() {
        let scale = block[i / 16];
        *x = d * f32::from(scale & 15) * f32::from(pair(&block[16..80], i)) - min * f32::from(scale >> 4);
    }
}

/// 32 bytes of third bits, 64 of pairs, 16 scales of six bits in 12 bytes, their scale.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (scales, d) = (&block[96..108], half(block, 108));
    for (i, x) in out.iter_mut().enumerate() {
        let part = i / 16;
        let low = if part < 8 { scales[part] & 15 } else { scales[part - 8] >> 4 };
        let scale = low | (scales[8 + part % 4] >> (part / 4 * 2) & 3) << 4;
        let third = block[i % 32] >> (i / 32) & 1;
        let q = pair(&block[32..96], i) | third << 2;
        *x = d * f32::from(scale as i8 - 32) * f32::from(q as i8 - 4);
    }
}

/// Scale and minimum of part `i` of 8: six bits each, in 12 bytes.
fn six_bits(scales: &[u8], i: usize) -> [f32; 2] {
    let (scale, min) = match i {
        0..4 => (scales[i] & 63, scales[i + 4] & 63),
        _ => (scales[i + 4] & 15 | scales[i - 4] >> 6 << 4, scales[i + 4] >> 4 | scales[i] >> 6 << 4),
    };
    [scale, min].map(f32::from)
}

/// The four bits of element `i` of 256 in 128 bytes: of 32 bytes the low halves, then the high ones.
fn four(qs: &[u8], i: usize) -> u8 {
    qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// The scales of scales and minima, both in 12 bytes, 128 bytes of fours.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let [scale, min] = six_bits(&block[4..16], i / 32);
        *x = d * scale * f32::from(four(&block[16..], i)) - dmin * min;
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the fours.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let [scale, min] = six_bits(&block[4..16], i / 32);
        let fifth = block[16 + i % 32] >> (i / 32) & 1;
        *x = d * scale * f32::from(four(&block[48..], i) | fifth << 4) - dmin * min;
    }
}

/// 128 bytes of fours, 64 of pairs above them, 16 signed scales, their scale.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half(block, 208);
    for (i, x) in out.iter_mut().enumerate() {
        // In each half of the block: of 64 bytes the low halves, then the high ones.
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let q = low | pair(&block[128..192], i) << 4;
        *x = d * f32::from(block[192 + i / 16] as i8) * f32::from(q as i8 - 32);
    }
}
