//! linear.cu and linear_few.cu against an f64 product: every entry, every tile, shapes that break tiles, any alignment, any split of k.

use super::common;
use super::harness::{devices, hopper_devices, placed, poisoned_at, unchecked_devices};
use super::numbers::{Buffer, Random, add_cut, assert_close, decode, e4m3, encode, epsilon, round, tf32_loss};
use adacache::device::{Device, Module, VmConfig};
use adacache::ops::Target;
use adacache::ops::linear::{Activation, choose, linear, wgmma_params};
use adacache::ops::params::{self, LinearFewParams, LinearFp8Params, LinearParams};
use adacache::tensor::{DType, Tensor};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Epilogue {
    Bias,
    Gelu,
    /// Gate, and what happens to `residual_out`.
    Residual {
        gate: bool,
        residual_out: Option<bool>,
    },
}

const RESIDUALS: [Epilogue; 4] = [
    Epilogue::Residual { gate: true, residual_out: None },
    Epilogue::Residual { gate: true, residual_out: Some(false) },
    Epilogue::Residual { gate: true, residual_out: Some(true) },
    Epilogue::Residual { gate: false, residual_out: Some(true) },
];

#[derive(Debug, Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    /// 256 (not in f32), 128 or 64; of linear_few.cu (no LayerNorm) 128 or 96; of sm_90a/linear.cu (no LayerNorm, 16-bit types) [`WGMMA`], of
    /// linear_fp8.cu [`FP8`].
    tile: usize,
    /// Blocks that share a tile of linear_few.cu, or the tiles of sm_90a/linear.cu; 0: linear.cu.
    parts: usize,
    layer_norm: bool,
    epilogue: Epilogue,
    bias: bool,
    /// Frames of a sample and rows of a frame: which table row a hidden state takes.
    frames: usize,
    rows_per_frame: usize,
    frame_mask: bool,
    /// Elements that every pointer is away from 16-byte alignment.
    misalign: usize,
}

impl Case {
    fn new([m, n, k]: [usize; 3], dtype: DType, tile: usize, layer_norm: bool, epilogue: Epilogue) -> Self {
        let (frames, rows_per_frame) = (3, 700);
        Self {
            m,
            n,
            k,
            dtype,
            tile,
            parts: 0,
            layer_norm,
            epilogue,
            bias: true,
            frames,
            rows_per_frame,
            frame_mask: false,
            misalign: 0,
        }
    }
}

// No tile is skipped on any GPU: since Ampere the least that a block can have is 99 KiB.
const _: () = assert!(params::LINEAR_256_SHARED <= 99 << 10 && params::LINEAR_128_SHARED <= 99 << 10);

/// The tiles that have entries for a dtype.
fn tiles(dtype: DType) -> &'static [usize] {
    if dtype == DType::F32 { &[128, 64] } else { &[256, 128, 64] }
}

/// The tile of sm_90a/linear.cu.
const WGMMA: usize = 192;
/// That of sm_90a/linear_fp8.cu.
const FP8: usize = 193;

const CHUNKS: usize = 6;
const SHIFT: usize = 3;
const SCALE: usize = 1;
const GATE: usize = 5;

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// Rows of `k` in e4m3: the codes, and the scale of every row, which differ by much. `values` becomes what they stand for.
fn pack(values: &mut [f32], k: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut scales) = (vec![], vec![]);
    for (i, row) in values.chunks_exact_mut(k).enumerate() {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        // Rows that use the largest numbers, and rows that do not.
        let scale = largest / [448.0, 17.0, 100.0][i % 3];
        for x in row {
            let code = e4m3::nearest(f64::from(*x / scale));
            *x = (e4m3::value(code).unwrap() * f64::from(scale)) as f32;
            codes.push(code);
        }
        scales.push(scale);
    }
    (codes, scales)
}

/// Runs one case twice, compares it with f64, and gives the bytes of every output.
fn run(device: &Device, case: Case) -> Vec<Vec<u8>> {
    let Case { m, n, k, dtype, .. } = case;
    let random = &mut Random::new((m * 1_000_003 + n * 1009 + k) as u64);
    let table_width = if case.layer_norm { k } else { n };
    let sample_rows = case.frames * case.rows_per_frame;
    let (batch, variants) = (m.div_ceil(sample_rows), 2);
    let mut a: Vec<f32> = random.values(m * k, 1.0, dtype).iter().map(|x| round(x + 0.5, dtype)).collect();
    let mut w = random.values(n * k, 1.0 / (k as f32).sqrt(), dtype);
    // What is multiplied is what the codes stand for.
    let packed = (case.tile == FP8).then(|| [&mut a, &mut w].map(|values| pack(values, k)));
    let bias = random.values(n, 0.5, dtype);
    let x = random.values(m * n, 1.0, dtype);
    let residual = random.values(m * n, 1.0, dtype);
    let table = random.values(batch * variants * CHUNKS * table_width, 0.5, DType::F32);
    let mask: Vec<u8> = (0..batch * case.frames).map(|_| random.below(2) as u8).collect();
    let stats: Vec<f32> = a
        .chunks_exact(k)
        .flat_map(|row| {
            let mean = row.iter().sum::<f32>() / k as f32;
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / k as f32;
            [mean, 1.0 / (variance + 1e-6).sqrt()]
        })
        .collect();

    // ---- the references
    let table_row = |row: usize, chunk: usize| {
        let frame = row / case.rows_per_frame;
        let variant = usize::from(case.frame_mask && mask[frame] == 0);
        &table[((frame / case.frames * variants + variant) * CHUNKS + chunk) * table_width..][..table_width]
    };
    let (mut exact, mut exact_residual) = (vec![0.0f64; m * n], vec![0.0f64; m * n]);
    let (mut naive, mut naive_residual) = (vec![0.0f32; m * n], vec![0.0f32; m * n]);
    let mut magnitude = 0.0f64; // of the sums, for the floor
    let mut largest_part = 0.0f64; // of a sum behind each k-step of e4m3
    for r in 0..m {
        let row = &a[r * k..][..k];
        let (mut input, mut low) = (row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), row.to_vec());
        if case.layer_norm {
            let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
            let (scale, shift) = (table_row(r, SCALE), table_row(r, SHIFT));
            for c in 0..k {
                let normal = (input[c] - f64::from(mean)) * f64::from(rstd);
                input[c] = normal * (1.0 + f64::from(scale[c])) + f64::from(shift[c]);
                let normal = round((low[c] - mean) * rstd, dtype);
                low[c] = round(normal * (1.0 + scale[c]) + shift[c], dtype);
            }
        }
        for c in 0..n {
            let weights = &w[c * k..][..k];
            let at = r * n + c;
            let mut sum = input.iter().zip(weights).map(|(&a, &w)| a * f64::from(w)).sum::<f64>();
            let mut low_sum =
                low.iter().zip(weights).fold(0.0f32, |sum, (&a, &w)| add_cut(sum, f64::from(a) * f64::from(w)));
            magnitude = magnitude.max(input.iter().zip(weights).map(|(&a, &w)| (a * f64::from(w)).abs()).sum::<f64>());
            if case.tile == FP8 {
                let steps = input.chunks(32).zip(weights.chunks(32));
                let parts = steps.map(|(a, w)| a.iter().zip(w).map(|(&a, &w)| a * f64::from(w)).sum::<f64>());
                parts.fold(0.0, |part, step| {
                    largest_part = largest_part.max(f64::max((part + step).abs(), step.abs()));
                    part + step
                });
            }
            if case.bias {
                sum += f64::from(bias[c]);
                low_sum += bias[c];
            }
            low_sum = round(low_sum, dtype);
            match case.epilogue {
                Epilogue::Bias => (exact[at], naive[at]) = (sum, low_sum),
                Epilogue::Gelu => {
                    (exact[at], naive[at]) = (gelu(sum), round(gelu(f64::from(low_sum)) as f32, dtype));
                }
                Epilogue::Residual { gate, residual_out } => {
                    if gate {
                        sum *= f64::from(table_row(r, GATE)[c]);
                        low_sum = round(low_sum * table_row(r, GATE)[c], dtype);
                    }
                    (exact[at], naive[at]) = (sum + f64::from(x[at]), round(low_sum + x[at], dtype));
                    let before = if residual_out == Some(true) { residual[at] } else { 0.0 };
                    exact_residual[at] = sum + f64::from(before);
                    naive_residual[at] = round(low_sum + before, dtype);
                }
            }
        }
    }

    // ---- the kernel
    let offset = case.misalign * dtype.size();
    let upload = |values: &[f32]| Buffer::new(device, &encode(values, dtype), offset);
    let bytes_of = |i: usize, values: &[f32]| match &packed {
        Some(packed) => Buffer::new(device, &packed[i].0, 0),
        None => upload(values),
    };
    let (a, w, bias) = (bytes_of(0, &a), bytes_of(1, &w), upload(&bias));
    let upload_f32 = |values: &[f32]| Buffer::new(device, &encode(values, DType::F32), case.misalign * 4);
    let (stats, table) = (upload_f32(&stats), upload_f32(&table));
    let scales = packed.iter().flatten().map(|(_, scales)| upload_f32(scales)).collect::<Vec<_>>();
    let mask = Buffer::new(device, &mask, case.misalign);
    let (prologue, (epilogue, gated, residual_out)) = (
        if case.layer_norm { "_ln" } else { "" },
        match case.epilogue {
            Epilogue::Bias => ("bias", false, None),
            Epilogue::Gelu => ("gelu", false, None),
            Epilogue::Residual { gate, residual_out } => ("residual", gate, residual_out),
        },
    );
    let (module, variant) = match (case.tile, case.parts) {
        (WGMMA, _) => (Module::LinearWgmma, "wgmma".into()),
        (FP8, _) => (Module::LinearFp8, "wgmma".into()),
        (tile, 0) => (Module::Linear, tile.to_string()),
        (tile, _) => (Module::LinearFew, format!("few_{tile}")),
    };
    let fp8 = if case.tile == FP8 { "_fp8" } else { "" };
    let entry = format!("linear{fp8}{prologue}_{epilogue}_{dtype}_{variant}");
    let kernel = device.kernel(module, &entry).unwrap();
    let (tile_m, tile_n, threads, shared) = match case.tile {
        256 => (params::LINEAR_256_M, params::LINEAR_256_N, params::LINEAR_256_THREADS, params::LINEAR_256_SHARED),
        128 => (
            params::LINEAR_128_M,
            params::LINEAR_128_N,
            if dtype == DType::F32 { 256 } else { 128 },
            params::LINEAR_128_SHARED,
        ),
        WGMMA | FP8 => {
            (params::LINEAR_WGMMA_M, params::LINEAR_WGMMA_N, params::LINEAR_WGMMA_THREADS, params::LINEAR_WGMMA_SHARED)
        }
        96 => (params::LINEAR_96_M, params::LINEAR_96_N, params::LINEAR_96_THREADS, params::LINEAR_96_SHARED),
        _ => (params::LINEAR_64_M, params::LINEAR_64_N, params::LINEAR_64_THREADS, params::LINEAR_64_SHARED),
    };
    let grid = (m.div_ceil(tile_m) * n.div_ceil(tile_n)) as u32;
    let bytes = m * n * dtype.size();
    // One counter for each tile, which the kernel has to leave at zero for the next launch.
    let arrived = Buffer::new(device, &vec![0; 4 * grid as usize], 0);
    let launch = || {
        let out = match epilogue {
            "residual" => upload(&x),
            _ => Buffer::poisoned(device, bytes, offset),
        };
        let added = residual_out.map(|accumulate| match accumulate {
            true => upload(&residual),
            false => Buffer::poisoned(device, bytes, offset),
        });
        let params = LinearParams {
            a: a.ptr(),
            w: w.ptr(),
            bias: if case.bias { bias.ptr() } else { 0 },
            out: out.ptr(),
            residual_out: added.as_ref().map_or(0, Buffer::ptr),
            row_stats: if case.layer_norm { stats.ptr() } else { 0 },
            modulation: if case.layer_norm || gated { table.ptr() } else { 0 },
            frame_mask: if case.frame_mask { mask.ptr() } else { 0 },
            m: m as i32,
            n: n as i32,
            k: k as i32,
            frames: case.frames as i32,
            rows_per_frame: case.rows_per_frame as i32,
            variants: variants as i32,
            chunks: CHUNKS as i32,
            channels: table_width as i32,
            shift_chunk: SHIFT as i32,
            scale_chunk: SCALE as i32,
            gate_chunk: if gated { GATE as i32 } else { -1 },
            accumulate_residual: i32::from(residual_out == Some(true)),
        };
        let (block, shared) = ([threads as u32, 1, 1], shared as u32);
        if case.tile == WGMMA {
            let params = wgmma_params(device, dtype, params).unwrap();
            device.launch(&kernel, [case.parts as u32, 1, 1], block, shared, &params).unwrap();
        } else if case.tile == FP8 {
            let params = LinearFp8Params {
                wgmma: wgmma_params(device, DType::U8, params).unwrap(),
                a_scale: scales[0].ptr(),
                w_scale: scales[1].ptr(),
                reserved: Default::default(),
            };
            device.launch(&kernel, [case.parts as u32, 1, 1], block, shared, &params).unwrap();
        } else if case.parts > 0 {
            let partial = Buffer::poisoned(device, 4 * case.parts * grid as usize * tile_m * tile_n, 0);
            let params = LinearFewParams { product: params, partial: partial.ptr(), arrived: arrived.ptr() };
            device.launch(&kernel, [grid, case.parts as u32, 1], block, shared, &params).unwrap();
            assert!(arrived.read().iter().all(|&byte| byte == 0), "{case:?}: counters are left over");
        } else {
            device.launch(&kernel, [grid, 1, 1], block, shared, &params).unwrap();
        }
        let mut outputs = vec![out.read()];
        outputs.extend(added.map(|buffer| buffer.read()));
        outputs
    };
    let outputs = launch();
    assert_eq!(outputs, launch(), "{case:?}: the same inputs gave other bits");

    let largest = exact.iter().chain(&exact_residual).fold(0.0f64, |largest, x| largest.max(x.abs()));
    let mut floor = epsilon(dtype) * largest + if dtype == DType::F32 { tf32_loss(magnitude) } else { 0.0 };
    // Hopper's tensor cores keep 14 bits of a sum of e4m3 products, step for step.
    floor += (k as f64 / 32.0).ceil() * largest_part * 2f64.powi(-13);
    assert_close(&format!("{case:?}"), &decode(&outputs[0], dtype), &exact, &naive, floor);
    if let Some(added) = outputs.get(1) {
        assert_close(&format!("{case:?} residual_out"), &decode(added, dtype), &exact_residual, &naive_residual, floor);
    }
    outputs
}

/// One, primes, a tile and one more or less in each axis, several tiles, sprites' shapes.
const SHAPES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 1, 7),
    (3, 5, 8),
    (64, 48, 48),
    (65, 49, 49),
    (63, 47, 24),
    (17, 37, 43),
    (127, 143, 95),
    (128, 144, 96),
    (129, 145, 97),
    (131, 146, 104),
    (257, 145, 40),
    (260, 40, 64),
    (16, 288, 64),
    (5, 128, 72),
    (200, 160, 145),
];

#[test]
fn every_shape_and_dtype() {
    for device in unchecked_devices() {
        for (m, n, k) in SHAPES {
            for dtype in DType::COMPUTE {
                for &tile in tiles(dtype) {
                    run(device, Case::new([m, n, k], dtype, tile, false, Epilogue::Bias));
                }
            }
        }
    }
}

#[test]
fn every_prologue_and_epilogue() {
    for device in unchecked_devices() {
        for (m, n, k) in [(70, 50, 72), (33, 47, 25), (130, 144, 96)] {
            for dtype in DType::COMPUTE {
                for &tile in tiles(dtype) {
                    for layer_norm in [false, true] {
                        run(device, Case::new([m, n, k], dtype, tile, layer_norm, Epilogue::Gelu));
                        run(
                            device,
                            Case { bias: false, ..Case::new([m, n, k], dtype, tile, layer_norm, Epilogue::Bias) },
                        );
                    }
                    for epilogue in RESIDUALS {
                        run(device, Case::new([m, n, k], dtype, tile, false, epilogue));
                    }
                }
            }
        }
    }
}

#[test]
fn frames_choose_their_variant() {
    for device in unchecked_devices() {
        // Frames much shorter than a thread's rows, odd ones, and several samples in one tile.
        for (frames, rows_per_frame) in [(1, 1), (4, 16), (3, 7), (2, 50)] {
            for dtype in DType::COMPUTE {
                for &tile in tiles(dtype) {
                    let shape = |layer_norm, epilogue| Case {
                        frames,
                        rows_per_frame,
                        frame_mask: true,
                        ..Case::new([150, 56, 56], dtype, tile, layer_norm, epilogue)
                    };
                    run(device, shape(true, Epilogue::Bias));
                    run(device, shape(false, RESIDUALS[2]));
                }
            }
        }
    }
}

#[test]
fn any_alignment() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for &tile in tiles(dtype) {
                for (m, n, k, misalign) in [(70, 60, 72, 1), (66, 51, 31, 2), (66, 56, 32, 4)] {
                    for (layer_norm, epilogue) in
                        [(false, Epilogue::Gelu), (true, Epilogue::Bias), (false, RESIDUALS[1])]
                    {
                        run(device, Case { misalign, ..Case::new([m, n, k], dtype, tile, layer_norm, epilogue) });
                    }
                }
            }
        }
    }
}

/// The products of the embedded model's blocks.
#[test]
fn sprites_shapes() {
    for device in unchecked_devices() {
        let sprites = |m, n, k, layer_norm, epilogue| {
            run(
                device,
                Case { frames: 16, rows_per_frame: 16, ..Case::new([m, n, k], DType::Bf16, 128, layer_norm, epilogue) },
            )
        };
        sprites(512, 432, 144, true, Epilogue::Bias);
        sprites(512, 576, 144, true, Epilogue::Gelu);
        sprites(512, 144, 576, false, RESIDUALS[1]);
        sprites(16, 288, 144, false, Epilogue::Bias);
    }
}

/// Every element's sum runs over k in one order in every tile: which one the host takes does not change a bit.
#[test]
fn all_tiles_give_the_same_bits() {
    for device in unchecked_devices() {
        for dtype in DType::COMPUTE {
            for (layer_norm, epilogue) in [(false, RESIDUALS[2]), (true, Epilogue::Gelu)] {
                let bits = |tile| run(device, Case::new([70, 100, 90], dtype, tile, layer_norm, epilogue));
                for &tile in &tiles(dtype)[1..] {
                    assert_eq!(bits(tiles(dtype)[0]), bits(tile), "{dtype} {epilogue:?} {tile}");
                }
            }
        }
    }
}

#[test]
fn clean_in_checked_mode() {
    for device in devices() {
        for dtype in DType::COMPUTE {
            for &tile in tiles(dtype) {
                for (m, n, k, misalign) in [(1, 1, 1, 0), (67, 53, 61, 1), (130, 147, 104, 0), (70, 52, 32, 4)] {
                    for (layer_norm, epilogue) in
                        [(false, Epilogue::Bias), (true, Epilogue::Gelu), (false, RESIDUALS[2])]
                    {
                        let case = Case::new([m, n, k], dtype, tile, layer_norm, epilogue);
                        run(device, Case { misalign, frames: 2, rows_per_frame: 9, frame_mask: true, ..case });
                    }
                }
            }
        }
    }
}

/// 16-bit types.
const HALF: [DType; 2] = [DType::Bf16, DType::F16];

/// linear_few.cu: odd sizes, a last stage of one k-step, parts of unequal length, one stage a part.
#[test]
fn few_tiles_and_parts_of_k() {
    for device in unchecked_devices() {
        let shapes = [
            (1, 1, 1, 1),
            (3, 5, 8, 1),
            (129, 145, 97, 2),
            (127, 95, 95, 3),
            (17, 97, 209, 7),
            (130, 40, 512, 16),
            (1, 193, 400, 13),
        ];
        for (m, n, k, parts) in shapes {
            for dtype in HALF {
                for (tile, layer_norm, epilogue) in [
                    (128, false, Epilogue::Bias),
                    (128, false, Epilogue::Gelu),
                    (128, false, RESIDUALS[2]),
                    (96, false, Epilogue::Bias),
                    (96, false, RESIDUALS[1]),
                    (96, false, Epilogue::Gelu),
                ] {
                    run(device, Case { parts, ..Case::new([m, n, k], dtype, tile, layer_norm, epilogue) });
                }
            }
        }
    }
}

/// A part that is the whole is the product as linear.cu makes it, bit for bit.
#[test]
fn one_part_gives_the_bits_of_linear() {
    for device in unchecked_devices() {
        for dtype in HALF {
            for epilogue in [RESIDUALS[2], Epilogue::Gelu] {
                let case = Case::new([70, 100, 90], dtype, 64, false, epilogue);
                let bits = run(device, case);
                for tile in [96, 128] {
                    assert_eq!(bits, run(device, Case { tile, parts: 1, ..case }), "{dtype} {epilogue:?} {tile}");
                }
            }
        }
    }
}

#[test]
fn parts_are_clean_in_checked_mode() {
    for device in devices() {
        for (m, n, k, misalign, parts) in
            [(1, 1, 70, 0, 3), (67, 53, 161, 1, 4), (130, 147, 104, 0, 2), (70, 52, 96, 4, 3)]
        {
            for (tile, layer_norm, epilogue) in
                [(128, false, RESIDUALS[2]), (96, false, Epilogue::Gelu), (96, false, RESIDUALS[3])]
            {
                let case = Case::new([m, n, k], DType::Bf16, tile, layer_norm, epilogue);
                run(device, Case { misalign, parts, frames: 2, rows_per_frame: 9, frame_mask: true, ..case });
            }
        }
    }
}

/// The typed launcher, on a device that one tile would leave idle: it splits k, finds memory for the sums, and finds the counters clean again.
#[test]
fn the_launcher_splits_k_for_few_tiles() {
    let (m, n, k, dtype) = (128, 144, 1 << 15, DType::Bf16);
    let random = &mut Random::new(5);
    let a = random.values(m * k, 1.0, dtype);
    let w = random.values(n * k, 1.0 / (k as f32).sqrt(), dtype);
    for device in common::devices_with(VmConfig { threads: 32, ..VmConfig::default() }) {
        if choose(Target::of(&device), "bias", dtype, [m, n, k]).grid[1] == 1 {
            assert!(!device.is_vm(), "32 threads and one tile");
            println!(
                "skipped on {}: its {} SMs gain nothing from a split of k",
                device.info().label(),
                device.info().units
            );
            continue;
        }
        let tensor = |shape: [usize; 2], values: &[f32]| Tensor::from_f32(&device, &shape, values, dtype).unwrap();
        let (a_on, w_on) = (tensor([m, k], &a), tensor([n, k], &w));
        let out = Tensor::empty(&device, &[m, n], dtype).unwrap();
        let before = device.allocated_bytes();
        let product = || {
            linear(&a_on, &w_on, None, None, Activation::None, &out).unwrap();
            out.to_f32().unwrap()
        };
        let first = product();
        let scratch = device.allocated_bytes() - before;
        assert!(scratch > 0, "k was not split");
        assert_eq!(first, product(), "the same inputs gave other bits");
        assert_eq!(device.allocated_bytes() - before, scratch, "the memory for sums is kept");
        for at in (0..m * n).step_by(97) {
            let (row, column) = (&a[at / n * k..][..k], &w[at % n * k..][..k]);
            let exact = row.iter().zip(column).map(|(&a, &w)| f64::from(a) * f64::from(w)).sum::<f64>();
            let error = (f64::from(first[at]) - exact).abs();
            assert!(error <= epsilon(dtype) * exact.abs() + 1e-4, "element {at}: {} for {exact}", first[at]);
        }
    }
}

/// sm_90a/linear.cu, checked: less than a tile, more than one in each axis, steps of k that are not whole, blocks that take several tiles or one.
#[test]
fn hopper() {
    for device in hopper_devices() {
        for dtype in HALF {
            for (shape, blocks) in
                [([1, 32, 8], 1), ([256, 192, 64], 2), ([257, 224, 72], 1), ([70, 416, 200], 2), ([513, 64, 264], 7)]
            {
                for epilogue in [&[Epilogue::Bias, Epilogue::Gelu], &RESIDUALS[..]].concat() {
                    let case = Case::new(shape, dtype, WGMMA, false, epilogue);
                    run(device, Case { parts: blocks, frames: 2, rows_per_frame: 9, frame_mask: true, ..case });
                }
                run(device, Case { parts: blocks, bias: false, ..Case::new(shape, dtype, WGMMA, false, RESIDUALS[0]) });
            }
        }
    }
}

/// sm_90a/linear_fp8.cu, checked, against the product of what codes and scales stand for: as above, with k of whole chunks.
#[test]
fn hopper_in_fp8() {
    for device in hopper_devices() {
        for dtype in HALF {
            for (shape, blocks) in
                [([1, 32, 16], 1), ([256, 192, 128], 2), ([257, 224, 144], 1), ([70, 416, 400], 2), ([513, 64, 272], 7)]
            {
                for epilogue in [&[Epilogue::Bias, Epilogue::Gelu], &RESIDUALS[..]].concat() {
                    let case = Case::new(shape, dtype, FP8, false, epilogue);
                    run(device, Case { parts: blocks, frames: 2, rows_per_frame: 9, frame_mask: true, ..case });
                }
                run(device, Case { parts: blocks, bias: false, ..Case::new(shape, dtype, FP8, false, RESIDUALS[0]) });
            }
        }
    }
}

/// A product that is large enough goes to the kernel for Hopper, and to another one where rows do not begin at 16 bytes; with every other
/// kernel the result is the same but for the order of sums.
#[test]
fn hopper_serves_large_aligned_products() {
    for device in hopper_devices() {
        let [m, n, k] = [1030, 1056, 520];
        let target = Target::of(device);
        assert_eq!(choose(target, "bias", DType::Bf16, [m, n, k]).module, Module::LinearWgmma);
        assert_eq!(choose(target, "ln_bias", DType::Bf16, [m, n, k]).module, Module::Linear);
        for shape in [[m, n + 8, k], [m, n, k + 4], [16, 32, 64]] {
            assert_ne!(choose(target, "bias", DType::Bf16, shape).module, Module::LinearWgmma, "{shape:?}");
        }
        assert_ne!(choose(target, "bias", DType::F32, [m, n, k]).module, Module::LinearWgmma);
        let random = &mut Random::new(7);
        let [a, w, bias] = [m * k, n * k, n].map(|count| random.values(count, 1.0, DType::Bf16));
        let results = [0, 1].map(|misalign| {
            let at = |shape: &[usize], values: &[f32]| placed(device, shape, values, DType::Bf16, misalign);
            let (a, w, bias) = (at(&[m, k], &a), at(&[n, k], &w), at(&[n], &bias));
            let out = poisoned_at(device, &[m, n], DType::Bf16, misalign);
            linear(&a, &w, Some(&bias), None, Activation::None, &out).unwrap();
            out.to_f32().unwrap()
        });
        let most =
            results[0].iter().zip(&results[1]).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f32::max);
        assert!(most <= 2f32.powi(-7), "{most}");
    }
}
