//! What all autoencoders share: how weights are loaded, and convolutions. Tensors are `[frames, height, width, channels]`, with channels
//! padded with zeros to whole chunks.

use std::ops::ControlFlow;

use super::heap::{Heap, Lent};
use crate::device::Device;
use crate::model::{Arrangement, ModelError, Weights};
use crate::ops;
use crate::ops::conv::{Band, CHANNELS, Geometry, Input};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The source of the weights and their destination.
pub(super) struct Loader<'a> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a Weights<'a>,
    pub(super) dtype: DType,
}

/// The context of a forward pass.
pub(super) struct Run<'a> {
    pub(super) heap: &'a Heap,
    pub(super) dtype: DType,
    /// Approximate bytes that a band of normalised activations, or of attention scores, may use.
    pub(super) band_bytes: usize,
}

/// The stored number of channels.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNELS)
}

/// Rejects pixels that are not `[3, frames, H, W]` with H and W multiples of `side`.
pub(super) fn check_pixels(pixels: &[f32], shape: [usize; 4], side: usize) -> Result<()> {
    let [rgb, _, height, width] = shape;
    let fits = rgb == 3 && height.is_multiple_of(side) && width.is_multiple_of(side);
    if fits && !shape.contains(&0) && pixels.len() == shape.iter().product::<usize>() {
        return Ok(());
    }
    Err(ModelError::Input(format!(
        "pixels of shape {shape:?} ({} values) cannot be encoded; expected [3, frames, height, width], both sides multiples of {side}",
        pixels.len()
    )))
}

/// The type of an autoencoder that is published for f32 and f16: it takes f16 for bf16, which has as many bits and an eighth of the precision.
pub(super) fn published(dtype: DType) -> DType {
    if dtype == DType::Bf16 { DType::F16 } else { dtype }
}

/// Frames `first..first + count` of latents `[channels, T, h, w]` as `[count, h, w, padded channels]`.
pub(super) fn positions(latents: &[f32], shape: [usize; 4], first: usize, count: usize) -> Vec<f32> {
    let [channels, frames, h, w] = shape;
    let (plane, pitch) = (h * w, padded(channels));
    let mut z = vec![0.0; count * plane * pitch];
    for (i, z) in z.chunks_mut(pitch).enumerate() {
        z[..channels].iter_mut().enumerate().for_each(|(c, z)| *z = latents[(c * frames + first) * plane + i]);
    }
    z
}

/// `[positions, padded channels]` to `[channels, positions]`.
pub(super) fn planes(values: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let pitch = padded(channels);
    (0..channels * positions).map(|i| values[i % positions * pitch + i / positions]).collect()
}

/// Decoded images as RGB bytes on the host; a position holds `patch`·`patch` pixels.
pub(super) fn rgb(pixels: &Tensor, patch: usize) -> Result<Vec<u8>> {
    let &[n, height, width, _] = pixels.shape() else { unreachable!("images have four axes") };
    let bytes = Tensor::empty(pixels.device(), &[n, height * patch, width * patch, 3], DType::U8)?;
    ops::decode::pixels(pixels, patch, &bytes)?;
    Ok(bytes.to_vec::<u8>()?)
}

/// Rejects latents that are not `[channels, T, h, w]`, no axis empty.
pub(super) fn check_latents(latents: &[f32], shape: [usize; 4], channels: usize) -> Result<()> {
    if shape[0] == channels && !shape.contains(&0) && latents.len() == shape.iter().product::<usize>() {
        return Ok(());
    }
    Err(ModelError::Input(format!(
        "latents of shape {shape:?} ({} values) cannot be decoded; expected [{channels}, frames, height, width], no axis empty",
        latents.len()
    )))
}

/// What a convolution in time finds beyond the first frame and the last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// Zeros, all of them before the first frame: causal.
    Zeros,
    /// The first frame again, before itself: causal.
    First,
    /// Zeros, half of them before the first frame and half behind the last.
    Both,
}

/// A convolution's weights and the layout of its taps.
pub(super) struct Conv {
    /// `[n, kernel_t, kernel_h, kernel_w, channels]`
    w: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
    edge: Edge,
    /// Zero padding behind the last frame, and below and on the right.
    behind: [usize; 2],
    /// Factor applied to the input.
    alpha: f32,
    /// Whether a ReLU follows.
    relu: bool,
}

/// A convolution's shape: channels in and out, taps in time and space.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub(super) channels: usize,
    pub(super) n: usize,
    /// `None`: an image convolution, whose weights have no time axis.
    pub(super) time: Option<usize>,
    pub(super) space: usize,
}

/// How the file orders the channels of a convolution.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Of an output of several frames, channel c of frame j is c·frames + j.
    FrameFastest,
    /// Channel c of frame j is j·channels + c.
    FrameSlowest,
    /// The taps in time are input channels of an image convolution: those of the last frame come first.
    FramesInChannels,
    /// Of an output of squares of so many pixels a side, channel c of pixel (row, column) is (c·side + row)·side + column.
    Pixels(usize),
}

/// What becomes of a convolution's sums and bias: `factor · (sum + bias) + offset`.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) factor: f32,
    pub(super) offset: f32,
}

impl Conv {
    /// Loads `name.weight` `[n, channels, (time,) space, space]` and, if it has one, `name.bias`. The caller sets strides and upsampling;
    /// the padding keeps the size of an unstrided convolution, with all padding in time at the front.
    pub(super) fn load(from: &Loader<'_>, name: &str, taps: Taps, bias: bool, geometry: Geometry) -> Result<Conv> {
        Conv::load_ordered(from, name, taps, bias, geometry, Order::FrameFastest)
    }

    /// As [`Conv::load`], of a convolution with a bias, whose result is multiplied by `share`.
    pub(super) fn load_share(
        from: &Loader<'_>,
        name: &str,
        taps: Taps,
        geometry: Geometry,
        share: f32,
    ) -> Result<Conv> {
        Conv::load_as(from, name, taps, Some(Affine { factor: share, offset: 0.0 }), geometry, Order::FrameFastest)
    }

    /// As [`Conv::load`], with the channels of several frames in another order.
    pub(super) fn load_ordered(
        from: &Loader<'_>,
        name: &str,
        taps: Taps,
        bias: bool,
        geometry: Geometry,
        order: Order,
    ) -> Result<Conv> {
        Conv::load_as(from, name, taps, bias.then_some(Affine { factor: 1.0, offset: 0.0 }), geometry, order)
    }

    /// `bias`: what becomes of the result, for a convolution with a bias.
    pub(super) fn load_as(
        from: &Loader<'_>,
        name: &str,
        taps: Taps,
        bias: Option<Affine>,
        geometry: Geometry,
        order: Order,
    ) -> Result<Conv> {
        let Taps { channels, n, time, space } = taps;
        let (t, area, factor) = (time.unwrap_or(1), space * space, geometry.time_factor);
        let mut shape = vec![n, channels];
        match order {
            Order::FramesInChannels => shape[1] *= t,
            _ => shape.extend(time),
        }
        shape.extend([space, space]);
        let (taps, kept, made) = (t * area, padded(channels), padded(n / factor) * factor);
        // Where an output channel of the file goes.
        let place = |i: usize| {
            let (channel, frame) = match order {
                Order::FrameFastest => (i / factor, i % factor),
                Order::FrameSlowest => (i % (n / factor), i / (n / factor)),
                Order::FramesInChannels => (i, 0),
                Order::Pixels(side) => ((i / side / side * side + i % side) * side + i / side % side, 0),
            };
            frame * (made / factor) + channel
        };
        // Tap and input channel of an element of one output channel.
        let source = |i: usize| match order {
            Order::FramesInChannels => ((t - 1 - i / area / channels) * area + i % area, i / area % channels),
            _ => (i % taps, i / taps),
        };
        let shapes = Arrangement { file: &shape, tensor: &[made, t, space, space, kept] };
        let w = from.weights.arranged(from.device, &format!("{name}.weight"), shapes, from.dtype, |values| {
            let mut w = vec![0.0; made * taps * kept];
            for (i, &value) in values.iter().enumerate() {
                let (n, (tap, c)) = (i / (taps * channels), source(i % (taps * channels)));
                w[(place(n) * taps + tap) * kept + c] = value;
            }
            w
        })?;
        let load_bias = |Affine { factor, offset }: Affine| {
            let shapes = Arrangement { file: &[n], tensor: &[made] };
            from.weights.arranged(from.device, &format!("{name}.bias"), shapes, from.dtype, |values| {
                let mut bias = vec![0.0; made];
                values.iter().enumerate().for_each(|(i, &value)| bias[place(i)] = factor * value + offset);
                bias
            })
        };
        let (alpha, bias) = (bias.map_or(1.0, |affine| affine.factor), bias.map(load_bias).transpose()?);
        let geometry = geometry.padded([t, space]);
        Ok(Conv { w, bias, geometry, edge: Edge::Zeros, behind: [0, space / 2], alpha, relu: false })
    }

    /// The same convolution of an unstrided time axis, with these frames beyond its ends.
    pub(super) fn with_edge(mut self, edge: Edge) -> Conv {
        let around = self.w.shape()[1] - 1;
        let behind = if edge == Edge::Both { around / 2 } else { 0 };
        (self.edge, self.behind[0], self.geometry.pad_t) = (edge, behind, around - behind);
        self
    }

    /// The same convolution for inputs that are first multiplied by `alpha`.
    pub(super) fn scaled(self, alpha: f32) -> Conv {
        Conv { alpha, ..self }
    }

    /// The same convolution, followed by a ReLU.
    pub(super) fn then_relu(self) -> Conv {
        Conv { relu: true, ..self }
    }

    /// The convolution's geometry.
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Rows of taps.
    pub(super) fn kernel_rows(&self) -> usize {
        self.w.shape()[2]
    }

    /// The output shape for an input shape.
    pub(super) fn output(&self, x: &[usize]) -> [usize; 4] {
        let w = self.w.shape();
        self.geometry.output([x[0], x[1], x[2]], [w[0], w[1], w[2], w[3]], self.behind)
    }

    /// The convolution alone.
    pub(super) fn forward<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        self.forward_as(run, x, run.dtype)
    }

    /// As [`Conv::forward`], with output of another type.
    pub(super) fn forward_as<'a>(&self, run: &Run<'a>, x: &Tensor, dtype: DType) -> Result<Lent<'a>> {
        let shape = self.output(x.shape());
        let out = run.heap.take(&shape, dtype)?;
        self.rows(run, &Input::whole(x), None, Band { first: 0, rows: shape[1] }, &out)?;
        Ok(out)
    }

    /// The rows `band` of `out`, which may be `residual`.
    pub(super) fn rows(
        &self,
        run: &Run<'_>,
        input: &Input<'_>,
        residual: Option<&Tensor>,
        band: Band,
        out: &Tensor,
    ) -> Result<()> {
        let first = (self.edge == Edge::First && self.geometry.pad_t > 0).then(|| self.first_frames(run, input.x));
        let first = first.transpose()?;
        let call = ops::conv::Conv {
            input: input.after(first.as_deref().or(input.before)),
            w: &self.w,
            bias: self.bias.as_ref(),
            alpha: self.alpha,
            geometry: self.geometry,
            residual,
            relu: self.relu,
            band,
        };
        Ok(ops::conv::conv(&call, out)?)
    }

    /// The first frame of `x` as often as there is padding.
    fn first_frames<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        let mut shape = x.shape().to_vec();
        shape[0] = self.geometry.pad_t;
        let frames = run.heap.take(&shape, x.dtype())?;
        for i in 0..shape[0] {
            frames.slice_rows(i, 1)?.copy_from(&x.slice_rows(0, 1)?)?;
        }
        Ok(frames)
    }
}

/// The error if a progress callback asks to stop.
pub(super) fn stopped(go_on: ControlFlow<()>) -> Result<()> {
    match go_on {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Stopped),
    }
}
