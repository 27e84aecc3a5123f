//! A tensor in a file: how its elements are encoded, its shape and its place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use half::{bf16, f16};

use super::blocks::Blocks;
use crate::tensor::DType;

/// How elements are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) enum Encoding {
    F32,
    F16,
    Bf16,
    /// Four bits of exponent, three of mantissa, no infinities.
    F8E4M3,
    /// Five bits of exponent, two of mantissa.
    F8E5M2,
    I64,
    /// Quantised, in blocks.
    Blocks(Blocks),
    /// One that is not read, by its name.
    Other(String),
}

impl Encoding {
    /// The elements in the bytes of whole elements, or of whole blocks, as f32; `None` for what is no floating-point number. Eight bits come
    /// without a factor.
    pub(in crate::model) fn floats(&self, data: &[u8]) -> Option<Vec<f32>> {
        let halves = || data.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
        Some(match self {
            Encoding::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Encoding::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Encoding::Bf16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            Encoding::F8E4M3 => data.iter().map(|bits| from_e4m3(*bits)).collect(),
            Encoding::F8E5M2 => data.iter().map(|bits| f16::from_bits(u16::from(*bits) << 8).to_f32()).collect(),
            Encoding::Blocks(blocks) => blocks.floats(data),
            Encoding::I64 | Encoding::Other(_) => return None,
        })
    }

    /// Elements that are encoded together.
    pub(in crate::model) fn elements(&self) -> usize {
        match self {
            Encoding::Blocks(blocks) => blocks.elements(),
            _ => 1,
        }
    }

    /// Whether bytes are finite elements of `dtype` as they are.
    pub(in crate::model) fn is_finite(&self, dtype: DType, data: &[u8]) -> bool {
        // What is not has all bits of its exponent set.
        let halves = |exponent: u16| data.as_chunks().0.iter().all(|v| u16::from_le_bytes(*v) & exponent != exponent);
        match (self, dtype) {
            (Encoding::Bf16, DType::Bf16) => halves(0x7f80),
            (Encoding::F16, DType::F16) => halves(0x7c00),
            (Encoding::F32, DType::F32) => data.as_chunks().0.iter().all(|v| f32::from_le_bytes(*v).is_finite()),
            _ => false,
        }
    }

    /// Its name in messages.
    pub(in crate::model) fn name(&self) -> String {
        match self {
            Encoding::Other(name) => name.clone(),
            other => format!("{other:?}"),
        }
    }
}

/// A value of four bits of exponent and three of mantissa, without infinities.
pub(in crate::model) fn from_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The tensors of a file, by name.
pub(super) type Tensors = BTreeMap<String, Stored>;

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Stored {
    pub(in crate::model) encoding: Encoding,
    pub(in crate::model) shape: Vec<usize>,
    /// Its place in the file; with strides from its first element to the end of its last.
    pub(in crate::model) bytes: Range<usize>,
    /// Elements from one index to the next, for each axis; `None`: the elements lie one after the other.
    pub(in crate::model) strides: Option<Vec<usize>>,
}

impl Stored {
    /// The bytes of the elements in order, given those of its place.
    pub(super) fn gathered<'a>(&self, place: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(strides) = &self.strides else { return Cow::Borrowed(place) };
        let last: usize = self.shape.iter().zip(strides).map(|(axis, stride)| (axis - 1) * stride).sum();
        let size = place.len() / (last + 1);
        let mut firsts = vec![0];
        for (axis, stride) in self.shape.iter().zip(strides) {
            firsts = firsts.iter().flat_map(|first| (0..*axis).map(move |index| first + index * stride)).collect();
        }
        Cow::Owned(firsts.iter().flat_map(|first| &place[first * size..][..size]).copied().collect())
    }
}

/// Why a file is not read.
pub(super) enum Refusal {
    /// It is cut or damaged.
    Damaged(String),
    /// It holds what is not read here.
    Unsupported(String),
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Refusal {
        Refusal::Damaged(reason.into())
    }
}

/// For what is not read here.
pub(super) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Unsupported(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_are_floats() {
        assert_eq!(
            [0x00, 0x01, 0x08, 0x38, 0x7e, 0xb8].map(from_e4m3),
            [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 448.0, -1.0]
        );
        assert!(from_e4m3(0x7f).is_nan());
        assert_eq!(Encoding::F8E5M2.floats(&[0x3c, 0xc0]).unwrap(), [1.0, -2.0]);
    }

    #[test]
    fn strides_are_followed() {
        // Columns of [[0, 1, 2], [3, 4, 5]] without the last.
        let view = Stored { encoding: Encoding::F16, shape: vec![2, 2], bytes: 0..10, strides: Some(vec![1, 3]) };
        let bytes: Vec<u8> = (0..5).flat_map(|i| [i, 10 * i]).collect();
        assert_eq!(*view.gathered(&bytes), [0, 0, 3, 30, 1, 10, 4, 40]);
    }
}
