//! SeaCache: how far the first block's input has changed where it is signal, not noise. A filter by frequencies, which follows the noise level,
//! leaves of it what the model could know by now.
//!
//! From arXiv 2602.18993 (CVPR 2026). At noise level σ let a = 1 − σ and b = σ. Along an axis of n tokens, frequency ν = k/n of the discrete
//! Fourier transform (−1/2 to 1/2) passes with the gain of the best linear denoiser for a signal of power S:
//!
//! ```text
//! S = 1 / (|ν|³ + ε)      H = a·S / (a²·S + b² + ε)
//! ```
//!
//! The gains of the three axes are multiplied and divided by their mean. So the filter is three circular ones, one along each axis, each
//! divided by its own mean: no Fourier transform is needed ([`Circulant`](crate::ops::circulant::Circulant)).

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::{Measurement, ratio};
use super::point::ProbePoint;
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The exponent of the signal's power, as published for videos.
const POWER: i32 = 3;
/// ε, as published.
const EPSILON: f64 = 1e-16;
/// How near to 0 and 1 a noise level is taken.
const ENDS: f64 = 1e-6;

/// The weights, from distance 0 on, of the circular filter along an axis of `length` tokens at noise level `noise` (0 clean, 1 noise alone).
pub(super) fn weights(length: usize, noise: f64) -> Vec<f64> {
    let b = noise.clamp(ENDS, 1.0 - ENDS);
    let a = 1.0 - b;
    let gain = |k: usize| {
        let frequency = k.min(length - k) as f64 / length as f64;
        let power = 1.0 / (frequency.powi(POWER) + EPSILON);
        a * power / (a * a * power + b * b + EPSILON)
    };
    let gains: Vec<f64> = (0..length).map(gain).collect();
    let sum: f64 = gains.iter().sum();
    // Gains are the same at ν and −ν, so the transform back is a sum of cosines.
    let weight = |distance: usize| {
        let cosine = |k: usize| (TAU * (k * distance % length) as f64 / length as f64).cos();
        gains.iter().enumerate().map(|(k, gain)| gain * cosine(k)).sum::<f64>() / sum
    };
    (0..length).map(weight).collect()
}

/// The settings of SeaCache.
///
/// At every step `x = ‖m − m_prev‖₁ / ‖m_prev‖₁` of the first block's filtered input m; the changes are summed up, and the step is computed
/// when the sum reaches the threshold. Some steps at the beginning and at the end are always computed. Nothing is fitted to a model; the noise
/// level is that of rectified flow, time / 1000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeaCacheConfig {
    /// The sum at which a step is computed (published for Wan 2.1: 0.2 slow, 0.35 to 0.4 fast).
    pub threshold: f64,
    /// The number of steps at the beginning that are always computed.
    #[serde(default = "one")]
    pub first: usize,
    /// The number of steps at the end that are always computed.
    #[serde(default = "one")]
    pub last: usize,
}

fn one() -> usize {
    1
}

impl SeaCacheConfig {
    /// Settings that always compute the first and the last step, as published.
    pub fn new(threshold: f64) -> SeaCacheConfig {
        SeaCacheConfig { threshold, first: one(), last: one() }
    }
}

impl Settings for SeaCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return invalid(format!("threshold {} must be a number from 0 on", self.threshold));
        }
        if self.first < 1 {
            return invalid("`first` 0: at least one step has to be computed before another can reuse it");
        }
        Ok(())
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(SeaCache::new(self.clone(), timesteps.len()))
    }
}

/// The SeaCache policy of one generation.
#[derive(Clone, Debug)]
pub struct SeaCache {
    config: SeaCacheConfig,
    steps: usize,
    accumulated: f64,
}

impl SeaCache {
    /// The weights, from distance 0 on, of the circular filter along an axis of `length` tokens at noise level `noise` (0 clean, 1 noise alone):
    /// [`ProbePoint::Filtered`] is the first block's input filtered along time, height and width.
    pub fn filter(length: usize, noise: f64) -> Vec<f64> {
        weights(length, noise)
    }

    /// A policy for a generation of `steps` steps.
    pub fn new(config: SeaCacheConfig, steps: usize) -> SeaCache {
        SeaCache { config, steps, accumulated: 0.0 }
    }
}

impl Policy for SeaCache {
    fn name(&self) -> &str {
        "seacache"
    }

    fn plan(&mut self, step: usize) -> Plan {
        // Not `>= threshold`: NaN must compute.
        let SeaCacheConfig { first, last, threshold } = self.config;
        if step > first && step + last <= self.steps && self.accumulated < threshold {
            return Plan::Reuse;
        }
        self.accumulated = 0.0;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        Probes::at([ProbePoint::Filtered])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn observe(&mut self, step: usize, _probe: usize, measurement: &Measurement) -> Option<Decision> {
        self.accumulated += ratio(measurement.abs_diff, measurement.abs_kept);
        Some(Decision::about(step, self.accumulated))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    /// What the filter makes of each wave along an axis is that wave times the published gain over the mean of all gains.
    #[test]
    fn every_frequency_passes_with_its_gain() {
        for length in [1, 2, 5, 21, 30] {
            for noise in [0.0, 0.1, 0.5, 0.9, 0.999, 1.0f64] {
                let b = noise.clamp(1e-6, 1.0 - 1e-6);
                let gain = |k: usize| {
                    let frequency = if 2 * k <= length { k as f64 } else { k as f64 - length as f64 } / length as f64;
                    let power = 1.0 / (frequency.abs().powf(3.0) + 1e-16);
                    (1.0 - b) * power / ((1.0 - b).powi(2) * power + b * b + 1e-16)
                };
                let mean = (0..length).map(gain).sum::<f64>() / length as f64;
                let weights = weights(length, noise);
                for k in 0..length {
                    let wave = |i: usize| (TAU * (k * i) as f64 / length as f64 + 0.3).cos();
                    for i in 0..length {
                        let filtered: f64 = (0..length).map(|j| weights[(i + length - j) % length] * wave(j)).sum();
                        let exact = wave(i) * gain(k) / mean;
                        let most = gain(0) / mean;
                        assert!(
                            (filtered - exact).abs() < 1e-9 * most.max(1.0),
                            "{length} {noise} {k}: {filtered} {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn more_noise_leaves_lower_frequencies() {
        // At the end everything passes alike: the weight of a token's own value is 1, those of the others are 0.
        assert!(weights(8, 0.0).iter().enumerate().all(|(i, w)| (w - f64::from(i == 0)).abs() < 1e-4));
        let own = |noise| weights(30, noise)[0];
        let others = |noise| weights(30, noise)[15];
        assert!(own(0.999) - others(0.999) < own(0.5) - others(0.5));
    }

    #[test]
    fn changes_are_summed_up_to_the_threshold() {
        let mut policy = SeaCache::new(SeaCacheConfig::new(0.25), 10);
        let Ok::<_, Infallible>((plans, decisions)) = walk(&mut policy, 10, |step, since, point| {
            assert_eq!((since, point), (step - 1, ProbePoint::Filtered));
            Ok(Measurement { abs_diff: 0.25, abs_kept: 2.0, ..Measurement::default() })
        });
        assert_eq!(computed_steps(&plans), [1, 3, 5, 7, 9, 10]);
        assert_eq!(decisions[1].distance, 0.25);
        assert!(SeaCacheConfig { first: 0, ..SeaCacheConfig::new(0.2) }.validate().is_err());
    }
}
