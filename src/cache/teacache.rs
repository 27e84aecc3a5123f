//! TeaCache: the change of the first block's modulated input, or of the time's embedding, predicts the change of the model's output.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::{Measurement, ratio};
use super::point::ProbePoint;
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The settings of TeaCache.
///
/// At every step `x = ‖m − m_prev‖₁ / ‖m_prev‖₁` of a signal m; a polynomial of x is accumulated, and the step is computed when the sum
/// reaches the threshold. Some steps at the beginning and at the end are always computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeaCacheConfig {
    /// The sum at which a step is computed (published: 0.1 slow, 0.2 fast).
    pub threshold: f64,
    /// What is measured.
    #[serde(default)]
    pub signal: Signal,
    /// The number of steps at the beginning that are always computed.
    #[serde(default = "one")]
    pub first: usize,
    /// The number of steps at the end that are always computed.
    #[serde(default = "one")]
    pub last: usize,
    /// The polynomial, from the highest power to 1: fitted for each model. Published are x⁴ to 1, for Wan's TI2V-5B x⁵ to 1.
    #[serde(default = "TeaCacheConfig::plain")]
    pub coefficients: Vec<f64>,
}

/// What TeaCache measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Signal {
    /// Block 0's normed and modulated input, which depends on the latents: as published for Open-Sora.
    #[default]
    Modulated,
    /// The time's embedding: as published for Wan. The schedule is the same for every prompt and seed.
    Time,
    /// The projection of the time from which the blocks' modulation is made: as published for Wan with `use_ret_steps`.
    TimeProjection,
}

impl Signal {
    fn point(self) -> ProbePoint {
        match self {
            Signal::Modulated => ProbePoint::Modulated,
            Signal::Time => ProbePoint::Time,
            Signal::TimeProjection => ProbePoint::TimeProjection,
        }
    }
}

fn one() -> usize {
    1
}

impl TeaCacheConfig {
    /// Settings that measure the modulated input and always compute the first and the last step.
    pub fn new(threshold: f64, coefficients: impl Into<Vec<f64>>) -> TeaCacheConfig {
        let coefficients = coefficients.into();
        TeaCacheConfig { threshold, signal: Signal::default(), first: one(), last: one(), coefficients }
    }

    /// The published polynomial of Open-Sora 1.2.
    pub const OPENSORA: [f64; 5] = [217.546007, -118.329252, 26.8662585, -0.0459364272, 0.0484426240];
    /// The published polynomial of Latte.
    pub const LATTE: [f64; 5] = [-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402];
    /// The published polynomial of Open-Sora-Plan 1.1.
    pub const OPENSORA_PLAN: [f64; 5] = [205943.668, -14875.9286, 306.085986, 1.31418080, 0.00239658469];

    /// The polynomial x: for models without a fitted one.
    pub(super) fn plain() -> Vec<f64> {
        vec![0.0, 0.0, 0.0, 1.0, 0.0]
    }
}

impl Settings for TeaCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return invalid(format!("threshold {} must be a number from 0 on", self.threshold));
        }
        if self.first < 1 {
            return invalid("`first` 0: at least one step has to be computed before another can reuse it");
        }
        if self.coefficients.is_empty() || self.coefficients.iter().any(|c| !c.is_finite()) {
            return invalid(format!("coefficients {:?} must be finite numbers, at least one", self.coefficients));
        }
        Ok(())
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(TeaCache::new(self.clone(), timesteps.len()))
    }
}

/// The TeaCache policy of one generation.
#[derive(Clone, Debug)]
pub struct TeaCache {
    config: TeaCacheConfig,
    steps: usize,
    accumulated: f64,
}

impl TeaCache {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: TeaCacheConfig, steps: usize) -> TeaCache {
        TeaCache { config, steps, accumulated: 0.0 }
    }
}

impl Policy for TeaCache {
    fn name(&self) -> &str {
        "teacache"
    }

    fn plan(&mut self, step: usize) -> Plan {
        // Not `< threshold`: NaN must compute.
        let TeaCacheConfig { first, last, .. } = self.config;
        if step > first && step + last <= self.steps && self.accumulated < self.config.threshold {
            return Plan::Reuse;
        }
        self.accumulated = 0.0;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        Probes::at([self.config.signal.point()])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn observe(&mut self, step: usize, _probe: usize, measurement: &Measurement) -> Option<Decision> {
        let x = ratio(measurement.abs_diff, measurement.abs_kept);
        self.accumulated += self.config.coefficients.iter().fold(0.0, |sum, c| sum * x + c);
        Some(Decision::about(step, self.accumulated))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    fn schedule(config: TeaCacheConfig, steps: usize, change: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut policy = TeaCache::new(config, steps);
        let Ok::<_, Infallible>((plans, _)) = walk(&mut policy, steps, |step, since, point| {
            assert_eq!((since, point), (step - 1, ProbePoint::Modulated));
            Ok(Measurement { abs_diff: 2.0 * change(step), abs_kept: 2.0, ..Measurement::default() })
        });
        computed_steps(&plans)
    }

    #[test]
    fn changes_are_summed_up_to_the_threshold() {
        let config = TeaCacheConfig::new(0.25, TeaCacheConfig::plain());
        // 0.125 + 0.125 reaches 0.25 at step 3, 5, 7; the last step is forced.
        assert_eq!(schedule(config.clone(), 10, |_| 0.125), [1, 3, 5, 7, 9, 10]);
        // 0.0625 four times: steps 5, 9; then a jump at step 10.
        assert_eq!(schedule(config, 13, |step| if step == 10 { 0.5 } else { 0.0625 }), [1, 5, 9, 10, 13]);
    }

    #[test]
    fn forced_steps_at_both_ends() {
        let plain = TeaCacheConfig::new(0.25, TeaCacheConfig::plain());
        let none_at_the_end = TeaCacheConfig { first: 4, last: 0, ..plain.clone() };
        assert_eq!(schedule(none_at_the_end, 10, |_| 0.125), [1, 2, 3, 4, 6, 8, 10]);
        assert_eq!(schedule(TeaCacheConfig { last: 3, ..plain.clone() }, 10, |_| 0.05), [1, 6, 8, 9, 10]);
        assert!(TeaCacheConfig { first: 0, ..plain }.validate().is_err());
    }

    #[test]
    fn the_published_polynomial() {
        // p(0.1) = 0.0217546007 − 0.118329252 + 0.268662585 − 0.00459364272 + 0.048442624 = 0.21593691498 a step:
        // above 0.2 every step is computed; two of them reach 0.4.
        let config = |threshold| TeaCacheConfig::new(threshold, TeaCacheConfig::OPENSORA);
        assert_eq!(schedule(config(0.2), 5, |_| 0.1), [1, 2, 3, 4, 5]);
        assert_eq!(schedule(config(0.4), 8, |_| 0.1), [1, 3, 5, 7, 8]);
        let mut policy = TeaCache::new(config(1.0), 5);
        let measured = Measurement { abs_diff: 0.1, abs_kept: 1.0, ..Measurement::default() };
        let decision = policy.observe(2, 0, &measured).unwrap();
        assert!((decision.distance - 0.21593691498).abs() < 1e-9, "{decision:?}");
    }
}
