//! One run of the pipeline: everything that its work and its memory depend on, for counting, planning and loading.

use super::error::PipelineError;
use super::request::{Request, is_guided};
use super::source::ModelSource;
use crate::cache::{CacheConfig, Policy, check_fits};
use crate::model::Geometry;
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
    /// Whether every step runs an unconditional half too. At scale 1 guidance leaves the conditional prediction as it is, so that half is
    /// not run ([`is_guided`]).
    pub guided: bool,
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
            guided: is_guided(request.cfg_scale),
            cache: request.cache.clone(),
            packed_cache: request.packed_cache,
            record_all: request.record_all,
            caption_tokens: request.prompt.tokens().max(1),
            given: request.given.is_some(),
            encodes: false,
            decodes: request.decode,
        }
    }

    /// Members with separate decisions.
    pub fn members(&self) -> usize {
        match self.deciding {
            Deciding::Together => 1,
            Deciding::Apart => self.videos,
        }
    }

    /// Sizes of one member's videos.
    pub fn geometry(&self) -> Geometry {
        let geometry = self.source.config().geometry(self.videos / self.members());
        Geometry { guided: self.guided, frame_masked: self.given, ..geometry }
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

    /// A policy for one member.
    ///
    /// # Errors
    /// Cache settings that do not fit the model, and as [`Job::rows`].
    pub fn policy(&self) -> Result<Box<dyn Policy>, PipelineError> {
        let anatomy = self.source.anatomy();
        let frames = self.source.config().latent[0].div_ceil(self.source.shape().patch_frames);
        self.cache.validate_for(anatomy, frames)?;
        if let (CacheConfig::None, true) = (&self.cache, self.record_all) {
            return Ok(Box::new(self.source.presets(self.steps())?.recorder(anatomy, self.steps(), frames)));
        }
        let times: Vec<f32> = self.rows()?.iter().map(|row| row.time).collect();
        let policy = self.cache.policy(anatomy, &times);
        check_fits(&*policy, anatomy, frames)?;
        Ok(policy)
    }
}
