//! Caching policies: which denoising steps run the transformer and which reuse the residuals of an earlier step.
//!
//! A [`Policy`] is a pure state machine on the host. It owns no memory and launches nothing: the sampler asks it for a
//! [`Plan`], measures what [`Policy::probes`] names, and tells it what was measured. A recorded [`trace`] therefore replays
//! any policy without a model. What is kept on the device lives in [`ResidualStore`].

mod adacache;
mod adacache_config;
mod anatomy;
mod config;
mod delta_dit;
mod easycache;
mod fbcache;
mod fixed;
mod kept;
mod magcache;
mod modules;
mod pab;
mod point;
mod presets;
mod store;
mod taylor;
mod teacache;
mod tgate;
pub mod trace;

pub use adacache::AdaCache;
pub use adacache_config::{AdaCacheConfig, Codebook, Metric, MotionRegularization, ResidualKind};
pub use anatomy::{Anatomy, Module, Span};
pub use config::{CacheConfig, CacheError, Custom, Settings};
pub use delta_dit::DeltaDitConfig;
pub use easycache::{EasyCache, EasyCacheConfig};
pub use fbcache::{FbCache, FbCacheConfig};
pub use fixed::{ComputeAll, FewerStepsConfig, Interval, IntervalConfig};
pub use magcache::{MagCache, MagCacheConfig};
pub use modules::{GroupSet, ModuleGroup, ModuleSchedule};
pub use pab::PabConfig;
pub use point::{ProbePoint, Site};
pub use presets::{DeltaDitPreset, Named, Presets, TeaCachePreset, names as preset_names};
pub use store::{PendingMeasurements, ResidualStore, Shapes, StoreOptions};
pub use taylor::{Extrapolation, Taylor, TaylorConfig};
pub use teacache::{TeaCache, TeaCacheConfig};
pub use tgate::TGateConfig;

use serde::{Deserialize, Serialize};

use crate::ops::decide::DecisionRule;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Run every transformer block and keep its residuals.
    Compute,
    /// Add the kept residuals to the step's own embedding.
    Reuse,
    /// Run the blocks, but for some modules add what they added in an earlier step. The sets are of [`Policy::groups`].
    Partial {
        /// Groups that are reused; where there are none, the step is a computed one.
        reused: GroupSet,
        /// Groups that are computed and kept.
        kept: GroupSet,
    },
}

impl Plan {
    /// Whether every module runs.
    pub fn is_computed(&self) -> bool {
        match self {
            Plan::Compute => true,
            Plan::Reuse => false,
            Plan::Partial { reused, .. } => reused.is_empty(),
        }
    }

    /// Whether some modules run and others are reused.
    pub fn is_partial(&self) -> bool {
        matches!(self, Plan::Partial { .. }) && !self.is_computed()
    }

    /// The groups that are (reused, kept).
    pub fn groups(&self) -> (GroupSet, GroupSet) {
        match *self {
            Plan::Partial { reused, kept } => (reused, kept),
            Plan::Compute | Plan::Reuse => Default::default(),
        }
    }
}

/// The sums over one tensor, usually a residual, that every metric and the motion score follow from.
///
/// `fresh` is the tensor of this step, `kept` the one of an earlier step: see [`ProbePoint`].
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Σ|fresh − kept|
    pub abs_diff: f64,
    /// Σ|kept|
    pub abs_kept: f64,
    /// Σ(fresh − kept)²
    pub sq_diff: f64,
    /// Σ kept²
    pub sq_kept: f64,
    /// Σ fresh·kept
    pub dot: f64,
    /// Σ fresh²
    pub sq_fresh: f64,
    /// The frame-difference sums, one entry a stride, in the order of the configured strides.
    pub motion: Vec<MotionSums>,
}

/// Frame-difference sums of a residual `r` for one stride `k`.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct MotionSums {
    /// Σ|r\[t+k\] − r\[t\]|
    pub abs_diff: f64,
    /// Σ|r\[t+k\]|
    pub abs_later: f64,
    /// Σ|r\[t\]|
    pub abs_earlier: f64,
}

impl MotionSums {
    /// The motion score of this stride, in \[0, 1\]; 0 where nothing was summed.
    pub fn score(&self) -> f64 {
        ratio(self.abs_diff, self.abs_later + self.abs_earlier)
    }
}

impl Measurement {
    /// Reads the sums in the order of the kernel (`PROBE_SUMS`, then `MOTION_SUMS` a stride) and adds up the batch:
    /// the published code decides once for the whole guidance batch.
    pub fn from_sums(sums: &[f64], batch: usize, strides: usize) -> Measurement {
        let count = 6 + 3 * strides;
        let total = |i: usize| (0..batch).map(|b| sums[b * count + i]).sum::<f64>();
        Measurement {
            abs_diff: total(0),
            abs_kept: total(1),
            sq_diff: total(2),
            sq_kept: total(3),
            dot: total(4),
            sq_fresh: total(5),
            motion: (0..strides)
                .map(|s| MotionSums {
                    abs_diff: total(6 + 3 * s),
                    abs_later: total(7 + 3 * s),
                    abs_earlier: total(8 + 3 * s),
                })
                .collect(),
        }
    }

    /// Of two tensors on the host, of the same size; without motion.
    pub fn of(fresh: &[f32], kept: &[f32]) -> Measurement {
        let mut m = Measurement::default();
        for (fresh, kept) in fresh.iter().zip(kept).map(|(f, k)| (f64::from(*f), f64::from(*k))) {
            let change = fresh - kept;
            m.abs_diff += change.abs();
            m.abs_kept += kept.abs();
            m.sq_diff += change * change;
            m.sq_kept += kept * kept;
            m.dot += fresh * kept;
            m.sq_fresh += fresh * fresh;
        }
        m
    }

    /// The measurement over both ways, this one and then `later`, where nobody compared the two ends: as if all changes went one way.
    pub(crate) fn then(&self, later: &Measurement) -> Measurement {
        let sq_diff = (self.sq_diff.sqrt() + later.sq_diff.sqrt()).powi(2);
        Measurement {
            abs_diff: self.abs_diff + later.abs_diff,
            abs_kept: self.abs_kept,
            sq_diff,
            sq_kept: self.sq_kept,
            dot: (self.sq_kept + later.sq_fresh - sq_diff) / 2.0,
            sq_fresh: later.sq_fresh,
            motion: later.motion.clone(),
        }
    }

    /// The mean motion score over the strides.
    pub fn motion_score(&self) -> f64 {
        ratio(self.motion.iter().map(MotionSums::score).sum(), self.motion.len() as f64)
    }
}

/// `a / b`, and 0 where both vanish (an all-zero residual has not changed).
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { 0.0 } else { a / b }
}

/// What a policy concluded from one probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The step that was measured, from 1.
    pub step: usize,
    /// The number compared with the policy's thresholds. AdaCache: distance per step, after the motion factor; the others: the change, or
    /// the error summed up since the last computed step.
    pub distance: f64,
    /// The motion factor M (after its gradient was added); 1 without motion regularization.
    pub motion: f64,
    /// The motion gradient; 0 without motion regularization.
    pub motion_gradient: f64,
    /// The rate chosen: the next computed step is this many steps away. `None` where a policy decides step by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<usize>,
}

impl Decision {
    /// A decision about step `step` alone, on the number `distance`.
    pub fn about(step: usize, distance: f64) -> Decision {
        Decision { step, distance, motion: 1.0, motion_gradient: 0.0, rate: None }
    }
}

/// What has to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Probes {
    /// The places, in execution order.
    pub points: Vec<ProbePoint>,
    /// The frame strides whose differences are summed; empty when the policy does not look at motion.
    pub strides: Vec<usize>,
}

impl Probes {
    /// Probes at `points` that do not look at motion.
    pub fn at(points: impl Into<Vec<ProbePoint>>) -> Probes {
        Probes { points: points.into(), strides: vec![] }
    }
}

/// A caching policy for one generation.
///
/// For steps 1, 2, … in order the sampler calls `observe` for each probe point that is measured before a step is planned
/// ([`ProbePoint::before_plan`]), then `plan`, and after a computed step `observe` for each of the other points, in order, before
/// anything of the next step. What has nothing to compare with yet is not observed. [`walk`] does the same without a model.
pub trait Policy: Send {
    /// The name shown in reports.
    fn name(&self) -> &str;
    /// What to do at `step` (from 1).
    fn plan(&mut self, step: usize) -> Plan;
    /// What to measure; constant over a generation.
    fn probes(&self) -> Probes;
    /// Whether `plan` can ever answer [`Plan::Reuse`]: only then is the fold kept.
    fn reuses(&self) -> bool;
    /// What [`Plan::Partial`] speaks of, each kept at least once; constant over a generation. Such a policy measures nothing.
    fn groups(&self) -> Vec<ModuleGroup> {
        vec![]
    }
    /// Whether a step that reuses groups runs the conditional half alone, without guidance: of the groups then only that half is kept.
    fn ends_guidance(&self) -> bool {
        false
    }
    /// How a reused step extrapolates the fold; `None`: it is taken as it is.
    fn extrapolates(&self) -> Option<Extrapolation> {
        None
    }
    /// How many blocks, in execution order, run in every step before it is planned; a reused step reuses the others. Where there are any,
    /// residuals of those blocks alone can be probed.
    fn head(&self) -> usize {
        0
    }
    /// Takes the measurement of probe point `probe` at `step`; gives what it decides, if this point decides anything.
    fn observe(&mut self, step: usize, probe: usize, measurement: &Measurement) -> Option<Decision>;
    /// The rule by which the device can decide in this policy's place, before its first step; `None`: it cannot.
    fn device_rule(&self) -> Option<DecisionRule> {
        None
    }
    /// Takes over a decision that the device took by [`Policy::device_rule`], in place of [`Policy::observe`].
    fn adopt(&mut self, _probe: usize, _decision: &Decision) {}
}

/// Runs `policy` over `steps` steps without a model; gives the plan of every step and the decisions.
///
/// `measure(step, since, point)` gives the measurement at `point` between the steps `since` and `step`.
///
/// # Errors
/// What `measure` says.
pub fn walk<E>(
    policy: &mut dyn Policy,
    steps: usize,
    mut measure: impl FnMut(usize, usize, ProbePoint) -> Result<Measurement, E>,
) -> Result<(Vec<Plan>, Vec<Decision>), E> {
    let (points, head) = (policy.probes().points, policy.head());
    let (mut plans, mut decisions, mut computed) = (vec![], vec![], None);
    for step in 1..=steps {
        let mut observe = |policy: &mut dyn Policy, before: bool| {
            for (probe, &point) in points.iter().enumerate().filter(|(_, p)| p.before_plan(head) == before) {
                if let Some(since) = point.compared_with(step, computed) {
                    decisions.extend(policy.observe(step, probe, &measure(step, since, point)?));
                }
            }
            Ok(())
        };
        observe(policy, true)?;
        let plan = policy.plan(step);
        plans.push(plan);
        if plan.is_computed() {
            observe(policy, false)?;
            computed = Some(step);
        }
    }
    Ok((plans, decisions))
}

/// The steps (from 1) that `plans` compute with all their modules.
pub fn computed_steps(plans: &[Plan]) -> Vec<usize> {
    (1..).zip(plans).filter(|(_, plan)| plan.is_computed()).map(|(step, _)| step).collect()
}

/// The steps (from 1) in which some modules are computed and others reused.
pub fn partial_steps(plans: &[Plan]) -> Vec<usize> {
    (1..).zip(plans).filter(|(_, plan)| plan.is_partial()).map(|(step, _)| step).collect()
}
