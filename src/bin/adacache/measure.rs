//! `adacache measure`: how far one video is from another.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::pipeline::{Frames, Media};
use adacache::quality::{self, Calm, Compared, LatentsCompared};
use anyhow::bail;
use serde_json::json;

/// Measure how far one video is from another: PSNR, SSIM, flickering and smoothness
///
/// PSNR and SSIM are those of scikit-image (gaussian window, σ 1.5), flickering is VBench's, smoothness its definition with the mean of
/// two frames in place of a network.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The original: a video (.mp4, .gif, .webp or a folder of pictures), a picture, or latents (.safetensors)
    ///
    /// An .mp4 or .gif has lost something when it was written: `generate --out FOLDER/` keeps every pixel.
    a: PathBuf,
    /// What is compared with it; without it the first alone is measured
    b: Option<PathBuf>,
    /// Tell every frame
    #[arg(long)]
    frames: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let a = Media::read(&args.a)?;
    let b = args.b.as_ref().map(|b| Media::read(b)).transpose()?;
    let text = match (&a, &b) {
        (Media::Frames(a), None) => one(args, a)?,
        (Media::Frames(a), Some(Media::Frames(b))) => two(args, a, b)?,
        (Media::Latents(a), Some(Media::Latents(b))) => latents(args, &quality::compare_latents(a, b)?)?,
        (Media::Latents(_), None) => bail!("latents are measured against others: give two files"),
        _ => bail!("one is a video and the other latents: give two of a kind"),
    };
    // A closed pipe is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}

fn one(args: &Args, a: &Frames) -> anyhow::Result<String> {
    let calm = quality::calm(a);
    if args.json {
        return Ok(serde_json::to_string_pretty(&calm)?);
    }
    let Calm { temporal_flickering, motion_smoothness_pixels } = calm;
    Ok(format!("temporal flickering  {temporal_flickering:.4}\nmotion smoothness    {motion_smoothness_pixels:.4}"))
}

fn two(args: &Args, a: &Frames, b: &Frames) -> anyhow::Result<String> {
    let compared = quality::compare(a, b)?;
    let (calm_a, calm_b) = (quality::calm(a), quality::calm(b));
    if args.json {
        return Ok(serde_json::to_string_pretty(&json!({ "compared": compared, "a": calm_a, "b": calm_b }))?);
    }
    let Compared { psnr_frames, psnr_mean, psnr, ssim_frames, ssim, mean_absolute } = compared;
    let mut lines = vec![
        format!("PSNR                 {psnr:.2} dB (mean of the frames {psnr_mean:.2})"),
        format!("SSIM                 {ssim:.4}"),
        format!("mean difference      {mean_absolute:.3} of 255"),
        format!(
            "temporal flickering  {:.4}, the original {:.4}",
            calm_b.temporal_flickering, calm_a.temporal_flickering
        ),
        format!(
            "motion smoothness    {:.4}, the original {:.4} (by pixels)",
            calm_b.motion_smoothness_pixels, calm_a.motion_smoothness_pixels
        ),
    ];
    if args.frames {
        let frames = psnr_frames.iter().zip(&ssim_frames).enumerate();
        lines.extend(frames.map(|(i, (psnr, ssim))| format!("  frame {i:>4}  {psnr:>6.2} dB  {ssim:.4}")));
    }
    Ok(lines.join("\n"))
}

fn latents(args: &Args, compared: &LatentsCompared) -> anyhow::Result<String> {
    if args.json {
        return Ok(serde_json::to_string_pretty(compared)?);
    }
    let LatentsCompared { relative_l2, relative_l1, max_absolute, same_bits } = compared;
    let bits = if *same_bits { "the same bits" } else { "other bits" };
    Ok(format!(
        "relative difference  {relative_l2:.3e} (L2), {relative_l1:.3e} (L1)\nlargest difference   {max_absolute:.3e}\n{bits}"
    ))
}
