//! Weights in e4m3 with one f32 scale for each row, made on the host when they are loaded: the products of [`crate::ops::fp8`].

use std::thread;

use crate::device::Device;
use crate::ops;
use crate::ops::pack::E4M3_MAX;
use crate::tensor::DType;

use super::container::from_e4m3;
use super::error::ModelError;

/// What a transformer whose blocks multiply in e4m3 (`--fp8-weights`) made of their weights.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fp8Weights {
    /// The blocks' products that are in e4m3.
    pub products: usize,
    /// Their others, in 16 bits: keys and values of the caption, and shapes that the kernel does not serve.
    pub others: usize,
    /// The error of the weights in e4m3, Σ|w − kept w| / Σ|w|.
    pub error: f64,
}

/// Whether `device` multiplies e4m3 for models that compute in `dtype`.
///
/// # Errors
/// [`ModelError::NoFp8`] if it does not.
pub fn check(device: &Device, dtype: DType) -> Result<(), ModelError> {
    if ops::fp8::runs_on(device, dtype) {
        return Ok(());
    }
    let info = device.info();
    let capability = info.compute_capability.map_or("unknown".into(), |(major, minor)| format!("{major}.{minor}"));
    Err(ModelError::NoFp8 { device: info.label(), capability, dtype: dtype.to_string() })
}

/// Rows below this have the scale 1, and are zeros: as those of the kernel that packs activations.
const LEAST: f32 = f32::from_bits((127 - 96) << 23);

/// Σ|w − kept w| and Σ|w|.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Error {
    pub(super) difference: f64,
    pub(super) magnitude: f64,
}

impl Error {
    pub(super) fn and(self, other: Error) -> Error {
        Error { difference: self.difference + other.difference, magnitude: self.magnitude + other.magnitude }
    }

    pub(super) fn relative(self) -> f64 {
        if self.magnitude == 0.0 { 0.0 } else { self.difference / self.magnitude }
    }
}

/// Makes rows of `k` finite values e4m3: their `codes`, and the f32 `scales` of the rows as bytes.
pub(super) fn quantise(values: &[f32], k: usize, codes: &mut [u8], scales: &mut [u8]) -> Error {
    let rows = values.len() / k;
    let numbers: [f32; 256] = std::array::from_fn(|code| from_e4m3(code as u8));
    let numbers = &numbers;
    let mut errors = vec![Error::default(); rows];
    let share = rows.div_ceil(thread::available_parallelism().map_or(1, usize::from)).max(1);
    thread::scope(|scope| {
        let parts = codes.chunks_mut(share * k).zip(scales.chunks_mut(share * 4)).zip(errors.chunks_mut(share));
        for (((codes, scales), errors), values) in parts.zip(values.chunks(share * k)) {
            scope.spawn(move || {
                let rows = codes.chunks_exact_mut(k).zip(scales.chunks_exact_mut(4)).zip(errors);
                for (((codes, scale), error), values) in rows.zip(values.chunks_exact(k)) {
                    let (its, made) = row(values, numbers, codes);
                    scale.copy_from_slice(&its.to_le_bytes());
                    *error = made;
                }
            });
        }
    });
    // In the order of the rows, whatever the number of threads.
    errors.into_iter().fold(Error::default(), Error::and)
}

/// One row: its scale and error. `numbers`: the value of every code.
fn row(values: &[f32], numbers: &[f32; 256], codes: &mut [u8]) -> (f32, Error) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = if largest >= LEAST { largest / E4M3_MAX } else { 1.0 };
    let mut error = Error::default();
    for (value, code) in values.iter().zip(codes) {
        // The quotient can round up past the largest number.
        *code = to_e4m3((value / scale).clamp(-E4M3_MAX, E4M3_MAX));
        error.difference += f64::from((value - numbers[usize::from(*code)] * scale).abs());
        error.magnitude += f64::from(value.abs());
    }
    (scale, error)
}

/// The nearest e4m3 number of |x| ≤ 448, ties to even.
fn to_e4m3(x: f32) -> u8 {
    let (sign, magnitude) = ((x.to_bits() >> 24) as u8 & 0x80, x.to_bits() & 0x7fff_ffff);
    if magnitude < 0x3c80_0000 {
        // Below 2^-6 there are only multiples of 2^-9, the unit in the last place of 2^14.
        let unit = 16384.0f32;
        return sign | ((f32::from_bits(magnitude) + unit).to_bits() - unit.to_bits()) as u8;
    }
    // 3 of 23 bits of fraction stay; a carry moves into the exponent.
    let rounded = magnitude + 0x7_ffff + (magnitude >> 20 & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number and every tie between two, against a search through all codes.
    #[test]
    fn values_round_to_the_nearest_code() {
        let numbers: Vec<(u8, f32)> =
            (0..=254).map(|code| (code, from_e4m3(code))).filter(|(_, v)| !v.is_nan()).collect();
        let mut sorted: Vec<f32> = numbers.iter().map(|(_, value)| *value).collect();
        sorted.sort_by(f32::total_cmp);
        let between = sorted.windows(2).flat_map(|pair| {
            let at = |share: f32| pair[0] + (pair[1] - pair[0]) * share;
            [at(0.5), at(0.499), at(0.501)]
        });
        for x in sorted.iter().copied().chain(between) {
            let far = |value: f32| (f64::from(value) - f64::from(x)).abs();
            let nearest = numbers.iter().min_by(|a, b| far(a.1).total_cmp(&far(b.1)).then((a.0 & 1).cmp(&(b.0 & 1))));
            assert_eq!(from_e4m3(to_e4m3(x)), nearest.unwrap().1, "{x:e}");
        }
    }

    #[test]
    fn rows_have_scales_of_their_own() {
        let k = 4;
        let values = [0.0, 0.0, 0.0, -0.0, 3.0, -448.0, 1.0, 0.0, 1e-30, -2e-30, 0.0, 5e-31, 1e30, -0.5e30, 0.0, 0.0];
        let (mut codes, mut scales) = (vec![0; 16], vec![0; 16]);
        let error = quantise(&values, k, &mut codes, &mut scales);
        let scales: Vec<f32> = scales.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(scales, [1.0, 1.0, 1.0, 1e30 / 448.0]);
        assert_eq!(codes, [0, 0, 0, 0x80, 0x44, 0xfe, 0x38, 0, 0, 0x80, 0, 0, 0x7e, 0xf6, 0, 0]);
        // All but the row that is too small to be kept is exact, within the rounding of the scale.
        assert!(error.relative() < 1e-7 && error.magnitude > 1e30, "{error:?}");
        assert_eq!(Error::default().relative(), 0.0);
    }
}
