//! The features of pictures under a perceptual network: five convolutions on a device (`ops::conv` in f32), with pooling and blurs on the host
//! between them.
//!
//! `ops::conv` takes channels in whole eights. Those of the layers are padded with zeros, which add nothing to a distance. Of a picture's three
//! channels padding would make eight; so the taps of the first convolution become channels: all 11×11 if it has a stride, else the 11 of a row, as
//! all of them would take too much memory.

use std::iter::repeat_n;

use super::error::QualityError;
use super::form::Form;
use crate::device::Device;
use crate::model::Weights;
use crate::ops::OpError;
use crate::ops::conv::{Band, CHANNELS, Conv, Geometry, Input, conv};
use crate::tensor::{DType, Tensor};

/// Side and padding of each convolution.
pub(super) const KERNELS: [(usize, usize); 5] = [(11, 2), (5, 2), (3, 1), (3, 1), (3, 1)];
/// Whether the picture is downsampled before each convolution (from 0).
const SHRINKS: [bool; 5] = [false, true, true, false, false];

/// Shift and scale of pixel colours from −1 to 1: the statistics of AlexNet's training pictures.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// A convolution with its ReLU, as `ops::conv` takes it.
#[derive(Debug)]
pub(super) struct Layer {
    /// `[out, 1, kernel_h, kernel_w, channels]`, both channel counts padded with zeros.
    weight: Vec<f32>,
    shape: [usize; 5],
    /// `[out]`, padded likewise.
    bias: Vec<f32>,
    /// Zeros around the layer's input.
    pad: usize,
}

/// Pictures `[count, height, width, channels]`.
pub(super) struct Maps {
    values: Vec<f32>,
    count: usize,
    height: usize,
    width: usize,
    channels: usize,
}

/// The network on a device: each layer with its weight and bias.
pub(super) struct Loaded<'a> {
    form: Form,
    layers: Vec<(&'a Layer, Tensor, Tensor)>,
}

/// Pixels from one position of the first convolution to the next.
fn stride(form: Form) -> usize {
    match form {
        Form::Lpips => 4,
        Form::ShiftTolerant => 1,
    }
}

/// Rows of taps of the first convolution that become channels.
fn unrolled_rows(form: Form) -> usize {
    match form {
        Form::Lpips => KERNELS[0].0,
        Form::ShiftTolerant => 1,
    }
}

impl Layer {
    /// Reads convolution `i` (from 0) of `form`, which has `channels` input channels. The number of its output channels is that of the file,
    /// and is returned too.
    pub(super) fn read(
        weights: &Weights<'_>,
        form: Form,
        i: usize,
        channels: usize,
    ) -> Result<(Layer, usize), QualityError> {
        let ((side, pad), name) = (KERNELS[i], form.convolutions()[i]);
        let weight = format!("{name}.weight");
        let out = weights.shape(&weight).and_then(|shape| shape.first().copied()).unwrap_or(0);
        let values = weights.values(&weight, &[out, channels, side, side])?;
        let mut bias = weights.values(&format!("{name}.bias"), &[out])?;
        bias.resize(out.next_multiple_of(CHANNELS), 0.0);
        let ([kernel_h, kernel_w], pad) = match i {
            0 => ([side / unrolled_rows(form), 1], 0),
            _ => ([side; 2], pad),
        };
        let taps = side * side;
        let last: Vec<f32> = (0..out * taps)
            .flat_map(|at| (0..channels).map(move |c| (at / taps * channels + c) * taps + at % taps))
            .map(|at| values[at])
            .collect();
        let together = taps / (kernel_h * kernel_w) * channels;
        let mut weight = padded(&last, together);
        let shape = [bias.len(), 1, kernel_h, kernel_w, together.next_multiple_of(CHANNELS)];
        weight.resize(shape.iter().product(), 0.0);
        Ok((Layer { weight, shape, bias, pad }, out))
    }
}

impl<'a> Loaded<'a> {
    /// Uploads `layers`.
    pub(super) fn new(form: Form, layers: &'a [Layer], device: &Device) -> Result<Loaded<'a>, OpError> {
        let upload = |layer: &'a Layer| {
            let weight = Tensor::from_slice(device, &layer.shape, &layer.weight)?;
            Ok((layer, weight, Tensor::from_slice(device, &[layer.bias.len()], &layer.bias)?))
        };
        Ok(Loaded { form, layers: layers.iter().map(upload).collect::<Result<_, OpError>>()? })
    }

    /// What every layer makes of `pictures`, each `[height, width, 3]`.
    pub(super) fn features(&self, pictures: &[&[u8]], width: usize, height: usize) -> Result<Vec<Maps>, OpError> {
        let mut features: Vec<Maps> = vec![];
        for (i, (layer, weight, bias)) in self.layers.iter().enumerate() {
            let mut x = match features.last() {
                None => convolved(&self.unrolled(pictures, width, height), layer, weight, bias)?,
                Some(last) if SHRINKS[i] => convolved(&self.shrunk(last), layer, weight, bias)?,
                Some(last) => convolved(last, layer, weight, bias)?,
            };
            if i == 0 && self.form == Form::ShiftTolerant {
                x = x.blurred_half();
            }
            x.values.iter_mut().for_each(|v| *v = v.max(0.0));
            features.push(x);
        }
        Ok(features)
    }

    /// The input of the first convolution: its taps, padded with zeros.
    fn unrolled(&self, pictures: &[&[u8]], width: usize, height: usize) -> Maps {
        let ((side, pad), stride, tap_rows) = (KERNELS[0], stride(self.form), unrolled_rows(self.form));
        let line = 3 * (width + 2 * pad);
        let [rows, columns] =
            [(height, tap_rows), (width, side)].map(|(length, taps)| (length + 2 * pad - taps) / stride + 1);
        let channels = (tap_rows * side * 3).next_multiple_of(CHANNELS);
        let mut values = vec![0.0; pictures.len() * rows * columns * channels];
        for (picture, made) in pictures.iter().zip(values.chunks_exact_mut(rows * columns * channels)) {
            let mut around = vec![0.0; (height + 2 * pad) * line];
            for (from, to) in picture.chunks_exact(3 * width).zip(around.chunks_exact_mut(line).skip(pad)) {
                for (i, (from, to)) in from.iter().zip(&mut to[3 * pad..]).enumerate() {
                    *to = (f32::from(*from) / 127.5 - 1.0 - SHIFT[i % 3]) / SCALE[i % 3];
                }
            }
            for (position, made) in made.chunks_exact_mut(channels).enumerate() {
                let (y, x) = (position / columns * stride, position % columns * stride);
                for (tap, made) in made.chunks_exact_mut(side * 3).take(tap_rows).enumerate() {
                    made.copy_from_slice(&around[(y + tap) * line + 3 * x..][..side * 3]);
                }
            }
        }
        Maps { values, count: pictures.len(), height: rows, width: columns, channels }
    }

    /// Maps of half the sides: the largest of 3×3 values, by a stride of two or a blur.
    fn shrunk(&self, x: &Maps) -> Maps {
        match self.form {
            Form::Lpips => x.largest(2),
            Form::ShiftTolerant => x.largest(1).blurred_half(),
        }
    }
}

/// `x` under a convolution, on the device of its weights.
fn convolved(x: &Maps, layer: &Layer, weight: &Tensor, bias: &Tensor) -> Result<Maps, OpError> {
    let [n, kernel_t, kernel_h, kernel_w, _] = layer.shape;
    let geometry = Geometry { pad: layer.pad, ..Geometry::default() };
    let shape = geometry.output([x.count, x.height, x.width], [n, kernel_t, kernel_h, kernel_w], [0, layer.pad]);
    let [count, height, width, channels] = shape;
    let device = weight.device();
    let input = Tensor::from_slice(device, &[x.count, x.height, x.width, x.channels], &x.values)?;
    let out = Tensor::empty(device, &shape, DType::F32)?;
    let call = Conv {
        input: Input::whole(&input),
        w: weight,
        bias: Some(bias),
        alpha: 1.0,
        geometry,
        residual: None,
        relu: false,
        band: Band { first: 0, rows: height },
    };
    conv(&call, &out)?;
    Ok(Maps { values: out.to_f32()?, count, height, width, channels })
}

impl Maps {
    /// The number of channels, with padding.
    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// The features of picture `i`, `[positions, channels]`.
    pub(super) fn picture(&self, i: usize) -> &[f32] {
        let size = self.height * self.width * self.channels;
        &self.values[i * size..][..size]
    }

    /// The largest of 3×3 values, every `stride` rows and columns.
    fn largest(&self, stride: usize) -> Maps {
        let largest = |a: f32, b: f32, c: f32| a.max(b).max(c);
        self.by_three(|length| (length - 3) / stride + 1, |at, tap, _| at * stride + tap, largest)
    }

    /// Every second value, blurred with the weights 1, 2, 1 in both directions, starting two values before the first, with reflected borders.
    fn blurred_half(&self) -> Maps {
        const BEFORE: usize = 2;
        self.by_three(
            |length| (length + 2 * BEFORE - 3) / 2 + 1,
            |at, tap, length| reflected(2 * at + tap, BEFORE, length),
            |a, b, c| (a + 2.0 * b + c) / 4.0,
        )
    }

    /// Makes one value of three in each column, then in each row: `made` is the new length of an axis, and `place(at, tap, length)` says
    /// where the taps of its value `at` are.
    fn by_three(
        &self,
        made: impl Fn(usize) -> usize,
        place: impl Fn(usize, usize, usize) -> usize,
        of: impl Fn(f32, f32, f32) -> f32,
    ) -> Maps {
        let along = |values: &[f32], length: usize, inner: usize| {
            let mut out = vec![0.0; values.len() / length * made(length)];
            let lines = values.chunks_exact(length * inner).zip(out.chunks_exact_mut(made(length) * inner));
            for (line, out) in lines {
                for (at, out) in out.chunks_exact_mut(inner).enumerate() {
                    let [a, b, c] = [0, 1, 2].map(|tap| &line[place(at, tap, length) * inner..][..inner]);
                    out.iter_mut().zip(a.iter().zip(b).zip(c)).for_each(|(out, ((a, b), c))| *out = of(*a, *b, *c));
                }
            }
            out
        };
        let columns = along(&self.values, self.height, self.width * self.channels);
        let values = along(&columns, self.width, self.channels);
        Maps { values, height: made(self.height), width: made(self.width), ..*self }
    }
}

/// `values` in groups of `length`, each padded with zeros to whole eights.
fn padded(values: &[f32], length: usize) -> Vec<f32> {
    let groups = values.chunks(length.max(1));
    let zeros = length.next_multiple_of(CHANNELS) - length;
    groups.flat_map(|group| group.iter().copied().chain(repeat_n(0.0, zeros))).collect()
}

/// The source index of the place `at` in a line of `n` values padded with `before` reflected values on both sides, the ends not repeated.
fn reflected(at: usize, before: usize, n: usize) -> usize {
    let from_first = at.abs_diff(before);
    if from_first < n { from_first } else { 2 * (n - 1) - from_first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_reflected_at_both_ends() {
        let line = |n: usize| (0..n + 4).map(|at| reflected(at, 2, n)).collect::<Vec<_>>();
        assert_eq!(line(3), [2, 1, 0, 1, 2, 1, 0]);
        assert_eq!(line(5), [2, 1, 0, 1, 2, 3, 4, 3, 2]);
    }
}
