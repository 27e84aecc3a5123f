//! The layers of Wan's autoencoders: causal convolutions that keep frames, RMSNorm, residual blocks, attention, changes of resolution.

use std::cell::{Cell, RefCell};

use super::config::WanResample;
use crate::model::vae::attention::Attend;
use crate::model::vae::heap::{Heap, Lent};
use crate::model::vae::layers::{Conv, Loader, Order, Run, Taps, padded};
use crate::model::{Arrangement, ModelError};
use crate::ops;
use crate::ops::conv::{Band, Geometry, Input};
use crate::ops::resample::Resample;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The source of the weights, and the number of causal convolutions so far.
pub(super) struct Source<'a> {
    pub(super) loader: Loader<'a>,
    pub(super) causal: Cell<usize>,
}

/// A pass over a video, chunk by chunk.
pub(super) struct Pass<'a> {
    pub(super) run: Run<'a>,
    /// What chunks leave for the next; `None` if there is only one.
    pub(super) kept: Option<Kept<'a>>,
    /// Whether this chunk is the first frame of the video, which time leaves alone.
    pub(super) first: bool,
    /// Frames that are processed at a time where there are several.
    pub(super) frames: usize,
}

impl<'a> Pass<'a> {
    fn take(&self, shape: &[usize], dtype: DType) -> Result<Lent<'a>> {
        Ok(self.run.heap.take(shape, dtype)?)
    }

    /// Calls `each` with the frames of `x`, as many as are processed at a time.
    pub(super) fn in_parts(&self, x: &Lent<'a>, each: &mut dyn FnMut(Lent<'a>) -> Result<()>) -> Result<()> {
        let count = x.shape()[0];
        (0..count).step_by(self.frames).try_for_each(|first| each(x.frames(first, self.frames.min(count - first))?))
    }

    fn copy(&self, x: &Tensor) -> Result<Lent<'a>> {
        let copy = self.take(x.shape(), x.dtype())?;
        copy.copy_from(x)?;
        Ok(copy)
    }
}

/// The last input frames of every causal convolution: what it sees before the next ones.
pub(super) struct Kept<'a> {
    heap: &'a Heap,
    /// Room for the frames, and how many of them there are.
    frames: RefCell<Vec<Option<(Lent<'a>, usize)>>>,
}

impl<'a> Kept<'a> {
    /// `convolutions`: how many there are.
    pub(super) fn new(heap: &'a Heap, convolutions: usize) -> Kept<'a> {
        Kept { heap, frames: RefCell::new((0..convolutions).map(|_| None).collect()) }
    }

    /// What convolution `number` kept.
    fn before(&self, number: usize) -> Result<Option<Tensor>> {
        match &self.frames.borrow()[number] {
            Some((frames, count)) => Ok(Some(frames.slice_rows(0, *count)?)),
            None => Ok(None),
        }
    }

    /// Keeps the last `room` frames of what was kept and `x`.
    fn keep(&self, number: usize, x: &Tensor, room: usize) -> Result<()> {
        let mut all = self.frames.borrow_mut();
        let slot = &mut all[number];
        let (frames, count) = match slot.take() {
            Some(kept) => kept,
            None => {
                let mut shape = x.shape().to_vec();
                shape[0] = room;
                (self.heap.take(&shape, x.dtype())?, 0)
            }
        };
        let new = x.shape()[0].min(room);
        let stay = count.min(room - new);
        let dropped = count - stay;
        for i in (0..stay).filter(|_| dropped > 0) {
            frames.slice_rows(i, 1)?.copy_from(&frames.slice_rows(dropped + i, 1)?)?;
        }
        frames.slice_rows(stay, new)?.copy_from(&x.slice_rows(x.shape()[0] - new, new)?)?;
        *slot = Some((frames, stay + new));
        Ok(())
    }
}

/// A convolution that sees frames of earlier chunks.
pub(super) struct Causal {
    conv: Conv,
    number: usize,
}

impl Causal {
    /// Loads `name` with `time` × `space` × `space` taps, from `channels` to `n` channels.
    pub(super) fn load(
        from: &Source<'_>,
        name: &str,
        [channels, n]: [usize; 2],
        [time, space]: [usize; 2],
        geometry: Geometry,
    ) -> Result<Causal> {
        let taps = Taps { channels, n, time: Some(time), space };
        Ok(Causal::new(from, Conv::load_ordered(&from.loader, name, taps, true, geometry, Order::FrameSlowest)?))
    }

    /// A convolution of `from`.
    pub(super) fn new(from: &Source<'_>, conv: Conv) -> Causal {
        Causal { conv, number: from.causal.replace(from.causal.get() + 1) }
    }

    /// `out = conv(x) (+ residual)`, and keeps the end of x.
    fn write(&self, pass: &Pass<'_>, x: &Tensor, residual: Option<&Tensor>, out: &Tensor) -> Result<()> {
        let before = pass.kept.as_ref().map_or(Ok(None), |kept| kept.before(self.number))?;
        let whole = Band { first: 0, rows: out.shape()[1] };
        self.conv.rows(&pass.run, &Input::whole(x).after(before.as_ref()), residual, whole, out)?;
        self.keep(pass, x)
    }

    /// Keeps the end of `x` for the next chunk.
    fn keep(&self, pass: &Pass<'_>, x: &Tensor) -> Result<()> {
        match (&pass.kept, self.conv.geometry().pad_t) {
            (Some(kept), room @ 1..) => kept.keep(self.number, x, room),
            _ => Ok(()),
        }
    }

    pub(super) fn forward<'a>(&self, pass: &Pass<'a>, x: &Tensor, dtype: DType) -> Result<Lent<'a>> {
        let out = pass.take(&self.conv.output(x.shape()), dtype)?;
        self.write(pass, x, None, &out)?;
        Ok(out)
    }
}

/// RMSNorm over the channels of a position.
pub(super) struct Norm {
    gamma: Tensor,
    scale: f32,
}

impl Norm {
    /// Loads `name.gamma`, which has `axes` axes of length 1 behind that of the channels.
    pub(super) fn load(from: &Source<'_>, name: &str, channels: usize, axes: usize) -> Result<Norm> {
        let Loader { device, weights, dtype } = from.loader;
        let mut shape = vec![channels];
        shape.resize(1 + axes, 1);
        let kept = padded(channels);
        let shapes = Arrangement { file: &shape, tensor: &[kept] };
        let gamma = weights.arranged(device, &format!("{name}.gamma"), shapes, dtype, |v| resized(v, kept))?;
        Ok(Norm { gamma, scale: (channels as f32).sqrt() })
    }

    pub(super) fn write(&self, x: &Tensor, silu: bool, out: &Tensor) -> Result<()> {
        Ok(ops::rms_norm::rms_norm(x, &self.gamma, self.scale, silu, out)?)
    }

    /// `conv(silu(norm(x)))`
    pub(super) fn then_conv<'a>(&self, pass: &Pass<'a>, x: &Tensor, conv: &Causal, dtype: DType) -> Result<Lent<'a>> {
        let normal = pass.take(x.shape(), x.dtype())?;
        self.write(x, true, &normal)?;
        conv.forward(pass, &normal, dtype)
    }
}

fn resized(mut values: Vec<f32>, length: usize) -> Vec<f32> {
    values.resize(length, 0.0);
    values
}

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`; x passes through a one-tap convolution if the channels differ.
pub(super) struct ResBlock {
    norm1: Norm,
    conv1: Causal,
    norm2: Norm,
    conv2: Causal,
    shortcut: Option<Conv>,
}

impl ResBlock {
    /// `parts`: the names of its norms, convolutions and shortcut.
    pub(super) fn load(from: &Source<'_>, name: &str, parts: [&str; 5], [channels, n]: [usize; 2]) -> Result<ResBlock> {
        let [norm1, conv1, norm2, conv2, shortcut] = parts.map(|part| format!("{name}.{part}"));
        let plain = Geometry::default();
        let through = Taps { channels, n, time: Some(1), space: 1 };
        Ok(ResBlock {
            norm1: Norm::load(from, &norm1, channels, 3)?,
            conv1: Causal::load(from, &conv1, [channels, n], [3, 3], plain)?,
            norm2: Norm::load(from, &norm2, n, 3)?,
            conv2: Causal::load(from, &conv2, [n, n], [3, 3], plain)?,
            shortcut: if channels == n {
                None
            } else {
                Some(Conv::load(&from.loader, &shortcut, through, true, plain)?)
            },
        })
    }

    /// The result is in `x`'s memory if the channels stay.
    pub(super) fn forward<'a>(&self, pass: &Pass<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let hidden = self.norm1.then_conv(pass, &x, &self.conv1, pass.run.dtype)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(&pass.run, &x)?,
            None => x,
        };
        self.norm2.write(&hidden, true, &hidden)?;
        self.conv2.write(pass, &hidden, Some(&x), &x)?;
        Ok(x)
    }
}

/// Attention among the pixels of a frame, normed by position.
pub(super) struct Attention {
    norm: Norm,
    attend: Attend,
}

impl Attention {
    pub(super) fn load(from: &Source<'_>, name: &str, channels: usize) -> Result<Attention> {
        let Loader { device, weights, dtype } = from.loader;
        let kept = padded(channels);
        // Part i of so many that are stacked in one tensor, padded.
        let stacked = |end: &str, parts: usize, i: usize| -> Result<(Tensor, Tensor)> {
            let (n, start) = (parts * channels, i * channels);
            let shapes = Arrangement { file: &[n, channels, 1, 1], tensor: &[kept, kept] };
            let weight = weights.arranged(device, &format!("{name}.{end}.weight"), shapes, dtype, |values| {
                let rows = values[start * channels..].chunks(channels).take(channels);
                resized(rows.flat_map(|row| resized(row.into(), kept)).collect(), kept * kept)
            })?;
            let shapes = Arrangement { file: &[n], tensor: &[kept] };
            let bias = weights.arranged(device, &format!("{name}.{end}.bias"), shapes, dtype, |values| {
                resized(values[start..start + channels].into(), kept)
            })?;
            Ok((weight, bias))
        };
        let parts =
            [stacked("to_qkv", 3, 0)?, stacked("to_qkv", 3, 1)?, stacked("to_qkv", 3, 2)?, stacked("proj", 1, 0)?];
        let norm = Norm::load(from, &format!("{name}.norm"), channels, 2)?;
        Ok(Attention { norm, attend: Attend { parts, channels } })
    }

    /// `x += proj(softmax(q·kᵀ/√channels)·v)` with q, k and v of the norm of x.
    pub(super) fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<()> {
        let norm = |frame, image: &Tensor| self.norm.write(&x.slice_rows(frame, 1)?, false, image);
        self.attend.forward(&pass.run, x, &norm)
    }
}

/// A change of resolution: time by a causal convolution of three frames, space by a convolution of images.
pub(super) struct Change {
    time: Option<Causal>,
    space: Conv,
    up: bool,
}

impl Change {
    pub(super) fn load(from: &Source<'_>, name: &str, channels: usize, to: WanResample, up: bool) -> Result<Change> {
        let plain = Geometry::default();
        let space = if up { Geometry { upsample: true, ..plain } } else { Geometry { stride: 2, ..plain } };
        let taps = Taps { channels, n: to.channels, time: None, space: 3 };
        let conv = Conv::load(&from.loader, &format!("{name}.resample.1"), taps, true, space)?;
        let (n, in_time) = if up {
            ([channels, 2 * channels], Geometry { time_factor: 2, ..plain })
        } else {
            ([to.channels, to.channels], Geometry { stride_t: 2, ..plain })
        };
        let time = to.time.then(|| Causal::load(from, &format!("{name}.time_conv"), n, [3, 1], in_time));
        Ok(Change { time: time.transpose()?, space: conv, up })
    }

    fn forward<'a>(&self, pass: &Pass<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let x = if self.up { x } else { self.space.forward(&pass.run, &x)? };
        let x = match &self.time {
            // The first frame passes. Going down, the second output sees it; going up, nothing does.
            Some(conv) if pass.first => {
                if !self.up {
                    conv.keep(pass, &x)?;
                }
                x
            }
            Some(conv) => conv.forward(pass, &x, pass.run.dtype)?,
            None => x,
        };
        if self.up { self.space.forward(&pass.run, &x) } else { Ok(x) }
    }
}

/// Residual blocks at one resolution, the change to the next, and the shortcut around both.
pub(super) struct Scale {
    pub(super) blocks: Vec<ResBlock>,
    pub(super) change: Option<Change>,
    pub(super) around: Option<Resample>,
    pub(super) up: bool,
    /// Frames of the input to one of the output, going down.
    pub(super) time: usize,
}

impl Scale {
    pub(super) fn forward<'a>(&self, pass: &Pass<'a>, mut x: Lent<'a>) -> Result<Lent<'a>> {
        let before = self.around.map(|_| pass.copy(&x)).transpose()?;
        for block in &self.blocks {
            x = block.forward(pass, x)?;
        }
        if let Some(change) = &self.change {
            x = change.forward(pass, x)?;
        }
        if let (Some(by), Some(before)) = (self.around, before) {
            // The first frame alone stands for as many as become one, or of which one is left.
            let missing = if pass.first { by.time - 1 } else { 0 };
            if self.up {
                ops::resample::dup_up(&before, by, missing, &x)?;
            } else {
                ops::resample::avg_down(&before, by, missing, &x)?;
            }
        }
        Ok(x)
    }
}
