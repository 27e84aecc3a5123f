//! Policies: pure state machines that decide for each step whether it is computed. They own no memory and launch nothing.

use serde::{Deserialize, Serialize};

use super::groups::{GroupSet, ModuleGroup};
use super::measurement::Measurement;
use super::point::ProbePoint;
use crate::ops::decide::DecisionRule;

/// A half of a guided batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Half {
    /// The samples with the prompt: the first half of the batch.
    Conditional,
    /// The samples without it, or with the negative prompt.
    Unconditional,
}

impl Half {
    /// Both halves, in the order of the batch.
    pub const BOTH: [Half; 2] = [Half::Conditional, Half::Unconditional];

    /// The other half.
    pub fn other(self) -> Half {
        match self {
            Half::Conditional => Half::Unconditional,
            Half::Unconditional => Half::Conditional,
        }
    }

    /// Its place in the batch: 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The plan for one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Plan {
    /// Run every transformer block and keep its residuals.
    Compute,
    /// Add the kept residuals to the step's own embedding.
    Reuse,
    /// Run the blocks, but replace the output of some modules with that of an earlier step. The sets refer to [`Policy::groups`].
    Partial {
        /// Groups to reuse; if empty, the step counts as computed.
        reused: GroupSet,
        /// Groups to compute and keep.
        kept: GroupSet,
    },
    /// Run every block for one half of guidance, and add the kept residuals of the other half to its embedding. Without guidance there is
    /// the conditional half only.
    Half(Half),
}

impl Plan {
    /// Whether every module runs.
    pub fn is_computed(&self) -> bool {
        match self {
            Plan::Compute => true,
            Plan::Reuse | Plan::Half(_) => false,
            Plan::Partial { reused, .. } => reused.is_empty(),
        }
    }

    /// Whether some modules run and others are reused, or one half of guidance is computed and the other reused.
    pub fn is_partial(&self) -> bool {
        matches!(self, Plan::Partial { .. } | Plan::Half(_)) && !self.is_computed()
    }

    /// Whether every module runs for `half` of guidance.
    pub fn computes(&self, half: Half) -> bool {
        match self {
            Plan::Half(computed) => *computed == half,
            whole => whole.is_computed(),
        }
    }

    /// The plan for a batch without guidance, which is a conditional half.
    pub fn unguided(self) -> Plan {
        match self {
            Plan::Half(Half::Conditional) => Plan::Compute,
            Plan::Half(Half::Unconditional) => Plan::Reuse,
            whole => whole,
        }
    }

    /// The groups, as (reused, kept).
    pub fn groups(&self) -> (GroupSet, GroupSet) {
        match *self {
            Plan::Partial { reused, kept } => (reused, kept),
            Plan::Compute | Plan::Reuse | Plan::Half(_) => Default::default(),
        }
    }
}

/// What a policy concluded from one probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The step that was measured, from 1.
    pub step: usize,
    /// The number compared with the policy's thresholds. AdaCache: distance per step, after the motion factor; other policies: the change,
    /// or the error accumulated since the last computed step.
    #[serde(with = "crate::json::float")]
    pub distance: f64,
    /// The motion factor M (after its gradient was added); 1 without motion regularization.
    #[serde(with = "crate::json::float")]
    pub motion: f64,
    /// The motion gradient; 0 without motion regularization.
    #[serde(with = "crate::json::float")]
    pub motion_gradient: f64,
    /// The chosen rate: the next computed step is this many steps away. `None` if the policy decides step by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<usize>,
}

impl Decision {
    /// The same decision in a run with `before` steps before the first of this one.
    pub fn after(self, before: usize) -> Decision {
        Decision { step: self.step + before, ..self }
    }

    /// A decision about step `step` alone, based on `distance`.
    pub fn about(step: usize, distance: f64) -> Decision {
        Decision { step, distance, motion: 1.0, motion_gradient: 0.0, rate: None }
    }
}

/// The measurements that a policy needs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Probes {
    /// The probe points, in execution order.
    pub points: Vec<ProbePoint>,
    /// The frame strides whose differences are summed; empty if the policy does not use motion.
    pub strides: Vec<usize>,
}

impl Probes {
    /// Probes at `points`, without motion.
    pub fn at(points: impl Into<Vec<ProbePoint>>) -> Probes {
        Probes { points: points.into(), strides: vec![] }
    }
}

/// What a reused step takes from the last computed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reused {
    /// The sum that the blocks added to the hidden state: `x = x_embed + fold`. The final layer runs.
    #[default]
    Fold,
    /// What the prediction was more than the latents: `prediction = z + (prediction_c − z_c)`. Nothing of the model runs.
    Prediction,
}

/// A caching policy for one generation.
///
/// For steps 1, 2, … in order the sampler calls `observe` for each probe point that is measured before a step is planned
/// ([`ProbePoint::before_plan`]), then `plan`, and after a computed step `observe` for each of the other points, in order, before any call
/// for the next step. A point without an earlier tensor to compare with is not observed. [`walk`] does the same without a model.
pub trait Policy: Send {
    /// The policy's name in reports.
    fn name(&self) -> &str;
    /// The plan for `step` (from 1).
    fn plan(&mut self, step: usize) -> Plan;
    /// The measurements the policy needs; constant over a generation.
    fn probes(&self) -> Probes;
    /// Whether `plan` can ever return [`Plan::Reuse`]: the fold is kept only then.
    fn reuses(&self) -> bool;
    /// What a reused step takes from the last computed one.
    fn reused(&self) -> Reused {
        Reused::Fold
    }
    /// The groups that [`Plan::Partial`] refers to, each kept at least once; constant over a generation. A policy with groups measures
    /// nothing.
    fn groups(&self) -> Vec<ModuleGroup> {
        vec![]
    }
    /// Whether a step that reuses groups runs the conditional half alone, without guidance; then only that half of the groups is kept.
    fn ends_guidance(&self) -> bool {
        false
    }
    /// Whether `plan` can answer [`Plan::Half`]: the fold of each half is then kept on its own. Such a policy reuses the folds of whole
    /// forwards and measures nothing.
    fn decides_halves(&self) -> bool {
        false
    }
    /// How a reused step extrapolates the fold; `None` if it uses the fold unchanged.
    fn extrapolates(&self) -> Option<Extrapolation> {
        None
    }
    /// The number of blocks, in execution order, that run in every step before it is planned; a reused step reuses the others. If it is not
    /// 0, only residuals of these blocks can be probed.
    fn head(&self) -> usize {
        0
    }
    /// Takes the measurement of probe point `probe` at `step`; returns the decision, if this point leads to one.
    fn observe(&mut self, step: usize, probe: usize, measurement: &Measurement) -> Option<Decision>;
    /// The rule by which the device can decide for this policy; `None` if it cannot. Read before the first step.
    fn device_rule(&self) -> Option<DecisionRule> {
        None
    }
    /// Adopts a decision that the device made by [`Policy::device_rule`], in place of [`Policy::observe`].
    fn adopt(&mut self, _probe: usize, _decision: &Decision) {}
}

/// Runs `policy` over `steps` steps without a model; returns the plan of every step and the decisions.
///
/// `measure(step, since, point)` returns the measurement at `point` between the steps `since` and `step`.
///
/// # Errors
/// The errors of `measure`.
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

/// The steps (from 1) that `plans` compute with all modules.
pub fn computed_steps(plans: &[Plan]) -> Vec<usize> {
    (1..).zip(plans).filter(|(_, plan)| plan.is_computed()).map(|(step, _)| step).collect()
}

/// The steps (from 1) that `plans` compute for `half` of guidance.
pub fn computed_steps_of(plans: &[Plan], half: Half) -> Vec<usize> {
    (1..).zip(plans).filter(|(_, plan)| plan.computes(half)).map(|(step, _)| step).collect()
}

/// The steps (from 1) in which some modules, or one half of guidance, are computed and others reused.
pub fn partial_steps(plans: &[Plan]) -> Vec<usize> {
    (1..).zip(plans).filter(|(_, plan)| plan.is_partial()).map(|(step, _)| step).collect()
}

/// The polynomial that extrapolates folds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extrapolation {
    /// The order, 1 or 2: the number of folds kept besides the last one.
    pub order: usize,
    /// The fraction of the distance from the last fold to the current step that is extrapolated, above 0, at most 1.
    pub damping: f64,
}

impl Extrapolation {
    /// No damping, as published.
    pub const UNDAMPED: f64 = 1.0;
}

impl From<usize> for Extrapolation {
    /// An undamped extrapolation of this order.
    fn from(order: usize) -> Extrapolation {
        Extrapolation { order, damping: Extrapolation::UNDAMPED }
    }
}
