//! softmax.cu against f64: short and long rows, columns that do not count, scores far apart.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, for_each, poisoned, round, tensor};
use adacache::ops::softmax::softmax;
use adacache::tensor::DType;

#[test]
fn rows_of_every_length() {
    for_each(|device, dtype| {
        for (rows, count, pitch, scale) in
            [(1, 1, 8, 1.0), (3, 24, 24, 0.3), (2, 1021, 1024, 2.0), (2, 1025, 1040, 0.5), (1, 5001, 5008, 8.0)]
        {
            let mut x = Random::new(count as u64).values(rows * pitch, 3.0, DType::F32);
            // What does not count may be anything.
            x.iter_mut().enumerate().filter(|(i, _)| i % pitch >= count).for_each(|(_, v)| *v = 1e30);
            let (mut exact, mut naive) = (vec![], vec![]);
            for row in x.chunks(pitch) {
                let scaled: Vec<f64> = row[..count].iter().map(|&v| f64::from(v) * f64::from(scale)).collect();
                let top = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scaled.iter().map(|v| (v - top).exp()).sum();
                exact.extend(scaled.iter().map(|v| (v - top).exp() / sum));
                exact.extend(vec![0.0; pitch - count]);
                let low: Vec<f32> = scaled.iter().map(|v| ((v - top) as f32).exp()).collect();
                let low_sum: f32 = low.iter().sum();
                naive.extend(low.iter().map(|v| round(v / low_sum, dtype)));
                naive.extend(vec![0.0; pitch - count]);
            }
            let x = tensor(device, &[rows, pitch], &x, DType::F32);
            let run = || {
                let out = poisoned(device, &[rows, pitch], dtype);
                softmax(&x, count, scale, &out).unwrap();
                out
            };
            let floor = exact.iter().copied().fold(0.0, f64::max) * (epsilon(dtype) + 64.0 * 2f64.powi(-24));
            assert_close(&format!("{dtype} {rows}x{count}"), &run().to_f32().unwrap(), &exact, &naive, floor);
            assert_same_bits("softmax", run);
        }
    });
}

#[test]
fn equal_scores_share_alike() {
    for device in devices() {
        let x = tensor(device, &[1, 16], &[7.5; 16], DType::F32);
        let out = poisoned(device, &[1, 16], DType::F32);
        softmax(&x, 10, 1.0, &out).unwrap();
        let out = out.to_f32().unwrap();
        assert!(out[..10].iter().all(|v| (v - 0.1).abs() < 1e-7) && out[10..].iter().all(|v| *v == 0.0), "{out:?}");
    }
}
