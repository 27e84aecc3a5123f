//! T-GATE: once the outline has formed the caption adds nothing new, so from some step on the output of the cross-attention is frozen.
//! Nothing else distinguishes the two halves of guidance, so from then on the conditional half runs alone. Before the gate, self-attention
//! may be reused in turn.

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
    /// Whether both halves of guidance run behind the gate, each with its own frozen output; else the conditional half runs alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub both_halves: bool,
    /// Self-attention is computed every so many steps, up to `self_until`. None: in every step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub self_every: Option<usize>,
    /// The last step, from 1, that may reuse self-attention; none: the gate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub self_until: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TGateConfig {
    /// Cross-attention alone, computed up to step `gate`, then the conditional half alone.
    pub fn new(gate: usize) -> TGateConfig {
        TGateConfig { gate, both_halves: false, self_every: None, self_until: None }
    }

    /// The published gate, step 10 of 25, in a run of `steps` steps.
    pub fn scaled(steps: usize) -> TGateConfig {
        TGateConfig::new((steps * 10).div_ceil(25).max(1))
    }

    /// The policy for a model of this anatomy and a run of `steps` steps.
    pub fn policy(&self, anatomy: &Anatomy, steps: usize) -> ModuleSchedule {
        let all = 0..anatomy.blocks();
        let reused = |when: &dyn Fn(usize) -> bool| (0..steps).map(when).collect::<Vec<bool>>();
        let until = self.self_until.unwrap_or(self.gate);
        let in_turn = |i: usize| self.self_every.is_some_and(|every| i < until && !i.is_multiple_of(every));
        let groups = vec![
            (anatomy.each(Module::Cross, all.clone()), reused(&|i| i >= self.gate)),
            (anatomy.each(Module::Attention, all), reused(&in_turn)),
        ];
        let schedule = ModuleSchedule::new("t-gate", steps, groups);
        if self.both_halves { schedule } else { schedule.ending_guidance() }
    }
}

impl Settings for TGateConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.gate == 0 {
            return invalid("a gate at step 0: the first step computes everything, `gate` is at least 1");
        }
        match (self.self_every, self.self_until) {
            (Some(0), _) => invalid("`self_every = 0`: self-attention is computed every 1, 2, … steps"),
            (None, Some(_)) => invalid("`self_until` says how long self-attention is reused: give `self_every` too"),
            // Steps before the gate reuse as well, and need both halves.
            (Some(_), _) if !self.both_halves => {
                invalid("`self_every` reuses self-attention while both halves run: set `both_halves = true`")
            }
            _ => Ok(()),
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
        let policy = TGateConfig::new(2).policy(&Anatomy::spatial_temporal(3), 5);
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
        assert_eq!(TGateConfig::new(5).policy(&Anatomy::spatial_temporal(3), 5).plans(), [Plan::Compute; 5]);
        assert_eq!(
            (TGateConfig::scaled(25).gate, TGateConfig::scaled(30).gate, TGateConfig::scaled(1).gate),
            (10, 12, 1)
        );
        assert!(TGateConfig::new(0).validate().is_err());
    }

    #[test]
    fn self_attention_in_turn_before_the_gate() {
        let config = TGateConfig { both_halves: true, self_every: Some(3), self_until: Some(5), ..TGateConfig::new(7) };
        config.validate().unwrap();
        let policy = config.policy(&Anatomy::spatial_temporal(3), 9);
        assert!(!policy.ends_guidance());
        let letters = |group| {
            let letter = |plan: &Plan| match plan {
                Plan::Partial { reused, .. } if reused.contains(group) => 'r',
                Plan::Partial { kept, .. } if kept.contains(group) => 'k',
                _ => '.',
            };
            policy.plans().iter().map(letter).collect::<String>()
        };
        assert_eq!((letters(0), letters(1)), ("......krr".into(), "krrkr....".into()));
        for bad in [
            TGateConfig { self_every: Some(0), ..config.clone() },
            TGateConfig { both_halves: false, ..config.clone() },
            TGateConfig { self_every: None, ..config.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        // Settings of before are written as before.
        assert_eq!(serde_json::to_string(&TGateConfig::new(3)).unwrap(), r#"{"gate":3}"#);
    }
}
