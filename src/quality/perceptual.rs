//! Perceptual distance of two pictures, from the features of a network: LPIPS (Zhang et al. 2018, version 0.1, AlexNet) and its
//! shift-tolerant form ST-LPIPS (Ghildyal and Liu 2022, AlexNet), with the convolutions on a device.
//!
//! Pixels range from −1 to 1, are shifted and scaled per channel, and run through five convolutions. After each, every position's feature
//! vector is normalised to length one; the squared differences of the two pictures are weighted per channel, averaged over the positions
//! and summed over the five. The shift-tolerant network has strides only in blurs, so that moving a picture by a pixel hardly changes its
//! features.

use std::path::Path;

use serde::Serialize;

use super::error::{QualityError, mean, same_size};
use super::features::{Layer, Loaded};
use super::form::Form;
use crate::device::Device;
use crate::media::Frames;
use crate::model::Weights;

/// Added to the length of a feature vector, which may be 0.
const TINY: f64 = 1e-10;

/// Pixels that run through a network at a time: small pictures together, so that a device has enough to do, and large ones one by one.
const PIXELS: usize = 1 << 18;

/// A network with its weights.
#[derive(Debug)]
pub struct Perceptual {
    form: Form,
    layers: Vec<Layer>,
    /// Of each layer, one weight per output channel.
    lins: Vec<Vec<f32>>,
}

/// The distance of two videos.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Mean of the frames' distances.
    pub mean: f64,
    /// The distance of each pair of frames; 0 if they are equal.
    pub frames: Vec<f64>,
}

/// The networks whose weights are available.
#[derive(Debug, Default)]
pub struct Networks {
    /// LPIPS.
    pub lpips: Option<Perceptual>,
    /// ST-LPIPS.
    pub stlpips: Option<Perceptual>,
}

/// The distance of two videos by each network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Perceived {
    /// LPIPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<Distance>,
    /// ST-LPIPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stlpips: Option<Distance>,
}

impl Networks {
    /// Opens the given files; if one is not given, [`Form::file`] in `folder` if it exists.
    ///
    /// # Errors
    /// A given file does not exist; weights that cannot be used.
    pub fn open(lpips: Option<&Path>, stlpips: Option<&Path>, folder: &Path) -> Result<Networks, QualityError> {
        let network = |form: Form, named: Option<&Path>| {
            let path = named.map_or_else(|| folder.join(form.file()), Path::to_owned);
            if named.is_none() && !path.exists() { Ok(None) } else { Perceptual::open(form, &path).map(Some) }
        };
        Ok(Networks { lpips: network(Form::Lpips, lpips)?, stlpips: network(Form::ShiftTolerant, stlpips)? })
    }

    /// Whether there is no network.
    pub fn is_empty(&self) -> bool {
        self.lpips.is_none() && self.stlpips.is_none()
    }

    /// The distances of each of the videos `b` from `a`, computed on `device`.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn perceive(&self, device: &Device, a: &Frames, b: &[&Frames]) -> Result<Vec<Perceived>, QualityError> {
        let of = |network: &Option<Perceptual>| match network {
            Some(network) => Ok(network.distances(device, a, b)?.into_iter().map(Some).collect()),
            None => Ok::<_, QualityError>(vec![None; b.len()]),
        };
        let pairs = of(&self.lpips)?.into_iter().zip(of(&self.stlpips)?);
        Ok(pairs.map(|(lpips, stlpips)| Perceived { lpips, stlpips }).collect())
    }
}

impl Perceptual {
    /// Reads the weights of `form` from a safetensors file. The widths of the layers are those of the file.
    ///
    /// # Errors
    /// No such file; tensors that are missing, superfluous, damaged, or whose shapes do not match each other.
    pub fn open(form: Form, path: &Path) -> Result<Perceptual, QualityError> {
        if !path.exists() {
            return Err(QualityError::NoWeights { form, path: path.to_owned() });
        }
        Perceptual::load(form, Weights::open(path)?)
    }

    fn load(form: Form, weights: Weights) -> Result<Perceptual, QualityError> {
        let (mut channels, mut layers, mut lins) = (3, vec![], vec![]);
        for i in 0..form.convolutions().len() {
            let (layer, out) = Layer::read(&weights, form, i, channels)?;
            lins.push(weights.values(&format!("lin{i}.model.1.weight"), &[1, out, 1, 1])?);
            layers.push(layer);
            channels = out;
        }
        weights.finish(form.constants())?;
        Ok(Perceptual { form, layers, lins })
    }

    /// Which network it is.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The distance of every frame of each of `b` from that of `a`, computed on `device`. Takes about 60 (ST-LPIPS) or 11 (LPIPS) billion
    /// operations per frame of 854x480 pixels of each video, `a` once.
    ///
    /// # Errors
    /// Videos of different sizes, or frames smaller than [`Form::least`]; what the device cannot do.
    pub fn distances(&self, device: &Device, a: &Frames, b: &[&Frames]) -> Result<Vec<Distance>, QualityError> {
        b.iter().try_for_each(|b| same_size(a, b))?;
        let (width, height, least) = (a.width, a.height, self.form.least());
        if width.min(height) < least {
            return Err(QualityError::TooSmall { measure: self.form.name(), least, width, height });
        }
        let network = Loaded::new(self.form, &self.layers, device)?;
        let of_a: Vec<&[u8]> = a.iter().collect();
        let of_b: Vec<Vec<&[u8]>> = b.iter().map(|b| b.iter().collect()).collect();
        let differing: Vec<usize> = (0..of_a.len()).filter(|i| of_b.iter().any(|b| b[*i] != of_a[*i])).collect();
        let mut frames = vec![vec![0.0; of_a.len()]; b.len()];
        for some in differing.chunks((PIXELS / (width * height)).max(1)) {
            let pictures: Vec<&[u8]> = some.iter().map(|i| of_a[*i]).collect();
            let features = network.features(&pictures, width, height)?;
            for (b, frames) in of_b.iter().zip(&mut frames) {
                let pairs: Vec<(usize, usize)> =
                    some.iter().copied().enumerate().filter(|(_, i)| b[*i] != of_a[*i]).collect();
                if pairs.is_empty() {
                    continue;
                }
                let pictures: Vec<&[u8]> = pairs.iter().map(|(_, i)| b[*i]).collect();
                let others = network.features(&pictures, width, height)?;
                for ((a, b), lin) in features.iter().zip(&others).zip(&self.lins) {
                    for (place, (of_a, frame)) in pairs.iter().enumerate() {
                        frames[*frame] += apart(a.picture(*of_a), b.picture(place), a.channels(), lin);
                    }
                }
            }
        }
        let distance = |frames: Vec<f64>| Distance { mean: mean(frames.iter().copied()), frames };
        Ok(frames.into_iter().map(distance).collect())
    }

    /// The distance of every frame of `b` from that of `a`, computed on `device`.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn distance(&self, device: &Device, a: &Frames, b: &Frames) -> Result<Distance, QualityError> {
        Ok(self.distances(device, a, &[b])?.swap_remove(0))
    }
}

/// The mean over all positions of Σ lin · (a/‖a‖ − b/‖b‖)² over the channels, for features `[positions, channels]`; those without a weight
/// are 0.
fn apart(a: &[f32], b: &[f32], channels: usize, lin: &[f32]) -> f64 {
    let length = |values: &[f32]| values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt() + TINY;
    let positions = a.chunks_exact(channels).zip(b.chunks_exact(channels));
    let total: f64 = positions
        .map(|(a, b)| {
            let (per_a, per_b) = (1.0 / length(a), 1.0 / length(b));
            let unit = |a: &f32, b: &f32| f64::from(*a) * per_a - f64::from(*b) * per_b;
            let squares = a.iter().zip(b).zip(lin).map(|((a, b), lin)| f64::from(*lin) * unit(a, b).powi(2));
            squares.sum::<f64>()
        })
        .sum();
    total / (a.len() / channels) as f64
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use super::super::features::KERNELS;
    use super::*;
    use crate::device::VmConfig;

    const FRAMES: usize = 2;
    const HEIGHT: usize = 34;
    const WIDTH: usize = 43;
    const WIDTHS: [usize; 5] = [4, 6, 5, 3, 7];

    /// The generator of `tools/perceptual_reference.py`.
    struct Numbers(u32);

    impl Numbers {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
            self.0 >> 8
        }

        /// `count` values of `of` a number from 0 to 1, as bytes.
        fn bytes(&mut self, count: usize, of: impl Fn(f32) -> f32) -> Vec<u8> {
            (0..count).flat_map(|_| of(self.next() as f32 / (1 << 24) as f32).to_le_bytes()).collect()
        }
    }

    fn video(seed: u32) -> Frames {
        let (mut numbers, mut rgb) = (Numbers(seed), vec![]);
        for t in 0..FRAMES {
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    for c in 0..3 {
                        let noise = (numbers.next() >> 16) as usize % (8 + 60 * t);
                        rgb.push((3 * x + 5 * y + 40 * c + 7 * t * (c + 1) + noise) as u8);
                    }
                }
            }
        }
        Frames { width: WIDTH, height: HEIGHT, fps: 8.0, rgb }
    }

    /// Changes a tensor's shape or bytes, by its name.
    type Change = dyn Fn(&str, &mut Vec<usize>, &mut Vec<u8>);

    /// The small weights of `tools/perceptual_reference.py` as a file, with each tensor modified by `change`.
    fn small(form: Form, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>)) -> Vec<u8> {
        let (mut numbers, mut before, mut tensors) = (Numbers(7), 3, vec![]);
        for ((name, width), (side, _)) in form.convolutions().into_iter().zip(WIDTHS).zip(KERNELS) {
            for (part, shape) in [("weight", vec![width, before, side, side]), ("bias", vec![width])] {
                let bytes = numbers.bytes(shape.iter().product(), |v| (v - 0.5) * 0.25);
                tensors.push((format!("{name}.{part}"), shape, bytes));
            }
            before = width;
        }
        for (i, width) in WIDTHS.into_iter().enumerate() {
            tensors.push((format!("lin{i}.model.1.weight"), vec![1, width, 1, 1], numbers.bytes(width, |v| v)));
        }
        tensors.iter_mut().for_each(|(name, shape, bytes)| change(name, shape, bytes));
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says"))
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn loaded(form: Form, bytes: &[u8]) -> Result<Perceptual, QualityError> {
        Perceptual::load(form, Weights::from_bytes("small.safetensors", bytes).unwrap())
    }

    fn vm() -> Device {
        Device::vm(VmConfig::default())
    }

    fn close(ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{ours:?} {theirs:?}");
        }
    }

    /// Every literal here was printed by `tools/perceptual_reference.py` (the packages lpips and stlpips-pytorch, in PyTorch).
    #[test]
    fn equal_to_the_packages() {
        let (a, b) = (video(1), video(2));
        let total = |v: &Frames| v.rgb.iter().map(|p| u64::from(*p)).sum::<u64>();
        assert_eq!((total(&a), total(&b)), (1215429, 1211823), "the same bytes");
        for (form, expected) in [
            (Form::Lpips, [0.2438209354877472, 0.7648822665214539]),
            (Form::ShiftTolerant, [0.050950393080711365, 0.2773986756801605]),
        ] {
            let network = loaded(form, &small(form, |_, _, _| {})).unwrap();
            let distance = network.distance(&vm(), &a, &b).unwrap();
            close(&distance.frames, &expected);
            close(&[distance.mean], &[(expected[0] + expected[1]) / 2.0]);
            // Several at once, with the equal one among them.
            let several = network.distances(&vm(), &a, &[&a, &b, &a]).unwrap();
            assert_eq!((&several[1], &several[2]), (&distance, &several[0]));
            assert_eq!(several[0].frames, [0.0, 0.0]);
            // One frame is equal, and only in one of two videos.
            let frame = a.rgb.len() / FRAMES;
            let mixed = Frames { rgb: [&a.rgb[..frame], &b.rgb[frame..]].concat(), ..a.clone() };
            let several = network.distances(&vm(), &a, &[&mixed, &b]).unwrap();
            assert_eq!(several[0].frames, [0.0, distance.frames[1]]);
            assert_eq!(several[1], distance);
        }
    }

    /// With the weights from `tools/perceptual_weights.py`, if ADACACHE_STLPIPS names them.
    #[test]
    fn equal_to_the_package_with_its_own_weights() {
        let Some(path) = std::env::var_os("ADACACHE_STLPIPS") else { return };
        let network = Perceptual::open(Form::ShiftTolerant, Path::new(&path)).unwrap();
        close(
            &network.distance(&vm(), &video(1), &video(2)).unwrap().frames,
            &[0.0013042972423136234, 0.03320591524243355],
        );
    }

    #[test]
    fn the_smallest_picture_and_smaller_ones() {
        for form in [Form::Lpips, Form::ShiftTolerant] {
            let network = loaded(form, &small(form, |_, _, _| {})).unwrap();
            let grey = |side: usize, value: u8| Frames {
                width: side,
                height: side + 9,
                fps: 1.0,
                rgb: vec![value; 3 * side * (side + 9)],
            };
            assert!(network.distance(&vm(), &grey(form.least(), 10), &grey(form.least(), 200)).unwrap().mean > 0.0);
            let small = network.distance(&vm(), &grey(form.least() - 1, 10), &grey(form.least() - 1, 200)).unwrap_err();
            assert!(small.to_string().contains(form.name()), "{small}");
            let other = network.distance(&vm(), &grey(40, 1), &grey(41, 1)).unwrap_err();
            assert!(other.to_string().contains("1 frames of 40x49") && other.to_string().contains("41x50"), "{other}");
        }
    }

    #[test]
    fn an_interrupted_device_stops_it() {
        let network = loaded(Form::Lpips, &small(Form::Lpips, |_, _, _| {})).unwrap();
        let device = vm();
        device.interrupter().interrupt();
        assert!(network.distance(&device, &video(1), &video(2)).unwrap_err().is_stop());
    }

    #[test]
    fn damaged_weights_are_named() {
        let form = Form::ShiftTolerant;
        let message = |change: &Change| loaded(form, &small(form, change)).unwrap_err().to_string();
        // One input channel less, a value that is none, and the other form's file.
        let thin = message(&|name, shape, bytes| {
            if name == "net.slice2.5.weight" {
                shape[1] -= 1;
                bytes.truncate(4 * shape.iter().product::<usize>());
            }
        });
        assert!(thin.contains("net.slice2.5.weight") && thin.contains("[6, 4, 5, 5]"), "{thin}");
        let nan = message(&|name, _, bytes| {
            if name == "lin3.model.1.weight" {
                bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            }
        });
        assert!(nan.contains("lin3.model.1.weight") && nan.contains("element 1"), "{nan}");
        let other = loaded(form, &small(Form::Lpips, |_, _, _| {})).unwrap_err().to_string();
        assert!(other.contains("net.slice1.0.weight") && other.contains("missing"), "{other}");
        let missing = Perceptual::open(form, Path::new("/nowhere/st.safetensors")).unwrap_err().to_string();
        assert!(
            missing.contains("/nowhere/st.safetensors") && missing.contains("perceptual_weights.py stlpips"),
            "{missing}"
        );
    }
}
