//! rms_norm.cu against f64: every number of lanes, rows of zeros, padded channels, in place.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, for_each, poisoned, round, tensor};
use adacache::device::Device;
use adacache::ops::rms_norm::rms_norm;
use adacache::tensor::DType;

/// Rows and channels, of which the last `padding` are zeros.
fn check(device: &Device, dtype: DType, [rows, channels, padding]: [usize; 3], silu: bool) {
    let random = &mut Random::new((channels * 10 + rows) as u64);
    let mut x = random.values(rows * channels, 2.0, dtype);
    let mut gamma = random.values(channels, 1.0, dtype);
    x.iter_mut().enumerate().filter(|(i, _)| i % channels >= channels - padding).for_each(|(_, v)| *v = 0.0);
    gamma[channels - padding..].fill(0.0);
    // A row without a direction stays zero.
    x[..channels].fill(0.0);
    let scale = ((channels - padding) as f32).sqrt();
    let act = |v: f64| if silu { v / (1.0 + (-v).exp()) } else { v };
    let (mut exact, mut naive) = (vec![], vec![]);
    for row in x.chunks(channels) {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12);
        for (&v, &gamma) in row.iter().zip(&gamma) {
            exact.push(act(f64::from(v) / norm * f64::from(scale) * f64::from(gamma)));
            let normal = round(v / norm as f32 * scale, dtype);
            naive.push(round(act(f64::from(round(normal * gamma, dtype))) as f32, dtype));
        }
    }
    let gamma = tensor(device, &[channels], &gamma, dtype);
    let from = tensor(device, &[rows, channels], &x, dtype);
    let run = || {
        let out = poisoned(device, &[rows, channels], dtype);
        rms_norm(&from, &gamma, scale, silu, &out).unwrap();
        out
    };
    let got = run().to_f32().unwrap();
    let floor = epsilon(dtype) + 32.0 * 2f64.powi(-24);
    assert_close(&format!("{dtype} {rows}x{channels}-{padding} {silu}"), &got, &exact, &naive, floor);
    assert_same_bits("rms_norm", run);
    let inside = tensor(device, &[rows, channels], &x, dtype);
    rms_norm(&inside, &gamma, scale, silu, &inside).unwrap();
    assert_eq!(inside.to_f32().unwrap(), got, "{dtype} {rows}x{channels} in place");
}

#[test]
fn rows_of_every_width() {
    for_each(|device, dtype| {
        for channels in [8, 16, 24, 72, 96, 160, 192, 256, 384, 520, 1024] {
            check(device, dtype, [5, channels, 0], true);
        }
        // Rows that fill warps and blocks, and one more.
        for rows in [1, 8, 33, 130] {
            check(device, dtype, [rows, 32, 0], rows % 2 == 0);
        }
        check(device, dtype, [7, 16, 4], true);
        check(device, dtype, [7, 8, 5], false);
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let zeros = |shape: &[usize]| tensor(device, shape, &vec![0.0; shape.iter().product()], DType::F32);
        let (x, out) = (zeros(&[2, 3, 16]), zeros(&[2, 3, 16]));
        rms_norm(&x, &zeros(&[16]), 4.0, true, &out).unwrap();
        let error =
            |x: &_, gamma: &[usize], scale| rms_norm(x, &zeros(gamma), scale, true, &out).unwrap_err().to_string();
        assert!(error(&x, &[12], 1.0).contains("multiple of 8"));
        assert!(error(&x, &[32], 1.0).contains("channels 32"));
        assert!(error(&x, &[16], f32::NAN).contains("finite"));
        assert!(error(&zeros(&[2, 2, 16]), &[16], 1.0).contains("positions 4"));
    }
}
