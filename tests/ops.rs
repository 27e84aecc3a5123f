//! The typed launchers: that they hand the kernels the right layouts (f32, against f64 loops), and that what does not fit is an
//! error that names operation, argument, got and expected. Accuracy and odd shapes are tests/kernels' subject.

mod common;

use adacache::device::Device;
use adacache::ops::attention::{self, QkNorm, SelfAttention, VideoDims};
use adacache::ops::linear::{Activation, Gate, Modulate, linear, linear_residual};
use adacache::ops::params::STEP_WORDS;
use adacache::ops::residual::{self, ProbeBuffers};
use adacache::ops::{Modulation, OpError, RowMap, embed, motion, norm, sampler};
use adacache::tensor::{DType, Tensor};
use common::checked_devices as devices;

/// Values in -1..1 that look random and repeat.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn f32s(device: &Device, shape: &[usize], seed: usize) -> (Tensor, Vec<f64>) {
    let host = values(shape.iter().product(), seed);
    let tensor = Tensor::from_f32(device, shape, &host, DType::F32).unwrap();
    (tensor, host.into_iter().map(f64::from).collect())
}

fn poisoned(device: &Device, shape: &[usize], dtype: DType) -> Tensor {
    let tensor = Tensor::empty(device, shape, dtype).unwrap();
    tensor.fill_bytes(0xff).unwrap();
    tensor
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &[f64]) {
    let got = got.to_f32().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |a, v| a.max(v.abs()));
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(g) - e).abs() <= 1e-5 * scale, "{what}[{i}]: {g}, expected {e}");
    }
}

// ---- layouts -----------------------------------------------------------------------------------------------------------

const BATCH: usize = 2;
const FRAMES: usize = 3;
const TOKENS: usize = 5;
const ROWS: usize = BATCH * FRAMES * TOKENS;
const DIMS: VideoDims = VideoDims { batch: BATCH, frames: FRAMES, tokens: TOKENS };
const MASK: [u8; BATCH * FRAMES] = [1, 0, 1, 0, 0, 1];

fn matmul(a: &[f64], w: &[f64], bias: &[f64], k: usize) -> Vec<f64> {
    let n = bias.len();
    let dot = |row: &[f64], j: usize| row.iter().zip(&w[j * k..]).map(|(a, b)| a * b).sum::<f64>() + bias[j];
    a.chunks(k).flat_map(|row| (0..n).map(move |j| dot(row, j))).collect()
}

/// The chunk of the modulation table that a row takes.
fn chunk_of(table: &[f64], row: usize, chunk: usize, chunks: usize, channels: usize) -> &[f64] {
    let frame = row / TOKENS;
    let variant = usize::from(MASK[frame] == 0);
    let at = ((frame / FRAMES * 2 + variant) * chunks + chunk) * channels;
    &table[at..at + channels]
}

#[test]
fn linear_applies_prologue_activation_gate_and_residual() {
    for device in devices() {
        let (k, n, chunks) = (24, 20, 6);
        let (a, a_host) = f32s(&device, &[BATCH, FRAMES, TOKENS, k], 1);
        let (w, w_host) = f32s(&device, &[n, k], 2);
        let (bias, bias_host) = f32s(&device, &[n], 3);
        let plain = matmul(&a_host, &w_host, &bias_host, k);
        let out = poisoned(&device, &[ROWS, n], DType::F32);
        linear(&a, &w, Some(&bias), None, Activation::None, &out).unwrap();
        assert_close("bias", &out, &plain);

        let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        linear(&a, &w, Some(&bias), None, Activation::GeluTanh, &out).unwrap();
        assert_close("gelu", &out, &plain.iter().map(|&x| gelu(x)).collect::<Vec<_>>());

        // LayerNorm, and adaLN frame by frame.
        let stats = poisoned(&device, &[ROWS, 2], DType::F32);
        norm::row_stats(&a, 1e-6, &stats).unwrap();
        let (table, table_host) = f32s(&device, &[BATCH, 2, chunks, k], 4);
        let mask = Tensor::from_slice(&device, &[BATCH, FRAMES], &MASK).unwrap();
        let rows = RowMap { frames: FRAMES, rows_per_frame: TOKENS };
        let modulation = Modulation { table: &table, frame_mask: Some(&mask), rows };
        let mut modulated = a_host.clone();
        for (r, row) in modulated.chunks_mut(k).enumerate() {
            let mean = row.iter().sum::<f64>() / k as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / k as f64;
            let (shift, scale) = (chunk_of(&table_host, r, 3, chunks, k), chunk_of(&table_host, r, 4, chunks, k));
            for (c, x) in row.iter_mut().enumerate() {
                *x = (*x - mean) / (variance + 1e-6).sqrt() * (1.0 + scale[c]) + shift[c];
            }
        }
        let modulate = Modulate { stats: &stats, modulation, shift: 3, scale: 4 };
        linear(&a, &w, Some(&bias), Some(&modulate), Activation::None, &out).unwrap();
        assert_close("modulated", &out, &matmul(&modulated, &w_host, &bias_host, k));

        // x += gate * (...), and the residual by itself: written, then added to.
        let (x, x_host) = f32s(&device, &[BATCH, FRAMES, TOKENS, n], 5);
        let (gates, gates_host) = f32s(&device, &[BATCH, 2, chunks, n], 6);
        let gate = Gate { modulation: Modulation { table: &gates, ..modulation }, chunk: 5 };
        let added: Vec<f64> =
            (0..ROWS * n).map(|i| chunk_of(&gates_host, i / n, 5, chunks, n)[i % n] * plain[i]).collect();
        let fresh = poisoned(&device, &[ROWS, n], DType::F32);
        linear_residual(&a, &w, Some(&bias), Some(&gate), &x, Some((&fresh, false))).unwrap();
        assert_close("residual", &fresh, &added);
        linear_residual(&a, &w, Some(&bias), None, &x, Some((&fresh, true))).unwrap();
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        assert_close("residuals", &fresh, &sum(&added, &plain));
        assert_close("x", &x, &sum(&x_host, &sum(&added, &plain)));
    }
}

const HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const WIDTH: usize = HEADS * HEAD_DIM;

/// softmax(q·kᵀ/√d)·v of one head; `queries` and `keys` are row numbers.
fn attend(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let one = |q: &Vec<f64>| {
        let scores: Vec<f64> = k.iter().map(|k| (dot(q, k) / (HEAD_DIM as f64).sqrt()).exp()).collect();
        let total: f64 = scores.iter().sum();
        (0..HEAD_DIM).map(|d| scores.iter().zip(v).map(|(s, v)| s * v[d]).sum::<f64>() / total).collect()
    };
    q.iter().map(one).collect()
}

/// RMSNorm, then RoPE at a position.
fn normalize(x: &[f64], weight: &[f64], rope: Option<(&[f64], usize)>) -> Vec<f64> {
    let rms = (x.iter().map(|x| x * x).sum::<f64>() / HEAD_DIM as f64 + 1e-6).sqrt();
    let mut x: Vec<f64> = x.iter().zip(weight).map(|(x, w)| x / rms * w).collect();
    if let Some((table, position)) = rope {
        for i in 0..HEAD_DIM / 2 {
            let at = (position * HEAD_DIM / 2 + i) * 2;
            let (cos, sin, a, b) = (table[at], table[at + 1], x[2 * i], x[2 * i + 1]);
            (x[2 * i], x[2 * i + 1]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
    x
}

#[test]
fn self_attention_runs_over_tokens_or_frames() {
    for device in devices() {
        let (qkv, host) = f32s(&device, &[ROWS, 3, HEADS, HEAD_DIM], 7);
        let (q_norm, q_weight) = f32s(&device, &[HEAD_DIM], 8);
        let (k_norm, k_weight) = f32s(&device, &[HEAD_DIM], 9);
        let (rope, rope_host) = f32s(&device, &[FRAMES + 4, HEAD_DIM / 2, 2], 10);
        let part = |row: usize, part: usize, head: usize| {
            let at = ((row * 3 + part) * HEADS + head) * HEAD_DIM;
            &host[at..at + HEAD_DIM]
        };
        let expected = |sequences: &[Vec<usize>], rope: Option<&[f64]>| {
            let mut out = vec![0.0; ROWS * WIDTH];
            for (rows, head) in sequences.iter().flat_map(|rows| (0..HEADS).map(move |head| (rows, head))) {
                let side = |which: usize, weight: &[f64]| -> Vec<Vec<f64>> {
                    let at =
                        |(i, &row): (usize, &usize)| normalize(part(row, which, head), weight, rope.map(|r| (r, i)));
                    rows.iter().enumerate().map(at).collect()
                };
                let v: Vec<Vec<f64>> = rows.iter().map(|&row| part(row, 2, head).to_vec()).collect();
                for (&row, o) in rows.iter().zip(attend(&side(0, &q_weight), &side(1, &k_weight), &v)) {
                    out[row * WIDTH + head * HEAD_DIM..][..HEAD_DIM].copy_from_slice(&o);
                }
            }
            out
        };
        let norm = Some(QkNorm { q: &q_norm, k: &k_norm, eps: 1e-6 });
        let out = poisoned(&device, &[ROWS, WIDTH], DType::F32);
        let call = SelfAttention { qkv: &qkv, dims: DIMS, norm, rope: None };
        attention::spatial(&call, &out).unwrap();
        let frames: Vec<Vec<usize>> = (0..BATCH * FRAMES).map(|f| (f * TOKENS..(f + 1) * TOKENS).collect()).collect();
        assert_close("spatial", &out, &expected(&frames, None));

        out.fill_bytes(0xff).unwrap();
        attention::temporal(&SelfAttention { rope: Some(&rope), ..call }, &out).unwrap();
        let along_time = |s: usize| (0..FRAMES).map(|t| (s / TOKENS * FRAMES + t) * TOKENS + s % TOKENS).collect();
        let columns: Vec<Vec<usize>> = (0..BATCH * TOKENS).map(along_time).collect();
        assert_close("temporal", &out, &expected(&columns, Some(&rope_host)));
    }
}

#[test]
fn cross_attention_keeps_to_each_samples_caption() {
    for device in devices() {
        let (length, lengths) = (6, [6usize, 2]);
        let (q, q_host) = f32s(&device, &[ROWS, HEADS, HEAD_DIM], 11);
        let (kv, kv_host) = f32s(&device, &[BATCH * length, 2, HEADS, HEAD_DIM], 12);
        let counts = Tensor::from_slice(&device, &[BATCH], &lengths.map(|n| n as i32)).unwrap();
        let out = poisoned(&device, &[ROWS, WIDTH], DType::F32);
        attention::cross(&q, &kv, &counts, None, &DIMS, &out).unwrap();
        let mut expected = vec![0.0; ROWS * WIDTH];
        for (row, head) in (0..ROWS).flat_map(|row| (0..HEADS).map(move |head| (row, head))) {
            let sample = row / (FRAMES * TOKENS);
            let side = |which: usize| -> Vec<Vec<f64>> {
                let at = |j: usize| (((sample * length + j) * 2 + which) * HEADS + head) * HEAD_DIM;
                (0..lengths[sample]).map(|j| kv_host[at(j)..][..HEAD_DIM].to_vec()).collect()
            };
            let at = row * WIDTH + head * HEAD_DIM;
            let o = attend(&[q_host[at..][..HEAD_DIM].to_vec()], &side(0), &side(1));
            expected[at..at + HEAD_DIM].copy_from_slice(&o[0]);
        }
        assert_close("cross", &out, &expected);
    }
}

// ---- errors --------------------------------------------------------------------------------------------------------------

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, OpError>, words: &[&str]) {
    let message = result.expect_err("a call that cannot work").to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    devices().iter().for_each(refusals);
}

fn refusals(device: &Device) {
    let empty = |shape: &[usize]| Tensor::empty(device, shape, DType::Bf16).unwrap();
    let f32s = |shape: &[usize]| Tensor::empty(device, shape, DType::F32).unwrap();
    let (a, w, out) = (empty(&[4, 8]), empty(&[6, 8]), empty(&[4, 6]));
    let none = Activation::None;

    // linear: shapes, types, devices, aliases.
    assert_refused(linear(&a, &w, Some(&empty(&[5])), None, none, &out), &["linear: bias has shape [5]", "[n 6]"]);
    assert_refused(linear(&a, &w, None, None, none, &empty(&[4, 7])), &["linear: out", "[4, 7]", "[m 4, n 6]"]);
    assert_refused(linear(&empty(&[4, 7]), &w, None, None, none, &out), &["linear: a", "[4, 7]", "k 8"]);
    assert_refused(linear(&f32s(&[4, 8]), &w, None, None, none, &out), &["linear: a is f32, expected bf16"]);
    assert_refused(linear(&a, &empty(&[48]), None, None, none, &out), &["linear: w", "[48]", "[n, k]"]);
    let bytes = Tensor::zeros(device, &[6, 8], DType::U8).unwrap();
    assert_refused(linear(&a, &bytes, None, None, none, &out), &["w is u8", "bf16, f16 or f32"]);
    let elsewhere = Tensor::zeros(&Device::open("vm").unwrap(), &[6], DType::Bf16).unwrap();
    assert_refused(linear(&a, &w, Some(&elsewhere), None, none, &out), &["linear: bias is on vm", "one device"]);
    let square = empty(&[8, 8]);
    assert_refused(linear(&square, &square, None, None, none, &square), &["linear: the output overlaps a"]);

    // Modulation: rows, variants, chunks.
    let (table, stats) = (f32s(&[2, 1, 6, 8]), f32s(&[4, 2]));
    let rows = RowMap { frames: 1, rows_per_frame: 2 };
    let modulation = Modulation { table: &table, frame_mask: None, rows };
    let modulated = |modulation: Modulation<'_>, shift: usize| {
        linear(&a, &w, None, Some(&Modulate { stats: &stats, modulation, shift, scale: 0 }), none, &out)
    };
    assert_refused(modulated(modulation, 6), &["linear: shift is 6", "below 6"]);
    let wrong_rows = Modulation { rows: RowMap { frames: 3, rows_per_frame: 2 }, ..modulation };
    assert_refused(modulated(wrong_rows, 0), &["frames 3", "4 rows"]);
    let mask = Tensor::zeros(device, &[2, 1], DType::U8).unwrap();
    assert_refused(modulated(Modulation { frame_mask: Some(&mask), ..modulation }, 0), &["one variant", "frame mask"]);
    let gate = Gate { modulation, chunk: 0 };
    assert_refused(linear_residual(&a, &w, None, Some(&gate), &out, None), &["modulation", "channels 6"]);

    // Attention.
    let dims = VideoDims { batch: 1, frames: 2, tokens: 2 };
    let spatial = |head_dim: usize| {
        let qkv = empty(&[4, 3, 2, head_dim]);
        let call = SelfAttention { qkv: &qkv, dims, norm: None, rope: None };
        attention::spatial(&call, &empty(&[4, 2 * head_dim]))
    };
    for head_dim in [24, 36, 136] {
        assert_refused(spatial(head_dim), &["head_dim", "32 to 128 in steps of 8"]);
    }
    let qkv = empty(&[4, 3, 2, 32]);
    let call = SelfAttention { qkv: &qkv, dims, norm: None, rope: None };
    assert_refused(attention::spatial(&call, &empty(&[4, 32])), &["out", "heads*head_dim 64"]);
    let short_rope = f32s(&[1, 16, 2]);
    let heads = empty(&[4, 64]);
    let call = SelfAttention { rope: Some(&short_rope), ..call };
    assert_refused(attention::temporal(&call, &heads), &["rope", "positions 2"]);

    // The rest.
    assert_refused(norm::row_stats(&a, f32::NAN, &f32s(&[4, 2])), &["row_stats: eps", "NaN"]);
    assert_refused(ProbeBuffers::new(device, 1, 9), &["strides is 9", "at most 8"]);
    let buffers = ProbeBuffers::new(device, 2, 1).unwrap();
    let (fresh, kept) = (empty(&[2, 3, 4, 8]), empty(&[2, 3, 4, 8]));
    assert_refused(residual::probe(&fresh, &kept, true, &[0], &buffers), &["strides is 0", "at least 1"]);
    assert_refused(residual::probe(&fresh, &kept, true, &[1, 2], &buffers), &["buffers", "sums 12"]);
    assert_refused(residual::probe(&fresh, &fresh, true, &[1], &buffers), &["overlaps fresh"]);
    assert_refused(residual::fold(&fresh, &a, &kept), &["fold: b has shape [4, 8]"]);
    assert_refused(motion::motion(&fresh, 4, &[1], &buffers), &["frame_axis is 4", "1 to 3"]);
    let z = f32s(&[1, 4, 3, 5, 5]);
    let patches = empty(&[3 * 9, 16]);
    assert_refused(embed::patchify(&z, [1, 2, 2], 1, [3, 2, 3], &patches), &["tokens", "[3, 3, 3]"]);
    assert_refused(embed::patchify(&z, [1, 0, 2], 1, [3, 3, 3], &patches), &["patch", "at least 1"]);
    assert_refused(embed::position_table(1, 1, 0.0, 1.0, &f32s(&[1, 8])), &["scale is 0", "positive"]);
    let row = f32s(&[STEP_WORDS]);
    let step = sampler::Step { cfg_scale: Some(7.0), row: &row, history: None, frame_mask: None, x0: None };
    assert_refused(sampler::step(&z, &f32s(&[1, 4, 3, 5, 5]), &step), &["prediction", "twice with guidance) 2"]);
    assert_refused(sampler::step(&z, &f32s(&[2, 2, 3, 5, 5]), &step), &["prediction", "channels 4"]);
    let (good, short) = (f32s(&[2, 4, 3, 5, 5]), f32s(&[2]));
    assert_refused(sampler::step(&z, &good, &sampler::Step { row: &short, ..step }), &["row", "words 14"]);
    for (history, parts) in
        [([5, 1, 4, 3, 5, 5], ["history is 5", "1 to 4 slots"]), ([2, 1, 4, 3, 5, 4], ["history", "width 5"])]
    {
        let history = f32s(&history);
        assert_refused(sampler::step(&z, &good, &sampler::Step { history: Some(&history), ..step }), &parts);
    }
}

#[test]
fn nothing_to_do_is_fine() {
    for device in devices() {
        let empty = |shape: &[usize]| Tensor::empty(&device, shape, DType::F32).unwrap();
        linear(&empty(&[0, 8]), &empty(&[6, 8]), None, None, Activation::None, &empty(&[0, 6])).unwrap();
        residual::fold(&empty(&[0]), &empty(&[0]), &empty(&[0])).unwrap();
        let dims = VideoDims { batch: 1, frames: 0, tokens: 4 };
        let call = SelfAttention { qkv: &empty(&[0, 3, 2, 32]), dims, norm: None, rope: None };
        attention::spatial(&call, &empty(&[0, 64])).unwrap();
    }
}
