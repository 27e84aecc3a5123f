//! The shapes that models launch: a step of a transformer, and an autoencoder.

use super::shapes::*;
use crate::family;
use crate::family::opensora::OPENSORA;
use crate::model::vae::{SpatialConfig, TemporalConfig, VaeConfig};
use crate::model::{Geometry, StDiT3Config};
use crate::ops::conv::CHANNELS;
use crate::ops::params::ATTENTION_SHORT_QUERIES;
use crate::pipeline::{PipelineError, SizeOptions};

/// Latent frames of the longest published video: temporal attention is also measured at this length if the model's own frames are few.
const LONG_FRAMES: usize = 120;

/// Frames that the image autoencoder processes at a time.
const SLICE: usize = 4;

impl Shapes {
    /// A workload that the virtual GPU can handle: a step of `sprites`, and an autoencoder with few channels.
    ///
    /// # Errors
    /// None, unless the built-in model is damaged.
    pub fn small() -> Result<Shapes, PipelineError> {
        let source = family::sprites();
        let model =
            Shapes::of_stdit3(&family::sprites::shape(), &source.config().geometry(1), source.config().prompt_length);
        let vae = VaeConfig {
            spatial: SpatialConfig { block_out_channels: vec![32, 64], norm_num_groups: 8, ..Default::default() },
            temporal: TemporalConfig {
                filters: 32,
                num_groups: 8,
                channel_multipliers: vec![1, 2],
                temporal_downsample: vec![true],
                ..Default::default()
            },
            micro_frame_size: 4,
            ..Default::default()
        };
        Ok(model.and(Shapes::of_autoencoder(&vae, [8, 8])))
    }

    /// A step of Open-Sora 1.2 at a published resolution, 9:16 and 51 frames, and its autoencoder.
    ///
    /// # Errors
    /// An unknown resolution.
    pub fn opensora(resolution: &str) -> Result<Shapes, PipelineError> {
        let model = StDiT3Config::opensora_v1_2();
        let source = family::published(OPENSORA, &SizeOptions::published(resolution, 51))?;
        let [_, height, width] = source.config().latent;
        let steps = Shapes::of_stdit3(&model, &source.config().geometry(1), model.model_max_length);
        Ok(steps.and(Shapes::of_autoencoder(&VaeConfig::default(), [height, width])))
    }

    /// Every relevant launch of a step of an STDiT3 at `geometry`. If there are so few frames that a special kernel handles them, attention
    /// along many frames is included too, over the same number of rows.
    pub fn of_stdit3(model: &StDiT3Config, geometry: &Geometry, text: usize) -> Shapes {
        let [pt, ph, pw] = model.patch_size;
        let (frames, tokens) =
            (geometry.frames.div_ceil(pt), geometry.height.div_ceil(ph) * geometry.width.div_ceil(pw));
        let (batch, channels, hidden) = (geometry.batch(), model.hidden_size, model.mlp_hidden());
        let rows = batch * frames * tokens;
        let linear = |n, k, epilogue, modulate| LinearShape { m: rows, n, k, epilogue, modulate };
        let attention = |kind| AttentionShape {
            kind,
            batch,
            frames,
            tokens,
            heads: model.num_heads,
            head_dim: model.head_dim(),
            text,
        };
        let own = [AttentionKind::Spatial, AttentionKind::Temporal, AttentionKind::Cross].map(attention);
        let long = AttentionShape { frames: LONG_FRAMES, tokens: (frames * tokens).div_ceil(LONG_FRAMES), ..own[1] };
        let long = (frames <= ATTENTION_SHORT_QUERIES).then_some(long);
        let residual = |kind, strides| ResidualShape { kind, batch, frames, tokens, channels, strides };
        let Geometry { videos, frames: latent_frames, height, width, .. } = *geometry;
        Shapes {
            linear: vec![
                linear(3 * channels, channels, Epilogue::Bias, true),
                linear(channels, channels, Epilogue::Residual, false),
                linear(channels, channels, Epilogue::Bias, false),
                linear(hidden, channels, Epilogue::Gelu, true),
                linear(channels, hidden, Epilogue::Residual, false),
            ],
            attention: own.into_iter().chain(long).collect(),
            residual: vec![
                residual(ResidualKind::Probe, 0),
                residual(ResidualKind::Probe, 1),
                residual(ResidualKind::Fold, 0),
                residual(ResidualKind::Unfold, 0),
            ],
            norm: [NormKind::RowStats, NormKind::Modulate].map(|kind| NormShape { kind, rows, channels }).into(),
            sampler: vec![SamplerShape { videos, channels: model.in_channels, frames: latent_frames, height, width }],
            pack: [PackKind::Pack, PackKind::Unpack, PackKind::Add]
                .map(|kind| PackShape { kind, rows, channels })
                .into(),
            ..Default::default()
        }
    }

    /// The most frequent launches of decoding latents of `height` × `width`, and the encoder's downsampling: a chunk of the temporal
    /// autoencoder, a few frames of the spatial one.
    pub fn of_autoencoder(config: &VaeConfig, [height, width]: [usize; 2]) -> Shapes {
        let (spatial, temporal) = (&config.spatial, &config.temporal);
        let latents = config.latent_frames(config.micro_frame_size);
        let frames = latents * temporal.factor();
        let slice = frames.min(SLICE);
        let scaled = |by: usize| [slice, height * by, width * by];
        let (fine, full) = (config.spatial_factor() / 2, config.spatial_factor());
        let ends = |channels: &[usize]| (channels[0], channels[channels.len() - 1]);
        let (finest, coarsest) = ends(&spatial.block_out_channels);
        let second = spatial.block_out_channels.get(1).copied().unwrap_or(finest);
        let time: Vec<usize> = temporal.channel_multipliers.iter().map(|m| m * temporal.filters).collect();
        let (time_finest, time_coarsest) = ends(&time);
        let causal =
            |frames, channels, n| ConvShape { kernel_t: 3, ..ConvShape::image([frames, height, width], channels, n) };
        let norm = |kind, [frames, height, width]: [usize; 3], channels, groups, by_frame| GroupNormShape {
            kind,
            frames,
            height,
            width,
            channels,
            groups,
            by_frame,
        };
        let rgb = spatial.out_channels.next_multiple_of(CHANNELS);
        let residual = true;
        Shapes {
            conv: vec![
                ConvShape { residual, ..ConvShape::image(scaled(1), coarsest, coarsest) },
                ConvShape { upsample: true, ..ConvShape::image(scaled(fine.max(1)), second, second) },
                ConvShape { residual, ..ConvShape::image(scaled(full), finest, finest) },
                ConvShape::image(scaled(full), finest, rgb),
                ConvShape { stride: 2, ..ConvShape::image(scaled(full), finest, finest) },
                ConvShape { residual, ..causal(latents, time_coarsest, time_coarsest) },
                ConvShape { time_factor: 2, ..causal(latents, time_coarsest, 2 * time_coarsest) },
                ConvShape { residual, ..causal(frames, time_finest, time_finest) },
                ConvShape { stride_t: 2, ..causal(frames, time_finest, time_finest) },
            ],
            group_norm: vec![
                norm(GroupNormKind::Statistics, scaled(full), finest, spatial.norm_num_groups, true),
                norm(GroupNormKind::Apply, scaled(full), finest, spatial.norm_num_groups, true),
                norm(GroupNormKind::Statistics, [frames, height, width], time_finest, temporal.num_groups, false),
                norm(GroupNormKind::Apply, [frames, height, width], time_finest, temporal.num_groups, false),
            ],
            softmax: vec![SoftmaxShape { rows: height * width, columns: height * width }],
            ..Default::default()
        }
    }
}
