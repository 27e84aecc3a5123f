//! `adacache generate`: one prompt, or a file of prompts, to videos.

mod conditions;
mod results;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adacache::cache::preset_names;
use adacache::family;
use adacache::media::{Format, Output, check_file_writable};
use adacache::pipeline::{
    self, Deciding, Generation, Given, Job, Looping, MaskStrategy, MemorySize, ModelSource, Parts, Pipeline, Prompt,
    PromptText, Request, Scores, SizeOptions, TextOptions, VideoSize, schedule_strip,
};
use adacache::profile::{Point, Profile};
use adacache::sampler::StepEvent;
use adacache::tensor::DType;
use adacache::text::Embedding;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::conditions::{conditions, given};
use self::results::{summaries, timeline, write};
use crate::{device, interrupt};

/// Generate a video from a prompt
///
/// The built-in model `sprites` takes six words: size, color, shape, motion, speed and background. Example:
/// `adacache generate "large red circle bouncing fast navy"`. Open-Sora takes any text. Fetch it once with
/// `adacache pull opensora-v1.2`, then run `adacache generate --model opensora-v1.2 --resolution 480p "a white cat walking through tall grass at sunset"`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prompt; quotes are optional
    #[arg(required_unless_present = "prompts")]
    prompt: Vec<String>,
    /// Model: `sprites`, `opensora-v1.2`, or the path of a folder with one of them
    #[arg(long, default_value = "sprites")]
    model: String,
    /// Size of the video in pixels, multiples of 8 [default: the model's]
    ///
    /// The built-in model was trained on 64x64 pixels and 16 frames. It runs at other sizes, but draws badly there.
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// 240p, 360p, 480p or 720p (Open-Sora) [default: 240p]
    #[arg(long, conflicts_with = "size")]
    resolution: Option<String>,
    /// Height to width: 9:16 (landscape), 16:9, 3:4, 4:3, 1:1, 1:2, 2:1, or a published ratio such as 0.66 (Open-Sora) [default: 9:16]
    #[arg(long, value_name = "H:W", conflicts_with = "size")]
    aspect: Option<String>,
    /// Frames of the video [default: the model's]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    #[arg(long, default_value = "adacache-fast", value_name = "PRESET|FILE.toml", help = cache_help())]
    cache: String,
    /// Motion regularization: compute more steps of videos with more motion
    #[arg(long)]
    moreg: bool,
    /// Denoising steps [default: the model's]
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale [default: the model's]
    #[arg(long, allow_negative_numbers = true)]
    cfg_scale: Option<f32>,
    /// Seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: device::Options,
    /// Element type to compute in: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: DType,
    /// Output: FILE.mp4, FILE.gif, FILE.safetensors (latents) or FOLDER/ (PNG frames) [default: PROMPT.mp4]
    ///
    /// With --prompts, a pattern such as videos/{}.gif, where {} stands for the line number and the prompt, or a FOLDER/ for .mp4
    /// files [default: {}.mp4].
    #[arg(long, value_name = "PATH")]
    out: Option<String>,
    /// Write a report of the run as JSON (with --prompts or --loop: a list of reports)
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Record every measurement of the run, for `adacache replay`; with --cache none, the measurements of all policies
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "prompts")]
    trace: Option<PathBuf>,
    /// Record every launch, step and decision as a Chrome trace for ui.perfetto.dev; on a GPU also power and clocks
    #[arg(long, value_name = "FILE.json", conflicts_with = "prompts")]
    profile: Option<PathBuf>,
    /// File with one prompt per line; empty lines, lines starting with # and prompts whose output exists are skipped
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Number of videos of --prompts to generate together
    #[arg(long, default_value_t = 1, value_name = "N", requires = "prompts", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Decide for each video of a batch separately; by default the whole batch is computed or reused, as published
    #[arg(long, requires = "prompts")]
    per_sample: bool,
    /// Embedding of the prompt, instead of running the text encoder (Open-Sora): tensor `embedding` [tokens, channels]
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "prompts")]
    embeddings: Option<PathBuf>,
    /// Aesthetic score to append to the prompt, or `none` (Open-Sora)
    #[arg(long, default_value = "6.5", value_name = "SCORE", value_parser = score)]
    aesthetic: Score,
    /// Motion score to append to the prompt, or `none` (Open-Sora)
    #[arg(long, default_value = "none", value_name = "SCORE", value_parser = score)]
    motion: Score,
    /// Camera motion to append to the prompt, such as `pan left` (Open-Sora)
    #[arg(long, value_name = "WORDS")]
    camera: Option<String>,
    /// Picture (.png, .jpg, .webp) that the video begins with (Open-Sora)
    ///
    /// The last 17 frames begin with the second --image; further ones are spread in between.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "mask_strategy"])]
    image: Vec<PathBuf>,
    /// Video (.mp4, .gif, folder of pictures), picture or latents (.safetensors) to take frames from; repeatable (Open-Sora)
    ///
    /// Pictures and videos are scaled to fill the frame, cropped equally on both sides, and encoded. Latents are used as they are.
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Where the references go: PART,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT in latent frames; separate several by semicolons
    ///
    /// `0` gives the first frame of the first reference: image to video. `0,0,-5,0,5` continues a video from its last 5 latent frames (17
    /// frames), `0;0,1,0,-1,1` connects two pictures. EDIT above 0 regenerates the given frames, fully at 1. Starts are rounded to
    /// a multiple of 5. PART is 0 except with --loop.
    #[arg(long, value_name = "LIST", default_value = "0", requires = "reference")]
    mask_strategy: MaskStrategy,
    /// Generate a long video of N parts of --frames each; every part begins with the end of the one before (Open-Sora)
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000),
          conflicts_with_all = ["trace", "profile"])]
    parts: u16,
    /// Latent frames that a part of --loop takes from the one before, a multiple of 5 [default: 5, which is 17 frames]
    #[arg(long, value_name = "N", requires = "parts")]
    loop_frames: Option<usize>,
    /// How much of these frames is regenerated: 0 keeps them, 1 regenerates them fully [default: 0]
    #[arg(long, value_name = "EDIT", requires = "parts")]
    loop_edit: Option<f32>,
    /// Keep residuals in 8 bits (e4m3, one scale per token); the report gives the error
    #[arg(long)]
    fp8_cache: bool,
    /// Limit on device memory, such as 8GiB or 6000MiB [default: on a GPU, the free memory]
    ///
    /// If the model does not fit, the weights of some blocks stay in host memory and are copied while other blocks compute; the video is
    /// the same. The driver's own memory, a few hundred MiB, comes on top.
    #[arg(long, value_name = "SIZE")]
    vram_budget: Option<MemorySize>,
    /// Print only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

fn cache_help() -> String {
    format!(
        "When to reuse residuals: {}; or the path of a .toml file. Append +taylor or +taylor2 to extrapolate what is reused, +moreg for --moreg",
        preset_names()
    )
}

/// One video to make.
struct Video {
    prompt: PromptText,
    output: Output,
}

/// A score, or `none`.
#[derive(Clone, Copy)]
struct Score(Option<f32>);

fn score(text: &str) -> Result<Score, String> {
    let number = || text.parse().map(Some).map_err(|_| "give a number, or none".to_owned());
    Ok(Score(if text == "none" { None } else { number()? }))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Everything that can be wrong is found before anything expensive starts.
    let source = source(args)?;
    let config = source.config();
    let steps = args.steps.unwrap_or(config.default_steps);
    let cfg_scale = args.cfg_scale.unwrap_or(config.default_cfg_scale);
    pipeline::check_settings(steps, cfg_scale)?;
    let cache = pipeline::cache_config(&source, &args.cache, args.moreg, steps)?;
    let jobs = match &args.prompts {
        Some(file) => batch(&source, file, args.out.as_deref().unwrap_or("{}.mp4"))?,
        None => single(&source, &args.prompt.join(" "), args.out.as_deref())?,
    };
    let all = jobs.len();
    let jobs: Vec<Video> = jobs.into_iter().filter(|job| args.prompts.is_none() || !job.output.is_finished()).collect();
    if jobs.len() < all && !args.quiet {
        eprintln!("{} of {all} videos are finished already", all - jobs.len());
    }
    if jobs.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for job in &jobs {
        job.output.check_writable()?;
    }
    let conditions = conditions(args, &source)?;
    let decoder =
        conditions.need_the_autoencoder() || jobs.iter().any(|job| job.output.format() != Format::Safetensors);
    source.require(Parts { decoder, ..Parts::default() })?;
    for file in [&args.report, &args.trace, &args.profile].into_iter().flatten() {
        check_file_writable(file)?;
    }

    let device = args.device.open()?;
    let prompts = embed(args, &source, &jobs)?;
    let looping = conditions.looping;
    let deciding = if args.per_sample { Deciding::Apart } else { Deciding::Together };
    let jobs: Vec<(Prompt, Output)> = prompts.into_iter().zip(jobs.into_iter().map(|job| job.output)).collect();
    let needs_pixels = |jobs: &[(Prompt, Output)]| jobs.iter().any(|(_, o)| o.format() != Format::Safetensors);
    let request = |prompt: &Prompt, decode: bool, given: &Option<Given>| Request {
        prompt: prompt.clone(),
        steps,
        cfg_scale,
        seed: args.seed,
        cache: cache.clone(),
        packed_cache: args.fp8_cache,
        record_all: args.trace.is_some(),
        given: given.clone(),
        decode,
    };
    let batch = usize::from(args.batch);
    // All runs have to fit: the longest prompt in the fullest batch, and a part of a long video that is decoded for the next.
    let parts = looping.parts > 1;
    let longest = jobs.iter().max_by_key(|(prompt, _)| prompt.embedding().tokens).context("there is no prompt")?;
    let largest = request(&longest.0, needs_pixels(&jobs) || parts, &None);
    let job = Job {
        videos: batch.min(jobs.len()),
        deciding,
        given: parts || !conditions.references.is_empty(),
        encodes: parts || conditions.need_the_autoencoder(),
        ..Job::new(&source, args.dtype, &largest)
    };
    let budget = args.vram_budget.map(|MemorySize(bytes)| bytes);
    let pipeline = Pipeline::load_within(&job, &device, budget)?;
    let given = given(&pipeline, conditions, args.quiet)?;
    for jobs in jobs.chunks(batch) {
        let decode = needs_pixels(jobs);
        let requests: Vec<Request> = jobs.iter().map(|(prompt, _)| request(prompt, decode, &given)).collect();
        let profile = args.profile.as_ref().map(|_| Profile::start(&device)).transpose()?;
        let Some((generations, points)) =
            generate(&pipeline, &requests, deciding, &looping, profile.as_ref(), args.quiet)?
        else {
            let outputs: Vec<String> = jobs.iter().map(|(_, output)| format!("`{output}`")).collect();
            return Ok(interrupt::ended(&format!("{} was not written", outputs.join(", "))));
        };
        let timeline = profile.map(|profile| timeline(profile, &points, &generations[0].report)).transpose()?;
        for ((prompt, output), generation) in jobs.iter().zip(&generations) {
            interrupt::shielded(|| write(args, generation, timeline.as_ref(), output))?;
            if !args.quiet {
                // A closed pipe is no failure: the video is written.
                let _ = writeln!(std::io::stdout(), "{prompt} -> {output}\n{}", summaries(generation));
            }
        }
        if interrupt::asked() {
            return Ok(interrupt::ended("what was finished is written"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The model, for videos of the size asked for.
fn source(args: &Args) -> anyhow::Result<ModelSource> {
    let size = SizeOptions {
        pixels: args.size.as_deref().map(VideoSize::sides).transpose()?,
        resolution: args.resolution.clone(),
        aspect: args.aspect.clone(),
        frames: args.frames,
    };
    let source = family::open(&args.model, &size)?;
    if args.embeddings.is_some() && !source.inputs().text {
        let takes = family::that_take(|inputs| inputs.text);
        bail!("--embeddings is for {takes}: {} has words of its own", args.model);
    }
    source.require(Parts { text: args.embeddings.is_none(), ..Parts::default() })?;
    Ok(source)
}

/// The embeddings of the jobs' prompts.
fn embed(args: &Args, source: &ModelSource, jobs: &[Video]) -> anyhow::Result<Vec<Prompt>> {
    if let Some(path) = &args.embeddings {
        let model = source.shape();
        let embedding = Embedding::open(path, model.caption_channels, model.caption_tokens)?;
        return Ok(jobs.iter().map(|job| Prompt::new(job.prompt.clone(), embedding.clone())).collect());
    }
    let prompts: Vec<PromptText> = jobs.iter().map(|job| job.prompt.clone()).collect();
    let camera = args.camera.clone();
    let scores = Scores { aesthetic: args.aesthetic.0, motion: args.motion.0, camera };
    if source.inputs().text && !args.quiet {
        eprintln!(
            "embedding {}",
            if prompts.len() == 1 { "the prompt".into() } else { format!("{} prompts", prompts.len()) }
        );
    }
    Ok(source.embed(&prompts, &TextOptions { scores }, &mut |_, _| interrupt::go_on())?)
}

/// The job of a prompt on the command line.
fn single(source: &ModelSource, prompt: &str, out: Option<&str>) -> anyhow::Result<Vec<Video>> {
    let prompt = source.read_prompt(prompt)?;
    let output = Output::new(out.map_or_else(|| format!("{}.mp4", prompt.slug()), str::to_owned))?;
    Ok(vec![Video { prompt, output }])
}

/// The prompts of a file with the numbers of their lines.
pub(crate) fn read_prompts(source: &ModelSource, file: &Path) -> anyhow::Result<Vec<(usize, PromptText)>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the prompts in {}", file.display()))?;
    let mut prompts = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let prompt = source.read_prompt(line).with_context(|| format!("{}, line {number}", file.display()))?;
        prompts.push((number, prompt));
    }
    if prompts.is_empty() {
        bail!("{} has no prompts", file.display());
    }
    Ok(prompts)
}

/// The jobs of a file of prompts.
fn batch(source: &ModelSource, file: &Path, out: &str) -> anyhow::Result<Vec<Video>> {
    let pattern = match out.strip_suffix('/') {
        Some(_) if !out.contains("{}") => format!("{out}{{}}.mp4"),
        _ => out.to_owned(),
    };
    if !pattern.contains("{}") {
        bail!(
            "--out {out} names one file for many prompts: write {{}} where the name goes (videos/{{}}.mp4) or a FOLDER/"
        );
    }
    let jobs = read_prompts(source, file)?.into_iter().map(|(number, prompt)| {
        let output = Output::new(pattern.replace("{}", &format!("{number:03}-{}", prompt.slug())))?;
        Ok(Video { prompt, output })
    });
    let jobs = jobs.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(folder) = jobs[0].output.path().parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    Ok(jobs)
}

/// Where progress is shown: hidden by itself where standard error is no terminal.
fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// Runs requests together behind a progress bar; nothing if the user stopped it. With a profile the end of each step is remembered.
fn generate(
    pipeline: &Pipeline,
    requests: &[Request],
    deciding: Deciding,
    looping: &Looping,
    profile: Option<&Profile>,
    quiet: bool,
) -> anyhow::Result<Option<(Vec<Generation>, Vec<Point>)>> {
    let request = &requests[0];
    let bar = ProgressBar::with_draw_target(Some(request.cache.steps(request.steps) as u64), target(quiet));
    // Nobody can tell how long it takes before the first step.
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}  {elapsed}")?);
    let stepping = ProgressStyle::with_template("{spinner} step {pos}/{len}  {msg}  {elapsed}, {eta} left")?;
    bar.set_message("loading kernels");
    bar.enable_steady_tick(Duration::from_millis(120));
    let (mut computed, mut partial, mut points) = (vec![], vec![], vec![]);
    // (Between the parts of a long video some are encoded again.)
    let coding = if looping.parts > 1 { "coding" } else { "decoding" };
    let decoding = format!("{{spinner}} {coding} frame {{pos}}/{{len}}  {{elapsed}}, {{eta}} left");
    let decoding = ProgressStyle::with_template(&decoding)?;
    let mut part = 0;
    let mut on_step = |event: &StepEvent| {
        if event.step == 1 {
            part += 1;
            (computed, partial) = (vec![], vec![]);
            bar.set_length(event.steps as u64);
            bar.set_style(stepping.clone());
        }
        if event.plan.is_computed() {
            computed.push(event.step);
        } else if event.plan.is_partial() {
            partial.push(event.step);
        }
        points.extend(profile.map(|profile| profile.point(&event.end)));
        bar.set_position(event.step as u64);
        let strip = schedule_strip(event.step, &computed, &partial);
        let left = "-".repeat(event.steps - event.step);
        let rate = event.rate.map_or_else(String::new, |rate| format!("  rate {rate}"));
        let done = match () {
            () if event.plan.is_computed() => "computed",
            () if event.plan.is_partial() => "in part",
            () => "reused",
        };
        // Beyond a line's width the strip would wrap.
        let strip = if event.steps <= 60 { strip + &left } else { format!("{} computed", computed.len()) };
        let part = if looping.parts > 1 { format!("part {part}/{}  ", looping.parts) } else { String::new() };
        bar.set_message(format!("{part}{strip}  {done:<8}{rate}"));
        interrupt::go_on()
    };
    let mut on_frame = |done: usize, all: usize| {
        bar.set_style(decoding.clone());
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        interrupt::go_on()
    };
    let result = pipeline.generate_long(requests, deciding, looping, &mut on_step, &mut on_frame);
    bar.finish_and_clear();
    match result {
        Ok(generations) => Ok(Some((generations, points))),
        Err(error) if error.is_stop() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot generate `{}`", request.prompt)),
    }
}
