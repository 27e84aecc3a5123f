//! Perceptual distance of two pictures, from the features of a network: LPIPS (Zhang et al. 2018, version 0.1, AlexNet) and its
//! shift-tolerant form ST-LPIPS (Ghildyal and Liu 2022, AlexNet), on the CPU with candle.
//!
//! Pixels range from −1 to 1, are shifted and scaled per channel, and run through five convolutions. After each, every position's feature
//! vector is normalised to length one; the squared differences of the two pictures are weighted per channel, averaged over the positions
//! and summed over the five. The shift-tolerant network has strides only in blurs, so that moving a picture by a pixel hardly changes its
//! features.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::error::{QualityError, mean, same_size};
use super::form::Form;
use crate::media::Frames;
use crate::messages;
use crate::model::Weights;

/// Shift and scale of pixel colours from −1 to 1: the statistics of AlexNet's training pictures.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Added to the length of a feature vector, which may be 0.
const TINY: f64 = 1e-10;

/// Side and padding of each convolution.
const KERNELS: [(usize, usize); 5] = [(11, 2), (5, 2), (3, 1), (3, 1), (3, 1)];
/// Whether the picture is downsampled before each convolution (from 0).
const SHRINKS: [bool; 5] = [false, true, true, false, false];

/// A convolution with the weights of its features.
#[derive(Debug)]
struct Layer {
    /// `[out, in, side, side]`
    weight: Tensor,
    /// `[1, out, 1, 1]`
    bias: Tensor,
    /// One weight per output channel.
    lin: Vec<f32>,
}

/// The features of one picture after one layer, `[channels, positions]`.
struct Features {
    values: Vec<f32>,
    positions: usize,
}

/// A network with its weights.
#[derive(Debug)]
pub struct Perceptual {
    form: Form,
    layers: Vec<Layer>,
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

    /// The distances of each of the videos `b` from `a`.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn perceive(&self, a: &Frames, b: &[&Frames]) -> Result<Vec<Perceived>, QualityError> {
        let of = |network: &Option<Perceptual>| match network {
            Some(network) => Ok(network.distances(a, b)?.into_iter().map(Some).collect()),
            None => Ok::<_, QualityError>(vec![None; b.len()]),
        };
        let pairs = of(&self.lpips)?.into_iter().zip(of(&self.stlpips)?);
        Ok(pairs.map(|(lpips, stlpips)| Perceived { lpips, stlpips }).collect())
    }
}

fn failed(error: candle_core::Error) -> QualityError {
    QualityError::Network(messages::reason(error))
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
        let mut channels = 3;
        let mut layers = vec![];
        for (i, (name, (side, _))) in form.convolutions().into_iter().zip(KERNELS).enumerate() {
            let weight = format!("{name}.weight");
            let out = weights.shape(&weight).and_then(|shape| shape.first().copied()).unwrap_or(0);
            let shape = [out, channels, side, side];
            layers.push(Layer {
                weight: Tensor::from_vec(weights.values(&weight, &shape)?, &shape, &Device::Cpu).map_err(failed)?,
                bias: Tensor::from_vec(weights.values(&format!("{name}.bias"), &[out])?, (1, out, 1, 1), &Device::Cpu)
                    .map_err(failed)?,
                lin: weights.values(&format!("lin{i}.model.1.weight"), &[1, out, 1, 1])?,
            });
            channels = out;
        }
        weights.finish(form.constants())?;
        Ok(Perceptual { form, layers })
    }

    /// Which network it is.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The distance of every frame of each of `b` from that of `a`. Takes about 60 (ST-LPIPS) or 11 (LPIPS) billion operations per frame of
    /// 854x480 pixels of each video, `a` once.
    ///
    /// # Errors
    /// Videos of different sizes, or frames smaller than [`Form::least`].
    pub fn distances(&self, a: &Frames, b: &[&Frames]) -> Result<Vec<Distance>, QualityError> {
        b.iter().try_for_each(|b| same_size(a, b))?;
        let (width, height, least) = (a.width, a.height, self.form.least());
        if width.min(height) < least {
            return Err(QualityError::TooSmall { measure: self.form.name(), least, width, height });
        }
        let mut frames = vec![vec![]; b.len()];
        for (i, a) in a.iter().enumerate() {
            let mut features = None;
            for (b, frames) in b.iter().zip(&mut frames) {
                let b = b.iter().nth(i).unwrap_or(a);
                if a == b {
                    frames.push(0.0);
                    continue;
                }
                let of_a = match &mut features {
                    Some(features) => features,
                    none => none.insert(self.features(a, width, height).map_err(failed)?),
                };
                let of_b = self.features(b, width, height).map_err(failed)?;
                let layers = self.layers.iter().zip(of_a.iter().zip(of_b));
                frames.push(layers.map(|(layer, (a, b))| apart(a, &b, &layer.lin)).sum::<f64>());
            }
        }
        let distance = |frames: Vec<f64>| Distance { mean: mean(frames.iter().copied()), frames };
        Ok(frames.into_iter().map(distance).collect())
    }

    /// The distance of every frame of `b` from that of `a`.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn distance(&self, a: &Frames, b: &Frames) -> Result<Distance, QualityError> {
        Ok(self.distances(a, &[b])?.swap_remove(0))
    }

    fn features(&self, rgb: &[u8], width: usize, height: usize) -> candle_core::Result<Vec<Features>> {
        let channel =
            |c: usize| rgb.iter().skip(c).step_by(3).map(move |v| (f32::from(*v) / 127.5 - 1.0 - SHIFT[c]) / SCALE[c]);
        let pixels: Vec<f32> = (0..3).flat_map(channel).collect();
        let mut x = Tensor::from_vec(pixels, (1, 3, height, width), &Device::Cpu)?;
        let mut features = vec![];
        for (i, (layer, (_, padding))) in self.layers.iter().zip(KERNELS).enumerate() {
            let shift_tolerant = self.form == Form::ShiftTolerant;
            if SHRINKS[i] {
                x = if shift_tolerant {
                    blurred_half(&x.max_pool2d_with_stride(3, 1)?)?
                } else {
                    x.max_pool2d_with_stride(3, 2)?
                };
            }
            let stride = if i == 0 && !shift_tolerant { 4 } else { 1 };
            x = x.conv2d(&layer.weight, padding, stride, 1, 1)?.broadcast_add(&layer.bias)?;
            if i == 0 && shift_tolerant {
                x = blurred_half(&x)?;
            }
            x = x.relu()?;
            let (_, _, height, width) = x.dims4()?;
            features.push(Features { values: x.flatten_all()?.to_vec1()?, positions: height * width });
        }
        Ok(features)
    }
}

/// Every second value of `x` `[1, channels, height, width]`, blurred with the weights 1, 2, 1 in both directions, starting two values
/// before the first, with reflected borders.
fn blurred_half(x: &Tensor) -> candle_core::Result<Tensor> {
    const BEFORE: usize = 2;
    let along = |x: &Tensor, dim: usize| {
        let n = x.dim(dim)?;
        let out = (n + 2 * BEFORE - 3) / 2 + 1;
        let tap = |k: usize| {
            let places: Vec<u32> = (0..out).map(|o| reflected(2 * o + k, BEFORE, n) as u32).collect();
            x.index_select(&Tensor::from_vec(places, out, x.device())?, dim)
        };
        (tap(0)? + (tap(1)? * 2.0)? + tap(2)?)? / 4.0
    };
    along(&along(x, 2)?, 3)
}

/// The source index of the place `at` in a line of `n` values padded with `before` reflected values on both sides, the ends not repeated.
fn reflected(at: usize, before: usize, n: usize) -> usize {
    let from_first = at.abs_diff(before);
    if from_first < n { from_first } else { 2 * (n - 1) - from_first }
}

/// The mean over all positions of Σ lin · (a/‖a‖ − b/‖b‖)² over the channels.
fn apart(a: &Features, b: &Features, lin: &[f32]) -> f64 {
    let positions = a.positions;
    let lengths = |features: &Features| {
        let mut squares = vec![0.0; positions];
        for channel in features.values.chunks_exact(positions) {
            squares.iter_mut().zip(channel).for_each(|(sum, v)| *sum += f64::from(*v) * f64::from(*v));
        }
        squares.into_iter().map(|square| square.sqrt() + TINY).collect::<Vec<f64>>()
    };
    let (of_a, of_b) = (lengths(a), lengths(b));
    let channels = a.values.chunks_exact(positions).zip(b.values.chunks_exact(positions));
    let total: f64 = channels
        .zip(lin)
        .map(|((a, b), lin)| {
            let units = a.iter().zip(&of_a).zip(b.iter().zip(&of_b));
            let squares = units.map(|((a, of_a), (b, of_b))| (f64::from(*a) / of_a - f64::from(*b) / of_b).powi(2));
            f64::from(*lin) * squares.sum::<f64>()
        })
        .sum();
    total / positions as f64
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

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
            let distance = network.distance(&a, &b).unwrap();
            close(&distance.frames, &expected);
            close(&[distance.mean], &[(expected[0] + expected[1]) / 2.0]);
            // Several at once, with the equal one among them.
            let several = network.distances(&a, &[&a, &b, &a]).unwrap();
            assert_eq!((&several[1], &several[2]), (&distance, &several[0]));
            assert_eq!(several[0].frames, [0.0, 0.0]);
        }
    }

    /// With the weights from `tools/perceptual_weights.py`, if ADACACHE_STLPIPS names them.
    #[test]
    fn equal_to_the_package_with_its_own_weights() {
        let Some(path) = std::env::var_os("ADACACHE_STLPIPS") else { return };
        let network = Perceptual::open(Form::ShiftTolerant, Path::new(&path)).unwrap();
        close(&network.distance(&video(1), &video(2)).unwrap().frames, &[0.0013042972423136234, 0.03320591524243355]);
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
            assert!(network.distance(&grey(form.least(), 10), &grey(form.least(), 200)).unwrap().mean > 0.0);
            let small = network.distance(&grey(form.least() - 1, 10), &grey(form.least() - 1, 200)).unwrap_err();
            assert!(small.to_string().contains(form.name()), "{small}");
            let other = network.distance(&grey(40, 1), &grey(41, 1)).unwrap_err();
            assert!(other.to_string().contains("1 frames of 40x49") && other.to_string().contains("41x50"), "{other}");
        }
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

    #[test]
    fn a_line_is_reflected_at_both_ends() {
        let line = |n: usize| (0..n + 4).map(|at| reflected(at, 2, n)).collect::<Vec<_>>();
        assert_eq!(line(3), [2, 1, 0, 1, 2, 1, 0]);
        assert_eq!(line(5), [2, 1, 0, 1, 2, 3, 4, 3, 2]);
    }
}
