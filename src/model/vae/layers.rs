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

/// A convolution's weights and the layout of its taps.
pub(super) struct Conv {
    /// `[n, kernel_t, kernel_h, kernel_w, channels]`
    w: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
    /// Zero padding below and on the right.
    behind: usize,
    /// Factor applied to the input.
    alpha: f32,
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

/// How the file orders the output channels of a convolution that makes several frames of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Channel c of frame j is c·frames + j.
    FrameFastest,
    /// Channel c of frame j is j·channels + c.
    FrameSlowest,
}

impl Conv {
    /// Loads `name.weight` `[n, channels, (time,) space, space]` and, if it has one, `name.bias`. The caller sets strides and upsampling;
    /// the padding keeps the size of an unstrided convolution, with all padding in time at the front.
    pub(super) fn load(from: &Loader<'_>, name: &str, taps: Taps, bias: bool, geometry: Geometry) -> Result<Conv> {
        Conv::load_ordered(from, name, taps, bias, geometry, Order::FrameFastest)
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
        let Taps { channels, n, time, space } = taps;
        let (t, factor) = (time.unwrap_or(1), geometry.time_factor);
        let mut shape = vec![n, channels];
        shape.extend(time);
        shape.extend([space, space]);
        let (taps, kept, made) = (t * space * space, padded(channels), padded(n / factor) * factor);
        let place = |i: usize| {
            let (channel, frame) = match order {
                Order::FrameFastest => (i / factor, i % factor),
                Order::FrameSlowest => (i % (n / factor), i / (n / factor)),
            };
            frame * (made / factor) + channel
        };
        let shapes = Arrangement { file: &shape, tensor: &[made, t, space, space, kept] };
        let w = from.weights.arranged(from.device, &format!("{name}.weight"), shapes, from.dtype, |values| {
            let mut w = vec![0.0; made * taps * kept];
            for (i, &value) in values.iter().enumerate() {
                let (tap, c, n) = (i % taps, i / taps % channels, i / taps / channels);
                w[(place(n) * taps + tap) * kept + c] = value;
            }
            w
        })?;
        let load_bias = || {
            let shapes = Arrangement { file: &[n], tensor: &[made] };
            from.weights.arranged(from.device, &format!("{name}.bias"), shapes, from.dtype, |values| {
                let mut bias = vec![0.0; made];
                values.iter().enumerate().for_each(|(i, &value)| bias[place(i)] = value);
                bias
            })
        };
        let bias = if bias { Some(load_bias()?) } else { None };
        Ok(Conv { w, bias, geometry: geometry.padded([t, space]), behind: space / 2, alpha: 1.0 })
    }

    /// The same convolution for inputs that are first multiplied by `alpha`.
    pub(super) fn scaled(self, alpha: f32) -> Conv {
        Conv { alpha, ..self }
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
        self.rows(&Input::whole(x), None, Band { first: 0, rows: shape[1] }, &out)?;
        Ok(out)
    }

    /// The rows `band` of `out`, which may be `residual`.
    pub(super) fn rows(&self, input: &Input<'_>, residual: Option<&Tensor>, band: Band, out: &Tensor) -> Result<()> {
        let call = ops::conv::Conv {
            input: *input,
            w: &self.w,
            bias: self.bias.as_ref(),
            alpha: self.alpha,
            geometry: self.geometry,
            residual,
            band,
        };
        Ok(ops::conv::conv(&call, out)?)
    }
}

/// The error if a progress callback asks to stop.
pub(super) fn stopped(go_on: ControlFlow<()>) -> Result<()> {
    match go_on {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Stopped),
    }
}
