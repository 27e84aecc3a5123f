//! `adacache calibrate`: a codebook for a model and a speed-up or a quality.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::cache::{AdaCacheConfig, CacheConfig, Extrapolation, Metric, ResidualKind};
use adacache::calibrate::{
    Calibrated, Effort, INTERVALS, Outcome, Probing, Run, Session, TOLERANCE, Target, Tried, Verdict, Watch, hash,
    idle, mean_outcome, paired,
};
use adacache::compare::Mean;
use adacache::device::Device;
use adacache::media::{check_file_writable, write_file};
use adacache::pipeline::{self, ModelSource, Prompt, PromptText, Request};
use anyhow::bail;
use serde::de::DeserializeOwned;

use crate::{generate, interrupt, log, out, runs};

/// Find AdaCache's codebook for a target speed-up or quality, on your own prompts
///
/// The command generates every prompt once with every step computed and records all measurements. It searches codebooks over these
/// recordings without running the model, verifies the best ones with real runs, and adjusts them until the target is met. Speed-up
/// is the ratio of operations in the denoising loop: every step computed over the run with the cache. The work folder keeps all runs;
/// a stopped calibration resumes from it.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache calibrate --help", after_long_help = "")]
#[command(group = clap::ArgGroup::new("target").required(true).args(["target_speedup", "target_psnr"]))]
pub(crate) struct Args {
    /// One prompt per line; empty lines and lines starting with # are skipped
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Target speed-up, met within 5 %
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    target_speedup: Option<f64>,
    /// Target mean PSNR in dB against every step computed; the search minimises compute
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    target_psnr: Option<f64>,
    /// File to write the settings to, for `generate --cache FILE.toml`
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
    /// Work folder for the runs [default: the name of --out, ending in .work]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    work: Option<PathBuf>,
    /// File of prompts to judge the result on; they are not calibrated on
    #[arg(long, value_name = "FILE", conflicts_with = "split")]
    held_out: Option<PathBuf>,
    /// Share of --prompts to calibrate on, counted from the first; the rest is held out
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    split: Option<f64>,
    /// AdaCache preset or FILE.toml to compare the result with on the held-out prompts
    #[arg(
        long,
        default_value = "adacache-fast",
        value_name = "PRESET[+moreg][+taylor]|FILE.toml",
        hide_short_help = true
    )]
    against: String,
    /// Search with motion regularization, and search its settings too
    #[arg(long)]
    moreg: bool,
    /// Order of the polynomial that extrapolates reused steps; each order keeps one more tensor, 0 extrapolates nothing [default: all are
    /// tried with the preset]
    #[arg(long, value_name = "0|1|2", value_parser = clap::value_parser!(u8).range(0..=2), hide_short_help = true)]
    taylor: Option<u8>,
    #[command(flatten)]
    runs: runs::Options,
    /// Blocks to probe, ascending, separated by commas [default: the preset's, the first and the last are tried]
    #[arg(long, value_delimiter = ',', value_name = "N,…", hide_short_help = true)]
    blocks: Vec<usize>,
    /// l1, l2 or cosine [default: all are tried]
    #[arg(long, value_parser = by_name::<Metric>, hide_short_help = true)]
    metric: Option<Metric>,
    /// Module to probe: t-attn, s-attn or ca-mlp [default: t-attn and s-attn are tried]
    #[arg(long, value_parser = by_name::<ResidualKind>, hide_short_help = true)]
    residual: Option<ResidualKind>,
    /// Seed of the first prompt's noise; each further prompt takes the next one
    #[arg(long, default_value_t = 0, hide_short_help = true)]
    seed: u64,
    /// Codebooks to verify with real runs, besides the scaled preset
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50), hide_short_help = true)]
    verify: u8,
    /// Most rounds of real runs over all prompts; the preset takes one round for each order of --taylor tried
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=100), hide_short_help = true)]
    rounds: u8,
    /// Print only warnings, errors and the result
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    fn target(&self) -> Target {
        match (self.target_speedup, self.target_psnr) {
            (Some(speed_up), _) => Target::SpeedUp(speed_up),
            (None, psnr) => Target::Psnr(psnr.unwrap_or(f64::NAN)),
        }
    }

    fn effort(&self) -> anyhow::Result<Effort> {
        let orders = self.taylor.map_or_else(|| vec![0, 1, 2], |order| vec![order.into()]);
        let effort = Effort { orders, verify: self.verify.into(), rounds: self.rounds.into() };
        if effort.rounds <= effort.orders.len() {
            bail!(
                "--rounds {} leaves none for a search, as the preset takes {}: give more, or name the one with --taylor",
                effort.rounds,
                effort.orders.len()
            );
        }
        Ok(effort)
    }
}

/// A value by the name it has in TOML files.
fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// The name of a value in TOML files.
fn name_of<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Tells of progress on stderr.
struct Progress {
    quiet: bool,
    rounds: usize,
}

impl Watch for Progress {
    fn finished(&mut self, what: &str, done: usize, all: usize) {
        if !self.quiet {
            out::note(format_args!("{what}: {done}/{all}"));
        }
    }

    fn tried(&mut self, tried: &Tried) {
        self.rounds += 1;
        if !self.quiet {
            out::note(format_args!(
                "round {}: {}\n  predicted {}\n  achieved  {}",
                self.rounds,
                entries(tried),
                say(&tried.predicted),
                say(&tried.achieved)
            ));
        }
    }

    fn stop(&mut self) -> bool {
        interrupt::asked()
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.runs.source()?;
    let config = source.config();
    let settings = args.runs.settings(&source)?;
    let steps = settings.steps;
    let target = args.target();
    target.check(steps)?;
    let presets = presets(args, &source, steps)?;
    let against = against(args, &source, steps)?;
    if args.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("toml")) {
        bail!("--out {}: --cache reads files whose names end in .toml", args.out.display());
    }
    check_file_writable(&args.out)?;
    let texts = texts(args, &source)?;

    let effort = args.effort()?;
    let weights = runs::weights_hash(&source, args.quiet)?;
    let device = args.runs.device()?;
    let [learning, held_out] = texts.map(|texts| embedded(args, &source, &device, &texts));
    let (learning, held_out) = (learning?, held_out?);
    let pipeline = args.runs.load(&source, &device)?;
    let work = args.work.clone().unwrap_or_else(|| args.out.with_extension("work"));
    let session = Session {
        pipeline: &pipeline,
        learning: requests(args, settings, &learning),
        held_out: requests(args, settings, &held_out),
        presets,
        target,
        effort,
        against,
        work: &work,
        weights: weights.clone(),
    };
    let result = session.run(&mut Progress { quiet: args.quiet, rounds: 0 });
    let Verdict { found, judged, flops, factor } = match result {
        Ok(result) => result,
        Err(error) => {
            if error.is_stop() {
                return Ok(interrupt::ended(&format!("what is finished is kept in {}", work.display())));
            }
            return Err(error.into());
        }
    };

    let model = format!("{} (weights {:.12}…)", config.name, weights);
    let mut text = facts(args, &model, settings, &learning);
    let _ = writeln!(text, "predicted  {}\nachieved   {}", say(&found.best.predicted), say(&found.best.achieved));
    if let Some(factor) = factor {
        let _ = writeln!(
            text,
            "factor     {factor:.3}, for `policy = \"scaling\"` with intervals of up to {INTERVALS} steps"
        );
    }
    if let Some((ours, theirs)) = &judged {
        text += &verdict(args, held_out.len(), &mean_outcome(ours, flops), &mean_outcome(theirs, flops), ours, theirs);
    }
    let settings = found.best.cache().to_toml()?;
    let header: String = format!("{}\n{text}", command_line()).lines().map(|line| format!("# {line}\n")).collect();
    interrupt::shielded(|| write_file(&args.out, (header + "\n" + &settings).as_bytes()))?;
    out::line(format_args!("{}\n{text}{}", entries(&found.best), about(&found)))?;
    if !found.met {
        let (file, tried) = (args.out.display(), found.tried.len());
        let words = format!("{file} misses the target; it is the nearest of {tried} tried (--rounds, --verify)");
        log::say("error", &words);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The current settings, from which the search starts.
fn presets(args: &Args, source: &ModelSource, steps: usize) -> anyhow::Result<Vec<AdaCacheConfig>> {
    let names = ["adacache-fast", "adacache-slow", "adacache-fast+moreg", "adacache-slow+moreg"];
    let probing = Probing { blocks: args.blocks.clone(), residual: args.residual, metric: args.metric };
    let mut presets = vec![];
    for name in &names[..if args.moreg { 4 } else { 2 }] {
        presets.extend(probing.of(source, name, steps)?);
    }
    Ok(presets)
}

/// The settings with which the result is compared.
fn against(args: &Args, source: &ModelSource, steps: usize) -> anyhow::Result<CacheConfig> {
    let against = pipeline::cache_config(source, &args.against, false, steps)?;
    if against.adacache().is_none() {
        bail!(
            "--against {}: the result is compared with AdaCache's settings; `compare` takes any policy",
            args.against
        );
    }
    Ok(against)
}

/// What is generated of these prompts; each has a seed of its own.
fn requests(args: &Args, settings: runs::Settings, prompts: &Numbered) -> Vec<Request> {
    let request = |(number, prompt): &(u64, Prompt)| {
        settings.request(prompt.clone(), args.seed.wrapping_add(*number), CacheConfig::None)
    };
    prompts.iter().map(request).collect()
}

/// The settings under which the codebook holds.
fn facts(args: &Args, model: &str, settings: runs::Settings, learning: &Numbered) -> String {
    let runs::Settings { steps, cfg_scale } = settings;
    let texts: Vec<String> = learning.iter().map(|(_, prompt)| prompt.to_string()).collect();
    format!(
        "model      {model}, {steps} steps, guidance {cfg_scale}, {}; adacache {}; {} prompts (sha256 {}…), seeds from {}\n",
        args.runs.dtype.name(),
        env!("CARGO_PKG_VERSION"),
        texts.len(),
        hash(&texts.join("\n")),
        args.seed
    )
}

/// Prompts, each with its place in the file.
type Numbered = Vec<(u64, Prompt)>;

/// `texts`, embedded.
fn embedded(
    args: &Args,
    source: &ModelSource,
    device: &Device,
    texts: &[(u64, PromptText)],
) -> anyhow::Result<Numbered> {
    let (numbers, texts): (Vec<u64>, Vec<PromptText>) = texts.iter().cloned().unzip();
    Ok(numbers.into_iter().zip(args.runs.embed(source, device, &texts)?).collect())
}

/// The prompts to calibrate on and those held out, each with its place in the file.
fn texts(args: &Args, source: &ModelSource) -> anyhow::Result<[Vec<(u64, PromptText)>; 2]> {
    let read = |file: &Path| -> anyhow::Result<Vec<(u64, PromptText)>> {
        let texts = generate::read_distinct_prompts(source, file)?.into_iter().map(|(_, text)| text);
        Ok((0..).zip(texts).collect())
    };
    let mut learning = read(&args.prompts)?;
    let held_out = match (&args.held_out, args.split) {
        (Some(file), _) => read(file)?,
        (None, None) => vec![],
        (None, Some(share)) if !(share > 0.0 && share < 1.0) => {
            bail!("--split {share}: give a number between 0 and 1, as 0.5")
        }
        (None, Some(share)) => {
            let first = (learning.len() as f64 * share).round() as usize;
            if first == 0 || first == learning.len() {
                bail!("--split {share} of {} prompts leaves nothing on one side", learning.len());
            }
            learning.split_off(first)
        }
    };
    Ok([learning, held_out])
}

/// The command without the folders of this machine.
fn command_line() -> String {
    let bare = |arg: String| match arg.rsplit_once('/') {
        Some((before, name)) => before.split_once('=').map_or(String::new(), |(key, _)| format!("{key}=")) + name,
        None => arg,
    };
    std::iter::once("adacache".into()).chain(std::env::args().skip(1).map(bare)).collect::<Vec<_>>().join(" ")
}

fn entries(tried: &Tried) -> String {
    let config = &tried.config;
    let entries = config.codebook.entries().iter().map(|(threshold, rate)| format!("{threshold}→{rate}"));
    let moreg = config
        .moreg
        .as_ref()
        .map_or_else(String::new, |m| format!("  moreg {:?} {:?} gradient {}", m.steps, m.hyper, m.gradient));
    let taylor = tried
        .extrapolation
        .map_or_else(String::new, |Extrapolation { order, damping }| format!("  taylor {order} damping {damping}"));
    let (residual, metric) = (name_of(&config.residual), name_of(&config.metric));
    let entries = entries.collect::<Vec<_>>().join(" ");
    format!("codebook   {entries}{moreg}{taylor}  ({metric} of {residual} {:?})", config.blocks)
}

fn say(outcome: &Outcome) -> String {
    let psnr = outcome.psnr.map_or_else(|| "PSNR unknown yet".into(), |psnr| format!("{psnr:.2} dB"));
    format!("speed-up {:.3} ({:.1} % of the operations), {psnr}", outcome.speed_up(), 100.0 * outcome.compute)
}

/// The held-out prompts with the result and with what it is compared with.
fn verdict(
    args: &Args,
    count: usize,
    ours: &Outcome,
    theirs: &Outcome,
    our_runs: &[Run],
    their_runs: &[Run],
) -> String {
    let psnr = |runs: &[Run]| runs.iter().map(Run::bounded_psnr).collect::<Vec<_>>();
    let Mean { mean, interval } = paired(&psnr(our_runs), &psnr(their_runs));
    let interval = interval.map_or_else(String::new, |interval| format!(" ± {interval:.2}"));
    let name =
        Path::new(&args.against).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!(
        "held out   {}, {count} prompts\n{name}  {}, the same prompts\n\
         difference {mean:+.2}{interval} dB (pairs, 95 %)\n",
        say(ours),
        say(theirs)
    )
}

/// What else there is to know of the search.
fn about(found: &Calibrated) -> String {
    let mut text = String::new();
    if let Some(rank) = found.rank_correlation {
        let _ = writeln!(
            text,
            "proxy      rank correlation {rank:.2} with the PSNR of {} real runs",
            found.tried.iter().filter(|tried| tried.extrapolation == found.best.extrapolation).count()
                * found.best.runs.len()
        );
    }
    let _ = writeln!(
        text,
        "bend       {:.2}: a change over n steps is n^-bend of the sum of the changes between",
        found.bend.0
    );
    let most = found.weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let weights = found.weights.iter().map(|weight| format!("{:.2}", weight / most));
    let _ =
        writeln!(text, "weights    {}: what the error of each step counts for", weights.collect::<Vec<_>>().join(" "));
    let distances: Vec<f64> = found.best.runs.iter().flat_map(|run| run.decisions.iter().map(|d| d.distance)).collect();
    for idle in idle(&found.best.config.codebook, &distances) {
        let _ = writeln!(text, "warning: {idle}");
    }
    let _ = write!(text, "speed-up in operations of the denoising loop, asked within {:.0} %", 100.0 * TOLERANCE);
    text
}
