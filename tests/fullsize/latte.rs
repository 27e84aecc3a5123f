//! Latte-1 and Open-Sora-Plan 1.1 in their published size: the number of parameters and, in the long mode, a random checkpoint of that size that
//! is loaded and runs one pair of blocks at 512×512; rows of it are computed again on the host.
//!
//! `ADACACHE_LONG=1 cargo test --release --test fullsize latte -- --nocapture` needs 3 GB of disk and 8 GB of memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use adacache::model::{Geometry, Latte, LatteConfig, LatteKind, ResidualRoom, Transformer, Walk, Weights};
use adacache::pipeline::noise;
use adacache::tensor::{DType, Tensor};
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};

use crate::host::{attend, gelu, layer_norm, linear, silu, sinusoid};
use crate::{common, relative};

const TIME: f32 = 700.0;
/// Caption tokens.
const WORDS: usize = 40;
/// Channels, and those of a head.
const WIDTH: [usize; 2] = [1152, 72];

#[test]
fn both_have_the_published_size() {
    for kind in [LatteKind::Latte, LatteKind::OpenSoraPlan] {
        let tensors = Latte::tensors(&LatteConfig::published(kind)).unwrap();
        let count: usize = tensors.values().map(|shape| shape.iter().product::<usize>()).sum();
        // 28 pairs of blocks: C² 4 + 4 + 8 times in a spatial one, 4 + 8 in a temporal one; the ends; and everywhere biases and tables.
        let c = WIDTH[0];
        let spatial = 16 * c * c + 8 * c + 5 * c + 6 * c;
        let temporal = 12 * c * c + 4 * c + 5 * c + 6 * c;
        let ends = (16 * c + c)
            + (256 * c + c)
            + (c * c + c)
            + 6 * (c * c + c)
            + (4096 * c + c)
            + (c * c + c)
            + 2 * c
            + 32 * (c + 1);
        assert_eq!(count, 28 * (spatial + temporal) + ends, "{kind:?}");
    }
}

/// Writes random weights of these shapes in bf16.
fn write(path: &Path, tensors: &BTreeMap<String, Vec<usize>>) {
    let fill = |(seed, (name, shape)): (u64, (&String, &Vec<usize>))| -> Vec<u8> {
        let count: usize = shape.iter().product();
        let spread = match shape.len() {
            1 => 0.05,
            _ if name.ends_with("table") => 1.0 / (shape[1] as f32).sqrt(),
            _ => 0.7 / (count as f32 / shape[0] as f32).sqrt(),
        };
        // A generator that is faster than the pipeline's noise: there are a billion values.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let value = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            bf16::from_f32(uniform * spread * 12f32.sqrt()).to_le_bytes()
        };
        (0..count).flat_map(value).collect()
    };
    let bytes: Vec<Vec<u8>> = (1..).zip(tensors).map(fill).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The six rows of a block's modulation.
fn modulation(weights: &Weights<'_>, time: &[f32], block: &str) -> Vec<Vec<f32>> {
    let c = WIDTH[0];
    let table = weights.values(&format!("{block}.scale_shift_table"), &[6, c]).unwrap();
    let rows: Vec<f32> = time.iter().zip(table).map(|(a, b)| a + b).collect();
    rows.chunks(c).map(<[f32]>::to_vec).collect()
}

fn plus_one(scale: &[f32]) -> Vec<f32> {
    scale.iter().map(|v| v + 1.0).collect()
}

fn add(x: &mut [f32], added: &[f32], gate: Option<&[f32]>) {
    match gate {
        Some(gate) => {
            x.iter_mut().zip(added).zip(gate.iter().cycle()).for_each(|((x, added), gate)| *x += gate * added);
        }
        None => x.iter_mut().zip(added).for_each(|(x, added)| *x += added),
    }
}

/// `x += gate · MLP(x)`
fn mlp(weights: &Weights<'_>, block: &str, m: &[Vec<f32>], x: &mut [f32]) {
    let c = WIDTH[0];
    let y = layer_norm(x, &plus_one(&m[4]), &m[3]);
    let mut hidden = linear(&y, weights, &format!("{block}.ff.net.0.proj"), [4 * c, c]);
    gelu(&mut hidden);
    add(x, &linear(&hidden, weights, &format!("{block}.ff.net.2"), [c, 4 * c]), Some(&m[5]));
}

/// What the first pair of blocks makes of the tokens `patches` of every frame of `x [frames, tokens, C]`: `[patches, frames, C]`.
fn pair(weights: &Weights<'_>, frames: usize, x: &[f32], caption: &[f32], patches: &[usize]) -> Vec<f32> {
    let c = WIDTH[0];
    let (square, tokens) = ([c, c], x.len() / c / frames);
    let mut time = linear(&sinusoid(TIME), weights, "adaln_single.emb.timestep_embedder.linear_1", [c, 256]);
    silu(&mut time);
    let mut time = linear(&time, weights, "adaln_single.emb.timestep_embedder.linear_2", square);
    silu(&mut time);
    let time = linear(&time, weights, "adaln_single.linear", [6 * c, c]);
    let mut text = linear(caption, weights, "caption_projection.linear_1", [c, 4096]);
    gelu(&mut text);
    let text = linear(&text, weights, "caption_projection.linear_2", square);

    let block = "transformer_blocks.0";
    let part = |x: &[f32], block: &str, name: &str| linear(x, weights, &format!("{block}.{name}"), square);
    let m = modulation(weights, &time, block);
    let pick = |x: &[f32]| patches.iter().flat_map(|&p| x[p * c..(p + 1) * c].to_vec()).collect::<Vec<f32>>();
    let mut picked = vec![];
    for frame in x.chunks(tokens * c) {
        let y = layer_norm(frame, &plus_one(&m[1]), &m[0]);
        let (k, v) = (part(&y, block, "attn1.to_k"), part(&y, block, "attn1.to_v"));
        let q = part(&pick(&y), block, "attn1.to_q");
        let mut x = pick(frame);
        add(&mut x, &part(&attend(&q, &k, &v, WIDTH, 0.0), block, "attn1.to_out.0"), Some(&m[2]));
        picked.extend(x);
    }
    let q = part(&picked, block, "attn2.to_q");
    let (k, v) = (part(&text, block, "attn2.to_k"), part(&text, block, "attn2.to_v"));
    add(&mut picked, &part(&attend(&q, &k, &v, WIDTH, 0.0), block, "attn2.to_out.0"), None);
    mlp(weights, block, &m, &mut picked);

    // By patch, then by frame, each frame with its position.
    let block = "temporal_transformer_blocks.0";
    let m = modulation(weights, &time, block);
    let mut x = vec![];
    for patch in 0..patches.len() {
        for frame in 0..frames {
            let row = &picked[(frame * patches.len() + patch) * c..][..c];
            let angle = |i: usize| frame as f64 * 10000f64.powf(-((i % (c / 2)) as f64) / (c / 2) as f64);
            let place = |i: usize| if i < c / 2 { angle(i).sin() } else { angle(i).cos() };
            x.extend(row.iter().enumerate().map(|(i, v)| v + place(i) as f32));
        }
    }
    for x in x.chunks_mut(frames * c) {
        let y = layer_norm(x, &plus_one(&m[1]), &m[0]);
        let [q, k, v] = ["attn1.to_q", "attn1.to_k", "attn1.to_v"].map(|name| part(&y, block, name));
        add(x, &part(&attend(&q, &k, &v, WIDTH, 0.0), block, "attn1.to_out.0"), Some(&m[2]));
    }
    mlp(weights, block, &m, &mut x);
    x
}

#[test]
fn full_size_checkpoints_load_and_a_pair_of_blocks_runs() {
    if std::env::var_os("ADACACHE_LONG").is_none() {
        eprintln!("skipped: set ADACACHE_LONG=1 to run it");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("diffusion_pytorch_model.safetensors");
    let clock = Instant::now();
    write(&path, &Latte::tensors(&LatteConfig::published(LatteKind::Latte)).unwrap());
    println!("written in {:.0} s", clock.elapsed().as_secs_f64());
    let open = || Weights::open(&path).unwrap();
    let device = common::device();
    for (kind, frames) in [(LatteKind::Latte, 16), (LatteKind::OpenSoraPlan, 17)] {
        let clock = Instant::now();
        let model = Latte::load(&device, LatteConfig::published(kind), open(), DType::Bf16).unwrap();
        let bytes = model.weight_bytes();
        println!("{kind:?} loaded in {:.1} s: {} bytes", clock.elapsed().as_secs_f64(), bytes.resident);
        assert_eq!((bytes.streamed, bytes.resident), (0, device.allocated_bytes()));

        let geometry = Geometry { guided: false, ..Geometry::guided(1, [frames, 64, 64], 512.0, 8.0) };
        let words = noise(2, WORDS * 4096);
        let caption = model.caption(&words, 1, None).unwrap();
        let ws = model.workspace(geometry, &ResidualRoom::default()).unwrap();
        let walk = Walk { model: &model, ws: &ws, caption: &caption };
        walk.set_time(&[TIME], None).unwrap();
        model.modulate(&ws, None).unwrap();
        let shape = [1, 4, frames, 64, 64];
        let z = Tensor::from_f32(&device, &shape, &noise(1, shape.iter().product()), DType::F32).unwrap();
        walk.embed(&z).unwrap();
        let before = ws.x().to_f32().unwrap();
        let clock = Instant::now();
        walk.blocks(0..2, None).unwrap();
        let after = ws.x().to_f32().unwrap();
        println!("a pair of blocks in bf16: {:.1} s on {}", clock.elapsed().as_secs_f64(), device.info().label());

        let (patches, c, tokens) = ([0, 517, 1023], WIDTH[0], 32 * 32);
        let clock = Instant::now();
        let reference = pair(&open(), frames, &before, &words, &patches);
        let pick = |x: &[f32]| -> Vec<f32> {
            let rows = patches.iter().flat_map(|&patch| (0..frames).map(move |frame| frame * tokens + patch));
            rows.flat_map(|row| x[row * c..(row + 1) * c].to_vec()).collect()
        };
        let (error, moved) = (relative(&pick(&after), &reference), relative(&pick(&before), &reference));
        println!(
            "{} rows on the host in f32: {:.1} s; {error:.2e} apart, the blocks change {moved:.2e}",
            patches.len() * frames,
            clock.elapsed().as_secs_f64()
        );
        assert!(error < 1e-2 && moved > 0.05);
    }
}
