//! A prompt to latents and frames: ties text, noise, sampler and decoder together.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use super::report::{FlopCount, Report, Seconds, schedule_strip};
use super::source::{ModelSource, PipelineConfig};
use super::text::{Prompt, TextEncoder, Vocabulary};
use super::video::{Format, Frames, Latents, Metadata, Output};
use super::{PatchDecoder, PipelineError, noise};
use crate::cache::{CacheConfig, CacheError, Presets};
use crate::device::Device;
use crate::model::{Geometry, ModelError, StDiT3, StDiT3Config};
use crate::sampler::{Sampler, SamplerOptions, Schedule, StepEvent};
use crate::tensor::DType;

/// The largest guidance scale that is taken for one.
const MAX_CFG_SCALE: f32 = 100.0;

/// A model on a device, ready to generate.
pub struct Pipeline {
    config: PipelineConfig,
    source: ModelSource,
    vocabulary: Vocabulary,
    text: TextEncoder,
    model: StDiT3,
    decoder: PatchDecoder,
    device: Device,
}

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The words.
    pub prompt: Prompt,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub cfg_scale: f32,
    /// Seed of the initial noise.
    pub seed: u64,
    /// When to compute and when to reuse.
    pub cache: CacheConfig,
}

impl Request {
    /// A request with the model's defaults, seed 0 and the fast AdaCache preset.
    pub fn new(pipeline: &Pipeline, prompt: &str) -> Result<Request, PipelineError> {
        let steps = pipeline.config.default_steps;
        Ok(Request {
            prompt: pipeline.vocabulary.parse(prompt)?,
            steps,
            cfg_scale: pipeline.config.default_cfg_scale,
            seed: 0,
            cache: cache_config(&pipeline.source, "adacache-fast", false, steps)?,
        })
    }
}

/// The cache settings `name` stands for: a preset of the model, or the path of a `.toml` file. `moreg` adds the preset's Motion
/// Regularization where the settings have none.
///
/// Everything that can be wrong with them is found here, before the model is loaded.
pub fn cache_config(source: &ModelSource, name: &str, moreg: bool, steps: usize) -> Result<CacheConfig, PipelineError> {
    let frames = source.pipeline_config()?.latent[0];
    resolve_cache(&source.presets(steps)?, &source.model_config()?, frames, name, moreg, steps)
}

/// As [`cache_config`], for a model that generates `frames` latent frames.
pub fn resolve_cache(
    presets: &Presets,
    model: &StDiT3Config,
    frames: usize,
    name: &str,
    moreg: bool,
    steps: usize,
) -> Result<CacheConfig, PipelineError> {
    let mut config = if Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
        CacheConfig::from_file(Path::new(name))?
    } else {
        presets.resolve(name, moreg, model.depth, steps)?
    };
    match &mut config {
        CacheConfig::None if moreg => {
            let reason =
                "motion regularization changes AdaCache's decisions, and the cache is `none`; drop one of the two";
            return Err(CacheError::Invalid(reason.into()).into());
        }
        CacheConfig::None => {}
        CacheConfig::AdaCache(adacache) => {
            if moreg && adacache.moreg.is_none() {
                adacache.moreg = Some(presets.moreg_for(steps));
            }
            adacache.validate_for(model.depth, frames.div_ceil(model.patch_size[0]))?;
        }
    }
    Ok(config)
}

/// Checks the numbers of a request that need no model.
pub fn check_settings(steps: usize, cfg_scale: f32) -> Result<(), PipelineError> {
    Schedule::shifted(steps, 1.0)?;
    if !(cfg_scale.is_finite() && cfg_scale.abs() <= MAX_CFG_SCALE) {
        return Err(PipelineError::Setting(format!(
            "the guidance scale {cfg_scale} must be a number from -{MAX_CFG_SCALE} to {MAX_CFG_SCALE}; 1 is no guidance, 3 is usual"
        )));
    }
    Ok(())
}

/// A generated video.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Final latents.
    pub latents: Latents,
    /// The decoded video.
    pub frames: Frames,
    /// What the run did.
    pub report: Report,
    /// Every measurement of the run, for replaying policies offline.
    pub trace: crate::cache::trace::Trace,
}

impl Generation {
    /// What is written into the output about how it was made. It holds no times, so that equal runs give equal files.
    pub fn metadata(&self) -> Metadata {
        let r = &self.report;
        let facts = [
            ("model", r.model.clone()),
            ("seed", r.seed.to_string()),
            ("steps", r.steps.to_string()),
            ("computed", r.computed_steps.len().to_string()),
            ("cache", r.cache.clone()),
            ("schedule", schedule_strip(r.steps, &r.computed_steps)),
            ("cfg_scale", r.cfg_scale.to_string()),
            ("dtype", r.dtype.clone()),
        ];
        Metadata { prompt: r.prompt.clone(), facts: facts.map(|(name, value)| (name.to_owned(), value)).into() }
    }

    /// Writes frames or latents, as the output's format says.
    pub fn write(&self, output: &Output) -> Result<(), PipelineError> {
        match output.format() {
            Format::Safetensors => output.write_latents(&self.latents, &self.metadata())?,
            _ => output.write_frames(&self.frames, &self.metadata(), None)?,
        }
        Ok(())
    }
}

impl Pipeline {
    /// Loads all weights of `source` onto `device`, to compute in `dtype`.
    pub fn load(source: &ModelSource, device: &Device, dtype: DType) -> Result<Pipeline, PipelineError> {
        let config = source.pipeline_config()?;
        let vocabulary = source.vocabulary()?;
        let model_config = source.model_config()?;
        let (channels, caption) = (model_config.in_channels, model_config.caption_channels);
        if config.prompt_length > model_config.model_max_length {
            let reason = format!(
                "prompt_length {} is above the model's model_max_length {}",
                config.prompt_length, model_config.model_max_length
            );
            return Err(ModelError::Config { file: source.file_name("config.json"), reason }.into());
        }
        let text = TextEncoder::load(source.text_weights()?, vocabulary.len(), caption, config.prompt_length)?;
        let decoder = PatchDecoder::load(device, source.decoder_weights()?, channels, config.decoder_patch())?;
        let model = StDiT3::load(device, model_config, source.model_weights()?, dtype)?;
        Ok(Pipeline { config, source: source.clone(), vocabulary, text, model, decoder, device: device.clone() })
    }

    /// Sizes and defaults.
    pub fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// The words it knows.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Generates one video. `on_step` hears of every finished step and may stop the run.
    pub fn generate(
        &self,
        request: &Request,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<Generation, PipelineError> {
        check_settings(request.steps, request.cfg_scale)?;
        let start = Instant::now();
        self.device.reset_peak();
        let [frames, height, width] = self.config.latent;
        let resolution = ((self.config.height * self.config.width) as f64).sqrt();
        let geometry = Geometry::guided(1, self.config.latent, resolution, self.config.fps as f32);
        if let CacheConfig::AdaCache(config) = &request.cache {
            config.validate_for(self.model.config().depth, frames.div_ceil(self.model.config().patch_size[0]))?;
        }
        let policy = request.cache.policy(request.steps);
        let cache = policy.name().to_owned();
        // Guidance runs the prompt and the null caption, in this order, side by side.
        let null = &self.model.null_caption()[..self.config.prompt_length * self.model.config().caption_channels];
        let caption = self.model.caption(&[&self.text.encode(&request.prompt)[..], null].concat(), 2, None)?;
        let latents = noise(request.seed, self.model.config().in_channels * frames * height * width);
        let options = SamplerOptions {
            schedule: Schedule::shifted(request.steps, self.config.timestep_shift)?,
            cfg_scale: request.cfg_scale,
            snapshots: vec![],
        };
        let sampler = Sampler::new(&self.model, &caption, geometry, &latents, None, policy, options)?;
        let output = sampler.run(on_step)?;

        let rgb = self.decoder.decode(&output.latents, output.shape)?;
        let [_, channels, ..] = output.shape;
        let computed_steps = output.computed_steps();
        let report = Report {
            model: self.config.name.clone(),
            device: self.device.info().label(),
            dtype: self.model.dtype().to_string(),
            steps: request.steps,
            decisions: output.decisions,
            seconds: Seconds {
                total: start.elapsed().as_secs_f64(),
                denoise: output.seconds,
                per_step: output.seconds_per_step,
            },
            cache_bytes: output.cache_bytes,
            cache_bytes_unfolded: output.cache_bytes_unfolded,
            peak_device_bytes: self.device.peak_bytes(),
            seed: request.seed,
            prompt: request.prompt.to_string(),
            cache,
            cfg_scale: request.cfg_scale,
            flops: FlopCount::new(output.flops, computed_steps.len(), request.steps),
            computed_steps,
        };
        Ok(Generation {
            latents: Latents { shape: [channels, frames, height, width], values: output.latents },
            frames: Frames { width: self.config.width, height: self.config.height, fps: self.config.fps, rgb },
            report,
            trace: output.trace,
        })
    }
}
