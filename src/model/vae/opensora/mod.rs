//! Open-Sora's video autoencoder: the spatial autoencoder frame by frame, the temporal one in chunks of 17 frames (5 latent frames), and a
//! scale and shift per channel. Work that exceeds the budget is split first into fewer frames at a time, then into bands of rows.

mod config;
mod launches;
mod temporal;

use std::ops::ControlFlow;

pub use config::{CHUNK, VaeConfig};
pub use temporal::TemporalConfig;

use self::temporal::Temporal;
use super::cut::{self, Cut, Direction};
use super::heap::Heap;
use super::image::{Blocks, Decoder, Encoder};
use super::layers::{Loader, Run, check_pixels, padded, planes, rgb, stopped};
use crate::device::Device;
use crate::model::{Autoencoder, ModelError, Pixels, Progress, Weights};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The autoencoder on a device.
pub struct VideoVae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    temporal: Temporal,
    /// Per latent channel.
    scale: Vec<f32>,
    shift: Vec<f32>,
    device: Device,
    dtype: DType,
}

/// The input of a decoding.
#[derive(Clone, Copy)]
struct Latents<'a> {
    values: &'a [f32],
    /// channels, T, h, w
    shape: [usize; 4],
    /// Frames that they decode to.
    frames: usize,
}

/// The latents of a chunk, `z` `[t, h, w, channels]`, scaled and shifted.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    z: &'a [f32],
    /// t, h, w
    shape: [usize; 3],
    /// Frames that it decodes to.
    frames: usize,
}

impl VideoVae {
    /// Loads the published tensors: all must be there in the shapes that `config` implies, and no others.
    ///
    /// # Errors
    /// A tensor that is missing, wrong, damaged or superfluous; out of memory.
    pub fn load(device: &Device, config: VaeConfig, weights: Weights<'_>, dtype: DType) -> Result<VideoVae> {
        let from = Loader { device, weights: &weights, dtype };
        let (images, scaling) = ("spatial_vae.module.", config.spatial_scaling);
        let encoder = Encoder::load(&from, images, &config.spatial)?;
        let decoder = Decoder::load(&from, images, &config.spatial, Blocks::Images, scaling)?;
        let temporal = Temporal::load(&from, "temporal_vae", &config.temporal, config.spatial_scaling)?;
        let by_channel = |name| weights.values(name, &[1, config.temporal.embed_dim, 1, 1, 1]);
        let (scale, shift) = (by_channel("scale")?, by_channel("shift")?);
        weights.finish(&[])?;
        Ok(VideoVae { config, encoder, decoder, temporal, scale, shift, device: device.clone(), dtype })
    }

    /// Its shape.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Latents to RGB bytes `[frames, H, W, 3]`.
    ///
    /// * `latents` `[channels, T, h, w]`, as the sampler returns them; T must match `frames`.
    /// * `budget`: bytes that activations may use; `None`: the free memory of the device.
    ///
    /// # Errors
    /// Shapes that do not fit, a budget that is too small (the error states the required size), [`ModelError::Stopped`].
    pub fn decode_within(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        frames: usize,
        budget: Option<usize>,
        progress: Progress<'_>,
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        self.decode_slices(Latents { values: latents, shape, frames }, budget, progress, &mut |_, pixels| {
            bytes.extend(rgb(pixels, 1)?);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// As [`VideoVae::decode_within`], without rounding: the output of the temporal autoencoder, `[channels, frames, h, w]`, and pixels
    /// `[3, frames, H, W]` around [−1, 1].
    ///
    /// # Errors
    /// As [`VideoVae::decode_within`].
    pub fn decode_values(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        frames: usize,
        budget: Option<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut middle, mut pixels) = (vec![], vec![]);
        let mut go_on = |_, _| ControlFlow::Continue(());
        self.decode_slices(Latents { values: latents, shape, frames }, budget, &mut go_on, &mut |x, out| {
            middle.extend(x.to_f32()?);
            pixels.extend(out.to_f32()?);
            Ok(())
        })?;
        let [_, _, h, w] = shape;
        let side = self.config.spatial_factor();
        let channels = self.config.temporal.in_out_channels;
        Ok((planes(&middle, channels, frames * h * w), planes(&pixels, 3, frames * h * w * side * side)))
    }

    /// Passes the temporal autoencoder's frames and the pixels decoded from them to `each`, slice by slice.
    fn decode_slices(
        &self,
        Latents { values: latents, shape, frames }: Latents<'_>,
        budget: Option<usize>,
        progress: Progress<'_>,
        each: &mut dyn FnMut(&Tensor, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let [channels, made, h, w] = shape;
        let expected = [self.config.temporal.embed_dim, self.config.latent_frames(frames), h, w];
        if frames == 0 || h * w == 0 || shape != expected || latents.len() != shape.iter().product::<usize>() {
            return Err(ModelError::Input(format!(
                "latents of shape {shape:?} ({} values) do not decode to {frames} frames; expected {expected:?}, no axis empty",
                latents.len()
            )));
        }
        let cut = self.cut(Direction::Decode, frames, [h, w], budget)?;
        let heap = Heap::new(&self.device, cut.bytes)?;
        let (mut start, mut done) = (0, 0);
        for (n, t) in self.config.chunks(frames) {
            let mut z = vec![0.0; t * h * w * padded(channels)];
            for (i, z) in z.chunks_mut(padded(channels)).enumerate() {
                for (c, z) in z[..channels].iter_mut().enumerate() {
                    *z = latents[(c * made + start) * h * w + i] * self.scale[c] + self.shift[c];
                }
            }
            self.decode_chunk(&heap, cut, Chunk { z: &z, shape: [t, h, w], frames: n }, &mut |middle, pixels| {
                each(middle, pixels)?;
                done += pixels.shape()[0];
                stopped(progress(done, frames))
            })?;
            start += t;
        }
        Ok(())
    }

    /// One chunk to its frames.
    fn decode_chunk(
        &self,
        heap: &Heap,
        cut: Cut,
        Chunk { z, shape: [t, h, w], frames: n }: Chunk<'_>,
        each: &mut dyn FnMut(&Tensor, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let run = Run { heap, dtype: self.dtype, band_bytes: cut.band_bytes };
        let latent = heap.take(&[t, h, w, padded(self.config.temporal.embed_dim)], self.dtype)?;
        latent.write_f32(z)?;
        let frames = self.temporal.decode(&run, &latent)?;
        drop(latent);
        // Time was padded in front to whole latent frames.
        let padding = frames.shape()[0] - n;
        for first in (0..n).step_by(cut.frames) {
            let slice = frames.slice_rows(padding + first, cut.frames.min(n - first))?;
            let pixels = self.decoder.forward(&run, &slice)?;
            each(&slice, &pixels)?;
        }
        Ok(())
    }

    /// Pixels to latents `[channels, T, h, w]`: the means of the posterior.
    ///
    /// * `pixels` `[3, frames, H, W]` in [−1, 1], H and W multiples of 8 (in general: [`VaeConfig::spatial_factor`]).
    ///
    /// # Errors
    /// As [`VideoVae::decode_within`].
    pub fn encode_within(
        &self,
        pixels: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        let [_, frames, height, width] = shape;
        let side = self.config.spatial_factor();
        check_pixels(pixels, shape, side)?;
        let (h, w) = (height / side, width / side);
        let cut = self.cut(Direction::Encode, frames, [h, w], budget)?;
        let heap = Heap::new(&self.device, cut.bytes)?;
        let (channels, plane) = (self.config.temporal.embed_dim, height * width);
        let made = self.config.latent_frames(frames);
        let mut latents = vec![0.0; channels * made * h * w];
        let (mut start, mut from) = (0, 0);
        for (n, t) in self.config.chunks(frames) {
            let z = self.encode_chunk(&heap, cut, [n, h, w], &mut |first, to| {
                let mut x = vec![0.0; to.elements()];
                for (i, x) in x.chunks_mut(padded(3)).enumerate() {
                    x[..3]
                        .iter_mut()
                        .enumerate()
                        .for_each(|(c, x)| *x = pixels[(c * frames + from + first) * plane + i]);
                }
                to.write_f32(&x)?;
                stopped(progress(from + first, frames))
            })?;
            for (i, z) in z.chunks(z.len() / (t * h * w)).enumerate() {
                for c in 0..channels {
                    latents[(c * made + start) * h * w + i] = (z[c] - self.shift[c]) / self.scale[c];
                }
            }
            start += t;
            from += n;
        }
        stopped(progress(frames, frames))?;
        Ok(latents)
    }

    /// One chunk of `n` frames, which `fill(first, to)` writes into tensors `[count, H, W, channels]`, to `[t, h, w, means and log
    /// variances]`.
    fn encode_chunk(
        &self,
        heap: &Heap,
        cut: Cut,
        [n, h, w]: [usize; 3],
        fill: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let run = Run { heap, dtype: self.dtype, band_bytes: cut.band_bytes };
        let side = self.config.spatial_factor();
        let padding = n.next_multiple_of(self.config.temporal.factor()) - n;
        let channels = padded(2 * self.config.spatial.latent_channels);
        let all = heap.take(&[padding + n, h, w, channels], self.dtype)?;
        all.slice_rows(0, padding)?.fill_bytes(0)?;
        for first in (0..n).step_by(cut.frames) {
            let count = cut.frames.min(n - first);
            let pixels = heap.take(&[count, h * side, w * side, padded(3)], self.dtype)?;
            fill(first, &pixels)?;
            let latent = self.encoder.forward(&run, &pixels)?;
            all.slice_rows(padding + first, count)?.copy_from(&latent)?;
        }
        Ok(self.temporal.encode(&run, &all)?.to_f32()?)
    }

    /// The cut for decoding latents of `h` × `w` to `frames` frames, and its memory, for activations of at most `budget` bytes.
    ///
    /// # Errors
    /// [`ModelError::Input`] with the bytes of the smallest cut, if the budget is smaller.
    pub fn decode_cut(&self, frames: usize, [h, w]: [usize; 2], budget: usize) -> Result<Cut> {
        self.cut(Direction::Decode, frames, [h, w], Some(budget))
    }

    /// As [`VideoVae::decode_cut`], for encoding to latents of this size.
    ///
    /// # Errors
    /// As [`VideoVae::decode_cut`].
    pub fn encode_cut(&self, frames: usize, [h, w]: [usize; 2], budget: usize) -> Result<Cut> {
        self.cut(Direction::Encode, frames, [h, w], Some(budget))
    }

    fn cut(&self, direction: Direction, frames: usize, [h, w]: [usize; 2], budget: Option<usize>) -> Result<Cut> {
        let side = self.config.spatial_factor();
        let count = self.counter(direction, frames, [h, w])?;
        cut::fastest(&self.device, direction, [h * side, w * side], budget, &count)
    }

    /// Counts the bytes that a cut takes.
    fn counter(
        &self,
        direction: Direction,
        frames: usize,
        [h, w]: [usize; 2],
    ) -> Result<impl Fn(Cut) -> Result<usize> + use<>> {
        let dry = cut::counting(&self.device);
        let counter = VideoVae::load(&dry, self.config.clone(), Weights::zeros(), self.dtype)?;
        let mut chunks: Vec<_> = self.config.chunks(frames).collect();
        chunks.dedup();
        Ok(move |cut| {
            let heap = Heap::new(&dry, cut::ENDLESS / 2)?;
            for &(n, t) in &chunks {
                match direction {
                    Direction::Decode => {
                        let z = vec![0.0; t * h * w * padded(counter.config.temporal.embed_dim)];
                        let chunk = Chunk { z: &z, shape: [t, h, w], frames: n };
                        counter.decode_chunk(&heap, cut, chunk, &mut |_, _| Ok(()))?;
                    }
                    Direction::Encode => {
                        counter.encode_chunk(&heap, cut, [n, h, w], &mut |_, _| Ok(()))?;
                    }
                }
            }
            Ok(heap.peak())
        })
    }
}

impl Autoencoder for VideoVae {
    fn least_decode_bytes(&self, _videos: usize, latent: [usize; 3], frames: usize) -> Result<usize> {
        // One video after the other.
        cut::least(&self.counter(Direction::Decode, frames, [latent[1], latent[2]])?)
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<()> {
        let [_, shape @ ..] = shape;
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut each = |_: &Tensor, images: &Tensor| stopped(pixels(&rgb(images, 1)?));
        for latents in latents.chunks(shape.iter().product()) {
            self.decode_slices(Latents { values: latents, shape, frames }, None, &mut go_on, &mut each)?;
        }
        Ok(())
    }

    fn least_encode_bytes(&self, sides: [usize; 2]) -> Result<usize> {
        // Any number of frames: no chunk is larger than a whole one.
        cut::least(&self.counter(Direction::Encode, self.config.micro_frame_size, sides)?)
    }

    fn encode(&self, pixels: &[f32], shape: [usize; 4], progress: Progress<'_>) -> Result<(Vec<f32>, [usize; 4])> {
        let [_, frames, height, width] = shape;
        let latents = self.encode_within(pixels, shape, None, progress)?;
        let side = self.config.spatial_factor();
        let channels = self.config.spatial.latent_channels;
        Ok((latents, [channels, self.config.latent_frames(frames), height / side, width / side]))
    }
}
