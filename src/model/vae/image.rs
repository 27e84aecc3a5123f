//! The image autoencoder in diffusers' layout (AutoencoderKL), frame by frame: 8×8 pixels to one latent position. In the decoder of videos
//! (AutoencoderKLTemporalDecoder) a block over the frames follows every block of an image.

use serde::Deserialize;

use super::blocks::{Attention, AttentionNames, BlockStyle, Norm, NormStyle, ResBlock};
use super::heap::Lent;
use super::layers::{Conv, Edge, Loader, Run, Taps};
use crate::model::ModelError;
use crate::ops::conv::Geometry;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The shape of an image autoencoder, with the names of diffusers' config.json. The default is the published one.
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

impl SpatialConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        scales("block_out_channels", self.block_out_channels.len())?;
        self.block_out_channels.iter().try_for_each(|&c| normed("block_out_channels", c, self.norm_num_groups))?;
        small("layers_per_block", self.layers_per_block)?;
        small("latent_channels", self.latent_channels)?;
        if self.in_channels != 3 || self.out_channels != 3 {
            return Err(format!("{} channels in and {} out; images have 3", self.in_channels, self.out_channels));
        }
        Ok(())
    }

    /// Side in pixels of the square that becomes one latent position.
    pub(super) fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// Rejects a number of scales that no autoencoder has.
pub(super) fn scales(name: &str, count: usize) -> Result<(), String> {
    if (1..=8).contains(&count) { Ok(()) } else { Err(format!("{name} has {count} entries, expected 1 to 8")) }
}

/// Rejects 0, and what is far from any published autoencoder.
pub(super) fn small(name: &str, value: usize) -> Result<(), String> {
    if (1..=64).contains(&value) { Ok(()) } else { Err(format!("{name} is {value}, expected 1 to 64")) }
}

/// Rejects channels that a GroupNorm cannot have.
pub(super) fn normed(name: &str, channels: usize, groups: usize) -> Result<(), String> {
    let fits = |n: usize| (1..=1024).contains(&n);
    if fits(groups) && fits(channels) && channels.is_multiple_of(groups) && channels.is_multiple_of(8) {
        return Ok(());
    }
    Err(format!(
        "{name}: {channels} channels in {groups} groups; channels have to be a multiple of 8 and of the groups, at most 1024"
    ))
}

/// Of the norms of images, and of those over frames.
const EPS: f32 = 1e-6;
const TIME_EPS: f32 = 1e-5;

/// The blocks of a network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    /// Each sees one frame.
    Images,
    /// Each is followed by one over the frames; the learned share of what that adds is the file's.
    Videos,
}

/// Residual blocks at one scale, and the convolution to the next.
struct Scale {
    blocks: Vec<ResBlock>,
    resample: Option<Conv>,
}

impl Scale {
    fn forward<'a>(&self, run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let x = ResBlock::chain(&self.blocks, run, x)?;
        match &self.resample {
            Some(conv) => conv.forward(run, &x),
            None => Ok(x),
        }
    }
}

/// The middle at the coarsest scale: block, attention, block. A video's with one layer ends with the first block.
struct Middle {
    before: Vec<ResBlock>,
    then: Option<(Attention, Vec<ResBlock>)>,
}

impl Middle {
    fn forward<'a>(&self, run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let x = ResBlock::chain(&self.before, run, x)?;
        match &self.then {
            Some((attention, after)) => {
                attention.forward(run, &x)?;
                ResBlock::chain(after, run, x)
            }
            None => Ok(x),
        }
    }
}

/// Loads the parts of a network.
struct Parts<'a> {
    from: &'a Loader<'a>,
    /// What all names begin with.
    prefix: &'a str,
    config: &'a SpatialConfig,
    blocks: Blocks,
}

impl Parts<'_> {
    fn norm_style(&self) -> NormStyle {
        NormStyle { groups: self.config.norm_num_groups, eps: EPS, by_frame: true }
    }

    fn norm(&self, name: &str, channels: usize) -> Result<Norm> {
        Norm::load(self.from, &format!("{}{name}", self.prefix), channels, self.norm_style())
    }

    fn conv(&self, name: &str, channels: usize, n: usize, space: usize, geometry: Geometry) -> Result<Conv> {
        let taps = Taps { channels, n, time: None, space };
        Conv::load(self.from, &format!("{}{name}", self.prefix), taps, true, geometry)
    }

    /// The block `name`, with the one over the frames.
    fn block(&self, name: &str, channels: usize, n: usize) -> Result<Vec<ResBlock>> {
        let name = format!("{}{name}", self.prefix);
        let style = BlockStyle::image(self.norm_style());
        if self.blocks == Blocks::Images {
            return Ok(vec![ResBlock::load(self.from, &name, channels, n, style)?]);
        }
        let mix = self.from.weights.values(&format!("{name}.time_mixer.mix_factor"), &[1])?[0];
        let norm = NormStyle { eps: TIME_EPS, by_frame: false, ..style.norm };
        let over_time = BlockStyle { time: Some(3), space: 1, edge: Edge::Both, norm, share: sigmoid(mix), ..style };
        Ok(vec![
            ResBlock::load(self.from, &format!("{name}.spatial_res_block"), channels, n, style)?,
            ResBlock::load(self.from, &format!("{name}.temporal_res_block"), n, n, over_time)?,
        ])
    }

    /// `count` blocks, and the convolution that changes the resolution.
    fn scale(
        &self,
        name: &str,
        [mut channels, n]: [usize; 2],
        count: usize,
        resample: Option<(&str, Geometry)>,
    ) -> Result<Scale> {
        let mut blocks = vec![];
        for i in 0..count {
            blocks.extend(self.block(&format!("{name}.resnets.{i}"), channels, n)?);
            channels = n;
        }
        let resample = resample.map(|(end, geometry)| self.conv(&format!("{name}.{end}.0.conv"), n, n, 3, geometry));
        Ok(Scale { blocks, resample: resample.transpose()? })
    }

    fn middle(&self, name: &str, channels: usize) -> Result<Middle> {
        let block = |i| self.block(&format!("{name}.resnets.{i}"), channels, channels);
        let attention = || {
            let name = format!("{}{name}.attentions.0", self.prefix);
            let has = |part: &str| self.from.weights.has(&format!("{name}.{part}.weight"));
            let earlier = has("query") && !has("to_q");
            let names = if earlier { AttentionNames::EARLIER } else { AttentionNames::DIFFUSERS };
            Attention::load(self.from, &name, channels, self.norm_style(), names)
        };
        let short = self.blocks == Blocks::Videos && self.config.layers_per_block < 2;
        let then = if short { None } else { Some((attention()?, block(1)?)) };
        Ok(Middle { before: block(0)?, then })
    }
}

/// The encoder: `encoder.…` and `quant_conv`.
pub(super) struct Encoder {
    conv_in: Conv,
    scales: Vec<Scale>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
    quant_conv: Conv,
}

impl Encoder {
    /// `prefix`: what all names begin with.
    pub(super) fn load(from: &Loader<'_>, prefix: &str, config: &SpatialConfig) -> Result<Encoder> {
        let parts = Parts { from, prefix, config, blocks: Blocks::Images };
        let SpatialConfig { in_channels, layers_per_block, latent_channels, .. } = *config;
        let channels = &config.block_out_channels;
        let (last, moments) = (channels.len() - 1, 2 * latent_channels);
        let plain = Geometry::default();
        let down = ("downsamplers", Geometry { stride: 2, ..plain });
        let scale = |i: usize| {
            let both = [channels[i.saturating_sub(1)], channels[i]];
            parts.scale(&format!("encoder.down_blocks.{i}"), both, layers_per_block, (i < last).then_some(down))
        };
        Ok(Encoder {
            conv_in: parts.conv("encoder.conv_in", in_channels, channels[0], 3, plain)?,
            scales: (0..=last).map(scale).collect::<Result<_>>()?,
            middle: parts.middle("encoder.mid_block", channels[last])?,
            norm_out: parts.norm("encoder.conv_norm_out", channels[last])?,
            conv_out: parts.conv("encoder.conv_out", channels[last], moments, 3, plain)?,
            quant_conv: parts.conv("quant_conv", moments, moments, 1, plain)?,
        })
    }

    /// `[frames, H, W, rgb]` to `[frames, h, w, means and log variances]`, not yet scaled.
    pub(super) fn forward<'a>(&self, run: &Run<'a>, pixels: &Tensor) -> Result<Lent<'a>> {
        let mut x = self.conv_in.forward(run, pixels)?;
        for scale in &self.scales {
            x = scale.forward(run, x)?;
        }
        let x = self.middle.forward(run, x)?;
        let x = self.norm_out.then_conv_as(run, &x, &self.conv_out, run.dtype)?;
        self.quant_conv.forward(run, &x)
    }
}

/// The decoder: `decoder.…` and, for images, `post_quant_conv`; for videos, a last convolution over the frames.
pub(super) struct Decoder {
    post_quant_conv: Option<Conv>,
    conv_in: Conv,
    middle: Middle,
    scales: Vec<Scale>,
    norm_out: Norm,
    conv_out: Conv,
    time_conv_out: Option<Conv>,
}

impl Decoder {
    /// `prefix`: what all names begin with. `scaling`: the factor between its own latents and those that it is given.
    pub(super) fn load(
        from: &Loader<'_>,
        prefix: &str,
        config: &SpatialConfig,
        blocks: Blocks,
        scaling: f32,
    ) -> Result<Decoder> {
        let parts = Parts { from, prefix, config, blocks };
        let SpatialConfig { out_channels, layers_per_block, latent_channels, .. } = *config;
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let plain = Geometry::default();
        let up = ("upsamplers", Geometry { upsample: true, ..plain });
        let scale = |i: usize| {
            let both = [channels[i.saturating_sub(1)], channels[i]];
            parts.scale(&format!("decoder.up_blocks.{i}"), both, layers_per_block + 1, (i < last).then_some(up))
        };
        let conv_in = parts.conv("decoder.conv_in", latent_channels, channels[0], 3, plain)?;
        let (post_quant_conv, conv_in, time_conv_out) = match blocks {
            Blocks::Images => {
                let post_quant = parts.conv("post_quant_conv", latent_channels, latent_channels, 1, plain)?;
                (Some(post_quant.scaled(1.0 / scaling)), conv_in, None)
            }
            Blocks::Videos => {
                let taps = Taps { channels: out_channels, n: out_channels, time: Some(3), space: 1 };
                let conv = Conv::load(from, &format!("{prefix}decoder.time_conv_out"), taps, true, plain)?;
                (None, conv_in.scaled(1.0 / scaling), Some(conv.with_edge(Edge::Both)))
            }
        };
        Ok(Decoder {
            post_quant_conv,
            conv_in,
            middle: parts.middle("decoder.mid_block", channels[0])?,
            scales: (0..=last).map(scale).collect::<Result<_>>()?,
            norm_out: parts.norm("decoder.conv_norm_out", channels[last])?,
            conv_out: parts.conv("decoder.conv_out", channels[last], out_channels, 3, plain)?,
            time_conv_out,
        })
    }

    /// `[frames, h, w, latent]` to `[frames, H, W, rgb]` in f32.
    pub(super) fn forward<'a>(&self, run: &Run<'a>, z: &Tensor) -> Result<Lent<'a>> {
        let x = match &self.post_quant_conv {
            Some(conv) => self.conv_in.forward(run, &*conv.forward(run, z)?)?,
            None => self.conv_in.forward(run, z)?,
        };
        let mut x = self.middle.forward(run, x)?;
        for scale in &self.scales {
            x = scale.forward(run, x)?;
        }
        match &self.time_conv_out {
            None => self.norm_out.then_conv_as(run, &x, &self.conv_out, DType::F32),
            Some(conv) => {
                let x = self.norm_out.then_conv_as(run, &x, &self.conv_out, run.dtype)?;
                conv.forward_as(run, &x, DType::F32)
            }
        }
    }
}

/// 1/(1 + e⁻ˣ)
pub(super) fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}
