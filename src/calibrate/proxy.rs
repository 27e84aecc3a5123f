//! Prediction of quality from the error of a replay, and the quality of that ranking.

/// Lower bound of errors, which are as good as none: ln needs a positive argument.
pub(super) const LEAST_ERROR: f64 = 1e-9;

/// PSNR in dB = `at_zero` − `slope` · ln error, by least squares over real runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proxy {
    /// dB at an error of 1.
    pub at_zero: f64,
    /// dB per neper of error; 20/ln 10 = 8.7 if the pixels' error is proportional to it.
    pub slope: f64,
}

/// dB per neper if the pixels' error is proportional to the error of the replay.
const PROPORTIONAL: f64 = 20.0 / std::f64::consts::LN_10;

impl Proxy {
    /// Fits (ln error, PSNR) of real runs: by prompt, so that prompts of different difficulty do not bias the slope. `runs`: the runs of
    /// each prompt. If no prompt ran twice, or the line would rise, the pixels' error is assumed to be proportional.
    pub fn fit(runs: &[Vec<(f64, f64)>]) -> Proxy {
        let (mut xy, mut xx, mut count, mut sums) = (0.0, 0.0, 0.0, (0.0, 0.0));
        for prompt in runs.iter().filter(|runs| !runs.is_empty()) {
            let n = prompt.len() as f64;
            let mean = mean(prompt);
            for (x, y) in prompt {
                xy += (x - mean.0) * (y - mean.1);
                xx += (x - mean.0).powi(2);
            }
            count += n;
            sums = (sums.0 + n * mean.0, sums.1 + n * mean.1);
        }
        let slope = if xx > 0.0 && xy < 0.0 { -xy / xx } else { PROPORTIONAL };
        Proxy { at_zero: (sums.1 + slope * sums.0) / count, slope }
    }

    /// PSNR in dB for a mean of ln errors.
    pub fn psnr(&self, ln_error: f64) -> f64 {
        self.at_zero - self.slope * ln_error
    }
}

/// The mean of `runs`.
pub(super) fn mean(runs: &[(f64, f64)]) -> (f64, f64) {
    let count = runs.len() as f64;
    runs.iter().fold((0.0, 0.0), |mean, run| (mean.0 + run.0 / count, mean.1 + run.1 / count))
}

/// `runs` relative to their mean.
pub(super) fn centered(runs: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = mean(runs);
    runs.iter().map(|run| (run.0 - mean.0, run.1 - mean.1)).collect()
}

/// ln of an error, which may be zero.
pub(super) fn ln_error(error: f64) -> f64 {
    error.max(LEAST_ERROR).ln()
}

/// Spearman's rank correlation of two lists of equal length; ties get their mean rank. `None` if all values of either list are equal.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    // Ranks have the mean (n + 1) / 2, ties or not.
    let centered = |ranks: &[f64]| ranks.iter().map(|r| r - (n + 1.0) / 2.0).collect::<Vec<_>>();
    let (a, b) = (centered(&a), centered(&b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let correlation = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    correlation.is_finite().then_some(correlation)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for alike in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let first = order.iter().position(|i| *i == alike[0]).unwrap_or(0) as f64;
        alike.iter().for_each(|i| ranks[*i] = first + (alike.len() as f64 + 1.0) / 2.0);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_by_prompt_not_across_prompts() {
        // Each prompt falls by 6 dB a neper; the second one is 20 dB better at a larger error.
        let runs = [vec![(0.0, 30.0), (1.0, 24.0)], vec![(2.0, 50.0), (3.0, 44.0)], vec![]];
        let proxy = Proxy::fit(&runs);
        assert!((proxy.slope - 6.0).abs() < 1e-12, "{proxy:?}");
        // The mean PSNR at the mean error.
        assert!((proxy.psnr(1.5) - 37.0).abs() < 1e-12, "{proxy:?}");
        // One run a prompt, or more error with a better video: no line of its own.
        for runs in [vec![vec![(1.0, 30.0)]], vec![vec![(0.0, 30.0), (1.0, 31.0)]]] {
            assert_eq!(Proxy::fit(&runs).slope, PROPORTIONAL);
        }
    }

    #[test]
    fn ranks_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(rank_correlation(&[1.0, 2.0, 9.0], &[10.0, 20.0, 21.0]), Some(1.0));
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // 1 − 6·(0 + 1 + 1) / (3·8)
        assert!((rank_correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[], &[]), None);
    }
}
