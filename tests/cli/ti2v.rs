//! Wan 2.2 TI2V-5B, with a small random repository in both layouts: the same video, from text and from a picture; and its tiny autoencoder.

use std::fs;
use std::path::Path;

use adacache::model::vae::{WanVae, WanVaeConfig};
use serde_json::json;

use crate::common::tiny_vae::Shape;
use crate::common::written::{self, Plain};
use crate::common::{copy_all, names};
use crate::official::{T5, TOKENIZER, WEIGHTS, of_encoder, renamed};
use crate::wan::{repository_in_tests, rgb, tokenizer};
use crate::{fails, succeeds};

const MODEL: &str = "wan2.2-ti2v-5b";
const VAE: &str = "Wan2.2_VAE.pth";
/// The width of the text encoder in the tests.
const TEXT: usize = 64;

/// Small numbers, the same every time.
fn numbers(count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|i| scale * ((i * 37 % 101) as f32 / 50.0 - 1.0)).collect()
}

/// The transformer of the reference case, for captions of [`TEXT`] channels.
fn transformer() -> Vec<Plain> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/wan22_ti2v_a/model.safetensors");
    let mut tensors = written::read(&golden);
    let text = tensors.iter_mut().find(|(name, ..)| name == "text_embedding.0.weight").unwrap();
    let width = text.1[0];
    (text.1, text.2) = (vec![width, TEXT], numbers(width * TEXT, 0.1));
    tensors
}

/// An autoencoder of few channels under the official names.
fn autoencoder() -> Vec<Plain> {
    let shapes = WanVae::tensors(&WanVaeConfig::sized([8, 8], 48, true)).unwrap();
    let values = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let values =
            if name.ends_with("gamma") { vec![1.0; count] } else { numbers(count, 1.5 / (fan_in as f32).sqrt()) };
        (name, shape, values)
    };
    shapes.into_iter().map(values).collect()
}

/// The name in diffusers' `AutoencoderKLWan` of a tensor of the official code.
fn of_diffusers(name: &str) -> String {
    let blocks = [
        (".residual.0.", ".norm1."),
        (".residual.2.", ".conv1."),
        (".residual.3.", ".norm2."),
        (".residual.6.", ".conv2."),
        (".shortcut.", ".conv_shortcut."),
    ];
    let parts: Vec<&str> = name.splitn(5, '.').collect();
    match parts[..] {
        [side, "middle", "1", ..] => {
            renamed(name, &[(&format!("{side}.middle.1"), &format!("{side}.mid_block.attentions.0"))])
        }
        [_, "middle", i, ..] => {
            let block = i.parse::<usize>().unwrap() / 2;
            renamed(&name.replace(&format!("middle.{i}"), &format!("mid_block.resnets.{block}")), &blocks)
        }
        [side, scales, scale, _, rest] => {
            let way = scales.trim_end_matches("samples");
            let (index, rest) = rest.split_once('.').unwrap();
            if rest.starts_with("resample") || rest.starts_with("time_conv") {
                return format!("{side}.{way}_blocks.{scale}.{way}sampler.{rest}");
            }
            format!("{side}.{way}_blocks.{scale}.resnets.{index}{}", renamed(&format!(".{rest}"), &blocks))
        }
        ["conv1", _] => name.replace("conv1", "quant_conv"),
        ["conv2", _] => name.replace("conv2", "post_quant_conv"),
        _ => renamed(name, &[("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out")]),
    }
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn config() -> String {
    json!({
        "_class_name": "WanModel", "_diffusers_version": "0.33.0", "dim": 128, "eps": 1e-6, "ffn_dim": 256, "freq_dim": 256, "in_dim": 48,
        "model_type": "ti2v", "num_heads": 1, "num_layers": 2, "out_dim": 48, "text_len": 512,
    })
    .to_string()
}

/// The official repository at `folder`.
fn official(folder: &Path) {
    write(&folder.join("config.json"), config());
    write(&folder.join(WEIGHTS), written::safetensors(&transformer()));
    write(&folder.join(VAE), written::torch(None, &autoencoder()));
    let encoder = written::read(&repository_in_tests().join("text_encoder/model.safetensors")).into_iter();
    let encoder: Vec<Plain> = encoder.map(|(name, shape, values)| (of_encoder(&name), shape, values)).collect();
    write(&folder.join(T5), written::torch(None, &encoder));
    write(&folder.join(TOKENIZER), tokenizer().to_string());
}

/// The same weights in the layout of diffusers.
fn diffusers(folder: &Path) {
    write(&folder.join("transformer/config.json"), config());
    write(&folder.join("transformer").join(WEIGHTS), written::safetensors(&transformer()));
    let vae: Vec<Plain> =
        autoencoder().into_iter().map(|(name, shape, values)| (of_diffusers(&name), shape, values)).collect();
    write(&folder.join("vae/diffusion_pytorch_model.safetensors"), written::safetensors(&vae));
    copy_all(&repository_in_tests().join("text_encoder"), &folder.join("text_encoder"));
    write(&folder.join("tokenizer/tokenizer.json"), tokenizer().to_string());
}

/// A picture of 40 × 48 pixels, which has to be scaled and cropped.
fn picture(path: &Path) {
    let image: Vec<u8> = (0..40 * 48).flat_map(|i| [(i % 48 * 5) as u8, (i / 48 * 6) as u8, 90]).collect();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 48, 40);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&image).unwrap();
}

/// The pixels of a video of a prompt.
fn video(folder: &Path, model: &str, more: &[&str]) -> Vec<u8> {
    let run = ["generate", "--model", model, "a cat runs", "--size", "64x64", "--frames", "5", "--steps", "3"];
    let how = ["--dtype", "f32", "--max-sequence-length", "6", "--cache", "none", "--overwrite", "--out", "video/"];
    succeeds(folder, &[&run[..], &how, more].concat());
    rgb(&folder.join("video"))
}

#[test]
fn an_official_repository_makes_the_same_video_from_text_and_from_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    official(&folder.join("official"));
    diffusers(&folder.join("diffusers"));
    picture(&folder.join("picture.png"));
    let image = ["--image", "picture.png"];
    let (text, pictured) = (video(folder, "official", &[]), video(folder, "official", &image));
    assert_eq!(text.len(), 5 * 64 * 64 * 3);
    assert!(text.iter().any(|value| *value != text[0]) && text != pictured);
    assert!(video(folder, "diffusers", &[]) == text);
    assert!(video(folder, "diffusers", &image) == pictured);

    succeeds(folder, &["pull", MODEL, "--from", "official", "--dir", "models"]);
    let pulled = folder.join("models").join(MODEL);
    assert_eq!(
        (names(&pulled), names(&pulled.join("vae"))),
        (["text", "transformer", "vae"].map(String::from).into(), vec![VAE.into()])
    );
    assert!(video(folder, &format!("models/{MODEL}"), &image) == pictured);
    fs::remove_file(folder.join("official").join(VAE)).unwrap();
    fails(folder, &["generate", "--model", "official", "a cat runs", "--out", "x/"], 1, &[MODEL, VAE, "missing"]);
}

/// A tiny autoencoder takes the decoder's place; a picture is still encoded by the model's own.
#[test]
fn a_tiny_autoencoder_decodes_instead() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    official(&folder.join("official"));
    picture(&folder.join("picture.png"));
    let shape = Shape { latent_channels: 48, patch: 2, ..Shape::WAN21 };
    shape.write(&folder.join("taew2_2.safetensors"));
    Shape::WAN21.write(&folder.join("taew2_1.safetensors"));
    let (own, tiny) = (video(folder, "official", &[]), ["--tiny-vae", "taew2_2.safetensors", "--report", "r.json"]);
    let preview = video(folder, "official", &tiny);
    assert!(preview.len() == own.len() && preview != own);
    let pictured = video(folder, "official", &[&tiny[..], &["--image", "picture.png"]].concat());
    assert!(pictured != preview);
    // The report repeats it. A video of the other decoder is not taken for it.
    succeeds(folder, &["generate", "--like", "r.json", "--out", "again/"]);
    assert!(rgb(&folder.join("again")) == pictured);
    let other = ["generate", "--like", "r.json", "--out", "video/", "--tiny-vae", "other.safetensors"];
    Shape { channels: [8; 4], ..shape }.write(&folder.join("other.safetensors"));
    fails(folder, &other, 1, &["video", "weights", "--overwrite"]);
    // Of text, the autoencoder's file is not needed; for a picture it is.
    fs::remove_file(folder.join("official").join(VAE)).unwrap();
    assert!(video(folder, "official", &tiny) == preview);
    let run = [
        "generate",
        "--model",
        "official",
        "a cat runs",
        "--size",
        "64x64",
        "--frames",
        "5",
        "--steps",
        "3",
        "--out",
        "x/",
    ];
    let with = |file: &'static str| [&run[..], &["--tiny-vae", file]].concat();
    fails(folder, &[&with("taew2_2.safetensors")[..], &["--image", "picture.png"]].concat(), 1, &[VAE, "missing"]);
    fails(
        folder,
        &with("taew2_1.safetensors"),
        1,
        &["taew2_1.safetensors", "16 channels", "48 channels", "give taew2_2"],
    );
    fails(folder, &with("none.safetensors"), 1, &["none.safetensors"]);
    fails(folder, &["generate", "--tiny-vae", "taew2_1.safetensors", "red circle"], 1, &["--tiny-vae is for", MODEL]);
    assert!(!folder.join("x").exists());
    // What it takes is planned with it.
    let decoding = |more: &[&str]| {
        let plan = ["plan", "--model", MODEL, "--cache", "none", "--json"];
        let plan: serde_json::Value =
            serde_json::from_slice(&succeeds(folder, &[&plan[..], more].concat()).stdout).unwrap();
        plan["memory"]["needs"]["decoding"].as_u64().unwrap_or_else(|| panic!("{plan}"))
    };
    assert!(decoding(&["--tiny-vae", "taew2_2.safetensors"]) < decoding(&[]) / 2);
}
