//! Side-by-side comparison of cache policies: one row per run, against the run that computed every step, and their means.

mod ballot;

use serde::Serialize;
use serde_json::Value;

pub use ballot::{Ballot, BallotError, Choice, Preference, Share, Tally, Vote, blind, blind_page, tally};

use crate::cache::Decision;
use crate::media::Latents;
use crate::pipeline::{FlopCount, Report, seed};
use crate::quality::{self, Calm, Compared, Distance, LatentsCompared, Perceived, QualityError};

/// One run, measured against the run of the same prompt and seed that computed every step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The prompt.
    pub prompt: String,
    /// Seed of the initial noise; in JSON text above 2^53.
    #[serde(serialize_with = "seed::serialize")]
    pub seed: u64,
    /// The policy's name in the comparison.
    pub cache: String,
    /// Denoising steps.
    pub steps: usize,
    /// The computed steps.
    pub computed_steps: Vec<usize>,
    /// The steps that computed some modules and reused others.
    pub partial_steps: Vec<usize>,
    /// Work of every step relative to a computed one.
    pub step_shares: Vec<f64>,
    /// The policy's decisions.
    pub decisions: Vec<Decision>,
    /// Work of the denoising loop relative to the original's.
    pub compute: f64,
    /// Seconds of the denoising loop on `device`.
    pub seconds: f64,
    /// The device that the seconds were measured on.
    pub device: String,
    /// Bytes kept from step to step.
    pub cache_bytes: usize,
    /// PSNR over all pixels of all frames in dB, at most [`MOST_PSNR`](quality::MOST_PSNR), which is that of equal videos.
    pub psnr: f64,
    /// SSIM, mean of the frames.
    pub ssim: f64,
    /// VBench's temporal flickering.
    pub temporal_flickering: f64,
    /// Motion smoothness by pixels.
    pub motion_smoothness_pixels: f64,
    /// ‖z − z_original‖₂ / ‖z_original‖₂ of the final latents.
    pub latents_relative_l2: f64,
    /// LPIPS, mean of the frames; only if its weights are available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
    /// ST-LPIPS, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stlpips: Option<f64>,
    /// The number of frames that are equal to the original's.
    pub equal_frames: usize,
    /// The number of frames.
    pub frames: usize,
}

/// A finished run: its report, its video and its latents.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The report.
    pub report: Report,
    /// The decoded video.
    pub frames: crate::media::Frames,
    /// The final latents.
    pub latents: Latents,
}

impl Row {
    /// Measures `run` under the name `cache` against `original`. [`Row::perceived`] adds the perceptual distances.
    ///
    /// # Errors
    /// Their sizes differ.
    pub fn new(cache: &str, run: &Finished, original: &Finished) -> Result<Row, QualityError> {
        let Compared { psnr, ssim, equal_frames, frames, .. } = quality::compare(&original.frames, &run.frames)?;
        let Calm { temporal_flickering, motion_smoothness_pixels } = quality::calm(&run.frames);
        let LatentsCompared { relative_l2, .. } = quality::compare_latents(&original.latents, &run.latents)?;
        let total = |flops: FlopCount| flops.total as f64;
        let r = &run.report;
        Ok(Row {
            prompt: r.prompt.clone(),
            seed: r.seed,
            cache: cache.to_owned(),
            steps: r.steps,
            computed_steps: r.computed_steps.clone(),
            partial_steps: r.partial_steps.clone(),
            step_shares: r.step_shares.clone(),
            decisions: r.decisions.clone(),
            compute: total(r.flops) / total(original.report.flops),
            seconds: r.seconds.denoise,
            device: r.device.clone(),
            cache_bytes: r.cache_bytes,
            psnr,
            ssim,
            temporal_flickering,
            motion_smoothness_pixels,
            latents_relative_l2: relative_l2,
            lpips: None,
            stlpips: None,
            equal_frames,
            frames,
        })
    }

    /// The same row with the networks' distances.
    pub fn perceived(self, Perceived { lpips, stlpips }: Perceived) -> Row {
        let mean = |distance: Option<Distance>| distance.map(|distance| distance.mean);
        Row { lpips: mean(lpips), stlpips: mean(stlpips), ..self }
    }
}

/// A mean with half the width of its 95 % interval (normal approximation, 1.96·s/√n); no interval for a single value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the interval's width.
    pub interval: Option<f64>,
}

impl Mean {
    /// The mean of at least one value.
    pub fn of(values: &[f64]) -> Mean {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let interval = 1.96 * (variance / n).sqrt();
        Mean { mean, interval: (values.len() > 1).then_some(interval) }
    }
}

/// All runs of one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The policy's name in the comparison.
    pub cache: String,
    /// The number of runs.
    pub runs: usize,
    /// Computed steps.
    pub computed_steps: Mean,
    /// Work relative to the original's.
    pub compute: Mean,
    /// Seconds of the denoising loop.
    pub seconds: Mean,
    /// Runs whose video is bit-identical to the original.
    pub equal: usize,
    /// PSNR in dB; that of an equal run is [`MOST_PSNR`](quality::MOST_PSNR).
    pub psnr: Mean,
    /// SSIM.
    pub ssim: Mean,
    /// VBench's temporal flickering.
    pub temporal_flickering: Mean,
    /// Motion smoothness by pixels.
    pub motion_smoothness_pixels: Mean,
    /// Relative distance of the latents.
    pub latents_relative_l2: Mean,
    /// LPIPS; only if every run has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<Mean>,
    /// ST-LPIPS, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stlpips: Option<Mean>,
}

/// The policies' means, in the order of their first rows.
pub fn summarize(rows: &[Row]) -> Vec<Summary> {
    let mut names: Vec<&str> = vec![];
    for row in rows {
        if !names.contains(&row.cache.as_str()) {
            names.push(&row.cache);
        }
    }
    let summary = |name: &str| {
        let of: Vec<&Row> = rows.iter().filter(|row| row.cache == name).collect();
        let mean = |value: &dyn Fn(&Row) -> f64| Mean::of(&of.iter().map(|row| value(row)).collect::<Vec<_>>());
        let mean_if_all = |value: &dyn Fn(&Row) -> Option<f64>| {
            of.iter().map(|row| value(row)).collect::<Option<Vec<f64>>>().map(|values| Mean::of(&values))
        };
        Summary {
            cache: name.to_owned(),
            runs: of.len(),
            computed_steps: mean(&|r| r.computed_steps.len() as f64),
            compute: mean(&|r| r.compute),
            seconds: mean(&|r| r.seconds),
            equal: of.iter().filter(|row| row.equal_frames == row.frames).count(),
            psnr: mean(&|r| r.psnr),
            ssim: mean(&|r| r.ssim),
            temporal_flickering: mean(&|r| r.temporal_flickering),
            motion_smoothness_pixels: mean(&|r| r.motion_smoothness_pixels),
            latents_relative_l2: mean(&|r| r.latents_relative_l2),
            lpips: mean_if_all(&|r| r.lpips),
            stlpips: mean_if_all(&|r| r.stlpips),
        }
    };
    names.into_iter().map(summary).collect()
}

/// The rows as comma-separated values with a header.
pub fn csv(rows: &[Row]) -> String {
    let mut text =
        "prompt,seed,cache,steps,computed,schedule,compute,seconds,device,cache_bytes,psnr,ssim,temporal_flickering,\
                    motion_smoothness_pixels,latents_relative_l2,lpips,stlpips,equal_frames,frames\n"
            .to_owned();
    let quoted = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
    let if_any = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for r in rows {
        let letter = |step| match step {
            step if r.computed_steps.contains(&step) => 'C',
            step if r.partial_steps.contains(&step) => 'p',
            _ => '.',
        };
        let schedule: String = (1..=r.steps).map(letter).collect();
        let fields = [
            quoted(&r.prompt),
            r.seed.to_string(),
            quoted(&r.cache),
            r.steps.to_string(),
            r.computed_steps.len().to_string(),
            schedule,
            r.compute.to_string(),
            r.seconds.to_string(),
            quoted(&r.device),
            r.cache_bytes.to_string(),
            r.psnr.to_string(),
            r.ssim.to_string(),
            r.temporal_flickering.to_string(),
            r.motion_smoothness_pixels.to_string(),
            r.latents_relative_l2.to_string(),
            if_any(r.lpips),
            if_any(r.stlpips),
            r.equal_frames.to_string(),
            r.frames.to_string(),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

/// One self-contained HTML page of `results`: the content of `results.json`, and in each run a `strip`, the video's frames in one column as a base64 PNG.
pub fn page(results: &Value) -> String {
    crate::json::in_page(include_str!("page.html"), "/*RESULTS*/", results)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(cache: &str, psnr: f64) -> Row {
        Row {
            prompt: "a \"red\" one, large".into(),
            seed: 3,
            cache: cache.into(),
            steps: 4,
            computed_steps: vec![1, 4],
            partial_steps: vec![2],
            step_shares: vec![1.0, 0.5, 0.0, 1.0],
            decisions: vec![],
            compute: 0.5,
            seconds: 1.5,
            device: "vm".into(),
            cache_bytes: 7,
            psnr,
            ssim: 0.9,
            temporal_flickering: 0.8,
            motion_smoothness_pixels: 0.7,
            latents_relative_l2: 0.1,
            lpips: None,
            stlpips: Some(0.25),
            equal_frames: if psnr == quality::MOST_PSNR { 8 } else { 1 },
            frames: 8,
        }
    }

    #[test]
    fn means_and_intervals_by_hand() {
        // 20, 22, 27: mean 23, s² = (9 + 1 + 16) / 2 = 13, 1.96·√(13/3).
        let rows = [row("b", 20.0), row("a", 9.0), row("b", 22.0), row("b", 27.0)];
        let [b, a] = &summarize(&rows)[..] else { panic!() };
        assert_eq!((b.cache.as_str(), b.runs, b.psnr.mean), ("b", 3, 23.0));
        assert!((b.psnr.interval.unwrap() - 1.96 * (13.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((a.cache.as_str(), a.psnr), ("a", Mean { mean: 9.0, interval: None }));
        let equal = summarize(&[row("none", 60.0), row("none", 60.0)]);
        assert_eq!((equal[0].psnr, equal[0].equal), (Mean { mean: 60.0, interval: Some(0.0) }, 2));
        // One equal run among others counts 60 dB.
        let some = summarize(&[row("x", 60.0), row("x", 20.0), row("x", 22.0)]);
        assert_eq!((some[0].psnr.mean, some[0].equal, some[0].runs), (34.0, 1, 3));
        // A network that measured some of the runs alone has no mean, and no field of its own.
        let mixed = summarize(&[row("x", 20.0), Row { stlpips: None, lpips: Some(0.5), ..row("x", 22.0) }]);
        assert_eq!((mixed[0].lpips, mixed[0].stlpips, some[0].stlpips.unwrap().mean), (None, None, 0.25));
        assert!(serde_json::to_value(&mixed[0]).unwrap().get("lpips").is_none());
    }

    #[test]
    fn a_page_holds_the_results_and_no_prompt_ends_its_script() {
        let html = page(&serde_json::json!({ "prompt": "</script><b>" }));
        assert!(html.contains(r#"{"prompt":"\u003c/script>\u003cb>"}"#) && !html.contains("/*RESULTS*/"));
        // Nothing is fetched from elsewhere.
        assert!(!html.contains("src=\"http") && !html.contains("href=\"http") && !html.contains("@import"));
    }

    #[test]
    fn csv_quotes_what_people_write() {
        let text = csv(&[row("x", 20.5)]);
        let [header, line] = text.lines().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(header.split(',').count(), 19);
        assert_eq!(
            line,
            "\"a \"\"red\"\" one, large\",3,\"x\",4,2,Cp.C,0.5,1.5,\"vm\",7,20.5,0.9,0.8,0.7,0.1,,0.25,1,8"
        );
    }
}
