//! `adacache compare`: cache policies side by side, on the same prompts and seeds.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::compare::{Mean, Row, Summary, blind, blind_page, csv, page, summarize};
use adacache::device::KERNELS;
use adacache::media::write_file;
use adacache::pipeline::{self, ModelSource, PromptText};
use adacache::quality::{Form, MOST_PSNR};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::measure::Weights;
use crate::series::{ORIGINAL, Policy, Series, Sides};
use crate::{generate, out, runs};

/// The page that takes votes.
const BLIND: &str = "blind.html";

/// What is compared where nothing is named.
const USUAL: [&str; 7] = [
    "adacache-fast",
    "adacache-fast+moreg",
    "adacache-slow",
    "teacache-fast",
    "fbcache",
    "magcache-slow",
    "interval-2",
];

/// Compare cache policies on the same prompts: work, PSNR, SSIM, flickering
///
/// Every policy generates every prompt with every seed, and each video is measured against the one with every step computed. The folder
/// keeps finished runs; a stopped comparison resumes from it. The command writes index.html (one self-contained page with synchronised
/// videos, schedules, quality against work, and tables), results.json (means with 95 % intervals, and every run) and results.csv (every
/// run).
#[derive(clap::Args)]
#[command(after_help = "All options: adacache compare --help", after_long_help = "")]
pub(crate) struct Args {
    /// One prompt per line; empty lines and lines starting with # are skipped
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    #[arg(
        long,
        value_name = "PRESET|FILE.toml,…",
        value_delimiter = ',',
        help = format!("Policies, as for `generate --cache`, separated by commas [default, as far as the model has them: {}]", USUAL.join(","))
    )]
    cache: Vec<String>,
    /// Number of seeds for each prompt, counted from 0
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Folder for the runs and the results
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    runs: runs::Options,
    #[command(flatten)]
    weights: Weights,
    /// Also write blind.html, which shows pairs without names and takes votes; `adacache votes` counts them
    #[arg(long)]
    blind: bool,
    /// Print only warnings, errors and the table
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.runs.source()?;
    let config = source.config();
    let settings = args.runs.settings(&source)?;
    let runs::Settings { steps, cfg_scale } = settings;
    let policies = policies(args, &source, steps)?;
    let prompts = generate::read_distinct_prompts(&source, &args.prompts)?;
    let networks = args.weights.open()?;
    let weights = runs::weights_hash(&source, args.quiet)?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;

    let device = args.runs.device()?;
    let texts: Vec<PromptText> = prompts.iter().map(|(_, text)| text.clone()).collect();
    let embedded = args.runs.embed(&source, &device, &texts)?;
    let pipeline = args.runs.load(&source, &device)?;
    let series = Series {
        pipeline: &pipeline,
        settings,
        weights: &weights,
        arguments: args.runs.arguments(),
        prompts: prompts.iter().map(|(number, _)| *number).zip(embedded).collect(),
        seeds: args.seeds,
        policies: &policies,
        folder: &args.out,
        networks: &networks,
        quiet: args.quiet,
    };
    let Sides { rows, strips } = match series.run(&device)? {
        ControlFlow::Continue(sides) => sides,
        ControlFlow::Break(stopped) => return Ok(stopped),
    };
    let summaries = summarize(&rows);
    let results = json!({
        "model": config.name, "steps": steps, "cfg_scale": cfg_scale, "dtype": args.runs.dtype.name(), "device": device.info().label(),
        "policies": policies.iter().map(|p| json!({ "name": p.name, "settings": p.config })).collect::<Vec<_>>(),
        "summaries": summaries, "runs": rows,
        "program": env!("CARGO_PKG_VERSION"), "kernels": KERNELS, "weights": weights,
        "video": { "width": config.width, "height": config.height, "frames": config.frames(), "fps": config.fps },
    });
    // One that is there would show the videos of before.
    if args.blind || args.out.join(BLIND).is_file() {
        let (content, equal) = blind(&results, &rows, &strips);
        write_file(&args.out.join(BLIND), blind_page(&content).as_bytes())?;
        if equal > 0 && !args.quiet {
            out::note(format_args!("blind.html leaves out pairs of equal videos: {equal}"));
        }
    }
    write(&args.out, results, &rows, strips)?;
    out::line(table(&summaries, &device.info().label()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the results in every form; `strips` are the videos of the page.
fn write(folder: &Path, mut results: Value, rows: &[Row], strips: Vec<String>) -> anyhow::Result<()> {
    write_file(&folder.join("results.json"), (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    write_file(&folder.join("results.csv"), csv(rows).as_bytes())?;
    for (run, strip) in results["runs"].as_array_mut().into_iter().flatten().zip(strips) {
        run["strip"] = Value::String(strip);
    }
    Ok(write_file(&folder.join("index.html"), page(&results).as_bytes())?)
}

/// The policies by name, the original first.
fn policies(args: &Args, source: &ModelSource, steps: usize) -> anyhow::Result<Vec<Policy>> {
    let asked: Vec<&str> = args.cache.iter().map(String::as_str).collect();
    let usual = asked.is_empty();
    let names = if usual { USUAL.to_vec() } else { asked };
    let names = std::iter::once(ORIGINAL).chain(names.into_iter().filter(|name| *name != ORIGINAL));
    let mut policies: Vec<Policy> = vec![];
    for text in names {
        let config = match pipeline::cache_config(source, text, false, steps) {
            // Not every model has all that are usual.
            Err(error) if usual && text != ORIGINAL => {
                out::note(format_args!("{text} is left out: {error}"));
                continue;
            }
            config => config?,
        };
        pipeline::cache_caution(source, text, steps)?.into_iter().for_each(out::note);
        let stem = Path::new(text).file_name().map_or(text.into(), |name| name.to_string_lossy());
        let name = stem.strip_suffix(".toml").unwrap_or(&stem).to_owned();
        if name.trim_matches('.').is_empty() {
            bail!("{text} names no policy: its runs need a folder of that name, so rename the file");
        }
        if policies.iter().any(|p| p.name == name) {
            bail!("two policies are called `{name}`: rename one of the files");
        }
        policies.push(Policy { name, config });
    }
    Ok(policies)
}

fn table(summaries: &[Summary], device: &str) -> String {
    let wide = summaries.iter().map(|s| s.cache.chars().count()).chain([6]).max().unwrap_or(0);
    let with = |m: &Mean, digits: usize| match m.interval {
        Some(interval) => format!("{:.digits$} ± {interval:.digits$}", m.mean),
        None => format!("{:.digits$}", m.mean),
    };
    // The networks' columns are there where their weights were.
    let perceived = |s: &Summary| {
        [s.lpips, s.stlpips].iter().flatten().map(|m| format!("  {:>16}", with(m, 4))).collect::<String>()
    };
    let names = |s: &Summary| {
        let names = [(s.lpips, Form::Lpips), (s.stlpips, Form::ShiftTolerant)];
        names.iter().filter(|(mean, _)| mean.is_some()).map(|(_, form)| format!("  {:>16}", form.name())).collect()
    };
    let networks: String = summaries.first().map(names).unwrap_or_default();
    let mut lines = vec![format!(
        "{:<wide$}  {:>4}  {:>5}  {:>12}  {:>7}  {:>14}  {:>16}{networks}  {:>10}  {:>9}",
        "policy", "runs", "equal", "computed", "compute", "PSNR dB", "SSIM", "flickering", "seconds"
    )];
    lines.extend(summaries.iter().map(|s| {
        format!(
            "{:<wide$}  {:>4}  {:>5}  {:>12}  {:>6.1}%  {:>14}  {:>16}{}  {:>10.4}  {:>9.2}",
            s.cache,
            s.runs,
            s.equal,
            with(&s.computed_steps, 1),
            100.0 * s.compute.mean,
            with(&s.psnr, 2),
            with(&s.ssim, 4),
            perceived(s),
            s.temporal_flickering.mean,
            s.seconds.mean
        )
    }));
    lines.push(format!("± 95 % of the mean; PSNR at most {MOST_PSNR} dB, which is that of equal videos; compute in operations of the denoising loop; seconds of it on {device}"));
    lines.join("\n")
}
