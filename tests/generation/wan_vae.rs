//! Wan's autoencoders beyond their reference cases (tests/generation/parity.rs): cuts change no bit, budgets are kept and explained, files and
//! inputs that do not fit are named.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use adacache::device::{Device, DryConfig};
use adacache::model::vae::{WanVae, WanVaeConfig};
use adacache::model::{Autoencoder, ModelError, Weights};
use adacache::tensor::DType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const CASES: [&str; 2] = ["wan_vae_21", "wan_vae_22"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(case)
}

/// A case's config.json: the shape, and the moments of its latents.
fn json(case: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(folder(case).join("case.json")).unwrap();
    let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut config = all["config"].take();
    for name in ["latents_mean", "latents_std"] {
        config[name] = all[name].take();
    }
    config
}

fn weights(case: &str) -> Vec<u8> {
    std::fs::read(folder(case).join("model.safetensors")).unwrap()
}

fn load(case: &str, device: &Device, dtype: DType) -> WanVae {
    let bytes = weights(case);
    let weights = Weights::from_bytes("model", &bytes).unwrap();
    let config = WanVaeConfig::of(&weights, Some((&json(case).to_string(), "config.json"))).unwrap();
    WanVae::load(device, config, weights, dtype).unwrap()
}

/// A case's tensor, its batch of one dropped.
fn values(case: &str, name: &str) -> ([usize; 4], Vec<f32>) {
    let io = Weights::open(&folder(case).join("io.safetensors")).unwrap();
    let shape = io.shape(name).unwrap();
    ([shape[1], shape[2], shape[3], shape[4]], io.values(name, &shape).unwrap())
}

fn on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The most memory, and the least: all frames of a chunk at once, and a frame at a time.
#[test]
fn a_tight_budget_gives_the_same_bits_and_is_kept() {
    for device in crate::common::checked_devices() {
        for case in CASES {
            tight_budget(case, &device);
        }
    }
}

fn tight_budget(case: &str, device: &Device) {
    let vae = load(case, device, DType::Bf16);
    let (shape, latents) = values(case, "latent");
    let [_, t, h, w] = shape;
    let (pixel_shape, pixels) = values(case, "pixels");
    let [_, frames, height, width] = pixel_shape;
    let ample = vae.decode_cut(t, [h, w], usize::MAX).unwrap();
    assert_eq!(ample.frames, 4);
    let message = vae.decode_cut(t, [h, w], 1).unwrap_err().to_string();
    assert!(message.contains(&format!("decoding {height}x{width} pixels takes at least")), "{message}");
    // The most that the next cut does not fit in, by halving.
    let least = |cut: &dyn Fn(usize) -> Result<adacache::model::vae::Cut, ModelError>| {
        let (mut below, mut least) = (1, cut(usize::MAX).unwrap().bytes);
        while least - below > 256 {
            let middle = below.midpoint(least);
            if cut(middle).is_ok() { least = middle } else { below = middle }
        }
        cut(least).unwrap()
    };
    let tight = least(&|budget| vae.decode_cut(t, [h, w], budget));
    assert!(tight.frames == 1 && tight.bytes < ample.bytes, "{tight:?} {ample:?}");

    let whole = vae.decode_within(&latents, shape, None, &mut on).unwrap();
    assert_eq!(whole.len(), frames * height * width * 3);
    device.reset_peak();
    let held = device.allocated_bytes();
    let cut = vae.decode_within(&latents, shape, Some(tight.bytes), &mut on).unwrap();
    assert!(cut == whole, "{case}");
    // Beside the activations only one slice of finished bytes is on the device.
    let taken = device.peak_bytes() - held;
    assert!(taken <= tight.bytes + height * width * 3, "{case}: {taken} of {tight:?}");

    let encode = |budget| vae.encode_within(&pixels, pixel_shape, budget, &mut on).unwrap();
    let tight = least(&|budget| vae.encode_cut(t, [h, w], budget));
    assert_eq!(tight.frames, 1);
    assert_eq!(encode(None), encode(Some(tight.bytes)), "{case}");
}

/// No frame sees a later one: a longer video begins with the shorter one's frames.
#[test]
fn the_first_frames_do_not_depend_on_later_ones() {
    let vae = load("wan_vae_21", &crate::common::device(), DType::Bf16);
    let ([channels, t, h, w], latents) = values("wan_vae_21", "latent");
    let whole = vae.decode_within(&latents, [channels, t, h, w], None, &mut on).unwrap();
    for some in 1..t {
        let planes = latents.chunks(t * h * w).flat_map(|channel| &channel[..some * h * w]).copied();
        let begin = vae.decode_within(&planes.collect::<Vec<_>>(), [channels, some, h, w], None, &mut on).unwrap();
        assert_eq!(begin.len(), vae.config().frames(some) * whole.len() / vae.config().frames(t));
        assert!(whole[..begin.len()] == begin, "{some} latent frames");
    }
}

/// Bytes are the values, rounded; also where a position is a square of pixels.
#[test]
fn bytes_are_the_values_rounded() {
    for case in CASES {
        let vae = load(case, &crate::common::device(), DType::Bf16);
        let (shape, latents) = values(case, "latent");
        let pixels = vae.decode_values(&latents, shape, None).unwrap();
        let bytes = vae.decode_within(&latents, shape, None, &mut on).unwrap();
        let plane = bytes.len() / 3;
        for (i, &byte) in bytes.iter().enumerate() {
            let exact = (f64::from(pixels[i % 3 * plane + i / 3]) + 1.0).clamp(0.0, 2.0) * 127.5;
            assert!((f64::from(byte) - exact).abs() <= 0.5001, "{case} byte {i}: {byte}, expected {exact}");
        }
    }
}

#[test]
fn progress_is_told_and_can_stop() {
    let vae = load("wan_vae_22", &crate::common::device(), DType::Bf16);
    let (shape, latents) = values("wan_vae_22", "latent");
    let mut told = vec![];
    vae.decode_within(&latents, shape, None, &mut |done, all| {
        told.push((done, all));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told, [(1, 9), (5, 9), (9, 9)]);
    let mut calls = 0;
    let mut stop = |_, _| {
        calls += 1;
        ControlFlow::Break(())
    };
    assert!(matches!(vae.decode_within(&latents, shape, None, &mut stop), Err(ModelError::Stopped)));
    let (shape, pixels) = values("wan_vae_22", "pixels");
    assert!(matches!(vae.encode_within(&pixels, shape, None, &mut stop), Err(ModelError::Stopped)));
    assert_eq!(calls, 2);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let vae = load("wan_vae_21", &crate::common::device(), DType::Bf16);
    let encode = |shape: [usize; 4]| {
        vae.encode_within(&vec![0.0; shape.iter().product()], shape, None, &mut on).unwrap_err().to_string()
    };
    for shape in [[3, 0, 24, 40], [3, 5, 20, 40], [4, 5, 24, 40]] {
        let error = encode(shape);
        assert!(error.contains("both sides multiples of 8"), "{error}");
    }
    assert!(encode([3, 4, 24, 40]).contains("4 frames cannot be encoded; expected a multiple of 4 and one more"));
    let decode = |shape: [usize; 4]| {
        vae.decode_within(&vec![0.0; shape.iter().product()], shape, None, &mut on).unwrap_err().to_string()
    };
    assert!(decode([4, 1, 2, 2]).contains("expected [16, frames, height, width]"));
    assert!(decode([16, 0, 2, 2]).contains("no axis empty"));
    let error = vae
        .decode(&[0.0; 16 * 2 * 4], [1, 16, 2, 2, 2], 8, &mut |_| ControlFlow::Continue(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 latent frames decode to 5 frames, not 8"), "{error}");
}

type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

/// The file's tensors, changed by `change`, with a config.json changed by `fields`, and what loading both says.
fn loading(case: &str, change: impl FnOnce(&mut Vec<Entry>), fields: impl FnOnce(&mut serde_json::Value)) -> String {
    let bytes = weights(case);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Entry> =
        file.tensors().into_iter().map(|(n, t)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    let mut json = json(case);
    fields(&mut json);
    let load = || {
        let weights = Weights::from_bytes("vae.safetensors", &bytes)?;
        let config = WanVaeConfig::of(&weights, Some((&json.to_string(), "vae/config.json")))?;
        WanVae::load(&crate::common::device(), config, weights, DType::Bf16)
    };
    match load() {
        Ok(_) => "loaded".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_name_and_shape_is_asserted() {
    let says = |change: &dyn Fn(&mut Vec<Entry>)| loading("wan_vae_21", |tensors| change(tensors), |_| ());
    assert_eq!(says(&|_| ()), "loaded");
    let conv = "decoder.upsamples.2.time_conv.weight";
    let at = |tensors: &[Entry], name: &str| tensors.iter().position(|t| t.0 == name).unwrap();
    // Without it, the file is one whose decoder makes fewer frames than the encoder takes.
    let missing = says(&|tensors| tensors.retain(|t| t.0 != conv));
    assert!(missing.contains("the encoder changes time and space by (4, 8), the decoder by (2, 8)"), "{missing}");
    let missing = says(&|tensors| tensors.retain(|t| t.0 != "decoder.middle.1.proj.bias"));
    assert!(missing.contains("`decoder.middle.1.proj.bias` is missing"), "{missing}");
    let wrong = says(&|tensors| {
        let i = at(tensors, conv);
        tensors[i].2 = vec![12, 24, 3, 1, 1];
    });
    assert!(wrong.contains(conv) && wrong.contains("expected [24, 12, 3, 1, 1]"), "{wrong}");
    let extra = says(&|tensors| {
        let mut another = tensors[0].clone();
        another.0 = "decoder.upsamples.99.extra".into();
        tensors.push(another);
    });
    assert!(extra.contains("decoder.upsamples.99.extra"), "{extra}");
    let damaged = says(&|tensors| {
        let i = at(tensors, conv);
        tensors[i].3[..2].copy_from_slice(&[0xc0, 0x7f]);
    });
    assert!(damaged.contains("damaged"), "{damaged}");
    let other = says(&|tensors| tensors.retain(|t| !t.0.starts_with("encoder")));
    assert!(other.contains("this is not an autoencoder of Wan"), "{other}");
}

#[test]
fn configurations_that_contradict_the_tensors_are_errors() {
    let says = |name: &str, value: serde_json::Value| {
        loading(
            "wan_vae_22",
            |_| (),
            |fields| {
                fields[name] = value;
            },
        )
    };
    assert_eq!(says("dropout", serde_json::json!(0.0)), "loaded");
    for (name, value, expected) in [
        ("z_dim", serde_json::json!(16), "z_dim is 16, but the tensors have 12"),
        ("dim", serde_json::json!(8), "dim is 8, but the tensors have 4"),
        ("dec_dim", serde_json::json!(4), "in the decoder"),
        ("dim_mult", serde_json::json!([1, 2, 4]), "[1, 2, 4], but the tensors have [1, 2, 2]"),
        ("num_res_blocks", serde_json::json!(2), "num_res_blocks is 2, but the tensors have 1"),
        ("temperal_downsample", serde_json::json!([false, true]), "temperal_downsample is [false, true]"),
        ("attn_scales", serde_json::json!([0.5]), "attn_scales"),
        ("latents_mean", serde_json::Value::Null, "one is missing"),
        ("latents_std", serde_json::json!([1.0]), "latents_std has 1 values"),
        ("latents_std", serde_json::json!(vec![0.0; 12]), "not positive"),
        ("z_dim", serde_json::json!("x"), "invalid type"),
    ] {
        let error = says(name, value);
        assert!(error.contains(expected) && !error.starts_with("loaded"), "{name}: {error}");
    }
    // Without a config.json only latents of a published width have moments.
    let bytes = weights("wan_vae_22");
    let error = WanVaeConfig::of(&Weights::from_bytes("vae", &bytes).unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("latents_mean and latents_std are missing"), "{error}");
    let bytes = weights("wan_vae_21");
    let config = WanVaeConfig::of(&Weights::from_bytes("vae", &bytes).unwrap(), None).unwrap();
    assert_eq!(config.mean, WanVaeConfig::wan21().mean);
}

/// What the documentation of `model::vae` says of both directions: the least and the most GB beside the weights, in bf16, for videos of any length.
#[test]
fn the_published_sizes_take_what_the_documentation_says() {
    let gpu = DryConfig { name: "gpu".into(), memory: 80 << 30, units: 108, compute_capability: (8, 0) };
    let device = Device::dry(gpu);
    for (config, sides, documented) in [
        (WanVaeConfig::wan21(), [60, 104], [2.2, 3.1, 1.4, 2.1]),
        (WanVaeConfig::wan21(), [90, 160], [5.1, 7.1, 3.3, 4.8]),
        (WanVaeConfig::wan22(), [44, 80], [4.2, 5.6, 1.4, 2.3]),
    ] {
        let before = device.allocated_bytes();
        let vae = WanVae::load(&device, config, Weights::zeros(), DType::Bf16).unwrap();
        let weights = device.allocated_bytes() - before;
        let cuts = |t: usize| {
            let most = [vae.decode_cut(t, sides, usize::MAX), vae.encode_cut(t, sides, usize::MAX)];
            let [decode, encode] = most.map(|cut| cut.unwrap().bytes);
            // Less the part that stays free without a budget.
            let least = [vae.least_decode_bytes(1, [t, sides[0], sides[1]], 0), vae.least_encode_bytes(sides)];
            let [least_decode, least_encode] = least.map(|bytes| bytes.unwrap() / 16 * 15);
            [least_decode, decode, least_encode, encode]
        };
        let long = cuts(21);
        println!("{sides:?}: weights {weights}, decode and encode, the least and the most: {long:?}");
        for (bytes, gb) in long.into_iter().zip(documented) {
            assert!((bytes as f64 / 1e9 - gb).abs() <= 0.06, "{sides:?}: {long:?}, documented {documented:?}");
        }
        // Bounded: a video ten times as long takes no more.
        assert_eq!(cuts(210), long);
    }
}
