//! Latte and Open-Sora-Plan, with small random repositories in their published layouts: pulled from a folder and run from prompt to video.

use std::fs;
use std::path::Path;

use adacache::model::vae::{CausalVae, CausalVaeConfig, LatteVae, LatteVaeConfig};
use adacache::model::{Latte, LatteConfig, LatteKind, Weights};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};

use crate::common::{names, text};
use crate::{fails, succeeds};

/// A prompt of the text encoder's reference, which is as long as it is after cleaning, and the number of its tokens.
const PROMPT: (&str, usize) = ("rain", 4);
/// Rows of the reference: that of the prompt and that of no words.
const ROWS: [usize; 2] = [1, 3];

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/opensora_tiny").join(name)
}

/// The configuration of a small transformer for `frames` latent frames, as its own code writes it.
fn transformer(kind: LatteKind, frames: usize) -> Value {
    let mut config = json!({
        "num_attention_heads": 1, "attention_head_dim": 32, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "cross_attention_dim": 32, "attention_bias": true, "sample_size": 8, "patch_size": 2,
        "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single", "norm_elementwise_affine": false,
        "norm_eps": 1e-6, "caption_channels": 32, "video_length": frames, "_class_name": "LatteTransformer3DModel",
    });
    if kind == LatteKind::OpenSoraPlan {
        config["_class_name"] = json!("LatteT2V");
        config["sample_size"] = json!([8, 8]);
        config["model_max_length"] = json!(300);
    }
    config
}

/// Writes a configuration and random weights of these shapes into `folder`.
fn write(folder: &Path, config: &Value, shapes: &[(String, Vec<usize>)]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let values = |seed: usize, shape: &[usize]| -> Vec<u8> {
        let count: usize = shape.iter().product();
        let scale = 1.0 / ((count / shape[0]).max(1) as f32).sqrt();
        (0..count).flat_map(|i| (scale * (((i + seed) * 37 % 101) as f32 / 30.0 - 1.7)).to_le_bytes()).collect()
    };
    let bytes: Vec<Vec<u8>> = shapes.iter().enumerate().map(|(i, (_, shape))| values(i, shape)).collect();
    let view = |(name, shape): &(String, Vec<usize>), bytes| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    };
    let views = shapes.iter().zip(&bytes).map(|(tensor, bytes)| view(tensor, bytes));
    fs::write(folder.join("diffusion_pytorch_model.safetensors"), serialize(views, None).unwrap()).unwrap();
}

fn write_transformer(folder: &Path, kind: LatteKind, frames: usize) {
    let config = transformer(kind, frames);
    let shapes = Latte::tensors(&LatteConfig::from_json(&config.to_string(), "config.json", kind).unwrap()).unwrap();
    let mut shapes: Vec<_> = shapes.into_iter().collect();
    if kind == LatteKind::OpenSoraPlan {
        // As in the published files; nothing reads it.
        shapes.push(("caption_projection.y_embedding".into(), vec![120, 32]));
    }
    write(folder, &config, &shapes);
}

/// A small autoencoder of Latte's: of images or of videos.
fn write_autoencoder(folder: &Path, class: &str) {
    let config = json!({ "_class_name": class, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1 });
    let none = serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap();
    let none = Weights::from_bytes("vae", &none).unwrap();
    let shape = LatteVaeConfig::of(&none, &config.to_string(), "config.json").unwrap();
    let mut shapes: Vec<_> = LatteVae::tensors(&shape).unwrap().into_iter().collect();
    // As in the published files; nothing reads it.
    shapes.push(("quant_conv.bias".into(), vec![8]));
    write(folder, &config, &shapes);
}

/// A small autoencoder of Open-Sora-Plan.
fn write_causal_autoencoder(folder: &Path) {
    let config = json!({ "_class_name": "CausalVAEModel", "hidden_size": 32, "hidden_size_mult": [1, 1, 1, 1], "num_res_blocks": 1 });
    let shape = CausalVaeConfig::from_json(&config.to_string(), "config.json").unwrap();
    let shapes: Vec<_> = CausalVae::tensors(&shape).unwrap().into_iter().collect();
    write(folder, &config, &shapes);
}

fn copy_text(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("t5-v1_1-xxl").join(name), folder.join(name)).unwrap();
    }
}

/// Latte's repository in `folder`, with a tokenizer beside it.
fn latte(folder: &Path) {
    write_transformer(&folder.join("Latte-1/transformer"), LatteKind::Latte, 4);
    write_autoencoder(&folder.join("Latte-1/vae"), "AutoencoderKL");
    write_autoencoder(&folder.join("Latte-1/vae_temporal_decoder"), "AutoencoderKLTemporalDecoder");
    copy_text(&folder.join("Latte-1/text_encoder"));
    fs::copy(golden("t5-v1_1-xxl/tokenizer.json"), folder.join("t5-v1_1-xxl.tokenizer.json")).unwrap();
    fs::create_dir_all(folder.join("Latte-1/scheduler")).unwrap();
    let scheduler = json!({ "_class_name": "DDIMScheduler", "set_alpha_to_one": false, "clip_sample": true });
    fs::write(folder.join("Latte-1/scheduler/scheduler_config.json"), scheduler.to_string()).unwrap();
}

/// Open-Sora-Plan's repository and that of its text encoder in `folder`.
fn open_sora_plan(folder: &Path) {
    let own = folder.join("Open-Sora-Plan-v1.1.0");
    write_transformer(&own.join("65x512x512"), LatteKind::OpenSoraPlan, 3);
    write_causal_autoencoder(&own.join("vae"));
    copy_text(&folder.join("t5-v1_1-xxl"));
    fs::copy(golden("t5-v1_1-xxl/tokenizer.json"), folder.join("t5-v1_1-xxl/tokenizer.json")).unwrap();
}

/// The reference's embeddings of the prompt and of no words, each as many places as the prompt has tokens, as files in `folder`.
fn embeddings(folder: &Path) {
    let bytes = fs::read(golden("t5-v1_1-xxl/reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let hidden = file.tensor("hidden").unwrap();
    let [_, length, width] = hidden.shape() else { panic!("{:?}", hidden.shape()) };
    for (row, name) in ROWS.into_iter().zip(["prompt.safetensors", "negative.safetensors"]) {
        let values = &hidden.data()[4 * row * length * width..][..4 * PROMPT.1 * width];
        let view = TensorView::new(Dtype::F32, vec![PROMPT.1, *width], values).unwrap();
        fs::write(folder.join(name), serialize([("embedding", view)], None).unwrap()).unwrap();
    }
}

/// The latents in a file, with their shape.
fn latents(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("latents").unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

fn off(a: &[f32], b: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

/// What both models have to do: a prompt and the reference's embeddings of it make the same latents of `shape`.
fn from_prompt_to_latents(model: &str, made: fn(&Path), shape: [usize; 4]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    made(&folder.join("from"));
    succeeds(folder, &["pull", model, "--from", "from", "--dir", "models"]);
    let folders = names(&folder.join("models").join(model));
    assert!(["text", "transformer", "vae"].iter().all(|part| folders.iter().any(|name| name == part)), "{folders:?}");
    embeddings(folder);
    let name = format!("models/{model}");
    let run = |out: &str, more: &[&str]| {
        let settings = ["--size", "32x48", "--steps", "5", "--dtype", "f32", "--out", out];
        succeeds(folder, &[&["generate", "--model", &name, PROMPT.0][..], &settings, more].concat());
        latents(&folder.join(out))
    };
    let (found, own) = run("own.safetensors", &["--cache", "none"]);
    assert_eq!(found, shape);
    let given = ["--embeddings", "prompt.safetensors", "--negative-embeddings", "negative.safetensors"];
    let (_, same) = run("given.safetensors", &[&given[..], &["--cache", "none"]].concat());
    let error = off(&own, &same);
    assert!(error < 1e-4, "the embeddings differ from the reference's: the latents by {error:.1e}");
    // The negative prompt is read, and so is what the encoder makes of the padding behind it.
    let (_, other) = run("other.safetensors", &["--negative-prompt", "snow", "--cache", "none"]);
    assert!(off(&other, &own) > 1e-3);
    // Without guidance it is not.
    let (_, alone) = run("alone.safetensors", &["--cfg-scale", "1", "--cache", "none"]);
    let negative = ["--cfg-scale", "1", "--negative-prompt", "snow", "--cache", "none"];
    assert!(run("alone-too.safetensors", &negative).1 == alone && off(&alone, &own) > 1e-3);
    for cache in ["adacache-fast", "adacache-slow+moreg", "pab", "teacache-slow"] {
        let (_, cached) = run("cached.safetensors", &["--cache", cache, "--overwrite"]);
        assert!(cached.iter().all(|value| value.is_finite()), "{cache}");
    }
    dir
}

#[test]
fn a_pulled_latte_generates() {
    let dir = from_prompt_to_latents("latte-1", latte, [4, 4, 4, 6]);
    let folder = dir.path();
    let args = ["generate", "--model", "models/latte-1", PROMPT.0, "--size", "32x48", "--steps", "5", "--dtype", "f32"];
    let plain = [&args[..], &["--cache", "none", "--out"]].concat();
    // The sampler's file says how the last step ends: it is one of the files on which the latents depend.
    let scheduler = folder.join("models/latte-1/scheduler_config.json");
    let own = latents(&folder.join("own.safetensors")).1;
    fs::remove_file(&scheduler).unwrap();
    fs::write(&scheduler, r#"{"set_alpha_to_one": true}"#).unwrap();
    succeeds(folder, &[&plain[..], &["ends.safetensors"]].concat());
    assert!(off(&latents(&folder.join("ends.safetensors")).1, &own) > 1e-6);
    fs::write(&scheduler, r#"{"timestep_spacing": "trailing"}"#).unwrap();
    fails(folder, &[&plain[..], &["x.safetensors"]].concat(), 1, &["scheduler_config.json", "trailing"]);
    fs::remove_file(&scheduler).unwrap();

    for (more, parts) in [
        (&["--frames", "5"][..], &["5 frames", "videos of 4, or 1 for a picture"][..]),
        (&["--size", "32x40"], &["multiples of 16"]),
        (&["--sampler", "euler"], &["--sampler"]),
        (&["--resolution", "480p"], &["--size HxW"]),
    ] {
        let args = ["generate", "--model", "models/latte-1", PROMPT.0, "--dtype", "f32", "--out", "x.safetensors"];
        fails(folder, &[&args[..], more].concat(), 1, parts);
    }
    succeeds(folder, &[&plain[..], &["video/"]].concat());
    assert_eq!(names(&folder.join("video")).iter().filter(|name| name.ends_with(".png")).count(), 4);
    // The autoencoder of images in the place of that of videos.
    let vae = folder.join("models/latte-1/vae");
    fs::remove_dir_all(&vae).unwrap();
    write_autoencoder(&vae, "AutoencoderKL");
    succeeds(folder, &[&plain[..], &["video.gif"]].concat());
    fs::write(vae.join("config.json"), r#"{"_class_name": "AutoencoderDC"}"#).unwrap();
    fails(folder, &[&plain[..], &["x.gif"]].concat(), 1, &["AutoencoderDC", "AutoencoderKLTemporalDecoder"]);
    fs::write(vae.join("config.json"), r#"{"block_out_channels": [32, 32]}"#).unwrap();
    fails(folder, &[&plain[..], &["x.gif"]].concat(), 1, &["decodes to 2 × 2 pixels"]);
    let picture = ["--frames", "1", "--cache", "none", "--out", "picture.safetensors"];
    succeeds(folder, &[&args[..], &picture].concat());
    assert_eq!(latents(&folder.join("picture.safetensors")).0, [4, 1, 4, 6]);
}

#[test]
fn a_pulled_open_sora_plan_generates() {
    let dir = from_prompt_to_latents("open-sora-plan-v1.1", open_sora_plan, [4, 3, 4, 6]);
    let folder = dir.path();
    let settings = ["--size", "32x48", "--steps", "5", "--dtype", "f32", "--cache", "none", "--out", "video/"];
    succeeds(folder, &[&["generate", "--model", "models/open-sora-plan-v1.1", PROMPT.0][..], &settings].concat());
    // Three latent frames.
    assert_eq!(names(&folder.join("video")).iter().filter(|name| name.ends_with(".png")).count(), 9);
    let args =
        ["generate", "--model", "models/open-sora-plan-v1.1", PROMPT.0, "--dtype", "f32", "--out", "x.safetensors"];
    fails(folder, &[&args[..], &["--frames", "1"]].concat(), 1, &["1 frames", "videos of 9"]);
    fails(folder, &[&args[..], &["--steps", "3"]].concat(), 1, &["3 steps", "4"]);
}

/// The published tiles: two of them, side by side. Whatever is kept tells them from the whole.
#[test]
fn tiles_are_asked_for_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = "open-sora-plan-v1.1";
    open_sora_plan(&folder.join("from"));
    succeeds(folder, &["pull", model, "--from", "from", "--dir", "models"]);
    let name = format!("models/{model}");
    let settings = ["--model", &name, "--size", "16x272", "--steps", "4", "--dtype", "f32", "--cache", "none"];
    let plain = [&["generate", PROMPT.0][..], &settings].concat();
    let pictures = |out: &str| -> Vec<Vec<u8>> {
        let names = names(&folder.join(out)).into_iter().filter(|name| name.ends_with(".png"));
        names.map(|name| fs::read(folder.join(out).join(name)).unwrap()).collect()
    };
    succeeds(folder, &[&plain[..], &["--out", "whole/"]].concat());
    succeeds(folder, &[&plain[..], &["--vae-tiling", "--report", "tiled.json", "--out", "tiled/"]].concat());
    let tiled = pictures("tiled");
    assert!(tiled.len() == 9 && tiled != pictures("whole"));
    let report: Value = serde_json::from_slice(&fs::read(folder.join("tiled.json")).unwrap()).unwrap();
    assert_eq!(report["settings"]["vae_tiling"], true);
    fails(folder, &[&plain[..], &["--out", "tiled/"]].concat(), 1, &["`tiled/`", "vae tiling true, now false"]);
    let like = succeeds(folder, &["generate", "--like", "tiled.json", "--out", "again/"]);
    let said = text(&like.stderr);
    assert!(said.contains("; vae-tiling") && !said.contains("unlike the report"), "{said}");
    assert!(pictures("again") == tiled);

    // An autoencoder of another size has no such tiles.
    let config = folder.join(&name).join("vae/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::remove_file(&config).unwrap();
    let mut other: Value = serde_json::from_str(&text).unwrap();
    other["decoder_temporal_upsample"] = json!(["", "", "", ""]);
    fs::write(&config, other.to_string()).unwrap();
    let run = [&plain[..], &["--vae-tiling", "--out", "x/"]].concat();
    fails(folder, &run, 1, &["decodes to 8 × 8 pixels and 1 frames", "needs 8 × 8 and 4"]);

    let of = "--vae-tiling is for --model open-sora-plan-v1.1, not for";
    fails(folder, &["generate", crate::PROMPT, "--vae-tiling"], 1, &[&format!("{of} sprites")]);
    fails(folder, &["plan", "--model", "latte-1", "--vae-tiling"], 1, &[&format!("{of} latte-1")]);
}

#[test]
fn tiles_are_planned_with_less_memory() {
    let dir = tempfile::tempdir().unwrap();
    let plan = ["plan", "--model", "open-sora-plan-v1.1", "--json"];
    let decoding = |more: &[&str]| {
        let plan: Value = serde_json::from_slice(&succeeds(dir.path(), &[&plan, more].concat()).stdout).unwrap();
        ["needs", "resident"].map(|field| {
            let value = &plan["memory"][field];
            value.as_f64().or(value["decoding"].as_f64()).unwrap_or_else(|| panic!("{}", plan["memory"]))
        })
    };
    let ([whole, all], [tiled, less]) = (decoding(&[]), decoding(&["--vae-tiling"]));
    assert!(tiled * 3.0 < whole && less < all, "{tiled} {whole} {less} {all}");
}

/// Latte's repository has two autoencoders. The choice stays until another is made.
#[test]
fn lattes_other_autoencoder_is_chosen_by_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    latte(&folder.join("from"));
    let pull = |more: &[&str]| text(&succeeds(folder, &[&["pull", "latte-1"], more].concat()).stdout);
    let class_in = |models: &str| {
        let config = fs::read(folder.join(models).join("latte-1/vae/config.json")).unwrap();
        serde_json::from_slice::<Value>(&config).unwrap()["_class_name"].as_str().unwrap().to_owned()
    };
    let (video, image) = ("AutoencoderKLTemporalDecoder", "AutoencoderKL");
    let there = ["--dir", "models", "--offline"];
    let from = ["--dir", "models", "--from", "from"];
    let run = ["generate", "--model", "models/latte-1", PROMPT.0, "--size", "32x48", "--steps", "2", "--dtype", "f32"];
    let run = [&run[..], &["--cache", "none", "--out", "video.gif"]].concat();
    let gif = || fs::read(folder.join("video.gif")).unwrap();

    let said = pull(&from);
    assert!(said.contains("the autoencoder is vae_temporal_decoder; --vae-folder takes vae instead"), "{said}");
    assert_eq!(class_in("models"), video);
    succeeds(folder, &run);
    let before = gif();

    let said = pull(&[&from[..], &["--vae-folder", "vae"]].concat());
    assert!(said.contains("the autoencoder is vae, in place of vae_temporal_decoder"), "{said}");
    assert_eq!(class_in("models"), image);
    let weights = folder.join("models/latte-1/vae/diffusion_pytorch_model.safetensors");
    assert!(weights.canonicalize().unwrap().ends_with("from/Latte-1/vae/diffusion_pytorch_model.safetensors"));
    fails(folder, &run, 1, &["`video.gif`", "weights "]);
    succeeds(folder, &[&run[..], &["--overwrite"]].concat());
    assert!(gif() != before);

    // It stays, unless another is asked for.
    for more in [&[][..], &["--vae-folder", "vae"]] {
        let said = pull(&[&there[..], more].concat());
        assert!(said.contains("the autoencoder is vae; --vae-folder takes vae_temporal_decoder instead"), "{said}");
    }
    let other = ["pull", "latte-1", "--vae-folder", "vae_temporal_decoder"];
    fails(folder, &[&other[..], &there].concat(), 1, &["maxin-cn/Latte-1", "never downloaded"]);
    assert_eq!(class_in("models"), image);
    let said = pull(&[&from[..], &other[2..]].concat());
    assert!(said.contains("the autoencoder is vae_temporal_decoder, in place of vae"), "{said}");

    // From the repository itself, which has a folder of the name that the part has here; and from a model that was pulled.
    let (own, pulled) = (["--from", "from/Latte-1", "--dir", "more"], ["--from", "models/latte-1", "--dir", "more"]);
    pull(&own);
    assert_eq!(class_in("more"), video);
    pull(&[&own[..], &["--vae-folder", "vae"]].concat());
    assert_eq!(class_in("more"), image);
    pull(&pulled);
    assert_eq!(class_in("more"), video);
    let run = [&["pull", "latte-1", "--vae-folder", "vae"][..], &pulled].concat();
    fails(folder, &run, 1, &[&format!("is of the {video}; asked for is vae of maxin-cn/Latte-1, the {image}")]);

    let unknown = "--vae-folder decoder: the autoencoders of latte-1 are vae_temporal_decoder and vae";
    fails(folder, &["pull", "latte-1", "--vae-folder", "decoder"], 1, &[unknown]);
    let no_choice = "--vae-folder is for latte-1, not for open-sora-plan-v1.1";
    fails(folder, &["pull", "open-sora-plan-v1.1", "--vae-folder", "vae"], 1, &[no_choice]);
    fs::remove_dir_all(folder.join("from/Latte-1/vae")).unwrap();
    let run = [&["pull", "latte-1", "--vae-folder", "vae"][..], &from].concat();
    fails(folder, &run, 1, &["config.json of maxin-cn/Latte-1", "from/Latte-1/vae"]);
}

#[test]
fn both_are_planned_without_their_files() {
    let dir = tempfile::tempdir().unwrap();
    for (model, parts) in
        [("latte-1", ["50 steps", "32.45 s published"]), ("open-sora-plan-v1.1", ["150 steps", "129.67 s published"])]
    {
        let told = text(&succeeds(dir.path(), &["plan", "--model", model]).stdout);
        println!("{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
    let listed = text(&succeeds(dir.path(), &["presets", "--model", "latte-1"]).stdout);
    assert!(listed.contains("unpublished for Latte") && listed.contains("VideoSys"), "{listed}");
}
