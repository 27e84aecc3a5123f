//! First-block cache: the first block is computed at every step; the change of its residual decides whether the others are.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::{Measurement, ratio};
use super::point::{ProbePoint, Site};
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The settings of the first-block cache: the other blocks are reused while `‖r − kept‖₁ / ‖kept‖₁` of the first block's residual stays
/// below the threshold, where `kept` is the residual of the last computed step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FbCacheConfig {
    /// The change at which the other blocks are computed (published: 0.1).
    pub threshold: f64,
}

impl Settings for FbCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return invalid(format!("threshold {} must be a number from 0 on", self.threshold));
        }
        Ok(())
    }

    fn policy(&self, anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(FbCache::new(self.clone(), anatomy))
    }
}

/// The first-block policy of one generation.
#[derive(Clone, Debug)]
pub struct FbCache {
    config: FbCacheConfig,
    /// The first block's residual.
    first: ProbePoint,
    /// The change of the first block's residual; infinite before a residual is kept.
    change: f64,
}

impl FbCache {
    /// A policy for one generation.
    pub fn new(config: FbCacheConfig, anatomy: &Anatomy) -> FbCache {
        FbCache { config, first: anatomy.probe(0, Site::Whole), change: f64::INFINITY }
    }
}

impl Policy for FbCache {
    fn name(&self) -> &str {
        "fbcache"
    }

    fn plan(&mut self, _step: usize) -> Plan {
        if self.change < self.config.threshold { Plan::Reuse } else { Plan::Compute }
    }

    fn probes(&self) -> Probes {
        Probes::at([self.first])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn head(&self) -> usize {
        1
    }

    fn observe(&mut self, step: usize, _probe: usize, measurement: &Measurement) -> Option<Decision> {
        self.change = ratio(measurement.abs_diff, measurement.abs_kept);
        Some(Decision::about(step, self.change))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    #[test]
    fn the_change_since_the_last_computed_step_decides() {
        let mut policy = FbCache::new(FbCacheConfig { threshold: 0.1 }, &Anatomy::spatial_temporal(5));
        // The residual moves by 0.04 a step: below 0.1 after one and two steps, above it after three.
        let Ok::<_, Infallible>((plans, decisions)) = walk(&mut policy, 9, |step, since, _| {
            Ok(Measurement { abs_diff: 0.04 * (step - since) as f64, abs_kept: 1.0, ..Measurement::default() })
        });
        assert_eq!(computed_steps(&plans), [1, 4, 7]);
        let distances: Vec<f64> = decisions.iter().map(|d| d.distance).collect();
        assert_eq!(distances, [0.04, 0.08, 0.12, 0.04, 0.08, 0.12, 0.04, 0.08]);
    }
}
