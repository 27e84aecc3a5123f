//! EasyCache: measures during the run how strongly the prediction responds to a change of the latents.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::{Measurement, ratio};
use super::point::ProbePoint;
use super::policy::{Decision, Plan, Policy, Probes, Reused};
use super::settings::{CacheError, Settings, invalid};

/// The settings of EasyCache.
///
/// With `k = ‖Δprediction‖₁ / ‖Δlatents‖₁` between the last two computed steps, every step adds `k·‖Δlatents‖₁ / ‖prediction‖₁` to an error
/// (means over the elements); steps are reused while it stays below the threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EasyCacheConfig {
    /// The error at which a step is computed (published: 0.025).
    pub threshold: f64,
    /// The number of initial steps that are always computed.
    #[serde(default = "first")]
    pub first: usize,
    /// What a reused step takes from the last computed one (published for Wan: the prediction).
    #[serde(default)]
    pub reused: Reused,
}

fn first() -> usize {
    5
}

impl EasyCacheConfig {
    /// Settings with the published 5 initial steps.
    pub fn new(threshold: f64) -> EasyCacheConfig {
        EasyCacheConfig { threshold, first: first(), reused: Reused::default() }
    }
}

impl Settings for EasyCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return invalid(format!("threshold {} must be a number from 0 on", self.threshold));
        }
        if self.first < 1 {
            return invalid("`first` 0: at least one step has to be computed before another can reuse it");
        }
        Ok(())
    }

    fn reuses_forwards(&self) -> bool {
        self.reused == Reused::Fold
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(EasyCache::new(self.clone(), timesteps.len()))
    }
}

/// The EasyCache policy of one generation.
#[derive(Clone, Debug)]
pub struct EasyCache {
    config: EasyCacheConfig,
    steps: usize,
    error: f64,
    /// Σ|Δlatents| between the last two computed steps, needed for `answer`.
    moved: f64,
    /// k, and Σ|prediction| of the last computed step.
    answer: Option<(f64, f64)>,
}

/// The probes, in the order of [`Policy::probes`].
const LATENTS: usize = 0;
const COMPUTED_LATENTS: usize = 1;

impl EasyCache {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: EasyCacheConfig, steps: usize) -> EasyCache {
        EasyCache { config, steps, error: 0.0, moved: 0.0, answer: None }
    }
}

impl Policy for EasyCache {
    fn name(&self) -> &str {
        "easycache"
    }

    fn plan(&mut self, step: usize) -> Plan {
        let forced = step <= self.config.first || step == self.steps || self.answer.is_none();
        if !forced && self.error < self.config.threshold {
            return Plan::Reuse;
        }
        self.error = 0.0;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        Probes::at([ProbePoint::Latents, ProbePoint::ComputedLatents, ProbePoint::Prediction])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn reused(&self) -> Reused {
        self.config.reused
    }

    fn observe(&mut self, step: usize, probe: usize, m: &Measurement) -> Option<Decision> {
        match probe {
            LATENTS => {
                let (k, prediction) = self.answer?;
                // Sums in place of means: k divides by the latents' number of elements and this by the predictions', and the
                // other way round.
                self.error += ratio(k * m.abs_diff, prediction);
                Some(Decision::about(step, self.error))
            }
            COMPUTED_LATENTS => {
                self.moved = m.abs_diff;
                None
            }
            _ => {
                self.answer = Some((ratio(m.abs_diff, self.moved), m.abs_kept));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    #[test]
    fn the_error_is_summed_up_from_the_measured_answer() {
        let mut policy = EasyCache::new(EasyCacheConfig { first: 2, ..EasyCacheConfig::new(0.3) }, 12);
        // The latents move by 1 a step, the prediction by half as much, its norm is 4: k = 0.5, and a step adds 0.125.
        let Ok::<_, Infallible>((plans, decisions)) = walk(&mut policy, 12, |step, since, point| {
            let moved = (step - since) as f64;
            let (abs_diff, abs_kept) = if point == ProbePoint::Prediction { (0.5 * moved, 4.0) } else { (moved, 9.0) };
            Ok(Measurement { abs_diff, abs_kept, ..Measurement::default() })
        });
        // 1 and 2 come first; 0.125 at step 3, 0.25 at 4, 0.375 at 5: computed. So 8 and 11, and 12 is the last.
        assert_eq!(computed_steps(&plans), [1, 2, 5, 8, 11, 12]);
        let distances: Vec<f64> = decisions.iter().map(|d| d.distance).collect();
        assert_eq!(distances, [0.125, 0.25, 0.375, 0.125, 0.25, 0.375, 0.125, 0.25, 0.375, 0.125]);
    }
}
