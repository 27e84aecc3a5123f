//! The decoder's layers: causal convolutions that repeat the first frame before itself, and doubled frames.

use super::config::{CausalAttention, CausalKind, CausalVaeConfig, GROUPS, SpatialUpsample, TimeUpsample};
use crate::model::ModelError;
use crate::model::vae::blocks::{Attention, AttentionNames, BlockStyle, Norm, NormStyle, ResBlock};
use crate::model::vae::heap::Lent;
use crate::model::vae::image::sigmoid;
use crate::model::vae::layers::{Conv, Edge, Loader, Run, Taps};
use crate::ops;
use crate::ops::conv::{Band, Geometry, Input};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

const EPS: f32 = 1e-6;
/// Taps in time.
const KERNEL: usize = 3;

const NAMES: AttentionNames = AttentionNames {
    norm: "norm",
    parts: ["q.conv", "k.conv", "v.conv", "proj_out.conv"],
    // Time, rows, columns.
    axes: 3,
};

fn style(kind: CausalKind) -> BlockStyle {
    let image = BlockStyle::image(NormStyle { groups: GROUPS, eps: EPS, by_frame: true });
    match kind {
        CausalKind::Image => BlockStyle { shortcut: "nin_shortcut", ..image },
        CausalKind::Video => BlockStyle {
            time: Some(KERNEL),
            edge: Edge::First,
            norm: NormStyle { by_frame: false, ..image.norm },
            suffix: ".conv",
            shortcut: "nin_shortcut",
            ..image
        },
    }
}

/// A convolution at an end, with `space` × `space` taps and as many in time.
fn conv(from: &Loader<'_>, name: &str, kind: CausalKind, both: [usize; 2], space: usize) -> Result<Conv> {
    let [channels, n] = both;
    let taps = |time| Taps { channels, n, time, space };
    let plain = Geometry::default();
    match kind {
        CausalKind::Image => Conv::load(from, name, taps(None), true, plain),
        CausalKind::Video => {
            let conv = Conv::load(from, &format!("{name}.conv"), taps(Some(space)), true, plain)?;
            Ok(conv.with_edge(Edge::First))
        }
    }
}

/// Frames become twice as many, but for the first one: between them linearly, or mixed with a convolution of that.
struct TimeUp {
    /// The convolution, already multiplied by its share, and the share of the linear part.
    mixed: Option<(Conv, f32)>,
}

impl TimeUp {
    fn load(from: &Loader<'_>, name: &str, channels: usize, kind: TimeUpsample) -> Result<Option<TimeUp>> {
        match kind {
            TimeUpsample::None => Ok(None),
            TimeUpsample::Linear => Ok(Some(TimeUp { mixed: None })),
            TimeUpsample::Mixed => {
                let share = sigmoid(from.weights.values(&format!("{name}.mix_factor"), &[1])?[0]);
                let taps = Taps { channels, n: channels, time: Some(KERNEL), space: 3 };
                let name = format!("{name}.conv.conv");
                let conv = Conv::load_share(from, &name, taps, Geometry::default(), 1.0 - share)?;
                Ok(Some(TimeUp { mixed: Some((conv.with_edge(Edge::First), share)) }))
            }
        }
    }

    fn forward<'a>(&self, run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let mut shape = x.shape().to_vec();
        shape[0] = 2 * shape[0] - 1;
        let linear = run.heap.take(&shape, run.dtype)?;
        ops::resample::time_up(&x, 1.0, &linear)?;
        let Some((conv, share)) = &self.mixed else { return Ok(linear) };
        let out = run.heap.take(&shape, run.dtype)?;
        ops::resample::time_up(&x, *share, &out)?;
        drop(x);
        conv.rows(run, &Input::whole(&linear), Some(&out), Band { first: 0, rows: shape[1] }, &out)?;
        Ok(out)
    }
}

/// The blocks of one resolution, and the way to the next.
struct Scale {
    blocks: Vec<ResBlock>,
    space: Option<Conv>,
    time: Option<TimeUp>,
}

/// The decoder, from latents to pixels.
pub(super) struct Decoder {
    post_quant_conv: Conv,
    conv_in: Conv,
    before: ResBlock,
    attention: Attention,
    mixed: bool,
    after: ResBlock,
    /// In the order they run.
    scales: Vec<Scale>,
    norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    pub(super) fn load(from: &Loader<'_>, config: &CausalVaeConfig) -> Result<Decoder> {
        // Long, but a list: one entry for each part of the network.
        let channels = config.channels();
        let last = channels.len() - 1;
        let (finest, coarsest) = (channels[0], channels[last]);
        let middle = style(config.decoder_mid_resnet);
        let block = |name: &str| ResBlock::load(from, name, coarsest, coarsest, middle);
        let norm = style(CausalKind::Video).norm;
        let scale = |level: usize| -> Result<Scale> {
            let name = format!("decoder.up.{level}");
            let n = channels[level];
            let (mut input, mut blocks) = (channels[(level + 1).min(last)], vec![]);
            for i in 0..=config.num_res_blocks {
                let style = style(config.decoder_resnet_blocks[level]);
                blocks.push(ResBlock::load(from, &format!("{name}.block.{i}"), input, n, style)?);
                input = n;
            }
            let doubled = Geometry { upsample: true, ..Geometry::default() };
            let space = |end: &str, time| {
                let taps = Taps { channels: n, n, time, space: 3 };
                Conv::load(from, &format!("{name}.upsample.{end}"), taps, true, doubled).map(Some)
            };
            let space = match config.decoder_spatial_upsample[level] {
                SpatialUpsample::None => None,
                SpatialUpsample::Image => space("conv", None)?,
                SpatialUpsample::Video => space("conv.conv", Some(1))?,
            };
            let kind = config.decoder_temporal_upsample[level];
            Ok(Scale { blocks, space, time: TimeUp::load(from, &format!("{name}.time_upsample"), n, kind)? })
        };
        let post_quant = [config.embed_dim, config.z_channels];
        let post_quant = conv(from, "post_quant_conv", config.q_conv, post_quant, 1)?;
        Ok(Decoder {
            post_quant_conv: post_quant.scaled(1.0 / config.scaling_factor),
            conv_in: conv(from, "decoder.conv_in", config.decoder_conv_in, [config.z_channels, coarsest], 3)?,
            before: block("decoder.mid.block_1")?,
            attention: Attention::load(from, "decoder.mid.attn_1", coarsest, norm, NAMES)?,
            mixed: config.decoder_attention == CausalAttention::Mixed,
            after: block("decoder.mid.block_2")?,
            scales: (0..=last).rev().map(scale).collect::<Result<_>>()?,
            norm_out: Norm::load(from, "decoder.norm_out", finest, norm)?,
            conv_out: conv(from, "decoder.conv_out", config.decoder_conv_out, [finest, 3], 3)?,
        })
    }

    /// `[T, h, w, latent]` to `[frames, H, W, rgb]` in f32.
    pub(super) fn forward<'a>(&self, run: &Run<'a>, z: &Tensor) -> Result<Lent<'a>> {
        let x = self.post_quant_conv.forward(run, z)?;
        let x = self.conv_in.forward(run, &x)?;
        let x = self.before.forward(run, x)?;
        if self.mixed {
            self.attention.forward_mixed(run, &x)?;
        } else {
            self.attention.forward(run, &x)?;
        }
        let mut x = self.after.forward(run, x)?;
        for scale in &self.scales {
            x = ResBlock::chain(&scale.blocks, run, x)?;
            if let Some(conv) = &scale.space {
                x = conv.forward(run, &x)?;
            }
            if let Some(time) = &scale.time {
                x = time.forward(run, x)?;
            }
        }
        self.norm_out.then_conv_as(run, &x, &self.conv_out, DType::F32)
    }
}
