//! pack.cu against a search through all 256 codes.

use super::harness::{Random, assert_same_bits, devices, for_each, placed, poisoned, tensor};
use super::numbers::e4m3::{self, value};
use adacache::ops::pack::{E4M3_MAX, PackError, Packed};
use adacache::tensor::DType;

/// The nearest representable value; of two equally near ones that with an even code.
fn nearest(x: f64) -> f64 {
    value(e4m3::nearest(x)).expect("no NaN")
}

#[test]
fn every_code_and_every_tie_rounds_as_defined() {
    for device in devices() {
        // Rows whose largest value is 448 have the scale 1.
        let mut values: Vec<f32> = (0..=255u8).filter_map(value).map(|v| v as f32).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        values.extend(sorted.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0));
        values.extend(sorted.windows(2).map(|pair| pair[0] + (pair[1] - pair[0]) * 0.499));
        values.extend([1e-30, -1e-9, 0.0, 0.0009765, 0.00097657]);
        let shape = [1, values.len()];
        let (packed, error) = (Packed::new(device, &shape).unwrap(), PackError::new(device).unwrap());
        packed.pack(&tensor(device, &shape, &values, DType::F32), &error).unwrap();
        let out = poisoned(device, &shape, DType::F32);
        packed.unpack(&out, false).unwrap();
        for (x, got) in values.iter().zip(out.to_f32().unwrap()) {
            assert_eq!(f64::from(got), nearest(f64::from(*x)), "{x:e}");
        }
    }
}

#[test]
fn shapes_scales_and_the_error_that_is_reported() {
    for_each(|device, dtype| {
        for (shape, misalign) in [(&[1, 1][..], 0), (&[3, 37], 1), (&[2, 5, 7, 24], 0), (&[9001, 3], 0)] {
            let what = format!("{dtype} {shape:?}");
            let count: usize = shape.iter().product();
            let channels = shape[shape.len() - 1];
            let mut values = Random::new(count as u64).values(count, 3.0, dtype);
            if count > channels {
                values[channels..2 * channels].fill(0.0);
            }
            let x = placed(device, shape, &values, dtype, misalign);
            let (packed, error) = (Packed::new(device, shape).unwrap(), PackError::new(device).unwrap());
            assert_eq!(packed.bytes(), count + 4 * (count / channels));
            packed.pack(&x, &error).unwrap();
            let out = poisoned(device, shape, dtype);
            packed.unpack(&out, false).unwrap();
            let got = out.to_f32().unwrap();
            let (mut lost, mut all) = (0.0, 0.0);
            for (row, got) in values.chunks(channels).zip(got.chunks(channels)) {
                let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let scale = if largest > 0.0 { largest / E4M3_MAX } else { 1.0 };
                for (x, got) in row.iter().zip(got) {
                    // Half a unit of 3 bits of fraction, or half of the smallest step; and the output's own rounding.
                    let bound = (x.abs() / 16.0).max(scale * 2f32.powi(-10)) * 1.001 + got.abs() / 256.0;
                    assert!((x - got).abs() <= bound, "{what}: {x} became {got}");
                    lost += f64::from((x - got).abs());
                    all += f64::from(x.abs());
                }
            }
            let reported = error.relative().unwrap();
            assert!((reported - lost / all).abs() <= 0.01 * (lost / all) + 2e-3, "{what}: {reported} {}", lost / all);
            assert!(reported < 0.05, "{what}: {reported}");

            // Adding, and twice the same bits.
            let sum = placed(device, shape, &values, dtype, misalign);
            packed.unpack(&sum, true).unwrap();
            for ((sum, x), got) in sum.to_f32().unwrap().iter().zip(&values).zip(&got) {
                let exact = x + got;
                assert!((sum - exact).abs() <= exact.abs() / 100.0 + 1e-2, "{what}: {sum} {exact}");
            }
            assert_same_bits(&what, || {
                packed.pack(&x, &error).unwrap();
                let out = poisoned(device, shape, dtype);
                packed.unpack(&out, false).unwrap();
                out
            });
        }
    });
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = &devices()[0];
    let (packed, error) = (Packed::new(device, &[4, 8]).unwrap(), PackError::new(device).unwrap());
    assert!(packed.pack(&poisoned(device, &[4, 9], DType::Bf16), &error).is_err());
    assert!(packed.unpack(&poisoned(device, &[4, 8], DType::U8), false).is_err());
    assert_eq!(error.relative().unwrap(), 0.0, "nothing was packed");
}
