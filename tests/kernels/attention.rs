//! attention.cu against an f64 softmax: every head dimension and dtype, every family, every layout, any alignment.

use super::harness::{devices, hopper_devices, unchecked_devices};
use super::numbers::{Buffer, Random, add_cut, assert_close, decode, encode, epsilon, round, tf32_loss};
use adacache::device::{Device, Module};
use adacache::ops::Target;
use adacache::ops::attention::wgmma_params;
use adacache::ops::params::{AttentionParams, SequenceLayout};
use adacache::tensor::DType;

/// Where the rows of a sequence are, as `SequenceLayout` has it.
#[derive(Debug, Clone, Copy)]
struct Layout {
    outer_stride: usize,
    inner_stride: usize,
    step: usize,
    inner: usize,
}

impl Layout {
    /// Sequences one after the other.
    fn dense(length: usize) -> Self {
        Self { outer_stride: length, inner_stride: 0, step: 1, inner: 1 }
    }

    /// `tokens` interleaved sequences of `length` in each sample.
    fn strided(length: usize, tokens: usize) -> Self {
        Self { outer_stride: length * tokens, inner_stride: 1, step: tokens, inner: tokens }
    }

    fn row(&self, sequence: usize, i: usize) -> usize {
        sequence / self.inner * self.outer_stride + sequence % self.inner * self.inner_stride + i * self.step
    }

    fn params(&self, row_stride: usize) -> SequenceLayout {
        SequenceLayout {
            outer_stride: self.outer_stride as i64,
            inner_stride: self.inner_stride as i64,
            step: self.step as i64,
            row_stride: row_stride as i64,
            inner: self.inner as i32,
            reserved: 0,
        }
    }
}

/// The families of attention.cu.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Large,
    /// Neither norm nor RoPE, head_dim 128.
    Plain,
    Short,
    /// With so many blocks for each sequence.
    Cross(usize),
    /// With a bias by distance from query to key.
    Biased,
    /// sm_90a/attention.cu: whole sequences, head_dim 128 with neither norm nor RoPE, and 72.
    Wgmma,
}
use Kind::{Biased, Cross, Large, Plain, Short, Wgmma};

#[derive(Debug, Clone, Copy)]
struct Case {
    head_dim: usize,
    dtype: DType,
    kind: Kind,
    sequences: usize,
    heads: usize,
    q_len: usize,
    kv_len: usize,
    q_layout: Layout,
    kv_layout: Layout,
    /// One packed [rows, 3, heads, head_dim] tensor, else q and kv by themselves.
    packed: bool,
    norm: bool,
    rope: bool,
    kv_lengths: bool,
    /// Added to the score of each sequence's last key: this, and some more for every sequence.
    last_bias: Option<f32>,
    /// Elements that every pointer is away from 16-byte alignment.
    misalign: usize,
    /// Multiplies q: large scores make softmax pick one key.
    temperature: f32,
}

impl Case {
    /// Self-attention over dense sequences, with norms.
    fn spatial(head_dim: usize, dtype: DType, kind: Kind, sequences: usize, length: usize) -> Self {
        Self {
            head_dim,
            dtype,
            kind,
            sequences,
            heads: 2,
            q_len: length,
            kv_len: length,
            q_layout: Layout::dense(length),
            kv_layout: Layout::dense(length),
            packed: true,
            norm: true,
            rope: false,
            kv_lengths: false,
            last_bias: None,
            misalign: 0,
            temperature: 1.0,
        }
    }

    /// Self-attention over interleaved sequences, with norms and RoPE.
    fn temporal(head_dim: usize, dtype: DType, kind: Kind, tokens: usize, length: usize) -> Self {
        let layout = Layout::strided(length, tokens);
        let case = Self::spatial(head_dim, dtype, kind, 2 * tokens, length);
        Self { q_layout: layout, kv_layout: layout, rope: true, ..case }
    }

    /// Attention to another tensor whose sequences have lengths of their own.
    fn cross(head_dim: usize, dtype: DType, kind: Kind, q_len: usize, kv_len: usize) -> Self {
        let case = Self::spatial(head_dim, dtype, kind, 4, q_len);
        Self { kv_len, kv_layout: Layout::dense(kv_len), packed: false, norm: false, kv_lengths: true, ..case }
    }
}

/// q or k of one row and head after norm and RoPE: in f64, and rounded to `dtype` after each operation.
fn prepared(x: &[f32], weight: Option<&[f32]>, angles: Option<&[f32]>, eps: f32, dtype: DType) -> (Vec<f64>, Vec<f32>) {
    let mut exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mut low = x.to_vec();
    if let Some(weight) = weight {
        let mean = exact.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
        exact.iter_mut().zip(weight).for_each(|(x, &w)| *x *= inverse * f64::from(w));
        low.iter_mut().zip(weight).for_each(|(x, &w)| *x = round(round(*x * inverse as f32, dtype) * w, dtype));
    }
    if let Some(angles) = angles {
        for (i, angle) in angles.chunks_exact(2).enumerate() {
            let (c, s) = (f64::from(angle[0]), f64::from(angle[1]));
            let (x0, x1) = (exact[2 * i], exact[2 * i + 1]);
            (exact[2 * i], exact[2 * i + 1]) = (x0 * c - x1 * s, x1 * c + x0 * s);
            let (x0, x1) = (low[2 * i], low[2 * i + 1]);
            low[2 * i] = round(x0 * angle[0] - x1 * angle[1], dtype);
            low[2 * i + 1] = round(x1 * angle[0] + x0 * angle[1], dtype);
        }
    }
    (exact, low)
}

/// Runs one case twice, compares it with f64 and returns its bits. What a block of the device has not enough shared memory for is skipped: no bits.
fn run(device: &Device, case: Case) -> Vec<u8> {
    let Case { head_dim, dtype, sequences, heads, q_len, kv_len, .. } = case;
    let (entry, grid, threads, shared) = launch_of(&case);
    let most = Target::of(device).block_shared;
    if shared as usize > most {
        let label = device.info().label();
        println!("skipped on {label}: {entry} with {shared} bytes of shared memory, where a block can have {most}");
        return Vec::new();
    }
    let random = &mut Random::new((head_dim * 1009 + q_len * 31 + kv_len * 7 + sequences) as u64);
    let width = heads * head_dim;
    let rows = |layout: &Layout, length: usize| (0..sequences).map(|s| layout.row(s, length - 1) + 1).max().unwrap();
    let (q_rows, kv_rows) = (rows(&case.q_layout, q_len), rows(&case.kv_layout, kv_len));
    let (q_stride, kv_stride) = if case.packed { (3 * width, 3 * width) } else { (width, 2 * width) };
    let mut q_data = random.values(q_rows * q_stride, case.temperature, dtype);
    let kv_data = if case.packed { Vec::new() } else { random.values(kv_rows * kv_stride, 1.0, dtype) };
    let weights: Vec<Vec<f32>> =
        (0..2).map(|_| random.values(head_dim, 0.3, dtype).iter().map(|x| round(x + 1.0, dtype)).collect()).collect();
    let positions = q_len.max(kv_len);
    let rope: Vec<f32> = (0..positions * head_dim / 2)
        .flat_map(|i| {
            let (position, pair) = (i / (head_dim / 2), i % (head_dim / 2));
            let angle = position as f64 * 10000f64.powf(-2.0 * pair as f64 / head_dim as f64);
            [angle.cos() as f32, angle.sin() as f32]
        })
        .collect();
    // Sequence 0 has one key, the last none, the others something between.
    let lengths: Vec<i32> = (0..sequences)
        .map(|s| match s {
            0 => 1,
            s if s + 1 == sequences => 0,
            _ => 1 + random.below(kv_len) as i32,
        })
        .collect();
    let (scale, eps) = (1.0 / (head_dim as f32).sqrt(), 1e-6);
    // Of every head, by key - query from -(positions - 1) on.
    let distances: Vec<f32> = random.values(heads * (2 * positions - 1), 4.0, DType::F32);
    // What lies beyond a sequence's length must not matter.
    let (k_at, v_at) = if case.packed { (width, 2 * width) } else { (0, width) };
    let mut kv_data = if case.packed { std::mem::take(&mut q_data) } else { kv_data };
    if case.kv_lengths && !case.packed {
        for (s, &length) in lengths.iter().enumerate() {
            for i in length as usize..kv_len {
                kv_data[case.kv_layout.row(s, i) * kv_stride..][..kv_stride].fill(f32::NAN);
            }
        }
    }
    let q_source = if case.packed { &kv_data } else { &q_data };

    let biases: Vec<f32> = (0..sequences).map(|s| case.last_bias.unwrap_or(0.0) + 0.5 * s as f32).collect();

    // ---- the references
    let mut exact = vec![f64::NAN; q_rows * width];
    let mut naive = vec![f32::NAN; q_rows * width];
    let mut magnitude = 0.0f64; // of q . k
    for s in 0..sequences {
        let keys = if case.kv_lengths { lengths[s] as usize } else { kv_len };
        for head in 0..heads {
            let angles = |i: usize| case.rope.then(|| &rope[i * head_dim..][..head_dim]);
            let weight = |i: usize| case.norm.then(|| &weights[i][..]);
            let key_rows: Vec<_> = (0..keys)
                .map(|i| {
                    let at = case.kv_layout.row(s, i) * kv_stride + head * head_dim;
                    let key = prepared(&kv_data[at + k_at..][..head_dim], weight(1), angles(i), eps, dtype);
                    (key, &kv_data[at + v_at..][..head_dim])
                })
                .collect();
            for i in 0..q_len {
                let at = case.q_layout.row(s, i);
                let q = &q_source[at * q_stride + head * head_dim..][..head_dim];
                let (q, q_low) = prepared(q, weight(0), angles(i), eps, dtype);
                let dot = |k: &[f64]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale);
                let mut scores: Vec<f64> = key_rows.iter().map(|((k, _), _)| dot(k)).collect();
                let low_dot = |k: &[f32]| {
                    q_low.iter().zip(k).fold(0.0f32, |sum, (&a, &b)| add_cut(sum, f64::from(a) * f64::from(b))) * scale
                };
                let mut low: Vec<f32> = key_rows.iter().map(|((_, k), _)| low_dot(k)).collect();
                if case.kind == Biased {
                    for (j, (score, low)) in scores.iter_mut().zip(&mut low).enumerate() {
                        let bias = distances[head * (2 * positions - 1) + j + positions - 1 - i];
                        *score += f64::from(bias) * f64::from(scale);
                        *low += bias * scale;
                    }
                }
                if let (Some(_), Some(last), Some(low)) = (case.last_bias, scores.last_mut(), low.last_mut()) {
                    *last += f64::from(biases[s]);
                    *low += biases[s];
                }
                magnitude = scores.iter().fold(magnitude, |m, s| m.max(s.abs()));
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let low_top = low.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let p: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let low_p: Vec<f32> = low.iter().map(|s| (s - low_top).exp()).collect();
                let (sum, low_sum) = (p.iter().sum::<f64>(), low_p.iter().sum::<f32>());
                for d in 0..head_dim {
                    let out = at * width + head * head_dim + d;
                    let values = key_rows.iter().map(|(_, v)| v[d]);
                    exact[out] = values.clone().zip(&p).map(|(v, p)| f64::from(v) * p).sum::<f64>();
                    naive[out] = values
                        .zip(&low_p)
                        .fold(0.0f32, |sum, (v, &p)| add_cut(sum, f64::from(v) * f64::from(round(p / low_sum, dtype))));
                    if keys > 0 {
                        exact[out] /= sum;
                    }
                    naive[out] = round(naive[out], dtype);
                }
            }
        }
    }

    // ---- the kernel
    let offset = case.misalign * dtype.size();
    let (kv, q) =
        (Buffer::new(device, &encode(&kv_data, dtype), offset), Buffer::new(device, &encode(&q_data, dtype), offset));
    let q_ptr = if case.packed { kv.ptr() } else { q.ptr() };
    let norms: Vec<Buffer> = weights.iter().map(|w| Buffer::new(device, &encode(w, dtype), offset)).collect();
    let rope = Buffer::new(device, &encode(&rope, DType::F32), 4 * case.misalign);
    let lengths: Vec<u8> = lengths.iter().flat_map(|x| x.to_le_bytes()).collect();
    let lengths = Buffer::new(device, &lengths, 0);
    let biases = Buffer::new(device, &encode(&biases, DType::F32), 0);
    let distances = Buffer::new(device, &encode(&distances, DType::F32), 0);
    let module = if case.kind == Wgmma { Module::AttentionWgmma } else { Module::Attention };
    let kernel = device.kernel(module, &entry).unwrap();
    let launch = || {
        let out = Buffer::poisoned(device, q_rows * width * dtype.size(), offset);
        let size = dtype.size() as u64;
        let params = AttentionParams {
            q: q_ptr,
            k: kv.ptr() + k_at as u64 * size,
            v: kv.ptr() + v_at as u64 * size,
            out: out.ptr(),
            q_norm: if case.norm { norms[0].ptr() } else { 0 },
            k_norm: if case.norm { norms[1].ptr() } else { 0 },
            rope: if case.rope { rope.ptr() } else { 0 },
            kv_lengths: if case.kv_lengths { lengths.ptr() } else { 0 },
            last_bias: if case.last_bias.is_some() { biases.ptr() } else { 0 },
            q_layout: case.q_layout.params(q_stride),
            kv_layout: case.kv_layout.params(kv_stride),
            out_layout: case.q_layout.params(width),
            scale,
            norm_eps: eps,
            sequences: sequences as i32,
            heads: heads as i32,
            q_len: q_len as i32,
            kv_len: kv_len as i32,
            head_dim: head_dim as i32,
            bias: if case.kind == Biased { distances.ptr() } else { 0 },
            bias_span: positions as i32,
        };
        if case.kind == Wgmma {
            let params = wgmma_params(device, dtype, params).unwrap();
            device.launch(&kernel, grid, [threads, 1, 1], shared, &params).unwrap();
        } else {
            device.launch(&kernel, grid, [threads, 1, 1], shared, &params).unwrap();
        }
        out.read()
    };
    let bytes = launch();
    assert_eq!(bytes, launch(), "{case:?}: the same inputs gave other bits");
    // A score's error moves its share of a value, and all shares by their sum.
    let floor = epsilon(dtype) * 4.0 + if dtype == DType::F32 { 2.0 * tf32_loss(magnitude) } else { 0.0 };
    assert_close(&format!("{case:?}"), &decode(&bytes, dtype), &exact, &naive, floor);
    bytes
}

/// Entry, grid, threads and shared memory, as `kernels/launch_tiles.h` has them.
fn launch_of(case: &Case) -> (String, [u32; 3], u32, u32) {
    let Case { head_dim, dtype, kind, sequences, heads, q_len, kv_len, .. } = *case;
    let compiled = [32, 48, 64, 72, 96, 128].into_iter().find(|&d| head_dim <= d).unwrap();
    let compiled = if kind == Biased { 64 } else { compiled };
    let sixteen = dtype.size() == 2;
    let wide = if sixteen && compiled <= 72 { 2 } else { 1 };
    let row = ((compiled * dtype.size() / 16) | 1) * 16;
    let (name, grid, threads, shared) = match kind {
        Large => {
            let rows = if sixteen { 4 * 64 } else { 4 * 16 + 64 };
            let shared = rows * row + 8 * compiled + if sixteen { 512 } else { 128 } + 48;
            ("large", [sequences * q_len.div_ceil(64 * wide), heads], 128, shared)
        }
        Plain => {
            let blocks = sequences * q_len.div_ceil(128);
            ("plain", [blocks, heads], 128, 4 * 32 * row + 3 * 2 * 16 * 128 + 16)
        }
        Wgmma => {
            let stages = if head_dim == 72 { 3 } else { 2 };
            let shared = 2 * stages * 128 * 32 * head_dim.div_ceil(16) + 128 * row + 128;
            ("wgmma", [sequences * q_len.div_ceil(128), heads], 384, shared)
        }
        Biased => {
            let rows = if sixteen { 4 * 64 + 128 } else { 4 * 16 + 64 };
            let shared = rows * row + 8 * compiled + if sixteen { 512 } else { 128 } + 48;
            ("biased", [sequences * q_len.div_ceil(64 * wide), heads], 128, shared)
        }
        Short => {
            // A warp for every 16 rows of a sequence and head, as many such teams as fit in four warps.
            let team = q_len.max(kv_len).div_ceil(16);
            let teams = (4 / team).max(1);
            let blocks = (sequences * heads).div_ceil(teams);
            ("short", [blocks, 1], 32 * team * teams, 8 * compiled + 48 * team * teams * row)
        }
        Cross(blocks) => {
            ("cross", [sequences * blocks, heads], 256, (2 * kv_len.next_multiple_of(32) + 128 * wide) * row)
        }
    };
    let grid = [grid[0] as u32, grid[1] as u32, 1];
    (format!("attention_{compiled}_{dtype}_{name}"), grid, threads as u32, shared as u32)
}

#[test]
fn every_head_dimension_and_dtype() {
    for device in unchecked_devices() {
        for head_dim in (32..=128).step_by(8) {
            for dtype in DType::COMPUTE {
                run(device, Case::temporal(head_dim, dtype, Short, 2, 13));
                run(device, Case::temporal(head_dim, dtype, Large, 1, 37));
                run(device, Case::cross(head_dim, dtype, Large, 20, 70));
            }
        }
    }
}

/// Lengths around the tiles of 16 and 64 queries and keys.
#[test]
fn lengths_that_break_tiles() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for length in [1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 127, 129, 193] {
                run(device, Case { heads: 1, ..Case::spatial(72, dtype, Large, 2, length) });
                if length <= 64 {
                    run(device, Case { heads: 3, ..Case::spatial(72, dtype, Short, 3, length) });
                }
            }
        }
    }
}

/// Teams of one to four warps for each sequence and head, whole ones and ones whose last warp has a row or is one short of 16; an odd number of
/// sequences and heads, so that a block has a team without work; fewer keys than queries and the other way round, so that warps of a team
/// have only queries or only keys; no key; every head dimension with a kernel, any alignment.
#[test]
fn frames_of_a_token_by_teams_of_warps() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for length in [15, 17, 24, 30, 31, 32, 33, 48, 51, 63, 64] {
                let layout = Layout::strided(length, 3);
                let temporal = Case { heads: 3, sequences: 3, ..Case::temporal(72, dtype, Short, 3, length) };
                run(device, Case { q_layout: layout, kv_layout: layout, ..temporal });
            }
            for head_dim in [32, 48, 64, 96, 128] {
                run(device, Case { heads: 1, ..Case::temporal(head_dim, dtype, Short, 1, 51) });
            }
            for (q_len, kv_len) in [(5, 40), (40, 5), (64, 17), (17, 64), (33, 33)] {
                run(device, Case { heads: 3, ..Case::cross(72, dtype, Short, q_len, kv_len) });
                run(device, Case { norm: true, last_bias: Some(2.0), ..Case::cross(56, dtype, Short, q_len, kv_len) });
            }
            run(device, Case { misalign: 1, ..Case::temporal(40, dtype, Short, 2, 35) });
        }
    }
}

#[test]
fn strided_sequences() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for (tokens, length) in [(1, 16), (5, 16), (16, 5), (3, 21)] {
                run(device, Case::temporal(72, dtype, Short, tokens, length));
                run(device, Case::temporal(72, dtype, Large, tokens, length));
            }
            for (norm, rope) in [(false, false), (false, true), (true, false)] {
                run(device, Case { norm, rope, ..Case::temporal(40, dtype, Large, 3, 18) });
            }
        }
    }
}

/// Lengths of 1 and 0 among them, and NaN in the keys and values beyond.
#[test]
fn cross_attention_by_length() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for (q_len, kv_len) in [(1, 1), (16, 8), (10, 16), (70, 8), (65, 17), (130, 300)] {
                let kind = if q_len > 16 { Large } else { Short };
                run(device, Case::cross(72, dtype, kind, q_len, kv_len));
            }
            run(device, Case { norm: true, ..Case::cross(96, dtype, Short, 16, 50) });
        }
    }
}

#[test]
fn any_alignment() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for misalign in [1, 2, 4] {
                run(device, Case { misalign, ..Case::temporal(72, dtype, Large, 3, 19) });
                run(device, Case { misalign, ..Case::temporal(48, dtype, Short, 3, 16) });
                run(device, Case { misalign, ..Case::cross(72, dtype, Large, 33, 20) });
            }
        }
    }
}

/// The kernel that keeps all keys: no query tile, a part of one, several for each block; lengths of 0 and 1 among the keys.
#[test]
fn cross_attention_with_resident_keys() {
    for device in unchecked_devices() {
        for dtype in [DType::Bf16, DType::F16] {
            for (q_len, kv_len, blocks) in
                [(1, 1, 1), (40, 8, 1), (257, 31, 1), (300, 33, 2), (600, 70, 1), (290, 300, 3)]
            {
                run(device, Case::cross(72, dtype, Cross(blocks), q_len, kv_len));
            }
            for head_dim in (32..=128).step_by(8) {
                run(device, Case { heads: 1, ..Case::cross(head_dim, dtype, Cross(1), 130, 40) });
            }
            run(device, Case { misalign: 1, ..Case::cross(72, dtype, Cross(1), 33, 20) });
        }
    }
}

/// A warp copies its next queries while it works on these: five tiles of a block, of which some warps have four, give the bits of one tile for
/// each block. Without alignment the copies are no copies in the background.
#[test]
fn cross_attention_with_queries_ahead() {
    for device in devices() {
        for (dtype, head_dim, queries) in [(DType::Bf16, 72, 256), (DType::F16, 64, 256), (DType::Bf16, 128, 128)] {
            for misalign in [0, 1] {
                let q_len = 4 * queries + 50;
                let case =
                    |blocks| Case { heads: 1, misalign, ..Case::cross(head_dim, dtype, Cross(blocks), q_len, 37) };
                let alone = run(device, case(5));
                for blocks in [1, 2] {
                    assert_eq!(run(device, case(blocks)), alone, "{dtype} {head_dim}: {blocks} blocks");
                }
            }
        }
    }
}

/// Head dimension 128 without norm and RoPE: lengths around its tiles of 128 queries and 32 keys, strides, lengths of 0 and 1 with NaN in the
/// keys beyond, the last key's bias in full tiles and others, scores in the hundreds.
#[test]
fn plain_attention_of_whole_heads() {
    for device in unchecked_devices() {
        for dtype in [DType::Bf16, DType::F16] {
            let own = |length| Case { norm: false, ..Case::spatial(128, dtype, Plain, 2, length) };
            for length in [1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 127, 128, 129, 193] {
                run(device, Case { heads: 1, ..own(length) });
            }
            run(device, Case { heads: 3, temperature: 30.0, ..own(150) });
            run(device, Case { norm: false, rope: false, ..Case::temporal(128, dtype, Plain, 3, 70) });
            for (q_len, kv_len) in [(1, 1), (17, 32), (70, 8), (130, 300), (20, 64)] {
                let cross = Case::cross(128, dtype, Plain, q_len, kv_len);
                run(device, cross);
                run(device, Case { last_bias: Some(6.0), ..cross });
                run(device, Case { last_bias: Some(-3.0), kv_lengths: false, ..cross });
            }
        }
    }
}

/// A bias by distance, over one tile and several, with head dimensions below the kernel's and lengths that leave tiles half empty.
#[test]
fn a_bias_by_distance() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for (head_dim, length) in [(64, 1), (64, 64), (16, 20), (40, 33), (64, 130), (8, 65), (64, 193)] {
                let case = Case::spatial(head_dim, dtype, Biased, 2, length);
                run(device, Case { norm: false, ..case });
            }
            run(device, Case { norm: false, misalign: 1, ..Case::spatial(24, dtype, Biased, 1, 50) });
            run(device, Case { norm: false, ..Case::cross(64, dtype, Biased, 20, 70) });
        }
    }
}

/// The last key's own bias, as for a caption's padding: in tiles that are full and ones that are not, one and several, also where a
/// sequence has no key.
#[test]
fn a_bias_on_the_last_key() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for (bias, kv_len) in
                [(6.0, 1), (2.0, 16), (6.0, 32), (-3.0, 45), (1.0, 64), (6.0, 65), (3.0, 128), (2.0, 150)]
            {
                let cross = |head_dim, kind, q_len| Case {
                    last_bias: Some(bias),
                    ..Case::cross(head_dim, dtype, kind, q_len, kv_len)
                };
                run(device, cross(128, Large, 20));
                if kv_len <= 64 {
                    run(device, cross(72, Short, 5));
                }
                run(device, Case { norm: true, ..cross(72, Large, 20) });
                // All keys of every sequence, so that the last tile is full.
                run(device, Case { kv_lengths: false, ..cross(64, Large, 3) });
                if dtype.size() == 2 {
                    run(device, cross(128, Cross(2), 70));
                    run(device, Case { kv_lengths: false, ..cross(96, Cross(1), 20) });
                }
            }
        }
    }
}

/// Norms without RoPE: the scores take the keys' part, a head dimension between two kernels, any alignment.
#[test]
fn norms_without_rope() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for head_dim in [32, 56, 72, 104] {
                run(device, Case::spatial(head_dim, dtype, Large, 2, 150));
                run(device, Case::spatial(head_dim, dtype, Short, 2, 15));
            }
            run(device, Case { misalign: 1, ..Case::spatial(72, dtype, Large, 1, 70) });
        }
    }
}

/// Scores in the hundreds: the running maximum has to keep every exponential in range.
#[test]
fn large_scores() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            run(device, Case { norm: false, temperature: 30.0, ..Case::spatial(64, dtype, Large, 1, 150) });
        }
    }
}

#[test]
fn clean_in_checked_mode() {
    for device in devices() {
        for dtype in DType::COMPUTE {
            run(device, Case::temporal(72, dtype, Short, 3, 16));
            run(device, Case { heads: 3, ..Case::temporal(72, dtype, Short, 3, 24) });
            run(device, Case { heads: 1, ..Case::temporal(64, dtype, Short, 1, 51) });
            run(device, Case::temporal(40, dtype, Large, 2, 70));
            run(device, Case { misalign: 1, ..Case::temporal(56, dtype, Large, 2, 21) });
            run(device, Case::cross(128, dtype, Large, 40, 75));
            run(device, Case::cross(32, dtype, Short, 5, 9));
            run(device, Case { misalign: 1, ..Case::cross(72, dtype, Short, 5, 9) });
            run(device, Case::spatial(72, dtype, Large, 2, 140));
            if dtype != DType::F32 {
                run(device, Case::cross(72, dtype, Cross(2), 300, 75));
                run(device, Case::cross(40, dtype, Cross(1), 20, 64));
                run(device, Case { last_bias: Some(2.0), ..Case::cross(128, dtype, Plain, 40, 75) });
                run(device, Case { norm: false, ..Case::spatial(128, dtype, Plain, 2, 140) });
            }
        }
    }
}

/// sm_90a/attention.cu, checked: less than a tile of queries and of keys, whole tiles, one more; sequences that lie apart; scores that pick one key.
#[test]
fn hopper() {
    for device in hopper_devices() {
        for dtype in [DType::Bf16, DType::F16] {
            for length in [1, 64, 127, 128, 129, 300] {
                for head_dim in [72, 128] {
                    let case = Case { norm: false, ..Case::spatial(head_dim, dtype, Wgmma, 2, length) };
                    run(device, case);
                    run(device, Case { temperature: 20.0, ..case });
                }
                for (norm, rope) in [(true, false), (false, true), (true, true)] {
                    run(device, Case { norm, rope, ..Case::spatial(72, dtype, Wgmma, 2, length) });
                }
            }
            // More tiles than stages.
            run(device, Case { heads: 1, ..Case::spatial(72, dtype, Wgmma, 1, 650) });
            // Queries and keys of different numbers, in tensors of their own; rows between the keys of sequences.
            for (q_len, kv_len) in [(130, 70), (20, 257)] {
                for head_dim in [72, 128] {
                    let case = Case::cross(head_dim, dtype, Wgmma, q_len, kv_len);
                    let kv_layout = Layout { outer_stride: kv_len + 3, ..Layout::dense(kv_len) };
                    run(device, Case { kv_lengths: false, kv_layout, norm: head_dim == 72, ..case });
                }
            }
        }
    }
}
