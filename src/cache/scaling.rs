//! Scaled extrapolation: a reused step goes a part α of the way along the last change of the fold, and the interval to the next computed step
//! follows how fast the fold changes.
//!
//! After ScalingCache (ICLR 2026): with F₀ and F₁ the folds of the last two computed steps, d apart, a step x after the last reuses
//! `F₀ + α·x·(F₀ − F₁)/d`. α lies between reuse as it is (0) and a straight line (1). It is estimated offline, from recorded runs:
//! `adacache calibrate` tells it. The authors give no rule for the interval that could be followed to the letter; here
//! it is the number of steps in which the fold would change by the threshold at its present pace.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::{Measurement, ratio};
use super::point::ProbePoint;
use super::policy::{Decision, Extrapolation, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The settings of scaled extrapolation.
///
/// At every computed step `c = ‖F₀ − F₁‖₁ / ‖F₁‖₁ / d`; the next computed step is `threshold / c` steps away, rounded down, at least 1 and at
/// most `most`. The last step is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingConfig {
    /// How far the fold may change from one computed step to the next, relative to itself.
    pub threshold: f64,
    /// The longest interval, in steps.
    pub most: usize,
    /// α: the part of the way that is extrapolated, above 0, at most 1.
    pub factor: f64,
    /// The number of steps at the beginning that are always computed; a change needs two.
    #[serde(default = "two")]
    pub first: usize,
}

fn two() -> usize {
    2
}

impl ScalingConfig {
    /// Settings that compute two steps at the beginning.
    pub fn new(threshold: f64, most: usize, factor: f64) -> ScalingConfig {
        ScalingConfig { threshold, most, factor, first: two() }
    }
}

impl Settings for ScalingConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return invalid(format!("threshold {} must be a number from 0 on", self.threshold));
        }
        if self.most < 1 {
            return invalid("`most` 0: an interval is at least one step");
        }
        if !(self.factor > 0.0 && self.factor <= 1.0) {
            return invalid(format!("factor = {}: give a number above 0, at most 1", self.factor));
        }
        if self.first < two() {
            return invalid(format!("`first` {}: two steps have to be computed before there is a change", self.first));
        }
        Ok(())
    }

    /// It extrapolates already.
    fn reuses_forwards(&self) -> bool {
        false
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(Scaling::new(self.clone(), timesteps.len()))
    }
}

/// The policy of one generation.
#[derive(Clone, Debug)]
pub struct Scaling {
    config: ScalingConfig,
    steps: usize,
    /// The last computed step, how far the one before it was away, and the interval behind it.
    computed: usize,
    distance: usize,
    interval: usize,
}

impl Scaling {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: ScalingConfig, steps: usize) -> Scaling {
        Scaling { config, steps, computed: 0, distance: 1, interval: 1 }
    }
}

impl Policy for Scaling {
    fn name(&self) -> &str {
        "scaling"
    }

    fn plan(&mut self, step: usize) -> Plan {
        if step > self.config.first && step < self.steps && step < self.computed + self.interval {
            return Plan::Reuse;
        }
        (self.distance, self.computed) = (step - self.computed, step);
        // Until the change is measured: NaN and what is never measured compute the next step.
        self.interval = 1;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        Probes::at([ProbePoint::Fold])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn extrapolates(&self) -> Option<Extrapolation> {
        Some(Extrapolation { order: 1, damping: self.config.factor })
    }

    fn observe(&mut self, step: usize, _probe: usize, m: &Measurement) -> Option<Decision> {
        let ScalingConfig { threshold, most, .. } = self.config;
        let change = ratio(m.abs_diff, m.abs_kept) / self.distance as f64;
        self.interval = (1..=most).rev().find(|interval| *interval as f64 * change <= threshold).unwrap_or(1);
        Some(Decision { rate: Some(self.interval), ..Decision::about(step, change) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{CacheConfig, computed_steps, walk};

    fn schedule(config: ScalingConfig, steps: usize, pace: impl Fn(usize) -> f64) -> (Vec<usize>, Vec<usize>) {
        let mut policy = Scaling::new(config, steps);
        let Ok::<_, Infallible>((plans, decisions)) = walk(&mut policy, steps, |step, since, point| {
            assert_eq!(point, ProbePoint::Fold);
            let abs_diff = (since + 1..=step).map(&pace).sum::<f64>() * 4.0;
            Ok(Measurement { abs_diff, abs_kept: 4.0, ..Measurement::default() })
        });
        (computed_steps(&plans), decisions.iter().filter_map(|decision| decision.rate).collect())
    }

    #[test]
    fn the_interval_follows_the_change() {
        // 0.125 a step, 0.25 from step 8 on: 0.5 is 4 steps away, then 2; from 6 to 10 the pace is 0.875 / 4.
        let pace = |step| if step < 8 { 0.125 } else { 0.25 };
        let (computed, rates) = schedule(ScalingConfig::new(0.5, 9, 0.6), 16, pace);
        assert_eq!(computed, [1, 2, 6, 10, 12, 14, 16]);
        assert_eq!(rates, [4, 4, 2, 2, 2, 2]);
        // A longest interval, steps at the beginning, and what changes too fast or is no number.
        assert_eq!(schedule(ScalingConfig::new(9.0, 3, 0.6), 10, |_| 0.125).0, [1, 2, 5, 8, 10]);
        let late = ScalingConfig { first: 4, ..ScalingConfig::new(9.0, 3, 0.6) };
        assert_eq!(schedule(late, 10, |_| 0.125).0, [1, 2, 3, 4, 7, 10]);
        for pace in [3.0, f64::NAN] {
            assert_eq!(schedule(ScalingConfig::new(0.5, 9, 0.6), 4, |_| pace).0, [1, 2, 3, 4]);
        }
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let fits = ScalingConfig::new(0.5, 9, 0.6);
        fits.validate().unwrap();
        for (wrong, part) in [
            (ScalingConfig { threshold: f64::NAN, ..fits.clone() }, "threshold"),
            (ScalingConfig { most: 0, ..fits.clone() }, "most"),
            (ScalingConfig { factor: 1.5, ..fits.clone() }, "factor"),
            (ScalingConfig { first: 1, ..fits.clone() }, "first"),
        ] {
            assert!(wrong.validate().unwrap_err().to_string().contains(part));
        }
        let twice = CacheConfig::Scaling(fits).extrapolated(1);
        assert!(twice.validate().is_err());
    }
}
