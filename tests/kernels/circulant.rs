//! circulant.cu against f64: axes of every length, tiles that end inside a row, the weights of each step, and what does not fit.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, for_each, placed, round};
use adacache::device::Device;
use adacache::ops::circulant::Circulant;
use adacache::ops::decide::{StepClock, StepRow};
use adacache::tensor::{DType, Tensor};

/// One circular sum along an axis of `x` `[outer, n, inner]`; `after` rounds what is added up.
fn along(x: &[f64], weights: &[f32], inner: usize, after: impl Fn(f64) -> f64) -> Vec<f64> {
    let n = weights.len();
    let place = |i: usize| (i / inner / n, i / inner % n, i % inner);
    let value = |i: usize| {
        let (outer, to, column) = place(i);
        (0..n).fold(0.0, |sum, from| {
            let weight = f64::from(weights[(to + n - from) % n]);
            after(sum + after(weight * x[(outer * n + from) * inner + column]))
        })
    };
    (0..x.len()).map(value).collect()
}

fn clock(device: &Device, steps: usize) -> StepClock {
    StepClock::new(device, &vec![StepRow::default(); steps]).unwrap()
}

fn check(device: &Device, dtype: DType, batch: usize, grid: [usize; 3], channels: usize, misalign: usize) {
    let random = &mut Random::new((batch + 10 * grid[1] + channels) as u64);
    let steps: Vec<Vec<Vec<f32>>> =
        (0..2).map(|_| grid.iter().map(|&n| random.values(n, 1.0 / (n as f32).sqrt(), DType::F32)).collect()).collect();
    let count = batch * grid.iter().product::<usize>() * channels;
    let values = random.values(count, 1.0, dtype);
    let shape = [batch, grid[0], grid[1] * grid[2], channels];
    let clock = clock(device, 2);
    let time = Tensor::zeros(device, &[1], DType::F32).unwrap();
    let filter = Circulant::new(device, &grid, &steps, &clock).unwrap();
    for (step, weights) in (1..).zip(&steps) {
        clock.begin(&time, 1, true).unwrap();
        let (mut exact, mut naive): (Vec<f64>, Vec<f64>) =
            (values.iter().map(|&v| f64::from(v)).collect(), values.iter().map(|&v| f64::from(v)).collect());
        for (axis, weights) in weights.iter().enumerate() {
            let inner = channels * grid[axis + 1..].iter().product::<usize>();
            exact = along(&exact, weights, inner, |v| v);
            naive = along(&naive, weights, inner, |v| f64::from(round(v as f32, dtype)));
        }
        let naive: Vec<f32> = naive.iter().map(|&v| v as f32).collect();
        let run = || {
            let x = placed(device, &shape, &values, dtype, misalign);
            filter.apply(&x).unwrap();
            x
        };
        let largest = exact.iter().fold(0.0f64, |most, v| v.abs().max(most));
        let name = format!("{dtype} {batch}x{grid:?}x{channels} +{misalign} step {step}");
        assert_close(&name, &run().to_f32().unwrap(), &exact, &naive, 4.0 * epsilon(dtype) * largest);
        assert_same_bits("circulant", run);
    }
}

#[test]
fn axes_of_every_length() {
    for_each(|device, dtype| {
        for (batch, grid, channels, misalign) in [
            (1, [1, 1, 1], 1, 0),
            (2, [3, 2, 5], 7, 0),
            (1, [2, 7, 1], 130, 1),
            (2, [5, 4, 4], 32, 0),
            (1, [1, 2, 83], 3, 0),
        ] {
            check(device, dtype, batch, grid, channels, misalign);
        }
    });
}

#[test]
fn the_longest_axis() {
    for device in devices() {
        check(device, DType::Bf16, 1, [1, 1, 1024], 3, 0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let clock = clock(device, 2);
        let error = |grid: &[usize], steps: &[Vec<Vec<f32>>]| {
            Circulant::new(device, grid, steps, &clock).map(|_| ()).unwrap_err().to_string()
        };
        let weights = |lengths: &[usize]| lengths.iter().map(|&n| vec![1.0; n]).collect::<Vec<_>>();
        let two = vec![weights(&[2, 3]); 2];
        assert!(error(&[2, 1025], &two).contains("1 to 1024"));
        assert!(error(&[0, 3], &two).contains("1 to 1024"));
        assert!(error(&[2, 3], &two[..1]).contains("as the clock has"));
        assert!(error(&[2, 2], &two).contains("weights"));
        assert!(error(&[1], &[vec![vec![f32::NAN]], vec![vec![1.0]]]).contains("finite"));
        let filter = Circulant::new(device, &[2, 3], &two, &clock).unwrap();
        clock.begin(&Tensor::zeros(device, &[1], DType::F32).unwrap(), 1, true).unwrap();
        for shape in [&[1, 5][..], &[2, 6, 0], &[1, 2, 3, 1, 1][..4]] {
            let x = Tensor::zeros(device, shape, DType::F32).unwrap();
            let fits = shape.iter().product::<usize>() == 6;
            assert_eq!(filter.apply(&x).is_ok(), fits || shape.contains(&0), "{shape:?}");
        }
        let x = Tensor::zeros(device, &[1, 6], DType::U8).unwrap();
        assert!(filter.apply(&x).is_err());
    }
}
