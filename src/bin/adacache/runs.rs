//! What the commands that make videos share: the options of many with one model, a plain request, the weights' hash.

use std::time::Duration;

use adacache::cache::CacheConfig;
use adacache::device::Device;
use adacache::family;
use adacache::pipeline::{
    self, Guidance, ModelSource, OpenOptions, Pipeline, Prompt, PromptText, Request, TextOptions, VideoSize,
};
use adacache::sampler::FlowSampler;
use adacache::tensor::DType;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{device, interrupt};

/// The model and how it runs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Model: sprites, wan2.1-t2v-1.3b, opensora-v1.2, a folder, …
    #[arg(long, default_value = "sprites")]
    pub(crate) model: String,
    /// Size in pixels [default: the model's]
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Frames of each video [default: the model's]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Sampler (Wan): unipc, unipc-diffusers, dpm++, euler or euler-diffusers [default: unipc]
    #[arg(long, value_name = "NAME")]
    sampler: Option<FlowSampler>,
    /// Timestep shift (Wan) [default: the model's]
    #[arg(long, value_name = "X")]
    shift: Option<f64>,
    /// Denoising steps [default: the model's]
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale; of two experts both, or X,Y [default: the model's]
    #[arg(long, allow_negative_numbers = true)]
    cfg_scale: Option<Guidance>,
    #[command(flatten)]
    device: device::Options,
    /// Element type to compute in: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    pub(crate) dtype: DType,
}

/// How every video is made.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Denoising steps.
    pub(crate) steps: usize,
    /// Guidance scales.
    pub(crate) cfg_scale: Guidance,
}

impl Options {
    /// Opens the model for videos of the size asked for.
    pub(crate) fn source(&self) -> anyhow::Result<ModelSource> {
        let options = OpenOptions {
            pixels: self.size.as_deref().map(VideoSize::sides).transpose()?,
            frames: self.frames,
            sampler: self.sampler,
            shift: self.shift,
            ..OpenOptions::default()
        };
        Ok(family::open(&self.model, &options)?)
    }

    /// Steps and guidance: those asked for, else those of `source`.
    pub(crate) fn settings(&self, source: &ModelSource) -> anyhow::Result<Settings> {
        let config = source.config();
        let steps = self.steps.unwrap_or(config.default_steps);
        let cfg_scale = self.cfg_scale.unwrap_or(config.default_cfg_scale);
        pipeline::check_settings(source, steps, cfg_scale)?;
        Ok(Settings { steps, cfg_scale })
    }

    /// Opens the device.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        self.device.open()
    }

    /// Embeds prompts on `device`: before the model is loaded, which the text encoder makes room for.
    pub(crate) fn embed(
        &self,
        source: &ModelSource,
        device: &Device,
        prompts: &[PromptText],
    ) -> anyhow::Result<Vec<Prompt>> {
        Ok(source.embed(prompts, &TextOptions::default(), device, self.dtype, &mut |_, _| interrupt::go_on())?)
    }

    /// Loads the model onto `device`.
    pub(crate) fn load(&self, source: &ModelSource, device: &Device) -> anyhow::Result<Pipeline> {
        Ok(Pipeline::load(source, device, self.dtype)?)
    }
}

impl Settings {
    /// One video, decoded.
    pub(crate) fn request(self, prompt: Prompt, seed: u64, cache: CacheConfig) -> Request {
        let Settings { steps, cfg_scale } = self;
        let (packed_cache, record_all) = (false, false);
        Request {
            prompt,
            steps,
            cfg_scale,
            seed,
            cache,
            packed_cache,
            record_all,
            noise: None,
            given: None,
            decode: true,
        }
    }
}

/// SHA-256 of the model's files. That of gigabytes takes a while, and says so.
pub(crate) fn weights_hash(source: &ModelSource, quiet: bool) -> anyhow::Result<String> {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    bar.set_style(ProgressStyle::with_template(
        "{spinner} hashing the weights, once  {bytes}/{total_bytes}  {eta} left",
    )?);
    let hash = pipeline::weights_hash(source, &mut |done, all| {
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        interrupt::go_on()
    });
    bar.finish_and_clear();
    Ok(hash?)
}
