//! `adacache measure`: how far one video is from another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::hub::cache_dir;
use adacache::media::{Frames, Media};
use adacache::pipeline::{Report, count, duration};
use adacache::quality::vbench::{self, Scores};
use adacache::quality::{self, Calm, Compared, Form, LatentsCompared, MOST_PSNR, Networks, Perceived, QualityError};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{device, log, out};

/// Measure how far one video is from another: PSNR, SSIM, LPIPS, ST-LPIPS, flickering and smoothness
///
/// PSNR and SSIM match scikit-image (gaussian window, σ 1.5). Flickering is VBench's; smoothness is VBench's definition, with the mean
/// of two frames instead of an interpolation network. LPIPS and ST-LPIPS (AlexNet; 0 means no difference) run on the device if their
/// weights are there; tools/perceptual_weights.py makes these. With --vbench the `vbench` package scores each video on its own.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache measure --help", after_long_help = "")]
pub(crate) struct Args {
    /// Original: a video (.mp4, .gif, .webp or a folder of pictures), a picture, latents (.safetensors), or a run of `adacache compare`
    ///
    /// .mp4 and .gif are lossy; `generate --out FOLDER/` keeps every pixel.
    #[arg(required_unless_present = "vbench")]
    a: Option<PathBuf>,
    /// Video to compare with it; without B, A is measured on its own
    b: Option<PathBuf>,
    /// Reports of A and B from `generate --report`, to print operations and seconds too; runs of `adacache compare` have theirs
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2, requires = "b")]
    reports: Vec<PathBuf>,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    device: device::Choice,
    /// Score videos with the `vbench` command: videos, folders of .mp4 files or of pictures, or folders of `adacache compare`
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with_all = ["a", "b", "reports", "lpips", "stlpips"])]
    vbench: Vec<PathBuf>,
    /// With --vbench: dimensions to score
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "vbench", default_values_t = vbench::DIMENSIONS.map(String::from), hide_short_help = true)]
    dimensions: Vec<String>,
    /// With --vbench: new folder for the videos as VBench expects them, and for its results
    #[arg(long, value_name = "FOLDER", requires = "vbench", default_value = "vbench", hide_short_help = true)]
    out: PathBuf,
    /// With --vbench: frames per second of folders of pictures
    #[arg(long, value_name = "N", requires = "vbench", default_value_t = 8.0, hide_short_help = true)]
    fps: f64,
    /// Print every frame (with --vbench: every video)
    #[arg(long)]
    frames: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The weights of the perceptual networks.
#[derive(clap::Args)]
pub(crate) struct Weights {
    /// Weights of LPIPS [default: lpips.safetensors in $ADACACHE_HOME, if it is there]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    lpips: Option<PathBuf>,
    /// Weights of ST-LPIPS [default: stlpips.safetensors in $ADACACHE_HOME, if it is there]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    stlpips: Option<PathBuf>,
}

impl Weights {
    /// The networks whose weights are named or there.
    pub(crate) fn open(&self) -> Result<Networks, QualityError> {
        Networks::open(self.lpips.as_deref(), self.stlpips.as_deref(), &cache_dir())
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match &args.a {
        Some(a) => media(args, a)?,
        None => scored(args)?,
    };
    out::line(text)?;
    Ok(ExitCode::SUCCESS)
}

/// How much work a video or its latents were.
struct Work {
    /// Of the denoising loop.
    flops: u64,
    /// Of the denoising loop.
    seconds: f64,
    device: String,
}

impl Work {
    /// Of the report in `file`.
    fn read(file: &Path) -> anyhow::Result<Work> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let report: Report = serde_json::from_str(&text)
            .with_context(|| format!("{} is not the report of one video from `generate --report`", file.display()))?;
        Ok(Work { flops: report.flops.total, seconds: report.seconds.denoise, device: report.device })
    }

    fn json(&self) -> Value {
        json!({ "flops": self.flops, "seconds": self.seconds, "device": self.device })
    }
}

/// What (A, B) cost, where it is known, for people.
fn cost(work: Option<&(Work, Work)>) -> Vec<String> {
    let Some((a, b)) = work else { return vec![] };
    let part = 100.0 * b.flops as f64 / a.flops as f64;
    let devices =
        if a.device == b.device { a.device.clone() } else { format!("{}, the original on {}", b.device, a.device) };
    let (flops_a, flops_b) = (count(a.flops as f64, "FLOP"), count(b.flops as f64, "FLOP"));
    let (seconds_a, seconds_b, faster) = (duration(a.seconds), duration(b.seconds), a.seconds / b.seconds);
    vec![
        format!("operations           {flops_b}, the original {flops_a} ({part:.1} %, counted)"),
        format!(
            "latency              {seconds_b}, the original {seconds_a} ({faster:.2} times faster; denoising on {devices})"
        ),
    ]
}

/// `measured` as text, with what (A, B) cost where it is known.
fn as_json(mut measured: Value, work: Option<&(Work, Work)>) -> anyhow::Result<String> {
    if let Some((a, b)) = work {
        measured["work"] = json!({ "a": a.json(), "b": b.json() });
    }
    Ok(serde_json::to_string_pretty(&measured)?)
}

/// A video or latents; of a run of `adacache compare` the video, and the work it was.
fn read(path: &Path) -> anyhow::Result<(Media, Option<Work>)> {
    let (report, frames) = (path.join("report.json"), path.join("frames"));
    if report.is_file() && frames.is_dir() {
        return Ok((Media::read(&frames)?, Some(Work::read(&report)?)));
    }
    Ok((Media::read(path)?, None))
}

/// Tells that frames are compared by their number where their times differ. Pictures and folders of them have no rate.
fn rates(a: &Frames, a_path: &Path, b: &Frames, b_path: &Path) {
    let has_rate = |frames: &Frames, path: &Path| frames.count() > 1 && !path.is_dir();
    if has_rate(a, a_path) && has_rate(b, b_path) && (a.fps - b.fps).abs() > 0.01 * a.fps {
        let words = format!(
            "{} has {:.2} frames a second, {} {:.2}: they are compared frame by frame, whatever their times",
            a_path.display(),
            a.fps,
            b_path.display(),
            b.fps
        );
        log::say("warning", &words);
    }
}

fn media(args: &Args, a_path: &Path) -> anyhow::Result<String> {
    let (a, work_a) = read(a_path)?;
    let (b, work_b) = args.b.as_deref().map(read).transpose()?.unzip();
    let work = match &args.reports[..] {
        [a, b] => Some((Work::read(a)?, Work::read(b)?)),
        _ => work_a.zip(work_b.flatten()),
    };
    if let (Media::Frames(first), Some((Media::Frames(second), path))) = (&a, b.as_ref().zip(args.b.as_deref())) {
        rates(first, a_path, second, path);
    }
    match (&a, &b) {
        (Media::Frames(a), None) => one(args, a),
        (Media::Frames(a), Some(Media::Frames(b))) => two(args, a, b, work.as_ref()),
        (Media::Latents(a), Some(Media::Latents(b))) => latents(args, &quality::compare_latents(a, b)?, work.as_ref()),
        (Media::Latents(_), None) => bail!("latents are measured against others: give two files"),
        _ => bail!("one is a video and the other latents: give two of a kind"),
    }
}

fn one(args: &Args, a: &Frames) -> anyhow::Result<String> {
    let calm = quality::calm(a);
    if args.json {
        return Ok(serde_json::to_string_pretty(&calm)?);
    }
    let Calm { temporal_flickering, motion_smoothness_pixels } = calm;
    Ok(format!("temporal flickering  {temporal_flickering:.4}\nmotion smoothness    {motion_smoothness_pixels:.4}"))
}

fn two(args: &Args, a: &Frames, b: &Frames, work: Option<&(Work, Work)>) -> anyhow::Result<String> {
    let compared = quality::compare(a, b)?;
    let (calm_a, calm_b) = (quality::calm(a), quality::calm(b));
    let networks = args.weights.open()?;
    let perceived = match networks.is_empty() {
        true => Perceived::default(),
        false => networks.perceive(&args.device.open()?, a, &[b])?.swap_remove(0),
    };
    if args.json {
        return as_json(json!({ "compared": compared, "perceived": perceived, "a": calm_a, "b": calm_b }), work);
    }
    let Perceived { lpips, stlpips } = perceived;
    let distances: Vec<_> = [(Form::Lpips, lpips), (Form::ShiftTolerant, stlpips)]
        .into_iter()
        .filter_map(|(form, distance)| Some((form.name(), distance?)))
        .collect();
    let Compared { psnr_frames, psnr_mean, psnr, ssim_frames, ssim, mean_absolute, equal_frames, frames } = compared;
    let mut lines = vec![
        format!(
            "PSNR                 {psnr:.2} dB (mean of the frames {psnr_mean:.2}; at most {MOST_PSNR}, as equal frames have)"
        ),
        format!("equal frames         {equal_frames} of {frames}"),
        format!("SSIM                 {ssim:.4}"),
    ];
    lines.extend(distances.iter().map(|(name, distance)| format!("{name:<20} {:.4}", distance.mean)));
    if distances.is_empty() {
        lines.push(format!("no weights of LPIPS or ST-LPIPS; those of ST-LPIPS: {}", Form::ShiftTolerant.made_by()));
    }
    lines.extend([
        format!("mean difference      {mean_absolute:.3} of 255"),
        format!(
            "temporal flickering  {:.4}, the original {:.4}",
            calm_b.temporal_flickering, calm_a.temporal_flickering
        ),
        format!(
            "motion smoothness    {:.4}, the original {:.4} (by pixels)",
            calm_b.motion_smoothness_pixels, calm_a.motion_smoothness_pixels
        ),
    ]);
    lines.extend(cost(work));
    if args.frames {
        let perceived =
            |i: usize| distances.iter().map(|(name, d)| format!("  {name} {:.4}", d.frames[i])).collect::<String>();
        let frames = psnr_frames.iter().zip(&ssim_frames).enumerate();
        lines.extend(
            frames.map(|(i, (psnr, ssim))| format!("  frame {i:>4}  {psnr:>6.2} dB  SSIM {ssim:.4}{}", perceived(i))),
        );
    }
    Ok(lines.join("\n"))
}

fn latents(args: &Args, compared: &LatentsCompared, work: Option<&(Work, Work)>) -> anyhow::Result<String> {
    if args.json {
        return as_json(serde_json::to_value(compared)?, work);
    }
    let LatentsCompared { relative_l2, relative_l1, max_absolute, same_bits } = compared;
    let bits = if *same_bits { "the same bits" } else { "other bits" };
    let mut lines = vec![
        format!("relative difference  {relative_l2:.3e} (L2), {relative_l1:.3e} (L1)"),
        format!("largest difference   {max_absolute:.3e}"),
        bits.into(),
    ];
    lines.extend(cost(work));
    Ok(lines.join("\n"))
}

/// What VBench says of the videos.
fn scored(args: &Args) -> anyhow::Result<String> {
    let scores = vbench::score(&args.vbench, &args.dimensions, &args.out, args.fps)?;
    let means = means(&scores);
    if args.json {
        let groups: Vec<_> = means
            .iter()
            .map(|(name, videos, scores)| json!({ "group": name, "videos": videos, "scores": scores }))
            .collect();
        return Ok(serde_json::to_string_pretty(&json!({ "groups": groups, "videos": scores }))?);
    }
    let dimensions: BTreeSet<&str> = scores.iter().flat_map(|v| v.scores.keys().map(String::as_str)).collect();
    let mut lines = vec![];
    for dimension in dimensions {
        lines.push(dimension.to_owned());
        for (name, videos, means) in &means {
            let Some(mean) = means.get(dimension) else { continue };
            lines.push(format!("  {mean:.4}  {name} ({videos} videos)"));
        }
        if args.frames {
            let of = scores.iter().filter_map(|v| Some((v.scores.get(dimension)?, &v.name)));
            lines.extend(of.map(|(score, name)| format!("    {score:.4}  {name}")));
        }
    }
    Ok(lines.join("\n"))
}

/// By group: its videos, and the mean of each dimension over those that have it.
pub(crate) fn means(scores: &[Scores]) -> Vec<(&str, usize, BTreeMap<&str, f64>)> {
    let mut groups: Vec<(&str, Vec<&Scores>)> = vec![];
    for video in scores {
        match groups.iter_mut().find(|(name, _)| *name == video.group) {
            Some((_, of)) => of.push(video),
            None => groups.push((&video.group, vec![video])),
        }
    }
    groups.into_iter().map(|(name, of)| (name, of.len(), mean(&of))).collect()
}

fn mean<'a>(videos: &[&'a Scores]) -> BTreeMap<&'a str, f64> {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (dimension, score) in videos.iter().flat_map(|video| &video.scores) {
        all.entry(dimension).or_default().push(*score);
    }
    all.into_iter().map(|(dimension, scores)| (dimension, scores.iter().sum::<f64>() / scores.len() as f64)).collect()
}
