//! group_norm.cu against f64: groups of one and of many channels, means far from zero, bands, samples of several frames.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, for_each, poisoned, round, tensor};
use adacache::device::Device;
use adacache::ops::conv::Band;
use adacache::ops::group_norm::{GroupNorm, apply, blocks, statistics};
use adacache::tensor::{DType, Tensor};

#[derive(Debug, Clone, Copy)]
struct Case {
    samples: usize,
    frames_per_sample: usize,
    height: usize,
    width: usize,
    channels: usize,
    groups: usize,
    /// Added to every value.
    mean: f32,
    silu: bool,
    band: Band,
}

impl Case {
    fn new(samples: usize, frames_per_sample: usize, sides: [usize; 2], channels: usize, groups: usize) -> Self {
        let [height, width] = sides;
        let band = Band { first: 0, rows: height };
        Case { samples, frames_per_sample, height, width, channels, groups, mean: 0.3, silu: true, band }
    }

    fn shape(&self) -> [usize; 4] {
        [self.samples * self.frames_per_sample, self.height, self.width, self.channels]
    }
}

const EPS: f32 = 1e-6;

struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn data(case: &Case, dtype: DType) -> Data {
    let random = &mut Random::new((case.channels * 77 + case.width) as u64);
    let x = random.values(case.shape().iter().product(), 1.5, DType::F32);
    let x = x.iter().map(|x| round(x + case.mean, dtype)).collect();
    let weight = random.values(case.channels, 0.5, dtype);
    Data { x, weight, bias: random.values(case.channels, 0.5, dtype) }
}

fn run(device: &Device, dtype: DType, case: &Case, data: &Data) -> Tensor {
    let x = tensor(device, &case.shape(), &data.x, dtype);
    let [weight, bias] = [&data.weight, &data.bias].map(|v| tensor(device, &[case.channels], v, dtype));
    let positions = case.frames_per_sample * case.height * case.width;
    let partial = poisoned(device, &[case.samples * blocks(positions) * case.channels * 2], DType::F32);
    let affine = poisoned(device, &[case.samples, case.channels, 2], DType::F32);
    let norm = GroupNorm { weight: &weight, bias: &bias, groups: case.groups, eps: EPS };
    statistics(&x, &norm, &partial, &affine).unwrap();
    let [frames, _, width, channels] = case.shape();
    let out = poisoned(device, &[frames, case.band.rows, width, channels], dtype);
    apply(&x, &affine, case.silu, case.band, &out).unwrap();
    out
}

fn check(device: &Device, dtype: DType, case: Case) {
    let data = data(&case, dtype);
    let size = case.channels / case.groups;
    let positions = case.frames_per_sample * case.height * case.width;
    let (mut exact, mut naive) = (vec![], vec![]);
    let norms: Vec<(f64, f64)> = (0..case.samples * case.groups)
        .map(|i| {
            let (sample, group) = (i / case.groups, i % case.groups);
            let values: Vec<f64> = (0..positions * size)
                .map(|j| {
                    let position = sample * positions + j / size;
                    f64::from(data.x[position * case.channels + group * size + j % size])
                })
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
            (mean, 1.0 / (variance + f64::from(EPS)).sqrt())
        })
        .collect();
    let silu = |x: f64| if case.silu { x / (1.0 + (-x).exp()) } else { x };
    let per_frame = case.height * case.width * case.channels;
    for (i, &x) in data.x.iter().enumerate() {
        let (frame, row, c) = (i / per_frame, i % per_frame / (case.width * case.channels), i % case.channels);
        if !(case.band.first..case.band.first + case.band.rows).contains(&row) {
            continue;
        }
        let (mean, rstd) = norms[frame / case.frames_per_sample * case.groups + c / size];
        let (w, b) = (data.weight[c], data.bias[c]);
        exact.push(silu((f64::from(x) - mean) * rstd * f64::from(w) + f64::from(b)));
        let normal = round((x - mean as f32) * rstd as f32, dtype);
        naive.push(round(silu(f64::from(round(normal * w + b, dtype))) as f32, dtype));
    }
    let out = run(device, dtype, &case, &data).to_f32().unwrap();
    // The factor and the term are rounded to f32 once each: an error of the size of the mean in units of the deviation.
    let floor = epsilon(dtype) + f64::from(4.0 + 4.0 * case.mean.abs()) * 2f64.powi(-24);
    assert_close(&format!("{dtype} {case:?}"), &out, &exact, &naive, floor);
}

#[test]
fn every_size_of_group() {
    for_each(|device, dtype| {
        for (channels, groups) in [(8, 8), (32, 32), (64, 32), (128, 32), (72, 9), (512, 32), (1024, 32)] {
            check(device, dtype, Case::new(2, 1, [3, 7], channels, groups));
        }
        // One position; more positions than one block's share.
        check(device, dtype, Case::new(1, 1, [1, 1], 64, 4));
        check(device, dtype, Case { silu: false, ..Case::new(1, 1, [23, 41], 40, 5) });
    });
}

#[test]
fn samples_of_several_frames() {
    for_each(|device, dtype| check(device, dtype, Case::new(2, 5, [3, 5], 32, 32)));
}

#[test]
fn bands_of_rows() {
    for_each(|device, dtype| {
        for band in [Band { first: 0, rows: 2 }, Band { first: 3, rows: 4 }, Band { first: 6, rows: 1 }] {
            check(device, dtype, Case { band, ..Case::new(2, 2, [7, 3], 64, 32) });
        }
    });
}

/// Where the mean is a thousand deviations away, a naive E[x²] − E[x]² has no digit left.
#[test]
fn a_mean_far_from_zero() {
    for device in devices() {
        check(device, DType::F32, Case { mean: 1500.0, ..Case::new(2, 1, [13, 17], 64, 32) });
    }
}

#[test]
fn runs_give_the_same_bits() {
    for device in devices() {
        let case = Case::new(2, 3, [9, 7], 64, 32);
        let data = data(&case, DType::Bf16);
        assert_same_bits("group_norm", || run(device, DType::Bf16, &case, &data));
    }
}
