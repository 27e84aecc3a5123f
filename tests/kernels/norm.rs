//! norm.cu against f64: LayerNorm statistics and LayerNorm + adaLN modulate, any channel count, any alignment.

use super::harness::{Random, assert_close, assert_same_bits, epsilon, for_each, placed, poisoned, poisoned_at, round};
use adacache::ops::norm::{Modulate, modulate, row_stats};
use adacache::ops::{Modulation, RowMap};
use adacache::tensor::{DType, Tensor};

const EPS: f32 = 1e-6;

/// Mean and 1/√(var + eps) of every row, in f64 and naively in f32.
fn statistics(x: &[f32], channels: usize) -> (Vec<[f64; 2]>, Vec<[f32; 2]>) {
    let exact = x.chunks_exact(channels).map(|row| {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / channels as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / channels as f64;
        [mean, 1.0 / (variance + f64::from(EPS)).sqrt()]
    });
    let naive = x.chunks_exact(channels).map(|row| {
        let mean = row.iter().sum::<f32>() / channels as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / channels as f32;
        [mean, 1.0 / (variance + EPS).sqrt()]
    });
    (exact.collect(), naive.collect())
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, v| largest.max(v.abs()))
}

/// Statistics of `x`, compared; f32 whatever the dtype of x.
fn check_stats(what: &str, x: &Tensor, values: &[f32], channels: usize) {
    let rows = values.len() / channels;
    let run = || {
        let stats = poisoned(x.device(), &[rows, 2], DType::F32);
        row_stats(x, EPS, &stats).unwrap();
        stats
    };
    let got = run().to_f32().unwrap();
    let (exact, naive) = statistics(values, channels);
    for (column, name) in ["mean", "rstd"].into_iter().enumerate() {
        let got: Vec<f32> = got.chunks_exact(2).map(|pair| pair[column]).collect();
        let exact: Vec<f64> = exact.iter().map(|pair| pair[column]).collect();
        let naive: Vec<f32> = naive.iter().map(|pair| pair[column]).collect();
        // Two roundings more than the naive sum may happen to have.
        let floor = 4.0 * epsilon(DType::F32) * largest(&exact).max(f64::from(values[0].abs()));
        assert_close(&format!("{what} {name}"), &got, &exact, &naive, floor);
    }
    assert_same_bits(what, run);
}

#[test]
fn statistics_of_every_width() {
    for_each(|device, dtype| {
        let shapes = [(1, 1), (3, 2), (5, 13), (2, 8), (7, 144), (4, 256), (9, 257), (6, 264), (3, 1152), (130, 40)];
        for (rows, channels) in shapes {
            for misalign in [0, 1] {
                let values: Vec<f32> = Random::new(channels as u64).values(rows * channels, 1.5, dtype);
                let values: Vec<f32> = values.iter().map(|v| round(v + 0.7, dtype)).collect();
                let x = placed(device, &[rows, channels], &values, dtype, misalign);
                check_stats(&format!("row_stats {dtype} [{rows}, {channels}] +{misalign}"), &x, &values, channels);
            }
        }
    });
}

/// The variance must be that of the centred values: E[x²] − E[x]² would lose it all here.
#[test]
fn statistics_far_from_zero() {
    for_each(|device, dtype| {
        let mean = if dtype == DType::F32 { 4096.0 } else { 32.0 };
        let values: Vec<f32> =
            Random::new(5).values(4 * 144, 1.0, dtype).iter().map(|v| round(v + mean, dtype)).collect();
        let x = placed(device, &[4, 144], &values, dtype, 0);
        check_stats(&format!("row_stats {dtype} around {mean}"), &x, &values, 144);
        // A constant row has no variance: 1/√eps, not NaN.
        let values = [mean; 150];
        check_stats("a constant row", &placed(device, &[2, 75], &values, dtype, 0), &values, 75);
    });
}

struct Case {
    batch: usize,
    frames: usize,
    rows_per_frame: usize,
    channels: usize,
    variants: usize,
    variant: usize,
    /// A frame mask, and whether rows of frames with 1 are left alone.
    mask: Option<bool>,
    in_place: bool,
    misalign: usize,
}

const CHUNKS: usize = 6;
const SHIFT: usize = 4;
const SCALE: usize = 1;

fn check_modulate(device: &adacache::device::Device, dtype: DType, case: &Case) {
    let &Case { batch, frames, rows_per_frame, channels, variants, variant, mask, in_place, misalign } = case;
    let what =
        format!("modulate {dtype} [{batch}, {frames}, {rows_per_frame}, {channels}] {mask:?} {in_place} +{misalign}");
    let rows = batch * frames * rows_per_frame;
    let random = &mut Random::new(rows as u64 + 17);
    let values: Vec<f32> = random.values(rows * channels, 2.0, dtype).iter().map(|v| round(v - 1.0, dtype)).collect();
    let table = random.values(batch * variants * CHUNKS * channels, 0.5, DType::F32);
    let mask_values: Vec<u8> = (0..batch * frames).map(|_| random.below(2) as u8).collect();
    let left_alone = |row: usize| mask == Some(true) && mask_values[row / rows_per_frame] != 0;

    let (stats, naive_stats) = statistics(&values, channels);
    let (mut exact, mut naive) = (Vec::new(), Vec::new());
    for row in (0..rows).filter(|&row| !left_alone(row)) {
        let chunks = &table[(row / (frames * rows_per_frame) * variants + variant) * CHUNKS * channels..];
        for c in 0..channels {
            let (x, shift, scale) =
                (values[row * channels + c], chunks[SHIFT * channels + c], chunks[SCALE * channels + c]);
            let normal = (f64::from(x) - stats[row][0]) * stats[row][1];
            exact.push(normal * (1.0 + f64::from(scale)) + f64::from(shift));
            let normal = round((x - naive_stats[row][0]) * naive_stats[row][1], dtype);
            naive.push(round(round(normal * (1.0 + scale), dtype) + shift, dtype));
        }
    }

    let table = placed(device, &[batch, variants, CHUNKS, channels], &table, DType::F32, misalign);
    let mask = mask.map(|only| (only, Tensor::from_slice(device, &[batch, frames], &mask_values).unwrap()));
    let (only_masked_out, frame_mask) = mask.as_ref().map_or((false, None), |(only, mask)| (*only, Some(mask)));
    let modulation = Modulation { table: &table, frame_mask, rows: RowMap { frames, rows_per_frame } };
    let run = || {
        let x = placed(device, &[rows, channels], &values, dtype, misalign);
        let out = if in_place { x.clone() } else { poisoned_at(device, &[rows, channels], dtype, misalign) };
        let call = Modulate { modulation, shift: SHIFT, scale: SCALE, variant, only_masked_out, eps: EPS };
        modulate(&x, &call, &out).unwrap();
        out
    };
    let got = run().to_f32().unwrap();
    let mut written = Vec::new();
    for (row, out) in got.chunks_exact(channels).enumerate() {
        if !left_alone(row) {
            written.extend_from_slice(out);
        } else if in_place {
            assert_eq!(out, &values[row * channels..][..channels], "{what}: row {row} is to be left alone");
        } else {
            assert!(out.iter().all(|v| v.is_nan()), "{what}: row {row} is to be left alone");
        }
    }
    let floor = 8.0 * epsilon(DType::F32) * largest(&exact) + epsilon(dtype) * largest(&exact);
    assert_close(&what, &written, &exact, &naive, floor);
    assert_same_bits(&what, run);
}

#[test]
fn modulate_every_feature() {
    for_each(|device, dtype| {
        let plain = |batch, frames, rows_per_frame, channels, misalign| Case {
            batch,
            frames,
            rows_per_frame,
            channels,
            variants: 1,
            variant: 0,
            mask: None,
            in_place: false,
            misalign,
        };
        for (channels, misalign) in [(1, 0), (7, 0), (40, 0), (40, 1), (144, 0), (145, 0), (1152, 0), (1160, 4)] {
            check_modulate(device, dtype, &plain(2, 3, 5, channels, misalign));
        }
        for (variant, mask, in_place) in
            [(1, None, true), (1, Some(true), true), (1, Some(true), false), (0, Some(false), false)]
        {
            for channels in [48, 29] {
                check_modulate(
                    device,
                    dtype,
                    &Case { variants: 2, variant, mask, in_place, ..plain(2, 4, 3, channels, 0) },
                );
            }
        }
    });
}
