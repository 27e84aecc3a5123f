//! A prompt to latents and frames: ties text, noise, sampler and decoder together.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use super::report::{FlopCount, Report, Seconds, schedule_strip};
use super::source::{ModelSource, PipelineConfig};
use super::text::{Prompt, TextEncoder, Vocabulary};
use super::video::{Format, Frames, Latents, Metadata, Output};
use super::{Decoder, PatchDecoder, PipelineError, noise};
use crate::cache::{CacheConfig, CacheError, ComputeAll, Policy, Presets};
use crate::device::Device;
use crate::model::vae::Progress;
use crate::model::{Geometry, ModelError, StDiT3, StDiT3Config};
use crate::sampler::{Member, Sampler, SamplerOptions, Schedule, StepEvent};
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
    decoder: Decoder,
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
    /// Whether residuals are kept in 8 bits (e4m3 with a scale a token) instead of the model's type.
    pub packed_cache: bool,
    /// Whether a run that computes every step measures what any policy would, for its trace.
    pub record_all: bool,
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
            packed_cache: false,
            record_all: false,
        })
    }
}

/// For whom a policy decides in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Deciding {
    /// For all videos together, as published: norms run over the whole batch.
    #[default]
    Together,
    /// For each video by itself: each is computed and reused as it would be alone.
    Apart,
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
    if moreg {
        let CacheConfig::AdaCache(adacache) = &mut config else {
            let reason = format!(
                "motion regularization changes AdaCache's decisions, and the cache is `{name}`; drop one of the two"
            );
            return Err(CacheError::Invalid(reason).into());
        };
        adacache.moreg.get_or_insert_with(|| presets.moreg_for(steps));
    }
    config.validate_for(model.depth, frames.div_ceil(model.patch_size[0]))?;
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
        let decoder = match source.vae() {
            Some(folder) => Decoder::video(device, &folder, dtype)?,
            None => {
                let patch = config.decoder_patch();
                Decoder::Patch(PatchDecoder::load(device, source.decoder_weights()?, channels, patch)?)
            }
        };
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
        let mut generations = self.generate_batch(std::slice::from_ref(request), Deciding::Together, on_step)?;
        Ok(generations.swap_remove(0))
    }

    /// Generates several videos in one run; all but their prompts and seeds has to be the same.
    pub fn generate_batch(
        &self,
        requests: &[Request],
        deciding: Deciding,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, PipelineError> {
        self.generate_telling(requests, deciding, on_step, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`Pipeline::generate_batch`]; `on_frame` hears of decoded frames, and of how many there are, and may stop the run too.
    pub fn generate_telling(
        &self,
        requests: &[Request],
        deciding: Deciding,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
        on_frame: Progress<'_>,
    ) -> Result<Vec<Generation>, PipelineError> {
        let Some(request) = requests.first() else { return Ok(vec![]) };
        check_settings(request.steps, request.cfg_scale)?;
        let alike =
            |r: &Request| Request { prompt: request.prompt.clone(), seed: request.seed, ..r.clone() } == *request;
        if !requests.iter().all(alike) {
            return Err(PipelineError::Setting("the videos of a batch differ in more than prompt and seed".into()));
        }
        let start = Instant::now();
        self.device.reset_peak();
        let config = self.model.config();
        let [frames, height, width] = self.config.latent;
        let resolution = ((self.config.height * self.config.width) as f64).sqrt();
        let geometry = Geometry::guided(requests.len(), self.config.latent, resolution, self.config.fps as f32);
        let token_frames = frames.div_ceil(config.patch_size[0]);
        request.cache.validate_for(config.depth, token_frames)?;
        let steps = request.cache.steps(request.steps);
        // Guidance runs the prompts and as many null captions, in this order, side by side.
        let null = &self.model.null_caption()[..self.config.prompt_length * config.caption_channels];
        let encode = |requests: &[Request]| {
            let mut captions: Vec<f32> = requests.iter().flat_map(|r| self.text.encode(&r.prompt)).collect();
            requests.iter().for_each(|_| captions.extend(null));
            self.model.caption(&captions, 2 * requests.len(), None)
        };
        let decided = match deciding {
            Deciding::Together => requests.len(),
            Deciding::Apart => 1,
        };
        let captions = requests.chunks(decided).map(encode).collect::<Result<Vec<_>, _>>()?;
        let recording = match request.cache {
            CacheConfig::None if request.record_all => Some(self.source.presets(steps)?.probed_blocks(config.depth)),
            _ => None,
        };
        let policy = || -> Box<dyn Policy> {
            match &recording {
                Some(blocks) => Box::new(ComputeAll::recording(blocks, token_frames)),
                None => request.cache.policy(steps),
            }
        };
        let members: Vec<Member> = captions.iter().map(|caption| Member { caption, policy: policy() }).collect();
        let cache = members[0].policy.name().to_owned();
        let elements = config.in_channels * frames * height * width;
        let latents: Vec<f32> = requests.iter().flat_map(|r| noise(r.seed, elements)).collect();
        let options = SamplerOptions {
            schedule: Schedule::shifted(steps, self.config.timestep_shift)?,
            cfg_scale: request.cfg_scale,
            snapshots: vec![],
            packed_cache: request.packed_cache,
        };
        let output = Sampler::new(&self.model, members, geometry, &latents, None, options)?.run(on_step)?;

        let video_frames = self.config.video_frames.unwrap_or(frames);
        let rgb = self.decoder.decode(&output.latents, output.shape, video_frames, on_frame)?;
        let seconds = Seconds {
            total: start.elapsed().as_secs_f64(),
            denoise: output.seconds,
            per_step: output.seconds_per_step.clone(),
        };
        let videos = requests.iter().zip(output.latents.chunks(elements)).zip(rgb.chunks(rgb.len() / requests.len()));
        let generation = |i: usize, request: &Request, latents: &[f32], rgb: &[u8]| {
            let member = &output.members[i / decided];
            let computed_steps = member.computed_steps();
            let report = Report {
                model: self.config.name.clone(),
                device: self.device.info().label(),
                dtype: self.model.dtype().to_string(),
                steps,
                decisions: member.decisions.clone(),
                seconds: seconds.clone(),
                videos: requests.len(),
                decided_together: decided,
                cache_bytes: output.cache_bytes,
                cache_bytes_unfolded: output.cache_bytes_unfolded,
                cache_error: output.cache_error,
                activation_bytes: output.activation_bytes,
                peak_device_bytes: self.device.peak_bytes(),
                seed: request.seed,
                prompt: request.prompt.to_string(),
                cache: cache.clone(),
                cfg_scale: request.cfg_scale,
                flops: FlopCount::new(output.flops, computed_steps.len(), steps),
                computed_steps,
            };
            let shape = [config.in_channels, frames, height, width];
            let (width, height, fps) = (self.config.width, self.config.height, self.config.fps);
            Generation {
                latents: Latents { shape, values: latents.to_vec() },
                frames: Frames { width, height, fps, rgb: rgb.to_vec() },
                report,
                trace: member.trace.clone(),
            }
        };
        Ok(videos.enumerate().map(|(i, ((request, latents), rgb))| generation(i, request, latents, rgb)).collect())
    }
}
