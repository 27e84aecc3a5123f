//! What to generate, and the checks of its settings.

use std::sync::Arc;

use super::conditioning::Given;
use super::error::PipelineError;
use super::guidance::Guidance;
use super::prompt::Prompt;
use super::source::{ModelSource, PipelineConfig};
use crate::cache::{CacheConfig, Named};
use crate::media::Latents;
use crate::sampler::{MOST_STEPS, ScheduleError};

/// Up to so many steps, a checkpoint of a family that has distilled ones is taken for one of them.
const FEW_STEPS: usize = 8;

/// The largest accepted guidance scale.
const MAX_CFG_SCALE: f32 = 100.0;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The words and their embedding.
    pub prompt: Prompt,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scales.
    pub cfg_scale: Guidance,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Initial noise in place of the seed's.
    pub noise: Option<Arc<Latents>>,
    /// When to compute and when to reuse.
    pub cache: CacheConfig,
    /// Whether residuals are kept in 8 bits (e4m3 with one scale per token) instead of the model's type.
    pub packed_cache: bool,
    /// Whether a run that computes every step measures what every preset of the model would, for its trace.
    pub record_all: bool,
    /// Given frames, which are kept or edited.
    pub given: Option<Given>,
    /// Whether the latents are decoded to pixels.
    pub decode: bool,
}

/// The cache settings that `name` refers to: a preset of the model, or the path of a `.toml` file. `moreg` adds the preset's Motion
/// Regularization if the settings have none.
///
/// All errors in them are found here, before the model is loaded.
pub fn cache_config(source: &ModelSource, name: &str, moreg: bool, steps: usize) -> Result<CacheConfig, PipelineError> {
    resolve_cache(source, source.config().latent[0], name, moreg, steps)
}

/// What to tell about the preset `name` in a run of `steps` steps, if its constants were fitted to another number of steps or another shift.
///
/// # Errors
/// A presets file that cannot be read.
pub fn cache_caution(source: &ModelSource, name: &str, steps: usize) -> Result<Option<String>, PipelineError> {
    Ok(source.presets(steps)?.caution(Named::read(name).name, steps))
}

/// The cache of a run of `steps` steps for which none is named: the fast AdaCache preset, or none where a checkpoint is taken for a distilled
/// one, whose few steps leave nothing to reuse.
pub fn default_cache(config: &PipelineConfig, steps: usize) -> &'static str {
    if config.sampling.is_some() && steps <= FEW_STEPS { "none" } else { "adacache-fast" }
}

/// As [`cache_config`], for videos of `frames` latent frames.
pub fn resolve_cache(
    source: &ModelSource,
    frames: usize,
    name: &str,
    moreg: bool,
    steps: usize,
) -> Result<CacheConfig, PipelineError> {
    let presets = source.presets(steps)?;
    let frames = frames.div_ceil(source.shape().patch_frames);
    let config = presets.configuration(name, moreg, source.anatomy(), steps, frames)?;
    source.solver(config.steps(steps))?;
    Ok(config)
}

/// Checks the numbers of a request.
///
/// # Errors
/// Steps or guidance scales out of their range; two scales for a model of one transformer.
pub fn check_settings(source: &ModelSource, steps: usize, cfg_scale: Guidance) -> Result<(), PipelineError> {
    if !(1..=MOST_STEPS).contains(&steps) {
        return Err(ScheduleError::Steps(steps).into());
    }
    if let Some(scale) = cfg_scale.scales().iter().find(|scale| !(scale.is_finite() && scale.abs() <= MAX_CFG_SCALE)) {
        return Err(PipelineError::Setting(format!(
            "the guidance scale {scale} must be a number from -{MAX_CFG_SCALE} to {MAX_CFG_SCALE}; 1 is no guidance and half the work, 3 is usual"
        )));
    }
    let experts = source.experts().len();
    if cfg_scale.scales().len() > 1 && experts != cfg_scale.scales().len() {
        return Err(PipelineError::Setting(format!(
            "the guidance scales {cfg_scale} are of two experts, and the model has {experts}: give one scale"
        )));
    }
    // Before anything that takes long: a text encoder, for example.
    source.solver(steps).map(drop)
}
