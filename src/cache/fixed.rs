//! Schedules that measure nothing: every step, every n-th step, and fewer steps.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::block::Span;
use super::measurement::Measurement;
use super::point::{ProbePoint, Site};
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The policy that computes every step: the baseline. It can also record measurements for other policies.
#[derive(Clone, Debug, Default)]
pub struct ComputeAll {
    probes: Probes,
}

impl ComputeAll {
    /// Measures at every step what the policies of this crate measure with their usual settings, with the motion between adjacent frames.
    /// `layers` are those whose temporal attention (or attention over all tokens) AdaCache probes.
    /// [`Presets::recorder`](super::Presets::recorder) measures for the presets of a model.
    pub fn recording(anatomy: &Anatomy, layers: &[usize], frames: usize) -> ComputeAll {
        let span = if anatomy.has(Span::Time) { Span::Time } else { Span::Everything };
        let residual = |&block: &usize| ProbePoint::Residual { block, span, site: Site::Attention };
        let residuals: Vec<ProbePoint> = layers.iter().map(residual).collect();
        ComputeAll::recording_at(anatomy, &residuals, if frames > 1 { &[1] } else { &[] })
    }

    /// As [`ComputeAll::recording`], for an AdaCache that probes `residuals` and measures motion between frames `strides` apart.
    pub fn recording_at(anatomy: &Anatomy, residuals: &[ProbePoint], strides: &[usize]) -> ComputeAll {
        ComputeAll::recording_all(anatomy, Probes { points: residuals.to_vec(), strides: strides.to_vec() })
    }

    /// Measures at every step the residuals and strides of `wanted`, in execution order and each once, with all that is no residual (signals
    /// of the time and the filtered input only where they are wanted), and the residual of the first block. Of one block the whole residual
    /// and that of its cross-attention and MLP cannot both be measured: the latter goes first.
    pub(super) fn recording_all(anatomy: &Anatomy, wanted: Probes) -> ComputeAll {
        let Probes { points, mut strides } = wanted;
        let signals = [ProbePoint::Time, ProbePoint::TimeProjection].into_iter().filter(|point| points.contains(point));
        let signals: Vec<ProbePoint> = signals.collect();
        let filtered = points.contains(&ProbePoint::Filtered).then_some(ProbePoint::Filtered);
        let mut residuals: Vec<ProbePoint> =
            points.into_iter().filter(|point| anatomy.block_of(*point).is_some()).collect();
        residuals.push(anatomy.probe(0, Site::Whole));
        let parts = residuals.clone();
        residuals.retain(|point| match anatomy.block_of(*point) {
            Some(block) if *point == anatomy.probe(block, Site::Whole) => {
                !parts.contains(&anatomy.probe(block, Site::CrossMlp))
            }
            _ => true,
        });
        let place = |point: &ProbePoint| {
            let block = anatomy.block_of(*point);
            let site = [Site::Attention, Site::CrossMlp, Site::Whole];
            (block, block.and_then(|block| site.iter().position(|site| *point == anatomy.probe(block, *site))))
        };
        residuals.sort_by_key(place);
        residuals.dedup();
        strides.sort_unstable();
        strides.dedup();
        let mut points = vec![ProbePoint::Latents];
        points.extend(signals);
        points.push(ProbePoint::Modulated);
        points.extend(filtered);
        points.push(ProbePoint::ComputedLatents);
        points.extend(residuals);
        points.extend([ProbePoint::Fold, ProbePoint::Prediction]);
        ComputeAll { probes: Probes { points, strides } }
    }
}

impl Policy for ComputeAll {
    fn name(&self) -> &str {
        "none"
    }

    fn plan(&mut self, _step: usize) -> Plan {
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        self.probes.clone()
    }

    fn reuses(&self) -> bool {
        false
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

/// Compute every n-th step, as FORA does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntervalConfig {
    /// Steps from one computed step to the next.
    pub every: usize,
}

impl Settings for IntervalConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.every == 0 { invalid("an interval of 0 steps: `every` is at least 1") } else { Ok(()) }
    }

    fn policy(&self, _anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(Interval::new(self.clone()))
    }
}

/// The policy of [`IntervalConfig`]: computes steps 1, 1 + n, 1 + 2n, …
#[derive(Clone, Debug)]
pub struct Interval {
    config: IntervalConfig,
}

impl Interval {
    /// Builds the policy.
    pub fn new(config: IntervalConfig) -> Interval {
        Interval { config }
    }
}

impl Policy for Interval {
    fn name(&self) -> &str {
        "interval"
    }

    fn plan(&mut self, step: usize) -> Plan {
        if (step - 1).is_multiple_of(self.config.every) { Plan::Compute } else { Plan::Reuse }
    }

    fn probes(&self) -> Probes {
        Probes::default()
    }

    fn reuses(&self) -> bool {
        self.config.every > 1
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

/// Fewer denoising steps, each computed: the baseline that every policy must beat at equal compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewerStepsConfig {
    /// Denoising steps.
    pub steps: usize,
}

impl Settings for FewerStepsConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.steps == 0 { invalid("0 steps: `steps` is at least 1") } else { Ok(()) }
    }

    fn reuses_forwards(&self) -> bool {
        false
    }

    fn steps(&self, _asked: usize) -> usize {
        self.steps
    }

    fn policy(&self, _anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(ComputeAll::default())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{computed_steps, walk};

    #[test]
    fn every_third_step() {
        let mut policy = Interval::new(IntervalConfig { every: 3 });
        let Ok::<_, Infallible>((plans, decisions)) = walk(&mut policy, 10, |_, _, _| unreachable!());
        assert_eq!(computed_steps(&plans), [1, 4, 7, 10]);
        assert!(decisions.is_empty());
    }

    #[test]
    fn a_recording_computes_everything_and_measures_in_execution_order() {
        let mut policy = ComputeAll::recording(&Anatomy::spatial_temporal(5), &[2], 16);
        let mut asked = vec![];
        let Ok::<_, Infallible>((plans, _)) = walk(&mut policy, 2, |step, since, point| {
            asked.push((step, since, point.to_string()));
            Ok(Measurement::default())
        });
        assert_eq!(computed_steps(&plans), [1, 2]);
        let names: Vec<&str> = asked.iter().map(|(_, _, name)| name.as_str()).collect();
        let expected = [
            "latents",
            "modulated",
            "latents-computed",
            "spatial.0.whole",
            "temporal.2.attention",
            "fold",
            "prediction",
        ];
        assert_eq!(names, expected);
        assert!(asked.iter().all(|(step, since, _)| (*step, *since) == (2, 1)));
        assert_eq!(ComputeAll::recording(&Anatomy::spatial_temporal(5), &[2], 1).probes().strides, Vec::<usize>::new());
    }
}
