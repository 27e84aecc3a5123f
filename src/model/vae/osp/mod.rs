//! Open-Sora-Plan's autoencoder (CausalVAE, version 1.1): 8×8 pixels and, but for the first, 4 frames to one latent position. It only
//! decodes; the encoder's tensors may be there and are not read.

mod config;
mod network;
mod tiles;

use std::collections::BTreeMap;

pub use config::{CausalAttention, CausalKind, CausalVaeConfig, SpatialUpsample, TimeUpsample};
pub use tiles::CausalTiling;

use self::network::Decoder;
use self::tiles::Tile;
use super::cut::{self, Cut, Direction};
use super::heap::Heap;
use super::layers::{Loader, Run, check_latents, padded, positions, published, rgb, stopped};
use crate::device::Device;
use crate::model::{Autoencoder, ModelError, Pixels, Weights};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The decoder on a device.
pub struct CausalVae {
    config: CausalVaeConfig,
    decoder: Decoder,
    tiling: Option<CausalTiling>,
    device: Device,
    dtype: DType,
}

/// A part of latents: the first frame, row and column, and how many of each.
#[derive(Clone, Copy)]
struct Part {
    first: [usize; 3],
    count: [usize; 3],
}

impl CausalVae {
    /// Loads the decoder's tensors: all must be there in the shapes that `config` implies, and none that is neither theirs nor the
    /// encoder's. As published, 16-bit types are f16: so is bf16.
    ///
    /// # Errors
    /// A tensor that is missing, wrong, damaged or superfluous; out of memory.
    pub fn load(device: &Device, config: CausalVaeConfig, weights: Weights<'_>, dtype: DType) -> Result<CausalVae> {
        let vae = CausalVae::take(device, config, &weights, dtype)?;
        // Frames that are linear only leave the convolution of a mixed file alone.
        let linear = |name: &str| {
            let levels = vae.config.decoder_temporal_upsample.iter().enumerate();
            let mut idle = levels.filter(|(_, kind)| **kind == TimeUpsample::Linear);
            idle.any(|(level, _)| name.starts_with(&format!("decoder.up.{level}.time_upsample.")))
        };
        weights.finish_but(&|name| name.starts_with("encoder.") || name.starts_with("quant_conv.") || linear(name))?;
        Ok(vae)
    }

    fn take(device: &Device, config: CausalVaeConfig, weights: &Weights<'_>, dtype: DType) -> Result<CausalVae> {
        let dtype = published(dtype);
        let decoder = Decoder::load(&Loader { device, weights, dtype }, &config)?;
        Ok(CausalVae { config, decoder, tiling: None, device: device.clone(), dtype })
    }

    /// Every tensor of the decoder that a file of this shape holds, by its name.
    ///
    /// # Errors
    /// A shape that overflows.
    pub fn tensors(config: &CausalVaeConfig) -> Result<BTreeMap<String, Vec<usize>>> {
        Weights::taken_by(|dry, weights| CausalVae::take(dry, config.clone(), weights, DType::F16))
    }

    /// The same, which decodes in tiles where the latents are larger than one. They take less memory and give another picture.
    ///
    /// # Errors
    /// Tiles that do not cover a video.
    pub fn tiled(self, tiling: CausalTiling) -> Result<CausalVae> {
        tiling.validate().map_err(ModelError::Input)?;
        let (side, made) = (tiling.latents * self.config.spatial_factor(), tiling.pixels);
        if side != made {
            return Err(ModelError::Input(format!(
                "tiles of {} latents are {side} pixels wide, not {made}",
                tiling.latents
            )));
        }
        Ok(CausalVae { tiling: Some(tiling), ..self })
    }

    /// Its shape.
    pub fn config(&self) -> &CausalVaeConfig {
        &self.config
    }

    /// Latents `[channels, T, h, w]`, as the sampler returns them, to pixels `[3, frames, H, W]` around [−1, 1].
    ///
    /// * `budget`: bytes that activations may use; `None`: the free memory of the device.
    ///
    /// # Errors
    /// Shapes that do not fit, a budget that is too small (the error states the required size).
    pub fn decode_values(&self, latents: &[f32], shape: [usize; 4], budget: Option<usize>) -> Result<Vec<f32>> {
        let mut all = vec![];
        self.decode_parts(latents, shape, budget, &mut |images| {
            all.extend(match images {
                Images::Device(x) => colours(&x.to_f32()?),
                Images::Host(tile) => tile.pixels,
            });
            Ok(())
        })?;
        let positions = all.len() / 3;
        Ok((0..all.len()).map(|i| all[i % positions * 3 + i / positions]).collect())
    }

    /// The cut for decoding latents `[T, h, w]`, and its memory, for activations of at most `budget` bytes.
    ///
    /// # Errors
    /// [`ModelError::Input`] with the bytes of the smallest cut, if the budget is smaller.
    pub fn decode_cut(&self, latents: [usize; 3], budget: usize) -> Result<Cut> {
        self.cut(latents, Some(budget))
    }

    fn cut(&self, latents: [usize; 3], budget: Option<usize>) -> Result<Cut> {
        let [_, height, width] = latents.map(|side| side * self.config.spatial_factor());
        cut::fastest(&self.device, Direction::Decode, [height, width], budget, &self.counter(latents)?)
    }

    /// Counts the bytes that a cut takes.
    fn counter(&self, [t, h, w]: [usize; 3]) -> Result<impl Fn(Cut) -> Result<usize> + use<>> {
        let dry = cut::counting(&self.device);
        let counter = CausalVae::load(&dry, self.config.clone(), Weights::zeros(), self.dtype)?;
        let piece = match self.tiling.filter(|tiling| tiling.splits([t, h, w])) {
            Some(tiling) => [t.min(tiling.frames), h.min(tiling.latents), w.min(tiling.latents)],
            None => [t, h, w],
        };
        Ok(move |cut: Cut| {
            let heap = Heap::new(&dry, cut::ENDLESS / 2)?;
            let run = Run { heap: &heap, dtype: counter.dtype, band_bytes: cut.band_bytes };
            let [t, h, w] = piece;
            let z = heap.take(&[t, h, w, padded(counter.config.embed_dim)], counter.dtype)?;
            counter.decoder.forward(&run, &z)?;
            Ok(heap.peak())
        })
    }

    /// Passes finished frames to `each`, in order.
    fn decode_parts(
        &self,
        latents: &[f32],
        shape: [usize; 4],
        budget: Option<usize>,
        each: &mut dyn FnMut(Images<'_>) -> Result<()>,
    ) -> Result<()> {
        let [_, t, h, w] = shape;
        check_latents(latents, shape, self.config.embed_dim)?;
        let cut = self.cut([t, h, w], budget)?;
        let heap = Heap::new(&self.device, cut.bytes)?;
        let run = Run { heap: &heap, dtype: self.dtype, band_bytes: cut.band_bytes };
        let decode = |part: Part| {
            let [t, h, w] = part.count;
            let z = heap.take(&[t, h, w, padded(shape[0])], self.dtype)?;
            let (cut, shape) = part.of(latents, shape);
            z.write_f32(&positions(&cut, shape, 0, t))?;
            self.decoder.forward(&run, &z)
        };
        let Some(tiling) = self.tiling.filter(|tiling| tiling.splits([t, h, w])) else {
            return each(Images::Device(&*decode(Part { first: [0; 3], count: [t, h, w] })?));
        };
        for (number, [first, end]) in tiling.chunks(t).into_iter().enumerate() {
            let tile = |[y, rows]: [usize; 2], [x, columns]: [usize; 2]| -> Result<Tile> {
                let pixels = decode(Part { first: [first, y, x], count: [end - first, rows, columns] })?;
                let (height, width) = (pixels.shape()[1], pixels.shape()[2]);
                Ok(Tile { pixels: colours(&pixels.to_f32()?), height, width })
            };
            let row = |y| tiling.along(w).into_iter().map(|x| tile(y, x)).collect::<Result<Vec<_>>>();
            let tiles = tiling.along(h).into_iter().map(row).collect::<Result<Vec<_>>>()?;
            let mut joined = tiling.joined(self.config.frames(end - first), tiles);
            if number > 0 {
                // The chunk before has this frame.
                joined.pixels.drain(..joined.height * joined.width * 3);
            }
            each(Images::Host(joined))?;
        }
        Ok(())
    }
}

/// Decoded frames.
enum Images<'a> {
    /// `[frames, H, W, channels]` in f32.
    Device(&'a Tensor),
    /// Joined from tiles.
    Host(Tile),
}

impl Images<'_> {
    /// As RGB bytes.
    fn bytes(&self, device: &Device) -> Result<Vec<u8>> {
        match self {
            Images::Device(x) => rgb(x, 1),
            Images::Host(Tile { pixels, height, width }) => {
                // One by one: little memory is free beside the heap.
                let frame = Tensor::empty(device, &[1, *height, *width, 3], DType::F32)?;
                let frames = pixels.chunks(frame.elements()).map(|pixels| {
                    frame.write_f32(pixels)?;
                    rgb(&frame, 1)
                });
                Ok(frames.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }
}

impl Part {
    /// This part of latents `[channels, T, h, w]`, with its shape.
    fn of(&self, latents: &[f32], [channels, t, h, w]: [usize; 4]) -> (Vec<f32>, [usize; 4]) {
        let ([first_t, first_h, first_w], [count_t, count_h, count_w]) = (self.first, self.count);
        let mut part = Vec::with_capacity(channels * count_t * count_h * count_w);
        for line in
            (0..channels * count_t * count_h).map(|i| [i / count_h / count_t, i / count_h % count_t, i % count_h])
        {
            let start = ((line[0] * t + first_t + line[1]) * h + first_h + line[2]) * w + first_w;
            part.extend_from_slice(&latents[start..start + count_w]);
        }
        (part, [channels, count_t, count_h, count_w])
    }
}

/// The three colours of positions whose channels are padded.
fn colours(values: &[f32]) -> Vec<f32> {
    values.chunks(padded(3)).flat_map(|position| &position[..3]).copied().collect()
}

impl Autoencoder for CausalVae {
    fn least_decode_bytes(&self, _videos: usize, latent: [usize; 3], _frames: usize) -> Result<usize> {
        cut::least(&self.counter(latent)?)
    }

    fn decode(&self, latents: &[f32], shape: [usize; 5], frames: usize, pixels: Pixels<'_>) -> Result<()> {
        let [_, shape @ ..] = shape;
        let made = self.config.frames(shape[1]);
        if frames != made {
            return Err(ModelError::Input(format!("{} latent frames are {made} frames, not {frames}", shape[1])));
        }
        for latents in latents.chunks(shape.iter().product()) {
            self.decode_parts(latents, shape, None, &mut |images| stopped(pixels(&images.bytes(&self.device)?)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::device::DryConfig;

    /// The published decoder in its tiles, on a device with exactly the memory that is counted for frames four times as large.
    #[test]
    fn tiles_decode_in_the_memory_that_is_counted() {
        let device =
            |memory| Device::dry(DryConfig { name: "d".into(), memory, units: 108, compute_capability: (8, 0) });
        let load = |device: &Device| {
            let vae = CausalVae::load(device, CausalVaeConfig::default(), Weights::zeros(), DType::F16).unwrap();
            vae.tiled(CausalTiling::default()).unwrap()
        };
        let [t, h, w] = [3, 128, 128];
        let ample = device(80 << 30);
        let vae = load(&ample);
        let (weights, least) = (ample.allocated_bytes(), vae.least_decode_bytes(1, [t, h, w], 9).unwrap());
        assert_eq!(least, vae.least_decode_bytes(1, [t, 32, 32], 9).unwrap(), "those of one tile");
        let decode = |memory| {
            let mut bytes = 0;
            let mut count = |rgb: &[u8]| {
                bytes += rgb.len();
                ControlFlow::Continue(())
            };
            let shape = [1, 4, t, h, w];
            load(&device(memory)).decode(&vec![0.0; shape.iter().product()], shape, 9, &mut count).map(|()| bytes)
        };
        assert_eq!(decode(weights + least).unwrap(), 9 * 1024 * 1024 * 3);
        let error = decode(weights + least / 2).unwrap_err().to_string();
        assert!(error.contains("takes at least"), "{error}");
    }
}
