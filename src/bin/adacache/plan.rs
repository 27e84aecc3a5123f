//! `adacache plan`: what a video would take on a GPU, without a GPU.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::cache::trace::Trace;
use adacache::chips::{CHIPS, Chip};
use adacache::family;
use adacache::pipeline::{self, Deciding, Guidance, Job, MemorySize, OpenOptions, VideoSize};
use adacache::plan::{Estimate, Expected};
use adacache::profile::{Efficiency, Share};
use adacache::tensor::DType;
use anyhow::{Context, bail};
use serde_json::json;

use crate::out;

/// Bytes a second from page-locked memory over PCIe 4.0 x16: 31.5 GB/s by the standard, less what packets cost.
const PCIE_BANDWIDTH: f64 = 25e9;

/// Estimate what a video takes on a GPU: operations, memory and modelled seconds
///
/// The command walks the generation launch by launch without running it, so operations, bytes and memory are exact. Seconds are
/// modelled: each launch takes the longer of its arithmetic and its memory traffic, at the stated shares of the GPU's peaks. Options that
/// `adacache generate` has too mean the same here and have the same defaults.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache plan --help", after_long_help = "")]
pub(crate) struct Args {
    /// sprites, wan2.1-t2v-1.3b, opensora-v1.2, latte-1, …, a folder
    #[arg(long, default_value = "sprites")]
    model: String,
    /// 240p, 360p, 480p or 720p (Open-Sora) [default: 240p]
    #[arg(long, value_name = "NAME", conflicts_with = "size")]
    resolution: Option<String>,
    /// Height to width: 9:16 (landscape), 16:9, 3:4, 4:3, 1:1, 1:2, 2:1, or a published ratio such as 0.66 (Open-Sora) [default: 9:16]
    #[arg(long, value_name = "H:W", conflicts_with = "size", hide_short_help = true)]
    aspect: Option<String>,
    /// Size in pixels, multiples of 8 [default: the model's]
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Frames of each video [default: the model's]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Number of videos generated together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    videos: u16,
    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; 1 is none, half the work; of two experts both, or X,Y [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    cfg_scale: Option<Guidance>,
    /// GPU to model
    #[arg(long, default_value = "a100", value_parser = clap::builder::PossibleValuesParser::new(CHIPS.iter().map(|chip| chip.id)))]
    gpu: String,
    /// Element type to compute in: bf16 or f16
    #[arg(long, default_value = "bf16", hide_short_help = true)]
    dtype: DType,
    /// Policy, as for `generate --cache` [default: adacache-fast]
    #[arg(long, value_name = "PRESET|FILE.toml")]
    cache: Option<String>,
    /// Motion regularization
    #[arg(long, hide_short_help = true)]
    moreg: bool,
    /// Keep residuals in 8 bits
    #[arg(long, hide_short_help = true)]
    fp8_cache: bool,
    /// Multiply in 8 bits, on a Hopper
    #[arg(long, hide_short_help = true)]
    fp8_weights: bool,
    /// Decode in the published tiles (Open-Sora-Plan)
    #[arg(long, hide_short_help = true)]
    vae_tiling: bool,
    /// Decode with this tiny autoencoder (Wan), a file of TAEHV
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tiny_vae: Option<PathBuf>,
    /// Limit on device memory, such as 8GiB: shows what `generate` would stream from host memory
    #[arg(long, value_name = "SIZE")]
    vram_budget: Option<MemorySize>,
    /// Number of computed steps [default: the fewest and the most that the policy allows]
    #[arg(long, value_name = "N", conflicts_with = "trace")]
    computed: Option<usize>,
    /// Trace recorded by `generate --trace`: plan the steps that the policy computes on it
    #[arg(long, value_name = "FILE.jsonl", hide_short_help = true)]
    trace: Option<PathBuf>,
    /// Shares of the GPU's peaks that the kernels reach, such as linear=0.7,attention=0.5,memory=0.85,launch_us=1.5; wgmma,
    /// wgmma_fp8 (of the peak of 8 bits), wgmma_attention and wgmma_attention_72 are for the kernels for Hopper
    #[arg(long, value_name = "NAME=VALUE,…", value_delimiter = ',', hide_short_help = true)]
    efficiency: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gpu = Chip::named(&args.gpu).expect("clap knows the names");
    if args.dtype == DType::F32 {
        bail!("f32 is the reference mode and has no model of time: use bf16 or f16");
    }
    let efficiency = efficiency(gpu, &args.efficiency)?;
    let job = job(args)?;
    let expected = match (&args.trace, args.computed) {
        (Some(path), _) => {
            let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
            Expected::Trace(Trace::read(BufReader::new(file)).with_context(|| path.display().to_string())?)
        }
        (None, Some(steps)) => Expected::Steps(steps),
        (None, None) => Expected::Bounds,
    };
    let estimate = job.estimate(gpu, efficiency, &expected)?;
    let published = published(args, &job);
    let needs = &estimate.memory.needs;
    let streamed = args.vram_budget.map(|MemorySize(budget)| needs.streamed(budget)).transpose()?;
    let text = if args.json {
        as_json(args, &job, &estimate, streamed, &published)?
    } else {
        for_people(args, &job, &estimate, streamed, &published)
    };
    out::line(text)?;
    Ok(ExitCode::SUCCESS)
}

fn job(args: &Args) -> anyhow::Result<Job> {
    let size = OpenOptions {
        pixels: args.size.as_deref().map(VideoSize::sides).transpose()?,
        resolution: args.resolution.clone(),
        aspect: args.aspect.clone(),
        frames: args.frames,
        fp8_weights: args.fp8_weights,
        vae_tiling: args.vae_tiling,
        tiny_vae: args.tiny_vae.clone(),
        ..OpenOptions::default()
    };
    let source = family::published(&args.model, &size)?;
    let steps = args.steps.unwrap_or(source.config().default_steps);
    let cfg_scale = args.cfg_scale.unwrap_or(source.config().default_cfg_scale);
    pipeline::check_settings(&source, steps, cfg_scale)?;
    let cache = args.cache.as_deref().unwrap_or_else(|| pipeline::default_cache(source.config(), steps));
    Ok(Job {
        cache: pipeline::cache_config(&source, cache, args.moreg, steps)?,
        dtype: args.dtype,
        videos: args.videos.into(),
        deciding: Deciding::Together,
        steps,
        guidance: cfg_scale,
        packed_cache: args.fp8_cache,
        record_all: false,
        caption_tokens: source.config().prompt_length,
        given: false,
        encodes: false,
        decodes: true,
        source,
    })
}

/// The published runs of the same job, if there are any.
fn published(args: &Args, job: &Job) -> Vec<(&'static str, f64)> {
    let Some(family) = family::named(&args.model) else { return vec![] };
    let usual = args.aspect.as_deref().is_none_or(|aspect| aspect == "9:16");
    let same = usual && args.videos == 1 && job.guidance.is_guided();
    let config = job.source.config();
    let usual = family.published(&OpenOptions::default());
    let own = usual.is_ok_and(|usual| (usual.config().height, usual.config().width) == (config.height, config.width));
    let runs = family.measured().iter().filter(|run| {
        let sized = if run.resolution.is_none() { own } else { args.size.is_none() };
        same && sized
            && run.resolution == args.resolution.as_deref()
            && run.frames == job.source.config().frames()
            && run.steps == job.steps
    });
    runs.map(|run| (run.what, run.seconds)).collect()
}

fn efficiency(gpu: &Chip, settings: &[String]) -> anyhow::Result<Efficiency> {
    let mut efficiency = Efficiency::assumed(gpu);
    for setting in settings {
        let parsed =
            setting.split_once('=').and_then(|(name, value)| Some((name.trim(), value.trim().parse::<f64>().ok()?)));
        let (name, value) =
            parsed.with_context(|| format!("--efficiency {setting}: write NAME=VALUE, as in linear=0.7"))?;
        let share = match name {
            "linear" => &mut efficiency.linear,
            "wgmma" => &mut efficiency.wgmma,
            "wgmma_fp8" => &mut efficiency.wgmma_fp8,
            "wgmma_attention" => &mut efficiency.wgmma_attention,
            "wgmma_attention_72" => &mut efficiency.wgmma_attention_72,
            "attention" => &mut efficiency.attention,
            "memory" => &mut efficiency.memory,
            "launch_us" if (0.0..=1000.0).contains(&value) => {
                efficiency.launch_seconds = value * 1e-6;
                continue;
            }
            _ => {
                bail!(
                    "--efficiency {setting}: known: linear, attention, wgmma, wgmma_fp8, wgmma_attention, wgmma_attention_72, memory (0 to 1) and launch_us (0 to 1000)"
                )
            }
        };
        *share = Share { value, origin: "given with --efficiency".into() };
    }
    efficiency.check(gpu).context("--efficiency")?;
    Ok(efficiency)
}

fn as_json(
    args: &Args,
    job: &Job,
    estimate: &Estimate,
    streamed: Option<usize>,
    published: &[(&str, f64)],
) -> anyhow::Result<String> {
    let g = job.source.config().latent;
    let published: Vec<_> = published
        .iter()
        .map(|(what, seconds)| json!({ "run": what, "gpu": "A100 80 GB", "seconds": seconds }))
        .collect();
    let mut json = serde_json::to_value(estimate)?;
    let fields = json.as_object_mut().expect("an estimate is an object");
    fields.insert("model".into(), json!(args.model));
    fields.insert("latent".into(), json!(g));
    fields.insert("dtype".into(), json!(job.dtype.name()));
    fields.insert("steps".into(), json!(job.steps));
    if let Some(blocks) = streamed {
        fields.insert("streamed_blocks".into(), json!(blocks));
        fields.insert("streamed_weight_bytes".into(), json!(estimate.memory.needs.streamed_bytes(blocks)));
    }
    fields.insert("published".into(), json!(published));
    fields.insert("note".into(), json!("operations, bytes and memory are counted; every field with modelled or roofline in its name is a model, nothing was measured"));
    Ok(serde_json::to_string_pretty(&json)?)
}

fn for_people(args: &Args, job: &Job, e: &Estimate, streamed: Option<usize>, published: &[(&str, f64)]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, args, job, e)
        .and_then(|()| memory(&mut text, args, e, streamed))
        .and_then(|()| steps(&mut text, e))
        .and_then(|()| shares(&mut text, job, e))
        .and_then(|()| totals(&mut text, job, e, published));
    text.truncate(text.trim_end().len());
    text
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// The video and the GPU.
fn head(text: &mut String, args: &Args, job: &Job, e: &Estimate) -> fmt::Result {
    let [frames, height, width] = job.source.config().latent;
    let [t, s] = e.tokens;
    writeln!(
        text,
        "{}  {} × {t} × {s} tokens (latents {} × {} × {}), {} steps, {}",
        args.model, e.batch, frames, height, width, job.steps, job.dtype
    )?;
    let mut first = 1;
    for turn in &e.stages {
        let last = first + turn.steps - 1;
        writeln!(text, "{} expert: steps {first} to {last}, guidance {}", turn.expert, turn.cfg_scale)?;
        first = last + 1;
    }
    writeln!(
        text,
        "{}: {:.0} TFLOP/s dense{}, {:.0} GB/s, {:.0} GiB ({})\n",
        e.gpu.name,
        e.gpu.tensor_flops / 1e12,
        match e.gpu.sm.mma_share {
            1.0 => String::new(),
            share => format!(" ({:.0} by mma.sync)", e.gpu.tensor_flops * share / 1e12),
        },
        e.gpu.bandwidth / 1e9,
        gib(e.memory.available),
        e.gpu.source
    )?;
    Ok(())
}

/// The device memory, and what of the weights is streamed.
fn memory(text: &mut String, args: &Args, e: &Estimate, streamed: Option<usize>) -> fmt::Result {
    writeln!(text, "memory, counted (GiB)")?;
    let m = &e.memory;
    for (name, bytes) in [
        ("weights", m.weights),
        ("caption keys and values", m.caption),
        ("activations of a step", m.activations),
        ("cache: kept from step to step", m.cache),
        ("peak of the steps", m.peak),
        ("decoder's weights, afterwards", m.needs.decoder),
        ("decoding, at the least", m.needs.decoding),
        ("all, weights on the device", m.resident),
        ("all, both experts on the device", if m.needs.experts > 1 { m.together } else { 0 }),
        ("all, blocks streamed (--vram-budget)", m.least),
    ] {
        if bytes > 0 || !name.contains("experts") {
            writeln!(text, "  {name:<36} {:>8.2}", gib(bytes))?;
        }
    }
    if m.needs.experts > 1 && m.together > m.available {
        writeln!(
            text,
            "  one expert at a time: at the switch {:.2} GiB of weights are read and copied, and again before the next video",
            gib(m.weights)
        )?;
    }
    if m.resident > m.available {
        let streams = if m.least > m.available { "not even streamed" } else { "unless blocks are streamed" };
        writeln!(text, "  does NOT fit: {:.2} GiB too much, {streams}", gib(m.resident - m.available))?;
    }
    if let (Some(blocks), Some(MemorySize(budget))) = (streamed, args.vram_budget) {
        let bytes = m.needs.streamed_bytes(blocks);
        writeln!(
            text,
            "  within {:.2}: {blocks} of {} blocks streamed, {:.2} copied in every computed step ({:.0} ms modelled at {:.0} GB/s, PCIe 4.0 \
             x16, beside the blocks that compute; not in the seconds below)",
            gib(budget),
            m.needs.blocks,
            gib(bytes),
            bytes as f64 / PCIE_BANDWIDTH * 1e3,
            PCIE_BANDWIDTH / 1e9
        )?;
    }
    // Single modules are kept one by one: there is no fold to compare with them.
    if m.cache > 0 && e.partial_step.is_none() {
        writeln!(text, "  (one tensor per residual would keep {:.2})", gib(m.cache_unfolded))?;
    }
    Ok(())
}

/// What each kind of step launches.
fn steps(text: &mut String, e: &Estimate) -> fmt::Result {
    let steps = [
        ("computed step", Some(&e.computed_step)),
        ("reused step", e.reused_step.as_ref()),
        ("smallest step", e.partial_step.as_ref()),
    ];
    for (name, cost) in steps {
        let Some(cost) = cost else { continue };
        writeln!(text, "\n{name:<18} {:>9} {:>11} {:>10} {:>14}", "launches", "TFLOP", "GB", "modelled ms")?;
        for f in &cost.families {
            writeln!(
                text,
                "  {:<16} {:>9} {:>11.3} {:>10.2} {:>14.3}",
                f.family.name(),
                f.launches,
                f.flops as f64 / 1e12,
                f.bytes as f64 / 1e9,
                f.modelled_seconds * 1e3
            )?;
        }
        writeln!(
            text,
            "  {:<16} {:>9} {:>11.3} {:>10.2} {:>14.3}   (at the peaks: {:.3} modelled ms)",
            "all",
            cost.launches,
            cost.flops as f64 / 1e12,
            cost.bytes as f64 / 1e9,
            cost.modelled_seconds * 1e3,
            cost.roofline_seconds * 1e3
        )?;
    }
    Ok(())
}

/// The assumed shares of the GPU's peaks, and where they are from.
fn shares(text: &mut String, job: &Job, e: &Estimate) -> fmt::Result {
    writeln!(text, "\nshares of the peaks")?;
    let Efficiency { linear, wgmma, wgmma_fp8, attention, wgmma_attention, wgmma_attention_72, memory, .. } =
        &e.efficiency;
    let mut all = vec![("linear", linear), ("attention", attention), ("memory", memory)];
    if e.gpu.sm.compute_capability == (9, 0) {
        all.extend([
            ("wgmma", wgmma),
            ("wgmma_attention", wgmma_attention),
            ("wgmma_attention_72", wgmma_attention_72),
        ]);
    }
    if job.source.config().fp8_weights {
        all.push(("wgmma_fp8", wgmma_fp8));
    }
    for (name, share) in all {
        writeln!(text, "  {name:<18} {:.2}  {}", share.value, share.origin)?;
    }
    writeln!(text, "  {:<18} {:.1} µs between kernels", "launch", e.efficiency.launch_seconds * 1e6)?;
    Ok(())
}

/// Seconds of the denoising loop, modelled and published.
fn totals(text: &mut String, job: &Job, e: &Estimate, published: &[(&str, f64)]) -> fmt::Result {
    writeln!(text, "\n{} steps, denoising only", job.steps)?;
    for total in &e.totals {
        writeln!(
            text,
            "  {:<34} {:>4} computed {:>10.2} s modelled   {:>6.2}x modelled",
            total.schedule, total.computed_steps, total.modelled_seconds, total.modelled_speedup
        )?;
        if total.partial_steps > 0 {
            writeln!(text, "  {:<34} {:>4} in part", "", total.partial_steps)?;
        }
    }
    for (what, seconds) in published {
        writeln!(text, "  {:<34} {:>13} {seconds:>10.2} s published  (A100 80 GB, arXiv 2411.02397)", what, "")?;
    }
    if let Some(decoding) = &e.decoding {
        writeln!(
            text,
            "decoding, afterwards: {:.2} TFLOP, {:.2} s modelled",
            decoding.flops as f64 / 1e12,
            decoding.modelled_seconds
        )?;
    }
    Ok(())
}
