//! `adacache replay`: what cache policies would have done in a recorded run.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::cache::{CacheConfig, Decision, computed_steps, partial_steps, trace::Trace};
use adacache::calibrate::{Idle, idle};
use adacache::family;
use adacache::pipeline::{self, OpenOptions, schedule_strip};
use anyhow::{Context, bail};
use serde_json::json;

use crate::{describe, log, out};

/// Show which steps cache policies would compute on a recorded run
///
/// The measurements come from `generate --trace`; a run with `--cache none` records what every preset of its model measures. Other policies
/// can be replayed if they measure the same; the others are told. If a policy compares other steps than the recorded ones, the changes in
/// between are added up, which overestimates the change that it would have seen.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Trace to replay
    trace: PathBuf,
    /// Policies, as for `generate --cache`, separated by commas
    #[arg(
        long,
        default_value = "adacache-fast,adacache-slow",
        value_name = "PRESET|FILE.toml,…",
        value_delimiter = ','
    )]
    cache: Vec<String>,
    /// Model whose presets apply: a name that `adacache models` lists, or the path of a folder
    #[arg(long, default_value = "sprites")]
    model: String,
    /// Motion regularization (AdaCache)
    #[arg(long)]
    moreg: bool,
    /// Print MagCache's `ratios` for this model instead, as TOML
    #[arg(long)]
    ratios: bool,
    /// Print every decision, and the entries of AdaCache's codebook that no change reached
    #[arg(long)]
    decisions: bool,
    /// Print one JSON list
    #[arg(long)]
    json: bool,
}

/// What a policy did.
struct Replayed {
    name: String,
    computed: Vec<usize>,
    partial: Vec<usize>,
    decisions: Vec<Decision>,
    /// Entries of AdaCache's codebook that were for nothing.
    idle: Vec<Idle>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.trace.display();
    let file = File::open(&args.trace).with_context(|| format!("cannot open the trace {path}"))?;
    let trace = Trace::read(BufReader::new(file)).with_context(|| path.to_string())?;
    if args.ratios {
        let ratios = trace.fold_ratios().with_context(|| path.to_string())?;
        let rounded: Vec<String> = ratios.iter().map(|r| format!("{r:.5}")).collect();
        out::line(format_args!("ratios = [{}]", rounded.join(", ")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let replayed: Vec<(&str, anyhow::Result<Replayed>)> =
        args.cache.iter().map(|name| (name.as_str(), replay(args, &trace, name))).collect();
    let done: Vec<&Replayed> = replayed.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    if args.json {
        out::line(as_json(&trace, &replayed)?)?;
    } else if !done.is_empty() {
        out::line(for_people(args, &trace, &done))?;
    }
    // One that refuses hides no other.
    let refused: Vec<&anyhow::Error> = replayed.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    refused.iter().for_each(|error| log::say("error", &describe(error)));
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(args: &Args, trace: &Trace, name: &str) -> anyhow::Result<Replayed> {
    let steps = trace.steps;
    let source = family::published(&args.model, &OpenOptions::default())?;
    // The recorded videos may be longer than the model's own.
    let frames = trace.strides.iter().map(|stride| stride + 1).fold(source.config().latent[0], usize::max);
    let config = pipeline::resolve_cache(&source, frames, name, args.moreg, steps)?;
    if let CacheConfig::FewerSteps(_) = config {
        bail!(
            "`{name}` runs another number of steps than the trace, so the measurements do not apply to it: run `generate` with it"
        );
    }
    let replayed = trace.play(&config, source.anatomy());
    let (plans, decisions) = replayed.with_context(|| format!("cannot replay `{name}`"))?;
    let distances: Vec<f64> = decisions.iter().map(|d| d.distance).collect();
    let idle = config.adacache().map_or_else(Vec::new, |config| idle(&config.codebook, &distances));
    let (computed, partial) = (computed_steps(&plans), partial_steps(&plans));
    Ok(Replayed { name: name.to_owned(), computed, partial, decisions, idle })
}

fn as_json(trace: &Trace, replayed: &[(&str, anyhow::Result<Replayed>)]) -> anyhow::Result<String> {
    let one = |(name, result): &(&str, anyhow::Result<Replayed>)| match result {
        Ok(r) => json!({
            "cache": name, "steps": trace.steps, "computed_steps": r.computed, "partial_steps": r.partial, "decisions": r.decisions,
        }),
        Err(error) => json!({ "cache": name, "steps": trace.steps, "error": describe(error) }),
    };
    Ok(serde_json::to_string_pretty(&replayed.iter().map(one).collect::<Vec<_>>())?)
}

fn for_people(args: &Args, trace: &Trace, replayed: &[&Replayed]) -> String {
    let wide = replayed.iter().map(|r| r.name.chars().count()).chain([8]).max().unwrap_or(0);
    let line = |name: &str, computed: &[usize], partial: &[usize]| {
        let strip = schedule_strip(trace.steps, computed, partial);
        let in_part = if partial.is_empty() { String::new() } else { format!(", {} in part", partial.len()) };
        format!("{name:<wide$}  {strip}  {} of {} steps computed{in_part}", computed.len(), trace.steps)
    };
    let recorded = line("recorded", &trace.computed, &trace.partial);
    let mut lines = vec![format!("{recorded}  (the run itself: {})", trace.cache)];
    for r in replayed {
        lines.push(line(&r.name, &r.computed, &r.partial));
        if args.decisions {
            lines.extend(r.idle.iter().map(|idle| format!("  in this run {idle}")));
        }
        for d in r.decisions.iter().filter(|_| args.decisions) {
            let motion = if d.motion == 1.0 { String::new() } else { format!(" (motion factor {:.2})", d.motion) };
            let rate = d.rate.map_or_else(String::new, |rate| format!(", next computed in {rate}"));
            lines.push(format!("  step {:>3}: {:.4}{motion}{rate}", d.step, d.distance));
        }
    }
    lines.join("\n")
}
