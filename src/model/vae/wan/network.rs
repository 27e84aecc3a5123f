//! Encoder and decoder of Wan's autoencoders, a chunk at a time.

use super::config::{WanPath, WanVaeConfig};
use super::layers::{Attention, Causal, Change, Norm, Pass, ResBlock, Scale, Source};
use super::names::{Naming, Part, Side};
use crate::model::ModelError;
use crate::model::vae::heap::Lent;
use crate::model::vae::layers::{Conv, Taps, padded};
use crate::ops::conv::Geometry;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The middle at the coarsest scale: block, attention, block.
struct Middle {
    blocks: [ResBlock; 2],
    attention: Attention,
}

impl Middle {
    fn load(from: &Source<'_>, naming: Naming, side: Side, channels: usize) -> Result<Middle> {
        let block = |i| ResBlock::load(from, &naming.middle(side, i), naming.block(), [channels, channels]);
        let (first, attention) = (block(0)?, Attention::load(from, &naming.attention(side), channels)?);
        Ok(Middle { blocks: [first, block(1)?], attention })
    }

    fn forward<'a>(&self, pass: &Pass<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let x = self.blocks[0].forward(pass, x)?;
        self.attention.forward(pass, &x)?;
        self.blocks[1].forward(pass, x)
    }
}

/// One direction: the encoder has its middle behind the scales, the decoder before them.
struct Path {
    conv_in: Causal,
    scales: Vec<Scale>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Causal,
}

impl Path {
    /// From `channels` to `n` channels.
    fn load(
        from: &Source<'_>,
        config: &WanVaeConfig,
        side: Side,
        path: &WanPath,
        [channels, n]: [usize; 2],
    ) -> Result<Path> {
        let naming = Naming { names: config.names, nested: config.shortcuts };
        let plain = Geometry::default();
        let middle = if side == Side::Encoder { path.last() } else { path.first };
        let mut at = (path.first, 0);
        let mut scale = |index: usize| -> Result<Scale> {
            let shape = &path.scales[index];
            let (mut channels, parts) = at;
            let name = |part| naming.part(side, index, parts, part);
            // The decoder's last scale has no shortcut.
            let around = config.shortcuts && (side == Side::Encoder || shape.resample.is_some());
            let around = around.then(|| shape.around(channels));
            let block = |i| {
                let block = ResBlock::load(from, &name(Part::Block(i)), naming.block(), [channels, shape.channels]);
                channels = shape.channels;
                block
            };
            let blocks = (0..shape.blocks).map(block).collect::<Result<_>>()?;
            let up = side == Side::Decoder;
            let change = shape
                .resample
                .map(|to| Change::load(from, &name(Part::Resample(shape.blocks)), shape.channels, to, up))
                .transpose()?;
            at = (shape.made(), parts + shape.blocks + usize::from(change.is_some()));
            let time = shape.resample.map_or(1, |r| r.time_factor());
            Ok(Scale { blocks, change, around, up, time })
        };
        Ok(Path {
            conv_in: Causal::load(from, &naming.conv_in(side), [channels, path.first], [3, 3], plain)?,
            scales: (0..path.scales.len()).map(&mut scale).collect::<Result<_>>()?,
            middle: Middle::load(from, naming, side, middle)?,
            norm_out: Norm::load(from, &naming.norm_out(side), path.last(), 3)?,
            conv_out: Causal::load(from, &naming.conv_out(side), [path.last(), n], [3, 3], plain)?,
        })
    }
}

/// The convolution of one tap between a half and the latents.
fn latents(from: &Source<'_>, config: &WanVaeConfig, side: Side, channels: usize) -> Result<Conv> {
    let naming = Naming { names: config.names, nested: config.shortcuts };
    let taps = Taps { channels, n: channels, time: Some(1), space: 1 };
    Conv::load(&from.loader, naming.latents(side), taps, true, Geometry::default())
}

fn pixel_channels(config: &WanVaeConfig) -> usize {
    3 * config.patch * config.patch
}

/// Latents to pixels.
pub(super) struct Decoder {
    latents: Conv,
    path: Path,
}

impl Decoder {
    pub(super) fn load(from: &Source<'_>, config: &WanVaeConfig) -> Result<Decoder> {
        let ends = [config.latent_channels, pixel_channels(config)];
        Ok(Decoder {
            latents: latents(from, config, Side::Decoder, config.latent_channels)?,
            path: Path::load(from, config, Side::Decoder, &config.decoder, ends)?,
        })
    }

    /// One latent frame `[1, h, w, channels]` to pixels in f32, `[frames, H, W, channels]`: some at a time to `each`.
    pub(super) fn decode<'a>(
        &self,
        pass: &Pass<'a>,
        z: &Tensor,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let z = self.latents.forward(&pass.run, z)?;
        let x = self.path.conv_in.forward(pass, &z, pass.run.dtype)?;
        drop(z);
        let x = self.path.middle.forward(pass, x)?;
        self.decode_from(pass, 0, x, each)
    }

    /// The scales from `index` on and what follows them, some frames at a time.
    fn decode_from<'a>(
        &self,
        pass: &Pass<'a>,
        index: usize,
        x: Lent<'a>,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        if x.shape()[0] > pass.frames {
            return pass.in_parts(&x, &mut |some| self.decode_from(pass, index, some, each));
        }
        let Path { scales, norm_out, conv_out, .. } = &self.path;
        match scales.get(index) {
            Some(scale) => self.decode_from(pass, index + 1, scale.forward(pass, x)?, each),
            None => each(&*norm_out.then_conv(pass, &x, conv_out, DType::F32)?),
        }
    }
}

/// Pixels to latents.
pub(super) struct Encoder {
    path: Path,
    latents: Conv,
    pixel_channels: usize,
}

impl Encoder {
    pub(super) fn load(from: &Source<'_>, config: &WanVaeConfig) -> Result<Encoder> {
        // Means and log variances.
        let (made, pixel_channels) = (2 * config.latent_channels, pixel_channels(config));
        Ok(Encoder {
            path: Path::load(from, config, Side::Encoder, &config.encoder, [pixel_channels, made])?,
            latents: latents(from, config, Side::Encoder, made)?,
            pixel_channels,
        })
    }

    /// The frames of one pass, which `fill` writes into tensors `[count, H, W, channels]` one after the other, to one latent frame
    /// `[1, h, w, means and log variances]` in f32.
    pub(super) fn encode<'a>(
        &self,
        pass: &Pass<'a>,
        sides: [usize; 2],
        fill: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<Lent<'a>> {
        let Path { scales, middle, norm_out, conv_out, .. } = &self.path;
        let x = self.encode_to(pass, scales.len(), 1, sides, fill)?;
        let x = middle.forward(pass, x)?;
        let x = norm_out.then_conv(pass, &x, conv_out, pass.run.dtype)?;
        self.latents.forward_as(&pass.run, &x, DType::F32)
    }

    /// The next `count` frames that go into scale `index`, made of a few at a time.
    fn encode_to<'a>(
        &self,
        pass: &Pass<'a>,
        index: usize,
        count: usize,
        sides: [usize; 2],
        fill: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<Lent<'a>> {
        if count > pass.frames {
            let mut all: Option<Lent<'a>> = None;
            for first in (0..count).step_by(pass.frames) {
                let some = self.encode_to(pass, index, pass.frames.min(count - first), sides, fill)?;
                let whole = match all.take() {
                    Some(whole) => whole,
                    None => {
                        let &[_, height, width, channels] = some.shape() else { unreachable!("four axes") };
                        pass.run.heap.take(&[count, height, width, channels], some.dtype())?
                    }
                };
                whole.slice_rows(first, some.shape()[0])?.copy_from(&some)?;
                all = Some(whole);
            }
            return all.ok_or_else(|| ModelError::Input("no frames to encode".into()));
        }
        let Some(below) = index.checked_sub(1) else {
            let [height, width] = sides;
            let pixels = pass.run.heap.take(&[count, height, width, padded(self.pixel_channels)], pass.run.dtype)?;
            fill(&pixels)?;
            return self.path.conv_in.forward(pass, &pixels, pass.run.dtype);
        };
        let scale = &self.path.scales[below];
        let needed = if pass.first { count } else { count * scale.time };
        let x = self.encode_to(pass, below, needed, sides, fill)?;
        scale.forward(pass, x)
    }
}
