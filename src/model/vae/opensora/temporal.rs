//! The temporal autoencoder: causal convolutions over chunks of frames, 4 frames to one latent frame.

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::vae::blocks::{BlockStyle, Norm, NormStyle, ResBlock};
use crate::model::vae::heap::Lent;
use crate::model::vae::layers::{Conv, Loader, Run, Taps};
use crate::ops::conv::Geometry;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The shape of the temporal autoencoder, with the names of the published code. The default is the published one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TemporalConfig {
    /// Channels on the spatial autoencoder's side.
    pub in_out_channels: usize,
    /// Channels of the encoder's output.
    pub latent_embed_dim: usize,
    /// Channels of the latents.
    pub embed_dim: usize,
    /// Channels of the finest scale.
    pub filters: usize,
    /// Residual blocks per scale.
    pub num_res_blocks: usize,
    /// Channels of each scale, as multiples of `filters`.
    pub channel_multipliers: Vec<usize>,
    /// The transitions between scales at which time is halved.
    pub temporal_downsample: Vec<bool>,
    /// Groups of its GroupNorms.
    pub num_groups: usize,
}

impl Default for TemporalConfig {
    fn default() -> Self {
        TemporalConfig {
            in_out_channels: 4,
            latent_embed_dim: 4,
            embed_dim: 4,
            filters: 128,
            num_res_blocks: 4,
            channel_multipliers: vec![1, 2, 2, 4],
            temporal_downsample: vec![false, true, true],
            num_groups: 32,
        }
    }
}

impl TemporalConfig {
    /// The number of frames that become one latent frame.
    pub fn factor(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|halved| **halved).count()
    }
}

const EPS: f32 = 1e-5;
/// Taps in every direction.
const KERNEL: usize = 3;

/// Residual blocks at one scale, and the convolution to the next if time is resampled.
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

/// One direction. The encoder has its blocks of one scale after the scales, the decoder before them.
struct Path {
    conv_in: Conv,
    /// In the order they run.
    scales: Vec<Scale>,
    blocks: Vec<ResBlock>,
    norm: Norm,
    conv_out: Conv,
}

/// Both directions, with the convolutions on the latent side.
pub(super) struct Temporal {
    encoder: Path,
    quant_conv: Conv,
    post_quant_conv: Conv,
    decoder: Path,
}

impl Temporal {
    /// `scaling`: the factor applied to the encoder's input.
    pub(super) fn load(from: &Loader<'_>, prefix: &str, config: &TemporalConfig, scaling: f32) -> Result<Temporal> {
        let norm = NormStyle { groups: config.num_groups, eps: EPS, by_frame: false };
        let channels: Vec<usize> = config.channel_multipliers.iter().map(|m| m * config.filters).collect();
        let last = channels.len() - 1;
        let (finest, coarsest) = (channels[0], channels[last]);
        let (suffix, shortcut) = (".conv", "conv3");
        let style = BlockStyle { time: Some(KERNEL), suffix, shortcut, bias: false, ..BlockStyle::image(norm) };
        let conv = |name: &str, channels, n, taps, bias, geometry| {
            let taps = Taps { channels, n, time: Some(taps), space: taps };
            Conv::load(from, &format!("{prefix}.{name}.conv"), taps, bias, geometry)
        };
        let blocks = |name: String, mut from_channels, n| -> Result<Vec<ResBlock>> {
            let block = |j| {
                let block = ResBlock::load(from, &format!("{prefix}.{name}.{j}"), from_channels, n, style);
                from_channels = n;
                block
            };
            (0..config.num_res_blocks).map(block).collect()
        };
        let norm = |name: &str, channels| Norm::load(from, &format!("{prefix}.{name}"), channels, norm);
        let plain = Geometry::default();
        let halved = |i: usize| config.temporal_downsample.get(i).copied().unwrap_or(false);

        let encoder_scale = |i: usize| -> Result<Scale> {
            let blocks = blocks(format!("encoder.block_res_blocks.{i}"), channels[i.saturating_sub(1)], channels[i])?;
            let geometry = Geometry { stride_t: 2, ..plain };
            let name = format!("encoder.conv_blocks.{i}");
            let resample = halved(i).then(|| conv(&name, channels[i], channels[i], KERNEL, true, geometry));
            Ok(Scale { blocks, resample: resample.transpose()? })
        };
        let decoder_scale = |i: usize| -> Result<Scale> {
            let blocks = blocks(format!("decoder.block_res_blocks.{i}"), channels[(i + 1).min(last)], channels[i])?;
            let geometry = Geometry { time_factor: 2, ..plain };
            let resample = i.checked_sub(1).filter(|i| halved(*i)).map(|before| {
                let name = format!("decoder.conv_blocks.{before}");
                conv(&name, channels[i], 2 * channels[i], KERNEL, true, geometry)
            });
            Ok(Scale { blocks, resample: resample.transpose()? })
        };
        let encoder = Path {
            conv_in: conv("encoder.conv_in", config.in_out_channels, finest, KERNEL, false, plain)?.scaled(scaling),
            scales: (0..=last).map(encoder_scale).collect::<Result<_>>()?,
            blocks: blocks("encoder.res_blocks".into(), coarsest, coarsest)?,
            norm: norm("encoder.norm1", coarsest)?,
            conv_out: conv("encoder.conv2", coarsest, 2 * config.latent_embed_dim, 1, true, plain)?,
        };
        let decoder = Path {
            conv_in: conv("decoder.conv1", config.latent_embed_dim, coarsest, KERNEL, true, plain)?,
            scales: (0..=last).rev().map(decoder_scale).collect::<Result<_>>()?,
            blocks: blocks("decoder.res_blocks".into(), coarsest, coarsest)?,
            norm: norm("decoder.norm1", finest)?,
            conv_out: conv("decoder.conv_out", finest, config.in_out_channels, KERNEL, true, plain)?,
        };
        let quant_conv = conv("quant_conv", 2 * config.latent_embed_dim, 2 * config.embed_dim, 1, true, plain)?;
        let post_quant_conv = conv("post_quant_conv", config.embed_dim, config.latent_embed_dim, 1, true, plain)?;
        Ok(Temporal { encoder, quant_conv, post_quant_conv, decoder })
    }

    /// `[T, h, w, latent]` to `[T·factor, h, w, channels]`.
    pub(super) fn decode<'a>(&self, run: &Run<'a>, z: &Tensor) -> Result<Lent<'a>> {
        let path = &self.decoder;
        let x = self.post_quant_conv.forward(run, z)?;
        let x = path.conv_in.forward(run, &x)?;
        let mut x = ResBlock::chain(&path.blocks, run, x)?;
        for scale in &path.scales {
            x = scale.forward(run, x)?;
        }
        path.norm.then_conv_as(run, &x, &path.conv_out, run.dtype)
    }

    /// `[T·factor, h, w, channels]` to `[T, h, w, means and log variances]` in f32.
    pub(super) fn encode<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        let path = &self.encoder;
        let mut x = path.conv_in.forward(run, x)?;
        for scale in &path.scales {
            x = scale.forward(run, x)?;
        }
        let x = ResBlock::chain(&path.blocks, run, x)?;
        let x = path.norm.then_conv_as(run, &x, &path.conv_out, run.dtype)?;
        self.quant_conv.forward_as(run, &x, DType::F32)
    }
}
