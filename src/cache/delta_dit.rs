//! Δ-DiT: caches the deviation that a run of blocks adds, `F(x) − x`, instead of features. Front blocks shape the outline and rear blocks
//! the details, so the rear blocks are skipped early, while the outline forms, and the front blocks late.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::policy::Policy;
use super::schedule::ModuleSchedule;
use super::settings::{CacheError, Settings, invalid};

/// The settings of Δ-DiT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaDitConfig {
    /// All blocks are computed every so many steps (N).
    pub every: usize,
    /// The number of adjacent layers skipped in between (Nc), each with its spatial and its temporal block.
    pub blocks: usize,
    /// The timestep (0 to 1000) above which the rear layers are skipped, and from which on the front ones (b).
    pub boundary: f64,
    /// The last step, from 1, that may skip layers; none: the last of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<usize>,
}

impl DeltaDitConfig {
    /// The policy for a model of this anatomy and a run of the given timesteps.
    pub fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> ModuleSchedule {
        let skipped = |rear: bool| -> Vec<bool> {
            let within = |i: usize| self.until.is_none_or(|until| i < until) && !i.is_multiple_of(self.every);
            let at = |(i, &t): (usize, &f32)| within(i) && (f64::from(t) > self.boundary) == rear;
            timesteps.iter().enumerate().map(at).collect()
        };
        let rear = anatomy.all(anatomy.layers().saturating_sub(self.blocks)..anatomy.layers());
        let front = anatomy.all(0..self.blocks);
        ModuleSchedule::new("delta-dit", timesteps.len(), vec![(rear, skipped(true)), (front, skipped(false))])
    }
}

impl Settings for DeltaDitConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.every == 0 {
            return invalid("an interval of 0 steps: `every` is at least 1");
        }
        if !self.boundary.is_finite() {
            return invalid(format!(
                "the boundary {} is no finite number: give a timestep from 0 to 1000",
                self.boundary
            ));
        }
        Ok(())
    }

    fn validate_for(&self, anatomy: &Anatomy, _frames: usize) -> Result<(), CacheError> {
        self.validate()?;
        if self.blocks > anatomy.layers() {
            return invalid(format!("{} blocks to skip: the model has {}", self.blocks, anatomy.layers()));
        }
        Ok(())
    }

    fn looks_at_time(&self) -> bool {
        true
    }

    fn reuses_forwards(&self) -> bool {
        false
    }

    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(DeltaDitConfig::policy(self, anatomy, timesteps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{GroupSet, Plan, Policy};

    fn set(groups: &[usize]) -> GroupSet {
        let mut set = GroupSet::default();
        groups.iter().for_each(|&group| set.insert(group));
        set
    }

    #[test]
    fn rear_blocks_early_and_front_blocks_late() {
        // 1000, 900, …, 100: the boundary lies between the fifth step (600) and the sixth (500).
        let timesteps: Vec<f32> = (0..10).map(|i| 1000.0 - 100.0 * i as f32).collect();
        let anatomy = Anatomy::spatial_temporal(5);
        let policy = DeltaDitConfig { every: 3, blocks: 3, boundary: 500.0, until: None }.policy(&anatomy, &timesteps);
        assert_eq!(policy.groups(), [anatomy.all(2..5), anatomy.all(0..3)]);
        let partial = |reused: &[usize], kept: &[usize]| Plan::Partial { reused: set(reused), kept: set(kept) };
        let (keep_rear, rear) = (partial(&[], &[0]), partial(&[0], &[]));
        let (keep_front, front) = (partial(&[], &[1]), partial(&[1], &[]));
        // The fourth step serves both: the fifth skips the rear blocks, the sixth the front ones. After the tenth nothing comes.
        let both = partial(&[], &[0, 1]);
        let expected = [keep_rear, rear, rear, both, rear, front, keep_front, front, front, Plan::Compute];
        assert_eq!(policy.plans(), expected);
    }

    #[test]
    fn nothing_is_skipped_at_every_step_or_without_blocks() {
        for (every, blocks) in [(1, 3), (2, 0)] {
            let config = DeltaDitConfig { every, blocks, boundary: 0.0, until: None };
            let policy = config.policy(&Anatomy::spatial_temporal(5), &[1000.0, 700.0, 300.0]);
            assert_eq!(policy.plans(), [Plan::Compute; 3]);
            assert!(policy.groups().is_empty());
        }
        assert!(DeltaDitConfig { every: 0, blocks: 1, boundary: 0.0, until: None }.validate().is_err());
        assert!(
            DeltaDitConfig { every: 2, blocks: 6, boundary: 0.0, until: None }
                .validate_for(&Anatomy::spatial_temporal(5), 16)
                .is_err()
        );
        assert!(
            DeltaDitConfig { every: 2, blocks: 5, boundary: f64::NAN, until: None }
                .validate_for(&Anatomy::spatial_temporal(5), 16)
                .is_err()
        );
        // JSON, by which kept videos are compared, has no infinity.
        assert!(DeltaDitConfig { every: 2, blocks: 5, boundary: f64::INFINITY, until: None }.validate().is_err());
    }
}
