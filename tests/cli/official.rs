//! Wan's official repositories: the tensors of the small repository of the tests under the official names, in files of the official names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};

use crate::common::written::{self, Plain};
use crate::common::{changed_weights, copy_all, names, text};
use crate::wan::{repository_in_tests, rgb, tokenizer};
use crate::{fails, succeeds};

const MODEL: &str = "wan2.1-t2v-1.3b";
const A14B: &str = "wan2.2-t2v-a14b";
pub(crate) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
pub(crate) const T5: &str = "models_t5_umt5-xxl-enc-bf16.pth";
const VAE: &str = "Wan2.1_VAE.pth";
pub(crate) const TOKENIZER: &str = "google/umt5-xxl/tokenizer.json";

/// Replaces the names of diffusers, or of transformers, in this order.
pub(crate) fn renamed(name: &str, rules: &[(&str, &str)]) -> String {
    rules.iter().fold(name.to_owned(), |name, (other, official)| name.replace(other, official))
}

fn of_transformer(name: &str) -> String {
    if name == "scale_shift_table" {
        return "head.modulation".into();
    }
    let rules = [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("proj_out", "head.head"),
        ("scale_shift_table", "modulation"),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        (".norm2.", ".norm3."),
        ("attn1", "self_attn"),
        ("attn2", "cross_attn"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "o"),
    ];
    renamed(name, &rules)
}

pub(crate) fn of_encoder(name: &str) -> String {
    let rules = [
        ("encoder.final_layer_norm", "norm"),
        ("shared", "token_embedding"),
        ("encoder.block", "blocks"),
        ("layer.0.layer_norm", "norm1"),
        ("layer.1.layer_norm", "norm2"),
        ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
        ("layer.0.SelfAttention", "attn"),
        ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
        ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
        ("layer.1.DenseReluDense.wo", "ffn.fc2"),
    ];
    renamed(name, &rules)
}

fn of_vae(name: &str) -> String {
    let rules = [
        ("post_quant_conv", "conv2"),
        ("quant_conv", "conv1"),
        ("norm1", "residual.0"),
        ("norm2", "residual.3"),
        ("conv_shortcut", "shortcut"),
        ("conv_in", "conv1"),
        ("conv_out", "head.2"),
        ("norm_out", "head.0"),
        ("mid_block.attentions.0", "middle.1"),
        ("mid_block.resnets.0", "middle.0"),
        ("mid_block.resnets.1", "middle.2"),
        ("down_blocks", "downsamples"),
    ];
    // Of a block; the official names of others are the same.
    let block = name.contains("_block");
    let name =
        if block { renamed(name, &[(".conv1.", ".residual.2."), (".conv2.", ".residual.6.")]) } else { name.into() };
    let name = renamed(&name, &rules);
    let Some((before, scale)) = name.split_once("up_blocks.") else { return name };
    let parts: Vec<&str> = scale.splitn(4, '.').collect();
    let (scale, index): (usize, usize) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
    let index = if parts[1] == "upsamplers" { 3 } else { index };
    format!("{before}upsamples.{}.{}", 4 * scale + index, parts[3])
}

/// Writes a transformer of diffusers into `folder` as the official code does, in one file or in shards.
fn transformer(from: &Path, folder: &Path, shards: usize) {
    fs::create_dir_all(folder).unwrap();
    let shards_of = names(from).into_iter().filter(|name| name.ends_with(".safetensors"));
    let files: Vec<Vec<u8>> = shards_of.map(|name| fs::read(from.join(name)).unwrap()).collect();
    let mut all: BTreeMap<String, TensorView<'_>> = BTreeMap::new();
    for file in &files {
        let tensors = SafeTensors::deserialize(file).unwrap().tensors();
        all.extend(tensors.into_iter().map(|(name, view)| (of_transformer(&name), view)));
    }
    let config = json!({
        "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 128, "eps": 1e-6, "ffn_dim": 192, "freq_dim": 256,
        "in_dim": 16, "model_type": "t2v", "num_heads": 1, "num_layers": 2, "out_dim": 16, "text_len": 512,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if shards == 1 {
        return fs::write(folder.join(WEIGHTS), serialize(all, None).unwrap()).unwrap();
    }
    let name = |i: usize| format!("diffusion_pytorch_model-{:05}-of-{shards:05}.safetensors", i + 1);
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let its = all.iter().enumerate().filter(|(i, _)| i % shards == shard).map(|(_, tensor)| tensor);
        map.extend(its.clone().map(|(tensor, _)| (tensor.clone(), name(shard).into())));
        fs::write(folder.join(name(shard)), serialize(its, None).unwrap()).unwrap();
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join(format!("{WEIGHTS}.index.json")), index.to_string()).unwrap();
}

/// Writes into `folder` what is beside the transformers.
fn others(from: &Path, folder: &Path) {
    let official = |part: &str, rename: fn(&str) -> String| -> Vec<u8> {
        let file = names(&from.join(part)).into_iter().find(|name| name.ends_with(".safetensors")).unwrap();
        let tensors = written::read(&from.join(part).join(file)).into_iter();
        let tensors: Vec<Plain> = tensors.map(|(name, shape, values)| (rename(&name), shape, values)).collect();
        written::torch(None, &tensors)
    };
    fs::write(folder.join(VAE), official("vae", of_vae)).unwrap();
    fs::write(folder.join(T5), official("text_encoder", of_encoder)).unwrap();
    fs::create_dir_all(folder.join(TOKENIZER).parent().unwrap()).unwrap();
    fs::write(folder.join(TOKENIZER), tokenizer().to_string()).unwrap();
}

/// The repository of diffusers with a tokenizer, at `folder`.
fn diffusers(folder: &Path) {
    copy_all(&repository_in_tests(), folder);
    fs::create_dir_all(folder.join("tokenizer")).unwrap();
    fs::write(folder.join("tokenizer/tokenizer.json"), tokenizer().to_string()).unwrap();
}

/// The official repository of the same weights, at `folder`.
fn official(folder: &Path, shards: usize) {
    transformer(&repository_in_tests().join("transformer"), folder, shards);
    others(&repository_in_tests(), folder);
}

const PROMPT: [&str; 14] = [
    "a cat runs",
    "--size",
    "32x32",
    "--frames",
    "5",
    "--steps",
    "4",
    "--dtype",
    "f32",
    "--max-sequence-length",
    "6",
    "--cache",
    "none",
    "--overwrite",
];

/// The pixels of a video of a prompt, which the model's own encoder reads.
fn video(folder: &Path, model: &str) -> Vec<u8> {
    succeeds(folder, &[&["generate", "--model", model][..], &PROMPT, &["--out", "video/"]].concat());
    rgb(&folder.join("video"))
}

fn listed(folder: &Path, model: &str) -> Value {
    let models = succeeds(folder, &["models", "--dir", "models", "--json"]);
    let models: Value = serde_json::from_slice(&models.stdout).unwrap();
    models["models"].as_array().unwrap().iter().find(|listed| listed["name"] == model).unwrap().clone()
}

#[test]
fn an_official_repository_makes_the_same_video() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    diffusers(&folder.join("diffusers"));
    // A repository is a model where it is, in either layout; the official one in one file or in shards.
    let wanted = video(folder, "diffusers");
    assert!(wanted.iter().any(|value| *value != wanted[0]));
    official(&folder.join("one"), 1);
    official(&folder.join("files/Wan2.1-T2V-1.3B"), 3);
    assert!(video(folder, "one") == wanted);
    assert!(video(folder, "files/Wan2.1-T2V-1.3B") == wanted);

    // Pulled from a folder of repositories, over what was pulled from another one.
    let pulled = folder.join("models").join(MODEL);
    succeeds(folder, &["pull", MODEL, "--from", "diffusers", "--dir", "models"]);
    assert_eq!(names(&pulled.join("text")), ["config.json", "model.safetensors", "tokenizer.json"]);
    let told = text(&succeeds(folder, &["pull", MODEL, "--from", "files", "--dir", "models"]).stdout);
    assert!(told.contains("is complete") && told.contains(&format!("vae/{VAE}")), "{told}");
    assert_eq!(names(&pulled.join("vae")), [VAE]);
    assert_eq!(names(&pulled.join("text")), [T5, "tokenizer.json"]);
    assert_eq!(names(&pulled.join("transformer")).len(), 5);
    assert!(video(folder, &format!("models/{MODEL}")) == wanted);
    let model = listed(folder, MODEL);
    assert_eq!((&model["complete"], &model["needs_of"]), (&json!(true), &json!("present")), "{model}");

    // In the place of a pulled one.
    fs::remove_dir_all(&pulled).unwrap();
    fs::rename(folder.join("one"), &pulled).unwrap();
    let model = listed(folder, MODEL);
    let files: Vec<&str> =
        model["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["config.json", WEIGHTS, VAE, TOKENIZER, T5]);
    assert_eq!((&model["complete"], &model["missing"]), (&json!(true), &json!([])));
    succeeds(folder, &["pull", MODEL, "--offline", "--dir", "models"]);
    assert!(!pulled.join("vae").exists(), "there was nothing to do");
}

#[test]
fn an_official_repository_is_found_in_the_hubs_cache() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let repository = folder.join("models/hub/models--Wan-AI--Wan2.1-T2V-1.3B");
    official(&repository.join("snapshots/0123"), 1);
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123").unwrap();
    for from in [&[][..], &["--from", "Wan-AI/Wan2.1-T2V-1.3B"], &["--from", "models"]] {
        let pull = ["pull", MODEL, "--offline", "--dir", "models"];
        let told = text(&succeeds(folder, &[&pull[..], from].concat()).stdout);
        assert!(told.contains("is complete"), "{told}");
        let pulled = folder.join("models").join(MODEL);
        assert_eq!(names(&pulled.join("vae")), [VAE]);
        fs::remove_dir_all(pulled).unwrap();
    }
    // The other one was never downloaded.
    let other = ["pull", MODEL, "--offline", "--dir", "models", "--from", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"];
    fails(folder, &other, 1, &["Wan2.1-T2V-1.3B-Diffusers", "never downloaded"]);
}

#[test]
fn official_experts_make_the_same_video() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let repository = folder.join("diffusers");
    diffusers(&repository);
    copy_all(&repository.join("transformer"), &repository.join("transformer_2"));
    changed_weights(&repository.join("transformer_2"), 0.2);
    let official = folder.join("official");
    transformer(&repository.join("transformer"), &official.join("high_noise_model"), 2);
    transformer(&repository.join("transformer_2"), &official.join("low_noise_model"), 2);
    others(&repository, &official);
    let wanted = video(folder, "diffusers");
    assert!(video(folder, "official") == wanted);
    succeeds(folder, &["pull", A14B, "--from", "official", "--dir", "models"]);
    assert_eq!(names(&folder.join("models").join(A14B)), ["text", "transformer", "transformer_2", "vae"]);
    assert!(video(folder, &format!("models/{A14B}")) == wanted);
    assert_eq!(listed(folder, A14B)["complete"], json!(true));

    let run = [&["generate", "--model", "official"][..], &PROMPT, &["--out", "x/"]].concat();
    fs::remove_file(official.join("low_noise_model/diffusion_pytorch_model-00002-of-00002.safetensors")).unwrap();
    fails(folder, &run, 1, &["missing expert", "low-noise", "low_noise_model/diffusion_pytorch_model-00002-of-00002"]);
    fs::remove_dir_all(official.join("high_noise_model")).unwrap();
    fails(
        folder,
        &run,
        1,
        &[A14B, "high_noise_model/config.json", "high_noise_model/diffusion_pytorch_model.safetensors"],
    );
    let pull = ["pull", A14B, "--from", "official", "--dir", "models"];
    fails(folder, &pull, 1, &["official", "config.json", "Wan-AI/Wan2.2-T2V-A14B"]);
}

#[test]
fn what_is_missing_of_an_official_repository_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    official(&folder.join("official"), 1);
    let file = |name: &str| -> PathBuf { folder.join("official").join(name) };
    let run = [&["generate", "--model", "official"][..], &PROMPT, &["--out", "x/"]].concat();
    let pull = ["pull", MODEL, "--from", "official", "--dir", "models"];
    fs::create_dir(folder.join("models")).unwrap();
    for name in [VAE, T5, WEIGHTS] {
        fs::rename(file(name), folder.join("away")).unwrap();
        fails(folder, &run, 1, &[MODEL, "official", name, "missing"]);
        fails(folder, &pull, 1, &["official", name, "Wan-AI/Wan2.1-T2V-1.3B"]);
        fs::rename(folder.join("away"), file(name)).unwrap();
    }
    fs::rename(file(TOKENIZER), folder.join("away")).unwrap();
    fails(folder, &run, 1, &[TOKENIZER]);
    fs::rename(folder.join("away"), file(TOKENIZER)).unwrap();
    fs::copy(file(VAE), folder.join("vae")).unwrap();
    fs::write(file(VAE), "version https://git-lfs.github.com/spec/v1\nsize 507609880\n").unwrap();
    fails(folder, &run, 1, &[VAE, "Git LFS pointer"]);

    fs::rename(file("config.json"), folder.join("away")).unwrap();
    fails(folder, &run, 1, &[VAE, WEIGHTS, "no transformer's config.json"]);
    fs::rename(folder.join("away"), file("config.json")).unwrap();

    // A whole layout comes before one that has as many parts, and is not whole.
    let golden = repository_in_tests();
    copy_all(&golden.join("transformer"), &file("transformer"));
    fs::write(file(VAE), fs::read(folder.join("vae")).unwrap()).unwrap();
    succeeds(folder, &run);

    // The transformer in the layout of diffusers, and the rest in the official one.
    fs::remove_file(file(WEIGHTS)).unwrap();
    fs::remove_file(file("config.json")).unwrap();
    copy_all(&golden.join("transformer"), &file("transformer"));
    let halves = ["two layouts", WEIGHTS, VAE, "transformer/config.json", "Wan-AI/Wan2.1-T2V-1.3B:", "missing: "];
    fails(folder, &run, 1, &halves);
    fails(folder, &pull, 1, &halves);
}
