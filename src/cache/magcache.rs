//! MagCache: the norm of the blocks' sum shrinks from step to step in much the same way for every prompt, so a table of ratios decides.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::measurement::Measurement;
use super::policy::{Decision, Half, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The settings of MagCache.
///
/// After a computed step, every step applies `s *= γ[step]; E += |1 − s|`; the step is reused while `E ≤ threshold` and at most `most`
/// steps in a row have been reused. With a table of its own for the unconditional half of guidance, as published for Wan, each half does
/// this for itself, and a step may compute one half alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MagCacheConfig {
    /// The error up to which a step is reused (published for Open-Sora: 0.12 slow, 0.24 fast).
    pub threshold: f64,
    /// The maximum number of consecutive reused steps (published: 3 slow, 5 fast).
    pub most: usize,
    /// The fraction of steps at the beginning that are always computed; of forwards, conditional and unconditional in turn, if the halves
    /// are decided apart.
    #[serde(default = "retention")]
    pub retention: f64,
    /// γ: ‖fold‖ of a step over that of the step before, from the second step on. Runs with another number of steps use the nearest entry.
    pub ratios: Vec<f64>,
    /// γ of the unconditional half of guidance; empty: `ratios` stand for both, and both are decided together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconditional: Vec<f64>,
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
        MagCacheConfig { threshold, most, retention: retention(), ratios, unconditional: vec![] }
    }

    /// The settings for the steps `steps` (from 0) of a run of `all`: the tables are cut to them, with an entry for each but the first, and one
    /// at least.
    pub fn part(&self, steps: Range<usize>, all: usize) -> MagCacheConfig {
        let cut = |table: &Vec<f64>| {
            let own = if table.is_empty() { 0 } else { steps.len().saturating_sub(1).max(1) };
            (steps.start + 2..).take(own).map(|step| entry(table, step, all)).collect()
        };
        MagCacheConfig { ratios: cut(&self.ratios), unconditional: cut(&self.unconditional), ..self.clone() }
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
        if self.ratios.is_empty() {
            return invalid(
                "MagCache has no table of ratios for this model: `adacache replay TRACE --ratios` makes one, for a .toml file or the model's codebooks.json",
            );
        }
        if self.ratios.iter().chain(&self.unconditional).any(|r| !(r.is_finite() && *r > 0.0)) {
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

/// γ of `step` (from 2) in a run of `steps`: the nearest entry of the table, in which the first step has 1.
fn entry(table: &[f64], step: usize, steps: usize) -> f64 {
    let place = ((step - 1) * table.len()) as f64 / (steps.max(2) - 1) as f64;
    match place.round_ties_even() as usize {
        0 => 1.0,
        place => table.get(place.min(table.len()).saturating_sub(1)).copied().unwrap_or(1.0),
    }
}

/// The MagCache policy of one generation.
#[derive(Clone, Debug)]
pub struct MagCache {
    config: MagCacheConfig,
    steps: usize,
    /// Of each half of guidance; of both if they are decided together.
    errors: Vec<Error>,
}

/// What has added up since the last computed step.
#[derive(Clone, Copy, Debug)]
struct Error {
    scale: f64,
    sum: f64,
    skipped: usize,
}

impl Error {
    const NONE: Error = Error { scale: 1.0, sum: 0.0, skipped: 0 };
}

impl MagCache {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: MagCacheConfig, steps: usize) -> MagCache {
        let halves = if config.unconditional.is_empty() { 1 } else { Half::BOTH.len() };
        MagCache { config, steps, errors: vec![Error::NONE; halves] }
    }

    /// γ of `step` (from 2): the nearest entry of the table, in which the first step has 1.
    fn ratio(&self, half: Half, step: usize) -> f64 {
        let table = if half == Half::Conditional { &self.config.ratios } else { &self.config.unconditional };
        entry(table, step, self.steps)
    }

    /// Whether `half`, or the whole batch if both are decided together, is computed at `step`.
    fn computes(&mut self, half: Half, step: usize) -> bool {
        let halves = self.errors.len();
        let retained = ((halves * self.steps) as f64 * self.config.retention) as usize;
        if step == 1 || halves * (step - 1) + half.index() < retained {
            return true;
        }
        let ratio = self.ratio(half, step);
        let error = &mut self.errors[half.index()];
        error.scale *= ratio;
        error.sum += (1.0 - error.scale).abs();
        error.skipped += 1;
        if error.sum <= self.config.threshold && error.skipped <= self.config.most {
            return false;
        }
        *error = Error::NONE;
        true
    }
}

impl Policy for MagCache {
    fn name(&self) -> &str {
        "magcache"
    }

    fn plan(&mut self, step: usize) -> Plan {
        let conditional = self.computes(Half::Conditional, step);
        let unconditional = if self.decides_halves() { self.computes(Half::Unconditional, step) } else { conditional };
        match (conditional, unconditional) {
            (true, true) => Plan::Compute,
            (false, false) => Plan::Reuse,
            (true, false) => Plan::Half(Half::Conditional),
            (false, true) => Plan::Half(Half::Unconditional),
        }
    }

    fn decides_halves(&self) -> bool {
        self.errors.len() > 1
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
    use crate::cache::{computed_steps, computed_steps_of, walk};

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
        let ratios = |entries, steps| {
            let policy = MagCache::new(MagCacheConfig::new(0.1, 3, entries), steps);
            (2..=steps).map(|step| policy.ratio(Half::Conditional, step)).collect::<Vec<_>>()
        };
        // The entries 0 (always 1) to 5 at 5/3, 10/3, 5; then 1/4, 1/2 (to even), 3/4, 1.
        assert_eq!(ratios(vec![0.1, 0.2, 0.3, 0.4, 0.5], 4), [0.2, 0.3, 0.5]);
        assert_eq!(ratios(vec![0.1], 5), [1.0, 1.0, 0.1, 0.1]);
    }

    /// A part of a run takes the entries that its steps have in the whole: here a run of 6 whose last 3 steps are another model's.
    #[test]
    fn a_part_of_a_run_has_a_part_of_the_table() {
        let config = MagCacheConfig {
            unconditional: vec![0.6, 0.7, 0.8, 0.9, 1.0],
            ..MagCacheConfig::new(0.1, 3, vec![0.1, 0.2, 0.3, 0.4, 0.5])
        };
        let last = config.part(3..6, 6);
        assert_eq!((last.ratios, last.unconditional), (vec![0.4, 0.5], vec![0.9, 1.0]));
        assert_eq!(config.part(0..3, 6).ratios, [0.1, 0.2]);
        // Of a run of 11 steps each entry stands for two.
        assert_eq!(config.part(6..11, 11).ratios, [0.4, 0.4, 0.4, 0.5]);
        // One step alone needs none; a table stays a table, and halves that are decided apart stay so.
        assert_eq!(config.part(2..3, 6).unconditional, [0.8]);
        assert!(MagCacheConfig::new(0.1, 3, vec![0.5]).part(0..1, 2).unconditional.is_empty());
    }

    #[test]
    fn each_half_has_errors_of_its_own() {
        // 0.05 a step and 0.1 a step: errors 0.05, 0.1475 and 0.1, 0.29. The first 5 of 12 forwards are computed.
        let config = MagCacheConfig {
            retention: 5.0 / 12.0,
            unconditional: vec![0.9; 5],
            ..MagCacheConfig::new(0.12, 9, vec![0.95; 5])
        };
        let mut policy = MagCache::new(config, 6);
        assert!(policy.decides_halves());
        let plans: Vec<Plan> = (1..=6).map(|step| policy.plan(step)).collect();
        // Conditional 1, 2, 3, 5; unconditional 1, 2, 4, 6.
        let [conditional, unconditional] = Half::BOTH.map(Plan::Half);
        assert_eq!(plans, [Plan::Compute, Plan::Compute, conditional, unconditional, conditional, unconditional]);
        assert_eq!(computed_steps_of(&plans, Half::Conditional), [1, 2, 3, 5]);
        assert_eq!(computed_steps_of(&plans, Half::Unconditional), [1, 2, 4, 6]);
        // A batch without guidance follows the conditional half.
        let alone: Vec<Plan> = plans.iter().map(|plan| plan.unguided()).collect();
        assert_eq!(computed_steps(&alone), [1, 2, 3, 5]);
    }
}
