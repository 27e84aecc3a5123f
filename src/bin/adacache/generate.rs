//! `adacache generate`: one prompt, or a file of prompts, to videos.

mod args;
mod conditions;
mod results;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use adacache::family;
use adacache::media::{Format, Output, check_file_writable};
use adacache::pipeline::{
    self, Deciding, Generation, Given, Job, Looping, MemorySize, ModelSource, Parts, Pipeline, Prompt, PromptText,
    Request, Scores, SizeOptions, TextOptions, VideoSize, schedule_strip,
};
use adacache::profile::{Point, Profile};
use adacache::sampler::StepEvent;
use adacache::text::Embedding;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use self::args::Args;
use self::args::target;
use self::conditions::{conditions, given};
use self::results::{summaries, timeline, write};
use crate::interrupt;

/// One video to make.
struct Video {
    prompt: PromptText,
    output: Output,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Everything that can be wrong is found before anything expensive starts.
    let source = source(args)?;
    let config = source.config();
    let steps = args.steps.unwrap_or(config.default_steps);
    let cfg_scale = args.cfg_scale.unwrap_or(config.default_cfg_scale);
    pipeline::check_settings(steps, cfg_scale)?;
    let cache = pipeline::cache_config(&source, &args.cache, args.moreg, steps)?;
    let jobs = unfinished(args, &source)?;
    if jobs.is_empty() {
        return Ok(ExitCode::SUCCESS);
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

/// The videos asked for that are not finished already, each with an output that can be written.
fn unfinished(args: &Args, source: &ModelSource) -> anyhow::Result<Vec<Video>> {
    let jobs = match &args.prompts {
        Some(file) => batch(source, file, args.out.as_deref().unwrap_or("{}.mp4"))?,
        None => single(source, &args.prompt.join(" "), args.out.as_deref())?,
    };
    let all = jobs.len();
    let jobs: Vec<Video> = jobs.into_iter().filter(|job| args.prompts.is_none() || !job.output.is_finished()).collect();
    if jobs.len() < all && !args.quiet {
        eprintln!("{} of {all} videos are finished already", all - jobs.len());
    }
    for job in &jobs {
        job.output.check_writable()?;
    }
    Ok(jobs)
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
