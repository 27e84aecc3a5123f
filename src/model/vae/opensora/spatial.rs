//! The image autoencoder (diffusers' AutoencoderKL), frame by frame: 8×8 pixels to one latent position.

use serde::Deserialize;

use super::layers::{Attention, BlockStyle, Norm, NormStyle, ResBlock};
use crate::model::ModelError;
use crate::model::vae::heap::Lent;
use crate::model::vae::layers::{Conv, Loader, Run, Taps};
use crate::ops::conv::Geometry;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The shape of the spatial autoencoder, with the names of diffusers' config.json. The default is the published one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpatialConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Channels at each scale, the finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each scale of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of its GroupNorms.
    pub norm_num_groups: usize,
}

impl Default for SpatialConfig {
    fn default() -> Self {
        SpatialConfig {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
        }
    }
}

const EPS: f32 = 1e-6;

/// Residual blocks at one scale, and the convolution to the next.
struct Scale {
    blocks: Vec<ResBlock>,
    resample: Option<Conv>,
}

impl Scale {
    fn forward<'a>(&self, run: &Run<'a>, mut x: Lent<'a>) -> Result<Lent<'a>> {
        for block in &self.blocks {
            x = block.forward(run, x)?;
        }
        match &self.resample {
            Some(conv) => conv.forward(run, &x),
            None => Ok(x),
        }
    }
}

/// The middle at the coarsest scale: block, attention, block.
struct Middle {
    blocks: [ResBlock; 2],
    attention: Attention,
}

impl Middle {
    fn load(from: &Loader<'_>, name: &str, channels: usize, style: BlockStyle) -> Result<Middle> {
        let block = |i| ResBlock::load(from, &format!("{name}.resnets.{i}"), channels, channels, style);
        let attention = Attention::load(from, &format!("{name}.attentions.0"), channels, style.norm)?;
        Ok(Middle { blocks: [block(0)?, block(1)?], attention })
    }

    fn forward<'a>(&self, run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let x = self.blocks[0].forward(run, x)?;
        self.attention.forward(run, &x)?;
        self.blocks[1].forward(run, x)
    }
}

/// One direction: a convolution, the scales with the middle before or after them, norm, SiLU and a convolution.
struct Path {
    conv_in: Conv,
    scales: Vec<Scale>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
}

/// Both directions, with the convolutions on the latent side.
pub(super) struct Spatial {
    encoder: Path,
    quant_conv: Conv,
    post_quant_conv: Conv,
    decoder: Path,
}

impl Spatial {
    /// `scaling`: the factor between its own latents and those it passes on.
    pub(super) fn load(from: &Loader<'_>, prefix: &str, config: &SpatialConfig, scaling: f32) -> Result<Spatial> {
        // Long, but a list: one entry for each part of the network.
        let SpatialConfig { in_channels, out_channels, layers_per_block, latent_channels, norm_num_groups, .. } =
            *config;
        let channels = &config.block_out_channels;
        let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
        let norm = NormStyle { groups: norm_num_groups, eps: EPS, by_frame: true };
        let style = BlockStyle { time: None, norm, suffix: "", shortcut: "conv_shortcut", bias: true };
        let conv = |name: &str, channels, n, space, geometry| {
            let taps = Taps { channels, n, time: None, space };
            Conv::load(from, &format!("{prefix}.{name}"), taps, true, geometry)
        };
        let scale = |name: String, mut from_channels, n, blocks, resample: Option<(&str, Geometry)>| -> Result<Scale> {
            let block = |i| {
                let block = ResBlock::load(from, &format!("{prefix}.{name}.resnets.{i}"), from_channels, n, style);
                from_channels = n;
                block
            };
            let blocks = (0..blocks).map(block).collect::<Result<Vec<_>>>()?;
            let resample = resample.map(|(end, geometry)| conv(&format!("{name}.{end}.0.conv"), n, n, 3, geometry));
            Ok(Scale { blocks, resample: resample.transpose()? })
        };
        let norm = |name: &str, channels| Norm::load(from, &format!("{prefix}.{name}"), channels, norm);
        let plain = Geometry::default();
        let down = ("downsamplers", Geometry { stride: 2, ..plain });
        let up = ("upsamplers", Geometry { upsample: true, ..plain });
        let last = channels.len() - 1;
        let before = |i: usize| channels[i.saturating_sub(1)];
        let reversed: Vec<usize> = channels.iter().rev().copied().collect();
        let encoder = Path {
            conv_in: conv("encoder.conv_in", in_channels, finest, 3, plain)?,
            scales: (0..=last)
                .map(|i| {
                    let name = format!("encoder.down_blocks.{i}");
                    scale(name, before(i), channels[i], layers_per_block, (i < last).then_some(down))
                })
                .collect::<Result<_>>()?,
            middle: Middle::load(from, &format!("{prefix}.encoder.mid_block"), coarsest, style)?,
            norm_out: norm("encoder.conv_norm_out", coarsest)?,
            conv_out: conv("encoder.conv_out", coarsest, 2 * latent_channels, 3, plain)?,
        };
        let decoder = Path {
            conv_in: conv("decoder.conv_in", latent_channels, coarsest, 3, plain)?,
            scales: (0..=last)
                .map(|i| {
                    let name = format!("decoder.up_blocks.{i}");
                    let from_channels = reversed[i.saturating_sub(1)];
                    scale(name, from_channels, reversed[i], layers_per_block + 1, (i < last).then_some(up))
                })
                .collect::<Result<_>>()?,
            middle: Middle::load(from, &format!("{prefix}.decoder.mid_block"), coarsest, style)?,
            norm_out: norm("decoder.conv_norm_out", finest)?,
            conv_out: conv("decoder.conv_out", finest, out_channels, 3, plain)?,
        };
        let quant_conv = conv("quant_conv", 2 * latent_channels, 2 * latent_channels, 1, plain)?;
        let post_quant_conv =
            conv("post_quant_conv", latent_channels, latent_channels, 1, plain)?.scaled(1.0 / scaling);
        Ok(Spatial { encoder, quant_conv, post_quant_conv, decoder })
    }

    /// `[frames, h, w, latent]` to `[frames, H, W, rgb]` in f32.
    pub(super) fn decode<'a>(&self, run: &Run<'a>, z: &Tensor) -> Result<Lent<'a>> {
        let path = &self.decoder;
        let x = self.post_quant_conv.forward(run, z)?;
        let x = path.conv_in.forward(run, &x)?;
        let mut x = path.middle.forward(run, x)?;
        for scale in &path.scales {
            x = scale.forward(run, x)?;
        }
        path.norm_out.then_conv_as(run, &x, &path.conv_out, DType::F32)
    }

    /// `[frames, H, W, rgb]` to `[frames, h, w, means and log variances]`, not yet scaled.
    pub(super) fn encode<'a>(&self, run: &Run<'a>, pixels: &Tensor) -> Result<Lent<'a>> {
        let path = &self.encoder;
        let mut x = path.conv_in.forward(run, pixels)?;
        for scale in &path.scales {
            x = scale.forward(run, x)?;
        }
        let x = path.middle.forward(run, x)?;
        let x = path.norm_out.then_conv_as(run, &x, &path.conv_out, run.dtype)?;
        self.quant_conv.forward(run, &x)
    }
}
