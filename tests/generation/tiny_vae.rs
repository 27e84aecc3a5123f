//! The tiny autoencoders for previews (TAEHV), against their definition written out: every channel, frame and pixel by itself.

use std::collections::HashMap;

use adacache::device::Device;
use adacache::model::vae::{TinyVae, TinyVaeConfig};
use adacache::model::{Autoencoder, Weights};
use adacache::tensor::DType;
use tempfile::TempDir;

use crate::common::tiny_vae::Shape;
use crate::common::written::{Plain, torch};

/// Channels by rows by columns.
#[derive(Clone)]
struct Image {
    channels: usize,
    sides: [usize; 2],
    values: Vec<f64>,
}

/// The network as its authors describe it: a list of layers, every one applied to all frames.
struct Definition(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Definition {
    fn new(tensors: Vec<Plain>) -> Definition {
        Definition(tensors.into_iter().map(|(name, shape, values)| (name, (shape, values))).collect())
    }

    /// A convolution of images with zeros around them.
    fn conv(&self, name: &str, x: &Image) -> Image {
        let (shape, w) = &self.0[&format!("decoder.{name}.weight")];
        let bias = self.0.get(&format!("decoder.{name}.bias")).map(|(_, values)| values);
        let (n, taps, [height, width]) = (shape[0], shape[2], x.sides);
        assert_eq!(shape[1], x.channels, "{name}");
        let mut values = vec![];
        for o in 0..n {
            for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
                let mut sum = bias.map_or(0.0, |bias| f64::from(bias[o]));
                for (c, a, b) in (0..x.channels).flat_map(|c| (0..taps * taps).map(move |t| (c, t / taps, t % taps))) {
                    let at = |place: usize, tap: usize| (place + tap).checked_sub(taps / 2);
                    let (Some(y), Some(z)) = (at(row, a), at(column, b)) else { continue };
                    if y < height && z < width {
                        let w = f64::from(w[((o * x.channels + c) * taps + a) * taps + b]);
                        sum += w * x.values[(c * height + y) * width + z];
                    }
                }
                values.push(sum);
            }
        }
        Image { channels: n, sides: x.sides, values }
    }

    /// `relu(conv([x, before]) + x)` for every frame.
    fn block(&self, i: usize, frames: Vec<Image>) -> Vec<Image> {
        let zeros = |x: &Image| Image { values: vec![0.0; x.values.len()], ..x.clone() };
        let one = |at: usize| {
            let (x, before) =
                (&frames[at], at.checked_sub(1).map_or_else(|| zeros(&frames[0]), |at| frames[at].clone()));
            let both = Image { channels: 2 * x.channels, values: [&x.values[..], &before.values].concat(), ..*x };
            let hidden = relu(self.conv(&format!("{i}.conv.0"), &both));
            let hidden = relu(self.conv(&format!("{i}.conv.2"), &hidden));
            let mut out = self.conv(&format!("{i}.conv.4"), &hidden);
            out.values.iter_mut().zip(&x.values).for_each(|(out, x)| *out += x);
            relu(out)
        };
        (0..frames.len()).map(one).collect()
    }

    /// Frames in [0, 1] as bytes, not rounded: `[frames, H, W, 3]`.
    fn decode(&self, shape: &Shape, latents: Vec<Image>) -> Vec<f64> {
        let clamped = |mut z: Image| {
            z.values.iter_mut().for_each(|z| *z = 3.0 * (*z / 3.0).tanh());
            z
        };
        let mut frames: Vec<Image> = latents.into_iter().map(|z| relu(self.conv("1", &clamped(z)))).collect();
        for (i, &time) in shape.time.iter().enumerate() {
            let at = 3 + 6 * i;
            frames = (at..at + 3).fold(frames, |frames, block| self.block(block, frames));
            let grown = frames.iter().map(doubled).flat_map(|x| {
                let x = self.conv(&format!("{}.conv", at + 4), &x);
                let values: Vec<_> = x.values.chunks(x.values.len() / time).map(<[f64]>::to_vec).collect();
                values.into_iter().map(move |values| Image { channels: x.channels / time, sides: x.sides, values })
            });
            frames = grown.map(|x| self.conv(&format!("{}", at + 5), &x)).collect();
        }
        let trimmed = shape.time.iter().product::<usize>() - 1;
        let pixels = frames.into_iter().map(|x| self.conv("22", &relu(x))).skip(trimmed);
        pixels.flat_map(|x| shuffled(&x, shape.patch)).map(|v| v.clamp(0.0, 1.0) * 255.0).collect()
    }
}

fn relu(mut x: Image) -> Image {
    x.values.iter_mut().for_each(|v| *v = v.max(0.0));
    x
}

/// Rows and columns twice.
fn doubled(x: &Image) -> Image {
    let [height, width] = x.sides;
    let value = |i: usize| {
        let (column, row, channel) = (i % (2 * width), i / (2 * width) % (2 * height), i / (4 * width * height));
        x.values[(channel * height + row / 2) * width + column / 2]
    };
    Image { channels: x.channels, sides: [2 * height, 2 * width], values: (0..4 * x.values.len()).map(value).collect() }
}

/// Pixels `[H, W, 3]` of an image whose channels are squares of `patch` pixels a side.
fn shuffled(x: &Image, patch: usize) -> Vec<f64> {
    let [height, width] = x.sides;
    let value = |i: usize| {
        let (rgb, column, row) = (i % 3, i / 3 % (width * patch), i / 3 / (width * patch));
        let channel = (rgb * patch + row % patch) * patch + column % patch;
        x.values[(channel * height + row / patch) * width + column / patch]
    };
    (0..x.values.len()).map(value).collect()
}

fn latents(shape: &Shape, [t, h, w]: [usize; 3]) -> Vec<f32> {
    (0..shape.latent_channels * t * h * w).map(|i| 3.0 * (i as f32 * 0.37).sin()).collect()
}

fn load(folder: &TempDir, shape: &Shape, device: &Device, dtype: DType) -> TinyVae {
    let file = folder.path().join("tiny.safetensors");
    shape.write(&file);
    let config = TinyVaeConfig::of(&Weights::open(&file).unwrap()).unwrap();
    assert_eq!(config.latent_channels, shape.latent_channels);
    assert_eq!((config.temporal_factor(), config.spatial_factor()), (shape.time.iter().product(), 8 * shape.patch));
    TinyVae::load(device, config, Weights::open(&file).unwrap(), dtype).unwrap()
}

const SHAPES: [Shape; 2] =
    [Shape::WAN21, Shape { latent_channels: 48, channels: [16, 8, 16, 8], time: [2, 1, 2], patch: 2 }];

#[test]
fn frames_follow_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    for device in crate::common::checked_devices() {
        for shape in SHAPES {
            let sides @ [t, h, w] = [3, 3, 2];
            let values = latents(&shape, sides);
            let frame = |f: usize| {
                let channels = values.chunks(t * h * w).flat_map(|channel| &channel[f * h * w..][..h * w]);
                Image {
                    channels: shape.latent_channels,
                    sides: [h, w],
                    values: channels.map(|v| f64::from(*v)).collect(),
                }
            };
            let expected = Definition::new(shape.tensors()).decode(&shape, (0..t).map(frame).collect());
            let spread = expected.iter().fold([255.0f64, 0.0], |[low, high], v| [low.min(*v), high.max(*v)]);
            assert!(spread[1] - spread[0] > 60.0, "a test that sees something: {spread:?}");
            for (dtype, bound) in [(DType::F32, 0.51), (DType::F16, 1.5), (DType::Bf16, 6.0)] {
                let vae = load(&folder, &shape, &device, dtype);
                let bytes = vae.decode_within(&values, [shape.latent_channels, t, h, w], None).unwrap();
                assert_eq!(bytes.len(), expected.len());
                let off = bytes.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(off <= bound, "{dtype}, patch {}: {off} of 255", shape.patch);
            }
        }
    }
}

/// A frame at a time, in the memory that this takes, gives the bits of all frames at once.
#[test]
fn a_tight_budget_gives_the_same_bits_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let device = crate::common::device();
    for shape in SHAPES {
        let vae = load(&folder, &shape, &device, DType::Bf16);
        let [t, h, w] = [6, 4, 5];
        let (values, whole) = (latents(&shape, [t, h, w]), [shape.latent_channels, t, h, w]);
        let made = vae.decode_within(&values, whole, None).unwrap();
        let message = vae.decode_within(&values, whole, Some(1)).unwrap_err().to_string();
        assert!(message.contains("takes at least"), "{message}");
        let (mut below, mut least) = (1, vae.least_decode_bytes(1, [t, h, w], 0).unwrap());
        while least - below > 256 {
            let middle = below.midpoint(least);
            if vae.decode_within(&values, whole, Some(middle)).is_ok() { least = middle } else { below = middle }
        }
        device.reset_peak();
        let held = device.allocated_bytes();
        assert!(vae.decode_within(&values, whole, Some(least)).unwrap() == made, "patch {}", shape.patch);
        let (taken, frame) = (device.peak_bytes() - held, 3 * h * w * (8 * shape.patch).pow(2));
        assert!(taken <= least + frame, "{taken} bytes, {least} allowed");
    }
}

/// Files of PyTorch are read; files that are something else are named for what they are.
#[test]
fn files_are_recognised_or_explained() {
    let folder = tempfile::tempdir().unwrap();
    let open = |tensors: &[Plain]| {
        let file = folder.path().join("tiny.pth");
        std::fs::write(&file, torch(None, tensors)).unwrap();
        let config = TinyVaeConfig::of(&Weights::open(&file).unwrap())?;
        TinyVae::load(&crate::common::device(), config, Weights::open(&file).unwrap(), DType::F32)
    };
    let with = |change: &dyn Fn(&mut Vec<Plain>)| {
        let mut tensors = Shape::WAN21.tensors();
        change(&mut tensors);
        open(&tensors).map(|_| ()).map_err(|error| error.to_string())
    };
    with(&|_| ()).unwrap();
    // The encoder is left alone; anything else is not.
    with(&|all| all.push(("encoder.0.weight".into(), vec![1], vec![0.0]))).unwrap();
    let told = |change: &dyn Fn(&mut Vec<Plain>), expected: &str| {
        let error = with(change).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    told(&|all| all.push(("decoder.30.weight".into(), vec![1], vec![0.0])), "decoder.30.weight");
    told(&|all| all.retain(|(name, ..)| name != "decoder.1.weight"), "no tiny autoencoder");
    told(&|all| all[0] = ("decoder.0.weight".into(), vec![1], vec![0.0]), "`_super`");
    told(&|all| all.retain(|(name, ..)| name != "decoder.7.conv.weight"), "channels, expected 3 or 12");
    told(&|all| all.retain(|(name, ..)| name != "decoder.14.weight"), "`decoder.14.weight` is missing");
}
