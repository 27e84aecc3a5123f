//! Wan's video autoencoders, 2.1 (8×8 pixels to 16 channels) and 2.2 (16×16 pixels to 48 channels): the first frame becomes one latent
//! frame, every four later ones another.
//!
//! No frame depends on a later one, so a video is a chain of chunks of one latent frame; every causal convolution keeps its last two input
//! frames for the next chunk. That is the published way, and gives the same as the whole video at once. Inside of a chunk, frames that do
//! not fit together go one after the other.
//!
//! Memory, in bf16 (f32: twice that), for a video of any length, besides 0.25 GB of weights (2.2: 1.4 GB). The least is a frame at a time, the
//! most four; what the convolutions keep is the larger part of either.
//!
//! | | decoding | encoding |
//! |--|--|--|
//! | 2.1, 480×832 | 2.2 to 3.1 GB | 1.4 to 2.1 GB |
//! | 2.1, 720×1280 | 5.1 to 7.1 GB | 3.3 to 4.8 GB |
//! | 2.2, 704×1280 | 4.2 to 5.6 GB | 1.4 to 2.3 GB |

mod config;
mod launches;
mod layers;
mod names;
mod network;
mod published;
mod tiny;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

pub use config::{WanPath, WanResample, WanScale, WanVaeConfig};
pub use names::Names;
pub use tiny::{TinyScale, TinyVae, TinyVaeConfig};

use self::layers::{Kept, Pass, Source};
use self::network::{Decoder, Encoder};
use super::cut::{self, Cut, Direction};
use super::heap::Heap;
use super::layers::{Loader, Run, check_latents, check_pixels, padded, rgb, stopped};
use crate::device::Device;
use crate::model::{Autoencoder, ModelError, Pixels, Progress, Weights};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Wan's autoencoder on a device.
pub struct WanVae {
    config: WanVaeConfig,
    decoder: Decoder,
    encoder: Encoder,
    /// Causal convolutions of both.
    causal: usize,
    device: Device,
    dtype: DType,
}

/// The memory of one pass over a video: of activations, and of what is kept between chunks.
struct Room {
    activations: Heap,
    kept: Heap,
}

impl WanVae {
    /// Loads the tensors: all must be there in the shapes that `config` implies, and no others.
    ///
    /// # Errors
    /// A tensor that is missing, wrong, damaged or superfluous; out of memory.
    pub fn load(device: &Device, config: WanVaeConfig, weights: Weights<'_>, dtype: DType) -> Result<WanVae> {
        let vae = WanVae::take(device, config, &weights, dtype)?;
        weights.finish(&[])?;
        Ok(vae)
    }

    fn take(device: &Device, config: WanVaeConfig, weights: &Weights<'_>, dtype: DType) -> Result<WanVae> {
        let from = Source { loader: Loader { device, weights, dtype }, causal: Cell::new(0) };
        let (decoder, encoder) = (Decoder::load(&from, &config)?, Encoder::load(&from, &config)?);
        Ok(WanVae { config, decoder, encoder, causal: from.causal.get(), device: device.clone(), dtype })
    }

    /// Every tensor that a file of this shape holds, by its name.
    ///
    /// # Errors
    /// A shape that overflows.
    pub fn tensors(config: &WanVaeConfig) -> Result<BTreeMap<String, Vec<usize>>> {
        Weights::taken_by(|dry, weights| WanVae::take(dry, config.clone(), weights, DType::Bf16))
    }

    /// Its shape.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// Latents to RGB bytes `[frames, H, W, 3]`.
    ///
    /// * `latents` `[channels, T, h, w]`, as the sampler returns them: with mean 0 and deviation 1.
    /// * `budget`: bytes that activations may use; `None`: the free memory of the device.
    ///
    /// # Errors
    /// Shapes that do not fit, a budget that is too small (the error states the required size), [`ModelError::Stopped`].
    pub fn decode_within(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        progress: Progress<'_>,
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        self.decode_frames(latents, shape, budget, progress, &mut |pixels| {
            bytes.extend(rgb(pixels, self.config.patch)?);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// As [`WanVae::decode_within`], without rounding: pixels `[3, frames, H, W]` around [−1, 1].
    ///
    /// # Errors
    /// As [`WanVae::decode_within`].
    pub fn decode_values(&self, latents: &[f32], shape: [usize; 4], budget: Option<usize>) -> Result<Vec<f32>> {
        let [_, t, h, w] = shape;
        let side = self.config.spatial_factor();
        let sides = [self.config.frames(t), h * side, w * side];
        let mut pixels = vec![0.0; 3 * sides.iter().product::<usize>()];
        let mut done = 0;
        let mut go_on = |_, _| ControlFlow::Continue(());
        self.decode_frames(latents, shape, budget, &mut go_on, &mut |x| {
            let square = Squares { patch: self.config.patch, sides, first: done };
            let from = x.to_f32()?;
            square.each(x.shape(), &mut |there, here| pixels[here] = from[there]);
            done += x.shape()[0];
            Ok(())
        })?;
        Ok(pixels)
    }

    /// Passes pixels `[frames, H/patch, W/patch, channels]` in f32 to `each`, in order.
    fn decode_frames(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        progress: Progress<'_>,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let [channels, t, h, w] = shape;
        check_latents(latents, shape, self.config.latent_channels)?;
        let all = self.config.frames(t);
        let (cut, room) = self.room(Direction::Decode, t, [h, w], budget)?;
        let mut pass = self.pass(&room, cut, t);
        let mut done = 0;
        for frame in 0..t {
            let mut z = vec![0.0; h * w * padded(channels)];
            for (i, z) in z.chunks_mut(padded(channels)).enumerate() {
                for (c, z) in z[..channels].iter_mut().enumerate() {
                    *z = latents[(c * t + frame) * h * w + i] * self.config.std[c] + self.config.mean[c];
                }
            }
            pass.first = frame == 0;
            self.decode_chunk(&pass, &z, [h, w], &mut |pixels| {
                each(pixels)?;
                done += pixels.shape()[0];
                stopped(progress(done, all))
            })?;
        }
        Ok(())
    }

    /// A pass over `t` chunks.
    fn pass<'a>(&self, room: &'a Room, cut: Cut, t: usize) -> Pass<'a> {
        let run = Run { heap: &room.activations, dtype: self.dtype, band_bytes: cut.band_bytes };
        Pass { run, kept: (t > 1).then(|| Kept::new(&room.kept, self.causal)), first: true, frames: cut.frames }
    }

    /// One latent frame `z` `[h, w, channels]`.
    fn decode_chunk(
        &self,
        pass: &Pass<'_>,
        z: &[f32],
        [h, w]: [usize; 2],
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let latent = pass.run.heap.take(&[1, h, w, padded(self.config.latent_channels)], self.dtype)?;
        latent.write_f32(z)?;
        self.decoder.decode(pass, &latent, each)
    }

    /// Pixels to latents `[channels, T, h, w]`: the means of the posterior, with mean 0 and deviation 1.
    ///
    /// * `pixels` `[3, frames, H, W]` in [−1, 1]; frames a multiple of 4 and one more, H and W multiples of 8 or 16 (in general:
    ///   [`WanVaeConfig::temporal_factor`], [`WanVaeConfig::spatial_factor`]).
    ///
    /// # Errors
    /// As [`WanVae::decode_within`].
    pub fn encode_within(
        &self,
        pixels: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        let [_, frames, height, width] = shape;
        let (side, time) = (self.config.spatial_factor(), self.config.temporal_factor());
        check_pixels(pixels, shape, side)?;
        let t = self.config.latent_frames(frames).ok_or_else(|| {
            ModelError::Input(format!("{frames} frames cannot be encoded; expected a multiple of {time} and one more"))
        })?;
        let (h, w) = (height / side, width / side);
        let (cut, room) = self.room(Direction::Encode, t, [h, w], budget)?;
        let mut pass = self.pass(&room, cut, t);
        let channels = self.config.latent_channels;
        let mut latents = vec![0.0; channels * t * h * w];
        let mut from = 0;
        for frame in 0..t {
            pass.first = frame == 0;
            let z = self.encode_chunk(&pass, [h, w], &mut |to| {
                let mut x = vec![0.0; to.elements()];
                let square = Squares { patch: self.config.patch, sides: [frames, height, width], first: from };
                square.each(to.shape(), &mut |there, here| x[there] = pixels[here]);
                to.write_f32(&x)?;
                stopped(progress(from, frames))?;
                from += to.shape()[0];
                Ok(())
            })?;
            for (i, z) in z.chunks(z.len() / (h * w)).enumerate() {
                for c in 0..channels {
                    latents[(c * t + frame) * h * w + i] = (z[c] - self.config.mean[c]) / self.config.std[c];
                }
            }
        }
        stopped(progress(frames, frames))?;
        Ok(latents)
    }

    /// The next frames, which `fill` writes, to `[h, w, means and log variances]`.
    fn encode_chunk(
        &self,
        pass: &Pass<'_>,
        [h, w]: [usize; 2],
        fill: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let scale = self.config.encoder.space_factor();
        Ok(self.encoder.encode(pass, [h * scale, w * scale], fill)?.to_f32()?)
    }

    /// The cut for decoding `t` latent frames of `h` × `w`, and its memory, for activations of at most `budget` bytes.
    ///
    /// # Errors
    /// [`ModelError::Input`] with the bytes of the smallest cut, if the budget is smaller.
    pub fn decode_cut(&self, t: usize, sides: [usize; 2], budget: usize) -> Result<Cut> {
        self.cut(Direction::Decode, t, sides, Some(budget))
    }

    /// As [`WanVae::decode_cut`], for encoding to latents of this size.
    ///
    /// # Errors
    /// As [`WanVae::decode_cut`].
    pub fn encode_cut(&self, t: usize, sides: [usize; 2], budget: usize) -> Result<Cut> {
        self.cut(Direction::Encode, t, sides, Some(budget))
    }

    fn cut(&self, direction: Direction, t: usize, sides: [usize; 2], budget: Option<usize>) -> Result<Cut> {
        let pixels = sides.map(|side| side * self.config.spatial_factor());
        let count = self.counter(direction, t, sides)?;
        cut::fastest(&self.device, direction, pixels, budget, &|cut| count(cut).map(|[a, b]| a + b))
    }

    /// The cut, and memory for it.
    fn room(&self, direction: Direction, t: usize, sides: [usize; 2], budget: Option<usize>) -> Result<(Cut, Room)> {
        let cut = self.cut(direction, t, sides, budget)?;
        let [activations, kept] = self.counter(direction, t, sides)?(cut)?;
        let heap = |bytes| Heap::new(&self.device, bytes);
        Ok((cut, Room { activations: heap(activations)?, kept: heap(kept)? }))
    }

    /// Counts the bytes of activations and kept frames under a cut.
    fn counter(
        &self,
        direction: Direction,
        t: usize,
        sides: [usize; 2],
    ) -> Result<impl Fn(Cut) -> Result<[usize; 2]> + use<>> {
        let dry = cut::counting(&self.device);
        let counter = WanVae::take(&dry, self.config.clone(), &Weights::zeros(), self.dtype)?;
        Ok(move |cut| {
            let heap = || Heap::new(&dry, cut::ENDLESS / 4);
            let room = Room { activations: heap()?, kept: heap()? };
            let mut pass = counter.pass(&room, cut, t);
            // The first chunk, one that sees zeros in place of its frame, and the others.
            for index in 0..t.min(3) {
                pass.first = index == 0;
                match direction {
                    Direction::Decode => {
                        let z = vec![0.0; sides[0] * sides[1] * padded(counter.config.latent_channels)];
                        counter.decode_chunk(&pass, &z, sides, &mut |_| Ok(()))?;
                    }
                    Direction::Encode => drop(counter.encode_chunk(&pass, sides, &mut |_| Ok(()))?),
                }
            }
            drop(pass);
            Ok([room.activations.peak(), room.kept.peak()])
        })
    }
}

/// How pixels `[3, frames, H, W]` lie in tensors whose positions are squares: channel `(rgb·patch + column)·patch + row`.
struct Squares {
    patch: usize,
    /// Frames, H, W of all pixels.
    sides: [usize; 3],
    /// The first frame of the tensor.
    first: usize,
}

impl Squares {
    /// Calls `pair` with the index of an element of the tensor of this shape, and of the pixel it is.
    fn each(&self, shape: &[usize], pair: &mut dyn FnMut(usize, usize)) {
        let &[count, rows, columns, pitch] = shape else { unreachable!("images have four axes") };
        let (patch, [frames, height, width]) = (self.patch, self.sides);
        for (position, start) in (0..count * rows * columns * pitch).step_by(pitch).enumerate() {
            let (x, y, frame) = (position % columns, position / columns % rows, position / columns / rows);
            for channel in 0..3 * patch * patch {
                let (row, column, rgb) = (channel % patch, channel / patch % patch, channel / patch / patch);
                let plane = (rgb * frames + self.first + frame) * height;
                pair(start + channel, (plane + y * patch + row) * width + x * patch + column);
            }
        }
    }
}

impl Autoencoder for WanVae {
    fn least_decode_bytes(&self, _videos: usize, latent: [usize; 3], _frames: usize) -> Result<usize> {
        // One video after the other.
        let [t, sides @ ..] = latent;
        let count = self.counter(Direction::Decode, t, sides)?;
        cut::least(&|cut| count(cut).map(|[a, b]| a + b))
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<()> {
        let [_, shape @ ..] = shape;
        let made = self.config.frames(shape[1]);
        if made != frames {
            let t = shape[1];
            return Err(ModelError::Input(format!("{t} latent frames decode to {made} frames, not {frames}")));
        }
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut each = |images: &Tensor| stopped(pixels(&rgb(images, self.config.patch)?));
        for latents in latents.chunks(shape.iter().product::<usize>().max(1)) {
            self.decode_frames(latents, shape, None, &mut go_on, &mut each)?;
        }
        Ok(())
    }

    fn least_encode_bytes(&self, sides: [usize; 2]) -> Result<usize> {
        // Any number of frames: after the third chunk nothing new is needed.
        let count = self.counter(Direction::Encode, 3, sides)?;
        cut::least(&|cut| count(cut).map(|[a, b]| a + b))
    }

    fn encode(&self, pixels: &[f32], shape: [usize; 4], progress: Progress<'_>) -> Result<(Vec<f32>, [usize; 4])> {
        let latents = self.encode_within(pixels, shape, None, progress)?;
        let [_, frames, height, width] = shape;
        let (side, t) = (self.config.spatial_factor(), self.config.latent_frames(frames).unwrap_or(0));
        Ok((latents, [self.config.latent_channels, t, height / side, width / side]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published files hold these numbers of tensors and parameters.
    #[test]
    fn the_published_shape() {
        let taken = WanVae::tensors(&WanVaeConfig::wan21()).unwrap();
        let parameters: usize = taken.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!((taken.len(), parameters), (194, 126_892_531));
        assert_eq!(taken["decoder.upsamples.7.time_conv.weight"], [768, 384, 3, 1, 1]);
        assert_eq!(taken["decoder.upsamples.11.resample.1.weight"], [96, 192, 3, 3]);
        assert_eq!(taken["encoder.downsamples.6.shortcut.weight"], [384, 192, 1, 1, 1]);
    }
}
