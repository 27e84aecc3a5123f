//! Open-Sora 1.2's transformer in its published size: every tensor's name and shape against the table of the architecture, and, in the
//! long mode, a random checkpoint of that size that is loaded and runs a spatial and a temporal block at 240p.
//!
//! `ADACACHE_LONG=1 cargo test --release --test fullsize -- --nocapture` needs Python 3, 3 GB of disk and 6 GB of memory. A checkpoint
//! that is there already is taken from `ADACACHE_FULL=DIR` (as `python tools/tiny_opensora.py DIR --full` writes it).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use adacache::family;
use adacache::model::{Caption, Geometry, ResidualRoom, StDiT3, StDiT3Config, Transformer, Walk, Weights, Workspace};
use adacache::pipeline::{OpenOptions, noise};
use adacache::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::{common, relative};

/// Names and shapes of STDiT3-XL/2 as published; {} is the number of a block, and a bias follows its weight's first axis.
const TABLE: &[(&str, &[usize], bool)] = &[
    ("x_embedder.proj", &[1152, 4, 1, 2, 2], true),
    ("t_embedder.mlp.0", &[1152, 256], true),
    ("t_embedder.mlp.2", &[1152, 1152], true),
    ("fps_embedder.mlp.0", &[1152, 256], true),
    ("fps_embedder.mlp.2", &[1152, 1152], true),
    ("t_block.1", &[6912, 1152], true),
    ("y_embedder.y_proj.fc1", &[1152, 4096], true),
    ("y_embedder.y_proj.fc2", &[1152, 1152], true),
    ("y_embedder.y_embedding", &[300, 4096], false),
    ("rope.freqs", &[36], false),
    ("spatial_blocks.{}.scale_shift_table", &[6, 1152], false),
    ("spatial_blocks.{}.attn.qkv", &[3456, 1152], true),
    ("spatial_blocks.{}.attn.proj", &[1152, 1152], true),
    ("spatial_blocks.{}.attn.q_norm.weight", &[72], false),
    ("spatial_blocks.{}.attn.k_norm.weight", &[72], false),
    ("spatial_blocks.{}.cross_attn.q_linear", &[1152, 1152], true),
    ("spatial_blocks.{}.cross_attn.kv_linear", &[2304, 1152], true),
    ("spatial_blocks.{}.cross_attn.proj", &[1152, 1152], true),
    ("spatial_blocks.{}.mlp.fc1", &[4608, 1152], true),
    ("spatial_blocks.{}.mlp.fc2", &[1152, 4608], true),
    ("final_layer.scale_shift_table", &[2, 1152], false),
    ("final_layer.linear", &[32, 1152], true),
];
const DEPTH: usize = 28;

/// The table written out: 28 spatial blocks, and as many temporal ones with the same tensors.
fn expected() -> BTreeMap<String, Vec<usize>> {
    let mut all = BTreeMap::new();
    for (name, shape, is_layer) in TABLE {
        let names = match name.split_once("{}") {
            None => vec![(*name).to_owned()],
            Some((_, part)) => ["spatial", "temporal"]
                .iter()
                .flat_map(|kind| (0..DEPTH).map(move |i| format!("{kind}_blocks.{i}{part}")))
                .collect(),
        };
        for name in names {
            if *is_layer {
                all.insert(format!("{name}.bias"), vec![shape[0]]);
                all.insert(format!("{name}.weight"), shape.to_vec());
            } else {
                all.insert(name, shape.to_vec());
            }
        }
    }
    all
}

#[test]
fn the_published_table_has_the_published_size() {
    let all = expected();
    // Outside the blocks 9 layers and 3 tensors, in each 7 layers and 3 tensors.
    assert_eq!(all.len(), 9 * 2 + 3 + 56 * (7 * 2 + 3));
    let parameters: usize = all.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert!((1.1e9..1.25e9).contains(&(parameters as f64)), "{parameters}");
}

#[test]
fn the_loader_expects_the_table_and_nothing_else() {
    assert_eq!(StDiT3::tensors(&StDiT3Config::opensora_v1_2()).unwrap(), expected());
}

/// What the tool writes, from its own list.
#[test]
fn the_tool_writes_the_table() {
    let script = "import json, tiny_opensora as t; print(json.dumps([(n, s) for n, s, _ in t.full_tensors()]))";
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    let Ok(output) = Command::new("python3").args(["-B", "-c", script]).current_dir(tools).output() else {
        eprintln!("no python3 here");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written: Vec<(String, Vec<usize>)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(written.len(), expected().len());
    assert_eq!(written.into_iter().collect::<BTreeMap<_, _>>(), expected());
}

/// The hidden state, as f32.
fn values(model: &StDiT3, x: &Tensor) -> Vec<f32> {
    assert_eq!(x.shape()[3], model.config().hidden_size);
    x.to_f32().unwrap()
}

/// The checkpoint of one pair of blocks out of the whole one, to load in f32 beside it.
fn first_pair(whole: &SafeTensors<'_>, folder: &Path) -> PathBuf {
    let is_first = |name: &str| !name.contains("_blocks.") || name.contains("_blocks.0.");
    let views: Vec<(&str, TensorView<'_>)> = whole.iter().filter(|(name, _)| is_first(name)).collect();
    let path = folder.join("pair.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

/// Sets the time and the blocks' modulation, so that blocks can run on any hidden state.
fn ready(model: &StDiT3, caption: &Caption, geometry: Geometry) -> Workspace {
    let ws = model.workspace(geometry, &ResidualRoom::default()).unwrap();
    Walk { model, ws: &ws, caption }.set_time(&[700.0], None).unwrap();
    model.modulate(&ws, None).unwrap();
    ws
}

/// Rows `[frame, token]` of a hidden state `[1, frames, tokens, C]`.
fn rows(x: &[f32], [frames, tokens, c]: [usize; 3], keep: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let all = (0..frames).flat_map(|t| (0..tokens).map(move |s| (t, s)));
    all.filter(|&(t, s)| keep(t, s)).flat_map(|(t, s)| x[(t * tokens + s) * c..][..c].to_vec()).collect()
}

/// A spatial block takes each frame by itself and a temporal block each place, so that the f32 mode of the kernels, some twenty times
/// slower on the VM, is run on one frame and on eight places of what the bf16 run had there.
#[test]
fn a_full_size_checkpoint_loads_and_a_pair_of_blocks_runs() {
    if std::env::var_os("ADACACHE_LONG").is_none() {
        eprintln!("skipped: set ADACACHE_LONG=1 to run it");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let given = std::env::var_os("ADACACHE_FULL").map(PathBuf::from);
    let clock = Instant::now();
    if given.is_none() {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/tiny_opensora.py");
        let status = Command::new("python3").arg(tool).arg(scratch.path()).arg("--full").status().unwrap();
        assert!(status.success());
        println!("written in {:.0} s", clock.elapsed().as_secs_f64());
    }
    let folder = given.as_deref().unwrap_or(scratch.path()).join("OpenSora-STDiT-v3");
    let path = folder.join("model.safetensors");
    let config = StDiT3Config::from_file(&folder.join("config.json")).unwrap();
    assert_eq!(config, StDiT3Config::opensora_v1_2());

    let file = std::fs::File::open(&path).unwrap();
    // SAFETY: nobody else writes the file of this test.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let found: BTreeMap<String, Vec<usize>> =
        whole.iter().map(|(n, view)| (n.to_owned(), view.shape().to_vec())).collect();
    assert_eq!(found, expected());
    let parameters: usize = found.values().map(|shape| shape.iter().product::<usize>()).sum();
    println!("{} tensors, {parameters} parameters, all in the table", found.len());

    let device = common::device();
    let clock = Instant::now();
    let model = StDiT3::load(&device, config.clone(), Weights::open(&path).unwrap(), DType::Bf16).unwrap();
    let weights = model.weight_bytes();
    println!(
        "loaded in {:.1} s: {} bytes on {}",
        clock.elapsed().as_secs_f64(),
        weights.resident,
        device.info().label()
    );
    assert_eq!((weights.streamed, weights.resident), (0, device.allocated_bytes()));

    // 240p, 51 frames: T 15, S 405.
    let source = family::published("opensora-v1.2", &OpenOptions::published("240p", 51)).unwrap();
    let [frames, height, width] = source.config().latent;
    let whole_size = Geometry { guided: false, ..source.config().geometry(1) };
    assert_eq!(model.hidden_shape(&whole_size), [1, 15, 405, 1152]);
    let caption = |model: &StDiT3| model.caption(&noise(2, 300 * 4096), 1, None).unwrap();
    let text = caption(&model);
    let ws = ready(&model, &text, whole_size);
    let z =
        Tensor::from_f32(&device, &[1, 4, frames, height, width], &noise(1, 4 * frames * height * width), DType::F32);
    let walk = Walk { model: &model, ws: &ws, caption: &text };
    walk.embed(&z.unwrap()).unwrap();
    let mut states = vec![values(&model, ws.x())];
    for block in 0..2 {
        let clock = Instant::now();
        walk.blocks(block..block + 1, None).unwrap();
        states.push(values(&model, ws.x()));
        println!(
            "block {block} in bf16, T 15, S 405: {:.1} s on {}",
            clock.elapsed().as_secs_f64(),
            device.info().label()
        );
    }
    let [embedded, spatial, temporal] = &states[..] else { unreachable!() };
    drop((ws, text, model));

    let pair = first_pair(&whole, scratch.path());
    let one = StDiT3Config { depth: 1, ..config };
    let model = StDiT3::load(&device, one, Weights::open(&pair).unwrap(), DType::F32).unwrap();
    let text = caption(&model);
    let (frame, places) = (7, [0, 1, 26, 27, 200, 303, 377, 404]);
    let run = |geometry: Geometry, x: &[f32], block: usize| {
        let clock = Instant::now();
        let ws = ready(&model, &text, geometry);
        ws.x().write_f32(x).unwrap();
        Walk { model: &model, ws: &ws, caption: &text }.blocks(block..block + 1, None).unwrap();
        let out = values(&model, ws.x());
        let seconds = clock.elapsed().as_secs_f64();
        println!("block {block} in f32, {} rows: {seconds:.1} s", x.len() / 1152);
        out
    };
    let dims = [15, 405, 1152];
    let of_frame = |x: &[f32]| rows(x, dims, |t, _| t == frame);
    let of_places = |x: &[f32]| rows(x, dims, |_, s| places.contains(&s));
    let reference = run(Geometry { frames: 1, ..whole_size }, &of_frame(embedded), 0);
    let error = relative(&of_frame(spatial), &reference);
    let moved = relative(&of_frame(embedded), &reference);
    println!("spatial block, frame {frame}: {error:.2e} of the hidden state; the block itself changes {moved:.2e}");
    assert!(error < 5e-3 && moved > 0.05);
    let reference = run(Geometry { height: 2, width: 16, ..whole_size }, &of_places(spatial), 1);
    let error = relative(&of_places(temporal), &reference);
    let moved = relative(&of_places(spatial), &reference);
    println!("temporal block, {} places: {error:.2e}; the block itself changes {moved:.2e}", places.len());
    assert!(error < 5e-3 && moved > 0.05);
}
