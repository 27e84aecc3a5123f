//! Caching policies: which denoising steps run the transformer and which reuse the residuals of an earlier step.
//!
//! A [`Policy`] is a pure state machine on the host. It owns no memory and launches nothing: the sampler asks it for a
//! [`Plan`], measures what [`Policy::probes`] names, and tells it what was measured. A recorded [`trace`] therefore replays
//! any policy without a model. What is kept on the device lives in [`ResidualStore`].

mod adacache;
mod config;
mod store;
pub mod trace;

pub use adacache::{AdaCache, ComputeAll};
pub use config::{
    AdaCacheConfig, CacheConfig, CacheError, Codebook, Metric, MotionRegularization, Presets, ResidualKind,
};
pub use store::{PendingMeasurements, ResidualStore, StoreOptions};

use serde::{Deserialize, Serialize};

use crate::ops::decide::DecisionRule;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plan {
    /// Run every transformer block and keep its residuals.
    Compute,
    /// Add the kept residuals to the step's own embedding.
    Reuse,
}

/// Which stack of blocks a probe looks at. Block `i` runs its spatial block first, then its temporal block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// Attention within a frame.
    Spatial,
    /// Attention along time at one location.
    Temporal,
}

/// Which residual of a block is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Site {
    /// The gated self-attention residual.
    Attention,
    /// The cross-attention residual plus the gated MLP residual.
    CrossMlp,
}

/// One place in the forward where the residual is compared with the kept one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePoint {
    /// Index of the block, from 0.
    pub block: usize,
    /// Its spatial or its temporal half.
    pub stack: Stack,
    /// The residual measured there.
    pub site: Site,
}

/// The sums over one residual that every metric and the motion score follow from.
///
/// `fresh` is the residual just computed, `kept` the one of the last computed step.
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

    /// The mean motion score over the strides.
    pub fn motion_score(&self) -> f64 {
        ratio(self.motion.iter().map(MotionSums::score).sum(), self.motion.len() as f64)
    }
}

/// `a / b`, and 0 where both vanish (an all-zero residual has not changed).
fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { 0.0 } else { a / b }
}

/// What a policy concluded from one probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The step that was measured, from 1.
    pub step: usize,
    /// The rate of change compared with the codebook: distance per step, after the motion factor.
    pub distance: f64,
    /// The motion factor M (after its gradient was added); 1 without motion regularization.
    pub motion: f64,
    /// The motion gradient; 0 without motion regularization.
    pub motion_gradient: f64,
    /// The rate chosen: the next computed step is this many steps away.
    pub rate: usize,
}

/// What has to be measured while a computed step runs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Probes {
    /// The places, in execution order.
    pub points: Vec<ProbePoint>,
    /// The frame strides whose differences are summed; empty when the policy does not look at motion.
    pub strides: Vec<usize>,
}

/// A caching policy for one generation.
///
/// The sampler calls `plan(1)`, `plan(2)`, … in order. After a computed step it calls `observe` once for each probe point, in
/// order, before it plans the next step. The first computed step has nothing to compare with and is not observed.
pub trait Policy: Send {
    /// The name shown in reports.
    fn name(&self) -> &str;
    /// What to do at `step` (from 1).
    fn plan(&mut self, step: usize) -> Plan;
    /// What to measure in computed steps; constant over a generation.
    fn probes(&self) -> Probes;
    /// Whether `plan` can ever answer [`Plan::Reuse`]: only then are residuals kept.
    fn reuses(&self) -> bool;
    /// Takes the measurement of probe point `probe` at the computed step `step`.
    fn observe(&mut self, step: usize, probe: usize, measurement: &Measurement) -> Decision;
    /// The rule by which the device can decide in this policy's place, before its first step; `None`: it cannot.
    fn device_rule(&self) -> Option<DecisionRule> {
        None
    }
    /// Takes over a decision that the device took by [`Policy::device_rule`], in place of [`Policy::observe`].
    fn adopt(&mut self, _probe: usize, _decision: &Decision) {}
}
