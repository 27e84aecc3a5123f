//! The launches of the autoencoder, for benchmarks.

use super::config::VaeConfig;
use crate::ops::conv::CHANNELS;
use crate::shapes::{ConvShape, GroupNormKind, GroupNormShape, Shapes, SoftmaxShape};

/// Frames that the image autoencoder processes at a time.
const SLICE: usize = 4;

impl VaeConfig {
    /// The most frequent launches of decoding latents of `height` × `width`, and the encoder's downsampling: a chunk of the temporal
    /// autoencoder, a few frames of the spatial one.
    pub fn launches(&self, [height, width]: [usize; 2]) -> Shapes {
        let (spatial, temporal) = (&self.spatial, &self.temporal);
        let latents = self.latent_frames(self.micro_frame_size);
        let frames = latents * temporal.factor();
        let slice = frames.min(SLICE);
        let scaled = |by: usize| [slice, height * by, width * by];
        let (fine, full) = (self.spatial_factor() / 2, self.spatial_factor());
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
