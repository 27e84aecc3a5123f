//! Wan's checkpoints, with a small random repository in the published layout of diffusers (tests/goldens/wan_repo): pulled from a folder, and
//! run to the reference's pixels.

use std::fs;
use std::path::{Path, PathBuf};

use adacache::media::Media;
use adacache::model::vae::{WanVae, WanVaeConfig};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use crate::common::{copy_all, names, text};
use crate::{fails, succeeds};

const MODEL: &str = "wan2.1-t2v-1.3b";
/// Settings of the reference case.
const REFERENCE: [&str; 16] = [
    "--size",
    "48x32",
    "--frames",
    "5",
    "--steps",
    "8",
    "--sampler",
    "unipc-diffusers",
    "--shift",
    "3",
    "--max-sequence-length",
    "24",
    "--cache",
    "none",
    "--dtype",
    "f32",
];

pub(crate) fn repository_in_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/wan_repo")
}

/// The repository without a tokenizer, pulled into `folder`; the name of the model for `--model`.
fn pulled(folder: &Path) -> String {
    let from = repository_in_tests().display().to_string();
    let output = succeeds(folder, &["pull", MODEL, "--from", &from, "--dir", "models"]);
    let warning = text(&output.stderr);
    assert!(warning.contains("tokenizer.json") && warning.contains("only --embeddings"), "{warning}");
    assert_eq!(names(&folder.join("models").join(MODEL)), ["text", "transformer", "vae"]);
    format!("models/{MODEL}")
}

/// Embeddings and noise of the reference case as files in `folder`.
pub(crate) fn inputs(folder: &Path) {
    let bytes = fs::read(repository_in_tests().join("case/io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&bytes).unwrap();
    let mask = io.tensor("mask").unwrap();
    let real = |row: usize| {
        let values = mask.data().chunks_exact(8).map(|v| i64::from_le_bytes(v.try_into().unwrap()));
        values.skip(row * mask.shape()[1]).take(mask.shape()[1]).sum::<i64>() as usize
    };
    let context = io.tensor("context").unwrap();
    let [_, length, width] = context.shape() else { panic!("{:?}", context.shape()) };
    let write = |file: &str, name: &str, shape: Vec<usize>, bytes: &[u8]| {
        let view = TensorView::new(Dtype::F32, shape, bytes).unwrap();
        fs::write(folder.join(file), serialize([(name, view)], None).unwrap()).unwrap();
    };
    for (row, file) in ["prompt.safetensors", "negative.safetensors"].into_iter().enumerate() {
        let values = &context.data()[4 * row * length * width..][..4 * real(row) * width];
        write(file, "embedding", vec![real(row), *width], values);
    }
    let z = io.tensor("z").unwrap();
    write("z.safetensors", "latents", z.shape()[1..].to_vec(), z.data());
}

/// The reference's video as RGB bytes in [0, 255], not rounded.
fn reference() -> Vec<f32> {
    let bytes = fs::read(repository_in_tests().join("case/io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&bytes).unwrap();
    let video = io.tensor("video").unwrap();
    let values: Vec<f32> =
        video.data().chunks_exact(4).map(|v| (f32::from_le_bytes(v.try_into().unwrap()) + 1.0) * 127.5).collect();
    let pixels = values.len() / 3;
    (0..values.len()).map(|i| values[i % 3 * pixels + i / 3]).collect()
}

/// The pixels of a folder of pictures.
pub(crate) fn rgb(folder: &Path) -> Vec<u8> {
    match Media::read(folder) {
        Ok(Media::Frames(frames)) => frames.rgb,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pulled_repository_makes_the_references_video() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = pulled(folder);
    inputs(folder);
    let given = [
        "--embeddings",
        "prompt.safetensors",
        "--negative-embeddings",
        "negative.safetensors",
        "--noise",
        "z.safetensors",
    ];
    let run = |out: &str, more: &[&str]| {
        let args = ["generate", "--model", &model, "a cat", "--out", out, "--report", "r.json"];
        succeeds(folder, &[&args[..], &REFERENCE, &given, more].concat());
    };
    run("video/", &[]);
    let made = rgb(&folder.join("video"));
    let reference = reference();
    assert_eq!(made.len(), reference.len());
    let most = made.iter().zip(&reference).map(|(a, b)| (f32::from(*a) - b).abs()).fold(0.0, f32::max);
    assert!(most <= 2.0, "a pixel is {most} steps of 255 from the reference");

    // The report repeats it; another sampler or shift is another video, which does not take its place.
    let report = fs::read_to_string(folder.join("r.json")).unwrap();
    assert!(report.contains("unipc-diffusers"), "{report}");
    succeeds(folder, &["generate", "--like", "r.json", "--out", "again/"]);
    assert_eq!(rgb(&folder.join("again")), made);
    let other = [&["generate", "--model", &model, "a cat", "--out", "video/"][..], &REFERENCE, &given].concat();
    let other: Vec<&str> = other.iter().map(|arg| if *arg == "3" { "4" } else { arg }).collect();
    fails(folder, &other, 1, &["sampling", "--overwrite"]);
    // One half alone reads no negative prompt.
    let one =
        [&["generate", "--model", &model, "a cat", "--out", "one.safetensors"][..], &REFERENCE, &given[..2]].concat();
    fails(folder, &one, 1, &["--negative-embeddings", "--cfg-scale 1"]);
    succeeds(folder, &[&one[..], &["--cfg-scale", "1"]].concat());
}

/// A LoRA of rank 2 for one weight of block 1, by these names.
pub(crate) fn lora(path: &Path, [down, up]: [&str; 2]) {
    let values = |count: usize, scale: f32| -> Vec<u8> {
        (0..count).flat_map(|i| (scale * ((i * 7 % 11) as f32 - 5.0)).to_le_bytes()).collect()
    };
    let (low, high) = (values(2 * 128, 0.05), values(192 * 2, 0.05));
    let views = [
        (down, TensorView::new(Dtype::F32, vec![2, 128], &low).unwrap()),
        (up, TensorView::new(Dtype::F32, vec![192, 2], &high).unwrap()),
    ];
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

#[test]
fn loras_are_added_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = pulled(folder);
    inputs(folder);
    let args = [
        "generate",
        "--model",
        &model,
        "a cat",
        "--embeddings",
        "prompt.safetensors",
        "--cfg-scale",
        "1",
        "--steps",
        "2",
    ];
    let size = ["--size", "32x32", "--frames", "1", "--dtype", "f32", "--cache", "none", "--out"];
    let run = |out: &str, more: &[&str]| {
        succeeds(folder, &[&args[..], &size, &[out], more].concat());
        let file = fs::read(folder.join(out)).unwrap();
        SafeTensors::deserialize(&file).unwrap().tensor("latents").unwrap().data().to_vec()
    };
    let plain = run("plain.safetensors", &[]);
    let module = "blocks.1.ffn.net.0.proj";
    let spellings = [
        [format!("transformer.{module}.lora_A.weight"), format!("transformer.{module}.lora_B.weight")],
        [
            "diffusion_model.blocks.1.ffn.0.lora_down.weight".into(),
            "diffusion_model.blocks.1.ffn.0.lora_up.weight".into(),
        ],
        ["lora_unet_blocks_1_ffn_0.lora_down.weight".into(), "lora_unet_blocks_1_ffn_0.lora_up.weight".into()],
    ];
    let made: Vec<Vec<u8>> = spellings
        .iter()
        .enumerate()
        .map(|(i, names)| {
            let file = format!("{i}.lora.safetensors");
            lora(&folder.join(&file), names.each_ref().map(String::as_str));
            run(&format!("{i}.safetensors"), &["--lora", &format!("{file}:0.5")])
        })
        .collect();
    assert_ne!(made[0], plain);
    assert!(made[1] == made[0] && made[2] == made[0]);
    // Half the strength twice is the whole, and none is nothing; weights that are streamed get it too.
    let twice = run("twice.safetensors", &["--lora", "0.lora.safetensors:0.25", "--lora", "1.lora.safetensors:0.25"]);
    let close = |a: &[u8], b: &[u8]| {
        let values =
            |bytes: &[u8]| -> Vec<f32> { bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
        values(a).iter().zip(values(b)).all(|(a, b)| (a - b).abs() < 1e-4)
    };
    assert!(close(&twice, &made[0]) && !close(&twice, &plain));
    assert_eq!(run("none.safetensors", &["--lora", "0.lora.safetensors:0"]), plain);

    lora(&folder.join("other.safetensors"), ["blocks.7.ffn.0.lora_A.weight", "blocks.7.ffn.0.lora_B.weight"]);
    let refused = [&args[..], &size, &["x.safetensors", "--lora", "other.safetensors"]].concat();
    fails(folder, &refused, 1, &["other.safetensors", "blocks.7.ffn.0", "a LoRA for another one"]);
    fails(
        folder,
        &["generate", "large red circle bouncing fast navy", "--lora", "0.lora.safetensors"],
        1,
        &["--lora", MODEL],
    );
}

#[test]
fn sizes_and_settings_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = pulled(folder);
    inputs(folder);
    let refused = |more: &[&str], parts: &[&str]| {
        let args = ["generate", "--model", &model, "a cat", "--embeddings", "prompt.safetensors", "--cfg-scale", "1"];
        fails(folder, &[&args[..], more].concat(), 1, parts);
    };
    refused(&["--size", "48x32", "--frames", "6"], &["6 frames", "--frames 5 and 9"]);
    refused(&["--size", "40x32", "--frames", "5"], &["multiples of 16", "48x32"]);
    refused(&["--shift", "0"], &["--shift 0", "positive"]);
    refused(&["--resolution", "480p"], &["--size HxW"]);
    refused(&["--max-sequence-length", "513"], &["513", "512"]);
    refused(&["--size", "32x32", "--frames", "1", "--sigmas", "0.5,0.7"], &["noise level", "not below"]);
    refused(&["--size", "32x32", "--frames", "1", "--noise", "z.safetensors"], &["[16, 2, 6, 4]", "[16, 1, 4, 4]"]);
    for option in [["--sampler", "euler"], ["--shift", "3"], ["--sigmas", "1"], ["--negative-prompt", "dull"]] {
        fails(folder, &[&["generate", "large red circle bouncing fast navy"][..], &option].concat(), 1, &[option[0]]);
    }
    // A few steps are not cached unless it is asked for; levels of one's own say how many there are.
    let few = [
        "generate",
        "--model",
        &model,
        "a cat",
        "--embeddings",
        "prompt.safetensors",
        "--cfg-scale",
        "1",
        "--size",
        "32x32",
    ];
    let few =
        [&few[..], &["--frames", "1", "--sigmas", "1,0.8,0.4", "--out", "few.safetensors", "--report", "few.json"]]
            .concat();
    let told = text(&succeeds(folder, &few).stderr);
    assert!(told.contains("3 steps are all computed"), "{told}");
    let report = fs::read_to_string(folder.join("few.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["computed_steps"], &report["preset"]),
        (&serde_json::json!([1, 2, 3]), &serde_json::json!("none"))
    );
}

/// A small random TI2V in `folder`, whose autoencoder makes latents of 48 channels; the name of the model for `--model`.
fn image_to_video(folder: &Path) -> &'static str {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/wan22_ti2v_a");
    for part in ["ti2v/transformer", "ti2v/vae"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), folder.join("ti2v/transformer").join(file)).unwrap();
    }
    let tensors = WanVae::tensors(&WanVaeConfig::sized([4, 6], 48, true)).unwrap();
    let values = |seed: usize, shape: &[usize]| -> Vec<u8> {
        let count: usize = shape.iter().product();
        let scale = 1.0 / (count / shape[0]).max(1) as f32;
        (0..count).flat_map(|i| (scale * (((i + seed) * 37 % 101) as f32 / 25.0 - 2.0)).to_le_bytes()).collect()
    };
    let bytes: Vec<Vec<u8>> = tensors.values().enumerate().map(|(i, shape)| values(i, shape)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(folder.join("ti2v/vae/model.safetensors"), serialize(views, None).unwrap()).unwrap();
    fs::write(folder.join("ti2v/vae/config.json"), "{}").unwrap();
    let width = {
        let weights = fs::read(golden.join("model.safetensors")).unwrap();
        SafeTensors::deserialize(&weights).unwrap().tensor("text_embedding.0.weight").unwrap().shape()[1]
    };
    let text = values(3, &[4, width]);
    let view = TensorView::new(Dtype::F32, vec![4, width], &text).unwrap();
    fs::write(folder.join("text.safetensors"), serialize([("embedding", view)], None).unwrap()).unwrap();
    "ti2v"
}

/// A picture of one colour's shades.
fn picture(path: &Path, red: u8) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 64, 32);
    encoder.set_color(png::ColorType::Rgb);
    let rgb: Vec<u8> = (0..64 * 32).flat_map(|i| [red, (i % 64 * 4) as u8, (i / 64 * 8) as u8]).collect();
    encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
}

#[test]
fn a_picture_begins_the_video() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = image_to_video(folder);
    picture(&folder.join("a.png"), 200);
    picture(&folder.join("b.png"), 20);
    let args =
        ["generate", "--model", model, "a cat", "--embeddings", "text.safetensors", "--cfg-scale", "1", "--steps", "3"];
    let size = [
        "--size",
        "32x64",
        "--frames",
        "9",
        "--max-sequence-length",
        "24",
        "--dtype",
        "f32",
        "--cache",
        "none",
        "--out",
    ];
    let run = |out: &str, more: &[&str]| {
        succeeds(folder, &[&args[..], &size, &[out], more].concat());
        let file = fs::read(folder.join(out)).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let latents = file.tensor("latents").unwrap();
        assert_eq!(latents.shape(), [48, 3, 2, 4]);
        // The first latent frame of every channel, and the others.
        let frame = 2 * 4 * 4;
        let (first, rest): (Vec<_>, Vec<_>) =
            latents.data().chunks_exact(frame).enumerate().partition(|(i, _)| i % 3 == 0);
        [first, rest].map(|frames| frames.into_iter().map(|(_, frame)| frame.to_vec()).collect::<Vec<_>>())
    };
    let [first, rest] = run("a.safetensors", &["--image", "a.png"]);
    // The picture is held, whatever the noise; the rest follows both.
    let [same, other] = run("seed.safetensors", &["--image", "a.png", "--seed", "1"]);
    assert!(same == first && other != rest);
    let [other, moved] = run("b.safetensors", &["--image", "b.png"]);
    assert!(other != first && moved != rest);
    let [free, _] = run("free.safetensors", &[]);
    assert!(free != first);

    let refused = |more: &[&str], parts: &[&str]| {
        fails(folder, &[&args[..], &size, &["x.safetensors"], more].concat(), 1, parts);
    };
    refused(&["--image", "a.png", "--image", "b.png"], &["2 images", "takes one"]);
    refused(&["--reference", "a.png"], &["--reference", "opensora-v1.2"]);
    refused(&["--loop", "2"], &["--loop", "opensora-v1.2"]);
}

/// A tokenizer of a few words, which ends every text with `</s>`.
pub(crate) fn tokenizer() -> serde_json::Value {
    let words = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "runs", "sits", "dull", "gray"];
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let special = |id: usize| serde_json::json!({ "id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    serde_json::json!({
        "version": "1.0", "added_tokens": [special(0), special(1), special(2)], "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
            "pair": [], "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

#[test]
fn prompts_are_read_by_the_repositorys_own_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    // In the place where a folder of repositories has it.
    let repository = folder.join("files/Wan2.1-T2V-1.3B-Diffusers");
    copy_all(&repository_in_tests(), &repository);
    fs::create_dir_all(repository.join("tokenizer")).unwrap();
    fs::write(repository.join("tokenizer/tokenizer.json"), tokenizer().to_string()).unwrap();
    let output = succeeds(folder, &["pull", MODEL, "--from", "files", "--dir", "models"]);
    assert!(text(&output.stdout).contains("is complete"), "{}", text(&output.stdout));
    let model = format!("models/{MODEL}");
    let run = |prompt: &str, out: &str, more: &[&str]| {
        let args = [
            "generate", "--model", &model, prompt, "--size", "32x32", "--frames", "1", "--steps", "2", "--dtype", "f32",
        ];
        let output = succeeds(
            folder,
            &[&args[..], &["--max-sequence-length", "6", "--cache", "none", "--out", out], more].concat(),
        );
        let file = fs::read(folder.join(out)).unwrap();
        (SafeTensors::deserialize(&file).unwrap().tensor("latents").unwrap().data().to_vec(), text(&output.stderr))
    };
    let kept = folder.join("models").join(MODEL).join("embeddings");
    // A LoRA that does not fit is told before anything is read.
    let [unknown, shape, cut] = ["unknown", "shape", "cut"].map(|name| format!("{name}.safetensors"));
    lora(&folder.join(&unknown), ["blocks.7.ffn.0.lora_A.weight", "blocks.7.ffn.0.lora_B.weight"]);
    lora(&folder.join(&shape), ["blocks.1.attn1.to_q.lora_A.weight", "blocks.1.attn1.to_q.lora_B.weight"]);
    fs::write(folder.join(&cut), &fs::read(folder.join(&shape)).unwrap()[..100]).unwrap();
    for (file, parts) in [
        (&unknown, ["blocks.7.ffn.0", "another one"]),
        (&shape, ["lora_B", "[128, 128]"]),
        (&cut, ["not a complete", "cut"]),
    ] {
        let refused = ["generate", "--model", &model, "a cat runs", "--size", "32x32", "--frames", "1", "--lora", file];
        fails(folder, &refused, 1, &[&parts[..], &[file]].concat());
        assert!(!kept.exists(), "{file}: a prompt was read");
    }
    // One half reads no negative prompt.
    let alone = run("a cat runs", "e.safetensors", &["--cfg-scale", "1"]).0;
    assert!(run("a cat runs", "f.safetensors", &["--cfg-scale", "1", "--negative-prompt", "dull"]).0 == alone);
    assert_eq!(names(&kept).len(), 1);
    let (cat, _) = run("a cat runs", "a.safetensors", &[]);
    // What is read is kept: two prompts, the negative one among them.
    assert_eq!(names(&kept).len(), 2);
    assert!(run("a cat runs", "b.safetensors", &[]).0 == cat);
    assert!(run("a dog runs", "c.safetensors", &[]).0 != cat);
    assert!(run("a cat runs", "d.safetensors", &["--negative-prompt", "dull gray"]).0 != cat);
    // A prompt that is too long is cut, and says where.
    let (_, told) = run("a cat runs a dog sits", "g.safetensors", &[]);
    assert!(told.contains("longer than the 6 tokens") && told.contains("`sits`"), "{told}");
}
