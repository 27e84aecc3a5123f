//! Policies: pure state machines that say of every step whether it is computed. They own no memory and launch nothing.

use serde::{Deserialize, Serialize};

use super::groups::{GroupSet, ModuleGroup};
use super::measurement::Measurement;
use super::point::ProbePoint;
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

/// The polynomial by which folds are extrapolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extrapolation {
    /// 1 or 2: how many folds are kept beside the last one.
    pub order: usize,
    /// Of the way from the last fold to the step at hand this part is extrapolated, above 0, at most 1.
    pub damping: f64,
}

impl Extrapolation {
    /// The whole way, as published.
    pub const UNDAMPED: f64 = 1.0;
}

impl From<usize> for Extrapolation {
    /// Of an order, undamped.
    fn from(order: usize) -> Extrapolation {
        Extrapolation { order, damping: Extrapolation::UNDAMPED }
    }
}
