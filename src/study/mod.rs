//! How many denoising steps a prompt needs, and what of it the model's own changes foretell: for every prompt the quality against fewer
//! steps, the point where it breaks, and the rank correlation of that point with what AdaCache measures.

use serde::Serialize;
use serde_json::Value;

use crate::pipeline::seed;

/// The quality of a video that was made with fewer steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Denoising steps.
    pub steps: usize,
    /// SSIM against the video of all steps, mean of the frames.
    pub ssim: f64,
    /// PSNR against it in dB, at most [`MOST_PSNR`](crate::quality::MOST_PSNR).
    pub psnr: f64,
}

/// What AdaCache measures in a step of a run that computes every step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The step, from 1.
    pub step: usize,
    /// Distance of the probed residual from that of the step before, without the motion factor.
    pub distance: f64,
    /// The motion factor; 1 in the steps without.
    pub motion: f64,
}

/// One prompt and seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The prompt.
    pub prompt: String,
    /// Seed of the initial noise; in JSON text above 2^53.
    #[serde(serialize_with = "seed::serialize")]
    pub seed: u64,
    /// Quality against steps, the most steps first; the first are all steps, and compare a video with itself.
    pub points: Vec<Point>,
    /// Where the quality falls below the threshold, between two measured numbers of steps; none if it never does.
    pub breaks_at: Option<f64>,
    /// What AdaCache measures, step by step.
    pub changes: Vec<Change>,
    /// Mean of `changes`' distances.
    pub mean_distance: f64,
    /// Mean of `changes`' motion factors.
    pub mean_motion: f64,
    /// The steps that AdaCache's fast codebook computes by these measurements, with motion regularization.
    pub adacache_steps: usize,
}

impl Curve {
    /// A curve of measured points and changes; `threshold`: the SSIM below which a video counts as broken.
    pub fn new(
        prompt: String,
        seed: u64,
        mut points: Vec<Point>,
        changes: Vec<Change>,
        adacache_steps: usize,
        threshold: f64,
    ) -> Curve {
        points.sort_by_key(|point| std::cmp::Reverse(point.steps));
        let mean =
            |value: &dyn Fn(&Change) -> f64| changes.iter().map(value).sum::<f64>() / changes.len().max(1) as f64;
        Curve {
            breaks_at: breaking_point(&points, threshold),
            mean_distance: mean(&|change| change.distance),
            mean_motion: mean(&|change| change.motion),
            prompt,
            seed,
            points,
            changes,
            adacache_steps,
        }
    }
}

/// Where the SSIM of `points`, the most steps first, falls below `threshold` for the first time: linear between the two points around.
pub fn breaking_point(points: &[Point], threshold: f64) -> Option<f64> {
    let below = points.iter().position(|point| point.ssim < threshold)?;
    let low = points[below];
    let Some(high) = below.checked_sub(1).map(|i| points[i]) else { return Some(low.steps as f64) };
    let share = (high.ssim - threshold) / (high.ssim - low.ssim);
    Some(high.steps as f64 + share * (low.steps as f64 - high.steps as f64))
}

/// Spearman's rank correlation, with mean ranks for equal values; none of fewer than three pairs, or where all values of a side are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

/// Ranks from 1, equal values sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let less = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        less as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

/// How well a measurement foretells where videos break.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Foretold {
    /// The measurement.
    pub by: &'static str,
    /// Spearman's rank correlation with [`Curve::breaks_at`], where what never breaks breaks last; none if it is not defined.
    pub correlation: Option<f64>,
}

/// The correlations of a study.
pub fn foretold(curves: &[Curve]) -> Vec<Foretold> {
    let breaks: Vec<f64> = curves.iter().map(|curve| curve.breaks_at.unwrap_or(0.0)).collect();
    let of = |by, value: &dyn Fn(&Curve) -> f64| {
        let values: Vec<f64> = curves.iter().map(value).collect();
        Foretold { by, correlation: spearman(&values, &breaks) }
    };
    vec![
        of("mean change of the probed residual", &|curve| curve.mean_distance),
        of("mean motion factor", &|curve| curve.mean_motion),
        of("steps that adacache-fast+moreg computes", &|curve| curve.adacache_steps as f64),
    ]
}

/// The numbers of steps to try beside `steps`: from four fifths down to a tenth, none twice, at least 1.
pub fn fewer(steps: usize) -> Vec<usize> {
    let shares = [0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1];
    let mut counts: Vec<usize> = shares.iter().map(|share| (steps as f64 * share).round().max(1.0) as usize).collect();
    counts.dedup();
    counts.retain(|&count| count < steps);
    counts
}

/// One self-contained HTML page of `results`: the content of `study.json`.
pub fn page(results: &Value) -> String {
    crate::json::in_page(include_str!("page.html"), "/*RESULTS*/", results)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(ssim: &[(usize, f64)]) -> Vec<Point> {
        ssim.iter().map(|&(steps, ssim)| Point { steps, ssim, psnr: 30.0 }).collect()
    }

    #[test]
    fn videos_break_between_two_points() {
        let falling = points(&[(30, 1.0), (20, 0.95), (10, 0.85), (5, 0.97)]);
        assert!((breaking_point(&falling, 0.9).unwrap() - 15.0).abs() < 1e-12, "the first fall counts");
        assert_eq!(breaking_point(&falling, 0.5), None);
        assert_eq!(breaking_point(&points(&[(30, 0.4)]), 0.5), Some(30.0));
        let curve = Curve::new("p".into(), 0, points(&[(5, 0.1), (30, 1.0)]), vec![], 3, 0.55);
        assert_eq!((curve.points[0].steps, curve.breaks_at, curve.mean_distance), (30, Some(17.5), 0.0));
    }

    /// scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) is 0.8208, with a shared rank.
    #[test]
    fn rank_correlation_by_hand() {
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((rho - 0.820_782_681_668_123_3).abs() < 1e-12, "{rho}");
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[3.0, 2.0, 1.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn what_never_breaks_breaks_last() {
        let curve = |distance, ssim| {
            let changes = vec![Change { step: 2, distance, motion: 1.0 }];
            Curve::new("p".into(), 0, points(&[(30, 1.0), (10, ssim)]), changes, 10, 0.9)
        };
        let foretold = foretold(&[curve(0.3, 0.2), curve(0.2, 0.5), curve(0.1, 0.95)]);
        assert_eq!((foretold[0].correlation, foretold[1].correlation), (Some(1.0), None));
    }

    #[test]
    fn step_counts_fall_and_differ() {
        assert_eq!(fewer(30), [24, 20, 15, 12, 9, 6, 5, 3]);
        assert_eq!(fewer(4), [3, 2, 1]);
        assert_eq!(fewer(1), [0; 0]);
    }

    #[test]
    fn a_page_fetches_nothing_and_no_prompt_ends_its_script() {
        let html = page(&serde_json::json!({ "prompt": "</script><b>" }));
        assert!(html.contains(r#"{"prompt":"\u003c/script>\u003cb>"}"#) && !html.contains("/*RESULTS*/"));
        assert!(!html.contains("src=\"http") && !html.contains("href=\"http") && !html.contains("@import"));
    }
}
