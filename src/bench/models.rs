//! The shapes that models launch, as their families name them.

use crate::family;
use crate::family::opensora::OPENSORA;
use crate::model::vae::{SpatialConfig, TemporalConfig, VaeConfig, WanVaeConfig};
use crate::pipeline::{OpenOptions, PipelineError};
use crate::shapes::Shapes;

impl Shapes {
    /// A workload that the virtual GPU can handle: a step of `sprites`, and autoencoders with few channels.
    ///
    /// # Errors
    /// None, unless the built-in model is damaged.
    pub fn small() -> Result<Shapes, PipelineError> {
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
        let wan = WanVaeConfig::sized([16, 16], 16, true);
        Ok(family::sprites().launches()?.and(vae.launches([8, 8])).and(wan.launches([4, 4])))
    }

    /// The launches of a family's own model as published, at a published resolution, 9:16 and 51 frames.
    ///
    /// # Errors
    /// An unknown model or resolution.
    pub fn published(model: &str, resolution: &str) -> Result<Shapes, PipelineError> {
        family::published(model, &OpenOptions::published(resolution, 51))?.launches()
    }

    /// [`Shapes::published`] of Open-Sora 1.2, the usual workload on a GPU.
    ///
    /// # Errors
    /// An unknown resolution.
    pub fn opensora(resolution: &str) -> Result<Shapes, PipelineError> {
        Shapes::published(OPENSORA, resolution)
    }
}
