//! residual.cu against f64: every sum of the probe to 1e-6, the kept residual to the bit, and the fold.

use super::harness::{Random, assert_same_bits, devices, for_each, placed, poisoned, poisoned_at, round};
use adacache::device::{Device, Module};
use adacache::ops::params::{MOTION_SUMS, PROBE_SUMS, PROBE_THREADS, ReduceParams, ResidualProbeParams};
use adacache::ops::residual::{ProbeBuffers, extrapolate, fold, probe, unfold};
use adacache::tensor::{DType, Tensor};

/// `Σ|r[t+k]−r[t]|, Σ|r[t+k]|, Σ|r[t]|` over one sample's `[outer, frames, inner]`, for each stride; 0 for strides that reach
/// past the last frame.
pub fn motion_sums(r: &[f32], outer: usize, frames: usize, inner: usize, strides: &[usize]) -> Vec<f64> {
    let at = |o: usize, t: usize, i: usize| f64::from(r[(o * frames + t) * inner + i]);
    let mut sums = Vec::new();
    for &k in strides {
        let mut three = [0.0f64; MOTION_SUMS];
        for o in 0..outer {
            for t in 0..frames.saturating_sub(k) {
                for i in 0..inner {
                    let (later, earlier) = (at(o, t + k, i), at(o, t, i));
                    three[0] += (later - earlier).abs();
                    three[1] += later.abs();
                    three[2] += earlier.abs();
                }
            }
        }
        sums.extend(three);
    }
    sums
}

/// The sums of one sample in f64, and for each the sum of its terms' magnitudes, against which errors are relative.
fn probe_sums(
    new: &[f32],
    kept: Option<&[f32]>,
    frames: usize,
    inner: usize,
    strides: &[usize],
) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![0.0f64; PROBE_SUMS];
    let mut products = 0.0f64;
    for (i, &n) in new.iter().enumerate() {
        let n = f64::from(n);
        sums[5] += n * n;
        if let Some(kept) = kept {
            let k = f64::from(kept[i]);
            for (sum, term) in sums.iter_mut().zip([(n - k).abs(), k.abs(), (n - k).powi(2), k * k, n * k]) {
                *sum += term;
            }
            products += (n * k).abs();
        }
    }
    sums.extend(motion_sums(new, 1, frames, inner, strides));
    let mut magnitudes = sums.clone();
    magnitudes[4] = products;
    (sums, magnitudes)
}

/// Relative error at most 1e-6; zeros exactly.
pub fn assert_sums(what: &str, got: &[f64], exact: &[f64], magnitudes: &[f64]) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (i, ((&got, &exact), &magnitude)) in got.iter().zip(exact).zip(magnitudes).enumerate() {
        let error = (got - exact).abs();
        assert!(
            error <= 1e-6 * magnitude,
            "{what}: sum {i} is {got}, exactly {exact}: relative error {:.2e}",
            error / magnitude
        );
    }
}

struct Inputs {
    new: Vec<f32>,
    kept: Vec<f32>,
}

fn inputs(batch: usize, frames: usize, inner: usize, dtype: DType) -> Inputs {
    let random = &mut Random::new((batch * 31 + frames * 1009 + inner) as u64);
    let kept = random.values(batch * frames * inner, 1.0, dtype);
    // Near each other, as residuals of neighbouring steps are.
    let new = kept.iter().map(|k| round(k + 0.2 * random.normal() + 0.05, dtype)).collect();
    Inputs { new, kept }
}

fn check_probe(
    device: &Device,
    dtype: DType,
    [batch, frames, inner]: [usize; 3],
    strides: &[usize],
    first: bool,
    misalign: usize,
) {
    let what = format!("probe {dtype} [{batch}, {frames}, {inner}] strides {strides:?} first {first} +{misalign}");
    let Inputs { new, kept } = inputs(batch, frames, inner, dtype);
    let shape = [batch, frames, inner];
    let fresh = placed(device, &shape, &new, dtype, misalign);
    let buffers = ProbeBuffers::new(device, batch, strides.len()).unwrap();
    let run = || {
        // The first probe may not read what is there: NaN would reach the sums.
        let keep = if first {
            poisoned_at(device, &shape, dtype, misalign)
        } else {
            placed(device, &shape, &kept, dtype, misalign)
        };
        let sums = probe(&fresh, &keep, first, strides, &buffers).unwrap().to_vec::<f64>().unwrap();
        (keep, sums)
    };
    let (keep, sums) = run();
    assert_eq!(keep.to_bytes().unwrap(), fresh.to_bytes().unwrap(), "{what}: kept := fresh");
    let (_, again) = run();
    assert_eq!(
        sums.iter().map(|s| s.to_bits()).collect::<Vec<_>>(),
        again.iter().map(|s| s.to_bits()).collect::<Vec<_>>(),
        "{what}"
    );
    for (b, got) in sums.chunks_exact(PROBE_SUMS + MOTION_SUMS * strides.len()).enumerate() {
        let sample = b * frames * inner..(b + 1) * frames * inner;
        let old = (!first).then(|| &kept[sample.clone()]);
        let (exact, magnitudes) = probe_sums(&new[sample], old, frames, inner, strides);
        assert_sums(&format!("{what} sample {b}"), got, &exact, &magnitudes);
    }
}

#[test]
fn probe_every_shape() {
    for_each(|device, dtype| {
        for shape in [[1, 1, 1], [2, 3, 7], [1, 4, 8], [1, 5, 1024], [2, 16, 2304], [3, 2, 129], [1, 17, 1031]] {
            for first in [false, true] {
                check_probe(device, dtype, shape, &[1, 2], first, 0);
            }
            check_probe(device, dtype, shape, &[], false, 0);
            check_probe(device, dtype, shape, &[1, 3], false, 1);
        }
    });
}

/// Strides in registers (up to 4), strides that read again, strides longer than the clip, one twice, all eight.
#[test]
fn probe_every_stride() {
    for_each(|device, dtype| {
        for strides in [&[1, 2, 3, 4][..], &[4], &[5, 1], &[9, 2, 7, 100], &[3, 3], &[8, 7, 6, 5, 4, 3, 2, 1]] {
            for frames in [1, 4, 5, 9, 16] {
                check_probe(device, dtype, [2, frames, 72], strides, false, 0);
            }
            check_probe(device, dtype, [1, 9, 11], strides, true, 0);
        }
    });
}

/// A sum of a million terms keeps its six digits, and the order of additions does not depend on what runs first.
#[test]
fn probe_of_a_large_tensor() {
    for device in devices() {
        check_probe(device, DType::F32, [1, 16, 65536], &[1, 2], false, 0);
        check_probe(device, DType::Bf16, [1, 16, 65536], &[1, 2], false, 0);
    }
}

/// The grid is free: fewer blocks than columns walk, more blocks than columns give zeros.
#[test]
fn probe_with_any_number_of_blocks() {
    for_each(|device, dtype| {
        let (batch, frames, inner, strides) = (2, 6, 3000, [1usize, 5]);
        let Inputs { new, kept } = inputs(batch, frames, inner, dtype);
        let count = PROBE_SUMS + MOTION_SUMS * strides.len();
        for blocks in [1, 2, 64] {
            let fresh = placed(device, &[batch, frames, inner], &new, dtype, 0);
            let keep = placed(device, &[batch, frames, inner], &kept, dtype, 0);
            let partial = poisoned(device, &[batch, blocks, count], DType::F32);
            let sums = poisoned(device, &[batch, count], DType::F64);
            let params = ResidualProbeParams {
                fresh: fresh.ptr(),
                kept: keep.ptr(),
                partial: partial.ptr(),
                inner: inner as i64,
                batch: batch as i32,
                frames: frames as i32,
                first: 0,
                num_strides: 2,
                strides: [1, 5, 0, 0, 0, 0, 0, 0],
            };
            let kernel = device.kernel(Module::Residual, &format!("residual_probe_{dtype}")).unwrap();
            device.launch(&kernel, [blocks as u32, batch as u32, 1], [PROBE_THREADS as u32, 1, 1], 0, &params).unwrap();
            let reduce = ReduceParams {
                partial: partial.ptr(),
                sums: sums.ptr(),
                batch: batch as i32,
                blocks: blocks as i32,
                count: count as i32,
                reserved: 0,
            };
            let kernel = device.kernel(Module::Residual, "reduce_partials").unwrap();
            // More warps than sums, too.
            device.launch(&kernel, [3, batch as u32, 1], [256, 1, 1], 0, &reduce).unwrap();
            for (b, got) in sums.to_vec::<f64>().unwrap().chunks_exact(count).enumerate() {
                let sample = b * frames * inner..(b + 1) * frames * inner;
                let (exact, magnitudes) =
                    probe_sums(&new[sample.clone()], Some(&kept[sample]), frames, inner, &strides);
                assert_sums(&format!("{dtype}, {blocks} blocks, sample {b}"), got, &exact, &magnitudes);
            }
        }
    });
}

/// One rounding: to the bit what f32 gives, rounded.
#[test]
fn fold_and_unfold() {
    for_each(|device, dtype| {
        for (count, misalign) in [(1, 0), (7, 0), (8, 0), (1003, 0), (1003, 1), (4096, 0), (4096, 3)] {
            let random = &mut Random::new(count as u64);
            let (a_values, b_values) = (random.values(count, 1.0, dtype), random.values(count, 3.0, dtype));
            let make = |values: &[f32]| placed(device, &[count], values, dtype, misalign);
            let (a, b) = (make(&a_values), make(&b_values));
            for (name, sign) in [("fold", -1.0f32), ("unfold", 1.0)] {
                let expected: Vec<f32> =
                    a_values.iter().zip(&b_values).map(|(a, b)| round(a + sign * b, dtype)).collect();
                let run = |a: &Tensor, b: &Tensor, out: &Tensor| {
                    if sign < 0.0 { fold(a, b, out) } else { unfold(a, b, out) }.unwrap()
                };
                let out = poisoned_at(device, &[count], dtype, misalign);
                run(&a, &b, &out);
                assert_eq!(out.to_f32().unwrap(), expected, "{name} {dtype} {count} +{misalign}");
                let (in_a, in_b) = (make(&a_values), make(&b_values));
                run(&in_a, &b, &in_a);
                run(&a, &in_b, &in_b);
                assert_eq!(in_a.to_f32().unwrap(), expected, "{name} {dtype} in a");
                assert_eq!(in_b.to_f32().unwrap(), expected, "{name} {dtype} in b");
            }
            assert_same_bits("fold", || {
                let out = poisoned_at(device, &[count], dtype, misalign);
                fold(&a, &b, &out).unwrap();
                out
            });
        }
    });
}

/// The polynomial against f64: (steps of the folds, step at hand) with one, two and three folds made.
#[test]
fn extrapolated_folds() {
    for_each(|device, dtype| {
        for (count, misalign) in [(1, 0), (7, 0), (1003, 0), (1003, 1), (4096, 0)] {
            let random = &mut Random::new(count as u64);
            let values: Vec<Vec<f32>> = (0..4).map(|_| random.values(count, 1.0, dtype)).collect();
            let make = |values: &[f32]| placed(device, &[count], values, dtype, misalign);
            let (a, folds) = (make(&values[0]), [make(&values[1]), make(&values[2]), make(&values[3])]);
            let ints = |values: &[i32]| Tensor::from_slice(device, &[values.len()], values).unwrap();
            for (computed, step) in [([5, 0, 0], 9), ([5, 4, 0], 6), ([6, 3, 1], 8), ([9, 8, 7], 11)] {
                for (order, damping) in [(1, 1.0), (2, 1.0), (1, 0.75), (2, 0.625)] {
                    let [c0, c1, c2] = computed.map(f64::from);
                    let x = f64::from(damping) * (f64::from(step) - c0);
                    let exact = |i: usize| {
                        let [a, f0, f1, f2] = [0, 1, 2, 3].map(|k: usize| f64::from(values[k][i]));
                        let slope = (f0 - f1) / (c0 - c1);
                        let curve = (slope - (f1 - f2) / (c1 - c2)) / (c0 - c1);
                        let first = if c1 > 0.0 { x * slope } else { 0.0 };
                        let second = if c2 > 0.0 && order == 2 { x * x / 2.0 * curve } else { 0.0 };
                        a + f0 + first + second
                    };
                    let given: Vec<&Tensor> = folds.iter().take(order + 1).collect();
                    let (computed, cursor) = (ints(&computed), ints(&[step]));
                    let out = poisoned_at(device, &[count], dtype, misalign);
                    extrapolate(&a, &given, &computed, &cursor, damping, &out).unwrap();
                    let got = out.to_f32().unwrap();
                    let unit = match dtype {
                        DType::F32 => 1e-6,
                        DType::F16 => 6e-4,
                        _ => 5e-3,
                    };
                    for (i, &got) in got.iter().enumerate() {
                        let exact = exact(i);
                        let error = (f64::from(got) - exact).abs();
                        assert!(
                            error <= unit * exact.abs() + 1e-5,
                            "{dtype} {c0} {step}, order {order}: {got}, exactly {exact}"
                        );
                    }
                    let in_a = make(&values[0]);
                    extrapolate(&in_a, &given, &computed, &cursor, damping, &in_a).unwrap();
                    assert_eq!(in_a.to_f32().unwrap(), got, "{dtype} in a");
                    if c1 == 0.0 {
                        unfold(&a, &folds[0], &out).unwrap();
                        assert_eq!(out.to_f32().unwrap(), got, "one fold is taken as it is");
                    }
                }
            }
            assert!(extrapolate(&a, &[&folds[0]], &ints(&[1, 0, 0]), &ints(&[2]), 1.0, &a).is_err());
        }
    });
}
