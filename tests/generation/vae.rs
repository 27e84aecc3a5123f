//! The video autoencoder beyond its reference case (tests/generation/parity.rs): cuts change no bit, budgets are kept and explained, files and inputs that
//! do not fit are named.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use adacache::cache::CacheConfig;
use adacache::device::{Device, DryConfig};
use adacache::family;
use adacache::model::vae::{VaeConfig, VideoVae};
use adacache::model::{ModelError, Weights};
use adacache::pipeline::{ModelSource, OpenOptions, Pipeline, Request};
use adacache::tensor::DType;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn case() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/opensora_vae_a")
}

fn config() -> VaeConfig {
    VaeConfig::from_json(&std::fs::read_to_string(case().join("case.json")).unwrap(), "case.json").unwrap()
}

fn weights() -> Vec<u8> {
    std::fs::read(case().join("model.safetensors")).unwrap()
}

fn load(device: &Device, dtype: DType) -> VideoVae {
    let bytes = weights();
    VideoVae::load(device, config(), Weights::from_bytes("model", &bytes).unwrap(), dtype).unwrap()
}

/// The case's tensor, its batch of one dropped.
fn values(name: &str) -> ([usize; 4], Vec<f32>) {
    let io = Weights::open(&case().join("io.safetensors")).unwrap();
    let shape = io.shape(name).unwrap();
    ([shape[1], shape[2], shape[3], shape[4]], io.values(name, &shape).unwrap())
}

fn on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The most memory, and the least: everything at once, and a frame at a time in bands of a row.
#[test]
fn a_tight_budget_gives_the_same_bits_and_is_kept() {
    for device in crate::common::checked_devices() {
        tight_budget(&device);
    }
}

fn tight_budget(device: &Device) {
    let vae = load(device, DType::Bf16);
    let (shape, latents) = values("latent");
    let [_, _, h, w] = shape;
    let ample = vae.decode_cut(22, [h, w], usize::MAX).unwrap();
    assert_eq!(ample.frames, 4);
    let message = vae.decode_cut(22, [h, w], 1).unwrap_err().to_string();
    assert!(message.contains("decoding 32x48 pixels takes at least"), "{message}");
    // The least that is enough, by halving.
    let (mut below, mut least) = (1, ample.bytes);
    while least - below > 1024 {
        let middle = below.midpoint(least);
        match vae.decode_cut(22, [h, w], middle) {
            Ok(_) => least = middle,
            Err(_) => below = middle,
        }
    }
    let tight = vae.decode_cut(22, [h, w], least).unwrap();
    assert!(tight.frames == 1 && tight.bytes <= least && tight.bytes < ample.bytes, "{tight:?} {ample:?}");

    let whole = vae.decode_within(&latents, shape, 22, None, &mut on).unwrap();
    assert_eq!(whole.len(), 22 * 32 * 48 * 3);
    device.reset_peak();
    let weights = device.allocated_bytes();
    let cut = vae.decode_within(&latents, shape, 22, Some(least), &mut on).unwrap();
    assert!(cut == whole);
    // Beside the activations only one slice of finished bytes is on the device.
    assert!(device.peak_bytes() - weights <= least + 32 * 48 * 3, "{} of {least}", device.peak_bytes() - weights);

    let (pixel_shape, pixels) = values("pixels");
    let encode = |budget| vae.encode_within(&pixels, pixel_shape, budget, &mut on).unwrap();
    let least = vae.encode_cut(22, [h, w], usize::MAX).unwrap().bytes * 3 / 4;
    assert_eq!(encode(None), encode(Some(least)));
}

/// Bytes are the values, rounded.
#[test]
fn bytes_are_the_values_rounded() {
    let vae = load(&crate::common::device(), DType::Bf16);
    let (shape, latents) = values("latent");
    let (_, pixels) = vae.decode_values(&latents, shape, 22, None).unwrap();
    let bytes = vae.decode_within(&latents, shape, 22, None, &mut on).unwrap();
    let plane = 22 * 32 * 48;
    for (i, &byte) in bytes.iter().enumerate() {
        let exact = (f64::from(pixels[i % 3 * plane + i / 3]) + 1.0).clamp(0.0, 2.0) * 127.5;
        assert!((f64::from(byte) - exact).abs() <= 0.5001, "byte {i}: {byte}, expected {exact}");
    }
}

#[test]
fn progress_is_told_and_can_stop() {
    let vae = load(&crate::common::device(), DType::Bf16);
    let (shape, latents) = values("latent");
    let mut told = vec![];
    vae.decode_within(&latents, shape, 22, None, &mut |done, all| {
        told.push((done, all));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(told.is_sorted() && told.last() == Some(&(22, 22)), "{told:?}");
    let mut calls = 0;
    let stopped = vae.decode_within(&latents, shape, 22, None, &mut |_, _| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ModelError::Stopped)) && calls == 1);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let vae = load(&crate::common::device(), DType::Bf16);
    let (shape, latents) = values("latent");
    let decode = |shape, frames| vae.decode_within(&latents, shape, frames, None, &mut on).unwrap_err().to_string();
    // 7 latent frames are 22 frames, not 30.
    assert!(decode(shape, 30).contains("expected [4, 9, 4, 6]"));
    assert!(decode([4, 7, 6, 5], 22).contains("do not decode to 22 frames"));
    assert!(decode([4, 0, 4, 6], 0).contains("no axis empty"));
    let error = vae.encode_within(&[0.0; 3 * 30 * 48], [3, 1, 30, 48], None, &mut on).unwrap_err().to_string();
    assert!(error.contains("multiples of 8"), "{error}");
}

/// The file's tensors, changed by `change`, and what loading them says.
fn loading(change: impl FnOnce(&mut Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>)) -> String {
    let bytes = weights();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        file.tensors().into_iter().map(|(n, t)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    let device = crate::common::device();
    match VideoVae::load(&device, config(), Weights::from_bytes("vae.safetensors", &bytes).unwrap(), DType::Bf16) {
        Ok(_) => "loaded".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_name_and_shape_is_asserted() {
    assert_eq!(loading(|_| {}), "loaded");
    let conv = "temporal_vae.decoder.conv_blocks.1.conv.weight";
    let missing = loading(|tensors| tensors.retain(|t| t.0 != conv));
    assert!(
        missing.contains(conv) && missing.contains("missing") && missing.contains("[128, 64, 3, 3, 3]"),
        "{missing}"
    );
    let wrong = loading(|tensors| {
        let at = tensors.iter().position(|t| t.0 == conv).unwrap();
        tensors[at].2 = vec![64, 128, 3, 3, 3];
    });
    assert!(wrong.contains(conv) && wrong.contains("expected [128, 64, 3, 3, 3]"), "{wrong}");
    let extra = loading(|tensors| {
        let mut another = tensors[0].clone();
        another.0 = "spatial_vae.module.decoder.extra".into();
        tensors.push(another);
    });
    assert!(extra.contains("spatial_vae.module.decoder.extra"), "{extra}");
    let damaged = loading(|tensors| {
        let at = tensors.iter().position(|t| t.0 == conv).unwrap();
        tensors[at].3[..2].copy_from_slice(&[0xc0, 0x7f]);
    });
    assert!(damaged.contains("damaged"), "{damaged}");
}

#[test]
fn configurations_that_make_no_sense_are_errors() {
    let config = |json: &str| VaeConfig::from_json(json, "vae/config.json").map_err(|e| e.to_string());
    // The published file has none of these fields.
    assert_eq!(
        config(r#"{"model_type": "VideoAutoencoderPipeline", "micro_frame_size": 17}"#),
        Ok(VaeConfig::default())
    );
    for (json, expected) in [
        (r#"{"temporal": {"filters": 100}}"#, "multiple of 8"),
        (r#"{"temporal": {"temporal_downsample": [true]}}"#, "one entry less"),
        (r#"{"spatial": {"block_out_channels": []}}"#, "0 entries"),
        (r#"{"micro_frame_size": 0}"#, "expected 1 to 64"),
        (r#"{"spatial_scaling": -1}"#, "positive"),
        (r#"{"spatial": {"latent_channels": 16}}"#, "at most 4"),
        ("[", "vae/config.json"),
    ] {
        let error = config(json).unwrap_err();
        assert!(error.starts_with("vae/config.json") && error.contains(expected), "{json}: {error}");
    }
}

/// The published sizes on a device that only counts: 393 M parameters of a decoder for 720p, cut to the memory there is.
#[test]
fn the_published_autoencoder_decodes_720p_within_4_gb() {
    let gpu = DryConfig { name: "gpu".into(), memory: 80 << 30, units: 108, compute_capability: (8, 0) };
    let device = Device::dry(gpu);
    let vae = VideoVae::load(&device, VaeConfig::default(), Weights::zeros(), DType::Bf16).unwrap();
    println!("weights {:.2} GB", device.allocated_bytes() as f64 / 1e9);
    assert_eq!(vae.config().latent_frames(51), 15);
    let (ample, tight) =
        (vae.decode_cut(51, [90, 160], 80 << 30).unwrap(), vae.decode_cut(51, [90, 160], 4 << 30).unwrap());
    println!("{ample:?} {tight:?}");
    assert!(ample.frames == 4 && tight.bytes <= 4 << 30);
    // 14400 tokens: all scores at once would be 829 MB in f32 alone.
    let least = vae.decode_cut(51, [90, 160], 1).unwrap_err().to_string();
    println!("{least}");
}

/// A small model whose folder has a video autoencoder in place of a patch decoder: 7 latent frames become 22.
#[test]
fn a_model_folder_with_an_autoencoder_generates_its_frames() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let json = |file: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(root.join(file)).unwrap()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("vae")).unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(root.join(from), folder.path().join(to)).unwrap();
    copy("tests/goldens/stdit3_a/model.safetensors", "model.safetensors");
    copy("tests/goldens/opensora_vae_a/model.safetensors", "vae/model.safetensors");
    copy("tests/goldens/opensora_vae_a/case.json", "vae/config.json");
    let mut config = json("models/sprites/config.json");
    let fields = config.as_object_mut().unwrap();
    fields.extend(json("tests/goldens/stdit3_a/config.json").as_object().unwrap().clone());
    let sizes = serde_json::json!({ "latent": [7, 4, 6], "video_frames": 22, "height": 32, "width": 48 });
    fields.extend(sizes.as_object().unwrap().clone());
    let words = fields["vocabulary"].as_array().unwrap().len();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let text: Vec<u8> = (0..words * 48).flat_map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes()).collect();
    let view = TensorView::new(safetensors::Dtype::F32, vec![words, 48], &text).unwrap();
    let text = safetensors::serialize([("embedding.weight", view)], None).unwrap();
    std::fs::write(folder.path().join("text.safetensors"), text).unwrap();

    let device = crate::common::device();
    let source = |size: &OpenOptions| family::open(folder.path().to_str().unwrap(), size).unwrap();
    let generate = |source: ModelSource| {
        let pipeline = Pipeline::load(&source, &device, DType::Bf16).unwrap();
        let request = Request::new(&pipeline, "large red circle bouncing fast navy").unwrap();
        let request = Request { steps: 2, cache: CacheConfig::None, ..request };
        let (mut told, mut pixels) = (vec![], vec![]);
        let generations = pipeline
            .generate_telling(&[request], Default::default(), &mut |_| ControlFlow::Continue(()), &mut |decoded| {
                told.push((decoded.done, decoded.all));
                pixels.extend_from_slice(decoded.pixels);
                ControlFlow::Continue(())
            })
            .unwrap();
        let frames = generations[0].frames.as_ref().unwrap().rgb.len() / (48 * 32 * 3);
        assert_eq!(told.last(), Some(&(frames, frames)));
        assert!(told.len() > 1 && pixels == generations[0].frames.as_ref().unwrap().rgb, "handed over on the way");
        generations.into_iter().next().unwrap()
    };
    let generation = generate(source(&OpenOptions::default()));
    assert_eq!(generation.latents.shape, [4, 7, 4, 6]);
    let expected =
        load(&device, DType::Bf16).decode_within(&generation.latents.values, [4, 7, 4, 6], 22, None, &mut on).unwrap();
    assert!(generation.frames.unwrap().rgb == expected);
    // The decoder is read before the steps, and takes its room after them.
    let pipeline = Pipeline::load(&source(&OpenOptions::default()), &device, DType::Bf16).unwrap();
    let request = Request::new(&pipeline, "large red circle bouncing fast navy").unwrap();
    let while_denoising = |decode| {
        let request = Request { steps: 1, cache: CacheConfig::None, decode, ..request.clone() };
        let mut bytes = 0;
        let mut on_step = |_: &adacache::sampler::StepEvent| {
            bytes = device.allocated_bytes();
            ControlFlow::Continue(())
        };
        pipeline.generate(&request, &mut on_step).unwrap();
        bytes
    };
    assert_eq!(while_denoising(true), while_denoising(false));
    let weights = folder.path().join("vae/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 2]).unwrap();
    let damaged = Pipeline::load(&source(&OpenOptions::default()), &device, DType::Bf16).unwrap();
    let mut steps = 0;
    let mut on_step = |_: &adacache::sampler::StepEvent| {
        steps += 1;
        ControlFlow::Continue(())
    };
    assert!(damaged.generate(&request, &mut on_step).unwrap_err().to_string().contains("not a complete safetensors"));
    assert_eq!(steps, 0);
    std::fs::write(&weights, whole).unwrap();
    let shorter = generate(source(&OpenOptions::exactly(5, 32, 48)));
    assert_eq!((shorter.latents.shape, shorter.frames.unwrap().rgb.len()), ([4, 2, 4, 6], 5 * 32 * 48 * 3));
}
