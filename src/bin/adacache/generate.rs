//! `adacache generate`: one prompt, or a file of prompts, to videos.

mod args;
mod conditions;
mod kept;
mod like;
mod results;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use adacache::device::Device;
use adacache::family::{self, FAMILIES};
use adacache::media::{Encoding, Format, Frames, Latents, Output};
use adacache::pipeline::{
    self, Deciding, Decoded, Generation, Guidance, How, Job, Looping, MemorySize, ModelSource, OpenOptions, Parts,
    Pipeline, PipelineError, Prompt, PromptText, Request, TextOptions, VideoSize, embedding_hash, schedule_strip,
};
use adacache::profile::{Point, Profile};
use adacache::sampler::StepEvent;
use adacache::text::Embedding;
use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::args::target;
pub(crate) use self::args::{Args, EXAMPLE};
use self::conditions::{Conditions, conditions, given};
use self::kept::{Asked, Video};
use self::like::Like;
use self::results::{Places, in_a_line, summaries, timeline, write};
use crate::{device, interrupt, log, out};

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.like {
        Some(like) => {
            let (args, like) = like::resolve(args, like)?;
            make(&args, Some(&like))
        }
        None => make(args, None),
    }
}

fn make(args: &Args, like: Option<&Like>) -> anyhow::Result<ExitCode> {
    // Everything that can be wrong is found before anything expensive starts.
    let source = source(args)?;
    let config = source.config();
    let steps = args.steps.unwrap_or(config.default_steps);
    let cfg_scale = args.cfg_scale.unwrap_or(config.default_cfg_scale);
    pipeline::check_settings(&source, steps, cfg_scale)?;
    let cache = match like.and_then(|like| like.cache.clone()) {
        Some(cache) => {
            cache.validate_for(source.anatomy(), config.latent[0].div_ceil(source.shape().patch_frames))?;
            cache
        }
        None => {
            let name = args.cache(config, steps);
            pipeline::cache_caution(&source, name, steps)?.into_iter().for_each(out::note);
            pipeline::cache_config(&source, name, args.moreg, steps)?
        }
    };
    if args.skips_caching(config, steps) && like.is_none() && !args.quiet {
        out::note(format_args!(
            "{steps} steps are all computed: from one to the next too much changes to reuse anything; --cache NAME asks for a cache"
        ));
    }
    let jobs = match &args.prompts {
        Some(file) => batch(&source, file, args.out.as_deref().unwrap_or("{}.mp4"))?,
        None => single(&source, &args.prompt.join(" "), args.out.as_deref())?,
    };
    jobs.iter().filter(|(_, output)| !output.is_finished()).try_for_each(|(_, output)| output.check_writable())?;
    // They go again if nothing is written.
    let _folders = jobs.first().map(|(_, output)| output.make_folders()).transpose()?;
    results::check(args, &jobs.iter().map(|(_, output)| output).collect::<Vec<_>>())?;
    let conditions = conditions(args, &source)?;
    let decoder = jobs.iter().any(|(_, output)| output.format() != Format::Safetensors);
    source.require(Parts { decoder, encoder: conditions.need_the_autoencoder(), ..Parts::default() })?;
    let embeddings = given_embeddings(args, &source, cfg_scale)?;
    let noise = args.noise.as_deref().map(Latents::open).transpose()?.map(Arc::new);
    let preset = args.preset(config, steps);
    let how = How { seed: args.seed, steps, cfg_scale, dtype: args.dtype, preset: &preset, cache: &cache };
    let asked = Asked {
        args,
        source: &source,
        how,
        given: conditions.facts(),
        embedding: embeddings.as_ref().map(Embeddings::hash),
        noise: noise.as_ref().map(|latents| latents.hash()),
        like,
    };
    let groups = asked.unfinished(jobs)?;
    if groups.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.devices.len() > 2 {
        bail!("--devices {}: guidance has two halves, so at most two devices share them", args.devices.join(","));
    }

    let devices = args.device.open_all(&args.devices)?;
    for device in &devices {
        pipeline::check_products(&source, device, args.dtype)?;
    }
    let device = &devices[0];
    device.limit_memory(args.vram_budget.map(|MemorySize(bytes)| bytes));
    let groups = embed(args, device, &source, groups, embeddings.as_ref(), cfg_scale)?;
    let request = |prompt: &Prompt, decode: bool| Request {
        prompt: prompt.clone(),
        steps,
        cfg_scale,
        seed: args.seed,
        noise: noise.clone(),
        cache: cache.clone(),
        packed_cache: args.fp8_cache,
        record_all: args.trace.is_some(),
        given: None,
        decode,
    };
    run_all(args, &devices, &source, conditions, &groups, &request)
}

/// A video to make, with its prompt embedded.
type Embedded = (Prompt, Video);

fn needs_pixels(group: &[Embedded]) -> bool {
    group.iter().any(|(_, video)| video.output.format() != Format::Safetensors)
}

fn deciding(args: &Args) -> Deciding {
    if args.per_sample { Deciding::Apart } else { Deciding::Together }
}

/// The pipeline, in which all runs have to fit: the longest prompt in the fullest batch, and a part of a long video that is decoded for the
/// next.
fn load(
    args: &Args,
    devices: &[Device],
    source: &ModelSource,
    conditions: &Conditions,
    groups: &[Vec<Embedded>],
    request: &dyn Fn(&Prompt, bool) -> Request,
) -> anyhow::Result<Pipeline> {
    let parts = conditions.looping.parts > 1;
    let all = groups.iter().flatten();
    let longest = all.max_by_key(|(prompt, _)| prompt.tokens()).context("there is no prompt")?;
    let largest = request(&longest.0, groups.iter().any(|group| needs_pixels(group)) || parts);
    let job = Job {
        videos: groups.iter().map(Vec::len).max().unwrap_or(1),
        deciding: deciding(args),
        given: parts || !conditions.references.is_empty(),
        encodes: parts || conditions.need_the_autoencoder(),
        ..Job::new(source, args.dtype, &largest)
    };
    let budget = args.vram_budget.map(|MemorySize(bytes)| bytes);
    let mut pipelines = devices.iter().map(|device| Pipeline::load_within(&job, device, budget));
    let mut pipeline = pipelines.next().context("there is a device")??;
    for other in pipelines {
        pipeline = pipeline.join(other?)?;
    }
    if job.stages()?.len() > 1 && !args.quiet {
        pipeline.on_load(Box::new(|expert| out::note(format_args!("loading the {expert} expert"))));
        if pipeline.reloads() && groups.len() > 1 {
            let runs = groups.len();
            let words = format!(
                "the experts do not fit on the device together, so each of the {runs} runs loads both\n\
                 tip: --batch N makes N videos with the same loads"
            );
            log::say("warning", &words);
        }
    }
    Ok(pipeline)
}

/// Makes the videos, batch after batch.
fn run_all(
    args: &Args,
    devices: &[Device],
    source: &ModelSource,
    conditions: Conditions,
    groups: &[Vec<Embedded>],
    request: &dyn Fn(&Prompt, bool) -> Request,
) -> anyhow::Result<ExitCode> {
    let looping = conditions.looping;
    let (parts, deciding) = (looping.parts > 1, deciding(args));
    let pipeline = load(args, devices, source, &conditions, groups, request)?;
    let given = given(&pipeline, conditions, args.quiet)?;
    let places = Places { all: groups.iter().map(Vec::len).sum(), named: args.prompts.is_some() };
    let mut first = 0;
    for group in groups {
        let place = places.of_run(first, group.len());
        let decode = needs_pixels(group);
        let requests: Vec<Request> =
            group.iter().map(|(prompt, _)| Request { given: given.clone(), ..request(prompt, decode) }).collect();
        let not_written = |videos: &[Embedded]| {
            let outputs: Vec<String> = videos.iter().map(|(_, video)| format!("`{}`", video.output)).collect();
            Ok(interrupt::ended(&format!("{} was not written", outputs.join(", "))))
        };
        let profile = args.profile.as_ref().map(|_| Profile::start(&devices[0])).transpose()?;
        let mut encodings = begin(&pipeline, group, parts)?;
        let (looping, profile_of, quiet) = (&looping, profile.as_ref(), args.quiet);
        let run = Run { pipeline: &pipeline, deciding, looping, profile: profile_of, place: &place, quiet };
        let Some((mut generations, points)) = run.generate(&requests, &mut encodings)? else {
            return not_written(group);
        };
        let timeline = profile.map(|profile| timeline(profile, &points, &generations[0].report)).transpose()?;
        for (i, ((prompt, video), generation)) in group.iter().zip(&mut generations).enumerate() {
            results::identify(args, generation, video);
            let begun = encodings[i].take();
            match interrupt::shielded(|| write(args, generation, timeline.as_ref(), &video.output, begun)) {
                Err(error) if device::is_stop(&error) => return not_written(&group[i..]),
                other => other?,
            }
            if !args.quiet {
                let output = &video.output;
                out::line(match args.prompts {
                    Some(_) => format!("{}{prompt} -> {output}  {}", places.of(first + i), in_a_line(generation)),
                    None => format!("{prompt} -> {output}\n{}", summaries(generation)),
                })?;
            }
        }
        if interrupt::asked() {
            return Ok(interrupt::ended("what was finished is written"));
        }
        first += group.len();
    }
    Ok(ExitCode::SUCCESS)
}

/// The model, for videos of the size asked for.
fn source(args: &Args) -> anyhow::Result<ModelSource> {
    let size = OpenOptions {
        pixels: args.size.as_deref().map(VideoSize::sides).transpose()?,
        resolution: args.resolution.clone(),
        aspect: args.aspect.clone(),
        frames: args.frames,
        sampler: args.sampler,
        shift: args.shift,
        caption_tokens: args.max_sequence_length,
        sigmas: args.sigmas.clone(),
        loras: args.lora.clone(),
        fp8_weights: args.fp8_weights,
        vae_tiling: args.vae_tiling,
        tiny_vae: args.tiny_vae.clone(),
    };
    let source = family::open(&args.model, &size)?;
    if args.embeddings.is_some() && !source.inputs().text {
        let takes = family::that_take(|inputs| inputs.text);
        bail!("--embeddings is for {takes}: {} has words of its own", args.model);
    }
    if args.scores() != pipeline::Scores::default() && !source.inputs().scores {
        let takes = family::that_take(|inputs| inputs.scores);
        bail!("--aesthetic, --motion and --camera are for --model {takes}, not for {}", args.model);
    }
    let negative = [
        ("--negative-prompt", args.negative_prompt.is_some()),
        ("--negative-embeddings", args.negative_embeddings.is_some()),
    ];
    if let (Some((option, _)), None) = (negative.iter().find(|(_, used)| *used), source.config().negative_prompt) {
        let takes = |family: &&dyn family::Family| {
            let source = family.published(&OpenOptions::default());
            source.is_ok_and(|source| source.config().negative_prompt.is_some())
        };
        let takes: Vec<&str> = FAMILIES.into_iter().filter(takes).map(family::Family::name).collect();
        bail!("{option} is for {}: {} has a null caption of its own", takes.join(", "), args.model);
    }
    // Latents need no decoder. All that is missing is told at once.
    let latents = args.out.as_ref().is_some_and(|out| out.to_lowercase().ends_with(".safetensors"));
    source.require(Parts { text: args.embeddings.is_none(), decoder: !latents, encoder: false })?;
    Ok(source)
}

/// The embeddings that are given, of the prompt and of the negative prompt.
fn given_embeddings(args: &Args, source: &ModelSource, cfg_scale: Guidance) -> anyhow::Result<Option<Embeddings>> {
    let model = source.shape();
    let open = |path| Embedding::open(path, model.caption_channels, model.caption_tokens);
    let Some(prompt) = args.embeddings.as_deref().map(open).transpose()? else { return Ok(None) };
    let negative = args.negative_embeddings.as_deref().map(open).transpose()?.map(Arc::new);
    if negative.is_none() && source.config().negative_prompt.is_some() && cfg_scale.is_guided() {
        bail!("--embeddings alone: give --negative-embeddings too, or --cfg-scale 1, which reads no negative prompt");
    }
    Ok(Some(Embeddings { prompt, negative }))
}

/// Embeddings in place of a text encoder's.
struct Embeddings {
    prompt: Embedding,
    negative: Option<Arc<Embedding>>,
}

impl Embeddings {
    fn of(&self, text: PromptText) -> Prompt {
        let prompt = Prompt::new(text, self.prompt.clone());
        self.negative.iter().cloned().fold(prompt, Prompt::against)
    }

    fn hash(&self) -> String {
        embedding_hash(&self.prompt, self.negative.as_deref())
    }
}

/// The videos with their prompts embedded.
fn embed(
    args: &Args,
    device: &Device,
    source: &ModelSource,
    groups: Vec<Vec<Video>>,
    given: Option<&Embeddings>,
    cfg_scale: Guidance,
) -> anyhow::Result<Vec<Vec<Embedded>>> {
    let prompts: Vec<PromptText> = groups.iter().flatten().map(|video| video.prompt.clone()).collect();
    let prompts: Vec<Prompt> = match given {
        Some(embeddings) => prompts.into_iter().map(|prompt| embeddings.of(prompt)).collect(),
        None => {
            if source.inputs().text && !args.quiet {
                let what = if prompts.len() == 1 { "the prompt".into() } else { format!("{} prompts", prompts.len()) };
                out::note(format_args!("embedding {what}"));
            }
            let (negative, unguided) = (args.negative_prompt.clone(), !cfg_scale.is_guided());
            let options = TextOptions { scores: args.scores(), negative, unguided };
            source.embed(&prompts, &options, device, args.dtype, &mut |_, _| interrupt::go_on())?
        }
    };
    let mut prompts = prompts.into_iter();
    Ok(groups.into_iter().map(|group| prompts.by_ref().take(group.len()).zip(group).collect()).collect())
}

/// The job of a prompt on the command line.
fn single(source: &ModelSource, prompt: &str, out: Option<&str>) -> anyhow::Result<Vec<(PromptText, Output)>> {
    let prompt = read_prompt(source, prompt)?;
    let output = Output::new(out.map_or_else(|| format!("{}.mp4", prompt.slug()), str::to_owned))?;
    Ok(vec![(prompt, output)])
}

/// A prompt; where the model draws from few words, the error says how to get one that takes any.
fn read_prompt(source: &ModelSource, prompt: &str) -> anyhow::Result<PromptText> {
    source.read_prompt(prompt).map_err(|error| match (&error, FAMILIES.iter().find(|family| family.inputs().text)) {
        (PipelineError::Text(words), Some(any)) => {
            let name = any.name();
            anyhow!(
                "{words}\ntip: for any words: `adacache pull {name}`, then `adacache generate --model {name} \"a cat on the moon\"`"
            )
        }
        _ => error.into(),
    })
}

/// The prompts of a file with the numbers of their lines.
pub(crate) fn read_prompts(source: &ModelSource, file: &Path) -> anyhow::Result<Vec<(usize, PromptText)>> {
    let named = || format!("cannot read the prompts in {}", file.display());
    let bytes = fs::read(file).with_context(named)?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(anyhow!("it is UTF-16: save it as UTF-8")).with_context(named);
    }
    let text = String::from_utf8(bytes).context("it is not UTF-8: save it as such").with_context(named)?;
    // Some editors put a byte-order mark before the first word.
    let text = text.trim_start_matches('\u{feff}');
    let mut prompts = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let prompt = read_prompt(source, line).with_context(|| format!("{}, line {number}", file.display()))?;
        prompts.push((number, prompt));
    }
    if prompts.is_empty() {
        bail!("{} has no prompts", file.display());
    }
    Ok(prompts)
}

/// As [`read_prompts`], each prompt once: a second copy would count as another prompt, and it is the same.
pub(crate) fn read_distinct_prompts(source: &ModelSource, file: &Path) -> anyhow::Result<Vec<(usize, PromptText)>> {
    let mut distinct: Vec<(usize, PromptText)> = vec![];
    for (number, prompt) in read_prompts(source, file)? {
        match distinct.iter().find(|(_, known)| known.to_string() == prompt.to_string()) {
            Some((first, _)) => out::note(format_args!(
                "{}: line {number} has the prompt of line {first} again and is left out",
                file.display()
            )),
            None => distinct.push((number, prompt)),
        }
    }
    Ok(distinct)
}

/// The jobs of a file of prompts.
fn batch(source: &ModelSource, file: &Path, out: &str) -> anyhow::Result<Vec<(PromptText, Output)>> {
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
        Ok((prompt, output))
    });
    jobs.collect()
}

/// Begins what can be encoded while frames are decoded: not the parts of a long video, which overlap.
fn begin(pipeline: &Pipeline, group: &[Embedded], parts: bool) -> anyhow::Result<Vec<Option<Encoding>>> {
    let config = pipeline.config();
    let like = Frames { width: config.width, height: config.height, fps: config.fps, rgb: vec![] };
    let begin = |(_, video): &Embedded| if parts { Ok(None) } else { video.output.begin(&like, None) };
    Ok(group.iter().map(begin).collect::<Result<_, _>>()?)
}

/// How requests are run together.
struct Run<'a> {
    pipeline: &'a Pipeline,
    deciding: Deciding,
    looping: &'a Looping,
    profile: Option<&'a Profile>,
    /// Where they stand in the batch, before the bar.
    place: &'a str,
    quiet: bool,
}

impl Run<'_> {
    /// Runs requests together behind a progress bar; nothing if the user stopped it. With a profile the end of each step is remembered.
    /// `encodings` receive the frames of their videos as they are decoded.
    fn generate(
        &self,
        requests: &[Request],
        encodings: &mut [Option<Encoding>],
    ) -> anyhow::Result<Option<(Vec<Generation>, Vec<Point>)>> {
        let Run { pipeline, deciding, looping, profile, place, quiet } = *self;
        let request = &requests[0];
        let bar = ProgressBar::with_draw_target(Some(request.cache.steps(request.steps) as u64), target(quiet));
        // Nobody can tell how long it takes before the first step.
        bar.set_style(ProgressStyle::with_template(&format!("{{spinner}} {place}{{msg}}  {{elapsed}}"))?);
        let stepping = format!("{{spinner}} {place}step {{pos}}/{{len}}  {{msg}}  {{elapsed}}, {{eta}} left");
        let stepping = ProgressStyle::with_template(&stepping)?;
        bar.set_message("loading kernels");
        bar.enable_steady_tick(Duration::from_millis(120));
        let (mut computed, mut partial, mut points) = (vec![], vec![], vec![]);
        // (Between the parts of a long video some are encoded again.)
        let coding = if looping.parts > 1 { "coding" } else { "decoding" };
        let decoding = format!("{{spinner}} {place}{coding} frame {{pos}}/{{len}}  {{elapsed}}, {{eta}} left");
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
            let part = if looping.parts > 1 { format!("part {part}/{}  ", looping.parts) } else { String::new() };
            bar.set_message(part + &told(event, &computed, &partial));
            interrupt::go_on()
        };
        let mut on_frame = |decoded: &Decoded<'_>| {
            if let Some(Some(encoding)) = encodings.get_mut(decoded.video) {
                encoding.push(decoded.pixels);
            }
            bar.set_style(decoding.clone());
            bar.set_length(decoded.all as u64);
            bar.set_position(decoded.done as u64);
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
}

/// A finished step in the progress bar.
fn told(event: &StepEvent, computed: &[usize], partial: &[usize]) -> String {
    let rate = event.rate.map_or_else(String::new, |rate| format!("  rate {rate}"));
    let done = match () {
        () if event.plan.is_computed() => "computed",
        () if event.plan.is_partial() => "in part",
        () => "reused",
    };
    // Beyond a line's width the strip would wrap.
    let strip = if event.steps <= 60 {
        schedule_strip(event.step, computed, partial) + &"-".repeat(event.steps - event.step)
    } else {
        format!("{} computed", computed.len())
    };
    format!("{strip}  {done:<8}{rate}")
}
