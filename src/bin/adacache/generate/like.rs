//! `--like`: the run of a report again.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use adacache::cache::CacheConfig;
use adacache::model::LoraFile;
use adacache::pipeline::{Report, Scores, Settings};
use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Parser};

use super::args::Args;
use crate::{Cli, Command, log, out, runs};

/// Options that stand for one thing: who gives one of them leaves out the report's.
const ALTERNATIVES: [&[&str]; 7] = [
    &["size", "resolution", "aspect"],
    &["image", "reference", "mask-strategy"],
    &["cache", "moreg"],
    &["seed", "noise"],
    &["steps", "sigmas"],
    &["shift", "sigmas"],
    &["negative-prompt", "embeddings", "negative-embeddings"],
];

/// The options that a report may bring along: those that a video depends on. A report may be another person's, so it names no file that
/// would be written.
const REPEATABLE: [&str; 28] = [
    "model",
    "size",
    "resolution",
    "aspect",
    "lora",
    "frames",
    "steps",
    "cfg-scale",
    "sampler",
    "shift",
    "seed",
    "sigmas",
    "max-sequence-length",
    "noise",
    "tiny-vae",
    "dtype",
    "embeddings",
    "negative-embeddings",
    "negative-prompt",
    "aesthetic",
    "motion",
    "camera",
    "image",
    "reference",
    "mask-strategy",
    "fp8-cache",
    "fp8-weights",
    "vae-tiling",
];
/// Those of long videos.
const OF_PARTS: [&str; 3] = ["loop", "loop-frames", "loop-edit"];

/// A report that is repeated.
pub(super) struct Like {
    file: String,
    settings: Settings,
    /// The report's cache policy, unless another was asked for.
    pub(super) cache: Option<CacheConfig>,
    /// Whether `--model` was given.
    names_model: bool,
}

/// The options of `generate` that make the video again: those that it depends on, without its prompt and its cache policy.
pub(super) fn arguments(args: &Args, settings: &Settings) -> runs::Arguments {
    let mut all = runs::run_arguments(&runs::model_argument(&args.model), settings);
    // Levels say how many steps there are.
    if args.sigmas.is_some() {
        all.remove("steps");
    }
    let mut add = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            all.insert(name.to_owned(), values);
        }
    };
    let one = |value: &dyn ToString| vec![value.to_string()];
    let if_any = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
    let lora = |lora: &LoraFile| {
        let expert = lora.expert.as_ref().map_or_else(String::new, |expert| format!("@{expert}"));
        format!("{}:{}{expert}", runs::absolute(&lora.path), lora.strength)
    };
    add("size", if_any(&args.size));
    add("resolution", if_any(&args.resolution));
    add("aspect", if_any(&args.aspect));
    add("lora", args.lora.iter().map(lora).collect());
    add("sampler", args.sampler.iter().map(ToString::to_string).collect());
    add("shift", args.shift.iter().map(ToString::to_string).collect());
    let list = |levels: &Vec<f64>| levels.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    add("sigmas", args.sigmas.iter().map(list).collect());
    add("max-sequence-length", args.max_sequence_length.iter().map(ToString::to_string).collect());
    add("noise", args.noise.iter().map(|path| runs::absolute(path)).collect());
    add("tiny-vae", args.tiny_vae.iter().map(|path| runs::absolute(path)).collect());
    add("embeddings", args.embeddings.iter().map(|path| runs::absolute(path)).collect());
    add("negative-embeddings", args.negative_embeddings.iter().map(|path| runs::absolute(path)).collect());
    add("negative-prompt", if_any(&args.negative_prompt));
    let score = |score: Option<f32>| vec![score.map_or_else(|| "none".into(), |score| score.to_string())];
    if args.scores() != Scores::default() {
        add("aesthetic", score(args.aesthetic.0));
        add("motion", score(args.motion.0));
    }
    add("camera", if_any(&args.camera));
    add("image", args.image.iter().map(|path| runs::absolute(path)).collect());
    add("reference", args.reference.iter().map(|path| runs::absolute(path)).collect());
    add("mask-strategy", if args.reference.is_empty() { vec![] } else { one(&args.mask_strategy) });
    if args.parts > 1 {
        add("loop", one(&args.parts));
        add("loop-frames", args.loop_frames.iter().map(ToString::to_string).collect());
        add("loop-edit", args.loop_edit.iter().map(ToString::to_string).collect());
    }
    let flags = [("fp8-cache", args.fp8_cache), ("fp8-weights", args.fp8_weights), ("vae-tiling", args.vae_tiling)];
    for (flag, given) in flags {
        add(flag, if given { vec![String::new()] } else { vec![] });
    }
    all
}

/// The options of this run, with those of the report where none are given.
///
/// # Errors
/// A report that cannot be read, of another version, or not of one video.
pub(super) fn resolve(given: &Args, like: &str) -> anyhow::Result<(Args, Like)> {
    let report = report(like)?;
    let told = "this report does not hold the settings of its run, as those of this version do: give them as options";
    let settings = report.settings.clone().filter(|_| !report.arguments.is_empty());
    let settings = settings.with_context(|| format!("{like}: {told}"))?;
    let known = |name: &&String| REPEATABLE.iter().chain(&OF_PARTS).any(|known| known == name);
    if let Some(name) = report.arguments.keys().find(|name| !known(name)) {
        bail!("{like}: --{name} is no option that a report may repeat; it was changed, or is of a newer version");
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let matches = Cli::command().try_get_matches_from(&words)?;
    let matches = matches.subcommand_matches("generate").context("--like is of `generate`")?;
    let is_given = |name: &str| is_given(matches, name);
    let instead = |name: &str| {
        is_given(name) || ALTERNATIVES.iter().any(|all| all.contains(&name) && all.iter().any(|other| is_given(other)))
    };
    let (mut line, mut taken): (Vec<OsString>, Vec<String>) = (words[..2].to_vec(), vec![]);
    for (name, values) in report.arguments.iter().filter(|(name, _)| !instead(name)) {
        // A given prompt has no embedding of another one.
        if matches!(&name[..], "embeddings" | "negative-embeddings") && !given.prompt.is_empty() {
            continue;
        }
        for value in values {
            let value = if value.is_empty() { String::new() } else { format!("={value}") };
            line.push(format!("--{name}{value}").into());
        }
        taken.push(format!("{name} {}", values.join(", ")).trim_end().to_owned());
    }
    let cache = if instead("cache") { None } else { Some(&settings.codebook) };
    let cache = cache.map(|codebook| serde_json::from_value(codebook.clone())).transpose();
    let cache = cache.with_context(|| format!("{like}: its cache policy cannot be read; name one with --cache"))?;
    if cache.is_some() {
        line.push(format!("--cache={}", settings.preset).into());
        taken.push(format!("cache {}", settings.preset));
    }
    line.extend_from_slice(&words[2..]);
    if given.prompt.is_empty() {
        line.extend(["--".into(), settings.prompt.clone().into()]);
        taken.push(format!("prompt {}", settings.prompt));
    }
    let Command::Generate(args) = Cli::try_parse_from(line).with_context(|| format!("cannot repeat {like}"))?.command
    else {
        unreachable!("it says `generate`")
    };
    if !args.quiet {
        out::note(format_args!("like {like}, made on {}: {}", report.device, taken.join("; ")));
    }
    Ok((
        *args,
        Like {
            file: like.into(),
            settings,
            cache,
            names_model: ["model", "lora", "tiny-vae"].into_iter().any(is_given),
        },
    ))
}

fn is_given(matches: &ArgMatches, name: &str) -> bool {
    let id = if name == "loop" { "parts".to_owned() } else { name.replace('-', "_") };
    matches.value_source(&id) == Some(ValueSource::CommandLine)
}

/// The report in a file: its only one, or number N of `FILE#N`.
fn report(like: &str) -> anyhow::Result<Report> {
    let (file, number) = match like.rsplit_once('#') {
        Some((file, number)) if !Path::new(like).exists() => {
            let number: usize = number
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .with_context(|| format!("--like {like}: write FILE.json#N, with a number from 1"))?;
            (file, Some(number))
        }
        _ => (like, None),
    };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the report {file}"))?;
    let wrong = || format!("{file} is not a report of `generate --report`");
    if let Ok(report) = serde_json::from_str::<Report>(&text) {
        return match number {
            None | Some(1) => Ok(report),
            Some(number) => bail!("--like {file}#{number}: the file has one report"),
        };
    }
    let mut reports: Vec<Report> = serde_json::from_str(&text).with_context(wrong)?;
    // The parts of a long video have one output.
    reports.dedup_by(|later, first| later.output.is_some() && later.output == first.output);
    match number {
        _ if reports.is_empty() => bail!("{file} has no reports"),
        None if reports.len() == 1 => Ok(reports.swap_remove(0)),
        Some(number) if number <= reports.len() => Ok(reports.swap_remove(number - 1)),
        _ => {
            let list =
                (1..).zip(&reports).map(|(i, report)| format!("  #{i}  {}, seed {}", report.prompt, report.seed));
            let list: Vec<String> = list.collect();
            bail!("{file} has {} reports: choose one by --like {file}#N\n{}", reports.len(), list.join("\n"))
        }
    }
}

impl Like {
    /// Whether the video is that of the report; says where it is not.
    ///
    /// # Errors
    /// The model has other weights than the report's, and nobody asked for it.
    pub(super) fn check(&self, asked: &Settings, quiet: bool) -> anyhow::Result<()> {
        let Like { file, settings, names_model, .. } = self;
        let differences = settings.differences(asked);
        let of_model = differences.iter().find(|(field, _)| field == "weights" || field == "model");
        if let Some((_, words)) = of_model.filter(|_| !names_model) {
            bail!(
                "{file} was made with other files of the model ({words}): bring those back, or say by --model (--lora, --tiny-vae) that these are wanted"
            );
        }
        let (versions, others): (Vec<_>, Vec<_>) =
            differences.iter().partition(|(field, _)| field == "results" || field == "kernels");
        // What the other report says beyond this one's: kept runs know their device, and hash every embedding.
        let beyond = |field: &str| match field {
            "device" => true,
            "embedding" => settings.embedding.is_none() || asked.embedding.is_none(),
            _ => false,
        };
        let others: Vec<_> = others.into_iter().filter(|(field, _)| !beyond(field)).collect();
        if let Some((_, words)) = versions.first() {
            let now = &asked.program;
            log::say(
                "warning",
                &format!("{file} was {words}; this is {now}, whose videos differ in bits from that one's"),
            );
        } else if settings.program != asked.program && !quiet {
            let (then, now) = (&settings.program, &asked.program);
            out::note(format_args!("{file} was made by version {then}; this is {now}, which gives the same bits"));
        }
        if !others.is_empty() && !quiet {
            let words: Vec<&str> = others.iter().map(|(_, words)| &words[..]).collect();
            out::note(format_args!("unlike the report: {}", words.join("; ")));
        }
        Ok(())
    }
}
