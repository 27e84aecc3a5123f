//! One run of the pipeline: everything that its work and its memory depend on, for counting, planning and loading.

use super::error::PipelineError;
use super::guidance::Guidance;
use super::request::{Request, cache_config, default_cache};
use super::source::ModelSource;
use crate::cache::CacheConfig;
use crate::sampler::Row;
use crate::tensor::DType;

/// The scope of a policy's decisions in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Deciding {
    /// One decision for all videos together, as published: norms run over the whole batch.
    #[default]
    Together,
    /// One decision per video: each is computed and reused as it would be alone.
    Apart,
}

/// Videos generated together.
#[derive(Clone)]
pub struct Job {
    /// The model, for videos of one size.
    pub source: ModelSource,
    /// Element type of weights and activations.
    pub dtype: DType,
    /// The number of videos generated together.
    pub videos: usize,
    /// Whether decisions are made for all videos together or for each.
    pub deciding: Deciding,
    /// Denoising steps, as requested.
    pub steps: usize,
    /// Guidance scales. At scale 1 guidance leaves the conditional prediction as it is, so the unconditional half is not run
    /// ([`is_guided`](super::is_guided)).
    pub guidance: Guidance,
    /// When to compute and when to reuse.
    pub cache: CacheConfig,
    /// Whether residuals are kept in 8 bits.
    pub packed_cache: bool,
    /// Whether a run that computes every step measures what every preset of the model would.
    pub record_all: bool,
    /// The maximum number of caption tokens per sample.
    pub caption_tokens: usize,
    /// Whether there are given frames.
    pub given: bool,
    /// Whether pixels are encoded: given pictures or videos, or the end of a part of a long video.
    pub encodes: bool,
    /// Whether the latents are decoded to pixels.
    pub decodes: bool,
}

impl Job {
    /// A job for one video as in `request`, by `source` in `dtype`.
    pub fn new(source: &ModelSource, dtype: DType, request: &Request) -> Job {
        Job {
            source: source.clone(),
            dtype,
            videos: 1,
            deciding: Deciding::Together,
            steps: request.steps,
            guidance: request.cfg_scale,
            cache: request.cache.clone(),
            packed_cache: request.packed_cache,
            record_all: request.record_all,
            caption_tokens: request.prompt.tokens().max(1),
            given: request.given.is_some(),
            encodes: false,
            decodes: request.decode,
        }
    }

    /// A job for one video by `source` with its own settings, and a prompt as long as it reads.
    ///
    /// # Errors
    /// A presets file that cannot be read.
    pub fn usual(source: &ModelSource, dtype: DType) -> Result<Job, PipelineError> {
        let config = source.config();
        let steps = config.default_steps;
        Ok(Job {
            source: source.clone(),
            dtype,
            videos: 1,
            deciding: Deciding::Together,
            steps,
            guidance: config.default_cfg_scale,
            cache: cache_config(source, default_cache(config, steps), false, steps)?,
            packed_cache: false,
            record_all: false,
            caption_tokens: config.prompt_length,
            given: false,
            encodes: false,
            decodes: true,
        })
    }

    /// Members with separate decisions.
    pub fn members(&self) -> usize {
        match self.deciding {
            Deciding::Together => 1,
            Deciding::Apart => self.videos,
        }
    }

    /// Denoising steps that actually run.
    pub fn steps(&self) -> usize {
        self.cache.steps(self.steps)
    }

    /// The values of every step from the model's solver.
    ///
    /// # Errors
    /// A number of steps for which there is no schedule.
    pub fn rows(&self) -> Result<Vec<Row>, PipelineError> {
        Ok(self.source.solver(self.steps())?.rows())
    }
}
