//! T-GATE: once the outline has formed the caption adds nothing new, so from some step on the output of the cross-attention is frozen.
//! Nothing else distinguishes the two halves of guidance, so from then on the conditional half runs alone.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::block::Module;
use super::policy::Policy;
use super::schedule::ModuleSchedule;
use super::settings::{CacheError, Settings, invalid};

/// The settings of T-GATE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TGateConfig {
    /// The last step, from 1, that computes cross-attention.
    pub gate: usize,
}

impl TGateConfig {
    /// The published gate, step 10 of 25, in a run of `steps` steps.
    pub fn scaled(steps: usize) -> TGateConfig {
        TGateConfig { gate: (steps * 10).div_ceil(25).max(1) }
    }

    /// The policy for a model of this anatomy and a run of `steps` steps.
    pub fn policy(&self, anatomy: &Anatomy, steps: usize) -> ModuleSchedule {
        let cross = anatomy.each(Module::Cross, 0..anatomy.blocks());
        ModuleSchedule::new("t-gate", steps, vec![(cross, (0..steps).map(|i| i >= self.gate).collect())])
            .ending_guidance()
    }
}

impl Settings for TGateConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.gate == 0 {
            invalid("a gate at step 0: the first step computes everything, `gate` is at least 1")
        } else {
            Ok(())
        }
    }

    fn reuses_forwards(&self) -> bool {
        false
    }

    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(TGateConfig::policy(self, anatomy, timesteps.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{GroupSet, Plan, Policy};

    #[test]
    fn frozen_behind_the_gate() {
        let policy = TGateConfig { gate: 2 }.policy(&Anatomy::spatial_temporal(3), 5);
        let mut cross = GroupSet::default();
        cross.insert(0);
        let none = GroupSet::default();
        let (keep, reuse) = (Plan::Partial { reused: none, kept: cross }, Plan::Partial { reused: cross, kept: none });
        assert_eq!(policy.plans(), [Plan::Compute, keep, reuse, reuse, reuse]);
        assert!(policy.ends_guidance());
        assert_eq!(policy.groups()[0].runs, [1..2, 4..5, 7..8, 10..11, 13..14, 16..17]);
    }

    #[test]
    fn a_gate_at_the_end_computes_everything() {
        assert_eq!(TGateConfig { gate: 5 }.policy(&Anatomy::spatial_temporal(3), 5).plans(), [Plan::Compute; 5]);
        assert_eq!(
            (TGateConfig::scaled(25).gate, TGateConfig::scaled(30).gate, TGateConfig::scaled(1).gate),
            (10, 12, 1)
        );
        assert!(TGateConfig { gate: 0 }.validate().is_err());
    }
}
