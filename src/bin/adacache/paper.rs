//! `adacache paper`: the tables of AdaCache's paper beside the same runs here.

mod results;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::cache::CacheConfig;
use adacache::chips::{CHIPS, Chip};
use adacache::compare::summarize;
use adacache::device::{Device, KERNELS};
use adacache::family;
use adacache::media::write_file;
use adacache::paper::{self, Entry, Figures, SYSTEMS, System};
use adacache::pipeline::{self, Guidance, Job, ModelSource, OpenOptions, Pipeline, PromptText};
use adacache::plan::Expected;
use adacache::profile::Efficiency;
use adacache::quality::{Networks, vbench};
use adacache::tensor::DType;
use anyhow::{Context, bail};
use serde_json::json;

use self::results::{Done, Measured, Varied};
use crate::measure::{self, Weights};
use crate::series::{ORIGINAL, Policy, Series, Sides};
use crate::{device, generate, out, runs};

/// Write the paper's tables beside the same runs here
///
/// The first table has every step computed, Δ-DiT, T-GATE, PAB and AdaCache on Open-Sora 480p, Open-Sora-Plan and Latte, and AdaCache on
/// Open-Sora 720p. Operations are counted and seconds modelled, without weights; policies that decide by what they measure compute as much
/// as the paper's figures amount to. --run generates the videos with the models that are there, and measures them. --ablation takes the
/// third table instead: AdaCache with another metric, probe, place or codebook.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache paper --help", after_long_help = "")]
pub(crate) struct Args {
    /// Systems: opensora-480p, open-sora-plan, latte, opensora-720p; or any other model, as for `generate --model`, without the paper's
    /// figures [default: those four; with --ablation opensora-480p]
    #[arg(long, value_name = "NAME|FOLDER,…", value_delimiter = ',')]
    system: Vec<String>,
    /// Variants of AdaCache instead of methods
    #[arg(long)]
    ablation: bool,
    /// Denoising steps; the paper's figures are left out where they are of another number [default: the paper's, else the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// GPU to model
    #[arg(long, default_value = "a100", value_parser = clap::builder::PossibleValuesParser::new(CHIPS.iter().map(|chip| chip.id)))]
    gpu: String,
    /// Generate the videos and measure them
    #[arg(long, requires_all = ["prompts", "out"])]
    run: bool,
    /// With --run: one prompt per line; empty lines and lines starting with # are skipped
    #[arg(long, value_name = "FILE", requires = "run")]
    prompts: Option<PathBuf>,
    /// With --run: number of seeds for each prompt, counted from 0
    #[arg(long, default_value_t = 1, value_name = "N", requires = "run", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Folder for paper.json, and with --run for the runs: finished ones are kept, and a stopped table resumes from them
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// With --run: score the videos with the `vbench` command too
    #[arg(long, requires = "run")]
    vbench: bool,
    #[command(flatten)]
    device: device::Options,
    #[command(flatten)]
    weights: Weights,
    /// Element type to compute in: bf16 or f16
    #[arg(long, default_value = "bf16", hide_short_help = true)]
    dtype: DType,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print only warnings, errors and the tables
    #[arg(long, short)]
    quiet: bool,
}

/// A table: a system of the paper, or another model.
struct Table {
    name: String,
    model: String,
    about: String,
    system: Option<&'static System>,
    steps: Option<usize>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gpu = Chip::named(&args.gpu).expect("clap knows the names");
    if args.dtype == DType::F32 {
        bail!("f32 is the reference mode and has no model of time: use bf16 or f16");
    }
    // Not found out behind hours of work.
    if args.vbench && !vbench::is_installed() {
        bail!(
            "--vbench: the command `vbench` is not installed: pip install vbench (it needs PyTorch and an NVIDIA GPU)"
        );
    }
    let tables = tables(args)?;
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let running = if args.run { Some((args.device.open()?, args.weights.open()?)) } else { None };
    let mut done = vec![];
    for table in &tables {
        let mut finished = counted(args, gpu, table)?;
        if let Some((device, networks)) = &running {
            match measured(args, table, &finished, device, networks)? {
                ControlFlow::Continue(measured) => finished.measured = measured,
                ControlFlow::Break(stopped) => return Ok(stopped),
            }
        }
        done.push(finished);
    }
    let results = json!({
        "gpu": gpu, "dtype": args.dtype.name(), "tables": done, "paper": "arXiv 2411.02397, one A100 80 GB",
        "program": env!("CARGO_PKG_VERSION"), "kernels": KERNELS,
        "note": "operations are counted; every field with modelled in its name is a model, nothing of it was measured",
    });
    let json = serde_json::to_string_pretty(&results)? + "\n";
    if let Some(folder) = &args.out {
        write_file(&folder.join("paper.json"), json.as_bytes())?;
    }
    out::line(if args.json { json.trim_end().to_owned() } else { results::text(&done, gpu) })?;
    Ok(ExitCode::SUCCESS)
}

/// The tables asked for.
fn tables(args: &Args) -> anyhow::Result<Vec<Table>> {
    let all: Vec<&str> = match (args.system.is_empty(), args.ablation) {
        (false, _) => args.system.iter().map(String::as_str).collect(),
        (true, true) => vec![SYSTEMS[0].name],
        (true, false) => SYSTEMS.iter().map(|system| system.name).collect(),
    };
    let mut tables: Vec<Table> = vec![];
    for name in all {
        let system = System::named(name);
        let (model, about) = match system {
            Some(system) => (system.model.to_owned(), system.about.to_owned()),
            None => (name.to_owned(), format!("{name}, which the paper does not have")),
        };
        let stem = Path::new(name).file_name().map_or_else(|| name.into(), |name| name.to_string_lossy().into_owned());
        if tables.iter().any(|table| table.name == stem) {
            bail!("two systems are called `{stem}`: name one, or rename its folder");
        }
        let steps = args.steps.or(system.map(|system| system.steps));
        tables.push(Table { name: stem, model, about, system, steps });
    }
    Ok(tables)
}

impl Table {
    fn options(&self) -> OpenOptions {
        self.system.map(System::options).unwrap_or_default()
    }

    /// The options of `generate` that it is.
    fn arguments(&self) -> runs::Arguments {
        let mut all = runs::model_argument(&self.model);
        let resolution = self.system.and_then(|system| system.resolution);
        all.extend(resolution.map(|name| ("resolution".to_owned(), vec![name.to_owned()])));
        all
    }

    /// Steps and guidance for `source`.
    fn settings(&self, source: &ModelSource) -> anyhow::Result<runs::Settings> {
        let config = source.config();
        let (steps, cfg_scale): (usize, Guidance) =
            (self.steps.unwrap_or(config.default_steps), config.default_cfg_scale);
        pipeline::check_settings(source, steps, cfg_scale)?;
        Ok(runs::Settings { steps, cfg_scale })
    }

    /// The methods, with the paper's figures where they are of the same run.
    fn lines(&self) -> Vec<paper::Line> {
        match self.system {
            Some(system) if self.steps == Some(system.steps) => system.lines.to_vec(),
            Some(system) => {
                system.lines.iter().map(|line| paper::Line { published: Figures::default(), ..*line }).collect()
            }
            None => paper::lines().to_vec(),
        }
    }
}

/// Counts a table.
fn counted(args: &Args, gpu: &Chip, table: &Table) -> anyhow::Result<Done> {
    let source = family::published(&table.model, &table.options()).with_context(|| {
        let known = SYSTEMS.iter().map(|system| system.name).collect::<Vec<_>>().join(", ");
        format!("--system {}: neither one of the paper's ({known}) nor another model", table.model)
    })?;
    let runs::Settings { steps, cfg_scale } = table.settings(&source)?;
    let job = Job { steps, guidance: cfg_scale, ..Job::usual(&source, args.dtype)? };
    let efficiency = Efficiency::assumed(gpu);
    let decoding = job.decoding(gpu, &efficiency)?;
    let (mut lines, mut variants) = (vec![], vec![]);
    if args.ablation {
        let presets = source.presets(steps)?;
        for variant in paper::ablation(&presets, source.anatomy(), steps) {
            let job = Job { cache: variant.cache(), decodes: false, ..job.clone() };
            let estimate = job.estimate(gpu, efficiency.clone(), &Expected::Bounds)?;
            let bound = |i: usize| estimate.totals.get(i).map_or(steps, |total| total.computed_steps);
            variants.push(Varied {
                modelled_step_ms: estimate.computed_step.modelled_seconds * 1e3,
                cache_bytes: estimate.memory.cache,
                computed: [bound(2), bound(1)],
                variant,
            });
        }
    } else {
        let sees_attention = table.system.is_none_or(|system| system.sees_attention);
        let fits = |line: &paper::Line| match pipeline::cache_config(&source, line.cache, false, steps) {
            Err(error) if line.cache != ORIGINAL => {
                out::note(format_args!("{}: {} is left out: {error}", table.name, line.method));
                false
            }
            _ => true,
        };
        let methods: Vec<paper::Line> = table.lines().into_iter().filter(fits).collect();
        lines = paper::count(&job, decoding.as_ref(), gpu, &efficiency, &methods, sees_attention)?;
    }
    Ok(Done {
        system: table.name.clone(),
        model: table.model.clone(),
        about: table.about.clone(),
        steps,
        decoding: decoding.map(|cost| [cost.flops as f64 / 1e12, cost.modelled_seconds]),
        lines,
        variants,
        measured: None,
    })
}

/// Generates the videos of a table and measures them; nothing if the model's files are not there.
fn measured(
    args: &Args,
    table: &Table,
    counted: &Done,
    device: &Device,
    networks: &Networks,
) -> anyhow::Result<ControlFlow<ExitCode, Option<Measured>>> {
    let (Some(prompts), Some(folder)) = (&args.prompts, &args.out) else { bail!("--run needs --prompts and --out") };
    let source = match family::open(&table.model, &table.options()) {
        // Of the four some may be there; one that was asked for has to be.
        Err(error) if args.system.is_empty() => {
            out::note(format_args!("{}: nothing was generated: {error}", table.name));
            return Ok(ControlFlow::Continue(None));
        }
        source => source?,
    };
    let settings = table.settings(&source)?;
    let prompts = generate::read_distinct_prompts(&source, prompts)?;
    let policies = match counted.variants.is_empty() {
        true => {
            let policy = |line: &Entry| Policy { name: line.cache.into(), config: line.settings.clone() };
            counted.lines.iter().map(policy).collect::<Vec<_>>()
        }
        false => {
            let every = Policy { name: ORIGINAL.into(), config: CacheConfig::None };
            let variants = counted.variants.iter().map(|Varied { variant, .. }| variant);
            let variants = variants.map(|variant| Policy { name: variant.name.clone(), config: variant.cache() });
            std::iter::once(every).chain(variants).collect()
        }
    };
    let weights = runs::weights_hash(&source, args.quiet)?;
    let folder = folder.join(&table.name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let texts: Vec<PromptText> = prompts.iter().map(|(_, text)| text.clone()).collect();
    let embedded = settings.embed(&source, device, args.dtype, &texts)?;
    let pipeline = Pipeline::load(&source, device, args.dtype)?;
    let series = Series {
        pipeline: &pipeline,
        settings,
        weights: &weights,
        arguments: table.arguments(),
        prompts: prompts.iter().map(|(number, _)| *number).zip(embedded).collect(),
        seeds: args.seeds,
        policies: &policies,
        folder: &folder,
        networks,
        quiet: args.quiet,
    };
    let Sides { rows, .. } = match series.run(device)? {
        ControlFlow::Continue(sides) => sides,
        ControlFlow::Break(stopped) => return Ok(ControlFlow::Break(stopped)),
    };
    let vbench = if args.vbench { scores(&folder, source.config().fps)? } else { BTreeMap::new() };
    Ok(ControlFlow::Continue(Some(Measured {
        device: device.info().label(),
        prompts: prompts.len(),
        seeds: args.seeds,
        summaries: summarize(&rows),
        vbench,
        weights,
    })))
}

/// VBench's scores of the runs in `folder`, by policy.
fn scores(folder: &Path, fps: f64) -> anyhow::Result<BTreeMap<String, BTreeMap<String, f64>>> {
    let dimensions = vbench::DIMENSIONS.map(String::from);
    let laid_out = folder.join("vbench");
    // Of an earlier table in this folder, perhaps of fewer runs.
    if laid_out.is_dir() {
        fs::remove_dir_all(&laid_out).with_context(|| format!("cannot remove {}", laid_out.display()))?;
    }
    let scores = vbench::score(&[folder.to_owned()], &dimensions, &laid_out, fps)?;
    let owned = |means: BTreeMap<&str, f64>| means.into_iter().map(|(name, mean)| (name.to_owned(), mean)).collect();
    Ok(measure::means(&scores).into_iter().map(|(group, _, means)| (group.to_owned(), owned(means))).collect())
}
