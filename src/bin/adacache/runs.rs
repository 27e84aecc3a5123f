//! What the commands that make videos share: the options of many with one model, a plain request, the weights' hash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adacache::cache::CacheConfig;
use adacache::compare::Finished;
use adacache::device::Device;
use adacache::family;
use adacache::media::{Frames, Media, Output, write_file};
use adacache::pipeline::{
    self, Guidance, ModelSource, OpenOptions, Pipeline, Prompt, PromptText, Report, Request, Settings as Kept,
    TextOptions, VideoSize,
};
use adacache::sampler::FlowSampler;
use adacache::tensor::DType;
use anyhow::{Context, bail};
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
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    sampler: Option<FlowSampler>,
    /// Timestep shift (Wan) [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    shift: Option<f64>,
    /// Denoising steps [default: the model's]
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale; of two experts both, or X,Y [default: the model's]
    #[arg(long, allow_negative_numbers = true)]
    cfg_scale: Option<Guidance>,
    /// Multiply in 8 bits (Hopper, bf16 or f16): e4m3, one scale per row
    #[arg(long, hide_short_help = true)]
    fp8_weights: bool,
    /// Decode in the published tiles (Open-Sora-Plan), which take less memory and change the picture
    #[arg(long, hide_short_help = true)]
    vae_tiling: bool,
    /// Decode with this tiny autoencoder (Wan), a file of TAEHV: softer, in a small part of the time
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tiny_vae: Option<PathBuf>,
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
            fp8_weights: self.fp8_weights,
            vae_tiling: self.vae_tiling,
            tiny_vae: self.tiny_vae.clone(),
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

    /// The options of `generate` that these are, for the reports of runs.
    pub(crate) fn arguments(&self) -> Arguments {
        let mut all = model_argument(&self.model);
        let given = [
            ("size", self.size.clone()),
            ("sampler", self.sampler.map(|sampler| sampler.to_string())),
            ("shift", self.shift.map(|shift| shift.to_string())),
        ];
        all.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), vec![value?]))));
        all.extend(self.tiny_vae.as_ref().map(|path| ("tiny-vae".to_owned(), vec![absolute(path)])));
        let flags = [("fp8-weights", self.fp8_weights), ("vae-tiling", self.vae_tiling)];
        all.extend(
            flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| (flag.to_owned(), vec![String::new()])),
        );
        all
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
        pipeline::check_products(source, device, self.dtype)?;
        self.settings(source)?.embed(source, device, self.dtype, prompts)
    }

    /// Loads the model onto `device`.
    pub(crate) fn load(&self, source: &ModelSource, device: &Device) -> anyhow::Result<Pipeline> {
        Ok(Pipeline::load(source, device, self.dtype)?)
    }
}

impl Settings {
    /// Embeds prompts on `device`, for the halves of guidance that run.
    pub(crate) fn embed(
        self,
        source: &ModelSource,
        device: &Device,
        dtype: DType,
        prompts: &[PromptText],
    ) -> anyhow::Result<Vec<Prompt>> {
        let options = TextOptions { unguided: !self.cfg_scale.is_guided(), ..TextOptions::default() };
        Ok(source.embed(prompts, &options, device, dtype, &mut |_, _| interrupt::go_on())?)
    }

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

/// Options of `generate`, by name.
pub(crate) type Arguments = BTreeMap<String, Vec<String>>;

/// The path of a file, from wherever the run is repeated.
pub(crate) fn absolute(path: &Path) -> String {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// `--model`, from wherever it is repeated.
pub(crate) fn model_argument(model: &str) -> Arguments {
    let folder = Path::new(model);
    let folder = fs::canonicalize(folder).ok().filter(|folder| folder.is_dir());
    let model = folder.map_or_else(|| model.to_owned(), |folder| folder.display().to_string());
    Arguments::from([("model".into(), vec![model])])
}

/// The `shared` ones, and those of one run.
pub(crate) fn run_arguments(shared: &Arguments, asked: &Kept) -> Arguments {
    let own = [
        ("frames", asked.frames.to_string()),
        ("steps", asked.steps.to_string()),
        ("cfg-scale", asked.cfg_scale.to_string()),
        ("seed", asked.seed.to_string()),
        ("dtype", asked.dtype.to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), vec![value]));
    shared.clone().into_iter().chain(own).collect()
}

/// The file with the trace of a kept run.
pub(crate) const TRACE: &str = "trace.jsonl";

/// The finished run in `folder`, made now if it is not there; nothing if the user stopped it. `shared`: the options that chose the model,
/// with which `generate --like` repeats the run.
pub(crate) fn finish(
    pipeline: &Pipeline,
    request: &Request,
    asked: &Kept,
    shared: &Arguments,
    folder: &Path,
) -> anyhow::Result<Option<Finished>> {
    let (report, settings) = (folder.join("report.json"), folder.join("settings.json"));
    let frames = folder.join("frames");
    let latents = folder.join("latents.safetensors");
    // The report is written last.
    if report.is_file() {
        let made = fs::read_to_string(&settings).with_context(|| format!("cannot read {}", settings.display()))?;
        check_kept(folder, &made, asked)?;
    } else {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let result = pipeline.generate(request, &mut |_| interrupt::go_on());
        let mut generation = match result {
            Err(error) if error.is_stop() => return Ok(None),
            other => other.with_context(|| format!("cannot generate `{}`", request.prompt))?,
        };
        generation.report.identify(asked);
        generation.report.arguments = run_arguments(shared, asked);
        interrupt::shielded(|| -> anyhow::Result<()> {
            generation.write(&Output::new(format!("{}/", frames.display()))?)?;
            generation.write(&Output::new(&latents)?)?;
            let mut trace = vec![];
            generation.trace.write(&mut trace)?;
            write_file(&folder.join(TRACE), &trace)?;
            write_file(&settings, asked.to_json().as_bytes())?;
            Ok(write_file(&report, serde_json::to_string_pretty(&generation.report)?.as_bytes())?)
        })?;
    }
    let text = fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let damaged =
        || format!("the kept run in {} is damaged: remove that folder, and it is made again", folder.display());
    let report: Report = serde_json::from_str(&text).with_context(damaged)?;
    let (frames, latents) = (Media::read(&frames).with_context(damaged)?, Media::read(&latents).with_context(damaged)?);
    let whole =
        |frames: &Frames| (frames.count(), frames.width, frames.height) == (asked.frames, asked.width, asked.height);
    match (frames, latents) {
        (Media::Frames(frames), Media::Latents(latents)) if whole(&frames) => {
            Ok(Some(Finished { report, frames, latents }))
        }
        _ => bail!(damaged()),
    }
}

/// Whether the run in `folder`, made with the settings in `made`, is the one asked for.
fn check_kept(folder: &Path, made: &str, asked: &Kept) -> anyhow::Result<()> {
    let (folder, advice) = (folder.display(), "choose another --out folder, or remove it");
    let Some(made) = Kept::read(made) else {
        bail!("{folder} is of an older version and does not say what its run depends on, so it is not used: {advice}");
    };
    let differences: Vec<String> = made.differences(asked).into_iter().map(|(_, words)| words).collect();
    if !differences.is_empty() {
        bail!("{folder} was made with other settings ({}): {advice}", differences.join("; "));
    }
    Ok(())
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
