//! Runs the same operation on the same bits on two devices, and measures the difference between the results.

use serde::Serialize;

use super::case::Case;
use crate::device::Device;
use crate::ops::OpError;
use crate::shapes::Op;
use crate::tensor::{DType, Tensor};

/// The difference between the results of one operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The operation.
    pub op: Op,
    /// Variant and sizes.
    pub shape: String,
    /// Element type.
    pub dtype: String,
    /// Elements in the outputs.
    pub elements: usize,
    /// Elements whose bits differ.
    pub different: usize,
    /// The largest distance, in representable numbers of the output's type; a number against NaN counts as the maximum.
    pub max_ulp: u64,
    /// The largest |a − b| over the largest |b| of the same output.
    #[serde(with = "crate::json::float")]
    pub max_relative: f64,
}

pub(super) fn differ(device: &Device, reference: &Device, dtype: DType, case: &Case) -> Result<Difference, OpError> {
    let (ours, theirs) = (case.prepare(device, dtype)?, case.prepare(reference, dtype)?);
    ours.run()?;
    theirs.run()?;
    let mut difference = Difference {
        op: case.op(),
        shape: case.name(),
        dtype: dtype.to_string(),
        elements: 0,
        different: 0,
        max_ulp: 0,
        max_relative: 0.0,
    };
    for (ours, theirs) in ours.outputs.iter().zip(&theirs.outputs) {
        let (a, b) = (values(ours)?, values(theirs)?);
        let largest = b.iter().map(|(value, _)| value.abs()).fold(f64::MIN_POSITIVE, f64::max);
        difference.elements += a.len();
        for ((x, x_order), (y, y_order)) in a.iter().zip(&b) {
            difference.different += usize::from(x_order != y_order);
            let ulp = if x.is_nan() == y.is_nan() { x_order.abs_diff(*y_order) } else { u64::MAX };
            difference.max_ulp = difference.max_ulp.max(ulp);
            difference.max_relative = difference.max_relative.max((x - y).abs() / largest);
        }
    }
    Ok(difference)
}

/// Every element's value, and its rank among all numbers of its type.
fn values(tensor: &Tensor) -> Result<Vec<(f64, i64)>, OpError> {
    let bytes = tensor.to_bytes()?;
    // Negative numbers count downwards from zero; both zeros have one place.
    let order = |bits: u64, width: u32| {
        let magnitude = (bits & ((1 << (width - 1)) - 1)) as i64;
        if bits >> (width - 1) == 1 { -magnitude } else { magnitude }
    };
    let value = |chunk: &[u8]| -> (f64, i64) {
        let bits = chunk.iter().rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        let value = match tensor.dtype() {
            DType::Bf16 => half::bf16::from_bits(bits as u16).to_f64(),
            DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
            DType::F32 => f64::from(f32::from_bits(bits as u32)),
            DType::F64 => f64::from_bits(bits),
            DType::U8 | DType::I32 => bits as f64,
        };
        (value, order(bits, 8 * chunk.len() as u32))
    };
    Ok(bytes.chunks_exact(tensor.dtype().size()).map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::VmConfig;

    #[test]
    fn places_among_numbers() {
        let device = Device::vm(VmConfig::default());
        let places = |values: &[f32], dtype| -> Vec<i64> {
            let tensor = Tensor::from_f32(&device, &[values.len()], values, dtype).unwrap();
            super::values(&tensor).unwrap().into_iter().map(|(_, order)| order).collect()
        };
        for (dtype, step) in [(DType::Bf16, 2f32.powi(-7)), (DType::F16, 2f32.powi(-10)), (DType::F32, 2f32.powi(-23))]
        {
            let [zero, negative_zero, one, next, minus] = places(&[0.0, -0.0, 1.0, 1.0 + step, -1.0], dtype)[..] else {
                panic!()
            };
            assert_eq!((zero, negative_zero, next - one, minus), (0, 0, 1, -one), "{dtype}");
        }
    }
}
