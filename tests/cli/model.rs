//! `adacache generate --model FOLDER` with files that are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use adacache::model::Weights;
use safetensors::{Dtype, SafeTensors};

use crate::common::written;
use crate::kept::sprites_in;
use crate::{PROMPT, fails, succeeds};

/// The embedded model as a folder, with its weights in a safetensors file, in f32.
fn with_safetensors(parent: &Path) -> PathBuf {
    let folder = sprites_in(&parent.join("model"));
    let gguf = folder.join("model.gguf");
    let weights = Weights::open(&gguf).unwrap();
    let tensors = weights.names().map(|name| {
        let shape = weights.shape(name).unwrap();
        let values = weights.values(name, &shape).unwrap();
        (name.to_owned(), shape, values)
    });
    fs::write(folder.join("model.safetensors"), written::safetensors(&tensors.collect::<Vec<_>>())).unwrap();
    fs::remove_file(gguf).unwrap();
    folder
}

#[test]
fn weights_in_either_form_make_the_same_video() {
    let dir = tempfile::tempdir().unwrap();
    with_safetensors(dir.path());
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/models/sprites");
    let latents = [built_in, "model"].map(|model| {
        let args = ["generate", PROMPT, "--model", model, "--steps", "1", "--out", "x.safetensors", "--overwrite"];
        succeeds(dir.path(), &args);
        fs::read(dir.path().join("x.safetensors")).unwrap()
    });
    let [ours, theirs] = latents.each_ref().map(|file| SafeTensors::deserialize(file).unwrap());
    for (name, tensor) in ours.tensors() {
        assert!(tensor.data() == theirs.tensor(&name).unwrap().data(), "{name}");
    }
}

/// A tensor on its way into a safetensors file.
struct RawTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Rewrites a safetensors file after `change` had its way with the tensors.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<RawTensor>)) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<RawTensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| RawTensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        })
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn find<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut RawTensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

#[test]
fn damaged_weights_are_refused_by_file_and_tensor() {
    type Damage = (&'static str, fn(&Path), &'static [&'static str]);
    const NORM: &str = "spatial_blocks.0.attn.q_norm.weight";
    let cases: &[Damage] = &[
        ("model.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("model.gguf", |p| fs::write(p, []).unwrap(), &["not a complete safetensors file"]),
        ("model.gguf", |p| cut(p), &["not a complete GGUF file"]),
        ("text.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("decoder.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("config.json", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("model.safetensors", |p| fs::write(p, []).unwrap(), &["not a complete safetensors file"]),
        ("model.safetensors", |p| fs::write(p, [0xff; 64]).unwrap(), &["not a complete safetensors file"]),
        ("model.safetensors", |p| cut(p), &["not a complete safetensors file"]),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).data[8..12].copy_from_slice(&f32::NAN.to_le_bytes())),
            &[NORM, "NaN", "element 2"],
        ),
        ("decoder.safetensors", |p| rewrite(p, |tensors| find(tensors, "mean").data.fill(0xFF)), &["mean", "NaN"]),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).shape = vec![36, 2]),
            &[NORM, "shape [36, 2], expected [72]"],
        ),
        (
            "text.safetensors",
            |p| rewrite(p, |tensors| find(tensors, "embedding.weight").shape = vec![64, 33]),
            &["embedding.weight", "expected [33, 64]"],
        ),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).dtype = Dtype::I32),
            &[NORM, "I32", "expected BF16, F16 or F32"],
        ),
        ("model.safetensors", |p| rewrite(p, |tensors| tensors.retain(|t| t.name != NORM)), &[NORM, "missing"]),
        (
            "model.safetensors",
            |p| {
                rewrite(p, |tensors| {
                    tensors.push(RawTensor {
                        name: "stowaway".into(),
                        dtype: Dtype::F32,
                        shape: vec![1],
                        data: vec![0; 4],
                    });
                });
            },
            &["stowaway"],
        ),
        ("config.json", |p| fs::write(p, "{").unwrap(), &["config.json"]),
        ("config.json", |p| edit(p, "\"hidden_size\": 144", "\"hidden_size\": 1000000000000"), &["hidden_size"]),
        ("config.json", |p| edit(p, "\"depth\": 5", "\"depth\": 0"), &["depth"]),
        ("config.json", |p| edit(p, "\"depth\": 5", "\"depth\": 6"), &["spatial_blocks.5", "missing"]),
        ("config.json", |p| edit(p, "\"height\": 64", "\"height\": 99999999"), &["height"]),
        ("config.json", |p| edit(p, "\"fps\": 8", "\"fps\": 0"), &["fps"]),
        ("config.json", |p| edit(p, "\"prompt_length\": 8", "\"prompt_length\": 9"), &["prompt_length"]),
        ("config.json", |p| edit(p, "\"red\"", "\"crimson\""), &["crimson"]),
        (
            "codebooks.json",
            |p| fs::write(p, "{\"fast\": [[0.2, 1], [0.1, 1]]}").unwrap(),
            &["codebooks.json", "ascend"],
        ),
    ];
    for (file, damage, parts) in cases {
        let dir = tempfile::tempdir().unwrap();
        let model = match *file {
            "model.gguf" => sprites_in(&dir.path().join("model")),
            _ => with_safetensors(dir.path()),
        };
        damage(&model.join(file));
        // A changed configuration shows where it meets the weights: the message names those.
        let named = if parts.iter().any(|part| part.contains("spatial_blocks")) { "model.safetensors" } else { file };
        let parts = [*parts, &[named]].concat();
        fails(dir.path(), &["generate", PROMPT, "--model", "model", "--steps", "1"], 1, &parts);
    }
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn what_is_no_model_is_told_what_would_make_it_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::create_dir_all(dir.path().join("tiny/OpenSora-STDiT-v3")).unwrap();
    // Files that are missing are those of the model that the folder is named after.
    for name in ["wan2.1-t2v-1.3b", "latte-1", "opensora-v1.2"] {
        fs::create_dir_all(dir.path().join(name).join("transformer")).unwrap();
        let model = format!("./{name}");
        let parts = [&format!("{name} is not complete") as &str, "config.json", &format!("adacache pull {name}")];
        fails(dir.path(), &["generate", PROMPT, "--model", &model], 1, &parts);
    }
    fails(dir.path(), &["pull", "latte-1", "--from", "gone", "--dir", "m"], 1, &["no such folder", "maxin-cn/Latte-1"]);
    let layouts = [
        "config.json, model.gguf (or .safetensors)",
        "text.safetensors",
        "transformer/, vae/ and text/",
        "opensora-v1.2, sprites",
    ];
    for (model, parts) in [
        ("nothing", &["no model `nothing`", "neither a model nor a folder"][..]),
        ("file", &["it is a file"]),
        ("empty", &["holds none of a model's files"]),
        ("tiny", &["tip: it holds the files of opensora-v1.2: `adacache pull opensora-v1.2 --from tiny`"]),
        ("spirtes", &["did you mean `sprites`?"]),
        ("opensora-v12", &["did you mean `opensora-v1.2`?"]),
    ] {
        fails(dir.path(), &["generate", PROMPT, "--model", model], 1, &[parts, &layouts].concat());
    }
}
