//! `adacache study`: how many steps each prompt needs, and whether AdaCache's measurements foretell it.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::cache::trace::Trace;
use adacache::cache::{CacheConfig, Codebook, computed_steps};
use adacache::compare::Finished;
use adacache::device::KERNELS;
use adacache::media::write_file;
use adacache::pipeline::{self, ModelSource, PromptText};
use adacache::quality;
use adacache::study::{Change, Curve, Foretold, Point, fewer, foretold, page};
use anyhow::{Context, bail};
use serde_json::json;

use crate::{generate, interrupt, out, runs};

/// The policy whose measurements are studied.
const STUDIED: &str = "adacache-fast";

/// Study how many steps each prompt needs, and whether AdaCache's measurements foretell it
///
/// Every prompt is generated with all steps, and again with fewer and fewer. Where its SSIM against the first falls below the threshold, it
/// breaks. Meanwhile AdaCache's probe measures how the network's work changes from step to step, and motion. The folder keeps finished runs;
/// a stopped study resumes from it. The command writes index.html (one self-contained page with both plots, the first to break first, and
/// the rank correlations) and study.json.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache study --help", after_long_help = "")]
pub(crate) struct Args {
    /// One prompt per line; empty lines and lines starting with # are skipped
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Numbers of steps to try beside all of them [default: eight, from four fifths to a tenth]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    fewer: Option<Vec<usize>>,
    /// SSIM below which a video counts as broken
    #[arg(long, value_name = "SSIM", default_value_t = 0.9)]
    threshold: f64,
    /// Number of seeds for each prompt, counted from 0
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Folder for the runs and the results
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    runs: runs::Options,
    /// Print only warnings, errors and the table
    #[arg(long, short)]
    quiet: bool,
}

/// AdaCache as it decides, the same without motion, and one that computes every step and measures for both.
struct Measured {
    decides: CacheConfig,
    still: CacheConfig,
    every: CacheConfig,
}

impl Measured {
    fn of(source: &ModelSource, steps: usize) -> anyhow::Result<Measured> {
        let config = |moreg| pipeline::cache_config(source, STUDIED, moreg, steps);
        let never = |mut config: CacheConfig| -> anyhow::Result<CacheConfig> {
            let adacache =
                config.adacache_mut().with_context(|| format!("`{STUDIED}` of this model is no AdaCache"))?;
            adacache.codebook = Codebook::new(vec![(f64::MAX, 1)])?;
            Ok(config)
        };
        let (with, without) = (config(true)?, config(false)?);
        Ok(Measured { decides: with.clone(), still: never(without)?, every: never(with)? })
    }

    /// What it measures by a trace of `every`, and the number of steps that it would compute.
    fn read(&self, source: &ModelSource, trace: &Trace) -> anyhow::Result<(Vec<Change>, usize)> {
        let play = |config| trace.play(config, source.anatomy());
        let ((_, still), (_, moving), (plans, _)) = (play(&self.still)?, play(&self.every)?, play(&self.decides)?);
        let change = |(still, moving): (&adacache::cache::Decision, &adacache::cache::Decision)| Change {
            step: still.step,
            distance: still.distance,
            motion: moving.motion,
        };
        Ok((still.iter().zip(&moving).map(change).collect(), computed_steps(&plans).len()))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !(0.0..1.0).contains(&args.threshold) {
        bail!("--threshold {}: an SSIM from 0 to below 1, such as 0.9", args.threshold);
    }
    let source = args.runs.source()?;
    let settings = args.runs.settings(&source)?;
    let steps = settings.steps;
    let counts = counts(args.fewer.as_deref(), steps)?;
    let measured = Measured::of(&source, steps)?;
    let named = |count: &usize| -> anyhow::Result<(usize, CacheConfig)> {
        Ok((*count, pipeline::cache_config(&source, &format!("fewer-{count}"), false, steps)?))
    };
    let tried = counts.iter().map(named).collect::<anyhow::Result<Vec<_>>>()?;
    let prompts = generate::read_distinct_prompts(&source, &args.prompts)?;
    let weights = runs::weights_hash(&source, args.quiet)?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;

    let device = args.runs.device()?;
    let texts: Vec<PromptText> = prompts.iter().map(|(_, text)| text.clone()).collect();
    let embedded = args.runs.embed(&source, &device, &texts)?;
    let pipeline = args.runs.load(&source, &device)?;
    let arguments = args.runs.arguments();
    let (mut curves, all) = (vec![], prompts.len() * args.seeds as usize);
    for ((number, _), prompt) in prompts.iter().zip(&embedded) {
        for seed in 0..args.seeds {
            let folder = args.out.join("runs").join(format!("{number:03}-{}-{seed}", prompt.slug()));
            let run = |name: &str, config: &CacheConfig| -> anyhow::Result<Option<Finished>> {
                let request = settings.request(prompt.clone(), seed, config.clone());
                let asked = pipeline.settings(&weights, name, &request);
                runs::finish(&pipeline, &request, &asked, &arguments, &folder.join(name))
            };
            let stopped = || {
                let done = curves.len();
                interrupt::ended(&format!("{done} of {all} prompts are finished in {}", args.out.display()))
            };
            let Some(whole) = run("all", &measured.every)? else { return Ok(stopped()) };
            let mut points = vec![point(steps, &whole, &whole)?];
            for (count, config) in &tried {
                let Some(fewer) = run(&format!("fewer-{count}"), config)? else { return Ok(stopped()) };
                points.push(point(*count, &fewer, &whole)?);
            }
            let (changes, computed) = measured.read(&source, &trace(&folder.join("all"))?)?;
            let curve = Curve::new(prompt.to_string(), seed, points, changes, computed, args.threshold);
            if !args.quiet {
                out::note(format_args!("{}/{all}  {prompt}, seed {seed}: breaks {}", curves.len() + 1, breaks(&curve)));
            }
            curves.push(curve);
        }
    }
    curves.sort_by(|a, b| b.breaks_at.unwrap_or(0.0).total_cmp(&a.breaks_at.unwrap_or(0.0)));
    let correlations = foretold(&curves);
    let results = json!({
        "model": source.config().name, "steps": steps, "cfg_scale": settings.cfg_scale, "dtype": args.runs.dtype.name(),
        "device": device.info().label(), "threshold": args.threshold, "curves": curves, "foretold": correlations,
        "program": env!("CARGO_PKG_VERSION"), "kernels": KERNELS, "weights": weights,
    });
    write_file(&args.out.join("study.json"), (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    write_file(&args.out.join("index.html"), page(&results).as_bytes())?;
    out::line(table(&curves, &correlations, args.threshold))?;
    Ok(ExitCode::SUCCESS)
}

/// The numbers of steps asked for, the most first.
fn counts(asked: Option<&[usize]>, steps: usize) -> anyhow::Result<Vec<usize>> {
    let mut counts = asked.map_or_else(|| fewer(steps), <[usize]>::to_vec);
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.dedup();
    match counts.iter().find(|&&count| count == 0 || count >= steps) {
        Some(count) => bail!("--fewer {count}: numbers of steps from 1 to {}", steps.saturating_sub(1)),
        None if counts.is_empty() => bail!("{steps} steps leave none to take away: choose more --steps"),
        None => Ok(counts),
    }
}

fn point(steps: usize, run: &Finished, whole: &Finished) -> anyhow::Result<Point> {
    let compared = quality::compare(&whole.frames, &run.frames)?;
    Ok(Point { steps, ssim: compared.ssim, psnr: compared.psnr })
}

/// The trace of a kept run.
fn trace(folder: &Path) -> anyhow::Result<Trace> {
    let path = folder.join(runs::TRACE);
    let file = File::open(&path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    Trace::read(BufReader::new(file)).with_context(|| path.display().to_string())
}

fn breaks(curve: &Curve) -> String {
    let fewest = curve.points.last().map_or(0, |point| point.steps);
    curve.breaks_at.map_or_else(|| format!("below {fewest} steps"), |at| format!("at {at:.1} steps"))
}

fn table(curves: &[Curve], correlations: &[Foretold], threshold: f64) -> String {
    let wide = curves.iter().map(|c| c.prompt.chars().count()).chain([6]).max().unwrap_or(0);
    let mut lines = vec![format!(
        "{:<wide$}  {:>4}  {:>16}  {:>8}  {:>8}  {:>8}",
        "prompt", "seed", "breaks", "change", "motion", "adacache"
    )];
    lines.extend(curves.iter().map(|c| {
        format!(
            "{:<wide$}  {:>4}  {:>16}  {:>8.4}  {:>8.2}  {:>8}",
            c.prompt,
            c.seed,
            breaks(c),
            c.mean_distance,
            c.mean_motion,
            c.adacache_steps
        )
    }));
    lines.push(format!(
        "a video breaks where its SSIM falls below {threshold}; adacache: the steps that {STUDIED}+moreg computes"
    ));
    lines.push("rank correlation with where videos break:".into());
    lines.extend(correlations.iter().map(|f| {
        format!("  {}: {}", f.by, f.correlation.map_or_else(|| "not defined".into(), |rho| format!("{rho:.2}")))
    }));
    lines.join("\n")
}
