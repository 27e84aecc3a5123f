//! MagCache: the norm of the blocks' sum shrinks from step to step in much the same way for every prompt, so a table of ratios decides.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::Measurement;
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The settings of MagCache.
///
/// After a computed step, every step applies `s *= γ[step]; E += |1 − s|`; the step is reused while `E ≤ threshold` and at most `most`
/// steps in a row have been reused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MagCacheConfig {
    /// The error up to which a step is reused (published for Open-Sora: 0.12 slow, 0.24 fast).
    pub threshold: f64,
    /// The maximum number of consecutive reused steps (published: 3 slow, 5 fast).
    pub most: usize,
    /// The fraction of steps at the beginning that are always computed.
    #[serde(default = "retention")]
    pub retention: f64,
    /// γ: ‖fold‖ of a step over that of the step before, from the second step on. Runs with another number of steps use the nearest entry.
    pub ratios: Vec<f64>,
}

fn retention() -> f64 {
    0.2
}

/// γ² of Open-Sora 1.2 for 30 steps as published.
const OPENSORA_SQUARED: [f64; 29] = [
    0.93359, 0.96484, 0.99609, 1.0, 0.99609, 0.99609, 0.99219, 1.0, 1.0, 0.99609, 0.99219, 1.0, 0.99219, 0.99609,
    0.99219, 0.99609, 0.99609, 0.99609, 0.99219, 0.99219, 0.99219, 0.98828, 0.98828, 0.98438, 0.98438, 0.97656,
    0.97656, 0.96484, 0.96484,
];

impl MagCacheConfig {
    /// Settings with the published initial fraction of 0.2.
    pub fn new(threshold: f64, most: usize, ratios: Vec<f64>) -> MagCacheConfig {
        MagCacheConfig { threshold, most, retention: retention(), ratios }
    }

    /// The published table of Open-Sora 1.2.
    pub fn opensora_ratios() -> Vec<f64> {
        OPENSORA_SQUARED.iter().map(|square| square.sqrt()).collect()
    }
}

impl Settings for MagCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite()) {
            return invalid(format!("threshold {} must be a finite number", self.threshold));
        }
        if !(0.0..=1.0).contains(&self.retention) {
            return invalid(format!("retention {} must be a share from 0 to 1", self.retention));
        }
        if self.ratios.is_empty() || self.ratios.iter().any(|r| !(r.is_finite() && *r > 0.0)) {
            return invalid(
                "`ratios` needs positive numbers, one for each step but the first; `adacache replay TRACE --ratios` makes them",
            );
        }
        Ok(())
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(MagCache::new(self.clone(), timesteps.len()))
    }
}

/// The MagCache policy of one generation.
#[derive(Clone, Debug)]
pub struct MagCache {
    config: MagCacheConfig,
    steps: usize,
    scale: f64,
    error: f64,
    skipped: usize,
}

impl MagCache {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: MagCacheConfig, steps: usize) -> MagCache {
        MagCache { config, steps, scale: 1.0, error: 0.0, skipped: 0 }
    }

    /// γ of `step` (from 2): the nearest entry of the table.
    fn ratio(&self, step: usize) -> f64 {
        let last = self.config.ratios.len() - 1;
        let place = (step - 2) as f64 * last as f64 / (self.steps.max(3) - 2) as f64;
        self.config.ratios[(place.round() as usize).min(last)]
    }
}

impl Policy for MagCache {
    fn name(&self) -> &str {
        "magcache"
    }

    fn plan(&mut self, step: usize) -> Plan {
        let retained = (self.steps as f64 * self.config.retention) as usize;
        if step == 1 || step <= retained {
            return Plan::Compute;
        }
        self.scale *= self.ratio(step);
        self.error += (1.0 - self.scale).abs();
        self.skipped += 1;
        if self.error <= self.config.threshold && self.skipped <= self.config.most {
            return Plan::Reuse;
        }
        (self.scale, self.error, self.skipped) = (1.0, 0.0, 0);
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        Probes::default()
    }

    fn reuses(&self) -> bool {
        true
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    fn schedule(config: MagCacheConfig, steps: usize) -> Vec<usize> {
        let mut policy = MagCache::new(config, steps);
        let Ok::<_, Infallible>((plans, _)) = walk(&mut policy, steps, |_, _, _| unreachable!());
        computed_steps(&plans)
    }

    #[test]
    fn the_error_is_summed_up_from_the_table() {
        // 2 of 12 steps come first; then 0.03, 0.03 + 0.0591, and 0.0891 + 0.087327 > 0.12.
        let config = MagCacheConfig::new(0.12, 9, vec![0.97; 11]);
        assert_eq!(schedule(config.clone(), 12), [1, 2, 5, 8, 11]);
        assert_eq!(schedule(MagCacheConfig { most: 1, ..config }, 12), [1, 2, 4, 6, 8, 10, 12]);
    }

    #[test]
    fn the_published_table_of_open_sora() {
        // By hand with γ = √0.99609 = 0.998043, …: from step 7 on at most three in a row, until the ratios fall off at the end.
        let config = |threshold, most| MagCacheConfig::new(threshold, most, MagCacheConfig::opensora_ratios());
        assert_eq!(schedule(config(0.12, 3), 30), [1, 2, 3, 4, 5, 6, 10, 14, 18, 22, 26, 30]);
        assert_eq!(schedule(config(0.0, 3), 4), [1, 2, 3, 4]);
    }

    #[test]
    fn another_number_of_steps_takes_the_nearest_entry() {
        let policy = MagCache::new(MagCacheConfig::new(0.1, 3, vec![0.1, 0.2, 0.3, 0.4, 0.5]), 4);
        assert_eq!([2, 3, 4].map(|step| policy.ratio(step)), [0.1, 0.3, 0.5]);
    }
}
