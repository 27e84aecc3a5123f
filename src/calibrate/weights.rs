//! The weight of each step's error, learned from real runs.

use super::proxy::{centered, ln_error};

/// Nepers of pixel error per dB of PSNR: PSNR = −20 log₁₀ of the error.
const NEPERS: f64 = std::f64::consts::LN_10 / 20.0;
/// The strength of the smoothness term on ln weights relative to the prior: on the mean square of their second differences.
const SMOOTH: f64 = 0.3;
/// The strength of the term on their size, so that steps without information from runs keep the prior.
const NEAR_PRIOR: f64 = 1e-4;
/// The maximum number of Levenberg–Marquardt steps; it stops earlier if there is no gain.
const MOST_STEPS: usize = 60;

/// A real run: the reuse error of each step (0 if it was computed), and the PSNR in dB.
pub(super) type Sample = (Vec<f64>, f64);

/// The weights w of the steps for which a line over ln Σ w·share best predicts the PSNR of each prompt's real runs, up to a constant per
/// prompt: least squares in nepers, with ln (w / prior) kept smooth. `runs`: by prompt. Without two different runs of a prompt the result
/// is `prior`.
pub(super) fn fit(prior: &[f64], runs: &[Vec<Sample>]) -> Vec<f64> {
    let weigh = |delta: &[f64]| prior.iter().zip(delta).map(|(w, d)| w * d.exp()).collect::<Vec<f64>>();
    // ln (w / prior), and behind them ln of the line's slope, which is 1 where pixels err in proportion.
    let mut delta = vec![0.0; prior.len() + 1];
    let mut damping = 1e-3;
    let (mut value, mut matrix, mut slope) = normal(&weigh(&delta), &delta, runs);
    for _ in 0..MOST_STEPS {
        let mut damped = matrix.clone();
        for (i, row) in damped.iter_mut().enumerate() {
            row[i] *= 1.0 + damping;
        }
        let Some(step) = solve(damped, slope.clone()) else { break };
        let tried: Vec<f64> = delta.iter().zip(&step).map(|(d, s)| d + s).collect();
        let (next, next_matrix, next_slope) = normal(&weigh(&tried), &tried, runs);
        if next < value {
            let gain = value - next;
            (delta, value, matrix, slope) = (tried, next, next_matrix, next_slope);
            damping /= 4.0;
            if gain < 1e-9 * value {
                break;
            }
        } else {
            damping *= 8.0;
            if damping > 1e9 {
                break;
            }
        }
    }
    weigh(&delta)
}

/// The objective at `weights` = prior · exp `delta`, and the normal equations of a step from there.
fn normal(weights: &[f64], delta: &[f64], runs: &[Vec<Sample>]) -> (f64, Vec<Vec<f64>>, Vec<f64>) {
    let (n, steepness) = (weights.len(), delta[weights.len()].exp());
    let (mut value, mut matrix, mut slope) = (0.0, vec![vec![0.0; n + 1]; n + 1], vec![0.0; n + 1]);
    let mut add = |share: f64, rest: f64, by: &[f64]| {
        value += share * rest * rest;
        for (i, a) in by.iter().enumerate().filter(|(_, a)| **a != 0.0) {
            slope[i] += share * a * rest;
            for (m, b) in matrix[i].iter_mut().zip(by) {
                *m += share * a * b;
            }
        }
    };
    let count = runs.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    for prompt in runs {
        let error = |shares: &[f64]| shares.iter().zip(weights).map(|(s, w)| s * w).sum::<f64>();
        // What is left of ln pixel error, from the prompt's mean, and how it falls with each ln weight.
        let points: Vec<_> =
            prompt.iter().map(|(shares, psnr)| (steepness * ln_error(error(shares)), -NEPERS * psnr)).collect();
        let mut slopes: Vec<Vec<f64>> = prompt
            .iter()
            .map(|(shares, _)| {
                let ln_whole = ln_error(error(shares));
                let of_step = shares.iter().zip(weights).map(|(s, w)| steepness * s * w / ln_whole.exp());
                of_step.chain([steepness * ln_whole]).collect()
            })
            .collect();
        for step in 0..=n {
            let mean = slopes.iter().map(|s| s[step]).sum::<f64>() / prompt.len() as f64;
            slopes.iter_mut().for_each(|s| s[step] -= mean);
        }
        for ((ln_error, ln_pixels), by) in centered(&points).into_iter().zip(&slopes) {
            add(1.0 / count, ln_pixels - ln_error, by);
        }
    }
    for i in 1..n.saturating_sub(1) {
        let mut by = vec![0.0; n + 1];
        (by[i - 1], by[i], by[i + 1]) = (1.0, -2.0, 1.0);
        add(SMOOTH / n as f64, 2.0 * delta[i] - delta[i - 1] - delta[i + 1], &by);
    }
    for i in 0..=n {
        let mut by = vec![0.0; n + 1];
        by[i] = 1.0;
        add(NEAR_PRIOR / n as f64, -delta[i], &by);
    }
    (value, matrix, slope)
}

/// x of a symmetric positive definite `a` x = b, by Cholesky; `None` if it is not definite.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum = a[i][j] - (0..j).map(|k| a[i][k] * a[j][k]).sum::<f64>();
            if i == j {
                a[i][i] = (sum > 0.0).then(|| sum.sqrt())?;
            } else {
                a[i][j] = sum / a[j][j];
            }
        }
    }
    for i in 0..n {
        b[i] = (b[i] - (0..i).map(|k| a[i][k] * b[k]).sum::<f64>()) / a[i][i];
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| a[k][i] * b[k]).sum::<f64>()) / a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that each reuse different steps, whose pixels have an error of Σ w·share, times a constant of the prompt.
    fn runs(weights: &[f64]) -> Vec<Vec<Sample>> {
        let run = |prompt: usize, run: usize| {
            let share = |step: usize| {
                if (step * 7 + run * 5 + prompt) % 4 < 2 {
                    0.0
                } else {
                    0.05 + 0.01 * ((step * run + prompt) % 5) as f64
                }
            };
            let shares: Vec<f64> = (0..weights.len()).map(share).collect();
            let error: f64 = shares.iter().zip(weights).map(|(s, w)| s * w).sum();
            (shares, 3.0 * prompt as f64 - error.ln() / NEPERS)
        };
        (0..12).map(|prompt| (0..6).map(|i| run(prompt, i)).collect()).collect()
    }

    #[test]
    fn smooth_weights_are_found() {
        // Falls fast, then stays: no power of the noise level.
        let real: Vec<f64> = (0..20).map(|step| 0.2 + 2.0 * (-f64::from(step) / 3.0).exp()).collect();
        let runs = runs(&real);
        let prior = vec![1.0; 20];
        let found = fit(&prior, &runs);
        // But for a common factor, which no PSNR tells within one prompt.
        let factor = found.iter().zip(&real).map(|(f, r)| (f / r).ln()).sum::<f64>() / 20.0;
        for (f, r) in found.iter().zip(&real) {
            assert!(((f / r).ln() - factor).abs() < 0.3, "{found:?}");
        }
        assert_eq!(fit(&prior, &runs), found);
    }

    #[test]
    fn one_run_a_prompt_says_nothing() {
        let prior = [0.3, 0.2, 0.1, 0.05];
        for runs in [vec![], vec![vec![]], vec![vec![(vec![0.0, 0.1, 0.2, 0.0], 30.0)]; 3]] {
            assert_eq!(fit(&prior, &runs), prior);
        }
        // Nor do runs without an error, nor infinite PSNRs that were bounded.
        let same = vec![(vec![0.0; 4], 80.0), (vec![0.0; 4], 80.0)];
        assert_eq!(fit(&prior, &[same]), prior);
    }
}
