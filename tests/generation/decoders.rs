//! The autoencoders that only decode, Latte's and Open-Sora-Plan's, beyond their reference cases: cuts and tiles, names, and what is refused.

use adacache::device::{Device, DryConfig};
use adacache::model::vae::{CausalTiling, CausalVae, CausalVaeConfig, LatteVae, LatteVaeConfig};
use adacache::model::{Autoencoder, Weights};
use adacache::pipeline::noise;
use adacache::tensor::DType;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A file of random weights of these names and shapes: small enough that values stay near 1 through the network.
fn file(tensors: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    let fill = |(seed, (name, shape)): (u64, (&String, &Vec<usize>))| {
        let count = shape.iter().product::<usize>();
        let (offset, scale) = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => (1.0, 0.1),
            1 => (0.0, 0.1),
            _ => (0.0, 0.7 / (count as f32 / shape[0] as f32).sqrt()),
        };
        noise(seed, count).into_iter().map(|v| offset + scale * v).collect::<Vec<f32>>()
    };
    let values: Vec<Vec<f32>> = (1..).zip(tensors).map(fill).collect();
    let views = tensors.iter().zip(&values).map(|((name, shape), values)| {
        let bytes = bytemuck::cast_slice(values);
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn small() -> CausalVaeConfig {
    let text = r#"{"hidden_size": 32, "hidden_size_mult": [2, 1], "num_res_blocks": 1,
        "decoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock3D"], "decoder_spatial_upsample": ["", "SpatialUpsample2x"],
        "decoder_temporal_upsample": ["", "TimeUpsampleRes2x"]}"#;
    CausalVaeConfig::from_json(text, "config.json").unwrap()
}

fn causal(device: &Device, bytes: &[u8], config: CausalVaeConfig) -> CausalVae {
    CausalVae::load(device, config, Weights::from_bytes("vae", bytes).unwrap(), DType::F32).unwrap()
}

/// The least memory that is enough, by halving.
fn least(enough: impl Fn(usize) -> bool, ample: usize) -> usize {
    let (mut below, mut least) = (1, ample);
    while least - below > 1024 {
        let middle = below.midpoint(least);
        *(if enough(middle) { &mut least } else { &mut below }) = middle;
    }
    least
}

#[test]
fn bands_change_no_bit_of_open_sora_plan() {
    for device in crate::common::checked_devices() {
        let bytes = file(&CausalVae::tensors(&small()).unwrap());
        let vae = causal(&device, &bytes, small());
        // The smallest bands have 1 MiB.
        let shape = [4, 3, 16, 14];
        let latents = noise(1, shape.iter().product());
        let ample = vae.decode_cut([3, 16, 14], usize::MAX).unwrap().bytes;
        let tight = least(|bytes| vae.decode_cut([3, 16, 14], bytes).is_ok(), ample);
        assert!(tight < ample, "{tight} {ample}");
        let whole = vae.decode_values(&latents, shape, None).unwrap();
        assert_eq!(whole.len(), 3 * 5 * 32 * 28);
        assert!(whole.iter().any(|v| v.abs() > 0.1) && whole.iter().all(|v| v.is_finite()));
        assert!(vae.decode_values(&latents, shape, Some(tight)).unwrap() == whole);
        let message = vae.decode_values(&latents, shape, Some(1)).unwrap_err().to_string();
        assert!(message.contains("decoding 32x28 pixels takes at least"), "{message}");
    }
}

/// One tile is the whole; several take less memory, and differ near their seams.
#[test]
fn tiles_take_less_memory_and_are_asked_for() {
    let device = crate::common::device();
    let bytes = file(&CausalVae::tensors(&small()).unwrap());
    let shape = [4, 3, 9, 6];
    let latents = noise(2, shape.iter().product());
    let whole = causal(&device, &bytes, small());
    let pixels = whole.decode_values(&latents, shape, None).unwrap();
    let tiled = |latents, frames| causal(&device, &bytes, small()).tiled(CausalTiling::new(latents, 2, frames, 0.25));
    assert!(tiled(9, 3).unwrap().decode_values(&latents, shape, None).unwrap() == pixels);
    let vae = tiled(4, 2).unwrap();
    let cut = vae.decode_values(&latents, shape, None).unwrap();
    assert!(cut.len() == pixels.len() && cut != pixels);
    let bytes_of = |vae: &CausalVae| vae.decode_cut([3, 9, 6], usize::MAX).unwrap().bytes;
    assert!(bytes_of(&vae) * 2 < bytes_of(&whole));
    // As bytes, frame by frame.
    let mut frames = vec![];
    let mut keep = |rgb: &[u8]| {
        frames.extend_from_slice(rgb);
        ControlFlow::Continue(())
    };
    vae.decode(&latents, [1, 4, 3, 9, 6], 5, &mut keep).unwrap();
    let rounded = |v: f32| (v.mul_add(0.5, 0.5).clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    let positions = cut.len() / 3;
    let exact: Vec<u8> = (0..cut.len()).map(|i| rounded(cut[i % 3 * positions + i / 3])).collect();
    assert!(frames.iter().zip(&exact).all(|(a, b)| a.abs_diff(*b) <= 1) && frames.len() == exact.len());
    let wrong = vae.decode(&latents, [1, 4, 3, 9, 6], 6, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(wrong.contains("3 latent frames are 5 frames, not 6"), "{wrong}");
    assert!(tiled(1, 2).err().unwrap().to_string().contains("do not cover"));
    let narrow = causal(&device, &bytes, small()).tiled(CausalTiling::default()).err().unwrap().to_string();
    assert!(narrow.contains("64 pixels wide, not 256"), "{narrow}");
}

/// A checkpoint has an encoder too, which is not read; a tensor that is neither is told of.
#[test]
fn encoders_are_left_alone_and_other_tensors_are_not() {
    let device = crate::common::device();
    let image = LatteVaeConfig::of(
        &Weights::from_bytes("vae", &file(&BTreeMap::new())).unwrap(),
        r#"{"block_out_channels": [32], "layers_per_block": 1}"#,
        "c",
    );
    let image = image.unwrap();
    assert!(!image.video);
    let names = LatteVae::tensors(&image).unwrap();
    assert!(
        names.contains_key("post_quant_conv.weight")
            && names.contains_key("decoder.mid_block.attentions.0.to_q.weight")
    );
    let load = |names: &BTreeMap<String, Vec<usize>>| {
        let bytes = file(names);
        LatteVae::load(&device, image.clone(), Weights::from_bytes("vae", &bytes).unwrap(), DType::F16).map(|_| ())
    };
    let mut more = names.clone();
    more.insert("encoder.conv_in.weight".into(), vec![1]);
    more.insert("quant_conv.bias".into(), vec![1]);
    load(&more).unwrap();
    more.insert("decoder.extra".into(), vec![1]);
    assert!(load(&more).unwrap_err().to_string().contains("decoder.extra"));
    // diffusers' names before version 0.18.
    let earlier = |name: &String| {
        let parts = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        parts.iter().fold(name.clone(), |name, (now, then)| name.replace(now, then))
    };
    load(&names.iter().map(|(name, shape)| (earlier(name), shape.clone())).collect()).unwrap();
    let mut fewer = names.clone();
    fewer.remove("decoder.conv_in.bias");
    assert!(load(&fewer).unwrap_err().to_string().contains("decoder.conv_in.bias"));

    let mut plan = CausalVae::tensors(&small()).unwrap();
    plan.insert("loss.logvar".into(), vec![1]);
    let bytes = file(&plan);
    let weights = Weights::from_bytes("vae", &bytes).unwrap();
    let error = CausalVae::load(&device, small(), weights, DType::F32).err().unwrap().to_string();
    assert!(error.contains("loss.logvar"), "{error}");
}

/// Memory of the published decoders at the published sizes, beside their weights: at most what docs/memory.md says.
#[test]
fn the_published_decoders_fit() {
    let config = DryConfig { name: "d".into(), memory: 80 << 30, units: 108, compute_capability: (8, 0) };
    let device = Device::dry(config);
    let causal = CausalVae::load(&device, CausalVaeConfig::default(), Weights::zeros(), DType::F16).unwrap();
    let whole = causal.least_decode_bytes(1, [17, 64, 64], 65).unwrap();
    let tiled = causal.tiled(CausalTiling::default()).unwrap().least_decode_bytes(1, [17, 64, 64], 65).unwrap();
    let latte = LatteVaeConfig::of(&Weights::zeros(), "{}", "config.json").unwrap();
    let video = LatteVae::load(&device, latte.clone(), Weights::zeros(), DType::F16).unwrap();
    let video = video.least_decode_bytes(1, [16, 64, 64], 16).unwrap();
    let mut image = latte;
    image.video = false;
    let image = LatteVae::load(&device, image, Weights::zeros(), DType::F16).unwrap();
    let image = image.least_decode_bytes(1, [16, 64, 64], 16).unwrap();
    println!("Open-Sora-Plan {whole}, in tiles {tiled}; Latte {video}, of images {image}");
    let within = |bytes: usize, gigabytes: f64| (bytes as f64) < gigabytes * 1e9;
    assert!(within(whole, 18.7) && within(tiled, 4.7) && within(video, 4.4) && within(image, 0.35));
}
