//! TAEHV, the tiny autoencoders for previews (`taew2_1`, `taew2_2`): a decoder of convolutions and ReLUs that sees one frame back.
//!
//! It takes the sampler's latents as they are and does a 25th of the work of Wan 2.1's own autoencoder, a 200th of Wan 2.2's; its
//! pictures are softer. A latent frame becomes four frames; what the first becomes before the video's first frame is left out.
//!
//! Source: <https://github.com/madebyollin/taehv>. The encoder in the same file is not used.

use std::cell::Cell;

use super::Room;
use super::layers::{Causal, Kept, Pass, Source};
use crate::device::Device;
use crate::model::vae::cut::{self, Cut, Direction};
use crate::model::vae::heap::{Heap, Lent};
use crate::model::vae::layers::{
    Affine, Conv, Loader, Order, Run, Taps, check_latents, padded, positions, rgb, stopped,
};
use crate::model::{Autoencoder, ModelError, Pixels, Weights};
use crate::ops::conv::{Band, Geometry, Input};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Latents beyond this are pressed together: `3·tanh(z/3)`.
const CLAMP: f32 = 3.0;

/// The shape of a tiny autoencoder's decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TinyVaeConfig {
    /// Channels of the latents: 16 for Wan 2.1, 48 for Wan 2.2 TI2V-5B.
    pub latent_channels: usize,
    /// In the order they run. Each doubles rows and columns.
    pub scales: Vec<TinyScale>,
    /// Channels behind the last.
    pub last: usize,
    /// The side in pixels of the squares that the network makes as one position: 1, and 2 for Wan 2.2.
    pub patch: usize,
}

/// The blocks at one resolution, and the change to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TinyScale {
    /// The number of blocks.
    pub blocks: usize,
    /// Their channels.
    pub channels: usize,
    /// How many frames one becomes behind them.
    pub time: usize,
}

impl TinyVaeConfig {
    /// The shape of the decoder in `weights`, whose tensors have the names of TAEHV.
    ///
    /// # Errors
    /// Tensors that are no such decoder.
    pub fn of(weights: &Weights<'_>) -> Result<TinyVaeConfig> {
        let bad = |reason: String| ModelError::Config { file: weights.file().into(), reason };
        let shape = |i: usize, part: &str| weights.shape(&format!("decoder.{i}.{part}weight"));
        let Some(first) = shape(1, "").filter(|shape| shape.len() == 4) else {
            let larger = shape(0, "").is_some();
            let is = if larger { "one of the larger variants of TAEHV (`_super`)" } else { "no tiny autoencoder" };
            return Err(bad(format!(
                "`decoder.1.weight` is not there: this is {is}; take taew2_1 (TI2V-5B: taew2_2) of madebyollin/taehv"
            )));
        };
        let (latent_channels, mut channels, mut i) = (first[1], first[0], 3);
        let mut scales = vec![];
        loop {
            let blocks = (i..).take_while(|&i| shape(i, "conv.0.").is_some()).count();
            i += blocks;
            let Some(grown) = shape(i + 1, "conv.").and_then(|grow| grow.first().copied()) else { break };
            let made = shape(i + 2, "").and_then(|conv| conv.first().copied());
            let made = made.ok_or_else(|| bad(format!("`decoder.{}.weight` is missing", i + 2)))?;
            let time = grown / channels.max(1);
            if grown == 0 || !grown.is_multiple_of(channels) || !(1..=4).contains(&time) || blocks == 0 {
                return Err(bad(format!(
                    "scale {} has {blocks} blocks of {channels} channels, which become {grown}",
                    scales.len()
                )));
            }
            scales.push(TinyScale { blocks, channels, time });
            (channels, i) = (made, i + 3);
        }
        let pixels = shape(i + 1, "").and_then(|conv| conv.first().copied()).unwrap_or(0);
        let patch = (pixels / 3).isqrt();
        if !(1..=4).contains(&patch) || 3 * patch * patch != pixels {
            return Err(bad(format!("`decoder.{}.weight` makes {pixels} channels, expected 3 or 12", i + 1)));
        }
        if !(1..=8).contains(&scales.len()) {
            return Err(bad(format!("the decoder has {} scales, expected 1 to 8", scales.len())));
        }
        Ok(TinyVaeConfig { latent_channels, scales, last: channels, patch })
    }

    /// Side in pixels of the square that a latent position becomes.
    pub fn spatial_factor(&self) -> usize {
        self.patch << self.scales.len()
    }

    /// Frames that a latent frame becomes; of the first, the last one stays.
    pub fn temporal_factor(&self) -> usize {
        self.scales.iter().map(|scale| scale.time).product()
    }

    /// The number of frames that so many latent frames become.
    fn frames(&self, latents: usize) -> usize {
        (latents * self.temporal_factor()).saturating_sub(self.temporal_factor() - 1)
    }
}

/// A block that sees the frame before: `relu(x + conv(relu(conv(relu(conv(x, before))))))`.
struct Block {
    first: Causal,
    second: Conv,
    third: Conv,
}

impl Block {
    fn load(from: &Source<'_>, name: &str, channels: usize) -> Result<Block> {
        let conv = |i: usize, time, order| {
            let taps = Taps { channels, n: channels, time, space: 3 };
            let name = format!("{name}.conv.{i}");
            Conv::load_ordered(&from.loader, &name, taps, true, Geometry::default(), order).map(Conv::then_relu)
        };
        Ok(Block {
            first: Causal::new(from, conv(0, Some(2), Order::FramesInChannels)?),
            second: conv(2, None, Order::FrameFastest)?,
            third: conv(4, None, Order::FrameFastest)?,
        })
    }

    /// The result is in `x`'s memory.
    fn forward<'a>(&self, pass: &Pass<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let hidden = self.first.forward(pass, &x, pass.run.dtype)?;
        let hidden = self.second.forward(&pass.run, &hidden)?;
        let whole = Band { first: 0, rows: x.shape()[1] };
        self.third.rows(&pass.run, &Input::whole(&hidden), Some(&x), whole, &x)?;
        Ok(x)
    }
}

/// The blocks at one resolution and the change to the next.
struct Scale {
    blocks: Vec<Block>,
    /// One frame to several, before rows and columns are doubled, which gives the same and is a fourth of the work.
    grow: Conv,
    change: Conv,
}

/// The decoder of a tiny autoencoder on a device.
pub struct TinyVae {
    config: TinyVaeConfig,
    conv_in: Conv,
    scales: Vec<Scale>,
    conv_out: Conv,
    /// Convolutions that see the frame before.
    causal: usize,
    device: Device,
    dtype: DType,
}

impl TinyVae {
    /// Loads the decoder: its tensors must be there in the shapes that `config` implies. Those of the encoder are left alone.
    ///
    /// # Errors
    /// A tensor that is missing, wrong, damaged or superfluous; out of memory.
    pub fn load(device: &Device, config: TinyVaeConfig, weights: Weights<'_>, dtype: DType) -> Result<TinyVae> {
        let vae = TinyVae::take(device, config, &weights, dtype)?;
        weights.finish_but(&|name| name.starts_with("encoder."))?;
        Ok(vae)
    }

    fn take(device: &Device, config: TinyVaeConfig, weights: &Weights<'_>, dtype: DType) -> Result<TinyVae> {
        let from = Source { loader: Loader { device, weights, dtype }, causal: Cell::new(0) };
        let plain = Geometry::default();
        let image = |i: usize, [channels, n]: [usize; 2], bias, geometry| {
            let taps = Taps { channels, n, time: None, space: 3 };
            Conv::load(&from.loader, &format!("decoder.{i}"), taps, bias, geometry)
        };
        let next = |i: usize| config.scales.get(i).map_or(config.last, |scale| scale.channels);
        let conv_in = image(1, [config.latent_channels, next(0)], true, plain)?.then_relu();
        let (mut scales, mut at) = (vec![], 3);
        for (index, &TinyScale { blocks: count, channels, time }) in config.scales.iter().enumerate() {
            let block = |i| Block::load(&from, &format!("decoder.{}", at + i), channels);
            let blocks = (0..count).map(block).collect::<Result<Vec<_>>>()?;
            // Behind the doubling, which has no weights.
            at += count + 1;
            let taps = Taps { channels, n: time * channels, time: None, space: 1 };
            let in_time = Geometry { time_factor: time, ..plain };
            let name = format!("decoder.{at}.conv");
            let grow = Conv::load_ordered(&from.loader, &name, taps, false, in_time, Order::FrameSlowest)?;
            let change = image(at + 1, [channels, next(index + 1)], false, Geometry { upsample: true, ..plain })?;
            let last = index + 1 == config.scales.len();
            scales.push(Scale { blocks, grow, change: if last { change.then_relu() } else { change } });
            at += 2;
        }
        // Pixels from [0, 1] to [−1, 1].
        let (n, range) = (3 * config.patch * config.patch, Affine { factor: 2.0, offset: -1.0 });
        let taps = Taps { channels: config.last, n, time: None, space: 3 };
        let name = format!("decoder.{}", at + 1);
        let conv_out = Conv::load_as(&from.loader, &name, taps, Some(range), plain, Order::Pixels(config.patch))?;
        Ok(TinyVae { conv_in, scales, conv_out, causal: from.causal.get(), device: device.clone(), dtype, config })
    }

    /// Latents to RGB bytes `[frames, H, W, 3]`.
    ///
    /// * `latents` `[channels, T, h, w]`, as the sampler returns them.
    /// * `budget`: bytes that activations may use; `None`: the free memory of the device.
    ///
    /// # Errors
    /// Shapes that do not fit, a budget that is too small (the error states the required size).
    pub fn decode_within(&self, latents: &[f32], shape: [usize; 4], budget: Option<usize>) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        self.decode_frames(latents, shape, budget, &mut |pixels| {
            bytes.extend(rgb(pixels, self.config.patch)?);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Passes pixels `[frames, H/patch, W/patch, channels]` in f32, around [−1, 1], to `each`, in order.
    fn decode_frames(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        check_latents(latents, shape, self.config.latent_channels)?;
        let [_, t, h, w] = shape;
        let pixels = [h, w].map(|side| side * self.config.spatial_factor());
        let count = self.counter(t, [h, w])?;
        let cut = cut::fastest(&self.device, Direction::Decode, pixels, budget, &|cut| count(cut).map(|[a, b]| a + b))?;
        let [activations, kept] = count(cut)?;
        let heap = |bytes| Heap::new(&self.device, bytes);
        let room = Room { activations: heap(activations)?, kept: heap(kept)? };
        let pass = self.pass(&room, cut);
        let mut superfluous = self.config.temporal_factor() - 1;
        for first in (0..t).step_by(cut.frames) {
            let some = cut.frames.min(t - first);
            let mut z = positions(latents, shape, first, some);
            z.iter_mut().for_each(|z| *z = CLAMP * (*z / CLAMP).tanh());
            self.decode_chunk(&pass, &z, [some, h, w], &mut |pixels| {
                let left_out = superfluous.min(pixels.shape()[0]);
                superfluous -= left_out;
                match pixels.shape()[0] - left_out {
                    0 => Ok(()),
                    stay => each(&pixels.slice_rows(left_out, stay)?),
                }
            })?;
        }
        Ok(())
    }

    fn pass<'a>(&self, room: &'a Room, cut: Cut) -> Pass<'a> {
        let run = Run { heap: &room.activations, dtype: self.dtype, band_bytes: cut.band_bytes };
        Pass { run, kept: Some(Kept::new(&room.kept, self.causal)), first: false, frames: cut.frames }
    }

    /// Some latent frames `z` `[t, h, w, channels]`.
    fn decode_chunk(
        &self,
        pass: &Pass<'_>,
        z: &[f32],
        [t, h, w]: [usize; 3],
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let latent = pass.run.heap.take(&[t, h, w, padded(self.config.latent_channels)], self.dtype)?;
        latent.write_f32(z)?;
        let x = self.conv_in.forward(&pass.run, &latent)?;
        drop(latent);
        self.decode_from(pass, 0, x, each)
    }

    /// The scales from `index` on and what follows them, some frames at a time.
    fn decode_from<'a>(
        &self,
        pass: &Pass<'a>,
        index: usize,
        mut x: Lent<'a>,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        if x.shape()[0] > pass.frames {
            return pass.in_parts(&x, &mut |some| self.decode_from(pass, index, some, each));
        }
        let Some(scale) = self.scales.get(index) else {
            return each(&*self.conv_out.forward_as(&pass.run, &x, DType::F32)?);
        };
        for block in &scale.blocks {
            x = block.forward(pass, x)?;
        }
        x = scale.grow.forward(&pass.run, &x)?;
        x = scale.change.forward(&pass.run, &x)?;
        self.decode_from(pass, index + 1, x, each)
    }

    /// Counts the bytes of activations and kept frames under a cut.
    fn counter(&self, t: usize, [h, w]: [usize; 2]) -> Result<impl Fn(Cut) -> Result<[usize; 2]> + use<>> {
        let dry = cut::counting(&self.device);
        let counter = TinyVae::take(&dry, self.config.clone(), &Weights::zeros(), self.dtype)?;
        Ok(move |cut: Cut| {
            let heap = || Heap::new(&dry, cut::ENDLESS / 4);
            let room = Room { activations: heap()?, kept: heap()? };
            let pass = counter.pass(&room, cut);
            // The first chunk, one that finds frames kept, and the last, which may be smaller.
            let (whole, rest) = (t / cut.frames, t % cut.frames);
            for some in [cut.frames].repeat(whole.min(2)).into_iter().chain((rest > 0).then_some(rest)) {
                let z = vec![0.0; some * h * w * padded(counter.config.latent_channels)];
                counter.decode_chunk(&pass, &z, [some, h, w], &mut |_| Ok(()))?;
            }
            drop(pass);
            Ok([room.activations.peak(), room.kept.peak()])
        })
    }
}

impl Autoencoder for TinyVae {
    fn least_decode_bytes(&self, _videos: usize, latent: [usize; 3], _frames: usize) -> Result<usize> {
        // One video after the other.
        let [t, sides @ ..] = latent;
        let count = self.counter(t, sides)?;
        cut::least(&|cut| count(cut).map(|[a, b]| a + b))
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<()> {
        let [_, shape @ ..] = shape;
        let (t, made) = (shape[1], self.config.frames(shape[1]));
        if made != frames {
            return Err(ModelError::Input(format!("{t} latent frames decode to {made} frames, not {frames}")));
        }
        let mut each = |images: &Tensor| stopped(pixels(&rgb(images, self.config.patch)?));
        for latents in latents.chunks(shape.iter().product::<usize>().max(1)) {
            self.decode_frames(latents, shape, None, &mut each)?;
        }
        Ok(())
    }
}
