//! Wan 2.1 1.3B in its published size: every tensor's name and shape against the list of `tools/random_wan.py`, and, in the long mode, a random
//! checkpoint of that size that is loaded and runs one block at 480×832 and 81 frames; rows of it are computed again on the host.
//!
//! `ADACACHE_LONG=1 cargo test --release --test fullsize wan -- --nocapture` needs Python 3, 3 GB of disk and 8 GB of memory. A
//! checkpoint that is there already is taken from `ADACACHE_FULL_WAN=DIR`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use adacache::family;
use adacache::model::{Geometry, ResidualRoom, Transformer, Walk, Wan, WanConfig, Weights};
use adacache::pipeline::{OpenOptions, noise};
use adacache::tensor::{DType, Tensor};

use crate::host::{attend, dot, gelu, layer_norm, linear, silu, sinusoid};
use crate::{common, relative};

const TIME: f32 = 700.0;
/// Caption tokens; the rest of 512 are rows of zeros before the text's MLP.
const WORDS: usize = 40;

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

#[test]
fn the_loader_expects_what_the_tool_writes() {
    let script = "import json, random_wan as w; print(json.dumps({m: {n: s for n, s, _ in w.tensors(z)} for m, z in w.SIZES.items()}))";
    let Ok(output) = Command::new("python3").args(["-B", "-c", script]).current_dir(tools()).output() else {
        eprintln!("no python3 here");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_slice(&output.stdout).unwrap();
    // Published numbers of tensors and parameters.
    for (model, config, tensors, parameters) in [
        ("1.3b", WanConfig::t2v_1_3b(), 825, 1_418_996_800),
        ("14b", WanConfig::t2v_14b(), 1095, 14_288_491_584),
        ("ti2v-5b", WanConfig::ti2v_5b(), 825, 4_999_787_712),
    ] {
        let expected = Wan::tensors(&config).unwrap();
        let count: usize = expected.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!((expected.len(), count), (tensors, parameters), "{model}");
        assert!(expected == written[model], "{model}");
    }
}

/// RMSNorm over whole rows, times `weight`.
fn rms_norm(x: &mut [f32], weight: &[f32]) {
    for row in x.chunks_exact_mut(weight.len()) {
        let factor = 1.0 / (dot(row, row) / weight.len() as f32 + 1e-6).sqrt();
        row.iter_mut().zip(weight).for_each(|(v, weight)| *v *= factor * weight);
    }
}

/// Turns adjacent pairs of every head by the token's frame, row and column.
fn rotate(x: &mut [f32], c: usize, places: impl Iterator<Item = [usize; 3]>) {
    for (row, place) in x.chunks_exact_mut(c).zip(places) {
        for head in row.chunks_exact_mut(128) {
            for (i, pair) in head.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let (axis, index, of) = match i {
                    0..22 => (0, i, 44.0),
                    22..43 => (1, i - 22, 42.0),
                    _ => (2, i - 43, 42.0),
                };
                let angle = place[axis] as f64 * 10000f64.powf(-2.0 * index as f64 / of);
                let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
            }
        }
    }
}

/// What block 0 makes of the rows `sampled` of the hidden state `x [tokens, C]`.
fn block(
    weights: &Weights<'_>,
    config: &WanConfig,
    x: &[f32],
    [_, h, w]: [usize; 3],
    caption: &[f32],
    sampled: &[usize],
) -> Vec<f32> {
    let c = config.dim;
    let square = [c, c];
    let mut time = linear(&sinusoid(TIME), weights, "time_embedding.0", [c, 256]);
    silu(&mut time);
    let mut time = linear(&time, weights, "time_embedding.2", square);
    silu(&mut time);
    let mut m = linear(&time, weights, "time_projection.1", [6 * c, c]);
    let table = weights.values("blocks.0.modulation", &[1, 6, c]).unwrap();
    m.iter_mut().zip(table).for_each(|(m, table)| *m += table);
    let chunk = |i: usize| &m[i * c..(i + 1) * c];
    let scale = |i: usize| chunk(i).iter().map(|v| v + 1.0).collect::<Vec<f32>>();

    let name = |part: &str| format!("blocks.0.{part}");
    let values = |part: &str| weights.values(&name(part), &[c]).unwrap();
    let pick = |x: &[f32]| sampled.iter().flat_map(|&row| x[row * c..(row + 1) * c].to_vec()).collect::<Vec<f32>>();
    let place = |token: usize| [token / (h * w), token / w % h, token % w];

    let y = layer_norm(x, &scale(1), chunk(0));
    let mut k = linear(&y, weights, &name("self_attn.k"), square);
    rms_norm(&mut k, &values("self_attn.norm_k.weight"));
    rotate(&mut k, c, (0..x.len() / c).map(place));
    let v = linear(&y, weights, &name("self_attn.v"), square);
    let mut q = linear(&pick(&y), weights, &name("self_attn.q"), square);
    rms_norm(&mut q, &values("self_attn.norm_q.weight"));
    rotate(&mut q, c, sampled.iter().map(|&token| place(token)));
    let added = linear(&attend(&q, &k, &v, [c, 128], 0.0), weights, &name("self_attn.o"), square);
    let mut x = pick(x);
    x.iter_mut().zip(added).zip(chunk(2).iter().cycle()).for_each(|((x, added), gate)| *x += gate * added);

    // A row of zeros stands for all the padding.
    let padded = [caption, &vec![0.0; config.text_dim]].concat();
    let mut text = linear(&padded, weights, "text_embedding.0", [c, config.text_dim]);
    gelu(&mut text);
    let text = linear(&text, weights, "text_embedding.2", square);
    let y = layer_norm(&x, &values("norm3.weight"), &values("norm3.bias"));
    let mut q = linear(&y, weights, &name("cross_attn.q"), square);
    rms_norm(&mut q, &values("cross_attn.norm_q.weight"));
    let mut k = linear(&text, weights, &name("cross_attn.k"), square);
    rms_norm(&mut k, &values("cross_attn.norm_k.weight"));
    let v = linear(&text, weights, &name("cross_attn.v"), square);
    let padding = ((config.text_len - WORDS) as f32).ln();
    let added = linear(&attend(&q, &k, &v, [c, 128], padding), weights, &name("cross_attn.o"), square);
    x.iter_mut().zip(added).for_each(|(x, added)| *x += added);

    let y = layer_norm(&x, &scale(4), chunk(3));
    let mut hidden = linear(&y, weights, &name("ffn.0"), [config.ffn_dim, c]);
    gelu(&mut hidden);
    let added = linear(&hidden, weights, &name("ffn.2"), [c, config.ffn_dim]);
    x.iter_mut().zip(added).zip(chunk(5).iter().cycle()).for_each(|((x, added), gate)| *x += gate * added);
    x
}

#[test]
fn a_full_size_checkpoint_loads_and_a_block_runs() {
    if std::env::var_os("ADACACHE_LONG").is_none() {
        eprintln!("skipped: set ADACACHE_LONG=1 to run it");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let given = std::env::var_os("ADACACHE_FULL_WAN").map(PathBuf::from);
    let clock = Instant::now();
    if given.is_none() {
        let status = Command::new("python3").arg(tools().join("random_wan.py")).arg(scratch.path()).status().unwrap();
        assert!(status.success());
        println!("written in {:.0} s", clock.elapsed().as_secs_f64());
    }
    let folder = given.as_deref().unwrap_or(scratch.path()).join("transformer");
    let open = || Weights::open(&folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = WanConfig::from_json(&text, "config.json", Some(&open())).unwrap();
    assert_eq!(config, WanConfig::t2v_1_3b());

    let device = common::device();
    let clock = Instant::now();
    let model = Wan::load(&device, config.clone(), open(), DType::Bf16).unwrap();
    let bytes = model.weight_bytes();
    println!("loaded in {:.1} s: {} bytes on {}", clock.elapsed().as_secs_f64(), bytes.resident, device.info().label());
    assert_eq!((bytes.streamed, bytes.resident), (0, device.allocated_bytes()));

    // Smaller videos take less time on the virtual GPU: ADACACHE_FULL_FRAMES=5, for example.
    let frames = std::env::var("ADACACHE_FULL_FRAMES").map_or(81, |frames| frames.parse().unwrap());
    let source = family::published("wan2.1-t2v-1.3b", &OpenOptions::exactly(frames, 480, 832)).unwrap();
    let geometry = Geometry { guided: false, ..source.config().geometry(1) };
    let [t, height, width] = source.config().latent;
    let tokens = [t, height / 2, width / 2];
    let rows: usize = tokens.iter().product();
    let words = noise(2, WORDS * config.text_dim);
    let caption = model.caption(&words, 1, None).unwrap();
    let ws = model.workspace(geometry, &ResidualRoom::default()).unwrap();
    let walk = Walk { model: &model, ws: &ws, caption: &caption };
    walk.set_time(&[TIME], None).unwrap();
    model.modulate(&ws, None).unwrap();
    let z =
        Tensor::from_f32(&device, &[1, 16, t, height, width], &noise(1, 16 * t * height * width), DType::F32).unwrap();
    walk.embed(&z).unwrap();
    let before = ws.x().to_f32().unwrap();
    let clock = Instant::now();
    walk.blocks(0..1, None).unwrap();
    let after = ws.x().to_f32().unwrap();
    println!("block 0 in bf16, {rows} tokens: {:.1} s on {}", clock.elapsed().as_secs_f64(), device.info().label());

    let sampled: Vec<usize> = (0..16).map(|i| i * (rows - 1) / 15).collect();
    let clock = Instant::now();
    let reference = block(&open(), &config, &before, tokens, &words, &sampled);
    let pick =
        |x: &[f32]| sampled.iter().flat_map(|&row| x[row * config.dim..][..config.dim].to_vec()).collect::<Vec<f32>>();
    let (error, moved) = (relative(&pick(&after), &reference), relative(&pick(&before), &reference));
    println!(
        "16 rows on the host in f32: {:.1} s; {error:.2e} apart, the block itself changes {moved:.2e}",
        clock.elapsed().as_secs_f64()
    );
    assert!(error < 1e-2 && moved > 0.05);
}
