//! norm.cu against f64: LayerNorm statistics, LayerNorm + adaLN modulate, RMSNorm + RoPE, any channel count, any alignment.

use super::harness::{Random, assert_close, assert_same_bits, epsilon, for_each, placed, poisoned, poisoned_at, round};
use adacache::ops::norm::{Modulate, Rope, modulate, rms_rope, row_stats};
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

/// RMSNorm over whole rows and RoPE over three axes, of one or two of three parts; what is behind them stays.
#[test]
fn rms_norm_and_rotation() {
    // (samples, tokens, parts, normed parts, heads, head_dim, pairs, rotated)
    let cases = [
        (2, [3, 2, 5], 3, 2, 2, 128, [22, 21], true),
        (1, [2, 3, 4], 3, 2, 3, 32, [6, 5], true),
        (1, [1, 1, 7], 1, 1, 12, 128, [22, 21], false),
        (2, [2, 2, 1], 2, 1, 2, 40, [8, 6], false),
        (1, [4, 1, 3], 2, 2, 1, 6, [1, 1], true),
        (1, [2, 1, 1], 3, 1, 1, 2, [0, 0], true),
    ];
    for_each(|device, dtype| {
        for (samples, tokens, parts, normed, heads, head_dim, pairs, rotated) in cases {
            for misalign in [0, 1] {
                let (rows, channels) = (samples * tokens.iter().product::<usize>(), heads * head_dim);
                let random = &mut Random::new((rows * channels) as u64);
                let values = random.values(rows * parts * channels, 1.5, dtype);
                let weights: Vec<Vec<f32>> = (0..normed).map(|_| random.values(channels, 1.0, dtype)).collect();
                let positions = tokens.into_iter().max().unwrap();
                let angles: Vec<f64> = (0..positions * head_dim / 2).map(|i| 0.37 * i as f64).collect();
                let table: Vec<f32> = angles.iter().flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect();

                let (mut exact, mut naive): (Vec<f64>, Vec<f32>) =
                    (values.iter().map(|v| f64::from(*v)).collect(), values.clone());
                for (i, part) in (0..rows * parts).filter(|i| i % parts < normed).map(|i| (i, i % parts)) {
                    let row = &values[i * channels..][..channels];
                    let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / channels as f64;
                    let inverse = 1.0 / (mean + f64::from(EPS)).sqrt();
                    let scaled = |c: usize| f64::from(row[c]) * inverse * f64::from(weights[part][c]);
                    let low = |c: usize| round(round(row[c] * inverse as f32, dtype) * weights[part][c], dtype);
                    let at = i / parts;
                    let [_, height, width] = tokens;
                    let place = [at / width / height % tokens[0], at / width % height, at % width];
                    for c in (0..channels).step_by(2) {
                        let pair = c % head_dim / 2;
                        let axis = if pair < pairs[0] { 0 } else { 1 + usize::from(pair >= pairs[0] + pairs[1]) };
                        let turn = place[axis] * head_dim / 2 + pair;
                        let (cos, sin) = if rotated { (table[2 * turn], table[2 * turn + 1]) } else { (1.0, 0.0) };
                        let (x, y) = (scaled(c), scaled(c + 1));
                        exact[i * channels + c] = x * f64::from(cos) - y * f64::from(sin);
                        exact[i * channels + c + 1] = x * f64::from(sin) + y * f64::from(cos);
                        let (x, y) = (low(c), low(c + 1));
                        naive[i * channels + c] = round(x * cos - y * sin, dtype);
                        naive[i * channels + c + 1] = round(x * sin + y * cos, dtype);
                    }
                }

                let weights: Vec<Tensor> =
                    weights.iter().map(|w| placed(device, &[channels], w, dtype, misalign)).collect();
                let weights: Vec<&Tensor> = weights.iter().collect();
                let table = Tensor::from_f32(device, &[positions, head_dim / 2, 2], &table, DType::F32).unwrap();
                let run = || {
                    let x = placed(device, &[rows, parts, heads, head_dim], &values, dtype, misalign);
                    let rope = rotated.then_some(Rope { table: &table, tokens, pairs });
                    rms_rope(&x, &weights, EPS, rope).unwrap();
                    x
                };
                let what = format!("rms_rope {dtype} {tokens:?} {heads}×{head_dim} +{misalign}");
                let floor = epsilon(dtype) * largest(&exact);
                assert_close(&what, &run().to_f32().unwrap(), &exact, &naive, floor);
                assert_same_bits(&what, run);
            }
        }
    });
}

#[test]
fn rms_rope_rejects_what_does_not_fit() {
    for_each(|device, dtype| {
        let tensor = |shape: &[usize], dtype| Tensor::zeros(device, shape, dtype).unwrap();
        let (x, weight) = (tensor(&[6, 3, 2, 8], dtype), tensor(&[16], dtype));
        let table = tensor(&[3, 4, 2], DType::F32);
        let rope = |tokens, pairs| Some(Rope { table: &table, tokens, pairs });
        let error = |weights: &[&Tensor], rope| rms_rope(&x, weights, EPS, rope).unwrap_err().to_string();
        assert!(rms_rope(&x, &[&weight, &weight], EPS, rope([1, 2, 3], [1, 1])).is_ok());
        assert!(error(&[], None).contains("weights is 0"));
        assert!(error(&[&weight; 3], None).contains("weights is 3"));
        assert!(error(&[&tensor(&[8], dtype)], None).contains("heads*head_dim 16"));
        assert!(error(&[&weight], rope([1, 1, 4], [1, 1])).contains("positions 4"));
        assert!(error(&[&weight], rope([1, 2, 2], [1, 1])).contains("a multiple of [1, 2, 2]"));
        assert!(error(&[&weight], rope([1, 2, 0], [1, 1])).contains("none of them 0"));
        assert!(error(&[&weight], rope([1, 2, 3], [3, 2])).contains("at most 4"));
    });
}
